"""Fitting and predicting: the same bits for the same recipe, another key for another recipe, nothing global touched."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Context, RecordDict
from torch import nn

from clients.population import populate
from clients.predictions import Seat, fitted, load_model
from fl_sim import learning
from fl_sim.data.prepare import prepare
from fl_sim.learning import Recipe, fit, initial, outputs_of, predict
from fl_sim.models import ARCHITECTURES, build
from fl_sim.options import _text_digest
from fl_sim.randomness import stream
from fl_sim.scenario import Scenario

RECIPE = Recipe(
    architecture="cnn", epochs=2, learning_rate=0.01, batch_size=16, quantiles=None, seed=0, purpose="test",
    device="cpu", precision="float32",
)  # fmt: skip
SHAPE = (1, 8, 8)


def toy(n: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """Images whose brighter half is their class."""
    rng = stream(0, "toy")
    targets = rng.integers(0, 2, n)
    images = rng.normal(size=(n, *SHAPE)).astype(np.float32)
    images[targets == 1, :, :4] += 1.0
    return images, targets


def trained_bits(recipe: Recipe = RECIPE) -> str:
    """A digest of the trained weights and of what the model says."""
    images, targets = toy()
    model = fit(initial(recipe, SHAPE, 2), images, targets, recipe)
    bits = b"".join(t.numpy().tobytes() for t in model.state_dict().values()) + predict(model, images, recipe).tobytes()
    return hashlib.sha256(bits).hexdigest()


# --------------------------------------------------------------------------------------------------------------- bits


def test_the_same_recipe_gives_the_same_bits_in_any_process():
    here = str(Path(__file__).parent)
    code = f"import sys; sys.path.insert(0, {here!r}); import test_learning; print(test_learning.trained_bits())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    first = trained_bits()
    torch.rand(3)  # nobody's random state matters
    assert trained_bits() == first == other


@pytest.mark.parametrize("change", [{"seed": 1}, {"purpose": "another"}, {"learning_rate": 0.02}, {"epochs": 3},
                                    {"batch_size": 17}, {"precision": "bfloat16"}], ids=str)  # fmt: skip
def test_another_recipe_gives_other_bits(change):
    assert trained_bits(dataclasses.replace(RECIPE, **change)) != trained_bits()


def test_the_initial_weights_follow_from_seed_and_purpose_alone():
    def weights(**change: object) -> bytes:
        return next(initial(dataclasses.replace(RECIPE, **change), SHAPE, 2).parameters()).detach().numpy().tobytes()

    assert weights(epochs=9, learning_rate=1.0, batch_size=1, cohort=5) == weights()
    assert len({weights(), weights(seed=1), weights(purpose="another")}) == 3


def test_no_global_state_is_touched():
    images, targets = toy()
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), torch.get_num_threads()  # noqa: NPY002
    torch.set_num_threads(2)
    recipe = dataclasses.replace(RECIPE, architecture="efficientnet_b0", epochs=1)  # it has dropout
    model = initial(recipe, SHAPE, 2)
    fit(model, images[:8], targets[:8], recipe)
    predict(model, images[:8], recipe)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before[2])
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    assert not torch.is_autocast_enabled("cpu")
    assert torch.is_grad_enabled()


def test_the_thread_count_comes_back_after_a_failure():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(RuntimeError):
            predict(build("linear", SHAPE, 2), np.zeros((3, 1, 9, 9), np.float32), RECIPE)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


# ---------------------------------------------------------------------------------------------------------------- key

WORLD = {
    "data": {"name": "digits", "train": 40, "calibration": 40, "test": 40},
    "clients": {"count": 2, "tier": [{"name": "only", "architecture": "linear", "epochs": 1}]},
    "learn": "shared",
    "calibrate": {"name": "fedwq-cp", "alpha": 0.1, "score": "lac"},
    "runtime": {"name": "inline", "device": "cpu"},
}


@pytest.fixture
def seat(store) -> Seat:
    scenario = Scenario.model_validate(WORLD)
    population = populate(scenario, prepare(scenario.data, scenario.seed, store), store)
    context = Context(1, 2, {"partition-id": 0, "num-partitions": 2}, RecordDict(), {})
    return Seat.of(context, population.key)


def test_all_that_decides_a_models_bits_is_in_its_key(seat, monkeypatch):
    rows = seat.population.data.rows("train")
    recipe = dataclasses.replace(seat.population.recipe(seat.client.tier, "shared"), epochs=0)  # a key, and no work
    keys = {"as it is": fitted(seat, recipe, rows)}
    changes = {
        "architecture": "mlp", "epochs": 1, "learning_rate": 0.5, "batch_size": 7, "seed": 1, "purpose": "client 0",
        "precision": "bfloat16", "cohort": 2, "quantiles": (0.1, 0.9),
    }  # fmt: skip
    for name, value in changes.items():
        keys[name] = fitted(seat, dataclasses.replace(recipe, **{name: value}), rows)
    keys["rows"] = fitted(seat, recipe, rows[:-1])
    keys["order of rows"] = fitted(seat, recipe, rows[::-1])
    other = dataclasses.replace(seat.population, data=dataclasses.replace(seat.population.data, key="other"))
    keys["data"] = fitted(dataclasses.replace(seat, population=other), recipe, rows)
    # No GPU is needed to be asked for the key of what a GPU would make.
    with monkeypatch.context() as patch:
        patch.setattr(type(seat.store), "get", lambda *_: None)
        keys["device"] = fitted(seat, dataclasses.replace(recipe, device="cuda"), rows)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "0.0.1")
        keys["torch's version"] = fitted(seat, recipe, rows)
    with monkeypatch.context() as patch:
        patch.setattr(learning, "VERSION", learning.VERSION + 1)
        keys["the version of learning.py"] = fitted(seat, recipe, rows)
    assert {field.name for field in dataclasses.fields(Recipe)} <= set(keys)
    assert len(set(keys.values())) == len(keys), sorted(keys.items(), key=lambda item: item[1])
    assert fitted(seat, recipe, rows) == keys["as it is"]


def test_the_text_of_a_users_own_architecture_is_in_its_key(seat, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    rows, recipe = seat.population.data.rows("train"), seat.population.recipe(seat.client.tier, "shared")
    recipe = dataclasses.replace(recipe, architecture="my_architecture:narrow", epochs=0)
    keys = []
    text = "from fl_sim.models import linear\n\ndef narrow(shape, outputs):\n    return linear(shape, outputs)\n"
    for added in ("", "", "# another text\n"):
        (tmp_path / "my_architecture.py").write_text(text + added)
        _text_digest.cache_clear()  # as in a new process
        keys.append(fitted(seat, recipe, rows))
    assert keys[0] == keys[1] != keys[2]


def test_a_stored_model_is_the_one_that_was_trained(seat):
    data, rows = seat.population.data, seat.population.data.rows("train")
    recipe = seat.population.recipe(seat.client.tier, "shared")
    found, told = load_model(seat.store, fitted(seat, recipe, rows), seat.population)
    trained = fit(initial(recipe, data.shape, 10), data.standardised(rows), data.learnable(rows), recipe)
    assert told == recipe
    said = [predict(model, data.standardised(rows), recipe).tobytes() for model in (found, trained)]
    assert said[0] == said[1]


# ----------------------------------------------------------------------------------------------------------- learning


def test_fitting_lowers_the_loss_and_learns_the_toy():
    images, targets = toy(200)
    recipe = dataclasses.replace(RECIPE, epochs=5)
    model = initial(recipe, SHAPE, 2)

    def loss() -> float:
        logits = torch.from_numpy(predict(model, images, recipe))
        return float(nn.functional.cross_entropy(logits, torch.from_numpy(targets)))

    before = loss()
    assert fit(model, images, targets, recipe) is model
    assert loss() < before / 4
    assert (predict(model, images, recipe).argmax(1) == targets).mean() > 0.95


def test_a_mean_regressor_finds_the_line():
    x = stream(0, "line").normal(size=(400, 1)).astype(np.float32)
    recipe = dataclasses.replace(RECIPE, architecture="linear", epochs=40, learning_rate=0.05)
    model = fit(initial(recipe, (1,), 1), x, 2 * x[:, 0] - 1, recipe)
    assert predict(model, np.array([[0.0], [1.0]], np.float32), recipe)[:, 0] == pytest.approx([-1.0, 1.0], abs=1e-2)


def test_quantile_heads_bracket_the_share_between_their_levels():
    rng = stream(0, "uniform")
    x, y = np.zeros((4000, 1), np.float32), rng.random(4000).astype(np.float32)
    recipe = dataclasses.replace(RECIPE, architecture="linear", epochs=20, batch_size=200, quantiles=(0.1, 0.7))
    low, high = predict(fit(initial(recipe, (1,), 2), x, y, recipe), x[:1], recipe)[0]
    # Of uniform numbers the quantile at a level is the level.
    assert (low, high) == (pytest.approx(0.1, abs=0.02), pytest.approx(0.7, abs=0.02))
    assert ((low <= y) & (y <= high)).mean() == pytest.approx(0.6, abs=0.03)


def test_no_rows_or_no_epochs_leave_the_model_alone():
    images, targets = toy()
    before = predict(initial(RECIPE, SHAPE, 2), images, RECIPE)
    for recipe, n in ((RECIPE, 0), (dataclasses.replace(RECIPE, epochs=0), 50)):
        after = predict(fit(initial(recipe, SHAPE, 2), images[:n], targets[:n], recipe), images, recipe)
        assert after.tobytes() == before.tobytes()


@pytest.mark.parametrize("architecture", ["linear", "mlp", "cnn", "resnet18"])
def test_predictions_of_no_rows_still_have_their_columns(architecture):
    model = build(architecture, SHAPE, 10)
    assert predict(model, np.zeros((0, *SHAPE), np.float32), RECIPE).shape == (0, 10)


def test_predictions_do_not_depend_on_their_batch(monkeypatch):
    images, _ = toy(23)
    model = initial(dataclasses.replace(RECIPE, architecture="linear"), SHAPE, 2)
    whole = predict(model, images, RECIPE)
    monkeypatch.setattr(learning, "PREDICT_BATCH", 5)
    assert predict(model, images, RECIPE) == pytest.approx(whole, abs=1e-5)


def test_outputs_follow_the_task():
    assert outputs_of(RECIPE, 10) == 10
    assert outputs_of(RECIPE, None) == 1
    assert outputs_of(dataclasses.replace(RECIPE, quantiles=(0.1, 0.9)), None) == 2


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert learning.resolve_device("auto") == "cpu"
    assert learning.resolve_device("cpu") == "cpu"
    with pytest.raises(ValueError, match="device 'cuda' is asked for, and torch sees no GPU"):
        learning.resolve_device("cuda")


# ------------------------------------------------------------------------------------------------------ architectures

SMALL = ("linear", "mlp", "cnn")
SHAPES = [(name, shape) for name in SMALL for shape in ((1, 8, 8), (1, 28, 28), (3, 32, 32))]
SHAPES += [(name, (3, 32, 32)) for name in ARCHITECTURES if name not in SMALL]
SHAPES += [(name, (1, 8, 8)) for name in ("resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "efficientnet_b0")]
SHAPES += [("shufflenet_v2_x0_5", (1, 28, 28))]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As clients compute; and two threads for each of several processes on a small machine wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("name", "shape"), SHAPES, ids=lambda value: str(value).replace(" ", ""))
def test_an_architecture_runs_forward_and_backward(one_thread, name, shape):
    model = build(name, shape, 10)
    outputs = model(torch.zeros(3, *shape))
    assert outputs.shape == (3, 10)
    outputs.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("rows", [17, 33])
def test_a_row_left_over_does_not_break_batch_normalisation(rows):
    images, targets = toy(rows)
    recipe = dataclasses.replace(RECIPE, architecture="resnet18", epochs=1, batch_size=16)
    model = fit(initial(recipe, SHAPE, 2), images, targets, recipe)
    assert np.isfinite(predict(model, images, recipe)).all()


def test_every_row_is_seen_once_an_epoch():
    for n, size in ((17, 16), (16, 16), (1, 16), (5, 2), (7, 3)):
        order = np.arange(n)[::-1].copy()
        batches = [rows.tolist() for rows in learning._batches(order, size)]
        assert [row for rows in batches for row in rows] == order.tolist()
        assert max(map(len, batches)) <= size + 1
        assert n == 1 or min(map(len, batches)) > 1


def test_a_client_with_one_row_can_train_a_network_with_batch_normalisation(seat):
    data, rows = seat.population.data, seat.population.data.rows("train")[:1]
    recipe = dataclasses.replace(seat.population.recipe(seat.client.tier, "x"), architecture="shufflenet_v2_x0_5")
    model = fit(initial(recipe, data.shape, 10), data.standardised(rows), data.learnable(rows), recipe)
    assert all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())
