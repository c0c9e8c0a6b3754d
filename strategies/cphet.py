"""CPhet: calibration points of all clients, weighted by how much likelier their label is at the client in question.

"Efficient Conformal Prediction under Data Heterogeneity", Plassier, Kotelevskii, Rubashevskii, Noskov, Velikanov,
Fishkov, Horvath, Takac, Moulines, Panov, AISTATS 2024, https://arxiv.org/abs/2312.15799. Rebuilt from its description:
of its text only the abstract and the introduction were at hand, and its authors published no code that could be found.

    w_k(y) = P*_k(y) / P(y)                          ratio of the label law wanted at client k to that of all points
    draw N*_k of all N points, with chances in proportion to w_k(y_i)
    q_k = the ceil((N*_k + 1)(1 - α))-th smallest score drawn

    P is the pool's label mix; P*_k is `target`: client k's own, the pool's, or uniform · α is `alpha` · q_k is
    `thresholds[k]`

Sent: every score and its label, 9 n_k bytes, once. Received: q_k, 8 bytes; with `subsample = false` in classification
8 C bytes.

Guaranteed: coverage of client k near 1 - α where clients differ in their label laws alone and share one law of scores
given the label, which they do only where they share one model: it corrects labels, not models. It is no more than
near, because a draw with replacement knows no more than its N*_k distinct points and P*_k is estimated from n_k
labels. With `subsample = false` it is at least 1 - α in any sample where w_k is known (conformal/weighted.py). Of a
label that nobody has, w_k is not known unless the target is the pool (then it is 1): its threshold is +inf, and so is
everybody's in regression, where one has to serve every bin. Under a draw such a label gets the threshold of the others,
and nothing is said of it.

Chosen: N*_k is the effective size (Σ w)² / Σ w², so that the draw's rank is corrected for as many points as there is
evidence for; where w = 1 it is N. Of more than 32,768 draws only the one of the rank is made, by its own law. P*_k is
shrunk to the pool's mix by one point's worth, so that a label that client k happens to lack keeps some weight and a
client without points is given the pool's. A label that nobody has counts nowhere; "uniform" is uniform over the labels
that somebody has. In regression a label is a bin of the target. `subsample = false`, no part of the paper as described,
weighs all points instead of drawing some; the test point's own weight then gives each class its threshold, and in
regression, where one number has to serve, the largest weight counts for every test point.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fl_sim.conformal.weighted import Weighed, label_ratio
from fl_sim.messages.calibration import ScoresReport, ScoresRequest
from fl_sim.messages.exchange import Columns
from fl_sim.messages.record import Record
from fl_sim.randomness import stream
from strategies.base import ALONE, Calibration, Federation, Threshold

Counts = NDArray[np.int64]


class CPhet(Calibration):
    """A quantile weighted by the density ratio of each client's labels to all (Plassier et al. 2024)."""

    def __init__(
        self,
        federation: Federation = ALONE,
        *,
        alpha: float,
        score: str = "",
        # "auto": own labels, or the pool's in a shared test
        target: Literal["auto", "own", "pooled", "uniform"] = "auto",
        subsample: bool = True,  # draw calibration points by their weights, as published; false: weigh them
    ) -> None:
        super().__init__(federation, alpha=alpha, score=score)
        self.target = {"local": "own", "shared": "pooled"}[federation.test] if target == "auto" else target
        self.subsample = subsample
        self.sizes: dict[int, float] = {}  # partition -> effective number of points

    def question(self) -> Record:
        """Every score with its label."""
        return ScoresRequest(self.score, labels=True, num_labels=self.federation.num_labels)

    def for_each(self, reports: Columns[ScoresReport]) -> dict[int, Threshold]:
        """q_k for client k."""
        (pool, num_labels), partitions = self._pool(reports), reports.partition.tolist()
        wanted = {"pooled": pool.counts, "uniform": (pool.counts > 0).astype(np.int64)}.get(self.target)
        if wanted is not None:  # one target, one threshold
            ratio = np.ones(num_labels) if self.target == "pooled" else label_ratio(wanted, pool.counts, 0.0)
            one, size = self._calibrated(pool, ratio, "all")
            self.sizes = dict.fromkeys(partitions, size)
            self.global_threshold = one if isinstance(one, float) else None
            return dict.fromkeys(partitions, one)
        thresholds: dict[int, Threshold] = {}
        for k, labels in zip(partitions, reports.labels, strict=True):
            weights = label_ratio(np.bincount(labels, minlength=num_labels), pool.counts)
            thresholds[k], self.sizes[k] = self._calibrated(pool, weights, k)
        return thresholds

    def _calibrated(self, pool: Weighed, weights: NDArray[np.float64], who: int | str) -> tuple[Threshold, float]:
        """A threshold, or one for each class, and the effective number of points behind it."""
        size = pool.effective_size(weights)
        if self.subsample:
            rng = stream(self.federation.seed, "cphet", who)
            return pool.drawn_threshold(weights, self.alpha, math.floor(size), rng), size
        unknown = (pool.counts == 0) & (self.target != "pooled")  # the ratio of a label that nobody has
        if self.federation.task == "regression":
            return (math.inf if unknown.any() else pool.threshold(weights, self.alpha)), size
        each = np.where(unknown, math.inf, pool.thresholds(weights, self.alpha))
        return (float(each[0]) if (each == each[0]).all() else each), size

    def _pool(self, reports: Columns[ScoresReport]) -> tuple[Weighed, int]:
        labels = np.concatenate([np.zeros(0, np.int64), *reports.labels])
        scores = np.concatenate([np.zeros(0), *reports.scores])
        num_labels = self.federation.num_labels or int(labels.max(initial=0)) + 1
        return Weighed(scores, labels, num_labels), num_labels

    def detail(self) -> dict[str, Any]:
        """Whose labels were aimed at, and how many equally weighted points each threshold rests on."""
        sizes = list(self.sizes.values())
        return {
            "target": self.target,
            "effective_points": {
                "min": round(min(sizes), 1),
                "median": round(float(np.median(sizes)), 1),
                "max": round(max(sizes), 1),
            }
            if sizes
            else None,
        }
