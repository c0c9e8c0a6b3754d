"""Accuracy against the bytes that were handed out: a line a way to make a payload, a row of panels a tier."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from fl_sim.report import sweep_points as over
from fl_sim.report.figures.marks import mark, note, share_axis
from fl_sim.report.figures.sheet import HEAD, Grid, Words, facets, sheet, sheet_width, widest
from fl_sim.report.figures.style import DASHED, SOFT, line_look
from fl_sim.report.figures.sweep_plot import ENOUGH
from fl_sim.report.intervals import Interval
from fl_sim.report.numbers import percent, size_of
from fl_sim.report.sweep_labels import Settings, is_of_learn, line_of, of_models
from fl_sim.report.sweep_points import Cell, axis_names, cells, shown
from fl_sim.report.sweep_results import SweepResults

ORDER = 30
MOST_FIGURES, NARROWEST = 12, 1.8  # figures of one sweep, and inches of a panel
PANEL, GAP, LEFT = 2.1, 0.18, 0.95  # inches


def draw(sweep: SweepResults) -> list[Figure]:
    """A column of panels a world, and several figures where there are more worlds than columns; none where fewer than
    two sizes were handed out, or nothing about learning is swept."""
    if not any(map(is_of_learn, sweep.axes)) or not over.has(sweep.points, over.PAYLOAD):
        return []
    points, axes = of_models(sweep.points, sweep.axes)
    points = points[~np.isnan(over.values(points, over.PAYLOAD))]
    if points[over.PAYLOAD].nunique() < 2:
        return []
    points = points.assign(chance=_chance(points, sweep.clients))
    worlds = _worlds(points, axes)
    step = max(1, int((sheet_width() - LEFT) / (NARROWEST + GAP)))
    parts = [worlds[k : k + step] for k in range(0, len(worlds), step)][:MOST_FIGURES]
    return [_figure(_Plot(points, axes, sweep.settings, part, len(worlds)), sweep.title) for part in parts]


def _chance(points: pd.DataFrame, clients: pd.DataFrame) -> list[float]:
    """One over the number of classes of each point; nan where it is not known."""
    if not {"point", "label_counts"} <= set(clients) or "point" not in points:
        return [math.nan] * len(points)
    first = clients.drop_duplicates("point").set_index("point")["label_counts"]
    return [1 / len(str(first[point]).split()) if point in first else math.nan for point in points["point"]]


def _worlds(points: pd.DataFrame, axes: Sequence[str]) -> list[Cell]:
    """What the axes say beside learning and seed; one cell where they say nothing."""
    others = [axis for axis in axes if not is_of_learn(axis) and axis != "seed"]
    return cells(points, [axis for axis in others if points[axis].nunique(dropna=False) > 1])


# --------------------------------------------------------------------------------------------------------- what it has


class _Dot(NamedTuple):
    size: float  # mean bytes
    accuracy: Interval  # over the seeds


@dataclass(frozen=True)
class _Plot:
    """What one figure shows: a column a world, of all `points` of the sweep."""

    points: pd.DataFrame
    axes: Sequence[str]
    settings: Settings
    worlds: Sequence[Cell]
    many: int  # worlds of all figures

    @cached_property
    def learn_axes(self) -> list[str]:
        """The axes that say how a payload is made."""
        return [axis for axis in self.axes if is_of_learn(axis)]

    @cached_property
    def lines(self) -> dict[str, dict[str, Any]]:
        """Line -> its look, of the lines of the whole sweep in the order of its points."""
        every = cells(self.points, self.learn_axes)
        names = dict.fromkeys(line_of(cell.key, self.settings) for cell in every)
        return {name: line_look(index) for index, name in enumerate(names)}

    @cached_property
    def measures(self) -> dict[str, str]:
        """Name -> metric of each row of panels: a tier, or all clients where there are no two tiers."""
        return over.tier_accuracies(self.points)

    def dots(self, world: Cell, line: str, metric: str) -> list[_Dot]:
        """The line's dots in a panel, by size."""
        own = [cell for cell in cells(world.rows, self.learn_axes) if line_of(cell.key, self.settings) == line]
        dots = [_Dot(cell.of(over.PAYLOAD).mean, cell.of(metric)) for cell in own]
        return sorted((dot for dot in dots if math.isfinite(dot.accuracy.mean)), key=lambda dot: dot.size)

    def world_name(self, world: Cell) -> str:
        """Above a column; nothing where there is one world."""
        names = axis_names(self.axes)
        return ", ".join(f"{names[axis]} {shown(value)}" for axis, value in world.key.items())

    @cached_property
    def heights(self) -> tuple[float, float]:
        """Ends of the axes: all dots and what they are held against; chance only where it is no farther below than they
        spread."""
        every = [dot.accuracy for world in self.worlds for line in self.lines for metric in self.measures.values()
                 for dot in self.dots(world, line, metric)]  # fmt: skip
        ends = [end for interval in every for end in (interval if interval.count >= ENOUGH else [interval.mean])]
        ends += [value for world in self.worlds for value in over.values(world.rows, over.TEACHER) if value == value]
        low, high = min(ends, default=0.0), max(ends, default=1.0)
        low = min([low, *(value for value in self.chances if low - value < max(high - low, 0.1))])
        room = 0.07 * max(high - low, 0.05)
        return max(low - room, -0.01), min(high + room, 1.01)

    @property
    def chances(self) -> list[float]:
        """What guessing has, in the worlds of the sweep."""
        return sorted({value for value in over.values(self.points, "chance") if value == value})


# ------------------------------------------------------------------------------------------------------------- drawing


def _figure(plot: _Plot, title: str) -> Figure:
    rows, columns = list(plot.measures.items()), plot.worlds
    looks = plot.lines.items() if len(plot.lines) > 1 else ()
    key = [Line2D([], [], label=line, linewidth=1.4, **mark(None), **style) for line, style in looks]
    alone = len(columns) == 1
    right = 0.3 + widest(["teacher 00.0%"] * (alone and over.has(plot.points, over.TEACHER)), 7.5)
    above = HEAD if plot.world_name(columns[0]) else 0.08
    grid = Grid([PANEL] * len(rows), len(columns), LEFT, right, GAP, GAP, above)
    page = sheet(Words(_finding(plot), title, " ".join(_caption(plot))), grid.height, key)
    panels = facets(page, grid)
    for (tier, metric), across in zip(rows, panels, strict=True):
        for ax, world in zip(across, columns, strict=True):
            _frame(ax, plot, grid.panel)
            ax.tick_params(labelbottom=across is panels[-1], labelleft=ax is across[0])
            _levels(ax, world, beside=alone)
            for order, (line, style) in enumerate(plot.lines.items()):
                _line(ax, plot.dots(world, line, metric), style, 3 + order / 100)
        across[0].set_ylabel(f"accuracy, {tier} clients" if tier else "accuracy")
    for ax, world in zip(panels[0], columns, strict=True):
        ax.set_title(plot.world_name(world), loc="center")
    page.below("handed out to every client", LEFT, right)
    return page.figure


def _frame(ax: Axes, plot: _Plot, width: float) -> None:
    sizes = over.values(plot.points, over.PAYLOAD)
    room = float(sizes.max() / sizes.min()) ** 0.06
    low, high = float(sizes.min()) / room, float(sizes.max()) * room
    ax.set_xscale("log")
    ax.set_xlim(low, high)
    ax.set_ylim(*plot.heights)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks(_round_sizes(low, high, most=max(2, int(width / 0.75))))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda size, _: _in_short(size)))
    share_axis(ax.yaxis)
    ax.grid(zorder=0)


def _round_sizes(low: float, high: float, most: int) -> list[float]:
    """Round numbers of bytes between the two, as many in every power of ten as there is room for."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        sizes = [float(digit * 10**power) for power in powers for digit in digits if low <= digit * 10**power <= high]
        if len(sizes) <= most:
            return sizes
    return sizes[:: -(-len(sizes) // most)]


def _in_short(size: float) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:.4g} {name}"
    return f"{size:.4g} B"


def _levels(ax: Axes, world: Cell, *, beside: bool) -> None:
    """The teacher's accuracy, dashed, and chance, dotted; named beside the panel, or where there are more, inside."""
    # Inside on the left: what is small is rarely as good as the teacher.
    away, place = ((5, 0), "center") if beside else ((3, 2), "baseline")
    low, high = ax.get_ylim()
    for metric, dashes, name in ((over.TEACHER, DASHED, "teacher"), ("chance", (0, (1, 2)), "chance")):
        values = over.values(world.rows, metric)
        known = values[~np.isnan(values)]
        if len(known) and low <= (level := float(known.mean())) <= high:
            ax.axhline(level, color=SOFT, linewidth=1.0, linestyle=dashes, zorder=2, gid=name)
            at = (1.0 * beside, level)
            text = f"{name} {percent(level)}"
            note(ax, text, at, away, xycoords=("axes fraction", "data"), color=SOFT, va=place, zorder=2.5)


def _line(ax: Axes, dots: Sequence[_Dot], style: dict[str, Any], order: float) -> None:
    """Dots at their bytes, each with its interval as a bar, joined by a line."""
    for dot in dots:
        ends = [dot.accuracy.low, dot.accuracy.high]
        ax.plot([dot.size] * 2, ends, color=style["color"], linewidth=1.6, zorder=order)
    x, y = [dot.size for dot in dots], [dot.accuracy.mean for dot in dots]
    ax.plot(x, y, linewidth=1.4, zorder=order + 1, **style, **mark(None, 6))


# -------------------------------------------------------------------------------------------------------------- words


def _finding(plot: _Plot) -> str:
    """What is most accurate, and what takes the fewest bytes; where they are several, in the first world shown."""
    world = plot.worlds[0]
    ways = [(line, dot) for line in plot.lines for dot in plot.dots(world, line, over.ACCURACY)]
    if not ways:
        return "No client could be tested"
    best, least = max(ways, key=lambda way: way[1].accuracy.mean), min(ways, key=lambda way: way[1].size)
    where = f"At {plot.world_name(world)}, most" if plot.many > 1 else "Most"
    said = f"{where} accurate: {_way(*best)}"
    return said if least == best else f"{said}; smallest: {_way(*least)}"


def _way(line: str, dot: _Dot) -> str:
    name = f"{line}, " if line else ""
    return f"{name}{percent(dot.accuracy.mean)} at {size_of(round(dot.size))}"


def _caption(plot: _Plot) -> Iterator[str]:
    yield "Each mark is a size, at the bytes that every client was sent."
    yield over.intervals_said(over.num_seeds(plot.points), "Bars")
    if over.has(plot.points, over.TEACHER):
        yield "Dashed: the teacher's accuracy on the test rows, the mean of all that are shown in the column."
    if plot.chances and plot.chances[0] >= plot.heights[0]:
        yield "Dotted: chance, one over the number of classes."
    elif plot.chances:
        yield f"Chance ({', '.join(map(percent, plot.chances))}) lies below the axis."
