"""FedWQ-CP's refinements: robust means, densities, the second round, and scores on one scale."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from by_hand import columns
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from clients.calibrate import evaluate
from clients.scorer import Scorer
from fl_sim import simulate
from fl_sim.conformal.aggregation import aggregated, candidates, capped, density_at, least_coverage, smallest_sufficient
from fl_sim.conformal.alignment import RankScale, Ratio, root_mean_square
from fl_sim.conformal.probability_calibrators import best_temperature
from fl_sim.conformal.thresholds import (
    conformal_rank,
    conformal_threshold,
    local_threshold,
    min_calibration,
    pooled_threshold,
    weighted_mean_threshold,
)
from fl_sim.messages.calibration import EvaluateRequest, ThresholdReport, ThresholdRequest
from fl_sim.messages.summaries import CountsReport, CountsRequest
from fl_sim.scenario.scenario import Scenario
from fl_sim.scenario.strategies import calibrate_options, strategy
from strategies.base import Federation
from strategies.fedwq_cp import FedWQCP
from strategies.local import Local
from strategies.unweighted import Unweighted

SETTINGS = settings(derandomize=True, deadline=None, max_examples=150)
SCORES = st.lists(st.lists(st.integers(0, 12).map(float), max_size=25), min_size=1, max_size=6)
PAIRS = st.lists(st.tuples(st.floats(-5, 5), st.integers(1, 9)), min_size=1, max_size=9)
RULES: list[dict[str, Any]] = [
    {}, {"cap": 2.0}, {"aggregation": "median"}, {"aggregation": "trimmed", "trim": 0.2},
    {"aggregation": "trimmed", "trim": 0.45, "cap": 0.7},
]  # fmt: skip


def reports(*told: tuple[float, int] | tuple[float, int, float]) -> list[ThresholdReport]:
    return [ThresholdReport(k, *one) for k, one in enumerate(told)]


def fedwq_cp(alpha: float = 0.1, small_n: str = "clip", **how: Any) -> FedWQCP:
    return FedWQCP(Federation("p"), alpha=alpha, score="s", small_n=small_n, **how)


def told(strategy: Any, *answers: Any) -> float | None:
    strategy.take(1, columns(reports(*answers)))
    found: float | None = strategy.global_threshold
    return found


def played(strategy: FedWQCP, scores: Sequence[Sequence[float]], small_n: Any = "clip") -> FedWQCP:
    """Both rounds of a strategy, with clients that have these scores."""
    q_n = [local_threshold(s, strategy.alpha, small_n) for s in scores]
    strategy.take(1, columns(reports(*q_n)))
    if strategy.num_rounds == 2:
        asked = strategy.ask(2)
        assert isinstance(asked, CountsRequest)
        strategy.take(2, columns([counted(k, s, asked.candidates) for k, s in enumerate(scores)]))
    return strategy


def counted(k: int, scores: Sequence[float], among: Any) -> CountsReport:
    return CountsReport(k, len(scores), np.array([sum(s <= c for s in scores) for c in among], np.int64))


# ------------------------------------------------------------------------------------------------- the plain rule stays


@pytest.mark.parametrize("name", ["fedwq-cp", "unweighted", "local"])
def test_every_option_of_the_table_is_the_constructors(name):
    told = calibrate_options({"name": name, "alpha": 0.1, "score": "lac"}).arguments()
    made = strategy(name)(Federation("p"), **told)
    assert made.num_rounds == 1
    assert made.question() == ThresholdRequest(told["score"], 0.1, "clip", "", False)  # nothing new by default


@SETTINGS
@given(PAIRS)
def test_by_default_it_is_the_published_mean(pairs):
    assert told(fedwq_cp(), *pairs) == weighted_mean_threshold(*zip(*pairs, strict=True))
    assert told(Unweighted(Federation("p"), alpha=0.1, score="s"), *pairs) == weighted_mean_threshold(
        [q for q, _ in pairs], [1] * len(pairs)
    )


def test_local_keeps_its_own():
    local = Local(Federation("p"), alpha=0.1, score="s")
    local.take(1, columns(reports((0.5, 10), (0.75, 30), (math.inf, 0))))
    assert local.thresholds == {0: 0.5, 1: 0.75, 2: math.inf}


def test_either_density_rule_but_not_both():
    told = {"name": "fedwq-cp", "alpha": 0.1, "score": "lac", "weights": "precision", "correction": "density"}
    with pytest.raises(ValueError, match="either sets the weights"):
        calibrate_options(told)


# --------------------------------------------------------------------------------------------------------- robust means


def test_robust_means_by_hand():
    q, n = [0.1, 0.2, 0.4, 0.8], [10, 10, 10, 10]
    assert aggregated(q, n, "median") == 0.4  # the upper one
    assert aggregated(q, [10, 11, 10, 10], "median") == 0.2  # 21 of 41 are reached there
    # A tenth of 40 is 4, cut off 0.1 and 0.8: (6 * 0.1 + 10 * 0.2 + 10 * 0.4 + 6 * 0.8) / 32
    assert aggregated(q, n, "trimmed", trim=0.1) == pytest.approx(11.4 / 32, abs=1e-15)
    assert aggregated(q, n, "trimmed", trim=0.25) == pytest.approx(0.3, abs=1e-15)
    assert aggregated(q, n, "trimmed", trim=0.0) == aggregated(q, n)
    assert capped([10, 20, 30, 1000], 3).tolist() == [10, 20, 30, 60]  # the lower of 20 and 30 is the median
    assert capped([0, 10, 0, 1000], 2).tolist() == [0, 10, 0, 20]
    assert aggregated([0.25, 0.5], [10, 10**12], cap=3) == 0.4375


@SETTINGS
@given(PAIRS)
def test_robust_means_against_their_definitions(pairs):
    q, n = (list(side) for side in zip(*pairs, strict=True))
    each = [threshold for threshold, weight in pairs for _ in range(weight)]
    assert aggregated(q, n, "median") == statistics.median_high(each)
    ten_each = sorted(each * 10)  # so that a tenth of them is a whole number
    kept = ten_each[len(each) : -len(each)]
    assert aggregated(q, n, "trimmed", trim=0.1) == pytest.approx(
        float(sum(map(Fraction, kept)) / len(kept)), abs=1e-12
    )


@SETTINGS
@given(st.floats(0, 1), st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=9), st.sampled_from(RULES))
def test_equal_thresholds_are_their_own_mean_to_the_last_bit(q, weights, rule):
    assert aggregated([q] * len(weights), weights, **rule) == q


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_nobody_infinite_ones_and_those_without_weight(rule):
    assert aggregated([], [], **rule) == aggregated([0.5, 0.2], [0, 0], **rule) == math.inf
    assert aggregated([math.inf, 0.5, -7.0], [0, 4, 0], **rule) == 0.5
    assert aggregated([math.inf, math.inf], [2, 3], **rule) == math.inf


HONEST = [(0.30 + 0.01 * k, 20) for k in range(9)]  # thresholds 0.30 to 0.38


@pytest.mark.parametrize("lie", [1e9, -1e9, math.inf])
def test_one_liar_about_its_threshold_moves_the_mean_alone(lie):
    crowd = [*HONEST, (lie, 20)]
    assert not 0 < aggregated(*zip(*crowd, strict=True)) < 1e6
    assert not 0 < told(fedwq_cp(cap=1.0), *crowd) < 1e6  # a cap bounds weights, not thresholds
    for kind in (fedwq_cp, lambda **how: Unweighted(Federation("p"), alpha=0.1, score="s", **how)):
        for rule in ({"aggregation": "median"}, {"aggregation": "trimmed", "trim": 0.1}):
            assert 0.30 <= told(kind(**rule), *crowd) <= 0.38


def test_one_liar_about_its_number_of_points_takes_all_the_weight_unless_it_is_capped():
    crowd = [*HONEST, (0.9, 10**12)]
    for rule in ({}, {"aggregation": "median"}, {"aggregation": "trimmed", "trim": 0.1}):
        assert told(fedwq_cp(**rule), *crowd) > 0.899  # shares of a weight that clients claim for themselves
        assert told(fedwq_cp(cap=1.0, **rule), *crowd) < 0.41
    assert told(Unweighted(Federation("p"), alpha=0.1, score="s"), *crowd) == pytest.approx((3.06 + 0.9) / 10)
    for q in (1e9, -1e9):  # a liar about both
        assert 0.30 <= told(fedwq_cp(cap=2.0, aggregation="median"), *HONEST, (q, 10**12)) <= 0.38
        assert 0.30 <= told(fedwq_cp(cap=2.0, aggregation="trimmed", trim=0.2), *HONEST, (q, 10**12)) <= 0.38


@SETTINGS
@given(st.integers(3, 30), st.integers(1, 15), st.sampled_from([1, 2, 5]), st.sampled_from([0.1, 0.25, 0.4]))
def test_as_many_liars_as_stated_are_stood(clients, liars, cap, trim):
    honest = max(clients - liars, 0)
    crowd = ([0.5] * honest + [1e9] * liars, [7] * honest + [10**9] * liars)
    total = honest + liars
    if liars < Fraction(total, cap + 1):
        assert aggregated(*crowd, "median", cap=cap) == 0.5
    share = Fraction(str(trim))
    if liars < min(share * total / (share + (1 - share) * cap), Fraction(total, 2)):
        assert aggregated(*crowd, "trimmed", trim, cap) == 0.5


@pytest.mark.parametrize(
    ("bad", "rule"),
    [
        ({"aggregation": "mode"}, "must be one of mean, median, trimmed"),
    ],
)
def test_impossible_rules_are_refused(bad, rule):
    with pytest.raises(ValueError, match=rule):
        aggregated([0.5], [1], **bad)


# -------------------------------------------------------------------------------------------------------------- density


def test_weights_from_densities_by_hand():
    crowd = [(0.2, 10, 3.0), (0.8, 10, 1.0)]
    assert told(fedwq_cp(), *crowd) == 0.5
    assert told(fedwq_cp(weights="precision"), *crowd) == pytest.approx((90 * 0.2 + 10 * 0.8) / 100)
    assert told(fedwq_cp(correction="density"), *crowd) == pytest.approx((30 * 0.2 + 10 * 0.8) / 40)
    # The correction solves sum n_k (F_k + f_k (q - q_k)) = (1 - alpha) N where every F_k is 1 - alpha.
    q = told(fedwq_cp(correction="density"), *crowd)
    assert sum(n * (0.9 + f * (q - q_k)) for q_k, n, f in crowd) == pytest.approx(0.9 * 20)


@pytest.mark.parametrize("how", [{"weights": "precision"}, {"correction": "density"}])
def test_densities_are_asked_for_counted_and_cannot_break_the_mean(how):
    strategy = fedwq_cp(**how)
    assert strategy.question() == ThresholdRequest("s", 0.1, "clip", "", True)
    assert strategy.information_up(columns([ThresholdReport(0, 0.5, 9, 2.0)])) == 24
    assert told(strategy, (0.2, 10, 1.0), (math.inf, 5, 0.0)) == math.inf  # "inf" means what it says
    assert told(strategy, (0.2, 10, 1.0), (math.inf, 0, 0.0)) == 0.2
    assert told(strategy, (0.2, 1, 0.0), (0.4, 3, 0.0)) == pytest.approx(0.35)  # nobody has a density: by size
    assert told(strategy, (0.2, 10, 0.0), (0.4, 3, 1.0)) == 0.4
    assert told(strategy, (0.2, 10, 1.0), (0.4, 10**12, math.inf)) == 0.4
    assert told(strategy) == math.inf
    assert fedwq_cp().information_up(columns([ThresholdReport(0, 0.5, 9)])) == 16


@pytest.mark.parametrize(
    "law", [stats.norm(), stats.expon(scale=7), stats.beta(0.6, 3), stats.beta(0.1, 3)], ids=lambda law: law.dist.name
)
def test_the_density_tends_to_the_true_one(law):
    rng = np.random.default_rng(1)

    def error(n: int) -> float:
        found = []
        for _ in range(30):
            scores = law.rvs(n, random_state=rng)
            found.append(density_at(scores, conformal_threshold(scores, 0.1)) / law.pdf(law.ppf(0.9)) - 1)
        return float(np.sqrt(np.mean(np.square(found))))

    few, many = error(300), error(30_000)
    assert many < 0.06
    assert many < few / 2


def test_a_kernel_with_one_width_would_report_its_own_height():
    rng = np.random.default_rng(2)
    law = stats.beta(0.05, 3)  # a confident classifier's scores: three quarters of them below 0.003
    scores = law.rvs(400, random_state=rng)
    q = conformal_threshold(scores, 0.1)
    spread = float(np.subtract(*np.quantile(scores, [0.75, 0.25]))) / 1.34
    width = 0.9 * spread * len(scores) ** -0.2
    kernel = stats.norm.pdf((scores - q) / width).mean() / width
    truth = law.pdf(law.ppf(0.9))
    assert kernel > 3 * truth
    assert truth / 2 < density_at(scores, q) < 2 * truth


def test_densities_that_cannot_be_told_are_0_and_those_of_scaled_scores_scale():
    assert density_at([], 0.5) == density_at([0.5], 0.5) == density_at([0.5] * 9, 0.5) == 0.0
    assert density_at([0.1, 0.2], math.inf) == density_at([0.1, math.inf], 0.1) == 0.0
    scores = np.random.default_rng(3).random(50)
    assert density_at(8 * scores, 8 * 0.9) == pytest.approx(density_at(scores, 0.9) / 8)
    assert density_at([0.0] * 20 + [1.0] * 30, 1.0) > 0  # ties about the threshold: as far as the next score


def test_precision_weights_have_the_least_variance_where_thresholds_agree():
    rng = np.random.default_rng(4)
    means = {power: [] for power in (0, 2)}
    for _ in range(300):  # both clients' true threshold is 1, the second's scores are ten times as spread there
        first, second = 1 + 0.1 * (rng.random(400) - 0.9), 1 + (rng.random(400) - 0.9)
        told = [
            (*local_threshold(s, 0.1, "clip"), density_at(s, local_threshold(s, 0.1, "clip")[0]))
            for s in (first, second)
        ]
        for power in means:
            means[power].append(weighted_mean_threshold([q for q, _, _ in told], [n * f**power for _, n, f in told]))
    assert np.std(means[2]) < np.std(means[0]) / 3


# --------------------------------------------------------------------------------------------------------- second round


@SETTINGS
@given(SCORES, st.sampled_from([0.05, 0.1, 0.25, 0.5]), st.lists(st.floats(-1, 13), max_size=8))
def test_whatever_the_candidates_the_threshold_is_at_least_split_conformals_on_all_scores(scores, alpha, among):
    n = sum(map(len, scores))
    counts = np.sum([counted(0, s, among).counts for s in scores], axis=0)
    q = smallest_sufficient(among, counts, n, alpha)
    assert q >= pooled_threshold(scores, alpha)
    better = [c for c in among if sum(x <= c for s in scores for x in s) >= conformal_rank(n, alpha)]
    assert q == min(better, default=math.inf)


@SETTINGS
@given(SCORES, st.sampled_from([0.1, 0.25, 0.5]), st.integers(1, 12), st.sampled_from(["clip", "inf", "drop"]))
def test_the_second_round_covers_the_pool(scores, alpha, feedback, small_n):
    strategy = played(fedwq_cp(alpha, small_n, feedback=feedback), scores, small_n)
    q = strategy.global_threshold
    assert q is not None
    assert q >= pooled_threshold(scores, alpha)
    assert strategy.thresholds == dict.fromkeys(range(len(scores)), q)
    sizes = [len(s) for s in scores if s]
    if sizes and min(sizes) >= min_calibration(alpha):
        assert q <= max(local_threshold(s, alpha, "inf")[0] for s in scores if s) < math.inf
    assert strategy.counts == {k: (sum(x <= q for x in s), len(s)) for k, s in enumerate(scores)}
    json.dumps(strategy.detail(), allow_nan=False)


def test_the_second_round_mends_what_the_mean_gets_wrong():
    rng = np.random.default_rng(5)
    scores = [*(0.01 * rng.beta(1, 9, 200) for _ in range(6)), *(rng.beta(9, 1, 200) for _ in range(4))]
    everybody = np.concatenate(scores)
    assert (everybody <= played(fedwq_cp(), scores).global_threshold).mean() < 0.7
    for feedback, excess in ((2, 0.1), (8, 0.06), (64, 0.02)):
        assert 0.9 <= (everybody <= played(fedwq_cp(feedback=feedback), scores).global_threshold).mean() < 0.9 + excess


def test_candidates_by_hand():
    # 0, 1, 4 of masses 1, 1, 2: places 0, 1/4, 1, middles of mass 1/2, 3/2, 3, so 0, 2/5, 1; in the mean 0, 0.325, 1.
    among = candidates([0, 4, 1], [1, 2, 1], 2.0, 5)
    assert among.tolist() == pytest.approx([0.25 / 0.325, 1 + 3 * 0.175 / 0.675, 2.0, 1 + 3 * 0.425 / 0.675, 4.0])
    assert candidates([0.2, 0.7, math.inf, 9.0], [1, 1, 1, 0], math.inf, 1).tolist() == [0.7]
    assert candidates([0.2, 0.7], [1, 1], 0.4, 2).tolist() == [0.4, 0.7]
    assert candidates([0.5, 0.5], [1, 1], 0.5, 30).tolist() == [0.5]
    assert candidates([math.inf], [3], math.inf, 5).tolist() == [math.inf]


@SETTINGS
@given(PAIRS, st.integers(2, 40))
def test_candidates_are_rising_few_and_close(pairs, count):
    q, n = (list(side) for side in zip(*pairs, strict=True))
    among = candidates(q, n, aggregated(q, n), count)
    assert len(among) <= count
    assert among[-1] == max(q)
    assert min(q) <= among[0]
    assert (np.diff(among) > 0).all()
    steps = np.diff(np.concatenate([[min(q)], among]))
    assert (steps <= 2 * (max(q) - min(q)) / (count - 1) * (1 + 1e-9) + 1e-12).all()


def test_a_certificate_is_clopper_and_pearsons():
    assert least_coverage(0, 10) == 0.0
    assert least_coverage(10, 10) == pytest.approx(0.05 ** (1 / 10))
    for covered, n in ((1, 4), (17, 20), (180, 200)):
        p = least_coverage(covered, n)
        assert stats.binom.sf(covered - 1, n, p) == pytest.approx(0.05)
    strategy = played(fedwq_cp(0.5, feedback=5), [[1.0, 2.0, 3.0], [4.0]])
    assert strategy.global_threshold == 3.0  # ceil(5 / 2) = 3 of 4 scores; candidates 2, 2.5, 3, 3.5, 4 among others
    assert strategy.detail()["certificate"]["0"] == {"covered": 3, "of": 3, "at_least": least_coverage(3, 3)}
    assert strategy.detail()["certificate"]["1"] == {"covered": 0, "of": 1, "at_least": 0.0}


def test_missing_answers_in_either_round():
    strategy = fedwq_cp(0.5, feedback=4)
    strategy.take(1, columns([], ThresholdReport))
    strategy.take(2, columns([], CountsReport))
    assert strategy.global_threshold == math.inf
    strategy = fedwq_cp(0.5, feedback=4)
    strategy.take(1, columns(reports((2.0, 3), (4.0, 1))))
    strategy.take(2, columns([counted(1, [4.0], strategy.ask(2).candidates)]))
    assert strategy.thresholds == {0: 4.0, 1: 4.0}  # of those who answered, the one score has rank 1
    assert strategy.detail()["certificate"].keys() == {"1"}
    strategy.take(2, columns([counted(5, [7.0], strategy.ask(2).candidates)]))
    assert strategy.thresholds == {0: math.inf, 1: math.inf, 5: math.inf}
    assert strategy.detail()["certificate"]["5"] == {"covered": 1, "of": 1, "at_least": 1.0}


def test_bytes_of_the_second_round():
    strategy = fedwq_cp(feedback=5)
    strategy.take(1, columns(reports((0.1, 30), (0.9, 20))))
    asked = strategy.ask(2)
    assert isinstance(asked, CountsRequest)
    assert asked.information_bytes == 40
    assert strategy.information_up(columns([counted(0, [0.5] * 30, asked.candidates)])) == 20
    assert (
        fedwq_cp(small_n="drop").information_up(columns([counted(0, [0.5], [0.1])])) == 4 + 8
    )  # n_k was not told before


# ------------------------------------------------------------------------------------------------------------ alignment


def tiers(rng: np.random.Generator, n: int) -> list[np.ndarray]:
    """Scores of two clients whose scales are 1 and 10."""
    return [scale * rng.gamma(2.0, size=n) for scale in (1.0, 10.0)]


@pytest.mark.parametrize("make", [RankScale, lambda s: Ratio(root_mean_square(s))], ids=["rank", "temperature"])
def test_two_scales_get_one_threshold_that_covers_both(make):
    rng = np.random.default_rng(6)
    maps = [make(s) for s in tiers(rng, 2000)]
    calibration, test = tiers(rng, 5000), tiers(rng, 20_000)
    q = told(
        fedwq_cp(align="rank"),
        *(local_threshold(m.common(s), 0.1, "clip") for m, s in zip(maps, calibration, strict=True)),
    )
    cover = [float((m.common(s) <= q).mean()) for m, s in zip(maps, test, strict=True)]
    se = math.sqrt(0.09 / 5000 + 0.09 / 20_000 + 0.09 / 2000)
    assert all(abs(c - 0.9) < 4 * se for c in cover)
    assert [float((s <= m.own(q)).mean()) for m, s in zip(maps, test, strict=True)] == pytest.approx(cover, abs=1e-3)
    plain = told(fedwq_cp(), *(local_threshold(s, 0.1, "clip") for s in calibration))
    assert (test[0] <= plain).mean() > 0.99
    assert (test[1] <= plain).mean() < 0.7


def test_a_rank_threshold_covers_alike_whatever_the_clients_units():
    rng = np.random.default_rng(7)
    reference, calibration, test = rng.gamma(2.0, size=(3, 4000))
    q = conformal_threshold(RankScale(reference).common(calibration), 0.1)
    cover = (RankScale(reference).common(test) <= q).mean()
    for change in (np.log, np.sqrt, lambda s: s**3):
        ranks = RankScale(change(reference))
        changed = conformal_threshold(ranks.common(change(calibration)), 0.1)
        assert changed == pytest.approx(q, abs=1 / 3999)  # straight lines between the same ranks
        assert (ranks.common(change(test)) <= q).mean() == pytest.approx(cover, abs=2 / 3999)
    affine = RankScale(3 * reference + 1)
    assert conformal_threshold(affine.common(3 * calibration + 1), 0.1) == pytest.approx(q, rel=1e-12)


@SETTINGS
@given(st.lists(st.floats(-9, 9), max_size=20), st.lists(st.floats(-40, 40), min_size=1, max_size=20))
def test_a_rank_scale_rises_and_comes_back(reference, scores):
    ranks = RankScale(reference)
    values = np.sort(np.array([*scores, *reference]))
    common = ranks.common(values)
    assert (np.diff(common) >= 0).all()
    assert np.isfinite(common).all()
    for value, rank in zip(values.tolist(), common.tolist(), strict=True):
        span = max(np.ptp(reference) if reference else 1.0, 1e-300)
        if abs(rank) < 1e5:
            assert ranks.own(rank) == pytest.approx(value, abs=1e-6 * span + 1e-9)
    assert ranks.common(np.array([np.inf])).tolist() == [math.inf]
    assert ranks.own(math.inf) == math.inf


def test_scales_without_anything_to_go_by():
    assert RankScale([]).common([0.25, 2.0]).tolist() == [0.25, 2.0]
    assert RankScale([3.0, 3.0]).common([3.0, 3.5]).tolist() == [0.0, 0.5]
    assert RankScale([1.0, math.inf, 3.0]).common([2.0]).tolist() == [0.5]
    assert root_mean_square([]) == root_mean_square([0.0]) == root_mean_square([math.inf]) == 1.0
    assert root_mean_square([3.0, 4.0, math.inf]) == math.sqrt(12.5)
    assert best_temperature(np.zeros((0, 3)), np.zeros(0, np.int64)) == 1.0


def test_the_best_temperature_is_the_one_the_labels_were_drawn_at():
    rng = np.random.default_rng(8)
    logits = rng.normal(size=(40_000, 5))
    noisy = logits + rng.gumbel(size=logits.shape)  # labels drawn with the softmax's probabilities
    assert best_temperature(3 * logits, noisy.argmax(axis=1)) == pytest.approx(3.0, rel=0.05)


def residual_context(scale: float, seed: int = 14) -> Any:
    """A regression client whose errors are `scale` times a standard exponential."""
    rng = np.random.default_rng(seed)
    held = {split: scale * rng.exponential(size=400) for split in ("train", "calibration", "test")}
    data = SimpleNamespace(classes=None, in_unit=lambda outputs: np.asarray(outputs, np.float64), targets=held["test"])
    return SimpleNamespace(
        population=SimpleNamespace(data=data, seed=0, num_bins=10), client=SimpleNamespace(id=0, test=np.arange(400)),
        clients=(SimpleNamespace(id=0),), ids=np.array([0]), sizes=lambda _: [400], rows=lambda _: np.arange(400),
        outputs=lambda _: np.zeros((400, 1), np.float32), targets=held.__getitem__,
    )  # fmt: skip


@pytest.mark.parametrize("align", ["", "rank", "temperature"])
def test_a_client_tests_itself_on_the_scale_it_was_calibrated_on(align):
    score = json.dumps({"name": "residual"})
    scorers = [Scorer.of(residual_context(scale), score, align) for scale in (1.0, 16.0)]
    both = [scorer.calibration() for scorer in scorers]
    if align:
        assert both[0] == pytest.approx(both[1])  # the same client in another unit
    q = conformal_threshold(both[0], 0.1)
    tallies = [
        evaluate([EvaluateRequest(score, np.array([q]), align)], residual_context(scale))[0] for scale in (1.0, 16.0)
    ]
    assert 0.85 < tallies[0].num_covered / 400 < 0.95
    assert (tallies[0].num_covered == tallies[1].num_covered) == bool(align)
    # An interval's length is in the client's own unit.
    own = conformal_threshold(Scorer.of(residual_context(1.0), score).calibration(), 0.1)
    assert tallies[0].total_size / 400 == pytest.approx(2 * own)
    if align:
        assert tallies[1].total_size == pytest.approx(16 * tallies[0].total_size)


@pytest.mark.parametrize("align", ["rank", "temperature"])
def test_a_score_that_ties_with_the_threshold_stays_covered(align):
    score, client_context = json.dumps({"name": "residual"}), residual_context(0.1)
    client_context.population.data.targets = client_context.targets("calibration")  # tested on the very points
    for rank in range(1, 401, 7):
        q = float(np.sort(Scorer.of(client_context, score, align).calibration())[rank - 1])
        (tally,) = evaluate([EvaluateRequest(score, np.array([q]), align)], client_context)
        assert tally.num_covered == rank


def test_requests_say_which_scale():
    strategy = fedwq_cp(align="rank", feedback=3)
    assert strategy.align == strategy.question().align == "rank"
    strategy.take(1, columns(reports((0.5, 9))))
    assert strategy.ask(2).align == "rank"
    assert fedwq_cp().align == ""


# ------------------------------------------------------------------------------------------------------------- for real


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store for all runs, which train the same models."""
    return tmp_path_factory.mktemp("refinements") / "store"


@pytest.mark.parametrize(
    "how",
    [
        {"weights": "precision"}, {"correction": "density"}, {"feedback": 16}, {"align": "rank"},
        {"align": "temperature"}, {"align": "temperature", "feedback": 8, "aggregation": "trimmed", "cap": 2.0},
    ],
    ids=str,
)  # fmt: skip
def test_on_real_digits(how, place: Path):
    settings = [f"calibrate.{key}={value}" for key, value in how.items()]
    result = simulate(Scenario.load("digits", "runtime.name=inline", *settings), store=place)
    found = result.summary["calibrate"]
    assert found["metrics"]["coverage"] > 0.85
    assert found["metrics"]["rounds"] == (2 if "feedback" in how else 1)
    up = 24 if {"weights", "correction"} & how.keys() else 16 + 4 * found["detail"].get("candidates", 0)
    assert found["metrics"]["bytes_up_per_client"] == up


def test_label_temperature_brings_real_tiers_together(place: Path):
    """Half the digits' clients have a model that stopped early, whose scores are on another scale."""

    def gap(align: str) -> float:
        scenario = Scenario.load("digits", "runtime.name=inline", "learn.name=shared", f"calibrate.align={align}")
        tiers = simulate(scenario, store=place).summary["calibrate"]["metrics"]["tiers"]
        covered = (
            [tier["coverage"] for tier in tiers.values()] if isinstance(tiers, dict) else [t["coverage"] for t in tiers]
        )
        return max(covered) - min(covered)

    assert gap("temperature") < gap("none")
