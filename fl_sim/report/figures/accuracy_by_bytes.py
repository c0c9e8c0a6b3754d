"""Accuracy against the bytes that were handed out: a line a way to make a payload, a row of panels a tier."""

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
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from fl_sim.report import sweep_points as over
from fl_sim.report.figures.style import INK, SOFT, WIDTH, look, save, sheet, styled, text_width, ticks
from fl_sim.report.intervals import LEVEL, Interval
from fl_sim.report.sweep_labels import is_of_learn, line_of, of_models
from fl_sim.report.sweep_points import Cell, axis_names, cells, shown
from fl_sim.report.wording import percent, size_of

MOST_COLUMNS, MOST_FIGURES = 4, 12  # worlds in one figure, and figures of one sweep
PANEL, GAP, LEFT, FLOOR, HEAD = 2.1, 0.18, 0.95, 0.5, 0.26  # inches
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.2, 1.4)), (0, (5, 1.5, 1.2, 1.5)), (0, (9, 2)))


def draw_bytes(
    points: pd.DataFrame, clients: pd.DataFrame, axes: Sequence[str], title: str, folder: Path
) -> list[Path]:
    """Draw accuracy against payload bytes into `folder`, as PNG and SVG.

    Args:
        points: of a sweep, see `fl_sim.results.tables.Tables`; labels may have been shortened.
        clients: a row a client, with `point` and `label_counts`, which tell how many classes there are.
        axes: the columns of `points` that are axes.
        title: what was not swept, in words.
        folder: where to.

    Returns:
        The files: `bytes`, or `bytes_01` and so on where there are more worlds than one figure can show; none where
        fewer than two sizes were handed out, or nothing about learning is swept.
    """
    with styled():
        return [path for name, figure in figures(points, clients, axes, title) for path in save(figure, folder, name)]


def figures(
    points: pd.DataFrame, clients: pd.DataFrame, axes: Sequence[str], title: str
) -> Iterator[tuple[str, Figure]]:
    """Name and figure of each that `draw_bytes` draws; to be taken in the style."""
    if not any(map(is_of_learn, axes)) or not over.has(points, over.PAYLOAD):
        return
    points, kept = of_models(points, axes)
    points = points[~np.isnan(over.values(points, over.PAYLOAD))]
    if points[over.PAYLOAD].nunique() < 2:
        return
    points = points.assign(chance=_chance(points, clients))
    worlds = _worlds(points, kept)
    parts = [worlds[k : k + MOST_COLUMNS] for k in range(0, len(worlds), MOST_COLUMNS)]
    names = ["bytes"] if len(parts) == 1 else [f"bytes_{k:02d}" for k in range(1, len(parts) + 1)]
    for name, part in zip(names[:MOST_FIGURES], parts, strict=False):
        yield name, _figure(_Plot(points, kept, part, len(parts)), title)


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


@dataclass(frozen=True)
class _Dot:
    size: float  # mean bytes
    found: Interval  # accuracy over the seeds


@dataclass(frozen=True)
class _Plot:
    """What one figure shows: a column a world, of all `points` of the sweep."""

    points: pd.DataFrame
    axes: Sequence[str]
    worlds: Sequence[Cell]
    figures: int

    @cached_property
    def learn_axes(self) -> list[str]:
        """The axes that say how a payload is made."""
        return [axis for axis in self.axes if is_of_learn(axis)]

    @cached_property
    def lines(self) -> list[str]:
        """The lines of the whole sweep, in the order of its points."""
        return list(dict.fromkeys(line_of(cell.key) for cell in cells(self.points, self.learn_axes)))

    @cached_property
    def measures(self) -> dict[str, str]:
        """Name -> metric of each row of panels: a tier, or all clients where there are no two tiers."""
        named = [str(column).split(".") for column in self.points if str(column).startswith(over.TIERS)]
        tiers = [path[2] for path in named if path[3:] == ["accuracy"]]
        return {t: f"{over.TIERS}{t}.accuracy" for t in tiers} if len(tiers) > 1 else {"": over.ACCURACY}

    def dots(self, world: Cell, line: str, metric: str) -> list[_Dot]:
        """The line's dots in a panel, by size."""
        found = [cell for cell in cells(world.rows, self.learn_axes) if line_of(cell.key) == line]
        dots = [_Dot(cell.of(over.PAYLOAD).mean, cell.of(metric)) for cell in found]
        return sorted((dot for dot in dots if math.isfinite(dot.found.mean)), key=lambda dot: dot.size)

    def style(self, line: str) -> dict[str, Any]:
        """Colour, marker and dash of a line."""
        index = self.lines.index(line)
        return {**look(index), "linestyle": _DASHES[index % len(_DASHES)]}


# ------------------------------------------------------------------------------------------------------------- drawing


def _figure(plot: _Plot, title: str) -> Figure:
    rows, columns = list(plot.measures.items()), plot.worlds
    head = HEAD if _world_name(plot, columns[0]) else 0.08
    height = len(rows) * (PANEL + GAP) - GAP + head + FLOOR
    key = [
        Line2D([], [], label=line, markersize=5.5, linewidth=1.4, markerfacecolor="white", **plot.style(line))
        for line in plot.lines
    ] * (len(plot.lines) > 1)
    page = sheet(_finding(plot), title, _caption(plot), height, key)
    alone = len(columns) == 1
    right = 0.3 + text_width(page.figure, "teacher 00.0%", 7.5) * (alone and _has(plot, over.TEACHER))
    width = (WIDTH - LEFT - right - GAP * (len(columns) - 1)) / len(columns)
    ends, low_high = _sizes(plot), _heights(plot)
    for k, world in enumerate(columns):
        for row, (tier, metric) in enumerate(rows):
            bottom = height - head - (row + 1) * PANEL - row * GAP
            ax = page.axes(LEFT + k * (width + GAP), bottom, width, PANEL)
            _frame(ax, ends, low_high, width)
            ax.tick_params(labelbottom=row == len(rows) - 1, labelleft=k == 0)
            if k == 0:
                ax.set_ylabel(f"accuracy, {tier} clients" if tier else "accuracy")
            if row == 0:
                ax.set_title(_world_name(plot, world), fontsize=8.2, color=INK, pad=5)
            _levels(ax, world, beside=alone)
            for order, line in enumerate(plot.lines):
                _line(ax, plot.dots(world, line, metric), plot.style(line), 3 + order / 100)
    w, h = page.figure.get_size_inches()
    middle = (LEFT + WIDTH - right) / 2
    page.figure.text(
        middle / w, (page.bottom + 0.06) / h, "handed out to every client", ha="center", va="bottom",
        fontsize=8.2, color=INK,
    )  # fmt: skip
    return page.figure


def _sizes(plot: _Plot) -> tuple[float, float]:
    found = over.values(plot.points, over.PAYLOAD)
    low, high = float(found.min()), float(found.max())
    room = (high / low) ** 0.06
    return low / room, high * room


def _heights(plot: _Plot) -> tuple[float, float]:
    """From all dots and what they are held against; chance only where it is no farther below than they spread."""
    ends = [end for world in plot.worlds for line in plot.lines for metric in plot.measures.values()
            for dot in plot.dots(world, line, metric) for end in dot.found]  # fmt: skip
    ends += [value for world in plot.worlds for value in over.values(world.rows, over.TEACHER) if value == value]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    chances = [value for value in over.values(plot.points, "chance") if value == value]
    near = [value for value in chances if low - value < max(high - low, 0.1)]
    low = min([low, *near])
    room = 0.07 * max(high - low, 0.05)
    return max(low - room, -0.01), min(high + room, 1.01)


def _frame(ax: Axes, sizes: tuple[float, float], heights: tuple[float, float], width: float) -> None:
    ax.set_xscale("log")
    ax.set_xlim(*sizes)
    ax.set_ylim(*heights)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks(_round_sizes(*sizes, most=max(2, int(width / 0.75))))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda size, _: _in_short(size)))
    ax.yaxis.set_major_locator(ticks(5))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.4g}%"))
    ax.grid(axis="both", color="#eeeeee", linewidth=0.6, zorder=0)
    ax.set_axisbelow(True)


def _round_sizes(low: float, high: float, most: int) -> list[float]:
    """Round numbers of bytes between the two, as many in every power of ten as there is room for."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        found = [float(digit * 10**power) for power in powers for digit in digits if low <= digit * 10**power <= high]
        if len(found) <= most:
            return found
    return found[:: -(-len(found) // most)]


def _in_short(size: float) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:.4g} {name}"
    return f"{size:.4g} B"


def _levels(ax: Axes, world: Cell, *, beside: bool) -> None:
    """The teacher's accuracy, dashed, and chance, dotted; named beside the panel, or where there are more, inside."""
    # Inside on the left: what is small is rarely as good as the teacher.
    place: dict[str, Any] = {"xytext": (5, 0), "va": "center"} if beside else {"xytext": (3, 2)}
    for metric, dashes, name in ((over.TEACHER, (0, (5, 3)), "teacher"), ("chance", (0, (1, 2)), "chance")):
        found = over.values(world.rows, metric)
        known = found[~np.isnan(found)]
        low, high = ax.get_ylim()
        if len(known) and low <= known.mean() <= high:
            ax.axhline(known.mean(), color=SOFT, linewidth=1.0, linestyle=dashes, zorder=2, gid=name)
            ax.annotate(
                f"{name} {percent(known.mean())}", (1.0 * beside, known.mean()), xycoords=("axes fraction", "data"),
                textcoords="offset points", fontsize=7.5, color=SOFT, annotation_clip=False, zorder=2.5, **place,
            )  # fmt: skip


def _line(ax: Axes, dots: Sequence[_Dot], style: dict[str, Any], order: float) -> None:
    """Dots at their bytes, each with its interval as a bar, joined by a line."""
    sizes = [dot.size for dot in dots]
    colour = style["color"]
    for dot in dots:
        ax.plot([dot.size] * 2, [dot.found.low, dot.found.high], color=colour, linewidth=1.6, zorder=order)
    ax.plot(
        sizes, [dot.found.mean for dot in dots], color=colour, linestyle=style["linestyle"], linewidth=1.4,
        marker=style["marker"], markersize=6, markerfacecolor="white", markeredgewidth=1.3, zorder=order + 1,
        clip_on=False,
    )  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- words


def _has(plot: _Plot, metric: str) -> bool:
    return over.has(plot.points, metric)


def _world_name(plot: _Plot, world: Cell) -> str:
    names = axis_names(plot.axes)
    return ", ".join(f"{names[axis]} {shown(value)}" for axis, value in world.key.items() if not is_of_learn(axis))


def _finding(plot: _Plot) -> str:
    """What is most accurate, and what takes the fewest bytes; where they are several, in the first world shown."""
    world = plot.worlds[0]
    ways = [(line, dot) for line in plot.lines for dot in plot.dots(world, line, over.ACCURACY)]
    if not ways:
        return "No client could be tested"
    best, least = max(ways, key=lambda way: way[1].found.mean), min(ways, key=lambda way: way[1].size)
    where = f"At {_world_name(plot, world)}, most" if len(plot.worlds) > 1 or plot.figures > 1 else "Most"
    said = f"{where} accurate: {_told(*best)}"
    return said if least == best else f"{said}; smallest: {_told(*least)}"


def _told(line: str, dot: _Dot) -> str:
    name = f"{line}, " if line else ""
    return f"{name}{percent(dot.found.mean)} at {size_of(round(dot.size))}"


def _caption(plot: _Plot) -> str:
    return " ".join(_said(plot))


def _said(plot: _Plot) -> Iterator[str]:
    yield "Each mark is a size, at the bytes that every client was sent."
    seeds = over.num_seeds(plot.points)
    if seeds > 1:
        yield f"Bars: {100 * LEVEL:g}% bootstrap intervals of the mean over {seeds} seeds."
    yield from filter(None, [over.few_seeds(seeds)])
    low, _ = _heights(plot)
    if _has(plot, over.TEACHER):
        yield "Dashed: the teacher's accuracy on the test rows, the mean of all that are shown in the column."
    chances = sorted({value for value in over.values(plot.points, "chance") if value == value})
    if chances and chances[0] >= low:
        yield "Dotted: chance, one over the number of classes."
    elif chances:
        yield f"Chance ({', '.join(percent(value) for value in chances)}) lies below the axis."
