"""class-conditional: a threshold for each class, from everybody's scores of it. One round.

"Conditional validity of inductive conformal predictors", Vovk, 2012, and "Class-conditional conformal prediction with
many classes", Ding, Angelopoulos, Bates, Jordan, Tibshirani, 2023, https://arxiv.org/abs/2306.09335; that thresholds by
class, pooled over clients by tier from one round of histograms, cover every client's mix of labels is used here.

    q_{g,y} = the ceil((n_{g,y} + 1)(1 - α))-th smallest score of class y at clients of tier g, rounded up to the grid

Sent: the histogram by class, coded, at most `budget` bytes (families/histograms.py). Received: a threshold
for each class.

Guaranteed: P(covered | Y = y) >= 1 - α for every class at every client of a tier, hence coverage of at least 1 - α
under *any* mix of labels, today's or tomorrow's, if scores given the label follow one law within the tier: one model
and one P(x | y) for all its clients (`Scenario.one_law_a_tier`; `detail` says of each group whether it is so). It is
more than `grouped` promises, and sets are larger for it: every class pays for itself, the hard ones dearly. A class
with fewer than 1/α - 1 points in its tier is in every set (`rare = "inf"`, Vovk's answer).

Not guaranteed with `rare = "borrow"`: such a class borrows all tiers' points of the class, and one that is too rare
even so those of all classes of its tier; with 8 points of its own it may then be covered hardly ever. For
classification only: the class of a test point's interval is not known in regression.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from fl_sim.conformal.histogram import ScoreGrid, threshold_at
from fl_sim.conformal.thresholds import conformal_rank, min_calibration
from strategies.base import ALONE, Federation, Threshold
from strategies.families.histograms import Budget, Counts, HalvedBins, HistogramCalibration, Rare


def with_borrowed(counts: Counts, everybodys: Counts, alpha: float) -> tuple[Counts, list[int]]:
    """A tier's counts (C, B + 1) with those of all tiers for each class that has fewer than 1/alpha - 1 points in the
    tier, and which classes these are. A class that nobody has stays empty."""
    short = (counts.sum(axis=1) < min_calibration(alpha)) & (everybodys.sum(axis=1) > counts.sum(axis=1))
    return np.where(short[:, None], everybodys, counts), np.flatnonzero(short).tolist()


class ClassConditional(HistogramCalibration):
    """A threshold for each class, so that every mix of them is covered."""

    task = "classification"
    by_class = True

    def __init__(
        self,
        federation: Federation = ALONE,
        *,
        alpha: float,
        score: str = "",
        bins: HalvedBins = 512,
        budget: Budget = 512,
        groups: Literal["tier", "one"] = "tier",  # whose scores are put together
        # A class with fewer than 1/alpha - 1 points in its group: "inf" puts it into every set (Vovk 2012); "borrow"
        # takes the class's points of all groups, and where these are too few all of its group's, and loses the
        # guarantee.
        rare: Rare = "inf",
    ) -> None:
        super().__init__(federation, alpha=alpha, score=score, bins=bins)
        self.groups, self.budget, self.rare = groups, budget, rare
        self._group_details: list[dict[str, Any]] = []

    def from_counts(self, partitions: list[int], counts: Counts, grid: ScoreGrid) -> Mapping[int, Threshold]:
        """Tier by tier; `counts` (K, C, bins + 1)."""
        if self.groups == "tier" and not self.federation.tiers:
            raise ValueError("class-conditional: groups = 'tier' needs Federation(tiers=...); say 'one' without them")
        tiers = [self.federation.tiers[k] if self.groups == "tier" else "all" for k in partitions]
        everybodys = counts.sum(axis=0)
        thresholds = {
            tier: self._of_tier(tier, counts[[t == tier for t in tiers]].sum(axis=0), everybodys, grid)
            for tier in dict.fromkeys(tiers)
        }
        return {k: thresholds[tier] for k, tier in zip(partitions, tiers, strict=True)}

    def _of_tier(self, tier: str, counts: Counts, everybodys: Counts, grid: ScoreGrid) -> Threshold:
        """(C,) thresholds from a tier's counts (C, bins + 1)."""
        from_tiers: list[int] = []
        from_classes: list[int] = []
        too_few = np.flatnonzero(counts.sum(axis=1) < min_calibration(self.alpha)).tolist()
        used = counts
        if self.rare == "borrow":
            used, from_tiers = with_borrowed(counts, everybodys, self.alpha)
            from_classes = np.flatnonzero(used.sum(axis=1) < min_calibration(self.alpha)).tolist()
            used = np.array([counts.sum(axis=0) if y in from_classes else row for y, row in enumerate(used)])
        ranks = [conformal_rank(int(row.sum()), self.alpha) for row in used]
        made = np.array([threshold_at(row, grid.edges, rank) for row, rank in zip(used, ranks, strict=True)])
        self._group_details.append({
            "group": tier,
            "guaranteed": self.one_law and not from_tiers and not from_classes,
            "thresholds": [None if np.isinf(q) else float(q) for q in made],
            "classes_too_rare": too_few,
            "classes_borrowed_from_all_tiers": [y for y in from_tiers if y not in from_classes],
            "classes_borrowed_from_all_classes": from_classes,
        })  # fmt: skip
        return made

    def detail(self) -> dict[str, Any]:
        """By tier the thresholds (null: infinite), which classes have too few points to stand alone, what these
        borrowed, and whether the guarantee is about it."""
        return {"groups": self._group_details}

    def caveats(self) -> list[str]:
        """Which classes are in every set or borrow, and where nothing is guaranteed."""
        caveats = []
        for group in self._group_details:
            rare, lent = group["classes_too_rare"], group["classes_borrowed_from_all_tiers"]
            lent = [*lent, *group["classes_borrowed_from_all_classes"]]
            if lent:
                caveats.append(
                    f"{group['group']}: {self.classes(lent)} had fewer than {min_calibration(self.alpha)} points and "
                    "took those of others (rare = borrow); they may be covered far less than promised"
                )
            elif rare:
                caveats.append(
                    f"{group['group']}: {self.classes(rare)} had fewer than {min_calibration(self.alpha)} points, so "
                    "that every set holds them (rare = inf)"
                )
        return [*caveats, *self.not_guaranteed(self._group_details)]
