"""Rob-FCP: liars are found where honest clients are alike, and honest clients taken for liars where they are not."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from by_hand import columns
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from fl_sim import simulate
from fl_sim.conformal.robust import (
    certified_coverage,
    dropped,
    histograms,
    maliciousness,
    most_likely_malicious,
    score_range,
)
from fl_sim.conformal.thresholds import conformal_rank, pooled_threshold
from fl_sim.messages.calibration import ScoresReport, ScoresRequest
from fl_sim.scenario.scenario import Scenario
from strategies.base import Federation
from strategies.rob_fcp import RobFCP

Floats = Any


def rob_fcp(task: Any = "classification", **how: Any) -> RobFCP:
    return RobFCP(Federation("p", task=task), alpha=0.1, score="s", **how)


def crowd(*scores: Floats) -> list[ScoresReport]:
    return [ScoresReport(k, np.asarray(one, np.float64)) for k, one in enumerate(scores)]


def honest(rng: np.random.Generator, clients: int, n: int = 200) -> list[Floats]:
    return [rng.beta(1, 6, n) for _ in range(clients)]


# ------------------------------------------------------------------------------------------------------- histograms


def test_histograms_by_hand():
    scores = [np.array([0.0, 0.1, 0.25, 0.3, 1.0]), np.array([-2.0, 7.0, math.inf, 0.74])]
    assert histograms(scores, 4, 0.0, 1.0).tolist() == [[0.4, 0.4, 0.0, 0.2], [0.25, 0.0, 0.25, 0.5]]
    assert histograms(scores[:1], 2, 0.5, 0.5).tolist() == [[0.8, 0.2]]  # no range: at most it, or above


def test_scores_of_the_first_bin_stay_in_it():
    """The published code's `int(score / unit) - 1` puts them into the last, beside the largest."""
    low, high = np.full(50, 0.01), np.full(50, 0.99)
    apart = histograms([low, high], 20, 0.0, 1.0)
    assert apart.argmax(axis=1).tolist() == [0, 19]
    published = [
        np.bincount([(int(s / 0.05) - 1) % 20 for s in scores], minlength=20).argmax() for scores in (low, high)
    ]
    assert published == [19, 18]


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.lists(st.lists(st.floats(allow_nan=False), min_size=1, max_size=9), min_size=1, max_size=6))
def test_histograms_of_anything_sum_to_1(scores):
    arrays = [np.array(one) for one in scores]
    low, high = score_range(arrays, bounded=False)
    with np.errstate(all="ignore"):
        assert histograms(arrays, 7, low, high).sum(axis=1) == pytest.approx(np.ones(len(arrays)))


def test_the_range_is_a_vote():
    clients = [np.array([0.2, 3.0]), np.array([0.1, 4.0]), np.array([0.3, 5.0])]
    assert score_range(clients, bounded=True) == (0.2, 4.0)  # scores that are not in [0, 1] after all
    assert score_range([*clients, np.array([-1e9, 1e9]), np.array([0.0, 1e9])], bounded=False) == (0.1, 5.0)
    assert score_range([np.array([0.2, 0.9])] * 2, bounded=True) == (0.0, 1.0)
    assert score_range([np.array([0.2, 0.9])] * 2, bounded=False) == (0.2, 0.9)


# ------------------------------------------------------------------------------------------------------- maliciousness


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.integers(2, 8), st.integers(0, 3), st.integers(0, 10**6))
def test_maliciousness_is_its_definition(clients, liars, seed):
    liars = min(liars, clients - 1)
    vectors = np.random.default_rng(seed).dirichlet(np.ones(5), clients)
    for k in range(clients):
        others = sorted(float(np.linalg.norm(vectors[k] - vectors[j])) for j in range(clients) if j != k)
        count = clients - liars - 1
        assert maliciousness(vectors, liars)[k] == pytest.approx(sum(others[:count]))
        assert maliciousness(vectors, liars, "farthest")[k] == pytest.approx(sum(others[len(others) - count :]))


def test_the_nearest_tell_liars_apart_that_the_farthest_do_not():
    place = np.array([0.0, 0.02, 0.02, 0.3, 0.3])  # three honest clients, two liars that say the same
    vectors = np.stack([0.5 + place, 0.5 - place], axis=1)
    assert dropped(maliciousness(vectors, 2), 2) == [3, 4]
    # An honest client's two farthest are the liars, a liar's are honest clients: 0.6 and 0.58.
    assert dropped(maliciousness(vectors, 2, "farthest"), 2) == [0, 4]


def test_the_suspects_are_the_largest_and_of_equals_the_later():
    assert dropped(np.array([0.1, 0.5, 0.2, 0.5]), 2) == [1, 3]
    assert dropped(np.array([0.5, 0.5, 0.5]), 1) == [2]
    assert dropped(np.array([0.5, 0.5, 0.5]), 0) == []


def test_the_estimate_is_the_gaussian_likelihoods():
    rng = np.random.default_rng(1)
    vectors = histograms([*honest(rng, 12), *(np.zeros(200) for _ in range(3))], 20, 0.0, 1.0)
    order = np.argsort(maliciousness(vectors, 7), kind="stable")

    def difference(m: int) -> float:
        """Mean log-likelihood kept less that left out, of the isotropic Gaussian likeliest for those kept."""
        kept, out = vectors[order[: 15 - m]], vectors[order[15 - m :]]
        spread = math.sqrt(((kept - kept.mean(axis=0)) ** 2).mean())
        logs = [norm.logpdf(side, kept.mean(axis=0), spread).sum(axis=1).mean() for side in (kept, out)]
        return float(logs[0] - logs[1])

    assert most_likely_malicious(vectors) == max(range(1, 8), key=difference) == 3
    assert most_likely_malicious(vectors[:2]) == 0
    assert most_likely_malicious(np.tile(vectors[0], (9, 1))) == 1  # it always finds one
    assert most_likely_malicious(np.concatenate([np.tile(vectors[0], (9, 1)), vectors[-2:]])) == 2


# ------------------------------------------------------------------------------------------------------- the strategy

LIES = {
    "zeros": lambda rng: np.zeros(200),
    "ones": lambda rng: np.ones(200),
    "uniform": lambda rng: rng.random(200),
}


@pytest.mark.parametrize("neighbours", ["nearest", "farthest"])
@pytest.mark.parametrize("malicious", [0.3, "estimate"])
@pytest.mark.parametrize("lie", LIES)
def test_planted_liars_are_left_out(lie, malicious, neighbours):
    rng = np.random.default_rng(2)
    scores = [LIES[lie](rng) if k in {1, 4, 9} else one for k, one in enumerate(honest(rng, 10))]
    strategy = rob_fcp(malicious=malicious, neighbours=neighbours)
    strategy.take(1, columns(crowd(*scores)))
    out = strategy.detail()["left_out"]
    assert {1, 4, 9} <= set(out)
    assert strategy.detail()["num_malicious"] == len(out) <= (4 if malicious == "estimate" else 3)
    kept = [one for k, one in enumerate(scores) if k not in out]
    rank = conformal_rank(200 * len(kept), 0.1)  # to the point, where the published code takes a whole per cent
    assert strategy.global_threshold == pooled_threshold(kept, 0.1) == np.sort(np.concatenate(kept))[rank - 1]
    assert strategy.global_threshold != pooled_threshold(scores, 0.1)
    json.dumps(strategy.detail(), allow_nan=False)


def test_liars_far_outside_the_range_of_a_regression():
    rng = np.random.default_rng(3)
    scores = [*(50 * rng.exponential(size=100) for _ in range(7)), np.full(100, 1e12), np.full(100, -1e12)]
    strategy = rob_fcp("regression", malicious=0.2)
    strategy.take(1, columns(crowd(*scores)))
    assert strategy.detail()["left_out"] == [7, 8]
    assert 0 < strategy.detail()["range"][1] < 1e3


def test_honest_clients_of_another_tier_are_taken_for_liars():
    """A documented failure: the weak tier, the smaller one, is left out, and then covered too little."""
    rng = np.random.default_rng(4)
    strong, weak = honest(rng, 12), [rng.beta(4, 3, 200) for _ in range(5)]
    strategy = rob_fcp(malicious=0.25)
    strategy.take(1, columns(crowd(*strong, *weak)))
    assert strategy.detail()["left_out"] == [12, 13, 14, 15, 16]
    test = np.concatenate([rng.beta(1, 6, 12_000), rng.beta(4, 3, 5_000)])
    assert (test <= strategy.global_threshold).mean() < 0.72
    assert (test <= pooled_threshold([*strong, *weak], 0.1)).mean() > 0.88
    estimated = rob_fcp()
    estimated.take(1, columns(crowd(*strong, *weak)))
    assert estimated.detail()["left_out"] == [12, 13, 14, 15, 16]


def test_an_honest_client_with_few_points_looks_malicious():
    rng = np.random.default_rng(5)
    strategy = rob_fcp(malicious=0.1)
    strategy.take(1, columns(crowd(*honest(rng, 9), rng.beta(1, 6, 5))))
    assert strategy.detail()["left_out"] == [9]


def test_clients_without_points_are_no_part_of_it():
    rng = np.random.default_rng(6)
    strategy = rob_fcp(malicious=0.2)
    assert strategy.question() == ScoresRequest("s")
    strategy.take(1, columns(crowd([], *honest(rng, 5), [])))
    assert len(strategy.detail()["left_out"]) == 1
    assert strategy.thresholds.keys() == set(range(7))
    for nobody in ([], crowd([], [])):
        strategy.take(1, columns(nobody))
        assert strategy.global_threshold == math.inf
    for few in (1, 2):
        rob = rob_fcp()
        rob.take(1, columns(crowd(*honest(rng, few))))
        assert rob.detail()["left_out"] == []


@pytest.mark.parametrize(
    ("share", "clients", "out"), [(0.0, 9, 0), (0.1, 20, 2), (0.1, 21, 3), (0.49, 5, 2), (0.4, 1, 0)]
)
def test_a_share_is_rounded_up_and_stays_below_half(share, clients, out):
    strategy = rob_fcp(malicious=share)
    strategy.take(1, columns(crowd(*honest(np.random.default_rng(7), clients, 30))))
    assert strategy.detail()["num_malicious"] == len(strategy.detail()["left_out"]) == out


def test_the_published_bounds():
    clients, benign, points, bins, beta = 20, 16, 40_000, 4, 0.05
    spread = bins * norm.isf(beta / (2 * bins * benign)) / (2 * math.sqrt(points)) * (1 + 2 * 0.25 / 0.75)
    low, high = certified_coverage(clients, benign, points, bins, 0.1, epsilon=0.001)
    assert low == pytest.approx(0.9 - (0.001 * points + 1) / (points + benign) - spread)
    assert high == pytest.approx(0.9 + 0.001 + benign / (points + benign) + spread)
    assert 0.8 < low < 0.9 < high < 1
    assert certified_coverage(100, 90, 1000, 20, 0.1) == (0.0, 1.0)  # vacuous with the paper's own numbers


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store for all runs, which train the same models."""
    return tmp_path_factory.mktemp("rob-fcp") / "store"


@pytest.mark.parametrize("how", [(), ("calibrate.malicious=0.1",), ("calibrate.neighbours=farthest",)])
def test_on_real_digits(how, place: Path):
    quick = ("runtime.name=inline", "clients.tier.strong.epochs=5")
    result = simulate(Scenario.load("digits", *quick, "calibrate=rob-fcp", *how), store=place)
    found = result.summary["calibrate"]
    assert 0.7 < found["metrics"]["coverage"] < 0.95
    assert len(found["detail"]["left_out"]) == found["detail"]["num_malicious"] > 0
    assert found["detail"]["certified_coverage"] == [0.0, 1.0]
    assert found["metrics"]["bytes_up_per_client"] == 8 * 20
