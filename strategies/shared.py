"""Each tier's architecture is trained once, on the shared training set: the controlled setting of FedWQ-CP.

"Conformalized Neural Networks for Federated Uncertainty Quantification under Dual Heterogeneity", Nguyen, Wang, Ku,
2026, https://arxiv.org/abs/2602.23296 (all agents train on one global training set; what differs is their calibration
data and their architecture).

With `per_client` every client trains its own model on that set, from initial weights and in a batch order of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flwr.app import Message
from flwr.serverapp import Grid

from fl_sim.records import FitRequest
from strategies.base import Learning, Roster, request, turns


class Shared(Learning):
    """Round 1: the first client of each tier trains. Round 2: the others find its model in the artifact store."""

    def __init__(self, roster: Roster, per_client: bool) -> None:
        super().__init__(roster)
        self.per_client = per_client
        self.num_rounds = 1 if per_client else 2

    def messages(self, server_round: int, nodes: Sequence[int], grid: Grid) -> Iterable[Message]:
        """Whose turn it is."""
        firsts = turns(self.roster.tiers, self.per_client)
        turn = [node for node, first in zip(nodes, firsts, strict=True) if first == (server_round == 1)]
        return request(FitRequest(self.roster.population, self.per_client, own_rows=False), turn)
