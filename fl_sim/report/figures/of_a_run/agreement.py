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
from fl_sim.report.figures.marks import mark, ticks
from fl_sim.report.figures.sheet import Words, side_by_side
from fl_sim.report.figures.style import SOFT, WARN, look
from fl_sim.results.run import Result

ORDER = 60
HEIGHT, NARROWEST, ACROSS = 2.9, 2.8, 1.15  # inches: a panel, and between them, where the matrix' colours are explained
FLOOR = 1e-3  # of the largest value: what is less is not drawn
LOOK = {"disagreement": 0, "bound": 3, "gain": 1}
DASHES: dict[str, Any] = {"disagreement": "-", "bound": (0, (5, 2)), "gain": (0, (1.2, 1.4))}
WORDS = {
    "disagreement": "measured: two disjoint stacks of k",
    "bound": "bound 4 (R_k - R_2k)",
    "gain": "gain of doubling k, on rows held out",
}


def applies(result: Result) -> bool:
    """Where the scenario has a table `[agreement]`."""
    return agreement.is_measured(result)


def draw(result: Result) -> Figure:
    """The matrix of pairs, or each client's mean where they are too many; and the curve of stacks."""
    key = [Line2D([], [], label=WORDS[name], linewidth=1.3, **_style(name)) for name in _lines(result)]
    words = Words(agreement.headline(result), wording.world(result), _caption(result))
    figure, (left, right) = side_by_side(words, 2, HEIGHT, narrowest=NARROWEST, across=ACROSS, key=key)
    if MATRIX in result.files:
        _matrix(left, result)
    else:
        _clients(left, result)
    _curve(right, result)
    return figure


def _style(name: str) -> dict[str, Any]:
    return {**look(LOOK[name]), **mark(None, 4.5), "linestyle": DASHES[name]}


def _matrix(ax: Axes, result: Result) -> None:
    """Clients by tier, then by their mean disagreement; dark is far apart, also in print without colours."""
    clients, between = read_matrix(result.files[MATRIX])
    rows = {row["client"]: row for row in result.clients}
    tiers = list(wording.tiers(result))
    keys = [(tiers.index(rows[k]["tier"]), rows[k]["disagreement"], place) for place, k in enumerate(clients)]
    order = [place for _, _, place in sorted(keys)]
    image = ax.imshow(between[np.ix_(order, order)], cmap="Greys", vmin=0, interpolation="nearest", aspect="equal")
    counts = [sum(index == k for index, _, _ in keys) for k in range(len(tiers))]
    ends = np.cumsum([0, *counts])
    for end in ends[1:-1]:
        for line in (ax.axhline, ax.axvline):
            line(end - 0.5, color="white", linewidth=1.6)
            line(end - 0.5, color=WARN, linewidth=0.7)
    middles = [(a + b - 1) / 2 for a, b in pairwise(ends) if b > a]
    names = [tier for tier, many in zip(tiers, counts, strict=True) if many]
    ax.set_anchor("W")
    ax.set_xticks(middles, names)
    ax.set_yticks(middles, names, rotation=90, va="center")
    ax.tick_params(length=0)
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.set_title("each pair of clients")
    bar = ax.figure.colorbar(image, cax=ax.inset_axes((1.04, 0, 0.05, 1)))
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
    ax.set_title("each client's mean over all others")


def _curve(ax: Axes, result: Result) -> None:
    """Disagreement of two disjoint stacks of k, what bounds it where it is bounded, and what doubling gains."""
    metrics, floor = agreement.of(result), _floor(result)
    sizes = np.array([point["k"] for point in metrics["curve"]], np.float64)
    for order, (name, (mean, error)) in enumerate(_lines(result).items()):
        shown = np.where(mean > floor, mean, np.nan)
        low = np.maximum(shown - 2 * error, floor)
        colour = look(LOOK[name])["color"]
        ax.fill_between(sizes, low, shown + 2 * error, color=colour, alpha=0.16, linewidth=0)
        ax.plot(sizes, shown, linewidth=1.3, zorder=4 - order, **_style(name))
    ax.set_xscale("log", base=2)
    if floor > 0:
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.xaxis.set_major_locator(FixedLocator(sizes.tolist()))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.set_xlim(sizes[0] / 1.15, sizes[-1] * 1.15)
    ax.grid(axis="y", zorder=0)
    ax.set_xlabel("k: models in a stack")
    ax.set_title("stacks of k clients' models")
    if metrics["enough"] is not None:
        ax.axvline(metrics["enough"], color=SOFT, linewidth=0.8, linestyle=(0, (2, 2)), zorder=1, gid="enough")


def _lines(result: Result) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Name -> mean and standard error at each k, of the lines that are drawn."""
    metrics = agreement.of(result)

    def column(key: str) -> NDArray[np.float64]:
        return np.array([point[key] for point in metrics["curve"]], np.float64)

    names = [name for name in LOOK if name != "bound" or metrics["bound_applies"]]
    return {name: (column(name), column(f"{name}_se")) for name in names}


def _floor(result: Result) -> float:
    """What is as good as 0 on a logarithmic axis; 0 where all is, and there is no such axis."""
    return FLOOR * max(float(mean.max()) for mean, _ in _lines(result).values())


def _caption(result: Result) -> str:
    metrics = agreement.of(result)
    parts = [
        f"Disagreement: {agreement.unit(result)}, mean over {metrics['rows']:,} rows that all clients answered on."
    ]
    parts += [f"Bands: two standard errors over {metrics['draws']} draws of the groups.", agreement.bound_said(result)]
    parts += [agreement.enough_said(result)]
    if any((mean <= _floor(result)).any() for mean, _ in _lines(result).values()):
        parts.append("Where a line has a gap it is 0, as good as 0 or below.")
    if MATRIX not in result.files:
        parts.append("The clients are too many for a matrix.")
    return " ".join([*parts, *agreement.missing_said(result)])
