"""fcp with its mixtures and sketches, h-dcp and fedhist-cp: exact ranks, guarantees, bytes, and whole runs."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import numpy as np
import pytest
from by_hand import columns
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_sim import Scenario, simulate
from fl_sim.conformal.histogram import ScoreGrid, encode
from fl_sim.conformal.scores import Aps, bounds_of
from fl_sim.conformal.sketches import merged, sketch_from, sketch_of
from fl_sim.conformal.thresholds import conformal_rank, mixture_threshold, pooled_threshold
from fl_sim.errors import ScenarioError
from fl_sim.messages.calibration import ScoresReport, ScoresRequest, SizeReport, SizeRequest
from fl_sim.messages.summaries import HistogramReport, HistogramRequest, SketchReport, SketchRequest
from strategies.base import Federation
from strategies.families.histograms import grid_for
from strategies.fcp import FCP
from strategies.fedhist_cp import FedHistCP
from strategies.h_dcp import HDCP

LAC, APS, RESIDUAL = '{"name": "lac"}', '{"name": "aps", "randomized": true}', '{"name": "residual"}'

quick = settings(derandomize=True, deadline=None, max_examples=60)
unit = st.floats(0, 1)
alphas = st.sampled_from([0.05, 0.1, 0.2, 0.3, 0.5, 0.9])


def answer(asked, partition, scores):
    """What an honest client with these scores answers, as clients/calibrate.py does."""
    scores = np.asarray(scores, np.float64)
    if isinstance(asked, ScoresRequest):
        return ScoresReport(partition, scores)
    if isinstance(asked, SizeRequest):
        return SizeReport(partition, len(scores), *((scores.min(), scores.max()) if len(scores) else (0.0, 0.0)))
    if isinstance(asked, SketchRequest):
        return SketchReport(partition, len(scores), np.frombuffer(sketch_of(scores, asked.kind), np.uint8))
    assert isinstance(asked, HistogramRequest)
    return HistogramReport(partition, encode(ScoreGrid.from_text(asked.grid).count(scores)[None]))


def driven(strategy, *clients, missing=()):
    """The strategy after all its rounds; `missing` holds (round, partition)."""
    for turn in range(1, strategy.num_rounds + 1):
        asked = strategy.ask(turn)
        there = [(k, scores) for k, scores in enumerate(clients) if (turn, k) not in missing]
        strategy.take(turn, columns([answer(asked, k, scores) for k, scores in there]))
    return strategy


def fcp(alpha, *clients, mixture="size", sketch="exact", **how):
    return driven(FCP(Federation(""), alpha=alpha, score=RESIDUAL, sketch=sketch, mixture=mixture), *clients, **how)


def fedhist(alpha, *clients, score=LAC, bins=512, **how):
    return driven(FedHistCP(Federation(""), alpha=alpha, score=score, bins=bins), *clients, **how)


def hdcp(alpha, *clients, score=LAC, levels=1000, **how):
    return driven(HDCP(Federation(""), alpha=alpha, score=score, levels=levels), *clients, **how)


def by_definition(clients, mixture, alpha):
    """The weighted quantile with a point at infinity for each client, in fractions, point by point."""
    total = sum(Fraction(str(p)) for p in mixture)
    points = [
        (score, Fraction(str(p)) / total / (len(scores) + 1))
        for scores, p in zip(clients, mixture, strict=True)
        for score in [*scores, math.inf]
    ]
    need = 1 - Fraction(str(alpha))
    return min(q for q, _ in points if sum(w for score, w in points if score <= q) >= need)


# ------------------------------------------------------------------------------------------------- mixtures, exactly

few = st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]) | unit, max_size=6)


@quick
@given(st.lists(few, min_size=1, max_size=5), alphas, st.data())
def test_a_mixtures_threshold_is_the_definitions(clients, alpha, data):
    k = len(clients)
    parts = data.draw(st.lists(st.sampled_from([0, 0.1, 0.3, 1, 2.5]), min_size=k, max_size=k).filter(any))
    assert mixture_threshold(clients, parts, alpha) == by_definition(clients, parts, alpha)
    assert fcp(alpha, *clients, mixture=tuple(parts)).global_threshold == by_definition(clients, parts, alpha)
    assert fcp(alpha, *clients, mixture="uniform").global_threshold == by_definition(clients, [1] * k, alpha)


@quick
@given(st.lists(st.lists(unit, max_size=30), min_size=1, max_size=6), alphas)
def test_by_size_it_is_the_order_statistic_of_rank_n_plus_k(clients, alpha):
    pool, k = np.sort(np.concatenate([np.array(c) for c in clients])), len(clients)
    rank = math.ceil((len(pool) + k) * (1 - Fraction(str(alpha))))
    expected = pool[rank - 1] if rank <= len(pool) else math.inf
    assert fcp(alpha, *clients).global_threshold == expected


def test_one_client_is_split_conformal():
    scores = np.random.default_rng(0).random(57)
    assert fcp(0.1, scores).global_threshold == pooled_threshold([scores], 0.1)


def test_ranks_are_not_those_of_floats():
    """(N + K)(1 - alpha) whole in exact arithmetic, and a little more in floats."""
    percents = [(n, a) for a in range(1, 100) for n in range(3, 200) if n * a % 100 == 0 and n * a >= 200]
    slips = [(n, a) for n, a in percents if math.ceil(n * (1 - a / 100)) != n * (100 - a) // 100]
    assert len(slips) > 20
    for n, a in slips:
        pool = np.arange(1.0, n - 1)  # N = n - 2 scores of K = 2 clients
        assert fcp(a / 100, pool[::2], pool[1::2]).global_threshold == n * (100 - a) // 100


def test_the_rank_is_n_plus_k_not_n_plus_one():
    pool = np.arange(1.0, 91.0)
    assert fcp(0.1, *np.split(pool, 10)).global_threshold == 90.0  # ceil(100 * 0.9)
    assert pooled_threshold([pool], 0.1) == 82.0
    assert fcp(0.1, *np.split(pool[:-10], 10)).global_threshold == math.inf  # ceil(90 * 0.9) = 81 of 80


@pytest.mark.parametrize("sketch", ["exact", "tdigest", "ddsketch"])
def test_a_rank_above_all_scores_is_infinite_not_an_error(sketch):
    assert fcp(0.1, [0.5], [0.25, 0.75], sketch=sketch).global_threshold == math.inf
    assert fcp(0.1, [], [], sketch=sketch).global_threshold == math.inf


def test_one_small_client_alone_makes_the_uniform_mixture_infinite():
    rng = np.random.default_rng(2)
    clients = [rng.random(200) for _ in range(4)] + [rng.random(1)]
    assert fcp(0.1, *clients).global_threshold < 1
    told = fcp(0.1, *clients, mixture="uniform")
    assert told.global_threshold == math.inf
    detail = told.detail()
    weight = 0.8 / 201 + 0.2 / 2
    assert detail["weight_at_infinity"] == pytest.approx(weight, abs=1e-12)
    assert detail["heaviest_at_infinity"] == {"client": 4, "num_calibration": 1, "weight": pytest.approx(0.1)}
    assert detail["coverage_between_without_ties"] == [0.9, 1.0]
    json.dumps(detail)


def test_a_client_without_points_brings_its_point_at_infinity():
    pool = np.arange(1.0, 90.0)
    assert fcp(0.1, pool).global_threshold == 81.0
    assert fcp(0.1, pool, []).global_threshold == math.ceil(91 * 0.9) == 82
    assert fcp(0.1, pool, [], mixture=(1, 0)).global_threshold == 81.0
    assert fcp(0.1, pool, [], mixture="uniform").global_threshold == math.inf


def test_detail_gives_the_width_of_the_guarantee():
    detail = fcp(0.1, np.arange(30.0), np.arange(50.0)).detail()
    assert detail["num_calibration"] == 80
    assert detail["weight_at_infinity"] == pytest.approx(2 / 82)
    assert detail["coverage_between_without_ties"] == pytest.approx([0.9, 0.9 + 2 / 82])
    assert fcp(0.1, np.arange(30.0), sketch="tdigest").detail()["coverage_between_without_ties"] is None
    assert fcp(0.1).detail() == {"num_calibration": 0, "clients": 0}


def test_clients_that_do_not_answer_are_in_no_mixture():
    pool = np.arange(1.0, 90.0)
    away = fcp(0.1, pool, pool + 100, mixture=(1, 3), missing={(1, 1)})
    assert away.global_threshold == 81.0
    assert away.thresholds == {0: 81.0}
    assert fcp(0.1, pool, pool, mixture=(0, 1), missing={(1, 1)}).global_threshold == math.inf
    assert fcp(0.1, pool, missing={(1, 0)}).thresholds == {}


@pytest.mark.parametrize(("mixture", "message"), [
    ((1.0, 2.0), "2 numbers for 3 clients"), ((0.0, 0.0, 0.0), "only zeros"),
    ((1.0, -1.0, 1.0), r"mixture\[1\] = -1.0"),
    ((math.nan, 1.0, 1.0), r"mixture\[0\] = nan"), ((1.0, 1.0, math.inf), r"mixture\[2\] = inf"),
])  # fmt: skip
def test_what_is_no_mixture_of_these_clients_is_refused(mixture, message):
    with pytest.raises(ValueError, match=message):
        FCP(Federation("", tiers=("a", "a", "b")), alpha=0.1, score=LAC, mixture=mixture)


def test_a_client_beyond_the_mixture_is_refused():
    with pytest.raises(ValueError, match="mixture holds 1 numbers, and there is a client 1"):
        fcp(0.1, [0.5], [0.5], mixture=(1.0,))


@pytest.mark.parametrize(("options", "message"), [
    (["calibrate.mixture=[0,0]"], "at least one client must count"), (["calibrate.mixture=[1,-1]"], "none below 0"),
    (["calibrate.mixture=[1,2,3]"], r"calibrate\.mixture holds 3 numbers, but clients\.count = 40: must be one"),
    (["calibrate.sketch=tdigest", "calibrate.mixture=uniform"], "goes with mixture = 'size' alone"),
])  # fmt: skip
def test_a_scenario_says_what_is_no_mixture(options, message):
    with pytest.raises(ScenarioError, match=message):
        Scenario.load("digits", "calibrate=fcp", *options)


# ---------------------------------------------------------------------------------------------------------- guarantees

SIZES = (0, 4, 9, 30, 61)
POWERS = np.array([0.5, 1.0, 2.0, 4.0, 8.0])  # client k's scores are U^(1 / power), so F_k(q) = q^power


def coverages(method, mixture, runs=1000):
    """Mixture coverage, mean and standard error, with the clients' laws in closed form."""
    rng, pi = np.random.default_rng(7), np.array(mixture, float) / np.sum(mixture)
    found = []
    for _ in range(runs):
        clients = [rng.random(n) ** (1 / power) for n, power in zip(SIZES, POWERS, strict=True)]
        q = min(method(clients), 1.0)
        found.append(float(pi @ q**POWERS))
    return np.mean(found), np.std(found) / math.sqrt(runs)


@pytest.mark.parametrize(("mixture", "parts"), [
    ("size", [n + 1 for n in SIZES]), ("uniform", [1] * 5), ((0.0, 1.0, 2.0, 5.0, 2.0), (0.0, 1.0, 2.0, 5.0, 2.0)),
])  # fmt: skip
def test_coverage_of_the_mixture_lies_between_its_bounds(mixture, parts):
    alpha = 0.4
    mean, error = coverages(lambda c: mixture_threshold(c, parts, alpha), parts)
    told = fcp(alpha, *[np.arange(float(n)) for n in SIZES], mixture=mixture)
    low, high = told.detail()["coverage_between_without_ties"]
    assert low - 4 * error <= mean <= high + 4 * error
    weight = sum(p / (n + 1) for p, n in zip(parts, SIZES, strict=True)) / sum(parts)
    assert high == pytest.approx(min(1.0, 0.6 + weight))


@pytest.mark.parametrize("bins", [4, 64])
def test_coverage_of_the_pool_by_a_histogram(bins):
    """Exchangeable scores of all clients: at least r / (N + 1), at most that and one bin's mass."""
    rng, alpha, runs = np.random.default_rng(5), 0.1, 400
    grid = grid_for(LAC, bins, [])
    widest = np.diff(np.concatenate([[0.0], grid.edges])).max()
    found = [fedhist(alpha, *np.split(rng.random(60), 3), bins=bins).global_threshold for _ in range(runs)]
    exact, error = conformal_rank(60, alpha) / 61, np.std(found) / math.sqrt(runs)
    assert exact - 4 * error <= np.mean(found) <= exact + widest + 4 * error


def test_coverage_of_h_dcp_is_fcps_and_a_level():
    rng, alpha, runs = np.random.default_rng(6), 0.4, 250
    found = [hdcp(alpha, *[rng.random(n) for n in SIZES], levels=50).global_threshold for _ in range(runs)]
    n, error = sum(SIZES), np.std(found) / math.sqrt(runs)
    rank = math.ceil((n + 5) * 0.6 - 1e-9)
    assert rank / (n + 1) - 4 * error <= np.mean(found) <= rank / (n + 1) + 1 / 50 + 4 * error


# ------------------------------------------------------------------------------------------------------------ sketches

KINDS = ["tdigest", "ddsketch"]


def pool_of(clients, kind):
    return merged([sketch_from(sketch_of(scores, kind), kind) for scores in clients])


@quick
@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=78), st.integers(0, 78))
def test_a_small_tdigest_holds_the_scores_themselves(scores, cut):
    """So that its ranks are ours: no rounding to whole percents, no rank too many."""
    pool = pool_of([scores[:cut], scores[cut:]], "tdigest")
    assert pool.count == len(scores)
    exact = sorted(scores)
    assert [pool.at_rank(rank) for rank in range(1, len(scores) + 1)] == exact


def test_levels_are_not_rounded_to_whole_percents():
    """N = 70, K = 2: rank 65, level .9286, which the published code rounds to .93, the 66th."""
    pool = np.arange(1.0, 71.0)
    for sketch in ("exact", "tdigest"):
        assert fcp(0.1, pool[:40], pool[40:], sketch=sketch).global_threshold == 65.0
    assert math.ceil(round(100 * 65 / 70) / 100 * 70) == 66


@pytest.mark.parametrize("sign", [1, -1, 0])
@pytest.mark.parametrize("n", [1, 2, 3, 10, 99, 200])
def test_ddsketch_answers_every_rank_with_its_own_score(n, sign):
    """Scores 5 % apart, positive, negative or both, so that a neighbour's answer would be seen."""
    scores = 1.05 ** np.arange(n) * (sign or 1)
    if not sign:
        scores = np.concatenate([scores, -scores, [0.0]])
    pool = pool_of(np.array_split(np.random.default_rng(n).permutation(scores), 3), "ddsketch")
    exact = np.sort(scores)
    assert pool.count == len(exact)
    found = np.array([pool.at_rank(rank) for rank in range(1, len(exact) + 1)])
    assert (np.abs(found - exact) <= 0.0100001 * np.abs(exact)).all()


def test_ddsketch_near_one_tells_no_two_thresholds_apart():
    """Scores in [.985, .9999]: eight ranks in ten come out alike, and many too small, which is no guarantee."""
    scores = np.linspace(0.985, 0.9999, 200)
    pool = pool_of([scores], "ddsketch")
    found = np.array([pool.at_rank(rank) for rank in range(1, 201)])
    assert len(set(found)) <= 2
    assert (found < scores).mean() > 0.3
    assert fedhist(0.1, scores).global_threshold >= scores[conformal_rank(200, 0.1) - 1]


@pytest.mark.parametrize(("kind", "most"), [("tdigest", 0.02), ("ddsketch", 0.03)])
@pytest.mark.parametrize("law", ["even", "confident", "residuals", "negative"])
def test_the_rank_of_a_sketchs_answer_is_off_by_little(law, kind, most):
    rng = np.random.default_rng(9)
    draw = {
        "even": rng.random, "confident": lambda n: 1 / (1 + np.exp(rng.normal(5, 4, n))),
        "residuals": lambda n: np.abs(rng.normal(size=n)), "negative": lambda n: rng.normal(-1, 2, n),
    }[law]  # fmt: skip
    for n in (20, 100, 1000):
        clients = [draw(n) for _ in range(20)]
        pool = np.sort(np.concatenate(clients))
        rank = math.ceil((len(pool) + 20) * 0.9)
        found = fcp(0.1, *clients, sketch=kind).global_threshold
        assert abs(np.searchsorted(pool, found, side="right") - rank) <= most * len(pool)


@pytest.mark.parametrize("law", ["even", "tied"])
def test_a_tdigest_answers_a_larger_rank_with_no_smaller_score_and_near_it(law):
    """Its package's own quantiles are 4 % of the scores off here, and not in the order of their ranks."""
    rng = np.random.default_rng(0)
    draw = rng.random if law == "even" else lambda n: rng.integers(0, 30, n) / 30
    clients = [draw(100) for _ in range(20)]
    pool, scores = pool_of(clients, "tdigest"), np.sort(np.concatenate(clients))
    found = np.array([pool.at_rank(rank) for rank in range(1, 2001)])
    assert (np.diff(found) >= 0).all()
    ranks = np.arange(1, 2001)
    above = np.searchsorted(scores, found, side="left") + 1 - ranks
    below = ranks - np.searchsorted(scores, found, side="right")
    off = np.maximum(np.maximum(above, below), 0) / 2000
    assert off.max() <= (0.005 if law == "even" else 0.035)


@pytest.mark.parametrize("kind", KINDS)
def test_merging_is_the_same_in_every_run_and_takes_empty_clients(kind):
    rng = np.random.default_rng(4)
    clients = [rng.random(300), np.zeros(0), rng.random(50), np.zeros(0)]
    codes = [sketch_of(scores, kind) for scores in clients]
    assert codes == [sketch_of(scores, kind) for scores in clients]
    first, again = pool_of(clients, kind), pool_of(clients, kind)
    assert first.count == again.count == 350
    assert first.at_rank(300) == again.at_rank(300)


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_that_are_no_sketch_are_refused(kind):
    code = sketch_of(np.random.default_rng(0).random(150), kind)
    bad = [b"", b"\x00" * 40, code[: len(code) // 2], code[:-1], b"\xff" * 30, code + b"\x01"]
    for data in bad:
        with pytest.raises(ValueError, match=r"bytes are no|whole numbers"):
            sketch_from(data, kind)
    other = {"tdigest": "ddsketch", "ddsketch": "tdigest"}[kind]
    with pytest.raises(ValueError, match="bytes are no"):
        sketch_from(sketch_of([0.5, 0.25], other), kind)


def test_ddsketches_that_would_spoil_the_sum_are_refused():
    from ddsketch import DDSketch
    from ddsketch.pb.proto import DDSketchProto

    other = DDSketch(0.02)
    other.add(1.0)
    with pytest.raises(ValueError, match=r"relative accuracy 0\.01"):
        sketch_from(DDSketchProto.to_proto(other).SerializeToString(), "ddsketch")
    for name, value, message in [
        ("contiguousBinIndexOffset", 10**8, "relative accuracy"), ("contiguousBinCounts", [0.5], "whole numbers"),
        ("contiguousBinCounts", [-1.0], "whole numbers"), ("contiguousBinCounts", [math.inf], "whole numbers"),
        ("contiguousBinCounts", [math.nan], "whole numbers"),
    ]:  # fmt: skip
        told = DDSketchProto.to_proto(DDSketch(0.01))
        if isinstance(value, list):
            getattr(told.positiveValues, name).extend(value)
        else:
            setattr(told.positiveValues, name, value)
        with pytest.raises(ValueError, match=message):
            sketch_from(told.SerializeToString(), "ddsketch")


def test_a_sketch_that_is_none_or_of_another_number_is_refused():
    question = FCP(alpha=0.1, score=LAC, sketch="tdigest").question()
    told = np.frombuffer(sketch_of([0.5, 0.25], "tdigest"), np.uint8)
    with pytest.raises(ValueError, match="a sketch of 2 scores, and it says 5"):
        question.check(columns([SketchReport(3, 5, told)]))
    with pytest.raises(ValueError, match="2 bytes are no t-digest"):
        question.check(columns([SketchReport(3, 5, np.zeros(2, np.uint8))]))


def test_a_sketch_takes_finite_scores_of_a_known_kind():
    with pytest.raises(ValueError, match="finite"):
        sketch_of([0.5, math.inf], "tdigest")
    with pytest.raises(ValueError, match="kind = 'kll': must be one of tdigest, ddsketch"):
        sketch_of([0.5], "kll")


@pytest.mark.parametrize(("n", "digest", "histogram"), [(20, 352, 22), (100, 1400, 57), (1000, 1700, 195)])
def test_bytes_of_a_sketch_and_of_a_histogram(n, digest, histogram):
    """A t-digest has 16 bytes a centroid, and one for each score at first; the histogram a tenth of it."""
    scores = np.random.default_rng(n).random(n)
    assert len(sketch_of(scores, "tdigest")) <= digest
    assert len(sketch_of(scores, "ddsketch")) > len(sketch_of(scores, "tdigest"))
    assert len(encode(grid_for(LAC, 512, []).count(scores)[None])) <= histogram


# ---------------------------------------------------------------------------------------------------------- histograms


@quick
@given(st.lists(st.lists(unit, max_size=20), min_size=1, max_size=5), alphas, st.integers(2, 300))
def test_fedhist_is_the_pooled_threshold_rounded_up(clients, alpha, bins):
    exact = pooled_threshold(clients, alpha)
    found = fedhist(alpha, *clients, bins=bins)
    edges = found.grid.edges
    assert found.num_rounds == 1
    assert found.global_threshold == (math.inf if math.isinf(exact) else edges[edges >= exact][0])
    assert found.thresholds == dict.fromkeys(range(len(clients)), found.global_threshold)


anywhere = st.floats(-1e6, 1e6)


@quick
@given(st.lists(st.lists(anywhere, max_size=20), min_size=1, max_size=5), alphas, st.integers(2, 300))
def test_a_grid_chosen_from_the_scores_rounds_up_too(clients, alpha, bins):
    exact = pooled_threshold(clients, alpha)
    found = fedhist(alpha, *clients, score=RESIDUAL, bins=bins)
    edges = found.grid.edges
    assert found.num_rounds == 2
    assert found.global_threshold == (math.inf if math.isinf(exact) else edges[edges >= exact][0])
    pool = [s for scores in clients for s in scores]
    if pool:
        assert (found.grid.low, found.grid.high) == (min(pool), max(pool))
    one = hdcp(alpha, *clients, score=RESIDUAL, levels=bins).global_threshold
    exact = fcp(alpha, *clients).global_threshold
    assert one == (math.inf if math.isinf(exact) else edges[edges >= exact][0])


@quick
@given(st.lists(st.lists(unit, max_size=20), min_size=1, max_size=5), alphas, st.integers(1, 300))
def test_h_dcp_is_fcp_rounded_up_to_a_level(clients, alpha, levels):
    exact = fcp(alpha, *clients).global_threshold
    found = hdcp(alpha, *clients, levels=levels)
    ends = np.arange(1, levels + 1) / levels
    assert (found.grid.edges == ends).all()
    assert found.global_threshold == (math.inf if math.isinf(exact) else ends[ends >= exact][0])


@pytest.mark.parametrize("score", [LAC, RESIDUAL])
@pytest.mark.parametrize("method", [fedhist, hdcp])
def test_clients_without_points(method, score):
    assert method(0.1, [], [], score=score).thresholds == {0: math.inf, 1: math.inf}
    assert method(0.1, score=score).thresholds == {}
    alone = method(0.1, [], np.linspace(0.5, 0.75, 60), score=score)
    assert 0.7 < alone.global_threshold <= 0.76
    if score == RESIDUAL:
        assert (alone.grid.low, alone.grid.high) == (0.5, 0.75)  # the empty client's zeros are no scores


@pytest.mark.parametrize("method", [fedhist, hdcp])
def test_a_client_that_missed_the_first_round_can_have_scores_above_the_grid(method):
    low, high = np.linspace(0, 1, 50), np.linspace(5, 6, 50)
    found = method(0.5, low, high, score=RESIDUAL, missing={(1, 1)})
    assert found.grid.high == 1.0
    assert found.global_threshold == math.inf  # rank 51 or more of 100 lies above: no smaller number would do
    assert set(found.thresholds) == {0, 1}
    assert method(0.75, low, high, score=RESIDUAL, missing={(1, 1)}).global_threshold <= 1.0


@pytest.mark.parametrize("method", [fedhist, hdcp])
def test_a_client_that_misses_the_second_round_gets_a_threshold(method):
    found = method(0.1, np.linspace(0, 1, 50), np.linspace(5, 6, 50), score=RESIDUAL, missing={(2, 1)})
    assert set(found.thresholds) == {0, 1}
    assert 0.85 < found.global_threshold < 1.2


def test_infinite_scores_are_above_every_grid():
    scores = np.append(np.linspace(0, 1, 50), np.full(3, np.inf))
    found = fedhist(0.1, scores, score=RESIDUAL)
    assert found.grid.high == 0.0 == found.grid.low  # the largest is not finite, and nothing else was told
    assert found.global_threshold == math.inf


def test_a_code_of_no_such_histogram_is_refused():
    question = FedHistCP(alpha=0.1, score=LAC).ask(1)
    with pytest.raises(ValueError, match="a histogram's code"):
        question.check(columns([HistogramReport(7, np.zeros(1, np.uint8))]))
    owed = np.zeros((1, 513), int)
    owed[0, 4] = -2
    with pytest.raises(ValueError, match="a histogram with a count below 0"):
        question.check(columns([HistogramReport(7, encode(owed))]))
    with pytest.raises(ValueError, match="300 bins do not divide 512"):
        question.check(columns([HistogramReport(7, encode(np.zeros((1, 301), int)))]))


def test_histograms_merge_to_the_histogram_of_all():
    rng = np.random.default_rng(0)
    clients = [rng.random(n) for n in (5, 0, 70, 31)]
    assert fedhist(0.1, *clients).global_threshold == fedhist(0.1, np.concatenate(clients)).global_threshold


# -------------------------------------------------------------------------------------------------------------- bounds


class Halved:
    """A user's own score that says between what it lies."""

    bounds = (0.0, 0.5)


class Unknown:
    """A user's own score that does not."""


def test_what_is_known_of_a_scores_range():
    assert bounds_of(LAC) == bounds_of(APS) == (0.0, 1.0)
    assert bounds_of('{"name": "raps", "randomized": true, "penalty": 0.1, "k_reg": 1}') is None
    assert bounds_of(RESIDUAL) is None
    assert bounds_of('{"name": "cqr"}') is None
    assert bounds_of(f'{{"name": "{__name__}:Halved"}}') == (0.0, 0.5)
    assert bounds_of(f'{{"name": "{__name__}:Unknown"}}') is None
    assert grid_for(f'{{"name": "{__name__}:Halved"}}', 8, []).high == 0.5


def test_no_aps_score_is_above_one():
    """Probabilities that add up to a little more than 1 in floats; the score at calibration is the one of a test."""
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(10), 20_000)
    assert np.cumsum(np.sort(p)[:, ::-1], axis=1)[:, -1].max() > 1
    for score, uniforms in ((Aps(randomized=False), None), (Aps(randomized=True), np.zeros(len(p)))):
        assert score.all_labels(p, uniforms).max() == 1.0
        assert score.of(p, p.argmin(axis=1), uniforms).max() == 1.0
    grid = grid_for(APS, 512, [])
    assert grid.count(Aps(randomized=False).of(p, p.argmin(axis=1), None))[-1] == 0


# ------------------------------------------------------------------------------------------------------------ the runs


def test_runs_of_digits(store):
    def run(*options):
        quick = ("runtime.name=inline", "clients.tier.strong.epochs=5")
        return simulate(Scenario.load("digits", *quick, *options), store=store.root)

    pooled, exact = run("calibrate=pooled").calibrate, run("calibrate=fcp").calibrate
    assert exact["threshold"] >= pooled["threshold"]
    for sketch in KINDS:
        found = run("calibrate=fcp", f"calibrate.sketch={sketch}").calibrate
        assert found["threshold"] == pytest.approx(exact["threshold"], rel=0.05)
        assert found["bytes_up_per_client"] > exact["bytes_up_per_client"]  # 20 scores are less than any sketch of them
    assert run("calibrate=fcp", "calibrate.mixture=uniform").calibrate["coverage"] >= exact["coverage"] - 0.1
    levels = run("calibrate=h-dcp").calibrate
    assert exact["threshold"] <= levels["threshold"] <= exact["threshold"] + 1e-3
    assert (levels["bytes_up_per_client"], levels["bytes_down_per_client"], levels["rounds"]) == (8008, 8, 1)
    ours = run("calibrate=fedhist-cp")
    assert pooled["threshold"] <= ours.calibrate["threshold"] <= pooled["threshold"] + 0.01
    assert (ours.calibrate["bytes_down_per_client"], ours.calibrate["rounds"]) == (8, 1)
    assert ours.calibrate["bytes_up_per_client"] < 20
    assert ours.summary["calibrate"]["detail"] == {"low": 0.0, "high": 1.0, "bins": 512}


def test_runs_of_regression(store):
    def run(*options):
        quick = ("runtime.name=inline", "clients.count=20", "clients.tier.strong.epochs=5")
        return simulate(Scenario.load("regression", *quick, *options), store=store.root)

    pooled, exact = run("calibrate=pooled").calibrate, run("calibrate=fcp").calibrate
    ours, levels = run("calibrate=fedhist-cp"), run("calibrate=h-dcp").calibrate
    step = ours.summary["calibrate"]["detail"]["high"] / 512
    assert pooled["threshold"] <= ours.calibrate["threshold"] <= pooled["threshold"] + step
    assert exact["threshold"] <= levels["threshold"] <= exact["threshold"] + 512 / 1000 * step
    assert (ours.calibrate["rounds"], levels["rounds"]) == (2, 2)
    assert levels["bytes_up_per_client"] == 8008 + 16
    assert ours.calibrate["bytes_up_per_client"] < 0.04 * exact["bytes_up_per_client"]
    assert ours.calibrate["bytes_down_per_client"] == levels["bytes_down_per_client"] == 24
