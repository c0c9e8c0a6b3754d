"""What a strategy's worst client costs: its coverage against the size of sets, a mark a strategy, a panel a world."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fl_sim.report import sweep_points as over
from fl_sim.report.figures.marks import mark, names_beside, promise_lines
from fl_sim.report.figures.sheet import Words, side_by_side, widest
from fl_sim.report.figures.sweep_plot import (
    ENOUGH,
    FILLED,
    Mark,
    Plot,
    limits,
    promises,
    size_measure,
    varied,
    worst_measure,
    worst_said,
)
from fl_sim.report.numbers import listed, number, percent
from fl_sim.report.sweep_points import STRATEGIES, axis_names, cells, merit_of, shown, strategy
from fl_sim.report.sweep_results import SweepResults

ORDER = 20
MOST_PANELS = 6
PANEL, LEFT, NARROWEST, APART = 2.3, 0.88, 1.3, 0.15  # inches: a panel's height and least width; between two labels
_FIRST = "clients.concentration"  # has the panels where it is swept
Spot = tuple[Mark, Mark]  # of one strategy: the size of its sets, and its worst client


def draw(sweep: SweepResults) -> list[Figure]:
    """None where fewer than two calibrations have a finite size."""
    points, axes = sweep.points, varied(sweep.points, sweep.axes)
    if "calibrate" not in axes:
        return []
    by = _panel_axis(points, axes)
    panels = [panel for panel in _panels(points, axes, by) if _spots(panel)]
    if len({strategy(size.cell.key) for panel in panels for size, _ in _spots(panel)}) < 2:
        return []
    return [_figure(panels, points, axes, by, sweep.title)]


# --------------------------------------------------------------------------------------------------- what goes where


def _panel_axis(points: pd.DataFrame, axes: Sequence[str]) -> str | None:
    """The axis that has the panels: over what changes the promise or the task nothing may be averaged.

    After those it is the concentration, and then the first axis that has no more values than there are panels.
    """
    swept = [axis for axis in axes if axis not in (*STRATEGIES, "seed") and points[axis].nunique(dropna=False) > 1]
    few = [axis for axis in swept if points[axis].nunique(dropna=False) <= MOST_PANELS]
    alphas = [axis for axis in swept if axis.split(".")[-1] == "alpha"]
    order = [*alphas, *filter(_is_of_data, swept), *(axis for axis in swept if axis == _FIRST), *few, *swept]
    return order[0] if order else None


def _is_of_data(axis: str) -> bool:
    return axis.startswith("data.")


def _values(points: pd.DataFrame, axis: str) -> list[Any]:
    """The values that have a panel: all of them, or so many from the first to the last."""
    values = list(points[axis].unique())
    if all(isinstance(value, int | float | np.number) for value in values):
        values = sorted(values)
    chosen = np.linspace(0, len(values) - 1, min(MOST_PANELS, len(values))).round().astype(int)
    return [values[place] for place in chosen]


def _panels(points: pd.DataFrame, axes: Sequence[str], by: str | None) -> Iterator[Plot]:
    """For each value of the axis that has the panels, its name and the averages over all other worlds, a row a seed."""
    named = list(dict.fromkeys(strategy(cell.key) for cell in cells(points, axes)))
    measures = [size_measure(points, PANEL), worst_measure(points, PANEL)]
    metrics = [measure.metric for measure in measures]
    # A mean of one over more points than the other would stand beside it.
    bare = np.isnan(over.values(points, metrics[0])) | np.isnan(over.values(points, metrics[1]))
    points = points.assign(status=points["status"].where(~bare, "bare"))
    methods = [axis for axis in axes if axis in (*STRATEGIES, "seed")]
    for value in [None] if by is None else _values(points, by):
        there = points
        if by is not None:
            there = points[points[by].isna() if pd.isna(value) else points[by] == value]
        if (there["status"] == "ok").any():
            means = over.over_worlds(there, [axis for axis in axes if axis != by], metrics)
            name = "" if by is None else f"{axis_names(axes)[by]} {shown(value)}"
            yield Plot(means, methods, named, measures, subtitle=name)


def _spots(panel: Plot) -> list[Spot]:
    """The strategies of which both means are finite, in the order of the points."""
    sizes, worst = (panel.marks[measure] for measure in panel.measures)
    by_name = {strategy(one.cell.key): one for one in worst}
    return [(size, by_name[name]) for size in sizes if (name := strategy(size.cell.key)) in by_name]


def _labels(panel: Plot) -> list[tuple[float, float | None, str]]:
    """(height, size, text) of what stands beside a panel; a promise has no size."""
    named = [(w.interval.mean, s.interval.mean, strategy(s.cell.key)) for s, w in _spots(panel)]
    return [*[(level, None, text) for level, text in _promises(panel).items()], *named]


def _promises(panel: Plot) -> dict[float, str]:
    return promises([worst for _, worst in _spots(panel)])


# ------------------------------------------------------------------------------------------------------------- panels


def _figure(panels: Sequence[Plot], points: pd.DataFrame, axes: Sequence[str], by: str | None, title: str) -> Figure:
    """Every strategy is named beside its panel, which is as high as that takes."""
    height = max(PANEL, 1.1 * APART * max(len(_labels(panel)) for panel in panels))
    room = 0.2 + widest([text for panel in panels for _, _, text in _labels(panel)], 8)
    words = Words(_finding(panels), title, " ".join(_caption(panels, points, axes, by)))
    figure, places = side_by_side(words, len(panels), height, narrowest=NARROWEST, across=room, right=room, left=LEFT)
    size, worst = panels[0].measures
    ends = limits(worst, [one for panel in panels for _, one in _spots(panel)])
    every = [one for panel in panels for one, _ in _spots(panel)]
    for ax, panel in zip(places, panels, strict=True):
        alike = by is None or not _is_of_data(by)
        ax.set_title(panel.subtitle)
        ax.set_xlim(*limits(size, every if alike else [one for one, _ in _spots(panel)]))
        ax.set_ylim(*ends)
        size.axis(ax.xaxis, 4)
        worst.axis(ax.yaxis, 6)
        ax.set_xlabel(size.label)
        first = ax.get_position().x0 == places[0].get_position().x0
        ax.tick_params(labelleft=first)
        ax.set_ylabel(worst.label if first else "")
        ax.grid(zorder=0)
        promise_lines(ax, _promises(panel))
        _marks(ax, panel)
        names_beside(ax, _labels(panel), APART * (ends[1] - ends[0]) / height)
    return figure


def _marks(ax: Axes, panel: Plot) -> None:
    for index, (size, worst) in enumerate(_spots(panel)):
        style, order = panel.style(strategy(size.cell.key)), 3 + index / 100
        colour, x, y = style["color"], size.interval, worst.interval
        if y.count >= ENOUGH:
            bar: dict[str, Any] = {"color": colour, "linewidth": 1.0, "zorder": order, "solid_capstyle": "butt"}
            ax.plot([x.low, x.high], [y.mean, y.mean], **bar)
            ax.plot([x.mean, x.mean], [y.low, y.high], **bar)
        broad = 6.8 - 2 * index / len(panel.strategies)  # of two marks in one place both are seen
        how: dict[str, Any] = {"linestyle": "none", "marker": style["marker"], "color": colour, "gid": "strategy"}
        how |= mark(colour if worst.lost else None, broad)
        ax.plot([x.mean], [y.mean], zorder=order + 1, clip_on=False, **how)


# -------------------------------------------------------------------------------------------------------------- words


def _finding(panels: Sequence[Plot]) -> str:
    """Where the worst client is lowest, what it has there under the worst and the best strategy, at what size."""
    size, worst = panels[0].measures
    ranked = [sorted(_spots(panel), key=lambda spot: merit_of(spot[1].cell, worst.metric)) for panel in panels]
    at = min(range(len(panels)), key=lambda k: merit_of(ranked[k][0][1].cell, worst.metric))

    def words(spot: Spot) -> str:
        text = f"{percent(spot[1].interval.mean)} under {strategy(spot[0].cell.key)}"
        return f"{text} ({size.label} {number(spot[0].interval.mean)})"

    where = f"At {panels[at].subtitle} the" if panels[at].subtitle else "The"
    best = f" and at best {words(ranked[at][-1])}" * (len(ranked[at]) > 1)
    promised = "; ".join(["", *_promises(panels[at]).values()]) * (len(_promises(panels[at])) == 1)
    return f"{where} worst client has {words(ranked[at][0])}{best}{promised}"


def _caption(panels: Sequence[Plot], points: pd.DataFrame, axes: Sequence[str], by: str | None) -> Iterator[str]:
    """What marks, bars, lines and shades are, what they are averages over, and what is missing."""
    names, seeds, plot = axis_names(axes), over.num_seeds(points), panels[0]
    many = {axis: points[axis].nunique(dropna=False) for axis in axes if axis not in (*STRATEGIES, "seed")}
    others = [f"{many[axis]} values of {names[axis]}" for axis in many if axis != by and many[axis] > 1]
    averaged = listed([*[f"{seeds} seeds"] * (seeds > 1), *others])
    yield f"A mark a strategy{averaged and f': its mean over {averaged}'}."
    yield from ["Only worlds in which every strategy has a result are averaged."] * bool(others)
    if by is not None and many[by] > MOST_PANELS:
        yield f"{MOST_PANELS} of {many[by]} values of {names[by]} have a panel."
    yield from [over.intervals_said(seeds, "Bars")] * (seeds != 2)  # of two there is no bar to speak of
    yield "Dashed: what was promised; shaded: less than that."
    yield from [*worst_said(plot), FILLED]
    infinite = [
        " at ".join(filter(None, [strategy(cell.key), panel.subtitle]))
        for panel in panels
        for cell in panel.cells
        if math.isinf(cell.of(plot.measures[0].metric).mean)
    ]
    if infinite:
        more = [f"and {len(infinite) - 5} more"] * (len(infinite) > 5)
        yield f"Not drawn, because its {plot.measures[0].label} is infinite: {'; '.join([*infinite[:5], *more])}."
    yield from over.lost(points, axes, 3)
