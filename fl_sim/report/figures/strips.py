"""One strip a tier, one mark a client: how large the predictions are, or how good the models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from fl_sim.report import wording
from fl_sim.report.figures.style import INK, LEFT, SOFT, WIDTH, look, sheet, text_width, ticks
from fl_sim.report.wording import count, number, percent
from fl_sim.results.run import Result, Row

STRIP, FLOOR = 1.15, 0.5  # inches a tier, and below them the ticks and the axis label
MOST = 6.0  # inches of all tiers
_GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples fill an interval evenly: a jitter without chance


def sizes(result: Result) -> Figure:
    """Mean set size or interval length of every client, by tier."""
    regression = wording.is_regression(result)
    what = "mean interval length" if regression else "mean number of labels in a set"
    return _strips(result, wording.size_name(result), f"{what}, by client", _size_finding(result), _infinite(result))


def accuracy(result: Result) -> Figure:
    """Accuracy or root mean squared error of every client, by tier."""
    if wording.is_regression(result):
        return _strips(result, "rmse", "root mean squared error, by client", how_good(result), [])
    return _strips(result, "accuracy", "accuracy, by client", how_good(result), [])


def how_good(result: Result) -> str:
    """How good the models are, in a sentence without its full stop."""
    if wording.is_regression(result):
        overall, worst = number(result.learn["rmse"]), number(result.learn["rmse_client_max"])
        return f"The models err by {overall} (RMSE) overall, {worst} at the worst of {_many(result, 'rmse')}"
    overall, worst = percent(result.learn["accuracy"]), percent(result.learn["accuracy_client_min"])
    return f"The models are {overall} accurate overall, {worst} at the worst of {_many(result, 'accuracy')}"


def _many(result: Result, column: str) -> str:
    return count(sum(row[column] is not None for row in result.clients), "client")


# ------------------------------------------------------------------------------------------------------------- drawing


def _strips(result: Result, column: str, axis: str, title: str, said: Sequence[str]) -> Figure:
    tiers = wording.tiers(result)
    box = "Box: median and quartiles of the clients; whiskers: their 5% and 95% quantiles; diamond: their mean."
    caption = " ".join([box, *said, *wording.absent(result)])
    height = min(STRIP, MOST / len(tiers)) * len(tiers)
    page = sheet(title, wording.world(result), caption, height + FLOOR)
    labels = [f"{tier}\n{count(_shown(rows, column).size, 'client')}" for tier, rows in tiers.items()]
    left = max(LEFT, 0.3 + max(text_width(page.figure, line) for label in labels for line in label.split("\n")))
    ax = page.axes(left, FLOOR, WIDTH - left - 0.25, height)
    for index, rows in enumerate(tiers.values()):
        _strip(ax, index, _shown(rows, column))
    _frame(ax, labels, axis, shares=column == "accuracy")
    return page.figure


def _shown(rows: Sequence[Row], column: str) -> NDArray[np.float64]:
    values = [row[column] for row in rows if row[column] is not None and math.isfinite(row[column])]
    return np.array(sorted(values), dtype=np.float64)


def _strip(ax: Axes, index: int, values: NDArray[np.float64]) -> None:
    if not values.size:
        ax.text(0.5, index, "nothing to show", transform=ax.get_yaxis_transform(), ha="center", va="center", color=SOFT)
        return
    style: dict[str, Any] = look(index)
    jitter = index + 0.04 + 0.36 * (np.arange(1, len(values) + 1) * _GOLDEN % 1)
    area = float(np.clip(6000 / len(values), 8, 30))
    ax.scatter(values, jitter, s=area, linewidth=0.4, edgecolor="white", zorder=3, **style)
    _box(ax, index - 0.2, values)


def _box(ax: Axes, height: float, values: NDArray[np.float64]) -> None:
    # By hand: matplotlib's own imports pyplot, and its option for lying boxes changed its name in 3.10.
    low, first, middle, third, high = np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95])
    line: dict[str, Any] = {"color": SOFT, "linewidth": 1.0, "solid_capstyle": "butt"}
    for end, edge in ((low, first), (high, third)):
        ax.plot([end, edge], [height, height], **line)
        ax.plot([end, end], [height - 0.045, height + 0.045], **line)
    ax.add_patch(
        Rectangle((first, height - 0.09), third - first, 0.18, facecolor="none", edgecolor=SOFT, linewidth=1.0)
    )
    ax.plot([middle, middle], [height - 0.09, height + 0.09], color=INK, linewidth=1.5, solid_capstyle="butt")
    ax.plot([values.mean()], [height], marker="D", markersize=4, color=INK)


def _frame(ax: Axes, labels: Sequence[str], axis: str, *, shares: bool) -> None:
    ax.set_ylim(len(labels) - 0.5, -0.5)  # the first tier on top
    ax.set_yticks(range(len(labels)), labels)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel(axis)
    _room(ax)
    ax.xaxis.set_major_locator(ticks(8))
    if shares:
        ax.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.4g}%"))
    ax.grid(axis="x", color="#eeeeee", linewidth=0.6, zorder=0)
    ax.set_axisbelow(True)


def _room(ax: Axes) -> None:
    """Margins, and a sensible width where all values are the same but for rounding."""
    ax.margins(x=0.03)
    low, high = ax.dataLim.intervalx
    if np.isfinite([low, high]).all() and high - low < 1e-6 * max(abs(low), abs(high), 1e-9):
        ax.set_xlim(low - 0.1 * abs(low) - 0.1, high + 0.1 * abs(high) + 0.1)


# -------------------------------------------------------------------------------------------------------------- words


def _size_finding(result: Result) -> str:
    regression = wording.is_regression(result)
    overall = wording.mean_size(result, result.calibrate)
    if overall is None:
        return "No client could be tested"
    thing = "An interval is" if regression else "A set holds"
    unit = "long" if regression else "labels"
    if math.isinf(overall):
        return f"{percent(result.calibrate['infinite_interval_rate'])} of the intervals are infinite"
    empty = result.calibrate["empty_set_rate"]
    said = f"{thing} {number(overall)} {unit} on average{_from_to(result)}"
    return f"{said}; {percent(empty)} are empty" if empty else said


def _from_to(result: Result) -> str:
    found = {tier: wording.mean_size(result, metrics) for tier, metrics in result.calibrate["tiers"].items()}
    known = sorted((size, tier) for tier, size in found.items() if size is not None)
    if len(known) < 2 or number(known[0][0]) == number(known[-1][0]):
        return ""
    (low, small), (high, large) = known[0], known[-1]
    return f", {number(low)} at {small} and {number(high)} at {large} clients"


def _infinite(result: Result) -> list[str]:
    column = wording.size_name(result)
    many = sum(row[column] == math.inf for row in result.clients)
    return [f"{count(many, 'client')} with infinite intervals: not shown."] * bool(many)
