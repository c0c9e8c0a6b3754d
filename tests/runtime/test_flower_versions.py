"""Which Flower the laboratory runs with."""

from __future__ import annotations

import flwr.simulation
import pytest

from fl_sim import Scenario, simulate
from fl_sim.errors import FlSimError


def test_where_flower_has_no_run_simulation_only_its_own_runtime_refuses(store, monkeypatch):
    monkeypatch.delattr(flwr.simulation, "run_simulation")
    small = ("clients.count=4", "data.train=50", "data.calibration=40", "data.test=40")
    with pytest.raises(FlSimError, match=r"flwr 1\.\d+\.\d+ has no run_simulation any more; install one that has"):
        simulate(Scenario.load("digits", "runtime.name=flower", *small), store=store.root)
    assert simulate(Scenario.load("digits", "runtime.name=inline", *small), store=store.root).column("num_covered")
