"""A runtime that stays up for as many runs as are wanted: what it costs to start is paid once."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any, Self, TypeVar

from fl_sim import learning
from fl_sim.runtime.grids import Done, SimulatedGrid
from fl_sim.scenario import Runtime

T = TypeVar("T")

APP = "clients.app:app"


class Session:
    """Runs servers over the clients of `APP`, on the runtime that `where` names.

    >>> with Session(Runtime(name="inline"), max_clients=3) as session:
    ...     session.serve(lambda grid: len(list(grid.get_node_ids())), num_clients=3, done=print)
    3
    """

    def __init__(self, where: Runtime, max_clients: int, *, verbose: bool = False) -> None:
        self.where, self.max_clients, self.verbose = where, max_clients, verbose
        self._grid: Any = None  # the one RayGrid, where the runtime is ray
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        if self.where.name == "ray":
            self._start_ray()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def serve(self, server: Callable[[SimulatedGrid], T], num_clients: int, done: Done) -> T:
        """What `server` makes of a Grid over `num_clients` fresh clients."""
        if self.where.name == "ray":
            self._grid.renew(num_clients, done)
            return server(self._grid)
        if self.where.name == "flower":
            return self._on_flower(server, num_clients)
        from fl_sim.runtime.inline import InlineGrid

        return server(InlineGrid(APP, num_clients, self.where.timeout, done))

    def _start_ray(self) -> None:
        from fl_sim.runtime import ray

        self._stack.enter_context(ray.cluster(self.where.address, verbose=self.verbose))
        resources = {"num_cpus": self.where.cpus_per_client, "num_gpus": self._gpus()}
        self._grid = ray.RayGrid(
            APP, self.max_clients, num_actors=ray.actors_for(self.max_clients, **resources), resources=resources,
            client_timeout=self.where.timeout, environment={"FL_SIM_STORE": os.environ["FL_SIM_STORE"]},
        )  # fmt: skip
        self._stack.callback(self._grid.close)

    def _on_flower(self, server: Callable[[SimulatedGrid], T], num_clients: int) -> T:
        from fl_sim.runtime import flower

        cpus = max(1, round(self.where.cpus_per_client))
        return flower.run(
            server, APP, num_clients, client_timeout=self.where.timeout, slots=max(1, (os.cpu_count() or 1) // cpus),
            resources={"num_cpus": cpus, "num_gpus": self._gpus(), "max_restarts": -1}, address=self.where.address,
            verbose=self.verbose,
        )  # fmt: skip

    def _gpus(self) -> float:
        """The share of a GPU a client gets: as asked, or a quarter where the clients run on one."""
        if self.where.gpus_per_client is not None:
            return self.where.gpus_per_client
        return 0.25 if learning.resolve_device(self.where.device) == "cuda" else 0.0
