"""One strip a tier, one mark a client: what the figures of sizes, accuracies and errors have in common."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from fl_sim.report import wording
from fl_sim.report.figures.marks import cloud, names_axis, share_axis, ticks
from fl_sim.report.figures.sheet import LEFT, Grid, Words, facets, sheet, widest
from fl_sim.report.figures.style import INK, SOFT, look
from fl_sim.report.numbers import count, number, percent
from fl_sim.results.run import Result, Row

STRIP, MOST = 1.15, 6.0  # inches: a tier, and all tiers at most


def strips(result: Result, column: str, axis: str, title: str, parts: Sequence[str] = ()) -> Figure:
    """A column of every client, by tier."""
    tiers = wording.tiers(result)
    box = "Box: median and quartiles of the clients; whiskers: their 5% and 95% quantiles; diamond: their mean."
    words = Words(title, wording.world(result), " ".join([box, *parts, *wording.absent(result)]))
    labels = [f"{tier}\n{count(_shown(rows, column).size, 'client')}" for tier, rows in tiers.items()]
    grid = Grid([min(STRIP, MOST / len(tiers)) * len(tiers)], 1, left=max(LEFT, 0.3 + widest(labels)), above=0)
    page = sheet(words, grid.height)
    ax = facets(page, grid)[0][0]
    for index, rows in enumerate(tiers.values()):
        _strip(ax, index, _shown(rows, column))
    names_axis(ax, labels)
    ax.set_xlabel(f"{axis}, by client")
    _room(ax)
    ax.xaxis.set_major_locator(ticks(8))
    if column == "accuracy":
        share_axis(ax.xaxis, 8)
    return page.figure


def _shown(rows: Sequence[Row], column: str) -> NDArray[np.float64]:
    values = [row[column] for row in rows if row[column] is not None and math.isfinite(row[column])]
    return np.array(sorted(values), dtype=np.float64)


def _strip(ax: Axes, index: int, values: NDArray[np.float64]) -> None:
    if not values.size:
        ax.text(0.5, index, "nothing to show", transform=ax.get_yaxis_transform(), ha="center", va="center", color=SOFT)
        return
    cloud(ax, values, index + 0.04, index + 0.4, look(index))
    _box(ax, index - 0.2, values)


def _box(ax: Axes, height: float, values: NDArray[np.float64]) -> None:
    # By hand: matplotlib's own imports pyplot, and its option for lying boxes changed its name in 3.10.
    low, first, middle, third, high = np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95])
    line: dict[str, Any] = {"color": SOFT, "linewidth": 1.0, "solid_capstyle": "butt"}
    for end, edge in ((low, first), (high, third)):
        ax.plot([end, edge], [height, height], **line)
        ax.plot([end, end], [height - 0.045, height + 0.045], **line)
    corner, size = (first, height - 0.09), (third - first, 0.18)
    ax.add_patch(Rectangle(corner, *size, facecolor="none", edgecolor=SOFT, linewidth=1.0))
    ax.plot([middle, middle], [height - 0.09, height + 0.09], color=INK, linewidth=1.5, solid_capstyle="butt")
    ax.plot([values.mean()], [height], marker="D", markersize=4, color=INK)


def _room(ax: Axes) -> None:
    """Margins, and a sensible width where all values are the same but for rounding."""
    ax.margins(x=0.03)
    low, high = ax.dataLim.intervalx
    if np.isfinite([low, high]).all() and high - low < 1e-6 * max(abs(low), abs(high), 1e-9):
        ax.set_xlim(low - 0.1 * abs(low) - 0.1, high + 0.1 * abs(high) + 0.1)


# ------------------------------------------------------------------------------------------- how large predictions are


def sizes(result: Result, axis: str) -> Figure:
    """Mean set size or interval length of every client, by tier."""
    column = wording.size_name(result)
    infinite = sum(row[column] == math.inf for row in result.clients)
    parts = [f"{count(infinite, 'client')} with infinite intervals: not shown."] * bool(infinite)
    return strips(result, column, axis, _finding(result), parts)


def _finding(result: Result) -> str:
    overall, empty = wording.mean_size(result, result.calibrate), result.calibrate["empty_set_rate"]
    if overall is None:
        return "No client could be tested"
    if math.isinf(overall):
        return f"{percent(result.calibrate['infinite_interval_rate'])} of the intervals are infinite"
    regression = wording.is_regression(result)
    mean = f"An interval is {number(overall)} long" if regression else f"A set holds {number(overall)} labels"
    by_tier = {tier: wording.mean_size(result, metrics) for tier, metrics in result.calibrate["tiers"].items()}
    known = sorted((size, tier) for tier, size in by_tier.items() if size is not None)
    text = f"{mean} on average"
    if len(known) > 1 and number(known[0][0]) != number(known[-1][0]):
        (low, small), (high, large) = known[0], known[-1]
        text += f", {number(low)} at {small} and {number(high)} at {large} clients"
    return f"{text}; {percent(empty)} are empty" if empty else text
