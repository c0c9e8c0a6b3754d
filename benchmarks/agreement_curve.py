"""What doubling a stack of clients' models buys: the learning curve of a finished run with [agreement], as a table.

    .venv/bin/fl-sim run agreement/digits --out runs/agreement
    .venv/bin/python benchmarks/agreement_curve.py runs/agreement

A cell is the mean over the draws ± its standard error; what the columns are: fl_sim/agreement/ensembles.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fl_sim.results.run import Result

COLUMNS = {
    "R_k": "risk", "R_k, rows held out": "held", "D of two stacks": "disagreement", "4 (R_k - R_2k)": "bound",
    "gain of doubling, rows held out": "gain",
}  # fmt: skip


def main(folders: list[str]) -> None:
    """Print a table for each run."""
    for folder in folders:
        agreement = Result.load(Path(folder)).summary["agreement"]
        print(f"\n**{Path(folder).name}**\n\n| k | {' | '.join(COLUMNS)} |\n{'|---' * (len(COLUMNS) + 1)}|")
        for point in agreement["curve"]:
            drawn = {"bound": agreement["bound_applies"]}
            cells = [
                f"{point[key]:.3f} ± {point[f'{key}_se']:.3f}" if drawn.get(key, True) else "-"
                for key in COLUMNS.values()
            ]
            print(f"| {point['k']} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main(sys.argv[1:])
