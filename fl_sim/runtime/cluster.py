"""A Ray cluster: started here or joined, and how many clients it has room for."""

from __future__ import annotations

import contextlib
import logging
import math
import socket
from collections.abc import Iterator
from typing import Any

import ray

import fl_sim.runtime.local_ray  # noqa: F401  # before Ray is started
from fl_sim.errors import FlSimError


@contextlib.contextmanager
def cluster(address: str | None, *, verbose: bool) -> Iterator[None]:
    """Ray, started for the block unless it runs already; connected to where an address is given.

    Raises:
        FlSimError: there is no cluster at that address.
    """
    if ray.is_initialized():
        yield
        return
    if address is not None:
        _refuse_ray_client(address)
        _refuse_where_nobody_answers(address)
    quiet: dict[str, Any] = {} if verbose else {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        ray.init(address=address or "local", include_dashboard=None if address else False, **quiet)
    except ConnectionError as error:
        raise FlSimError(
            f"runtime.address = {address!r}: no Ray cluster answers there, or this machine is none of its nodes "
            f"(`ray start --address=HOST:PORT` makes it one): {error}"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


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
        raise FlSimError(f"runtime.address = {address!r}: no Ray cluster answers there: {error}") from None


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
