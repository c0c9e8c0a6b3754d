"""Clients one after another in this process: for tests, and for debugging with a real traceback."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Sequence

from flwr.app import Error, Message, RecordDict

from fl_sim.runtime.grids import LATE, Done, Host, SimulatedGrid, allowed, late, partition_of


class InlineGrid(SimulatedGrid):
    """No second process. A client cannot be interrupted here: one that took too long counts as late once it answers,
    and one that hangs is named by who interrupts the run."""

    def __init__(self, app: str, num_clients: int, client_timeout: float, done: Done | None = None) -> None:
        super().__init__(num_clients, done)
        self.client_timeout = client_timeout
        self.host = Host(app)
        self.states: dict[int, RecordDict] = {}

    def answer(self, messages: Sequence[Message], timeout: float | None) -> Iterable[Message]:
        """One after another."""
        for message in messages:
            state = self.states.setdefault(message.metadata.dst_node_id, RecordDict())
            allowance = allowed(message, self.client_timeout)
            with _named_if_it_hangs(message, allowance):
                reply, seconds = self.host.run(message, state, self.num_clients)
            if seconds > allowance:
                reply = Message(Error(LATE, late(allowance)), reply_to=message)
            self.done(1)
            yield reply


@contextlib.contextmanager
def _named_if_it_hangs(message: Message, allowance: float) -> Iterator[None]:
    """Say to who interrupts the block, once the client has had its time, that nothing else would have ended it."""
    start = time.monotonic()
    try:
        yield
    except KeyboardInterrupt as error:
        if time.monotonic() - start > allowance:
            client, kind = partition_of(message.metadata.dst_node_id), message.metadata.message_type
            error.add_note(
                f"client {client} had not answered {kind} within {allowance:g} s (runtime.timeout), and the inline "
                "runtime cannot stop a client that hangs; --runtime ray does"
            )
        raise
