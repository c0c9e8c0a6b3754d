"""The strategies of a sweep side by side: whether each promise is kept, at what size and cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pandas as pd

from fl_sim.report import sweep_points as over
from fl_sim.report.page import html
from fl_sim.report.page.answer import Answer, told_of_all, told_of_each
from fl_sim.report.page.html import TableCell
from fl_sim.report.page.standings import Standing
from fl_sim.report.wording import number, percent, size_of

_Column = tuple[str, str, Callable[[float], str]]  # metric, header, how it is shown

_SIGNS = {"broken": "\N{BALLOT X}", "kept": "\N{CHECK MARK}", "open": "?"}
_RULES = (
    "<details><summary>By which rules</summary><p>All clients together: a world is marked where a 95% t interval over "
    "the seeds ends below the promise (! in the table); the promise is called broken where more worlds are marked "
    "than chance would mark 95 times in 100, or the average over worlds is marked. Each client: the exact tests of "
    "fl-sim certify, Holm over the clients of a point, Bonferroni over the points of a strategy; broken where that p "
    "is at most 5%. What is not shown to be broken may still be. Instead, the strategy of the smallest sets is named "
    "of those for which neither is shown to be broken and whose average is below the promise by no more than a tenth "
    "of alpha.</p></details>"
)


def glance(said: Answer, points: pd.DataFrame) -> str:
    """A table with a row a strategy, averages over the worlds that all have; nothing where there is no number."""
    if not said.standings:
        return ""
    promised = any(one.promises for one in said.standings)
    columns = [column for column in _columns(points, promised) if over.has(points, column[0])]
    headers = ["strategy", *["promise to all clients together", "promise to each client", "coverage"] * promised]
    rows = [_row(one, columns, promised) for one in said.standings]
    caption = "The strategies at a glance; numbers are averages over worlds, the worst client's is its lowest"
    table = html.table(caption, [*headers, *(header for _, header, _ in columns)], 1, rows)
    return table + _RULES * promised


def _columns(points: pd.DataFrame, promised: bool) -> Iterator[_Column]:
    size = over.size_metric(points)
    if promised and over.judged(points) == over.WORST_TESTED:
        yield over.WORST_TESTED, "lowest worst client (30+)", percent
    yield size, "interval length" if size == over.LENGTH else "set size", number
    yield over.BYTES_UP, "bytes up", _bytes
    yield over.PAYLOAD, "handed out", _bytes
    if not promised or over.has(points, over.PAYLOAD):
        yield over.ACCURACY, "accuracy", percent
        yield over.RMSE, "RMSE", number


def _bytes(value: float) -> str:
    return size_of(round(value))


def _row(one: Standing, columns: list[_Column], promised: bool) -> list[TableCell]:
    row = [TableCell(one.name)]
    if promised:
        verdicts = [told_of_all(one), told_of_each(one)]
        row += [TableCell(f"{_SIGNS[kind]} {text}", value=f"{kind} {text}", kind=kind) for kind, text in verdicts]
        row.append(_mean(one.size(over.COVERAGE), percent, "!" * one.average.surely_below(over.COVERAGE)))
    for metric, _, show in columns:
        cell = one.least(metric) if metric == over.WORST_TESTED else one.average
        row.append(_mean(cell.of(metric).mean if cell else math.nan, show))
    return row


def _mean(value: float, show: Callable[[float], str], mark: str = "") -> TableCell:
    text = "-" if math.isnan(value) else f"{mark} {show(value)}".strip()
    return TableCell(text, value=float(value), kind="sure" * bool(mark))
