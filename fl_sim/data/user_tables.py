"""`table:FILE`: rows of a table (.csv, .parquet, .arrow), with the column to be predicted, and whose row it is.

Numbers are taken as they are, and standardised like any features; where some are missing they become the mean of the
others, and a column says where. Texts are categories, a column each, in all clients alike; a missing one is none of
them. What is neither is refused: leave it out (`data.drop`).
"""

from __future__ import annotations

import io
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fl_sim.data.source import Dataset, Source
from fl_sim.data.user_files import content_digest, text_of
from fl_sim.errors import FlSimError, ScenarioError

KIND = "table"
ENDINGS = (".csv", ".parquet", ".arrow", ".feather")
MOST_CATEGORIES = 256  # of a column
FEW = 20  # whole numbers up to which a target is a class

Columns = dict[str, NDArray[Any]]


def source(name: str, path: Path) -> Source:
    """The data set of that name: what its target is, and who has which rows, shows once it is loaded."""
    if path.suffix not in ENDINGS:
        raise ScenarioError(
            f"data.name: {name}: ends in {path.suffix or 'nothing'}; must be one of {', '.join(ENDINGS)}"
        )
    return Source(
        name, None, "your own table", "yours", capacity=len(frame_of(path)) if path.is_file() else None,
        at_hand=path.is_file, to_get=(f"ls {path}   # which is not there",),
        marks=partial(lambda place: (content_digest(place),), path), num_clients=None,
    )  # fmt: skip


def read(
    path: Path, target: str, client: str | None, drop: tuple[str, ...],
    task: Literal["classification", "regression"] | None,
) -> Dataset:  # fmt: skip
    """The rows of a table as features and targets.

    Raises:
        FlSimError: it cannot be read, lacks a column, or holds what is neither a number nor a category.
    """
    columns = columns_of(path, frame_of(path))
    for key, name in (("target", target), ("client", client), *(("drop", name) for name in drop)):
        if name is not None and name not in columns:
            raise FlSimError(
                f"data.{key} = {name!r}: {path} has no such column; it has {', '.join(list(columns)[:12])}"
            )
    names = [name for name in columns if name not in (target, client, *drop)]
    if not names:
        raise FlSimError(f"{path}: no column is left to learn from beside target, client and those dropped")
    targets, classes = _targets(path, target, columns[target], task)
    features = [part for name in names for part in _features(path, name, columns[name])]
    clients = None if client is None else texts(path, client, columns[client])
    return Dataset(np.stack(features, axis=1), targets, classes, clients=clients)


@lru_cache(maxsize=2)
def _frame(path: Path, digest: str) -> Any:
    import pandas as pd

    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        if path.suffix in (".arrow", ".feather"):
            return pd.read_feather(path)
        return pd.read_csv(io.StringIO(text_of(path)))
    except FlSimError:
        raise
    except Exception as error:  # pandas and pyarrow raise whatever they stumble over
        what = " ".join(str(error).split())[:200]
        raise FlSimError(f"{path}: cannot be read as {path.suffix[1:]}: {what}") from None


def frame_of(path: Path) -> Any:
    """The file as a frame of pandas, read once as long as it does not change.

    Raises:
        FlSimError: it cannot be read.
    """
    return _frame(path, content_digest(path))


def columns_of(path: Path, frame: Any) -> Columns:
    """The columns of a frame by their names, of which none stands twice.

    Raises:
        FlSimError: one does.
    """
    twice = [str(name) for name in frame.columns[frame.columns.duplicated()]]
    if twice:
        raise FlSimError(f"{path}: two columns are called {twice[0]!r}")
    return {str(name): frame[name].to_numpy() for name in frame.columns}


def texts(path: Path, what: str, values: NDArray[Any]) -> NDArray[np.str_]:
    """Names as texts, mixed types refused: 1 and "1" would be one client, or two.

    Raises:
        FlSimError: types are mixed, or one is missing.
    """
    if values.dtype == object:
        kinds = sorted({type(value).__name__ for value in values.tolist()})
        if len(kinds) > 1:
            raise FlSimError(f"{path}: {what} mixes {' and '.join(kinds)}; must be all text, or all whole numbers")
    if values.dtype.kind == "f":
        raise FlSimError(f"{path}: {what} holds {values.dtype} (or is empty in a row); must be text or whole numbers")
    names = values.astype(str)
    if (names == "").any():
        raise FlSimError(f"{path}: {what} is empty in row {int(np.flatnonzero(names == '')[0])}")
    return names


def _missing(values: NDArray[Any]) -> NDArray[np.bool_]:
    import pandas as pd

    return np.asarray(pd.isna(values))


def _targets(
    path: Path, name: str, values: NDArray[Any], task: str | None
) -> tuple[NDArray[Any], tuple[str, ...] | None]:
    missing = _missing(values)
    if missing.any():
        raise FlSimError(
            f"{path}: data.target = {name!r} is missing in {int(missing.sum())} rows; leave those rows out"
        )
    whole = values.dtype.kind in "iub" and len(np.unique(values)) <= FEW
    if task == "classification" or (task is None and (whole or values.dtype.kind in "OUb")):
        labels = np.unique(values.astype(str) if values.dtype == object else values, return_inverse=True)
        return labels[1].astype(np.int64), tuple(map(str, labels[0].tolist()))
    try:
        return values.astype(np.float32), None
    except (TypeError, ValueError):
        raise FlSimError(
            f"{path}: data.target = {name!r} holds what is no number; say data.task = 'classification'"
        ) from None


def _features(path: Path, name: str, values: NDArray[Any]) -> list[NDArray[np.float32]]:
    missing = _missing(values)
    if missing.all():
        raise FlSimError(f"{path}: column {name!r} is empty; leave it out (data.drop)")
    if values.dtype.kind in "iufb":
        numbers = values.astype(np.float64)
        if np.isinf(numbers).any():
            raise FlSimError(
                f"{path}: column {name!r} holds infinite numbers; replace them, or leave it out (data.drop)"
            )
        known = np.where(missing, numbers[~missing].mean(), numbers).astype(np.float32)
        return [known, missing.astype(np.float32)] if missing.any() else [known]
    kinds = {type(value).__name__ for value in values[~missing].tolist()}
    if kinds - {"str", "bool"}:
        odd = ", ".join(sorted(kinds - {"str", "bool"}))
        raise FlSimError(
            f"{path}: column {name!r} holds {odd}, neither numbers nor categories; leave it out (data.drop)"
        )
    words = np.where(missing, "", values).astype(str)
    categories = sorted(set(words[~missing].tolist()))
    if len(categories) > MOST_CATEGORIES:
        raise FlSimError(
            f"{path}: column {name!r} has {len(categories):,} categories, more than {MOST_CATEGORIES}; leave it out "
            "(data.drop)"
        )
    return [((words == category) & ~missing).astype(np.float32) for category in categories]
