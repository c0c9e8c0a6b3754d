"""How far clients agree: identity, overlaps and bound against their definitions, and a run that measures them."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_info, threadpool_limits

from fl_sim import Result, Scenario, simulate
from fl_sim.agreement import ensembles, pairwise
from fl_sim.agreement import measure as agreement_of
from fl_sim.agreement.ensembles import Draws, Halves, bound_holds, distance, fit, risk
from fl_sim.agreement.pairwise import gram
from fl_sim.errors import ScenarioError
from fl_sim.messages.agreement import CommonRowsReport
from fl_sim.population.clients import populate
from fl_sim.population.prepared_data import prepare
from fl_sim.report import agreement as agreed
from fl_sim.report.figures import of_a_run
from fl_sim.report.figures.catalogue import modules
from fl_sim.report.figures.style import save, styled
from fl_sim.report.page.build import page
from fl_sim.report.table import notes
from fl_sim.results import tables
from fl_sim.results.run import RunFolder
from fl_sim.store.artifacts import Store

SLOW = settings(derandomize=True, deadline=None, max_examples=40)


def said(models: int, rows: int, classes: int, seed: int = 0, sharp: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (K, n, C) of models that know something of the labels, and these as one-hot rows (n, C)."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=rows)
    logits = rng.normal(size=(models, rows, classes)) + sharp * np.eye(classes)[labels]
    powers = np.exp(logits)
    return (powers / powers.sum(axis=2, keepdims=True)).astype(np.float32), np.eye(classes)[labels]


def halves(predictions: np.ndarray, targets: np.ndarray) -> Halves:
    middle = len(targets) // 2
    return Halves(gram(predictions[:, :middle], targets[:middle]), gram(predictions[:, middle:], targets[middle:]))


# -------------------------------------------------------------------------------------------------------- predictions


@SLOW
@given(st.integers(2, 6), st.integers(1, 30), st.integers(1, 5), st.integers(0, 10_000), st.floats(0.0, 8.0))
def test_the_identity_holds_to_rounding(models, rows, classes, seed, sharp):
    predictions, targets = said(models, rows, classes, seed, sharp)
    between = pairwise.disagreement(gram(predictions, targets))
    pairs = list(itertools.combinations(range(models), 2))
    assert pairwise.identity_residual(predictions, targets, between, pairs) < 1e-12
    assert (np.diag(between) == 0).all()
    assert (between >= 0).all()
    assert (between == between.T).all()
    for i, j in pairs:
        by_hand = ((predictions[i].astype(float) - predictions[j].astype(float)) ** 2).sum(axis=1).mean()
        assert between[i, j] == pytest.approx(by_hand, abs=1e-13)
    assert pairwise.pair_mean(between) == pytest.approx(pairwise.by_row(predictions).mean(), abs=1e-12)


def test_a_planted_error_shows_in_the_identity():
    predictions, targets = said(3, 20, 4)
    between = pairwise.disagreement(gram(predictions, targets))
    assert pairwise.identity_residual(predictions, targets, between + 1e-6, [(0, 1)]) == pytest.approx(1e-6, rel=1e-4)


def test_rows_are_taken_in_blocks(monkeypatch):
    predictions, targets = said(5, 23, 3)
    labels = predictions.argmax(axis=2)
    whole = gram(predictions, targets), pairwise.label_disagreement(labels, 3), pairwise.by_row(predictions)
    monkeypatch.setattr(pairwise, "BLOCK", 8 * 5 * 3 * 4)  # four rows
    parts = gram(predictions, targets), pairwise.label_disagreement(labels, 3), pairwise.by_row(predictions)
    np.testing.assert_allclose(parts[0].products, whole[0].products, rtol=1e-13)
    np.testing.assert_allclose(parts[0].with_target, whole[0].with_target, rtol=1e-13)
    np.testing.assert_array_equal(parts[1], whole[1])
    np.testing.assert_allclose(parts[2], whole[2], rtol=1e-12)


def test_labels_differ_as_often_as_they_differ():
    labels = np.random.default_rng(3).integers(4, size=(6, 50))
    found = pairwise.label_disagreement(labels, 4)
    np.testing.assert_array_equal(found, [[(one != two).mean() for two in labels] for one in labels])
    assert pairwise.pair_mean(found) == pytest.approx(pairwise.labels_by_row(labels, 4).mean(), abs=1e-14)


def test_a_model_twice_is_the_same_model():
    predictions, _ = said(3, 10, 3)
    again = predictions[[0, 1, 0, 2, 1]]
    assert pairwise.same_models(again).tolist() == [0, 1, 0, 3, 1]


@pytest.mark.parametrize("shape", [((2, 3), (3,)), ((2, 0, 3), (0, 3)), ((2, 4, 3), (4, 2))])
def test_shapes_that_do_not_belong_together_are_refused(shape):
    with pytest.raises(ValueError, match="must be \\(K, n, C\\) and \\(n, C\\)"):
        gram(np.zeros(shape[0], np.float32), np.zeros(shape[1]))


def test_means_are_over_pairs_once():
    matrix = np.array([[0.0, 1, 2, 4], [1, 0, 8, 16], [2, 8, 0, 32], [4, 16, 32, 0]])
    assert pairwise.pair_mean(matrix) == pytest.approx(63 / 6)
    found = {name: pairwise.pair_mean(matrix, mine, other) for name, mine, other in pairwise.groups_of("aabb", "abc")}
    assert found == {"a": 1.0, "a x b": (2 + 4 + 8 + 16) / 4, "b": 32.0}
    assert pairwise.pair_mean(matrix, [2]) is None


# ---------------------------------------------------------------------------------------------------- prediction sets


def jaccard(one: set[int], two: set[int]) -> float:
    return len(one & two) / len(one | two) if one | two else 1.0


@pytest.mark.parametrize("classes", [3, 10, 64, 100])
def test_sets_overlap_as_sets_do(classes):
    rng = np.random.default_rng(classes)
    sets = rng.random((5, 40, classes)) < 1.2 / classes  # many are empty
    overlap, contradiction = pairwise.set_overlap(sets)
    for i, j in itertools.product(range(5), repeat=2):
        pairs = [(set(np.flatnonzero(a)), set(np.flatnonzero(b))) for a, b in zip(sets[i], sets[j], strict=True)]
        assert overlap[i, j] == pytest.approx(np.mean([jaccard(*pair) for pair in pairs]), abs=1e-14)
        assert contradiction[i, j] == pytest.approx(np.mean([bool(a and b and not a & b) for a, b in pairs]))
    assert (np.diag(overlap) == 1).all()
    assert contradiction.max() > 0


def test_intervals_overlap_by_their_lengths():
    inf = math.inf
    ends = np.array([[[0, 2], [0, 1], [-inf, inf], [3, 2], [1, 1], [3, 2], [0, 1]],
                     [[1, 4], [1, 3], [-inf, inf], [9, 4], [1, 1], [0, 1], [2, 3]],
                     [[5, 6], [0, 1], [0, 1], [0, 1], [2, 2], [5, 5], [0, 4]]])  # fmt: skip
    overlap, contradiction = pairwise.interval_overlap(ends)
    assert overlap[0, 1] == pytest.approx(np.mean([1 / 4, 0, 1, 1, 1, 0, 0]))
    assert overlap[0, 2] == pytest.approx(np.mean([0, 1, 0, 0, 0, 0, 1 / 4]))
    assert contradiction[0, 1] == pytest.approx(1 / 7)  # [0, 1] and [1, 3] touch
    assert contradiction[0, 2] == pytest.approx(2 / 7)
    assert (np.diag(overlap) == 1).all()
    assert (np.diag(contradiction) == 0).all()


# ------------------------------------------------------------------------------------------------------------- stacks


def test_weights_are_those_of_least_squares():
    predictions, targets = said(6, 30, 4)
    found, members = gram(predictions, targets), [4, 0, 3]
    columns = predictions[members].reshape(3, -1).T.astype(float)
    by_hand = np.linalg.lstsq(columns, targets.ravel(), rcond=None)[0]
    weights = fit(found, members)
    np.testing.assert_allclose(weights, by_hand, rtol=1e-8)
    assert risk(found, members, weights) == pytest.approx(((columns @ by_hand - targets.ravel()) ** 2).sum() / 30)


def test_of_equal_models_each_has_its_share():
    """The minimum-norm solution: w_1 = w_2 where f_1 = f_2."""
    predictions, targets = said(2, 30, 4)
    weights = fit(gram(predictions[[0, 0, 1]], targets), [0, 1, 2])
    alone = fit(gram(predictions, targets), [0, 1])
    np.testing.assert_allclose(weights, [alone[0] / 2, alone[0] / 2, alone[1]], rtol=1e-6)


def test_risks_and_distances_are_those_of_the_stacks_themselves():
    predictions, targets = said(4, 25, 3)
    found, one, two = gram(predictions, targets), [0, 2], [1, 3]
    first, second = np.array([0.3, 0.5]), np.array([-0.2, 1.1])
    a, b = (np.einsum("k,knc->nc", w, predictions[m].astype(float)) for w, m in ((first, one), (second, two)))
    assert risk(found, one, first) == pytest.approx(((a - targets) ** 2).sum(axis=1).mean())
    assert distance(found, one, first, two, second) == pytest.approx(((a - b) ** 2).sum(axis=1).mean())


@pytest.mark.parametrize("seed", range(6))
def test_the_bound_is_never_broken_where_its_conditions_hold(seed):
    """Theorem 3.1, and more: with groups that are stacked together too, no single draw breaks it."""
    rows = halves(*said(17, 60, 3, seed, sharp=seed / 2))
    for k in (1, 2, 4, 8):
        found = ensembles.draw(rows, k, 20, np.random.default_rng(seed))
        assert bound_holds(found)
        assert (found.disagreement <= 4 * (found.risk - found.risk_2k) + 1e-9).all()
        assert (found.risk_2k <= found.risk + 1e-12).all()
    assert [point.k for point in ensembles.curve(rows, 5, np.random.default_rng(0))] == [1, 2, 4, 8]
    assert all(point.holds for point in ensembles.curve(rows, 5, np.random.default_rng(0)))


def test_its_factor_is_tight():
    """The construction of theorem 3.2: g_i = e_0 + sigma e_i and y = e_0. By hand, with c = sigma² / k: R_k = c / (1 +
    c), and two stacks of k are 2 c / (1 + c)² apart."""
    models, k, c = 16, 8, 1e-3
    predictions = np.zeros((models, models + 1, 1), np.float32)
    predictions[:, 0, 0] = 1
    predictions[np.arange(models), 1 + np.arange(models), 0] = np.sqrt(c * k)
    targets = np.zeros((models + 1, 1))
    targets[0] = 1
    found = gram(predictions, targets)
    point = ensembles.doubling(ensembles.draw(Halves(found, found), k, 5, np.random.default_rng(0)))
    twice = Halves(found, found).both.rows  # both halves are all rows: means are over twice as many
    assert point.risk == pytest.approx(2 * (c / (1 + c)) / twice, rel=1e-4)
    assert point.disagreement == pytest.approx(2 * (2 * c / (1 + c) ** 2) / twice, rel=1e-4)
    assert 0.99 < point.disagreement / point.bound <= 1
    assert point.holds


@pytest.mark.parametrize("k", [4, 8])
def test_a_planted_violation_is_caught(k):
    """Stacks whose weights were found on other rows, which are few: no least squares on these."""
    predictions, targets = said(16, 400, 3, sharp=0.5)
    few, found = gram(predictions[:, :6], targets[:6]), gram(predictions[:, 6:], targets[6:])
    told = []
    for seed in range(30):
        both = np.random.default_rng(seed).permutation(16)[: 2 * k]
        one, two = both[:k], both[k:]
        first, second = fit(few, one), fit(few, two)
        risks = risk(found, one, first), risk(found, two, second), risk(found, both, fit(few, both))
        told.append([sum(risks[:2]) / 2, risks[2], distance(found, one, first, two, second), 0, 0])
    assert not bound_holds(Draws(k, *np.array(told).T))
    honest = ensembles.draw(halves(predictions, targets), k, 30, np.random.default_rng(0))
    assert bound_holds(honest)
    assert not bound_holds(honest, mu=8.0)


def test_three_standard_errors_are_forgiven_and_more_are_not():
    zero, noise = np.zeros(100), np.random.default_rng(1).normal(size=100)
    noise = (noise - noise.mean()) / noise.std(ddof=1) / 10  # a standard error of 0.01
    assert bound_holds(Draws(1, zero, zero, 0.0299 + noise, zero, zero))
    assert not bound_holds(Draws(1, zero, zero, 0.0301 + noise, zero, zero))


def point(k: int, gain: float, apart: float, error: float = 0.0) -> ensembles.Doubling:
    return ensembles.Doubling(k, 0, 0, 0, 0, apart, error, 0, 0, 0, 0, gain, error, 0, 0, True)


def test_from_which_k_on_doubling_buys_nothing():
    curve = [point(1, 0.1, 0.4), point(2, 0.001, 0.2), point(4, 0.001, 0.02), point(8, 0.002, 0.013)]
    assert ensembles.enough(curve, 0.002) == 4  # at 2 agreement is still bought
    assert ensembles.enough(curve, 0.05) == 2
    assert ensembles.enough([*curve, point(16, 0.003, 0.01)], 0.002) is None
    assert ensembles.enough([*curve, point(16, 0.003, 0.01, 0.002)], 0.002) == 4  # by chance, for all that is known
    assert ensembles.enough([], 0.002) is None


def test_more_models_than_there_are_cannot_be_drawn():
    with pytest.raises(ValueError, match="k = 3: two disjoint groups of 5 models hold 1 to 2 each"):
        ensembles.draw(halves(*said(5, 10, 2)), 3, 2, np.random.default_rng(0))


# --------------------------------------------------------------------------------------------------------- a whole run

TIERS = [
    {"name": "weak", "architecture": "linear", "epochs": 2, "share": 0.5, "learning_rate": 0.01},
    {"name": "strong", "architecture": "linear", "epochs": 8, "learning_rate": 0.01},
]


def world(**more: Any) -> Scenario:
    clients = {"count": 8, "partition": "iid", "tier": TIERS} | more.pop("clients", {})
    return Scenario.model_validate({
        "data": {"name": "digits", "train": 240, "calibration": 240, "test": 180}, "clients": clients,
        "learn": more.pop("learn", {"name": "own"}),
        "calibrate": more.pop("calibrate", {"name": "pooled", "alpha": 0.1, "score": "lac"}),
        "agreement": more.pop("agreement", {"rows": 120, "draws": 5}),
        "runtime": {"name": "inline", "device": "cpu"} | more.pop("runtime", {}),
    } | more)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("agreement") / "store")


@pytest.fixture
def run(place: Store) -> Callable[..., Result]:
    return lambda **more: simulate(world(**more), store=place.root)


def test_a_run_says_how_far_its_clients_agree(run):
    result = run()
    found = agreed.of(result)
    clients, between = agreement_of.read_matrix(result.files[agreement_of.MATRIX])
    assert clients == list(range(8))
    assert found["missing"] == []
    assert found["disagreement"] == pytest.approx(pairwise.pair_mean(between), rel=1e-5)
    assert result.column("disagreement") == pytest.approx((between.sum(axis=1) / 7).tolist(), rel=1e-5)
    assert found["identity_residual"] < 1e-12
    assert found["bound_applies"]
    assert found["distinct_models"] == 8
    assert [each["k"] for each in found["curve"]] == [1, 2, 4]
    assert all(each["holds"] for each in found["curve"])
    assert set(found["tiers"]) == {"weak", "strong", "weak x strong"}
    weights = [(4 * 3 / 2, "weak"), (4 * 3 / 2, "strong"), (16, "weak x strong")]
    by_tier = sum(w * found["tiers"][name]["disagreement"] for w, name in weights) / 28
    assert found["disagreement"] == pytest.approx(by_tier)
    rows = [each["rows"] for each in found["by_class"].values()]
    by_class = [each["disagreement"] for each in found["by_class"].values()]
    assert sum(rows) == 120
    assert found["disagreement"] == pytest.approx(np.average(by_class, weights=rows))
    json.dumps(result.summary["agreement"], allow_nan=False)


def test_without_the_table_nothing_changes(run):
    with_, without = run(), run(agreement=None)
    assert "agreement" not in without.summary
    assert not without.files
    assert "agreement" not in without.scenario.plain()
    for column in set(without.clients[0]) - {"seconds"}:
        assert without.column(column) == with_.column(column)
    assert without.calibrate == with_.calibrate
    assert "disagreement" not in without.clients[0]


def test_clients_of_one_model_agree_and_no_bound_is_drawn(run):
    found = agreed.of(run(learn={"name": "shared"}))
    assert found["tiers"]["weak"]["disagreement"] == found["tiers"]["strong"]["label_disagreement"] == 0.0
    assert found["tiers"]["weak x strong"]["disagreement"] > 0
    assert found["distinct_models"] == 2
    assert not found["bound_applies"]
    assert {each["bound"] for each in found["curve"]} == {None}
    result = run(learn={"name": "shared"})
    assert agreed.bound_said(result).startswith("No bound is drawn")


@pytest.mark.parametrize("score", ["lac", {"name": "aps", "randomized": False}])
def test_sets_are_those_of_the_evaluation(run, monkeypatch, score):
    """Asked about all test rows, clients answer with the sets whose sizes and coverage were counted."""
    heard: list[Any] = []
    measure = agreement_of.measure
    monkeypatch.setattr(agreement_of, "measure", lambda told, *rest: heard.append(told) or measure(told, *rest))
    result = run(clients={"test": "shared"}, agreement={"rows": 180},
                 calibrate={"name": "local", "alpha": 0.1, "score": score})  # fmt: skip
    (told,) = heard
    covered = (told.sets & (told.targets > 0)).any(axis=2).sum(axis=1)
    assert covered.tolist() == result.column("num_covered")
    assert told.sets.sum(axis=2).mean(axis=1) == pytest.approx(result.column("mean_set_size"))
    correct = (told.predictions.argmax(axis=2) == told.targets.argmax(axis=1)).sum(axis=1)
    assert correct.tolist() == result.column("num_correct")


def test_regression_compares_means_and_intervals(run):
    tier = [{"name": "only", "architecture": "linear", "epochs": 3}]
    result = run(data={"name": "friedman", "train": 300, "calibration": 160, "test": 100},
                 clients={"count": 4, "tier": tier}, agreement={"rows": 60, "draws": 3},
                 calibrate={"name": "local", "alpha": 0.2, "score": "residual"})  # fmt: skip
    found = agreed.of(result)
    assert found["disagreement"] > 0
    assert "label_disagreement" not in found
    assert found["by_class"] == {}
    assert 0 < found["jaccard"] < 1
    assert found["identity_residual"] < 1e-12
    assert "of the targets' variance" in agreed.headline(result)


def test_who_does_not_calibrate_is_asked_for_no_sets(run):
    found = agreed.of(run(calibrate={"name": "none"}))
    assert found["disagreement"] > 0
    assert "jaccard" not in found


def test_clients_that_misbehave_answer_with_what_their_model_says(run):
    kinds = [{"kind": "constant", "share": 0.25}, {"kind": "wrong-n", "share": 0.25}]
    result, honest = run(clients={"behaviour": kinds}), run()
    found = agreed.of(result)
    assert set(found["honest"]) == {"disagreement", "label_disagreement", "jaccard", "contradiction"}
    _, between = agreement_of.read_matrix(result.files[agreement_of.MATRIX])
    _, before = agreement_of.read_matrix(honest.files[agreement_of.MATRIX])
    same = [k for k, row in enumerate(result.clients) if row["behaviour"] != "constant"]
    np.testing.assert_allclose(between[np.ix_(same, same)], before[np.ix_(same, same)], rtol=1e-4)
    liars = [k for k in range(8) if k not in same]
    assert (between[np.ix_(liars, same)] > between[np.ix_(same, same)].max()).all()
    assert found["bound_applies"]  # a law may have atoms: what is looked at are the models of those that behave


@pytest.mark.parametrize(("share", "said"), [
    (1.0, "0 clients that behave have 0 different models, so"),
    (0.875, "1 client that behaves has 1 different model, so"),
])  # fmt: skip
def test_no_bound_is_drawn_where_fewer_than_two_behave(run, share, said):
    found = agreed.of(run(clients={"behaviour": [{"kind": "constant", "share": share}]}))
    assert not found["bound_applies"]
    assert said in found["conditions"][0]["said"]


def test_it_is_measured_with_one_thread(run, monkeypatch):
    heard: list[int] = []
    curve = ensembles.curve

    def listening(*told: Any) -> Any:
        heard.extend(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")
        return curve(*told)

    monkeypatch.setattr(ensembles, "curve", listening)
    with threadpool_limits(limits=2, user_api="blas"):
        run()
    assert set(heard) == {1}


def test_who_is_missing_is_left_out_and_said(run):
    result = run(clients={"behaviour": [{"kind": "dropout", "share": 0.25}]}, runtime={"on_failure": "skip"})
    found = agreed.of(result)
    gone = [row["client"] for row in result.clients if row["behaviour"]]
    assert found["missing"] == gone
    assert found["clients"] == 6
    assert [row["disagreement"] is None for row in result.clients] == [bool(row["behaviour"]) for row in result.clients]
    assert any(line.endswith("did not answer: 2 clients.") for line in notes(result))


def test_common_rows_are_the_same_for_all_and_calibrate_nobody(run, place, monkeypatch):
    heard: list[Any] = []
    monkeypatch.setattr("clients.agreement.common_rows", lambda *told: heard.append(draw(*told)) or heard[-1])
    draw = pairwise.common_rows
    run()
    rows = set(heard[0].tolist())
    assert len(heard) == 8
    assert {tuple(each) for each in heard} == {tuple(heard[0])}
    assert len(rows) == 120
    people = populate(world(), prepare(world().data, 0, place), place)
    held = [people.client(k) for k in range(8)]
    assert rows <= {row for client in held for row in client.test.tolist()}
    assert not rows & {row for client in held for row in [*client.calibration.tolist(), *client.train.tolist()]}


def test_inline_and_ray_agree(ray_session, place: Store, tmp_path: Path):
    inline = simulate(world(), store=place.root)
    ray = simulate(world().with_("runtime.name=ray"), store=tmp_path / "store")
    assert ray.summary["agreement"] == inline.summary["agreement"]
    assert ray.files == inline.files


# ----------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(("override", "why"), [
    ("agreement.rows=498", "agreement.rows = 498, and data.test = 497: clients are asked about rows that are tested"),
    ("agreement.rows=0", "agreement.rows = 0: .*greater than or equal to 1"),
    ("agreement.draws=1", "agreement.draws = 1: .*greater than or equal to 2"),
    ("agreement.within=0", "agreement.within = 0: .*greater than 0"),
    ("agreement.row=9", "agreement.row: there is no such key; did you mean 'rows'"),
    ("agreement.within=0.1", "agreement.rows: this key is needed and is missing"),
])  # fmt: skip
def test_bad_settings_are_refused(override, why):
    with pytest.raises(ScenarioError, match=why):
        Scenario.load("digits", override)


def test_a_table_is_made_on_the_command_line():
    asked = Scenario.load("digits", "agreement.rows=100").agreement
    assert asked is not None
    assert (asked.rows, asked.draws, asked.within) == (100, 20, 0.002)
    assert Scenario.load("digits").identity() != Scenario.load("digits", "agreement.rows=100").identity()


def test_agreement_takes_two():
    tier = [{"name": "only", "architecture": "linear", "epochs": 1}]
    with pytest.raises(ValueError, match=r"agreement is between clients, and clients.count = 1"):
        world(clients={"count": 1, "tier": tier})


def test_more_clients_than_can_be_compared_are_refused():
    with pytest.raises(ValueError, match=r"clients.count = 10001, and agreement is measured on each pair of at most"):
        world(clients={"count": 10_001})


@pytest.mark.parametrize("report", [
    {"predictions": np.full((3, 2), np.nan, np.float32)},
    {"predictions": np.zeros((3, 2), np.float32), "sets": np.zeros(2, np.uint8)},
    {"predictions": np.zeros((3, 2), np.float32), "intervals": np.zeros((2, 2))},
    {"predictions": np.zeros((3, 2), np.float32), "intervals": np.full((3, 2), np.nan)},
])  # fmt: skip
def test_an_answer_that_is_none_is_refused(report):
    with pytest.raises(ValueError, match=r"must be finite|not of the 3 rows|must have numbers"):
        CommonRowsReport(0, **report)


# ------------------------------------------------------------------------------------------------------------- reports


def figure_files(name: str, result: Result, folder: Path) -> list[Path]:
    """The files of one of a run's figures, as `draw_run` draws it among all that it has."""
    module = dict(modules(of_a_run))[name]
    assert module.applies(result)
    with styled():
        return save(module.draw(result), folder, name)


def test_a_report_shows_it(run, tmp_path):
    result = run()
    folder = RunFolder(tmp_path / "run")
    folder.write(result)
    folder.finish()
    back = Result.load(tmp_path / "run")
    assert back.files == result.files
    assert back.column("disagreement") == result.column("disagreement")
    one, two = (figure_files("agreement", back, tmp_path / name) for name in ("one", "two"))
    assert [path.name for path in one] == ["agreement.png", "agreement.svg"]
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
    html = page(tmp_path / "run")
    assert "figure-agreement" in html
    assert "Two clients differ on" in html
    assert "weak x strong" in html
    assert "bound 4 (R_k - R_2k)" in html
    found = tables.load(tmp_path / "run")
    assert found.points["agreement.disagreement"].iloc[0] == agreed.of(result)["disagreement"]
    assert found.points["agreement.tiers.weak.label_disagreement"].notna().all()


def test_it_is_shown_where_there_is_no_bound_and_no_matrix(run, tmp_path, monkeypatch):
    monkeypatch.setattr(agreement_of, "MOST_IN_MATRIX", 4)
    result = run(learn={"name": "shared"})
    assert agreement_of.MATRIX not in result.files
    assert all(path.stat().st_size for path in figure_files("agreement", result, tmp_path))
    folder = RunFolder(tmp_path / "run")
    folder.write(result)
    folder.finish()
    assert "conditions do not hold: independent base models" in page(tmp_path / "run")


def test_a_tier_called_honest_has_a_row_beside_those_that_behave(run):
    tiers = [TIERS[0], TIERS[1] | {"name": "honest"}]
    result = run(clients={"tier": tiers, "behaviour": [{"kind": "constant", "share": 0.25}]})
    metrics = agreed.of(result)
    assert list(metrics["tiers"]) == ["weak", "weak x honest", "honest"]
    assert metrics["honest"]["disagreement"] != metrics["tiers"]["honest"]["disagreement"]


def test_a_damaged_matrix_is_said():
    with pytest.raises(ValueError, match=r"disagreement.csv of 2 clients has \(1, 2\) numbers"):
        agreement_of.read_matrix(b"client,0,1\n0,0,1\n")
