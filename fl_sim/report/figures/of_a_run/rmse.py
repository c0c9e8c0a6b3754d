"""How far each client's model errs, one strip a tier, where nothing is calibrated."""

from __future__ import annotations

from matplotlib.figure import Figure

from fl_sim.report import wording
from fl_sim.report.figures.strips import strips
from fl_sim.results.run import Result

ORDER = 10


def applies(result: Result) -> bool:
    """Where numbers are predicted, and no intervals."""
    return not wording.is_calibrated(result) and wording.is_regression(result)


def draw(result: Result) -> Figure:
    """The root mean squared error of each client."""
    return strips(result, "rmse", "root mean squared error", wording.how_good(result))
