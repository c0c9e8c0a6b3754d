"""Which clients cover less than was promised, beyond what bad luck explains: exact tests from counts.

Client k covers X_k of its m_k test points with a threshold that a method gave it; n_k is the number of its calibration
points, its weight of evidence. Two claims are tested for each client, and they are not the same:

    over draws          "calibrated anew, again and again, it would cover at least 1 - α - slack on average."
                        X_k is then at least BetaBinomial(m_k, a, b), a = (n_k + 1)(1 - α - slack), a + b = n_k + 1:
                        the spread that a threshold from n_k points of its own has. p = P(BetaBinomial <= X_k).
    this threshold      "the threshold it has covers at least 1 - α - slack." X_k is then at least
                        Binomial(m_k, 1 - α - slack). p = P(Binomial <= X_k).

The first is the promise of conformal prediction, and a client that is rejected was not promised it truly, or is not
exchangeable with its calibration points. The second says what this client has in hand; valid calibrations are rejected
by it too, since α is kept on average only: of 200 clients with n = 50 and α = 0.05, all valid, the unluckiest truly
covers about .85.

Why the first is valid (Vovk, "Conditional validity of inductive conformal predictors", 2012): if the client's n + m
scores are exchangeable and untied, the number of test scores up to its rank-r calibration score is exactly
BetaBinomial(m, r, n+1-r), for a sampled finite population too. Split conformal has r = ceil((n+1)(1-α)) >= a, so that
X is stochastically larger than the law above and p is at least uniform; ties only raise X. a is not rounded up, because
the claim is a mean of 1 - α and not r/(n+1).

What it assumes: that over draws the coverage of the client's threshold spreads no more than that of one from its own
n_k points, Beta(a, b). Of a threshold that rests on others' points this is not known. Where the client's scores are
dense around it and it rests on many points, it spreads less, and the test is the more cautious. Where they are not, it
spreads more: a client with 20 % of its scores in one tie at the pooled quantile (90 % promised) is covered .8 or 1 as
the quantile falls below the tie or on it, .9 on average, and the test rejects it in 21 % of runs with n = m = 50 and in
48 % with 200. A threshold from a few clients drawn at random is another. What is rejected covers less than promised in
this run, beyond the luck of a calibration of its own; whether on average over draws too, one run cannot tell.

Power: a client is rejected surely only where p is at most level / (clients considered), Holm's first step. `power` is
the chance of that for a client whose threshold truly covers so much; "no client rejected" says little without it.

Over the points of a comparison or a sweep a strategy has one verdict: `over_points`.

Over clients the p-values are corrected by Holm, "A simple sequentially rejective multiple test procedure", 1979: under
any dependence between them, which a common threshold and a common test set (clients.test = "shared") both make, the
probability that any true claim is rejected is at most `level`.

The interval is Clopper and Pearson's, "The use of confidence or fiducial limits illustrated in the case of the
binomial", 1934, of the coverage of this threshold; each client's by itself, not corrected.

>>> found = certify([95, 60], [100, 100], [200, 200], alpha=0.1)
>>> found.rejected
array([False,  True])
>>> [round(float(x), 3) for x in (found.low[1], found.high[1])]
[0.497, 0.697]
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fl_sim.conformal.decimals import exact_alpha
from fl_sim.conformal.laws import beta_binomial, beta_quantile, binomial_cdf
from fl_sim.conformal.thresholds import refuse_where

Floats = NDArray[np.float64]

LEVEL, MIN_CALIBRATION = 0.05, 50
CONFIDENCE = 0.95  # of each client's interval


@dataclass(frozen=True)
class Certificate:
    """Tests of all clients, each an array (K,); NaN where there is nothing to tell.

    Attributes:
        coverage: covered / tested; NaN without test points.
        low, high: exact 95 % interval of the coverage of this threshold.
        considered: has test points and at least `min_calibration` calibration points; the others have no p-values.
        p_value: of "over draws it covers at least 1 - alpha - slack".
        p_adjusted: the same after Holm over the clients considered.
        rejected: p_adjusted <= level.
        p_threshold, p_threshold_adjusted, threshold_rejected: of "this threshold covers at least 1 - alpha - slack".
    """

    coverage: Floats
    low: Floats
    high: Floats
    considered: NDArray[np.bool_]
    p_value: Floats
    p_adjusted: Floats
    rejected: NDArray[np.bool_]
    p_threshold: Floats
    p_threshold_adjusted: Floats
    threshold_rejected: NDArray[np.bool_]

    @property
    def p_smallest(self) -> float:
        """The smallest adjusted p-value over draws: of "every client considered keeps the promise"; NaN of none."""
        return float(np.nanmin(self.p_adjusted)) if self.considered.any() else math.nan

    @property
    def num_considered(self) -> int:
        """How many clients were tested."""
        return int(self.considered.sum())

    @property
    def num_rejected(self) -> int:
        """How many clients break the promise over draws, after Holm."""
        return int(self.rejected.sum())

    def order(self) -> NDArray[np.int64]:
        """The clients, those with the smallest p_value first, those not considered last, by coverage."""
        return np.lexsort((self.coverage, self.p_value))  # NaN sorts last


def certify(
    num_covered: ArrayLike,
    num_test: ArrayLike,
    num_calibration: ArrayLike,
    alpha: float,
    *,
    slack: float = 0.0,
    level: float = LEVEL,
    min_calibration: int = MIN_CALIBRATION,
) -> Certificate:
    """Test every client's counts, each (K,), against 1 - alpha - slack.

    Args:
        num_covered: test points covered.
        num_test: test points; a client without any is not considered.
        num_calibration: calibration points of the client's own; with fewer than `min_calibration` it is not considered.
        alpha: miscoverage that was promised.
        slack: how much less than promised is let pass.
        level: probability with which any client that keeps the promise may be rejected.
        min_calibration: see `num_calibration`.

    Raises:
        ValueError: counts that cannot be, or a number outside its range.
    """
    exact_alpha(alpha)
    if not 0 <= slack < 1 - alpha:
        raise ValueError(f"slack = {slack}: must lie in 0..{1 - alpha:g}, 1 - alpha not included")
    if not 0 < level < 1:
        raise ValueError(f"level = {level}: must lie strictly between 0 and 1")
    covered, tested, own = (np.asarray(counts, np.int64) for counts in (num_covered, num_test, num_calibration))
    shapes = [counts.shape for counts in (covered, tested, own)]
    if covered.ndim != 1 or len(set(shapes)) > 1:
        raise ValueError(f"num_covered, num_test, num_calibration of shapes {shapes}: must all have shape (K,)")
    refuse_where((covered < 0) | (covered > tested), "num_covered", covered, "must lie in 0..num_test of its client")
    refuse_where(own < 0, "num_calibration", own, "must be at least 0")
    considered = (tested > 0) & (own >= min_calibration)
    claimed = 1 - alpha - slack
    p_draws, p_binomial = np.full(len(own), np.nan), np.full(len(own), np.nan)
    for k in np.flatnonzero(considered).tolist():
        p_draws[k] = _over_draws(int(tested[k]), int(own[k]), claimed)[covered[k]]
    p_binomial[considered] = binomial_cdf(covered[considered], tested[considered], claimed)
    adjusted, adjusted_binomial = holm(p_draws), holm(p_binomial)
    low, high = clopper_pearson(covered, tested)
    rates = np.divide(covered, tested, out=np.full(len(own), np.nan), where=tested > 0)
    return Certificate(
        rates, low, high, considered, p_draws, adjusted, adjusted <= level,
        p_binomial, adjusted_binomial, adjusted_binomial <= level,
    )  # fmt: skip


def over_points(p_values: ArrayLike) -> float:
    """The p-value of "every client keeps the promise at every point", from each point's `p_smallest` (n,).

    Bonferroni over the points, whose p-values are Holm's over their clients: whatever the dependence, a strategy that
    keeps its promise everywhere has a p-value of at most 0.05 with probability at most 0.05. NaN where nothing was
    considered.

    >>> over_points([0.01, 0.5, np.nan]), over_points([0.04])
    (0.02, 0.04)
    """
    p = np.asarray(p_values, np.float64)
    known = p[~np.isnan(p)]
    return min(1.0, float(known.min()) * len(known)) if len(known) else math.nan


def power(
    coverage: float,
    num_test: int,
    num_calibration: int,
    alpha: float,
    considered: int,
    *,
    slack: float = 0.0,
    level: float = LEVEL,
) -> float:
    """The chance that a client whose threshold covers `coverage` is rejected for sure, among so many considered.

    For sure: at Holm's first step, whatever the other clients' p-values are.

    >>> round(power(0.7, 100, 100, 0.1, 20), 3), round(power(0.85, 100, 100, 0.1, 20), 3)
    (0.886, 0.006)
    """
    p = _over_draws(num_test, num_calibration, 1 - alpha - slack)
    return float(binomial_cdf(np.count_nonzero(p <= level / considered) - 1, num_test, coverage))


def found_for_sure(
    num_test: int,
    num_calibration: int,
    alpha: float,
    considered: int,
    *,
    slack: float = 0.0,
    level: float = LEVEL,
    chance: float = 0.8,
) -> float:
    """The coverage below which `power` is at least `chance`; NaN where no coverage is low enough."""
    p = _over_draws(num_test, num_calibration, 1 - alpha - slack)
    most = np.count_nonzero(p <= level / considered) - 1  # covered points with which it is still rejected
    return float(beta_quantile(1 - chance, most + 1, num_test - most)) if most >= 0 else math.nan


@lru_cache(maxsize=65_536)
def _over_draws(num_test: int, n: int, claimed: float) -> Floats:
    """(num_test + 1,) P(BetaBinomial <= x) for each x."""
    a = (n + 1) * claimed
    # 1 at the end, whatever the sum's last bits.
    return np.minimum(np.cumsum(beta_binomial(num_test, a, n + 1 - a)), 1.0)


def holm(p_values: ArrayLike) -> Floats:
    """Holm's adjusted p-values of `p_values` (K,): reject those up to the level, and the probability of any false
    rejection is at most the level, however they depend on each other; NaN stays NaN and counts for nothing.

    >>> holm([0.01, 0.04, 0.03])
    array([0.03, 0.06, 0.06])
    """
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p, kind="stable")[: np.count_nonzero(~np.isnan(p))]  # NaN sorts last
    adjusted = np.full_like(p, np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1.0)
    return adjusted


def clopper_pearson(
    num_covered: ArrayLike, num_test: ArrayLike, confidence: float = CONFIDENCE
) -> tuple[Floats, Floats]:
    """Exact two-sided intervals, (K,) and (K,), of binomial rates; (0, 1) where there are no trials."""
    x, m = np.asarray(num_covered, np.float64), np.asarray(num_test, np.float64)
    tail = (1 - confidence) / 2
    # The ends where the beta law does not exist; its parameters there are replaced by ones that do.
    low = np.where(x > 0, beta_quantile(tail, np.maximum(x, 1), m - x + 1), 0.0)
    high = np.where(x < m, beta_quantile(1 - tail, x + 1, np.maximum(m - x, 1)), 1.0)
    return low, high
