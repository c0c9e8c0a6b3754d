"""A comparison or a sweep as a table for a paper: the columns of the terminal's table that a text has room for, in
Markdown or in LaTeX, means with their t intervals over the seeds."""

from __future__ import annotations

import re
from pathlib import Path

from fl_sim.errors import FlSimError
from fl_sim.report.sweep_results import SweepResults
from fl_sim.report.sweep_table import Block, blocks, cell_text

FORMATS = ("markdown", "latex")
LEFT_OUT = ("client\nmean", "ECE", "Brier", "PHI", "labels\ndiffer", "dis-\nagreement")
_SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def table(folder: Path, form: str) -> str:
    """The first table of a sweep's or comparison's folder.

    Raises:
        FlSimError: the folder holds none, or no point of it has a result.
    """
    sweep = SweepResults.load(folder)
    shown = blocks(sweep.points, sweep.axes)
    if not shown:
        raise FlSimError(f"{folder}: no point has a result")
    header, rows = _cells(shown[0])
    return _markdown(header, rows) if form == "markdown" else _latex(header, rows, len(shown[0].axes))


def _cells(block: Block) -> tuple[list[str], list[list[str]]]:
    places = [k for k, column in enumerate(block.columns) if column.header not in LEFT_OUT]
    header = [*block.axes, *(block.columns[k].header.replace("-\n", "").replace("\n", " ") for k in places)]
    return header, [
        [*map(str, row.labels), *(cell_text(block, row, k, stacked=False).plain for k in places)] for row in block.rows
    ]


def _markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def _latex(header: list[str], rows: list[list[str]], names: int) -> str:
    """A `tabular` with the rules of the package booktabs."""
    lines = [" & ".join(map(_escaped, line)) + r" \\" for line in [header, *rows]]
    form = "l" * names + "r" * (len(header) - names)
    body = [lines[0], r"\midrule", *lines[1:]]
    return "\n".join([rf"\begin{{tabular}}{{{form}}}", r"\toprule", *body, r"\bottomrule", r"\end{tabular}", ""])


def _escaped(text: str) -> str:
    return re.sub(r"[\\~^&%$#_{}]", lambda letter: _SPECIAL.get(letter[0], f"\\{letter[0]}"), text)
