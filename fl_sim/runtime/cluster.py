"""A Ray cluster: started here or joined, and how many clients it has room for."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import socket
import subprocess
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.job_config import JobConfig

import fl_sim.runtime.local_ray  # noqa: F401  # before Ray is started
from fl_sim.errors import FlSimError, RuntimeLostError
from fl_sim.runtime.joined import WITHOUT, Joined, watched


class _Job(JobConfig):
    """A job whose workers do not look for modules in the folder of the launch before anywhere else, as Ray has it: a
    file numpy.py there would hide numpy."""

    def _runtime_env_has_working_dir(self) -> bool:
        return True  # the one case in which Ray leaves that folder alone


@contextlib.contextmanager
def cluster(address: str | None, *, verbose: bool, paths: Sequence[str] | None = None) -> Iterator[None]:
    """Ray, started for the block unless it runs already; connected to where an address is given. Its workers find
    modules in `paths`, or where this process's environment says; none of them is there any more after the block.

    Raises:
        FlSimError: there is no cluster at that address, or Ray cannot be started.
    """
    if ray.is_initialized():
        yield
        return
    if address is not None:
        _refuse_ray_client(address)
        _refuse_where_nobody_answers(address)
    settings: dict[str, Any] = {} if verbose else {"log_to_driver": False, "logging_level": logging.ERROR}
    settings["job_config"] = _Job(runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(paths)}} if paths else None)
    try:
        ray.init(address=address or "local", include_dashboard=None if address else False, **settings)
    except Exception as error:  # for a start that fails Ray has no class of its own
        raise RuntimeLostError(_joining(address, error) if address else _starting(error)) from None
    raylet, node = _started_here("raylet"), ray._private.worker._global_node
    with contextlib.ExitStack() as stack:
        _watch(address, node, stack)
        try:
            yield
        except BaseException:  # of an interruption it may be the cause
            refuse_if_dead()
            raise
        finally:
            if node is not None and _dead():
                node.kill_all_processes(check_alive=False)  # which Ray would wait for to do what they cannot any more
            ray.shutdown()
            _end_workers_of(raylet)


_joined: list[Joined] = []  # the cluster that this process has joined, if it has


def _watch(address: str | None, node: Any, stack: contextlib.ExitStack) -> None:
    """Watch a joined cluster as long as the stack is open."""
    if address is None or node is None:
        return
    with contextlib.suppress(OSError):  # a raylet that cannot be asked is not watched
        _joined.append(stack.enter_context(watched(Joined(address, node.raylet_socket_name, node.gcs_address))))
        stack.callback(_joined.clear)


def _joining(address: str, error: Exception) -> str:
    return (
        f"runtime.address = {address!r}: no Ray cluster answers there, or this machine is none of its nodes "
        f"(`ray start --address=HOST:PORT` makes it one): {_in_a_line(error)}"
    )


def _starting(error: Exception) -> str:
    variable = next((name for name in ("RAY_TMPDIR", "TMPDIR") if name in os.environ), None)
    folder = os.environ[variable] if variable else "/tmp"
    if isinstance(error, OSError) and folder in str(error):
        name = f"{variable} = {folder!r}" if variable else folder
        mend = (
            f"{name} must be a folder that you can write to, of a name of at most 39 characters: Ray has its sockets "
            "there; set RAY_TMPDIR to such a one"
        )
    elif "/dev/shm" in str(error):
        mend = "Ray keeps arrays in /dev/shm: have one that is large enough (docker run --shm-size=2g)"
    else:
        mend = "on a machine that was busy, run again"
    return f"Ray could not be started: {_in_a_line(error)}; {mend}, {WITHOUT}"


def _in_a_line(error: Exception) -> str:
    return textwrap.shorten(str(error) or type(error).__name__, 400, placeholder=" ...")


def refuse_if_dead() -> None:
    """Look after the processes of the Ray that was started here or joined; Ray itself ends this process a while after
    one of them, without a word.

    Raises:
        FlSimError: one without which nothing goes on has ended.
    """
    for name, code in _dead().items():
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        raise RuntimeLostError(
            f"Ray's process {name} {how} in the middle of the run (did the machine run out of memory?); run again, for "
            f"what is made is kept, {WITHOUT}"
        )

    for joined in _joined:
        joined.look()
        if joined.dead:
            joined.heeded.set()
            raise RuntimeLostError(joined.words())


def is_lost() -> bool:
    """Whether nothing can be asked of Ray any more."""
    return bool(_dead()) or any(joined.dead for joined in _joined)


def _dead() -> dict[str, int]:
    """What has ended of the Ray that was started here, and cannot be done without: name -> exit code."""
    codes = {name: process.poll() for name in ("raylet", "gcs_server") if (process := _started_here(name))}
    return {name: code for name, code in codes.items() if code is not None}


def _started_here(name: str) -> subprocess.Popen[bytes] | None:
    """A process of the Ray that this process started, by Ray's name for it."""
    node = ray._private.worker._global_node
    processes: list[Any] = [] if node is None else node.all_processes.get(name, [])
    return processes[0].process if processes else None


def _end_workers_of(raylet: subprocess.Popen[bytes] | None) -> None:
    """Kill the workers that a raylet has left behind, as one does that is killed itself: they look after it for minutes
    where the GCS is gone too."""
    if raylet is None:
        return
    mark = f"RAY_RAYLET_PID={raylet.pid}".encode()
    for process in Path("/proc").glob("[1-9]*"):  # where there is none, as on macOS, they are left to Ray
        with contextlib.suppress(OSError):  # ended by now, or somebody else's
            if mark in (process / "environ").read_bytes().split(b"\0"):
                os.kill(int(process.name), signal.SIGKILL)


def _refuse_ray_client(address: str) -> None:
    if address.startswith("ray://"):
        raise FlSimError(
            f"runtime.address = {address!r}: clients fetch artifacts from this machine, so it must be one of the "
            "cluster's; join it by `ray start --address=HOST:6379 --num-cpus=0` and give HOST:6379"
        )


def _refuse_where_nobody_answers(address: str) -> None:
    """Ray itself tries an address at which there is nothing for minutes, and then ends the process."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        return  # "auto", which Ray resolves, or refuses at once
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise RuntimeLostError(f"runtime.address = {address!r}: no Ray cluster answers there: {error}") from None


def has_gpus() -> bool:
    """Whether this Ray knows of a GPU."""
    return ray.cluster_resources().get("GPU", 0) > 0


def clients_per_gpu(num_clients: int, *, num_cpus: float) -> int:
    """How many clients can be at work for each GPU of this Ray: as many as processors allow, and no more than makes all
    GPUs equally busy."""
    have = ray.cluster_resources()
    gpus = have["GPU"]
    return max(1, min(int(have.get("CPU", 0) / num_cpus / gpus), math.ceil(num_clients / gpus)))


def actors_for(num_clients: int, *, num_cpus: float, num_gpus: float) -> int:
    """How many actors this Ray has room for, at most one a client.

    Raises:
        FlSimError: there is room for none.
    """
    actors = room(num_cpus, num_gpus)
    if actors < 1:
        have, nodes = ray.cluster_resources(), sum(node["Alive"] for node in ray.nodes())
        spread = "" if nodes == 1 else f" on {nodes} nodes, and a client must find all it takes on one"
        raise FlSimError(
            f"runtime.cpus_per_client = {num_cpus:g} and gpus_per_client = {num_gpus:g}, but Ray has "
            f"{have.get('CPU', 0):g} CPUs and {have.get('GPU', 0):g} GPUs{spread}; ask for less"
        )
    return min(actors, num_clients)


def room(num_cpus: float, num_gpus: float) -> int:
    """How many actors that take so much each the living nodes have room for, whatever else runs there; an actor has all
    it takes on one node, and a share of a GPU on one GPU."""
    return sum(_room_on(node["Resources"], num_cpus, num_gpus) for node in ray.nodes() if node["Alive"])


def _room_on(node: dict[str, float], num_cpus: float, num_gpus: float) -> int:
    def times(have: float, take: float) -> int:
        return int(have / take + 1e-6)  # three times 0.1 are in 0.3

    by_cpus, gpus = times(node.get("CPU", 0), num_cpus), node.get("GPU", 0)
    if num_gpus <= 0:
        return by_cpus
    return min(by_cpus, times(gpus, num_gpus) if num_gpus >= 1 else int(gpus) * times(1, num_gpus))
