"""How many labels the sets of each client hold, one strip a tier."""

from __future__ import annotations

from matplotlib.figure import Figure

from fl_sim.report import wording
from fl_sim.report.figures.strips import sizes
from fl_sim.results.run import Result

ORDER = 20


def applies(result: Result) -> bool:
    """Where sets of labels were calibrated."""
    return wording.is_calibrated(result) and not wording.is_regression(result)


def draw(result: Result) -> Figure:
    """The mean of each client's sets."""
    return sizes(result, "mean number of labels in a set")
