"""What is one file: dropped into a copy of the tree it is listed, checked, run by its name, drawn and documented."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]

CALIBRATE = '''"""cautious: everybody takes the largest threshold of the few who have most points. Ours; one round.

    q = max_k q_k over the `count` clients with the largest n_k

Sent: (q_k, n_k), 16 bytes, once. Received: q, 8 bytes.

Guaranteed: nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from fl_sim.messages.calibration import ThresholdReport, ThresholdRequest
from fl_sim.messages.record import Record
from strategies.base import ALONE, Calibration, Federation


class Cautious(Calibration):
    """The largest threshold of the clients with most points."""

    @classmethod
    def check(cls, options: Any) -> None:
        """So few points say nothing of so many."""
        if options.count * options.alpha < 0.1:
            raise ValueError(f"count = {options.count} and alpha = {options.alpha}: must have a product of 0.1 or more")

    def __init__(
        self,
        federation: Federation = ALONE,
        *,
        alpha: float,
        score: str = "",
        count: Annotated[int, Field(ge=1)] = 3,  # of the clients that are listened to
    ) -> None:
        super().__init__(federation, alpha=alpha, score=score)
        self.count = count

    def question(self) -> Record:
        """Each client's own threshold."""
        return ThresholdRequest(self.score, self.alpha, "clip")

    def threshold(self, reports: Sequence[ThresholdReport]) -> float:
        """The largest of them."""
        heard = sorted(reports, key=lambda report: -report.num_calibration)[: self.count]
        return max(report.threshold for report in heard)
'''

LEARN = '''"""halved: as shared, for half of the clients' sake; a learn strategy of its own file.

Sent: nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from flwr.app import Message
from flwr.serverapp import Grid

from fl_sim.messages.learning import FitRequest
from strategies.base import ALONE, Federation, request
from strategies.families.training import TrainOncePerGroup


class Halved(TrainOncePerGroup):
    """Each tier's model is trained once, on all rows or on none of a client's own."""

    trains_locally = False

    @classmethod
    def one_model_a_tier(cls, options: Any) -> bool:
        """Always."""
        return True

    def __init__(
        self,
        federation: Federation = ALONE,
        *,
        slowly: bool = False,  # true: nothing else; it is there to be documented
    ) -> None:
        super().__init__(federation, per_client=False)
        self.slowly = slowly

    def messages(self, server_round: int, nodes: Sequence[int], grid: Grid) -> Iterable[Message]:
        """Whose turn it is."""
        now = [nodes[k] for k in self.turn(server_round, len(nodes))]
        return request(FitRequest(self.federation.population, False, own_rows=False, models=self.models), now)
'''

RINGS = '''"""Two rings around each other: points of a plane, by the ring they lie on."""

from __future__ import annotations

import numpy as np

from fl_sim.data.source import Dataset, Source
from fl_sim.randomness import stream


def read(count: int, _image_size: int | None, seed: int) -> Dataset:
    """Radius 1 or 2, and a little noise."""
    rng = stream(seed, "rings")
    labels, angles = rng.integers(0, 2, count), rng.random(count) * 2 * np.pi
    points = (1 + labels)[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return Dataset(points + 0.1 * rng.standard_normal((count, 2)), labels, ("inner", "outer"))


source = Source("rings", "classification", "two rings in a plane", "generated", read, num_classes=2)
'''

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

DROPPED = {
    "strategies/cautious.py": CALIBRATE,
    "strategies/halved.py": LEARN,
    "fl_sim/data/sets/rings.py": RINGS,
    "fl_sim/report/figures/of_a_run/test_points.py": OF_A_RUN,
    "fl_sim/report/figures/of_a_sweep/durations.py": OF_A_SWEEP,
}
WORLD = (
    "digits", "data.name=rings", "clients.tier.strong.architecture=mlp", "clients.count=4", "runtime.name=inline",
    "learn=halved", "calibrate=cautious",
)  # fmt: skip
COMMANDS = {
    "list strategies": ("list", "strategies"),
    "list datasets": ("list", "datasets"),
    "misspelt option": ("validate", "digits", "calibrate=cautious", "calibrate.coun=1"),
    "misspelt learn option": ("validate", "digits", "learn=halved", "learn.slowl=1"),
    "misspelt data": ("validate", "digits", "data.name=ring"),
    "its own check": ("validate", "digits", "calibrate=cautious", "calibrate.alpha=0.01"),
    "by kind": ("sweep", "conformal/digits", "seed=0", "calibrate={kind='one-round'}", "--dry-run"),
    "run": ("run", *WORLD, "--figures", "png", "--out", "run"),
    "sweep": ("sweep", *WORLD, "seed=0,1", "--figures", "svg", "--out", "sweep"),
    "run's page": ("report", "run"),
    "sweep's page": ("report", "sweep"),
}
CALLS = """
import contextlib, io, json, sys
from fl_sim.cli.main import main
answers = {}
for name, words in json.loads(sys.argv[1]).items():
    sys.argv = ["fl-sim", *words]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        try:
            main()
        except SystemExit as end:
            answers[name] = [int(end.code or 0), out.getvalue()]
print(json.dumps(answers))
"""


class Answer(NamedTuple):
    code: int
    said: str


class Tree(NamedTuple):
    root: Path
    answers: dict[str, Answer]

    def page(self, name: str) -> str:
        return (self.root / name).read_text()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """A copy with all of them, what its commands say, and its pages made anew."""
    root = tmp_path_factory.mktemp("tree")
    for name in ("fl_sim", "strategies", "clients", "scenarios", "docs", "examples"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "images"))
    for name in ("README.md", "ARCHITECTURE.md"):
        shutil.copy(ROOT / name, root / name)
    for name, text in DROPPED.items():
        (root / name).write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(root), "COLUMNS": "200", "FL_SIM_STORE": str(root / "store")}

    def run(*words: str) -> str:
        command = [sys.executable, *words]
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    answers = json.loads(run("-c", CALLS, json.dumps(COMMANDS)))
    run("docs/generate.py")
    return Tree(root, {name: Answer(*answer) for name, answer in answers.items()})


@pytest.mark.parametrize(("kind", "name", "option", "default", "asked"), [
    ("calibrate", "cautious", "count", "`3`", "misspelt option"),
    ("learn", "halved", "slowly", "`false`", "misspelt learn option"),
])  # fmt: skip
def test_a_strategy(tree, kind, name, option, default, asked):
    assert any(line.split()[:2] == [name, kind] for line in tree.answers["list strategies"].said.splitlines())
    refused = tree.answers[asked]
    assert (refused.code, f"did you mean '{option}'?" in refused.said) == (2, True)
    assert tree.answers["run"].code == 0, tree.answers["run"].said
    assert json.loads(tree.page("run/result.json"))[kind]["name"] == name
    page = tree.page("docs/scenario.md")
    assert f"### `{name}`" in page
    assert any(line.startswith(f"| `{option}` |") and default in line for line in page.splitlines())
    (row,) = [line for line in tree.page("docs/methods.md").splitlines() if f"[`{name}`]" in line]
    assert f"(../strategies/{name}.py)" in row
    assert "in no published table yet" in row
    assert f"`{name}.py`" in tree.page("ARCHITECTURE.md")


def test_what_does_not_go_together_is_refused_by_the_strategys_own_check(tree):
    refused = tree.answers["its own check"]
    assert refused.code == 2
    assert "count = 3 and alpha = 0.01: must have a product of 0.1 or more" in refused.said


def test_a_strategy_takes_part_where_its_kind_is_asked_for(tree):
    said = tree.answers["by kind"].said
    assert "cautious" in said
    assert said.count("private") == 1


def test_a_data_set(tree):
    listed = [" ".join(line.split()) for line in tree.answers["list datasets"].said.splitlines()]
    assert "rings classification at hand two rings in a plane" in listed
    refused = tree.answers["misspelt data"]
    assert (refused.code, "nearest: rings" in refused.said) == (2, True)
    assert json.loads(tree.page("run/result.json"))["classes"] == ["inner", "outer"]
    assert "`rings.py` | Two rings around each other" in tree.page("ARCHITECTURE.md")


@pytest.mark.parametrize(("kind", "name", "form"), [("run", "test_points", "png"), ("sweep", "durations", "svg")])
def test_a_figure(tree, kind, name, form):
    assert tree.answers[kind].code == 0, tree.answers[kind].said
    assert f"{name}.{form}" in tree.answers[kind].said
    drawn = {path.suffix for path in (tree.root / kind).iterdir() if path.stem == name}
    assert drawn == {f".{form}"}
    assert tree.answers[f"{kind}'s page"].code == 0
    parts = tree.page(f"{kind}/report.html").split("<figure id=")[1:]
    names = [part.split('"')[1].removeprefix("figure-") for part in parts]
    assert names.index(name) == 1 + (kind == "run")  # by its ORDER: after coverage and set_sizes, or after sweep
    assert f"| `{name}` | a {kind} |" in tree.page("docs/report.md")
    assert f"`{name}.py`" in tree.page("ARCHITECTURE.md")
