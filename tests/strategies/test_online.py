"""The running histogram against its definition, under any order of arrival; drift; and the strategy on real digits."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from by_hand import columns
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_sim import Scenario, simulate
from fl_sim.conformal.histogram import ScoreGrid, encode, threshold_at
from fl_sim.conformal.running import RunningHistogram
from fl_sim.conformal.thresholds import conformal_rank
from fl_sim.messages.calibration import SizeReport, SizeRequest
from fl_sim.messages.summaries import HistogramReport, HistogramRequest
from fl_sim.scenario.strategies import CALIBRATE
from strategies.base import Federation
from strategies.online import Online

GRID = ScoreGrid(0.0, 1.0, 8)
LAC = '{"name": "lac"}'

proved = settings(derandomize=True, deadline=None, max_examples=60)
forgettings = st.sampled_from([1.0, 0.9, 0.5, 0.1])
scores = st.lists(st.floats(0.0, 1.2), max_size=12)
# (client, period, scores) of reports
histories = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), scores), max_size=12)


def by_hand(
    points: list[tuple[float, int]], now: int, forgetting: float, alpha: float, grid: ScoreGrid = GRID
) -> float:
    """The definition, over (score, period) of all points: the smallest edge that holds enough weight."""
    f, needed = Fraction(str(forgetting)), 1 - Fraction(str(alpha))
    weights = [f ** (now - then) for _, then in points]
    for edge in grid.edges.tolist():
        if sum(w for w, (s, _) in zip(weights, points, strict=True) if s <= edge) >= needed * (sum(weights) + 1):
            return edge
    return math.inf


def on_time(history: list, forgetting: float, periods: int = 5) -> RunningHistogram:
    kept = RunningHistogram(GRID, forgetting)
    for now in range(periods):
        if now:
            kept.tick()
        for client, then, found in history:
            if then == now:
                kept.update(client, GRID.count(found))
    return kept


# ----------------------------------------------------------------------------------------------- the running histogram


@proved
@given(histories, forgettings, st.sampled_from([0.05, 0.1, 0.3, 0.5]))
def test_the_threshold_is_its_definition(history, forgetting, alpha):
    points = [(score, then) for _, then, found in history for score in found]
    kept = on_time(history, forgetting)
    assert kept.threshold(alpha) == by_hand(points, 4, forgetting, alpha)
    weights = [forgetting ** (4 - then) for _, then in points]
    assert kept.total_weight() == pytest.approx(sum(weights))
    size = sum(weights) ** 2 / sum(w * w for w in weights) if weights else 0
    assert kept.effective_size() == pytest.approx(size)


@proved
@given(histories, st.integers(0, 2**32), forgettings)
def test_a_late_reply_in_any_order_is_worth_what_it_was_on_time(history, seed, forgetting):
    rng = np.random.default_rng(seed)
    late = RunningHistogram(GRID, forgetting)
    waiting = [history[i] for i in rng.permutation(len(history))]
    for now in range(5):
        if now:
            late.tick()
        for report in list(waiting):
            client, then, found = report
            if then <= now and (now == 4 or rng.random() < 0.4):
                waiting.remove(report)
                late.update(client, GRID.count(found), period=then)
    prompt = on_time(history, forgetting)
    assert {then: c.tolist() for then, c in late.by_period().items()} == {
        then: c.tolist() for then, c in prompt.by_period().items()
    }
    for alpha in (0.1, 0.4):
        assert late.threshold(alpha) == prompt.threshold(alpha)
    assert late.effective_size() == prompt.effective_size()


@proved
@given(histories, st.integers(0, 3), forgettings)
def test_a_client_that_leaves_takes_its_own_counts_and_no_others(history, gone, forgetting):
    kept = on_time(history, forgetting)
    kept.leave(gone)
    without = on_time([report for report in history if report[0] != gone], forgetting)
    assert kept.threshold(0.2) == without.threshold(0.2)
    assert kept.total_weight() == without.total_weight()
    assert gone not in kept.clients


@proved
@given(histories, st.sampled_from([0.05, 0.1, 0.25]))
def test_without_forgetting_it_is_the_pooled_threshold(history, alpha):
    pooled = GRID.count([score for _, _, found in history for score in found])
    rank = conformal_rank(int(pooled.sum()), alpha)
    assert on_time(history, 1.0).threshold(alpha) == threshold_at(pooled, GRID.edges, rank)


def test_clients_join_and_leave_by_hand():
    kept = RunningHistogram(GRID, 0.5)
    assert kept.threshold(0.1) == math.inf
    kept.update(0, GRID.count([0.1] * 9))
    assert kept.threshold(0.1) == 0.125  # nine points of weight 1: 9 >= 0.9 * 10
    kept.tick()
    assert kept.threshold(0.1) == math.inf  # of weight 1/2: 4.5 < 0.9 * 5.5
    assert kept.threshold(0.2) == 0.125
    kept.update(1, GRID.count([0.9] * 2))
    assert kept.threshold(0.2) == 1.0  # 4.5 < 0.8 * 7.5 <= 6.5
    kept.leave(1)
    kept.leave(7)
    assert kept.threshold(0.2) == 0.125
    assert kept.clients == {0}
    assert kept.effective_size() == 9


@proved
@given(histories, forgettings, st.integers(0, 3))
def test_the_coverage_gap_is_its_definition(history, forgetting, gone):
    """Barber et al.'s sum over all points, whether or not the periods weigh the same."""
    kept = on_time(history, forgetting)
    kept.leave(gone)
    distances = {0: 0.9, 1: 0.7, 2: 0.4, 3: 0.2}
    weights = [(forgetting ** (4 - then), then) for k, then, found in history if k != gone for _ in found]
    moved = sum(w * distances.get(then, 0.0) for w, then in weights)
    assert kept.coverage_gap(distances) == pytest.approx(moved / (sum(w for w, _ in weights) + 1))


def test_what_is_all_but_forgotten_is_dropped():
    kept = RunningHistogram(GRID, 0.1)
    kept.update(0, GRID.count([0.5] * 1000))
    for _ in range(30):
        kept.tick()
    assert kept.by_period() == {}
    kept.update(0, GRID.count([0.5]), period=0)
    assert kept.by_period() == {}


@pytest.mark.parametrize(("act", "said"), [
    (lambda: RunningHistogram(GRID, 0.0), "forgetting = 0.0"),
    (lambda: RunningHistogram(GRID).update(0, [1, 2]), r"must be \(9,\)"),
    (lambda: RunningHistogram(GRID).update(0, [-1] * 9), r"counts\[0\] = -1"),
    (lambda: RunningHistogram(GRID).update(0, [1] * 9, period=1), "period = 1"),
])  # fmt: skip
def test_what_cannot_be_is_refused(act, said):
    with pytest.raises(ValueError, match=said):
        act()


# --------------------------------------------------------------------------------------------------------------- drift

FINE = ScoreGrid(0.0, 2.0, 400)


def covered_after_a_shift(forgetting: float, seed: int, periods_after: int, alpha: float = 0.1) -> float:
    """Scores are uniform on [0, 1] for 15 periods, then on [0.3, 1.3]: what the threshold truly covers then."""
    rng = np.random.default_rng(seed)
    kept = RunningHistogram(FINE, forgetting)
    for period in range(15 + periods_after):
        if period:
            kept.tick()
        low = 0.0 if period < 15 else 0.3
        for client in range(4):
            kept.update(client, FINE.count(low + rng.random(25)))
    return min(1.0, kept.threshold(alpha) - 0.3)


def test_forgetting_recovers_after_a_shift_where_keeping_everything_lags():
    before, after = (
        {f: np.mean([covered_after_a_shift(f, seed, n) for seed in range(10)]) for f in (0.8, 1.0)} for n in (1, 12)
    )
    assert before[1.0] < 0.75
    assert after[0.8] > 0.88  # a fifteenth of the weight is from before the shift
    assert after[1.0] < 0.8  # more than half is
    assert before[0.8] > before[1.0]


@pytest.mark.parametrize("forgetting", [0.8, 0.95, 1.0])
def test_forgetting_costs_no_validity_where_nothing_drifts(forgetting):
    """Over draws of the points; the mean of weighted split conformal, with the test point's unit weight."""
    rng, alpha, draws = np.random.default_rng(1), 0.2, 600
    found = []
    for _ in range(draws):
        kept = RunningHistogram(ScoreGrid(0.0, 1.0, 1000), forgetting)
        for period in range(6):
            if period:
                kept.tick()
            kept.update(0, kept.grid.count(rng.random(5)))
        found.append(min(1.0, kept.threshold(alpha)))
    assert np.mean(found) >= 1 - alpha - 4 * np.std(found) / math.sqrt(draws)


def test_without_the_test_points_own_weight_it_would_cover_too_little():
    """The defect: the weighted quantile of the points alone."""
    rng, alpha = np.random.default_rng(2), 0.2
    naive = []
    for _ in range(1500):
        points = [(float(s), period) for period in range(6) for s in rng.random(2)]
        weights = np.array([0.6 ** (5 - then) for _, then in points])
        order = np.argsort([s for s, _ in points])
        reached = np.cumsum(weights[order]) >= (1 - alpha) * weights.sum()
        naive.append(points[order[reached.argmax()]][0])
    assert np.mean(naive) < 1 - alpha - 0.02


@pytest.mark.parametrize(("forgetting", "shift"), [(0.7, 0.05), (0.9, 0.02), (1.0, 0.1)])
def test_the_bound_on_the_gap_holds_under_drift(forgetting, shift):
    """Uniform scores that move by `shift` a period: two of them age periods apart are age * shift apart in total
    variation, so exchanging one with the test point moves the joint law by at most twice that."""
    rng, alpha, periods, draws = np.random.default_rng(3), 0.1, 5, 800
    found, gap = [], 0.0
    for _ in range(draws):
        kept = RunningHistogram(FINE, forgetting)
        for period in range(periods):
            if period:
                kept.tick()
            kept.update(0, FINE.count(shift * period + rng.random(20)))
        gap = kept.coverage_gap({then: min(1.0, 2 * shift * (periods - 1 - then)) for then in range(periods)})
        found.append(float(np.clip(kept.threshold(alpha) - shift * (periods - 1), 0, 1)))
    assert 0 < gap < 0.9
    assert np.mean(found) >= 1 - alpha - gap - 4 * np.std(found) / math.sqrt(draws)


def test_the_gap_counts_the_test_points_weight():
    kept = RunningHistogram(GRID, 0.5)
    kept.update(0, GRID.count([0.5] * 4))
    kept.tick()
    kept.update(0, GRID.count([0.5] * 3))
    assert kept.coverage_gap({0: 0.3}) == pytest.approx(4 * 0.5 * 0.3 / (2 + 3 + 1))
    assert kept.coverage_gap({}) == 0


# ------------------------------------------------------------------------------------------------------- the strategy


def strategy(clients: int = 4, **change) -> Online:
    told = {"bins": 8, "rounds": 3, "fraction": 0.5, "forgetting": 1.0, "departed": "keep"} | change
    return Online(Federation("p", tiers=("one",) * clients), alpha=0.2, score=told.pop("score", LAC), **told)


def answer(k: int, request: HistogramRequest, grid: ScoreGrid, points: np.ndarray) -> HistogramReport:
    """What clients/calibrate.py answers: a row of counts for each part that is asked for."""
    part = np.arange(len(points)) % request.parts
    rows = [grid.count(points[part == p]) for p in range(request.part_from, request.part_to)]
    return HistogramReport(k, encode(np.array(rows)), len(rows))


@pytest.mark.parametrize("forgetting", [1.0, 0.5])
def test_those_not_drawn_catch_up_with_the_weight_of_their_own_rounds(forgetting):
    rng = np.random.default_rng(4)
    points = {k: rng.random(10 + k) for k in range(4)}
    made = strategy(forgetting=forgetting, rounds=6)
    seen: dict[int, int] = dict.fromkeys(range(4), 0)
    for turn in range(1, 7):
        asked = made.ask(turn)
        assert len(asked) == 2
        for k, request in asked.items():
            assert (request.parts, request.part_from, request.part_to) == (6, seen[k], turn)
            seen[k] = turn
        grid = made.histogram.grid
        made.take(turn, columns([answer(k, request, grid, points[k]) for k, request in asked.items()]))
    told = [(s, i % 6) for k in range(4) for i, s in enumerate(points[k].tolist()) if i % 6 < seen[k]]
    assert made.global_threshold == by_hand(told, 5, forgetting, 0.2, made.histogram.grid)
    assert made.thresholds == dict.fromkeys(range(4), made.global_threshold)
    detail = made.detail()
    assert detail["points"] == len(told)
    assert len(detail["thresholds"]) == 6
    assert detail["effective_size"] <= detail["points"] + 1e-9


def test_clients_that_were_never_drawn_are_tested_too():
    made = strategy(rounds=1, clients=10, fraction=0.1)
    asked = made.ask(1)
    assert len(asked) == 1
    made.take(1, columns([answer(k, r, made.histogram.grid, np.full(20, 0.1)) for k, r in asked.items()]))
    assert set(made.thresholds) == set(range(10))
    assert made.detail()["clients_never_reported"] == 9


@pytest.mark.parametrize("departed", ["keep", "leave"])
def test_a_client_that_does_not_answer_is_gone_and_its_counts_stay_or_go(departed):
    made = strategy(clients=2, fraction=1.0, rounds=2, departed=departed)
    first = made.ask(1)
    grid = made.histogram.grid
    made.take(1, columns([answer(k, r, grid, np.full(20, 0.1 + 0.5 * k)) for k, r in first.items()]))
    second = made.ask(2)
    made.take(2, columns([answer(0, second[0], grid, np.full(20, 0.1))]))
    assert set(made.thresholds) == {0}
    assert made.histogram.clients == ({0, 1} if departed == "keep" else {0})
    assert made.detail()["points"] == (30 if departed == "keep" else 20)
    assert made.reported == {0: 2, 1: 1 if departed == "keep" else 0}


def test_nobody_answers():
    made = strategy(rounds=2, fraction=1.0)
    for turn in (1, 2):
        made.ask(turn)
        made.take(turn, columns([]))
    assert made.thresholds == {}
    assert made.global_threshold == math.inf
    assert made.detail()["thresholds"] == [None, None]


def test_a_score_without_bounds_has_its_range_asked_for_first():
    made = strategy(score='{"name": "residual"}', clients=2, fraction=1.0, rounds=1)
    assert made.num_rounds == 2
    assert isinstance(made.ask(1), SizeRequest)
    made.take(1, columns([SizeReport(0, 5, 1.0, 3.0), SizeReport(1, 5, 0.5, 9.0)]))
    asked = made.ask(2)
    assert (made.histogram.grid.low, made.histogram.grid.high) == (0.5, 9.0)
    made.take(2, columns([answer(k, r, made.histogram.grid, np.full(5, 2.0)) for k, r in asked.items()]))
    assert made.bytes_down == {0: 16, 1: 16}
    assert 2.0 <= made.global_threshold < 4.0


def test_a_code_of_other_rows_is_refused():
    made = strategy(clients=1, fraction=1.0)
    made.ask(1)
    with pytest.raises(ValueError, match="a histogram's code"):
        made.take(1, columns([HistogramReport(0, encode(np.full((3, 9), 7)), 3)]))


SMALL = ("clients.count=10", "clients.tier.strong.epochs=2", "clients.tier.weak.epochs=1", "runtime.name=inline")


def test_real_digits(store):
    """All in one round is fedhist-cp; in several, with everybody asked in each, no point is lost or counted twice."""
    results = [
        simulate(Scenario.load("digits", *SMALL, *more), store=store.root)
        for more in (
            ["calibrate=fedhist-cp"],
            ["calibrate=online", "calibrate.rounds=1", "calibrate.fraction=1"],
            ["calibrate=online", "calibrate.rounds=4", "calibrate.fraction=1"],
            ["calibrate=online", "calibrate.rounds=4", "calibrate.fraction=0.3", "calibrate.forgetting=0.7"],
        )
    ]
    one, same, parts, drawn = [result.calibrate["threshold"] for result in results]
    assert one == same == parts
    assert drawn == pytest.approx(one, abs=0.15)
    details = [result.summary["calibrate"]["detail"] for result in results[1:]]
    assert [d["points"] for d in details[:2]] == [800, 800]
    assert details[2]["effective_size"] < details[2]["points"] <= 800
    assert all(row["coverage"] is not None for row in results[3].clients if row["num_test"])


def test_the_options_are_the_constructors():
    told = CALIBRATE["online"](alpha=0.1, score="lac").arguments()
    assert set(told) == {"alpha", "score", "bins", "rounds", "fraction", "forgetting", "departed"}
