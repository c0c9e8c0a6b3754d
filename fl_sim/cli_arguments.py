"""What the commands have in common: where they print, and their arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

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
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Let Flower and Ray log; show tracebacks.")]
