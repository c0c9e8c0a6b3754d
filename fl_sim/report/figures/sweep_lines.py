"""A sweep over a numeric axis: a row of panels a measure, a column a value of the second axis, a line a strategy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, NullLocator

from fl_sim.report import sweep_points as over
from fl_sim.report.figures.marks import beside, mark, promise_lines
from fl_sim.report.figures.sheet import Grid, Words, facets, sheet, widest
from fl_sim.report.figures.style import DASHED, INK, SOFT, WARN
from fl_sim.report.figures.sweep_plot import Mark, Measure, Plot, limits, promises
from fl_sim.report.numbers import percent, promised
from fl_sim.report.sweep_points import axis_names, shown, strategy

LEFT, _TICK, _SIZE_TICK = 0.95, 0.28, 0.75  # inches beside the panels, and of a tick's label
_HINTS = {"clients.concentration": " (smaller: more unequal)"}


class Level(NamedTuple):
    """What a panel's marks are held against beside a promise: the mean of a metric over the panel's points."""

    metric: str
    name: str
    dashes: Any


def lines(plot: Plot, title: str, caption: str, levels: Sequence[Level] = ()) -> Figure:
    """The figure; strategies are named in its key, and what they are held against beside the panels at the right."""
    columns = _columns(plot)
    names = [name for m in plot.measures if m.promised for name in promises(plot.marks[m]).values()]
    right = 0.2 + widest([*names, *(f"{level.name} 00.0%" for level in levels)], 8)
    heights = [measure.height for measure in plot.measures]
    grid = Grid(heights, len(columns), LEFT, right, above=0.09 + 0.32 * bool(plot.columns or levels))
    page = sheet(Words(title, plot.subtitle, caption), grid.height, plot.key())
    for measure, panels in zip(plot.measures, facets(page, grid), strict=True):
        marks, ends = plot.marks[measure], _ends(plot, measure, levels)
        for ax, value in zip(panels, columns, strict=True):
            _frame(ax, plot, measure, ends, grid.panel)
            own = marks if plot.columns is None else [m for m in marks if m.cell.key[plot.columns] == value]
            _panel(ax, plot, measure, own)
            _levels(ax, own, levels, named=ax is panels[-1])
            ax.tick_params(labelbottom=measure is plot.measures[-1], labelleft=ax is panels[0])
            if measure is plot.measures[0]:
                ax.set_title(_header(plot, value), loc="center")
        panels[0].set_ylabel(measure.label)
        if measure.promised and len(promises(marks)) == 1:
            ((level, name),) = promises(marks).items()
            beside(panels[-1], name, level, 5, color=SOFT)
    page.below(axis_names([*plot.axes])[plot.x or ""] + _HINTS.get(plot.x or "", ""), LEFT, right)
    return page.figure


def _ends(plot: Plot, measure: Measure, levels: Sequence[Level]) -> tuple[float, float]:
    """Of the y axis; what the marks are held against is in it where it is not far from them."""
    low, high = limits(measure, plot.marks[measure])
    for level in levels:
        values = over.values(plot.points, level.metric)
        near = values[(values > low - max(high - low, 0.1)) & (values < high + max(high - low, 0.1))]
        low, high = min([low, *(near - 0.03)]), max([high, *(near + 0.03)])
    return low, high


def _levels(ax: Axes, marks: Sequence[Mark], levels: Sequence[Level], *, named: bool) -> None:
    for level in levels:
        values = np.concatenate([over.values(one.cell.rows, level.metric) for one in marks]) if marks else np.zeros(0)
        known = values[~np.isnan(values)]
        if len(known) and ax.get_ylim()[0] <= known.mean() <= ax.get_ylim()[1]:
            ax.axhline(known.mean(), color=SOFT, linewidth=1.0, linestyle=level.dashes, zorder=2, gid=level.name)
            if named:
                beside(ax, f"{level.name} {percent(known.mean())}", known.mean(), 5, color=SOFT)


def _columns(plot: Plot) -> list[Any]:
    if plot.columns is None:
        return [None]
    values = list(plot.points[plot.columns].unique())
    return sorted(values) if all(isinstance(value, int | float | np.number) for value in values) else values


def _header(plot: Plot, value: Any) -> str:
    """What stands above a column."""
    if plot.columns is None:
        return ""
    return "\n".join(filter(None, [axis_names(plot.axes)[plot.columns], shown(value)]))


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
    if plot.joined:
        round_sizes = _round_sizes(*ax.get_xlim(), most=max(2, int(width / _SIZE_TICK)))
        ax.set_xticks(round_sizes, [EngFormatter("B").format_data(size) for size in round_sizes])
    else:
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


def _round_sizes(low: float, high: float, most: int) -> list[float]:
    """Round numbers of bytes between the two, as many in every power of ten as there is room for."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        sizes = [float(digit * 10**power) for power in powers for digit in digits if low <= digit * 10**power <= high]
        if len(sizes) <= most:
            return sizes
    return sizes[:: -(-len(sizes) // most)]


def _panel(ax: Axes, plot: Plot, measure: Measure, marks: Sequence[Mark]) -> None:
    if measure.promised:
        _promise(ax, plot, marks)
    for index, name in enumerate(plot.drawn):
        size = 6.8 - 2 * index / len(plot.drawn)  # of two marks in one place both are seen
        own = [one for one in marks if strategy(one.cell.key) == name]
        _line(ax, plot, own, plot.style(name), size, 3 + index / 100)


def _line(ax: Axes, plot: Plot, marks: Sequence[Mark], style: dict[str, Any], size: float, order: float) -> None:
    """A line with its band, broken where a point is missing; filled marks are those that lost."""
    known = {_place(plot, one): one for one in marks}
    places = sorted(known) if plot.joined else _places(plot)
    if not places:
        return
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
