"""A runtime that starts in the background, and how clients share GPUs (here by stand-ins: no test needs a GPU)."""

from __future__ import annotations

import logging
import math
import os
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_sim.errors import FlSimError
from fl_sim.models import device, training
from fl_sim.models.recipe import Recipe
from fl_sim.runtime import cluster
from fl_sim.runtime import ray as runtime
from fl_sim.runtime import session as sessions
from fl_sim.runtime.session import Session
from fl_sim.scenario.tables import Runtime

GIB = 1 << 30


def nobody(_: int) -> None:
    """A progress that nobody looks at."""


def test_flower_and_the_environment_are_as_before_when_it_ends(tmp_path, monkeypatch):
    monkeypatch.delenv("FL_SIM_STORE")
    flower = logging.getLogger("flwr")
    level = flower.level
    with Session(Runtime(name="inline"), 3, store=tmp_path / "mine") as session:
        assert os.environ["FL_SIM_STORE"] == str(tmp_path / "mine")
        assert session.serve(lambda grid: (flower.level, grid.num_clients), 3, nobody) == (logging.CRITICAL, 3)
        assert flower.level == level
    assert "FL_SIM_STORE" not in os.environ


def test_what_starting_takes_is_the_first_runs():
    with Session(Runtime(name="inline"), 1) as session:
        first = session.clock()
        first.lap("start")
        second = session.clock()
        second.lap("start")
    assert first.seconds["start"] > 10 * second.seconds["start"] > 0


def test_a_start_that_fails_is_told_by_the_first_run_and_hinders_no_end(monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise FlSimError("no Ray today")

    monkeypatch.setattr(cluster, "cluster", fail)
    with Session(Runtime(name="ray"), 2) as session, pytest.raises(FlSimError, match="no Ray today"):
        session.serve(len, 2, nobody)
    with pytest.raises(KeyError), Session(Runtime(name="ray"), 2):
        raise KeyError("the caller's own error is the one that is seen")


def test_ray_is_up_when_the_data_is(ray_session):
    where = Runtime(name="ray", cpus_per_client=0.5)
    with Session(where, 4) as session:
        assert session.serve(lambda grid: list(grid.get_node_ids()), 4, nobody) == [2, 3, 4, 5]
        first = session._grid
        session.serve(lambda grid: None, 2, nobody)
        assert session._grid is first  # its actors serve the next run too


# ---------------------------------------------------------------------------------------------------------------- GPUs


class FakeRay:
    """What a Session asks of a Ray with GPUs."""

    def __init__(self, cpus: int, gpus: int) -> None:
        self.have, self.made = {"CPU": cpus, "GPU": gpus}, []

    def grid(self, app: str, num_clients: int, **how: object) -> SimpleNamespace:
        self.made.append(how)
        return SimpleNamespace(renew=lambda *_: None, close=lambda: None)


@pytest.fixture
def gpus(ray_session, monkeypatch) -> FakeRay:
    fake = FakeRay(cpus=16, gpus=2)
    monkeypatch.setattr(runtime, "RayGrid", fake.grid)
    monkeypatch.setattr(cluster.ray, "cluster_resources", lambda: fake.have)
    monkeypatch.setattr(cluster.ray, "nodes", lambda: [{"Alive": True, "Resources": fake.have}])
    monkeypatch.setattr(sessions, "resolve_device", lambda wanted: "cpu" if wanted == "cpu" else "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda i: ((60 + 20 * i) * GIB, 80 * GIB))
    return fake


@pytest.mark.parametrize(("need", "share"), [(1 * GIB, 0.125), (12 * GIB, 0.25), (50 * GIB, 1.0), (500 * GIB, 1.0)])
def test_clients_share_gpus_by_measured_memory(gpus, need, share):
    with Session(Runtime(name="ray"), 100) as session:
        assert gpus.made == []  # until the data is there, by which the need is measured
        session.serve(lambda grid: None, 100, nobody, need=lambda: need)
        session.serve(lambda grid: None, 100, nobody, need=lambda: need // 2)  # has room enough
    (made,) = gpus.made
    assert made["resources"] == {"num_cpus": 1.0, "num_gpus": share}
    assert made["num_actors"] == min(16, 2 * int(1 / share))


def test_a_run_that_needs_more_gets_actors_of_its_own(gpus):
    with Session(Runtime(name="ray"), 100) as session:
        session.serve(lambda grid: None, 100, nobody, need=lambda: GIB)
        session.serve(lambda grid: None, 100, nobody, need=lambda: 20 * GIB)
    assert [made["resources"]["num_gpus"] for made in gpus.made] == [0.125, 0.5]


@pytest.mark.parametrize("told", [{}, {"gpus_per_client": 0.0}])
def test_clients_on_a_gpu_that_ray_does_not_give_are_refused(gpus, told):
    gpus.have["GPU"] = 0 if not told else 2
    with (
        Session(Runtime(name="ray", **told), 4) as session,
        pytest.raises(FlSimError, match="this Ray gives them none"),
    ):
        session.serve(lambda grid: None, 4, nobody)


def test_few_clients_are_spread_over_all_gpus(gpus):
    with Session(Runtime(name="ray"), 4) as session:
        session.serve(lambda grid: None, 4, nobody, need=lambda: GIB)
    assert gpus.made[0]["resources"]["num_gpus"] == 0.5  # two on each
    assert gpus.made[0]["num_actors"] == 4


@pytest.mark.parametrize(("where", "share"), [
    (Runtime(name="ray", device="cpu"), 0.0), (Runtime(name="ray", gpus_per_client=0.1), 0.1),
])  # fmt: skip
def test_nothing_is_measured_where_the_share_is_known(gpus, where, share):
    with Session(where, 100) as session:
        session.serve(lambda grid: None, 100, nobody, need=lambda: pytest.fail("is not asked"))
    assert gpus.made[0]["resources"]["num_gpus"] == share


@settings(derandomize=True, deadline=None)
@given(need=st.integers(0, 200 * GIB), free=st.integers(0, 200 * GIB), most=st.integers(1, 256))
def test_all_shares_fit_into_a_gpu_and_all_clients_into_its_memory(need, free, most):
    share = device.share_for(need, free, most=most)
    actors = math.floor(1 / share)
    assert 0 < share <= 1
    assert actors * share <= 1
    assert actors <= most + 1  # Ray counts in ten-thousandths: a share of 1/7 is 0.1428, of which seven fit
    if actors > 1:
        assert min(actors, most) * (need + device.CONTEXT) <= device.FILLED * free


def test_the_peak_is_measured_on_a_step_of_training(monkeypatch):
    steps = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: steps.append("reset"))
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 4096)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: steps.append("emptied"))
    fit = training.fit
    monkeypatch.setattr(training, "fit", lambda *told: steps.append(told[1].shape) or fit(*told))
    told = {"epochs": 9, "learning_rate": 0.1, "quantiles": None, "seed": 0, "purpose": "footprint"}
    recipe = Recipe(architecture="mlp", batch_size=7, device="cpu", precision="float32", **told)
    assert training.peak_bytes(recipe, (1, 8, 8), 10) == 4096
    assert training.peak_bytes(recipe, (5,), None) == 4096
    assert steps == ["reset", (7, 1, 8, 8), "emptied", "reset", (7, 5), "emptied"]
