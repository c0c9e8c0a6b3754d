"""The laws are those of scipy.stats, and those of sums that a person can do."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import numpy as np
import pytest
from scipy import stats

from fl_sim.conformal.laws import beta_binomial, beta_quantile, binomial_cdf

RNG = np.random.default_rng(0)


def test_the_binomial_law_is_its_sum():
    for n, k in ((1, 0), (4, 2), (12, 11), (30, 9)):
        exact = sum(Fraction(comb(n, i)) * Fraction(1, 4) ** i * Fraction(3, 4) ** (n - i) for i in range(k + 1))
        assert float(binomial_cdf(k, n, 0.25)) == pytest.approx(float(exact), rel=1e-14)


def test_nothing_is_below_no_success_and_everything_up_to_all_of_them():
    assert binomial_cdf([-1, 5, 0], [5, 5, 0], 0.3).tolist() == [0.0, 1.0, 1.0]


def test_the_laws_are_those_of_scipys_statistics():
    n = RNG.integers(1, 4000, 2000)
    k = RNG.integers(-1, n + 1)
    for p in (0.05, 0.5, 0.9, 0.95):
        np.testing.assert_allclose(binomial_cdf(k, n, p), stats.binom.cdf(k, n, p), rtol=1e-12)
    a, b = RNG.uniform(0.1, 900, (2, 2000))
    np.testing.assert_allclose(beta_quantile(0.025, a, b), stats.beta.ppf(0.025, a, b), rtol=1e-12)
    for trials, first, second in ((1, 0.5, 0.5), (50, 18.0, 3.0), (700, 190.5, 11.25)):
        law = stats.betabinom.pmf(np.arange(trials + 1), trials, first, second)
        np.testing.assert_allclose(beta_binomial(trials, first, second), law, rtol=1e-12)
        assert beta_binomial(trials, first, second).sum() == pytest.approx(1, abs=1e-11)
