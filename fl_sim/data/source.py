"""What a dataset is, and what is known of one before it is loaded."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np

from fl_sim.errors import FlSimError

Task = Literal["classification", "regression", "unlabelled"]


@dataclass(frozen=True)
class Dataset:
    """Inputs and targets, row by row.

    `inputs`: uint8 images (n, channels, height, width) or float32 features (n, d). `targets`: int64 labels
    (n,) that index `classes`, or float32 (n,) where `classes` is None (regression). The last
    `num_official_test` rows are the publisher's test set; 0 if there is none. Anything else is refused with
    FlSimError when the dataset is built.
    """

    inputs: np.ndarray
    targets: np.ndarray
    classes: tuple[str, ...] | None
    num_official_test: int = 0

    def __post_init__(self) -> None:
        _check_inputs(self.inputs)
        _check_targets(self.targets, self.classes)
        if len(self.inputs) != len(self.targets):
            raise FlSimError(f"dataset: {len(self.inputs)} inputs but {len(self.targets)} targets; one each is needed")
        if not 0 <= self.num_official_test <= len(self.targets):
            raise FlSimError(f"dataset: num_official_test = {self.num_official_test} of {len(self.targets)} rows")

    @property
    def task(self) -> Task:
        """`"classification"` or `"regression"`."""
        return "regression" if self.classes is None else "classification"


@dataclass(frozen=True)
class Source:
    """A dataset by name, before it is loaded; asking costs no more than a look at the disk.

    `task` is None where only loading tells (`module:object`). `origin` is "embedded", "generated",
    "download", "optional package" or "yours". `capacity` counts rows, None = as many as asked for, or not
    known before it is loaded; the last `num_official_test` of them are the publisher's test set. `to_get`
    holds the commands that bring it here. `read(count, image_size, seed)` gives the Dataset, `fetch`
    downloads it; use `datasets.load` and `datasets.get`. `marks` are words that change when the content
    behind the name may have (versions, file times); published data needs none.
    """

    name: str
    task: Task | None
    about: str
    origin: Literal["embedded", "generated", "download", "optional package", "yours"]
    read: Callable[[int, int | None, int], Dataset]
    capacity: int | None = None
    num_official_test: int = 0
    num_classes: int | None = None  # None: regression, or not known before it is loaded
    at_hand: Callable[[], bool] = lambda: True
    to_get: tuple[str, ...] = ()
    fetch: Callable[[], None] | None = None
    marks: Callable[[], tuple[str, ...]] = tuple

    def fingerprint(self) -> str:
        """Hex digest of the name and all that decides its content beside count, image_size and seed."""
        return hashlib.sha256(repr((self.name, self.marks())).encode()).hexdigest()


@cache  # asked once a client, and read from disk
def versions(*packages: str) -> tuple[str, ...]:
    """`name version` of installed packages, without importing them."""
    return tuple(f"{package} {version(package)}" for package in packages)


def data_root() -> Path:
    """Where downloaded data lives: the environment's FL_SIM_DATA, else the user's data folder."""
    chosen = os.environ.get("FL_SIM_DATA")
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs

    return Path(platformdirs.user_data_dir("fl-sim"))


def _check_inputs(inputs: np.ndarray) -> None:
    images = inputs.dtype == np.uint8 and inputs.ndim == 4
    features = inputs.dtype == np.float32 and inputs.ndim == 2
    if not images and not features:
        raise FlSimError(
            f"dataset: inputs are {inputs.dtype} of shape {inputs.shape}; they must be uint8 images "
            "(n, channels, height, width) or float32 features (n, d)"
        )


def _check_targets(targets: np.ndarray, classes: tuple[str, ...] | None) -> None:
    expected = np.float32 if classes is None else np.int64
    if targets.dtype != expected or targets.ndim != 1:
        when = "when classes is None" if classes is None else "when classes are named"
        raise FlSimError(
            f"dataset: targets are {targets.dtype} of shape {targets.shape}; they must be "
            f"{np.dtype(expected)} of shape (n,) {when}"
        )
    if classes is not None and targets.size and not 0 <= targets.min() <= targets.max() < len(classes):
        raise FlSimError(
            f"dataset: labels run from {targets.min()} to {targets.max()}; with {len(classes)} classes "
            f"they must be in 0..{len(classes) - 1}"
        )
