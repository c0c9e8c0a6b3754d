"""Answers of many clients in columns: `answers.threshold` is an array (K,), `answers[3]` the record of the fourth."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from fl_sim.messages.record import Record

R = TypeVar("R", bound=Record)

Column = NDArray[Any] | list[Any]  # (K,) of numbers; of a field that is an array, one for each client

_NUMBERS = {"int": np.int64, "float": np.float64}


class Columns(Sequence[R], Generic[R]):
    """K records of one kind. A field is an attribute: an array (K,) of its numbers, or one array a client."""

    def __init__(self, kind: type[R], columns: dict[str, Column], records: list[R] | None = None) -> None:
        self.kind, self.columns, self._records = kind, columns, records

    @classmethod
    def of(cls, kind: type[R], records: Iterable[R]) -> Columns[R]:
        """The columns of records.

        Raises:
            OverflowError: a whole number of more than 64 bits.
        """
        rows = list(records)
        types = {part.name: str(part.type) for part in dataclasses.fields(kind)}
        columns: dict[str, Column] = {name: [getattr(row, name) for row in rows] for name in types}
        for name in types.keys() & {n for n, annotation in types.items() if annotation in _NUMBERS}:
            columns[name] = np.array(columns[name], _NUMBERS[types[name]])
        return cls(kind, columns, rows)

    @classmethod
    def joined(cls, kind: type[R], parts: Sequence[Columns[R]]) -> Columns[R]:
        """The records of all parts, one part after another."""
        if len(parts) == 1:
            return parts[0]
        names = [part.name for part in dataclasses.fields(kind)]
        return cls(kind, {name: _joined([part.columns[name] for part in parts]) for name in names})

    def taken(self, which: NDArray[np.int64]) -> Columns[R]:
        """Those at these places."""
        columns: dict[str, Column] = {
            name: column[which] if isinstance(column, np.ndarray) else [column[i] for i in which.tolist()]
            for name, column in self.columns.items()
        }
        records = None if self._records is None else [self._records[i] for i in which.tolist()]
        return Columns(self.kind, columns, records)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name in ("kind", "columns"):  # of an object that is being unpickled
            raise AttributeError(name)
        if name in self.columns:
            return self.columns[name]
        if not self.columns:  # of nobody, whatever was asked
            return np.zeros(0, np.int64)
        if name == "information_bytes":
            each = self.kind.information_bytes
            return np.full(len(self), each) if isinstance(each, int) else np.array([r.information_bytes for r in self])
        raise AttributeError(f"{self.kind.__name__} has no field {name!r}")

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    @overload
    def __getitem__(self, place: int) -> R: ...

    @overload
    def __getitem__(self, place: slice) -> Columns[R]: ...

    def __getitem__(self, place: int | slice) -> R | Columns[R]:
        return self.taken(np.arange(len(self))[place]) if isinstance(place, slice) else self._rows()[place]

    def _rows(self) -> list[R]:
        if self._records is None:
            plain = [c.tolist() if isinstance(c, np.ndarray) and c.ndim == 1 else c for c in self.columns.values()]
            self._records = [self.kind(**dict(zip(self.columns, row, strict=True))) for row in zip(*plain, strict=True)]
        return self._records


def _joined(parts: Sequence[Column]) -> Column:
    if all(isinstance(part, np.ndarray) for part in parts) and len({np.shape(part)[1:] for part in parts}) == 1:
        return np.concatenate(parts)
    return [row for part in parts for row in part]
