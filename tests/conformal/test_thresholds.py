"""The rank, the threshold and FedWQ-CP's mean: definitions, theorem, an example to check by hand."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fl_sim.conformal.coverage import expected_coverage
from fl_sim.conformal.thresholds import (
    conformal_rank,
    conformal_threshold,
    local_rank,
    local_threshold,
    min_calibration,
    pooled_threshold,
    weighted_mean_threshold,
)
from fl_sim.randomness import stream

ALPHAS = ["0.01", "0.05", "0.1", "0.18", "0.2", "0.25", "0.5", "0.9"]
tied_scores = st.lists(st.integers(0, 8).map(lambda i: i / 8), max_size=60)
clients = st.lists(
    st.tuples(st.floats(-1e308, 1e308), st.integers(1, 10**6)), min_size=1, max_size=20
)  # (threshold, weight)


def by_definition(scores, alpha):
    """The smallest score s with #{scores <= s} >= (n+1)(1-alpha), +inf where there is none."""
    needed = (len(scores) + 1) * (1 - Fraction(alpha))
    return min((s for s in scores if sum(t <= s for t in scores) >= needed), default=math.inf)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(scores=tied_scores, alpha=st.sampled_from(ALPHAS))
def test_threshold_is_its_definition(scores, alpha):
    assert conformal_threshold(scores, float(alpha)) == by_definition(scores, alpha)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(thousandths=st.integers(1, 999), n=st.integers(0, 10_000))
def test_a_rank_hangs_on_what_alpha_means_and_not_on_its_last_bits(thousandths, n):
    """1 - 0.9 is not 0.1 as a float, and gave another rank at one size in ten; so with thirds, sums and products."""
    alpha = thousandths / 1000
    rank = math.ceil((n + 1) * (1 - Fraction(thousandths, 1000)))
    sums = (1 - (1 - alpha), alpha * 3 / 3, sum([alpha / 10] * 10), 1 - (1000 - thousandths) / 1000, alpha * 7 / 7)
    for meant in (alpha, *sums):
        assert conformal_rank(n, meant) == rank
        assert min_calibration(meant) == math.ceil(Fraction(1000, thousandths)) - 1


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, 1e-17 - 1e-17, 1 - 1e-14])
def test_an_alpha_that_leaves_nothing_or_everything_is_refused(alpha):
    with pytest.raises(ValueError, match="must lie strictly between 0 and 1"):
        conformal_rank(10, alpha)


def test_pooled_misses_its_promise_by_what_its_docstring_says():
    """n_A = 8 scores below the one of client B: the 8th of 9 is A's largest, and covers 8/9 of A and none of B."""
    rng, alpha, runs = np.random.default_rng(0), 0.2, 40_000
    thresholds = np.array([pooled_threshold([a, [2.0]], alpha) for a in rng.random((runs, 8))])
    exact = 8 / 9 * (8 / 9)
    assert exact == pytest.approx(1 - alpha - (1 - alpha) * 1 / (9 * (8 + 1)))
    assert 8 / 9 * thresholds.mean() == pytest.approx(exact, abs=4 * thresholds.std() / math.sqrt(runs))


@pytest.mark.parametrize(
    ("n", "alpha", "rank"),
    [
        (29, 0.1, 27),  # 30 * 0.9 = 27 exactly
        (19, 0.05, 19),  # 20 * 0.95 = 19 exactly: the smallest client with a finite threshold
        (18, 0.05, 19),  # ceil(19 * 0.95) = ceil(18.05) > 18
        (9, 0.1, 9),
        (149, 0.18, 123),  # 150 * 0.82 = 123; in floats 123.00000000000001
        (99, 0.07, 93),
        (0, 0.5, 1),
        (1, 0.5, 1),
    ],
)
def test_rank_by_hand(n, alpha, rank):
    assert conformal_rank(n, alpha) == rank
    assert conformal_rank(np.int64(n), np.float64(alpha)) == rank


def test_floats_would_miss_the_rank():
    assert math.ceil(150 * (1 - 0.18)) == 124 != conformal_rank(149, 0.18)


@pytest.mark.parametrize("alpha", [float(a) for a in ALPHAS])
def test_min_calibration_is_the_first_with_a_finite_threshold(alpha):
    first = next(n for n in range(1000) if conformal_rank(n, alpha) <= n)
    assert min_calibration(alpha) == first
    assert conformal_threshold(np.zeros(first), alpha) == 0
    assert conformal_threshold(np.zeros(first - 1), alpha) == math.inf


@pytest.mark.parametrize("alpha", [0.05, 0.1])
def test_popular_recipes_take_another_rank(alpha):
    sizes = range(min_calibration(alpha) + 1, 300)
    rounded_up, level_only = 0, 0
    for n in sizes:
        scores, rank = np.arange(1.0, n + 1), conformal_rank(n, alpha)
        assert conformal_threshold(scores, alpha) == rank
        rounded_up += np.quantile(scores, rank / n, method="higher") != rank
        level_only += np.quantile(scores, min((n + 1) * (1 - alpha) / n, 1), method="higher") != rank
    assert rounded_up == sum(conformal_rank(n, alpha) < n for n in sizes)  # wrong whenever it can be
    assert level_only >= len(sizes) * alpha * 0.9  # wrong where (n+1) * alpha is an integer


def test_higher_at_n_29_takes_the_28th_score():
    assert np.quantile(np.arange(1.0, 30.0), 30 * 0.9 / 29, method="higher") == 28
    assert conformal_threshold(np.arange(1.0, 30.0), 0.1) == 27


LAWS = {"exponential": stats.expon(), "half-normal": stats.halfnorm(), "beta(4, 1)": stats.beta(4, 1)}
DRAWS = 1000


def mean_coverage(law, n, threshold, *purpose):
    """Mean over independent calibration draws of the exact coverage F(threshold) given each draw."""
    draws = law.rvs((DRAWS, n), random_state=stream(0, "theorem", n, *purpose))
    return float(law.cdf([threshold(scores) for scores in draws]).mean())


def standard_error(n, rank):
    return float(stats.beta(rank, n + 1 - rank).std()) / math.sqrt(DRAWS)


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("alpha", [0.05, 0.1])
def test_theorem_mean_coverage_is_rank_over_n_plus_1(name, alpha):
    for n in (5, 8, 9, 10, 18, 19, 20, 29, 50, 100, 200):
        rank = local_rank(n, alpha, "clip")
        got = mean_coverage(LAWS[name], n, lambda s: local_threshold(s, alpha, "clip")[0], name)
        assert rank == min(conformal_rank(n, alpha), n)
        assert expected_coverage(n, alpha, "clip") == rank / (n + 1)
        assert abs(got - rank / (n + 1)) < 4 * standard_error(n, rank), (n, got)


def test_the_theorem_test_tells_neighbouring_ranks_apart():
    for n in (20, 50, 200):
        rank = conformal_rank(n, 0.1)
        got = mean_coverage(LAWS["exponential"], n, lambda s, r=rank: np.quantile(s, r / len(s), method="higher"))
        assert abs(got - rank / (n + 1)) > 4 * standard_error(n, rank)
        assert abs(got - (rank + 1) / (n + 1)) < 4 * standard_error(n, rank + 1)


@pytest.mark.parametrize("small_n", ["inf", "drop"])
@pytest.mark.parametrize("n", [0, 1, 5, 18])
def test_too_few_scores_cover_everything_unless_clipped(small_n, n):
    threshold, weight = local_threshold(np.zeros(n), 0.05, small_n)
    assert threshold == math.inf
    assert weight == (n if small_n == "inf" else 0)
    assert expected_coverage(n, 0.05, small_n) == 1


@pytest.mark.parametrize("small_n", ["clip", "inf", "drop"])
def test_an_empty_client_sends_infinity_without_weight(small_n):
    assert local_threshold([], 0.1, small_n) == (math.inf, 0)


def test_three_clients_by_hand():
    alpha = 0.25
    a = np.array([5, 1, 7, 3, 2, 6, 4]) / 8  # rank ceil(8 * 3/4) = 6: the 6th smallest is 6/8
    b = np.array([4, 2, 8]) / 8  # rank ceil(4 * 3/4) = 3: the 3rd of 3 is 8/8
    c = np.array([1, 4]) / 8  # rank ceil(3 * 3/4) = ceil(9/4) = 3 > 2: no finite threshold
    sent = {rule: [local_threshold(s, alpha, rule) for s in (a, b, c)] for rule in ("clip", "inf", "drop")}
    assert sent["clip"] == [(6 / 8, 7), (8 / 8, 3), (4 / 8, 2)]
    assert sent["inf"] == [(6 / 8, 7), (8 / 8, 3), (math.inf, 2)]
    assert sent["drop"] == [(6 / 8, 7), (8 / 8, 3), (math.inf, 0)]
    mean = {rule: weighted_mean_threshold(*zip(*pairs, strict=True)) for rule, pairs in sent.items()}
    assert mean["clip"] == (7 * 6 + 3 * 8 + 2 * 4) / 8 / 12 == 37 / 48
    assert mean["inf"] == math.inf
    assert mean["drop"] == (7 * 6 + 3 * 8) / 8 / 10 == 33 / 40
    # Together, in eighths: 1 1 2 2 3 4 4 4 5 6 7 8; rank ceil(13 * 3/4) = ceil(39/4) = 10.
    assert pooled_threshold([a, b, c], alpha) == 6 / 8


@settings(derandomize=True, max_examples=100, deadline=None)
@given(scores=st.lists(st.floats(0, 1), min_size=1, max_size=50), alpha=st.sampled_from(ALPHAS))
def test_one_client_is_split_conformal_to_the_last_digit(scores, alpha):
    threshold, weight = local_threshold(scores, float(alpha), "inf")
    assert weighted_mean_threshold([threshold], [weight]) == conformal_threshold(scores, float(alpha))
    assert pooled_threshold([scores], float(alpha)) == conformal_threshold(scores, float(alpha))


@settings(derandomize=True, max_examples=100, deadline=None)
@given(thresholds=st.lists(st.floats(0, 1), min_size=1, max_size=30), n=st.integers(1, 10**6))
def test_equal_sizes_give_the_plain_mean(thresholds, n):
    plain = float(sum(map(Fraction, thresholds)) / len(thresholds))
    assert weighted_mean_threshold(thresholds, [n] * len(thresholds)) == plain


@settings(derandomize=True, max_examples=100, deadline=None)
@given(pairs=clients, data=st.data())
def test_mean_knows_no_order_stays_inside_and_never_overflows(pairs, data):
    thresholds, weights = zip(*pairs, strict=True)
    mean = weighted_mean_threshold(thresholds, weights)
    assert min(thresholds) <= mean <= max(thresholds)
    assert weighted_mean_threshold(*zip(*data.draw(st.permutations(pairs)), strict=True)) == mean


def test_equal_thresholds_are_their_own_mean():
    # 0.1 * 3 / 3 is 0.10000000000000002 in floats: below or above, a score that ties would change sides.
    assert 0.1 * 3 / 3 != 0.1
    assert weighted_mean_threshold([0.1], [3]) == 0.1
    assert weighted_mean_threshold([0.1] * 7, range(1, 8)) == 0.1


def test_who_has_no_weight_does_not_count():
    assert weighted_mean_threshold([0.5, math.inf, math.nan, -math.inf], [2, 0, 0, 0]) == 0.5
    assert weighted_mean_threshold([math.inf, 0.5], [1, 9]) == math.inf
    assert weighted_mean_threshold([0.5, 0.5], [0, 0]) == math.inf
    assert weighted_mean_threshold([], []) == math.inf


def test_pooled_without_anybody_is_infinite():
    assert pooled_threshold([], 0.1) == math.inf
    assert pooled_threshold([[], []], 0.1) == math.inf


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: conformal_rank(10, 0), r"alpha = 0: must lie strictly between 0 and 1"),
        (lambda: conformal_rank(10, 1.0), r"alpha = 1\.0"),
        (lambda: conformal_rank(10, math.nan), r"alpha = nan"),
        (lambda: min_calibration(-0.1), r"alpha = -0\.1"),
        (lambda: conformal_threshold([0.1, math.nan], 0.1), r"scores\[1\] = nan"),
        (lambda: conformal_threshold([[0.1]], 0.1), r"scores of shape \(1, 1\)"),
        (lambda: pooled_threshold([[0.1], [math.nan]], 0.1), r"scores\[0\] = nan"),
        (
            lambda: local_threshold([0.1] * 99, 0.1, "klip"),
            r"small_n = 'klip': must be one of clip, inf, drop",
        ),
        (lambda: weighted_mean_threshold([0.1, math.nan], [1, 1]), r"thresholds\[1\] = nan"),
        (lambda: weighted_mean_threshold([-math.inf, math.inf], [1, 1]), r"thresholds\[0\] = -inf"),
        (lambda: weighted_mean_threshold([0.1, 0.2], [1, -1]), r"weights\[1\] = -1\.0: .* at least 0"),
        (lambda: weighted_mean_threshold([0.1], [math.inf]), r"weights\[0\] = inf"),
        (lambda: weighted_mean_threshold([0.1], [math.nan]), r"weights\[0\] = nan"),
        (lambda: weighted_mean_threshold([0.1, 0.2], [1]), r"thresholds \(2,\) and weights \(1,\)"),
    ],
)
def test_errors_name_the_thing_its_value_and_the_rule(call, message):
    with pytest.raises(ValueError, match=message):
        call()
