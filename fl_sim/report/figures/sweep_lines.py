"""A sweep over a numeric axis: a row of panels a measure, a column a value of the second axis, a line a strategy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from fl_sim.report import sweep_points as over
from fl_sim.report.figures.marks import beside, mark, promise_lines
from fl_sim.report.figures.sheet import Grid, Words, facets, sheet, widest
from fl_sim.report.figures.style import DASHED, INK, SOFT, WARN
from fl_sim.report.figures.sweep_plot import Mark, Measure, Plot, caption, limits, promises
from fl_sim.report.numbers import promised
from fl_sim.report.sweep_points import axis_names, shown, strategy

LEFT, _TICK = 0.95, 0.28  # inches beside the panels, and of a tick's label
_HINTS = {"clients.concentration": " (smaller: more unequal)"}


def lines(plot: Plot) -> Figure:
    """The figure; strategies are named in its key."""
    columns, names = _columns(plot), [name for m in plot.measures for name in promises(plot.marks[m]).values()]
    right = 0.14 + widest(names, 8)
    heights = [measure.height for measure in plot.measures]
    grid = Grid(heights, len(columns), LEFT, right, above=0.09 + 0.32 * bool(plot.columns))
    page = sheet(Words(over.finding(plot.points, plot.axes), plot.subtitle, caption(plot)), grid.height, plot.key())
    for measure, panels in zip(plot.measures, facets(page, grid), strict=True):
        marks = plot.marks[measure]
        for ax, value in zip(panels, columns, strict=True):
            _frame(ax, plot, measure, limits(measure, marks), grid.panel)
            own = marks if plot.columns is None else [m for m in marks if m.cell.key[plot.columns] == value]
            _panel(ax, plot, measure, own)
            ax.tick_params(labelbottom=measure is plot.measures[-1], labelleft=ax is panels[0])
            if measure is plot.measures[0]:
                ax.set_title(_header(plot, value), loc="center")
        panels[0].set_ylabel(measure.label)
        if measure.promised and len(promises(marks)) == 1:
            ((level, name),) = promises(marks).items()
            beside(panels[-1], name, level, 5, color=SOFT)
    assert plot.x is not None
    page.below(axis_names(plot.axes)[plot.x] + _HINTS.get(plot.x, ""), LEFT, right)
    return page.figure


def _columns(plot: Plot) -> list[Any]:
    if plot.columns is None:
        return [None]
    values = list(plot.points[plot.columns].unique())
    return sorted(values) if all(isinstance(value, int | float | np.number) for value in values) else values


def _header(plot: Plot, value: Any) -> str:
    """What stands above a column."""
    return f"{axis_names(plot.axes)[plot.columns]}\n{shown(value)}" if plot.columns else ""


# ------------------------------------------------------------------------------------------------------------- panels


def _places(plot: Plot) -> list[float]:
    """The values of the x axis."""
    return sorted({float(value) for value in plot.points[plot.x or ""]})


def _place(plot: Plot, one: Mark) -> float:
    return float(one.cell.key[plot.x or ""])


def _frame(ax: Axes, plot: Plot, measure: Measure, ends: tuple[float, float], width: float) -> None:
    """Both axes: ticks at the very values of x."""
    values = _places(plot)
    _scale(ax, values)
    ax.xaxis.set_minor_locator(NullLocator())
    step = -(-len(values) * _TICK // width)  # so many for one label
    ax.set_xticks(values, [f"{value:g}" if k % step == 0 else "" for k, value in enumerate(values)])
    ax.set_ylim(*ends)
    measure.axis(ax.yaxis)
    ax.grid(axis="y", zorder=0)


def _scale(ax: Axes, values: Sequence[float]) -> None:
    """Logarithmic over a factor of ten; with zero among the values, over a factor of thirty."""
    low, high, positive = values[0], values[-1], [value for value in values if value > 0]
    if low > 0 and high >= 10 * low:
        ax.set_xscale("log")
    elif low == 0 and high >= 30 * min(positive, default=math.inf):
        ax.set_xscale("symlog", linthresh=positive[0], linscale=0.5)
    scale = ax.xaxis.get_transform()
    first, last = scale.transform(np.array([low, high], dtype=np.float64))
    room = 0.07 * (last - first) or 0.5
    ax.set_xlim(*scale.inverted().transform(np.array([first - room, last + room])))


def _panel(ax: Axes, plot: Plot, measure: Measure, marks: Sequence[Mark]) -> None:
    if measure.promised:
        _promise(ax, plot, marks)
    for index, (name, cell) in enumerate(plot.drawn.items()):
        size = 6.8 - 2 * index / len(plot.drawn)  # of two marks in one place both are seen
        own = [one for one in marks if strategy(one.cell.key) == name]
        _line(ax, plot, own, plot.style(cell), size, 3 + index / 100)


def _line(ax: Axes, plot: Plot, marks: Sequence[Mark], style: dict[str, Any], size: float, order: float) -> None:
    """A line with its band, broken where a point is missing; filled marks are those that lost."""
    known, places = {_place(plot, one): one for one in marks}, _places(plot)
    rows = [tuple(known[place].interval) if place in known else (math.nan,) * 3 for place in places]
    mean, low, high = np.array(rows).T
    colour = style["color"]
    ax.fill_between(places, low, high, color=colour, alpha=0.16, linewidth=0, zorder=order - 1)
    ax.plot(places, mean, color=colour, linestyle=style["linestyle"], linewidth=1.4, zorder=order)
    for lost, face in ((False, None), (True, colour)):
        here = [(place, known[place].interval.mean) for place in places if place in known and known[place].lost == lost]
        dots: dict[str, Any] = {"linestyle": "none", "marker": style["marker"], "color": colour}
        ax.plot(*np.array(here).reshape(-1, 2).T, zorder=order + 1, clip_on=False, **dots, **mark(face, size))


def _promise(ax: Axes, plot: Plot, marks: Sequence[Mark]) -> None:
    """What was promised: a level, or where x decides what is promised a line over x."""
    over_x = {(_place(plot, one), promised(one.cell.alpha)) for one in marks if one.cell.is_promised}
    levels = promises(marks)
    if len(over_x) > len({place for place, _ in over_x}) or len(levels) <= 1:
        promise_lines(ax, levels)
        return
    places, heights = zip(*sorted(over_x), strict=True)
    ax.plot(places, heights, color=INK, linewidth=1.0, linestyle=DASHED, zorder=2, gid="nominal")
    ax.fill_between(places, ax.get_ylim()[0], heights, color=WARN, alpha=0.06, linewidth=0, zorder=0.5)
