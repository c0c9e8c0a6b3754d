"""The tables of a sweep and of a comparison: means over seeds with their intervals, fitted to the terminal's width."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from fl_sim.report import sweep_points as over
from fl_sim.report.intervals import Interval, paired_differences
from fl_sim.report.numbers import number, percent, size_of, small_percent
from fl_sim.report.sweep_labels import is_of_learn, of_models
from fl_sim.report.sweep_points import STRATEGIES, Cell, axis_names, cells, shown
from fl_sim.report.terminal import bullets, table_of

MOST_ROWS, LONGEST = 40, 24  # rows shown at once, and letters of an axis' value
ALL_ROWS = "fl-sim results DIR --format csv"
GAP, SEPARATOR = 2, (" ", "\n")  # between columns; between a mean and its interval, side by side or stacked


@dataclass(frozen=True)
class Column:
    """A metric in a table."""

    header: str
    metric: str
    rank: int  # the column of the highest rank is the first to go where there is no room
    unit: str = "share"
    promised: bool = False
    compared: bool = True  # shown as a difference between strategies
    decimals: int | None = None  # of a difference, which has a sign

    def text(self, value: float, unit: str = "%") -> str:
        """A value as it is printed."""
        if self.decimals is not None:
            return f"{(100 if self.unit == 'share' else 1) * value:+.{self.decimals}f}"
        if "share" in self.unit:
            text = percent(value) if self.unit == "share" else small_percent(value)
            return text.removesuffix("" if unit else "%")
        return size_of(value).removesuffix(" bytes") if self.unit == "bytes" else number(value)


@dataclass(frozen=True)
class Row:
    """A combination of the axes' values: their labels, and for each column a mark and an interval."""

    labels: Sequence[str]
    cells: Sequence[tuple[str, Interval]]


@dataclass(frozen=True)
class Block:
    """A table: what stands above it, the names of the axes, and its rows."""

    heading: str
    axes: Sequence[str]
    columns: Sequence[Column]
    rows: Sequence[Row]
    seeds: int


def summary(points: pd.DataFrame, axes: Sequence[str], title: str, *, compared: bool = False) -> RenderableType:
    """A row for each combination of the axes but the seed, or where these are too many, averages over worlds; for a
    comparison also how the others differ from the first on the same worlds and seeds."""
    columns, averaged, shown_points, shown_axes = list(_columns(points)), "", points, list(axes)
    if columns and len(cells(points, axes)) > MOST_ROWS:
        worlds = len(cells(points, [axis for axis in axes if axis not in STRATEGIES]))
        averaged = f"Averages over {worlds} worlds are shown. {over.finding(points, axes)}. All rows: {ALL_ROWS}"
        shown_points = over.over_worlds(points, axes, [column.metric for column in columns])
        shown_axes = [axis for axis in axes if axis in (*STRATEGIES, "seed")]
    blocks = [_block(shown_points, shown_axes, columns)] if columns else []
    if columns and compared:
        blocks += _differences(shown_points, shown_axes, columns)
    return _Report(title, [*blocks, *_handed_out(points, axes)], averaged, points, axes)


def blocks(points: pd.DataFrame, axes: Sequence[str]) -> list[Block]:
    """Every row, where there is room for all: a row for each of `cells(points, axes)`, the differences to the first
    strategy where one is swept, and what was handed out."""
    columns = list(_columns(points, trust=True))
    if not columns:
        return []
    differences = _differences(points, axes, columns) if any(axis in STRATEGIES for axis in axes) else ()
    return [_block(points, axes, columns), *differences, *_handed_out(points, axes, most=len(points))]


# ------------------------------------------------------------------------------------------------------ what is shown


def _columns(points: pd.DataFrame, *, trust: bool = False) -> Iterator[Column]:
    """The columns whose metric any point has; how far probabilities can be trusted where that is asked for, or where a
    calibrator moved them."""
    tested = over.worst_metric(points) == over.WORST_TESTED
    regression = over.size_metric(points) == over.LENGTH
    for column in (
        Column("coverage", over.COVERAGE, 0, promised=True),
        Column("client\nmean", over.CLIENT_MEAN, 5, promised=True, compared=False),
        Column("worst\n(30+)", over.WORST_TESTED, 1 if tested else 6, compared=tested),
        Column("worst", over.WORST, 6 if tested else 1, compared=not tested),
        Column("length" if regression else "set size", over.size_metric(points), 2, "number"),
        Column("accuracy", over.ACCURACY, 3),
        Column("RMSE", over.RMSE, 3, "number"),
        Column("bytes\nup", over.BYTES_UP, 4, "bytes", compared=False),
        Column("labels\ndiffer", over.LABELS_DIFFER, 5),
        Column("dis-\nagreement", over.DISAGREEMENT, 4, "number"),
        *_trust(points, trust),
    ):
        if over.has(points, column.metric):
            yield column


def _trust(points: pd.DataFrame, asked: bool) -> Iterator[Column]:
    improved = over.has_calibrator(points)
    if asked or improved:
        yield Column("ECE", over.ECE, 7)
        yield Column("Brier", over.BRIER, 8, "number")
    if improved:
        yield Column("PHI", over.PHI, 9, "number")


def _block(points: pd.DataFrame, axes: Sequence[str], columns: Sequence[Column], most: int | None = None) -> Block:
    named, seeds = [axis for axis in axes if axis != "seed"], over.num_seeds(points)
    rows = [_row(cell, named, columns) for cell in cells(points, axes)[:most]]
    heading = f"mean [{over.over_seeds(seeds)}]" if seeds > 1 else ""
    return Block(heading, [axis_names(axes)[axis] for axis in named], columns, rows, seeds)


def _handed_out(points: pd.DataFrame, axes: Sequence[str], most: int = MOST_ROWS) -> Iterator[Block]:
    """The block of what was handed out and what came of it; none where nothing was, or learning is not swept."""
    if not (over.has(points, over.PAYLOAD) and any(map(is_of_learn, axes))):
        return
    points, axes = of_models(points, axes)
    by_tier = over.tier_accuracies(points)
    columns = [
        Column("payload\nbytes", over.PAYLOAD, 0, "bytes"),
        Column("kept", over.KEPT, 5, "small share"),
        *(Column(f"accuracy\n{tier}" if tier else "accuracy", column, 1) for tier, column in by_tier.items()),
        Column("worst\nclient", over.LEAST, 3),
        Column("teacher", over.TEACHER, 4),
    ]
    block = _block(points, axes, [c for c in columns if over.has(points, c.metric)], most)
    many = len(cells(points, axes))
    cut = f" (the first {most} of {many} rows; all rows: {ALL_ROWS})" * (many > most)
    yield replace(block, heading=f"What was handed out to every client, and the accuracy of its models{cut}:")


def _row(cell: Cell, axes: Sequence[str], columns: Sequence[Column]) -> Row:
    marks = ["!" * (column.promised and cell.surely_below(column.metric)) for column in columns]
    intervals = [cell.of(column.metric) for column in columns]
    return Row([shown(cell.key[axis]) for axis in axes], list(zip(marks, intervals, strict=True)))


def _differences(points: pd.DataFrame, axes: Sequence[str], columns: Sequence[Column]) -> Iterator[Block]:
    """The block of differences to the first strategy; none where there is no other."""
    between, named = "calibrate" if "calibrate" in axes else "learn", [axis for axis in axes if axis != "seed"]
    reference = str(points[between].iloc[0])
    compared = [column for column in columns if column.compared]
    tables = [paired_differences(points, axes, between, column.metric, reference) for column in compared]
    kept = [
        (replace(column, decimals=_decimals(points, column)), table)
        for column, table in zip(compared, tables, strict=True)
        if column.metric == over.COVERAGE or table["mean"].any()
    ]
    if not kept or tables[0].empty:
        return
    keys = tables[0][named].itertuples(index=False)
    intervals = [table[["mean", "low", "high", "pairs"]].itertuples(index=False) for _, table in kept]
    rows = [
        Row([shown(value) for value in key], [("", Interval(*one)) for one in row])
        for key, *row in zip(keys, *intervals, strict=True)
    ]
    heading = f"Difference to {reference} on the same world and seed, shares in percentage points:"
    names = [axis_names(axes)[axis] for axis in named]
    yield Block(heading, names, [column for column, _ in kept], rows, over.num_seeds(points))


def _decimals(points: pd.DataFrame, column: Column) -> int:
    """One more than the numbers themselves have."""
    numbers = over.values(points, column.metric)
    largest = max(np.abs(numbers[np.isfinite(numbers)]), default=0.0)
    return 1 if column.unit == "share" else max(0, 3 - math.floor(math.log10(largest or 1)))


# ---------------------------------------------------------------------------------------------------------- rendering


@dataclass(frozen=True)
class _Report:
    title: str
    blocks: Sequence[Block]
    averaged: str
    points: pd.DataFrame
    axes: Sequence[str]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(self.title, style="bold")
        hidden: list[str] = []
        metrics: set[str] = set()
        if not self.blocks:
            yield ""
            yield "No point has a result."
        for block in self.blocks:
            columns, stacked = _fitted(block, console, options)
            metrics |= {column.metric for column in columns}
            hidden += [column.header for column in block.columns if column not in columns]
            yield ""
            if block.heading:
                yield Text(block.heading)
            yield _table(block, columns, stacked)
        yield ""
        yield bullets([*filter(None, [self.averaged]), *notes(self.points, self.axes, metrics), *_hidden(hidden)])


def _hidden(headers: Sequence[str]) -> Iterator[str]:
    if headers:
        named = ", ".join(dict.fromkeys(header.replace("\n", " ") for header in headers))
        yield f"Left out at this width: {named}. A wider terminal shows more, {ALL_ROWS} everything."


def _fitted(block: Block, console: Console, options: ConsoleOptions) -> tuple[list[Column], bool]:
    """The columns that the width has room for, and whether intervals stand below their means."""
    columns, stacked = list(block.columns), False

    def needed() -> int:
        return console.measure(_table(block, columns, stacked), options=options.update(width=10_000)).maximum

    if needed() > options.max_width:
        stacked = True
        while needed() > options.max_width and len(columns) > 2:
            columns.remove(max(columns, key=lambda column: column.rank))
    return columns, stacked


def _table(block: Block, columns: Sequence[Column], stacked: bool) -> Table:
    table = table_of(block.axes, [column.header for column in columns], GAP - 1, LONGEST)
    places = [block.columns.index(column) for column in columns]
    for row in block.rows:
        table.add_row(*row.labels, *[cell_text(block, row, index, stacked) for index in places])
    return table


def cell_text(block: Block, row: Row, index: int, stacked: bool) -> Text:
    """`! 93.4% [92.1, 94.5]`; without an interval where every seed has the same value."""
    (mark, interval), column = row.cells[index], block.columns[index]
    if math.isnan(interval.mean):
        return Text("-")
    text = Text(f"{mark} {column.text(interval.mean)}".strip(), style="bold red" if mark else "")
    if interval.known and not math.isclose(interval.low, interval.high, abs_tol=1e-12):
        ends = f"[{column.text(interval.low, '')}, {column.text(interval.high, '')}]"
        text.append(f"{SEPARATOR[stacked]}{ends}", style="dim")
    elif block.seeds > 1 and interval.count == 1:
        text.append(f"{SEPARATOR[stacked]}(1 seed)", style="dim")
    return text


# -------------------------------------------------------------------------------------------------------------- notes


def notes(points: pd.DataFrame, axes: Sequence[str], metrics: Collection[str]) -> Iterator[str]:
    """What a reader has to know of the columns with these metrics."""
    seeds = over.num_seeds(points)
    if over.COVERAGE in metrics:
        if seeds > 1:
            yield "! marks a coverage whose t interval ends below the promise."
        else:
            yield "One seed: no mean is marked; fl-sim certify judges single clients."
    smallest = "the smallest coverage of a client"
    worst = [f"worst: {smallest}"] * (over.WORST in metrics)
    worst += [f"worst (30+): {smallest} with at least 30 test points"] * (over.WORST_TESTED in metrics)
    if worst:
        yield f"{'; '.join(worst)}. {over.OF_MANY}, so it has no mark."
    words = {
        over.ECE: "ECE: expected calibration error over 15 bins.",
        over.PHI: "PHI: by how much the calibrator lowered the Brier score.",
        over.DISAGREEMENT: "disagreement: the squared difference of two clients' predictions, the mean over pairs and "
        "common rows.",
        over.KEPT: "kept: the share of the reference images.",
        over.LEAST: "worst client: the smallest accuracy of a client, however few its test points.",
    }
    yield from (line for metric, line in words.items() if metric in metrics)
    yield from [over.ONE_SEED] * (bool(metrics) and seeds < 2)
    yield from over.lost(points, axes)
    if metrics and (points["status"] != "ok").any():
        yield "A row rests on the seeds that are left, an average over worlds on those where no strategy is missing."
