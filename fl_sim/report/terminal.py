"""What tables on the terminal have in common: a frame without lines, names that fold and numbers that do not, notes."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text


def table_of(names: Sequence[str], numbers: Sequence[str], gap: int = 1, widest: int = 0) -> Table:
    """A table without rows: columns of names give way where the terminal is narrow, those of numbers never."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, gap, 0, 0), header_style="")
    for header in names:
        table.add_column(header, overflow="fold", max_width=widest or None)
    for header in numbers:
        table.add_column(header, justify="right", no_wrap=True)
    return table


def bullets(lines: Sequence[str]) -> Table:
    """The lines as a list under a table, with hanging indents."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for line in lines:
        grid.add_row("-", Text(line))
    return grid
