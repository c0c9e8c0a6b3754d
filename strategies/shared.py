"""Each tier's architecture is trained once, on the shared training set: the controlled setting of FedWQ-CP.

"Conformalized Neural Networks for Federated Uncertainty Quantification under Dual Heterogeneity", Nguyen, Wang, Ku,
2026, https://arxiv.org/abs/2602.23296 (all agents train on one global training set; what differs is their calibration
data and their architecture).

With `per_client` every client trains its own model on that set, from initial weights and in a batch order of its own.

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


class Shared(TrainOncePerGroup):
    """Each tier's architecture is trained once on the shared training set (the controlled setting of FedWQ-CP).

    Round 1: the first client of each tier trains, or of each cohort. Round 2: the others find their models.
    """

    trains_locally = False

    @classmethod
    def one_model_a_tier(cls, options: Any) -> bool:
        """Unless clients have models of their own."""
        return not options.per_client

    @classmethod
    def rows_an_epoch(cls, options: Any, train: int, clients: int, of: int) -> float:
        """All of them, for each model."""
        return train * (clients if options.per_client else 1)

    def __init__(
        self,
        federation: Federation = ALONE,
        *,
        # true: every client starts from its own initial weights and sees its own batch order
        per_client: bool = False,
    ) -> None:
        super().__init__(federation, per_client=per_client)

    def messages(self, server_round: int, nodes: Sequence[int], grid: Grid) -> Iterable[Message]:
        """Whose turn it is."""
        now = [nodes[k] for k in self.turn(server_round, len(nodes))]
        return request(FitRequest(self.federation.population, self.per_client, own_rows=False, models=self.models), now)
