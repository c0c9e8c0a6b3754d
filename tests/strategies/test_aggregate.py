"""What the server does with many answers: the definition's numbers, by work and memory that grow with the clients and
not with their square. Nothing here is timed; benchmarks/aggregate.py is."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction

import numpy as np
import pytest
from by_hand import columns
from hypothesis import given, settings
from hypothesis import strategies as st
from test_fedcp_qq import expected_coverages

from fl_sim.conformal import order_statistics, robust, weighted
from fl_sim.conformal.decimals import as_meant
from fl_sim.conformal.histogram import encode
from fl_sim.conformal.order_statistics import Aim, choose, shortfalls
from fl_sim.conformal.poisson_binomial import at_most, fewer
from fl_sim.conformal.robust import maliciousness, most_likely_malicious
from fl_sim.conformal.sketches import merged, sketch_from, sketch_of
from fl_sim.conformal.thresholds import conformal_rank, local_rank, mixture_threshold
from fl_sim.conformal.weighted import Weighed
from fl_sim.messages.summaries import HistogramReport
from strategies.base import Federation
from strategies.class_conditional import ClassConditional

MB = 1 << 20


@contextmanager
def at_most_bytes(most: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= most, f"{peak / MB:.0f} MB"


# ----------------------------------------------------------------------------------------------------------------- fcp


@given(st.lists(st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.5]), max_size=4), min_size=1, max_size=6), st.data())
@settings(derandomize=True, deadline=None)
def test_a_mixtures_threshold_is_its_definition(scores, data):
    parts = data.draw(st.lists(st.sampled_from([0.0, 0.1, 0.3, 7.0]), min_size=len(scores), max_size=len(scores)))
    if not any(parts):
        parts[0] = 1.0
    shares = [as_meant(part) / (len(own) + 1) for part, own in zip(parts, scores, strict=True)]
    whole = sum(as_meant(part) for part in parts)

    def weight(q: float) -> Fraction:
        return sum((w * sum(s <= q for s in own) for w, own in zip(shares, scores, strict=True)), Fraction(0))

    enough = [s for own in scores for s in own if weight(s) >= whole * (1 - as_meant(0.3))]
    assert mixture_threshold([np.array(own) for own in scores], parts, 0.3) == min(enough, default=math.inf)


def test_clients_that_weigh_alike_are_looked_up_together(monkeypatch):
    calls, searchsorted = [], np.searchsorted
    monkeypatch.setattr(np, "searchsorted", lambda *a, **k: calls.append(1) or searchsorted(*a, **k))
    scores = list(np.random.default_rng(0).random((2000, 3)))
    found = mixture_threshold(scores, [1] * 2000, 0.4)
    assert found == np.sort(np.concatenate(scores))[math.ceil(4 * 2000 * Fraction(6, 10)) - 1]
    assert len(calls) <= 2 * math.log2(6000)


numbers = st.one_of(st.just(0.0), st.floats(1e-6, 1e6), st.floats(-1e6, -1e-6))


@given(st.lists(st.lists(numbers, max_size=8), min_size=1, max_size=4).filter(any))
@settings(derandomize=True, deadline=None)
def test_ddsketches_answer_as_the_package_does(scores):
    from ddsketch import DDSketch

    theirs = DDSketch(0.01)
    for value in (value for own in scores for value in own):
        theirs.add(value)
    ours = merged([sketch_from(sketch_of(own, "ddsketch"), "ddsketch") for own in scores])
    n = ours.count
    assert n == theirs.count
    expected = [theirs.get_quantile_value(rank / n) for rank in range(1, n + 1)]
    assert [ours.at_rank(rank) for rank in range(1, n + 1)] == pytest.approx(expected, rel=1e-12)


# ------------------------------------------------------------------------------------------------------------ fedcp-qq


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 4)), min_size=1, max_size=5))
@settings(derandomize=True, deadline=None)
def test_a_poisson_binomial_is_its_definition(kinds):
    law = [Fraction(1)]
    for twentieths, number in kinds:
        p = Fraction(twentieths, 20)
        for _ in range(number):
            law = [a * (1 - p) + b * p for a, b in zip([*law, 0], [0, *law], strict=True)]
    p, number = np.array([[twentieths / 20 for twentieths, _ in kinds]]), np.array([n for _, n in kinds])
    for most in range(len(law)):
        assert at_most(most, p, number)[0] == pytest.approx(float(sum(law[: most + 1])), abs=1e-14)


def test_of_many_events_only_where_they_may_fall_is_looked_at():
    """3,000 events in 30 kinds, at whose ends nothing is seen: against adding them one after another."""
    p, number = np.random.default_rng(1).random(30), np.full(30, 100)
    expected, mean = fewer(np.repeat(p, number)), int(p @ number)
    for k in (1, mean - 200, mean - 20, mean, mean + 1, mean + 50, 3000):
        assert at_most(k - 1, p[None], number)[0] == pytest.approx(expected[k - 1], abs=1e-13)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.sampled_from([0.05, 0.1, 0.4]))
@settings(derandomize=True, deadline=None, max_examples=30)
def test_the_choice_is_the_first_of_all_that_will_do(sizes, alpha):
    ranks = [local_rank(n, alpha, "clip") or n for n in sizes]
    coverage, short = expected_coverages(sizes, ranks), shortfalls(sizes, ranks, alpha)
    for guarantee in ("marginal", "conditional"):
        aim = Aim(alpha, guarantee, 0.3)
        will_do = np.flatnonzero(aim.met(coverage, short))
        k = int(will_do[0]) + 1 if len(will_do) else len(sizes)
        found = choose(sizes, ranks, aim)
        assert (found.k, found.feasible) == (k, bool(len(will_do)))
        assert (found.expected_coverage, found.shortfall) == (coverage[k - 1], short[k - 1])


@given(st.integers(1, 10_000), st.data())
@settings(derandomize=True, deadline=None)
def test_the_first_is_found_from_any_guess_by_few_questions(last, data):
    asked = []
    first, guess = data.draw(st.integers(1, last + 1)), data.draw(st.integers(1, last))
    found = order_statistics._first(lambda k: asked.append(k) or k >= first, guess, last)
    assert found == (first if first <= last else None)
    assert all(1 <= k <= last for k in asked)
    assert len(asked) <= 2 * math.log2(last) + 3
    if abs(first - guess) <= 1:
        assert len(asked) <= 4


def test_m_is_found_for_the_few_k_that_decide(monkeypatch):
    asked, inner = [], order_statistics._expected_coverage
    monkeypatch.setattr(order_statistics, "_expected_coverage", lambda kinds, k: asked.append(k) or inner(kinds, k))
    sizes = np.random.default_rng(0).integers(2, 100, 3000).tolist()
    found = choose(sizes, [local_rank(n, 0.1, "clip") or n for n in sizes], Aim(0.1))
    assert found.feasible
    assert inner(order_statistics._kinds(sizes, [local_rank(n, 0.1, "clip") or n for n in sizes]), found.k - 1) < 0.9
    assert len(asked) <= 6


# ------------------------------------------------------------------------------------------------------------- rob-fcp


def test_distances_are_taken_in_blocks(monkeypatch):
    vectors = np.random.default_rng(0).dirichlet(np.ones(20), 41)
    whole = [maliciousness(vectors, 9, how) for how in ("nearest", "farthest")]
    monkeypatch.setattr(robust, "_BATCH", 120)  # two rows and a bit at a time
    for before, how in zip(whole, ("nearest", "farthest"), strict=True):
        assert np.array_equal(maliciousness(vectors, 9, how), before)
    monkeypatch.undo()
    many = np.random.default_rng(0).dirichlet(np.ones(5), 4000)
    with at_most_bytes(60 * MB):  # all distances have 128
        maliciousness(many, 100)


@given(st.integers(3, 14), st.integers(0, 10**6), st.booleans())
@settings(derandomize=True, deadline=None, max_examples=60)
def test_the_number_of_liars_is_its_definition(clients, seed, alike):
    rng = np.random.default_rng(seed)
    vectors = rng.dirichlet(np.ones(4), clients)
    if alike:
        vectors[: clients // 2] = vectors[0]
    most = (clients - 1) // 2
    order = np.argsort(maliciousness(vectors, most), kind="stable")

    def ratio(m: int) -> float:
        kept, out = vectors[order[: clients - m]], vectors[order[clients - m :]]
        within, beyond = (float(((side - kept.mean(axis=0)) ** 2).sum(axis=1).mean()) for side in (kept, out))
        return beyond / within

    found = most_likely_malicious(vectors)
    assert ratio(found) >= max(map(ratio, range(1, most + 1))) * (1 - 1e-9)


# --------------------------------------------------------------------------------------------------------------- cphet


def pool() -> Weighed:
    rng = np.random.default_rng(0)
    return Weighed(rng.random(500), rng.integers(0, 3, 500), 3)


def test_a_drawn_threshold_is_the_rank_of_the_draws():
    points, weights = pool(), np.array([1.0, 0.5, 0.0])
    units = points._units(weights)[points.labels]
    drawn = np.sort(np.random.default_rng(7).integers(0, units.sum(), size=60))[conformal_rank(60, 0.1) - 1]
    place = int(np.searchsorted(np.cumsum(units), drawn, side="right"))
    assert points.drawn_threshold(weights, 0.1, 60, np.random.default_rng(7)) == points.scores[place]


def test_the_draw_of_a_rank_has_the_law_of_the_rank_of_the_draws(monkeypatch):
    points, weights, seeds = pool(), np.array([1.0, 0.5, 0.2]), range(3000)
    one_by_one = [points.drawn_threshold(weights, 0.1, 60, np.random.default_rng(seed)) for seed in seeds]
    monkeypatch.setattr(weighted, "ONE_BY_ONE", 0)
    at_once = [points.drawn_threshold(weights, 0.1, 60, np.random.default_rng(seed)) for seed in seeds]
    at = points.scores
    laws = [np.searchsorted(np.sort(found), at, side="right") / len(found) for found in (one_by_one, at_once)]
    assert np.abs(laws[0] - laws[1]).max() < 1.95 * math.sqrt(2 / len(seeds))  # Smirnov's test at 0.001


def test_many_draws_are_not_made_one_by_one():
    with at_most_bytes(10 * MB):
        found = pool().drawn_threshold(np.ones(3), 0.1, 40_000_000, np.random.default_rng(0))
    assert found == pytest.approx(np.quantile(pool().scores, 0.9), abs=0.01)


def test_a_client_costs_no_copy_of_all_points():
    rng = np.random.default_rng(0)
    points = Weighed(rng.random(200_000), rng.integers(0, 3, 200_000), 3)
    with at_most_bytes(MB):
        points.thresholds(np.ones(3), 0.1)


# ---------------------------------------------------------------------------------------------------------- histograms


def calibration() -> ClassConditional:
    federation = Federation("", tiers=("a", "b") * 1000, num_labels=10)
    return ClassConditional(federation, alpha=0.1, score='{"name": "lac"}')


def test_counts_take_the_bytes_that_they_need_and_stay_exact():
    counts = np.zeros((10, 513), np.int64)
    counts[3, 7] = 5
    few = encode(counts)
    with at_most_bytes(40 * MB):  # as 64-bit numbers 82
        partitions, held = calibration().counts_of(columns([HistogramReport(k, few, rows=10) for k in range(2000)]))
    assert len(partitions) == 2000
    assert held.sum() == 10_000
    counts[3, 7:9] = 1 << 40, 40_000
    reports = [HistogramReport(0, few, rows=10), HistogramReport(1, encode(counts), rows=10)]
    _, held = calibration().counts_of(columns(reports))
    assert held.sum(axis=0)[3, 7:9].tolist() == [(1 << 40) + 5, 40_000]
