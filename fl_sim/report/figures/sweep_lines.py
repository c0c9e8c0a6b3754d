"""A sweep over a numeric axis: a row of panels a measure, a column a value of the second axis, a line a strategy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from fl_sim.report import sweep_points as over
from fl_sim.report.figures.style import INK, SOFT, WARN, WIDTH, Sheet, sheet, text_width, ticks
from fl_sim.report.figures.sweep_plot import (
    Mark,
    Measure,
    Plot,
    caption,
    handles,
    least,
    limits,
    promise,
    promises,
    share_ticks,
    subtitle,
)
from fl_sim.report.sweep_points import axis_names, shown, strategy

LEFT, GAP, FLOOR = 0.95, 0.16, 0.52  # inches: beside panels, between them, and below them
APART = 0.15  # inches between labels at the ends of lines
_HINTS = {"clients.concentration": " (smaller: more unequal)"}
Label = tuple[float, str]  # a height on the y axis, and what stands there


def lines(plot: Plot) -> Figure:
    """The figure; strategies are named at the ends of their lines where there is room, else in a key."""
    rows, columns = [(measure, plot.marks[measure]) for measure in plot.measures], _columns(plot)
    labels = [_labels(plot, measure, marks, columns[-1]) for measure, marks in rows]
    headers = _headers(plot, columns)
    head = 0.09 + 0.16 * max(map(_lines_of, headers))
    height = sum(measure.height + GAP for measure in plot.measures) - GAP + head + FLOOR
    key = [] if plot.alone or any(len(row) > 1 for row in labels) else handles(plot)
    brackets = " In brackets: the worst client's coverage where it is lowest." * bool(key and least(plot))
    page = sheet(over.finding(plot.points, plot.axes), subtitle(plot), caption(plot) + brackets, height, key)
    right = 0.14 + max((text_width(page.figure, text, 8) for row in labels for _, text in row), default=0.1)
    width = (WIDTH - LEFT - right - GAP * (len(columns) - 1)) / len(columns)
    bottom = height - head
    for (measure, marks), row in zip(rows, labels, strict=True):
        bottom -= measure.height
        panels = [page.axes(LEFT + k * (width + GAP), bottom, width, measure.height) for k in range(len(columns))]
        for ax, value in zip(panels, columns, strict=True):
            _frame(ax, plot, limits(measure, marks), width)
            _panel(ax, plot, measure, _of_column(plot, marks, value))
        _outer(panels, plot, measure, headers)
        _write(panels[-1], row)
        bottom -= GAP
    _x_label(page, plot, (LEFT + WIDTH - right) / 2)
    return page.figure


def _columns(plot: Plot) -> list[Any]:
    if plot.columns is None:
        return [None]
    found = list(plot.points[plot.columns].unique())
    return sorted(found) if all(isinstance(value, int | float | np.number) for value in found) else found


def _of_column(plot: Plot, marks: Sequence[Mark], value: Any) -> list[Mark]:
    return [mark for mark in marks if plot.columns is None or mark.cell.key[plot.columns] == value]


# ------------------------------------------------------------------------------------------------------------- panels


def _frame(ax: Axes, plot: Plot, ends: tuple[float, float], width: float) -> None:
    """Both axes: ticks at the very values of x."""
    values = plot.places()
    _scale(ax, values)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks(values, _thinned(ax, values, width))
    ax.set_ylim(*ends)
    ax.yaxis.set_major_locator(ticks(5))
    ax.grid(axis="y", color="#eeeeee", linewidth=0.6, zorder=0)
    ax.set_axisbelow(True)


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


def _thinned(ax: Axes, values: Sequence[float], width: float) -> list[str]:
    """Labels of the ticks, without those for which there is no room."""
    texts, free = [], -math.inf
    for value in values:
        text = f"{value:g}"
        place = width * float(ax.transAxes.inverted().transform(ax.transData.transform((value, ax.get_ylim()[0])))[0])
        half = 0.04 * len(text) + 0.03
        texts.append(text if place - half >= free else "")
        free = place + half if texts[-1] else free
    return texts


def _panel(ax: Axes, plot: Plot, measure: Measure, marks: Sequence[Mark]) -> None:
    if measure.promised:
        _promise(ax, plot, marks)
    for index, cell in enumerate(plot.first_cells):
        size = 6.8 - 2 * index / len(plot.first_cells)  # of two marks in one place both are seen
        own = [mark for mark in marks if strategy(mark.cell.key) == strategy(cell.key)]
        _line(
            ax,
            plot,
            sorted(own, key=lambda mark: plot.place(mark.cell)),
            plot.style(cell) | {"markersize": size},
            3 + index / 100,
        )


def _line(ax: Axes, plot: Plot, marks: Sequence[Mark], style: dict[str, Any], order: float) -> None:
    """A line with its band, broken where a point is missing; filled marks are those that lost."""
    known = {plot.place(mark.cell): mark for mark in marks}
    places = plot.places()
    rows = [tuple(known[place].found) if place in known else (math.nan,) * 3 for place in places]
    mean, low, high = np.array(rows).T
    colour = style["color"]
    ax.fill_between(places, low, high, color=colour, alpha=0.16, linewidth=0, zorder=order - 1)
    ax.plot(places, mean, color=colour, linestyle=style["linestyle"], linewidth=1.4, zorder=order)
    for lost, face in ((False, "white"), (True, colour)):
        here = [(place, mark.found.mean) for place, mark in known.items() if mark.lost == lost]
        ax.plot(
            *np.array(here).reshape(-1, 2).T, linestyle="none", marker=style["marker"], markersize=style["markersize"],
            color=colour, markerfacecolor=face, markeredgewidth=1.2, zorder=order + 1, clip_on=False,
        )  # fmt: skip


def _promise(ax: Axes, plot: Plot, marks: Sequence[Mark]) -> None:
    """1 - alpha, dashed and shaded below, where it is the same for all strategies."""
    found = {(plot.place(mark.cell), 1 - mark.cell.alpha) for mark in marks if mark.cell.alpha == mark.cell.alpha}
    levels, (bottom, _) = promises(marks), ax.get_ylim()
    dashed: dict[str, Any] = {"color": INK, "linewidth": 1.0, "linestyle": (0, (5, 3)), "zorder": 2, "gid": "nominal"}
    shade: dict[str, Any] = {"color": WARN, "alpha": 0.06, "linewidth": 0, "zorder": 0.5}
    if len(found) > len({place for place, _ in found}) or len(levels) == 1:
        for level in levels:
            ax.axhline(level, **dashed)
        if len(levels) == 1:
            ax.axhspan(bottom, levels[0], **shade)
    elif found:
        places, heights = zip(*sorted(found), strict=True)
        ax.plot(places, heights, **dashed)
        ax.fill_between(places, bottom, heights, **shade)


# ------------------------------------------------------------------------------------------------------ around panels


def _headers(plot: Plot, columns: Sequence[Any]) -> list[str]:
    """What stands above the columns; on two lines where there is no room for one."""
    if plot.columns is None:
        return [""]
    name = axis_names(plot.axes)[plot.columns]
    longest = max(len(f"{name} {shown(value)}") for value in columns)
    break_ = "\n" if 0.07 * longest > (WIDTH - LEFT - 1.1) / len(columns) else " "
    return [f"{name}{break_}{shown(value)}" for value in columns]


def _lines_of(text: str) -> int:
    return len(text.splitlines())


def _outer(panels: Sequence[Axes], plot: Plot, measure: Measure, headers: Sequence[str]) -> None:
    """Titles of the columns, the name of the row, and tick labels at the outer panels only."""
    panels[0].set_ylabel(measure.label)
    for ax, header in zip(panels, headers, strict=True):
        ax.yaxis.set_major_formatter(share_ticks(measure))
        ax.tick_params(labelbottom=measure is plot.measures[-1], labelleft=ax is panels[0])
        if measure is plot.measures[0]:
            ax.set_title(header, fontsize=8.2, color=INK, pad=5)


def _x_label(page: Sheet, plot: Plot, middle: float) -> None:
    w, h = page.figure.get_size_inches()
    assert plot.x is not None
    text = axis_names(plot.axes)[plot.x] + _HINTS.get(plot.x, "")
    page.figure.text(middle / w, (page.bottom + 0.06) / h, text, ha="center", va="bottom", fontsize=8.2, color=INK)


def _labels(plot: Plot, measure: Measure, marks: Sequence[Mark], column: Any) -> list[Label]:
    """The promise, and the strategies at the ends of their lines where all are there and none touches another."""
    nominal = [(level, promise(level)) for level in promises(marks)] if measure.promised else []
    last = plot.places()[-1]
    ends = [mark for mark in _of_column(plot, marks, column) if plot.place(mark.cell) == last]
    named = [(mark.found.mean, strategy(mark.cell.key)) for mark in ends]
    low, high = limits(measure, marks)
    heights = sorted(height for height, _ in [*named, *nominal])
    room = APART * (high - low) / measure.height
    apart = all(b - a >= room for a, b in pairwise(heights))
    nominal = nominal if len(nominal) == 1 else []
    return [*nominal, *named] if apart and len(named) == len(plot.first_cells) > 1 else nominal


def _write(ax: Axes, labels: Sequence[Label]) -> None:
    for height, text in labels:
        ax.annotate(
            text, (1, height), xycoords=("axes fraction", "data"), xytext=(5, 0), textcoords="offset points",
            va="center", fontsize=8, color=SOFT if text.endswith("promised") else INK, annotation_clip=False,
        )  # fmt: skip
