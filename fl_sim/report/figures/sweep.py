"""The figures of a sweep: coverage overall and at the worst client, and what it costs, a line a strategy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fl_sim.report import sweep_points as over
from fl_sim.report.figures.style import save, styled
from fl_sim.report.figures.sweep_dots import dots
from fl_sim.report.figures.sweep_lines import lines
from fl_sim.report.figures.sweep_plot import Measure, Plot
from fl_sim.report.sweep_labels import is_of_learn
from fl_sim.report.sweep_points import STRATEGIES, Cell, axis_names, cells, strategy

MOST_FIGURES, MOST_COLUMNS, MOST_ROWS = 12, 6, 30


def draw_sweep(points: pd.DataFrame, axes: Sequence[str], title: str, folder: Path) -> list[Path]:
    """Draw a sweep into `folder` as PNG and SVG; two drawings of the same points have the same bytes.

    Returns:
        The files: `sweep`, or `sweep_01` and so on where more axes are swept than one figure can show; none where no
        point has a result.
    """
    with styled():
        return [path for name, figure in figures(points, axes, title) for path in save(figure, folder, name)]


def figures(points: pd.DataFrame, axes: Sequence[str], title: str) -> Iterator[tuple[str, Figure]]:
    """Name and figure of each that `draw_sweep` draws; to be taken in the style."""
    plots = list(_plots(points, axes, title))
    names = ["sweep"] if len(plots) == 1 else [f"sweep_{k:02d}" for k in range(1, len(plots) + 1)]
    for name, plot in zip(names, plots[:MOST_FIGURES], strict=False):
        yield name, (lines if plot.x else dots)(plot)


# --------------------------------------------------------------------------------------------------- what goes where


def _plots(points: pd.DataFrame, axes: Sequence[str], title: str) -> Iterator[Plot]:
    """One figure, or one for each combination of the axes that neither lines, x nor columns show."""
    axes = [axis for axis in axes if axis not in STRATEGIES or points[axis].nunique() > 1]
    measures = list(_measures(points, axes))
    if not measures:
        return
    many = {axis: points[axis].nunique(dropna=False) for axis in axes if axis not in (*STRATEGIES, "seed")}
    swept = [axis for axis in many if many[axis] > 1]
    # The first numeric axis, unless another has more values than there is room for columns.
    x = max(
        filter(lambda axis: _numeric(points[axis]), swept),
        key=lambda axis: (many[axis] > MOST_COLUMNS) * many[axis],
        default=None,
    )
    columns = next((axis for axis in swept if x and axis != x and many[axis] <= MOST_COLUMNS), None)
    rest = [axis for axis in swept if x and axis not in (x, columns)]
    groups = cells(points, rest) if rest else list(_by_rows(points, axes, x))
    named = list(dict.fromkeys(strategy(cell.key) for cell in cells(points, axes)))
    for index, group in enumerate(groups, start=1):
        said = [over.place(group.key, axis_names(axes))] * bool(rest)
        said += [f"figure {index} of {len(groups)}"] * (len(groups) > 1)
        said += [f"only the first {MOST_FIGURES} are drawn"] * (len(groups) > MOST_FIGURES)
        yield Plot(group.rows, axes, named, measures, x, columns, title, "; ".join(said))


def _by_rows(points: pd.DataFrame, axes: Sequence[str], x: str | None) -> Iterator[Cell]:
    """All points, or so many rows of a dot plot at a time as there is room for."""
    found = cells(points, axes)
    step = len(found) if x else MOST_ROWS
    for start in range(0, len(found), step):
        yield Cell({}, pd.concat([cell.rows for cell in found[start : start + step]]))


def _numeric(column: Iterable[object]) -> bool:
    return all(isinstance(v, int | float | np.number) and not isinstance(v, bool | np.bool_) and v == v for v in column)


def _measures(points: pd.DataFrame, axes: Sequence[str]) -> Iterator[Measure]:
    regression, calibrated = over.has(points, over.RMSE), over.has(points, over.COVERAGE)
    worst = over.worst_metric(points)
    tested = " (30+ test points)" if worst == over.WORST_TESTED else ""
    some = [
        Measure(over.COVERAGE, "coverage overall", 1.3, promised=True),
        Measure(worst, f"coverage of the worst\nclient{tested}", 2.0, promised=True),
        Measure(over.size_metric(points), "mean interval length" if regression else "mean set size", 1.3),
    ]
    if not calibrated or any(map(is_of_learn, axes)):
        some.append(Measure(over.RMSE, "RMSE", 1.3) if regression else Measure(over.ACCURACY, "accuracy", 1.3))
    if not calibrated:
        worst_model = Measure(f"{over.ACCURACY}_client_min", "accuracy at the\nworst client", 1.3)
        some.append(Measure(f"{over.RMSE}_client_max", "RMSE at the\nworst client", 1.3) if regression else worst_model)
    some.append(Measure(over.LABELS_DIFFER, "rows on which two\nclients' labels differ", 1.3))
    some.append(Measure(over.DISAGREEMENT, "disagreement of\ntwo clients", 1.3))
    yield from (measure for measure in some if over.has(points, measure.metric))
