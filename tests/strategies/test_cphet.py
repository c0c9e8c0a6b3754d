"""CPhet and the weighted conformal prediction under it."""

from __future__ import annotations

import json
import math
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from by_hand import columns
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_sim import simulate
from fl_sim.conformal.thresholds import conformal_threshold, pooled_threshold
from fl_sim.conformal.weighted import Weighed, label_ratio
from fl_sim.messages.calibration import ScoresReport, ScoresRequest
from fl_sim.scenario.scenario import Scenario
from strategies.base import Federation
from strategies.cphet import CPhet

SETTINGS = settings(derandomize=True, deadline=None, max_examples=100)
POINTS = st.lists(st.tuples(st.integers(0, 9).map(float), st.integers(0, 2)), max_size=30)
EIGHTHS = st.lists(st.integers(0, 8).map(lambda w: w / 8), min_size=3, max_size=3)  # exact in any unit
ALPHAS = st.sampled_from([0.05, 0.1, 0.25, 0.5])


def weighed(points: list[tuple[float, int]], num_labels: int = 3) -> Weighed:
    return Weighed([s for s, _ in points], [y for _, y in points], num_labels)


def cphet(test: Any = "local", task: Any = "classification", seed: int = 0, num_labels: int = 2, **how: Any) -> CPhet:
    return CPhet(Federation("p", seed=seed, num_labels=num_labels, test=test, task=task), alpha=0.1, score="s", **how)


def report(k: int, scores: Any, labels: Any) -> ScoresReport:
    return ScoresReport(k, np.asarray(scores, np.float64), np.asarray(labels, np.int64))


# ---------------------------------------------------------------------------------------------------- weighted quantile


def by_definition(points: list[tuple[float, int]], weights: list[float], own: float, alpha: float) -> float:
    """The smallest t with sum of the weights of scores <= t at least (1 - alpha)(sum of all + own), in fractions."""
    exact = [Fraction(w) for w in weights]
    needed = (1 - Fraction(str(alpha))) * (sum(exact[y] for _, y in points) + Fraction(own))
    enough = [t for t, _ in points if sum(exact[y] for s, y in points if s <= t) >= needed]
    return min(enough, default=math.inf) if needed > 0 else math.inf


@SETTINGS
@given(POINTS, EIGHTHS, ALPHAS)
def test_thresholds_are_the_definitions(points, weights, alpha):
    made = weighed(points)
    assert made.thresholds(weights, alpha).tolist() == [by_definition(points, weights, own, alpha) for own in weights]
    assert made.threshold(weights, alpha) == by_definition(points, weights, max(weights), alpha)
    assert made.counts.sum() == len(points)


@SETTINGS
@given(POINTS, st.floats(1e-12, 1e12), ALPHAS)
def test_equal_weights_are_split_conformal_exactly(points, weight, alpha):
    scores = [s for s, _ in points]
    assert weighed(points).thresholds([weight] * 3, alpha).tolist() == [conformal_threshold(scores, alpha)] * 3


@pytest.mark.parametrize("n", [9, 19, 499, 510, 511, 9_999])
def test_equal_weights_take_the_exact_rank_where_it_is_whole(n):
    scores = np.arange(1.0, n + 1)
    assert Weighed(scores, scores % 7, 7).threshold([1 / 3] * 7, 0.1) == math.ceil(Fraction(9, 10) * (n + 1))


def test_the_test_points_own_mass_by_hand():
    points = [(0.1, 0), (0.2, 0), (0.3, 1), (0.4, 1)]
    # Sum 4; 0.75 (4 + 1) = 3.75 is reached at the fourth; 0.75 (4 + 4/3) = 4 just so; 0.75 * 5.5 never.
    assert weighed(points, 2).threshold([1, 1], 0.25) == 0.4
    assert weighed([(0.1, 0), (0.2, 0)], 2).thresholds([0.375, 0.25], 0.25).tolist() == [math.inf, 0.2]
    assert weighed(points, 3).thresholds([1, 1, 1.5], 0.25).tolist() == [0.4, 0.4, math.inf]


def test_without_that_mass_a_threshold_falls_short():
    """The defect of a public re-implementation: searchsorted(side="right"), clipped to the largest score."""
    rng = np.random.default_rng(0)
    weights = np.array([1.0, 9.0])

    def without(scores: Any, labels: Any) -> float:
        order = np.argsort(scores)
        mass = np.cumsum(weights[labels[order]]) / weights[labels].sum()
        return float(scores[order][min(np.searchsorted(mass, 0.9, side="right"), len(scores) - 1)])

    covered = np.zeros((2000, 2), bool)
    for trial in range(len(covered)):
        labels = (rng.random(13) < 0.1).astype(int)
        labels[12] = rng.random() < 0.5  # the test point comes of the other law, whose ratio is 1/1.8 to 9/1.8
        scores = rng.random(13) + labels
        made = Weighed(scores[:12], labels[:12], 2).thresholds(weights, 0.1)
        covered[trial] = scores[12] <= without(scores[:12], labels[:12]), scores[12] <= made[labels[12]]
    short, right = covered.mean(axis=0)
    assert short < 0.8
    assert right >= 0.9 - 4 * math.sqrt(0.09 / len(covered))


def test_a_known_ratio_covers_where_the_pool_does_not():
    """Scores depend on the label alone; the test law has the rare label in nine of ten."""
    rng = np.random.default_rng(1)
    ratio = np.array([0.1 / 0.8, 0.9 / 0.2])
    covered = np.zeros((1500, 4), bool)
    for trial in range(len(covered)):
        labels, label = (rng.random(60) < 0.2).astype(int), int(rng.random() < 0.9)
        scores, score = rng.random(60) * (1 + 2 * labels), rng.random() * (1 + 2 * label)
        made = Weighed(scores, labels, 2)
        drawn = made.drawn_threshold(ratio, 0.1, math.floor(made.effective_size(ratio)), rng)
        each, one = made.thresholds(ratio, 0.1), made.threshold(ratio, 0.1)
        covered[trial] = [score <= q for q in (each[label], one, drawn, conformal_threshold(scores, 0.1))]
    each, one, drawn, pooled = covered.mean(axis=0)
    error = 4 * math.sqrt(0.09 / len(covered))
    assert each >= 0.9 - error
    assert one >= each
    assert each < 0.96  # and by no more than it must: the largest mass is some 0.08 of all
    assert abs(drawn - 0.9) < 0.05  # as published: near
    assert pooled < 0.8


def test_without_points_or_weights_everything_is_covered():
    assert weighed([]).thresholds([1, 1, 1], 0.1).tolist() == [math.inf] * 3
    assert weighed([(0.5, 0)]).thresholds([0, 1, 0], 0.5).tolist() == [math.inf] * 3  # no weight to go by
    assert weighed([(0.5, 0)]).drawn_threshold([0, 1, 0], 0.5, 9, np.random.default_rng(0)) == math.inf


# ------------------------------------------------------------------------------------------------------------ the ratio


def test_ratios_by_hand():
    assert label_ratio([8, 2], [50, 50], 0.0).tolist() == [1.6, 0.4]
    # One point of the pool's mix more: (8 + 1/2) / 11 over 1/2, and (2 + 1/2) / 11 over 1/2.
    assert label_ratio([8, 2], [50, 50]).tolist() == pytest.approx([17 / 11, 5 / 11])
    assert label_ratio([4, 0, 0], [6, 3, 0]).tolist() == pytest.approx([7 / 5, 1 / 5, 0])
    assert label_ratio([0, 0], [3, 9]).tolist() == [1.0, 1.0]  # no points of its own: the pool's
    assert label_ratio([0, 0], [0, 0]).tolist() == [0.0, 0.0]
    assert label_ratio([0, 0], [2, 0], 0.0).tolist() == [1.0, 0.0]


@SETTINGS
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=9), st.sampled_from([0.0, 1.0, 0.5]), st.integers(1, 9))
def test_the_pool_itself_has_ratio_1_and_any_target_a_mean_of_1(pool, smoothing, times):
    held = np.array(pool)
    assert label_ratio(held, held, smoothing).tolist() == (held > 0).astype(float).tolist()
    equal = label_ratio(times * held, held, 0.0)[held > 0]
    assert len(set(equal.tolist())) <= 1  # to the last bit, whatever rounding does to its size
    target = np.where(held > 0, np.arange(len(held)), 0)
    if held.sum():
        assert float(held @ label_ratio(target, held, smoothing)) / held.sum() == pytest.approx(1.0)


def test_effective_size():
    made = weighed([(0.1, 0)] * 4 + [(0.2, 1)] * 2)
    assert made.effective_size([0.3, 0.3, 0.3]) == 6.0
    assert made.effective_size([2, 2, 0]) == 6.0
    assert made.effective_size([1, 0, 0]) == 4.0
    assert made.effective_size([1, 2, 0]) == pytest.approx(8**2 / 12)
    assert made.effective_size([0, 0, 1]) == 0.0


# --------------------------------------------------------------------------------------------------------- the strategy


RNG = np.random.default_rng(2)
CROWD = [report(k, RNG.random(n) + (k % 2), np.full(n, k % 2)) for k, n in enumerate((40, 60, 0, 25))]
SCORES = [r.scores for r in CROWD]


def test_it_asks_for_labels():
    assert cphet().question() == ScoresRequest("s", labels=True, num_labels=2)
    assert CROWD[0].information_bytes == 9 * 40


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_aimed_at_the_pool_and_weighing_it_is_the_pooled_threshold(task):
    strategy = cphet(test="shared", task=task, subsample=False)
    strategy.take(1, columns(CROWD))
    assert strategy.target == "pooled"
    assert strategy.global_threshold == pooled_threshold(SCORES, 0.1)
    assert strategy.thresholds == dict.fromkeys(range(4), pooled_threshold(SCORES, 0.1))
    assert strategy.detail() == {"target": "pooled", "effective_points": {"min": 125.0, "median": 125.0, "max": 125.0}}


def test_own_labels_have_own_thresholds():
    strategy = cphet(subsample=False)
    assert strategy.target == "own"
    strategy.take(1, columns(CROWD))
    low, high, none, _ = (np.asarray(strategy.thresholds[k]) for k in range(4))
    assert low.shape == high.shape == (2,)
    assert low[0] < 1.05 < 1.5 < high[1]
    assert float(none) == pooled_threshold(SCORES, 0.1)  # nothing is known of its labels
    assert strategy.global_threshold is None
    assert json.dumps(strategy.detail())
    assert strategy.information_down(strategy.thresholds[0]) == 16
    # By definition, with the plug-in ratio.
    points = [(float(s), int(y)) for r in CROWD for s, y in zip(r.scores, r.labels, strict=True)]
    w = label_ratio([40, 0], [40, 85]).tolist()
    assert low.tolist() == [by_definition(points, w, own, 0.1) for own in w]
    regression = cphet(task="regression", subsample=False)
    regression.take(1, columns(CROWD))
    assert regression.thresholds[0] == by_definition(points, w, max(w), 0.1)


def test_a_label_that_nobody_has_is_covered_by_infinity():
    """Its ratio is not known, unless the target is the pool itself."""
    for target in ("own", "uniform"):
        strategy = cphet(num_labels=3, target=target, subsample=False)
        strategy.take(1, columns(CROWD))
        assert strategy.global_threshold is None
        for k in strategy.thresholds:
            each = np.asarray(strategy.thresholds[k])
            assert each[2] == math.inf
            assert (each[:2] < math.inf).all()
        regression = cphet(num_labels=3, target=target, subsample=False, task="regression")
        regression.take(1, columns(CROWD))
        assert set(regression.thresholds.values()) == {math.inf}
    pool = cphet(num_labels=3, target="pooled", subsample=False)
    pool.take(1, columns(CROWD))
    assert pool.global_threshold == pooled_threshold(SCORES, 0.1)


def test_a_draw_is_the_clients_own_and_the_seeds():
    first, again, other = cphet(), cphet(), cphet(seed=1)
    for strategy in (first, again, other):
        strategy.take(1, columns(CROWD))
    assert first.thresholds == again.thresholds != other.thresholds
    assert all(isinstance(q, float) for q in first.thresholds.values())
    assert 0.8 < first.thresholds[0] < 1.3 < first.thresholds[1] <= 2.0
    uniform = cphet(target="uniform")
    uniform.take(1, columns(CROWD))
    assert uniform.global_threshold == uniform.thresholds[2] is not None


@pytest.mark.parametrize(
    "how", [{}, {"subsample": False}, {"target": "uniform"}, {"target": "uniform", "subsample": False}]
)
def test_nobody_and_nothing(how):
    strategy = cphet(**how)
    strategy.take(1, columns([], ScoresReport))
    assert strategy.thresholds == {}
    assert json.dumps(strategy.detail())
    strategy.take(1, columns([report(k, [], []) for k in range(2)]))
    assert strategy.thresholds == {0: math.inf, 1: math.inf}
    with pytest.raises(ValueError, match="0 labels of 1 scores: must be 1"):
        strategy.question().check(columns([report(1, [0.5], [])]))


def test_two_hundred_clients_with_twenty_thousand_points_take_seconds():
    rng = np.random.default_rng(3)
    crowd = [report(k, rng.random(100), rng.integers(0, 10, 100)) for k in range(200)]
    for subsample in (True, False):
        start = time.perf_counter()
        cphet(num_labels=10, subsample=subsample).take(1, columns(crowd))
        assert time.perf_counter() - start < 3


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store for all runs, which train the same models."""
    return tmp_path_factory.mktemp("cphet") / "store"


@pytest.mark.parametrize("how", [(), ("calibrate.subsample=false",), ("calibrate.target=uniform",)])
def test_on_real_digits(how, place: Path):
    result = simulate(Scenario.load("digits", "runtime.name=inline", "calibrate=cphet", *how), store=place)
    found = result.summary["calibrate"]
    assert found["metrics"]["coverage"] > 0.84
    assert found["detail"]["target"] == ("uniform" if "calibrate.target=uniform" in how else "own")
    assert found["metrics"]["bytes_up_per_client"] == 9 * 20
