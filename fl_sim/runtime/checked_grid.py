"""One account of every client over all runtimes: what it was sent, what it answered, how long it took, and why it is
missing.

A strategy sees a Grid on which nobody fails: replies come in the order of the partitions, checked, and a client that
raised, died, was late or answered nonsense has either ended the run (`stop`) or is missing from here on, with its
reason (`skip`).
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from flwr.app import ConfigRecord, Message
from flwr.proto.node_pb2 import NodeInfo

from fl_sim.errors import ClientFailedError
from fl_sim.messages.record import TIMING
from fl_sim.messages.replies import UNWEIGHED
from fl_sim.messages.validate import last_line, read
from fl_sim.messages.wire import weight
from fl_sim.runtime.grids import RAISED, SimulatedGrid, allowed, late
from fl_sim.timing import shared_out

Began = Callable[[str, int], None]  # told a message's type and how many clients it goes to


@dataclass
class Account:
    """One client's."""

    message_bytes_up: int = 0
    message_bytes_down: int = 0
    seconds: float = 0.0
    missing: str | None = None  # why it is no longer there


class CheckedGrid(SimulatedGrid):
    """A Grid over a runtime's Grid; `labels` are the clients' names in messages to the user, in the order of the
    partitions."""

    def __init__(
        self, grid: SimulatedGrid, labels: Sequence[str], on_failure: str, began: Began | None = None,
        timeout: float = math.inf,
    ) -> None:  # fmt: skip
        self.grid, self.labels, self.on_failure, self.timeout = grid, labels, on_failure, timeout
        self.began: Began = began or (lambda *_: None)
        self.nodes = list(grid.get_node_ids())
        self.partition = {node: k for k, node in enumerate(self.nodes)}
        self.accounts = [Account() for _ in self.nodes]
        self.num_clients = len(self.nodes)
        self.seconds = dict.fromkeys(("start", "train", "infer", "messages"), 0.0)  # of all exchanges' wall time
        self.notes: dict[str, None] = {}  # what workers have to say to the user, each once, in order
        self._busy = {"train": 0.0, "infer": 0.0}  # what the clients of the exchange that is going on spent in all

    @property
    def missing(self) -> dict[int, str]:
        """Partition -> why it is missing."""
        return {k: account.missing for k, account in enumerate(self.accounts) if account.missing is not None}

    @property
    def retried(self) -> dict[int, int]:
        """Partition -> how often it was run again."""
        return {self.partition[node]: count for node, count in self.grid.retries.items()}

    def get_node_ids(self) -> Iterable[int]:
        """In the order of the partitions; a missing client is still listed, and is not sent anything."""
        return list(self.nodes)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """In the order of the partitions."""
        return [NodeInfo(node_id=node) for node in self.nodes]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """The runtime's own: what is pushed and pulled is not checked here, and nobody says how long it took."""
        with self._exchange(self.num_clients):
            return self.grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The runtime's own."""
        with self._exchange(self.num_clients):
            return self.grid.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Good replies, in the order of the partitions. The timeout is the scenario's, and is for each client.

        Raises:
            ClientFailedError: a client failed, and the run is to stop when one does.
        """
        return list(self.answer(list(messages), None))

    def answer(self, messages: Sequence[Message], timeout: float | None) -> Iterable[Message]:
        """See `send_and_receive`."""
        sent = {self.partition[m.metadata.dst_node_id]: m for m in messages if not self._is_missing(m)}
        if len(sent) < sum(not self._is_missing(m) for m in messages):
            raise ValueError("a strategy sent one client two messages at once; send them in two exchanges")
        if not sent:
            return []
        with self._exchange(len(sent)):
            return self._replies(sent)

    @contextlib.contextmanager
    def _exchange(self, messages: int) -> Iterator[None]:
        """Book the time of one exchange, in which no more clients than there are messages can run at once."""
        start, self.grid.idle_start = time.perf_counter(), 0.0
        self._busy = dict.fromkeys(self._busy, 0.0)
        try:
            yield
        finally:
            workers = max(1, min(self.grid.workers, messages))
            took = shared_out(time.perf_counter() - start, self._busy, workers, self.grid.idle_start)
            self.seconds = {phase: seconds + took[phase] for phase, seconds in self.seconds.items()}

    def _replies(self, sent: dict[int, Message]) -> list[Message]:
        self._weigh_down(sent)
        self.began(next(iter(sent.values())).metadata.message_type, len(sent))
        # Flower reads "no timeout" from its strategies as an hour; ours is for each client, and the runtime keeps it.
        replies = {
            self.partition[r.metadata.src_node_id]: r
            for r in self.grid.send_and_receive(list(sent.values()), timeout=None)
        }
        good = []
        for k in sorted(sent):
            fault = self._fault(k, sent[k], replies.get(k))
            if fault is None:
                good.append(replies[k])
            else:
                self._fail(k, sent[k].metadata.message_type, *fault)
        return good

    def _is_missing(self, message: Message) -> bool:
        return self.accounts[self.partition[message.metadata.dst_node_id]].missing is not None

    def _weigh_down(self, sent: dict[int, Message]) -> None:
        weights: dict[int, int] = {}
        for k, message in sent.items():
            if message.metadata.message_type in UNWEIGHED:
                continue
            key = id(message.content)
            if key not in weights:
                weights[key] = weight(message.content)
            self.accounts[k].message_bytes_down += weights[key]

    def _fault(self, k: int, message: Message, reply: Message | None) -> tuple[str, str] | None:
        """(what is wrong in a line, the client's own traceback or nothing), or None for a good reply, which is
        booked."""
        if reply is None:
            return late(allowed(message, self.timeout)), ""
        if reply.has_error():
            reason = (reply.error.reason or "").strip() or "no reason was given"
            if reply.error.code == RAISED:
                return f"it raised {last_line(reason)}", reason
            return reason.splitlines()[0], ""
        account = self.accounts[k]
        try:
            spent = _spent(reply.content.pop(TIMING, None))
            answered, _ = read(message, reply)
        except ValueError as error:
            return str(error), ""
        self.notes |= dict.fromkeys(spent.notes)
        self._busy["train"] += spent.train
        self._busy["infer"] += max(0.0, spent.seconds - spent.train - spent.wait)
        if spent.seconds > (allowance := allowed(message, self.timeout)):  # where the runtime could not interrupt it
            return late(allowance), ""
        account.seconds += spent.seconds
        if message.metadata.message_type not in UNWEIGHED:
            account.message_bytes_up += weight(reply.content)
        return None if answered in (None, k) else (f"it answered as client {answered}", "")

    def _fail(self, k: int, message_type: str, what: str, trace: str) -> None:
        if self.on_failure == "stop":
            text = f"{self.labels[k]} failed at {message_type}: {what}"
            raise ClientFailedError(f"{trace.strip()}\n\n{text}" if trace else text)
        self.accounts[k].missing = f"{message_type}: {what}"


@dataclass(frozen=True)
class Spent:
    """How long a client took, in seconds, how much of that it trained and waited, and what it has to say."""

    seconds: float = 0.0
    train: float = 0.0
    wait: float = 0.0
    notes: Sequence[str] = ()


def _spent(timing: Any) -> Spent:
    """What the record `TIMING` of a reply says; nothing where there is none.

    Raises:
        ValueError: a time that is no number from 0 on, or notes that are no texts.
    """
    if timing is None:
        return Spent()
    if not isinstance(timing, ConfigRecord):
        raise ValueError(f"it answered nonsense: {TIMING!r} is a {type(timing).__name__}, not a ConfigRecord")
    times = {name: timing.get(name, 0.0) for name in ("seconds", "train", "wait")}
    for name, value in times.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise ValueError(f"it answered nonsense: {TIMING}.{name} = {value!r}: must be seconds, at least 0")
    notes: Any = timing.get("notes", [])
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        raise ValueError(f"it answered nonsense: {TIMING}.notes = {notes!r}: must be a list of texts")
    return Spent(**times, notes=notes)  # type: ignore[arg-type]
