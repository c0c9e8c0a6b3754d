"""FedCP-QQ: the k-th smallest order statistic against its definition, and the strategy by hand-made replies."""

from __future__ import annotations

import itertools
import json
import math
import operator
from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np
import pytest
from by_hand import columns
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta as beta_law
from scipy.stats import binom

from fl_sim import simulate
from fl_sim.conformal import order_statistics
from fl_sim.conformal.order_statistics import (
    Aim,
    choose,
    choose_equal,
    equal_expected_coverage,
    equal_shortfall,
    shortfalls,
)
from fl_sim.conformal.thresholds import conformal_rank, conformal_threshold, local_rank, local_threshold
from fl_sim.messages.calibration import (
    OrderStatisticRequest,
    SizeReport,
    SizeRequest,
    ThresholdReport,
    ThresholdRequest,
)
from fl_sim.randomness import stream
from fl_sim.scenario.scenario import Scenario
from fl_sim.scenario.strategies import calibrate_options
from fl_sim.scenario.strategies import strategy as strategy_of
from strategies import calibration
from strategies.base import Federation
from strategies.fedcp_qq import FedCPQQ

CLOSE = 1e-9


# --------------------------------------------------------------------------------------------- the definition, exactly


def expected_coverages(sizes, ranks):
    """M for k = 1..K."""
    kinds = order_statistics._kinds(sizes, ranks)
    return np.array([order_statistics._expected_coverage(kinds, k) for k in range(1, len(sizes) + 1)])


def by_enumeration(sizes: Sequence[int], ranks: Sequence[int]) -> list[Fraction]:
    """M for k = 1..K, by doing it for every order in which the scores of all clients and a new one can fall."""
    labels = [j for j, n in enumerate(sizes) for _ in range(n)] + [-1]  # -1: the new point
    covered, orders = Counter[int](), 0
    for order in set(itertools.permutations(labels)):
        places = {j: [i for i, label in enumerate(order) if label == j] for j in {*labels}}
        sent = sorted(places[j][rank - 1] for j, rank in enumerate(ranks))
        orders += 1
        covered.update(k for k, q in enumerate(sent, 1) if places[-1][0] <= q)
    return [Fraction(covered[k], orders) for k in range(1, len(sizes) + 1)]


def by_hypergeometric_sums(sizes: Sequence[int], ranks: Sequence[int]) -> list[Fraction]:
    """M for k = 1..K: of N scores 0..N with equal probability lie below a new one, which are anybody's alike, and the
    new one is covered where fewer than k clients have their `rank` among them."""
    total = sum(sizes)
    width = total // 8 + 1  # bytes of a digit: no number of ways is above 2^total

    def polynomial(n: int, among: range) -> int:
        """In how many ways i of n scores lie below, the i-th digit."""
        return sum(math.comb(n, i) << 8 * width * i for i in among)

    def powers(of: int, most: int) -> list[int]:
        return list(itertools.accumulate([of] * most, operator.mul, initial=1))

    ways = [1]  # for 0, 1.. clients with their rank below: in how many ways so many scores lie below, digit by digit
    for (n, rank), alike in Counter(zip(sizes, ranks, strict=True)).items():
        without, with_it = (powers(polynomial(n, part), alike) for part in (range(rank), range(rank, n + 1)))
        more = [0] * (len(ways) + alike)
        for j in range(alike + 1):
            theirs = math.comb(alike, j) * without[alike - j] * with_it[j]
            for clients, count in enumerate(ways):
                more[clients + j] += count * theirs
        ways = more
    # 1 / (C(N, b) (N + 1)) is b! (N - b)! / (N + 1)!
    weights = [math.factorial(b) * math.factorial(total - b) for b in range(total + 1)]
    law = []
    for packed in ways:
        digits = packed.to_bytes(width * (total + 1), "little")
        counts = (int.from_bytes(digits[width * b : width * (b + 1)], "little") for b in range(total + 1))
        law.append(sum(count * weight for count, weight in zip(counts, weights, strict=True)))
    return [Fraction(part, math.factorial(total + 1)) for part in itertools.accumulate(law)][:-1]


def by_the_authors_formula(m: int, n: int, rank: int, k: int) -> Fraction:
    """M of the 2023 paper, as its code writes it: 1 - 1/(mn+1) Σ_{j>=k} C(m,j) Σ_i Π C(n,i_h) / C(mn, Σ i_h)."""
    total = Fraction(0)
    for j in range(k, m + 1):
        ranges = [range(rank, n + 1)] * j + [range(rank)] * (m - j)
        for i in itertools.product(*ranges):
            ways = math.prod(math.comb(n, i_h) for i_h in i)
            total += math.comb(m, j) * Fraction(ways, math.comb(m * n, sum(i)))
    return 1 - total / (m * n + 1)


def all_ranks(sizes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    return itertools.product(*(range(1, n + 1) for n in sizes))


@pytest.mark.parametrize("sizes", [(1,), (4,), (1, 1), (2, 2), (1, 3), (3, 2), (1, 1, 1), (1, 2, 2), (2, 1, 3)])
def test_expected_coverage_is_the_share_of_orders_in_which_a_new_score_is_covered(sizes):
    for ranks in all_ranks(sizes):
        exact = by_enumeration(sizes, ranks)
        assert by_hypergeometric_sums(sizes, ranks) == exact
        np.testing.assert_allclose(expected_coverages(sizes, ranks), [float(m) for m in exact], rtol=0, atol=CLOSE)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=7), st.sampled_from([0.05, 0.1, 0.5]))
def test_expected_coverage_of_unequal_clients_is_the_hypergeometric_sum(sizes, alpha):
    ranks = [local_rank(n, alpha, "clip") for n in sizes]
    exact = [float(m) for m in by_hypergeometric_sums(sizes, ranks)]
    np.testing.assert_allclose(expected_coverages(sizes, ranks), exact, rtol=0, atol=CLOSE)


def test_expected_coverage_of_equal_clients_is_the_authors_formula():
    for m, n in [(1, 5), (2, 3), (3, 4), (4, 3)]:
        for rank, k in itertools.product(range(1, n + 1), range(1, m + 1)):
            paper = by_the_authors_formula(m, n, rank, k)
            assert paper == by_hypergeometric_sums([n] * m, [rank] * m)[k - 1]
            assert equal_expected_coverage(n, rank, m, k) == pytest.approx(float(paper), abs=CLOSE)


def test_both_forms_agree_at_all_sizes_to_far_more_than_is_asked():
    for m, n, rank in [
        (3, 1, 1), (10, 20, 19), (20, 54, 51), (20, 60, 57), (50, 100_000, 95_000), (100, 300, 1),
        (7, 3000, 1500), (40, 2, 1),
    ]:  # fmt: skip
        by_beta_beta = equal_expected_coverage(n, rank, m, np.arange(1, m + 1))
        np.testing.assert_allclose(expected_coverages([n] * m, [rank] * m), by_beta_beta, rtol=0, atol=1e-13)
    # l = n, k = m is the largest of all mn scores.
    assert equal_expected_coverage(1000, 1000, 1000, 1000) == pytest.approx(10**6 / (10**6 + 1), abs=1e-13)
    assert expected_coverages([5, 300, 2], [5, 300, 2])[-1] == pytest.approx(307 / 308, abs=1e-13)


def test_a_client_much_larger_than_the_others_is_not_passed_over():
    # Its U_j is .95 to five digits, a step too narrow for any fixed grid; the others' are spread over [0, 1].
    c, got = 0.95, expected_coverages([10**10, 2, 2], [95 * 10**8, 2, 2])
    smallest = c - 2 * c**3 / 3 + c**5 / 5  # of U_1, U_2 ~ Beta(2, 1) and c
    largest = 1 - (1 - c**5) / 5
    middle = c + 2 * 2 / 3 - smallest - largest  # order statistics sum to what they order
    np.testing.assert_allclose(got, [smallest, middle, largest], rtol=0, atol=CLOSE)


def test_the_cells_that_the_authors_code_cannot_reach():
    """n = 100, l = 90 is NaN in it, and with m n > 1074 terms underflow: .9512 for m = 20, n = 60, k = 10, l = 57."""
    assert equal_expected_coverage(60, 57, 20, 10) == pytest.approx(0.9369, abs=5e-5)
    exact = by_hypergeometric_sums([60] * 20, [57] * 20)
    np.testing.assert_allclose(
        equal_expected_coverage(60, 57, 20, np.arange(1, 21)), [float(m) for m in exact], rtol=0, atol=CLOSE
    )
    exact = by_hypergeometric_sums([100] * 6, [90] * 6)
    np.testing.assert_allclose(
        equal_expected_coverage(100, 90, 6, np.arange(1, 7)), [float(m) for m in exact], rtol=0, atol=CLOSE
    )
    for n, m in ((100, 20), (300, 10)):
        every = equal_expected_coverage(n, np.arange(1, n + 1)[:, None], m, np.arange(1, m + 1))
        assert np.isfinite(every).all()
        assert (np.diff(every, axis=0) > 0).all()
        assert (np.diff(every, axis=1) > 0).all()


def coverages(sizes: Sequence[int], ranks: Sequence[int], draws: int) -> np.ndarray:
    """Of simulated calibrations with uniform scores: the coverage for k = 1..K, (draws, K), from the scores up."""
    rng = np.random.default_rng(20)
    sent = [np.partition(rng.random((draws, n)), rank - 1)[:, rank - 1] for n, rank in zip(sizes, ranks, strict=True)]
    return np.sort(np.stack(sent, axis=1), axis=1)


def test_expected_coverage_and_shortfall_of_unequal_clients_by_simulation():
    sizes = [3, 7, 12, 19, 30, 54, 54, 120, 200]
    ranks = [local_rank(n, 0.1, "clip") for n in sizes]
    drawn = coverages(sizes, ranks, 20_000)
    error = drawn.std(axis=0) / math.sqrt(len(drawn))
    assert (np.abs(drawn.mean(axis=0) - expected_coverages(sizes, ranks)) < 4 * error).all()
    chance = shortfalls(sizes, ranks, 0.1)
    error = np.sqrt(chance * (1 - chance) / len(drawn)) + 1 / len(drawn)
    assert (np.abs((drawn < 0.9).mean(axis=0) - chance) < 4 * error).all()


def test_shortfall_has_the_closed_form_where_clients_are_equal():
    for n, rank, m in [(20, 19, 10), (54, 51, 20), (1000, 950, 200), (5, 5, 3)]:
        k = np.arange(1, m + 1)
        chance = binom.sf(k - 1, m, beta_law.cdf(0.9, rank, n - rank + 1))  # k clients' numbers cover at most .9
        np.testing.assert_allclose(equal_shortfall(n, rank, m, k, 0.1), chance, rtol=0, atol=1e-12)
        np.testing.assert_allclose(shortfalls([n] * m, [rank] * m, 0.1), chance, rtol=0, atol=1e-12)


# --------------------------------------------------------------------------------------------------------- the choice


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.integers(1, 2000), st.sampled_from([0.01, 0.05, 0.1, 0.2, 0.5, 0.3]))
def test_one_client_is_split_conformal_and_rounding_loses_no_rank(n, alpha):
    """K = 1: M = l/(n+1), which for n = 19, α = .1 is .9 exactly; a rank more for rounding would be crepes' defect."""
    rank, choice = choose_equal(n, 1, Aim(alpha))
    exact = conformal_rank(n, alpha)
    assert choice.feasible == (exact <= n)
    assert choice.feasible == choose([n], [local_rank(n, alpha, "clip")], Aim(alpha)).feasible
    if choice.feasible:
        assert (rank, choice.k) == (exact, 1)
        assert choice.expected_coverage == pytest.approx(exact / (n + 1), abs=1e-12)


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.25, 0.5])
@pytest.mark.parametrize(("n", "m"), [(1, 4), (2, 3), (3, 2), (4, 5), (9, 3), (5, 1), (20, 4)])
def test_equal_choice_is_the_smallest_expected_coverage_of_all_pairs(n, m, alpha):
    exact = {
        (rank, k): coverage
        for rank in range(1, n + 1)
        for k, coverage in enumerate(by_hypergeometric_sums([n] * m, [rank] * m), 1)
    }
    enough = [coverage for coverage in exact.values() if coverage >= 1 - Fraction(str(alpha))]
    rank, choice = choose_equal(n, m, Aim(alpha))
    assert choice.feasible == bool(enough)
    assert exact[rank, choice.k] == (min(enough) if enough else max(exact.values()))
    assert choice.expected_coverage == pytest.approx(float(exact[rank, choice.k]), abs=CLOSE)


@pytest.mark.parametrize(("n", "m"), [(9, 3), (20, 10), (54, 20)])
@pytest.mark.parametrize("beta", [0.3, 0.1, 0.01])
def test_equal_conditional_choice_is_the_smallest_expected_coverage_of_all_pairs(n, m, beta):
    rank, k = np.arange(1, n + 1)[:, None], np.arange(1, m + 1)
    reached = beta_law.cdf(0.9, rank, n - rank + 1)
    allowed = binom.sf(k - 1, m, reached) <= beta
    every = equal_expected_coverage(n, rank, m, k)
    found, choice = choose_equal(n, m, Aim(0.1, "conditional", beta))
    assert choice.feasible == allowed.any()
    if not choice.feasible:
        assert choice.shortfall == pytest.approx(0.9 ** (m * n), abs=1e-12)  # the largest score of all
        return
    assert allowed[found - 1, choice.k - 1]
    assert choice.expected_coverage == pytest.approx(every[allowed].min(), abs=1e-12)


@settings(derandomize=True, deadline=None, max_examples=25)
@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=12),
    st.sampled_from([0.05, 0.1]),
    st.sampled_from(["marginal", "conditional"]),
)
def test_unequal_choice_is_the_smallest_k_that_will_do(sizes, alpha, guarantee):
    ranks, aim = [local_rank(n, alpha, "clip") for n in sizes], Aim(alpha, guarantee, 0.2)
    coverage, short = expected_coverages(sizes, ranks), shortfalls(sizes, ranks, alpha)
    good = coverage >= 1 - alpha if guarantee == "marginal" else short <= 0.2
    choice = choose(sizes, ranks, aim)
    assert choice.feasible == good.any()
    assert choice.k == (int(np.flatnonzero(good)[0]) + 1 if good.any() else len(sizes))
    assert (np.diff(coverage) > 0).all()
    assert (np.diff(short) <= 1e-15).all()


@pytest.mark.parametrize(("m", "n", "alpha"), [(2, 3, 0.1), (3, 5, 0.05), (1, 18, 0.05)])
def test_infeasible_where_even_the_largest_score_of_all_is_not_enough(m, n, alpha):
    for choice in (choose_equal(n, m, Aim(alpha))[1], choose([n] * m, [n] * m, Aim(alpha))):
        assert not choice.feasible
        assert choice.expected_coverage == pytest.approx(m * n / (m * n + 1), abs=CLOSE)


def test_what_is_no_alpha_is_refused():
    for alpha in (0.0, 1.0):
        with pytest.raises(ValueError, match="strictly between 0 and 1"):
            choose([5], [5], Aim(alpha))


# ------------------------------------------------------------------------------------------------------- the strategy


def strategy(sizes: str = "unequal", alpha: float = 0.1, guarantee: str = "marginal", beta: float = 0.1) -> FedCPQQ:
    return FedCPQQ(Federation("p", seed=3), alpha=alpha, score="s", sizes=sizes, guarantee=guarantee, beta=beta)  # type: ignore[arg-type]


def calibrated(made: FedCPQQ, scores: Sequence[np.ndarray], silent: dict[int, set[int]] | None = None) -> FedCPQQ:
    """Rounds of honest clients with these scores, but for those that are `silent` in a round."""
    for server_round in range(1, made.num_rounds + 1):
        asked = made.ask(server_round)
        questions = asked if isinstance(asked, dict) else dict.fromkeys(range(len(scores)), asked)
        answering = {k: q for k, q in questions.items() if k not in (silent or {}).get(server_round, set())}
        made.take(server_round, columns([answer(k, question, scores[k]) for k, question in sorted(answering.items())]))
    return made


def answer(k: int, question: object, scores: np.ndarray) -> SizeReport | ThresholdReport:
    if isinstance(question, ThresholdRequest):
        return ThresholdReport(k, *local_threshold(scores, question.alpha, question.small_n))  # type: ignore[arg-type]
    if isinstance(question, SizeRequest):
        return SizeReport(k, len(scores), *((scores.min(), scores.max()) if len(scores) else (0.0, 0.0)))
    assert isinstance(question, OrderStatisticRequest)
    drawn = np.sort(stream(0, "test", k).permutation(scores)[: question.size])
    assert len(drawn) == question.size
    return ThresholdReport(k, float(drawn[question.rank - 1]), question.size)


def uniform(*sizes: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.random(n) for n in sizes]


@pytest.mark.parametrize("sizes", ["unequal", "equal"])
def test_one_client_alone(sizes):
    (scores,) = uniform(57)
    made = calibrated(strategy(sizes), [scores])
    assert made.global_threshold == conformal_threshold(scores, 0.1)
    assert made.thresholds == {0: made.global_threshold}


def test_unequal_clients_by_hand():
    scores = uniform(5, 40, 9, 19, 0)
    made = calibrated(strategy(), scores)
    ranks = [5, 37, 9, 18]  # ceil((n + 1) .9), of 5 and 9 the largest
    own = sorted(np.sort(s)[rank - 1] for s, rank in zip(scores, ranks, strict=False))
    k = choose([5, 40, 9, 19], ranks, Aim(0.1)).k
    assert 1 < k < 4
    assert made.thresholds == dict.fromkeys(range(5), own[k - 1])
    said = made.detail()
    assert (said["clients"], said["n"], said["l"], said["k"]) == (4, [5, 40, 9, 19], ranks, k)
    assert said["expected_coverage"] == pytest.approx(expected_coverages([5, 40, 9, 19], ranks)[k - 1])
    assert said["probability_below"] == pytest.approx(shortfalls([5, 40, 9, 19], ranks, 0.1)[k - 1])
    assert said["why_infinite"] is None
    assert json.loads(json.dumps(said)) == said


def test_equal_clients_by_hand():
    scores = uniform(25, 0, 20, 31)
    made = strategy("equal")
    assert made.num_rounds == 2
    assert made.ask(1) == SizeRequest("s")
    calibrated(made, scores)
    rank, choice = choose_equal(20, 3, Aim(0.1))
    assert made.ask(2) == dict.fromkeys((0, 2, 3), OrderStatisticRequest("s", rank, 20))
    assert len({id(question) for question in made.ask(2).values()}) == 1  # one content for all
    own = sorted(answer(k, made.ask(2)[k], scores[k]).threshold for k in (0, 2, 3))
    assert made.thresholds == dict.fromkeys(range(4), own[choice.k - 1])
    said = made.detail()
    assert (said["clients"], said["n"], said["l"], said["k"]) == (3, 20, rank, choice.k)
    assert said["expected_coverage"] == pytest.approx(choice.expected_coverage)


def test_bytes():
    assert strategy().information_up(columns([ThresholdReport(0, 0.5, 9)])) == 16
    assert strategy("equal").information_up(columns([SizeReport(0, 9, 0.0, 1.0)])) == 8
    assert strategy("equal").information_up(columns([ThresholdReport(0, 0.5, 9)])) == 8


@pytest.mark.parametrize("sizes", ["unequal", "equal"])
def test_infeasible_is_infinite_and_says_why(sizes):
    made = calibrated(strategy(sizes), uniform(3, 3))
    assert made.thresholds == {0: math.inf, 1: math.inf}
    said = made.detail()
    assert (said["clients"], said["k"], said["expected_coverage"]) == (2, None, 1.0)
    assert said["why_infinite"] == "even the largest threshold covers 0.857143 on average: 0.9 is needed"
    made = calibrated(strategy(sizes, guarantee="conditional", beta=0.5), uniform(3, 3))
    assert made.global_threshold == math.inf
    why = "even the largest threshold covers less than 0.9 with probability 0.531441: at most 0.5 is allowed"  # .9^6
    assert made.detail()["why_infinite"] == why
    if sizes == "equal":
        assert made.ask(2) == {}  # nobody is asked in vain


@pytest.mark.parametrize("sizes", ["unequal", "equal"])
def test_no_points_and_no_clients(sizes):
    made = calibrated(strategy(sizes), uniform(0, 0))
    assert made.thresholds == {0: math.inf, 1: math.inf}
    assert made.detail()["why_infinite"] == "no client has calibration points"
    made = calibrated(strategy(sizes), uniform(50, 50), silent={1: {0, 1}})
    assert (made.thresholds, made.global_threshold) == ({}, math.inf)
    json.dumps(made.detail())


def test_clients_that_fall_silent_between_the_rounds():
    scores = uniform(40, 40, 40, 40, 40)
    made = calibrated(strategy("equal"), scores, silent={2: {1, 4}})
    rank = choose_equal(40, 5, Aim(0.1))[0]  # was asked of five
    choice = choose([40] * 3, [rank] * 3, Aim(0.1))  # and is judged by the three that came
    own = sorted(answer(k, made.ask(2)[k], scores[k]).threshold for k in (0, 2, 3))
    assert set(made.thresholds) == {0, 1, 2, 3, 4}
    assert made.global_threshold == (own[choice.k - 1] if choice.feasible else math.inf)
    assert made.detail()["clients"] == 3
    made = calibrated(strategy("equal"), scores, silent={2: {0, 1, 2, 3, 4}})
    assert made.thresholds == dict.fromkeys(range(5), math.inf)
    assert made.detail()["why_infinite"] == "no client answered in the second round"


SIZES = (4, 12, 25, 25, 40, 60, 7, 100)


@pytest.mark.parametrize("sizes", ["unequal", "equal"])
@pytest.mark.parametrize("guarantee", ["marginal", "conditional"])
def test_coverage_of_the_whole_strategy_on_scores_drawn_alike(sizes, guarantee):
    """Over calibration draws of uniform scores the threshold is the coverage: its mean is M, and it falls below
    1 - α as often as `detail` says, at most β where that is asked."""
    smaller = SIZES if sizes == "unequal" else tuple(n for n in SIZES if n > 20)
    made = [
        calibrated(strategy(sizes, guarantee=guarantee, beta=0.15), uniform(*smaller, seed=seed)) for seed in range(80)
    ]
    covered, said = np.array([m.global_threshold for m in made]), made[0].detail()
    assert abs(covered.mean() - said["expected_coverage"]) < 4 * covered.std() / math.sqrt(len(made))
    below, chance = float((covered < 0.9).mean()), said["probability_below"]
    assert abs(below - chance) < 4 * math.sqrt(chance * (1 - chance) / len(made))
    if guarantee == "marginal":
        assert said["expected_coverage"] >= 0.9 - 1e-12
    else:
        assert chance <= 0.15


def test_ties_only_raise_the_coverage():
    """Scores of 0 and 1: the mean of thresholds can cover far too little here, the k-th smallest cannot."""
    p, covered = 0.12, []
    for seed in range(80):
        scores = [(u < p).astype(float) for u in uniform(*SIZES, seed=seed)]
        q = calibrated(strategy(), scores).global_threshold
        covered.append(1.0 if q >= 1 else 1 - p)
    assert np.mean(covered) + 4 * np.std(covered) / math.sqrt(len(covered)) >= 0.9


def test_it_is_registered_under_its_options():
    assert strategy_of("fedcp-qq") is FedCPQQ
    told = calibrate_options({"name": "fedcp-qq", "alpha": 0.1, "score": "lac"})
    made = calibration(told, Federation("p"))
    assert isinstance(made, FedCPQQ)
    assert (made.sizes, made.aim, made.num_rounds) == ("unequal", Aim(0.1, "marginal", 0.1), 1)


def test_real_runs(store):
    """On digits, whose clients' laws differ, so that no coverage is promised: the numbers are those of the method."""
    scenario = Scenario.load("digits", "runtime.name=inline", "calibrate=local", "clients.tier.strong.epochs=3")
    own = simulate(scenario, store=store.root)
    pairs = [(n, q) for n, q in zip(own.column("num_calibration"), own.column("threshold"), strict=True) if n > 0]
    unequal = simulate(scenario.with_("calibrate.name=fedcp-qq"), store=store.root)
    said = unequal.summary["calibrate"]["detail"]
    assert said["n"] == [n for n, _ in pairs]
    assert said["k"] == choose(said["n"], [local_rank(n, 0.1, "clip") for n in said["n"]], Aim(0.1)).k
    assert set(unequal.column("threshold")) == {sorted(q for _, q in pairs)[said["k"] - 1]}
    equal = simulate(scenario.with_("calibrate.name=fedcp-qq", "calibrate.sizes=equal"), store=store.root)
    said = equal.summary["calibrate"]["detail"]
    assert (said["clients"], said["n"]) == (len(pairs), min(n for n, _ in pairs))
    assert (said["l"], said["k"]) == (lambda rank, choice: (rank, choice.k))(
        *choose_equal(said["n"], len(pairs), Aim(0.1))
    )
    assert len(set(equal.column("threshold"))) == 1
    # Where no (l, k) will do nobody is asked in the second round, and everybody's threshold is infinite.
    hopeless = scenario.with_("calibrate.name=fedcp-qq", "calibrate.sizes=equal", "calibrate.alpha=0.0001")
    result = simulate(hopeless, store=store.root)
    assert result.calibrate["coverage"] == 1.0
    assert "0.9999 is needed" in result.summary["calibrate"]["detail"]["why_infinite"]
