"""Trained models in the artifact store: each is made once, and found by all that decides it.

Light to import: torch is loaded where a model is made or asked, and not where the store has what it says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fl_sim.data.reference import Reference
from fl_sim.data.source import versions
from fl_sim.models.architectures import GIVEN
from fl_sim.models.model_key import STACKED, key_parts
from fl_sim.models.recipe import Recipe, outputs_of
from fl_sim.plada.backbone import Backbone, fit_backbone
from fl_sim.plada.probe import Probe
from fl_sim.population.prepared_data import Prepared
from fl_sim.store.artifacts import Artifact, Store, digest, digest_of_array
from fl_sim.telemetry import spent

if TYPE_CHECKING:
    from torch import nn

    from fl_sim.models.stacked_training import Stack

IN_MEMORY = 1 << 29  # bytes of images that are gathered without a file
CHUNK = 4096  # images copied at once
SAMPLE = 5000  # reference images that a backbone is learnt from
BACKBONE = 1  # raise it when a change in fl_sim/plada/backbone.py changes one


@dataclass(frozen=True, eq=False)
class TransferSet:
    """What was handed out, as images to train on: the transfer set of Hinton, Vinyals, Dean, 2015
    (https://arxiv.org/abs/1503.02531), the same for all who were handed the same."""

    key: str  # a digest of all of it
    images: NDArray[np.uint8]  # (k, channels, height, width)
    labels: NDArray[np.int64]  # (k,)
    soft: NDArray[np.float32] | None = None  # (k, C) probabilities, to be learnt in place of the labels
    levels: NDArray[np.uint8] | None = None  # (k,) a curriculum: when each is first shown


def untrained(recipe: Recipe, data: Prepared) -> nn.Module:
    """The model of that recipe for these data, before it has learnt."""
    from fl_sim.models.training import initial

    return initial(recipe, data.shape, outputs_of(recipe, data.num_classes))


def trained(
    store: Store, data: Prepared, recipe: Recipe, rows: NDArray[np.int64], targets: NDArray[Any] | None = None
) -> str:
    """The key of the model that `recipe` gives on rows of the data, trained now unless the store has it; `targets`
    where they are not the true ones."""
    more = {} if targets is None else {"targets": digest_of_array(targets)}
    key = digest(recipe=key_parts(recipe), data=data.key, rows=digest_of_array(rows), **more)

    def make() -> Artifact:
        if recipe.architecture == GIVEN:
            return Artifact(meta={"recipe": recipe.__dict__})
        from fl_sim.models.training import fit

        labels = data.learnable(rows) if targets is None else data.scaled(targets)
        return kept(fit(untrained(recipe, data), data.inputs_for(rows, recipe.contrast), labels, recipe), recipe)

    store.ensure("model", key, make)
    return key


def distilled(
    store: Store, data: Prepared, recipe: Recipe, transfer: TransferSet, labels: NDArray[np.int64] | None = None
) -> str:
    """The key of the model that `recipe` gives on a transfer set, trained now unless the store has it.

    Of `data` it needs the shape and the classes alone; `labels` where they are not the set's own.
    """
    more = {} if labels is None else {"labels": digest_of_array(labels)}
    key = digest(recipe=key_parts(recipe), transfer=transfer.key, classes=data.num_classes, **more)
    store.ensure("model", key, lambda: kept(_student(data, recipe, transfer, labels), recipe))
    return key


def student(data: Prepared, recipe: Recipe, transfer: TransferSet) -> nn.Module:
    """The model that `recipe` gives on a transfer set, not kept."""
    return _student(data, recipe, transfer, None)


def _student(data: Prepared, recipe: Recipe, transfer: TransferSet, labels: NDArray[np.int64] | None) -> nn.Module:
    from fl_sim.models.training import fit

    targets: NDArray[Any] = transfer.labels if transfer.soft is None else transfer.soft
    taught = np.array(targets if labels is None else labels)
    return fit(untrained(recipe, data), transfer.images, taught, recipe, levels=transfer.levels)


@dataclass(frozen=True, eq=False)
class Cohort:
    """Models of several clients that are trained together, as the store keeps them: who they are is part of the key."""

    key: str
    make: Callable[[], Artifact]


def cohort_on_rows(
    data: Prepared, recipes: Sequence[Recipe], rows: Sequence[NDArray[np.int64]],
    targets: Sequence[NDArray[Any] | None],
) -> Cohort:  # fmt: skip
    """What `trained` is for one model, for S: of each its recipe, which differ in their purpose alone, its rows of the
    data (the same object for all if they learn from the same) and its targets where they are not the true ones."""
    shared = all(each is rows[0] for each in rows)
    digests = [digest_of_array(rows[0])] * len(rows) if shared else [digest_of_array(each) for each in rows]
    key = _cohort_key(recipes, targets, data=data.key, rows=digests[:1] if shared else digests)

    def make() -> Artifact:
        true = [data.learnable(rows[0])] * len(rows) if shared else [data.learnable(each) for each in rows]
        taught = [mine if other is None else data.scaled(other) for mine, other in zip(true, targets, strict=True)]
        inputs = data.inputs_for(rows[0] if shared else np.concatenate(rows), recipes[0].contrast)
        return _stack(data, recipes, inputs, taught, shared=shared)

    return Cohort(key, make)


def cohort_on_transfer(
    data: Prepared, recipes: Sequence[Recipe], transfer: TransferSet, labels: Sequence[NDArray[np.int64] | None]
) -> Cohort:
    """What `distilled` is for one model, for S; `labels` (k,) of each where they are not the set's own."""
    key = _cohort_key(recipes, labels, transfer=transfer.key, classes=data.num_classes)

    def make() -> Artifact:
        own = np.array(transfer.labels if transfer.soft is None else transfer.soft)
        taught = [own if each is None else each if transfer.soft is None else _certain(each, own) for each in labels]
        return _stack(data, recipes, transfer.images, taught, shared=True, levels=transfer.levels)

    return Cohort(key, make)


def _certain(labels: NDArray[np.int64], soft: NDArray[Any]) -> NDArray[Any]:
    """Labels as the probabilities that they are: what a stack has in the place of both is of one form."""
    certain = np.zeros_like(soft)
    certain[np.arange(len(labels)), labels] = 1
    return certain


def _cohort_key(recipes: Sequence[Recipe], targets: Sequence[NDArray[Any] | None], **what: Any) -> str:
    members = [
        [recipe.purpose, None if instead is None else digest_of_array(instead)]
        for recipe, instead in zip(recipes, targets, strict=True)
    ]
    parts = key_parts(replace(recipes[0], purpose="", cohort=len(recipes)))
    return digest(recipe=parts, cohorts=STACKED, members=members, **what)


def _stack(
    data: Prepared, recipes: Sequence[Recipe], inputs: NDArray[Any], targets: Sequence[NDArray[Any]], *, shared: bool,
    levels: NDArray[Any] | None = None,
) -> Artifact:  # fmt: skip
    from fl_sim.models.stacked_training import fit_together

    models = [untrained(recipe, data) for recipe in recipes]
    stack = fit_together(models, inputs, targets, recipes, shared=shared, levels=levels)
    recipe = replace(recipes[0], purpose="", cohort=len(recipes))
    return Artifact(meta={"recipe": recipe.__dict__, "members": [r.purpose for r in recipes]}, tensors=stack.weights)


def kept(model: nn.Module, recipe: Recipe) -> Artifact:
    """A model as the store keeps it."""
    return Artifact(meta={"recipe": recipe.__dict__}, tensors=dict(model.state_dict()))


def load_model(store: Store, key: str, data: Prepared, member: int = -1) -> tuple[nn.Module, Recipe]:
    """A stored model and the recipe it was made by; of a cohort's models that of a `member`, from 0.

    Raises:
        ValueError: a member is asked for of one model, or none of a cohort's.
    """
    artifact = store.open("model", key)
    recipe, tensors, members = artifact.meta["recipe"], artifact.tensors, artifact.meta.get("members")
    if (members is None) != (member < 0):
        raise ValueError(f"model {key}: member {member} of {'one model' if members is None else members}")
    if members is not None:
        recipe = {**recipe, "purpose": members[member]}
        tensors = {name: tensor[member] for name, tensor in tensors.items()}
    return _built(recipe, tensors, data)


def load_stack(store: Store, key: str, data: Prepared) -> tuple[Stack, Recipe]:
    """A stored cohort's models and what their recipes have in common."""
    from fl_sim.models.stacked_training import Stack

    artifact = store.open("model", key)
    recipe = _recipe(artifact.meta["recipe"])
    return Stack(untrained(recipe, data).to(recipe.device), dict(artifact.tensors)), recipe


def _built(values: Mapping[str, Any], tensors: Mapping[str, Any], data: Prepared) -> tuple[nn.Module, Recipe]:
    recipe = _recipe(values)
    model = untrained(recipe, data)
    model.load_state_dict(dict(tensors))
    return model, recipe


def _recipe(values: Mapping[str, Any]) -> Recipe:
    return Recipe(**{**values, "quantiles": tuple(values["quantiles"]) if values["quantiles"] else None})


def gathered(store: Store, reference: Reference, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Copies (k, c, h, w) of reference images: in memory where they are few, else in a file that goes when they do."""
    shape = (len(indices), *reference.shape)
    if math.prod(shape) <= IN_MEMORY:
        return reference.images(indices)
    with store.scratch() as place:
        images = np.lib.format.open_memmap(place / "images.npy", mode="w+", dtype=np.uint8, shape=shape)
    for start in range(0, len(indices), CHUNK):  # what is mapped outlives its folder
        images[start : start + CHUNK] = reference.images(indices[start : start + CHUNK])
    return images


def shared_backbone(store: Store, reference: Reference, centroids: int) -> str:
    """The key of the backbone that a reference set gives: learnt from images at even distances, unless it is there."""
    key_parts = {"reference": reference.digest.hex(), "centroids": centroids, "sample": SAMPLE, "backbone": BACKBONE}
    key = digest(**key_parts, torch=versions("torch"))

    def make() -> Artifact:
        where = np.unique(np.linspace(0, len(reference) - 1, min(SAMPLE, len(reference))).astype(np.int64))
        with spent("train"):
            fitted = fit_backbone(reference.images(where), num_centroids=centroids, seed=0)
        arrays = {name: part for name, part in fitted.__dict__.items() if isinstance(part, np.ndarray)}
        return Artifact(arrays, {"patch": fitted.patch, "stride": fitted.stride})

    store.ensure("model", key, make)
    return key


def open_backbone(store: Store, key: str) -> Backbone:
    """A backbone that is in the store."""
    artifact = store.open("model", key)
    parts: dict[str, Any] = {name: np.array(part) for name, part in artifact.arrays.items()}
    return Backbone(**parts, **artifact.meta)


def kept_outputs(store: Store, key: str, data: Prepared, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """`outputs_on`, computed once and memory-mapped."""
    name = digest(model=key, data=data.key, rows=digest_of_array(rows))
    made = store.get("outputs", name, lambda: Artifact({"outputs": outputs_on(store, key, data, rows)}, {"model": key}))
    return made.arrays["outputs"]


def kept_outputs_of_all(
    store: Store, key: str, data: Prepared, rows: Sequence[NDArray[np.int64]]
) -> list[NDArray[np.float32]]:
    """What each model of a stored cohort says of its own rows, (n_s, outputs), computed once for the whole cohort and
    memory-mapped; the rows of all members may be the same object."""
    shared = all(each is rows[0] for each in rows)
    name = digest(model=key, data=data.key, rows=[digest_of_array(each) for each in (rows[:1] if shared else rows)])

    def make() -> Artifact:
        from fl_sim.models.stacked_training import predict_together

        stack, recipe = load_stack(store, key, data)
        inputs = data.inputs_for(rows[0] if shared else np.concatenate(rows), recipe.contrast)
        sizes = None if shared else [len(each) for each in rows]
        return Artifact({"outputs": np.concatenate(predict_together(stack, inputs, recipe, sizes))}, {"model": key})

    outputs = store.get("outputs", name, make).arrays["outputs"]
    return np.split(outputs, np.cumsum([len(each) for each in rows])[:-1])


def outputs_on(store: Store, key: str, data: Prepared, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """What a stored model says of rows of the data, (n, outputs): a network, a probe on a shared backbone, or
    the data themselves."""
    artifact = store.open("model", key)
    if artifact.meta.get("recipe", {}).get("architecture") == GIVEN:
        return np.asarray(data.inputs[rows], np.float32)
    if "backbone" in artifact.meta:
        probe = Probe(np.array(artifact.arrays["weights"]), np.array(artifact.arrays["bias"]))
        backbone = open_backbone(store, artifact.meta["backbone"])
        return probe.logits(backbone.features(np.ascontiguousarray(data.inputs[rows])))
    from fl_sim.models.training import predict

    module, recipe = load_model(store, key, data)
    return predict(module, data.inputs_for(rows, recipe.contrast), recipe)
