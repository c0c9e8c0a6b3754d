"""Fitting and predicting: the same bits for the same recipe, another key for another recipe, nothing global touched."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import itertools
import math
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, RecordDict
from torch import nn

from clients.context import ClientContext
from fl_sim.data.contrast import SOFTEST, contrasted
from fl_sim.errors import DataNotAtHandError, FlSimError
from fl_sim.models import architectures, device, model_key, pretrained, training
from fl_sim.models.architectures import ARCHITECTURES, FIT_THEMSELVES, IMAGENET, build
from fl_sim.models.device import resolve_device
from fl_sim.models.model_key import key_parts
from fl_sim.models.recipe import Recipe, outputs_of
from fl_sim.models.training import fit, initial, learning_rate_at, open_levels, predict, predict_and_embed
from fl_sim.names import _text_digest
from fl_sim.population.clients import populate
from fl_sim.population.model_cache import load_model, trained
from fl_sim.population.prepared_data import prepare
from fl_sim.randomness import _entropy, stream, torch_seeded
from fl_sim.scenario.scenario import Scenario
from fl_sim.telemetry import noted

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


def fitted(client_context: ClientContext, recipe: Recipe, rows: Any) -> str:
    return trained(client_context.store, client_context.population.data, recipe, rows)


def test_the_same_recipe_gives_the_same_bits_in_any_process():
    code = "import hashlib\nimport numpy as np\nfrom fl_sim.models.training import Recipe, fit, initial, predict\n"
    code += f"from fl_sim.randomness import stream\nRECIPE, SHAPE = {RECIPE!r}, {SHAPE!r}\n"
    code += f"{inspect.getsource(toy)}\n{inspect.getsource(trained_bits)}\nprint(trained_bits())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    first = trained_bits()
    torch.rand(3)  # nobody's random state matters
    assert trained_bits() == first == other


@pytest.mark.parametrize("change", [{"seed": 1}, {"purpose": "another"}, {"learning_rate": 0.02}, {"epochs": 3},
                                    {"batch_size": 17}, {"precision": "bfloat16"}, {"optimizer": "adamw"},
                                    {"schedule": "cosine"}], ids=str)  # fmt: skip
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
    recipe = dataclasses.replace(RECIPE, architecture="mobilenet_v3_small", epochs=1)  # it has dropout
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
def client_context(store) -> ClientContext:
    scenario = Scenario.model_validate(WORLD)
    population = populate(scenario, prepare(scenario.data, scenario.seed, store), store)
    context = Context(1, 2, {"partition-id": 0, "num-partitions": 2}, RecordDict(), {})
    return ClientContext.of(context, population.key)


def test_all_that_decides_a_models_bits_is_in_its_key(client_context, monkeypatch):
    rows = client_context.population.data.rows("train")
    recipe = dataclasses.replace(
        client_context.population.recipe(client_context.client.tier, "shared"), epochs=0
    )  # a key, and no work
    keys = {"as it is": fitted(client_context, recipe, rows)}
    changes = {
        "architecture": "mlp", "epochs": 1, "learning_rate": 0.5, "batch_size": 7, "seed": 1, "purpose": "client 0",
        "precision": "bfloat16", "cohort": 2, "quantiles": (0.1, 0.9), "optimizer": "adamw", "schedule": "cosine",
        "contrast": "image",
    }  # fmt: skip
    for name, value in changes.items():
        keys[name] = fitted(client_context, dataclasses.replace(recipe, **{name: value}), rows)
    keys["rows"] = fitted(client_context, recipe, rows[:-1])
    keys["order of rows"] = fitted(client_context, recipe, rows[::-1])
    other = dataclasses.replace(
        client_context.population, data=dataclasses.replace(client_context.population.data, key="other")
    )
    keys["data"] = fitted(dataclasses.replace(client_context, population=other), recipe, rows)
    # No GPU is needed to be asked for the key of what a GPU would make.
    with monkeypatch.context() as patch:
        patch.setattr(type(client_context.store), "get", lambda *_: None)
        keys["device"] = fitted(client_context, dataclasses.replace(recipe, device="cuda"), rows)
    with monkeypatch.context() as patch:
        patch.setattr(model_key, "versions", lambda package: (f"{package} 0.0.1",))
        keys["torch's version"] = fitted(client_context, recipe, rows)
    with monkeypatch.context() as patch:
        patch.setattr(model_key, "VERSION", model_key.VERSION + 1)
        keys["the version of learning.py"] = fitted(client_context, recipe, rows)
    assert {field.name for field in dataclasses.fields(Recipe)} <= set(keys)
    assert len(set(keys.values())) == len(keys), sorted(keys.items(), key=lambda item: item[1])
    assert fitted(client_context, recipe, rows) == keys["as it is"]


def test_the_text_of_a_users_own_architecture_is_in_its_key(client_context, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    rows, recipe = (
        client_context.population.data.rows("train"),
        client_context.population.recipe(client_context.client.tier, "shared"),
    )
    recipe = dataclasses.replace(recipe, architecture="my_architecture:narrow", epochs=0)
    keys = []
    text = "from fl_sim.models.architectures import linear\n\n"
    text += "def narrow(shape, outputs):\n    return linear(shape, outputs)\n"
    for added in ("", "", "# another text\n"):
        (tmp_path / "my_architecture.py").write_text(text + added)
        _text_digest.cache_clear()  # as in a new process
        keys.append(fitted(client_context, recipe, rows))
    assert keys[0] == keys[1] != keys[2]


def test_a_stored_model_is_the_one_that_was_trained(client_context):
    data, rows = client_context.population.data, client_context.population.data.rows("train")
    recipe = client_context.population.recipe(client_context.client.tier, "shared")
    found, told = load_model(client_context.store, fitted(client_context, recipe, rows), data)
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
    monkeypatch.setattr(training, "PREDICT_BATCH", 5)
    assert predict(model, images, RECIPE) == pytest.approx(whole, abs=1e-5)


def test_outputs_follow_the_task():
    assert outputs_of(RECIPE, 10) == 10
    assert outputs_of(RECIPE, None) == 1
    assert outputs_of(dataclasses.replace(RECIPE, quantiles=(0.1, 0.9)), None) == 2


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(device, "may_have_gpu", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == "cpu"
    assert resolve_device("cpu") == "cpu"
    with pytest.raises(ValueError, match="device 'cuda' is asked for, and torch sees no GPU"):
        resolve_device("cuda")


def test_torch_is_asked_for_a_gpu_where_a_driver_has_its_file(monkeypatch, tmp_path):
    monkeypatch.setattr(device, "Path", lambda place: tmp_path)
    monkeypatch.setattr(device.sys, "platform", "linux")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert (device.may_have_gpu(), resolve_device("auto")) == (False, "cpu")
    for name in ("nvidiactl", "dxg", "kfd"):
        (tmp_path / name).touch()
        assert (device.may_have_gpu(), resolve_device("auto")) == (True, "cuda")
        (tmp_path / name).unlink()
    monkeypatch.setattr(device.sys, "platform", "win32")
    assert device.may_have_gpu()


# ------------------------------------------------------------------------------------------------------ architectures

SMALL = ("linear", "mlp", "mlp-64", "cnn")
SHAPES = [(name, shape) for name in SMALL for shape in ((1, 8, 8), (1, 28, 28), (3, 32, 32))]
LARGE = set(ARCHITECTURES) - {*SMALL, *FIT_THEMSELVES}
SHAPES += [(name, (3, 32, 32)) for name in ARCHITECTURES if name in LARGE and not name.endswith(IMAGENET)]
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
def test_a_row_left_over_does_not_break_batch_normalisation(one_thread, rows):
    images, targets = toy(rows)
    recipe = dataclasses.replace(RECIPE, architecture="shufflenet_v2_x0_5", epochs=1, batch_size=16)
    model = fit(initial(recipe, SHAPE, 2), images, targets, recipe)
    assert np.isfinite(predict(model, images, recipe)).all()


def test_every_row_is_seen_once_an_epoch():
    for n, size in ((17, 16), (16, 16), (1, 16), (5, 2), (7, 3)):
        order = np.arange(n)[::-1].copy()
        batches = [rows.tolist() for rows in training._batches(order, size)]
        assert [row for rows in batches for row in rows] == order.tolist()
        assert max(map(len, batches)) <= size + 1
        assert n == 1 or min(map(len, batches)) > 1


def test_a_client_with_one_row_can_train_a_network_with_batch_normalisation(client_context):
    data, rows = client_context.population.data, client_context.population.data.rows("train")[:1]
    recipe = dataclasses.replace(
        client_context.population.recipe(client_context.client.tier, "x"), architecture="shufflenet_v2_x0_5"
    )
    model = fit(initial(recipe, data.shape, 10), data.standardised(rows), data.learnable(rows), recipe)
    assert all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())


# --------------------------------------------------------------------------------------------- optimizer and schedule


def bits(model: nn.Module) -> bytes:
    return b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_fitting_is_torchs_own_loop(one_thread, optimizer, schedule):
    images, targets = toy()
    recipe = dataclasses.replace(RECIPE, architecture="mlp", epochs=3, optimizer=optimizer, schedule=schedule)
    ours = fit(initial(recipe, SHAPE, 2), images, targets, recipe)

    model, order = initial(recipe, SHAPE, 2), stream(recipe.seed, "batch-order", recipe.purpose)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[optimizer]
    torchs = kind(model.parameters(), lr=recipe.learning_rate)  # AdamW's default weight decay is what we state
    steps = 3 * 4  # 50 rows in batches of 16

    def factor(step: int) -> float:
        return 1.0 if schedule == "constant" else (1 + math.cos(math.pi * step / steps)) / 2

    decay = torch.optim.lr_scheduler.LambdaLR(torchs, factor)
    for _ in range(3):
        for rows in np.split(order.permutation(50), [16, 32, 48]):
            torchs.zero_grad()
            loss = nn.functional.cross_entropy(model(torch.from_numpy(images[rows])), torch.from_numpy(targets[rows]))
            loss.backward()
            torchs.step()
            decay.step()
    difference = max((a - b).abs().max() for a, b in zip(ours.parameters(), model.parameters(), strict=True))
    assert float(difference.detach()) < 1e-6
    assert decay.get_last_lr()[0] == pytest.approx(0.01 if schedule == "constant" else 0.0)


def test_the_cosine_goes_from_the_learning_rate_to_nothing():
    cosine = dataclasses.replace(RECIPE, schedule="cosine")
    assert [learning_rate_at(RECIPE, step, 4) for step in range(4)] == [0.01] * 4
    found = [learning_rate_at(cosine, step, 4) for step in range(5)]
    assert found == pytest.approx([0.01, 0.01 * (2 + 2**0.5) / 4, 0.005, 0.01 * (2 - 2**0.5) / 4, 0.0])


# ------------------------------------------------------------------------------------------ soft labels and curricula


def test_certain_soft_labels_are_hard_labels():
    images, targets = toy()
    hard = fit(initial(RECIPE, SHAPE, 2), images, targets, RECIPE)
    soft = fit(initial(RECIPE, SHAPE, 2), images, np.eye(2, dtype=np.float32)[targets], RECIPE)
    assert predict(soft, images, RECIPE) == pytest.approx(predict(hard, images, RECIPE), abs=1e-4)


def test_soft_labels_are_what_the_model_comes_to_say():
    x = np.zeros((400, 1), np.float32)
    share = np.tile(np.array([0.2, 0.5, 0.3], np.float32), (400, 1))
    recipe = dataclasses.replace(RECIPE, architecture="linear", epochs=40)
    logits = predict(fit(initial(recipe, (1,), 3), x, share, recipe), x[:1], recipe)
    assert torch.softmax(torch.from_numpy(logits), 1).numpy()[0] == pytest.approx([0.2, 0.5, 0.3], abs=1e-3)


def test_levels_open_one_after_another_over_the_first_half():
    assert [open_levels(epoch, 30, 1) for epoch in range(30)] == [1] * 30
    assert [open_levels(epoch, 8, 4) for epoch in range(8)] == [1, 1, 2, 3, 4, 4, 4, 4]
    assert [open_levels(epoch, 5, 10) for epoch in range(5)] == [1, 4, 7, 10, 10]
    assert [open_levels(epoch, 2, 3) for epoch in range(2)] == [1, 3]
    assert open_levels(0, 1, 3) == 3  # a single epoch leaves nobody out
    for epochs in range(1, 13):
        for levels in range(1, 13):
            opened = [open_levels(epoch, epochs, levels) for epoch in range(epochs)]
            half = math.ceil(epochs / 2)
            assert opened == sorted(opened)
            assert opened[0] == 1 or epochs == 1
            assert opened[half:] == [levels] * (epochs - half)
            assert opened[-1] == levels
            steps = [b - a for a, b in itertools.pairwise(opened)]
            assert all(step <= math.ceil((levels - 1) / half) for step in steps)  # evenly


def test_a_curriculum_shows_the_rows_of_the_open_levels_and_no_others(monkeypatch):
    images, targets = toy(40)
    levels = (np.arange(40) % 4).astype(np.uint8)
    recipe = dataclasses.replace(RECIPE, epochs=6)
    seen: list[list[int]] = []

    def batches(order: np.ndarray, size: int) -> Iterator[torch.Tensor]:
        seen.append(order.tolist())
        yield torch.from_numpy(order)

    monkeypatch.setattr(training, "_batches", batches)
    fit(initial(recipe, SHAPE, 2), images, targets, recipe, levels=levels)
    order = stream(recipe.seed, "batch-order", recipe.purpose)
    for epoch, shown in enumerate(seen):
        everyone = order.permutation(40)
        assert shown == [row for row in everyone if levels[row] < open_levels(epoch, 6, 4)]
    assert [len(shown) for shown in seen] == [10, 20, 30, 40, 40, 40]


def test_a_curriculum_of_one_level_is_none_and_an_empty_level_takes_no_turn():
    images, targets = toy()
    recipe = dataclasses.replace(RECIPE, architecture="mlp", epochs=4, schedule="cosine")

    def trained(levels: np.ndarray | None) -> bytes:
        return bits(fit(initial(recipe, SHAPE, 2), images, targets, recipe, levels=levels))

    assert trained(np.zeros(50, np.uint8)) == trained(np.full(50, 7, np.uint8)) == trained(None)
    two = (np.arange(50) % 2).astype(np.uint8)
    assert trained(two) == trained(9 * two) != trained(None)
    with pytest.raises(ValueError, match=r"levels of shape \(49,\): must have shape \(50,\)"):
        trained(two[1:])


def test_the_cosine_of_a_curriculum_ends_with_its_steps(monkeypatch):
    images, targets = toy(40)
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(training, "learning_rate_at", lambda _r, step, steps: asked.append((step, steps)) or 0.01)
    recipe = dataclasses.replace(RECIPE, architecture="linear", epochs=4, batch_size=10)
    fit(initial(recipe, SHAPE, 2), images, targets, recipe, levels=(np.arange(40) % 2).astype(np.uint8))
    assert asked == [(step, 2 + 2 + 4 + 4) for step in range(12)]


# ---------------------------------------------------------------------------------------------------- images as bytes

BYTES = dataclasses.replace(RECIPE, contrast="image")


def pictures(n: int, size: int = 8) -> np.ndarray:
    """Images of noise, each as dark and as pale as it will."""
    rng = stream(0, "bytes")
    noise = rng.integers(0, 256, (n, 3, size, size)) * rng.random((n, 1, 1, 1)) + 100 * rng.random((n, 1, 1, 1))
    return noise.clip(0, 255).astype(np.uint8)


def test_each_image_comes_to_its_own_mean_and_contrast():
    images = pictures(9)
    found = contrasted(images)
    assert (found.dtype, found.shape) == (np.float32, images.shape)
    assert found.mean(axis=(1, 2, 3)) == pytest.approx(0, abs=1e-4)
    spread = images.std(axis=(1, 2, 3))
    assert found.std(axis=(1, 2, 3)) == pytest.approx(spread / np.maximum(spread, SOFTEST), abs=1e-4)
    for row, image in enumerate(images):
        assert contrasted(image[None]).tobytes() == found[row].tobytes()  # whatever stands beside it
    # Darker and paler is the same image; what has no contrast is not made of noise.
    assert contrasted(2 * (images // 4) + 60) == pytest.approx(contrasted(2 * (images // 4)), abs=1e-5)
    almost = np.full((1, 1, 8, 8), 17, np.uint8)
    assert not contrasted(almost).any()
    almost[0, 0, 0, 0] = 21
    assert np.abs(contrasted(almost)).max() == pytest.approx((4 - 4 / 64) / SOFTEST)


def test_standardising_batch_by_batch_gives_the_same_bits(tmp_path, monkeypatch):
    images = pictures(70)
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")  # read-only
    targets = stream(0, "labels").integers(0, 2, 70)
    levels = (np.arange(70) % 3).astype(np.uint8)

    def found(given: np.ndarray, held: int) -> list[bytes]:
        with monkeypatch.context() as patch:
            patch.setattr(training, "HELD_VALUES", held)
            patch.setattr(training, "PREDICT_BATCH", 32)
            model = fit(initial(BYTES, (3, 8, 8), 2), given, targets, BYTES, levels=levels)
            outputs, embeddings = predict_and_embed(model, given, BYTES)
            assert predict(model, given, BYTES).tobytes() == outputs.tobytes()
            assert predict(model, given[:0], BYTES).shape == (0, 2)
            return [bits(model), outputs.tobytes(), embeddings.tobytes()]

    at_once = found(images, images.size)
    assert found(images, images.size - 1) == found(mapped, 0) == found(mapped, images.size) == at_once
    plain = fit(initial(RECIPE, (3, 8, 8), 2), contrasted(images), targets, RECIPE, levels=levels)
    assert bits(plain) == at_once[0]  # as of floats made before


def test_bytes_are_for_the_contrast_of_each_image_and_floats_for_that_of_the_set():
    images = pictures(3)
    model = build("linear", (3, 8, 8), 2)
    with pytest.raises(ValueError, match="inputs of uint8 for contrast = 'set': must be uint8 for 'image' only"):
        predict(model, images, RECIPE)
    with pytest.raises(ValueError, match="inputs of float32 for contrast = 'image'"):
        fit(model, contrasted(images), np.zeros(3, np.int64), BYTES)
    with pytest.raises(ValueError, match="inputs of float32 for contrast = 'image'"):
        predict_and_embed(model, contrasted(images), BYTES)


# --------------------------------------------------------------------------------------------------------- embeddings


@pytest.mark.parametrize("architecture", ["mlp", "cnn", "resnet18", "mobilenet_v3_small"])
def test_the_last_layer_makes_the_outputs_of_the_embeddings(one_thread, monkeypatch, architecture):
    inputs = contrasted(pictures(23, 16))
    monkeypatch.setattr(training, "PREDICT_BATCH", 10)
    model = build(architecture, (3, 16, 16), 5)
    outputs, embeddings = predict_and_embed(model, inputs, RECIPE)
    last = [layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1]
    assert (outputs.dtype, embeddings.dtype) == (np.float32, np.float32)
    assert embeddings.shape == (23, last.in_features)
    assert last(torch.from_numpy(embeddings)).detach().numpy() == pytest.approx(outputs, abs=1e-4)
    assert outputs.tobytes() == predict(model, inputs, RECIPE).tobytes()
    assert [part.shape for part in predict_and_embed(model, inputs[:0], RECIPE)] == [(0, 5), (0, last.in_features)]
    assert not last._forward_hooks  # nothing is left behind


def test_a_model_without_a_linear_layer_has_no_embeddings():
    convolutions = nn.Sequential(nn.Conv2d(3, 2, 8), nn.Flatten())
    with pytest.raises(FlSimError, match="'cnn' has no embeddings: they are what its last linear layer gets, and it"):
        predict_and_embed(convolutions, np.zeros((2, 3, 8, 8), np.float32), RECIPE)
    by_pixel = nn.Sequential(nn.Linear(8, 2))
    with pytest.raises(FlSimError, match=r"of 2 rows its last linear layer got \[\(2, 3, 8, 8\)\], and must get one"):
        predict_and_embed(by_pixel, np.zeros((2, 3, 8, 8), np.float32), RECIPE)


# ---------------------------------------------------------------------------------------------------- trained weights

TRAINED = [name for name in ARCHITECTURES if name.endswith(IMAGENET)]


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[Path]:
    """Torch's folder of weights, empty; and no network."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("nothing may be downloaded")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    for name in ("download_url_to_file", "load_state_dict_from_url", "load"):
        monkeypatch.setattr(torch.hub, name, refuse)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    yield folder
    shutil.rmtree(folder)  # they are large, and pytest keeps what tests leave


def stub(folder: Path, name: str, *, old: bool = False) -> dict[str, torch.Tensor]:
    """An untrained network's weights where the trained ones would lie; `old` as torch wrote them before 0.4.1."""
    from torchvision import models as theirs

    weights = getattr(theirs, name)(weights=None).state_dict()
    if old:
        weights = {key: tensor for key, tensor in weights.items() if not key.endswith("num_batches_tracked")}
    torch.save(weights, folder / pretrained.FILES[name])
    return weights


def test_the_files_are_torchvisions():
    from torchvision import models as theirs

    assert [name.removesuffix(IMAGENET) for name in TRAINED] == list(pretrained.FILES)
    for name, file in pretrained.FILES.items():
        assert theirs.get_model_weights(name)["IMAGENET1K_V1"].url == pretrained.SITE + file


@pytest.mark.parametrize("architecture", TRAINED)
def test_trained_weights_are_kept_and_the_head_is_new(hub, one_thread, architecture):
    name = architecture.removesuffix(IMAGENET)
    weights = stub(hub, name)
    assert architectures.missing_weights(architecture) is None
    recipe = dataclasses.replace(RECIPE, architecture=architecture)
    model, again = initial(recipe, (3, 64, 64), 7), initial(dataclasses.replace(recipe, seed=1), (3, 64, 64), 7)
    assert not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
    assert all(parameter.requires_grad for parameter in model.parameters())
    ours = model.state_dict()
    assert list(ours) == list(weights)  # plain keys
    last = [key for key in weights if weights[key].shape[:1] != ours[key].shape[:1]]
    assert [key.rpartition(".")[2] for key in last] == ["weight", "bias"]
    assert all(torch.equal(weights[key], ours[key]) for key in weights if key not in last)
    assert not torch.equal(ours[last[0]], again.state_dict()[last[0]])
    assert bits(initial(recipe, (3, 64, 64), 7)) == bits(model)
    assert predict(model, np.zeros((2, 3, 64, 64), np.float32), recipe).shape == (2, 7)


def test_a_trained_model_learns(hub, one_thread):
    stub(hub, "resnet18", old=True)
    images = pictures(4, 64)
    recipe = dataclasses.replace(BYTES, architecture="resnet18-imagenet", epochs=1, optimizer="adamw")
    model = initial(recipe, (3, 64, 64), 2)
    assert model.maxpool.kernel_size == 3  # not as `_for_small_images` would leave it
    assert model.conv1.stride == (2, 2)
    before = bits(model)
    assert bits(fit(model, images, np.array([0, 1, 0, 1]), recipe)) != before


@pytest.mark.parametrize("architecture", TRAINED)
def test_weights_that_are_not_there_are_named_with_the_command_that_gets_them(hub, architecture):
    name = architecture.removesuffix(IMAGENET)
    command = f"fl-sim data get weights:{name}"
    assert architectures.missing_weights(architecture) == (str(hub / pretrained.FILES[name]), command)
    with pytest.raises(DataNotAtHandError, match=f"the ImageNet weights of {name} are not on this machine.*{command}$"):
        build(architecture, (3, 64, 64), 10)
    with pytest.raises(DataNotAtHandError, match=command):
        key_parts(dataclasses.replace(RECIPE, architecture=architecture))


def test_architectures_that_start_from_no_file_miss_none(hub):
    for name in set(ARCHITECTURES) - set(TRAINED) | {"mine:net", "mine:net-imagenet", "linear-imagenet"}:
        assert architectures.missing_weights(name) is None
        assert architectures.weights_digest(name) is None


def test_the_content_of_the_weights_is_in_a_models_key(hub):
    recipe = dataclasses.replace(RECIPE, architecture="mobilenet_v3_small-imagenet")
    stub(hub, "mobilenet_v3_small")
    first, file = key_parts(recipe), hub / pretrained.FILES["mobilenet_v3_small"]
    assert first["weights"] == hashlib.sha256(file.read_bytes()).hexdigest() == key_parts(recipe)["weights"]
    stub(hub, "mobilenet_v3_small", old=True)
    assert key_parts(recipe)["weights"] == hashlib.sha256(file.read_bytes()).hexdigest() != first["weights"]


@pytest.mark.parametrize("shape", [(1, 64, 64), (3, 63, 64), (3, 64, 32)])
def test_trained_networks_take_large_colour_images_only(hub, shape):
    with pytest.raises(
        ValueError, match=r"takes images of 3 channels and at least 64 x 64 pixels, not of shape \("
    ) as no:
        build("resnet18-imagenet", shape, 10)
    assert "\n" not in str(no.value)
    with pytest.raises(ValueError, match="takes images, not rows of shape"):
        build("resnet18-imagenet", (10,), 10)


def test_a_damaged_or_foreign_file_of_weights_is_named(hub):
    file = hub / pretrained.FILES["resnet18"]
    again = r"delete it and get it again: fl-sim data get weights:resnet18$"
    file.write_bytes(b"<html>")
    with pytest.raises(FlSimError, match=again):
        build("resnet18-imagenet", (3, 64, 64), 10)
    stub(hub, "mobilenet_v3_small")
    (hub / pretrained.FILES["mobilenet_v3_small"]).rename(file)
    with pytest.raises(FlSimError, match=again) as no:
        build("resnet18-imagenet", (3, 64, 64), 10)
    assert "\n" not in str(no.value)
    torch.save({"model": Path}, file)  # an object that must not be loaded
    with pytest.raises(FlSimError, match=again):
        build("resnet18-imagenet", (3, 64, 64), 10)


def test_weights_are_downloaded_by_get_alone(hub, monkeypatch):
    asked: list[tuple[str, str, str]] = []

    def download(url: str, target: str, hash_prefix: str, progress: bool) -> None:
        asked.append((url, target, hash_prefix))
        Path(target).write_bytes(b"weights")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    file = hub / "resnet18-f37072fd.pth"
    assert pretrained.get_weights("resnet18") == f"the ImageNet weights of resnet18 are now in {file}"
    assert asked == [("https://download.pytorch.org/models/resnet18-f37072fd.pth", str(file), "f37072fd")]
    assert pretrained.get_weights("resnet18") == f"the ImageNet weights of resnet18 are at hand ({file})"
    assert len(asked) == 1


def test_a_download_that_fails_says_what_to_do(hub, monkeypatch):
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError('invalid hash value (expected "0676ba61", got "00")')

    monkeypatch.setattr(torch.hub, "download_url_to_file", fails)
    with pytest.raises(FlSimError, match=r"resnet50-0676ba61.pth could not be downloaded to .*invalid hash value"):
        pretrained.get_weights("resnet50")
    with pytest.raises(FlSimError, match="no ImageNet weights are known for 'resnet19'; did you mean 'resnet18'"):
        pretrained.get_weights("resnet19")


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_step_is_that_of_torchs_own_optimizer_to_the_bit(optimizer, schedule, one_thread):
    recipe = Recipe("cnn", 2, 1e-3, 16, None, 0, "x", "cpu", "float32", optimizer=optimizer, schedule=schedule)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((50, 1, 8, 8)).astype(np.float32), rng.integers(0, 10, 50)
    ours = training.fit(training.initial(recipe, (1, 8, 8), 10), x, y, recipe)
    theirs = training.initial(recipe, (1, 8, 8), 10).train()
    named = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[optimizer]
    told = {"weight_decay": 0.01} if optimizer == "adamw" else {}
    steps = named(theirs.parameters(), lr=1e-3, **told)
    order, done, all_steps = stream(0, "batch-order", "x"), 0, recipe.epochs * math.ceil(50 / 16)
    for _ in range(recipe.epochs):
        for rows in training._batches(order.permutation(50), 16):
            for group in steps.param_groups:
                group["lr"] = training.learning_rate_at(recipe, done, all_steps)
            steps.zero_grad()
            nn.functional.cross_entropy(theirs(torch.from_numpy(x)[rows]), torch.from_numpy(y)[rows]).backward()
            steps.step()
            done += 1
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_a_lazy_layer_trains():
    recipe = dataclasses.replace(RECIPE, epochs=2)
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 3))
    x, y = np.random.default_rng(0).standard_normal((20, 1, 4, 4)).astype(np.float32), np.arange(20) % 3
    assert training.predict(training.fit(model, x, y, recipe), x, recipe).shape == (20, 3)


def test_who_has_no_memory_for_all_rows_is_asked_fewer_at_a_time(monkeypatch):
    x = np.random.default_rng(0).standard_normal((300, 1, 8, 8)).astype(np.float32)
    model = training.initial(RECIPE, (1, 8, 8), 10)
    whole, said, sizes = training.predict(model, x, RECIPE), training._outputs, []

    def small(model: nn.Module, batch: torch.Tensor, recipe: Recipe) -> Any:
        sizes.append(len(batch))
        if len(batch) > 40:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return said(model, batch, recipe)

    monkeypatch.setattr(training, "_outputs", small)
    with noted() as notes:
        np.testing.assert_allclose(training.predict(model, x, RECIPE), whole, atol=1e-6)
    assert sizes[:4] == [128, 64, 32, 32]
    assert [note.partition(": ")[2] for note in notes] == [
        "asked 64 rows at a time, for want of memory", "asked 32 rows at a time, for want of memory",
    ]  # fmt: skip


def test_a_model_that_was_asked_trains_as_one_that_was_not():
    x, y = np.random.default_rng(0).standard_normal((40, 1, 8, 8)).astype(np.float32), np.arange(40) % 10
    recipe = dataclasses.replace(RECIPE, architecture="cnn")
    asked, quiet = (training.initial(recipe, (1, 8, 8), 10) for _ in range(2))
    training.predict(asked, x, recipe)
    for model in (asked, quiet):
        training.fit(model, x, y, recipe)
    for mine, other in zip(asked.state_dict().values(), quiet.state_dict().values(), strict=True):
        assert torch.equal(mine, other)
        assert mine.stride() == other.stride()


def test_a_seeded_block_draws_what_torch_seeded_so_draws_and_leaves_no_trace():
    before = torch.get_rng_state()
    with torch_seeded(3, "purpose"):
        drawn = torch.rand(4)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_entropy(3, ("purpose",)) % 2**63)
        assert torch.equal(torch.rand(4), drawn)


@pytest.mark.parametrize("channels", [1, 3])
def test_training_by_pixel_differs_by_rounding_and_leaves_weights_as_they_are_kept(channels):
    rng, shape = np.random.default_rng(0), (channels, 8, 8)
    x, y = rng.standard_normal((100, *shape)).astype(np.float32), np.arange(100) % 10
    recipe, laid = dataclasses.replace(RECIPE, architecture="cnn", epochs=3), []
    plain = training.fit(training.initial(recipe, shape, 10), x, y, recipe)
    model = training.initial(recipe, shape, 10)
    hook = model.register_forward_pre_hook(
        lambda _, given: laid.append(given[0].is_contiguous(memory_format=torch.channels_last))
    )
    training.fit(model, x, y, recipe, channels_last=True)
    hook.remove()
    assert laid
    assert all(laid)
    for mine, other in zip(model.state_dict().values(), plain.state_dict().values(), strict=True):
        assert mine.stride() == other.stride()
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-3)
