"""grouped: a threshold for each client, from the clients like it and its own labels. Ours; one round.

    c_k(y), H_k(y, ·) = client k's label counts and histogram of scores by class     clients/calibrate.py
    H_g = Σ_{k in g} H_k                                       the group's            `from_counts`
    T_k(y) = (1 - α)-quantile of the mixture of H_g's class laws under c_k + y        conformal/mixtures.py

Groups are the tiers ("tier"), or found by the server from the histograms alone ("found"), or there is but one. In
regression the classes are bins of the target, and the threshold is the largest over the candidates' bins, so that the
answer is an interval. For a test on everybody's data (`target = "pooled"`), the labels c_k are those of all clients.

Sent: the histogram by class, coded, some 100 bytes for 100 points and at most `budget`: a client whose code is longer
joins its bins in pairs, rounding up. One round for scores in [0, 1]; others agree on the grid in a scalar round before.
Received: a threshold for each class (one in regression).

Guaranteed: coverage of at least 1 - α at *each client*, in finite samples and for any n_k, if within a group scores
given the label follow one law (one model and one P(x | y)) and a client's labels are exchangeable: theorem and proof in
conformal/mixtures.py. On average over calibration draws, as all of conformal prediction. `detail` says of each group
whether it is one (`guaranteed`): the scenario must make its clients' scores of one law (`Scenario.one_law_a_tier`:
clients that train alone, models or calibrators of their own, or clients that misbehave have none), its classes must
have points enough to stand alone, and its clients must not be taken to differ, which by chance happens to one group in
some forty.

Where it is a heuristic:
- With `rare = "borrow"` a group with fewer than 4/α points takes everybody's, and classes are joined until there are at
  least 4/α points to each on average: the place kept at +inf in every class would cost more than a quarter of α.
  Joined, a client that has only the harder of two classes is covered less; with one cluster left it is split conformal
  on the group's pool. With "inf" nothing is joined: the theorem holds, and sets hold every label where points are few.
- Clients of a group that differ for sure (their exceedances vary more than chance lets them, by two standard errors)
  get a law between the group's and their own, weighed by n_k and by how much they differ (empirical Bayes). With models
  of their own this tends to each client's own split conformal threshold, whose guarantee is its own; in between nothing
  is proved.
- With `target = "pooled"` everybody's labels stand for the test point's, which the theorem does not know: an error of
  the order of 1/N.
- With "found" the groups rest on the same scores that they calibrate. A client whose points leave several groups
  possible gets the largest of their thresholds.

What no method of one round can do: of a client whose law is its own alone, its n_k scores are all that is known, and
the coverage of the best order statistic varies like Beta(r, n_k + 1 - r), ± sqrt(α(1-α)/n_k) about 1 - α.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fl_sim.conformal.histogram import ScoreGrid
from fl_sim.conformal.mixtures import (
    Spread,
    by_cluster,
    class_laws,
    crossing,
    found_groups,
    joined_classes,
    mixture_laws,
    shrunk,
    shrunk_by_class,
    spread,
)
from strategies.base import ALONE, Federation, Threshold
from strategies.families.histograms import Budget, Counts, HalvedBins, HistogramCalibration, Rare

Floats = NDArray[np.float64]


class Grouped(HistogramCalibration):
    """A threshold for each client from the clients like it and its own labels."""

    by_class = True
    compared = ({}, {"groups": "found"})

    def __init__(
        self,
        federation: Federation = ALONE,
        *,
        alpha: float,
        score: str = "",
        bins: HalvedBins = 512,
        budget: Budget = 512,
        groups: Literal["tier", "found", "one"] = "tier",  # "found": by the server, from the histograms alone
        # Too few points: "borrow" joins classes of like scores, and a small group takes everybody's, by which the
        # guarantee is lost; "inf" leaves them apart, and sets hold every label where that is what the few points can
        # vouch for.
        rare: Rare = "borrow",
        # label mix: each client's own, or the pool's in a shared test
        target: Literal["auto", "own", "pooled"] = "auto",
    ) -> None:
        super().__init__(federation, alpha=alpha, score=score, bins=bins)
        self.groups, self.budget, self.rare = groups, budget, rare
        self.pooled = target == "pooled" or (target == "auto" and federation.test == "shared")
        self._group_details: list[dict[str, Any]] = []

    def from_counts(self, partitions: list[int], counts: Counts, grid: ScoreGrid) -> Mapping[int, Threshold]:
        """Group by group; `counts` (K, C, bins + 1)."""
        edges = np.append(grid.edges, math.inf)
        group_of, plausible = self._groups(partitions, counts)
        thresholds = np.full((len(partitions), counts.shape[1]), -math.inf)
        for column, group in enumerate(dict.fromkeys(group_of[np.argsort(group_of, kind="stable")].tolist())):
            members = np.flatnonzero(group_of == group)
            apart = self.rare == "inf"
            alone = apart or int(counts[members].sum()) >= 4 / self.alpha
            whole = counts[members if alone else slice(None)].sum(axis=0)
            cluster = np.arange(len(whole)) if apart else joined_classes(whole, self.alpha)
            joined = by_cluster(counts, cluster)
            laws = class_laws(joined[members if alone else slice(None)].sum(axis=0))
            differ, places = self._spread(joined[members], laws)
            as_they_are = math.isinf(differ.pseudo_points) and not self.pooled
            place_of = dict(zip(members.tolist(), places, strict=True)) if as_they_are else {}
            everybodys = joined.sum(axis=(0, 2))
            for k in np.flatnonzero(plausible[:, column]).tolist():
                if k not in place_of:
                    place_of[k] = crossing(self._law(joined[k], everybodys, laws, differ), self.alpha)
                thresholds[k] = np.maximum(thresholds[k], edges[place_of[k]][cluster])
            self._group_details.append({
                "group": group if isinstance(group, str) else f"group {group}",
                "clients": [partitions[k] for k in members],
                "guaranteed": self._guaranteed(alone, cluster, differ),
                "stands_alone": alone,
                "class_clusters": cluster.tolist(),
                "spread": round(differ.correlation, 5),
                "spread_in_standard_errors": round(differ.errors, 2),
                "pseudo_points": None if math.isinf(differ.pseudo_points) else round(differ.pseudo_points, 2),
            })  # fmt: skip
        if self.federation.task == "classification":
            return dict(zip(partitions, thresholds, strict=True))
        return dict(zip(partitions, thresholds.max(axis=1).tolist(), strict=True))

    def _guaranteed(self, alone: bool, cluster: Counts, differ: Spread) -> bool:
        """Whether the theorem is about this group as it was treated."""
        as_it_is = alone and len(np.unique(cluster)) == len(cluster) and math.isinf(differ.pseudo_points)
        return as_it_is and self.one_law and not self.pooled and self.federation.test == "local"

    def _groups(self, partitions: list[int], counts: Counts) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """The group of each client, (K,), and of which groups, in their order, it may be, (K, G)."""
        if self.groups == "tier" and not self.federation.tiers:
            raise ValueError("grouped: groups = 'tier' needs Federation(tiers=...); say 'found' or 'one' without them")
        if self.groups == "found" and partitions:
            return found_groups(counts)
        known = [self.federation.tiers[k] if self.groups == "tier" else "all" for k in partitions]
        group_of = np.array(known, dtype=object)
        return group_of, group_of[:, None] == np.unique(group_of)[None]

    def _spread(self, counts: Counts, laws: Floats) -> tuple[Spread, list[Counts]]:
        """How much these clients (K, C, bins + 1) differ from the group's laws, each at its own thresholds; and at
        which edges these are, (C,) of each client, by the group's laws alone."""
        whole = counts.sum(axis=0)
        beyond_each = 1 - np.cumsum(whole, axis=1) / np.maximum(whole.sum(axis=1, keepdims=True), 1)
        errors, places, bins = [], [], np.arange(counts.shape[2])
        for own, labels in zip(counts, counts.sum(axis=2), strict=True):
            at = crossing(mixture_laws(labels, laws), self.alpha)
            beyond = int(own[bins > at[:, None]].sum())
            rate = beyond_each[np.arange(len(at)), at]
            places.append(at)
            errors.append((beyond, labels @ rate, labels @ (rate * (1 - rate))))
        exceeding, expected, variance = np.array(errors, float).reshape(-1, 3).T
        return spread(exceeding, expected, variance, counts.sum(axis=(1, 2))), places

    def _law(self, own: Counts, everybodys: Counts, laws: Floats, differ: Spread) -> Floats:
        """(C, bins) the law a client's candidates are held against; `everybodys` are all clients' labels, (C,)."""
        if not self.pooled:
            return shrunk(own.sum(axis=0), mixture_laws(own.sum(axis=1), laws), differ.pseudo_points)
        return mixture_laws(everybodys, shrunk_by_class(own, laws, differ.pseudo_points))

    def caveats(self) -> list[str]:
        """Which classes were joined, which groups took everybody's points, and where nothing is guaranteed."""
        caveats = []
        for group in self._group_details:
            classes, clusters = len(group["class_clusters"]), len(set(group["class_clusters"]))
            if not group["stands_alone"]:
                caveats.append(
                    f"{group['group']}: has fewer than 4 / alpha points and took everybody's (rare = borrow)"
                )
            if clusters < classes:
                caveats.append(
                    f"{group['group']}: {classes} {self.class_word} were joined to {clusters}, having fewer than "
                    "4 / alpha points each (rare = borrow)"
                )
        return [*caveats, *self.not_guaranteed(self._group_details)]

    def detail(self) -> dict[str, Any]:
        """Who was grouped with whom, which classes were joined, and how much clients differ (null: not for sure)."""
        return {"target": "pooled" if self.pooled else "own", "groups": self._group_details}
