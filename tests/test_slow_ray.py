"""A Ray that cannot be started, or that dies, for real: one line, exit code 1, and no process left."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="where there is no /proc, nobody knows whose a process is"),
]

COMMAND = Path(sys.executable).parent / "fl-sim"
SMALL = ("run", "digits", "clients.count=6", "--out", "run")
SLOW = "clients.behaviour=[{kind='straggler', share=1, delay=3}]"  # longer than a lost GCS is waited for, and idle
LONG = ("run", "digits", "learn=own", "clients.count=60", SLOW, "--out", "run")
NET = """
import torch

def net(shape, outputs):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, outputs))
"""

During = Callable[[str, subprocess.Popen[str]], None]  # told a run's mark, and the run


def ours(mark: str) -> dict[int, str]:
    """Every process that has a mark in its environment: number -> command."""
    found = {}
    for process in Path("/proc").glob("[1-9]*"):
        with contextlib.suppress(OSError):  # it has ended by now
            if mark.encode() in (process / "environ").read_bytes():
                found[int(process.name)] = (process / "cmdline").read_bytes().split(b"\0")[0].decode()
    return found


def launch(
    folder: Path,
    *words: str,
    during: Callable[[str, subprocess.Popen[str]], None] = lambda *_: None,
    **environment: str,
) -> tuple[int, str]:
    """Exit code and words of the installed command; fails where a process that it has started outlives it."""
    mark = f"TEST_SLOW_RAY={uuid4().hex}"
    name, _, value = mark.partition("=")
    told = {**os.environ, "FL_SIM_STORE": str(folder / "store"), name: value, **environment}
    with subprocess.Popen(
        [COMMAND, *words], cwd=folder, env=told, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        try:
            during(mark, run)
            printed, said = run.communicate(timeout=120)
        finally:
            run.kill()
    time.sleep(1)  # who was told to end may take a moment
    left = ours(mark)
    for process in left:
        with contextlib.suppress(OSError):
            os.kill(process, signal.SIGKILL)
    assert left == {}
    return run.returncode, said if run.returncode == 0 else printed + said


def assert_one_line(end: tuple[int, str], *words: str) -> None:
    code, said = end
    assert (code, said.count("\n"), said.startswith("error: ")) == (1, 1, True), said
    assert [word for word in ("--runtime inline", *words) if word not in said] == [], said


@pytest.mark.parametrize("runtime", ["ray", "flower"])
def test_a_folder_with_too_long_a_name(tmp_path, runtime):
    folder = tmp_path / ("long" * 20)
    folder.mkdir()
    assert_one_line(launch(tmp_path, *SMALL, "--runtime", runtime, TMPDIR=str(folder)), "TMPDIR = ", "107 bytes")


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    end = launch(tmp_path, *SMALL, "--runtime", "ray", RAY_TMPDIR=str(tmp_path / "file"))
    assert_one_line(end, "RAY_TMPDIR = ", "Not a directory")


@pytest.mark.parametrize("runtime", ["ray", "flower"])
def test_files_of_the_launch_folder_hide_nothing_and_ray_address_is_not_heeded(tmp_path, runtime):
    for name in ("numpy", "ray", "json", "clients"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not this one')")
    (tmp_path / "mine.py").write_text(NET)
    words = ("clients.tier.strong.architecture=mine:net", "--runtime", runtime)
    assert launch(tmp_path, *SMALL, *words, RAY_ADDRESS="127.0.0.1:9") == (0, "")


def killing(folder: Path, command: str, most: int) -> During:
    """Kills up to so many of the processes with `command` in theirs, once the first client has its model."""

    def kill(mark: str, run: subprocess.Popen[str]) -> None:
        while run.poll() is None and not list((folder / "store" / "model").glob("*")):
            time.sleep(0.05)
        killed = 0
        while run.poll() is None and killed < most:
            for process, theirs in ours(mark).items():
                if command in theirs:
                    killed += 1
                    with contextlib.suppress(OSError):
                        os.kill(process, signal.SIGKILL)
            time.sleep(0.1)
        assert killed, f"it was over before anything could be killed: {run.communicate()}"

    return kill


@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_a_process_of_ray_that_is_killed(tmp_path, name):
    end = launch(tmp_path, *LONG, "--runtime", "ray", during=killing(tmp_path, f"/{name}", 1))
    assert_one_line(end, f"Ray's process {name} was killed by signal 9")


def test_workers_that_are_killed_again_and_again(tmp_path):
    """Whether they die under clients or while they start, the run ends and says so."""
    code, said = launch(tmp_path, *LONG, "--runtime", "ray", during=killing(tmp_path, "ray::Actor", 10_000))
    assert (code, "Traceback" in said, "should not have happened" in said) == (1, False, False), said
    assert "error: " in said
    assert "worker" in said


# ---------------------------------------------------------------------------------------------------- a joined cluster


class Head(NamedTuple):
    mark: str
    address: str


@pytest.fixture
def head(tmp_path, tmp_path_factory) -> Iterator[Head]:
    """A Ray cluster of one machine that the user has started, as `ray start --head` does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place, mark = tmp_path_factory.mktemp("h"), uuid4().hex
    start = (
        "start",
        "--head",
        f"--port={port}",
        "--num-cpus=2",
        "--include-dashboard=false",
        "--disable-usage-stats",
        f"--temp-dir={place}",
    )
    told = {**os.environ, "TEST_SLOW_HEAD": mark, "RAY_raylet_start_wait_time_s": "300"}
    told["FL_SIM_STORE"] = str(tmp_path / "store")  # which Flower's own runtime finds only where it is named
    words = [sys.executable, "-m", "fl_sim.runtime.local_ray", *start, "--node-ip-address=127.0.0.1"]
    started = subprocess.run(words, env=told, capture_output=True, text=True)
    assert started.returncode == 0, started.stdout + started.stderr
    yield Head(mark, f"127.0.0.1:{port}")
    for process in ours(mark):
        with contextlib.suppress(OSError):
            os.kill(process, signal.SIGKILL)


@pytest.mark.parametrize(
    ("name", "told", "runtime"),
    [("raylet", "the raylet of this machine", "ray"), ("gcs_server", "its GCS", "flower")],
)
def test_a_process_of_a_joined_cluster_that_is_killed(tmp_path, head, name, told, runtime):
    kill = killing(tmp_path, f"/{name}", 1)
    words = (*LONG, "--runtime", runtime, "--address", head.address)
    end = launch(tmp_path, *words, during=lambda _, run: kill(head.mark, run))
    assert_one_line(end, f"runtime.address = '{head.address}': {told}", "run again")
    ends = time.monotonic() + 150  # a worker ends with the models that it has in hand
    while (left := [command for command in ours(head.mark).values() if "ray::" in command]) and time.monotonic() < ends:
        time.sleep(1)
    assert left == []
