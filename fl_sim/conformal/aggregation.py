"""Means of the clients' thresholds that one liar cannot move, densities to weigh them by, and a second look at them.

Every rule here is `weighted_mean_threshold` with other weights, so that equal thresholds have exactly themselves as
mean, whatever the rule:

"median"   all the weight on the threshold at which the sorted weights pass one half, the upper one where two share it
           (it covers more)
"trimmed"  `trim` of all weight cut off at either end of the sorted thresholds, by fractions of a client where need be
`cap`      no weight above `cap` times the median of the positive weights (the lower one where two share it)

How many liars each stands (m of K clients; a liar says any threshold and any weight): the mean none. The median and
the trimmed mean stay within the honest thresholds while liars hold less than 1/2, or less than `trim`, of all
*weight*; where weights are what clients say of themselves one liar can hold nearly all of it, and then they stand
none. With a cap c, m < K/2 and honest weights in [a, b] a liar weighs at most c b, so m liars hold at most
m c b / (m c b + (K - m) min(a, c a)) of all weight. Among equal honest weights, with c >= 1, median and cap together
stand m < K / (c + 1), trimmed mean and cap m < trim K / (trim + (1 - trim) c).

The price: of honest clients of two kinds a median has the one kind's threshold or the other's, and a trimmed mean gives
the rarer kind less weight; either may cover far less, or more, than the mean.

>>> aggregated([0.2, 0.3, 1e9], [10, 10, 10], "median")
0.3
>>> aggregated([0.2, 0.3, 1e9], [10, 10, 10], "trimmed", trim=0.4)
0.3
>>> aggregated([0.25, 0.5], [10, 10**12], cap=3)
0.4375
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fl_sim.conformal.decimals import as_meant
from fl_sim.conformal.laws import beta_quantile
from fl_sim.conformal.thresholds import conformal_rank, weighted_mean_threshold

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Aggregation = Literal["mean", "median", "trimmed"]


def aggregated(
    thresholds: ArrayLike,
    weights: ArrayLike,
    aggregation: Aggregation = "mean",
    trim: float = 0.1,
    cap: float | None = None,
) -> float:
    """One threshold from `thresholds`, `weights` (K,); clients of weight 0 do not count, +inf where none counts.

    Raises:
        ValueError: weights that are not finite numbers >= 0, a threshold that is no number, an unknown aggregation.
    """
    if aggregation not in get_args(Aggregation):
        raise ValueError(f"aggregation = {aggregation!r}: must be one of {', '.join(get_args(Aggregation))}")
    if aggregation == "mean" and cap is None:
        return weighted_mean_threshold(thresholds, weights)
    weighted_mean_threshold(thresholds, weights)  # for its checks: what is sorted below are numbers
    masses = np.asarray(weights, np.float64)
    if cap is not None:
        masses = capped(masses, cap)
    if aggregation == "median":
        masses = _middle(np.asarray(thresholds, np.float64), masses)
    elif aggregation == "trimmed":
        masses = _trimmed(np.asarray(thresholds, np.float64), masses, trim)
    return weighted_mean_threshold(thresholds, masses)


def capped(weights: ArrayLike, cap: float) -> Floats:
    """`weights` (K,), none of them above `cap` times the lower median of the positive ones."""
    masses = np.asarray(weights, np.float64)
    positive = np.sort(masses[masses > 0])
    return np.minimum(masses, cap * positive[(len(positive) - 1) // 2]) if len(positive) else masses


def _middle(thresholds: Floats, weights: Floats) -> Floats:
    """Weight 1 for the client at which the weights, in the order of the thresholds, pass half of their sum."""
    order, half = np.argsort(thresholds, kind="stable"), sum(map(Fraction, weights.tolist())) / 2
    chosen, so_far = np.zeros_like(weights), Fraction(0)
    for k in order.tolist():
        so_far += Fraction(weights[k])
        if so_far > half:
            chosen[k] = 1.0
            break
    return chosen


def _trimmed(thresholds: Floats, weights: Floats, trim: float) -> Floats:
    """What is left of each weight when `trim` of their sum is cut off at either end of the sorted thresholds."""
    whole, share = sum(map(Fraction, weights.tolist()), Fraction(0)), as_meant(trim)
    low, high = share * whole, (1 - share) * whole
    left, so_far = np.zeros_like(weights), Fraction(0)
    for k in np.argsort(thresholds, kind="stable").tolist():
        before, so_far = so_far, so_far + Fraction(weights[k])
        left[k] = float(max(min(so_far, high) - max(before, low), Fraction(0)))
    return left


# ------------------------------------------------------------------------------------------------------------ density


def density_at(scores: ArrayLike, threshold: float) -> float:
    """The density of `scores` (n,) about their quantile `threshold`; 0 where they cannot tell it.

    Twice a number of ranks m over the distance between the scores m ranks above and below (Siddiqui, "Distribution of
    quantiles in samples from a bivariate population", 1960), with the m of Bofinger, "Estimation of a density function
    using order statistics", 1975: n^(4/5) (4.5 φ(z)^4 / (2 z² + 1)²)^(1/5), z the normal quantile of the threshold's
    rank, rounded up. Ranks beyond the sample end at it; where ties leave no distance m grows until there is one.

    A kernel with a width from the spread of all scores would not do: most scores of a good classifier lie within a
    thousandth of 0, their threshold far out in a thin tail, where so narrow a kernel sees nothing but the threshold
    itself and reports its own height.
    """
    from scipy.special import ndtri

    values = np.sort(np.asarray(scores, np.float64))
    n = len(values)
    if n < 2 or math.isinf(threshold) or not values[0] < values[-1] < math.inf:
        return 0.0
    rank = int(np.clip(np.searchsorted(values, threshold, side="right"), 1, n))
    z = float(ndtri(rank / (n + 1)))
    density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    reach = math.ceil(n**0.8 * (4.5 * density**4 / (2 * z * z + 1) ** 2) ** 0.2)
    while True:
        low, high = max(rank - reach, 1), min(rank + reach, n)
        if values[high - 1] > values[low - 1]:
            return (high - low) / n / float(values[high - 1] - values[low - 1])
        reach *= 2


# ------------------------------------------------------------------------------------------------------- second round


def candidates(thresholds: ArrayLike, weights: ArrayLike, centre: float, count: int) -> Floats:
    """Up to `count` candidates for one threshold, rising: `centre`, the largest finite threshold, and others between.

    The others are quantiles, at equal steps, of half the law of the finite `thresholds` under their `weights`, (K,)
    both, in straight lines from one to the next, and half a uniform one over their range: fine where thresholds crowd,
    and never more than 2 / (count - 1) of the range apart where, between two groups of clients, there is none. +inf
    alone where no threshold is finite. A `count` of 1 leaves only the largest.
    """
    values, masses = np.asarray(thresholds, np.float64), np.asarray(weights, np.float64)
    counts = (masses > 0) & np.isfinite(values)
    if not counts.any():
        return np.array([math.inf])
    order = np.argsort(values[counts], kind="stable")
    at, mass = values[counts][order], masses[counts][order]
    middle = np.cumsum(mass) - mass / 2
    law = [(side - side[0]) / ((side[-1] - side[0]) or 1.0) for side in (middle, at)]
    others = np.interp(np.arange(1, count - 1) / (count - 1), (law[0] + law[1]) / 2, at)
    choices = np.concatenate([others, [centre][: count - 1], at[-1:]])
    return np.unique(choices[np.isfinite(choices)])


def smallest_sufficient(choices: ArrayLike, counts: ArrayLike, n: int, alpha: float) -> float:
    """The smallest of `choices` (J,) up to which at least ceil((n + 1)(1 - α)) of n scores lie; +inf if none.

    `counts` (J,) are the scores up to each choice. See `strategies/fedwq_cp.py` for what that guarantees.
    """
    enough = np.asarray(choices, np.float64)[np.asarray(counts) >= conformal_rank(n, alpha)]
    return float(enough.min()) if len(enough) else math.inf


def least_coverage(covered: int, n: int, confidence: float = 0.95) -> float:
    """The one-sided Clopper-Pearson bound: the smallest p under which `covered` or more of n has a probability of
    1 - `confidence`; 0 for none covered."""
    return float(beta_quantile(1 - confidence, covered, n - covered + 1)) if covered else 0.0
