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
from matplotlib.ticker import FuncFormatter
from matplotlib.transforms import IdentityTransform

from fl_sim.report import wording
from fl_sim.report.figures.style import BAND, INK, LEFT, RIGHT, SOFT, WARN, WIDTH, bars, look, ranks, sheet, ticks
from fl_sim.results.run import Result, Row

HEIGHT, FLOOR = 3.7, 0.5  # inches: the plot, and below it the ticks and the axis label
_BETWEEN = 0.15  # inches between labels in the margin


def coverage(result: Result) -> Figure:
    """One mark a client, from the worst to the best."""
    rows = _sorted(result)
    page = sheet(
        wording.finding(result), wording.world(result), _caption(result), HEIGHT + FLOOR, list(_key(result, rows))
    )
    ax = page.axes(LEFT, FLOOR, WIDTH - LEFT - RIGHT, HEIGHT)
    bands = [wording.band(result.scenario, row) for row in rows]
    _frame(ax, len(rows), min([row["coverage"] for row in rows] + [1 - result.scenario.calibrate.alpha]))
    if any(bands):
        low, high = np.array([band or (np.nan, np.nan) for band in bands]).T
        bars(ax, low - 0.002, high + 0.002, BAND, "band")  # a band of no height stays visible
    _marks(ax, result, rows)
    _lines(ax, result)
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
    ax.set_yticks([tick for tick in ticks(6).tick_values(max(0.0, bottom), 1.0) if max(0.0, bottom) <= tick <= 1.0])
    ax.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.4g}%"))
    ax.set_xlabel("clients, from the smallest coverage to the largest")
    ax.set_ylabel("coverage of the client's test points")


def _marks(ax: Axes, result: Result, rows: Sequence[Row]) -> None:
    # One collection in the order of the ranks: with one for each tier, the last tier would lie on top of the others.
    looks = {tier: look(index) for index, tier in enumerate(wording.tiers(result))}
    shapes = {tier: MarkerStyle(style["marker"]) for tier, style in looks.items()}
    paths = {tier: shape.get_path().transformed(shape.get_transform()) for tier, shape in shapes.items()}
    colours = [looks[row["tier"]]["color"] for row in rows]
    area = float(np.clip(5000 / max(len(rows), 1), 7, 40))
    marks = PathCollection(
        [paths[row["tier"]] for row in rows],
        sizes=[area],
        offset_transform=ax.transData,
        zorder=3,
        linewidth=0.8,
        offsets=[(rank, row["coverage"]) for rank, row in enumerate(rows, start=1)] or np.zeros((0, 2)),
        edgecolor=colours,
        facecolor=[
            "white" if row["num_calibration"] == 0 else colour for row, colour in zip(rows, colours, strict=True)
        ],
    )
    marks.set_transform(IdentityTransform())
    ax.add_collection(marks, autolim=False)


def _lines(ax: Axes, result: Result) -> None:
    """The promise and what was kept of it over all, each named in the right margin."""
    nominal, overall = 1 - result.scenario.calibrate.alpha, result.calibrate["coverage"]
    ax.axhline(nominal, color=INK, linewidth=1.0, linestyle=(0, (5, 3)), zorder=2, gid="nominal")
    named = [(nominal, f"{wording.promised(result.scenario)} promised", INK)]
    if overall is not None:
        ax.axhline(overall, color=WARN if overall < nominal else SOFT, linewidth=0.8, zorder=2)
        named.append((overall, f"{wording.percent(overall)} overall", WARN if overall < nominal else SOFT))
    for height, text, colour in _apart(named, _BETWEEN / HEIGHT * (ax.get_ylim()[1] - ax.get_ylim()[0])):
        ax.annotate(
            text,
            (1, height),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            fontsize=8,
            annotation_clip=False,
        )


def _apart(named: list[tuple[float, str, str]], least: float) -> Iterator[tuple[float, str, str]]:
    heights = sorted(named)
    gap = heights[-1][0] - heights[0][0]
    push = max(0.0, least - gap) / 2 if len(heights) > 1 else 0.0
    for sign, (height, text, colour) in zip((-1, 1), heights, strict=False):
        yield height + sign * push, text, colour


def _point_out(ax: Axes, row: Row, rank: int) -> None:
    share = f"{wording.percent(row['coverage'])} of {wording.count(row['num_test'], 'test point')}"
    text = f"client {row['client']} ({row['tier']}): {share}, n_k = {row['num_calibration']:,}"
    ax.annotate(
        text,
        (rank, row["coverage"]),
        xytext=(16, -15),
        textcoords="offset points",
        fontsize=8,
        color=INK,
        va="center",
        zorder=5,
        arrowprops={"arrowstyle": "-", "color": SOFT, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3, "relpos": (0, 0.5)},
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.2, "alpha": 0.85},
    )


# -------------------------------------------------------------------------------------------------------------- words


def _key(result: Result, rows: Sequence[Row]) -> Iterator[Artist]:
    for index, (tier, members) in enumerate(wording.tiers(result).items()):
        found = result.calibrate["tiers"].get(tier, {}).get("coverage")
        label = f"{tier}: {wording.count(len(members), 'client')}, {wording.percent(found)} covered"
        yield Line2D([], [], linestyle="none", markersize=6, label=label, **look(index))
    if any(row["num_calibration"] == 0 for row in rows):
        hollow: dict[str, Any] = {"marker": "o", "markersize": 6, "color": SOFT, "markerfacecolor": "white"}
        yield Line2D([], [], linestyle="none", label="hollow: n_k = 0", **hollow)
    if any(wording.band(result.scenario, row) for row in rows):
        yield Patch(facecolor=BAND, label="band of an exchangeable client")


def _caption(result: Result) -> str:
    said = []
    counted = wording.below_band_said(result)
    if counted:
        said.append(
            "Grey: the 95% band, where the coverage of a client would fall 95 times in 100 if its test points were "
            f"exchangeable with its n_k calibration points and it used its own threshold. {counted}"
        )
        if wording.below_band(result)[2] < len(wording.tested(result)):
            said.append("No band where a client's own threshold would be infinite.")
    elif result.scenario.clients.test == "shared":
        said.append("No band: clients are tested on the shared test set, which is not what they calibrated on.")
    elif wording.shares_rows(result.scenario):
        said.append("No band: calibrators were fitted on the rows that set the thresholds.")
    return " ".join([*said, *wording.absent(result)])
