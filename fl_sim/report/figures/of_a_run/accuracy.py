"""How often each client's model is right, one strip a tier, where nothing is calibrated."""

from __future__ import annotations

from matplotlib.figure import Figure

from fl_sim.report import wording
from fl_sim.report.figures.strips import strips
from fl_sim.results.run import Result

ORDER = 10


def applies(result: Result) -> bool:
    """Where labels are predicted, and no sets of them."""
    return not wording.is_calibrated(result) and not wording.is_regression(result)


def draw(result: Result) -> Figure:
    """The accuracy of each client."""
    return strips(result, "accuracy", "accuracy", wording.how_good(result))
