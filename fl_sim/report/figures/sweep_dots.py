"""A sweep without a numeric axis: a row of dots a strategy (and category), a panel a measure."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from fl_sim.report import sweep_points as over
from fl_sim.report.figures.style import BAND, INK, WARN, WIDTH, sheet, text_width, ticks
from fl_sim.report.figures.sweep_plot import Mark, Measure, Plot, caption, limits, promises, share_ticks, subtitle
from fl_sim.report.sweep_points import STRATEGIES, Cell, shown, strategy

ROW, GAP, HEAD, FLOOR = 0.3, 0.3, 0.44, 0.34  # inches: a row of dots, between panels, above and below them


def dots(plot: Plot) -> Figure:
    """The figure; rows in the order of the points, the first on top."""
    rows = plot.cells
    labels = [", ".join(filter(None, [*_world(plot, cell), strategy(cell.key)])) or "all" for cell in rows]
    height = max(2, len(rows)) * ROW + HEAD + FLOOR
    page = sheet(over.finding(plot.points, plot.axes), subtitle(plot), caption(plot), height)
    left = 0.3 + max(text_width(page.figure, label) for label in labels)
    width = (WIDTH - left - 0.25 - GAP * (len(plot.measures) - 1)) / len(plot.measures)
    for index, measure in enumerate(plot.measures):
        ax = page.axes(left + index * (width + GAP), FLOOR, width, height - HEAD - FLOOR)
        _frame(ax, measure, plot.marks[measure], labels if index == 0 else [""] * len(rows))
        _dots(ax, plot, measure, rows)
        for place in range(1, len(rows)):
            if _world(plot, rows[place]) != _world(plot, rows[place - 1]):
                ax.axhline(place - 0.5, color=BAND, linewidth=0.8)
    return page.figure


def _world(plot: Plot, cell: Cell) -> list[str]:
    others = [axis for axis in plot.axes if axis not in (*STRATEGIES, "seed") and plot.points[axis].nunique() > 1]
    return [shown(cell.key[axis]) for axis in others]


def _frame(ax: Axes, measure: Measure, marks: Sequence[Mark], labels: Sequence[str]) -> None:
    low, high = limits(measure, marks)
    ax.set_xlim(low, high + 0.22 * (high - low))  # room for the numbers
    ax.set_ylim(max(2, len(labels)) - 0.5, -0.5)
    ax.set_yticks(range(len(labels)), labels)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    most = 1.0 if measure.is_share else high + 0.22 * (high - low)
    ax.set_xticks([tick for tick in ticks(4).tick_values(low, high) if low <= tick <= most])
    ax.xaxis.set_major_formatter(share_ticks(measure))
    ax.set_title(measure.label, fontsize=8.2, color=INK, pad=5, loc="left")
    ax.grid(axis="x", color="#eeeeee", linewidth=0.6, zorder=0)
    ax.set_axisbelow(True)
    levels = promises(marks) if measure.promised else []
    for level in levels:
        ax.axvline(level, color=INK, linewidth=1.0, linestyle=(0, (5, 3)), zorder=2, gid="nominal")
    if len(levels) == 1:
        ax.axvspan(low, levels[0], color=WARN, alpha=0.06, linewidth=0, zorder=0.5)


def _dots(ax: Axes, plot: Plot, measure: Measure, rows: Sequence[Cell]) -> None:
    places = {str(cell.key): index for index, cell in enumerate(rows)}
    for mark in plot.marks[measure]:
        place, style = places[str(mark.cell.key)], plot.style(mark.cell)
        mean, low, high = mark.found
        ax.plot([low, high], [place, place], color=style["color"], linewidth=2, zorder=3, solid_capstyle="butt")
        ax.plot(
            [mean], [place], marker=style["marker"], color=style["color"], markersize=6.5, zorder=4,
            markerfacecolor=style["color"] if mark.lost else "white", markeredgewidth=1.3,
        )  # fmt: skip
        ax.annotate(
            measure.text(mean), (high, place), xytext=(7, 0), textcoords="offset points", va="center", fontsize=7.5,
            color=INK, path_effects=[withStroke(linewidth=2, foreground="white")],
        )  # fmt: skip
