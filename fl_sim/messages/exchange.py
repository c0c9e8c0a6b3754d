"""One exchange with many clients: questions that go out and answers that come back, as sequences of Flower's messages
that are made only where somebody looks at one.

A strategy returns `Questions`, which Flower's `Strategy.start` hands to the Grid untouched. A Grid of the laboratory
asks clients in columns and gives `Replies` back; any other sees a sequence of messages.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, overload

import numpy as np
from flwr.app import Message, RecordDict
from numpy.typing import NDArray

from fl_sim.messages.record import MOST_COUNTED, Record, weighed_fields
from fl_sim.messages.wire import pack

R = TypeVar("R", bound=Record)

Column = NDArray[Any] | list[Any]  # (K,) of numbers; of a field that is an array, one for each client

_NUMBERS = {"int": np.int64, "float": np.float64}


class Columns(Sequence[R], Generic[R]):
    """K records of one kind. A field is an attribute: an array (K,) of its numbers, or one array a client."""

    def __init__(self, kind: type[R], columns: Mapping[str, Column], records: list[R] | None = None) -> None:
        self.kind, self.columns, self._records = kind, columns, records

    @classmethod
    def of(cls, kind: type[R], records: Iterable[R]) -> Columns[R]:
        """The columns of records.

        Raises:
            OverflowError: a whole number of more than 64 bits.
        """
        rows = list(records)
        types = {part.name: str(part.type) for part in dataclasses.fields(kind)}
        columns: dict[str, Column] = {name: [getattr(row, name) for row in rows] for name in types}
        for name in types.keys() & {n for n, annotation in types.items() if annotation in _NUMBERS}:
            columns[name] = np.array(columns[name], _NUMBERS[types[name]])
        return cls(kind, columns, rows)

    @classmethod
    def joined(cls, kind: type[R], parts: Sequence[Columns[R]]) -> Columns[R]:
        """The records of all parts, one part after another."""
        if len(parts) == 1:
            return parts[0]
        names = [part.name for part in dataclasses.fields(kind)]
        return cls(kind, {name: _joined([part.columns[name] for part in parts]) for name in names})

    def taken(self, which: NDArray[np.int64]) -> Columns[R]:
        """Those at these places."""
        columns: dict[str, Column] = {
            name: column[which] if isinstance(column, np.ndarray) else [column[i] for i in which.tolist()]
            for name, column in self.columns.items()
        }
        records = None if self._records is None else [self._records[i] for i in which.tolist()]
        return Columns(self.kind, columns, records)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name in ("kind", "columns"):  # of an object that is being unpickled
            raise AttributeError(name)
        if name in self.columns:
            return self.columns[name]
        if not self.columns:  # of nobody, whatever was asked
            return np.zeros(0, np.int64)
        if name == "information_bytes":
            each = self.kind.information_bytes
            return np.full(len(self), each) if isinstance(each, int) else np.array([r.information_bytes for r in self])
        raise AttributeError(f"{self.kind.__name__} has no field {name!r}")

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    @overload
    def __getitem__(self, place: int) -> R: ...

    @overload
    def __getitem__(self, place: slice) -> Columns[R]: ...

    def __getitem__(self, place: int | slice) -> R | Columns[R]:
        return self.taken(np.arange(len(self))[place]) if isinstance(place, slice) else self._rows()[place]

    def _rows(self) -> list[R]:
        if self._records is None:
            plain = [c.tolist() if isinstance(c, np.ndarray) and c.ndim == 1 else c for c in self.columns.values()]
            self._records = [self.kind(**dict(zip(self.columns, row, strict=True))) for row in zip(*plain, strict=True)]
        return self._records

    def forms(self) -> Iterable[tuple[Any, ...]]:
        """What the length of each record's message depends on, K of them: of a whole number its bits, of an
        array its type and shape."""
        return zip(*(_forms(self.columns[name]) for name in weighed_fields(self.kind)), strict=True)  # type: ignore[arg-type]  # a class is hashable


def _forms(column: Column) -> Sequence[Any]:
    if isinstance(column, np.ndarray) and column.ndim == 1:
        if column.dtype.kind != "i":
            return [0.0] * len(column)
        bits = (value.bit_length() if value >= 0 else -value.bit_length() for value in column.tolist())
        return [b - b % 7 + (b % 7 > 0) if b > 0 else b for b in bits]  # a byte holds seven, with a sign or without
    return [(v.dtype.str, v.shape) if isinstance(v, np.ndarray) else v for v in column]


def _joined(parts: Sequence[Column]) -> Column:
    if all(isinstance(part, np.ndarray) for part in parts) and len({np.shape(part)[1:] for part in parts}) == 1:
        return np.concatenate(parts)
    return [row for part in parts for row in part]


class Questions(Sequence[Message]):
    """A question to each of some nodes, all of one type: the same record where nodes are asked the same.

    A message is made when it is first looked at, and stays: a grid of Flower's writes its id into it.
    """

    def __init__(self, records: Sequence[Any], nodes: Sequence[int]) -> None:
        self.records, self.nodes = list(records), list(nodes)
        self._contents: dict[int, RecordDict] = {}  # of each record, which the nodes that it goes to share
        self._messages: dict[int, Message] = {}  # by place

    def __len__(self) -> int:
        return len(self.nodes)

    @overload
    def __getitem__(self, place: int) -> Message: ...

    @overload
    def __getitem__(self, place: slice) -> Questions: ...

    def __getitem__(self, place: int | slice) -> Message | Questions:
        if isinstance(place, slice):
            return self._some(range(len(self))[place])
        place = range(len(self))[place]
        if place not in self._messages:
            record = self.records[place]
            if id(record) not in self._contents:
                self._contents[id(record)] = pack(record)
            content = self._contents[id(record)]
            self._messages[place] = Message(content, dst_node_id=self.nodes[place], message_type=record.message_type)
        return self._messages[place]

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


class Replies(Sequence[Message]):
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

    @property
    def each(self) -> float:
        """Seconds that one of them took, on average."""
        return self.seconds / max(1, len(self.nodes))


def checked(question: Record, answers: Columns[Any]) -> None:
    """Refuse answers that their question rules out, or that come from no client.

    Raises:
        ValueError: see `Record.check`.
    """
    wrong = (answers.partition < 0) | (answers.partition >= MOST_COUNTED)
    if wrong.any():
        raise ValueError(f"partition = {answers.partition[np.argmax(wrong)]}: must lie in 0..{MOST_COUNTED - 1}")
    question.check(answers)


def impossible(questions: Sequence[Record], answers: Columns[Any]) -> Iterator[tuple[int, str]]:
    """(place, why) of every one of the answers to these questions that is impossible; looked at one by one only where
    there is one among those that were asked the same."""
    if type(questions[0]).check is Record.check:
        return
    groups: dict[int, list[int]] = {}
    for place, question in enumerate(questions):
        groups.setdefault(id(question), []).append(place)
    for places in groups.values():
        question = questions[places[0]]
        try:
            checked(question, answers if len(groups) == 1 else answers.taken(np.array(places)))
        except ValueError:
            for place in places:
                try:
                    checked(question, answers[place : place + 1])
                except ValueError as error:
                    yield place, f"it answered nonsense: {error}"
