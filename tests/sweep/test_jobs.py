"""Points side by side: the same results, one failure each, and processes that leave when they should."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from test_sweep import TINY, Quiet

from fl_sim.errors import RuntimeLostError
from fl_sim.results.run import CLIENTS, Result
from fl_sim.sweep.expand import load_sweep
from fl_sim.sweep.jobs import side_by_side
from fl_sim.sweep.run import run_sweep


@contextlib.contextmanager
def a_runtime(word: str):
    yield word


def turn(runtime: str, point: int) -> str:
    if point < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05 * (point % 3))
    return f"{runtime} {os.getpid()} {point}"


def test_every_point_is_run_once_by_one_of_so_many_processes():
    outcomes = dict(side_by_side(iter(range(8)), 2, partial(a_runtime, "up"), turn))
    assert sorted(outcomes) == list(range(8))
    pids = {outcome.split()[1] for outcome in outcomes.values()}
    assert len(pids) == 2
    assert str(os.getpid()) not in pids
    assert all(outcome == f"up {outcome.split()[1]} {point}" for point, outcome in outcomes.items())


def test_a_process_that_is_killed_ends_the_sweep_in_a_line():
    with pytest.raises(RuntimeLostError, match="a process that ran points was killed"):
        list(side_by_side(iter([0, -1, 2]), 2, partial(a_runtime, "up"), turn))


def long_turn(runtime: str, point: int) -> str:
    time.sleep(1 if point < 0 else 8)
    return turn(runtime, point)


def test_other_processes_of_the_callers_are_left_alone():
    other = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
    other.start()
    try:
        with pytest.raises(RuntimeLostError):
            list(side_by_side(iter([0, -1]), 2, partial(a_runtime, "up"), turn))
        outcomes = side_by_side(iter([0, 1]), 2, partial(a_runtime, "up"), turn)
        next(outcomes)
        outcomes.close()  # nobody waits for the other
        assert other.is_alive()
    finally:
        other.kill()
        other.join()


def test_nothing_hangs_where_another_is_killed_in_the_middle_of_a_point():
    started = time.monotonic()
    with pytest.raises(RuntimeLostError, match="a process that ran points was killed"):
        list(side_by_side(iter([1, -1]), 2, partial(a_runtime, "up"), long_turn))
    assert time.monotonic() - started < 60  # at the latest when that point ends, which CPython may wait for


def test_side_by_side_is_as_in_turn(tmp_path):
    """The same rows of every client, the same failure at the same point, and the others kept."""
    words = [*TINY, "runtime.name=auto", "clients.concentration=0.02,1,10", "seed=0,1", "clients.min_calibration=90"]
    sweep, failures, rows = load_sweep("digits", words), {}, {}
    for jobs in (1, 2):
        watch, folder = Quiet(), tmp_path / str(jobs)
        store = tmp_path / f"store{jobs}"
        failures[jobs] = run_sweep(sweep, folder, watch, store=store, verbose=False, fail_fast=False, jobs=jobs)
        rows[jobs] = {
            run: [
                {name: value for name, value in row.items() if name != "seconds"}
                for row in Result.load(folder / "points" / run).clients
            ]
            for run in sweep.runs
            if (folder / "points" / run / CLIENTS).exists()
        }
        assert len(watch.failures) == len(failures[jobs]) > 0
        assert len(watch.placed_words) == 1
    assert failures[1] == failures[2]
    assert rows[1] == rows[2] != {}


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_nobody_stays_when_the_command_ends(tmp_path, number):
    """Interrupted, it says so; killed, it cannot: its processes leave by themselves."""
    words = [*TINY, "seed=0,1,2,3,4,5,6,7,8,9", "--jobs", "2", "--store", str(tmp_path / "store"), "--figures", "none"]
    command = [sys.executable, "-c", "from fl_sim.cli.main import main; main()", "sweep", "digits", *words]
    command += ["--out", str(tmp_path / "out")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as running:
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
        if not children.exists():
            running.kill()
            pytest.skip("this kernel does not list a process's children")
        deadline = time.monotonic() + 60
        while not list((tmp_path / "out").glob("points/[0-9a-f]*")):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        pids = [int(pid) for pid in children.read_text().split()]
        assert len(pids) >= 2
        running.send_signal(number)
        _, err = running.communicate(timeout=60)
    if number == signal.SIGTERM:
        assert running.returncode == 128 + signal.SIGTERM
        assert "interrupted; the finished points are kept" in " ".join(err.split())
    deadline = time.monotonic() + 30
    while alive := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.1)
