"""Each client trains alone on its own rows: no federation, the realistic setting for clients that cannot share a
model.

Sent: nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from flwr.app import Message
from flwr.serverapp import Grid

from fl_sim.messages.learning import FitRequest
from strategies.base import ALONE, Federation, request
from strategies.families.training import TrainOncePerGroup


class Own(TrainOncePerGroup):
    """Each client trains on its own share of the training rows (the realistic setting).

    Round 1: the first client of each cohort trains the models of all of it; round 2: the others find theirs. A client
    without rows keeps its untrained model.
    """

    @classmethod
    def rows_an_epoch(cls, options: Any, train: int, clients: int, of: int) -> float:
        """Their own."""
        return train * clients / of

    def __init__(
        self,
        federation: Federation = ALONE,
    ) -> None:
        super().__init__(federation, per_client=True)

    def messages(self, server_round: int, nodes: Sequence[int], grid: Grid) -> Iterable[Message]:
        """Whose turn it is; those with most rows first, so that whoever is last keeps nobody waiting for long."""
        rows = self.federation.num_train
        now = sorted(self.turn(server_round, len(nodes)), key=lambda k: -rows[k] if rows else 0)
        asked = FitRequest(self.federation.population, per_client=True, own_rows=True, models=self.models)
        return request(asked, [nodes[k] for k in now])
