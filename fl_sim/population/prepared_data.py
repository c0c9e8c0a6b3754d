"""Data made ready once, before the first message: drawn, resized, laid out in memory-mapped arrays of the store."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_sim.data import user_tables
from fl_sim.data.datasets import Dataset, describe, load
from fl_sim.data.images import resized
from fl_sim.errors import ScenarioError
from fl_sim.names import OWN
from fl_sim.randomness import stream
from fl_sim.scenario.tables import Data
from fl_sim.store.artifacts import Artifact, Store, digest, digest_of_array

VERSION = 1  # raise it when a change here changes which rows are drawn or how they are stored
SPLITS = ("train", "server", "calibration", "test")  # the order in which they lie in the arrays


@dataclass(frozen=True)
class Prepared:
    """A scenario's data. Images are uint8 (n, channels, height, width), features float32 (n, d)."""

    key: str
    inputs: NDArray[Any]
    targets: NDArray[Any]  # int64 labels, or float32 in the data's own unit
    classes: tuple[str, ...] | None  # None for regression
    starts: dict[str, tuple[int, int]]  # split -> (first row, row after the last)
    mean: NDArray[np.float32]  # of the training rows, or the server's if there are none: (c, 1, 1) or (d,)
    std: NDArray[np.float32]
    target_mean: float  # 0 and 1 for classification
    target_std: float
    clients: NDArray[np.int64] | None = None  # (n,) place of each row's client in `client_names`, where it has one
    client_names: tuple[str, ...] = ()
    client_tiers: tuple[str, ...] = ()  # (K,) of each client, where they have tiers of their own
    keeps_splits: bool = False  # the clients' own test rows are theirs, and not drawn

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one row."""
        return tuple(self.inputs.shape[1:])

    @property
    def num_classes(self) -> int | None:
        """None for regression."""
        return None if self.classes is None else len(self.classes)

    def rows(self, split: str) -> NDArray[np.int64]:
        """All rows of a split, in order."""
        return np.arange(*self.starts[split], dtype=np.int64)

    @cached_property
    def evaluated(self) -> tuple[int, int]:
        """Calibration and test rows lie together: (first, after the last)."""
        return self.starts["calibration"][0], self.starts["test"][1]

    def standardised(self, rows: NDArray[np.int64] | slice) -> NDArray[np.float32]:
        """Inputs as models take them: float32, (x - mean) / std."""
        x = self.inputs[rows].astype(np.float32)
        return np.ascontiguousarray((x - self.mean) / self.std)

    def inputs_for(self, rows: NDArray[np.int64], contrast: str) -> NDArray[Any]:
        """Inputs as a recipe's `contrast` has them: standardised, or images as they are, for each has its own."""
        return self.standardised(rows) if contrast == "set" else np.ascontiguousarray(self.inputs[rows])

    def learnable(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """True targets as models are fitted to them."""
        return self.scaled(np.array(self.targets[rows]))

    def scaled(self, targets: NDArray[Any]) -> NDArray[Any]:
        """Targets as models are fitted to them: labels, or standardised float32."""
        if self.classes is not None:
            return targets
        return ((targets - self.target_mean) / self.target_std).astype(np.float32)

    def in_unit(self, outputs: NDArray[np.float32]) -> NDArray[np.float64]:
        """A regressor's outputs back in the data's own unit."""
        return outputs.astype(np.float64) * self.target_std + self.target_mean


def prepare(data: Data, seed: int, store: Store) -> Prepared:
    """The scenario's data, from the store or made now.

    A user's own function is called at every run: what it returns is part of the key, because what it reads may change
    where its text does not.

    Raises:
        DataNotAtHandError: with the commands that get it.
        ScenarioError: more rows than there are, or neither training nor server rows.
    """
    key_parts = data.model_dump(mode="json")
    if data.calibration_from == "train":
        key_parts.pop("calibration_from")  # as before there was a choice: what lies in a store keeps its key
    if not data.name.startswith("table:"):
        for key in ("target", "client", "drop", "task"):
            key_parts.pop(key)  # in the same way
    parts = {
        **key_parts,
        "seed": seed,
        "version": VERSION,
        "source": describe(data.name).fingerprint(),
    }
    own = _loaded(data, seed) if OWN.match(data.name) else None
    if own is not None:
        parts["content"] = [
            digest_of_array(own.inputs),
            digest_of_array(own.targets),
            own.classes,
            own.num_official_test,
        ]
        if own.clients is not None:
            parts["content"] += [digest_of_array(own.clients), own.client_names, dict(own.client_tiers)]
        if own.as_they_are:
            parts["content"].append("as they are")
    key = digest(**parts)
    store.get("data", key, lambda: _make(_loaded(data, seed) if own is None else own, data, seed))
    return open_prepared(store, key)


def _loaded(data: Data, seed: int) -> Dataset:
    kind, _, place = data.name.partition(":")
    if kind == user_tables.KIND:
        assert data.target is not None, "the scenario has seen to it"
        return user_tables.read(Path(place).expanduser(), data.target, data.client, data.drop or (), data.task)
    return load(data.name, count=data.rows, image_size=data.image_size, seed=seed)


def open_prepared(store: Store, key: str) -> Prepared:
    """Data that is in the store."""
    artifact = store.open("data", key)
    meta, arrays = artifact.meta, artifact.arrays
    return Prepared(
        key=key, inputs=arrays["inputs"], targets=arrays["targets"], mean=arrays["mean"], std=arrays["std"],
        classes=None if meta["classes"] is None else tuple(meta["classes"]),
        starts={split: (first, last) for split, (first, last) in meta["starts"].items()},
        target_mean=meta["target_mean"], target_std=meta["target_std"], clients=arrays.get("clients"),
        client_names=tuple(meta.get("client_names", ())), client_tiers=tuple(meta.get("client_tiers", ())),
        keeps_splits=meta.get("keeps_splits", False),
    )  # fmt: skip


def _make(dataset: Dataset, data: Data, seed: int) -> Artifact:
    try:
        data.check_rows(len(dataset.targets), dataset.num_official_test)
    except ValueError as error:
        raise ScenarioError(f"data: {error}") from None
    chosen = _draw(dataset, data, seed)
    inputs, targets = dataset.inputs[chosen], dataset.targets[chosen]
    if inputs.ndim == 4 and data.image_size is not None:
        inputs = resized(inputs, data.image_size)
    if dataset.as_they_are:
        return _as_they_are(dataset, data, inputs, targets, chosen)
    known = data.train or data.server  # rows by which all are standardised; the server's lie first without training
    if known == 0:
        raise ScenarioError(
            "data.train = 0 and data.server = 0: rows are needed to standardise by; set one of them above 0"
        )
    mean, std = moments(inputs[:known])
    regression = dataset.classes is None
    train = targets[:known].astype(np.float64)
    meta = _meta(dataset, data) | {
        "target_mean": float(train.mean()) if regression else 0.0,
        "target_std": float(train.std()) or 1.0 if regression else 1.0,
    }
    return _with_clients(dataset, chosen, {"inputs": inputs, "targets": targets, "mean": mean, "std": std}, meta)


def _as_they_are(
    dataset: Dataset, data: Data, inputs: NDArray[Any], targets: NDArray[Any], chosen: NDArray[np.int64]
) -> Artifact:
    """Inputs and targets by which nothing is standardised."""
    width = inputs.shape[1:] if inputs.ndim == 2 else (inputs.shape[1], 1, 1)
    mean, std = np.zeros(width, np.float32), np.ones(width, np.float32)
    meta = _meta(dataset, data) | {"target_mean": 0.0, "target_std": 1.0}
    return _with_clients(dataset, chosen, {"inputs": inputs, "targets": targets, "mean": mean, "std": std}, meta)


def _meta(dataset: Dataset, data: Data) -> dict[str, Any]:
    ends = np.cumsum([getattr(data, split) for split in SPLITS])
    return {
        "classes": None if dataset.classes is None else list(dataset.classes),
        "starts": {s: [int(e) - getattr(data, s), int(e)] for s, e in zip(SPLITS, ends, strict=True)},
    }


def _with_clients(
    dataset: Dataset, chosen: NDArray[np.int64], arrays: dict[str, NDArray[Any]], meta: dict[str, Any]
) -> Artifact:
    if dataset.clients is None:
        return Artifact(arrays, meta)
    meta |= {"client_names": list(dataset.client_names), "keeps_splits": dataset.num_official_test > 0}
    if dataset.client_tiers:
        meta["client_tiers"] = [dataset.client_tiers[name] for name in dataset.client_names]
    return Artifact(arrays | {"clients": dataset.clients[chosen]}, meta)


def _draw(dataset: Dataset, data: Data, seed: int) -> NDArray[np.int64]:
    """Which rows, laid out as SPLITS says; the test rows are the publisher's own where there are such, and so are the
    calibration rows where `calibration_from` is "test"."""
    total, official = len(dataset.targets), dataset.num_official_test
    if dataset.clients is not None and official and data.rows == total:
        return np.arange(total)  # all, and in their order: nothing is left to chance
    inside = data.test + (data.calibration if data.calibration_from == "test" else 0)
    # Of a table wherever it lies: in another folder it is dealt out in the same way.
    rng = stream(seed, "data", user_tables.KIND if data.target is not None else data.name)
    if dataset.clients is not None and not official:
        return _within_clients(dataset.clients, rng)[: data.rows]
    if official == 0:
        return rng.permutation(total)[: data.rows]
    outside = rng.permutation(total - official)[: data.rows - inside]
    return np.concatenate([outside, total - official + rng.permutation(official)[:inside]])


def _within_clients(clients: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """All rows in an order of which every part has of each client about its share: a client's rows, in random order,
    are spread evenly over it, from a random beginning."""
    order = rng.permutation(len(clients))
    order = order[np.argsort(clients[order], kind="stable")]
    sizes = np.bincount(clients)
    rank = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    place = (rank + np.repeat(rng.random(len(sizes)), sizes)) / np.repeat(sizes, sizes)
    return order[np.argsort(place, kind="stable")]


def moments(inputs: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation, float32, of images (n, c, h, w) per channel, (c, 1, 1), or of features (n, d) per
    feature, (d,); n >= 1. A deviation of 0 is given as 1, so that dividing by it does no harm."""
    axes = (0, 2, 3) if inputs.ndim == 4 else (0,)
    mean = inputs.mean(axes, dtype=np.float64, keepdims=True)[0]
    std = inputs.std(axes, dtype=np.float64, keepdims=True)[0]
    return mean.astype(np.float32), np.where(std > 0, std, 1.0).astype(np.float32)
