"""Federated averaging by Flower's own strategies: one federation for each architecture.

"Communication-Efficient Learning of Deep Networks from Decentralized Data", McMahan, Moore, Ramage, Hampson, Agüera y
Arcas, 2017, https://arxiv.org/abs/1602.05629

    w_{t+1} = Σ_k (n_k / n) w_k        `flwr.serverapp.strategy.FedAvg.aggregate_train`

Flower's strategy is used as it is, so any other of Flower's that averages weights can stand here (`aggregation`).
`weights = "uniform"` gives every client that answered the same weight, 1 / K, whatever it says of its size: by Flower's
own average too, of a count that is 1 for everybody.
What is ours is the grid that it is shown: it holds only the clients that this round has drawn, from a stream of the
scenario's seed, where Flower draws from Python's global one; and replies arrive in the order of the partitions, so
that sums do not depend on timing (strategies/families/averaging.py).

Sent: the weights of the architecture, by each client that is drawn, in each round. Received: as many.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from flwr.app import Message
from flwr.serverapp.strategy import Strategy
from pydantic import Field

from strategies.base import ALONE, Federation
from strategies.families.averaging import AveragedGroup, Averaging, EvaluateEvery, Rounds

SIZE, EQUAL = "num-examples", "equal"  # the count in a reply that Flower weighs it by


class FedAvg(Averaging):
    """Federated averaging by Flower's own strategies, one federation for each architecture."""

    @classmethod
    def check(cls, options: Any) -> None:
        """Medians weigh nobody."""
        if options.weights == "uniform" and options.aggregation in ("FedMedian", "FedTrimmedAvg"):
            raise ValueError(f"weights = 'uniform': {options.aggregation} weighs nobody; leave weights out")

    def __init__(
        self,
        federation: Federation = ALONE,
        *,
        rounds: Rounds,
        # of the clients with training rows, drawn anew each round
        fraction: Annotated[float, Field(gt=0, le=1)] = 1.0,
        # The strategy of Flower's that makes one model of the clients'.
        aggregation: Literal["FedAvg", "FedMedian", "FedTrimmedAvg", "FedAdam", "FedYogi", "FedAdagrad"] = "FedAvg",
        weights: Literal["size", "uniform"] = "size",  # of a client's weights in the average: its training rows, or 1
        evaluate_every: EvaluateEvery = 0,
    ) -> None:
        self.fraction, self.aggregation, self.uniform = fraction, aggregation, weights == "uniform"
        super().__init__(federation, rounds=rounds, evaluate_every=evaluate_every)

    def averager(self) -> Strategy:
        """The one that the scenario names."""
        return self.flowers(self.aggregation, **({"weighted_by_key": EQUAL} if self.uniform else {}))

    def how_many(self, able: int) -> int:
        """The fraction of them."""
        return max(1, round(self.fraction * able))

    def combine(self, server_round: int, group: AveragedGroup, replies: Mapping[int, Message]) -> dict[str, Any]:
        """Flower's own aggregation; where all clients together claim no rows the weights stay as they are."""
        reported: list[Any] = [reply.content["metrics"] for reply in replies.values()]
        for metrics in reported if self.uniform else ():
            metrics[EQUAL] = 1
        claimed = sum(metrics[EQUAL if self.uniform else SIZE] for metrics in reported)
        weights = group.strategy.aggregate_train(server_round, list(replies.values()))[0] if claimed else None
        group.weights = weights if weights is not None else group.weights
        return {}
