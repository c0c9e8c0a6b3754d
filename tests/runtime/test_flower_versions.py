"""Which Flower the laboratory runs with."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import flwr.simulation
import pytest

from fl_sim import Result, Scenario, simulate
from fl_sim.errors import FlSimError

ROOT = Path(__file__).parents[2]
COMMAND = Path(sys.executable).parent / "fl-sim"
OLDEST, NEWEST = "1.41.0", "1.42.0"  # of those that are known to give the same digits


def test_where_flower_has_no_run_simulation_only_its_own_runtime_refuses(store, monkeypatch):
    monkeypatch.delattr(flwr.simulation, "run_simulation")
    small = ("clients.count=4", "data.train=50", "data.calibration=40", "data.test=40")
    with pytest.raises(FlSimError, match=r"flwr 1\.\d+\.\d+ has no run_simulation any more; install one that has"):
        simulate(Scenario.load("digits", "runtime.name=flower", *small), store=store.root)
    assert simulate(Scenario.load("digits", "runtime.name=inline", *small), store=store.root).column("num_covered")


def test_the_oldest_is_the_oldest_that_may_be_installed():
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (flower,) = (words for words in needed if words.startswith("flwr"))
    assert OLDEST.startswith(flower.removeprefix("flwr>=").partition(",")[0])


def run(folder: Path, runtime: str, first: Path | None = None) -> tuple[str, list[dict[str, str]]]:
    """The version of Flower that a run of 40 clients has recorded, and its clients without what a clock decides; a
    package in the folder `first` goes before one that is installed."""
    folder.mkdir()
    paths = [str(first)] if first else []
    environment = {**os.environ, "FL_SIM_STORE": str(folder / "store")}
    environment["PYTHONPATH"] = os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])
    words = [COMMAND, "run", "digits", "--runtime", runtime, "--out", "run"]
    end = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    assert (end.returncode, end.stderr) == (0, "")
    with (folder / "run" / "clients.csv").open(newline="") as handle:
        rows = [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(handle)]
    return Result.load(folder / "run").summary["versions"]["flwr"], rows


@pytest.mark.slow
def test_both_ends_of_flowers_range_give_the_same_digits(tmp_path):
    """The end that is not installed goes into a folder of its own, from the package index."""
    here = version("flwr")
    other = OLDEST if here == NEWEST else NEWEST
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path / "other")]
    got = subprocess.run([*pip, f"flwr=={other}"], capture_output=True, text=True)
    assert got.returncode == 0, got.stderr
    installed, digits = run(tmp_path / "installed", "inline")
    assert (installed, len(digits)) == (here, 40)
    for runtime in ("inline", "flower"):
        assert run(tmp_path / runtime, runtime, tmp_path / "other") == (other, digits)
