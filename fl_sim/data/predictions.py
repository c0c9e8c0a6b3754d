"""`predictions:FILE`: predictions of models that somebody has, row by row, with the client that each row belongs to.

A table (.csv, .parquet) has a row a point and these columns; an archive (.npz) has arrays of the same names:

    client       who holds the row: a name, or a whole number
    split        calibration or test
    label        the class, by its name or its place from 0 on; in regression the target
    p_CLASS ...  probabilities, a column a class, or
    z_CLASS ...  logits, a column a class; in an archive `probabilities` or `logits` (n, C), and `classes` (C,) if named
    prediction   in regression; or `lower` and `upper`, the ends of an interval
    tier         may be left out: what kind of model its client has, the same in all rows of a client
    row          may be left out: a name of the row, which none may have twice

What cannot be is refused in a line, before any work.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fl_sim.data.source import Dataset, Source
from fl_sim.data.user_files import content_digest
from fl_sim.data.user_tables import columns_of, frame_of, texts
from fl_sim.errors import FlSimError, ScenarioError

KIND = "predictions"
SPLITS = ("calibration", "test")
PROBABILITIES, LOGITS = "p_", "z_"  # how the columns of classes begin
NEEDED = ("client", "split", "label")
OFF = 2e-3  # how far from 1 probabilities may sum up, for they may have been rounded
LEAST = 1e-45  # a probability of 0 has no logarithm: float32's smallest number
ENDINGS = (".csv", ".parquet", ".npz")

Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Predictions:
    """What the file holds, calibration rows before test rows, each in the order of the file."""

    dataset: Dataset
    num_clients: int
    tiers: tuple[str, ...]  # that clients have, in the order in which they appear; one, "all", where none is named
    per_tier: tuple[int, ...]  # clients of each

    @property
    def intervals(self) -> bool:
        """Whether a row of a regression has two ends in place of a prediction."""
        return self.dataset.classes is None and self.dataset.inputs.shape[1] == 2


def save(
    path: str | Path, *, client: ArrayLike, split: ArrayLike, label: ArrayLike, probabilities: ArrayLike | None = None,
    logits: ArrayLike | None = None, prediction: ArrayLike | None = None, lower: ArrayLike | None = None,
    upper: ArrayLike | None = None, classes: Sequence[str] | None = None, tier: ArrayLike | None = None,
) -> Path:  # fmt: skip
    """Write arrays (n,), and (n, C) of probabilities or logits, as an archive that `predictions:FILE` reads.

    Raises:
        FlSimError: they cannot be, in the words with which the file would be refused.
    """
    given = {
        "client": client, "split": split, "label": label, "probabilities": probabilities, "logits": logits,
        "prediction": prediction, "lower": lower, "upper": upper, "classes": classes, "tier": tier,
    }  # fmt: skip
    arrays = {name: _plain(values) for name, values in given.items() if values is not None}
    place = Path(path).with_suffix(".npz")
    _checked(place, _of_archive(place, arrays))
    with place.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # its stub takes them for `allow_pickle`
    return place


def _plain(values: Any) -> NDArray[Any]:
    """As an archive takes it without a pickle."""
    array = np.asarray(values)
    return array.astype(str) if array.dtype == object else array


def source(name: str, path: Path) -> Source:
    """The data set of that name."""
    if path.suffix not in ENDINGS:
        raise ScenarioError(
            f"data.name: {name}: ends in {path.suffix or 'nothing'}; must be one of {', '.join(ENDINGS)}"
        )
    if not path.is_file():
        return Source(
            name, None, "your own predictions", "yours", partial(_read, path), at_hand=path.is_file,
            to_get=(f"ls {path}   # which is not there",), num_clients=None,
        )  # fmt: skip
    loaded = load(path)
    dataset = loaded.dataset
    return Source(
        name, dataset.task, "your own predictions", "yours", partial(_read, path), capacity=len(dataset.targets),
        num_official_test=dataset.num_official_test, at_hand=path.is_file, marks=partial(_marks, path),
        num_classes=None if dataset.classes is None else len(dataset.classes), num_clients=loaded.num_clients,
        client_tiers=loaded.tiers,
    )  # fmt: skip


def load(path: Path) -> Predictions:
    """What the file holds, read once as long as it does not change.

    Raises:
        FlSimError: it cannot be read, or says what cannot be: the column, the value, the rule.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise FlSimError(f"{path}: cannot be read: {error.strerror or error}") from None
    return _loaded(path, status.st_size, status.st_mtime_ns)


def _read(path: Path, count: int, image_size: int | None, seed: int) -> Dataset:
    return load(path).dataset


def _marks(path: Path) -> tuple[str, ...]:
    return (content_digest(path),)


@lru_cache(maxsize=2)
def _loaded(path: Path, size: int, changed: int) -> Predictions:
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    if 2 * size > free:
        raise FlSimError(
            f"{path}: has {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB of memory are free; cut it in parts"
        )
    if path.suffix == ".npz":
        return _checked(path, _of_archive(path, _arrays(path)))
    return _checked(path, columns_of(path, frame_of(path)))


# ------------------------------------------------------------------------------------------------------------- reading


def _arrays(path: Path) -> Columns:
    try:
        with path.open("rb") as file, np.load(file) as archive:  # never a pickle
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # what a damaged file makes zipfile and NumPy raise is of many kinds
        raise FlSimError(f"{path}: is no archive of NumPy's, or damaged: {error}") from None


def _of_archive(path: Path, arrays: Columns) -> Columns:
    """The columns of an archive, as a table has them."""
    columns = dict(arrays)
    kinds = [name for name in ("probabilities", "logits") if name in columns]
    if len(kinds) == 2:
        raise FlSimError(f"{path}: has probabilities and logits; one of them is needed")
    classes = columns.pop("classes", None)
    for name in kinds:
        values = columns.pop(name)
        if values.ndim != 2:
            raise FlSimError(f"{path}: {name} have shape {values.shape}; must be (n, classes)")
        names = range(values.shape[1]) if classes is None else np.asarray(classes).tolist()
        if len(list(names)) != values.shape[1]:
            raise FlSimError(f"{path}: {name} of {values.shape[1]} classes, and classes names {len(list(names))}")
        prefix = PROBABILITIES if name == "probabilities" else LOGITS
        columns |= {f"{prefix}{label}": values[:, k] for k, label in enumerate(names)}
    odd = next((name for name, values in columns.items() if values.ndim != 1), None)
    if odd is not None:
        raise FlSimError(f"{path}: {odd} has shape {columns[odd].shape}; must be (n,)")
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise FlSimError(f"{path}: arrays of unlike lengths: {', '.join(f'{k} {n}' for k, n in lengths.items())}")
    return columns


# ------------------------------------------------------------------------------------------------------------ checking


def _checked(path: Path, columns: Columns) -> Predictions:
    """The predictions of these columns, refused where they cannot be."""
    missing = [name for name in NEEDED if name not in columns]
    if missing:
        raise FlSimError(f"{path}: has no column {missing[0]!r}; it has {', '.join(list(columns)[:8]) or 'none'}")
    if not len(columns["label"]):
        raise FlSimError(f"{path}: has no row")
    if "row" in columns:
        _refuse_doubled(path, columns["row"])
    is_test = _is_test(path, columns["split"])
    order = np.argsort(is_test, kind="stable")
    names = texts(path, "client", columns["client"])
    outputs, classes = _outputs(path, columns)
    targets = _targets(path, columns["label"], classes)
    tier_of = _tiers(path, names, columns.get("tier"))
    dataset = Dataset(
        outputs[order], targets[order], classes, int(is_test.sum()), clients=names[order], as_they_are=True,
        client_tiers=tier_of,
    )  # fmt: skip
    _refuse_one_split(path, dataset)
    tiers = tuple(dict.fromkeys(tier_of.values())) if tier_of else ("all",)
    of_clients = [*tier_of.values()] if tier_of else ["all"] * len(dataset.client_names)
    return Predictions(dataset, len(dataset.client_names), tiers, tuple(of_clients.count(tier) for tier in tiers))


def _refuse_doubled(path: Path, rows: NDArray[Any]) -> None:
    values, counts = np.unique(rows.astype(str), return_counts=True)
    if (counts > 1).any():
        raise FlSimError(
            f"{path}: row {str(values[counts > 1][0])!r} is there {counts.max()} times; each needs its own name"
        )


def _is_test(path: Path, split: NDArray[Any]) -> NDArray[np.bool_]:
    words = split.astype(str)
    odd = ~np.isin(words, SPLITS)
    if odd.any():
        at = int(np.flatnonzero(odd)[0])
        raise FlSimError(f"{path}: split = {str(words[at])!r} in row {at}; must be calibration or test")
    return words == "test"


def _outputs(path: Path, columns: Columns) -> tuple[NDArray[np.float32], tuple[str, ...] | None]:
    """Logits (n, C) and the classes; or in regression predictions (n, 1), or the ends of intervals (n, 2)."""
    kinds = [prefix for prefix in (PROBABILITIES, LOGITS) if any(name.startswith(prefix) for name in columns)]
    regression = [name for name in ("prediction", "lower", "upper") if name in columns]
    if len(kinds) + bool(regression) != 1:
        raise FlSimError(
            f"{path}: must have columns p_CLASS (probabilities), or z_CLASS (logits), or prediction, or lower and upper"
        )
    if regression:
        if regression not in (["prediction"], ["lower", "upper"]):
            raise FlSimError(f"{path}: has {', '.join(regression)}; must have prediction, or lower and upper")
        return _numbers(path, columns, regression), None
    names = [name for name in columns if name.startswith(kinds[0])]
    values = _numbers(path, columns, names, np.float64)
    classes = tuple(name.removeprefix(kinds[0]) for name in names)
    likely = bool((values >= 0).all() and (values <= 1).all() and (np.abs(values.sum(axis=1) - 1) <= OFF).all())
    if kinds[0] == LOGITS:
        if likely and len(classes) > 1:
            raise FlSimError(f"{path}: the columns z_CLASS are probabilities, and not logits; call them p_CLASS")
        return values.astype(np.float32), classes
    _refuse_no_probabilities(path, names, values)
    return np.log(np.maximum(values, LEAST)).astype(np.float32), classes


def _refuse_no_probabilities(path: Path, names: Sequence[str], values: NDArray[np.float64]) -> None:
    odd = np.argwhere((values < 0) | (values > 1))
    if len(odd):
        row, column = odd[0].tolist()
        raise FlSimError(
            f"{path}: {names[column]} = {values[row, column]:g} in row {row} is no probability; call logits z_CLASS"
        )
    sums = values.sum(axis=1)
    off = np.flatnonzero(np.abs(sums - 1) > OFF)
    if len(off):
        raise FlSimError(f"{path}: the probabilities of row {off[0]} sum up to {sums[off[0]]:.6g}; must be 1")


def _numbers(path: Path, columns: Columns, names: Sequence[str], kind: Any = np.float32) -> NDArray[Any]:
    parts = []
    for name in names:
        try:
            values = columns[name].astype(np.float64)
        except (TypeError, ValueError):
            odd = next(value for value in columns[name].tolist() if not isinstance(value, int | float))
            raise FlSimError(f"{path}: {name} holds {odd!r}, which is no number") from None
        if not np.isfinite(values).all():
            at = int(np.flatnonzero(~np.isfinite(values))[0])
            raise FlSimError(f"{path}: {name} = {values[at]} in row {at}; must be a finite number")
        parts.append(values)
    return np.stack(parts, axis=1).astype(kind)


def _targets(path: Path, labels: NDArray[Any], classes: tuple[str, ...] | None) -> NDArray[Any]:
    """Labels as indices of the classes, by their names or their places; in regression numbers."""
    if classes is None:
        return _numbers(path, {"label": labels}, ["label"])[:, 0]
    words = texts(path, "label", labels)
    place = {name: k for k, name in enumerate(classes)}
    if not set(words.tolist()) <= place.keys() and labels.dtype.kind in "iu":
        place = {str(k): k for k in range(len(classes))}
    unknown = next((text for text in words.tolist() if text not in place), None)
    if unknown is not None:
        raise FlSimError(f"{path}: label = {unknown!r} is none of the {len(classes)} classes: {', '.join(classes[:8])}")
    return np.array([place[text] for text in words.tolist()], np.int64)


def _tiers(path: Path, clients: NDArray[np.str_], tiers: NDArray[Any] | None) -> dict[str, str]:
    """Client -> its tier; empty where there are none."""
    if tiers is None:
        return {}
    pairs = dict.fromkeys(zip(clients.tolist(), texts(path, "tier", tiers).tolist(), strict=True))
    of: dict[str, str] = {}
    for client, tier in pairs:
        if of.setdefault(client, tier) != tier:
            raise FlSimError(f"{path}: client {client!r} is of tier {of[client]!r} in one row and {tier!r} in another")
    return of


def _refuse_one_split(path: Path, dataset: Dataset) -> None:
    assert dataset.clients is not None
    first = len(dataset.targets) - dataset.num_official_test
    parts = {"calibration": dataset.clients[:first], "test": dataset.clients[first:]}
    for split, codes in parts.items():
        lacks = np.setdiff1d(np.arange(len(dataset.client_names)), codes)
        if len(lacks):
            raise FlSimError(
                f"{path}: client {dataset.client_names[lacks[0]]!r}{f' and {len(lacks) - 1} more' * (len(lacks) > 1)} "
                f"has no {split} row; each client needs rows of both splits: leave it out"
            )
