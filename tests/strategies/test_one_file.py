"""A strategy is one file: dropped into a copy of the tree it is listed, validated, run by its name and documented."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

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
    def check(cls, told: Any) -> None:
        """So few points say nothing of so many."""
        if told.count * told.alpha < 0.1:
            raise ValueError(f"count = {told.count} and alpha = {told.alpha}: must have a product of 0.1 or more")

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
    def one_model_a_tier(cls, told: Any) -> bool:
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


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what a strategy is part of."""
    for name in ("fl_sim", "strategies", "clients", "scenarios", "docs", "examples"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "images"))
    for name in ("README.md", "ARCHITECTURE.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def run(tree: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A command in that tree, with its own code."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "COLUMNS": "200"}
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)


def fl_sim(tree: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return run(tree, sys.executable, "-c", "from fl_sim.cli.main import main; main()", *words)


@pytest.mark.parametrize(("kind", "name", "text", "option", "default"), [
    ("calibrate", "cautious", CALIBRATE, "count", "`3`"),
    ("learn", "halved", LEARN, "slowly", "`false`"),
])  # fmt: skip
def test_a_strategy_is_added_by_dropping_one_file(tree, kind, name, text, option, default):
    (tree / "strategies" / f"{name}.py").write_text(text)
    listed = fl_sim(tree, "list", "strategies")
    assert any(line.split()[:2] == [name, kind] for line in listed.stdout.splitlines()), listed.stderr
    refused = fl_sim(tree, "validate", "digits", f"{kind}={name}", f"{kind}.{option[:-1]}=1")
    assert (refused.returncode, f"did you mean '{option}'?" in refused.stderr) == (2, True)
    done = fl_sim(tree, "run", "digits", f"{kind}={name}", "clients.count=4", "runtime.name=inline", "--out", "out")
    assert done.returncode == 0, done.stderr
    assert json.loads((tree / "out" / "result.json").read_text())[kind]["name"] == name
    assert run(tree, sys.executable, "docs/generate.py").returncode == 0
    page = (tree / "docs" / "scenario.md").read_text()
    assert f"### `{name}`" in page
    assert any(line.startswith(f"| `{option}` |") and default in line for line in page.splitlines())
    (row,) = [line for line in (tree / "docs" / "methods.md").read_text().splitlines() if f"[`{name}`]" in line]
    assert f"(../strategies/{name}.py)" in row
    assert "in no published table yet" in row
    assert f"`{name}.py`" in (tree / "ARCHITECTURE.md").read_text()


def test_what_does_not_go_together_is_refused_by_the_strategys_own_check(tree):
    (tree / "strategies" / "cautious.py").write_text(CALIBRATE)
    refused = fl_sim(tree, "validate", "digits", "calibrate=cautious", "calibrate.alpha=0.01")
    assert refused.returncode == 2
    assert "count = 3 and alpha = 0.01: must have a product of 0.1 or more" in refused.stderr
