"""The figures of a run: coverage by client, sizes by tier, who holds which labels, and what a payload is made of."""

from __future__ import annotations

from pathlib import Path

from fl_sim.report import handed, words
from fl_sim.report.figure_coverage import coverage
from fl_sim.report.figure_labels import labels
from fl_sim.report.figure_payload import payload
from fl_sim.report.figure_strips import accuracy, sizes
from fl_sim.report.style import save, styled
from fl_sim.results import Result


def draw(result: Result, folder: Path) -> list[Path]:
    """Draw a run's figures into `folder`, as PNG and SVG; two drawings of one result have the same bytes.

    Returns:
        The files: `coverage`, `set_sizes` (or `interval_lengths`) and `labels`; without calibration `accuracy`
        (or `rmse`) and `labels`; where a payload was handed out, `payload` too.
    """
    regression = words.is_regression(result)
    if words.is_calibrated(result):
        plots = {"coverage": coverage, "interval_lengths" if regression else "set_sizes": sizes, "labels": labels}
    else:
        plots = {"rmse" if regression else "accuracy": accuracy, "labels": labels}
    if handed.has_payload(result):
        plots["payload"] = payload
    with styled():
        return [path for name, plot in plots.items() for path in save(plot(result), folder, name)]
