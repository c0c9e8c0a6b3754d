"""Tallies by hand, and the band against calibration and test points drawn together."""

import math
import time
from functools import reduce
from itertools import pairwise
from operator import add

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import betabinom

from fl_sim.conformal.coverage import (
    Tally,
    coverage_summary,
    exchangeable_band,
    expected_coverage,
    tally_intervals,
    tally_sets,
)
from fl_sim.conformal.scores import AbsoluteResidual, Cqr, Lac
from fl_sim.conformal.thresholds import conformal_rank, local_threshold
from fl_sim.randomness import stream


def plain(tally):
    """A tally as a dict of plain values, to compare."""
    return {name: np.asarray(getattr(tally, name)).tolist() for name in tally.__dataclass_fields__}


SCORES_ALL = np.array([[0.1, 0.5, 0.9], [0.6, 0.6, 0.2], [0.8, 0.7, 0.9], [0.5, 0.4, 0.3]])
TARGETS, GUESSES = np.array([0, 0, 1, 2]), np.array([0, 2, 1, 2])


def test_tally_of_sets_by_hand():
    # At 0.5 the sets are {0, 1}, {2}, {} and {0, 1, 2}: the first and the last hold their target.
    assert plain(tally_sets(SCORES_ALL, TARGETS, 0.5, GUESSES)) == {
        "num_test": 4,
        "num_covered": 2,
        "total_size": 2 + 1 + 0 + 3,
        "num_empty": 1,
        "num_infinite": 0,
        "num_correct": 3,
        "total_squared_error": 0.0,
        "class_tested": [2, 1, 1],
        "class_covered": [1, 0, 1],
    }


def test_an_infinite_threshold_is_every_label():
    tally = tally_sets(SCORES_ALL, TARGETS, math.inf, GUESSES)
    assert (tally.num_covered, tally.total_size, tally.num_infinite) == (4, 12, 0)
    assert tally.class_covered.tolist() == tally.class_tested.tolist()


def test_nobody_to_test():
    sets = tally_sets(np.empty((0, 3)), np.empty(0, int), 0.5, np.empty(0, int))
    lengths = tally_intervals([], [], [], scores=[], threshold=1.0, centres=[])
    assert (sets.num_test, lengths.num_test, sets.class_tested.tolist()) == (0, 0, [0, 0, 0])


@settings(derandomize=True, max_examples=50, deadline=None)
@given(cuts=st.lists(st.integers(0, 200), max_size=5), threshold=st.floats(0, 1))
def test_tallies_of_parts_add_to_the_tally_of_the_whole(cuts, threshold):
    generator = stream(0, "parts")
    scores = generator.random((200, 4))
    targets, guesses = generator.integers(0, 4, (2, 200))
    bounds = [0, *sorted(cuts), 200]
    parts = [tally_sets(scores[a:b], targets[a:b], threshold, guesses[a:b]) for a, b in pairwise(bounds)]
    assert plain(reduce(add, parts)) == plain(tally_sets(scores, targets, threshold, guesses))


def intervals(score, predictions, targets, threshold):
    low, high = score.interval(predictions, threshold)
    own, centres = score.of(predictions, targets), score.centre(predictions)
    return tally_intervals(low, high, targets, scores=own, threshold=threshold, centres=centres)


def test_tally_of_intervals_by_hand():
    # [1, 3] and [1, 1.5] with q = -1/2 are [3/2, 5/2] and empty; 5/2 is on the edge, 5/4 lies in nothing.
    tally = intervals(Cqr(), [[1.0, 3.0], [1.0, 1.5]], [2.5, 1.25], -0.5)
    assert plain(tally) == {
        "num_test": 2,
        "num_covered": 1,
        "total_size": 1.0,
        "num_empty": 1,
        "num_infinite": 0,
        "num_correct": 0,
        "total_squared_error": 0.5**2 + 0.0**2,
        "class_tested": [],
        "class_covered": [],
    }


def test_an_infinite_interval_is_counted_and_makes_the_total_infinite():
    tally = intervals(AbsoluteResidual(), [[1.0], [2.0]], [9.0, -9.0], math.inf)
    assert (tally.num_covered, tally.total_size, tally.num_infinite, tally.num_empty) == (2, math.inf, 2, 0)
    both = tally + intervals(AbsoluteResidual(), [[1.0]], [1.0], 1.0)
    assert (both.num_test, both.total_size, both.num_infinite) == (3, math.inf, 2)


def test_an_interval_of_one_point_is_not_empty():
    tally = intervals(AbsoluteResidual(), [[1.0]], [1.0], 0.0)
    assert (tally.num_covered, tally.num_empty, tally.total_size) == (1, 0, 0.0)


def test_a_tie_is_covered_although_the_interval_rounds_past_it():
    predictions, target = [[0.2]], [0.9]  # |0.9 - 0.2| is 0.7, but 0.2 + 0.7 is 0.8999999999999999
    q = float(AbsoluteResidual().of(predictions, target)[0])
    low, high = AbsoluteResidual().interval(predictions, q)
    assert not low[0] <= target[0] <= high[0]
    assert intervals(AbsoluteResidual(), predictions, target, q).num_covered == 1


def test_exchangeable_clients_are_covered_as_the_theorem_says():
    """Split conformal LAC through every function of the package: mean coverage rank/(n+1)."""
    n, m, repetitions, alpha = 30, 20, 400, 0.1
    generator, counts = stream(0, "whole walk"), []
    for _ in range(repetitions):
        p = generator.dirichlet(np.ones(5), size=n + m)
        y = generator.integers(0, 5, n + m)
        q, _ = local_threshold(Lac().of(p[:n], y[:n], None), alpha, "inf")
        tally = tally_sets(Lac().all_labels(p[n:], None), y[n:], q, p[n:].argmax(axis=1))
        counts.append(tally.num_covered)
    rank = conformal_rank(n, alpha)
    error = betabinom(m, rank, n + 1 - rank).std() / m / math.sqrt(repetitions)
    assert abs(np.mean(counts) / m - expected_coverage(n, alpha, "inf")) < 4 * error


def test_coverage_summary_by_hand():
    # Rates 1/2, 9/10, 1 and nobody: 19 of 21 pairs.
    summary = coverage_summary([1, 9, 9, 0], [2, 10, 9, 0])
    assert summary == {
        "coverage": 19 / 21,
        "coverage_client_mean": pytest.approx((1 / 2 + 9 / 10 + 1) / 3),
        "coverage_client_min": 1 / 2,
        "coverage_client_p05": 1 / 2,
        "coverage_client_min_tested": None,
        "clients_with_test": 3,
        "clients_tested_enough": 0,
    }


def test_the_smallest_coverage_that_says_something_is_of_clients_with_thirty_test_points():
    summary = coverage_summary([0, 20, 27, 29], [29, 30, 30, 31])
    assert (summary["coverage_client_min"], summary["coverage_client_min_tested"]) == (0, 20 / 30)
    assert summary["clients_tested_enough"] == 3


@pytest.mark.parametrize(("clients", "place"), [(1, 1), (20, 1), (21, 2), (40, 2), (41, 3), (1000, 50)])
def test_p05_is_an_order_statistic(clients, place):
    covered = stream(0, "p05").permutation(np.arange(1, clients + 1))
    summary = coverage_summary(covered, np.full(clients, 1000))
    assert summary["coverage_client_p05"] == place / 1000
    assert np.quantile(covered, 0.05, method="inverted_cdf") == place


@pytest.mark.parametrize("counts", [([], []), ([0, 0], [0, 0])])
def test_coverage_of_nobody_is_none(counts):
    summary = coverage_summary(*counts)
    assert summary.pop("clients_with_test") == summary.pop("clients_tested_enough") == 0
    assert set(summary) == {
        "coverage",
        "coverage_client_mean",
        "coverage_client_min",
        "coverage_client_p05",
        "coverage_client_min_tested",
    }
    assert set(summary.values()) == {None}


def test_the_order_of_clients_does_not_change_the_summary():
    generator = stream(0, "order")
    tested = generator.integers(0, 50, 300)
    covered = generator.binomial(tested, 0.9)
    for _ in range(5):
        order = generator.permutation(300)
        assert coverage_summary(covered[order], tested[order]) == coverage_summary(covered, tested)


@pytest.mark.parametrize(
    ("n", "alpha", "small_n", "coverage"),
    [
        (19, 0.05, "inf", 19 / 20),
        (29, 0.1, "clip", 27 / 30),
        (5, 0.1, "clip", 5 / 6),
        (5, 0.1, "inf", 1),
        (5, 0.1, "drop", 1),
        (0, 0.1, "clip", 1),
    ],
)
def test_expected_coverage_by_hand(n, alpha, small_n, coverage):
    assert expected_coverage(n, alpha, small_n) == coverage


@pytest.mark.parametrize(("n", "m"), [(5, 7), (9, 1), (19, 40), (50, 25), (200, 300)])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_band_against_direct_simulation(n, m, level):
    """Its ends are quantiles of what exchangeable calibration and test scores really do."""
    alpha, repetitions = 0.1, 20_000
    low, high = exchangeable_band(n, m, alpha, level, small_n="clip")
    scores = stream(0, "band", n, m).random((repetitions, n + m))
    rank = min(conformal_rank(n, alpha), n)
    thresholds = np.partition(scores[:, :n], rank - 1, axis=1)[:, rank - 1]
    coverage = (scores[:, n:] <= thresholds[:, None]).sum(axis=1) / m
    for end, mass in ((low, (1 - level) / 2), (high, (1 + level) / 2)):
        slack = 4 * math.sqrt(mass * (1 - mass) / repetitions)
        assert (coverage < end).mean() < mass + slack
        assert (coverage <= end).mean() > mass - slack
    assert low <= expected_coverage(n, alpha, "clip") + 1 / m
    assert high >= expected_coverage(n, alpha, "clip")


def test_band_is_scipys_quantile():
    for n, m in [(9, 1), (19, 3), (33, 100), (500, 77), (1000, 1000)]:
        rank = conformal_rank(n, 0.1)
        law = betabinom(m, rank, n + 1 - rank)
        wanted = law.ppf(0.025) / m, law.ppf(0.975) / m
        assert exchangeable_band(n, m, 0.1, small_n="inf") == wanted


def test_band_of_a_client_without_a_rank():
    assert exchangeable_band(5, 10, 0.1, small_n="inf") == (1.0, 1.0)
    assert exchangeable_band(5, 10, 0.1, small_n="drop") == (1.0, 1.0)
    assert exchangeable_band(0, 10, 0.1, small_n="clip") == (1.0, 1.0)
    assert exchangeable_band(5, 0, 0.1, small_n="clip") is None
    # Clipped, rank 5 of 5 and one test point: covered with probability 5/6, so the 80 % band is 0..1.
    assert exchangeable_band(5, 1, 0.1, 0.8, small_n="clip") == (0.0, 1.0)


def test_bands_of_a_thousand_clients_do_not_keep_anybody_waiting():
    sizes = stream(0, "sizes").integers(1, 500, (1000, 2)).tolist()
    started = time.perf_counter()
    bands = [exchangeable_band(n, m, 0.1, small_n="clip") for n, m in sizes]
    assert time.perf_counter() - started < 5
    assert all(0 <= low <= high <= 1 for low, high in bands)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tally_sets([[0.5]], [0], math.nan, [0]), r"threshold = nan"),
        (lambda: tally_sets([[math.nan]], [0], 0.5, [0]), r"scores\[0, 0\] = nan"),
        (lambda: tally_sets([[0.5]], [1], 0.5, [0]), r"labels\[0\] = 1: must lie in 0\.\.0"),
        (
            lambda: tally_intervals([0.0], [1.0], [[0.5]], scores=[0.5], threshold=0.5, centres=[0.5]),
            r"must all have shape \(n,\)",
        ),
        (lambda: coverage_summary([1, 3], [2, 2]), r"num_covered\[1\] = 3: must lie in 0\.\.num_test"),
        (lambda: exchangeable_band(9, 9, 0.1, small_n="none"), r"small_n = 'none'"),
        (
            lambda: (
                tally_sets([[0.5]], [0], 0.5, [0]) + tally_intervals([], [], [], scores=[], threshold=1, centres=[])
            ),
            r"tallies of 1 and 0 classes",
        ),
    ],
)
def test_errors_name_the_thing_its_value_and_the_rule(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_tally_is_frozen():
    with pytest.raises(AttributeError):
        tally_sets(SCORES_ALL, TARGETS, 0.5, GUESSES).num_test = 0
    assert Tally.__dataclass_params__.frozen
