"""What doubling trees and boostings buys in accuracy, beside how far clients disagree: a table for each finished sweep.

    .venv/bin/fl-sim sweep agreement/trees --out runs/trees
    .venv/bin/fl-sim sweep agreement/boosting --out runs/boosting
    .venv/bin/python benchmarks/agreement_sizes.py runs/trees runs/boosting

A cell is the mean over seeds ± its standard error; what the columns are, and why nothing in them is a bound:
fl_sim/agreement/model_size.py. `fl-sim report` draws the same.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from fl_sim.agreement.model_size import HEADERS, NO_BOUND, STANDS_FOR, DoublingOfSize, cells
from fl_sim.report.figures.of_a_sweep.model_sizes import Sizes, sizes_of
from fl_sim.results import tables
from fl_sim.results.run import Result
from fl_sim.results.sweep_folder import POINTS


def load(folder: Path) -> Sizes:
    """What a sweep's folder tells of sizes.

    Raises:
        SystemExit: it is no sweep over the size of trees or boostings with `[agreement]`.
    """
    loaded = tables.load(folder)
    runs = loaded.points.loc[loaded.points["status"] == "ok", "run"].drop_duplicates()
    sizes = sizes_of([Result.load(folder / POINTS / run) for run in runs], loaded.axes)
    if sizes is None:
        sys.exit(f"{folder}: no sweep over the depth of trees or the stages of boosting alone, with [agreement]")
    return sizes


def markdown(rows: Sequence[DoublingOfSize], what: str) -> str:
    """The rows as a table, means ± standard errors over the seeds; `what` n is."""
    lines = [f"| {' | '.join([what, *HEADERS])} |", "|--:" * (1 + len(HEADERS)) + "|"]
    for row in rows:
        shown = ["" if cell is None else f"{cell[0]:.3f} ± {cell[1]:.3f}" for cell in cells(row)]
        lines.append(f"| {' | '.join([str(row.size), *shown])} |")
    return "\n".join(lines)


def main(folders: list[str]) -> None:
    """Print a table for each folder."""
    if not folders:
        sys.exit(__doc__)
    for folder in folders:
        sizes = load(Path(folder))
        table = markdown(sizes.rows, sizes.what)
        print(f"**{Path(folder).name}**\n\n{table}\n\n{sizes.finding} {sizes.beyond}\n")
    print(f"{NO_BOUND} {STANDS_FOR}")


if __name__ == "__main__":
    main(sys.argv[1:])
