"""The command that judges a finished run. Nothing here but parsing, calling and printing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fl_sim.cli.arguments import out
from fl_sim.errors import FlSimError

FORMATS = ("table", "csv", "json")


def certify(
    folder: Annotated[Path, typer.Argument(help="Of a run, a comparison or a sweep; nothing is written into it.")],
    slack: Annotated[float, typer.Option(help="How much less than 1 - alpha is let pass.")] = 0.0,
    level: Annotated[float, typer.Option(help="How often any client that keeps the promise may be rejected.")] = 0.05,
    min_calibration: Annotated[int, typer.Option(min=0, help="Clients with fewer points are not judged.")] = 50,
    form: Annotated[str, typer.Option("--format", help="table, csv or json.")] = "table",
) -> None:
    """Which clients cover less than was promised, beyond bad luck: exact tests, corrected over the clients."""
    from fl_sim.report import certificate
    from fl_sim.results import tables
    from fl_sim.results.run import Result
    from fl_sim.results.sweep_folder import SWEEP
    from fl_sim.store.folders import is_there

    if form not in FORMATS:
        raise FlSimError(f"--format {form}: choose one of {', '.join(FORMATS)}")
    claim = certificate.Claim(slack, level, min_calibration)
    if is_there(folder / SWEEP):
        rows = certificate.points(folder, claim)
        shown = certificate.of_points(rows, tables.load(folder).title, claim)
    else:
        result = Result.load(folder)
        rows, shown = certificate.clients(result, claim), certificate.of_run(result, claim)
    if form == "table":
        out.print(shown)
    else:
        tables.write(rows, form, sys.stdout)
