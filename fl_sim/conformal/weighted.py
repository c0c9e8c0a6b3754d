"""Conformal prediction under label shift: calibration points weighted by how much likelier their label is where one
wants to be covered.

Weighted conformal prediction (Tibshirani, Foygel Barber, Candès, Ramdas, "Conformal prediction under covariate shift",
2019; Podkopaev, Ramdas, "Distribution-free uncertainty quantification for classification under label shift", 2021):
with calibration points (s_i, y_i) from one law, a test point from another, and w(y) = P*(y) / P(y) the ratio of their
label laws, the threshold for a test point of label y is

    inf{t : Σ_{s_i <= t} w(y_i) >= (1 - α) (Σ_i w(y_i) + w(y))},        +inf where the sum never gets there

w(y) on the right is the test point's own mass, at +inf. It makes the threshold larger the rarer y is among the
calibration points, and it makes the coverage at least 1 - α in any sample where w is known. Quantiles without it
(`searchsorted(cumulative, 1 - α, side="right")`, clipped to the largest score) fall short, by much where one point
weighs much.

>>> scores, labels = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0, 0, 1, 1])
>>> Weighed(scores, labels, 2).thresholds(np.array([1.0, 1.0]), 0.25)
array([0.4, 0.4])
>>> Weighed(scores, labels, 2).thresholds(np.array([1.0, 5.0]), 0.25)
array([0.4, inf])
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fl_sim.conformal.decimals import as_meant
from fl_sim.conformal.thresholds import conformal_rank

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

BLOCK = 256  # points whose labels are counted together
ONE_BY_ONE = 1 << 15  # draws up to which each is made


def label_ratio(target: ArrayLike, pool: ArrayLike, smoothing: float = 1.0) -> Floats:
    """w(y) = P*(y) / P(y) from label counts `target`, `pool` (C,), as (C,) weights.

    P is n(y) / N of the pool. P* is that of the target shrunk to it by `smoothing` points of the pool's mix,
    (n*(y) + a P(y)) / (n* + a), so that a label which a small target happens to have none of keeps some weight, and a
    target without points is the pool itself. A label that the pool has none of has weight 0: nothing can be said of it.
    """
    wanted, pooled = np.asarray(target, np.float64), np.asarray(pool, np.float64)
    whole = wanted.sum() + smoothing
    if not whole:
        return np.where(pooled > 0, 1.0, 0.0)
    # In this order of operations counts in proportion give exactly equal weights, and so exactly the pool's threshold.
    ratio = np.divide(wanted * pooled.sum(), pooled, out=np.zeros_like(pooled), where=pooled > 0)
    return np.where(pooled > 0, (ratio + smoothing) / whole, 0.0)


class Weighed:
    """Calibration points, sorted once, to be weighed by their labels again and again.

    Weights are taken as whole multiples of a unit so small (2^-53 of the largest with up to 500 points, 2^-47 with
    20,000) that their sums are exact in 64 bits: equal weights give the threshold of split conformal exactly.
    """

    def __init__(self, scores: ArrayLike, labels: ArrayLike, num_labels: int) -> None:
        values, classes = np.asarray(scores, np.float64), np.asarray(labels, np.int64)
        order = np.argsort(values, kind="stable")
        self.scores, self.labels, self.num_labels = values[order], classes[order], num_labels
        self._or_infinite = np.append(self.scores, np.inf)
        self.counts: Counts = np.bincount(classes, minlength=num_labels).astype(np.int64)
        self._unit_bits = min(53, 62 - (len(values) + 1).bit_length())
        # Weights are by label, so that the weight up to a block's end follows from the labels counted up to there: a
        # client with weights of its own is looked up in N / BLOCK sums, and not in N.
        blocks = -(-len(values) // BLOCK)
        self._padded = np.full(blocks * BLOCK, num_labels, np.int64)  # which label has no weight
        self._padded[: len(values)] = self.labels
        of_each = np.arange(blocks).repeat(BLOCK) * (num_labels + 1) + self._padded
        counted = np.bincount(of_each, minlength=blocks * (num_labels + 1)).reshape(blocks, num_labels + 1)
        self._up_to: Counts = np.cumsum(counted[:, :num_labels], axis=0)  # (blocks, C)

    def thresholds(self, weights: ArrayLike, alpha: float) -> Floats:
        """(C,) thresholds, for a test point of each label; `weights` (C,) are the labels'."""
        units = self._units(weights)
        whole = int(units @ self.counts)
        level = 1 - as_meant(alpha)
        needed = np.array([math.ceil(level * (whole + own)) for own in units.tolist()], np.int64)
        # A test point of weight 0 among points of weight 0 needs nothing: there is nothing to go by.
        places = np.where(needed > 0, self._places(units, needed), len(self.scores))
        return self._or_infinite[places]

    def _places(self, units: Counts, needed: Counts) -> Counts:
        """(m,) the first point at which the units of all points up to it reach each of `needed` (m,), all above 0; N
        where they never do."""
        if not len(self.scores):
            return np.zeros(len(needed), np.int64)
        ends = self._up_to @ units
        block = np.searchsorted(ends, needed, side="left")
        inside = np.minimum(block, len(ends) - 1)
        rows = self._padded[inside[:, None] * BLOCK + np.arange(BLOCK)]
        reached = np.append(units, 0)[rows].cumsum(axis=1) + np.where(inside > 0, ends[inside - 1], 0)[:, None]
        places = inside * BLOCK + (reached < needed[:, None]).sum(axis=1)
        return np.where(block < len(ends), places, len(self.scores))

    def threshold(self, weights: ArrayLike, alpha: float) -> float:
        """One threshold for test points whose label, and so whose weight, is not known: that of the largest weight."""
        of_labels = np.asarray(weights, np.float64)
        return float(self.thresholds(of_labels, alpha)[int(of_labels.argmax())]) if len(of_labels) else math.inf

    def drawn_threshold(self, weights: ArrayLike, alpha: float, size: int, rng: np.random.Generator) -> float:
        """Split conformal on `size` points drawn with replacement, with chances in proportion to `weights` (C,)."""
        units = self._units(weights)
        whole = int(units @ self.counts)
        rank = conformal_rank(size, alpha)
        if not size or not whole or rank > size:
            return math.inf
        # The scores ascend, so that only the draw of that rank has to be looked up, or drawn by its own law, which is
        # that of uniform numbers' order statistics: 10,000 clients of 500,000 draws each would take half a minute.
        if size <= ONE_BY_ONE:
            drawn = int(np.partition(rng.integers(0, whole, size=size), rank - 1)[rank - 1])
        else:
            drawn = min(int(whole * rng.beta(rank, size - rank + 1)), whole - 1)
        return float(self.scores[self._places(units, np.array([drawn + 1]))[0]])

    def effective_size(self, weights: ArrayLike) -> float:
        """(Σ w)² / Σ w² over the points: so many equally weighted ones tell as much (Kish); 0 for no weight."""
        shares = np.asarray(weights, np.float64)
        shares = shares / (shares.max(initial=0.0) or 1.0)
        squares = float((self.counts * shares**2).sum())
        return float((self.counts * shares).sum()) ** 2 / squares if squares else 0.0

    def _units(self, weights: ArrayLike) -> Counts:
        of_labels = np.asarray(weights, np.float64)
        return np.rint(of_labels / (of_labels.max(initial=0.0) or 1.0) * 2.0**self._unit_bits).astype(np.int64)
