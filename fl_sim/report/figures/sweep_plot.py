"""What a figure of a sweep shows: its panels, their marks, and which of them break a promise."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axis import Axis
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from fl_sim.report import sweep_points as over
from fl_sim.report.figures.marks import mark, share_axis, ticks
from fl_sim.report.figures.style import line_look
from fl_sim.report.intervals import Interval
from fl_sim.report.numbers import number, percent, promise, promised
from fl_sim.report.sweep_points import STRATEGIES, Cell, cells, strategy

_KNOWN = ("fedwq-cp", "unweighted", "local", "pooled")  # these look the same in every figure
ENOUGH = 3  # values from which an interval decides how far an axis reaches


@dataclass(frozen=True)
class Measure:
    """What a row of panels shows, and its height in inches."""

    metric: str
    label: str
    height: float = 1.3
    promised: bool = False

    @property
    def is_share(self) -> bool:
        """Whether it is shown in percent."""
        name = self.metric.rpartition(".")[2]
        return self.promised or name.startswith("accuracy") or self.metric == over.LABELS_DIFFER

    def text(self, value: float) -> str:
        """`93.4%` or `1.51`."""
        return percent(value) if self.is_share else number(value)

    def axis(self, axis: Axis, most: int = 5) -> None:
        """Ticks and their labels."""
        if self.is_share:
            share_axis(axis, most)
        else:
            axis.set_major_locator(ticks(most))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def size_measure(points: pd.DataFrame, height: float = 1.3) -> Measure:
    """How large the predictions are."""
    metric = over.size_metric(points)
    return Measure(metric, "mean interval length" if metric == over.LENGTH else "mean set size", height)


def worst_measure(points: pd.DataFrame, height: float = 2.0) -> Measure:
    """The coverage of the worst client."""
    metric = over.worst_metric(points)
    tested = " (30+ test points)" if metric == over.WORST_TESTED else ""
    return Measure(metric, f"coverage of the worst\nclient{tested}", height, promised=True)


@dataclass(frozen=True)
class Mark:
    """A cell in a row of panels; `lost` where it is shown to break its promise."""

    cell: Cell
    interval: Interval
    lost: bool


@dataclass(frozen=True)
class Plot:
    """What one figure shows: `x` and `columns` are axes, or None; `strategies` are those of the whole sweep; `joined`
    says that each has places of its own on x, in bytes."""

    points: pd.DataFrame
    axes: Sequence[str]
    strategies: Sequence[str]
    measures: Sequence[Measure]
    x: str | None = None
    columns: str | None = None
    subtitle: str = ""
    joined: bool = False

    @cached_property
    def cells(self) -> list[Cell]:
        """All cells, in the order of the points."""
        return cells(self.points, self.axes)

    @cached_property
    def marks(self) -> dict[Measure, list[Mark]]:
        """The cells that have a finite value, for each measure."""
        return {measure: list(_marks(self, measure)) for measure in self.measures}

    def style(self, name: str) -> dict[str, Any]:
        """Colour, marker and dash of a strategy: its own where it is known, else the next that is free."""
        others = itertools.count(len(_KNOWN))
        looks = {each: _KNOWN.index(each) if each in _KNOWN else next(others) for each in self.strategies}
        return line_look(looks[name])

    @cached_property
    def drawn(self) -> list[str]:
        """The strategies that have a mark."""
        marked = {strategy(one.cell.key) for marks in self.marks.values() for one in marks}
        return [name for name in self.strategies if name in marked]

    def key(self) -> list[Line2D]:
        """Each strategy's line and mark, where there are several."""
        looks = {name: {"linewidth": 1.4} | mark(None) | self.style(name) for name in self.drawn}
        return [Line2D([], [], label=name, **look) for name, look in looks.items()] if len(looks) > 1 else []


def _marks(plot: Plot, measure: Measure) -> Iterator[Mark]:
    for cell in plot.cells:
        interval = cell.of(measure.metric)
        if math.isfinite(interval.mean):
            yield Mark(cell, interval, measure.promised and cell.breaks(measure.metric))


def limits(measure: Measure, marks: Sequence[Mark]) -> tuple[float, float]:
    """Ends of the axis of a measure: all means, promises and intervals of three values or more, with some room, and not
    too close a look."""
    ends = [one.interval.mean for one in marks]
    ends += [end for one in marks if one.interval.count >= ENOUGH for end in one.interval]
    ends += list(promises(marks)) if measure.promised else []
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    least = 0.03 if measure.is_share else 0.1 * max(abs(low), abs(high), 1e-9)
    room = 0.07 * max(high - low, least) + max(0.0, least - (high - low)) / 2
    if measure.is_share:
        return max(low - room, -0.02), min(high + room, 1.01)
    return low - room, high + room


def promises(marks: Sequence[Mark]) -> dict[float, str]:
    """The coverages that were promised to these cells, ascending, each with its name: `95% promised`."""
    alphas = sorted({one.cell.alpha for one in marks if one.cell.is_promised}, reverse=True)
    return {promised(alpha): f"{promise(alpha)} promised" for alpha in alphas}


# --------------------------------------------------------------------------------------------------------------- words


def caption(plot: Plot) -> str:
    """What lines, bands, fillings and shades are."""
    parts = [over.intervals_said(over.num_seeds(plot.points), "Bands" if plot.x else "Bars")]
    if any(measure.promised for measure in plot.measures):
        parts += ["Dashed: what was promised; shaded: less than that.", *worst_said(plot), FILLED]
    infinite = any(np.isinf(over.values(plot.points, measure.metric)).any() for measure in plot.measures)
    parts += ["Infinite lengths are not shown."] * infinite
    return " ".join([*parts, *over.lost(plot.points, plot.axes, 3)])


def worst_said(plot: Plot) -> Iterator[str]:
    """Which clients the worst is sought among."""
    metrics = [measure.metric for measure in plot.measures]
    if over.WORST_TESTED in metrics:
        yield "Worst client: the smallest coverage of a client with at least 30 test points."
    elif over.WORST in metrics:
        yield "Worst client: the smallest coverage of a client, however few its test points."


FILLED = (
    "Filled: shown to break the promise; overall by a t interval over the seeds, to single clients by the exact tests "
    f"of fl-sim certify. {over.OF_MANY}."
)


def varied(points: pd.DataFrame, axes: Sequence[str]) -> list[str]:
    """The axes without strategies that have one value."""
    return [axis for axis in axes if axis not in STRATEGIES or points[axis].nunique() > 1]
