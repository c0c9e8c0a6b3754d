"""What doubling trees and boostings buys in accuracy, beside how far clients disagree: a table for each finished sweep.

    .venv/bin/fl-sim sweep agreement/trees --out runs/trees
    .venv/bin/fl-sim sweep agreement/boosting --out runs/boosting
    .venv/bin/python benchmarks/agreement_sizes.py runs/trees runs/boosting

A cell is the mean over seeds ± its standard error; what the columns are, and why nothing in them is a bound:
fl_sim/agreement/model_size.py. `fl-sim report` draws the same.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fl_sim.agreement.model_size import NO_BOUND, STANDS_FOR, markdown
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
