"""What the Grids have in common, and a view of a Grid that shows some of its nodes only."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from uuid import uuid4

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from fl_sim.messages.exchange import Batch, Questions
from fl_sim.messages.record import Record

SERVER_NODE = 1
FIRST_NODE = 2  # the node of partition 0: ids are made of partitions, so that they are the same in every run
RUN_ID = 1

# Flower's error codes, and two of ours beyond them.
RAISED = 2  # the ClientApp raised; the reason is its traceback
DIED = 101  # the process that ran it died
LATE = 102  # no answer within the timeout

Done = Callable[[int], None]  # told how many more clients have answered


class SimulatedGrid(Grid):
    """A Grid over `num_clients` simulated nodes; a subclass says how messages are answered."""

    workers: int = 1  # how many clients can run at once
    idle_start: float = 0.0  # seconds of the exchange that is going on in which no worker had started yet

    def __init__(self, num_clients: int, done: Done | None = None) -> None:
        self.num_clients = num_clients
        self.done: Done = done or (lambda _: None)
        self.retries: dict[int, int] = {}  # node -> how often it was run again
        self._answered: dict[str, Message] = {}
        # Without an identity Flower refuses to make an instruction message.
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, RUN_ID, SERVER_NODE

    @abstractmethod
    def answer(self, messages: Sequence[Message], timeout: float | None) -> Iterable[Message]:
        """Replies to messages that have ids, as they come; those not answered within `timeout` seconds are left out."""

    def ask(self, questions: Questions) -> Iterable[Message | Batch]:
        """Answers to questions, as they come: a message each, or many in columns; here all by message."""
        return self.send_and_receive(questions, timeout=None)

    def set_run(self, run: Any) -> None:
        """There is one run."""

    @property
    def run(self) -> Any:
        """There is one run, and nothing to say of it."""
        return None

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Flower's older way to make a message."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """In the order of the partitions."""
        return range(FIRST_NODE, FIRST_NODE + self.num_clients)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Answer messages now and keep the replies for `pull_messages`."""
        sent = with_ids(messages)
        self._answered |= {reply.metadata.reply_to_message_id: reply for reply in self.answer(sent, None)}
        return [message.metadata.message_id for message in sent]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies to messages pushed before."""
        return [self._answered.pop(i) for i in list(message_ids) if i in self._answered]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """All replies that come within `timeout` seconds."""
        sent = with_ids(messages)
        return list(self.answer(sent, timeout)) if sent else []


class Subset(SimulatedGrid):
    """A Grid that shows only some nodes of another."""

    def __init__(self, grid: Grid, nodes: Sequence[int]) -> None:
        # Without super(), whose identity is not that of Flower's own runtime: the Grid beneath has one.
        self.grid, self.nodes, self.num_clients = grid, list(nodes), len(nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """By the Grid beneath."""
        return self.grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """By the Grid beneath."""
        return self.grid.pull_messages(message_ids)

    def get_node_ids(self) -> Iterable[int]:
        """Those shown."""
        return list(self.nodes)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """By the Grid beneath."""
        return self.grid.send_and_receive(messages, timeout=timeout)

    def answer(self, messages: Sequence[Message], timeout: float | None) -> Iterable[Message]:
        """By the Grid beneath."""
        return self.send_and_receive(messages, timeout=timeout)


def allowed(question: Message | Record, timeout: float) -> float:
    """The seconds that a client may take for a question: `timeout`, times the models that it may have to train."""
    if isinstance(question, Record):
        return timeout * max(1, question.models)
    numbers: Any = question.content.get("numbers", {})
    return timeout * max(1, int(numbers.get("models", 1)))


def late(timeout: float) -> str:
    """What is said of a client that took longer, on every runtime."""
    return "it did not answer" if math.isinf(timeout) else f"it did not answer within {timeout:g} s"


def partition_of(node: int) -> int:
    """The partition of a simulated node."""
    return node - FIRST_NODE


def with_ids(messages: Iterable[Message]) -> list[Message]:
    """The messages, each with an id, as Flower's SuperLink gives it one."""
    sent = list(messages)
    for message in sent:
        _set_id(message)
    return sent


def _set_id(message: Message) -> None:
    message.metadata.__dict__["_message_id"] = str(uuid4())  # Flower has its SuperLink do this, in this same field
