"""The mechanism's law, the allowance for its noise, the guarantee of the threshold, and the strategy on real digits."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from by_hand import columns
from scipy import stats

from fl_sim import Scenario, simulate
from fl_sim.conformal.histogram import ScoreGrid, decode, encode
from fl_sim.conformal.privacy import (
    _most_allowance,
    epsilon_of_shares,
    inner_alpha,
    noise_allowance,
    noise_law,
    noisy_counts,
    private_threshold,
)
from fl_sim.conformal.thresholds import conformal_threshold
from fl_sim.errors import FlSimError, ScenarioError
from fl_sim.messages.summaries import HistogramReport
from fl_sim.scenario.strategies import calibrate_options
from strategies.base import Federation
from strategies.private import Private

LAC = '{"name": "lac"}'


def geometric(z: np.ndarray, epsilon: float) -> np.ndarray:
    """P(z) ∝ exp(-ε |z|)."""
    p = math.exp(-epsilon)
    return (1 - p) / (1 + p) * p ** np.abs(z)


# ------------------------------------------------------------------------------------------------------ the mechanism


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 5.0])
def test_the_noise_of_one_is_geometric_and_moves_by_exp_epsilon(epsilon):
    law = noise_law(1.0, epsilon)
    z = np.arange(-law.reach, law.reach + 1)
    assert law.pmf == pytest.approx(geometric(z, epsilon), abs=1e-14)
    assert law.pmf.sum() == pytest.approx(1, abs=1e-12)
    inner = geometric(np.arange(-20, 21), epsilon)
    assert np.abs(np.log(inner[1:] / inner[:-1])).max() <= epsilon + 1e-12  # a count that is one higher or lower


def test_neighbouring_histograms_are_within_exp_epsilon():
    """One point more changes one count by one; the counts are independent, so that count's ratio is that of all."""
    grid, rng = ScoreGrid(0.0, 1.0, 4), np.random.default_rng(0)
    scores = rng.random(30)
    for extra in (0.0, 0.3, 0.99, 2.0):
        moved = grid.count(np.append(scores, extra)) - grid.count(scores)
        assert np.abs(moved).sum() == 1


@pytest.mark.parametrize("clients", [2, 3, 7])
def test_the_shares_add_up_to_the_geometric_law(clients):
    epsilon, share = 0.7, noise_law(1 / clients, 0.7)
    total = share.pmf
    for _ in range(clients - 1):
        total = np.convolve(total, share.pmf)
    z = np.arange(-(len(total) // 2), len(total) // 2 + 1)
    assert total == pytest.approx(geometric(z, epsilon), abs=1e-13)


def test_a_share_is_a_difference_of_polya_variables():
    shape, epsilon = 0.25, 0.7
    law, n = noise_law(shape, epsilon), np.arange(400)
    one = stats.nbinom.pmf(n, shape, 1 - math.exp(-epsilon))
    both = np.convolve(one, one[::-1])
    assert law.pmf == pytest.approx(both[399 - law.reach : 400 + law.reach], abs=1e-13)


@pytest.mark.parametrize("share", [1, 5])
def test_the_sampler_draws_that_law(share):
    rng, zeros, epsilon = np.random.default_rng(1), np.zeros((1, 200_000), np.int64), 0.8
    drawn = sum(noisy_counts(zeros, epsilon, share, rng) for _ in range(share))[0]
    z = np.arange(-8, 9)
    seen = np.array([(drawn == v).sum() for v in z])
    rest = len(drawn) - seen.sum()
    expected = geometric(z, epsilon) * len(drawn)
    found = stats.chisquare([*seen, rest], [*expected, len(drawn) - expected.sum()])
    assert found.pvalue > 1e-3


@pytest.mark.parametrize(("epsilon", "share"), [*itertools.product([0.2, 1.0, 3.0], [1.0, 0.9, 0.5, 0.05])])
def test_lacking_shares_make_epsilon_larger_by_exactly_this(epsilon, share):
    law = noise_law(share, epsilon)
    pmf = law.pmf[law.reach : law.reach + 12]
    pmf = pmf[pmf > 1e-9]
    ratios = np.log(pmf[:-1] / pmf[1:])
    assert epsilon_of_shares(epsilon, share) == pytest.approx(ratios.max(), abs=1e-5)
    assert ratios.argmax() == 0 or share == 1
    assert epsilon_of_shares(epsilon, share) >= epsilon - 1e-12


# ------------------------------------------------------------------------------------------------------ the allowance


def test_the_allowance_is_the_quantile_of_the_exact_law():
    """Against all pairs of two small sums, by brute force."""
    epsilon, alpha, failure = 1.5, 0.13, 0.01
    up, down = noise_law(2, epsilon), noise_law(1, epsilon)
    values = [
        (alpha * p - (1 - alpha) * h, up.pmf[p + up.reach] * down.pmf[h + down.reach])
        for p in range(-up.reach, up.reach + 1)
        for h in range(-down.reach, down.reach + 1)
    ]
    values.sort(reverse=True)
    tail = list(itertools.accumulate(mass for _, mass in values))
    by_hand = next(value for (value, _), mass in zip(values, tail, strict=True) if mass > failure)
    assert noise_allowance(2, 1, epsilon, alpha, failure) == pytest.approx(by_hand, abs=1e-4)


@pytest.mark.parametrize(("below", "above", "epsilon"), [(10, 6, 1.0), (60, 5, 0.3), (40 * 10, 40 * 3, 2.0)])
def test_the_noise_exceeds_its_allowance_no_more_often_than_it_may(below, above, epsilon):
    alpha, failure, draws = 0.1, 0.02, 100_000
    rng, stay = np.random.default_rng(2), -math.expm1(-epsilon)
    p, h = (rng.negative_binomial(n, stay, draws) - rng.negative_binomial(n, stay, draws) for n in (below, above))
    often = (alpha * p - (1 - alpha) * h > noise_allowance(below, above, epsilon, alpha, failure)).mean()
    error = math.sqrt(failure * (1 - failure) / draws)
    assert failure - 0.01 <= often <= failure + 4 * error


@pytest.mark.parametrize(
    ("below", "above", "epsilon"), [(2, 1, 1.5), (60, 5, 0.3), (64, 1, 0.01), (1, 0, 1), (0, 9, 1)]
)
def test_the_bound_on_the_allowance_is_never_smaller_and_not_much_larger(below, above, epsilon):
    exact = noise_allowance(below, above, epsilon, 0.1, 0.01)
    bound = _most_allowance(below, above, epsilon, 0.1, 0.01)
    assert exact < bound < 2 * exact + 8


@pytest.mark.parametrize(("epsilon", "noises"), [(1e-6, 1), (1e-5, 1), (1e-3, 1), (1e-5, 1000)])
def test_a_tiny_epsilon_takes_little_memory(epsilon, noises):
    counts, edges = np.zeros(65, np.int64), np.linspace(0, 1, 65)[1:]
    counts[:3] = 10**4
    tracemalloc.start()
    found = private_threshold(counts, edges, alpha=0.1, failure=0.002, epsilon=epsilon, noises=noises)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.threshold == math.inf
    assert most < 100e6


def test_the_two_parts_of_alpha_make_it_up_exactly():
    assert (1 - inner_alpha(0.1, 0.005)) * (1 - Fraction("0.005")) == Fraction("0.9")
    with pytest.raises(ValueError, match=r"failure = 0.2: must lie between 0 and alpha = 0.1"):
        inner_alpha(0.1, 0.2)


# ------------------------------------------------------------------------------------------------------ the threshold


def test_without_noise_it_is_the_pooled_threshold_of_the_inner_alpha_rounded_up():
    rng, grid = np.random.default_rng(3), ScoreGrid(0.0, 1.0, 50)
    for n in (0, 5, 9, 10, 11, 199, 200):
        scores = rng.random(n)
        told = private_threshold(grid.count(scores), grid.edges, alpha=0.1, failure=0.001, epsilon=1.0, noises=0)
        q = conformal_threshold(scores, float(inner_alpha(0.1, 0.001)))
        assert told.threshold == (grid.edges[np.searchsorted(grid.edges, q)] if q <= 1 else math.inf)
        assert (told.allowance, told.noisy_total) == (0, n)


def test_it_goes_down_from_the_top_and_stops_where_it_first_fails():
    edges = np.array([0.25, 0.5, 0.75, 1.0])
    told = {"alpha": 0.1, "failure": 0.001, "epsilon": 1.0, "noises": 0}
    # Up to 0.25 there would be enough again, which only noise can make: above it 0.5 fails.
    assert private_threshold([95, -40, 40, 1, 0], edges, **told).threshold == 0.75
    assert private_threshold([5, 5, 5, 5, 5], edges, **told).threshold == math.inf
    assert private_threshold([0, 0, 0, 0, 0], edges, **told).threshold == math.inf


@pytest.mark.parametrize(("epsilon", "clients", "trust"), [
    (4.0, 5, "sum"), (1.0, 5, "sum"), (1.0, 40, "sum"), (0.3, 20, "sum"), (2.0, 5, "client"), (1.0, 20, "client"),
])  # fmt: skip
def test_it_covers_what_was_promised(epsilon, clients, trust):
    """Scores are uniform, so that a threshold's coverage is the threshold."""
    rng, grid, alpha, draws, n = np.random.default_rng(4), ScoreGrid(0.0, 1.0, 24), 0.1, 400, 600
    share = clients if trust == "sum" else 1
    covered = []
    for _ in range(draws):
        counts = grid.count(rng.random(n))
        for _ in range(clients):
            counts = noisy_counts(counts, epsilon, share, rng)
        found = private_threshold(
            counts, grid.edges, alpha=alpha, failure=0.005, epsilon=epsilon, noises=clients / share
        )
        covered.append(min(found.threshold, 1.0))
    assert np.mean(covered) >= 1 - alpha - 4 * np.std(covered) / math.sqrt(draws)
    assert epsilon < 4 or np.mean(covered) <= 1 - alpha + 0.06  # an edge is 0.04 wide


def test_to_forget_the_noise_covers_too_little():
    """The defect: a rank on noisy counts as if they were true. Points in few bins, none above the threshold's."""
    rng, alpha, n, bins, epsilon = np.random.default_rng(5), 0.1, 100, 200, 0.2
    grid = ScoreGrid(0.0, 1.0, bins)
    naive, allowed = [], []
    for _ in range(150):
        counts = noisy_counts(grid.count(rng.random(n)), epsilon, 1, rng)
        total = np.cumsum(counts)
        reached = total[:-1] >= (1 - alpha) * (total[-1] + 1)
        naive.append(grid.edges[reached.argmax()] if reached.any() else 1.0)
        told = private_threshold(counts, grid.edges, alpha=alpha, failure=0.005, epsilon=epsilon, noises=1)
        allowed.append(min(told.threshold, 1.0))
    assert np.mean(naive) < 1 - alpha - 0.1
    assert np.mean(allowed) >= 1 - alpha


# ------------------------------------------------------------------------------------------------------- the strategy


def strategy(clients: int = 3, **change) -> Private:
    told = {"epsilon": 1.0, "trust": "sum", "bins": 8, "failure": 0.01} | change
    return Private(Federation("p", tiers=("one",) * clients), alpha=0.2, score=told.pop("score", LAC), **told)


def test_the_server_sums_what_it_is_told():
    counts = np.array([[300, 0, 0, 0, 0, 0, 0, 5, -2], [200, 10, 0, 0, -1, 0, 0, 0, 0], [0, 0, 100, 0, 0, 0, 0, 0, 1]])
    made = strategy()
    asked = made.ask(1)
    assert (asked.epsilon, asked.share, asked.budget, asked.parts) == (1.0, 3, 0, 1)
    made.take(1, columns([HistogramReport(k, encode(row[None])) for k, row in enumerate(counts)]))
    grid = made.grid
    assert (grid.low, grid.high, grid.bins) == (0.0, 1.0, 8)
    expected = private_threshold(counts.sum(axis=0), grid.edges, alpha=0.2, failure=0.01, epsilon=1.0, noises=1)
    assert made.thresholds == dict.fromkeys(range(3), expected.threshold)
    assert made.global_threshold == expected.threshold < 1
    told = made.detail()
    assert told["noisy_points"] == 613
    assert told["neighbours"] == "one calibration point added or removed"
    assert told["epsilon_of_sum"] == pytest.approx(1.0)
    assert told["epsilon_if_half_tell_their_noise"] > 1.5


def test_a_missing_client_takes_its_share_of_the_privacy_along():
    made = strategy()
    made.ask(1)
    made.take(1, columns([HistogramReport(k, encode(np.full((1, 9), 50))) for k in (0, 2)]))
    assert made.detail()["epsilon_of_sum"] == pytest.approx(epsilon_of_shares(1.0, 2 / 3))
    assert set(made.thresholds) == {0, 2}
    nobody = strategy()
    nobody.ask(1)
    nobody.take(1, columns([], HistogramReport))
    assert (nobody.thresholds, nobody.global_threshold) == ({}, math.inf)
    assert nobody.detail()["clients"] == 0


def test_each_client_is_asked_for_whole_noise_where_only_it_is_trusted():
    made = strategy(trust="client")
    assert made.ask(1).share == 1
    made.take(1, columns([HistogramReport(k, encode(np.full((1, 9), 50))) for k in range(3)]))
    assert "epsilon_of_sum" not in made.detail()


def test_the_datas_own_range_is_never_asked_for():
    residual = '{"name": "residual"}'
    with pytest.raises(FlSimError, match=r"give calibrate.range = \[low, high\]"):
        strategy(score=residual)
    made = strategy(score=residual, range=(0.0, 5.0))
    assert made.num_rounds == 1
    assert '"high": 5.0' in made.ask(1).grid
    table = {"name": "private", "alpha": 0.1}
    with pytest.raises(ValueError, match="score 'residual' has no known bounds"):
        calibrate_options(table | {"score": "residual"})
    with pytest.raises(ValueError, match="the first must be smaller"):
        calibrate_options(table | {"score": "lac", "range": [1.0, 0.0]})
    with pytest.raises(ValueError, match=r"failure = 0\.2: is a part of alpha"):
        calibrate_options(table | {"score": "lac", "failure": 0.2})
    assert calibrate_options(table | {"score": "residual", "range": [0, 9]}).arguments()["range"] == (0.0, 9.0)
    with pytest.raises(ScenarioError, match="range"):
        Scenario.load("regression", "calibrate=private")


SMALL = ("clients.count=10", "clients.tier.strong.epochs=2", "clients.tier.weak.epochs=1", "runtime.name=inline")


def test_real_digits(store):
    told = {}
    for name, more in [
        ("fedhist-cp", []),
        ("private", ["calibrate.epsilon=8"]),
        ("private", ["calibrate.epsilon=0.5"]),
    ]:
        scenario = Scenario.load("digits", f"calibrate={name}", *SMALL, *more)
        told["".join([name, *more])] = simulate(scenario, store=store.root)
    exact, weak, strong = told.values()
    thresholds = [r.calibrate["threshold"] or math.inf for r in (exact, weak, strong)]
    assert thresholds[0] <= thresholds[1] + 0.05  # one bin of the coarser grid
    assert thresholds[1] < thresholds[2]
    assert weak.calibrate["coverage"] <= strong.calibrate["coverage"]
    assert strong.summary["calibrate"]["detail"]["epsilon_of_sum"] == pytest.approx(0.5)
    assert strong.calibrate["bytes_up_per_client"] < 100


def test_negative_counts_travel():
    counts = np.array([[3, -7, 0, 0, 1000, -1]])
    assert decode(encode(counts), 1).tolist() == counts.tolist()
