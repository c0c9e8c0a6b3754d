"""The commands for many runs: sweep, compare, results. Nothing here but parsing, calling and printing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from fl_sim.cli.arguments import (
    BOTH,
    FiguresOption,
    FileArgument,
    PageOption,
    StoreOption,
    Track,
    Verbose,
    err,
    formats_of,
    hand_over,
    listed,
    out,
    refuse_tracker,
)
from fl_sim.cli.progress import SweepBars
from fl_sim.cli.report import write_page
from fl_sim.errors import FlSimError

Assignments = Annotated[
    list[str] | None, typer.Argument(metavar="[key=a,b,c]...", help="An axis, or one value to fix a key.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="List the points and what they will cost, and run nothing.")]
Jobs = Annotated[int, typer.Option("--jobs", min=1, help="Points that run side by side, each in a process of its own.")]
FailFast = Annotated[bool, typer.Option("--fail-fast", help="Stop at the first point that fails.")]


def sweep(
    file: FileArgument,
    assignments: Assignments = None,
    to: Annotated[Path | None, typer.Option("--out", help="Where to write (default: runs/NAME-sweep-DIGEST).")] = None,
    dry_run: DryRun = False,
    fail_fast: FailFast = False,
    jobs: Jobs = 1,
    figures: FiguresOption = BOTH,
    page: PageOption = False,
    track: Track = None,
    store: StoreOption = None,
    verbose: Verbose = False,
) -> None:
    """Run every point of a file's sweep table; the same command again goes on where it stopped."""
    from fl_sim.sweep.expand import load_sweep

    points = load_sweep(file, assignments or [])
    place = to or Path("runs") / f"{points.name}-sweep-{points.identity[:8]}"
    _sweep(
        points, place, dry_run=dry_run, fail_fast=fail_fast, jobs=jobs, figures=figures, page=page, track=track,
        store=store, verbose=verbose, compared=False,
    )  # fmt: skip


def compare(
    file: FileArgument,
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME NAME... [key=value]...", help="Strategies; the first is what the others are held against."
        ),
    ],
    to: Annotated[
        Path | None, typer.Option("--out", help="Where to write (default: runs/NAME-compare-DIGEST).")
    ] = None,
    dry_run: DryRun = False,
    fail_fast: FailFast = False,
    jobs: Jobs = 1,
    figures: FiguresOption = BOTH,
    page: PageOption = False,
    track: Track = None,
    store: StoreOption = None,
    verbose: Verbose = False,
) -> None:
    """Run one world under one strategy after another, and show the paired differences."""
    from fl_sim.sweep.expand import load_comparison

    points = load_comparison(file, [n for n in names if "=" not in n], [n for n in names if "=" in n])
    place = to or Path("runs") / f"{points.name}-compare-{points.identity[:8]}"
    _sweep(
        points, place, dry_run=dry_run, fail_fast=fail_fast, jobs=jobs, figures=figures, page=page, track=track,
        store=store, verbose=verbose, compared=True,
    )  # fmt: skip


def calibrate(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="Predictions, a row a point: .csv, .parquet or .npz (docs/predictions.md)."
        ),
    ],
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]... [key=value]...", help="Calibrate strategies (default: all of one round)."),
    ] = None,
    alpha: Annotated[float, typer.Option(help="Miscoverage: 0.1 promises 90 %.")] = 0.1,
    score: Annotated[str, typer.Option(help="As fl-sim list scores has them (default: by the task).")] = "",
    to: Annotated[
        Path | None, typer.Option("--out", help="Where to write (default: runs/NAME-calibrate-DIGEST).")
    ] = None,
    dry_run: DryRun = False,
    jobs: Jobs = 1,
    figures: FiguresOption = BOTH,
    page: PageOption = False,
    track: Track = None,
    store: StoreOption = None,
    verbose: Verbose = False,
) -> None:
    """Calibrate predictions that you have: no scenario, and nothing is trained.

    For instance: fl-sim calibrate preds.parquet fedwq-cp grouped local --alpha 0.1 --score lac
    """
    from fl_sim.sweep.expand import load_predictions

    words = names or []
    strategies, assignments = [n for n in words if "=" not in n], [n for n in words if "=" in n]
    command = ("calibrate", str(file), *words, "--alpha", f"{alpha:g}", *(("--score", score) if score else ()))
    points = load_predictions(file, strategies, assignments, alpha, score, command)
    place = to or Path("runs") / f"{points.name}-calibrate-{points.identity[:8]}"
    _sweep(
        points, place, dry_run=dry_run, fail_fast=False, jobs=jobs, figures=figures, page=page, track=track,
        store=store, verbose=verbose, compared=True,
    )  # fmt: skip


def _sweep(
    points: Any, place: Path, *, dry_run: bool, fail_fast: bool, jobs: int, figures: str, page: bool, track: str | None,
    store: Path | None, verbose: bool, compared: bool,
) -> None:  # fmt: skip
    from fl_sim.sweep.run import run_sweep, writing

    refuse_tracker(track)
    formats = formats_of(figures)
    if dry_run:
        from fl_sim.report.plan import plan

        out.print(plan(points, place))
        return
    with SweepBars(err) as bars:
        failed = run_sweep(points, place, bars, store=store, verbose=verbose, fail_fast=fail_fast, jobs=jobs)
    with writing(place):
        _show_sweep(place, formats, compared=compared)
    if page:
        write_page(place)
    hand_over(track, place)
    if failed:
        words = {point.run: point.words() for point in points.points}
        lines = [f"{words[run]}: {reason.strip().splitlines()[-1]}" for run, reason in failed.items()]
        raise FlSimError(
            f"{len(failed)} of {len(points.runs)} runs failed; the same command tries them again\n" + "\n".join(lines)
        )


def _show_sweep(place: Path, formats: Sequence[str], *, compared: bool) -> None:
    from fl_sim.report import advice
    from fl_sim.report.sweep_results import SweepResults
    from fl_sim.report.sweep_table import summary
    from fl_sim.results.tables import write

    sweep = SweepResults.load(place)
    out.print(summary(sweep.points, sweep.axes, sweep.title, compared=compared))
    out.print("\n".join(["", *advice.of_sweep(sweep), ""]), highlight=False, markup=False)
    steady = [column for column in sweep.table if not str(column).startswith("seconds.")]
    write(sweep.table[steady], "csv", place / "points.csv")
    drawn = []
    if formats:
        from fl_sim.report.figures.catalogue import draw_sweep

        drawn = draw_sweep(sweep, place, formats)
    written = listed(["points.csv"], drawn)
    out.print(f"{written} {'are' if drawn else 'is'} in [bold]{escape(str(place))}[/]", soft_wrap=True, highlight=False)


def results(
    folder: Annotated[Path, typer.Argument(help="Of a run, a comparison or a sweep.")],
    form: Annotated[
        str, typer.Option("--format", help="csv, json or parquet; a paper's table: markdown or latex.")
    ] = "csv",
    what: Annotated[str, typer.Option(help="points, clients or thresholds: a row each.")] = "points",
    to: Annotated[
        Path | None, typer.Option("--to", help="A file (default: standard output; parquet needs one).")
    ] = None,
) -> None:
    """Results as data, to compute with."""
    from fl_sim.report import paper
    from fl_sim.results.tables import FORMATS, load, write

    if form not in (*FORMATS, *paper.FORMATS):
        raise FlSimError(f"--format {form}: choose one of {', '.join([*FORMATS, *paper.FORMATS])}")
    if what not in ("points", "clients", "thresholds"):
        raise FlSimError(f"--what {what}: choose points, clients or thresholds")
    if form in paper.FORMATS and what != "points":
        raise FlSimError(f"--format {form} is of a comparison's or a sweep's points; leave --what {what} out")
    if to is None and form == "parquet":
        raise FlSimError("--format parquet is not text: name a file with --to")
    if to is not None and to.exists():
        raise FlSimError(f"{to}: is there already; choose another --to")
    if form in paper.FORMATS:
        text = paper.table(folder, form)
        sys.stdout.write(text) if to is None else to.write_text(text, encoding="utf-8")
        return
    frame = getattr(load(folder), what)
    try:
        write(frame, form, sys.stdout if to is None else to)
    except OSError as error:
        raise FlSimError(f"{to}: cannot be written: {error.strerror or error}") from None
