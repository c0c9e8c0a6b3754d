"""The figures of a run: coverage by client, sizes by tier, who holds which labels, what a calibrator changed, what a
payload is made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from fl_sim.errors import FlSimError
from fl_sim.report import agreement, contribution, wording
from fl_sim.report import payload as handed
from fl_sim.report.figures.agreement import disagreements
from fl_sim.report.figures.calibration import calibration
from fl_sim.report.figures.coverage import coverage
from fl_sim.report.figures.labels import labels
from fl_sim.report.figures.payload import payload
from fl_sim.report.figures.rounds import rounds
from fl_sim.report.figures.strips import accuracy, sizes
from fl_sim.report.figures.style import save, styled
from fl_sim.results.run import Result


def draw(result: Result, folder: Path) -> list[Path]:
    """Draw a run's figures into `folder`, as PNG and SVG; two drawings of one result have the same bytes.

    Returns:
        The files: `coverage`, `set_sizes` (or `interval_lengths`) and `labels`; without calibration `accuracy`
        (or `rmse`) and `labels`; where there is a calibrator `calibration`, and where a payload was handed out
        `payload` too, and where it was measured how far clients agree, `agreement`.
    """
    with styled():
        return [path for name, plot in plots(result).items() for path in save(plot(result), folder, name)]


def draw_finished(result: Result, place: Path) -> list[Path]:
    """`draw` into the folder of a finished run, which stays whatever becomes of its figures.

    Raises:
        FlSimError: they cannot be written.
    """
    stays = f"the run is in {place}, and fl-sim report draws it"
    try:
        return draw(result, place)
    except OSError as error:
        raise FlSimError(f"{place}: its figures cannot be written: {error.strerror or error}; {stays}") from error
    except BaseException as error:
        error.add_note(stays)
        raise


def plots(result: Result) -> dict[str, Callable[[Result], Figure]]:
    """Name -> what draws it, of the figures that a run has; to be called in the style."""
    regression = wording.is_regression(result)
    found: dict[str, Callable[[Result], Figure]]
    if wording.is_calibrated(result):
        found = {"coverage": coverage, "interval_lengths" if regression else "set_sizes": sizes, "labels": labels}
    else:
        found = {"rmse" if regression else "accuracy": accuracy, "labels": labels}
    if wording.has_calibrator(result):
        found["calibration"] = calibration
    if handed.has_payload(result):
        found["payload"] = payload
    if agreement.is_measured(result):
        found["agreement"] = disagreements
    if contribution.is_measured(result):
        found["rounds"] = rounds
    return found
