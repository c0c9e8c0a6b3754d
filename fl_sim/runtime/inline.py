"""Clients in this process: for small worlds, for tests, and for debugging with a real traceback."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from fl_sim.messages.exchange import Batch, Columns, Questions
from fl_sim.runtime.grids import (
    FIRST_NODE,
    LATE,
    RAISED,
    RUN_ID,
    Done,
    SimulatedGrid,
    allowed,
    late,
    partition_of,
    with_ids,
)
from fl_sim.telemetry import noted, spending

BATCH_SECONDS = 0.1  # work aimed at in one batch: enough to hide Ray's millisecond, short enough to share out evenly
MOST_QUESTIONS = 4096  # in a batch that is answered in columns


@runtime_checkable
class AnswersMany(Protocol):
    """A ClientApp whose clients can be asked many at a time (clients/app.py)."""

    def answer(
        self, questions: Sequence[Any], partitions: Sequence[int], states: Sequence[RecordDict]
    ) -> tuple[Columns[Any], list[RecordDict], list[int]]:
        """What they answer, what each keeps, and the places of those that must be asked by message."""


class Host:
    """Runs the ClientApp for many nodes in one process: this one, or a Ray actor's; on another machine than the
    server's, errors name that `machine`, because what it lacks the server's may have."""

    def __init__(self, app: str, machine: str = "") -> None:
        self.machine = machine
        module, _, attribute = app.partition(":")
        self.app: ClientApp = getattr(import_module(module), attribute)

    def ask(
        self, questions: Sequence[Any], nodes: Sequence[int], states: Sequence[RecordDict]
    ) -> tuple[Batch | None, list[RecordDict], list[int]]:
        """What nodes answer, what each keeps, and the places of those that must be asked by message: those that
        misbehave; all of them where the app knows no columns, or one of them failed."""
        start, everybody = time.perf_counter(), list(range(len(nodes)))
        if not isinstance(self.app, AnswersMany):
            return None, list(states), everybody
        try:
            with spending() as account, noted() as notes:
                partitions = [node - FIRST_NODE for node in nodes]
                columns, new_states, left = self.app.answer(questions, partitions, states)
        except (Exception, SystemExit):  # whose it is comes out when each is asked by itself
            return None, list(states), everybody
        answered = [nodes[i] for i in sorted(set(everybody) - set(left))]
        if not answered:
            return None, new_states, left
        seconds = time.perf_counter() - start
        return Batch(columns, answered, seconds, dict(account), tuple(notes)), new_states, left

    def run(self, message: Message, state: RecordDict, num_clients: int) -> tuple[Message, RecordDict, float]:
        """The node's reply (never None), what it keeps, and the seconds it took; `state` is not changed."""
        node = message.metadata.dst_node_id
        config: dict[str, Any] = {"partition-id": node - FIRST_NODE, "num-partitions": num_clients}
        context = Context(RUN_ID, node, config, RecordDict(dict(state.items())), {})
        start = time.perf_counter()
        try:
            reply = self.app(message, context)
            if not isinstance(reply, Message) or reply.metadata.reply_to_message_id != message.metadata.message_id:
                kind = message.metadata.message_type
                given = "another Message" if isinstance(reply, Message) else repr(reply)
                raise TypeError(f"the ClientApp answered {kind} with {given}, not with a Message in reply to it")
        except (Exception, SystemExit):  # a library's sys.exit is a client's failure, not the laboratory's end
            reply = Message(Error(RAISED, traceback.format_exc()), reply_to=message)
        if self.machine and reply.has_error():
            reason = f"{(reply.error.reason or '').rstrip()} (on {self.machine})"
            reply = Message(Error(reply.error.code, reason), reply_to=message)
        with_ids([reply])
        return reply, context.state, time.perf_counter() - start


def batch_size(seconds: float | None, most: int) -> int:
    """How many clients are asked at once, where one takes so many seconds; None: nobody knows yet."""
    return 1 if seconds is None else max(1, min(most, int(BATCH_SECONDS / max(seconds, 1e-6))))


class InlineGrid(SimulatedGrid):
    """No second process. A client cannot be interrupted here: one that took too long counts as late once it answers,
    and one that hangs is named by who interrupts the run."""

    def __init__(self, app: str, num_clients: int, client_timeout: float, done: Done | None = None) -> None:
        super().__init__(num_clients, done)
        self.client_timeout = client_timeout
        self.host = Host(app)
        self.states: dict[int, RecordDict] = {}

    def ask(self, questions: Questions) -> Iterable[Message | Batch]:
        """Many clients at once; by message those that misbehave, and all where one failed or took too long."""
        start, seconds = 0, None  # that one client takes: who trains is asked alone, so that progress is seen
        while start < len(questions):
            some = questions[start : start + batch_size(seconds, MOST_QUESTIONS)]
            start += len(some)
            first, states = some.records[0], [self._state(node) for node in some.nodes]
            allowance = self.client_timeout * first.models
            with _named_if_it_hangs(some.nodes, first.message_type, allowance):
                batch, new_states, left = self.host.ask(some.records, some.nodes, states)
            if batch is not None and batch.seconds > allowance:
                batch, new_states, left = None, states, list(range(len(some)))
            self.states |= dict(zip(some.nodes, new_states, strict=True))
            if batch is not None:
                seconds = batch.each
                self.done(len(batch.nodes))
                yield batch
            if left:
                yield from self.answer(with_ids(some.messages(left)), None)

    def answer(self, messages: Sequence[Message], timeout: float | None) -> Iterable[Message]:
        """One after another."""
        for message in messages:
            node, allowance = message.metadata.dst_node_id, allowed(message, self.client_timeout)
            with _named_if_it_hangs([node], message.metadata.message_type, allowance):
                reply, self.states[node], seconds = self.host.run(message, self._state(node), self.num_clients)
            if seconds > allowance:
                reply = Message(Error(LATE, late(allowance)), reply_to=message)
            self.done(1)
            yield reply

    def _state(self, node: int) -> RecordDict:
        return self.states.get(node) or RecordDict()


@contextlib.contextmanager
def _named_if_it_hangs(nodes: Sequence[int], kind: str, allowance: float) -> Iterator[None]:
    """Say to who interrupts the block, once a client has had its time, that nothing else would have ended it."""
    start = time.monotonic()
    try:
        yield
    except KeyboardInterrupt as error:
        if time.monotonic() - start > allowance:
            first, last = partition_of(nodes[0]), partition_of(nodes[-1])
            who = f"client {first}" if len(nodes) == 1 else f"one of the clients {first} to {last}"
            error.add_note(
                f"{who} had not answered {kind} within {allowance:g} s (runtime.timeout), and the inline "
                "runtime cannot stop a client that hangs; --runtime ray does"
            )
        raise
