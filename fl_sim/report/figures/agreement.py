"""How far clients disagree: every pair on the left, on the right what larger stacks of their models would change."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator
from numpy.typing import NDArray

from fl_sim.agreement.measure import MATRIX, read_matrix
from fl_sim.report import agreement, wording
from fl_sim.report.figures.style import INK, LEFT, SOFT, WARN, WIDTH, look, sheet, ticks
from fl_sim.results.run import Result

HEIGHT, SIDE = 3.35, 2.75  # inches: the plots' place, and the matrix, which is as high as wide
BESIDE = 1.15  # inches between the matrix and the curve, where its colours are explained
FLOOR = 1e-3  # of the largest value: what is less is not drawn
LOOK = {"disagreement": 0, "bound": 3, "gain": 1}
DASHES: dict[str, Any] = {"disagreement": "-", "bound": (0, (5, 2)), "gain": (0, (1.2, 1.4))}
WORDS = {
    "disagreement": "measured: two disjoint stacks of k",
    "bound": "bound 4 (R_k - R_2k)",
    "gain": "gain of doubling k, on rows held out",
}


def disagreements(result: Result) -> Figure:
    """The figure of a run with a table `[agreement]`."""
    page = sheet(agreement.headline(result), wording.world(result), _caption(result), HEIGHT, _key(result))
    bottom = HEIGHT - SIDE - 0.15
    left = page.axes(LEFT, bottom, SIDE, SIDE)
    if MATRIX in result.files:
        scale = page.axes(LEFT + SIDE + 0.1, bottom, 0.12, SIDE)
        _matrix(left, scale, result)
    else:
        _clients(left, result)
    start = LEFT + SIDE + BESIDE
    _curve(page.axes(start, bottom, WIDTH - start - 0.25, SIDE), result)
    return page.figure


def _matrix(ax: Axes, scale: Axes, result: Result) -> None:
    """Clients by tier, then by their mean disagreement; dark is far apart, also in print without colours."""
    clients, between = read_matrix(result.files[MATRIX])
    rows = {row["client"]: row for row in result.clients}
    tiers = list(wording.tiers(result))
    told = [(tiers.index(rows[k]["tier"]), rows[k]["disagreement"], place) for place, k in enumerate(clients)]
    order = [place for _, _, place in sorted(told)]
    image = ax.imshow(between[np.ix_(order, order)], cmap="Greys", vmin=0, interpolation="nearest", aspect="equal")
    counts = [sum(index == k for index, _, _ in told) for k in range(len(tiers))]
    ends = np.cumsum([0, *counts])
    for end in ends[1:-1]:
        for line in (ax.axhline, ax.axvline):
            line(end - 0.5, color="white", linewidth=1.6)
            line(end - 0.5, color=WARN, linewidth=0.7)
    middles = [(a + b - 1) / 2 for a, b in pairwise(ends) if b > a]
    names = [tier for tier, many in zip(tiers, counts, strict=True) if many]
    ax.set_xticks(middles, names)
    ax.set_yticks(middles, names, rotation=90, va="center")
    ax.tick_params(length=0)
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.set_title("each pair of clients", fontsize=8.2, color=INK, pad=5, loc="left")
    bar = ax.figure.colorbar(image, cax=scale)
    bar.outline.set_linewidth(0.4)
    bar.locator = ticks(5)
    bar.update_ticks()


def _clients(ax: Axes, result: Result) -> None:
    """Where the matrix is too large to be kept: each client's mean, sorted within its tier."""
    start = 0
    for index, members in enumerate(wording.tiers(result).values()):
        means = sorted(row["disagreement"] for row in members if row["disagreement"] is not None)
        ax.plot(start + np.arange(len(means)), means, linestyle="none", markersize=2.5, **look(index))
        start += len(means)
    ax.set_xlabel("clients, by tier")
    ax.set_title("each client's mean over all others", fontsize=8.2, color=INK, pad=5, loc="left")


def _curve(ax: Axes, result: Result) -> None:
    """Disagreement of two disjoint stacks of k, what bounds it where it is bounded, and what doubling gains."""
    found = agreement.of(result)
    sizes = np.array([point["k"] for point in found["curve"]], np.float64)
    lines = _lines(result)
    floor = _floor(result)
    for order, (name, (mean, error)) in enumerate(lines.items()):
        mark: dict[str, Any] = {**look(LOOK[name]), "markersize": 4.5, "markerfacecolor": "white", "linewidth": 1.3}
        shown = np.where(mean > floor, mean, np.nan)
        low = np.maximum(shown - 2 * error, floor)
        ax.fill_between(sizes, low, shown + 2 * error, color=mark["color"], alpha=0.16, linewidth=0)
        ax.plot(sizes, shown, linestyle=DASHES[name], zorder=4 - order, **mark)
    ax.set_xscale("log", base=2)
    if floor > 0:
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.xaxis.set_major_locator(FixedLocator(sizes.tolist()))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.set_xlim(sizes[0] / 1.15, sizes[-1] * 1.15)
    ax.grid(axis="y", color="#eeeeee", linewidth=0.6, zorder=0)
    ax.set_axisbelow(True)
    ax.set_xlabel("k: models in a stack")
    ax.set_title("stacks of k clients' models", fontsize=8.2, color=INK, pad=5, loc="left")
    if found["enough"] is not None:
        ax.axvline(found["enough"], color=SOFT, linewidth=0.8, linestyle=(0, (2, 2)), zorder=1, gid="enough")


def _lines(result: Result) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Name -> mean and standard error at each k, of the lines that are drawn."""
    found = agreement.of(result)
    names = [name for name in LOOK if name != "bound" or found["bound_applies"]]

    def column(key: str) -> NDArray[np.float64]:
        return np.array([point[key] for point in found["curve"]], np.float64)

    return {name: (column(name), column(f"{name}_se")) for name in names}


def _floor(result: Result) -> float:
    """What is as good as 0 on a logarithmic axis; 0 where all is, and there is no such axis."""
    return FLOOR * max(float(mean.max()) for mean, _ in _lines(result).values())


def _key(result: Result) -> list[Line2D]:
    open_mark: dict[str, Any] = {"markersize": 5, "markerfacecolor": "white", "linewidth": 1.3}
    return [
        Line2D([], [], label=WORDS[name], linestyle=DASHES[name], **open_mark, **look(LOOK[name]))
        for name in _lines(result)
    ]


def _caption(result: Result) -> str:
    found = agreement.of(result)
    said = [f"Disagreement: {agreement.unit(result)}, mean over {found['rows']:,} rows that all clients answered on."]
    said += [f"Bands: two standard errors over {found['draws']} draws of the groups.", *agreement.bound_said(result)]
    said += [agreement.enough_said(result)]
    if any((mean <= _floor(result)).any() for mean, _ in _lines(result).values()):
        said.append("Where a line has a gap it is 0, as good as 0 or below.")
    if MATRIX not in result.files:
        said.append("The clients are too many for a matrix.")
    return " ".join([*said, *agreement.missing_said(result)])
