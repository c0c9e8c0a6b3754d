"""A runtime that stays up for as many runs as are wanted: what it costs to start is paid once.

Light to import: Ray starts, and its workers import what they need, while this process imports torch and makes the data.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from fl_sim.errors import FlSimError
from fl_sim.models.device import num_gpus, resolve_device, share_of_gpu
from fl_sim.runtime.artifact_exchange import driver_store
from fl_sim.scenario.tables import Runtime
from fl_sim.store.artifacts import Store, users_store
from fl_sim.telemetry import Clock

if TYPE_CHECKING:
    from fl_sim.runtime.grids import Done, SimulatedGrid

T = TypeVar("T")

APP = "clients.app:app"


class Session:
    """Runs servers over the clients of `APP`, on the runtime that `where` names, which starts in the background. The
    machine, or the cluster, is shared out among so many sessions as `share` says.

    >>> with Session(Runtime(name="inline"), max_clients=3) as session:
    ...     session.serve(lambda grid: len(list(grid.get_node_ids())), num_clients=3, done=print)
    3
    """

    def __init__(
        self,
        where: Runtime,
        max_clients: int,
        *,
        store: str | Path | None = None,
        verbose: bool = False,
        share: int = 1,
    ) -> None:
        self.where, self.max_clients, self.verbose, self.share = where, max_clients, verbose, share
        self.store = users_store(store)
        self._clock: Clock | None = Clock()  # what starting takes is the first run's
        self._grid: Any = None  # the one RayGrid, where the runtime is ray
        self._shares_gpus, self._need = False, -1  # whether by measure, and the bytes that they are shared out by
        self._starting: Future[None] | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(_store_in_environment(self.store))
        if self.where.name == "ray":
            # The thread must outlive Ray: Linux ends Ray's processes with the thread that started them.
            starter = self._stack.enter_context(ThreadPoolExecutor(max_workers=1, thread_name_prefix="start-ray"))
            self._starting = starter.submit(self._start_ray)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._starting is not None:
                self._starting.exception()  # waits: what is half up cannot be taken down
        finally:
            self._stack.close()

    def clock(self) -> Clock:
        """The clock of the next run; the first one's has run since this session was made."""
        clock, self._clock = self._clock or Clock(), None
        return clock

    def serve(
        self, server: Callable[[SimulatedGrid], T], num_clients: int, done: Done, need: Callable[[], int] = lambda: 0
    ) -> T:
        """What `server` makes of a Grid over `num_clients` fresh clients, once the runtime is up.

        `need` says how many bytes of a GPU's memory a client takes; it is asked only where clients share GPUs.

        Raises:
            FlSimError: the runtime cannot be started.
        """
        with _flower_logging(verbose=self.verbose):
            if self._starting is not None:
                return self._on_ray(server, num_clients, done, need)
            if self.where.name == "flower":
                return self._on_flower(server, num_clients, need)
            from fl_sim.runtime.inline import InlineGrid

            return server(InlineGrid(APP, num_clients, self.where.timeout, done))

    def _on_ray(self, server: Callable[[SimulatedGrid], T], num_clients: int, done: Done, need: Callable[[], int]) -> T:
        assert self._starting is not None
        self._starting.result()
        from fl_sim.runtime.cluster import refuse_if_dead

        refuse_if_dead()  # in a run before
        try:
            return server(self._grid_on_ray(num_clients, done, need))
        except (Exception, KeyboardInterrupt):  # by which a joined cluster's end is told to who waits for it
            refuse_if_dead()  # of which whatever was raised came
            raise

    def _grid_on_ray(self, num_clients: int, done: Done, need: Callable[[], int]) -> Any:
        if self._shares_gpus:
            self._share_gpus(need())
        elif self._on_gpus() and not self.where.gpus_per_client:
            raise FlSimError(
                "the clients would run on a GPU, which torch sees here, and this Ray gives them none; start Ray with "
                "its GPUs, or say runtime.device = 'cpu'"
            )
        self._grid.renew(num_clients, done)
        return self._grid

    def _start_ray(self) -> None:
        from fl_sim.runtime import cluster

        self._stack.enter_context(cluster.cluster(self.where.address, verbose=self.verbose))
        self._stack.callback(self._close)
        self._shares_gpus = self.where.gpus_per_client is None and cluster.has_gpus() and self._on_gpus()
        if not self._shares_gpus:
            self._start_actors(self.where.gpus_per_client or 0.0)

    def _start_actors(self, gpus: float) -> None:
        from fl_sim.runtime.cluster import actors_for
        from fl_sim.runtime.ray import RayGrid

        place = self._stack.enter_context(driver_store(str(self.store.root.resolve())))
        resources = {"num_cpus": self.where.cpus_per_client, "num_gpus": gpus}
        self._grid = RayGrid(
            APP, self.max_clients, num_actors=self._of_all(actors_for(self.max_clients, **resources)),
            resources=resources, client_timeout=self.where.timeout, driver_store=place,
        )  # fmt: skip

    def _share_gpus(self, need: int) -> None:
        """Start actors that have room for `need` bytes; where those there are have less, in their place."""
        from fl_sim.runtime.cluster import clients_per_gpu

        if self._grid is not None and need <= self._need:
            return
        self._close()
        at_once = clients_per_gpu(self.max_clients, num_cpus=self.where.cpus_per_client)
        self._start_actors(share_of_gpu(need, most=self._of_all(at_once), among=self.share))
        self._need = need  # now, so that after a start that failed the next run tries again

    def _of_all(self, room: int) -> int:
        return max(1, room // self.share)

    def _close(self) -> None:
        from fl_sim.runtime.cluster import is_lost

        if self._grid is not None and not is_lost():  # else Ray would be waited for, and ends this process meanwhile
            self._grid.close()
        self._grid = None

    def _on_gpus(self) -> bool:
        return resolve_device(self.where.device) == "cuda"

    def _on_flower(self, server: Callable[[SimulatedGrid], T], num_clients: int, need: Callable[[], int]) -> T:
        from fl_sim.runtime import flower

        cpus = max(1, round(self.where.cpus_per_client))
        slots = self._of_all((os.cpu_count() or 1) // cpus)
        gpus = self.where.gpus_per_client
        if gpus is None:
            gpus = share_of_gpu(need(), most=max(1, slots // num_gpus()), among=self.share) if self._on_gpus() else 0.0
        return flower.run(
            server, APP, num_clients, client_timeout=self.where.timeout, slots=slots,
            resources={"num_cpus": cpus, "num_gpus": gpus, "max_restarts": -1}, address=self.where.address,
            verbose=self.verbose,
        )  # fmt: skip


@contextlib.contextmanager
def _store_in_environment(store: Store) -> Iterator[None]:
    """Where the workers find the store, for the block."""
    before = os.environ.get("FL_SIM_STORE")
    os.environ["FL_SIM_STORE"] = str(store.root.resolve())
    try:
        yield
    finally:
        if before is None:
            del os.environ["FL_SIM_STORE"]
        else:
            os.environ["FL_SIM_STORE"] = before


@contextlib.contextmanager
def _flower_logging(*, verbose: bool) -> Iterator[None]:
    """How much Flower says, for the block."""
    import flwr  # noqa: F401  # which sets the level itself when it is imported

    flower = logging.getLogger("flwr")
    level = flower.level
    flower.setLevel(logging.INFO if verbose else logging.CRITICAL)  # the ledger tells what failed, in a line
    try:
        yield
    finally:
        flower.setLevel(level)
