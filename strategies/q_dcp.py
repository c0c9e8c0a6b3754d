"""Q-DCP: the pooled quantile by consensus ADMM, a number passed between neighbours a round.

"Distributed Conformal Prediction via Message Passing", Wen, Xing, Simeone, 2025, https://arxiv.org/abs/2501.14544;
their code: https://github.com/HaifengWen/Distributed-Conformal-Prediction (src/DCP_pinball_smooth.py)

    ã   = 1 - ceil((1 - α)(N + K)) / N                                 N(1 - ã) is the pooled rank of FCP
    f_k = Σ_i [(1 - ã) g(S_i - q) + ã g(q - S_i)] + μ/2 (q - q_0)²     g(x) = x + log(1 + e^(-κx))/κ, q_0 = mean of q_k
    x_k <- the root of f_k'(x) + a_k + 2c d_k x - c (d_k x_k + Σ_j x_j) = 0           clients/optimise.py
    a_k <- a_k + c (d_k x_k - Σ_j x_j)                                                `take` below
    q   = mean of x_k after `rounds` rounds, + margin if `margin`

    α is `alpha` · κ is `sharpness` · μ is `regularisation` · c is `penalty` · d_k is the number of neighbours

Sent: (q_k, n_k), 16 bytes, once, then x_k, 8 bytes a round. Received: the neighbours' sum, 8 bytes a round, and q. In
the paper neighbours send to each other; here the server passes on, and keeps a_k and x_k for clients that keep nothing.

Guaranteed: the coverage of the pooled rank, if the rounds have converged and μ is small. The fixed point has
Σ_i σ(κ(q - S_i)) = rank + Kμ(q_0 - q): the published μ = 2000 costs 2000 K ranks for each unit that q lies above q_0,
so that q lies at most (1 - ã) n/μ above q_0 and ã n/μ below it, n = N/K: with n = 100 by 0.05. It is then the mean of
the clients' own quantiles in effect, whatever the pool says. `detail` gives the rank that is reached. The published
margin, √ε_T + √(2N log 2/μκ + ε_0²), is to make up for it; it takes ε_0 = 0.1 >= |q_0 - q*| for granted, and ε_T
from the last iterate in place of the optimum, so that after few rounds it is no bound, and after more it is wider than
scores in [0, 1] are.

Chosen: no robust form is offered, as what a liar passes on reaches everybody; q_k is the split-conformal threshold (the
largest score of a client too small for one); clients without points have no part in the rounds but get q, and count in
K. `regularisation` and `sharpness` are the published ones. `penalty` is 1, which suits scores of unit spread: the
published rule ("published"; made for a rate that can be proved) grows with κ n, and needs the authors' 1500 rounds. The
rounds start at q_0, the authors' at 0 (`start`). If a client goes missing, ã and the graph are made anew from those
left, the a_k from 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from fl_sim.conformal.decimals import as_meant
from fl_sim.conformal.pinball import Graph, neighbour_sums, published_margin, published_penalty
from fl_sim.messages.calibration import ThresholdReport, ThresholdRequest
from fl_sim.messages.exchange import Columns
from fl_sim.messages.record import Record
from fl_sim.messages.summaries import AgreeRequest, StepReport
from fl_sim.scenario.options import number_or
from strategies.base import ALONE, Calibration, Federation

Penalty = Annotated[float | Literal["published"], number_or("published", lambda x: 0 < x < math.inf, "above 0")]


class QDCP(Calibration):
    """The pooled quantile by ADMM (Wen et al.)."""

    # The published regularisation of 2000 holds it at the mean of local quantiles.
    compared = ({"rounds": 50}, {"rounds": 50, "regularisation": 1.0})

    def __init__(
        self,
        federation: Federation = ALONE,
        *,
        alpha: float,
        score: str = "",
        rounds: Annotated[int, Field(ge=1)] = 100,  # of passing numbers on
        topology: Literal["complete", "cycle"] = "complete",  # who is whose neighbour
        sharpness: Annotated[float, Field(gt=0)] = 2000.0,  # of the softplus, kappa
        # mu: the published 2000 holds the result at the mean of the clients' own thresholds, 0.1 leaves it to the
        # pool.
        regularisation: Annotated[float, Field(gt=0)] = 2000.0,
        penalty: Penalty = 1.0,  # of disagreement, c; above 0
        start: Literal["anchor", "zero"] = "anchor",  # first x: mean of local thresholds; published: 0
        margin: bool = False,  # add the published margin for what the rounds have not reached
    ) -> None:
        super().__init__(federation, alpha=alpha, score=score)
        self.num_rounds, self.topology, self.margin = 1 + rounds, topology, margin
        self.sharpness, self.regularisation, self.start_at = sharpness, regularisation, start
        self.penalty_rule = penalty
        self.sizes: dict[int, int] = {}  # partition -> n_k of all that answered
        self.present: list[int] = []  # partitions in the graph, in order
        self.anchor = 0.0
        self.values, self.duals = np.zeros(0), np.zeros(0)  # x_k and a_k of those present

    def ask(self, server_round: int) -> Record | Mapping[int, Record]:
        """First everybody's (q_k, n_k); then the next x of each client in the graph."""
        if server_round == 1:
            return ThresholdRequest(self.score, self.alpha, "clip")
        level = self.level
        if math.isinf(level):
            return {}
        sums, each, penalty = neighbour_sums(self.values, self.topology), self._graph.degree, self.penalty
        theirs = zip(self.present, self.values.tolist(), self.duals.tolist(), sums.tolist(), strict=True)
        return {
            k: AgreeRequest(
                self.score, level, self.sharpness, self.regularisation, self.anchor, penalty, each,
                value, dual, total,
            )
            for k, value, dual, total in theirs
        }  # fmt: skip

    def take(self, server_round: int, reports: Columns[Any]) -> None:
        """Begin, or move on a step."""
        if server_round == 1:
            self._begin(reports)
        else:
            self._step(reports)
        self.global_threshold = self._threshold()
        self.thresholds = dict.fromkeys(self.sizes, self.global_threshold)

    def _begin(self, reports: Columns[ThresholdReport]) -> None:
        self.sizes = dict(zip(reports.partition.tolist(), reports.num_calibration.tolist(), strict=True))
        with_points = (reports.num_calibration > 0) & np.isfinite(reports.threshold)
        self.present = reports.partition[with_points].tolist()
        self.anchor = float(np.mean(reports.threshold[with_points])) if self.present else 0.0
        self.values = np.full(len(self.present), self.first)
        self.duals = np.zeros(len(self.present))

    def _step(self, reports: Columns[StepReport]) -> None:
        if not len(reports):
            return
        lost = sorted(set(self.present) - set(reports.partition.tolist()))
        self.present, self.values = reports.partition.tolist(), reports.value
        if lost:  # the duals of those left would add up to what the lost ones have taken along, and pull x that way
            self.sizes |= dict.fromkeys(lost, 0)
            self.duals = np.zeros(len(self.present))
        else:
            sums = neighbour_sums(self.values, self.topology)
            self.duals = self.duals + self.penalty * (self._graph.degree * self.values - sums)

    @property
    def first(self) -> float:
        """Where the rounds start."""
        return self.anchor if self.start_at == "anchor" else 0.0

    @property
    def points(self) -> int:
        """N, of the clients in the graph."""
        return sum(self.sizes[k] for k in self.present)

    @property
    def rank(self) -> int:
        """ceil((1 - α)(N + K))."""
        return math.ceil((self.points + len(self.sizes)) * (1 - as_meant(self.alpha)))

    @property
    def level(self) -> float:
        """1 - ã; +inf where there are fewer points than the rank."""
        return self.rank / self.points if 0 < self.rank <= self.points else math.inf

    @property
    def penalty(self) -> float:
        """c."""
        if self.penalty_rule != "published":
            return self.penalty_rule
        most = max(self.sizes[k] for k in self.present)
        return published_penalty(self._graph, most, self.sharpness, self.regularisation)

    @property
    def _graph(self) -> Graph:
        return Graph(len(self.present), self.topology)

    def _threshold(self) -> float:
        if math.isinf(self.level):
            return math.inf
        return float(self.values.mean()) + (self._margin() if self.margin else 0.0)

    def _margin(self) -> float:
        return published_margin(
            self.values, self.duals, self._graph, points=self.points, most=max(self.sizes[k] for k in self.present),
            sharpness=self.sharpness, regularisation=self.regularisation, penalty=self.penalty,
            rounds=self.num_rounds - 1, start=self.first,
        )  # fmt: skip

    def detail(self) -> dict[str, Any]:
        """What was aimed at, and how near the rounds came."""
        if math.isinf(self.level):
            return {"rank": self.rank, "points": self.points, "in_the_graph": len(self.present)}
        agreed = float(self.values.mean())
        return {
            "rank": self.rank,
            "points": self.points,
            "in_the_graph": len(self.present),
            "anchor": self.anchor,
            "agreed": agreed,
            # Where the rounds have converged: the rank of which the value agreed on is the smoothed quantile.
            "rank_after_regularisation": self.rank + len(self.present) * self.regularisation * (self.anchor - agreed),
            "disagreement": float(np.ptp(self.values)),
            "penalty": self.penalty,
            "margin": self._margin(),
        }
