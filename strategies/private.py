"""Private calibration: one round of noisy counts, and a rank that allows for their noise.

The geometric mechanism on a histogram of scores, whole or in shares; the threshold, its proof and the papers are in
fl_sim/conformal/privacy.py. The combination is this project's own, no paper's.

    each client      counts of its scores over a fixed grid, plus noise on every count              clients/calibrate.py
    server           sums them, and goes down from the highest edge while
                     (1-α')(G~_b + 1) <= α' C~_b - Δ_b                                               `private_threshold`

Private for neighbours of which one has a calibration point of one client added or removed (whose model is as it was:
what training tells is another matter). A point replaced by another changes two counts and costs 2ε. The neighbours of
dp-fedcp are such replaced points, so that its ε and this one are not comparable.

Both statements below hold for noise of exactly that law. This laboratory draws it with NumPy, in double precision and
from a seeded generator (conformal/privacy.py), so that (ε, 0) is said of the mechanism and not of the bits that this
program sends: by how much its sampler differs from the law, the δ of (ε, δ), is not bounded here. A deployment takes an
exact sampler. What is private, and from whom:

    trust = "client"   each report by itself is (ε, 0)-differentially private, whoever reads it. The sum holds K noises.
    trust = "sum"      each client adds one of K shares of a noise; only the sum is (ε, 0)-private. It is meant for
                       secure aggregation, where the server learns the sum alone. This laboratory's server sees every
                       report and adds them up; a real one must not. Where clients fail, or t of K tell their noise to
                       whoever looks, the others' shares make a larger ε: `detail` says which for those that failed,
                       and for half of those that answered. If all but one tell, that one has (almost) no privacy.

The grid is public: the bounds of the score ([0, 1] for 1 - p and APS), or `range`, which must be given for any other,
because the largest score is a client's datum. A score above it counts as +inf, one below as the lowest bin.

Sent: a code of bins + 1 noisy counts, once. Received: the threshold, 8 bytes.

Guaranteed: coverage at least 1 - α for a test point exchangeable with all calibration points together, over draws of
points and noise, whatever the number of clients and points; so pooled, not each client's. The price is a threshold that
stands higher by Δ_b points of N (and `failure`), and is infinite where N is too small for the noise.

Chosen by simulation, over score laws like those of weak, confident and APS-scored models, N = 800 and 20,000, ε of 0.1
to 1: 64 bins, a little finer towards the upper bound (`TAIL`), and 0.002 of alpha for the noise. Each bin above the
threshold costs noise of weight 1 - α', each below only of weight α'; with too few bins a confident model's threshold is
rounded up to 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from fl_sim.conformal.histogram import ScoreGrid
from fl_sim.conformal.privacy import PrivateThreshold, epsilon_of_shares, private_threshold
from fl_sim.conformal.scores import bounds_of
from fl_sim.errors import FlSimError
from fl_sim.messages.record import Record
from fl_sim.messages.summaries import HistogramRequest
from fl_sim.scenario.scores import CqrTable, RapsTable, ResidualTable
from strategies.base import ALONE, Federation, Threshold
from strategies.families.histograms import Bins, Counts, HistogramCalibration
from strategies.families.options import unprotected

TAIL = 0.03  # of the grid of a bounded score


class Private(HistogramCalibration):
    """Differentially private histograms, with a rank that allows for their noise."""

    @classmethod
    def check(cls, options: Any) -> None:
        """Nothing that is private may decide the grid or move the scores."""
        if options.calibrator != "none":
            raise ValueError(unprotected(options.calibrator))
        if options.range is None and isinstance(options.score, RapsTable | ResidualTable | CqrTable):
            why = "has no known bounds, and the data's are private"
            raise ValueError(f"score {options.score.name!r} {why}; give range = [low, high] of its grid")
        if options.range is not None and not options.range[0] < options.range[1]:
            raise ValueError(f"range = {list(options.range)}: the first must be smaller than the second")
        if not options.failure < options.alpha:
            raise ValueError(f"failure = {options.failure}: is a part of alpha = {options.alpha}, and must be smaller")

    def __init__(
        self,
        federation: Federation = ALONE,
        *,
        alpha: float,
        score: str = "",
        epsilon: Annotated[float, Field(ge=1e-6)] = 1.0,  # below, the noise is larger than any number of points
        # each report is private by itself, or only the sum (secure aggregation)
        trust: Literal["client", "sum"] = "sum",
        bins: Bins = 64,
        # how often noise may exceed its allowance; part of alpha
        failure: Annotated[float, Field(gt=0, lt=1)] = 0.002,
        # of the grid, for a score without known bounds: public, not from the data
        range: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(federation, alpha=alpha, score=score, bins=bins)
        bounds = bounds_of(self.score) if range is None else range
        if bounds is None:
            raise FlSimError(
                f"calibrate.score = {score}: has no known bounds, and the data's are private; give "
                "calibrate.range = [low, high] of its grid"
            )
        self.epsilon, self.trust, self.failure = epsilon, trust, failure
        if trust == "sum" and not federation.tiers:
            raise ValueError(
                'trust = "sum" shares the noise out: Federation(tiers=...) must name the tier of each client'
            )
        self.shares = len(federation.tiers) if trust == "sum" else 1
        self.grid = ScoreGrid(float(bounds[0]), float(bounds[1]), bins, TAIL if range is None else 0.0)
        self.scalar_rounds, self.num_rounds = 0, 1  # the grid is public: nobody is asked for its ends
        self.private: PrivateThreshold | None = None
        self.arrived = 0

    def histogram_request(self, grid: ScoreGrid, turn: int) -> Record:
        """Noisy counts."""
        return HistogramRequest(
            self.score, grid.text(), by_class=False, num_labels=0, budget=self.budget,
            epsilon=self.epsilon, share=self.shares,
        )  # fmt: skip

    def from_counts(self, partitions: list[int], counts: Counts, grid: ScoreGrid) -> Mapping[int, Threshold]:
        """One threshold for all, from the sum alone."""
        self.arrived = len(partitions)
        total = counts.sum(axis=(0, 1)) if self.arrived else np.zeros(grid.bins + 1, np.int64)
        self.private = private_threshold(
            total, grid.edges, alpha=self.alpha, failure=self.failure, epsilon=self.epsilon,
            noises=self.arrived / self.shares,
        )  # fmt: skip
        self.global_threshold = self.private.threshold
        return dict.fromkeys(partitions, self.private.threshold)

    def detail(self) -> dict[str, Any]:
        """What privacy was had, from whom, and what it cost."""
        detail: dict[str, Any] = {"epsilon": self.epsilon, "trust": self.trust, "clients": self.arrived}
        detail["neighbours"] = "one calibration point added or removed"
        if self.trust == "sum" and self.arrived:
            present = min(1.0, self.arrived / self.shares)
            detail["epsilon_of_sum"] = epsilon_of_shares(self.epsilon, present)
            detail["epsilon_if_half_tell_their_noise"] = epsilon_of_shares(self.epsilon, present / 2)
        if self.private is not None:
            points, total = self.private.allowance, self.private.noisy_total
            detail |= {"noisy_points": total, "allowance_points": points, "failure": self.failure}
            detail["allowance_share"] = points / total if total > 0 else None
        return detail
