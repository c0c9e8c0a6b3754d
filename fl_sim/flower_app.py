"""The repository as a Flower app: `flwr run` runs a scenario on Flower's own runtime, with the digits of `fl-sim run`.

`[tool.flwr.app]` in pyproject.toml names this server beside the clients of every other runtime (`clients.app:app`), and
holds the keys of a run's configuration with their defaults:

    scenario    name of a shipped scenario, or the path of a file
    overrides   `key=value` words, as fl-sim run takes them, in one string
    out         where to write; empty: runs/NAME-DIGEST, in the folder in which Flower's daemon was started

The artifact store is the one that `FL_SIM_STORE` named when Flower's daemon was started.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from rich.console import Console

from fl_sim.preflight import check
from fl_sim.report.figures.catalogue import draw_finished
from fl_sim.report.table import summary
from fl_sim.results.run import RunFolder, finished
from fl_sim.runtime.flower import FlowerGrid, wait_for
from fl_sim.runtime.grids import Done, SimulatedGrid
from fl_sim.runtime.session import Session
from fl_sim.scenario.scenario import Scenario
from fl_sim.scenario.toml import locate
from fl_sim.simulation import Silent, simulate_on

T = TypeVar("T")

REGISTERED_WITHIN = 10.0  # seconds; a simulation registers all its nodes at once

server = ServerApp()


class Given(Session):
    """A session on a Grid that Flower has made: nothing is started, and nothing is stopped."""

    def __init__(self, grid: Grid, scenario: Scenario) -> None:
        super().__init__(scenario.runtime, scenario.clients.count)
        self.given = grid

    def serve(
        self, server: Callable[[SimulatedGrid], T], num_clients: int, done: Done, need: Callable[[], int] = lambda: 0
    ) -> T:
        """What `server` makes of the nodes that Flower has given."""
        slots = max(1, (os.cpu_count() or 1) // max(1, round(self.where.cpus_per_client)))
        return server(FlowerGrid(self.given, num_clients, self.where.timeout, slots))


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Run the scenario that the run's configuration names, and write its folder."""
    config = {key: str(context.run_config[key]) for key in ("scenario", "overrides", "out")}
    scenario = Scenario.load(config["scenario"], *shlex.split(config["overrides"]), "runtime.name=flower")
    check(scenario)
    wait_for(grid, scenario.clients.count, REGISTERED_WITHIN)
    place = Path(config["out"] or f"runs/{locate(config['scenario']).stem}-{scenario.identity()[:8]}").resolve()
    result = finished(place, scenario)
    if result is None:
        with RunFolder(place) as folder:
            result = simulate_on(Given(grid, scenario), scenario, Silent())
            folder.write(result)
            if folder.finish():
                draw_finished(result, place)
    console = Console()
    console.print(summary(result))
    console.print(f"Everything is in {place}", soft_wrap=True, highlight=False, markup=False)
