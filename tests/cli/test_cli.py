"""The command as a user meets it: what it prints, what it leaves behind, what it refuses."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fl_sim import Result, Scenario
from fl_sim.cli import main
from fl_sim.results.run import FORMAT

SMALL = ("clients.count=8", "clients.tier.strong.epochs=1", "clients.tier.weak.epochs=1", "runtime.name=inline")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty launch folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call_quietly(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Exit code of the command in this process."""
    monkeypatch.setattr(sys, "argv", ["fl-sim", *words])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as end:
        main.main()
    return int(end.value.code or 0)


def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, *words: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of the command in this process."""
    code = call_quietly(monkeypatch, *words)
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.fixture
def fl_sim(monkeypatch, capsys):
    """The command."""
    return lambda *words: call(monkeypatch, capsys, *words)


def test_run_prints_a_table_and_writes_a_finished_run(folder, fl_sim):
    code, out, _ = fl_sim("run", "digits", *SMALL, "--figures", "png,svg", "--page", "--out", "here")
    assert code == 0
    assert "weak" in out
    assert "worst" in out
    assert "here" in out
    names = {path.name for path in (folder / "here").iterdir()}
    assert {
        "scenario.toml",
        "result.json",
        "clients.csv",
        "coverage.png",
        "coverage.svg",
        "labels.png",
        "report.html",
    } <= names
    assert [path.name for path in folder.iterdir()] == ["here"]

    result = json.loads((folder / "here/result.json").read_text())
    assert result["format"] == FORMAT
    assert result["clients"] == {"sent": 8, "ok": 8, "retried": 0, "failed": 0, "missing": []}
    assert " ".join(result["seconds"]) == "start data train infer messages aggregate write total"
    assert re.search(r"^\d+\.\d s", out, re.MULTILINE)
    with (folder / "here/clients.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [int(row["client"]) for row in rows] == list(range(8))
    assert sum(int(row["num_calibration"]) for row in rows) == 800
    assert sum(int(row["num_test"]) for row in rows) == 497
    assert result["calibrate"]["metrics"]["coverage"] == sum(int(r["num_covered"]) for r in rows) / 497
    assert result["learn"]["metrics"]["accuracy"] == sum(int(r["num_correct"]) for r in rows) / 497


def test_the_columns_and_metrics_of_the_contract_are_there(folder, fl_sim):
    fl_sim("run", "digits", *SMALL, "--out", "here")
    result = Result.load(folder / "here")
    columns = (
        "client tier behaviour num_calibration num_test label_counts threshold num_covered coverage mean_set_size "
        "num_correct accuracy brier log_loss ece kuiper phi_brier phi_log "
        "bytes_up bytes_down message_bytes_up message_bytes_down retries status seconds"
    )
    assert set(columns.split()) <= set(result.clients[0])
    metrics = (
        "coverage coverage_client_mean coverage_client_min coverage_client_p05 mean_set_size tiers coverage_by_class "
        "empty_set_rate threshold clients_below_min_n bytes_up_per_client bytes_down_per_client rounds "
        "brier log_loss ece kuiper phi_brier phi_log"
    )
    assert set(metrics.split()) <= set(result.calibrate)
    assert set(result.calibrate["tiers"]) == {"weak", "strong"}
    assert {"accuracy", "accuracy_client_mean", "accuracy_client_min", "tiers"} <= set(result.learn)
    assert (result.calibrate["bytes_up_per_client"], result.calibrate["bytes_down_per_client"]) == (16, 8)


def test_a_result_reads_back_as_it_was_written(folder, fl_sim):
    from fl_sim import simulate

    scenario = Scenario.load("digits", *SMALL)
    fl_sim("run", "digits", *SMALL, "--out", "here")
    read, made = Result.load(folder / "here"), simulate(scenario)
    assert read.scenario == scenario
    assert [{**r, "seconds": 0} for r in read.clients] == [{**r, "seconds": 0} for r in made.clients]
    assert read.calibrate == made.calibrate


def test_the_same_scenario_again_is_said_and_left_alone(folder, fl_sim):
    fl_sim("run", "digits", *SMALL, "--out", "here")
    before = {path: path.stat().st_mtime_ns for path in (folder / "here").iterdir()}
    code, out, _ = fl_sim("run", "digits", *SMALL, "--out", "here")
    assert code == 0
    assert "was run before" in out
    assert {path: path.stat().st_mtime_ns for path in (folder / "here").iterdir()} == before


def test_a_folder_of_another_scenario_is_refused_and_left_alone(folder, fl_sim):
    fl_sim("run", "digits", *SMALL, "--out", "here")
    before = (folder / "here/result.json").read_bytes()
    code, _, err = fl_sim("run", "digits", *SMALL, "seed=1", "--out", "here")
    assert code == 1
    assert "holds a run of another scenario" in err
    assert (folder / "here/result.json").read_bytes() == before


def test_a_folder_that_is_no_run_is_refused_and_left_alone(folder, fl_sim):
    (folder / "mine").mkdir()
    (folder / "mine/thesis.tex").write_text("years of work")
    code, _, err = fl_sim("run", "digits", *SMALL, "--out", "mine")
    assert (code, "choose another --out" in err) == (1, True)
    assert [path.name for path in (folder / "mine").iterdir()] == ["thesis.tex"]


def test_results_of_another_version_are_refused(folder, fl_sim):
    fl_sim("run", "digits", *SMALL, "--out", "here")
    path = folder / "here/result.json"
    path.write_text(path.read_text().replace(f'"format": {FORMAT}', '"format": 0'))
    code, _, err = fl_sim("run", "digits", *SMALL, "--out", "here")
    assert (code, "format 0" in err) == (1, True)


def test_a_place_that_cannot_be_written_is_refused_before_any_work(folder, fl_sim):
    (folder / "file").write_text("")
    code, _, err = fl_sim("run", "digits", *SMALL, "--out", "file/below")
    assert code == 1
    assert "choose another --out" in err


def test_a_client_that_raises_ends_the_run_with_its_own_traceback_and_leaves_nothing(folder, fl_sim):
    (folder / "broken_model.py").write_text(
        "def broken(shape, outputs):\n    raise RuntimeError('my model does not build')\n"
    )
    code, out, err = fl_sim(
        "run", "digits", *SMALL, "clients.tier.weak.architecture=broken_model:broken", "--out", "here"
    )
    assert (code, out) == (1, "")
    assert "RuntimeError: my model does not build" in err
    assert 'broken_model.py", line 2, in broken' in err
    assert "(weak) failed at train.fit" in err
    assert not [path for path in folder.iterdir() if path.name.startswith((".", "here"))]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("run", "digits", "calibrate.alpha=1"), 2, "calibrate.alpha = 1"),
        (("run", "digits", "clients.tier.weak.share=1.2"), 2, "clients.tier.weak.share = 1.2"),
        (("run", "digits", "data.calibration=5000"), 2, "digits has 1797"),
        (("run", "digits", "foo=1"), 2, "foo: there is no such key"),
        (("run", "digits", "--runtime", "raye"), 2, "runtime.name = 'raye'"),
        (("run", "digits", "data.name=cifar10"), 1, "fl-sim data get cifar10"),
        (("run", "digits", "data.name=medmnist:bloodmnist"), 1, "pip install medmnist"),
        (("run", "digits", "runtime.device=cuda"), 1, "torch sees no GPU"),
        (("run", "digits", "runtime.gpus_per_client=0.5"), 1, "runtime.gpus_per_client = 0.5"),
        (("run", "digits", "calibrate=nowhere:Mine"), 1, "calibrate = 'nowhere:Mine' cannot be imported"),
        (("run", "nothing"), 2, "neither a file nor a shipped scenario"),
        (("validate", "digits", "seed=x"), 2, "seed = 'x'"),
        (("list", "cats"), 1, "choose one of scenarios"),
        (("data", "get", "digitz"), 2, "no dataset 'digitz'"),
    ],
)
def test_wrong_words_are_one_clear_message_and_no_traceback(folder, fl_sim, monkeypatch, words, code, said):
    monkeypatch.setenv("FL_SIM_DATA", str(folder / "data"))
    found, out, err = fl_sim(*words)
    assert (found, out) == (code, "")
    assert err.startswith("error: ")
    assert said in err
    assert "Traceback" not in err
    assert list(folder.iterdir()) == []


def test_new_writes_a_scenario_that_is_valid_and_harms_nothing(folder, fl_sim):
    assert fl_sim("new", "mine.toml")[0] == 0
    assert fl_sim("validate", "mine.toml")[0] == 0
    before = (folder / "mine.toml").read_text()
    code, _, err = fl_sim("new", "mine.toml")
    assert (code, "is there already" in err) == (1, True)
    assert (folder / "mine.toml").read_text() == before
    assert "no shipped scenario has that name" in fl_sim("new", "other.toml", "--like", "nothing")[2]


def test_list_names_everything(fl_sim):
    code, out, _ = fl_sim("list")
    assert code == 0
    for name in ("digits", "fedwq-cp", "glyphs-pool", "shufflenet_v2_x0_5", "regression"):
        assert name in out


def test_store_lists_and_prunes(folder, fl_sim):
    fl_sim("run", "digits", *SMALL, "--store", "kept", "--out", "here")
    assert "model" in fl_sim("store", "--store", "kept")[1]
    assert "deleted 0 artifacts" in fl_sim("store", "--store", "kept", "--prune")[1]
    assert "deleted 6 artifacts" in fl_sim("store", "--store", "kept", "--prune", "--days", "0")[1]


def test_store_check_names_deletes_and_counts_what_is_damaged(folder, fl_sim, caplog):
    fl_sim("run", "digits", *SMALL, "--store", "kept", "--out", "here")
    code, out, _ = fl_sim("store", "--store", "kept", "--check")
    assert (code, "no artifact is damaged" in out) == (0, True)
    file = next(folder.glob("kept/outputs/*/outputs.npy"))
    times, content = file.stat(), bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    code, _, said = fl_sim("store", "--store", "kept", "--check")
    assert (code, said) == (1, "error: artifact store kept: deleted what was damaged, 1 of 6 artifacts\n")
    (line,) = caplog.messages
    assert line.startswith(
        f"kept/outputs/{file.parent.name}: is not what fl-sim wrote: outputs.npy has another content"
    )
    assert fl_sim("store", "--store", "kept", "--check")[0] == 0


def test_doctor_finds_this_machine_fit(fl_sim):
    code, out, _ = fl_sim("doctor")
    assert code == 0
    assert "torch" in out
    assert "fl-sim data get cifar10" in " ".join(out.split()) or "cifar10" in out


def test_data_that_is_at_hand_is_not_fetched(fl_sim):
    assert "digits is at hand" in fl_sim("data", "get", "digits")[1]


def test_help_works_without_loading_torch():
    code = (
        "import sys; from fl_sim.cli.main import app; from typer.testing import CliRunner; "
        "r = CliRunner().invoke(app, ['--help']); assert r.exit_code == 0; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert CliRunner().invoke(main.app, ["run", "--help"]).exit_code == 0


@pytest.mark.parametrize("command", [("run",), ("sweep", "seed=0,1"), ("compare", "local", "pooled")])
def test_a_format_that_there_is_not_is_refused_before_any_work(folder, fl_sim, command):
    name, *words = command
    code, _, err = fl_sim(name, "digits", *words, "--figures", "png,pdf")
    assert (code, " ".join(err.split())) == (
        1, "error: --figures png,pdf: no format is called 'pdf'; say png, svg, png,svg or none",
    )  # fmt: skip
    assert list(folder.iterdir()) == []


# --------------------------------------------------------------------------------------------------- sweep and compare


def test_sweep_prints_a_table_draws_and_goes_on_where_it_stopped(folder, fl_sim):
    words = (
        "sweep",
        "digits",
        *SMALL,
        "clients.concentration=0.1,10",
        "calibrate=fedwq-cp,local",
        "seed=0,1",
        "--figures",
        "png",
        "--out",
        "s",
    )
    code, out, _ = fl_sim(*words)
    assert code == 0
    assert "95% t interval over 2 seeds" in out
    names = {path.name for path in (folder / "s").iterdir()}
    assert {"sweep.json", "points", "points.csv"} <= names
    assert "sweep.png" in names
    assert not [name for name in names if name.endswith(".svg")]
    before = {path: path.read_bytes() for path in (folder / "s").iterdir() if path.is_file()}
    code, _, err = fl_sim(*words)
    assert (code, "8 of 8 runs are finished already" in err) == (0, True)
    assert {path: path.read_bytes() for path in before} == before


def test_dry_run_lists_the_points_and_runs_nothing(folder, fl_sim):
    code, out, _ = fl_sim("sweep", "digits", *SMALL, "seed=0,1,2", "--dry-run")
    assert code == 0
    assert "3 points, 3 different runs, 0 finished" in " ".join(out.split())
    assert list(folder.iterdir()) == []


def test_compare_shows_paired_differences_to_the_first(folder, fl_sim):
    code, out, _ = fl_sim("compare", "digits", "fedwq-cp", "local", *SMALL, "seed=0,1,2", "--out", "c")
    assert code == 0
    assert "local" in out
    assert "difference" in out.lower()


def test_results_are_written_as_data(folder, fl_sim):
    fl_sim("sweep", "digits", *SMALL, "seed=0,1", "--out", "s")
    code, out, _ = fl_sim("results", "s")
    assert code == 0
    assert len(list(csv.DictReader(out.splitlines()))) == 2
    assert len(json.loads(fl_sim("results", "s", "--format", "json", "--what", "clients")[1])) == 2 * 8
    assert fl_sim("results", "s", "--format", "parquet", "--to", "x.parquet")[0] == 0
    assert (folder / "x.parquet").stat().st_size > 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("sweep", "digits"), 2, "nothing is swept"),
        (("sweep", "digits", "seed=0,1", "clients.concentratoin=1,2"), 2, "did you mean 'concentration'?"),
        (("sweep", "digits", "calibrate=local,poled"), 2, "did you mean 'pooled'?"),
        (("sweep", "digits", "clients.tier.weak.share=0.1,0.2,1.2"), 2, "at the point clients.tier.weak.share=1.2"),
        (("sweep", "digits", "data.name=digits,cifar10"), 1, "fl-sim data get cifar10"),
        (("sweep", "digits", "seed=0,1", "--out", "/dev/null/x"), 1, "/dev/null/x: cannot be read or written"),
        (("sweep", "nothing.toml", "seed=0,1"), 2, "nothing.toml: there is no such file"),
        (("run", "heterogeneity"), 2, "use fl-sim sweep"),
        (("compare", "digits", "local"), 2, "name at least two different strategies"),
        (("compare", "digits", "local", "own"), 2, "are of both kinds"),
        (("compare", "digits", "local", "poled"), 2, "did you mean 'pooled'?"),
        (("results", "nowhere"), 1, "nowhere: holds no results of fl-sim"),
        (("results", "nowhere", "--format", "xls"), 1, "choose one of csv, parquet, json"),
        (("results", "nowhere", "--format", "parquet"), 1, "name a file with --to"),
    ],
)
def test_wrong_sweeps_are_one_clear_message_before_any_work(folder, fl_sim, monkeypatch, words, code, said):
    monkeypatch.setenv("FL_SIM_DATA", str(folder / "data"))
    found, out, err = fl_sim(*words)
    assert (found, out) == (code, "")
    assert said in err
    assert "Traceback" not in err
    assert list(folder.iterdir()) == []
