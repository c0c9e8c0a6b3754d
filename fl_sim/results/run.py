"""The run directory: what a run found, written once and read back.

A directory that holds `result.json` is a finished run. The whole directory appears at once: it is written under a
temporary name beside its place and renamed; where an empty folder is there already, its files are moved into it,
`result.json` last. Figures are drawn into it afterwards, so that nothing that happens to them costs the run.
"""

from __future__ import annotations

import csv
import io
import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel

from fl_sim.agreement.measure import MATRIX, read_matrix
from fl_sim.errors import FlSimError, ScenarioError
from fl_sim.scenario.scenario import Scenario
from fl_sim.scenario.toml import read
from fl_sim.store.folders import (
    PREFIX,
    WorkFolder,
    alone_in,
    clear_dead,
    content_of,
    damaged,
    in_form,
    is_there,
    sealed,
    text_of,
    unsealed,
    write_through,
)

FORMAT = 1  # of result.json and clients.csv

Row = dict[str, Any]  # one client: column -> value, None where there is none

SCENARIO, RESULT, CLIENTS = "scenario.toml", "result.json", "clients.csv"
THRESHOLDS = "thresholds.csv"  # of methods that have one for each class: fl_sim/results/thresholds.py


@dataclass(frozen=True)
class Result:
    """What a run found.

    Attributes:
        scenario: the whole scenario, as run.
        clients: one row a client, in the order of their ids.
        summary: all that is not about one client; see the design's section 5 for its keys.
        files: name -> content of what else goes into the run's folder, such as PLADA's payload; read back, the matrix
            of disagreement alone, which a figure shows.
    """

    scenario: Scenario
    clients: list[Row]
    summary: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def learn(self) -> dict[str, Any]:
        """Metrics of the learn strategy."""
        return self.summary["learn"]["metrics"]

    @property
    def calibrate(self) -> dict[str, Any]:
        """Metrics of the calibrate strategy."""
        return self.summary["calibrate"]["metrics"]

    def column(self, name: str) -> list[Any]:
        """One column of the clients' rows."""
        return [row[name] for row in self.clients]

    @classmethod
    def load(cls, folder: str | Path) -> Result:
        """A finished run.

        Raises:
            FlSimError: the folder holds none, or one written by another version, or one of its files is damaged.
        """
        folder = Path(folder)
        if not is_there(folder / RESULT):
            raise FlSimError(f"{folder}: no finished run is there (it would hold {RESULT})")
        summary, digests = unsealed(folder / RESULT, FORMAT)
        in_form(folder / RESULT, _Summary, summary)
        scenario = _scenario(folder / SCENARIO, digests.get(SCENARIO))
        rows = _rows(folder / CLIENTS, digests.get(CLIENTS), summary["clients"].get("sent"))
        names = {tier.name for tier in scenario.clients.tier}
        strange = next((row["tier"] for row in rows if row["tier"] not in names), None)
        if strange is not None:
            raise damaged(folder / CLIENTS, f"tier {strange!r} is not in {SCENARIO}")
        return cls(scenario, rows, summary, _files(folder, digests))


class _Lost(BaseModel):
    client: int
    reason: str


class _Counts(BaseModel):
    sent: int | None = None
    retried: int
    missing: list[_Lost]


class _Metrics(BaseModel):
    tiers: dict[str, Row] = {}


class _Method(BaseModel):
    metrics: _Metrics
    detail: dict[str, Any] | None = None


class _Summary(BaseModel):
    """The form of `result.json`, as far as readers rely on it; keys that older versions did not write may be absent."""

    clients: _Counts
    learn: _Method
    calibrate: _Method
    seconds: dict[str, float]
    notes: list[str] = []
    classes: list[str] | None = None
    versions: dict[str, Any] = {}
    machine: dict[str, Any] = {}
    agreement: dict[str, Any] | None = None


def _scenario(path: Path, digest: str | None) -> Scenario:
    text = text_of(path, digest)
    try:
        return Scenario.of(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise damaged(path, error) from None
    except ScenarioError as error:  # damaged, or of names that are not here
        raise FlSimError(f"{path}: cannot be read here: {' '.join(str(error).split())}") from None


def _rows(path: Path, digest: str | None, sent: int | None) -> list[Row]:
    """The clients of a `clients.csv`, each there and whole."""
    reader = csv.reader(io.StringIO(text_of(path, digest), newline=""), strict=True)
    try:
        header = next(reader, [])
        missing = [name for name in _ALWAYS if name not in header]
        if missing:
            raise ValueError(f"it has no column {missing[0]}")
        rows = [_row(header, cells) for cells in reader]
    except (ValueError, csv.Error) as error:
        raise damaged(path, f"line {reader.line_num}: {error}") from None
    if len(rows) != (len(rows) if sent is None else sent):
        raise damaged(path, f"it has {len(rows)} clients, and {RESULT} says clients.sent = {sent}")
    if [row["client"] for row in rows] != list(range(len(rows))):
        raise damaged(path, f"its clients are not 0 to {len(rows) - 1}, one after another")
    return rows


def _row(header: Sequence[str], cells: Sequence[str]) -> Row:
    row = {name: _read(name, cell) for name, cell in zip(header, cells, strict=True)}
    empty = next((name for name in _ALWAYS & _WHOLE if row[name] is None), None)
    if empty is not None:
        raise ValueError(f"it has no {empty}")
    return row


def _files(folder: Path, digests: Mapping[str, str]) -> dict[str, bytes]:
    files = {
        name: content_of(folder / name, digests.get(name))
        for name in (MATRIX, THRESHOLDS)
        if name in digests or is_there(folder / name)
    }
    try:
        if MATRIX in files:
            read_matrix(files[MATRIX])
    except ValueError as error:
        raise damaged(folder / MATRIX, error) from None
    return files


# ------------------------------------------------------------------------------------------------------------ writing


class RunFolder:
    """A run directory in the making.

    Made before the run starts, so that a place that cannot be written is refused before any work; `finish` moves it
    to its place. A folder that is there and empty, be it a mount, a link or the current one, is filled; else the whole
    folder appears at once. As a context it leaves nothing behind that was not finished, but for a run that was made and
    could not be written: that is kept, and named.

    Raises:
        FlSimError: the place is taken or cannot be written.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self._made = self._over = False
        try:
            self._fills = place.is_dir()
            _refuse_taken(place)
            if not self._fills:
                place.parent.mkdir(parents=True, exist_ok=True)
            clear_dead(place if self._fills else place.parent)
            self._folder = WorkFolder(place if self._fills else place.parent)
        except OSError as error:
            raise FlSimError(f"{place}: cannot be written: {error.strerror}; choose another --out") from None
        self.work = self._folder.path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if self._over:
            return
        if not self._made or not isinstance(error, Exception):
            self.discard()
            return
        self._folder.release()
        note = f"what was found is kept in {self.work}"
        if isinstance(error, OSError):
            why = f"{self.place}: cannot be written: {error.strerror or error}"
            raise FlSimError(f"{why}; {note}, and the same command tries again") from error
        error.add_note(note)

    def write(self, result: Result) -> None:
        """Clients, scenario, what else there is and, last, the result with the digests of all of them."""
        self._made = True
        table = io.StringIO()
        write_rows(result.clients, table)
        files = {CLIENTS: table.getvalue().encode(), SCENARIO: result.scenario.dump().encode(), **result.files}
        for name, content in files.items():
            write_through(self.work / name, content)
        write_through(self.work / RESULT, sealed(RESULT, result.summary, files))

    def finish(self) -> bool:
        """Move everything to its place. False where another process has finished the same run there in the meantime:
        that one stays, and this one is discarded.

        Raises:
            OSError: it cannot be moved, for one because something else is there now.
        """
        moved = self._fill() if self._fills else self._appear()
        if moved:
            self._over = True
        else:
            self._refuse_another()
            self.discard()
        return moved

    def _fill(self) -> bool:
        with alone_in(self.place):
            clear_dead(self.place)
            if is_there(self.place / RESULT):
                return False
            names = {path.name for path in self.work.iterdir() if not path.name.startswith(".")} - {RESULT}
            self._folder.move_up([*sorted(names), RESULT])
        self._folder.remove()
        return True

    def _appear(self) -> bool:
        self._folder.release()
        try:
            self.work.rename(self.place)
        except OSError:
            if not is_there(self.place / RESULT):
                raise
            return False
        return True

    def _refuse_another(self) -> None:
        there, here = (Scenario.of(read(folder / SCENARIO)).identity() for folder in (self.place, self.work))
        if there != here:
            raise FlSimError(f"{self.place}: another run was finished there in the meantime; choose another --out")

    def discard(self) -> None:
        """Leave nothing behind."""
        self._folder.remove()
        self._over = True


def _refuse_taken(place: Path) -> None:
    if place.is_symlink() and not place.exists():
        raise FlSimError(f"{place}: is a link to {place.readlink()}, which is not there; choose another --out")
    if not place.exists():
        return
    if not place.is_dir():
        raise FlSimError(f"{place}: is there already and is no folder; choose another --out")
    if is_there(place / RESULT):
        raise FlSimError(f"{place}: a run was finished there a moment ago; the same command shows it")
    names = {path.name for path in place.iterdir() if not path.name.startswith(PREFIX)}
    if {SCENARIO, CLIENTS} <= names:
        raise damaged(place / RESULT, "it is no file" if RESULT in names else "it is missing")
    strange = min(names, default=None)
    if strange is not None:
        raise FlSimError(
            f"{place}: is there already and is no run of fl-sim (it holds {strange}); choose another --out"
        )


def finished(place: Path, scenario: Scenario) -> Result | None:
    """The finished run of this very scenario in that folder; None if the folder holds no run.

    Raises:
        FlSimError: it holds a run of another scenario, or a damaged one.
    """
    if not is_there(place / RESULT):
        return None
    result = Result.load(place)
    if result.scenario.identity() != scenario.identity():
        raise FlSimError(f"{place}: holds a run of another scenario; choose another --out, or delete it first")
    return result


def write_rows(rows: Sequence[Row], handle: Any) -> None:
    """CSV with a header; lists are written `1 2 3`, infinities `inf`, what is not there as nothing."""
    writer = csv.writer(handle, lineterminator="\n")
    writer.writerow(rows[0].keys())
    writer.writerows([_written(value) for value in row.values()] for row in rows)


def json_number(value: float | None) -> float | None:
    """A number as standard JSON has it: infinities become null, and the flag beside them says so."""
    return None if value is None or not math.isfinite(value) else value


_ALWAYS = {"client", "tier", "num_calibration", "num_test", "label_counts"}  # columns without which a row says nothing
_TEXT = {"name", "tier", "behaviour", "status"}
_WHOLE = {
    "client", "num_calibration", "num_test", "num_covered", "num_correct", "num_empty", "bytes_up", "bytes_down",
    "message_bytes_up", "message_bytes_down", "retries",
}  # fmt: skip


def _written(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


def _read(column: str, text: str) -> Any:
    if column in _TEXT:
        return text
    if column == "label_counts":
        return [int(word) for word in text.split()]
    if text == "":
        return None
    return int(text) if column in _WHOLE else float(text)


def by_tier(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows of each tier."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["tier"], []).append(row)
    return groups
