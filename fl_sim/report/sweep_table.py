"""The tables of a sweep and of a comparison: means over seeds with their intervals, fitted to the terminal's width."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from fl_sim.report import sweep_points as over
from fl_sim.report.intervals import LEVEL, Interval, paired_differences
from fl_sim.report.payload import share
from fl_sim.report.sweep_labels import is_of_learn, of_models
from fl_sim.report.sweep_points import STRATEGIES, Cell, axis_names, cells, shown
from fl_sim.report.table import bullets as bullets
from fl_sim.report.wording import number, size_of

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
        if self.unit == "share":
            return f"{100 * value:.1f}{unit}"
        if self.unit == "small share":
            return share(value).removesuffix("" if unit else "%")
        return size_of(value).removesuffix(" bytes") if self.unit == "bytes" else number(value)


@dataclass(frozen=True)
class Row:
    """A combination of the axes' values."""

    labels: Sequence[str]
    found: Sequence[tuple[str, Interval]]  # a mark and an interval for each column


@dataclass(frozen=True)
class Block:
    """A table: what stands above it, the names of the axes, and sections of rows."""

    heading: str
    axes: Sequence[str]
    columns: Sequence[Column]
    sections: Sequence[Sequence[Row]]
    seeds: int


def summary(points: pd.DataFrame, axes: Sequence[str], title: str) -> RenderableType:
    """A row for each combination of the axes but the seed; where they are too many, those that tell most."""
    found, columns, said = cells(points, axes), list(_columns(points)), ""
    sections = [found]
    if columns and len(found) > MOST_ROWS:
        sections = over.telling(points, axes, [column.metric for column in columns], MOST_ROWS)
        said = (
            f"{len(found)} rows are too many to show. Above the gap, averages over all worlds; below it, the worlds "
            f"where the {_lost_most(points)}. All rows: {ALL_ROWS}"
        )
    blocks = [_block(points, axes, columns, sections), *_handed_out(points, axes)] if columns else []
    return _Report(title, blocks, said, points, axes)


def _lost_most(points: pd.DataFrame) -> str:
    what = {over.RMSE: "RMSE is largest", over.ACCURACY: "accuracy is smallest", over.COVERAGE: "coverage is smallest"}
    return what.get(over.judged(points), "worst client of 30 or more test points stands lowest")


def comparison(points: pd.DataFrame, axes: Sequence[str], title: str) -> RenderableType:
    """A row a strategy, and how the others differ from the first on the same worlds and seeds."""
    columns, said, whole = list(_columns(points)), "", (points, axes)
    if not columns:
        return _Report(title, [], said, *whole)
    if len(cells(points, axes)) > MOST_ROWS:
        worlds = len(cells(points, [axis for axis in axes if axis not in STRATEGIES]))
        said = f"Averages over {worlds} worlds are shown. All rows: {ALL_ROWS}"
        points = over.over_worlds(points, axes, [column.metric for column in columns])
        axes = [axis for axis in axes if axis in (*STRATEGIES, "seed")]
    blocks = [_block(points, axes, columns, [cells(points, axes)]), *_differences(points, axes, columns)]
    return _Report(title, [*blocks, *_handed_out(*whole)], said, *whole)


def blocks(points: pd.DataFrame, axes: Sequence[str]) -> list[Block]:
    """Every row that `summary` and `comparison` have, where there is room for all: a row for each of `cells(points,
    axes)`, the differences to the first strategy where one is swept, and what was handed out."""
    columns = list(_columns(points, trust=True))
    if not columns:
        return []
    first = _block(points, axes, columns, [cells(points, axes)])
    differences = _differences(points, axes, columns) if any(axis in STRATEGIES for axis in axes) else ()
    return [first, *differences, *_handed_out(points, axes, most=len(points))]


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


def _block(
    points: pd.DataFrame, axes: Sequence[str], columns: Sequence[Column], sections: Sequence[Sequence[Cell]]
) -> Block:
    named, seeds = [axis for axis in axes if axis != "seed"], over.num_seeds(points)
    rows = [[_row(cell, named, columns) for cell in section] for section in sections]
    heading = over.over_seeds(seeds) if seeds > 1 else ""
    return Block(heading, [axis_names(axes)[axis] for axis in named], columns, rows, seeds)


def _handed_out(points: pd.DataFrame, axes: Sequence[str], most: int = MOST_ROWS) -> Iterator[Block]:
    """The block of what was handed out and what came of it; none where nothing was, or learning is not swept."""
    if not (over.has(points, over.PAYLOAD) and any(map(is_of_learn, axes))):
        return
    points, axes = of_models(points, axes)
    tiers = [str(column) for column in points if str(column).startswith(over.TIERS)]
    by_tier = {column.split(".")[2]: column for column in tiers if column.endswith(".accuracy")}
    columns = [
        Column("payload\nbytes", over.PAYLOAD, 0, "bytes"),
        Column("kept", over.KEPT, 5, "small share"),
        *(Column(f"accuracy\n{tier}", column, 1) for tier, column in by_tier.items() if len(by_tier) > 1),
        *[Column("accuracy", over.ACCURACY, 1)] * (len(by_tier) < 2),
        Column("worst\nclient", over.LEAST, 3),
        Column("teacher", over.TEACHER, 4),
    ]
    found = cells(points, axes)
    block = _block(points, axes, [c for c in columns if over.has(points, c.metric)], [found[:most]])
    cut = f" (the first {most} of {len(found)} rows; all rows: {ALL_ROWS})" * (len(found) > most)
    yield replace(block, heading=f"What was handed out to every client, and the accuracy of its models{cut}:")


def _row(cell: Cell, axes: Sequence[str], columns: Sequence[Column]) -> Row:
    marks = ["!" * (column.promised and cell.surely_below(column.metric)) for column in columns]
    found = [cell.of(column.metric) for column in columns]
    return Row([shown(cell.key.get(axis, "(all)")) for axis in axes], list(zip(marks, found, strict=True)))


def _differences(points: pd.DataFrame, axes: Sequence[str], columns: Sequence[Column]) -> Iterator[Block]:
    """The block of differences to the first strategy; none where there is no other."""
    between, named = "calibrate" if "calibrate" in axes else "learn", [axis for axis in axes if axis != "seed"]
    reference = str(points[between].iloc[0])
    compared = [column for column in columns if column.compared]
    tables = [paired_differences(points, axes, between, column.metric, reference) for column in compared]
    told = [k for k, table in enumerate(tables) if compared[k].metric == over.COVERAGE or table["mean"].any()]
    if not told or tables[0].empty:
        return
    chosen = [replace(compared[k], decimals=_decimals(points, compared[k])) for k in told]
    keys = tables[0][named].itertuples(index=False)
    found = [tables[k][["mean", "low", "high", "pairs"]].itertuples(index=False) for k in told]
    rows = [
        Row([shown(value) for value in key], [("", Interval(*one)) for one in row])
        for key, *row in zip(keys, *found, strict=True)
    ]
    heading = f"Difference to {reference} on the same world and seed, shares in percentage points:"
    yield Block(heading, [axis_names(axes)[axis] for axis in named], chosen, [rows], over.num_seeds(points))


def _decimals(points: pd.DataFrame, column: Column) -> int:
    """One more than the numbers themselves have."""
    found = over.values(points, column.metric)
    largest = max(np.abs(found[np.isfinite(found)]), default=0.0)
    return 1 if column.unit == "share" else max(0, 3 - math.floor(math.log10(largest or 1)))


# ---------------------------------------------------------------------------------------------------------- rendering


@dataclass(frozen=True)
class _Report:
    title: str
    blocks: Sequence[Block]
    said: str
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
            columns, stacked = _fitted(block, options.max_width)
            metrics |= {column.metric for column in columns}
            hidden += [column.header for column in block.columns if column not in columns]
            yield ""
            if block.heading:
                yield Text(block.heading)
            yield _table(block, columns, stacked)
        yield ""
        yield bullets([*filter(None, [self.said]), *notes(self.points, self.axes, metrics), *_hidden(hidden)])


def _hidden(headers: Sequence[str]) -> Iterator[str]:
    if headers:
        named = ", ".join(dict.fromkeys(header.replace("\n", " ") for header in headers))
        yield f"Left out at this width: {named}. A wider terminal shows more, {ALL_ROWS} everything."


def _fitted(block: Block, width: int) -> tuple[list[Column], bool]:
    """The columns that the width has room for, and whether intervals stand below their means."""
    columns = list(block.columns)
    if _width(block, columns, stacked=False) <= width:
        return columns, False
    while _width(block, columns, stacked=True) > width and len(columns) > 2:
        columns.remove(max(columns, key=lambda column: column.rank))
    return columns, True


def _width(block: Block, columns: Sequence[Column], *, stacked: bool) -> int:
    rows = [row for section in block.sections for row in section]
    widths = [
        min(LONGEST, max(len(text) for text in (name, *(row.labels[index] for row in rows))))
        for index, name in enumerate(block.axes)
    ]
    for column in columns:
        index = block.columns.index(column)
        lines = [line for row in rows for line in cell_text(block, row, index, stacked).plain.split("\n")]
        widths.append(max(map(len, (*lines, *column.header.split("\n")))))
    return sum(widths) + GAP * (len(widths) - 1)


def _table(block: Block, columns: Sequence[Column], stacked: bool) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0), header_style="")
    for name in block.axes:
        table.add_column(name, overflow="fold", max_width=LONGEST)
    for column in columns:
        table.add_column(column.header, justify="right", no_wrap=True)
    places = [block.columns.index(column) for column in columns]
    for section in block.sections:
        for row in section:
            table.add_row(*row.labels, *[cell_text(block, row, index, stacked) for index in places])
        table.add_section()
    return table


def cell_text(block: Block, row: Row, index: int, stacked: bool) -> Text:
    """`! 93.4% [92.1, 94.5]`; without an interval where every seed has the same value."""
    (mark, found), column = row.found[index], block.columns[index]
    if math.isnan(found.mean):
        return Text("-")
    text = Text(f"{mark} {column.text(found.mean)}".strip(), style="bold red" if mark else "")
    if found.known and not math.isclose(found.low, found.high, abs_tol=1e-12):
        text.append(f"{SEPARATOR[stacked]}[{column.text(found.low, '')}, {column.text(found.high, '')}]", style="dim")
    elif block.seeds > 1 and not found.known:
        text.append(f"{SEPARATOR[stacked]}(1 seed)", style="dim")
    return text


# -------------------------------------------------------------------------------------------------------------- notes


def notes(points: pd.DataFrame, axes: Sequence[str], metrics: Collection[str]) -> Iterator[str]:
    """What a reader has to know of the columns with these metrics."""
    seeds = over.num_seeds(points)
    if over.COVERAGE in metrics:
        if seeds > 1:
            yield f"! marks a coverage below the promised one by a {100 * LEVEL:g}% t interval over the seeds."
        else:
            yield "One seed: no mean is marked; fl-sim certify judges single clients."
    smallest = "the smallest coverage of a client"
    worst = [f"worst: {smallest}"] * (over.WORST in metrics)
    worst += [f"worst (30+): {smallest} with at least 30 test points"] * (over.WORST_TESTED in metrics)
    if worst:
        yield f"{'; '.join(worst)}. {over.OF_MANY}, so it has no mark."
    trusted = ["ECE: expected calibration error over 15 bins"] * (over.ECE in metrics)
    trusted += ["PHI: by how much the calibrator lowered the Brier score"] * (over.PHI in metrics)
    if trusted:
        yield f"{'; '.join(trusted)}."
    if over.DISAGREEMENT in metrics:
        yield "disagreement: the squared difference of two clients' predictions, the mean over pairs and common rows."
    handed = ["kept: the share of the reference images"] * (over.KEPT in metrics)
    handed += ["worst client: the smallest accuracy of a client, however few its test points"] * (over.LEAST in metrics)
    if handed:
        yield f"{'; '.join(handed)}."
    yield from filter(None, [over.few_seeds(seeds)] * bool(metrics))
    yield from over.lost(points, axes)
    if metrics and (points["status"] != "ok").any():
        yield "A row rests on the seeds that are left, an average over worlds on those where no strategy is missing."
