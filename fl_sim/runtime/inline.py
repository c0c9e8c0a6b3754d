"""Clients in this process: for small worlds, for tests, and for debugging with a real traceback."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Sequence

from flwr.app import Error, Message, RecordDict

from fl_sim.messages.exchange import Batch, Questions
from fl_sim.runtime.grids import LATE, Done, Host, SimulatedGrid, allowed, late, partition_of, with_ids

ASKED_AT_ONCE = 1024  # clients: so many that they share what they can, and so few that progress is seen


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
        for start in range(0, len(questions), ASKED_AT_ONCE):
            some = questions[start : start + ASKED_AT_ONCE]
            first, states = some.records[0], [self._state(node) for node in some.nodes]
            allowance = allowed(first, self.client_timeout)
            with _named_if_it_hangs(some.nodes, first.message_type, allowance):
                batch, kept, left = self.host.ask(some.records, some.nodes, states)
            if batch is not None and batch.seconds > allowance:
                batch, kept, left = None, states, list(range(len(some)))
            self.states |= dict(zip(some.nodes, kept, strict=True))
            if batch is not None:
                self.done(len(batch.nodes))
                yield batch
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
