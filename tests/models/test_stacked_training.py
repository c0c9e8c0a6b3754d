"""Models of many clients trained together: what comes out is what each would be alone.

Source: `fl_sim/models/training.py`, whose `fit` and `predict` are the definition that a stack is held against.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from fl_sim import Result, Scenario, simulate
from fl_sim.data import glyphs
from fl_sim.data.fonts import POOL_FONTS
from fl_sim.errors import FlSimError, ScenarioError
from fl_sim.models import stacked_steps, stacked_training, training
from fl_sim.models.recipe import Recipe
from fl_sim.models.stacked_training import (
    TOLERANCE,
    Stack,
    cohort_size,
    fit_together,
    predict_together,
    stackable,
    stacked,
)
from fl_sim.population.clients import Population, populate
from fl_sim.population.model_cache import TransferSet, cohort_on_rows, cohort_on_transfer, load_model
from fl_sim.population.prepared_data import prepare
from fl_sim.randomness import stream
from fl_sim.store.artifacts import Store
from strategies.base import Federation
from strategies.own import Own

SHAPE = (1, 8, 8)
SIZES = (40, 0, 33, 1, 17, 16, 2, 31)  # of batches of 16: whole ones, short ones, one row left over, none at all
RECIPE = Recipe("mlp", 3, 0.01, 16, None, 5, "", "cpu", "float32")
QUANTILES = dataclasses.replace(RECIPE, quantiles=(0.1, 0.7))


def recipes(recipe: Recipe = RECIPE, count: int = len(SIZES)) -> list[Recipe]:
    return [dataclasses.replace(recipe, purpose=f"client {k}") for k in range(count)]


def images(count: int, shape: tuple[int, ...] = SHAPE) -> NDArray[np.float32]:
    return stream(0, "images").standard_normal((count, *shape)).astype(np.float32)


Draw = Callable[[np.random.Generator, int], NDArray[Any]]
LABELS: Draw = lambda rng, n: rng.integers(0, 4, n)  # noqa: E731
SOFT: Draw = lambda rng, n: rng.dirichlet(np.ones(4), n).astype(np.float32)  # noqa: E731
NUMBERS: Draw = lambda rng, n: rng.standard_normal(n).astype(np.float32)  # noqa: E731


def targets(draw: Draw = LABELS, sizes: Sequence[int] = SIZES) -> list[NDArray[Any]]:
    return [draw(stream(0, "targets", k), n) for k, n in enumerate(sizes)]


def initial(told: Sequence[Recipe], outputs: int, shape: tuple[int, ...] = SHAPE) -> list[nn.Module]:
    return [training.initial(recipe, shape, outputs) for recipe in told]


def flat(weights: Any) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in dict(weights).values()])


def bits(weights: Any) -> bytes:
    return flat(weights).numpy().tobytes()


def check_alone(stack: Stack, told: Sequence[Recipe], inputs: Any, wanted: Any, levels: Any = None) -> list[nn.Module]:
    """Hold every member against one-by-one training on its inputs and targets."""
    alone = []
    for k, recipe in enumerate(told):
        model = training.initial(recipe, inputs[k].shape[1:], _outputs(stack))
        shown = None if levels is None else levels[k]
        alone.append(training.fit(model, inputs[k], wanted[k], recipe, levels=shown))
        mine, other = flat(stack.member(k)), flat(model.state_dict())
        assert (mine - other).norm() <= TOLERANCE * other.norm(), k
    return alone


def _outputs(stack: Stack) -> int:
    return list(stack.weights.values())[-1].shape[1]


def parts(inputs: NDArray[Any], sizes: Sequence[int] = SIZES) -> list[NDArray[Any]]:
    return np.split(inputs, np.cumsum(sizes)[:-1])


# ------------------------------------------------------------------------------------------- as one-by-one training


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize(
    ("recipe", "draw", "outputs"),
    [(RECIPE, LABELS, 4), (RECIPE, SOFT, 4), (RECIPE, NUMBERS, 1), (QUANTILES, NUMBERS, 2)],
    ids=["labels", "soft labels", "mean", "quantiles"],
)
def test_a_stack_is_what_each_model_would_be_alone(recipe, draw, outputs, optimizer, schedule):
    told = recipes(dataclasses.replace(recipe, optimizer=optimizer, schedule=schedule))
    x, y = images(sum(SIZES)), targets(draw)
    stack = fit_together(initial(told, outputs), x, y, told)
    alone = check_alone(stack, told, parts(x), y)
    untrained = training.initial(told[1], SHAPE, outputs)  # by whom there are no rows to learn from
    assert bits(stack.member(1)) == bits(untrained.state_dict())
    for mine, model, rows in zip(predict_together(stack, x, recipe, SIZES), alone, parts(x), strict=True):
        said = training.predict(model, rows, recipe)
        assert (mine.shape, mine.dtype) == (said.shape, np.float32)
        assert mine == pytest.approx(said, abs=1e-3)


@pytest.mark.parametrize("architecture", ["linear", "mlp", "mlp-64", "cnn"])
def test_rows_that_all_learn_from_are_held_once(architecture):
    told = recipes(dataclasses.replace(RECIPE, architecture=architecture, batch_size=32), 3)
    x, y = images(65), targets(sizes=[65] * 3)
    check_alone(fit_together(initial(told, 4), x, y, told, shared=True), told, [x] * 3, y)
    same = fit_together(initial(told, 4), x, [y[0]] * 3, told, shared=True)
    check_alone(same, told, [x] * 3, [y[0]] * 3)
    for mine, k in zip(predict_together(same, x, told[0]), range(3), strict=True):
        one = training.initial(told[k], SHAPE, 4)
        one.load_state_dict(same.member(k))
        assert mine == pytest.approx(training.predict(one, x, told[k]), abs=1e-5)


def test_a_curriculum_opens_for_each_model_by_the_levels_of_its_rows():
    told = recipes(dataclasses.replace(RECIPE, epochs=6, schedule="cosine", seed=6))
    x, y = images(sum(SIZES)), targets()
    levels = stream(0, "levels").integers(0, 4, sum(SIZES)).astype(np.uint8)
    check_alone(fit_together(initial(told, 4), x, y, told, levels=levels), told, parts(x), y, parts(levels))


def test_images_in_bytes_are_seen_by_their_own_contrast(monkeypatch):
    told = recipes(dataclasses.replace(RECIPE, contrast="image"), 3)
    x = stream(0, "bytes").integers(0, 256, (50, *SHAPE)).astype(np.uint8)
    y = targets(sizes=[50] * 3)
    stack = fit_together(initial(told, 4), x, y, told, shared=True)
    check_alone(stack, told, [x] * 3, y)
    monkeypatch.setattr(training, "HELD_VALUES", 10)  # too many to hold as floats: a batch at a time
    again = fit_together(initial(told, 4), x, y, told, shared=True)
    assert bits(again.weights) == bits(stack.weights)


def test_half_precision_parts_a_stack_from_one_by_one_no_more_than_from_float32():
    """Both go by rounded weights as they are now, not as they were when training began."""
    told, full = recipes(dataclasses.replace(RECIPE, precision="bfloat16")), recipes()
    x, y = images(sum(SIZES)), targets()
    stack = fit_together(initial(told, 4), x, y, told)
    for k, rows in enumerate(parts(x)):
        half, single = (
            flat(training.fit(training.initial(how[k], SHAPE, 4), rows, y[k], how[k]).state_dict())
            for how in (told, full)
        )
        assert (half - single).norm() <= 0.1 * single.norm()
        assert (flat(stack.member(k)) - half).norm() <= 0.1 * single.norm()


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "bias"), [(1, 1, 1, True), (2, 0, 1, False), (2, 3, 2, True)]
)
def test_a_convolution_by_patches_is_torchs_own(stride, padding, dilation, bias):
    layer = nn.Conv2d(3, 5, (3, 2), stride=stride, padding=padding, dilation=dilation, bias=bias)
    rows = torch.from_numpy(images(4, (3, 11, 9)))
    with stacked_steps._ByPatches():
        mine = layer(rows)
    torch.testing.assert_close(mine, layer(rows), rtol=1e-5, atol=1e-5)
    grouped = nn.Conv2d(4, 4, 3, groups=2)  # not ours to do
    with stacked_steps._ByPatches():
        assert grouped(rows[:, :1].expand(-1, 4, -1, -1)).shape == (4, 4, 9, 7)


def test_a_stack_of_cnns_by_patches_is_what_each_would_be_alone(monkeypatch):
    monkeypatch.setattr(stacked_steps, "PATCHES", frozenset({"cpu"}))  # as on a GPU
    told = recipes(dataclasses.replace(RECIPE, architecture="cnn"))
    x, y = images(sum(SIZES)), targets()
    check_alone(fit_together(initial(told, 4), x, y, told), told, parts(x), y)


def test_a_models_numbers_are_its_own():
    """Other rows and labels of one member leave the bits of all others as they are, and so does another order."""
    told, x, y = recipes(), images(sum(SIZES)), targets()
    before = fit_together(initial(told, 4), x, y, told)
    other, changed = x.copy(), [*y]
    other[:40], changed[0] = 3 * other[:40], (y[0] + 1) % 4
    after = fit_together(initial(told, 4), other, changed, told)
    kept = [bits(before.member(k)) == bits(after.member(k)) for k in range(len(SIZES))]
    assert kept == [False, *[True] * (len(SIZES) - 1)]


def test_the_models_keep_the_weights_they_have_and_nothing_global_is_moved():
    told, y = recipes(), targets()
    models, threads, state = initial(told, 4), torch.get_num_threads(), torch.random.get_rng_state()
    before = [bits(m.state_dict()) for m in models]
    stack = fit_together(models, images(sum(SIZES)), y, told)
    assert [bits(m.state_dict()) for m in models] == before
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)
    assert len(stack) == len(SIZES)
    assert not any(w.requires_grad for w in stack.weights.values())


def test_predictions_of_no_rows_still_have_their_columns():
    stack = stacked(initial(recipes(count=2), 4))
    assert [said.shape for said in predict_together(stack, images(0), RECIPE, [0, 0])] == [(0, 4)] * 2
    assert [said.shape for said in predict_together(stack, images(0), RECIPE)] == [(0, 4)] * 2


def test_predictions_do_not_depend_on_their_chunks(monkeypatch):
    stack, x = stacked(initial(recipes(), 4)), images(sum(SIZES))
    whole = predict_together(stack, x, RECIPE, SIZES)
    monkeypatch.setattr(stacked_training, "TOGETHER", 5 * len(SIZES))
    for mine, other in zip(predict_together(stack, x, RECIPE, SIZES), whole, strict=True):
        assert mine == pytest.approx(other, abs=1e-5)


@pytest.mark.parametrize(("change", "said"), [
    ({"inputs": images(7)}, "7 rows of inputs for targets of"),
    ({"shared": True, "inputs": images(5)}, "5 rows of inputs for targets of"),
])  # fmt: skip
def test_what_does_not_go_together_is_refused(change, said):
    y = targets(sizes=[3, 4, 5])
    given: dict[str, Any] = {"inputs": images(12), "recipes": recipes(count=3), "shared": False} | change
    with pytest.raises(ValueError, match=said):
        fit_together(initial(recipes(count=3), 4), given["inputs"], y, given["recipes"], shared=given["shared"])


# -------------------------------------------------------------------------------------------------- too little memory


class Small:
    """A device on which no more than `most` models fit at once."""

    def __init__(self, most: int, inner: Any) -> None:
        self.most, self.inner, self.sizes = most, inner, []

    def __call__(self, stack: Stack, *rest: Any) -> Any:
        self.sizes.append(len(stack))
        if len(stack) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nmore words")
        return self.inner(stack, *rest)


def test_the_user_is_told_of_it(monkeypatch, store):
    assert simulate(world(4), store=store.root).summary["notes"] == []
    monkeypatch.setattr(stacked_training, "_fit", Small(2, stacked_training._fit))
    notes = simulate(world(4, seed=1), store=store.root).summary["notes"]
    told = "a cohort of 4 models does not fit into the memory of the cpu device; trained 2 at a time"
    assert f"architecture 'linear': {told}" in notes
    assert len(set(notes)) == len(notes)


@pytest.mark.parametrize("shared", [False, True])
def test_a_cohort_that_does_not_fit_is_trained_in_slices_and_says_so(monkeypatch, caplog, shared):
    sizes = [30] * 6 if shared else [20, 0, 17, 5, 30, 1]
    told, y = recipes(count=6), targets(sizes=sizes)
    x = images(30 if shared else sum(sizes))
    whole = fit_together(initial(told, 4), x, y, told, shared=shared)
    small = Small(2, stacked_training._fit)
    monkeypatch.setattr(stacked_training, "_fit", small)
    with caplog.at_level(logging.WARNING, "fl_sim"):
        sliced = fit_together(initial(told, 4), x, y, told, shared=shared)
    assert small.sizes == [6, 3, 2, 2, 2]
    assert caplog.messages == [
        f"architecture 'mlp': a cohort of 6 models does not fit into the memory of the cpu device; "
        f"trained {n} at a time"
        for n in (3, 2)
    ]
    for k in range(6):
        mine, other = flat(sliced.member(k)), flat(whole.member(k))
        assert (mine - other).norm() <= TOLERANCE * other.norm()


def test_predictions_too_are_made_in_slices(monkeypatch, caplog):
    stack, x = stacked(initial(recipes(), 4)), images(sum(SIZES))
    whole = predict_together(stack, x, RECIPE, SIZES)
    monkeypatch.setattr(stacked_training, "_ask_each", Small(1, stacked_training._ask_each))
    for mine, other in zip(predict_together(stack, x, RECIPE, SIZES), whole, strict=True):
        assert mine.shape == other.shape
        assert mine == pytest.approx(other, abs=1e-5)
    assert caplog.messages[-1].endswith("; asked 1 at a time")


def test_one_model_that_does_not_fit_is_an_error_that_says_what_to_do(monkeypatch):
    monkeypatch.setattr(stacked_training, "_fit", Small(0, stacked_training._fit))
    told = recipes(count=2)
    with pytest.raises(
        FlSimError, match=r"'mlp': one model alone does not fit .*20.00 MiB.*lower batch_size = 16"
    ) as e:
        fit_together(initial(told, 4), images(6), targets(sizes=[3, 3]), told)
    assert "\n" not in str(e.value)


# ------------------------------------------------------------------------------------------- what can be stacked at all


class Mixes(nn.Module):
    """A row's output depends on the other rows."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(64, 4)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        said: torch.Tensor = self.last(rows.flatten(1))
        return said - said.mean(0)


def with_dropout(shape: Any, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, outputs))


def with_noise(shape: Any, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), Noise(), nn.Linear(64, outputs))


class Noise(nn.Module):
    """Draws at random without being a dropout layer."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows + torch.randn_like(rows)


def with_norm(shape: Any, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, outputs))


def mixing(shape: Any, outputs: int) -> nn.Module:
    return Mixes()


def tied(shape: Any, outputs: int) -> nn.Module:
    first = nn.Linear(64, 64)
    return nn.Sequential(nn.Flatten(), first, first, nn.Linear(64, outputs))


def frozen(shape: Any, outputs: int) -> nn.Module:
    made = nn.Sequential(nn.Flatten(), nn.Linear(64, outputs))
    made[1].bias.requires_grad_(False)
    return made


def attentive(shape: Any, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, outputs))


def broken(shape: Any, outputs: int) -> nn.Module:
    raise RuntimeError("cannot be built")


@pytest.mark.parametrize("own", [with_dropout, with_noise, with_norm, mixing, tied, frozen, broken])
def test_what_cannot_be_stacked_is_found_out(own):
    assert not stackable(f"{__name__}:{own.__name__}", SHAPE, 4)


@pytest.mark.parametrize("name", ["linear", "mlp", "cnn", f"{__name__}:attentive"])
@pytest.mark.parametrize("outputs", [1, 4])
def test_what_can_be_stacked_is_found_out_too(name, outputs):
    assert stackable(name, SHAPE, outputs)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_networks_with_batch_normalisation_train_alone(name):
    assert not stackable(name, (3, 8, 8), 4)


def test_auto_is_a_table_by_device_and_architecture_and_a_number_is_a_number():
    def size(wanted: int | str, architecture: str, device: str = "cpu", side: int = 8) -> int:
        told = dataclasses.replace(RECIPE, architecture=architecture, device=device)
        return cohort_size(wanted, told, (1, side, side), 4)

    assert [size("auto", name) for name in ("linear", "mlp", "cnn", "resnet18")] == [16, 16, 16, 1]
    assert [size("auto", name, side=28) for name in ("linear", "mlp", "cnn")] == [16, 16, 1]
    assert [size("auto", name, "cuda") for name in ("linear", "cnn", "resnet18")] == [64, 64, 1]
    assert [size(5, "cnn"), size(1, "resnet18")] == [5, 1]
    with pytest.raises(FlSimError, match="cohort = 5: architecture 'resnet18' cannot be trained in a stack"):
        size(5, "resnet18")


# ------------------------------------------------------------------------------------------------ who trains with whom

DATA = {"name": "digits", "train": 240, "calibration": 200, "test": 120}
BEHAVIOURS = [{"kind": "free-rider", "share": 0.25}, {"kind": "label-shuffle", "share": 0.25}]


def world(cohort: int | str = 4, learn: Any = "own", **changes: Any) -> Scenario:
    how = {"learning_rate": 0.01, "epochs": 2, "cohort": cohort}
    told = {
        "data": DATA,
        "clients": {
            "count": 12, "partition": "dirichlet", "concentration": 0.5,
            "tier": [{"name": "weak", "share": 0.5, "architecture": "linear", **how},
                     {"name": "strong", "architecture": "mlp", **how}],
            **changes.pop("clients", {}),
        },
        "learn": learn,
        "calibrate": {"name": "fedwq-cp", "alpha": 0.1, "score": "lac"},
        "runtime": {"name": "inline", "device": "cpu"},
    }  # fmt: skip
    return Scenario.model_validate(told | changes)


def people(store: Store, **how: Any) -> Population:
    told = world(**how)
    return populate(told, prepare(told.data, told.seed, store), store)


def groups(population: Population) -> list[tuple[int, ...]]:
    """The cohorts, each client in one."""
    found = {population.cohort(k) for k in range(len(population))}
    assert sorted(k for group in found for k in group) == list(range(len(population)))
    assert all(k in population.cohort(k) for k in range(len(population)))
    return sorted(found)


def test_clients_of_a_tier_with_about_as_many_rows_train_together(store):
    population = people(store)
    sizes = [len(population.client(k).train) for k in range(12)]
    for tier in ("weak", "strong"):
        mine = sorted((sizes[k], k) for k in range(12) if population.tier(k).name == tier)
        together = [tuple(sorted(k for _, k in mine[i : i + 4])) for i in (0, 4)]
        assert [group for group in groups(population) if population.tier(group[0]).name == tier] == sorted(together)


def test_membership_follows_from_the_scenario_alone(store, tmp_path):
    here = groups(people(store))
    assert groups(people(Store(tmp_path / "another"))) == here
    assert groups(people(store, learn="shared")) != here  # with the same rows for all it goes by the clients' numbers
    tiers = people(store, learn="shared").tiers
    weak = np.flatnonzero(tiers == 0).tolist()
    assert people(store, learn="shared").cohort(weak[0]) == tuple(weak[:4])
    assert [len(group) for group in groups(people(store, cohort=1))] == [1] * 12
    assert sorted(len(group) for group in groups(people(store, cohort="auto"))) == [6, 6]


def test_free_riders_are_alone(store):
    population = people(store, clients={"behaviour": BEHAVIOURS})
    for k in range(12):
        behaviour = population.behaviour(k)
        if behaviour is not None and behaviour.kind == "free-rider":
            assert population.cohort(k) == (k,)
    sizes = sorted(len(group) for group in groups(population))
    assert sizes[:3] == [1, 1, 1]
    assert sizes[-1] > 1


def test_a_number_for_what_cannot_be_stacked_names_the_tier(store):
    tier = {"name": "only", "architecture": "resnet18", "epochs": 1, "cohort": 2}
    population = people(store, clients={"tier": [tier]})
    with pytest.raises(FlSimError, match=r"^clients.tier.only.cohort = 2: architecture 'resnet18' cannot"):
        population.cohort(0)


@pytest.mark.parametrize("wrong", [0, 1025, "many", -1, 1.5])
def test_a_cohort_of_no_size_is_refused(wrong):
    with pytest.raises(ScenarioError, match=r"cohort"):
        Scenario.load("digits", f"clients.tier.weak.cohort={json.dumps(wrong)}")


def test_who_trains_with_whom_is_in_the_key(store):
    data = people(store).data
    rows, told = [np.arange(5), np.arange(5, 12), np.arange(12, 14)], recipes(count=3)
    none: list[Any] = [None] * 3

    def key(which: Sequence[int], targets: Sequence[Any] = none, **how: Any) -> str:
        given = [dataclasses.replace(told[k], **how) for k in which]
        return cohort_on_rows(data, given, [rows[k] for k in which], [targets[k] for k in which]).key

    shuffled = [None, np.zeros(7, np.int64), None]
    keys = {key([0, 1]), key([0, 1, 2]), key([1, 0]), key([0, 2]), key([0, 1], shuffled), key([0, 1], epochs=9)}
    transfer = TransferSet("t", images(5).astype(np.uint8), np.arange(5))
    keys |= {cohort_on_transfer(data, told[:n], transfer, none[:n]).key for n in (2, 3)}
    keys.add(cohort_on_transfer(data, told[:2], transfer, [None, np.zeros(5, np.int64)]).key)
    assert len(keys) == 9
    assert key([0, 1]) == key([0, 1])


def test_the_first_of_each_cohort_goes_first():
    class Kept(Own):
        """Shows whose turn it is."""

    def rounds(numbers: Sequence[int]) -> list[list[int]]:
        told = Kept(Federation("p", tiers=("a",) * 5, cohorts=lambda: numbers))
        return [told.turn(one + 1, 5) for one in range(told.num_rounds)]

    assert rounds([0, 1, 0, 2, 1]) == [[0, 1, 3], [2, 4]]
    assert rounds([4, 3, 2, 1, 0]) == [[0, 1, 2, 3, 4]]
    assert rounds([]) == [[0, 1, 2, 3, 4]]


def test_soft_labels_and_a_shuffled_members_own_labels_go_together(store):
    """A member that goes by labels of its own learns them as probabilities of 1: alone it would learn the labels."""
    data = people(store).data
    rng, told = stream(0, "soft"), recipes(dataclasses.replace(RECIPE, contrast="image"), 2)
    soft = rng.dirichlet(np.ones(10), 30).astype(np.float32)
    transfer = TransferSet("t", rng.integers(0, 256, (30, 1, 8, 8)).astype(np.uint8), rng.integers(0, 10, 30), soft)
    other = (transfer.labels + 1) % 10
    made = cohort_on_transfer(data, told, transfer, [None, other])
    store.ensure("model", made.key, made.make)
    for k, targets in enumerate((soft, other)):
        model, recipe = load_model(store, made.key, data, k)
        assert recipe == dataclasses.replace(told[k], cohort=2)
        alone = training.fit(training.initial(told[k], SHAPE, 10), transfer.images, targets, told[k])
        mine, wanted = flat(model.state_dict()), flat(alone.state_dict())
        assert (mine - wanted).norm() <= TOLERANCE * wanted.norm()
    with pytest.raises(ValueError, match="member -1 of"):
        load_model(store, made.key, data)


# --------------------------------------------------------------------------------------------------------- whole runs

PLADA = {"name": "plada", "teacher": {"architecture": "linear", "epochs": 5}, "keep_fraction": 0.2,
         "rule": "lowest", "per_client": True}  # fmt: skip
LEARN: dict[str, dict[str, Any]] = {
    "own": {"learn": {"name": "own"}},
    "shared": {"learn": {"name": "shared", "per_client": True}},
    "plada": {"learn": PLADA, "reference": {"sets": ["glyphs-pool"]}, "data": {**DATA, "train": 0, "server": 300}},
}


def stored(store: Store, kind: str = "model") -> dict[str, dict[str, Any]]:
    """Key -> meta of the clients' models."""
    metas = {path.name: json.loads((path / "meta.json").read_text()) for path in (store.root / kind).iterdir()}
    return {key: meta for key, meta in metas.items() if meta["recipe"]["purpose"] != "teacher"}


def same(first: Result, second: Result) -> bool:
    without = [[{name: value for name, value in row.items() if name != "seconds"} for row in one.clients]
               for one in (first, second)]  # fmt: skip
    return repr(without[0]) == repr(without[1])


@pytest.fixture
def _small_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few hundred letters in the place of all glyphs."""

    def pool(image_size: int, fonts: tuple[str, ...] = POOL_FONTS) -> glyphs.GlyphPool:
        drawn, _ = glyphs.render(300, image_size, 7)
        return glyphs.GlyphPool(drawn, fonts, np.arange(300) % 5, np.arange(300) // 5)

    monkeypatch.setattr(glyphs, "pool", pool)


@pytest.mark.usefixtures("_small_pool")
@pytest.mark.parametrize("name", ["own", "shared", "plada"])
def test_a_run_in_cohorts_finds_what_a_run_one_by_one_does(tmp_path, name):
    alone, store = tmp_path / "alone", Store(tmp_path / "together")
    by_one = simulate(world(1, **LEARN[name]), store=alone)
    together = simulate(world(4, **LEARN[name]), store=store.root)
    assert len(stored(Store(alone))) == 12
    assert sorted(len(meta["members"]) for meta in stored(store).values()) == [2, 2, 4, 4]
    assert together.learn["accuracy"] == pytest.approx(by_one.learn["accuracy"], abs=0.01)
    for mine, other in zip(together.clients, by_one.clients, strict=True):
        assert mine["threshold"] == pytest.approx(other["threshold"], abs=1e-3)
    before = set(stored(store))
    assert same(simulate(world(4, **LEARN[name]), store=store.root), together)
    assert set(stored(store)) == before  # nothing was trained again
    assert same(simulate(world(4, **LEARN[name]), store=tmp_path / "anew"), together)


def test_a_cohort_whose_first_client_fails_is_trained_by_the_next(tmp_path):
    """And comes out the same: the models of those who behave are those of a run in which nobody failed."""
    raises = {"behaviour": [{"kind": "raise", "share": 0.25}]}
    quiet = simulate(world(4), store=tmp_path / "quiet")
    runtime = {"name": "inline", "device": "cpu", "on_failure": "skip"}
    failed = simulate(world(4, clients=raises, runtime=runtime), store=tmp_path / "failed")
    missing = {each["client"] for each in failed.summary["clients"]["missing"]}
    population = people(Store(tmp_path / "failed"), clients=raises)
    firsts = {min(group) for group in groups(population)}
    assert len(missing) == 3
    assert missing & firsts  # one who was to train for others
    assert set(stored(Store(tmp_path / "failed"))) <= set(stored(Store(tmp_path / "quiet")))
    accuracy = {row["client"]: row["accuracy"] for row in quiet.clients}
    assert all(row["accuracy"] == accuracy[row["client"]] for row in failed.clients if row["client"] not in missing)


def test_those_who_misbehave_learn_what_they_would_learn_alone(tmp_path):
    told: dict[str, Any] = {"clients": {"behaviour": [*BEHAVIOURS, {"kind": "constant", "share": 0.2}]}}
    alone, together = (simulate(world(size, **told), store=tmp_path / str(size)) for size in (1, 4))
    for mine, other in zip(together.clients, alone.clients, strict=True):
        assert mine["accuracy"] == pytest.approx(other["accuracy"], abs=0.02, nan_ok=True)


def test_what_can_be_stacked_does_not_depend_on_what_came_before(monkeypatch):
    """torch tells of an operation that it maps by a loop once a process, and the trial must hear of it each time."""
    monkeypatch.setattr(stacked_training, "stackable", stacked_training.stackable.__wrapped__)
    for _ in range(2):
        assert not stacked_training.stackable(f"{__name__}:looped", (4,), 3)
        assert stacked_training.stackable("mlp", (4,), 3)
    assert not torch.is_warn_always_enabled()


def looped(shape: tuple[int, ...], outputs: int) -> nn.Module:
    class Looped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(shape[0], outputs)

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return self.last(torch.renorm(rows, 2, 0, 1e9))  # an operation without a batching rule

    return Looped()


def test_a_cohort_has_the_time_of_all_its_members(store):
    """One message trains four models; a client's time for each."""
    told = {"runtime": {"name": "inline", "on_failure": "skip", "timeout": 1.0}}
    slow = stacked_training._fit

    def dawdle(stack: Stack, *rest: Any) -> Any:
        time.sleep(0.5 * len(stack))
        return slow(stack, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stacked_training, "_fit", dawdle)
        found = simulate(world(4, **told), store=store.root)
    assert found.summary["clients"]["failed"] == 0
