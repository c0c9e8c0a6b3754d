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

import numpy as np
from flwr.app import ConfigRecord, Message
from flwr.proto.node_pb2 import NodeInfo

from fl_sim.errors import ClientFailedError
from fl_sim.messages.exchange import Batch, Columns, Questions, Replies, impossible
from fl_sim.messages.record import TIMING, Record
from fl_sim.messages.validate import last_line, read, request_of
from fl_sim.messages.wire import weight, weight_of
from fl_sim.runtime.grids import RAISED, SimulatedGrid, allowed, late
from fl_sim.telemetry import shared_out

TWICE = "a strategy sent one client two messages at once; send them in two exchanges"

Began = Callable[[str, int], None]  # told a message's type and how many clients it goes to


class CheckedGrid(SimulatedGrid):
    """A Grid over a runtime's Grid; `labels` are the clients' names in messages to the user, in the order of the
    partitions.

    Attributes:
        message_bytes_up: what each client sent as Flower's messages, (K,); `message_bytes_down` what it was sent.
        client_seconds: how long each took, (K,).
        missing: partition -> why it is no longer there.
    """

    def __init__(
        self, grid: SimulatedGrid, labels: Sequence[str], on_failure: str, began: Began | None = None,
        timeout: float = math.inf,
    ) -> None:  # fmt: skip
        self.grid, self.labels, self.on_failure, self.timeout = grid, labels, on_failure, timeout
        self.began: Began = began or (lambda *_: None)
        self.nodes = list(grid.get_node_ids())
        self.partition = {node: k for k, node in enumerate(self.nodes)}
        self.num_clients = len(self.nodes)
        self.message_bytes_up = np.zeros(self.num_clients, np.int64)
        self.message_bytes_down = np.zeros(self.num_clients, np.int64)
        self.client_seconds = np.zeros(self.num_clients)
        self.missing: dict[int, str] = {}
        self.seconds = dict.fromkeys(("start", "train", "infer", "messages"), 0.0)  # of all exchanges' wall time
        self.notes: dict[str, None] = {}  # what workers have to say to the user, each once, in order
        self._busy = {"train": 0.0, "infer": 0.0}  # what the clients of the exchange that is going on spent in all

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
        """Good replies, in the order of the partitions: `Replies` to `Questions`, messages to messages. The timeout is
        the scenario's, and is for each client.

        Raises:
            ClientFailedError: a client failed, and the run is to stop when one does.
        """
        if isinstance(messages, Questions):
            return self._answers(messages)
        return list(self.answer(list(messages), None))

    def answer(self, messages: Sequence[Message], timeout: float | None) -> Iterable[Message]:
        """See `send_and_receive`."""
        sent = {self.partition[m.metadata.dst_node_id]: m for m in messages if not self._is_missing(m)}
        if len(sent) < sum(not self._is_missing(m) for m in messages):
            raise ValueError(TWICE)
        if not sent:
            return []
        with self._exchange(len(sent)):
            return self._replies(sent)

    def _answers(self, questions: Questions) -> Replies:
        """What comes back from those who are not missing, in columns."""
        questions = questions.without({self.nodes[k] for k in self.missing})
        if len(set(questions.nodes)) < len(questions):
            raise ValueError(TWICE)
        if not len(questions):
            return Replies(Columns.of(Record, []), [], questions)
        with self._exchange(len(questions)):
            return self._columns(questions)

    def _columns(self, questions: Questions) -> Replies:
        first = questions.records[0]
        asked = {self.partition[node]: record for node, record in zip(questions.nodes, questions.records, strict=True)}
        if first.weighed:
            different = {id(record): record for record in questions.records}
            weights = dict(zip(different, _weights(Columns.of(type(first), different.values())), strict=True))
            for k, record in asked.items():
                self.message_bytes_down[k] += weights[id(record)]
        self.began(first.message_type, len(asked))
        parts: list[Columns[Any]] = []
        records: list[Record] = []
        faults: dict[int, tuple[str, str] | None] = dict.fromkeys(asked, None)  # until they have answered
        for answer in self.grid.ask(questions):
            if isinstance(answer, Batch):
                parts.append(self._good_ones(answer, asked, faults))
                continue
            k = self.partition[answer.metadata.src_node_id]
            fault, record = self._fault(k, asked[k], answer)
            faults[k] = fault or ("", "")
            if not fault and record is not None:
                records.append(record)
        for k, fault in sorted(faults.items()):
            if fault is None or fault[0]:
                self._fail(k, first.message_type, *(fault or (late(allowed(first, self.timeout)), "")))
        assert first.reply is not None, "a question names what answers it"
        columns = Columns.joined(first.reply, [*parts, Columns.of(first.reply, records)])
        columns = columns.taken(np.argsort(columns.partition, kind="stable"))  # they come in any order, sums must not
        return Replies(columns, [self.nodes[k] for k in columns.partition.tolist()], questions)

    def _good_ones(
        self, batch: Batch, asked: dict[int, Record], faults: dict[int, tuple[str, str] | None]
    ) -> Columns[Any]:
        """What is possible of what clients answered together; it is booked, and of the others `faults` says why."""
        who = np.array([self.partition[node] for node in batch.nodes])
        wrong = dict(impossible([asked[k] for k in who.tolist()], batch.columns))
        wrong |= {
            int(i): f"it answered as client {batch.columns.partition[i]}"
            for i in np.flatnonzero(batch.columns.partition != who)
        }
        faults |= {k: (wrong.get(i, ""), "") for i, k in enumerate(who.tolist())}
        self.notes |= dict.fromkeys(batch.notes)
        train, wait = batch.spent.get("train", 0.0), batch.spent.get("wait", 0.0)
        self._busy["train"] += train
        self._busy["infer"] += max(0.0, batch.seconds - train - wait)
        good = np.array([i for i in range(len(who)) if i not in wrong], np.int64)
        columns = batch.columns.taken(good) if wrong else batch.columns
        self.client_seconds[who] += batch.each
        if asked[int(who[0])].weighed:
            self.message_bytes_up[who[good]] += np.array(_weights(columns), np.int64)
        return columns

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
            if k in replies:
                fault, _ = self._fault(k, sent[k], replies[k])
            else:
                fault = late(allowed(sent[k], self.timeout)), ""
            if fault is None:
                good.append(replies[k])
            else:
                self._fail(k, sent[k].metadata.message_type, *fault)
        return good

    def _is_missing(self, message: Message) -> bool:
        return self.partition[message.metadata.dst_node_id] in self.missing

    def _weigh_down(self, sent: dict[int, Message]) -> None:
        weights: dict[int, int] = {}
        for k, message in sent.items():
            kind = request_of(message.metadata.message_type)
            if kind is not None and not kind.weighed:
                continue
            key = id(message.content)
            if key not in weights:
                weights[key] = weight(message.content)
            self.message_bytes_down[k] += weights[key]

    def _fault(
        self, k: int, question: Message | Record, reply: Message
    ) -> tuple[tuple[str, str] | None, Record | None]:
        """(what is wrong in a line, the client's own traceback or nothing), or None for a good reply, which is booked;
        and its record, if it answers one of the laboratory's questions."""
        if reply.has_error():
            reason = (reply.error.reason or "").strip() or "no reason was given"
            if reply.error.code == RAISED:
                return (f"it raised {last_line(reason)}", reason), None
            return (reason.splitlines()[0], ""), None
        try:
            spent = _spent(reply.content.pop(TIMING, None))
            partition, record = read(question, reply)
        except ValueError as error:
            return (str(error), ""), None
        self.notes |= dict.fromkeys(spent.notes)
        self._busy["train"] += spent.train
        self._busy["infer"] += max(0.0, spent.seconds - spent.train - spent.wait)
        if spent.seconds > (allowance := allowed(question, self.timeout)):  # where the runtime could not interrupt it
            return (late(allowance), ""), None
        self.client_seconds[k] += spent.seconds
        if not isinstance(question, Record) or question.weighed:
            self.message_bytes_up[k] += weight(reply.content)
        return (None if partition in (None, k) else (f"it answered as client {partition}", "")), record

    def _fail(self, k: int, message_type: str, what: str, trace: str) -> None:
        if self.on_failure == "stop":
            text = f"{self.labels[k]} failed at {message_type}: {what}"
            raise ClientFailedError(f"{trace.strip()}\n\n{text}" if trace else text)
        self.missing[k] = f"{message_type}: {what}"


def _weights(columns: Columns[Any]) -> list[int]:
    """Bytes of each record's message as Flower would serialise it."""
    return [weight_of(columns.kind, form) for form in columns.forms()]  # type: ignore[arg-type]  # a class is hashable


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
