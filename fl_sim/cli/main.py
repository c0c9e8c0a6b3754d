"""The command. Nothing here but parsing, calling and printing."""

from __future__ import annotations

import codecs
import contextlib
import io
import locale
import os
import signal
import sys
import threading
import traceback
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated, Any

import click
import typer
from rich.markup import escape
from rich.table import Table

from fl_sim.cli import certify, names, plada, report
from fl_sim.cli import sweep as cli_sweep
from fl_sim.cli.arguments import (
    BOTH,
    FiguresOption,
    FileArgument,
    Overrides,
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
from fl_sim.cli.progress import Bars
from fl_sim.errors import FlSimError, RuntimeLostError, ScenarioError

app = typer.Typer(
    help="A federated-learning laboratory on Flower and Ray.", no_args_is_help=True, add_completion=False,
    pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip
data_app = typer.Typer(help="Data sets on this machine.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(plada.plada_app, name="plada")


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        out.print(f"fl-sim {version('fl-sim')}", highlight=False)
        raise typer.Exit


@app.callback()
def main_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version, and exit.")
    ] = False,
) -> None:
    """A federated-learning laboratory on Flower and Ray."""


ENDING = (signal.SIGTERM, signal.SIGHUP)  # what schedulers send, and a terminal that is closed: as Ctrl-C


class Interrupted(KeyboardInterrupt):
    """One of the signals of `ENDING` has come."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let the signals of `ENDING` interrupt the block; those that are ignored from outside, as under nohup, stay so."""

    def interrupt(number: int, frame: object) -> None:
        for heeded in before:
            signal.signal(heeded, signal.SIG_IGN)  # once is enough: what was started is being stopped
        raise Interrupted(number)

    before = {number: signal.getsignal(number) for number in ENDING if signal.getsignal(number) != signal.SIG_IGN}
    for number in before:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main() -> None:
    """Run the command; an error of the user's is one message and an exit code, not a traceback."""
    _in_utf8()
    threads = set(threading.enumerate())
    sys.path.append(str(Path.cwd()))  # where `module:object` is looked for last, so that nothing there hides our own
    try:
        with _ended_by_signals():
            _call()
    except click.exceptions.Exit as end:  # after --help
        sys.exit(end.exit_code)
    except click.ClickException as error:  # words that are no command's
        error.show()
        sys.exit(error.exit_code)
    except ScenarioError as error:
        _refuse(_message(error), 2)
    except RuntimeLostError as error:
        _refuse(_message(error), 1, threads)
    except FlSimError as error:
        _refuse(_message(error), 1)
    except KeyboardInterrupt as error:
        number = error.number if isinstance(error, Interrupted) else signal.SIGINT
        notes = getattr(error, "__notes__", _KEPT.get("".join(sys.argv[1:2]), []))
        _refuse("; ".join(["interrupted", *notes]), 128 + number, threads)
    except BrokenPipeError:  # who reads the output has enough of it, as head has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if {"-v", "--verbose"} & set(sys.argv):
            traceback.print_exc()
        _refuse(
            f"this should not have happened: {type(error).__name__}: {_message(error)}\n"
            "Run again with -v for the traceback, and please report it.",
            70,
        )
    sys.exit(0)


def _in_utf8() -> None:
    """Begin anew in Python's UTF-8 mode where the locale knows ASCII alone. Python goes over to it by itself in the
    locale C, unless PYTHONUTF8=0 or another locale of the kind keeps it from it: then names of tiers and folders could
    be neither read nor shown. What another locale cannot show is shown by its number."""
    plain = codecs.lookup(locale.getencoding()).name == "ascii" and not sys.flags.utf8_mode
    if plain and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"  # for the workers too
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


_GOES_ON = ["the finished points are kept, and the same command goes on"]
_KEPT = {"run": ["no run was written"], "sweep": _GOES_ON, "compare": _GOES_ON}  # by an interruption without notes


def _call() -> None:
    """Not `app()`, which takes an EOFError, that of a damaged file, for Ctrl-D, and so for an interruption."""
    command = typer.main.get_command(app)
    with command.make_context("fl-sim", sys.argv[1:]) as context:
        command.invoke(context)


def _message(error: Exception) -> str:
    return "; ".join([str(error), *getattr(error, "__notes__", [])])


def _refuse(message: str, code: int, threads: Collection[threading.Thread] | None = None) -> None:
    """Say why, and exit; at once where a thread that is none of `threads` would be waited for, as Flower's server would
    be, which waits for clients that are gone."""
    err.print(f"[bold red]error:[/] {escape(message)}", highlight=False, soft_wrap=True)
    if threads is not None and any(not one.daemon and one not in threads for one in threading.enumerate()):
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


# --------------------------------------------------------------------------------------------------------------- run


@app.command()
def run(
    file: FileArgument,
    overrides: Overrides = None,
    runtime: Annotated[str | None, typer.Option(help="auto, ray, inline or flower (runtime.name).")] = None,
    address: Annotated[str | None, typer.Option(help="HOST:PORT of a running Ray cluster (runtime.address).")] = None,
    to: Annotated[Path | None, typer.Option("--out", help="Where to write (default: runs/NAME-DIGEST).")] = None,
    figures: FiguresOption = BOTH,
    page: PageOption = False,
    track: Track = None,
    store: StoreOption = None,
    verbose: Verbose = False,
) -> None:
    """Run one scenario: a table, and a folder with result.json, clients.csv and figures."""
    from fl_sim.results.run import RunFolder, finished
    from fl_sim.scenario.scenario import Scenario
    from fl_sim.scenario.toml import locate

    refuse_tracker(track)
    formats = formats_of(figures)
    where = [f"runtime.{key}={value}" for key, value in (("name", runtime), ("address", address)) if value]
    scenario = Scenario.load(file, *(overrides or []), *where)
    place = to or Path("runs") / f"{locate(file).stem}-{scenario.identity()[:8]}"
    done = finished(place, scenario)
    if done is not None:
        _show(done)
        out.print(
            f"This scenario was run before, so nothing was run now. Everything is in [bold]{escape(str(place))}[/]",
            soft_wrap=True,
        )
        if page:
            report.write_page(place)
        hand_over(track, place)
        return
    from fl_sim.preflight import check
    from fl_sim.runtime.choice import choose
    from fl_sim.runtime.session import Session
    from fl_sim.store.artifacts import users_store

    check(scenario)
    chosen, why = choose([scenario], users_store(store))
    if why:
        err.print(f"[dim]{escape(why)}[/]", highlight=False, soft_wrap=True)
    with RunFolder(place) as folder, Bars(err) as bars:
        bars.phase("starting", None)
        with Session(chosen, scenario.clients.count, store=store, verbose=verbose) as session:
            from fl_sim.simulation import simulate_on  # imports torch, while Ray starts

            result = simulate_on(session, scenario, bars)
        from fl_sim.report.wording import took

        bars.phase("drawing", None)
        folder.write(result)
        first = folder.finish()
        drawn = []
        if first and formats:
            from fl_sim.report.figures.catalogue import draw_finished

            drawn = draw_finished(result, place, formats)
    _show(result)
    out.print(f"[dim]{took(result)}[/]", highlight=False)
    if not first:
        out.print("Another process has finished the same run there in the meantime: its files stay.")
    written = listed(["result.json", "clients.csv"], drawn)
    out.print(f"{written} are in [bold]{escape(str(place))}[/]", soft_wrap=True, highlight=False)
    if page:
        report.write_page(place)
    hand_over(track, place)


for command in (
    cli_sweep.compare,
    cli_sweep.sweep,
    cli_sweep.calibrate,
    cli_sweep.results,
    certify.certify,
    report.report,
):
    app.command()(command)


def _show(result: Any) -> None:
    from fl_sim.report.table import summary

    out.print(summary(result))
    for note in result.summary.get("notes", ()):  # which results of older versions do not have
        out.print(f"- {escape(note)}", highlight=False, soft_wrap=True)


# ----------------------------------------------------------------------------------------------- scenarios and names


@app.command()
def validate(file: FileArgument, overrides: Overrides = None) -> None:
    """Check a scenario, or every point of a sweep, without running it."""
    from fl_sim.scenario.toml import locate, read, still_swept, values_of

    many = any(len(values_of(assignment)[1]) > 1 for assignment in overrides or [])
    from fl_sim.preflight import check
    from fl_sim.scenario.scenario import Scenario

    if many or still_swept(read(locate(file)), overrides or []):
        from fl_sim.sweep.expand import load_sweep

        sweep = load_sweep(file, overrides or [])
        for point in sweep.runs.values():
            check(point.scenario)
        out.print(f"{escape(file)} can be run here: {len(sweep.points)} points, {len(sweep.runs)} different runs")
        return
    scenario = Scenario.load(file, *(overrides or []))
    check(scenario)
    world = (
        f"{scenario.clients.count} clients on {scenario.data.name}, {scenario.learn.name}, {scenario.calibrate.name}"
    )
    out.print(f"{escape(file)} can be run here: {world}")


app.command()(names.new)
app.command("list")(names.list_names)


# ----------------------------------------------------------------------------------------------- data, store, doctor


@data_app.command("get")
def data_get(
    name: Annotated[str, typer.Argument(help="As in fl-sim list datasets, or weights:NAME, ImageNet's for a model.")],
) -> None:
    """Download a data set, or a model's ImageNet weights: the only command that does."""
    from fl_sim.data.datasets import get
    from fl_sim.models.pretrained import get_weights

    kind, _, model = name.partition(":")
    with Bars(err) as bars:
        bars.phase(f"getting {escape(name)}", None)
        happened = get_weights(model) if kind == "weights" else get(name)
    out.print(escape(happened), soft_wrap=True)


@app.command()
def store(
    prune: Annotated[bool, typer.Option("--prune", help="Delete what was not used for --days.")] = False,
    days: Annotated[float, typer.Option(min=0, help="With --prune; 0 deletes everything.")] = 30,
    check: Annotated[
        bool, typer.Option("--check", help="Compare every byte with what was written; delete what is damaged.")
    ] = False,
    place: StoreOption = None,
) -> None:
    """What the artifact store holds."""
    from fl_sim.store.artifacts import users_store

    artifacts = users_store(place)
    if prune:
        count, freed = artifacts.prune(days)
        out.print(f"deleted {count} artifacts, {freed / 1e6:.1f} MB")
    table = Table(title=f"artifact store {artifacts.root}", title_justify="left", box=None, pad_edge=False)
    for column in ("kind", "artifacts", "MB"):
        table.add_column(column, justify="left" if column == "kind" else "right")
    damaged = artifacts.check() if check else None
    entries = artifacts.listing()
    for kind in sorted({entry.kind for entry in entries}):
        mine = [entry.num_bytes for entry in entries if entry.kind == kind]
        table.add_row(kind, str(len(mine)), f"{sum(mine) / 1e6:.1f}")
    table.add_row("all", str(len(entries)), f"{sum(entry.num_bytes for entry in entries) / 1e6:.1f}", style="bold")
    out.print(table)
    if damaged:
        raise FlSimError(
            f"artifact store {artifacts.root}: deleted what was damaged, {damaged} of {damaged + len(entries)} "
            "artifacts"
        )
    if check:
        out.print("no artifact is damaged")


@app.command()
def doctor(
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[runtime.key=value]...", help="With --bench: where clients run.")
    ] = None,
    bench: Annotated[
        bool, typer.Option("--bench", help="Measure it, in half a minute: how many clients a minute to expect.")
    ] = False,
) -> None:
    """This machine: versions, processors, GPUs, data at hand, and how to get what is missing."""
    from fl_sim.cli.doctor import findings

    if settings and not bench:
        raise FlSimError(f"{settings[0]}: only --bench takes settings; say fl-sim doctor --bench {settings[0]}")
    table = Table(box=None, pad_edge=False, show_header=False)
    healthy = True
    for finding in findings():
        healthy &= finding.ok
        table.add_row("[green]ok[/]" if finding.ok else "[red]no[/]", finding.subject, escape(finding.details))
    out.print(table)
    if not healthy:
        raise FlSimError("what is marked 'no' above keeps fl-sim from working here")
    if bench:
        _bench(settings or [])


def _bench(settings: list[str]) -> None:
    from fl_sim.cli.bench import NOTES, about, bench
    from fl_sim.report.terminal import bullets

    with Bars(err) as bars:
        where, figures = bench(settings, bars)
    table = Table(title=f"\n{escape(where)}", title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in ("", "measured"):
        table.add_column(column, vertical="bottom")
    for column in ("expect clients\na minute", "1,000\nclients in"):
        table.add_column(column, justify="right")
    for figure in figures:
        expected = "" if figure.a_minute is None else about(figure.a_minute)
        thousand = "" if figure.thousand is None else f"{about(figure.thousand)} s"
        table.add_row(figure.what, figure.measured, expected, thousand)
    out.print(table, "", bullets(list(NOTES)))
