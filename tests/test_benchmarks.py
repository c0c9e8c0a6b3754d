"""The benchmarks' arguments, and what they compute: nothing here is timed."""

from __future__ import annotations

import json
import os
import sys
import time
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_sim.scenario.strategies import CALIBRATE

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def benchmark():
    """Imports a module of benchmarks/ as its scripts do, which begin in their own folder."""
    sys.path.insert(0, str(BENCHMARKS))
    before = set(sys.modules)
    yield import_module
    sys.path.remove(str(BENCHMARKS))
    for name in set(sys.modules) - before:
        if str(BENCHMARKS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture(scope="module")
def measuring(benchmark) -> ModuleType:
    return benchmark("measuring")


@pytest.mark.parametrize("name", ["one_shot", "fedavg", "students", "scaling"])
def test_every_script_tells_what_it_compares(benchmark, name, capsys):
    with pytest.raises(SystemExit) as ended:
        benchmark(name).arguments(["--help"])
    assert ended.value.code == 0
    assert ".venv/bin/python benchmarks/" in capsys.readouterr().out


def test_the_floor_is_always_run(benchmark):
    assert benchmark("one_shot").arguments(["100", "--ways", "ray"]).ways == ["floor", "ray"]
    assert benchmark("fedavg").arguments(["--ways", "ordinary"]).ways == ["floor", "ordinary"]


def test_pfl_research_is_run_where_an_interpreter_has_it(benchmark):
    fedavg = benchmark("fedavg")
    assert "pfl" not in fedavg.arguments([]).ways
    assert fedavg.arguments(["--pfl", "python"]).ways[-1] == "pfl"


@pytest.mark.parametrize("wrong", [["--rounds", "1"], ["--cohort", "0"], ["--clients", "10", "--cohort", "11"]])
def test_a_federation_without_a_steady_round_is_refused(benchmark, wrong, capsys):
    with pytest.raises(SystemExit):
        benchmark("fedavg").arguments(wrong)
    assert "at least 2 rounds" in capsys.readouterr().err


def test_every_calibration_of_one_round_is_measured(benchmark):
    aggregate = benchmark("aggregate")
    score = {"alpha": 0.1, "score": {"name": "lac"}}
    federation = aggregate.Federation("", tiers=("t",) * 4, num_labels=10)
    made = {name: aggregate.calibrate_options({"name": name} | score) for name in CALIBRATE if name != "none"}
    rounds = {name: aggregate.calibration(options, federation).num_rounds for name, options in made.items()}
    assert {name.partition(",")[0] for name in aggregate.METHODS} == {name for name, r in rounds.items() if r == 1}
    for name in aggregate.METHODS:
        assert aggregate.measured(name, 20, 30)["whole"] > 0


# -------------------------------------------------------------------------------------------------------- least squares


def test_a_line_by_hand(measuring):
    # Means 2 and 3, slope (-1 * -2 + 1 * 3) / 2, so fitted are 0.5, 3 and 5.5: off by 0.5, -1 and 0.5.
    fit = measuring.line([1, 2, 3], [1, 2, 6])
    assert (fit.intercept, fit.slope, fit.of(2)) == (-2, 2.5, 3)
    assert fit.residuals.tolist() == [0.5, -0.5, 0.5 / 6]
    assert fit.r_squared == pytest.approx(1 - 1.5 / 14)
    assert fit.slope_error == pytest.approx((1.5 / 1 / 2) ** 0.5)


@given(st.lists(st.tuples(st.integers(0, 1000), st.floats(1, 100)), min_size=3, max_size=12))
@settings(derandomize=True, deadline=None)
def test_a_line_is_numpys(points):
    sys.path.insert(0, str(BENCHMARKS))
    try:
        from measuring import line
    finally:
        sys.path.remove(str(BENCHMARKS))
    x, y = np.array(points).T
    if len(set(x)) == 1:
        with pytest.raises(ValueError, match="two different"):
            line(x, y)
        return
    fit = line(x, y)
    slope, intercept = np.polyfit(x, y, 1)
    np.testing.assert_allclose([fit.slope, fit.intercept], [slope, intercept], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(fit.residuals, (y - np.polyval([slope, intercept], x)) / y, rtol=1e-6, atol=1e-6)


def test_two_points_leave_no_error(measuring):
    fit = measuring.line([10, 20], [1.0, 3.0])
    assert (fit.slope, fit.r_squared) == (0.2, 1.0)
    assert np.isnan(fit.slope_error)


# ------------------------------------------------------------------------------------------------------------- commands


def test_a_command_tells_json_in_its_last_line(measuring, tmp_path):
    code = "import json, os; print('a word before'); print(json.dumps([os.getcwd(), os.environ['WORD']]))"
    done = measuring.command([sys.executable, "-c", code], environment={"WORD": "told"}, cwd=tmp_path)
    assert done.printed == [str(tmp_path), "told"]
    assert done.peak is None


def test_a_command_that_fails_ends_the_benchmark_with_what_it_said(measuring, tmp_path):
    code = "import sys; print('said before'); sys.exit('and why')"
    with pytest.raises(SystemExit, match=r"(?s)said before.*and why"):
        measuring.command([sys.executable, "-c", code], environment={}, cwd=tmp_path)


def test_memory_is_that_of_all_a_command_starts(measuring, tmp_path, monkeypatch):
    """Also of a process that has left its parent and its session, as Ray's do."""
    monkeypatch.setattr(measuring, "EVERY", 0.02)
    child = "import time; held = bytearray(b'x' * 60_000_000); time.sleep(1)"
    words = [sys.executable, "-c", child]
    code = f"import subprocess, time; subprocess.Popen({words!r}, start_new_session=True); time.sleep(0.8); print(0)"
    done = measuring.command([sys.executable, "-c", code], environment={}, cwd=tmp_path, weigh=True)
    assert 60_000_000 < done.peak < 200_000_000


def test_a_process_that_is_gone_weighs_nothing(measuring):
    pid = os.spawnlp(os.P_NOWAIT, "true", "true")
    os.waitpid(pid, 0)
    assert (measuring.pss(pid), measuring.name_of(pid)) == (0, "")
    assert measuring.pss(os.getpid()) > measuring.pss(os.getpid(), "Pss_Shmem")


def test_numbers_as_they_are_shown(measuring):
    assert [measuring.seconds(x) for x in (None, 0.0123, 1.234, 56.78)] == ["-", "12.3 ms", "1.23 s", "56.8 s"]
    assert [measuring.ratio(*x) for x in ((None, 1), (3, 2), (50, 2))] == ["-", "1.50", "25"]
    assert [measuring.gigabytes(x) for x in (None, 5e6, 2.5e9)] == ["-", "5.0 MB", "2.50 GB"]


# --------------------------------------------------------------------------------------------------- what is told apart


def test_our_first_exchanges_end_where_the_last_begins_and_that_where_results_are_written(benchmark, monkeypatch):
    ticks = iter([100.0, 101.0, 104.0, 105.0, 108.0, 112.0, 114.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    stamps = benchmark("one_shot").Stamps()
    for name in ("starting", "data", "starting", "train.fit", "train.fit", "query.threshold", "evaluate.sets"):
        stamps.phase(name, None)
    # Messages go out at 105; all told 20 seconds, of which the last three write.
    assert stamps.exchanges({"start": 5.0, "total": 20.0, "write": 3.0}) == (9.0, 3.0)


def test_our_exchanges_are_seen_in_a_run(benchmark, store):
    from fl_sim import Scenario, simulate

    stamps = benchmark("one_shot").Stamps()
    words = ("clients.count=3", "runtime.name=inline", "runtime.device=cpu")
    phases = simulate(Scenario.load("digits", *words), progress=stamps).summary["seconds"]
    first, last = stamps.exchanges(phases)
    rounded = 3 * 0.0005  # each of the phases is told to the millisecond
    assert 0 < last < first + last
    assert first + last <= phases["total"] - phases["data"] - phases["write"] + rounded


def test_each_exchange_of_a_rival_is_noted(benchmark, monkeypatch):
    calibration = benchmark("ordinary.calibration")
    ticks = iter([1.0, 3.0, 10.0, 15.0])
    monkeypatch.setattr(calibration.time, "perf_counter", lambda: next(ticks))
    ask, grid = calibration.Asking(), SimpleNamespace(send_and_receive=lambda messages, timeout: [])
    assert [ask(grid, [], kind, []) for kind in ("query", "evaluate")] == [[], []]
    assert ask.seconds == [2.0, 5.0]


def test_exchanges_are_set_beside_the_ordinary_ones(benchmark, capsys):
    one_shot = benchmark("one_shot")
    found = one_shot.Figures(10)
    for way, first, last in (("floor", 1.0, 0.5), ("ray", 4.0, 1.0), ("ordinary", 12.0, 5.0)):
        found.add(way, SimpleNamespace(seconds=20.0, printed=[0.95, first, last]))
    one_shot.print_exchanges([found])
    rows = [row for row in capsys.readouterr().out.splitlines() if row.startswith("| 10 ")]
    assert rows[1] == "| 10 | ray | 4.00 s | 3.00 | 1.00 s | 5.00 |"
    assert rows[2] == "| 10 | ordinary | 12.0 s | - | 5.00 s | - |"


@pytest.mark.parametrize(("device", "way", "words", "warm"), [
    ("cpu", ("ray", "auto"), [], 128), ("cpu", ("ray", "1"), [], 8), ("cpu", ("inline", "auto"), [], 32),
    ("cpu", ("ray", "5"), ["--clients", "30"], 30), ("cuda", ("ray", "auto"), [], 200),
    ("cpu", ("ray", "auto"), ["--warm", "3"], 3), ("cpu", ("alone", "1"), [], 8),
])  # fmt: skip
def test_students_warm_every_worker(benchmark, monkeypatch, device, way, words, warm):
    students = benchmark("students")
    monkeypatch.setattr(students.os, "cpu_count", lambda: 4)
    assert students.warmed(students.arguments(words), device, "mlp", students.Way(*way)) == warm


def test_only_the_ordinary_app_may_differ_and_not_by_much(benchmark):
    one_shot = benchmark("one_shot")

    def found(**coverage: float) -> object:
        one = one_shot.Figures(10)
        one.coverage = coverage
        return one

    found(floor=0.95, ray=0.95, ordinary=0.9504).check()
    for wrong in ({"ordinary": 0.951}, {"ray": 0.9501}):
        with pytest.raises(AssertionError):
            found(floor=0.95, **wrong).check()


def test_an_exchange_lasts_until_what_comes_after_it(benchmark, monkeypatch):
    ticks = iter([0.0, 1.0, 3.0, 6.0, 7.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    stamps = benchmark("measuring").Stamps()
    for name in ("data", "train", "train", "train.adopt", "evaluate"):
        stamps.phase(name, None)
    assert stamps.lasted("train") == [2.0, 3.0]


# ----------------------------------------------------------------------------------------------------- what rivals read


def test_images_are_written_as_torchvision_reads_them(benchmark, tmp_path, monkeypatch):
    from torchvision.datasets import FashionMNIST

    preparing = benchmark("ordinary.preparing")
    inputs = np.random.default_rng(0).integers(0, 256, (7, 1, 28, 28), dtype=np.uint8)
    made = SimpleNamespace(inputs=inputs, targets=np.arange(7), num_official_test=2)
    monkeypatch.setattr(preparing, "published", lambda: made)
    preparing.write_images(tmp_path)
    for train, rows in ((True, slice(0, 5)), (False, slice(5, 7))):
        read = FashionMNIST(tmp_path, train=train)
        np.testing.assert_array_equal(read.data.numpy(), inputs[rows, 0])
        assert read.targets.tolist() == made.targets[rows].tolist()


def test_a_partition_names_published_rows(benchmark, tmp_path, monkeypatch):
    preparing = benchmark("ordinary.preparing")
    inputs = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1)
    monkeypatch.setattr(preparing, "published", lambda: SimpleNamespace(inputs=inputs, targets=np.arange(6)))
    kept = np.array([4, 0, 5, 2])
    std = np.full((1, 1, 1), 51.0)
    data = SimpleNamespace(inputs=inputs[kept], targets=kept, mean=2 * std, std=std)
    client = SimpleNamespace(
        tier=SimpleNamespace(name="weak"), train=np.array([0, 1]), calibration=np.array([2]), test=np.array([3])
    )

    class People(list):
        client = staticmethod(lambda k: client)

    people = People([0])
    people.data = data
    preparing.write_partition(tmp_path, people, preparing.published_rows(data))
    told = json.loads((tmp_path / "partition.json").read_text())
    assert told["clients"] == [{"model": "linear", "train": [4, 0], "calibration": [5], "test": [2]}]
    assert (told["mean"], told["std"]) == (0.4, 0.2)


def test_the_rivals_networks_are_ours(benchmark):
    from fl_sim.models import architectures

    task = benchmark("ordinary.task")
    for name in ("linear", "cnn"):
        theirs, mine = task.make_net(name), architectures.build(name, (1, 28, 28), 10)
        assert repr(theirs) == repr(mine)


def test_the_bare_loop_copies_weights_rather_than_sharing_them(benchmark):
    import torch

    bare, net = benchmark("ordinary.bare"), torch.nn.Linear(2, 1)
    weights = torch.tensor([1.0, 2.0, 3.0])
    bare.load(net, weights)
    assert (net.weight.tolist(), net.bias.tolist()) == ([[1.0, 2.0]], [3.0])
    bare.fit(net, torch.ones(3, 2), torch.zeros(3, dtype=torch.long), torch.arange(3), 1)
    assert weights.tolist() == [1.0, 2.0, 3.0]
