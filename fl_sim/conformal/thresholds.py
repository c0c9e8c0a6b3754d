"""From calibration scores to the number a score is compared with.

Split conformal prediction (Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World", 2005; Lei et
al., "Distribution-free predictive inference for regression", 2018): with n exchangeable calibration scores
the threshold is the ceil((n+1)(1-α))-th smallest of them, or +inf where that rank is larger than n. α is
`alpha`, n_k is the number of calibration points of client k.

FedWQ-CP (Nguyen, Wang, Ku, "Conformalized Neural Networks for Federated Uncertainty Quantification under Dual
Heterogeneity", 2026, https://arxiv.org/abs/2602.23296): every client sends its own threshold q_k and n_k, the
server answers with sum n_k q_k / sum n_k.

>>> conformal_rank(29, 0.1)
27
>>> conformal_threshold(np.arange(1.0, 30.0), 0.1)
27.0
>>> weighted_mean_threshold([0.5, 0.75], [10, 30])
0.6875
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fl_sim.conformal.decimals import as_meant, exact_alpha

SmallN = Literal["clip", "inf", "drop"]


@lru_cache(maxsize=65_536)  # of thousands of clients few have another number of points
def conformal_rank(n: int, alpha: float) -> int:
    """ceil((n+1)(1-α)) in exact arithmetic: the rank of the split-conformal threshold; it may exceed n."""
    return math.ceil((int(n) + 1) * (1 - exact_alpha(alpha)))


@lru_cache(maxsize=1024)
def min_calibration(alpha: float) -> int:
    """The smallest n whose conformal rank is at most n, which is the smallest n >= 1/α - 1."""
    return math.ceil(1 / exact_alpha(alpha)) - 1


def conformal_threshold(scores: ArrayLike, alpha: float) -> float:
    """The conformal rank's order statistic of `scores` (n,); +inf where the rank exceeds n, so for n = 0."""
    values = _checked_scores(scores)
    rank = conformal_rank(len(values), alpha)
    return _order_statistic(values, rank) if rank <= len(values) else math.inf


def local_rank(n: int, alpha: float, small_n: SmallN) -> int | None:
    """The rank of a client's own threshold among its n scores; None where its threshold is +inf.

    A client with n below `min_calibration` has no conformal rank: "clip" takes its largest score, the usual
    silent choice of a quantile level clipped to 1 (the paper's own rule is not known to us); "inf" and "drop"
    take none.
    """
    if small_n not in get_args(SmallN):
        raise ValueError(f"small_n = {small_n!r}: must be one of {', '.join(get_args(SmallN))}")
    rank = conformal_rank(n, alpha)
    if rank <= n:
        return rank
    return n if small_n == "clip" and n > 0 else None


def local_threshold(scores: ArrayLike, alpha: float, small_n: SmallN) -> tuple[float, int]:
    """What a FedWQ-CP client with `scores` (n,) sends: (q_k, its weight n_k).

    Too few scores for a finite rank: "clip" sends (largest score, n), "inf" (+inf, n), which makes
    everybody's threshold infinite, and "drop" (+inf, 0), which takes the client out of the mean. No scores:
    always (+inf, 0).
    """
    values = _checked_scores(scores)
    rank = local_rank(len(values), alpha, small_n)
    if rank is None:
        return math.inf, 0 if small_n == "drop" else len(values)
    return _order_statistic(values, rank), len(values)


def weighted_mean_threshold(thresholds: ArrayLike, weights: ArrayLike) -> float:
    """FedWQ-CP's server rule: sum n_k q_k / sum n_k, correctly rounded, of `thresholds`, `weights` (K,).

    Clients of weight 0 do not count, whatever they sent. +inf where any client that counts sent it, or none
    counts.
    """
    values, masses = np.asarray(thresholds, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    if values.ndim != 1 or values.shape != masses.shape:
        raise ValueError(f"thresholds {values.shape} and weights {masses.shape}: must both have shape (K,)")
    refuse_where(~((masses >= 0) & (masses < np.inf)), "weights", masses, "must be finite and at least 0")
    refuse_where((masses > 0) & ~(values > -np.inf), "thresholds", values, "must be a number above -inf")
    pairs = [(q, w) for q, w in zip(values.tolist(), masses.tolist(), strict=True) if w > 0]
    if not pairs or any(threshold == math.inf for threshold, _ in pairs):
        return math.inf
    # Rounded once, at the end: equal thresholds have exactly themselves as mean, so a score that ties with
    # the threshold stays in the set, and the order of clients cannot change a digit. In floats n * q / n
    # is not always q.
    return float(_exact_sum(pairs) / _exact_sum([(weight, 1.0) for _, weight in pairs]))


def pooled_threshold(scores: Sequence[ArrayLike], alpha: float) -> float:
    """Split conformal on all clients' scores together: `scores` is a sequence of arrays (n_k,)."""
    return conformal_threshold(np.concatenate([np.empty(0), *(_checked_scores(s) for s in scores)]), alpha)


def mixture_threshold(scores: Sequence[ArrayLike], mixture: Sequence[float | Fraction], alpha: float) -> float:
    """The 1 - α quantile of a mixture of clients with weights π (K,), each with its own point at infinity (Lu et al.
    2023).

    Score i of client k weighs π_k / (n_k + 1) and +inf weighs Σ π_k / (n_k + 1); the smallest score whose cumulative
    weight is at least 1 - α of all, else +inf. In exact arithmetic, each π_k as it is written. With π_k = n_k + 1 it is
    the ceil((N + K)(1 - α))-th smallest of the pool. `scores` is a sequence of arrays (n_k,); π need not add up to 1.

    >>> mixture_threshold([[1.0, 2.0, 3.0], [4.0, 5.0]], [4, 3], 0.5)
    4.0
    >>> mixture_threshold([[1.0, 2.0, 3.0], [4.0]], [1, 1], 0.25)
    inf

    Raises:
        ValueError: not one number for each client, one below 0, or all 0.
    """
    parts = mixture_parts(mixture, len(scores))
    alike: dict[Fraction, list[NDArray[np.float64]]] = {}  # what each score weighs -> those that weigh so
    for part, own in zip(parts, map(_checked_scores, scores), strict=True):
        alike.setdefault(part / (len(own) + 1), []).append(own)
    unit = math.lcm(*(share.denominator for share in alike))
    # Whole numbers: sums are exact, and fast. They may be far too large for 64 bits.
    weighed = [(int(share * unit), np.sort(np.concatenate(own))) for share, own in alike.items()]
    needed = math.ceil(sum(parts) * (1 - exact_alpha(alpha)) * unit)

    def mass(q: float) -> int:
        return sum(weight * int(np.searchsorted(own, q, side="right")) for weight, own in weighed)

    pool = np.sort(np.concatenate([own for _, own in weighed])).tolist()
    place = bisect_left(pool, needed, key=mass)
    return pool[place] if place < len(pool) else math.inf


def mixture_parts(mixture: Sequence[float | Fraction], num_clients: int) -> list[Fraction]:
    """π exactly, one part for each of K clients; they need not add up to 1.

    Raises:
        ValueError: not one number for each client, one below 0, or all 0.
    """
    if len(mixture) != num_clients:
        raise ValueError(f"mixture holds {len(mixture)} numbers for {num_clients} clients: must be one for each")
    wrong = [(k, part) for k, part in enumerate(mixture) if not 0 <= part < math.inf]
    if wrong:
        raise ValueError(f"mixture[{wrong[0][0]}] = {wrong[0][1]}: must be finite and at least 0")
    parts = [as_meant(part) for part in mixture]
    if not sum(parts):
        raise ValueError("mixture holds only zeros: at least one client must count")
    return parts


def refuse_where(wrong: NDArray[np.bool_], name: str, values: NDArray, rule: str) -> None:
    """ValueError naming the first entry of `values` where `wrong` (of the same shape) holds, and the rule."""
    if wrong.any():
        index = tuple(np.argwhere(wrong)[0].tolist())
        raise ValueError(f"{name}{list(index)} = {values[index]}: {rule}")


def _checked_scores(scores: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"scores of shape {values.shape}: must be one-dimensional, one score a point")
    refuse_where(np.isnan(values), "scores", values, "a score must be a number")
    return values


def _order_statistic(values: NDArray[np.float64], rank: int) -> float:
    return float(np.partition(values, rank - 1)[rank - 1])


def _exact_sum(pairs: Sequence[tuple[float, float]]) -> Fraction:
    """The sum of the products of pairs of floats, as whole numbers over the powers of two that they are made of."""
    over: dict[int, int] = {}
    for (top, bottom), (other_top, other_bottom) in ((a.as_integer_ratio(), b.as_integer_ratio()) for a, b in pairs):
        denominator = bottom * other_bottom
        over[denominator] = over.get(denominator, 0) + top * other_top
    return sum((Fraction(top, bottom) for bottom, top in over.items()), Fraction(0))
