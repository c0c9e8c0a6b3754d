"""The figures of a run and of a sweep: every file of `of_a_run/` and `of_a_sweep/` is one, and no other list is kept.

A file of `of_a_run/` has ORDER, `applies(result)` and `draw(result)`, which gives a Figure; one of `of_a_sweep/` has
ORDER and `draw(sweep)`, which gives as many as there are, a list. They are called in the style, and two drawings of the
same results have the same bytes.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from fl_sim.errors import FlSimError
from fl_sim.report.figures import of_a_run, of_a_sweep
from fl_sim.report.figures.style import FORMATS, save, styled
from fl_sim.report.sweep_results import SweepResults
from fl_sim.results.run import Result


def modules(package: Any) -> list[tuple[str, Any]]:
    """(name, module) of every figure of a package, in their order."""
    names = [module.name for module in pkgutil.iter_modules(package.__path__)]
    loaded = [(name, import_module(f"{package.__name__}.{name}")) for name in names]
    return sorted(loaded, key=lambda one: (one[1].ORDER, one[0]))


def figures_of_run(result: Result) -> Iterator[tuple[str, Figure]]:
    """Name and figure of each that a run has; to be taken in the style."""
    for name, module in modules(of_a_run):
        if module.applies(result):
            yield name, module.draw(result)


def figures_of_sweep(sweep: SweepResults) -> Iterator[tuple[str, Figure]]:
    """Name and figure of each that a sweep has; to be taken in the style."""
    for name, module in modules(of_a_sweep):
        figures = module.draw(sweep)
        for number, figure in enumerate(figures, start=1):
            yield (name if len(figures) == 1 else f"{name}_{number:02d}"), figure


def draw_run(result: Result, folder: Path, formats: Sequence[str] = tuple(FORMATS)) -> list[Path]:
    """Draw a run's figures into `folder`, by default as PNG and SVG; returns the files."""
    return _drawn(partial(figures_of_run, result), folder, formats)


def draw_sweep(sweep: SweepResults, folder: Path, formats: Sequence[str] = tuple(FORMATS)) -> list[Path]:
    """Draw a sweep's figures into `folder`, by default as PNG and SVG; returns the files."""
    return _drawn(partial(figures_of_sweep, sweep), folder, formats)


def _drawn(figures: Callable[[], Iterator[tuple[str, Figure]]], folder: Path, formats: Sequence[str]) -> list[Path]:
    with styled():
        return [path for name, figure in figures() for path in save(figure, folder, name, formats)]


def draw_finished(result: Result, place: Path, formats: Sequence[str] = tuple(FORMATS)) -> list[Path]:
    """`draw_run` into the folder of a finished run, which stays whatever becomes of its figures.

    Raises:
        FlSimError: they cannot be written.
    """
    stays = f"the run is in {place}, and fl-sim report draws it"
    try:
        return draw_run(result, place, formats)
    except OSError as error:
        raise FlSimError(f"{place}: its figures cannot be written: {error.strerror or error}; {stays}") from error
    except BaseException as error:
        error.add_note(stays)
        raise
