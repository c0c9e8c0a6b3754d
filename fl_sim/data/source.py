"""What a dataset is, and what is known of one before it is loaded."""

from __future__ import annotations

import hashlib
import os
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fl_sim.errors import DataNotAtHandError, FlSimError
from fl_sim.store.folders import at_home

BLOCK = 1 << 24  # numbers that are looked at at a time
Task = Literal["classification", "regression", "unlabelled"]
Images = NDArray[np.uint8]  # (n, channels, height, width)


@dataclass(frozen=True)
class Dataset:
    """Inputs and targets, row by row.

    `inputs`: uint8 images (n, channels, height, width) or float32 features (n, d). `targets`: int64 labels
    (n,) that index `classes`, or float32 (n,) where `classes` is None (regression). The last
    `num_official_test` rows are the publisher's test set; 0 if there is none. Features and targets of other numeric
    types, lists, and frames and series of pandas are taken and converted. Anything else is refused with FlSimError
    when the dataset is built: what is no number, NaN and infinities, class names that are no text or not distinct.

    `clients` (n,): whose each row is, names as texts or whole numbers, for `clients.partition = "natural"`; it becomes
    places (n,) in `client_names`. `client_tiers`: client -> its tier, where clients have such of their own. Inputs that
    are `as_they_are` are never standardised.
    """

    inputs: np.ndarray
    targets: np.ndarray
    classes: tuple[str, ...] | None
    num_official_test: int = 0
    clients: np.ndarray | None = None
    client_tiers: Mapping[str, str] = field(default_factory=dict)
    as_they_are: bool = False
    client_names: tuple[str, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", _names(self.classes))
        object.__setattr__(self, "inputs", _as_inputs(self.inputs))
        object.__setattr__(self, "targets", _as_targets(self.targets, self.classes))
        _check_inputs(self.inputs)
        _check_targets(self.targets, self.classes)
        if len(self.inputs) != len(self.targets):
            raise FlSimError(f"dataset: {len(self.inputs)} inputs but {len(self.targets)} targets; one each is needed")
        if self.clients is not None:
            names, places = _clients(self.clients, len(self.targets))
            object.__setattr__(self, "client_names", names)
            object.__setattr__(self, "clients", places)
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

    For reference sets: `pool(side)` gives images without labels, and where groups of them begin. `made_of` names what
    it is made of, `parts` are sets that share no image; two sets with a piece in common are not used together.
    """

    name: str
    task: Task | None
    about: str
    origin: Literal["embedded", "generated", "download", "optional package", "yours"]
    read: Callable[[int, int | None, int], Dataset] | None = None  # None: it has no labels
    capacity: int | None = None
    num_official_test: int = 0
    num_classes: int | None = None  # None: regression, or not known before it is loaded
    num_clients: int | None = 0  # whose rows they naturally are; 0: nobody's, None: not known before it is loaded
    client_tiers: tuple[str, ...] = ()  # of its clients, where they have such of their own
    at_hand: Callable[[], bool] = lambda: True
    to_get: tuple[str, ...] = ()
    fetch: Callable[[], None] | None = None
    marks: Callable[[], tuple[str, ...]] = tuple
    pool: Callable[[int], tuple[Images, NDArray[np.int64]]] | None = None
    made_of: tuple[str, ...] = ()
    parts: tuple[Source, ...] = ()

    @property
    def pieces(self) -> set[str]:
        """What its images are, or are drawn from."""
        return {part.name for part in self.parts} or set(self.made_of or [self.name])

    def fingerprint(self) -> str:
        """Hex digest of the name and all that decides its content beside count, image_size and seed."""
        return hashlib.sha256(repr((self.name, self.marks())).encode()).hexdigest()


@cache  # asked once a client, and read from disk
def versions(*packages: str) -> tuple[str, ...]:
    """`name version` of installed packages, without importing them."""
    return tuple(f"{package} {version(package)}" for package in packages)


def data_root() -> Path:
    """Where downloaded data lives: the environment's FL_SIM_DATA, else the user's data folder."""
    import platformdirs

    chosen = os.environ.get("FL_SIM_DATA") or partial(platformdirs.user_data_dir, "fl-sim")
    return at_home(chosen, "the data folder", "with FL_SIM_DATA")


def damaged(name: str, files: str, error: Exception) -> DataNotAtHandError:
    """What to say of a data set whose files are there and cannot be read."""
    reason = " ".join(str(error).split())
    return DataNotAtHandError(
        f"dataset {name} is incomplete or damaged ({textwrap.shorten(reason, 150) or type(error).__name__}); delete "
        f"{files} and get it again: fl-sim data get {name}"
    )


def _clients(clients: Any, rows: int) -> tuple[tuple[str, ...], np.ndarray]:
    """The clients' names, by the alphabet, numbers in them by their size; and of each row the place of its client."""
    values = np.asarray(clients)
    if values.shape != (rows,) or values.dtype.kind not in "iuUS" + "O":
        raise FlSimError(
            f"dataset: clients are {values.dtype} of shape {values.shape}; must be {rows} names, texts or whole numbers"
        )
    texts, places = np.unique(values.astype(str), return_inverse=True)
    order = sorted(range(len(texts)), key=lambda k: _natural(str(texts[k])))
    return tuple(str(texts[k]) for k in order), np.argsort(order)[places].astype(np.int64)


def _natural(text: str) -> list[tuple[int, str]]:
    """By which `site 2` comes before `site 10`."""
    return [(int(part), "") if part.isascii() and part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]


def _names(classes: Any) -> tuple[str, ...] | None:
    """The class names as texts, distinct; None in regression."""
    if classes is None:
        return None
    if isinstance(classes, str) or not isinstance(classes, Iterable):
        raise FlSimError(f"dataset: classes = {classes!r}; they must be a tuple of names, or None in regression")
    names = list(classes)
    odd = next((name for name in names if not isinstance(name, str | int | np.integer) or isinstance(name, bool)), None)
    if odd is not None:
        raise FlSimError(f"dataset: class name {odd!r} is {type(odd).__name__}; names must be texts")
    texts = tuple(map(str, names))
    twice = next((name for name in texts if texts.count(name) > 1), None) if len(set(texts)) < len(texts) else None
    if twice is not None:
        raise FlSimError(f"dataset: {texts.count(twice)} classes are called {twice!r}; their names must differ")
    if not texts:
        raise FlSimError("dataset: classes = (); at least one name is needed, or None in regression")
    return texts


def _numbers(what: str, values: Any) -> np.ndarray:
    """An array of numbers from an array, a list, or a frame or series of pandas."""
    if hasattr(values, "dtypes") and hasattr(values, "to_numpy"):
        odd = [f"{name} ({kind})" for name, kind in _columns(values) if getattr(kind, "kind", "O") not in "buif"]
        if odd:
            raise FlSimError(f"dataset: {what} have columns that are no numbers: {', '.join(odd[:5])}; encode them")
        values = values.to_numpy()
    try:
        array = np.asarray(values)
    except ValueError as error:  # rows of unlike lengths
        raise FlSimError(f"dataset: {what} are no array: {error}") from None
    if array.dtype == object:  # of a frame with missing values of its own kind, say
        try:
            array = array.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise FlSimError(f"dataset: {what} hold what is no number: {error}") from None
    if array.dtype.kind not in "buif":
        raise FlSimError(f"dataset: {what} are {array.dtype} of shape {array.shape}; they must be numbers")
    return array


def _columns(frame: Any) -> list[tuple[str, Any]]:
    """(name, type) of a frame's columns, or of a series."""
    kinds = frame.dtypes
    return list(zip(map(str, kinds.index), kinds, strict=True)) if hasattr(kinds, "index") else [("it", kinds)]


def _as_inputs(values: Any) -> np.ndarray:
    """Images as they are; features as float32."""
    array = _numbers("inputs", values)
    return array if array.ndim != 2 else np.ascontiguousarray(array, np.float32)


def _as_targets(values: Any, classes: tuple[str, ...] | None) -> np.ndarray:
    """Labels as int64, where they are whole numbers; a regression's targets as float32."""
    array = _numbers("targets", values)
    if classes is None:
        return array.astype(np.float32)
    if array.dtype.kind == "f" and (not np.isfinite(array).all() or (array != np.floor(array)).any()):
        raise FlSimError("dataset: labels are not whole numbers; they must index the classes, from 0 on")
    return array.astype(np.int64)


def _check_inputs(inputs: np.ndarray) -> None:
    images = inputs.dtype == np.uint8 and inputs.ndim == 4
    features = inputs.dtype == np.float32 and inputs.ndim == 2
    if not images and not features:
        raise FlSimError(
            f"dataset: inputs are {inputs.dtype} of shape {inputs.shape}; they must be uint8 images "
            "(n, channels, height, width) or numbers (n, d)"
        )
    if not all(inputs.shape[1:]):
        raise FlSimError(f"dataset: inputs of shape {inputs.shape} hold no feature; each row needs at least one")
    if features:
        _refuse_odd_numbers(inputs)


def _refuse_odd_numbers(features: np.ndarray) -> None:
    """Refuse NaN and infinities, naming columns and how many rows have them; a block of rows at a time."""
    step = max(1, BLOCK // features.shape[1])
    rows, columns = 0, np.zeros(features.shape[1], bool)
    for start in range(0, len(features), step):
        odd = ~np.isfinite(features[start : start + step])
        rows += int(odd.any(axis=1).sum())
        columns |= odd.any(axis=0)
    if rows:
        where = np.flatnonzero(columns).tolist()
        named = ", ".join(map(str, where[:5])) + f" and {len(where) - 5} more" * (len(where) > 5)
        raise FlSimError(
            f"dataset: NaN or infinite numbers in {rows:,} of {len(features):,} rows, in "
            f"column{'s' * (len(where) > 1)} {named}; fill them in or leave these rows out"
        )


def _check_targets(targets: np.ndarray, classes: tuple[str, ...] | None) -> None:
    expected = np.float32 if classes is None else np.int64
    if targets.dtype != expected or targets.ndim != 1:
        when = "when classes is None" if classes is None else "when classes are named"
        raise FlSimError(
            f"dataset: targets are {targets.dtype} of shape {targets.shape}; they must be "
            f"{np.dtype(expected)} of shape (n,) {when}"
        )
    if classes is None and not np.isfinite(targets).all():
        odd_rows = int((~np.isfinite(targets)).sum())
        raise FlSimError(f"dataset: {odd_rows:,} of {len(targets):,} targets are NaN or infinite; leave these rows out")
    if classes is not None and targets.size and not 0 <= targets.min() <= targets.max() < len(classes):
        raise FlSimError(
            f"dataset: labels run from {targets.min()} to {targets.max()}; with {len(classes)} classes "
            f"they must be in 0..{len(classes) - 1}"
        )
