"""What the commands have in common: where they print, and their arguments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fl_sim.errors import FlSimError

out = Console()
err = Console(stderr=True)

FileArgument = Annotated[str, typer.Argument(metavar="FILE", help="A scenario file, or the name of a shipped one.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[key=value]...", help="For instance clients.count=100 calibrate=local.")
]
StoreOption = Annotated[
    Path | None,
    typer.Option("--store", help="Folder of the artifact store (default: FL_SIM_STORE, or the user's cache)."),
]
Track = Annotated[
    str | None,
    typer.Option("--track", help="tensorboard, mlflow or wandb: also hand what is found to that tracker, offline."),
]
BOTH = "png,svg"  # by default
FiguresOption = Annotated[
    str, typer.Option("--figures", envvar="FL_SIM_FIGURES", help="The formats of figures: png, svg, both, or none.")
]
PageOption = Annotated[bool, typer.Option("--page", help="Also write report.html, as fl-sim report does.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Let Flower and Ray log; show tracebacks.")]


def formats_of(figures: str) -> tuple[str, ...]:
    """The formats that `--figures` names.

    Raises:
        FlSimError: it names another.
    """
    formats = () if figures == "none" else tuple(dict.fromkeys(figures.replace(" ", "").split(",")))
    for form in formats:
        if form not in BOTH.split(","):
            raise FlSimError(f"--figures {figures}: no format is called {form!r}; say png, svg, {BOTH} or none")
    return formats


def listed(files: Sequence[str], drawn: Sequence[Path]) -> str:
    """The names of what was written; a figure in two formats is named once."""
    first: dict[str, str] = {}
    for path in drawn:
        first.setdefault(path.stem, path.name)
    return ", ".join([*files, *first.values()])


def refuse_tracker(name: str | None) -> None:
    """Refuse a tracker that is not here, before any work."""
    if name is not None:
        from fl_sim.results.tracking import check_tracker

        check_tracker(name)


def hand_over(name: str | None, place: Path) -> None:
    """Hand what is in a folder to the tracker that was asked for, and say so."""
    if name is not None:
        from fl_sim.results.tracking import track

        count = track(name, place)
        words = f"{name} was told of {count} run{'' if count == 1 else 's'}" if count else f"{name} was told before"
        out.print(words, highlight=False)
