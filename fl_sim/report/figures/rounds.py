"""A federation round by round, and where the learn strategy weighs clients, who weighs how much in the end."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from fl_sim.report import contribution, wording
from fl_sim.report.contribution import Record
from fl_sim.report.figures.style import LEFT, WIDTH, look, sheet, text_width, ticks
from fl_sim.report.wording import number, percent
from fl_sim.results.run import Result, Row

HEIGHT, FLOOR, ABOVE = 2.6, 0.5, 0.25  # inches of the plot, below it the ticks and the axis label, above it its name
MISBEHAVING = "misbehaving"
_GOLDEN = (5**0.5 - 1) / 2  # its multiples fill an interval evenly: a jitter without chance


def rounds(result: Result) -> Figure:
    """The model on the clients' test rows over the rounds, a line an architecture; beside it each client's weight."""
    curves, second = contribution.curves(result), contribution.is_weighed(result)
    key = [Line2D([], [], label=name, markersize=4.5, **look(i)) for i, name in enumerate(curves) if len(curves) > 1]
    page = sheet(_finding(result, curves), wording.world(result), _caption(result), HEIGHT + FLOOR + ABOVE, key)
    groups = _groups(result) if second else {}
    names = max((text_width(page.figure, name) for name in groups), default=0.0)
    wide = (WIDTH - LEFT - 0.25 - (names + 0.55) * second) / (1 + second)
    _over_rounds(page.axes(LEFT, FLOOR, wide, HEIGHT), result, curves)
    if second:
        _by_weight(page.axes(LEFT + wide + names + 0.55, FLOOR, wide, HEIGHT), groups)
    return page.figure


def _groups(result: Result) -> dict[str, list[Row]]:
    """Tier -> its clients that behave, and those of all tiers that do not."""
    groups = {tier: [row for row in rows if not row.get("behaviour")] for tier, rows in wording.tiers(result).items()}
    groups[MISBEHAVING] = [row for row in result.clients if row.get("behaviour")]
    return {name: rows for name, rows in groups.items() if rows}


def _over_rounds(ax: Axes, result: Result, curves: dict[str, list[Record]]) -> None:
    measure = contribution.measure(result)
    for i, records in enumerate(curves.values()):
        x, y = [record["round"] for record in records], [record[measure] for record in records]
        every = max(1, len(x) // 12)
        ax.plot(x, y, linewidth=1.2, markersize=4.5, markevery=every, clip_on=False, **look(i))
    ax.set_xlabel("round")
    ax.xaxis.set_major_locator(ticks(8, integer=True))
    ax.set_title(f"{measure} of the federation's model", fontsize=8.2, loc="left")
    if measure == "accuracy":
        ax.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.4g}%"))


def _by_weight(ax: Axes, groups: dict[str, list[Row]]) -> None:
    for index, rows in enumerate(groups.values()):
        weights = np.sort([row.get("weight") or 0.0 for row in rows])
        jitter = index - 0.3 + 0.6 * (np.arange(1, len(weights) + 1) * _GOLDEN % 1)
        area = float(np.clip(6000 / len(weights), 8, 30))
        ax.scatter(weights, jitter, s=area, linewidth=0.4, edgecolor="white", zorder=3, clip_on=False, **look(index))
    ax.set_ylim(len(groups) - 0.5, -0.5)  # the first tier on top
    ax.set_yticks(range(len(groups)), list(groups))
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_xlim(left=-0.02 * ax.get_xlim()[1])
    ax.xaxis.set_major_locator(ticks(6))
    ax.set_xlabel("a client's weight after the last round")
    ax.set_title("who weighs how much", fontsize=8.2, loc="left")


def _finding(result: Result, curves: dict[str, list[Record]]) -> str:
    measure = contribution.measure(result)
    last = [records[-1] for records in curves.values()]
    show = number if measure == "loss" else percent
    good = " and ".join(show(record[measure]) for record in last)
    return (
        f"After {last[0]['round']} rounds of {result.scenario.learn.name} the federation's model has {measure} {good}"
    )


def _caption(result: Result) -> str:
    where = "On the test rows of all clients, measured by the laboratory: no client is asked."
    return " ".join(filter(None, [where, contribution.told(result)]))
