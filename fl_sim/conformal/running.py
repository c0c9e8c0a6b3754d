"""The counts of clients that come and go, kept up without asking anybody twice, and the threshold at any time.

Time is counted in periods. A point weighs f^age, where age is how many periods passed since its own and f is
`forgetting`; the counts of each client and period are kept apart, so that the order in which reports arrive cannot
matter, a late report is worth exactly what it would have been on time, and a client that leaves takes all its own
counts along and nothing else.

The threshold is weighted split conformal (Barber, Candès, Ramdas, Tibshirani, "Conformal prediction beyond
exchangeability", 2023): with weights w_i = f^age in [0, 1] for the points, 1 for the test point and W = Σ w_i, the
smallest edge e with

    Σ_i w_i 1{S_i <= e} >= (1-α)(W + 1),                                             +inf if there is none.

With f = 1 this is the pooled rank ceil((N+1)(1-α)) exactly. In general, with weights that do not depend on the data, it
covers at least

    1 - α - Σ_i w_i / (W + 1) d_i,     d_i = d_TV(scores, scores with i's and the test point's exchanged)

(their Theorem 2), where d_i <= 2 d_TV(S_i, S_test) for independent points; see `coverage_gap`. Exchangeable points have
d_i = 0: forgetting then costs precision, never validity. As W stays below n / (1 - f) with n points a period, an f too
small leaves W + 1 < 1/α and every threshold infinite. Whether a client reports must not depend on its scores.

>>> from fl_sim.conformal.histogram import ScoreGrid
>>> grid = ScoreGrid(0.0, 1.0, 4)
>>> running = RunningHistogram(grid)
>>> running.update(0, grid.count([0.1, 0.2, 0.6]))
>>> running.update(1, grid.count([0.3, 0.4, 0.9]))
>>> running.threshold(0.25)
1.0
>>> running.leave(1)
>>> running.threshold(0.25)
0.75
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fl_sim.conformal.decimals import as_meant
from fl_sim.conformal.histogram import ScoreGrid
from fl_sim.conformal.thresholds import refuse_where

Counts = NDArray[np.int64]

NOTHING = Fraction(
    1, 10**18
)  # weight of a point below which it is dropped: 10^18 such points are less than a test point


class RunningHistogram:
    """Counts by client and period over a grid."""

    def __init__(self, grid: ScoreGrid, forgetting: float = 1.0) -> None:
        if not 0 < forgetting <= 1:
            raise ValueError(f"forgetting = {forgetting}: must lie above 0, and be at most 1")
        self.grid, self.forgetting = grid, forgetting
        self.period = 0  # the one that is on
        self._factor = as_meant(forgetting)
        # Client -> period -> counts; one period if nothing is forgotten.
        self._counts: dict[int, dict[int, Counts]] = {}
        self._points: dict[int, dict[int, int]] = {}  # client -> period -> how many points these are

    def update(self, client: int, counts: ArrayLike, period: int | None = None) -> None:
        """Add a client's counts (bins + 1,) of points of the period that is on, or of an earlier one.

        Raises:
            ValueError: counts of another shape or below 0, or a period yet to come.
        """
        values = np.asarray(counts, np.int64)
        if values.shape != (self.grid.bins + 1,):
            raise ValueError(f"counts of shape {values.shape}: must be ({self.grid.bins + 1},)")
        refuse_where(values < 0, "counts", values, "must be at least 0")
        then = self.period if period is None else period
        if not 0 <= then <= self.period:
            raise ValueError(f"period = {then}: must lie in 0..{self.period}, the one that is on")
        mine = self._counts.setdefault(client, {})
        key = 0 if self.forgetting == 1 else then  # the threshold need not tell periods apart that weigh the same
        if self._weight(key) >= NOTHING:
            mine[key] = mine[key] + values if key in mine else values.copy()
            points = self._points.setdefault(client, {})
            points[then] = points.get(then, 0) + int(values.sum())

    def leave(self, client: int) -> None:
        """A client takes its counts along; one that is not there may leave too."""
        self._counts.pop(client, None)
        self._points.pop(client, None)

    def tick(self) -> None:
        """A period has passed."""
        self.period += 1
        for client, mine in self._counts.items():
            for then in [then for then in mine if self._weight(then) < NOTHING]:
                del mine[then], self._points[client][then]

    @property
    def clients(self) -> set[int]:
        """Who has reported and not left."""
        return set(self._counts)

    def by_period(self) -> dict[int, Counts]:
        """Period -> counts (bins + 1,) of all clients, the earliest first."""
        total: dict[int, Counts] = {}
        for mine in self._counts.values():
            for then, counts in mine.items():
                total[then] = total[then] + counts if then in total else counts
        return dict(sorted(total.items()))

    def threshold(self, alpha: float) -> float:
        """The threshold at this time; compared in exact arithmetic, so that a rank is never off by one."""
        needed = 1 - as_meant(alpha)
        up_to = {then: np.cumsum(counts) for then, counts in self.by_period().items()}

        def mass(b: int) -> Fraction:
            return sum((self._weight(then) * int(c[b]) for then, c in up_to.items()), Fraction(0))

        least = needed * (mass(self.grid.bins) + 1)
        low, high = 0, self.grid.bins  # the first edge that will do lies in low..high; high = bins: there is none
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if mass(middle) >= least else (middle + 1, high)
        return float(self.grid.edges[low]) if low < self.grid.bins else math.inf

    def weights(self) -> dict[int, float]:
        """Period -> the weight of each of its points."""
        return {then: float(self._weight(then)) for then in self.by_period()}

    def total_weight(self) -> float:
        """W = Σ w_i."""
        return math.fsum(float(self._weight(then)) * int(c.sum()) for then, c in self.by_period().items())

    def effective_size(self) -> float:
        """(Σ w_i)² / Σ w_i²: how many points of equal weight would be as precise; 0 where there is none."""
        sizes = {then: int(counts.sum()) for then, counts in self.by_period().items()}
        squares = math.fsum(n * float(self._weight(then)) ** 2 for then, n in sizes.items())
        return self.total_weight() ** 2 / squares if squares else 0.0

    def coverage_gap(self, distances: Mapping[int, float]) -> float:
        """Σ_i w_i d_i / (W + 1): how far below 1 - alpha the coverage can fall; the 1 is the test point's own weight.

        `distances` says for each period by how much, in total variation, exchanging one of its points with the test
        point moves the joint law of all scores (0 for a period not named). For independent points twice the distance
        between the two points' laws is enough.
        """
        sizes = [(then, n) for points in self._points.values() for then, n in points.items()]
        moved = math.fsum(n * float(self._weight(then)) * distances.get(then, 0.0) for then, n in sizes)
        return moved / (self.total_weight() + 1)

    def _weight(self, then: int) -> Fraction:
        return Fraction(1) if self.forgetting == 1 else self._factor ** (self.period - then)
