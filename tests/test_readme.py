"""What the README shows is run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fl_sim import Scenario, simulate
from fl_sim.scenario.strategies import CALIBRATE, LEARN
from fl_sim.scenario.toml import shipped
from fl_sim.sweep.expand import load_comparison, load_sweep

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_python_example_runs(capsys):
    exec(PYTHON[0], {})
    first = capsys.readouterr().out.splitlines()[0]
    assert re.fullmatch(r"0\.\d\d overall, [01]\.\d\d at the worst client", first)


def test_the_strategy_of_ones_own_runs(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(PYTHON[1])
    monkeypatch.syspath_prepend(str(tmp_path))
    result = simulate(Scenario.load("digits", "runtime.name=inline", "calibrate=mine:Cautious"))
    thresholds = simulate(Scenario.load("digits", "runtime.name=inline", "calibrate=local")).column("threshold")
    assert result.calibrate["threshold"] == max(thresholds)


@pytest.mark.parametrize("line", re.findall(r"^    \.venv/bin/fl-sim run (.*?)(?:  +#.*)?$", README, re.MULTILINE))
def test_every_command_is_a_valid_scenario(line):
    words = line.split("--runtime")[0].split()
    Scenario.load(words[0], *words[1:])


@pytest.mark.parametrize("line", re.findall(r"^    \.venv/bin/fl-sim sweep (.*?)(?:  +#.*)?$", README, re.MULTILINE))
def test_every_sweep_is_valid(line):
    file, *assignments = line.replace("--dry-run", "").split()
    assert len(load_sweep(file, assignments).points) > 5


def test_the_comparison_is_valid():
    (line,) = re.findall(r"fl-sim compare (.*)", README)
    file, *words = line.split()
    points = load_comparison(file, [w for w in words if "=" not in w], [w for w in words if "=" in w]).points
    assert len(points) == 3 * 5


def test_every_path_and_strategy_it_names_is_there():
    for path in re.findall(r"\]\(((?!http|#)[^)]+)\)", README):
        assert (ROOT / path).exists(), path
    for script in re.findall(r"benchmarks/\w+\.py", README):
        assert (ROOT / script).exists(), script
    assert set(shipped()) >= {"digits", "fashion"}
    for name in {*LEARN, *CALIBRATE} - {"none"}:
        assert f"`{name}`" in (ROOT / "docs" / "strategies.md").read_text()
