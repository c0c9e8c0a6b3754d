"""`fl-sim report`: a run, a comparison or a sweep as one HTML page that needs nothing else and opens offline.

It says what the terminal says, by the same functions. The page has no source but itself, and tells the browser so (its
security policy forbids everything else); two reports of the same folder have the same bytes. `page.html` is its
template, which escapes whatever it is given.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from fl_sim.errors import FlSimError
from fl_sim.report import advice, sweep_table, wording
from fl_sim.report import table as run_table
from fl_sim.report.figures.catalogue import figures_of_run, figures_of_sweep
from fl_sim.report.numbers import count
from fl_sim.report.page.clients import Explorer
from fl_sim.report.page.figures import drawn
from fl_sim.report.page.tables import lost, of_block, of_texts, verdicts
from fl_sim.report.sweep_points import axis_names, cells, shown
from fl_sim.report.sweep_results import SweepResults
from fl_sim.report.verdicts import certified, standings
from fl_sim.results import tables
from fl_sim.results.run import RESULT, SCENARIO, Result
from fl_sim.results.sweep_folder import POINTS, SWEEP, SweepFile, failures
from fl_sim.scenario.scenario import Scenario
from fl_sim.scenario.toml import shipped
from fl_sim.store.folders import is_there, text_of, write_whole

NAME = "report.html"


def write_report(folder: Path, to: Path | None = None) -> Path:
    """Write the report of a folder, at once, and return where it is (default: `report.html` in the folder).

    Raises:
        FlSimError: the folder holds no finished run or point, or the file cannot be written.
    """
    if not folder.is_dir():
        raise FlSimError(f"{folder}: there is no such folder; name one that fl-sim run, compare or sweep has written")
    to = to or folder / NAME
    if to.is_dir():
        raise FlSimError(f"{to}: is a folder; name a file with --out")
    if not os.access(to.parent, os.W_OK):  # told before the page is made, which takes seconds
        raise FlSimError(f"{to}: cannot be written: {to.parent} is no folder that may be written; choose another --out")
    html = page(folder)
    try:
        write_whole(to, html.encode())
    except OSError as error:
        raise FlSimError(f"{to}: cannot be written: {error.strerror or error}; choose another --out") from None
    return to


def page(folder: Path) -> str:
    """The report of a folder as HTML.

    Raises:
        FlSimError: the folder holds no finished run or point.
    """
    if is_there(folder / SWEEP):
        content = _sweep(folder)
    elif is_there(folder / RESULT):
        content = _run(folder)
    else:
        raise FlSimError(
            f"{folder}: holds no finished run ({RESULT}) and no sweep ({SWEEP}); name a folder that fl-sim run, "
            "compare or sweep has written"
        )
    script = _shipped("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    how: dict[str, Any] = {"autoescape": True, "undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=FunctionLoader(_shipped), **how)
    return environment.get_template("page.html").render(
        name=folder.resolve().name, style=Markup(_shipped("page.css")), script=Markup(script), digest=digest, **content
    )


def _shipped(name: str) -> str:
    return files("fl_sim.report.page").joinpath(name).read_text(encoding="utf-8")


# --------------------------------------------------------------------------------------------------------------- a run


def _run(folder: Path) -> dict[str, Any]:
    result, explorer = Result.load(folder), Explorer()
    explorer.add("", result)
    explorer.data |= {"axes": [], "points": [{"at": [], "run": 0}]}
    headers, everybody, tiers = run_table.rows(result)
    rows = [[cell.plain for cell in row] for row in [*everybody, *tiers]]
    trust = run_table.probabilities(result)
    points = certified(tables.load(folder).points.assign(run=""), {"": result})
    command, about = _run_again(folder, result)
    return {
        "world": wording.world(result),
        "sentences": advice.of_run(result),
        "verdicts": verdicts(standings(points, [], result.scenario.calibrate.name), points),
        "table": of_texts("All clients, and each tier", headers, rows),
        "notes": list(run_table.notes(result)),
        "lost": None,
        "more_tables": [of_texts("How far the probabilities can be trusted", *trust)] if trust[1] else [],
        "figures": drawn(partial(figures_of_run, result)),
        "explorer": explorer,
        "axes": {},
        "again": _again(command, about, folder, [result], "this run"),
    }


def _run_again(folder: Path, result: Result) -> tuple[str, str]:
    """A run's command, and what is to be known of it."""
    name = folder.resolve().name.rpartition("-")[0]
    try:
        if name in shipped() and Scenario.load(name).identity() == result.scenario.identity():
            return f"fl-sim run {name}", "The shipped scenario makes this very run."
    except FlSimError:
        pass  # a scenario of that name that cannot be read here is not the one that was run
    return f"fl-sim run {SCENARIO}", f"{SCENARIO} lies in the run's folder, and below: it is complete."


# ------------------------------------------------------------------------------------------------------------- a sweep


def _sweep(folder: Path) -> dict[str, Any]:
    sweep, file = SweepResults.load(folder), SweepFile.read(folder)
    points, axes, results = sweep.points, sweep.axes, sweep.results
    if not results:
        raise FlSimError(f"{folder}: none of its {count(len(points), 'point')} is finished; run the sweep first")
    explorer = _explorer(sweep)
    about = "Every point has its whole scenario in its folder; below is the first one's."
    return {
        "world": sweep.title,
        "sentences": advice.of_sweep(sweep),
        "verdicts": verdicts(advice.standings_of(sweep), points),
        **_tables(sweep, explorer),
        "lost": lost(points, axes, failures(folder)) if (points["status"] != "ok").any() else None,
        "figures": drawn(partial(figures_of_sweep, sweep)),
        "explorer": explorer,
        "axes": {axis: ", ".join(dict.fromkeys(map(shown, points[axis]))) for axis in axes},
        "again": _again(
            file.command_line, about, folder / POINTS / next(iter(results)), [*results.values()], "a point"
        ),
    }


def _tables(sweep: SweepResults, explorer: Explorer) -> dict[str, Any]:
    """Every row of the sweep, each with a button to its clients; the tables beside, and the notes."""
    blocks = sweep_table.blocks(sweep.points, sweep.axes)
    metrics = {column.metric for block in blocks for column in block.columns}
    go: list[int | None] = []
    for cell in cells(sweep.points, sweep.axes):
        runs = zip(cell.rows["point"], cell.rows["run"], strict=True)
        go.append(next((int(point) for point, run in runs if str(run) in explorer.runs), None))
    return {
        "table": of_block(blocks[0], go) if blocks else None,
        "more_tables": [of_block(block) for block in blocks[1:]],
        "notes": list(sweep_table.notes(sweep.points, sweep.axes, metrics)),
    }


def _explorer(sweep: SweepResults) -> Explorer:
    """The explorer of a sweep. Where not all runs have room, the first seed of every row of the table comes first."""
    explorer, names, points = Explorer(), axis_names(sweep.axes), sweep.points
    ok = points[points["status"] == "ok"]
    first = [str(cell.rows["run"].iloc[0]) for cell in cells(ok, sweep.axes)]
    for run in [*first, *ok["run"].map(str)]:
        explorer.add(run, sweep.results[run])
    values = {axis: list(dict.fromkeys(map(shown, points[axis]))) for axis in sweep.axes}
    explorer.data["axes"] = [{"name": names[axis], "values": labels} for axis, labels in values.items()]
    explorer.data["points"] = [
        {"at": [values[axis].index(shown(row[axis])) for axis in sweep.axes], "run": explorer.runs.get(str(row["run"]))}
        | ({} if row["status"] == "ok" else {"status": row["status"]})
        for row in points.to_dict("records")
    ]
    explorer.left_out = len(sweep.results) - len(explorer.runs)
    return explorer


# ---------------------------------------------------------------------------------------------------- making it again


def _again(command: str, about: str, run: Path, results: Sequence[Result], whose: str) -> dict[str, Any]:
    scenario = text_of(run / SCENARIO)
    return {"command": command, "about": about, "scenario": scenario, "whose": whose, "versions": versions(results)}


def versions(results: Sequence[Result]) -> dict[str, str]:
    """Name -> version of what made the results, and the machine; several where the runs differ."""
    known: dict[str, dict[str, None]] = {}
    for result in results:
        parts = {**(result.summary.get("versions") or {}), **(result.summary.get("machine") or {})}
        for name, value in parts.items():
            known.setdefault(str(name), {}).setdefault(str(value), None)
    return {name: ", ".join(values) for name, values in known.items()}
