"""The command that makes a page of results. Nothing here but parsing, calling and printing."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from fl_sim.cli.arguments import out


def write_page(folder: Path, to: Path | None = None) -> Path:
    """Write the page of a folder, and say where."""
    from fl_sim.report.numbers import size_of
    from fl_sim.report.page.build import write_report

    written = write_report(folder, to)
    size = size_of(written.stat().st_size)
    out.print(f"[bold]{escape(str(written))}[/] ({size})", soft_wrap=True, highlight=False)
    return written


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Of a run, a comparison or a sweep.")],
    to: Annotated[Path | None, typer.Option("--out", help="The file to write (default: DIR/report.html).")] = None,
    show: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
) -> None:
    """One HTML page that opens offline: the answer in words, tables, figures, every client."""
    written = write_page(folder, to)
    if show and not webbrowser.open(written.resolve().as_uri()):
        out.print("no browser was found here; open the file by hand")
