"""Each client trains alone on its own rows: no federation, the realistic setting for clients that cannot share a
model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flwr.app import Message
from flwr.serverapp import Grid

from fl_sim.records import FitRequest
from strategies.base import Learning, request


class Own(Learning):
    """One message to every client: train. A client without rows keeps its untrained model."""

    def messages(self, server_round: int, nodes: Sequence[int], grid: Grid) -> Iterable[Message]:
        """Everybody at once."""
        return request(FitRequest(self.roster.population, per_client=True, own_rows=True), nodes)
