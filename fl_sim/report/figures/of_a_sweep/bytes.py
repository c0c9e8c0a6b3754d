"""Accuracy against the bytes that were handed out: a line a way to make a payload, a row of panels a tier."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fl_sim.report import sweep_points as over
from fl_sim.report.figures.sheet import abreast
from fl_sim.report.figures.style import DASHED
from fl_sim.report.figures.sweep_lines import LEFT, Level, lines
from fl_sim.report.figures.sweep_plot import Measure, Plot
from fl_sim.report.numbers import percent, size_of
from fl_sim.report.sweep_labels import Settings, is_of_learn, line_of, of_models
from fl_sim.report.sweep_points import Cell, axis_names, cells, shown
from fl_sim.report.sweep_results import SweepResults

ORDER = 30
MOST_FIGURES, PANEL, NARROWEST = 12, 2.1, 1.8  # figures of one sweep, inches of a panel's height and least width
SIZE, WORLD, CHANCE = "handed out to every client", "", "chance"  # columns that are made here


def draw(sweep: SweepResults) -> list[Figure]:
    """A column of panels a world, and several figures where there are more worlds than columns; none where fewer than
    two sizes were handed out, or nothing about learning is swept."""
    if not any(map(is_of_learn, sweep.axes)) or not over.has(sweep.points, over.PAYLOAD):
        return []
    points, axes = of_models(sweep.points, sweep.axes)
    points = points[~np.isnan(over.values(points, over.PAYLOAD))]
    if points[over.PAYLOAD].nunique() < 2:
        return []
    points = _by_line(points.assign(**{CHANCE: _chance(points, sweep.clients)}), axes, sweep.settings)
    worlds, names = list(points[WORLD].unique()), list(points["learn"].unique())
    step = abreast(len(worlds), NARROWEST, 0.16, LEFT)
    parts = [worlds[k : k + step] for k in range(0, len(worlds), step)][:MOST_FIGURES]
    return [_figure(points[points[WORLD].isin(part)], names, sweep.title) for part in parts]


def _by_line(points: pd.DataFrame, axes: Sequence[str], settings: Settings) -> pd.DataFrame:
    """The points with their line in the place of the learn strategy, the mean bytes of their cell, and their world."""
    names, made = axis_names(axes), []
    worlds = [a for a in axes if not is_of_learn(a) and a != "seed" and points[a].nunique(dropna=False) > 1]
    for cell in cells(points, axes):
        world = ", ".join(f"{names[axis]} {shown(cell.key[axis])}" for axis in worlds)
        key = {axis: value for axis, value in cell.key.items() if is_of_learn(axis)}
        columns: dict[str, Any] = {"learn": line_of(key, settings), SIZE: cell.of(over.PAYLOAD).mean, WORLD: world}
        made.append(cell.rows.assign(**columns))
    return pd.concat(made)


def _chance(points: pd.DataFrame, clients: pd.DataFrame) -> list[float]:
    """One over the number of classes of each point; nan where it is not known."""
    if not {"point", "label_counts"} <= set(clients) or "point" not in points:
        return [math.nan] * len(points)
    first = clients.drop_duplicates("point").set_index("point")["label_counts"]
    return [1 / len(str(first[point]).split()) if point in first else math.nan for point in points["point"]]


def _figure(points: pd.DataFrame, names: Sequence[str], title: str) -> Figure:
    measures = [
        Measure(metric, f"accuracy, {tier} clients" if tier else "accuracy", PANEL)
        for tier, metric in over.tier_accuracies(points).items()
    ]
    plot = Plot(points, [WORLD, "learn", SIZE, "seed"], names, measures, SIZE, WORLD, title, joined=True)
    levels = [Level(over.TEACHER, "teacher", DASHED), Level(CHANCE, "chance", (0, (1, 2)))]
    seeds = over.num_seeds(points)
    parts = [
        "Each mark is a size, at the bytes that every client was sent.",
        over.intervals_said(seeds, "Bands"),
        "Dashed: the teacher's accuracy on the test rows, the mean of all in the column; dotted: chance, one over the "
        "number of classes, where it is near.",
    ]
    return lines(plot, _finding(plot), " ".join(parts), levels)


def _finding(plot: Plot) -> str:
    """What is most accurate, and what takes the fewest bytes, in the first world that is shown."""
    world = plot.points[WORLD].iloc[0]
    here = [cell for cell in plot.cells if cell.key[WORLD] == world and cell.of(over.ACCURACY).count]
    if not here:
        return "No client could be tested"
    best = max(here, key=lambda cell: cell.of(over.ACCURACY).mean)
    least = min(here, key=lambda cell: float(cell.key[SIZE]))
    text = f"At {world}, most" if world else "Most"
    return f"{text} accurate: {_way(best)}" + f"; smallest: {_way(least)}" * (least is not best)


def _way(cell: Cell) -> str:
    name = f"{cell.key['learn']}, " if cell.key["learn"] else ""
    return f"{name}{percent(cell.of(over.ACCURACY).mean)} at {size_of(round(cell.key[SIZE]))}"
