"""The smoothed quantiles of DP-FedCP and Q-DCP, against definitions, brute force and the authors' linear algebra."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import dp_accounting
import numpy as np
import pytest
from by_hand import columns
from dp_accounting.rdp import RdpAccountant
from flwr.app import ConfigRecord
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import brentq
from scipy.special import expit

from clients import optimise
from fl_sim import simulate
from fl_sim.conformal.pinball import (
    Graph,
    Terms,
    agree,
    corrected_alpha,
    descended,
    importance,
    moreau_gradient,
    neighbour_sums,
    privacy_spent,
    published_margin,
    published_penalty,
)
from fl_sim.conformal.thresholds import local_threshold, pooled_threshold
from fl_sim.messages.calibration import SizeReport, SizeRequest, ThresholdReport, ThresholdRequest
from fl_sim.messages.record import Record
from fl_sim.messages.summaries import AgreeRequest, DescendRequest, LabelCountsReport, LabelCountsRequest, StepReport
from fl_sim.scenario.scenario import Scenario
from fl_sim.scenario.strategies import CALIBRATE
from fl_sim.store.artifacts import Store
from strategies.base import Calibration, Federation
from strategies.dp_fedcp import DPFedCP
from strategies.q_dcp import QDCP

LAC, RESIDUAL = '{"name": "lac"}', '{"name": "residual"}'
Floats = np.ndarray[Any, np.dtype[np.float64]]
Lost = Callable[[int, int], bool]  # whether a client (partition, round) does not answer


def dp_fedcp(alpha: float = 0.1, score: str = LAC, federation: Federation | None = None, **told: Any) -> DPFedCP:
    options = CALIBRATE["dp-fedcp"](alpha=alpha, score="lac", **told).arguments() | {"score": score}
    return DPFedCP(federation=federation or Federation("p"), **options)


def q_dcp(alpha: float = 0.1, **told: Any) -> QDCP:
    return QDCP(
        federation=Federation("p"),
        **(CALIBRATE["q-dcp"](alpha=alpha, score="lac", **told).arguments() | {"score": LAC}),
    )


def here(k: int) -> Any:
    """Client k, as far as its scores are told apart by it."""
    model = ConfigRecord({"population": "", "key": "", "shared": True, "member": -1})
    return SimpleNamespace(
        store=SimpleNamespace(root=""), client=SimpleNamespace(id=k), population=SimpleNamespace(key=""),
        state={"model": model},
    )  # fmt: skip


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A strategy's rounds with the clients' true handlers, on scores (and labels) given here."""

    def played(
        strategy: Any, scores: Sequence[Floats], labels: Any = None, bins: int = 1, lost: Lost | None = None
    ) -> Any:
        labels = [np.zeros(len(s), np.int64) for s in scores] if labels is None else labels
        held = {}
        for k, (s, y) in enumerate(zip(scores, labels, strict=True)):
            order = np.argsort(s)
            held[k] = optimise._SortedScores(k, strategy.federation.seed, np.asarray(s)[order], np.asarray(y)[order])
        monkeypatch.setattr(optimise, "_sorted", lambda client, _: held[client.client_context.client.id])

        def answer(k: int, asked: Any) -> Record:
            s = held[k].scores
            if isinstance(asked, ThresholdRequest):
                return ThresholdReport(k, *local_threshold(s, asked.alpha, asked.small_n))
            if isinstance(asked, SizeRequest):
                return SizeReport(k, len(s), *((float(s[0]), float(s[-1])) if len(s) else (0.0, 0.0)))
            if isinstance(asked, LabelCountsRequest):
                return LabelCountsReport(k, np.bincount(held[k].labels, minlength=bins))
            handler: Any = {DescendRequest: optimise.descend, AgreeRequest: optimise.agree_on}[type(asked)]
            return handler(asked, here(k))

        for turn in range(1, strategy.num_rounds + 1):
            asked = strategy.ask(turn)
            asked = asked if isinstance(asked, Mapping) else dict.fromkeys(range(len(scores)), asked)
            asked = {k: record for k, record in asked.items() if not (lost and lost(k, turn))}
            strategy.take(turn, columns(answer(k, asked[k]) for k in sorted(asked)))
        return strategy

    return played


def unlike_clients(seed: int = 0, sizes: Sequence[int] = (30, 60, 45, 90, 75)) -> list[Floats]:
    """Scores in [0, 1] of clients whose laws differ."""
    rng = np.random.default_rng(seed)
    return [np.sort(rng.beta(1 + 2 * (k % 2), 4 - 2 * (k % 2), n)) for k, n in enumerate(sizes)]


# ---------------------------------------------------------------------------------------------------------- DP-FedCP


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.floats(-2, 2), st.floats(-2, 2), st.floats(0.05, 0.95), st.floats(0.05, 1))
def test_the_gradient_is_that_of_the_moreau_envelope(q: float, s: float, alpha: float, gamma: float):
    def envelope(at: float) -> float:
        def objective(x: float) -> float:
            return (1 - alpha) * max(s - x, 0) + alpha * max(x - s, 0) + (x - at) ** 2 / (2 * gamma)

        # Convex, of two pieces: its minimum is at the kink or where one of the pieces has slope 0.
        return min(objective(x) for x in (s, at + gamma * (1 - alpha), at - gamma * alpha))

    h = 1e-5
    slope = (envelope(q + h) - envelope(q - h)) / (2 * h)
    found = moreau_gradient(np.array([s]), np.ones(1), q, alpha=alpha, smoothing=gamma)
    assert found == pytest.approx(slope, abs=h / gamma + 1e-9)  # where two pieces meet, off by half a piece of h


def test_the_gradient_weighs_its_scores():
    scores, weights = np.array([0.1, 0.4, 0.9]), np.array([3.0, 1.0, 2.0])
    each = [moreau_gradient(scores[i : i + 1], np.ones(1), 0.42, alpha=0.2, smoothing=0.1) for i in range(3)]
    found = moreau_gradient(scores, weights, 0.42, alpha=0.2, smoothing=0.1)
    assert found == pytest.approx(np.average(each, weights=weights), abs=1e-15)
    assert moreau_gradient(np.zeros(0), np.zeros(0), 0.42, alpha=0.2, smoothing=0.1) == 0.0


def smoothed_quantile(scores: Floats, alpha: float, gamma: float) -> float:
    ones = np.ones(len(scores))

    def gradient(q: float) -> float:
        return moreau_gradient(scores, ones, q, alpha=alpha, smoothing=gamma)

    return float(brentq(gradient, scores.min() - gamma, scores.max() + gamma, xtol=1e-13))


def test_the_minimiser_is_the_quantile_of_the_score_less_a_uniform():
    rng, alpha, gamma = np.random.default_rng(0), 0.1, 0.4
    scores = rng.normal(size=50)
    q = smoothed_quantile(scores, alpha, gamma)
    uniform = stats.uniform(-gamma * alpha, gamma)  # on [-γα, γ(1-α)]
    assert uniform.sf(scores - q).mean() == pytest.approx(1 - alpha, abs=1e-9)
    drawn = rng.choice(scores, 200_000) - uniform.rvs(200_000, random_state=1)
    assert abs((drawn <= q).mean() - (1 - alpha)) < 4 * math.sqrt(alpha * (1 - alpha) / 200_000)


def test_smoothing_lowers_the_quantile_by_gamma_times_one_half_less_alpha():
    scores, alpha = stats.halfnorm.ppf((np.arange(40_000) + 0.5) / 40_000), 0.05
    true = float(stats.halfnorm.ppf(1 - alpha))
    for gamma in (0.01, 0.05, 0.1):
        assert smoothed_quantile(scores, alpha, gamma) == pytest.approx(true - gamma * (0.5 - alpha), abs=gamma**2 / 4)
    q = smoothed_quantile(scores, alpha, 0.35)  # a tenth of the range, about
    assert q == pytest.approx(true - 0.35 * 0.45, abs=0.015)
    assert stats.halfnorm.cdf(q) == pytest.approx(0.93, abs=0.002)  # where 0.95 was asked for


def test_one_step_with_everybody_and_little_smoothing_comes_to_the_pooled_quantile(play):
    scores, alpha, gamma = unlike_clients(), 0.1, 1e-3
    found = play(
        dp_fedcp(alpha, rounds=750, local_steps=1, step_size=0.05, smoothing=gamma, average=False), scores
    ).global_threshold
    assert found == pytest.approx(pooled_threshold(scores, alpha), abs=gamma)
    pooled = np.concatenate(scores)
    inner = corrected_alpha(alpha, 1.0, len(pooled))
    assert inner == pytest.approx(1 - (1 - alpha) * (1 + 1 / len(pooled)), abs=1e-15)
    assert found == pytest.approx(smoothed_quantile(pooled, inner, gamma), abs=1e-9)


def test_many_local_steps_drift_to_the_mean_of_the_clients_own_quantiles(play):
    scores, alpha, gamma = unlike_clients(), 0.1, 0.01
    sizes = [len(s) for s in scores]
    inner = corrected_alpha(alpha, 1.0, sum(sizes))
    own = float(np.average([smoothed_quantile(s, inner, gamma) for s in scores], weights=sizes))
    pooled = smoothed_quantile(np.concatenate(scores), inner, gamma)

    def after(steps: int) -> float:
        told = {"rounds": 800 // steps + 10, "local_steps": steps, "step_size": 0.05, "smoothing": gamma}
        return float(play(dp_fedcp(alpha, average=False, **told), scores).global_threshold)

    one, twenty, many = after(1), after(20), after(800)
    assert own < pooled - 0.05
    assert one == pytest.approx(pooled, abs=1e-3)
    assert many == pytest.approx(own, abs=1e-6)
    assert own < twenty < pooled - 0.02


def test_the_mean_of_the_iterates_counts_the_way_from_0(play):
    scores = unlike_clients()
    strategy = play(dp_fedcp(rounds=20), scores)
    assert len(strategy.iterates) == 21
    assert strategy.global_threshold == pytest.approx(np.mean(strategy.iterates[1:]), abs=1e-15)
    assert strategy.global_threshold < play(dp_fedcp(rounds=20, average=False), scores).global_threshold


def test_a_few_of_the_clients_are_drawn_each_round(play):
    scores = [*unlike_clients(), np.zeros(0)]
    strategy = dp_fedcp(rounds=200, fraction=0.4, average=False)
    play(strategy, scores)
    drawn = [tuple(strategy._draw(turn)) for turn in range(1, 201)]
    assert {len(d) for d in drawn} == {2}
    assert {k for d in drawn for k in d} == set(range(5))  # never the one without points
    assert strategy.drawn.total() == 400
    assert set(strategy.thresholds) == set(range(6))


def test_the_noise_belongs_to_seed_client_and_turn(play):
    scores = unlike_clients()

    def iterates(seed: int) -> list[float]:
        return list(play(dp_fedcp(rounds=4, noise=0.2, federation=Federation("p", seed=seed)), scores).iterates)

    assert iterates(0) == iterates(0)
    assert iterates(0) != iterates(1)
    empty = np.zeros(0)
    request = DescendRequest(LAC, 0.0, 0.1, 2, 0.1, 0.05, 0.3, 1)

    def way(client: int, turn: int) -> float:
        return optimise.descend(replace(request, turn=turn), here(client)).value

    play(dp_fedcp(rounds=1), [empty, empty])  # without points a way is noise alone
    assert way(0, 1) == way(0, 1)
    assert len({way(client, turn) for client in (0, 1) for turn in (1, 2)}) == 4
    ways = [way(0, turn) for turn in range(400)]
    assert np.std(ways) == pytest.approx(0.1 * 0.3 * math.sqrt(2), rel=4 / math.sqrt(800))


# -------------------------------------------------------------------------------------------------------- label shift


def test_the_inner_level_is_that_of_the_scores_with_the_test_points_mass_at_infinity():
    rng = np.random.default_rng(3)
    scores, labels, alpha = rng.random(40), rng.choice(3, 40, p=[0.6, 0.3, 0.1]), 0.2
    w = importance(np.bincount(labels, minlength=3))
    assert w @ np.bincount(labels) == pytest.approx(40)
    order = np.argsort(scores)
    s, weights = scores[order], w[labels[order]]

    def quantile(masses: Floats, level: float) -> float:  # inf{s : P(S <= s) >= level}
        reached = np.cumsum(masses) >= level * (1 - 1e-12)
        return float([*s, math.inf][int(np.argmax(reached))]) if reached.any() else math.inf

    for y in range(3):
        with_test_point = np.append(weights, w[y]) / (weights.sum() + w[y])
        inner = corrected_alpha(alpha, float(w[y]), float(weights.sum()))
        assert quantile(with_test_point, 1 - alpha) == quantile(weights / weights.sum(), 1 - inner)
    heaviest = corrected_alpha(alpha, float(w.max()), float(weights.sum()))
    assert heaviest == min(corrected_alpha(alpha, float(x), float(weights.sum())) for x in w)  # the highest level


def test_label_shift_comes_to_the_weighted_quantile(play):
    rng, alpha = np.random.default_rng(5), 0.2
    labels = [rng.choice(2, n, p=[0.9, 0.1]) for n in (60, 80, 120)]
    scores = [np.where(y == 1, 0.5 + rng.random(len(y)) / 2, rng.random(len(y)) / 2) for y in labels]  # 1 is hard
    told = {"rounds": 600, "local_steps": 1, "step_size": 0.05, "smoothing": 1e-3, "average": False}
    shifted = play(dp_fedcp(alpha, target="uniform", **told), scores, labels, bins=2)
    pooled = play(dp_fedcp(alpha, target="pooled", **told), scores, labels, bins=2)
    s, y = np.concatenate(scores), np.concatenate(labels)
    w = importance(np.bincount(y))[y]
    order = np.argsort(s)
    level = 1 - corrected_alpha(alpha, float(w.max()), float(w.sum()))
    exact = s[order][np.searchsorted(np.cumsum(w[order]) / w.sum(), level)]
    assert shifted.global_threshold == pytest.approx(exact, abs=2e-3)
    assert pooled.global_threshold < 0.5 < shifted.global_threshold
    by_class = [(s[y == c] <= shifted.global_threshold).mean() for c in (0, 1)]
    assert np.mean(by_class) >= 1 - alpha - 0.01
    asked = next(iter(shifted.ask(2).values()))
    assert asked.information_bytes == 8 * (1 + 2)  # where to start, and a weight for each class
    assert next(iter(pooled.ask(2).values())).information_bytes == 8
    assert shifted.num_rounds == pooled.num_rounds == 601


def test_a_label_without_points_is_always_in_the_set(play):
    scores, labels = [np.array([0.1, 0.2, 0.3] * 20)], [np.array([0, 0, 2] * 20)]
    found = play(dp_fedcp(target="uniform", rounds=5), scores, labels, bins=3)
    assert found.global_threshold is None
    assert np.isinf(found.thresholds[0]).tolist() == [False, True, False]
    regression = dp_fedcp(score=RESIDUAL, target="uniform", rounds=5, federation=Federation("p", task="regression"))
    found = play(regression, scores, labels, bins=3)
    assert found.num_rounds == 7  # labels, then the range
    assert found.thresholds == {0: math.inf}


def test_too_few_points_give_infinity_and_no_questions(play):
    strategy = play(dp_fedcp(0.1, rounds=3), [np.array([0.5] * 4), np.array([0.2] * 4)])  # 9 would do
    assert strategy.thresholds == {0: math.inf, 1: math.inf}
    assert strategy.ask(2) == {}
    assert play(dp_fedcp(0.1, rounds=3), [np.array([0.5] * 5), np.array([0.2] * 5)]).global_threshold < 1
    empty = play(dp_fedcp(0.1, rounds=3), [np.zeros(0)])
    assert empty.thresholds == {0: math.inf}
    json.dumps(empty.detail(), allow_nan=False)


def test_the_unit_of_the_steps():
    assert (dp_fedcp().spread, dp_fedcp().num_rounds) == (1.0, 51)
    unknown = dp_fedcp(score=RESIDUAL)
    unknown.take(1, columns([SizeReport(0, 9, 0.0, 4.0), SizeReport(1, 9, 1.0, 3.0), SizeReport(2, 0, 0.0, 0.0),
                     SizeReport(3, 9, 0.0, 1e9)]))  # fmt: skip
    assert unknown.spread == 4.0  # one far-off client does not matter
    asked = unknown.ask(2)[0]
    assert (asked.step_size, asked.smoothing) == (0.1 * 4.0, 0.05 * 4.0)
    assert dp_fedcp(score=RESIDUAL, spread=2.0).spread == 2.0
    assert unknown.information_up(columns([SizeReport(0, 9, 0.0, 4.0)])) == 24
    assert dp_fedcp().information_up(columns([SizeReport(0, 9, 0.0, 4.0)])) == 8


def test_clients_that_do_not_answer(play):
    scores = unlike_clients()
    gone = play(dp_fedcp(rounds=60, average=False), scores, lost=lambda k, turn: k == 1 and turn > 5)
    without = play(dp_fedcp(rounds=60, average=False), [s for k, s in enumerate(scores) if k != 1])
    assert gone.global_threshold == pytest.approx(without.global_threshold, abs=0.01)
    assert set(gone.thresholds) == set(range(5))
    silent = play(dp_fedcp(rounds=3), scores, lost=lambda *_: True)
    assert silent.thresholds == {}
    json.dumps(silent.detail(), allow_nan=False)
    assert play(dp_fedcp(rounds=3), scores, lost=lambda k, turn: turn > 1).global_threshold == 0.0


# ------------------------------------------------------------------------------------------------------------ privacy


@pytest.mark.parametrize(("aggregation", "moved"), [("mean", 200.2), ("median", 0.2), ("trimmed", 0.2)])
def test_a_liar_moves_the_mean_of_the_ways_and_not_the_others(aggregation, moved):
    strategy = dp_fedcp(aggregation=aggregation, trim=0.3)
    strategy.counts = {k: np.array([20.0]) for k in range(5)}
    strategy._move(columns([StepReport(k, 1000.2 if k == 4 else 0.2) for k in range(5)]))
    assert strategy.iterates == [0.0, pytest.approx(moved)]


def test_a_step_changes_by_no_more_than_its_sensitivity():
    rng, alpha, gamma = np.random.default_rng(1), 0.1, 0.05
    scores, labels, w = rng.random(12), rng.integers(0, 2, 12), np.array([0.5, 3.0])
    for weights, bound in ((np.ones(12), 1 / 12), (w[labels], 3.0 / w[labels].sum())):
        changes = []
        for i in range(12):
            for other in (-1e6, 1e6, *rng.random(4)):
                changed = scores.copy()
                changed[i] = other
                told = {"alpha": alpha, "smoothing": gamma}
                before, after = (moreau_gradient(s, weights, 0.5, **told) for s in (scores, changed))
                changes.append(abs(after - before))
            scores[i] = -1e6 if i % 2 else 1e6  # so that some change goes from end to end
        assert max(changes) <= bound + 1e-12
        assert max(changes) == pytest.approx(bound)


def test_the_accountant_is_googles():
    for multiplier, steps in ((2.0, 1), (5.0, 10), (20.0, 250)):
        accountant = RdpAccountant(neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_ONE)
        for _ in range(steps):
            accountant.compose(dp_accounting.GaussianDpEvent(multiplier))
        found = privacy_spent(multiplier, steps, 1e-5)
        assert found == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-9)
        # T Gaussians are one of T times the precision, whose ε is known exactly; Rényi's bound is a little above it.
        exact = dp_accounting.get_epsilon_gaussian(multiplier / math.sqrt(steps), 1e-5)
        assert exact < found < 1.1 * exact
    assert privacy_spent(0.0, 1, 1e-5) == math.inf
    assert privacy_spent(0.0, 0, 1e-5) == 0.0


def test_what_is_spent_is_told_of_the_client_with_the_fewest_points(play):
    scores = unlike_clients()
    told = {noise: play(dp_fedcp(rounds=10, noise=noise), scores).detail() for noise in (0.0, 0.5, 1.0, 2.0)}
    assert told[0.0]["epsilon"] is None
    assert told[0.5]["neighbours"] == "one calibration point replaced"
    assert told[0.5]["epsilon"] > told[1.0]["epsilon"] > told[2.0]["epsilon"] > 0
    assert told[1.0]["epsilon"] == pytest.approx(privacy_spent(1.0 * 30, 10 * 5, 1e-5), rel=1e-12)
    assert "not_private" not in told[1.0]
    once = play(dp_fedcp(rounds=10, fraction=0.2, noise=1.0), scores)
    rounds = once.drawn
    worst = max(privacy_spent(1.0 * n, rounds[k] * 5, 1e-5) for k, n in enumerate(map(len, scores)))
    assert once.detail()["epsilon"] == pytest.approx(worst, rel=1e-12)
    ranged = play(dp_fedcp(rounds=2, noise=1.0, score=RESIDUAL), scores).detail()
    assert "largest score" in ranged["not_private"]


# -------------------------------------------------------------------------------------------------------------- Q-DCP


@settings(derandomize=True, deadline=None, max_examples=80)
@given(
    st.lists(st.floats(0, 1), max_size=40), st.sampled_from([1.0, 50.0, 2000.0, 1e5]), st.floats(1e-3, 3000),
    st.floats(-0.5, 1.5), st.floats(0, 1), st.floats(-1, 2),
)  # fmt: skip
def test_a_client_solves_its_equation(told, sharpness, slope, near, level, anchor):
    scores = np.sort(np.array(told))
    terms = Terms(len(scores) * level, sharpness, slope, slope * anchor)
    x = agree(scores, terms, near)
    # A float x cannot do better than the change of the left side from one float to the next.
    left, derivative = terms.at(scores, x)
    assert abs(left) <= 1e-10 + 4 * derivative * np.spacing(abs(x)) + 1e-13 * (slope * abs(anchor) + len(scores))


def test_the_equation_is_that_of_the_smoothed_loss():
    rng, a, kappa, mu, anchor, c = np.random.default_rng(2), 0.1, 50.0, 3.0, 0.4, 0.7
    scores, own, dual, others = np.sort(rng.random(20)), 0.6, -1.3, np.array([0.2, 0.9, 0.5])
    sorted_scores = optimise._SortedScores(0, 0, scores, np.zeros(20, np.int64))
    question = AgreeRequest(LAC, 1 - a, kappa, mu, anchor, c, len(others), own, dual, float(others.sum()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optimise, "_sorted", lambda *_: sorted_scores)
        x = optimise.agree_on(question, here(0)).value

    def g(v: Any) -> Any:
        return v + np.log1p(np.exp(-kappa * v)) / kappa

    def augmented(q: float) -> float:  # f_k(q) + a_k q + c Σ_j (q - (x_k + x_j)/2)²
        loss = (1 - a) * g(scores - q).sum() + a * g(q - scores).sum() + mu / 2 * (q - anchor) ** 2
        return float(loss + dual * q + c * ((q - (own + others) / 2) ** 2).sum())

    h = 1e-5
    assert (augmented(x + h) - augmented(x - h)) / (2 * h) == pytest.approx(0, abs=1e-6)


def fcp(scores: Sequence[Floats], alpha: float) -> tuple[float, float]:
    """The pooled order statistic of rank ceil((N + K)(1 - α)), and the next one."""
    pooled = np.sort(np.concatenate(scores))
    rank = math.ceil((len(pooled) + len(scores)) * (1 - Fraction(str(alpha))))
    return float(pooled[rank - 1]), float(pooled[rank])


@pytest.mark.parametrize(("topology", "rounds"), [("complete", 150), ("cycle", 300)])
@pytest.mark.parametrize("start", ["anchor", "zero"])
def test_with_little_regularisation_all_agree_on_the_pooled_quantile(play, topology, rounds, start):
    scores = unlike_clients()
    told = {"sharpness": 1e5, "regularisation": 1e-3, "topology": topology, "start": start}
    found = play(q_dcp(0.1, rounds=rounds, **told), scores)
    low, high = fcp(scores, 0.1)
    assert low - 1e-3 <= found.global_threshold <= high + 1e-3
    assert (np.concatenate(scores) <= found.global_threshold + 1e-3).sum() >= found.rank
    assert found.detail()["disagreement"] < 5e-3


def test_the_published_regularisation_keeps_the_quantile_near_the_mean_of_the_clients_own(play):
    scores, alpha = unlike_clients(sizes=(100,) * 6), 0.1
    own = float(np.mean([local_threshold(s, alpha, "clip")[0] for s in scores]))
    low, _ = fcp(scores, alpha)
    off = {}
    for mu in (0.01, 1.0, 100.0, 2000.0):
        strategy = play(q_dcp(alpha, rounds=150, regularisation=mu), scores)
        told = strategy.detail()
        pooled = np.concatenate(scores)
        fixed = agree(pooled, Terms(strategy.rank, 2000.0, 6 * mu, 6 * mu * own), own)
        assert strategy.global_threshold == pytest.approx(fixed, abs=2e-3)
        assert -100 * 0.1 / mu - 1e-9 <= fixed - own <= 100 * 0.95 / mu + 1e-9
        counted = expit(2000 * (fixed - pooled)).sum()
        assert counted == pytest.approx(strategy.rank + 6 * mu * (own - fixed), abs=0.05)
        assert told["rank_after_regularisation"] == pytest.approx(counted, abs=6 * mu * 2e-3 + 0.05)
        off[mu] = abs(strategy.global_threshold - low)
    assert off[0.01] < 0.01
    assert off[2000.0] > 0.1
    assert play(q_dcp(alpha), scores).global_threshold == pytest.approx(own, abs=0.01)  # as published


def incidence(graph: Graph) -> tuple[Floats, Floats]:
    """M₊ and M₋ as the authors build them, edge by edge."""
    apart = range(1, graph.size) if graph.topology == "complete" else (1, graph.size - 1)
    near = [(i, j) for i in range(graph.size) for j in range(i + 1, graph.size) if j - i in apart]
    first, second = np.zeros((len(near), graph.size)), np.zeros((len(near), graph.size))
    for row, (i, j) in enumerate(near):
        first[row, i] = second[row, j] = 1
    return (first + second).T, (first - second).T


@pytest.mark.parametrize("graph", [*(Graph(k, "cycle") for k in (2, 3, 7)), Graph(6, "complete")], ids=str)
def test_penalty_and_margin_are_the_published_ones(graph):
    plus, minus = incidence(graph)
    edges, rng = plus.shape[1], np.random.default_rng(4)
    assert (graph.edges, graph.degree) == (edges, int(plus.sum(axis=1)[0]))
    values, duals, N, most, kappa, mu, T = rng.random(graph.size), rng.normal(size=graph.size), 300, 80, 500.0, 7.0, 12
    duals -= duals.mean()
    assert neighbour_sums(values, graph.topology) == pytest.approx(
        (plus @ plus.T - graph.degree * np.eye(graph.size)) @ values
    )
    lipschitz = most * kappa / 4 + mu
    high = np.linalg.svd(plus)[1][0]
    low = min(s for s in np.linalg.svd(minus)[1] if s > 1e-10)
    k_g, k_f = high / low, lipschitz / mu
    rho = 1 / (1 + k_g**2 / (2 * k_f**2) - k_g / (2 * k_f) * math.sqrt(k_g**2 / k_f**2 + 4))
    c = 0.5 * 2 * math.sqrt(rho) * lipschitz / (high * low)
    assert published_penalty(graph, most, kappa, mu) == pytest.approx(c, rel=1e-9)
    optimum = np.concatenate([values.mean() * np.ones(edges), np.linalg.pinv(minus) @ duals])
    norm = optimum @ np.diag([c] * edges + [1 / c] * edges) @ optimum
    delta = min((rho - 1) * low**2 / (rho * high**2), mu / (c / 4 * high**2 + rho / c * lipschitz**2 / low**2))
    left = norm / graph.size / mu * (1 + delta) ** (2 - T)
    margin = math.sqrt(left) + math.sqrt(2 * N * math.log(2) / mu / kappa + 0.1**2)
    found = published_margin(
        values, duals, graph, points=N, most=most, sharpness=kappa, regularisation=mu, penalty=c, rounds=T
    )
    assert found == pytest.approx(margin, rel=1e-9)


def test_the_published_margin_bounds_nothing_at_first_and_is_wider_than_the_scores_later(play):
    rng = np.random.default_rng(0)
    scores = [np.sort(rng.beta(8, 1, 100)) for _ in range(20)]
    published = {"topology": "cycle", "penalty": "published", "start": "zero", "margin": True}
    pooled = pooled_threshold(scores, 0.1)
    few = play(q_dcp(0.1, rounds=20, **published), scores).global_threshold
    assert few < pooled - 0.05
    more = play(q_dcp(0.1, rounds=100, **published), scores).global_threshold
    assert more > 2  # of scores in [0, 1]


def test_more_than_all_points_give_infinity_and_no_questions(play):
    strategy = play(q_dcp(0.1, rounds=3), [np.arange(5.0), np.arange(5.0), np.arange(9.0)])  # 19.8 -> 20 of 19
    assert strategy.thresholds == dict.fromkeys(range(3), math.inf)
    assert strategy.ask(2) == {}
    json.dumps(strategy.detail(), allow_nan=False)
    largest = play(q_dcp(0.1, rounds=200, regularisation=1e-3), [np.linspace(0, 1, 9)])  # the 9th of 9
    assert 1.0 <= largest.global_threshold <= 1.01


def test_clients_without_points_and_clients_that_are_lost(play):
    scores = unlike_clients()
    told = {"rounds": 250, "regularisation": 1e-3, "sharpness": 1e4}
    empty = play(q_dcp(0.1, **told), [*scores, np.zeros(0)])
    assert set(empty.thresholds) == set(range(6))
    assert empty.present == list(range(5))
    assert empty.rank == math.ceil(306 * Fraction("0.9"))  # but it counts: the test point may be its
    gone = play(q_dcp(0.1, **told), scores, lost=lambda k, turn: k == 3 and turn > 20)
    left = np.sort(np.concatenate([s for k, s in enumerate(scores) if k != 3]))
    assert gone.rank == math.ceil((210 + 5) * Fraction("0.9"))
    assert left[gone.rank - 1] - 1e-3 <= gone.global_threshold <= left[gone.rank] + 1e-3
    silent = play(q_dcp(0.1, rounds=2), scores, lost=lambda *_: True)
    assert silent.thresholds == {}
    json.dumps(silent.detail(), allow_nan=False)
    stopped = play(q_dcp(0.1, rounds=2), scores, lost=lambda k, turn: turn > 1)
    assert stopped.global_threshold == pytest.approx(stopped.anchor)


# ---------------------------------------------------------------------------------------------------------- real runs


def test_real_runs(store: Store):
    def run(*told: str) -> dict[str, Any]:
        quick = ["runtime.name=inline", "clients.tier.strong.epochs=5"]
        found = simulate(Scenario.load("digits", *quick, *told)).summary["calibrate"]
        return dict(found["metrics"]) | {"detail": found["detail"]}

    pooled, mean = run("calibrate=pooled"), run("calibrate=unweighted")
    descent = ["calibrate=dp-fedcp", "calibrate.local_steps=1", "calibrate.rounds=150", "calibrate.average=false"]
    near = run(*descent, "calibrate.smoothing=0.01", "calibrate.step_size=0.1")
    assert near["threshold"] == pytest.approx(pooled["threshold"], abs=0.02)
    assert near["rounds"] == 151
    assert (near["bytes_up_per_client"], near["bytes_down_per_client"]) == (8 + 150 * 8, 150 * 8 + 8)
    short = run("calibrate=dp-fedcp")
    assert short["threshold"] < pooled["threshold"]
    noisy = [run("calibrate=dp-fedcp", "calibrate.rounds=5", "calibrate.noise=1.0") for _ in range(2)]
    assert noisy[0]["detail"] == noisy[1]["detail"]
    assert noisy[0]["detail"]["epsilon"] > 0
    published = run("calibrate=q-dcp")
    assert published["threshold"] == pytest.approx(mean["threshold"], abs=0.01)
    agreed = run("calibrate=q-dcp", "calibrate.regularisation=0.1")
    assert (agreed["detail"]["rank"], agreed["detail"]["points"]) == (756, 800)
    exact = run("calibrate=fcp")
    assert agreed["threshold"] == pytest.approx(exact["threshold"], abs=1e-3)
    assert agreed["coverage"] == exact["coverage"]


def test_infinite_weights():
    assert importance([1, 0, 3]).tolist() == [4 / 3, math.inf, 4 / 9]
    assert corrected_alpha(0.1, 1.0, 0.0) == -math.inf
    assert descended(np.zeros(0), np.zeros(0), 0.5, alpha=0.1, smoothing=1.0, step_size=1.0, noise=np.zeros(3)) == 0.5
    assert isinstance(q_dcp(), Calibration)
