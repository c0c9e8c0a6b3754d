"""A Ray that cannot be started, or loses a process, is told in one line and leaves nothing behind; here by stand-ins,
and for real in test_slow_ray.py."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray

from fl_sim.errors import FlSimError
from fl_sim.runtime import cluster, flower, local_ray
from fl_sim.runtime import ray as runtime
from fl_sim.runtime.session import Session
from fl_sim.scenario.tables import Runtime

SLEEP = [sys.executable, "-c", "import time; print(flush=True); time.sleep(600)"]


@pytest.fixture
def init(monkeypatch) -> Callable[[Exception], None]:
    """Has ray.init raise."""

    def raises(error: Exception) -> None:
        def fail(**_: object) -> None:
            raise error

        monkeypatch.setattr(ray, "is_initialized", lambda: False)
        monkeypatch.setattr(ray, "init", fail)

    monkeypatch.setattr(ray, "shutdown", lambda: None)  # the whole suite's Ray may be up
    monkeypatch.setattr(cluster, "_started_here", lambda name: None)
    for name in ("TMPDIR", "RAY_TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    return raises


def told(where: Runtime) -> str:
    """The line in which a run on it is refused."""
    with Session(where, 2) as session, pytest.raises(FlSimError) as refused:
        session.serve(lambda grid: None, 2, lambda _: None)
    (line,) = str(refused.value).splitlines()
    return line


@pytest.mark.parametrize("name", ["ray", "flower"])
@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
@pytest.mark.parametrize("error", [
    OSError("AF_UNIX path length cannot exceed 107 bytes: /of/others/ray/plasma_store"),
    NotADirectoryError(20, "Not a directory", "/of/others/ray"),
    PermissionError(13, "Permission denied", "/of/others/ray"),
])  # fmt: skip
def test_a_folder_that_ray_cannot_use_is_named_with_its_variable(init, monkeypatch, name, variable, error):
    init(error)
    monkeypatch.setenv(variable, "/of/others")
    line = told(Runtime(name=name))
    assert line.startswith(
        f"Ray could not be started: {error}; {variable} = '/of/others' must be a folder that you can"
    )
    assert "set RAY_TMPDIR to such a one, or use --runtime inline" in line


@pytest.mark.parametrize(("error", "mend"), [
    (PermissionError(13, "Permission denied", "/tmp/ray"), "/tmp must be a folder that you can write to"),
    (FileNotFoundError(2, "No such file or directory", "/dev/shm"), "have one that is large enough"),
    (ValueError("The configured object store size (20 GB)\nexceeds /dev/shm size (1 GB)."), "have one that is large"),
    (Exception("The current node timed out during startup."), "on a machine that was busy, run again"),
    (RuntimeError("Failed to start GCS. Last 1 lines:\nE x\n" + "a" * 1000), "on a machine that was busy, run again"),
])  # fmt: skip
def test_any_other_start_that_fails_is_a_line_with_what_to_do(init, error, mend):
    init(error)
    line = told(Runtime(name="ray"))
    assert mend in line
    assert line.endswith('or use --runtime inline (runtime.name = "inline"), which does without Ray')
    assert len(line) < 700


def test_ray_address_is_not_heeded(init, monkeypatch):
    """It may be that of a cluster which is gone, and `runtime.address` is where one is named."""
    asked: list[object] = []
    init(OSError("no"))
    monkeypatch.setattr(ray, "init", lambda **how: asked.append(how["address"]))
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with cluster.cluster(None, verbose=False):
        pass
    assert asked == ["local"]


def test_what_a_start_that_fails_had_started_is_ended():
    ended: list[bool] = []
    node = SimpleNamespace(all_processes={}, kill_all_processes=lambda check_alive: ended.append(check_alive))
    with pytest.raises(KeyboardInterrupt), local_ray._nothing_half_up(node):
        raise KeyboardInterrupt
    assert ended == [False]
    with local_ray._nothing_half_up(node):
        pass
    assert ended == [False]


# -------------------------------------------------------------------------------------------------------- one that dies


@pytest.fixture
def processes(monkeypatch) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Stand-ins for the processes of a Ray that was started here."""
    made = {name: subprocess.Popen(SLEEP, stdout=subprocess.PIPE) for name in ("raylet", "gcs_server")}
    held = {name: [SimpleNamespace(process=process)] for name, process in made.items()}
    node = SimpleNamespace(all_processes=held)
    monkeypatch.setattr(ray._private.worker, "_global_node", node)
    yield made
    monkeypatch.undo()
    for process in made.values():
        process.kill()
        process.communicate()


@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_a_process_of_ray_that_was_killed_is_named(processes, name):
    cluster.refuse_if_dead()
    processes[name].kill()
    processes[name].wait()
    line = (
        rf"^Ray's process {name} was killed by signal 9 [^\n]*run again, for what is made is kept, [^\n]*inline[^\n]*$"
    )
    with pytest.raises(FlSimError, match=line):
        cluster.refuse_if_dead()


@pytest.mark.parametrize("dies", ["before the run", "in the run"])
def test_whatever_a_dead_ray_makes_of_a_run_it_is_told_by_its_cause(processes, monkeypatch, dies):
    def die() -> None:
        processes["raylet"].kill()
        processes["raylet"].wait()

    def server(_: object) -> None:
        die()
        raise ray.exceptions.RaySystemError("some words of Ray's")

    session = Session(Runtime(name="ray"), 2)
    session._starting = SimpleNamespace(result=lambda: None)
    monkeypatch.setattr(session, "_grid_on_ray", lambda *_: None)
    if dies == "before the run":
        die()
    with pytest.raises(FlSimError, match=r"^Ray's process raylet was killed by signal 9"):
        session.serve(server if dies == "in the run" else pytest.fail, 2, lambda _: None)


def test_flowers_replies_of_a_dead_ray_are_not_believed(processes):
    nobody = SimpleNamespace(get_nodes=list, send_and_receive=lambda sent, timeout: sent)
    grid = flower.FlowerGrid(nobody, 0, 1.0, 1)
    assert grid.send_and_receive([]) == []
    processes["gcs_server"].kill()
    processes["gcs_server"].wait()
    with pytest.raises(FlSimError, match=r"^Ray's process gcs_server was killed by signal 9"):
        grid.send_and_receive([])


def test_an_error_that_ray_has_no_part_in_stays_what_it_is(processes, monkeypatch):
    session = Session(Runtime(name="ray"), 2)
    session._starting = SimpleNamespace(result=lambda: None)
    monkeypatch.setattr(session, "_grid_on_ray", lambda *_: None)
    with pytest.raises(ZeroDivisionError):
        session.serve(lambda _: 1 / 0, 2, lambda _: None)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="where there is no /proc, nobody knows whose a process is")
def test_the_workers_of_a_raylet_are_ended_and_nobody_elses(processes):
    raylet = processes["raylet"]
    theirs, others = (
        subprocess.Popen(SLEEP, env={**os.environ, "RAY_RAYLET_PID": str(pid)}, stdout=subprocess.PIPE)
        for pid in (raylet.pid, 10 * raylet.pid)
    )
    for process in (theirs, others):
        assert process.stdout is not None
        process.stdout.readline()  # before its program runs, a process has the environment of this one
    cluster._end_workers_of(raylet)
    assert theirs.wait(timeout=10) == -9
    assert others.poll() is None
    others.kill()
    for process in (theirs, others):
        process.communicate()


def test_why_a_worker_could_not_start_is_a_line():
    ended = "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR"
    raised = "ModuleNotFoundError: No module named 'nowhere'"
    dead = f"The actor died unexpectedly.\n\tpid: 12\n{ended}\nThe actor never ran."
    assert runtime._cause(Exception(dead)) == ended
    assert runtime._cause(Exception(f"The actor died\n  File x\n{raised}\n")) == raised


# ---------------------------------------------------------------------------------------------------- the launch folder


def test_the_launch_folder_is_searched_last_by_workers_and_not_first(ray_session):
    searched_first = ray._private.worker.global_worker.core_worker.get_job_config().py_driver_sys_path
    assert str(Path.cwd()) not in searched_first
    before = list(sys.path)
    try:
        runtime.Actor("grid_app:app", None, "/launched/here")
        assert sys.path == [*before, "/launched/here"]
    finally:
        sys.path[:] = before


def test_flowers_workers_search_as_this_process_does(monkeypatch):
    asked: list[object] = []

    def started(address: object, *, verbose: bool, paths: object) -> object:
        asked.append(paths)
        raise FlSimError("no Ray today")

    monkeypatch.setattr(flower, "cluster", started)
    with pytest.raises(FlSimError, match="no Ray today"):
        flower.run(
            lambda grid: None, "clients.app:app", 2, client_timeout=1.0, slots=1, resources={}, address=None,
            verbose=False,
        )  # fmt: skip
    assert asked == [sys.path]
