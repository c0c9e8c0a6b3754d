"""Clients sorted by coverage, before the band that exchangeable clients of their sizes would fill."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle
from matplotlib.patches import Patch
from matplotlib.transforms import IdentityTransform

from fl_sim.report import wording
from fl_sim.report.figures.marks import (
    MANY,
    MOST_COLUMNS,
    bars,
    beside,
    note,
    promise_lines,
    ranks,
    share_axis,
    spread,
    ticks,
)
from fl_sim.report.figures.sheet import Grid, Words, facets, sheet
from fl_sim.report.figures.style import BAND, INK, SOFT, WARN, look
from fl_sim.report.numbers import count, keeps, percent, promise, promised
from fl_sim.results.run import Result, Row

ORDER = 10
HEIGHT, APART = 3.7, 0.15  # inches: the plot, and between labels in the margin


def applies(result: Result) -> bool:
    """Where coverage was promised."""
    return wording.is_calibrated(result)


def draw(result: Result) -> Figure:
    """One mark a client, from the worst to the best."""
    rows = _sorted(result)
    words = Words(wording.finding(result), wording.world(result), _caption(result))
    grid = Grid([HEIGHT], 1, right=0.95, above=0)
    page = sheet(words, grid.height, list(_key(result, rows)))
    ax = facets(page, grid)[0][0]
    bands = [wording.band(result.scenario, row) for row in rows]
    _frame(ax, len(rows), min([row["coverage"] for row in rows] + [promised(result.scenario.calibrate.alpha)]))
    if any(bands):
        low, high = np.array([band or (np.nan, np.nan) for band in bands]).T
        bars(ax, low - 0.002, high + 0.002, BAND, "band")  # a band of no height stays visible
    _marks(ax, result, rows)
    _levels(ax, result)
    worst = wording.worst_client(result)
    if worst:
        _point_out(ax, worst, 1 + rows.index(worst))
    return page.figure


def _sorted(result: Result) -> list[Row]:
    """By coverage; of equal ones by tier, so that no tier hides another."""
    order = {tier: index for index, tier in enumerate(wording.tiers(result))}
    return sorted(
        wording.tested(result), key=lambda row: (row["coverage"], order[row["tier"]], -row["num_test"], row["client"])
    )


def _frame(ax: Axes, clients: int, low: float) -> None:
    bottom = low - 0.14 * (1 - low) - 0.01  # room for the worst client's name
    ax.set_ylim(bottom, 1 + 0.03 * (1 - bottom))
    ranks(ax, clients)
    share_axis(ax.yaxis)
    ax.set_yticks([tick for tick in ticks(6).tick_values(max(0.0, bottom), 1.0) if max(0.0, bottom) <= tick <= 1.0])
    ax.set_xlabel("clients, from the smallest coverage to the largest")
    ax.set_ylabel("coverage of the client's test points")


def _marks(ax: Axes, result: Result, rows: Sequence[Row]) -> None:
    # One collection in the order of the ranks: with one for each tier, the last tier would lie on top of the others.
    looks = {tier: look(index) for index, tier in enumerate(wording.tiers(result))}
    shapes = {tier: MarkerStyle(style["marker"]) for tier, style in looks.items()}
    paths = {tier: shape.get_path().transformed(shape.get_transform()) for tier, shape in shapes.items()}
    colours = [looks[row["tier"]]["color"] for row in rows]
    hollow = [row["num_calibration"] == 0 for row in rows]
    marks = PathCollection(
        [paths[row["tier"]] for row in rows],
        sizes=[float(np.clip(5000 / max(len(rows), 1), 7, 40))],
        offset_transform=ax.transData,
        zorder=3,
        linewidth=0.8,
        offsets=[(rank, row["coverage"]) for rank, row in enumerate(rows, start=1)] or np.zeros((0, 2)),
        edgecolor=colours,
        rasterized=len(rows) > MANY,
        facecolor=["white" if bare else colour for bare, colour in zip(hollow, colours, strict=True)],
    )
    marks.set_transform(IdentityTransform())
    ax.add_collection(marks, autolim=False)


def _levels(ax: Axes, result: Result) -> None:
    """The promise and what was kept of it over all, each named in the right margin."""
    alpha, overall = result.scenario.calibrate.alpha, result.calibrate["coverage"]
    promise_lines(ax, [promised(alpha)], shaded=False)
    named = [(promised(alpha), f"{promise(alpha)} promised", INK)]
    if overall is not None:
        colour = SOFT if keeps(overall, alpha) else WARN
        ax.axhline(overall, color=colour, linewidth=0.8, zorder=2)
        named.append((overall, f"{percent(overall)} overall", colour))
    heights = sorted(named)
    low, high = ax.get_ylim()
    gap = APART / HEIGHT * (high - low)
    places = spread([height for height, _, _ in heights], [1.0] * len(heights), low, high, gap)
    for (_, text, colour), place in zip(heights, places, strict=True):
        beside(ax, text, place, color=colour)


def _point_out(ax: Axes, row: Row, rank: int) -> None:
    share = f"{percent(row['coverage'])} of {count(row['num_test'], 'test point')}"
    text = f"client {wording.name_of(row)} ({row['tier']}): {share}, n_k = {row['num_calibration']:,}"
    leader = {"arrowstyle": "-", "color": SOFT, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3, "relpos": (0, 0.5)}
    white = {"facecolor": "white", "edgecolor": "none", "pad": 1.2, "alpha": 0.85}
    note(ax, text, (rank, row["coverage"]), (16, -15), fontsize=8, zorder=5, arrowprops=leader, bbox=white)


# -------------------------------------------------------------------------------------------------------------- words


def _key(result: Result, rows: Sequence[Row]) -> Iterator[Artist]:
    for index, (tier, members) in enumerate(wording.tiers(result).items()):
        coverage = result.calibrate["tiers"].get(tier, {}).get("coverage")
        label = f"{tier}: {count(len(members), 'client')}, {percent(coverage)} covered"
        yield Line2D([], [], linestyle="none", markersize=6, label=label, **look(index))
    if any(row["num_calibration"] == 0 for row in rows):
        hollow: dict[str, Any] = {"marker": "o", "markersize": 6, "color": SOFT, "markerfacecolor": "white"}
        yield Line2D([], [], linestyle="none", label="hollow: n_k = 0", **hollow)
    if any(wording.band(result.scenario, row) for row in rows):
        yield Patch(facecolor=BAND, label="band of an exchangeable client")


def _caption(result: Result) -> str:
    parts, counted = [], wording.below_band_said(result)
    if counted:
        parts.append(
            "Grey: the 95% band, where the coverage of a client would fall 95 times in 100 if its test points were "
            f"exchangeable with its n_k calibration points and it used its own threshold. {counted}"
        )
        if len(wording.tested(result)) > MOST_COLUMNS:
            parts.append("Drawn as the mean of neighbouring clients' bands.")
        if wording.below_band(result)[1] < len(wording.tested(result)):
            parts.append("No band where a client's own threshold would be infinite.")
    elif result.scenario.clients.test == "shared":
        parts.append("No band: clients are tested on the shared test set, which is not what they calibrated on.")
    elif wording.shares_rows(result.scenario):
        parts.append("No band: calibrators were fitted on the rows that set the thresholds.")
    return " ".join([*parts, *wording.absent(result)])
