"""Coverage, kept as counts that add until it is shown, and what coverage an honest client can expect.

With n exchangeable, continuous scores and the threshold at their rank-th smallest, the probability that a new
score is covered is Beta(rank, n+1-rank) over calibration draws, so its mean is rank/(n+1), and the number
covered of m test points is BetaBinomial(m, rank, n+1-rank) (Vovk, "Conditional validity of inductive
conformal predictors", 2012; Angelopoulos and Bates, "A gentle introduction to conformal prediction", 2023).
Ties can only raise it.

>>> expected_coverage(19, 0.1, "clip")
0.9
>>> coverage_summary([9, 5], [10, 10])["coverage"]
0.7
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fl_sim.conformal.laws import beta_binomial
from fl_sim.conformal.scores import checked_labels
from fl_sim.conformal.thresholds import SmallN, local_rank, refuse_where

Counts = NDArray[np.int64]
Columns = dict[str, NDArray[Any]]  # field of a `Tally` -> its values of K clients

LEAST_TESTED = 30  # test points below which a client's own coverage says little: one miss costs over three points
_COVERAGES = (
    "coverage",
    "coverage_client_mean",
    "coverage_client_min",
    "coverage_client_p05",
    "coverage_client_min_tested",
)


@dataclass(frozen=True)
class Tally:
    """Counts of one client's test points, or of many clients': tallies add.

    `total_size` is the sum of set sizes (labels) or interval lengths (+inf as soon as one interval is
    infinite; `num_infinite` says how many are; a set of labels never is). `num_empty` counts sets without a
    label and intervals with low > high, whose length is 0. `num_correct` is 0 in regression,
    `total_squared_error` 0.0 in classification. `class_tested` and `class_covered` (C,) count by true label;
    C is 0 in regression.
    """

    num_test: int
    num_covered: int
    total_size: float
    num_empty: int
    num_infinite: int
    num_correct: int
    total_squared_error: float
    class_tested: Counts
    class_covered: Counts

    def __add__(self, other: Tally) -> Tally:
        if self.class_tested.shape != other.class_tested.shape:
            raise ValueError(
                f"tallies of {len(self.class_tested)} and {len(other.class_tested)} classes: must be as many"
            )
        return Tally(*(mine + theirs for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True)))


def tally_sets(scores_all: ArrayLike, targets: ArrayLike, threshold: ArrayLike, predicted_labels: ArrayLike) -> Tally:
    """Tally of the sets {y : scores_all[i, y] <= threshold}, or <= threshold[y] where each class has its own.

    `scores_all` (n, C), `targets` (n,) the true labels, `threshold` one number or (C,), `predicted_labels` (n,) the
    classifier's; n may be 0.
    """
    limits, scores = np.asarray(threshold, np.float64), np.asarray(scores_all, np.float64)
    if scores.ndim == 2 and limits.shape not in ((), (1,), scores.shape[1:]):
        raise ValueError(f"threshold of shape {limits.shape}: must be one number, or one for each of {scores.shape[1]}")
    return _only(tallies_of_sets(scores, targets, limits.reshape(1, -1), predicted_labels, [len(scores)]))


def tallies_of_sets(
    scores_all: ArrayLike, targets: ArrayLike, thresholds: ArrayLike, predicted_labels: ArrayLike, sizes: Sequence[int]
) -> Columns:
    """`tally_sets` of K clients at once, whose `sizes` (K,) rows stand one after another: each field (K,) or (K, C).

    `thresholds` (K, 1), or (K, C) where each class has its own.
    """
    scores, limits = np.asarray(scores_all, np.float64), np.asarray(thresholds, np.float64)
    if scores.ndim != 2:
        raise ValueError(f"scores_all of shape {scores.shape}: must have shape (n, C)")
    _refuse_nan(limits, scores)
    labels = checked_labels(targets, *scores.shape)
    guesses = checked_labels(predicted_labels, *scores.shape)
    clients, num_classes = len(sizes), scores.shape[1]
    client = np.repeat(np.arange(clients), sizes)
    in_set = scores <= (limits[client] if clients > 1 else limits)
    covered = in_set[np.arange(len(labels)), labels]
    set_sizes, cell = in_set.sum(axis=1), client * num_classes + labels

    def count(of: NDArray[np.int64]) -> Counts:
        return np.bincount(of, minlength=clients)

    def count_by_class(of: NDArray[np.int64]) -> Counts:
        return np.bincount(of, minlength=clients * num_classes).reshape(clients, num_classes)

    return {
        "num_test": np.asarray(sizes, np.int64),
        "num_covered": count(client[covered]),
        "total_size": np.bincount(client, set_sizes, clients),
        "num_empty": count(client[set_sizes == 0]),
        "num_infinite": np.zeros(clients, np.int64),
        "num_correct": count(client[guesses == labels]),
        "total_squared_error": np.zeros(clients),
        "class_tested": count_by_class(cell),
        "class_covered": count_by_class(cell[covered]),
    }


def tally_intervals(
    low: ArrayLike, high: ArrayLike, targets: ArrayLike, *, scores: ArrayLike, threshold: float, centres: ArrayLike
) -> Tally:
    """Tally of the score's intervals [low, high], each (n,), for true values `targets` (n,).

    `scores` (n,) are the targets' own scores: a target is covered where its score <= `threshold`, as at
    calibration, because low <= target <= high rounds differently and loses ties. `centres` (n,) are the point
    predictions.
    """
    n = np.size(targets)
    thresholds = np.full(n, threshold, np.float64)
    parts = {"scores": scores, "thresholds": thresholds, "centres": centres}
    return _only(tallies_of_intervals(low, high, targets, **parts, sizes=[n]))


def tallies_of_intervals(
    low: ArrayLike, high: ArrayLike, targets: ArrayLike, *, scores: ArrayLike, thresholds: ArrayLike,
    centres: ArrayLike, sizes: Sequence[int],
) -> Columns:  # fmt: skip
    """`tally_intervals` of K clients at once, whose `sizes` (K,) rows stand one after another, each row with the
    threshold of its client, (n,): each field (K,), of classes (K, 0)."""
    arrays = [np.asarray(a, np.float64) for a in (low, high, targets, scores, centres)]
    lows, highs, values, own, centre = arrays
    shapes = [a.shape for a in arrays]
    if lows.ndim != 1 or len(set(shapes)) > 1:
        raise ValueError(f"low, high, targets, scores, centres of shapes {shapes}: must all have shape (n,)")
    limits = np.asarray(thresholds, np.float64)
    _refuse_nan(limits, own)
    lengths, errors = np.maximum(highs - lows, 0.0), (values - centre) ** 2
    clients, client, ends = len(sizes), np.repeat(np.arange(len(sizes)), sizes), np.cumsum(sizes).tolist()

    def count(which: NDArray[np.bool_]) -> Counts:
        return np.bincount(client[which], minlength=clients)

    def total(of: NDArray[np.float64]) -> NDArray[np.float64]:  # as each client alone would add its own
        return np.array([of[end - n : end].sum() for n, end in zip(sizes, ends, strict=True)], np.float64)

    return {
        "num_test": np.asarray(sizes, np.int64),
        "num_covered": count(own <= limits),
        "total_size": total(lengths),
        "num_empty": count(highs < lows),
        "num_infinite": count(np.isinf(lengths)),
        "num_correct": np.zeros(clients, np.int64),
        "total_squared_error": total(errors),
        "class_tested": np.zeros((clients, 0), np.int64),
        "class_covered": np.zeros((clients, 0), np.int64),
    }


def _only(columns: Columns) -> Tally:
    """The tally of one client."""
    return Tally(**{name: row if row.ndim else row.item() for name, (row,) in columns.items()})


def coverage_summary(num_covered: ArrayLike, num_test: ArrayLike) -> dict[str, float | int | None]:
    """Coverage over clients from counts (K,) and (K,); all None, and 0 clients_with_test, if none has any.

    `coverage` is over all client-test pairs. `coverage_client_mean`, `_min` and `_p05` are over the `clients_with_test`
    clients that have test points, each counting once; p05 is an order statistic, the ceil(0.05 K')-th smallest of those
    K' (NumPy's "inverted_cdf", found with integers), so up to 20 clients it is the smallest.
    `coverage_client_min_tested` is the smallest of the `clients_tested_enough` clients with at least LEAST_TESTED test
    points: a client with three that misses one stands at .67 under any method.
    """
    covered, tested = np.asarray(num_covered), np.asarray(num_test)
    refuse_where((covered < 0) | (covered > tested), "num_covered", covered, "must lie in 0..num_test of its client")
    rates = sorted((covered[tested > 0] / tested[tested > 0]).tolist())
    enough = tested >= LEAST_TESTED
    summary: dict[str, float | int | None] = dict.fromkeys(_COVERAGES) | {
        "clients_with_test": len(rates),
        "clients_tested_enough": int(enough.sum()),
    }
    if rates:
        summary["coverage"] = int(covered.sum()) / int(tested.sum())
        summary["coverage_client_mean"] = math.fsum(rates) / len(rates)
        summary["coverage_client_min"] = rates[0]
        summary["coverage_client_p05"] = rates[(len(rates) + 19) // 20 - 1]
    if enough.any():
        summary["coverage_client_min_tested"] = float((covered[enough] / tested[enough]).min())
    return summary


def expected_coverage(n: int, alpha: float, small_n: SmallN) -> float:
    """Mean coverage of an exchangeable client by its own threshold: rank/(n+1), or 1 where that is +inf.

    The rank is n where "clip" applies. A dropped client's own threshold is +inf, as under "inf".
    """
    rank = local_rank(n, alpha, small_n)
    return 1.0 if rank is None else rank / (n + 1)


def exchangeable_band(
    num_calibration: int, num_test: int, alpha: float, level: float = 0.95, *, small_n: SmallN
) -> tuple[float, float] | None:
    """The central `level` band of the coverage of an exchangeable client by its own threshold, as fractions.

    Quantiles (1-level)/2 and (1+level)/2 of BetaBinomial(num_test, rank, n+1-rank) / num_test; (1, 1) where
    the threshold is +inf, None where there is nothing to test. A coverage outside is a client that is unlike
    its own calibration data, or one in twenty.
    """
    rank = local_rank(num_calibration, alpha, small_n)
    if num_test == 0:
        return None
    return (1.0, 1.0) if rank is None else _beta_binomial_band(num_test, rank, num_calibration, level)


@lru_cache(maxsize=65_536)
def _beta_binomial_band(num_test: int, rank: int, n: int, level: float) -> tuple[float, float]:
    law = np.cumsum(beta_binomial(num_test, rank, n + 1 - rank))
    low, high = np.searchsorted(law, [(1 - level) / 2, (1 + level) / 2])
    return int(low) / num_test, min(int(high), num_test) / num_test


def _refuse_nan(threshold: ArrayLike, scores: NDArray[np.float64]) -> None:
    # nan compares as "not in the set", even beside an infinite threshold.
    if np.isnan(threshold).any():
        raise ValueError("threshold = nan: must be a number; +inf covers everything")
    refuse_where(np.isnan(scores), "scores", scores, "a score must be a number")
