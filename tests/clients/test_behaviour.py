"""Clients that misbehave: who, how, what it does to every strategy, and what never reaches an average."""

from __future__ import annotations

import io
import math
import re
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from rich.console import Console

from clients.behaviour import altered_targets
from clients.scorer import softmax
from fl_sim import Result, Scenario, simulate
from fl_sim.conformal.reliability import NAMES
from fl_sim.conformal.thresholds import conformal_threshold
from fl_sim.errors import ClientFailedError, ScenarioError
from fl_sim.messages.validate import check_trained
from fl_sim.models import training
from fl_sim.population.clients import Population, populate
from fl_sim.population.prepared_data import prepare
from fl_sim.randomness import stream
from fl_sim.report.table import summary
from fl_sim.scenario.behaviours import BEHAVIOUR
from fl_sim.store.artifacts import Store
from strategies.base import Calibration
from strategies.fedavg import FedAvg
from strategies.fedcp_qq import FedCPQQ

K, SHARE = 6, 0.34  # two of six
TIERS = [
    {"name": "weak", "architecture": "linear", "epochs": 1, "share": 0.5, "learning_rate": 0.01},
    {"name": "strong", "architecture": "linear", "epochs": 2, "learning_rate": 0.01},
]
LEARN: dict[str, dict[str, Any]] = {
    "shared": {"name": "shared"},
    "own": {"name": "own"},
    "fedavg": {"name": "fedavg", "rounds": 1},
}
ALONE: dict[str, Any] = {
    "learn": "own",
    "calibrate": "none",
    "clients": {"tier": [{"name": "only", "architecture": "linear", "epochs": 30, "learning_rate": 0.01}]},
}
CALIBRATE = ("fedwq-cp", "unweighted", "local", "pooled", "none")
PAIRS = [*((learn, "fedwq-cp") for learn in LEARN), *(("shared", name) for name in CALIBRATE[1:])]

RUN_THROUGH: dict[str, dict[str, Any]] = {
    kind: {"kind": kind}
    for kind in ("label-shuffle", "sign-flip", "noise", "inflate", "free-rider", "constant", "wrong-n")
}
FAIL: dict[str, tuple[dict[str, Any], str]] = {
    "raise": ({"kind": "raise"}, r"it raised RuntimeError: client \d raises at every message"),
    "dropout": ({"kind": "dropout"}, "it dropped out"),
    "nan": ({"kind": "nan"}, "it answered nonsense: .*(nan|NaN)"),
    "wrong-n": ({"kind": "wrong-n", "factor": -1}, r"it answered nonsense: num.examples = -\d+"),
    "straggler": ({"kind": "straggler", "delay": 700}, r"it did not answer within 600 s"),
}


def world(*behaviours: dict[str, Any], learn: str = "shared", calibrate: str = "fedwq-cp", **more: Any) -> Scenario:
    # RAPS, because what is said of a score without bounds cannot be told from the truth.
    told = {"name": calibrate} | ({} if calibrate == "none" else {"alpha": 0.1, "score": "raps"})
    clients = {"count": K, "partition": "dirichlet", "concentration": 5.0, "min_calibration": 12, "tier": TIERS}
    return Scenario.model_validate({
        "data": more.pop("data", {"name": "digits", "train": 240, "calibration": 240, "test": 180}),
        "clients": clients | {"behaviour": [{"share": SHARE} | b for b in behaviours]} | more.pop("clients", {}),
        "learn": LEARN[learn],
        "calibrate": told | more.pop("calibrate_more", {}),
        "runtime": {"name": "inline", "device": "cpu"} | more,
    })  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One store for all: an honest client's work is the same whatever the others do."""
    return Store(tmp_path_factory.mktemp("behaviour") / "store")


@pytest.fixture
def run(place: Store, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Simulate, with a clock that stragglers put forward in place of sleeping."""
    clock = SimpleNamespace(slept=0.0)
    monkeypatch.setattr(
        "clients.answers.time", SimpleNamespace(sleep=lambda s: setattr(clock, "slept", clock.slept + s))
    )
    monkeypatch.setattr(
        "fl_sim.runtime.inline.time",
        SimpleNamespace(perf_counter=lambda: time.perf_counter() + clock.slept, monotonic=time.monotonic),
    )
    return lambda *behaviours, **how: simulate(world(*behaviours, **how), store=place.root)


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What reached the server's sums: calibration reports, and (weights, num_examples) of federated averaging."""
    found = SimpleNamespace(reports=[], trained={}, before={}, after={})
    for_each, aggregate = Calibration.for_each, FedAvg.aggregate_train

    def listen(self: Any, reports: Any) -> Any:
        found.reports = list(reports)
        return for_each(self, reports)

    def listen_too(self: Any, server_round: int, replies: Any) -> Any:
        replies = list(replies)
        found.before = numpied(self.groups[0].weights)
        for reply in replies:
            numbers = reply.content["metrics"]
            found.trained[numbers["partition"]] = numpied(reply.content["arrays"]), numbers["num-examples"]
        answer = aggregate(self, server_round, replies)
        found.after = numpied(self.groups[0].weights)
        return answer

    monkeypatch.setattr(Calibration, "for_each", listen)
    monkeypatch.setattr(FedAvg, "aggregate_train", listen_too)
    return found


def numpied(record: ArrayRecord) -> dict[str, np.ndarray]:
    return {name: array.numpy().copy() for name, array in record.items()}


def people(place: Store, scenario: Scenario) -> Population:
    return populate(scenario, prepare(scenario.data, scenario.seed, place), place)


def bad(result: Result) -> list[int]:
    return [row["client"] for row in result.clients if row["behaviour"]]


def timeless(row: dict[str, Any], *but: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in ("seconds", *but)}


# ---------------------------------------------------------------------------------- every behaviour on every strategy


@pytest.mark.parametrize(("learn", "calibrate"), PAIRS)
@pytest.mark.parametrize("kind", FAIL)
def test_stop_ends_the_run_and_names_who_failed(run, place, kind, learn, calibrate):
    behaviour, fault = FAIL[kind]
    scenario = world(behaviour, learn=learn, calibrate=calibrate)
    misbehaving = np.flatnonzero(people(place, scenario).behaviours >= 0)
    with pytest.raises(ClientFailedError) as caught:
        run(behaviour, learn=learn, calibrate=calibrate)
    last = str(caught.value).splitlines()[-1]
    # The first of them, with its tier and, where the run gives its clients their full names, its behaviour.
    assert re.match(rf"client {misbehaving[0]} \(\w+, {kind}\) failed at [\w.]+: {fault}", last), last


@pytest.mark.parametrize(("learn", "calibrate"), PAIRS)
@pytest.mark.parametrize("kind", FAIL)
def test_skip_goes_on_without_those_who_fail(run, heard, kind, learn, calibrate):
    honest = run(learn=learn, calibrate="local")
    result = run(FAIL[kind][0], learn=learn, calibrate=calibrate, on_failure="skip")
    counts = result.summary["clients"]
    assert (counts["sent"], counts["ok"], counts["failed"], counts["retried"]) == (K, K - 2, 2, 0)
    assert [one["client"] for one in counts["missing"]] == bad(result)
    assert all(row["status"] == "ok" for row in result.clients if not row["behaviour"])
    assert all(row["num_correct"] is None for row in result.clients if row["behaviour"])
    assert_nothing_impossible(heard)
    if calibrate == "none" or learn == "fedavg":  # there the honest clients' model is another without the others
        return
    if kind == "nan":
        assert {r.partition for r in heard.reports}.isdisjoint(bad(result))
    pairs = {
        r["client"]: (r["threshold"], r["num_calibration"]) for r in honest.clients if r["client"] not in bad(result)
    }
    if calibrate == "fedwq-cp":
        by_hand = sum(q * n for q, n in pairs.values()) / sum(n for _, n in pairs.values())
    elif calibrate == "unweighted":
        by_hand = sum(q for q, _ in pairs.values()) / len(pairs)
    elif calibrate == "pooled":
        by_hand = conformal_threshold(np.concatenate([report.scores for report in heard.reports]), 0.1)
        assert [len(report.scores) for report in heard.reports] == [n for _, n in pairs.values()]
    else:
        assert {k: result.clients[k]["threshold"] for k in pairs} == {k: q for k, (q, _) in pairs.items()}
        return
    assert result.calibrate["threshold"] == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize(("learn", "calibrate"), PAIRS)
@pytest.mark.parametrize("kind", RUN_THROUGH)
def test_the_others_run_through(run, heard, kind, learn, calibrate):
    honest = run(learn=learn, calibrate=calibrate)
    result = run(RUN_THROUGH[kind], learn=learn, calibrate=calibrate)
    assert result.summary["clients"] == {"sent": K, "ok": K, "retried": 0, "failed": 0, "missing": []}
    assert [row["behaviour"] for row in result.clients].count(kind) == len(bad(result)) == 2
    assert_nothing_impossible(heard)
    if learn == "fedavg":
        return
    moved = ("threshold", "num_covered", "coverage", "mean_set_size", "num_empty")  # by the others, through the average
    for row, same in zip(result.clients, honest.clients, strict=True):
        if not row["behaviour"]:
            but = () if calibrate in ("local", "none") else (*moved, "message_bytes_down")
            # Models of their own are trained together, and the last bits of their outputs depend on with whom.
            assert [row[name] for name in NAMES] == pytest.approx([same[name] for name in NAMES], rel=1e-6)
            but += NAMES if learn == "own" else ()
            assert timeless(row, *but) == timeless(same, *but)


def assert_nothing_impossible(heard: SimpleNamespace) -> None:
    for report in heard.reports:
        assert not np.isnan(getattr(report, "threshold", 0.0))
        assert getattr(report, "num_calibration", 0) >= 0
        assert not np.isnan(getattr(report, "scores", 0.0)).any()
    for weights, num_examples in heard.trained.values():
        assert num_examples >= 0
        assert all(np.isfinite(array).all() for array in weights.values())


@pytest.mark.parametrize(("behaviour", "calibrate", "fault"), [
    ({"kind": "inflate"}, "fedwq-cp", r"threshold = [\d.]+: must lie in \[0, 1\], as this score does"),
    ({"kind": "sign-flip"}, "pooled", r"scores = -[\d.]+: must lie in \[0, 1\], as this score does"),
    ({"kind": "noise", "scale": 100.0}, "local", r"threshold = [\d.-]+: must lie in \[0, 1\], as this score does"),
])  # fmt: skip
def test_what_no_score_can_be_is_refused_by_client(run, heard, behaviour, calibrate, fault):
    result = run(behaviour, calibrate=calibrate, calibrate_more={"score": "lac"}, on_failure="skip")
    missing = result.summary["clients"]["missing"]
    assert [one["client"] for one in missing] == bad(result)
    assert all(re.search(f"it answered nonsense: {fault}", one["reason"]) for one in missing)
    assert {r.partition for r in heard.reports}.isdisjoint(bad(result))


@pytest.mark.parametrize(("delay", "failed"), [(599, 0), (601, 2)])
def test_a_straggler_is_late_beyond_the_timeout_only(run, delay, failed):
    result = run({"kind": "straggler", "delay": delay}, calibrate="none", on_failure="skip")
    assert result.summary["clients"]["failed"] == failed


def test_a_dropout_answers_some_messages(run):
    half = {"kind": "dropout", "share": 1.0, "rate": 0.5}
    result = run(half, calibrate="none", on_failure="skip", clients={"count": 60, "min_calibration": 0})
    told = [one["reason"].partition(":")[0] for one in result.summary["clients"]["missing"]]
    # Two messages each: 30 of 60 are gone after the first, 15 after the second; 4 standard deviations are 15 and 13.
    assert 15 < told.count("train.fit") < 45
    assert 2 < told.count("evaluate.sets") < 28
    assert len(told) == told.count("train.fit") + told.count("evaluate.sets")


def test_ray_and_inline_miss_the_same_clients(ray_session, run, place):
    """A straggler is stopped by its timeout and a dropout is gone at once; on Ray the models are found in the store."""
    behaviours = [{"kind": "straggler", "share": 0.17, "delay": 60}, {"kind": "dropout", "share": 0.17}]
    run()  # so that nobody else has work that takes its time
    inline = run(*behaviours, on_failure="skip", timeout=2)
    scenario = world(*behaviours, on_failure="skip", timeout=2).with_("runtime.name=ray")
    result = simulate(scenario, store=place.root)
    assert [row["behaviour"] for row in result.clients] == [row["behaviour"] for row in inline.clients]
    reasons = {row["behaviour"]: row["status"] for row in result.clients}
    assert reasons == {
        "": "ok", "straggler": "train.fit: it did not answer within 2 s", "dropout": "train.fit: it dropped out",
    }  # fmt: skip
    assert result.calibrate == inline.calibrate
    assert result.summary["clients"]["failed"] == inline.summary["clients"]["failed"] == 2
    assert result.summary["clients"]["retried"] == 0


# --------------------------------------------------------------------------------------------- what the attacks do


@pytest.fixture
def locally(run) -> dict[int, tuple[float, int]]:
    """(q_k, n_k) of every client when all behave."""
    return {r["client"]: (r["threshold"], r["num_calibration"]) for r in run(calibrate="local").clients}


@pytest.mark.parametrize(("behaviour", "times"), [
    ({"kind": "inflate"}, 9), ({"kind": "inflate", "factor": 0.25}, -0.75), ({"kind": "sign-flip"}, -2),
])  # fmt: skip
def test_how_far_one_client_moves_the_means(run, locally, behaviour, times):
    weighted = run(behaviour | {"share": 1 / K})
    (k,) = bad(weighted)
    total = sum(n for _, n in locally.values())
    q, n = locally[k]
    assert weighted.calibrate["threshold"] - run().calibrate["threshold"] == pytest.approx(times * n * q / total)
    plain, before = run(behaviour | {"share": 1 / K}, calibrate="unweighted"), run(calibrate="unweighted")
    assert plain.calibrate["threshold"] - before.calibrate["threshold"] == pytest.approx(times * q / K)


def test_a_wrong_n_weighs_as_it_claims(run, heard, locally):
    result = run({"kind": "wrong-n", "share": 1 / K, "factor": 3})
    (k,) = bad(result)
    claimed = {j: (q, n * (3 if j == k else 1)) for j, (q, n) in locally.items()}
    assert {r.partition: (r.threshold, r.num_calibration) for r in heard.reports} == claimed
    by_hand = sum(q * n for q, n in claimed.values()) / sum(n for _, n in claimed.values())
    assert result.calibrate["threshold"] == pytest.approx(by_hand, rel=1e-12)
    assert result.clients[k]["num_calibration"] == locally[k][1]  # the laboratory knows


def test_what_is_said_of_scores(run, heard):
    run(calibrate="pooled")
    true = {r.partition: r.scores for r in heard.reports}
    for kind, expected in {
        "sign-flip": lambda s: -s,
        "inflate": lambda s: 10 * s,
        "wrong-n": lambda s: np.tile(s, 10),
    }.items():
        k, *_ = who = bad(run({"kind": kind}, calibrate="pooled"))
        said = {r.partition: r.scores for r in heard.reports}
        assert len(who) == 2
        assert np.array_equal(said[k], expected(true[k]))
        assert all(np.array_equal(said[j], true[j]) for j in true if j not in who)


def test_noise_is_relative_to_what_is_sent(run, heard):
    run(calibrate="pooled")
    true = np.concatenate([r.scores for r in heard.reports])
    run({"kind": "noise", "share": 1.0, "scale": 0.5}, calibrate="pooled")
    noise = (np.concatenate([r.scores for r in heard.reports]) - true) / true
    n = len(noise)
    assert n == 240
    assert noise.mean() == pytest.approx(0, abs=4 * 0.5 / math.sqrt(n))
    assert noise.std() == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(2 * n))


def test_a_free_rider_answers_without_looking(run, heard, locally):
    result = run({"kind": "free-rider"})
    free = bad(result)
    said = {r.partition: (r.threshold, r.num_calibration) for r in heard.reports}
    assert said == {k: (0.9, n) if k in free else (q, n) for k, (q, n) in locally.items()}
    assert bad(run({"kind": "free-rider"}, calibrate="pooled")) == free
    numbers = {r.partition: r.scores for r in heard.reports if r.partition in free}
    assert all(len(u) == locally[k][1] and (u >= 0).all() and (u < 1).all() for k, u in numbers.items())
    pooled = np.concatenate(list(numbers.values()))
    assert pooled.mean() == pytest.approx(0.5, abs=4 / math.sqrt(12 * len(pooled)))


def test_a_free_rider_makes_up_an_order_statistic(run, monkeypatch):
    said = []
    take = FedCPQQ.take
    monkeypatch.setattr(FedCPQQ, "take", lambda self, turn, reports: (said.append(reports), take(self, turn, reports)))
    sizes = {"score": "lac", "sizes": "equal"}
    result = run({"kind": "free-rider"}, calibrate="fedcp-qq", calibrate_more=sizes)
    assert result.summary["clients"]["failed"] == 0
    free = [r for r in said[-1] if r.partition in bad(result)]
    n = min(r.num_calibration for r in said[0])
    assert len(free) == 2
    assert all(r.num_calibration == n and 0 < r.threshold <= 1 for r in free)
    assert len({r.threshold for r in free}) == 1  # the rank that was asked for, of n
    assert (free[0].threshold * n).is_integer()


def test_a_histogram_of_what_no_score_can_be_is_refused_by_client(run):
    asked = {"score": "lac"}
    result = run({"kind": "inflate"}, calibrate="fedhist-cp", calibrate_more=asked, on_failure="skip")
    missing = result.summary["clients"]["missing"]
    assert [one["client"] for one in missing] == bad(result)
    assert all("of its scores above 1: must lie in [0, 1]" in one["reason"] for one in missing)


def test_a_free_rider_keeps_an_untrained_model(run):
    honest, result = run(**ALONE), run({"kind": "free-rider"}, **ALONE)
    for k in bad(result):
        assert result.clients[k]["accuracy"] < 0.4 < 0.5 < honest.clients[k]["accuracy"]
    assert run({"kind": "free-rider"}, calibrate="none").column("accuracy") == run(calibrate="none").column("accuracy")


FEDAVG: dict[str, tuple[Callable[[Any, Any], Any], int]] = {  # weights from those sent and those trained; claim of n
    "sign-flip": (lambda w, trained: w - (trained - w), 1),
    "inflate": (lambda w, trained: w + 10 * (trained - w), 1),
    "free-rider": (lambda w, trained: w, 1),
    "wrong-n": (lambda w, trained: trained, 10),
}


@pytest.mark.parametrize("kind", FEDAVG)
def test_what_is_sent_to_federated_averaging(run, heard, kind):
    run(learn="fedavg")
    true, begin, heard.trained = heard.trained, heard.before, {}
    who = bad(run({"kind": kind}, learn="fedavg"))
    expected, times = FEDAVG[kind]
    assert set(heard.trained) == set(true) == set(range(K))
    for k, (weights, num_examples) in heard.trained.items():
        assert num_examples == true[k][1] * (times if k in who else 1)
        for name, array in weights.items():
            if k not in who:
                assert array.tobytes() == true[k][0][name].tobytes()
            else:
                np.testing.assert_allclose(array, expected(begin[name], true[k][0][name]), rtol=1e-5, atol=1e-6)
    total = sum(n for _, n in heard.trained.values())
    for name, array in heard.after.items():
        by_hand = sum(n * weights[name].astype(float) for weights, n in heard.trained.values()) / total
        np.testing.assert_allclose(array, by_hand, rtol=1e-5, atol=1e-6)


def test_noise_on_an_update_is_as_large_as_the_update(run, heard):
    run(learn="fedavg")
    true, begin, heard.trained = heard.trained, heard.before, {}
    who = bad(run({"kind": "noise", "scale": 2.0}, learn="fedavg"))
    for k in who:
        for name, array in heard.trained[k][0].items():
            update, noise = true[k][0][name] - begin[name], array - true[k][0][name]
            ratio = np.linalg.norm(noise) / np.linalg.norm(update)
            assert ratio == pytest.approx(2.0, abs=4 * 2 / math.sqrt(2 * noise.size))


def test_nobody_who_counts_leaves_the_weights_as_they_are(run, heard):
    run({"kind": "wrong-n", "share": 1.0, "factor": 0}, learn="fedavg")
    assert [n for _, n in heard.trained.values()] == [0] * K
    assert all(np.array_equal(heard.after[name], array) for name, array in heard.before.items())


# -------------------------------------------------------------------------------------------------- labels and outputs


def test_shuffled_labels_leave_no_class_in_its_place(place):
    population = people(place, world({"kind": "label-shuffle", "share": 1.0}))
    rows, seen = np.arange(240), set()
    true = population.data.targets[rows]
    for k in range(K):
        told = altered_targets(population.client(k), population, "train", rows)
        instead = {(int(a), int(b)) for a, b in zip(true, told, strict=True)}
        assert sorted(a for a, _ in instead) == sorted(b for _, b in instead) == list(range(10))
        assert all(a != b for a, b in instead)
        again = altered_targets(population.client(k), population, "calibration", rows)
        assert np.array_equal(again, told)
        seen.add(tuple(sorted(instead)))
    assert len(seen) == K
    assert altered_targets(people(place, world()).client(0), population, "train", rows) is None


def test_shuffled_labels_are_calibrated_with_and_not_tested_with(run, heard, place):
    lac: dict[str, Any] = {"calibrate": "pooled", "calibrate_more": {"score": "lac"}}
    honest = run(**lac)
    true = {r.partition: r.scores for r in heard.reports}
    result = run({"kind": "label-shuffle"}, **lac)
    population = people(place, result.scenario)
    for report in heard.reports:
        k, client = report.partition, population.client(report.partition)
        assert result.clients[k]["num_correct"] == honest.clients[k]["num_correct"]
        assert result.clients[k]["label_counts"] == honest.clients[k]["label_counts"]
        if k in bad(result):
            told = altered_targets(client, population, "calibration", client.calibration)
            by_hand = 1 - probabilities(population, k)[np.arange(len(told)), told]
            np.testing.assert_allclose(report.scores, by_hand, atol=1e-6)
            assert np.abs(report.scores - true[k]).max() > 0.1
        else:
            assert np.array_equal(report.scores, true[k])


def probabilities(population: Population, k: int) -> np.ndarray:
    """What the model of client k's tier says of its calibration rows."""
    data, recipe = population.data, population.recipe(population.tier(k), "shared")
    rows, model = data.rows("train"), training.initial(recipe, data.shape, 10)
    training.fit(model, data.standardised(rows), data.learnable(rows), recipe)
    return softmax(training.predict(model, data.standardised(population.client(k).calibration), recipe))


def test_shuffled_labels_are_learned_with_where_a_client_learns_alone(run):
    honest, result = run(**ALONE), run({"kind": "label-shuffle"}, **ALONE)
    for k in bad(result):
        assert result.clients[k]["accuracy"] < 0.2 < 0.5 < honest.clients[k]["accuracy"]


def test_a_constant_client_is_right_as_often_as_its_class_comes(run, heard, place):
    for learn in LEARN:
        result = run({"kind": "constant"}, learn=learn)
        population = people(place, result.scenario)
        for k in bad(result):
            labels = population.data.targets[population.client(k).test]
            one = stream(0, "constant", k).integers(10)
            assert result.clients[k]["num_correct"] == (labels == one).sum()
    run({"kind": "constant"}, calibrate="pooled", calibrate_more={"score": "lac"})
    for report in heard.reports:
        client = population.client(report.partition)
        if client.behaviour is not None:  # certain, and so the score 1 - p is 0 or 1
            one = stream(0, "constant", client.id).integers(10)
            assert np.array_equal(report.scores, (population.data.targets[client.calibration] != one).astype(float))


def test_constant_clients_train_on_their_class(run, heard, place):
    result = run({"kind": "constant"}, learn="fedavg")
    population = people(place, result.scenario)
    for k in bad(result):
        weights = heard.trained[k][0]
        x = population.data.standardised(np.arange(240)).reshape(240, -1)
        said = x @ next(w for w in weights.values() if w.ndim == 2).T + next(w for w in weights.values() if w.ndim == 1)
        begin = x @ next(w for w in heard.before.values() if w.ndim == 2).T
        one = int(stream(0, "constant", k).integers(10))
        assert (said.argmax(axis=1) == one).mean() > (begin.argmax(axis=1) == one).mean()


def test_regression(run, place):
    tiers = [{"name": "only", "architecture": "linear", "epochs": 1}]
    how: dict[str, Any] = {
        "data": {"name": "diabetes", "train": 200, "calibration": 120, "test": 100},
        "clients": {"tier": tiers, "min_calibration": 0},
        "calibrate_more": {"score": "residual"},
    }
    behaviours = [{"kind": "constant", "share": 0.34}, {"kind": "label-shuffle", "share": 0.34}]
    result = run(*behaviours, learn="own", **how)
    population = people(place, result.scenario)
    for k in range(K):
        client, data = population.client(k), population.data
        if client.behaviour is None:
            continue
        told = altered_targets(client, population, "train", client.train)
        if client.behaviour.kind == "constant":
            error = np.sqrt(np.mean((data.targets[client.test].astype(float) - data.target_mean) ** 2))
            assert result.clients[k]["rmse"] == pytest.approx(error)
            assert np.array_equal(told, np.full(len(client.train), np.float32(data.target_mean)))
            assert altered_targets(client, population, "calibration", client.calibration) is None
        else:
            true = data.targets[client.train]
            assert sorted(told.tolist()) == sorted(true.tolist())
            assert not np.array_equal(told, true)
    assert set(result.learn["honest"]) == {"rmse", "rmse_client_max"}


def test_a_model_is_kept_under_the_labels_it_learned(run, tmp_path, monkeypatch):
    def models(name: str, *behaviours: dict[str, Any]) -> set[str]:
        alone = [tier | {"cohort": 1} for tier in TIERS]
        simulate(world(*behaviours, learn="own", clients={"tier": alone}), store=tmp_path / name)
        return {path.name for path in (tmp_path / name / "model").iterdir()}

    honest = models("honest")
    assert len(honest) == K
    assert len(honest & models("shuffled", {"kind": "label-shuffle"})) == K - 2
    assert len(honest & models("constant", {"kind": "constant"})) == K - 2
    assert len(honest & models("lazy", {"kind": "free-rider"})) == K - 2
    assert models("flipped", {"kind": "sign-flip"}) == honest  # what it says is wrong, and its work is not
    kept = {path.name for path in (tmp_path / "honest" / "outputs").iterdir()}
    said = {path.name for path in (tmp_path / "constant" / "outputs").iterdir()}
    assert said < kept  # a constant client's outputs are not kept at all
    assert len(said) == len(kept) * (K - 2) / K


def test_the_model_of_a_tier_is_the_laboratorys_whoever_trains_it(tmp_path):
    for kind in ("label-shuffle", "constant", "free-rider"):
        simulate(world({"kind": kind, "share": 1.0}), store=tmp_path / kind)
    simulate(world(), store=tmp_path / "honest")
    found = [{path.name for path in (folder / "model").iterdir()} for folder in tmp_path.iterdir()]
    assert len(found) == 4
    assert all(names == found[0] and len(names) == 2 for names in found)


# ------------------------------------------------------------------------------------------------------ who misbehaves


def drawn(place: Store, *behaviours: dict[str, Any], **clients: Any) -> list[int]:
    return people(place, world(*behaviours, clients={"count": 20, "min_calibration": 0} | clients)).behaviours.tolist()


def test_as_many_misbehave_as_the_shares_say(place):
    behaviours = [{"kind": "nan", "share": 0.2}, {"kind": "raise", "share": 0.35}, {"kind": "noise", "share": 0.0}]
    assert np.bincount(np.array(drawn(place, *behaviours)) + 1).tolist() == [9, 4, 7]
    assert drawn(place) == [-1] * 20
    assert drawn(place, {"kind": "nan", "share": 1.0}) == [0] * 20
    # 20 * 0.13 = 2.6 and 20 * 0.12 = 2.4, which leave 15: the larger remainder is rounded up.
    thirds = [{"kind": "nan", "share": 0.13}, {"kind": "raise", "share": 0.12}]
    assert np.bincount(np.array(drawn(place, *thirds)) + 1).tolist() == [15, 3, 2]


def test_who_misbehaves_looks_at_neither_tiers_nor_data(place):
    nan = {"kind": "nan", "share": 0.3}
    as_they_are = drawn(place, nan)
    for other in ({"partition": "iid"}, {"tier": TIERS[1:]}, {"tier_by": "size"}, {"test": "shared"}):
        assert drawn(place, nan, **other) == as_they_are
    assert drawn(place, nan | {"kind": "raise"}) == as_they_are
    more = drawn(place, nan | {"share": 0.5})
    assert all(index == 0 for index, before in zip(more, as_they_are, strict=True) if before == 0)
    scenario = world(nan, clients={"count": 20, "min_calibration": 0})
    tiers = people(place, scenario).tiers
    without = people(place, world(clients={"count": 20, "min_calibration": 0}))
    assert tiers.tolist() == without.tiers.tolist()
    assert people(place, scenario.with_("seed=1")).behaviours.tolist() != as_they_are


def test_over_seeds_every_client_misbehaves_as_often(place):
    scenario = world({"kind": "nan", "share": 0.3}, clients={"count": 10, "min_calibration": 0})
    data = prepare(scenario.data, 0, place)
    found = [populate(scenario.with_(f"seed={seed}"), data, place) for seed in range(60)]
    times = sum(population.behaviours >= 0 for population in found)
    assert times.sum() == 3 * 60
    assert (np.abs(times - 18) < 4 * math.sqrt(60 * 0.3 * 0.7)).all()
    # And five of the ten are weak: hypergeometric, of variance 3/4 * 7/9.
    weak = sum(int((population.behaviours[population.tiers == 0] >= 0).sum()) for population in found)
    assert weak == pytest.approx(90, abs=4 * math.sqrt(60 * 3 / 4 * 7 / 9))


def test_a_share_of_nothing_changes_nothing(place):
    halves = [{"kind": "nan", "share": 0.125}, {"kind": "raise", "share": 0.125}]  # 2.5 each: one of them gets three
    for seed in range(8):
        one, other = (
            world(*told, clients={"count": 20, "min_calibration": 0}).with_(f"seed={seed}")
            for told in (halves, [{"kind": "noise", "share": 0.0}, *halves])
        )
        assert one.identity() == other.identity()
        ours, theirs = people(place, one), people(place, other)
        assert [ours.label(k) for k in range(20)] == [theirs.label(k) for k in range(20)]


def test_a_client_knows_its_behaviour_and_is_called_by_it(place):
    population = people(place, world({"kind": "inflate", "factor": 3}))
    for k in range(K):
        behaviour = population.client(k).behaviour
        tier = population.tier(k).name
        if population.behaviours[k] < 0:
            assert behaviour is None
            assert population.label(k) == f"client {k} ({tier})"
        else:
            assert behaviour == BEHAVIOUR["inflate"](kind="inflate", share=SHARE, factor=3)
            assert population.label(k) == f"client {k} ({tier}, inflate)"


def test_a_behaviour_is_part_of_the_populations_key(place):
    keys = {people(place, world(*told)).key for told in ([], [{"kind": "nan"}], [{"kind": "nan", "share": 0.5}])}
    assert len(keys) == 3


# ----------------------------------------------------------------------------------------------------------- scenarios


@pytest.mark.parametrize(("table", "words"), [
    ('{kind="nan", share=1.2}', "clients.behaviour.nan.share = 1.2: input should be less than or equal to 1"),
    ('{kind="nan", share=-0.1}', "clients.behaviour.nan.share = -0.1"),
    ('{kind="nan", share=0.6}, {kind="raise", share=0.5}', "the behaviours' shares add up to 1.1"),
    ('{kind="nan", share=0.1}, {kind="nan", share=0.2}', "each kind of behaviour may stand once: nan, nan"),
    ('{kind="sign-flop", share=0.1}', "no behaviour is called 'sign-flop'; did you mean 'sign-flip'?"),
    ('{share=0.1}', "clients.behaviour.0: a behaviour is a table with a kind, one of: label-shuffle"),
    ('{kind="nan"}', "clients.behaviour.nan.share: this key is needed and is missing"),
    ('{kind="sign-flip", share=0.1, factor=2}',
     "clients.behaviour.sign-flip: factor belongs to kind = 'inflate' or 'wrong-n', not 'sign-flip'"),
    ('{kind="inflate", share=0.1, delay=2}', "delay belongs to kind = 'straggler', not 'inflate'"),
    ('{kind="inflate", share=0.1, factr=2}', "inflate.factr: there is no such key; did you mean 'factor'?"),
    ('{kind="inflate", share=0.1, factor=0}', "inflate.factor = 0: input should be greater than 0"),
    ('{kind="noise", share=0.1, scale=inf}', "noise.scale = inf: input should be a finite number"),
    ('{kind="wrong-n", share=0.1, factor=1e9}', "wrong-n.factor = 1000000000.0"),
    ('{kind="straggler", share=0.1}', "clients.behaviour.straggler.delay: this key is needed and is missing"),
    ('{kind="dropout", share=0.1, rate=0}', "dropout.rate = 0: input should be greater than 0"),
    ('{kind="dropout", share=0.1, rate=1.5}', "dropout.rate = 1.5: input should be less than or equal to 1"),
])  # fmt: skip
def test_what_is_refused(table, words):
    with pytest.raises(ScenarioError) as refusal:
        Scenario.load("digits", f"clients.behaviour=[{table}]")
    assert words in str(refusal.value)


def test_a_behaviour_is_addressed_by_its_kind():
    scenario = Scenario.load("digits", 'clients.behaviour=[{kind="nan", share=0.1}, {kind="inflate", share=0.1}]')
    assert scenario.with_("clients.behaviour.inflate.factor=3").clients.behaviour[1].factor == 3
    with pytest.raises(ScenarioError, match="nothing there is called 'inflat'; did you mean 'inflate'"):
        scenario.with_("clients.behaviour.inflat.factor=3")


def test_identity_leaves_out_what_has_no_effect():
    def identity(share: float, *more: str) -> str:
        return Scenario.load(
            "digits", f'clients.behaviour=[{{kind="straggler", share={share}, delay=9}}]', *more
        ).identity()

    assert identity(0.0) == identity(0.0, "runtime.timeout=5") == Scenario.load("digits").identity()
    assert len({identity(0.0), identity(0.1), identity(0.2), identity(0.1, "runtime.timeout=5")}) == 4


# ------------------------------------------------------------------------------------------------------------- results


def test_those_who_behave_are_a_group_of_their_own(run, tmp_path):
    honest, result = run(), run({"kind": "inflate"})
    assert "honest" not in honest.learn.keys() | honest.calibrate.keys()
    assert set(result.learn["honest"]) == set(result.learn["tiers"]["weak"])
    assert set(result.calibrate["honest"]) == set(result.calibrate["tiers"]["weak"])
    rows = [row for row in result.clients if not row["behaviour"]]
    assert result.calibrate["honest"]["clients"] == len(rows) == K - 2
    covered, tested = sum(row["num_covered"] for row in rows), sum(row["num_test"] for row in rows)
    assert result.calibrate["honest"]["coverage"] == covered / tested
    assert result.learn["honest"]["accuracy"] == sum(row["num_correct"] for row in rows) / tested


def test_the_table_has_a_row_for_them(run):
    def lines(result: Result) -> list[str]:
        console = Console(width=100, file=io.StringIO())
        console.print(summary(result))
        return console.file.getvalue().splitlines()  # type: ignore[attr-defined]

    assert not [line for line in lines(run()) if line.startswith("honest") or "misbehave" in line]
    shown = lines(run({"kind": "inflate", "share": 0.17}, {"kind": "nan", "share": 0.17}, on_failure="skip"))
    (row,) = [line for line in shown if line.startswith("honest")]
    assert row.split()[1] == str(K - 2)
    assert any("2 of 6 clients misbehave (" in line and "1 inflate" in line and "1 nan" in line for line in shown)
    alone = lines(run({"kind": "constant"}, calibrate="none"))
    assert any(line.startswith("honest") for line in alone)


# ------------------------------------------------------------------------------------- what federated averaging is sent

SENT = RecordDict({"arrays": ArrayRecord({"w": Array(np.zeros(3, np.float32))}), "config": ConfigRecord({"x": 1})})


def trained(values: Any = (1, 2, 3), name: str = "w", **numbers: Any) -> RecordDict:
    told = {"num-examples": 5, "partition": 2} | {key.replace("_", "-"): value for key, value in numbers.items()}
    arrays = ArrayRecord({name: Array(np.array(values, np.float32))})
    return RecordDict({"arrays": arrays, "metrics": MetricRecord(told)})


def test_trained_weights_are_checked():
    assert check_trained(SENT, trained()) == 2
    for answer, words in {
        "nan": (trained((1, math.nan, 3)), "weights 'w' hold NaN or infinite numbers"),
        "inf": (trained((1, math.inf, 3)), "weights 'w' hold NaN or infinite numbers"),
        "negative": (trained(num_examples=-1), "num-examples = -1: must be a whole number, at least 0"),
        "a float": (trained(num_examples=5.0), "num-examples = 5.0: must be a whole number"),
        "several": (trained(num_examples=[5, 5]), r"num-examples = \[5, 5\]"),
        "another shape": (trained((1, 2)), "not the weights that were sent: other or missing: w"),
        "another name": (trained(name="v"), "not the weights that were sent: other or missing: v, w"),
        "no weights": (RecordDict({"metrics": MetricRecord({"num-examples": 5})}), "not trained weights"),
        "no partition": (RecordDict({"a": SENT["arrays"], "m": MetricRecord({"num-examples": 5})}), "partition = None"),
    }.values():  # fmt: skip
        with pytest.raises(ValueError, match=words):
            check_trained(SENT, answer)


def test_probabilities_of_a_certain_model_are_one_and_nothing():
    assert softmax(np.array([[0, 1000, 0]], np.float32)).tolist() == [[0, 1, 0]]
