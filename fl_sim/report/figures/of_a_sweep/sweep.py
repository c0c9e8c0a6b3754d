"""Coverage overall and at the worst client, and what it costs: a line a strategy, or a row of dots."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fl_sim.report import sweep_points as over
from fl_sim.report.figures.sweep_dots import dots
from fl_sim.report.figures.sweep_lines import lines
from fl_sim.report.figures.sweep_plot import Measure, Plot, caption, size_measure, varied, worst_measure
from fl_sim.report.sweep_labels import is_of_learn
from fl_sim.report.sweep_points import STRATEGIES, Cell, axis_names, cells, strategy
from fl_sim.report.sweep_results import SweepResults

ORDER = 10
MOST_FIGURES, MOST_COLUMNS, MOST_ROWS = 12, 6, 30


def draw(sweep: SweepResults) -> list[Figure]:
    """One figure, or one for each combination of the axes that neither lines, x nor columns show; none where no point
    has a result."""
    figures = []
    for plot in _plots(sweep.points, sweep.axes, sweep.title):
        finding, parts = over.finding(plot.points, plot.axes), caption(plot)
        figures.append(lines(plot, finding, parts) if plot.x else dots(plot, finding, parts))
    return figures


def _plots(points: pd.DataFrame, axes: Sequence[str], title: str) -> Iterator[Plot]:
    axes = varied(points, axes)
    measures = list(_measures(points, axes))
    if not measures:
        return
    many = {axis: points[axis].nunique(dropna=False) for axis in axes if axis not in (*STRATEGIES, "seed")}
    swept = [axis for axis in many if many[axis] > 1]
    numeric = [axis for axis in swept if _numeric(points[axis])]
    # The first numeric axis, unless another has more values than there is room for columns.
    x = max(numeric, key=lambda axis: (many[axis] > MOST_COLUMNS) * many[axis], default=None)
    columns = next((axis for axis in swept if x and axis != x and many[axis] <= MOST_COLUMNS), None)
    rest = [axis for axis in swept if x and axis not in (x, columns)]
    groups = cells(points, rest) if rest else list(_by_rows(points, axes, x))
    named = list(dict.fromkeys(strategy(cell.key) for cell in cells(points, axes)))
    for index, group in enumerate(groups[:MOST_FIGURES], start=1):
        parts = [title, *[over.place(group.key, axis_names(axes))] * bool(rest)]
        parts += [f"figure {index} of {len(groups)}"] * (len(groups) > 1)
        parts += [f"only the first {MOST_FIGURES} are drawn"] * (len(groups) > MOST_FIGURES)
        yield Plot(group.rows, axes, named, measures, x, columns, "; ".join(filter(None, parts)))


def _by_rows(points: pd.DataFrame, axes: Sequence[str], x: str | None) -> Iterator[Cell]:
    """All points, or so many rows of a dot plot at a time as there is room for."""
    every = cells(points, axes)
    step = len(every) if x else MOST_ROWS
    for start in range(0, len(every), step):
        yield Cell({}, pd.concat([cell.rows for cell in every[start : start + step]]))


def _numeric(column: Iterable[object]) -> bool:
    return all(isinstance(v, int | float | np.number) and not isinstance(v, bool | np.bool_) and v == v for v in column)


def _measures(points: pd.DataFrame, axes: Sequence[str]) -> Iterator[Measure]:
    regression, calibrated = over.has(points, over.RMSE), over.has(points, over.COVERAGE)
    some = [Measure(over.COVERAGE, "coverage overall", promised=True), worst_measure(points), size_measure(points)]
    if not calibrated or any(map(is_of_learn, axes)):
        some.append(Measure(over.RMSE, "RMSE") if regression else Measure(over.ACCURACY, "accuracy"))
    if not calibrated:
        worst_model = Measure(over.LEAST, "accuracy at the\nworst client")
        some.append(Measure(f"{over.RMSE}_client_max", "RMSE at the\nworst client") if regression else worst_model)
    some.append(Measure(over.LABELS_DIFFER, "rows on which two\nclients' labels differ"))
    some.append(Measure(over.DISAGREEMENT, "disagreement of\ntwo clients"))
    yield from (measure for measure in some if over.has(points, measure.metric))
