"""Rob-FCP: split conformal on the scores of the clients whose histograms look alike.

"Certifiably Byzantine-Robust Federated Conformal Prediction", Kang, Lin, Sun, Xiao, Li, ICML 2024,
https://arxiv.org/abs/2406.01960; its code: https://github.com/kangmintong/Rob-FCP.

    v_k = histogram of client k's scores in H bins, divided by n_k
    M_k = Σ |v_k - v_j|_2 over the K_b - 1 clients j nearest to k, K_b = K - K_m
    leave out the K_m clients of largest M_k
    q   = the ceil((N_b + 1)(1 - α))-th smallest of the N_b scores that are left

    H is `bins` · K_m is `malicious` of the K clients that have points, rounded up, or estimated · M_k is
    `maliciousness` · α is `alpha` · q is `global_threshold`

Sent: every score, 8 n_k bytes, once; the server makes the histograms. (The paper's clients send H numbers and a
t-digest of some 200 points, which for n_k <= 200 is every score.) Received: q, 8 bytes.

Guaranteed: where honest clients share one law of scores and are more than half, coverage of 1 - α up to a margin that
falls with √n_b; `detail` has the published bounds, which are 0 and 1 for any n_b below some thousands. Where honest
clients differ, through their labels or their models, the rarer kind looks malicious and is left out: of two tiers the
smaller one. So does an honest client with few points, whose histogram is far from everybody's.

Chosen: the K_b - 1 nearest, as paper and variable name have it and as its bound needs it; the published code sums the
K_b - 1 largest distances instead (`neighbours = "farthest"`), to the liars among others. The rank is exact where the
code rounds to a whole per cent. Bins are equal on [0, 1] in classification, and where scores go beyond it, between the
medians of the clients' smallest and largest scores. `malicious = "estimate"` is the published search by likelihood with
a Gaussian that can be fitted (conformal/robust.py); like the published one it always leaves somebody out.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field

from fl_sim.conformal.decimals import as_meant
from fl_sim.conformal.robust import (
    certified_coverage,
    dropped,
    histograms,
    maliciousness,
    most_likely_malicious,
    score_range,
)
from fl_sim.conformal.thresholds import pooled_threshold
from fl_sim.messages.calibration import ScoresReport, ScoresRequest
from fl_sim.messages.exchange import Columns
from fl_sim.messages.record import Record
from fl_sim.scenario.options import number_or
from strategies.base import ALONE, Calibration, Federation

Malicious = Annotated[float | Literal["estimate"], number_or("estimate", lambda x: 0 <= x < 0.5, "from 0 to below 0.5")]


class RobFCP(Calibration):
    """The pooled quantile of the clients whose histograms look alike (Kang et al. 2024)."""

    def __init__(
        self,
        federation: Federation = ALONE,
        *,
        alpha: float,
        score: str = "",
        malicious: Malicious = "estimate",  # share of the clients to drop, below 0.5
        bins: Annotated[int, Field(ge=2, le=1000)] = 20,  # of the histograms that are compared
        # distances that count; "farthest": the published code
        neighbours: Literal["nearest", "farthest"] = "nearest",
    ) -> None:
        super().__init__(federation, alpha=alpha, score=score)
        self.malicious, self.bins, self.neighbours = malicious, bins, neighbours
        self._detail: dict[str, Any] = {}

    def question(self) -> Record:
        """Every score."""
        return ScoresRequest(self.score)

    def threshold(self, reports: Columns[ScoresReport]) -> float:
        """Split conformal on those who are left."""
        pairs = zip(reports.partition.tolist(), reports.scores, strict=True)
        scores_of = {k: scores for k, scores in pairs if len(scores)}
        if not scores_of:
            return math.inf
        partitions, scores = list(scores_of), list(scores_of.values())
        low, high = score_range(scores, self.federation.task == "classification")
        vectors = histograms(scores, self.bins, low, high)
        num_malicious = self._num_malicious(len(scores))
        if num_malicious is None:
            num_malicious = most_likely_malicious(vectors, self.neighbours)
        suspicion = maliciousness(vectors, num_malicious, self.neighbours)
        out = set(dropped(suspicion, num_malicious))
        left = [own for place, own in enumerate(scores) if place not in out]
        least = min(map(len, left))
        self._detail = {
            "num_malicious": num_malicious,
            "left_out": sorted(partitions[place] for place in out),
            "maliciousness": {str(k): float(m) for k, m in zip(partitions, suspicion, strict=True)},
            "range": [low, high] if math.isfinite(low) and math.isfinite(high) else None,
            "certified_coverage": list(certified_coverage(len(scores), len(left), least, self.bins, self.alpha)),
        }
        return pooled_threshold(left, self.alpha)

    def _num_malicious(self, clients: int) -> int | None:
        """K_m of so many clients, always fewer than half of them; None where it is to be estimated."""
        if self.malicious == "estimate":
            return None
        return min(math.ceil(as_meant(self.malicious) * clients), (clients - 1) // 2)

    def detail(self) -> dict[str, Any]:
        """Who was left out, how far every client was from the others, and the published bounds on coverage."""
        return self._detail
