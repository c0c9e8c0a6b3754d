"""Flower's own simulation runtime, unchanged: for parity with `flwr run` and with everything Flower ships.

The only file that rests on `flwr.simulation.run_simulation`, which Flower 1.41 and 1.42 have and deprecate. A later
release may take it away: then this runtime refuses, and the two others do not notice.
"""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.metadata import version
from typing import Any, TypeVar, cast

from flwr.app import Context, Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid, ServerApp

from fl_sim.errors import FlSimError
from fl_sim.runtime.cluster import cluster, refuse_if_dead
from fl_sim.runtime.grids import SimulatedGrid, allowed

T = TypeVar("T")

NODES_WITHIN = 60.0  # seconds; nodes register after the ServerApp has started


class FlowerGrid(SimulatedGrid):
    """Flower's grid with three traps taken out: it waits for the nodes, lists them in the order of the partitions,
    and has a timeout, without which a client that never answers hangs the run."""

    def __init__(self, grid: Grid, num_clients: int, client_timeout: float, slots: int) -> None:
        self.grid, self.num_clients, self.client_timeout, self.workers = grid, num_clients, client_timeout, slots
        self.retries: dict[int, int] = {}
        self.nodes = wait_for(grid, num_clients)

    def get_node_ids(self) -> Iterable[int]:
        """In the order of the partitions."""
        return list(self.nodes)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """In the order of the partitions."""
        return [NodeInfo(node_id=node) for node in self.nodes]

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Flower's older way to make a message."""
        return self.grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Flower's own."""
        return self.grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Flower's own."""
        return self.grid.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Flower's own. It cannot interrupt a client, and its first messages wait for its workers to start, so this is
        only the end of all patience: twice what all clients may take together. Who took too long is said by the checked
        grid."""
        sent = list(messages)
        each = max((allowed(message, self.client_timeout) for message in sent), default=0.0)
        patience = 2 * each * math.ceil(len(sent) / self.workers) + NODES_WITHIN
        replies = self.grid.send_and_receive(sent, timeout=patience if timeout is None else min(timeout, patience))
        refuse_if_dead()  # of which all these replies speak, each in its own words
        return replies

    def answer(self, messages: Any, timeout: float | None) -> Iterable[Message]:
        """Flower's own."""
        return self.send_and_receive(messages, timeout=timeout)


def wait_for(grid: Grid, count: int, within: float = NODES_WITHIN) -> list[int]:
    """The ids of a federation's `count` nodes, in the order in which they registered: a simulation's partitions.

    A ServerApp starts before its nodes are there, and a strategy that asks at once finds none, or some.

    Raises:
        FlSimError: there are more than `count`, or fewer and none came for `within` seconds.
    """
    nodes: list[NodeInfo] = []
    last = time.monotonic()
    while True:
        before, nodes = len(nodes), list(grid.get_nodes())
        if len(nodes) == count:
            return [node.node_id for node in sorted(nodes, key=lambda node: node.registered_at)]
        last = time.monotonic() if len(nodes) > before else last
        if len(nodes) > count or time.monotonic() > last + within:
            raise FlSimError(
                f"the federation has {len(nodes)} nodes, and {count} clients are to run: there must be as many; "
                f"flwr run takes --federation-config 'num-supernodes={count}'"
            )
        time.sleep(0.02)


def run(
    server: Callable[[SimulatedGrid], T], app: str, num_clients: int, *, client_timeout: float, slots: int,
    resources: dict[str, Any], address: str | None, verbose: bool,
) -> T:  # fmt: skip
    """Run `server` as a ServerApp over `num_clients` nodes of Flower's simulation, and return what it returns."""
    run_simulation = _entry_point()
    outcome: list[T] = []
    failure: list[BaseException] = []
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        try:
            outcome.append(server(FlowerGrid(grid, num_clients, client_timeout, slots)))
        except BaseException as error:  # carried over to the caller's thread, where Flower would wrap it
            failure.append(error)

    module, _, attribute = app.partition(":")
    # Flower takes a Ray that is up already; where one that it starts itself fails, it hangs.
    with cluster(address, verbose=verbose, paths=sys.path), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        run_simulation(
            server_app, getattr(import_module(module), attribute), num_clients,
            backend_config={"client_resources": resources}, verbose_logging=verbose,
        )  # fmt: skip
    if failure:
        raise failure[0]
    if not outcome:
        raise FlSimError("Flower's simulation ended before the server had finished; run again with -v to see its log")
    return outcome[0]


def _entry_point() -> Callable[..., None]:
    """Flower's `run_simulation`.

    Raises:
        FlSimError: the Flower that is installed has none.
    """
    run_simulation: Any = getattr(import_module("flwr.simulation"), "run_simulation", None)
    if not callable(run_simulation):  # it may be gone, or only the module of that name be left
        raise FlSimError(
            f"runtime.name = 'flower': flwr {version('flwr')} has no run_simulation any more; install one that has "
            "(pip install 'flwr>=1.41,<=1.42'), or use --runtime ray or inline"
        )
    return cast(Callable[..., None], run_simulation)
