"""The laws of counts and of order statistics: binomial, beta-binomial, beta.

Of `scipy.special` alone: `scipy.stats`, which gives the same numbers but for last bits, takes half a second to import
and a tenth of a millisecond a call, and every run and every client would pay for it. It is imported late, because a
scenario is read without.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def binomial_cdf(count: ArrayLike, trials: ArrayLike, probability: float) -> Floats:
    """P(Binomial(trials, probability) <= count), of whole counts of -1..trials."""
    from scipy.special import betainc

    k, n = np.asarray(count, np.float64), np.asarray(trials, np.float64)
    inside = (k >= 0) & (k < n)
    law = betainc(np.where(inside, n - k, 1), np.where(inside, k + 1, 1), 1 - probability)
    return np.where(inside, law, np.where(k < 0, 0.0, 1.0))


def beta_quantile(level: float, a: ArrayLike, b: ArrayLike) -> Floats:
    """The quantile of Beta(a, b), a and b above 0."""
    from scipy.special import betaincinv

    return np.asarray(betaincinv(a, b, level))


def beta_binomial(trials: int, a: float, b: float) -> Floats:
    """(trials + 1,) P(BetaBinomial(trials, a, b) = x) for each x, a and b above 0."""
    from scipy.special import betaln

    x = np.arange(trials + 1)
    chosen = -np.log(trials + 1) - betaln(trials - x + 1, x + 1)  # the logarithm of the binomial coefficient
    return np.exp(chosen + betaln(x + a, trials - x + b) - betaln(a, b))
