"""A sweep without a numeric axis: a row of dots a strategy (and category), a panel a measure."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from fl_sim.report.figures.marks import mark, names_axis, note, promise_lines, ticks
from fl_sim.report.figures.sheet import Words, side_by_side, widest
from fl_sim.report.figures.style import BAND
from fl_sim.report.figures.sweep_plot import Mark, Measure, Plot, limits, promises
from fl_sim.report.sweep_points import STRATEGIES, Cell, shown, strategy

ROW, NARROWEST = 0.3, 1.5  # inches: a row of dots, and the width of a panel


def dots(plot: Plot, title: str, caption: str) -> Figure:
    """The figure; rows in the order of the points, the first on top."""
    rows = plot.cells
    labels = [", ".join(filter(None, [*_world(plot, cell), strategy(cell.key)])) or "all" for cell in rows]
    words = Words(title, plot.subtitle, caption)
    height = max(2, len(rows)) * ROW
    figure, panels = side_by_side(
        words, len(plot.measures), height, narrowest=NARROWEST, across=0.3, left=0.3 + widest(labels)
    )
    first = panels[0].get_position().x0
    for ax, measure in zip(panels, plot.measures, strict=True):
        names_axis(ax, labels)
        ax.tick_params(labelleft=ax.get_position().x0 == first)
        _frame(ax, measure, plot.marks[measure])
        _dots(ax, plot, measure, rows)
        for place in range(1, len(rows)):
            if _world(plot, rows[place]) != _world(plot, rows[place - 1]):
                ax.axhline(place - 0.5, color=BAND, linewidth=0.8)
    return figure


def _world(plot: Plot, cell: Cell) -> list[str]:
    others = [axis for axis in plot.axes if axis not in (*STRATEGIES, "seed") and plot.points[axis].nunique() > 1]
    return [shown(cell.key[axis]) for axis in others]


def _frame(ax: Axes, measure: Measure, marks: Sequence[Mark]) -> None:
    low, high = limits(measure, marks)
    end = high + 0.22 * (high - low)  # room for the numbers
    ax.set_xlim(low, end)
    measure.axis(ax.xaxis, 4)
    most = 1.0 if measure.is_share else end
    ax.set_xticks([tick for tick in ticks(4).tick_values(low, high) if low <= tick <= most])
    ax.set_title(measure.label)
    if measure.promised:
        promise_lines(ax, promises(marks), upright=True)


def _dots(ax: Axes, plot: Plot, measure: Measure, rows: Sequence[Cell]) -> None:
    places = {str(cell.key): index for index, cell in enumerate(rows)}
    for one in plot.marks[measure]:
        place, style = places[str(one.cell.key)], plot.style(strategy(one.cell.key))
        mean, low, high = one.interval
        colour, face = style["color"], style["color"] if one.lost else None
        ax.plot([low, high], [place, place], color=colour, linewidth=2, zorder=3, solid_capstyle="butt")
        ax.plot([mean], [place], marker=style["marker"], color=colour, zorder=4, **mark(face, 6.5))
        outline = [withStroke(linewidth=2, foreground="white")]
        note(ax, measure.text(mean), (min(high, ax.get_xlim()[1]), place), (7, 0), path_effects=outline)
