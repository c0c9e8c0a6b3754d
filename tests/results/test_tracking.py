"""What a tracker is told of a run; with the package itself where it is installed."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from fl_sim import Result
from fl_sim.cli import main
from fl_sim.errors import FlSimError
from fl_sim.results import tracking

SMALL = ("clients.count=6", "data.train=100", "runtime.name=inline")


def fl_sim(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The command in this process."""
    monkeypatch.setattr(sys, "argv", ["fl-sim", *words])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as end:
        main.main()
    return int(end.value.code or 0)


@pytest.fixture
def told(monkeypatch) -> list[tracking.LoggedRun]:
    """What a stand-in for a tracker's package was told; `json` is there for sure."""
    found: list[tracking.LoggedRun] = []
    monkeypatch.setitem(tracking.TRACKERS, "json", found.append)
    return found


def test_a_run_is_told_with_its_scenario_its_numbers_and_its_figures_once(told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ("run", "digits", *SMALL, "--figures", "png,svg", "--out", "here", "--track", "json")
    assert fl_sim(monkeypatch, *command) == 0
    assert "json was told of 1 run\n" in capsys.readouterr().out
    (run,) = told
    found = Result.load("here")
    assert (run.group, run.name) == ("here", "here")
    assert run.parameters["clients.count"] == 6
    assert run.parameters["clients.tier.weak.architecture"] == "linear"
    assert run.parameters["calibrate.score.name"] == "lac"
    assert run.metrics["calibrate.coverage"] == found.calibrate["coverage"]
    assert run.metrics["calibrate.tiers.strong.coverage"] == found.calibrate["tiers"]["strong"]["coverage"]
    assert run.metrics["learn.tiers.weak.accuracy"] == found.learn["tiers"]["weak"]["accuracy"]
    assert all(type(value) is float and math.isfinite(value) for value in run.metrics.values())
    assert {"scenario.toml", "clients.csv", "coverage.png", "coverage.svg"} <= {path.name for path in run.files}
    assert fl_sim(monkeypatch, *command) == 0  # which runs nothing
    assert "json was told before" in capsys.readouterr().out
    assert len(told) == 1


def test_a_sweep_is_one_tracker_run_a_point_and_goes_on_where_it_stopped(told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ("sweep", "digits", *SMALL, "calibrate=local,pooled", "calibrate.alpha=0.1,0.2", "--out", "s")
    assert fl_sim(monkeypatch, *command) == 0
    result = next(Path("s/points").glob("[!.]*/result.json"))
    text = result.read_text()
    result.unlink()
    assert tracking.track("json", Path("s")) == 3
    result.write_text(text)
    assert fl_sim(monkeypatch, *command, "--track", "json") == 0
    assert sorted(run.name for run in told) == ["point-0", "point-1", "point-2", "point-3"]
    assert {(run.parameters["calibrate"], run.parameters["calibrate.alpha"]) for run in told} == {
        (name, alpha) for name in ("local", "pooled") for alpha in (0.1, 0.2)
    }
    assert {run.group for run in told} == {"s"}


def test_a_tracker_that_is_not_here_is_one_line_before_any_work(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert fl_sim(monkeypatch, "run", "digits", "--track", "comet") == 1
    assert capsys.readouterr().err == "error: --track comet: choose one of tensorboard, mlflow, wandb\n"
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    for words in (("run", "digits"), ("sweep", "digits", "seed=0,1"), ("compare", "digits", "local", "pooled")):
        assert fl_sim(monkeypatch, *words, "--track", "wandb") == 1
        wanted = "error: --track wandb needs a package that is not here: pip install wandb\n"
        assert capsys.readouterr().err == wanted
    assert list(tmp_path.iterdir()) == []


def test_a_tracker_that_refuses_is_one_line_that_says_where_the_results_are(tmp_path, monkeypatch, capsys):
    def refuse(told: tracking.LoggedRun) -> None:
        raise OSError("the disk is full")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(tracking.TRACKERS, "json", refuse)
    assert fl_sim(monkeypatch, "run", "digits", *SMALL, "--out", "here", "--track", "json") == 1
    assert capsys.readouterr().err == "error: --track json: OSError: the disk is full (the results are in here)\n"
    with pytest.raises(FlSimError, match="no finished run is there"):
        tracking.track("json", tmp_path)


def test_nothing_is_imported_unless_asked():
    code = "import sys, fl_sim.cli.main, fl_sim.results.tracking\n"
    code += "print({'tensorboard', 'mlflow', 'wandb', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# ---------------------------------------------------------------------------------------------- the packages themselves


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    """A finished run, in a launch folder of its own."""
    monkeypatch.chdir(tmp_path)
    assert fl_sim(monkeypatch, "run", "digits", *SMALL, "--figures", "png", "--out", "here") == 0
    return Path("here")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_tensorboard_has_the_scalars_the_figures_and_the_parameters(run):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert tracking.track("tensorboard", run) == 1
    events = EventAccumulator(str(run / "tensorboard" / "here")).Reload()
    (coverage,) = events.Scalars("calibrate.tiers.weak.coverage")
    assert coverage.value == pytest.approx(Result.load(run).calibrate["tiers"]["weak"]["coverage"], rel=1e-6)
    assert "coverage" in events.Tags()["images"]
    assert "_hparams_/session_start_info" in events.summary_metadata


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mlflow_has_the_parameters_the_metrics_and_the_files(run, monkeypatch):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{run.resolve()}/mlflow.db")
    assert tracking.track("mlflow", run) == 1
    client = MlflowClient()
    (found,) = client.search_runs([client.get_experiment_by_name("here").experiment_id])
    assert found.data.params["clients.tier.weak.architecture"] == "linear"
    assert found.data.metrics["calibrate.coverage"] == Result.load(run).calibrate["coverage"]
    assert {"coverage.png", "scenario.toml"} <= {file.path for file in client.list_artifacts(found.info.run_id)}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_wandb_has_an_offline_run(run, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert tracking.track("wandb", run) == 1
    (offline,) = (run / "wandb").glob("offline-run-*")
    assert list(offline.glob("*.wandb"))
    assert {"clients.csv", "scenario.toml"} <= {path.name for path in (offline / "files").iterdir()}
    assert json.dumps([path.name for path in (offline / "files" / "media" / "images").iterdir()]).count("coverage") == 1
