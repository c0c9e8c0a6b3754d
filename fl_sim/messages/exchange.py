"""One exchange with many clients: questions that go out and answers that come back, as sequences of Flower's messages
that are made only where somebody looks at one.

A strategy returns `Questions`, which Flower's `Strategy.start` hands to the Grid untouched. A Grid of the laboratory
asks clients in columns and gives `Answers` back; any other sees a sequence of messages.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
from flwr.app import Message, RecordDict

from fl_sim.messages.columns import Columns
from fl_sim.messages.wire import pack


class Questions(Sequence[Message]):
    """A question to each of some nodes, all of one type: the same record where nodes are asked the same."""

    def __init__(self, records: Sequence[Any], nodes: Sequence[int]) -> None:
        self.records, self.nodes = list(records), list(nodes)
        self._contents: dict[int, RecordDict] = {}  # of each record, which the nodes that it goes to share

    def __len__(self) -> int:
        return len(self.nodes)

    @overload
    def __getitem__(self, place: int) -> Message: ...

    @overload
    def __getitem__(self, place: slice) -> Questions: ...

    def __getitem__(self, place: int | slice) -> Message | Questions:
        if isinstance(place, slice):
            return self._some(range(len(self))[place])
        record = self.records[place]
        if id(record) not in self._contents:
            self._contents[id(record)] = pack(record)
        content = self._contents[id(record)]
        return Message(content, dst_node_id=self.nodes[place], message_type=record.message_type)

    def messages(self, places: Iterable[int]) -> list[Message]:
        """The messages of those at these places."""
        return [self[place] for place in places]

    def without(self, nodes: Collection[int]) -> Questions:
        """Those to the other nodes."""
        return self._some([i for i, node in enumerate(self.nodes) if node not in nodes]) if nodes else self

    def _some(self, places: Sequence[int]) -> Questions:
        some = Questions([self.records[i] for i in places], [self.nodes[i] for i in places])
        some._contents = self._contents
        return some


class Answers(Sequence[Message]):
    """The good answers to questions, checked, in the order of the partitions, and the nodes that they are from."""

    def __init__(self, columns: Columns[Any], nodes: Sequence[int], questions: Questions) -> None:
        self.columns, self.nodes, self.questions = columns, list(nodes), questions

    def __len__(self) -> int:
        return len(self.nodes)

    @overload
    def __getitem__(self, place: int) -> Message: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Message]: ...

    def __getitem__(self, place: int | slice) -> Message | Sequence[Message]:
        if isinstance(place, slice):
            return [self[i] for i in range(len(self))[place]]
        question = self.questions[self.questions.nodes.index(self.nodes[place])]
        return Message(pack(self.columns[place]), reply_to=question)


@dataclass(frozen=True)
class Batch:
    """What clients that were asked in columns answered together."""

    columns: Columns[Any]
    nodes: list[int]
    seconds: float  # of all of them together
    spent: dict[str, float] = field(default_factory=dict)  # of these: "train", and "wait" for others
    notes: tuple[str, ...] = ()  # what there is to say to the user


def in_order(columns: Columns[Any], nodes: Sequence[int]) -> tuple[Columns[Any], list[int]]:
    """Answers and their nodes in the order of the partitions: answers come in any order, sums must not."""
    order = np.argsort(columns.partition, kind="stable")
    return columns.taken(order), [nodes[i] for i in order.tolist()]
