"""How to make again what a report shows: the command, checked where it can be, the scenario, and the versions."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fl_sim.errors import FlSimError
from fl_sim.report.sweep_labels import taken_apart
from fl_sim.results.run import SCENARIO, Result
from fl_sim.results.sweep_folder import POINTS, SweepFile
from fl_sim.scenario.scenario import Scenario
from fl_sim.scenario.toml import shipped
from fl_sim.store.folders import text_of
from fl_sim.sweep.expand import load_sweep


def of_run(folder: Path, result: Result) -> tuple[str, str]:
    """A run's command, and what is to be known of it."""
    name = folder.resolve().name.rpartition("-")[0]
    try:
        if name in shipped() and Scenario.load(name).identity() == result.scenario.identity():
            return f"fl-sim run {shlex.quote(name)}", "The shipped scenario makes this very run."
    except FlSimError:
        pass  # a scenario of that name that cannot be read here is not the one that was run
    return f"fl-sim run {SCENARIO}", f"{SCENARIO} lies in the run's folder, and below: it is complete."


def of_sweep(folder: Path, runs: Sequence[str]) -> tuple[str, str]:
    """A sweep's command that makes the very same points, and what is to be known of it.

    The folder does not hold the command, so candidates are read and their points compared with those of the folder.
    """
    told = SweepFile.read(folder)
    axes = [f"{axis}={','.join(values)}" for axis, values in _values(told).items()]
    for file, words in _candidates(told.name, folder, runs, axes):
        try:
            found = load_sweep(str(file), words).identity
        except FlSimError:
            continue
        if found == told.identity:
            named = file if isinstance(file, str) else file.relative_to(folder)
            where = "" if isinstance(file, str) else " It is to be said in the sweep's folder, with an --out elsewhere."
            return shlex.join(["fl-sim", "sweep", str(named), *words]), f"It makes these very points.{where}"
    first = f"{POINTS}/{runs[0]}/{SCENARIO}" if runs else f"{POINTS}/RUN/{SCENARIO}"
    return (
        f"fl-sim run {first}",
        "Beside its results every point has its whole scenario; this makes the first.",
    )


def _candidates(
    name: str, folder: Path, runs: Sequence[str], axes: list[str]
) -> Iterator[tuple[str | Path, list[str]]]:
    if name in shipped():
        yield name, []
        yield name, axes
    for run in runs[:1]:
        yield folder / POINTS / run / SCENARIO, axes


def _values(told: SweepFile) -> dict[str, list[str]]:
    """Axis -> its values as they are said on the command line, in their order."""
    found: dict[str, dict[str, None]] = {axis: {} for axis in told.axes}
    for point in told.points:
        for axis, value in point.settings.items():
            found[axis].setdefault(_said(value), None)
    return {axis: list(values) for axis, values in found.items()}


def _said(value: Any) -> str:
    """A label as TOML: `{name="fcp", sketch="exact"}` for `fcp(sketch=exact)`."""
    if not isinstance(value, str):
        return json.dumps(value)
    name, arguments = taken_apart(value)
    if not arguments:
        return value
    inside = [f'name="{name}"'] * bool(name) + [f"{key}={_literal(text)}" for key, text in arguments.items()]
    return "{" + ", ".join(inside) + "}"


def _literal(text: str) -> str:
    """A number or a truth value as it is, a word in quotes, a table in its braces."""
    if text in ("True", "False"):
        return text.lower()
    if text.startswith("("):
        return _said(text)
    try:
        float(text)
    except ValueError:
        return json.dumps(text)
    return text


def versions(results: Sequence[Result]) -> dict[str, str]:
    """Name -> version of what made the results, and the machine; several where the runs differ."""
    found: dict[str, dict[str, None]] = {}
    for result in results:
        told = {**(result.summary.get("versions") or {}), **(result.summary.get("machine") or {})}
        for name, value in told.items():
            found.setdefault(str(name), {}).setdefault(str(value), None)
    return {name: ", ".join(values) for name, values in found.items()}


def scenario_text(folder: Path) -> str:
    """The scenario of a run's folder, as it is there."""
    return text_of(folder / SCENARIO)
