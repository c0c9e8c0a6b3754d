"""Every program in examples/ runs, and does what its header says."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from flwr.app import Context, RecordDict
from watched import spoken_to, watching

from fl_sim import Result
from fl_sim.cli import main
from fl_sim.messages.calibration import ThresholdReport
from fl_sim.messages.exchange import Columns
from fl_sim.results import tables
from fl_sim.runtime.inline import InlineGrid
from strategies.base import Federation
from strategies.fedwq_cp import FedWQCP

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
PROGRAMS = sorted(path for path in EXAMPLES.rglob("*.py") if "__pycache__" not in path.parts)
OWN = sorted(path.stem for path in EXAMPLES.glob("own_*.py"))
COMMAND = re.compile(r"^(PYTHONPATH=examples )?\.venv/bin/(fl-sim|python) (.*?)(?:  +#.*)?$", re.MULTILINE)
FEW = ("clients.count=6", "runtime.name=inline")


@pytest.fixture(autouse=True)
def _found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `PYTHONPATH=examples` does."""
    monkeypatch.syspath_prepend(str(EXAMPLES))


def command(program: Path) -> list[str]:
    """The words of the command in a program's header, without its first."""
    found = COMMAND.search(program.read_text())
    assert found is not None, program
    return shlex.split(found[3])


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.relative_to(EXAMPLES).as_posix())
def test_a_header_says_what_is_shown_and_the_command(program):
    first, empty, *_ = program.read_text().splitlines()
    assert first.startswith('"""')
    assert empty == ""
    words = command(program)
    paths = [word for word in words if word.startswith("examples/")]
    assert all((ROOT / path).is_file() for path in paths)
    assert program.relative_to(ROOT).as_posix() in paths or any(program.stem in word for word in words)
    assert f"({program.relative_to(EXAMPLES).as_posix()})" in (EXAMPLES / "README.md").read_text()


@pytest.mark.parametrize("name", OWN)
def test_ones_own_takes_fewer_than_thirty_lines(name):
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) < 30


@pytest.mark.parametrize("name", ["own_model", "own_dataset", "own_score"])
def test_ones_own_runs_by_the_command_in_its_header(name, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["fl-sim", *command(EXAMPLES / f"{name}.py"), *FEW, "--out", str(tmp_path / "r")])
    with pytest.raises(SystemExit) as end:
        main.main()
    assert not end.value.code
    found = Result.load(tmp_path / "r")
    assert f"{name}:" in json.dumps(found.summary["scenario"])
    assert found.learn["tiers"][found.scenario.clients.tier[-1].name]["accuracy"] > 0.8
    assert 0.6 < found.calibrate["coverage"] < 1


def test_the_strategy_of_ones_own_is_compared_by_the_command_in_its_header(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    words = command(EXAMPLES / "own_strategy.py")
    monkeypatch.setattr(sys, "argv", ["fl-sim", *words, *FEW, "--out", str(tmp_path / "c")])
    with pytest.raises(SystemExit) as end:
        main.main()
    assert not end.value.code
    assert "own_strategy:Shrunken" in capsys.readouterr().out


def test_the_weighing_of_ones_own_mutes_those_that_shuffle_labels(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    # Fewer clients: each has as many rows, and is asked as often.
    few = ["clients.count=10", "data.train=350", "learn.rounds=20", "runtime.name=inline"]
    words = [*command(EXAMPLES / "own_weighing.py"), *few]
    monkeypatch.setattr(sys, "argv", ["fl-sim", *words, "--out", str(tmp_path / "w")])
    with pytest.raises(SystemExit) as end:
        main.main()
    assert not end.value.code, capsys.readouterr().err
    loaded = tables.load(tmp_path / "w")
    own = loaded.points[loaded.points["learn"].str.contains("own_weighing")]
    assert len(loaded.points) == 2
    assert float(own["learn.weight_share_misbehaving"].iloc[0]) < 0.1


def test_the_strategy_of_ones_own_lies_between_a_clients_threshold_and_everybodys():
    shrunken = importlib.import_module("own_strategy").Shrunken(Federation(""), alpha=0.1, score="")
    reports = [ThresholdReport(0, 0.5, 10), ThresholdReport(1, 0.9, 30), ThresholdReport(2, np.inf, 0)]
    found = shrunken.for_each(Columns.of(ThresholdReport, reports))
    mean = Fraction(10 * 5 + 30 * 9, 400)  # 0.8
    expected = [Fraction(1, 2) * Fraction(1, 2) + mean / 2, Fraction(3, 4) * Fraction(9, 10) + mean / 4, mean]
    assert found == pytest.approx(dict(enumerate(map(float, expected))), rel=1e-15)


def test_the_score_of_ones_own_is_the_best_other_label_less_this_one():
    p = np.array([[0.5, 0.25, 0.25], [0.125, 0.75, 0.125], [0.5, 0.5, 0.0]])
    by_definition = [[max(row[j] for j in range(3) if j != y) - row[y] for y in range(3)] for row in p.tolist()]
    score = importlib.import_module("own_score").Margin()
    assert score.all_labels(p, np.zeros(3)).tolist() == by_definition
    assert score.of(p, np.array([2, 1, 0]), np.zeros(3)).tolist() == [0.25, -0.625, 0.0]


# ---------------------------------------------------------------------------------------------- an app of one's own


def app() -> ModuleType:
    """examples/fedwq_cp/app.py, as the module `app` of a Flower app folder."""
    place = importlib.util.spec_from_file_location("fedwq_cp_app", EXAMPLES / "fedwq_cp" / "app.py")
    assert place is not None
    assert place.loader is not None
    module = importlib.util.module_from_spec(place)
    sys.modules[place.name] = module
    place.loader.exec_module(module)
    return module


def threshold_and_coverage(capsys: pytest.CaptureFixture) -> tuple[float, list[int]]:
    """What the app prints, run over an inline grid."""
    module = app()
    context = Context(1, 1, {}, RecordDict(), {})
    module.server(InlineGrid("fedwq_cp_app:client", 3, client_timeout=60.0), context)
    said = capsys.readouterr().out
    covered = [int(n) for n in re.findall(r"covers (\d+) of 199", said)]
    (threshold,) = re.findall(r"^threshold (\S+)$", said, re.MULTILINE)
    return float(threshold), covered


def test_a_strategy_of_ours_serves_an_app_of_ones_own(capsys):
    """By the definitions: q_k is the 181st smallest of 200 scores, q their mean, a label covered where 1 - p <= q."""
    module = app()
    own, tested = [], []
    for site in range(3):
        context = Context(1, 1, {"partition-id": site}, RecordDict(), {})
        _, of_all, labels = module.scores(context, 200, 400)
        own.append(sorted(float(of_all[i, y]) for i, y in enumerate(labels))[-(-201 * 9 // 10) - 1])
        tested.append(module.scores(context, 400, 600)[1:])
    q = sum(own) / 3
    threshold, covered = threshold_and_coverage(capsys)
    assert threshold == pytest.approx(q, rel=1e-15)
    assert covered == [sum(float(of_all[i, y]) <= q for i, y in enumerate(labels)) for of_all, labels in tested]


@pytest.mark.slow
def test_the_deployment_runtime_gives_the_simulations_threshold_to_the_last_digit(tmp_path, capsys):
    """A SuperLink and three SuperNodes, then Flower's simulation; and a grid in this process."""
    environment = os.environ | {"RAY_ADDRESS": "local", "FLWR_HOME": str(tmp_path)}
    words = [*watching(tmp_path / "calls"), sys.executable, *command(EXAMPLES / "deployment.py")]
    run = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout + run.stderr
    found = dict(re.findall(r"^(deployed|simulated): +threshold (\S+)$", run.stdout, re.MULTILINE))
    assert found["deployed"] == found["simulated"] == repr(threshold_and_coverage(capsys)[0])
    assert spoken_to(tmp_path / "calls") == []


@pytest.mark.slow
def test_plada_hands_out_what_clients_read_digits_from(tmp_path):
    environment = os.environ | {"FL_SIM_STORE": str(tmp_path / "store")}
    words = [sys.executable, *command(EXAMPLES / "plada.py"), "learn.rule=random"]
    run = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    size = int(re.findall(r"^([\d,]+) bytes", run.stdout)[0].replace(",", ""))
    assert size <= 2000
    accuracies = [float(share) for share in re.findall(r"clients read ([\d.]+)%", run.stdout)]
    assert len(accuracies) == 2
    assert min(accuracies) > 30  # by the rule that takes no time; docs/plada.md has what the others reach


def test_one_function_answers_what_handlers_written_by_hand_do(capsys):
    """conformal_app.py beside fedwq_cp/app.py: the same three sites, and the same threshold but for float32."""
    threshold, covered = threshold_and_coverage(capsys)
    strategy = FedWQCP(alpha=0.1)
    strategy.start(InlineGrid("conformal_app:client", 3, 60.0))
    assert strategy.global_threshold == pytest.approx(threshold, abs=1e-6)
    assert [report.num_test for report in strategy.evaluations.values()] == [199] * 3
    assert [report.num_covered for report in strategy.evaluations.values()] == covered


@pytest.mark.parametrize(("program", "words", "named"), [
    ("predictions.py", ["calibrate", "{file}", "grouped", "local"], "hospital 1"),
    ("sites.py", ["run", str(EXAMPLES / "sites.toml")], "clinic 12"),
])  # fmt: skip
def test_what_one_brings_comes_in_by_the_commands_of_its_page(program, words, named, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    _, file = command(EXAMPLES / program)
    monkeypatch.setattr(sys, "argv", [program, file])
    runpy.run_path(str(EXAMPLES / program), run_name="__main__")
    assert (tmp_path / file).is_file()
    words = [word.format(file=file) for word in words]
    monkeypatch.setattr(sys, "argv", ["fl-sim", *words, "--store", "store", "--out", "out", "--figures", "none"])
    with pytest.raises(SystemExit) as end:
        main.main()
    assert not end.value.code, capsys.readouterr().err
    assert named in set(tables.load(tmp_path / "out").clients["name"])
