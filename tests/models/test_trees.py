"""Trees and boosting as torch modules: what scikit-learn's own models say, kept, asked and refused like any other."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from torch import nn

from clients.scorer import softmax
from fl_sim import Result, Scenario, simulate
from fl_sim.errors import FlSimError, ScenarioError
from fl_sim.models import training
from fl_sim.models.architectures import FIT_THEMSELVES
from fl_sim.models.model_key import key_parts
from fl_sim.models.recipe import Recipe
from fl_sim.models.stacked_training import stackable
from fl_sim.models.training import FitsItself, fit, initial, predict
from fl_sim.models.trees import LEAST, _seed, rounded_down
from fl_sim.randomness import stream
from fl_sim.store.artifacts import Artifact, Store

RECIPE = Recipe(
    architecture="boosting", epochs=6, learning_rate=0.3, batch_size=16, quantiles=None, seed=0, purpose="test",
    device="cpu", precision="float32",
)  # fmt: skip
TREES = ("tree-1", "tree-2", "tree-4", "tree-8")


def toy(classes: int | None, n: int = 80, features: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Rows on a coarse grid, so that many values are equal; labels or numbers that follow from them, with noise."""
    rng = stream(0, "toy trees", n)
    rows = rng.integers(-6, 7, (n, features)).astype(np.float32) / 3
    told = rows[:, 0] * rows[:, 1] + rows[:, 2] + 0.3 * rng.standard_normal(n)
    if classes is None:
        return rows, told.astype(np.float32)
    return rows, np.digitize(told, np.quantile(told, np.arange(1, classes) / classes)).astype(np.int64)


def made(name: str, x: np.ndarray, y: np.ndarray, outputs: int, **how: Any) -> tuple[nn.Module, Recipe]:
    recipe = dataclasses.replace(RECIPE, architecture=name, **how)
    return fit(initial(recipe, x.shape[1:], outputs), x, y, recipe), recipe


def sklearns(name: str, x: np.ndarray, y: np.ndarray, recipe: Recipe) -> Any:
    """scikit-learn's own model of the same seed."""
    seed = _seed(recipe)
    if name != "boosting":
        kind = DecisionTreeClassifier if y.dtype == np.int64 else DecisionTreeRegressor
        return kind(max_depth=int(name.removeprefix("tree-")), random_state=seed).fit(x, y)
    kind = GradientBoostingClassifier if y.dtype == np.int64 else GradientBoostingRegressor
    told = {"n_estimators": recipe.epochs, "learning_rate": recipe.learning_rate, "max_depth": 3}
    return kind(**told, random_state=seed).fit(x, y)


def fresh(n: int = 500) -> np.ndarray:
    """Rows between the points of the grid and on them, where thresholds may lie."""
    rng = stream(1, "toy trees")
    return np.concatenate([toy(None, n)[0], rng.normal(size=(n, 5)).astype(np.float32)])


# ------------------------------------------------------------------------------------------------------ as scikit-learn


@pytest.mark.parametrize("name", FIT_THEMSELVES)
@pytest.mark.parametrize("classes", [2, 3, 7])
def test_classifiers_say_what_scikit_learns_say(name, classes):
    x, y = toy(classes)
    model, recipe = made(name, x, y, classes)
    ours, theirs = predict(model, fresh(), recipe), sklearns(name, x, y, recipe)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(softmax(ours), theirs.predict_proba(fresh()), atol=2e-6)
    if name == "boosting":
        scores = theirs.decision_function(fresh())
        assert (ours[:, 1] == scores.astype(np.float32)).all() if classes == 2 else np.allclose(ours, scores, atol=1e-6)
    else:
        shares = np.log(np.maximum(theirs.predict_proba(fresh()), LEAST)).astype(np.float32)
        np.testing.assert_allclose(ours, shares, rtol=1e-6)


@pytest.mark.parametrize("name", FIT_THEMSELVES)
def test_regressors_say_what_scikit_learns_say(name):
    x, y = toy(None)
    model, recipe = made(name, x, y, 1)
    theirs = sklearns(name, x, y, recipe).predict(fresh())
    np.testing.assert_allclose(predict(model, fresh(), recipe)[:, 0], theirs.astype(np.float32), rtol=2e-7, atol=1e-7)


@pytest.mark.parametrize("name", ["tree-4", "boosting"])
@pytest.mark.parametrize("present", [[1, 4], [0, 2, 5]])
def test_a_class_that_a_client_has_no_row_of_has_no_probability(name, present):
    x, y = toy(len(present))
    told = np.array(present)[y]
    model, recipe = made(name, x, told, 6)
    ours, theirs = softmax(predict(model, fresh(), recipe)), sklearns(name, x, told, recipe)
    assert theirs.classes_.tolist() == present
    np.testing.assert_allclose(ours[:, present], theirs.predict_proba(fresh()), atol=2e-6)
    absent = np.delete(ours, present, axis=1)
    np.testing.assert_allclose(absent, LEAST, rtol=1e-5)


@pytest.mark.parametrize("name", ["tree-1", "tree-8", "boosting"])
@pytest.mark.parametrize("n", [1, 2, 30])
def test_a_client_of_one_class_says_it_always(name, n):
    x, _ = toy(2, n)
    model, recipe = made(name, x, np.full(n, 2), 4)
    said = softmax(predict(model, fresh(), recipe))
    np.testing.assert_allclose(said, [[LEAST, LEAST, 1, LEAST]] * 1000, rtol=1e-5)
    again = initial(recipe, x.shape[1:], 4)
    again.load_state_dict(model.state_dict())
    np.testing.assert_array_equal(predict(again, fresh(), recipe), predict(model, fresh(), recipe))


@pytest.mark.parametrize("name", ["tree-1", "tree-8", "boosting"])
def test_a_regressor_of_one_row_says_it_always(name):
    x, y = toy(None, 1)
    model, recipe = made(name, x, y, 1)
    np.testing.assert_allclose(predict(model, fresh(), recipe), y[0], rtol=1e-6)


@settings(derandomize=True, deadline=None)
@given(st.lists(st.floats(-1e30, 1e30), min_size=2, max_size=20))
def test_a_rounded_threshold_sends_every_float32_the_same_way(numbers):
    values = np.array(numbers).astype(np.float32)
    values = np.sort(np.concatenate([values, np.nextafter(values, np.float32(np.inf))]))
    with np.errstate(over="ignore"):
        thresholds = (values[1:].astype(np.float64) + values[:-1]) / 2  # as scikit-learn takes them
    thresholds = np.concatenate([thresholds, np.array(numbers)])
    rounded = rounded_down(thresholds)
    assert rounded.dtype == np.float32
    assert ((values[:, None] <= rounded) == (values[:, None].astype(np.float64) <= thresholds)).all()


def test_images_are_flat_rows():
    images = stream(2, "toy trees").normal(size=(40, 3, 4, 4)).astype(np.float32)
    y = (images[:, 1, 2, 3] > 0).astype(np.int64)
    model, recipe = made("tree-1", images, y, 2)
    said = predict(model, images, recipe)
    assert (said.argmax(1) == y).all()
    theirs = sklearns("tree-1", images.reshape(40, -1), y, recipe).predict_proba(images.reshape(40, -1))
    np.testing.assert_allclose(softmax(said), theirs, atol=1e-6)


# -------------------------------------------------------------------------------------------------------- as any module


@pytest.mark.parametrize("name", FIT_THEMSELVES)
@pytest.mark.parametrize("outputs", [1, 5])
def test_an_untrained_one_says_nothing(name, outputs):
    x, y = toy(None if outputs == 1 else outputs)
    for rows, epochs in ((x, 0), (x[:0], 6)):
        model, recipe = made(name, rows, y[: len(rows)], outputs, epochs=epochs)
        assert (predict(model, fresh(), recipe) == np.zeros((1000, outputs))).all()
    assert isinstance(model, FitsItself)
    assert not isinstance(nn.Linear(1, 1), FitsItself)


@pytest.mark.parametrize("name", ["tree-2", "boosting"])
@pytest.mark.parametrize("trained", [True, False])
def test_what_is_kept_is_what_was_fitted(store: Store, name, trained):
    x, y = toy(3)
    model, recipe = made(name, x, y, 3, epochs=6 * trained)
    found = store.get("model", "0" * 32, lambda: Artifact(tensors=dict(model.state_dict()))).tensors
    again = initial(recipe, x.shape[1:], 3)
    again.load_state_dict(dict(found))
    np.testing.assert_array_equal(predict(again, fresh(), recipe), predict(model, fresh(), recipe))
    again.load_state_dict(initial(recipe, x.shape[1:], 3).state_dict())  # fewer trees than it has
    assert (predict(again, fresh(), recipe) == 0).all()
    other = initial(dataclasses.replace(recipe, architecture="tree-4"), x.shape[1:], 3)
    with pytest.raises(RuntimeError, match="size mismatch for features"):
        other.load_state_dict(dict(found))


def test_the_same_seed_and_purpose_grow_the_same_trees():
    x, y = toy(3)
    x = np.concatenate([x, x], axis=1)  # every split could as well be on the feature's double
    told = {"purpose": ["test", "test", "other"], "seed": [0, 1, 0]}
    same, other, lent = (
        made("tree-4", x, y, 3, **{key: values[i] for key, values in told.items()})[0].features for i in range(3)
    )
    assert torch.equal(same, made("tree-4", x, y, 3)[0].features)
    assert not torch.equal(same, other)
    assert not torch.equal(same, lent)


def test_scikit_learns_version_is_in_the_key_of_what_it_fits_alone():
    assert "fitted" not in key_parts(dataclasses.replace(RECIPE, architecture="mlp"))
    told = key_parts(RECIPE)["fitted"]
    assert told[1].startswith("scikit-learn ")


@pytest.mark.parametrize("name", ["tree-4", "boosting"])
def test_answers_are_found_on_the_models_device_and_in_full_precision(name):
    x, y = toy(3)
    model, recipe = made(name, x, y, 3)
    half = predict(model, fresh(), dataclasses.replace(recipe, precision="bfloat16"))
    np.testing.assert_array_equal(half, predict(model, fresh(), recipe))
    assert model.to("meta")(torch.zeros(3, 5, device="meta")).is_meta  # nothing is made on another device


@pytest.mark.parametrize("name", FIT_THEMSELVES)
def test_none_is_stacked(name):
    assert not stackable(name, (5,), 3)


class Nearest(nn.Module):
    """A user's own: it remembers its rows, has a parameter beside them, and answers as the nearest does."""

    def __init__(self, shape: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("rows", torch.zeros(16, *shape))
        self.register_buffer("said", torch.zeros(16, outputs))

    def fit_rows(self, inputs: np.ndarray, targets: np.ndarray, recipe: Recipe) -> None:
        chosen = torch.randperm(len(inputs))[:16]  # torch's generator is seeded by the recipe
        self.rows = torch.from_numpy(inputs)[chosen]
        self.said = nn.functional.one_hot(torch.from_numpy(targets)[chosen], self.said.shape[1]).float()

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.scale * self.said[torch.cdist(rows.flatten(1), self.rows.flatten(1)).argmin(1)]


def test_a_users_own_model_may_fit_itself():
    x, y = toy(3)
    name = f"{__name__}:Nearest"
    model, recipe = made(name, x, y, 3)
    assert (predict(model, x, recipe).argmax(1) == y).mean() > 0.5
    assert torch.equal(model.rows, made(name, x, y, 3)[0].rows)
    assert not torch.equal(model.rows, made(name, x, y, 3, seed=1)[0].rows)
    assert not stackable(name, (5,), 3)  # by its parameter it could be, and gradients are not how it learns
    with pytest.raises(FlSimError, match="fits itself, without epochs: it takes no curriculum"):
        fit(initial(recipe, (5,), 3), x, y, recipe, levels=np.zeros(len(x), np.uint8))


def test_soft_labels_and_quantiles_are_refused_by_the_module_too():
    x, y = toy(3)
    with pytest.raises(FlSimError, match="'tree-2' does not learn soft labels"):
        made("tree-2", x, np.eye(3, dtype=np.float32)[y], 3)
    with pytest.raises(FlSimError, match="'boosting' does not learn quantiles"):
        made("boosting", x, x[:, 0], 2, quantiles=(0.1, 0.9))


# ------------------------------------------------------------------------------------------------------------ scenarios


def world(data: dict[str, Any], learn: Any = "own", **tier: Any) -> Scenario:
    first = {"name": "trees", "architecture": "boosting", "epochs": 5, "learning_rate": 0.3, "share": 0.5}
    return Scenario.model_validate({
        "data": data,
        "clients": {"count": 4, "partition": "iid", "tier": [
            first | tier, {"name": "lines", "architecture": "linear", "epochs": 10, "learning_rate": 0.01},
        ]},
        "learn": learn,
        "calibrate": {
            "name": "local", "alpha": 0.2, "score": "residual" if data["name"] in ("friedman", "diabetes") else "lac",
        },
        "runtime": {"name": "inline", "device": "cpu"},
    })  # fmt: skip


DIGITS = {"name": "digits", "train": 300, "calibration": 200, "test": 200}
FRIEDMAN = {"name": "friedman", "train": 400, "calibration": 200, "test": 200}
DIABETES = {"name": "diabetes", "train": 200, "calibration": 120, "test": 120}


def rows_of(result: Result, tier: str) -> list[dict[str, Any]]:
    return [row for row in result.clients if row["tier"] == tier]


@pytest.mark.parametrize("data", [DIGITS, FRIEDMAN, DIABETES], ids=lambda told: told["name"])
@pytest.mark.parametrize("learn", ["own", "shared"])
def test_clients_with_trees_run_beside_the_others(store: Store, data, learn):
    result = simulate(world(data, learn), store=store.root)
    for place in (store.root, store.root.parent / "another"):  # from what is kept, and once more
        again = simulate(world(data, learn), store=place)
        assert [row | {"seconds": 0} for row in again.clients] == [row | {"seconds": 0} for row in result.clients]
    covered, tested = (sum(row[key] for row in result.clients) for key in ("num_covered", "num_test"))
    assert tested == data["test"]
    assert covered / tested > 0.7  # 0.8 is promised; four standard errors of 200 points are 0.11
    for row in rows_of(result, "trees"):
        assert 0 < row["num_covered"] <= row["num_test"]


def test_a_free_rider_with_trees_is_undecided(store: Store):
    scenario = world(DIGITS, architecture="tree-8")
    told = scenario.plain()
    told["clients"]["behaviour"] = [{"kind": "free-rider", "share": 1.0}]
    result = simulate(Scenario.model_validate(told), store=store.root)
    for row in rows_of(result, "trees"):  # uniform: every label scores the same, the first wins
        assert row["accuracy"] < 0.3


def test_trees_learn_from_a_payload(store: Store):
    told = world(DIGITS).plain() | {
        "learn": {
            "name": "coreset", "images_per_class": 4, "how": "random",
        },
    }  # fmt: skip
    told["data"]["server"] = 200
    told["data"]["train"] = 0
    result = simulate(Scenario.model_validate(told), store=store.root)
    assert result.summary["learn"]["metrics"]["tiers"]["trees"]["accuracy"] > 0.2


def refused(*overrides: str, data: dict[str, Any] = DIGITS) -> str:
    with pytest.raises(ScenarioError) as caught:
        world(data).with_(*overrides)
    return str(caught.value)


def test_what_trees_cannot_do_is_refused_when_the_scenario_is_loaded():
    averaged = refused('learn={name="fedavg",rounds=2}')
    assert "clients.tier.trees.architecture = 'boosting' cannot be averaged, and learn = 'fedavg' averages" in averaged
    assert "clients.tier.trees.schedule = 'cosine': architecture 'boosting' is not trained by gradients" in refused(
        "clients.tier.trees.schedule=cosine"
    )
    assert "clients.tier.trees.optimizer = 'adamw'" in refused("clients.tier.trees.optimizer=adamw")
    quantiles = refused(
        "clients.tier.trees.quantiles=[0.1,0.9]", "clients.tier.lines.quantiles=[0.1,0.9]", "calibrate.score=cqr",
        data=FRIEDMAN,
    )  # fmt: skip
    assert "clients.tier.trees.quantiles = (0.1, 0.9): architecture 'boosting' is not trained by gradients" in quantiles
    plada = {"name": "plada", "keep_fraction": 0.1, "teacher": {"architecture": "cnn", "epochs": 1}}
    for more, said in (
        ({"soft_labels": 4}, "learn.soft_labels = 4: clients.tier.trees.architecture = 'boosting' is not trained"),
        ({"curriculum": 4}, "learn.curriculum = 4: clients.tier.trees.architecture = 'boosting' is not trained"),
        ({"teacher": {"architecture": "tree-4", "epochs": 1}}, "learn.teacher.architecture = 'tree-4': a teacher is"),
        (
            {"rehearsal": {"student": {"architecture": "tree-4", "epochs": 1, "schedule": "cosine"}}},
            "learn.rehearsal.student.schedule = 'cosine': architecture 'tree-4' is not trained by gradients",
        ),
    ):
        told = world(DIGITS).plain() | {"learn": plada | more, "reference": {"sets": ["glyphs-pool"]}}
        told["data"] |= {"server": 100}
        with pytest.raises(ValueError, match=said.replace(".", r"\.")):
            Scenario.model_validate(told)


def test_a_cohort_of_trees_is_refused_before_anything_is_trained(store: Store, monkeypatch):
    monkeypatch.setattr(training, "fit", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(FlSimError, match=r"tier\.trees\.cohort = 4: architecture 'boosting' cannot be trained"):
        simulate(world(DIGITS, cohort=4), store=store.root)


def test_a_users_own_that_fits_itself_is_not_averaged(store: Store):
    scenario = world(DIGITS, {"name": "fedavg", "rounds": 1}, architecture=f"{__name__}:Nearest")
    with pytest.raises(FlSimError, match="fits itself: it has no weights to be averaged"):
        simulate(scenario, store=store.root)


def test_the_model_of_the_docs_fits_itself(store: Store, tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs/own.md").read_text()
    (code,) = re.findall(r"```python\n(import numpy as np\nimport torch\n.*?NearestMean.*?)```", page, re.DOTALL)
    (tmp_path / "centroids.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    result = simulate(world(DIGITS, "shared", architecture="centroids:NearestMean"), store=store.root)
    assert all(row["accuracy"] > 0.7 for row in rows_of(result, "trees"))
