"""What a figure of a sweep shows: its panels, their marks, and which of them lie below what they are held against."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from fl_sim.report import sweep_points as over
from fl_sim.report.figures.style import LOOKS, look
from fl_sim.report.intervals import LEVEL, Interval, paired_differences
from fl_sim.report.sweep_points import Cell, cells, strategy
from fl_sim.report.wording import number, percent

_KNOWN = ("fedwq-cp", "unweighted", "local", "pooled")  # these look the same in every figure
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.2, 1.4)), (0, (5, 1.5, 1.2, 1.5)), (0, (9, 2)))


@dataclass(frozen=True)
class Measure:
    """What a row of panels shows, and its height in inches."""

    metric: str
    label: str
    height: float
    promised: bool = False

    @property
    def is_share(self) -> bool:
        """Whether it is shown in percent."""
        return self.promised or self.metric.startswith(over.ACCURACY) or self.metric == over.LABELS_DIFFER

    def text(self, value: float) -> str:
        """`93.4%` or `1.51`."""
        return percent(value) if self.is_share else number(value)


@dataclass(frozen=True)
class Mark:
    """A cell in a row of panels; `lost` where it lies below what it is held against."""

    cell: Cell
    found: Interval
    lost: bool


@dataclass(frozen=True)
class Plot:
    """What one figure shows: `x` and `columns` are axes, or None; `strategies` are those of the whole sweep."""

    points: pd.DataFrame
    axes: Sequence[str]
    strategies: Sequence[str]
    measures: Sequence[Measure]
    x: str | None
    columns: str | None
    title: str
    said: str

    @cached_property
    def cells(self) -> list[Cell]:
        """All cells, in the order of the points."""
        return cells(self.points, self.axes)

    @cached_property
    def marks(self) -> dict[Measure, list[Mark]]:
        """The cells that have a finite value, for each measure."""
        return {measure: list(_marks(self, measure)) for measure in self.measures}

    def style(self, cell: Cell) -> dict[str, Any]:
        """Colour, marker and dash of the cell's strategy."""
        index = self._looks[strategy(cell.key)]
        return {**look(index), "linestyle": _DASHES[index % len(_DASHES)]}

    @cached_property
    def _looks(self) -> dict[str, int]:
        """The index of each strategy's look: the known have their own, the others what is left, in their order."""
        own: dict[int, str] = {}
        for name in sorted(self.strategies, key=lambda name: name not in _KNOWN):  # `local` before `local(...)`
            base = name.partition("(")[0]
            if base in _KNOWN:
                own.setdefault(_KNOWN.index(base), name)
        order = itertools.chain(range(len(_KNOWN), LOOKS), range(len(_KNOWN)), itertools.count(LOOKS))
        free = (index for index in order if index not in own)
        found = {name: index for index, name in own.items()}
        return found | {name: next(free) for name in self.strategies if name not in found}

    def place(self, cell: Cell) -> float:
        """Where the cell stands on the x axis."""
        return float(cell.key[self.x or ""])

    def places(self) -> list[float]:
        """The values of the x axis."""
        return sorted({float(value) for value in self.points[self.x or ""]})

    @cached_property
    def first_cells(self) -> list[Cell]:
        """The first cell of each strategy that has a mark."""
        first: dict[str, Cell] = {}
        for mark in (mark for marks in self.marks.values() for mark in marks):
            first.setdefault(strategy(mark.cell.key), mark.cell)
        return sorted(first.values(), key=lambda cell: self.strategies.index(strategy(cell.key)))

    @property
    def alone(self) -> bool:
        """Whether there is only one strategy to be drawn."""
        return len(self.first_cells) == 1


def _marks(plot: Plot, measure: Measure) -> Iterator[Mark]:
    below = _below_local(plot, measure)
    for cell in plot.cells:
        found = cell.of(measure.metric)
        if math.isfinite(found.mean):
            lost = _below(cell, measure) if below is None else _key(plot, cell) in below
            yield Mark(cell, found, lost)


def local_of(points: pd.DataFrame) -> str | None:
    """The strategy that owes no client to another: what it loses is what the smallest of many loses by chance."""
    labels = list(points["calibrate"].unique()) if "calibrate" in points else []
    return next((str(label) for label in labels if str(label).partition("(")[0] == "local"), None)


def _below(cell: Cell, measure: Measure) -> bool:
    """Whether it is below the promise by a t interval over the seeds."""
    return measure.promised and cell.surely_below(measure.metric)


def _below_local(plot: Plot, measure: Measure) -> set[tuple[Any, ...]] | None:
    """The cells whose worst client is below that of `local`, by a t interval of the paired differences."""
    local = local_of(plot.points)
    if local is None or "calibrate" not in plot.axes or measure.metric not in (over.WORST, over.WORST_TESTED):
        return None
    table = paired_differences(plot.points, plot.axes, "calibrate", measure.metric, local)
    return {tuple(row[axis] for axis in _named(plot)) for _, row in table[table["upper"] < 0].iterrows()}


def _named(plot: Plot) -> list[str]:
    return [axis for axis in plot.axes if axis != "seed"]


def _key(plot: Plot, cell: Cell) -> tuple[Any, ...]:
    return tuple(cell.key[axis] for axis in _named(plot))


# -------------------------------------------------------------------------------------------------------------- looks


def handles(plot: Plot) -> list[Line2D]:
    """The key: each strategy's line and mark, and the least that its worst client has anywhere in the figure."""
    found = least(plot)
    open_mark: dict[str, Any] = {"markersize": 5.5, "markerfacecolor": "white", "linewidth": 1.4}
    names = {strategy(cell.key): plot.style(cell) for cell in plot.first_cells}
    return [
        Line2D([], [], label=f"{name} ({found[name]})" if name in found else name, **open_mark | style)
        for name, style in names.items()
    ]


def least(plot: Plot) -> dict[str, str]:
    """Of each strategy, the worst client's coverage where it is lowest; nothing where promises differ."""
    worst = next((m for m in plot.measures if m.metric in (over.WORST, over.WORST_TESTED)), None)
    if worst is None or plot.alone or len(promises(plot.marks[worst])) != 1:
        return {}
    found: dict[str, float] = {}
    for mark in plot.marks[worst]:
        name = strategy(mark.cell.key)
        found[name] = min(found.get(name, math.inf), mark.found.mean)
    return {name: percent(value) for name, value in found.items()}


def limits(measure: Measure, marks: Sequence[Mark]) -> tuple[float, float]:
    """Ends of the axis of a measure: all intervals and promises, with some room, and not too close a look."""
    ends = [end for mark in marks for end in mark.found if math.isfinite(end)]
    if measure.promised:
        ends += [1 - mark.cell.alpha for mark in marks if mark.cell.alpha == mark.cell.alpha]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    least = 0.03 if measure.is_share else 0.1 * max(abs(low), abs(high), 1e-9)
    room = 0.07 * max(high - low, least) + max(0.0, least - (high - low)) / 2
    return low - room, min(high + room, 1.01) if measure.is_share else high + room


def promises(marks: Sequence[Mark]) -> list[float]:
    """The coverages that were promised to these cells, each once."""
    alphas = {mark.cell.alpha for mark in marks}
    return sorted({round(1 - alpha, 12) for alpha in alphas if alpha == alpha})


def promise(promised: float) -> str:
    """`95% promised`."""
    return f"{100 * promised:.4g}% promised"


def share_ticks(measure: Measure) -> FuncFormatter:
    """Labels of the axis of a measure."""
    return FuncFormatter(lambda value, _: f"{100 * value:.4g}%" if measure.is_share else f"{value:g}")


# -------------------------------------------------------------------------------------------------------------- words


def subtitle(plot: Plot) -> str:
    """The scenario, and what is special about this figure."""
    return "; ".join(filter(None, [plot.title, plot.said]))


def caption(plot: Plot) -> str:
    """What lines, bands, fillings and shades are."""
    said = list(_intervals_said(plot))
    if any(measure.promised for measure in plot.measures):
        said += ["Dashed: what was promised; shaded: less than that.", *worst_said(plot), *filled_said(plot)]
    infinite = any(np.isinf(over.values(plot.points, measure.metric)).any() for measure in plot.measures)
    said += ["Infinite lengths are not shown."] * infinite
    return " ".join([*said, *over.lost(plot.points, plot.axes, 3)])


def _intervals_said(plot: Plot) -> Iterator[str]:
    seeds = over.num_seeds(plot.points)
    if seeds > 1:
        yield f"{'Bands' if plot.x else 'Bars'}: {100 * LEVEL:g}% bootstrap intervals of the mean over {seeds} seeds."
    yield from filter(None, [over.few_seeds(seeds)])


def worst_said(plot: Plot) -> Iterator[str]:
    """Which clients the worst is sought among."""
    metrics = [measure.metric for measure in plot.measures]
    if over.WORST_TESTED in metrics:
        yield "Worst client: the smallest coverage of a client with at least 30 test points."
    elif over.WORST in metrics:
        yield "Worst client: the smallest coverage of a client, however few its test points."


def filled_said(plot: Plot) -> Iterator[str]:
    """Which marks are filled."""
    if over.num_seeds(plot.points) < 2:
        yield "No mark is filled: it takes several seeds to tell that one is below the promise."
        return
    surely = f"Filled: below the promise also by a {100 * LEVEL:g}% t interval over the seeds"
    local = local_of(plot.points)
    if local is None or plot.alone:
        yield f"{surely}. The smallest coverage of many clients is below it under any method."
    else:
        yield (
            f"{surely}; for the worst client, below {local}'s on the same world and seed, because the "
            "smallest coverage of many clients is below the promise under any method."
        )
