"""What a strategy's worst client costs: its coverage against the size of sets, a mark a strategy, a panel a world."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fl_sim.report import sweep_points as over
from fl_sim.report.figures.style import BAND, INK, SOFT, WARN, WIDTH, save, sheet, styled, text_width, ticks
from fl_sim.report.figures.sweep_plot import (
    Mark,
    Measure,
    Plot,
    filled_said,
    limits,
    promise,
    promises,
    share_ticks,
    worst_said,
)
from fl_sim.report.intervals import LEVEL
from fl_sim.report.sweep_points import STRATEGIES, Cell, axis_names, cells, shown, strategy
from fl_sim.report.wording import number, percent

MOST_PANELS, MOST_COLUMNS, FEWEST_SEEDS = 6, 3, 3  # panels in all and in a row; seeds from which there are bars
PANEL, HEAD, FLOOR, LEFT, GAP = 2.3, 0.28, 0.5, 0.88, 0.2  # inches: a panel's height, and what is around it
NARROWEST, APART = 1.3, 0.15  # inches: a panel's width, and between two labels
_FIRST = ("clients.concentration",)  # has the panels where it is swept
Spot = tuple[Mark, Mark]  # of one strategy: the size of its sets, and its worst client


@dataclass(frozen=True)
class _Panel:
    """One value of the axis that has the panels; `plot` holds the averages over all other worlds, a row a seed."""

    name: str
    plot: Plot

    @property
    def size(self) -> Measure:
        return self.plot.measures[0]

    @property
    def worst(self) -> Measure:
        return self.plot.measures[1]

    @cached_property
    def spots(self) -> list[Spot]:
        """The strategies of which both means are finite, in the order of the points."""
        worst = {strategy(mark.cell.key): mark for mark in self.plot.marks[self.worst]}
        named = [(strategy(mark.cell.key), mark) for mark in self.plot.marks[self.size]]
        return [(mark, worst[name]) for name, mark in named if name in worst]

    @property
    def infinite(self) -> list[str]:
        """The strategies whose mean size is infinite."""
        return [strategy(cell.key) for cell in self.plot.cells if math.isinf(cell.of(self.size.metric).mean)]


def draw_plane(points: pd.DataFrame, axes: Sequence[str], title: str, folder: Path) -> list[Path]:
    """Draw the worst client's coverage against the size of sets into `folder`, as PNG and SVG.

    Args:
        points: of a sweep, see `fl_sim.results.tables.Tables`; labels may have been shortened.
        axes: the columns of `points` that are axes.
        title: what was not swept, in words.
        folder: where to.

    Returns:
        The files `plane.png` and `plane.svg`; none where fewer than two strategies have a finite size. The same points
        give the same bytes.
    """
    with styled():
        return [path for name, figure in figures(points, axes, title) for path in save(figure, folder, name)]


def figures(points: pd.DataFrame, axes: Sequence[str], title: str) -> Iterator[tuple[str, Figure]]:
    """Name and figure of what `draw_plane` draws; to be taken in the style."""
    axes = [axis for axis in axes if axis not in STRATEGIES or points[axis].nunique() > 1]
    if "calibrate" not in axes:
        return
    columns = _panel_axis(points, axes)
    panels = [panel for panel in _panels(points, axes, columns) if panel.spots]
    if len({strategy(size.cell.key) for panel in panels for size, _ in panel.spots}) > 1:
        yield "plane", _figure(panels, points, axes, columns, title)


# --------------------------------------------------------------------------------------------------- what goes where


def _panel_axis(points: pd.DataFrame, axes: Sequence[str]) -> str | None:
    """The axis that has the panels: over what changes the promise or the task nothing may be averaged.

    After those it is the concentration, and then the first axis that has no more values than there are panels.
    """
    swept = [axis for axis in axes if axis not in (*STRATEGIES, "seed") and points[axis].nunique(dropna=False) > 1]
    few = [axis for axis in swept if points[axis].nunique(dropna=False) <= MOST_PANELS]
    alphas = [axis for axis in swept if axis.split(".")[-1] == "alpha"]
    order = [*alphas, *filter(_is_of_data, swept), *(axis for axis in _FIRST if axis in swept), *few, *swept]
    return order[0] if order else None


def _is_of_data(axis: str) -> bool:
    return axis.startswith("data.")


def _values(points: pd.DataFrame, columns: str) -> list[Any]:
    """The values that have a panel: all of them, or so many from the first to the last."""
    found = list(points[columns].unique())
    if all(isinstance(value, int | float | np.number) for value in found):
        found = sorted(found)
    if len(found) <= MOST_PANELS:
        return found
    return [found[place] for place in np.linspace(0, len(found) - 1, MOST_PANELS).round().astype(int)]


def _panels(points: pd.DataFrame, axes: Sequence[str], columns: str | None) -> Iterator[_Panel]:
    named = list(dict.fromkeys(strategy(cell.key) for cell in cells(points, axes)))
    metrics = [over.size_metric(points), over.worst_metric(points)]
    # A mean of one over more points than the other would stand beside it.
    bare = np.isnan(over.values(points, metrics[0])) | np.isnan(over.values(points, metrics[1]))
    points = points.assign(status=points["status"].where(~bare, "bare"))
    kept = [axis for axis in axes if axis in (*STRATEGIES, "seed")]
    measures = _measures(metrics)
    for value in [None] if columns is None else _values(points, columns):
        there = points
        if columns is not None:
            there = points[points[columns].isna() if pd.isna(value) else points[columns] == value]
        if not (there["status"] == "ok").any():
            continue
        means = over.over_worlds(there, [axis for axis in axes if axis != columns], metrics)
        name = "" if columns is None else f"{axis_names(axes)[columns]} {shown(value)}"
        yield _Panel(name, Plot(means, kept, named, measures, None, None, "", ""))


def _measures(metrics: Sequence[str]) -> list[Measure]:
    size, worst = metrics
    tested = " (30+ test points)" if worst == over.WORST_TESTED else ""
    return [
        Measure(size, "mean interval length" if size == over.LENGTH else "mean set size", PANEL),
        Measure(worst, f"coverage of the worst\nclient{tested}", PANEL, promised=True),
    ]


# ------------------------------------------------------------------------------------------------------------- panels


def _figure(
    panels: Sequence[_Panel], points: pd.DataFrame, axes: Sequence[str], columns: str | None, title: str
) -> Figure:
    """The figure; strategies are named beside their panels where there is room, else in a key."""
    wide, direct = _layout(panels)
    rows = -(-len(panels) // wide)
    tall = PANEL if rows > 1 or wide > 1 else 3.0
    head = HEAD if any(panel.name for panel in panels) else 0.06
    height = rows * (tall + head + FLOOR)
    said = " ".join(_caption(panels, points, axes, columns))
    page = sheet(_finding(panels), title, said, height, [] if direct else _key(panels))
    right = _right(page.figure, panels, direct)
    width = (WIDTH - LEFT - 0.1 - GAP * (wide - 1)) / wide - right
    ends = limits(panels[0].worst, [worst for panel in panels for _, worst in panel.spots])
    shared = [size for panel in panels for size, _ in panel.spots]
    for index, panel in enumerate(panels):
        row, column = divmod(index, wide)
        left = LEFT + column * (width + right + GAP)
        ax = page.axes(left, height - (row + 1) * (tall + head) - row * FLOOR, width, tall)
        ax.set_title(panel.name, fontsize=8.2, color=INK, pad=5, loc="left")
        own = columns is not None and _is_of_data(columns)
        _frame(ax, panel, limits(panel.size, [size for size, _ in panel.spots] if own else shared), ends)
        ax.tick_params(labelleft=column == 0)
        ax.set_ylabel(panel.worst.label if column == 0 else "")
        _spots(ax, panel)
        _write(ax, panel, tall, direct)
    return page.figure


def _layout(panels: Sequence[_Panel]) -> tuple[int, bool]:
    """Panels in a row, and whether the strategies are named beside each."""
    figure = Figure()
    FigureCanvasAgg(figure)
    right, wide = _right(figure, panels, direct=True), min(len(panels), MOST_COLUMNS)
    if max(len(panel.spots) for panel in panels) < 0.8 * PANEL / APART:
        for columns in range(wide, min(wide, 2) - 1, -1):
            if (WIDTH - LEFT - 0.1 - GAP * (columns - 1)) / columns - right >= NARROWEST:
                return columns, True
    return wide, False


def _right(figure: Figure, panels: Sequence[_Panel], direct: bool) -> float:
    """Inches that the labels beside a panel need."""
    texts = [text for panel in panels for _, _, text in _labels(panel, direct)]
    return 0.14 + max((text_width(figure, text, 8) for text in texts), default=0.0)


def _frame(ax: Axes, panel: _Panel, sizes: tuple[float, float], ends: tuple[float, float]) -> None:
    """Both axes, and 1 - alpha: dashed, and shaded below where all are promised the same."""
    ax.set_xlim(*sizes)
    ax.set_ylim(*ends)
    ax.xaxis.set_major_locator(ticks(4))
    ax.yaxis.set_major_locator(ticks(6))
    ax.yaxis.set_major_formatter(share_ticks(panel.worst))
    ax.set_xlabel(panel.size.label)
    ax.grid(color="#eeeeee", linewidth=0.6, zorder=0)
    ax.set_axisbelow(True)
    levels = _promises(panel)
    for level in levels:
        ax.axhline(level, color=INK, linewidth=1.0, linestyle=(0, (5, 3)), zorder=2, gid="nominal")
    if len(levels) == 1:
        ax.axhspan(ends[0], levels[0], color=WARN, alpha=0.06, linewidth=0, zorder=0.5)


def _promises(panel: _Panel) -> list[float]:
    return promises([worst for _, worst in panel.spots])


def _spots(ax: Axes, panel: _Panel) -> None:
    for index, (size, worst) in enumerate(panel.spots):
        style, order = panel.plot.style(size.cell), 3 + index / 100
        x, y = size.found, worst.found
        broad = 6.8 - 2 * index / len(panel.spots)  # of two marks in one place both are seen
        if y.count >= FEWEST_SEEDS:
            bar: dict[str, Any] = {"color": style["color"], "linewidth": 1.0, "zorder": order}
            ax.plot([x.low, x.high], [y.mean, y.mean], **bar, solid_capstyle="butt")
            ax.plot([x.mean, x.mean], [y.low, y.high], **bar, solid_capstyle="butt")
        ax.plot(
            [x.mean], [y.mean], marker=style["marker"], color=style["color"], markersize=broad,
            markerfacecolor=style["color"] if worst.lost else "white", markeredgewidth=1.3, zorder=order + 1,
            linestyle="none", clip_on=False, gid="strategy",
        )  # fmt: skip


def _labels(panel: _Panel, direct: bool) -> list[tuple[float, float, str]]:
    """Height, size and text of what stands beside a panel, the lowest first; a promise has no size."""
    found = [(level, math.inf, promise(level)) for level in _promises(panel)]
    if direct:
        found += [(worst.found.mean, size.found.mean, strategy(size.cell.key)) for size, worst in panel.spots]
    return sorted(found)


def _write(ax: Axes, panel: _Panel, tall: float, direct: bool) -> None:
    """Labels at the right, at the height of what they name as nearly as they keep apart, with a line to it."""
    labels, (low, high), (_, right) = _labels(panel, direct), ax.get_ylim(), ax.get_xlim()
    heights = [height for height, _, _ in labels]
    weights = [1.0 if math.isfinite(size) else 100.0 for _, size, _ in labels]  # a promise stays at its line
    places = spread(heights, weights, low, high, APART * (high - low) / tall)
    for (height, size, text), place in zip(labels, places, strict=True):
        if math.isfinite(size):
            ax.plot([size, right], [height, place], color=BAND, linewidth=0.8, zorder=1, clip_on=False)
        ax.annotate(
            text, (1, place), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points",
            va="center", fontsize=8, color=INK if math.isfinite(size) else SOFT, annotation_clip=False,
        )  # fmt: skip


def spread(heights: Sequence[float], weights: Sequence[float], low: float, high: float, gap: float) -> list[float]:
    """Heights, ascending, moved as little as they are `gap` apart and, where there is room, within `low` to `high`.

    Little is meant in weighted squares: what has a large weight hardly moves.

    >>> [round(height, 6) for height in spread([1.0, 1.0, 5.0], [1.0, 1.0, 1.0], 0.0, 6.0, 1.0)]
    [0.5, 1.5, 5.0]
    """
    # Least squares under an order: what touches moves as one block to the mean of what its members ask for.
    blocks: list[tuple[float, float, int]] = []
    for index, (height, weight) in enumerate(zip(heights, weights, strict=True)):
        blocks.append((height - index * gap, weight, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (first, many, few), (second, more, rest) = blocks[-2:]
            blocks[-2:] = [((first * many + second * more) / (many + more), many + more, few + rest)]
    asked = [start for start, _, members in blocks for _ in range(members)]
    return [max(min(start, high - (len(asked) - 1) * gap), low) + index * gap for index, start in enumerate(asked)]


def _key(panels: Sequence[_Panel]) -> list[Line2D]:
    """The key: every strategy that is drawn anywhere."""
    first = {strategy(size.cell.key): size.cell for panel in panels for size, _ in panel.spots}
    open_mark: dict[str, Any] = {"markersize": 5.5, "markerfacecolor": "white", "markeredgewidth": 1.3}
    plot = panels[0].plot
    return [
        Line2D([], [], label=name, **open_mark | plot.style(first[name]) | {"linestyle": "none"})
        for name in plot.strategies if name in first
    ]  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- words


def _finding(panels: Sequence[_Panel]) -> str:
    """Where the worst client is lowest, what it has there under the worst and the best strategy, at what size."""
    panel = min(panels, key=lambda panel: min(_merit(worst.cell, worst.found.mean) for _, worst in panel.spots))
    found = sorted(panel.spots, key=lambda spot: _merit(spot[1].cell, spot[1].found.mean))
    said = [_has(panel, found[0], "lowest", panel.size.label + " ")]
    said += [_has(panel, found[-1], "highest", "")] * (len(found) > 1)
    told = f"{'at ' if panel.name else ''}{panel.name} the worst client is {' and '.join(said)}".strip()
    levels = _promises(panel)
    return "; ".join([told[0].upper() + told[1:], *[promise(levels[0])] * (len(levels) == 1)])


def _merit(cell: Cell, coverage: float) -> float:
    return coverage if math.isnan(cell.alpha) else coverage - (1 - cell.alpha)


def _has(panel: _Panel, spot: Spot, which: str, size: str) -> str:
    at, worst = (mark.found.mean for mark in spot)
    return f"{which} under {strategy(spot[0].cell.key)}, {percent(worst)} ({size}{number(at)})"


def _caption(panels: Sequence[_Panel], points: pd.DataFrame, axes: Sequence[str], columns: str | None) -> Iterator[str]:
    """What marks, bars, lines and shades are, what they are averages over, and what is missing."""
    names, seeds = axis_names(axes), over.num_seeds(points)
    plot = Plot(points, axes, panels[0].plot.strategies, panels[0].plot.measures, None, None, "", "")
    many = {axis: points[axis].nunique(dropna=False) for axis in axes if axis not in (*STRATEGIES, "seed")}
    others = [axis for axis in many if axis != columns and many[axis] > 1]
    over_what = [f"{seeds} seeds"] * (seeds > 1) + [f"{many[axis]} values of {names[axis]}" for axis in others]
    yield f"A mark a strategy{': its mean over ' if over_what else ''}{' and '.join(over_what)}."
    if others:
        yield "Only worlds in which every strategy has a result are averaged."
    if columns is not None and many[columns] > MOST_PANELS:
        yield f"{MOST_PANELS} of {many[columns]} values of {names[columns]} have a panel."
    if seeds >= FEWEST_SEEDS:
        yield f"Bars: {100 * LEVEL:g}% bootstrap intervals of the mean over {seeds} seeds."
    if seeds < 2 or seeds >= FEWEST_SEEDS:  # of two there is no bar to speak of
        yield from filter(None, [over.few_seeds(seeds)])
    yield "Dashed: what was promised; shaded: less than that."
    yield from worst_said(plot)
    yield from filled_said(plot)
    yield from _infinite_said(panels)
    yield from over.lost(points, axes, 3)


def _infinite_said(panels: Sequence[_Panel]) -> Iterator[str]:
    found = [f"{name}{panel.name and f' at {panel.name}'}" for panel in panels for name in panel.infinite]
    more = [f"and {len(found) - 5} more"] * (len(found) > 5)
    if found:
        yield f"Not drawn, because its {panels[0].size.label} is infinite: {'; '.join([*found[:5], *more])}."
