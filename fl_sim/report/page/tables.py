"""The tables of a page, as the template shows them: cells with what they are sorted by."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from fl_sim.report import sweep_points as over
from fl_sim.report.numbers import count, number, percent, size_of
from fl_sim.report.sweep_points import axis_names, shown
from fl_sim.report.sweep_table import Block, cell_text
from fl_sim.report.verdicts import Standing, Verdict

FILTERED = 12  # rows from which a table can be filtered
SIGNS = {"broken": "\N{BALLOT X}", "kept": "\N{CHECK MARK}", "open": "?"}


@dataclass(frozen=True)
class PageCell:
    """A cell: what it says, in small print after it, what it is sorted by, and a class of the style sheet."""

    text: str
    small: str = ""
    value: float | str | None = None
    kind: str = ""

    @property
    def key(self) -> str:
        """What it is sorted by, as the script reads it."""
        value = self.text if self.value is None else self.value
        return repr(value) if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class PageTable:
    """A table that can be sorted by its headings; the first `names` columns name the row.

    `go` has, for each row, the point whose clients a button shows, or None.
    """

    caption: str
    headers: Sequence[str]
    rows: Sequence[Sequence[PageCell]]
    names: int = 1
    go: Sequence[int | None] = ()

    @property
    def filtered(self) -> bool:
        """Whether it has so many rows that one wants to look for some."""
        return len(self.rows) > FILTERED

    def kind(self, column: int) -> str:
        """What a column holds: names of rows, words, or numbers."""
        if column < self.names:
            return "name"
        return "words" if any(row[column].kind in SIGNS for row in self.rows) else "number"


def of_texts(caption: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> PageTable:
    """A run's table, whose cells are words; less than promised is marked `!`."""
    cells = [
        [PageCell(text, value=_sorted_by(text), kind="low" * text.startswith("! ")) for text in row] for row in rows
    ]
    return PageTable(caption, [header.replace("\n", " ") for header in headers], cells)


def _sorted_by(text: str) -> float | str:
    plain = text.removeprefix("! ").replace(",", "").removesuffix("%")
    if plain == "-":
        return math.nan
    try:
        return math.inf if plain == "infinite" else float(plain)
    except ValueError:
        return text


def of_block(block: Block, go: Sequence[int | None] = ()) -> PageTable:
    """A block of a sweep's tables, every row of it, with the words of the terminal."""
    headers = [*block.axes, *(column.header.replace("\n", " ") for column in block.columns)]
    rows = []
    for row in block.rows:
        cells = [PageCell(label, value=_sorted_by(label)) for label in row.labels]
        for index, (mark, interval) in enumerate(row.cells):
            text, *small = [line.plain for line in cell_text(block, row, index, stacked=True).split("\n")]
            cells.append(PageCell(text, " ".join(small), interval.mean, "sure" * bool(mark)))
        rows.append(cells)
    caption = block.heading.removesuffix(":") or "Every combination of the axes"
    return PageTable(caption, headers, rows, len(block.axes), go)


def lost(points: pd.DataFrame, axes: Sequence[str], reasons: Mapping[str, str]) -> PageTable:
    """The points without a result, each with its reason."""
    names = axis_names(axes)
    rows = []
    for row in points[points["status"] != "ok"].to_dict("records"):
        where = ", ".join(f"{names[axis]} {shown(row[axis])}" for axis in axes)
        reason = (reasons.get(row["run"], "").strip().splitlines() or [""])[-1]
        rows.append([PageCell(where), PageCell(row["status"]), PageCell(reason)])
    return PageTable(f"{count(len(rows), 'point')} without a result", ["point", "status", "why"], rows)


# -------------------------------------------------------------------------------------------------------- the verdicts

_Column = tuple[str, str, Callable[[float], str]]  # metric, header, how it is shown


def verdicts(some: Sequence[Standing], points: pd.DataFrame) -> PageTable:
    """A row a strategy: whether each promise is kept, and averages over the worlds that all have."""
    promised = any(one.promises for one in some)
    columns = [column for column in _columns(points, promised) if over.has(points, column[0])]
    headers = ["strategy", *["promise to all clients together", "promise to each client", "coverage"] * promised]
    caption = "Who kept the promise; numbers are averages over worlds, the worst client's is its lowest"
    rows = [_row(one, columns, promised) for one in some]
    return PageTable(caption, [*headers, *(header for _, header, _ in columns)], rows)


def _columns(points: pd.DataFrame, promised: bool) -> Iterator[_Column]:
    size = over.size_metric(points)
    if promised and over.judged(points) == over.WORST_TESTED:
        yield over.WORST_TESTED, "lowest worst client (30+)", percent
    yield size, "interval length" if size == over.LENGTH else "set size", number
    yield over.BYTES_UP, "bytes up", size_of
    yield over.PAYLOAD, "handed out", size_of
    if not promised or over.has(points, over.PAYLOAD):
        yield over.ACCURACY, "accuracy", percent
        yield over.RMSE, "RMSE", number


def _row(one: Standing, columns: Sequence[_Column], promised: bool) -> list[PageCell]:
    row = [PageCell(one.name)]
    if promised:
        marked, mean = one.average.surely_below(over.COVERAGE), one.size(over.COVERAGE)
        coverage = PageCell(f"{'! ' * marked}{percent(mean)}", "", mean, "sure" * marked)
        row += [_verdict(one.all_clients), _verdict(one.each), coverage]
    for metric, _, show in columns:
        cells = over.lowest(one.worlds, metric) if metric == over.WORST_TESTED else [one.average]
        value = cells[0].of(metric).mean if cells else math.nan
        row.append(PageCell(show(round(value) if show is size_of and value == value else value), value=value))
    return row


def _verdict(verdict: Verdict) -> PageCell:
    kind, words = verdict
    return PageCell(f"{SIGNS[kind]} {words}", value=f"{kind} {words}", kind=kind)
