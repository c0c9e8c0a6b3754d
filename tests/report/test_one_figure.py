"""A figure is one file: dropped into a copy of the tree it is drawn, shown on the page and documented."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from test_one_file import fl_sim, run, tree

__all__ = ["tree"]

HEAD = '''"""{about}"""

from __future__ import annotations

from matplotlib.figure import Figure

from fl_sim.report.figures.sheet import Words, side_by_side
'''

OF_A_RUN = (
    HEAD.format(about="How many test points each client has")
    + '''from fl_sim.results.run import Result

ORDER = 25


def applies(result: Result) -> bool:
    """Always."""
    return True


def draw(result: Result) -> Figure:
    """A dot a client."""
    figure, (ax,) = side_by_side(Words("Test points", "", ""), 1, 2.0, narrowest=2.0)
    ax.plot([row["num_test"] for row in result.clients], "o")
    return figure
'''
)

OF_A_SWEEP = (
    HEAD.format(about="How long each point took")
    + '''from fl_sim.report.sweep_results import SweepResults

ORDER = 15


def draw(sweep: SweepResults) -> list[Figure]:
    """A dot a point."""
    figure, (ax,) = side_by_side(Words("Seconds", sweep.title, ""), 1, 2.0, narrowest=2.0)
    ax.plot(sweep.points["seconds.total"], "o")
    return [figure]
'''
)


@pytest.mark.parametrize(("kind", "name", "text", "words"), [
    ("run", "test_points", OF_A_RUN, ("run", "digits")),
    ("sweep", "durations", OF_A_SWEEP, ("sweep", "digits", "seed=0,1")),
])  # fmt: skip
def test_a_figure_is_added_by_dropping_one_file(tree, kind, name, text, words):
    (tree / f"fl_sim/report/figures/of_a_{kind}" / f"{name}.py").write_text(text)
    done = fl_sim(tree, *words, "clients.count=4", "runtime.name=inline", "--out", "out", "--store", "store")
    assert done.returncode == 0, done.stderr
    assert f"{name}.png" in done.stdout
    assert {f"{name}.png", f"{name}.svg"} <= {path.name for path in (tree / "out").iterdir()}
    assert fl_sim(tree, "report", "out").returncode == 0
    page = (tree / "out/report.html").read_text()
    names = [line.split('"')[1].removeprefix("figure-") for line in page.split("<figure id=")[1:]]
    assert name in names
    assert names.index(name) == 1 + (kind == "run")  # by its ORDER: after coverage and set_sizes, or after sweep
    documented(tree, kind, name)


def documented(tree: Path, kind: str, name: str) -> None:
    assert run(tree, sys.executable, "docs/generate.py").returncode == 0
    assert f"| `{name}` | a {kind} |" in (tree / "docs/report.md").read_text()
    assert f"`{name}.py`" in (tree / "ARCHITECTURE.md").read_text()
