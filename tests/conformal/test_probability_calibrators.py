"""Calibrators against the libraries and against brute force, which rows they are fitted on, and what that keeps."""

from __future__ import annotations

import json
import math
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax as scipy_log_softmax
from scipy.special import softmax

from clients import learn
from clients.app import app
from clients.context import ClientContext
from clients.scorer import Scorer
from clients.scorer import softmax as clients_softmax
from fl_sim import Scenario, simulate
from fl_sim.conformal.calibrator_plan import FEDERATED, Plan, plan_of, with_plan
from fl_sim.conformal.pinball import descended
from fl_sim.conformal.probability_calibrators import FITS, LEAST, Temperature, best_temperature, fit
from fl_sim.conformal.reliability import log_softmax
from fl_sim.conformal.thresholds import conformal_threshold
from fl_sim.errors import ScenarioError
from fl_sim.messages.calibration import ScoresRequest
from fl_sim.messages.learning import FitRequest
from fl_sim.messages.record import Record
from fl_sim.messages.summaries import (
    DescendRequest,
    HistogramRequest,
    LabelCountsRequest,
    TemperatureReport,
    TemperatureRequest,
)
from fl_sim.messages.wire import pack
from fl_sim.population.clients import populate
from fl_sim.population.prepared_data import prepare
from fl_sim.randomness import stream
from fl_sim.report import wording
from fl_sim.report.table import notes
from fl_sim.runtime.inline import InlineGrid
from fl_sim.scenario.calibrate import Calibrate
from fl_sim.scenario.strategies import CALIBRATE
from fl_sim.store.artifacts import Store
from fl_sim.sweep.expand import load_sweep
from strategies import score_text
from strategies.base import Federation, request
from strategies.families.temperature import FederatedTemperature

Floats = np.ndarray[Any, np.dtype[np.float64]]

LIBRARY = ("ets", "vector", "matrix", "svs", "sms")
LAC = '{"name": "lac"}'


def points(n: int, classes: int = 4, seed: int = 0) -> tuple[Floats, Any]:
    """Logits three times too large, some classes favoured, and labels drawn before that was done to them."""
    rng = np.random.default_rng(seed)
    true = 2 * rng.normal(size=(n, classes))
    labels = (true + rng.gumbel(size=true.shape)).argmax(axis=1)
    return 3 * true + 1.5 * rng.normal(size=true.shape) + np.linspace(-1, 1, classes), labels


# --------------------------------------------------------------------------------------------- against the libraries


@pytest.mark.parametrize("name", LIBRARY)
@pytest.mark.parametrize("n", [1, 7, 150])
def test_a_librarys_calibrator_says_what_the_library_says(name, n):
    (logits, labels), (asked, _) = points(n), points(60, seed=1)
    found = np.exp(fit(name, logits, labels)(asked))
    from probmetrics import calibrators as theirs

    by_hand = {
        "ets": theirs.ETSCalibrator(), "svs": theirs.get_calibrator("svs"), "sms": theirs.get_calibrator("sms"),
        "vector": theirs.MixtureCalibrator(theirs.VectorScalingCalibrator()),
        "matrix": theirs.MixtureCalibrator(theirs.MatrixScalingCalibrator()),
    }[name]  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # where it finds no minimum it says so, and leaves them
        by_hand.fit(softmax(logits, axis=1), labels)
    assert found == pytest.approx(by_hand.predict_proba(softmax(asked, axis=1)), abs=1e-6)


def test_temperature_is_the_librarys_and_the_least_of_all():
    (logits, labels), (asked, _) = points(200), points(60, seed=1)
    fit("svs", logits, labels)  # by which the library is loaded
    from probmetrics.calibrators import get_calibrator

    theirs = get_calibrator("temp-scaling").fit(softmax(logits, axis=1), labels)
    found = fit("temperature", logits, labels)
    assert np.exp(found(asked)) == pytest.approx(theirs.predict_proba(softmax(asked, axis=1)), abs=1e-6)

    def losses(temperatures: Floats) -> Floats:
        said = scipy_log_softmax(logits / temperatures[:, None, None], axis=2)
        return -said[:, np.arange(200), labels].mean(axis=1)

    def loss(temperature: float) -> float:
        return float(losses(np.array([temperature]))[0])

    grid = np.exp(np.linspace(-math.log(20), math.log(20), 20_001))
    best = grid[np.argmin(np.concatenate([losses(part) for part in np.array_split(grid, 40)]))]
    assert best_temperature(logits, labels) == pytest.approx(best, rel=3e-4)
    assert loss(best_temperature(logits, labels)) <= loss(best)
    assert 2.5 < best < 6  # three times too large, and noisy


def test_temperatures_stay_in_a_twentieth_to_twenty():
    logits = np.array([[2.0, 0.0], [0.0, 1.0]])
    assert best_temperature(logits, np.array([0, 1])) == 1 / 20  # all right: 0 would be likeliest
    assert best_temperature(logits, np.array([1, 0])) == 20  # all wrong
    assert best_temperature(np.ones((3, 2)), np.array([0, 1, 0])) == 1  # nothing to go by


def test_isotonic_is_scikit_learns():
    (logits, labels), (asked, _) = points(300), points(60, seed=1)
    fit("svs", logits, labels)  # by which the library is loaded
    from probmetrics.calibrators import get_calibrator

    theirs = get_calibrator("isotonic").fit(softmax(logits, axis=1), labels)  # scikit-learn's CalibratedClassifierCV
    mixed = (300 * theirs.predict_proba(softmax(asked, axis=1)) + 1 / 4) / 301
    assert np.exp(fit("isotonic", logits, labels)(asked)) == pytest.approx(mixed, abs=1e-6)


def beta_by_scikit_learn(p: Floats, hit: Any, asked: Floats) -> Floats:
    """As the package betacal does it: without the logarithm whose weight comes out negative."""
    from sklearn.linear_model import LogisticRegression

    x, new = (np.stack([np.log(q), -np.log1p(-q)], axis=1) for q in (p, asked))
    for kept in ([0, 1], [1], [0]):
        model = LogisticRegression(C=1e12, tol=1e-10, solver="newton-cholesky").fit(x[:, kept], hit)
        if model.coef_.min() >= 0:
            return np.asarray(model.predict_proba(new[:, kept])[:, 1])
    raise AssertionError


@pytest.mark.parametrize("seed", range(4))
def test_beta_is_logistic_regression_on_two_logarithms(seed):
    (logits, labels), (asked, _) = points(120, seed=seed), points(60, seed=9)
    p, new = softmax(logits, axis=1), softmax(asked, axis=1)
    by_class = [beta_by_scikit_learn(p[:, c], labels == c, new[:, c]) for c in range(4)]
    one = np.stack(by_class, axis=1)
    mixed = (120 * one / one.sum(axis=1, keepdims=True) + 1 / 4) / 121
    assert np.exp(fit("beta", logits, labels)(asked)) == pytest.approx(mixed, abs=1e-6)


def test_a_beta_weight_that_would_be_negative_is_0():
    """Hits are rarer among the sure ones than in the middle: no rising map of either logarithm says so."""
    p = np.repeat([0.1, 0.5, 0.9], 40)
    hit = np.concatenate([np.arange(40) < 4, np.arange(40) < 30, np.arange(40) < 20]).astype(np.int64)
    logits = np.stack([np.log(p), np.log1p(-p)], axis=1)
    found = np.exp(fit("beta", logits, 1 - hit)(logits))[:, 0]
    assert (np.diff(found[[0, 40, 80]]) >= -1e-12).all()

    def loss(a: float, b: float, c: float) -> float:
        margin = a * np.log(p) - b * np.log1p(-p) + c
        return float(np.mean(np.logaddexp(0, margin) - hit * margin))

    mixed_back = (found * 121 - 1 / 2) / 120
    ours = -float(np.mean(hit * np.log(mixed_back) + (1 - hit) * np.log1p(-mixed_back)))
    grid = [loss(a, b, c) for a in np.linspace(0, 2, 21) for b in np.linspace(0, 2, 21) for c in np.linspace(-2, 3, 26)]
    assert ours <= min(grid) + 1e-9


@pytest.mark.parametrize("name", FITS)
def test_the_number_of_threads_moves_no_digit(name):
    """Ray's workers have one thread, and who runs inline has as many as there are cores."""
    from threadpoolctl import threadpool_limits

    asked, _ = points(60, 10, seed=99)
    for seed in range(4):
        logits, labels = points(50, 10, seed)
        found = []
        for threads in (1, 2):
            with threadpool_limits(threads):
                found.append(fit(name, logits, labels)(asked))
        assert (found[0] == found[1]).all()


# ------------------------------------------------------------------------------------------------------ small cases


@pytest.mark.parametrize("name", FITS)
def test_without_points_every_calibrator_is_the_identity(name):
    asked, _ = points(20)
    assert (fit(name, np.zeros((0, 4)), [])(asked) == log_softmax(asked)).all()
    assert (fit("identity", *points(30))(asked) == log_softmax(asked)).all()


@pytest.mark.parametrize("name", FITS)
@pytest.mark.parametrize(("n", "classes"), [(1, 4), (2, 4), (5, 4), (30, 4), (30, 2)])
def test_log_probabilities_are_finite_and_add_up_whatever_was_seen(name, n, classes):
    (logits, labels), (asked, _) = points(n, classes), points(40, classes, seed=1)
    sure = np.zeros((n, classes))
    sure[:, 1] = 1000.0  # as a client that misbehaves says it
    for seen, of in ((logits, labels), (logits, np.full(n, 1)), (sure, labels)):
        calibrator = fit(name, seen, of)
        for new in (asked, asked[:0], sure):
            found = calibrator(new)
            assert found.shape == new.shape
            assert found.dtype == np.float64
            assert np.isfinite(found).all()
            assert np.exp(found).sum(axis=1) == pytest.approx(1)


@pytest.mark.parametrize("name", ["vector", "matrix", "isotonic", "beta"])
def test_a_class_never_seen_keeps_a_part_of_one_points_weight(name):
    logits, labels = points(40)
    found = np.exp(fit(name, logits, np.where(labels == 2, 1, labels))(points(500, seed=1)[0]))
    assert found[:, 2].min() >= 1 / (41 * 4) * (1 - 1e-6)
    assert found.min() > LEAST


def test_what_cannot_be_fitted_is_refused():
    logits, labels = points(10)
    for bad, message in (
        (lambda: fit("svs", logits, labels + 4), r"must lie in 0\.\.3"),
        (lambda: fit("svs", logits, labels[:9]), "labels of shape"),
        (lambda: fit("svs", np.full((3, 2), np.nan), [0, 1, 0]), "all must be finite"),
        (lambda: fit("svs", np.zeros(3), [0, 1, 0]), "must have shape"),
        (lambda: best_temperature(np.full((3, 2), np.nan), np.array([0, 1, 0])), "all must be finite"),
    ):
        with pytest.raises(ValueError, match=message):
            bad()


# ------------------------------------------------------------------------------------------------- rows and coverage


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.integers(0, 300), st.floats(0, 0.99), st.integers(0, 5), st.integers(0, 50))
def test_rows_are_split_without_a_row_in_common(n, share, seed, client):
    plan = Plan("svs", share)
    fitted, kept = plan.split(seed, client, n)
    assert (len(fitted), len(kept)) == plan.counts(n)
    if share == 0:
        assert fitted.tolist() == kept.tolist() == list(range(n))
        return
    assert len(fitted) == math.floor(share * n + 1e-9)
    assert sorted([*fitted, *kept]) == list(range(n))
    assert (np.diff(fitted) > 0).all()
    assert (np.diff(kept) > 0).all()
    drawn = stream(seed, "calibrator", client).permutation(n)[: len(fitted)]
    assert set(drawn.tolist()) == set(fitted.tolist())


def coverage(name: str, n: int, share: float, draws: int) -> tuple[float, float]:
    """Mean coverage of split conformal at alpha = 0.1 over draws of n exchangeable points, and its standard error."""
    found = []
    for draw in range(draws):
        logits, labels = points(n + 300, seed=1000 + draw)
        fitted, kept = Plan(name, share).split(draw, 0, n)
        calibrator = fit(name, logits[fitted], labels[fitted])
        scores = 1 - np.exp(calibrator(logits))[np.arange(n + 300), labels]
        found.append(float((scores[n:] <= conformal_threshold(scores[kept], 0.1)).mean()))
    return float(np.mean(found)), float(np.std(found) / math.sqrt(draws))


@pytest.mark.parametrize("name", ["temperature", "beta"])
def test_a_split_of_its_own_keeps_the_promise(name):
    """E[coverage] = ceil(21 * 0.9) / 21 for 20 points of distinct scores, whatever the other 20 were used for."""
    mean, error = coverage(name, 40, 0.5, 100)
    assert abs(mean - 19 / 21) < 3 * error


@pytest.mark.parametrize("name", ["isotonic", "beta"])
def test_sharing_the_split_breaks_it_with_a_flexible_calibrator(name):
    """The same points for both: the scores that set the threshold are those of points the calibrator has seen."""
    mean, error = coverage(name, 20, 0.0, 50)
    assert mean < 0.9 - 5 * error
    separate, error = coverage(name, 40, 0.5, 50)
    assert separate > 0.9 - 3 * error


# ---------------------------------------------------------------------------------------------------------- scenarios


WORLD: dict[str, Any] = {
    "data": {"name": "digits", "train": 200, "calibration": 500, "test": 400},
    "clients": {
        "count": 8, "partition": "dirichlet", "concentration": 0.3,
        "tier": [
            {"name": "weak", "share": 0.5, "architecture": "linear", "epochs": 1},
            {"name": "strong", "architecture": "linear", "epochs": 8, "learning_rate": 0.01},
        ],
    },
    "learn": {"name": "shared"},
    "calibrate": {"name": "fedwq-cp", "alpha": 0.1, "score": "lac"},
    "runtime": {"name": "inline", "device": "cpu"},
}  # fmt: skip


def scenario(**calibrate: Any) -> Scenario:
    return Scenario.model_validate(WORLD | {"calibrate": WORLD["calibrate"] | calibrate})


def told(result: Any) -> tuple[Any, Any]:
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in result.clients]
    return rows, result.summary["calibrate"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("calibrators") / "store"


def client_contexts(place: Path, monkeypatch: pytest.MonkeyPatch, world: Scenario) -> list[ClientContext]:
    """The clients of a world, each with its model."""
    monkeypatch.setenv("FL_SIM_STORE", str(place))
    store = Store(place)
    InlineGrid("clients.app:app", 1, math.inf)  # without a grid Flower makes no message
    people = populate(world, prepare(world.data, world.seed, store), store)
    return [ClientContext.of(context(people.key, k), people.key) for k in range(len(people))]


@cache
def context(population: str, k: int) -> Context:
    made = Context(run_id=0, node_id=k, node_config={"partition-id": k}, state=RecordDict(), run_config={})
    learn.fit(FitRequest(population, False, False), ClientContext.of(made, population))
    return made


def answer(client_context: ClientContext, asked: Record) -> Any:
    """What the ClientApp answers for one client."""
    columns, _, left = app.answer([asked], [client_context.client.id], [client_context.state])
    assert not left
    return columns[0]


def test_none_changes_nothing(place, monkeypatch):
    world = scenario()
    assert scenario(calibrator="none").identity() == world.identity()
    assert score_text(world.calibrate) == world.calibrate.score.model_dump_json() == '{"name":"lac"}'
    for client_context in client_contexts(place, monkeypatch, world):
        scorer = Scorer.of(client_context, LAC)
        p = clients_softmax(client_context.outputs("calibration"))
        labels = client_context.population.data.targets[client_context.client.calibration]
        assert (scorer.calibration() == 1 - p[np.arange(len(labels)), labels]).all()
        assert (scorer.labels() == labels).all()
        assert (scorer.log_probabilities("test") == log_softmax(client_context.outputs("test"))).all()
        assert scorer.calibrator is None


@pytest.mark.parametrize("share", [0.0, 0.5, 0.3])
def test_scores_and_labels_are_those_of_the_rows_that_are_left(place, monkeypatch, share):
    world = scenario(calibrator="temperature", calibrator_share=share)
    text = score_text(world.calibrate)
    for client_context in client_contexts(place, monkeypatch, world):
        n = len(client_context.client.calibration)
        fitted, kept = Plan("temperature", share).split(0, client_context.client.id, n)
        logits, labels = (
            client_context.outputs("calibration"),
            client_context.population.data.targets[client_context.client.calibration],
        )
        own = Temperature(best_temperature(logits[fitted], labels[fitted]) if len(fitted) else 1.0)
        scorer = Scorer.of(client_context, text)
        assert (scorer.log_probabilities("calibration") == own(logits[kept])).all()
        assert (scorer.log_probabilities("test") == own(client_context.outputs("test"))).all()
        scores = 1 - np.exp(own(logits))[np.arange(n), labels]
        sent = answer(client_context, ScoresRequest(text, labels=True))
        assert (sent.scores == scores[kept]).all()
        assert (sent.labels == labels[kept]).all()
        counts = np.bincount(labels[kept], minlength=10).tolist()
        assert answer(client_context, LabelCountsRequest(10, text)).counts.tolist() == counts
        everything = np.bincount(labels, minlength=10).tolist()
        assert answer(client_context, LabelCountsRequest(10)).counts.tolist() == everything


def test_a_histogram_by_class_counts_them_too(place, monkeypatch):
    from fl_sim.conformal.histogram import ScoreGrid, decode

    text = score_text(scenario(calibrator="isotonic").calibrate)
    for client_context in client_contexts(place, monkeypatch, scenario()):
        asked = HistogramRequest(text, ScoreGrid(0.0, 1.0, 32).text(), True, 10, 0)
        counts = decode(answer(client_context, asked).code, 10).sum(axis=1)
        assert counts.tolist() == np.bincount(Scorer.of(client_context, text).labels(), minlength=10).tolist()


def test_steps_down_weigh_each_score_by_its_own_label(place, monkeypatch):
    """DP-FedCP's descent: of the rows that are left, each score with its label."""
    text, by_class = score_text(scenario(calibrator="temperature").calibrate), np.arange(1.0, 11.0) ** 2
    how: dict[str, Any] = {"alpha": 0.1, "step_size": 0.1, "smoothing": 0.5}
    for client_context in client_contexts(place, monkeypatch, scenario()):
        asked = DescendRequest(
            text, start=0.5, steps=3, noise=0.0, turn=1, weights=json.dumps(by_class.tolist()), **how
        )
        sent = answer(client_context, ScoresRequest(text, labels=True))
        end = descended(sent.scores, by_class[sent.labels], 0.5, noise=np.zeros(3), **how)
        assert answer(client_context, asked).value == pytest.approx(end - 0.5, abs=1e-12)


def test_the_pooled_threshold_is_that_of_calibrated_scores(place, monkeypatch):
    world = scenario(name="pooled", calibrator="svs")
    pool = np.concatenate(
        [Scorer.of(s, score_text(world.calibrate)).calibration() for s in client_contexts(place, monkeypatch, world)]
    )
    result = simulate(world, store=place)
    assert result.calibrate["threshold"] == conformal_threshold(pool, 0.1)
    assert sum(row["num_calibration"] for row in result.clients) == len(pool)
    assert result.calibrate["calibrator_rows"] == 500 - len(pool)


@pytest.mark.parametrize("name", [n for n in CALIBRATE if n not in ("none", "private")])
def test_every_calibration_runs_after_a_calibrator(place, name):
    rounds = {"dp-fedcp": {"rounds": 4}, "q-dcp": {"rounds": 4}, "online": {"rounds": 3}}.get(name, {})
    result = simulate(scenario(name=name, calibrator="temperature", **rounds), store=place)
    assert sum(row["num_covered"] for row in result.clients) == round(400 * result.calibrate["coverage"]) > 0
    assert simulate(scenario(name=name, calibrator="identity", **rounds), store=place).calibrate["phi_brier"] == 0


def pooled_coverage(place: Path, calibrator: str, share: float) -> tuple[float, float]:
    """Mean coverage over 8 worlds of weak and strong clients, of 112 fitting rows each on average, and its error."""
    tier = {"architecture": "linear", "learning_rate": 0.01}
    told = {
        "data": {"name": "digits", "train": 100, "calibration": 900, "test": 600},
        "clients": {
            "count": 4, "partition": "dirichlet", "concentration": 0.5,
            "tier": [tier | {"name": "weak", "share": 0.5, "epochs": 3}, tier | {"name": "strong", "epochs": 20}],
        },
        "calibrate": {
            "name": "pooled", "alpha": 0.1, "score": "lac", "calibrator": calibrator, "calibrator_share": share,
        },
    }  # fmt: skip
    worlds = [Scenario.model_validate(WORLD | told | {"seed": seed}) for seed in range(8)]
    found = [simulate(world, store=place).calibrate["coverage"] for world in worlds]
    return float(np.mean(found)), float(np.std(found, ddof=1) / math.sqrt(len(found)))


@pytest.mark.parametrize("calibrator", ["temperature", "svs", "isotonic"])
def test_pooled_keeps_its_promise_with_a_split_of_its_own(place, calibrator):
    mean, error = pooled_coverage(place, calibrator, 0.5)
    assert 0.9 - 3 * error < mean < 0.95  # and not by covering everything


def test_pooled_breaks_its_promise_when_a_flexible_calibrator_shares_the_split(place):
    mean, error = pooled_coverage(place, "isotonic", 0.0)
    assert mean < 0.9 - 5 * error


@pytest.mark.parametrize("align", ["rank", "none"])
def test_ranks_are_those_of_calibrated_scores(place, align):
    result = simulate(scenario(calibrator="temperature", align=align, feedback=4), store=place)
    assert 0.5 < result.calibrate["coverage"] <= 1


def test_clients_without_rows_for_a_calibrator_are_counted_and_keep_their_probabilities(place):
    world = scenario(calibrator="svs", calibrator_share=0.01)  # none has a hundred rows
    result = simulate(world, store=place)
    few = sum(len(row["label_counts"]) and sum(row["label_counts"]) < 100 for row in result.clients)
    assert result.calibrate["clients_without_calibrator"] == few > 0
    for row in result.clients:
        if sum(row["label_counts"]) < 100:
            assert row["phi_brier"] in (0.0, None)


def test_inline_and_ray_agree_after_a_calibrator(ray_session, tmp_path):
    found = []
    for runtime in ("inline", "ray"):
        world = scenario(name="grouped", calibrator="sms").with_(f"runtime.name={runtime}", "clients.count=4")
        found.append(told(simulate(world, store=tmp_path / runtime)))
    assert found[0] == found[1]


# -------------------------------------------------------------------------------------------- one temperature for all


def test_the_federated_temperature_is_the_weighted_mean_of_the_logarithms(place, monkeypatch):
    world = scenario(calibrator=FEDERATED)
    result, without = simulate(world, store=place), simulate(scenario(calibrator="identity"), store=place)
    total = rows = 0.0
    for client_context in client_contexts(place, monkeypatch, world):
        n = len(client_context.client.calibration)
        fitted, _ = Plan(FEDERATED, 0.5).split(0, client_context.client.id, n)
        labels = client_context.population.data.targets[client_context.client.calibration][fitted]
        total += len(fitted) * math.log(best_temperature(client_context.outputs("calibration")[fitted], labels))
        rows += len(fitted)
    found = result.summary["calibrate"]["detail"]["federated_temperature"]
    assert found["temperature"] == pytest.approx(math.exp(total / rows), rel=1e-12)
    assert found["rows"] == rows
    assert found["lowest"] <= found["temperature"] <= found["highest"]
    assert result.calibrate["rounds"] == without.calibrate["rounds"] + 1
    assert result.calibrate["bytes_up_per_client"] == without.calibrate["bytes_up_per_client"] + 16
    assert result.calibrate["bytes_down_per_client"] == without.calibrate["bytes_down_per_client"] + 8
    # Ranks of LAC scores under one temperature need not be those without, but every client's sets come from one T.
    text = score_text(world.calibrate, found["temperature"])
    for client_context in client_contexts(place, monkeypatch, world):
        assert Scorer.of(client_context, text).calibrator == Temperature(found["temperature"])


def test_nobodys_rows_leave_the_temperature_at_1():
    strategy = FederatedTemperature(Federation("p"), LAC)
    (asked,) = strategy.sent(request(TemperatureRequest(LAC), [1]))
    strategy.aggregate_train(1, [Message(pack(TemperatureReport(0, 0.0, 0)), reply_to=asked)])
    assert strategy.temperature == 1
    assert strategy.detail() == {"temperature": 1.0, "rows": 0}


def test_a_temperature_that_cannot_be_is_refused_at_the_door():
    for bad in (math.log(21), -math.log(21), math.nan):
        with pytest.raises(ValueError, match="log_temperature"):
            TemperatureReport(0, bad, 3)
    assert TemperatureRequest(LAC).information_bytes == 0
    assert TemperatureReport(0, math.log(20), 3).information_bytes == 16


@pytest.mark.parametrize("kind", ["sign-flip", "wrong-n", "free-rider", "label-shuffle", "constant"])
def test_clients_that_lie_about_their_temperature(place, kind):
    more = {"factor": 3.0} if kind == "wrong-n" else {}
    clients = WORLD["clients"] | {"behaviour": [{"kind": kind, "share": 0.5, **more}]}
    world = Scenario.model_validate(
        WORLD | {"clients": clients, "calibrate": WORLD["calibrate"] | {"calibrator": FEDERATED, "name": "local"}}
    ).with_("runtime.on_failure=skip")
    honest = simulate(scenario(calibrator=FEDERATED, name="local"), store=place)
    lied = simulate(world, store=place)
    temperatures = [r.summary["calibrate"]["detail"]["federated_temperature"]["temperature"] for r in (honest, lied)]
    assert temperatures[0] != temperatures[1]


# -------------------------------------------------------------------------------------------------- what is refused


def test_what_a_score_carries():
    plan = Plan("svs", 0.25, 1.5)
    text = with_plan(json.dumps({"name": "raps", "randomized": True, "penalty": 0.5, "k_reg": 1}), plan)
    assert plan_of(text) == plan
    assert plan_of(LAC) is None
    from fl_sim.conformal.scores import Raps, bounds_of, from_json

    assert from_json(text) == Raps(True, 0.5, 1)
    assert bounds_of(with_plan(LAC, plan)) == (0.0, 1.0)


def test_the_names_are_those_that_can_be_fitted():
    names = Calibrate.model_fields["calibrator"].annotation.__args__
    assert set(names) == {"none", FEDERATED, *FITS}
    assert FEDERATED not in CALIBRATE


@pytest.mark.parametrize(("told", "message"), [
    ({"calibrator": "platt"}, "calibrate.calibrator = 'platt'"),
    ({"calibrator_share": 0.5}, "calibrator_share = 0.5 and calibrator = 'none'"),
    ({"calibrator": "svs", "calibrator_share": 1.0}, "calibrate.calibrator_share = 1.0"),
    ({"calibrator": "svs", "calibrator_share": -0.1}, "calibrate.calibrator_share = -0.1"),
    ({"calibrator": "svs", "align": "temperature"}, "align = 'temperature'"),
    ({"name": "private", "calibrator": "svs"}, "calibrator = 'svs': the noise hides"),
    ({"name": "dp-fedcp", "noise": 0.1, "calibrator": "svs"}, "noise = 0.1 and calibrator = 'svs'"),
])  # fmt: skip
def test_a_calibrator_that_cannot_be_is_refused(told, message):

    with pytest.raises(ScenarioError) as caught:
        Scenario.of(WORLD | {"calibrate": WORLD["calibrate"] | told})
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_regression_has_no_probabilities_and_none_no_scores():
    with pytest.raises(ScenarioError, match=r"calibrate.calibrator = 'svs' is for probabilities.*friedman"):
        Scenario.load("regression", "calibrate.calibrator=svs")
    with pytest.raises(ScenarioError, match=r"calibrate.calibrator: there is no such key"):
        Scenario.load("digits", "calibrate=none", "calibrate.calibrator=svs")


def test_a_calibrator_is_kept_when_the_strategy_is_replaced():
    world = scenario(calibrator="svs", calibrator_share=0.25)
    for other in ("pooled", "grouped"):
        kept = world.with_(f"calibrate={other}").calibrate
        assert (kept.name, kept.calibrator, kept.calibrator_share) == (other, "svs", 0.25)
    assert world.with_("calibrate.calibrator=none").identity() == scenario().identity()
    assert scenario(calibrator="svs").calibrate.calibrator_share == 0.5
    assert scenario(calibrator="svs").identity() == scenario(calibrator="svs", calibrator_share=0.5).identity()
    assert scenario(calibrator="svs").identity() != world.identity()


def test_a_table_that_fits_no_calibrator_needs_no_share():
    axes = {"calibrate": ["fedwq-cp", {"name": "pooled", "calibrator": "none"}]}
    sweep = load_sweep("digits", ("calibrate.calibrator=svs", "calibrate.calibrator_share=0.3"), axes)
    found = [(p.scenario.calibrate.calibrator, p.scenario.calibrate.calibrator_share) for p in sweep.points]
    assert found == [("svs", 0.3), ("none", None)]


def test_a_report_promises_nothing_where_the_split_is_shared(place):
    apart, shared, nothing = (
        simulate(scenario(name="local", calibrator=name, calibrator_share=share), store=place)
        for name, share in (("svs", 0.5), ("svs", 0.0), ("identity", 0.0))
    )
    lost = "No coverage is promised: calibrator_share = 0"
    for result, promised in ((apart, True), (shared, False), (nothing, True)):  # the identity is fitted on nothing
        assert any(wording.band(result.scenario, row) for row in result.clients) == promised
        assert any(note.startswith(lost) for note in notes(result)) != promised
    assert "calibrator svs on 0.5 of the calibration rows" in wording.world(apart)
    assert "calibrator svs on 0 of the calibration rows" in wording.world(shared)


def test_a_sweep_over_shares_meets_none_once():
    axes = {
        "calibrate.calibrator_share": [0.0, 0.5], "calibrate": ["fedwq-cp", {"name": "pooled"}],
        "calibrate.calibrator": ["none", "svs"],
    }  # fmt: skip
    sweep = load_sweep("digits", (), axes)
    assert (len(sweep.points), len(sweep.runs)) == (8, 6)
    told = {
        (p.scenario.calibrate.name, p.scenario.calibrate.calibrator, p.scenario.calibrate.calibrator_share)
        for p in sweep.points
    }
    assert told == {(n, *rest) for n in ("fedwq-cp", "pooled") for rest in (("none", None), ("svs", 0.0), ("svs", 0.5))}
