"""A federation round by round, and where the learn strategy weighs clients, who weighs how much in the end."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fl_sim.report import contribution, wording
from fl_sim.report.contribution import Record
from fl_sim.report.figures.marks import cloud, count_axis, names_axis, share_axis, ticks
from fl_sim.report.figures.sheet import Words, side_by_side, widest
from fl_sim.report.figures.style import look
from fl_sim.report.numbers import listed, number, percent
from fl_sim.results.run import Result, Row

ORDER = 70
HEIGHT, NARROWEST = 2.6, 2.4  # inches of a panel
MISBEHAVING = "misbehaving"


def applies(result: Result) -> bool:
    """Where the federation's model was measured after at least two rounds."""
    return contribution.is_measured(result)


def draw(result: Result) -> Figure:
    """The model on the clients' test rows over the rounds, a line an architecture; beside it each client's weight."""
    curves = contribution.curves(result)
    groups = _groups(result) if contribution.is_weighed(result) else {}
    key = [Line2D([], [], label=name, markersize=4.5, **look(i)) for i, name in enumerate(curves) if len(curves) > 1]
    words = Words(_finding(result, curves), wording.world(result), _caption(result))
    across = 0.55 + widest(list(groups))
    figure, (first, *second) = side_by_side(
        words, 1 + bool(groups), HEIGHT, narrowest=NARROWEST, across=across, left=max(0.72, across), key=key
    )
    _over_rounds(first, result, curves)
    for ax in second:
        _by_weight(ax, groups)
    return figure


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
    count_axis(ax.xaxis, 8)
    ax.set_title(f"{measure} of the federation's model")
    if measure == "accuracy":
        share_axis(ax.yaxis)


def _by_weight(ax: Axes, groups: dict[str, list[Row]]) -> None:
    for index, rows in enumerate(groups.values()):
        cloud(ax, [row.get("weight") or 0.0 for row in rows], index - 0.3, index + 0.3, look(index))
    names_axis(ax, list(groups))
    ax.set_xlim(left=-0.02 * ax.get_xlim()[1])
    ax.xaxis.set_major_locator(ticks(6))
    ax.set_xlabel("a client's weight after the last round")
    ax.set_title("who weighs how much")


def _finding(result: Result, curves: dict[str, list[Record]]) -> str:
    measure, last = contribution.measure(result), [records[-1] for records in curves.values()]
    good = listed([(number if measure == "loss" else percent)(record[measure]) for record in last])
    after = f"After {last[0]['round']} rounds of {result.scenario.learn.name}"
    return f"{after} the federation's model has {measure} {good}"


def _caption(result: Result) -> str:
    where = "On the test rows of all clients, measured by the laboratory: no client is asked."
    return " ".join(filter(None, [where, contribution.weights(result)]))
