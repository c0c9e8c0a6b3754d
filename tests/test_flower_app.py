"""The repository as a Flower app: the server that `flwr run` starts, and the whole command."""

from __future__ import annotations

import contextlib
import csv
import os
import re
import shlex
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from watched import spoken_to, watching

from fl_sim import Scenario, simulate
from fl_sim.errors import FlSimError
from fl_sim.flower_app import server
from fl_sim.results.run import write_rows
from fl_sim.runtime.flower import wait_for
from fl_sim.runtime.inline import InlineGrid
from fl_sim.runtime.session import APP
from fl_sim.scenario.strategies import CALIBRATE
from fl_sim.simulation import Silent, federation_of, made_ready
from strategies import calibration, learning
from strategies.fedwq_cp import FedWQCP

ROOT = Path(__file__).parent.parent
FLOWER = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
SMALL = ("clients.count=6", "data.train=100")


def rows(run: Path) -> list[dict[str, str]]:
    """clients.csv without what a clock decides."""
    with (run / "clients.csv").open(newline="") as handle:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(handle)]


def inline(folder: Path) -> list[dict[str, str]]:
    """What `fl-sim run digits --runtime inline` writes, with SMALL, in a store of its own."""
    result = simulate(Scenario.load("digits", *SMALL, "runtime.name=inline"), store=folder / "inline-store")
    with (folder / "clients.csv").open("w", newline="") as handle:
        write_rows(result.clients, handle)
    return rows(folder)


def context(**told: str) -> Context:
    return Context(1, 1, {}, RecordDict(), {**FLOWER["config"], **told})


# ---------------------------------------------------------------------------------------------- waiting for the nodes


class Joining:
    """A Grid whose nodes come one after another, and are told of in another order."""

    def __init__(self, *joined: int) -> None:
        self.joined = list(joined)

    def get_nodes(self) -> list[NodeInfo]:
        there = self.joined.pop(0) if len(self.joined) > 1 else self.joined[0]
        return [NodeInfo(node_id=100 - k, registered_at=f"2026-01-01T00:00:0{k}") for k in reversed(range(there))]


def test_nodes_are_waited_for_and_come_in_the_order_in_which_they_registered():
    assert wait_for(Joining(0, 0, 1, 3), 3) == [100, 99, 98]


@pytest.mark.parametrize("there", [2, 4])
def test_too_few_nodes_and_too_many_are_one_clear_message(there):
    with pytest.raises(FlSimError) as refused:
        wait_for(Joining(0, there), 3, within=0.05)
    assert str(refused.value) == (
        f"the federation has {there} nodes, and 3 clients are to run: there must be as many; flwr run takes "
        "--federation-config 'num-supernodes=3'"
    )


def test_a_strategy_knows_its_number_of_rounds():
    strategy = FedWQCP(alpha=0.1)
    with pytest.raises(ValueError, match="num_rounds = 3: FedWQCP takes 1; leave it out"):
        strategy.start(InlineGrid(APP, 1, 60.0), num_rounds=3)


@pytest.mark.parametrize("learn", ["shared", "own", "{name='fedavg', rounds=2}"])
def test_every_strategy_serves_a_server_of_ones_own(learn, store):
    """By `start(grid)` alone, on a grid that nobody has prepared: what fl-sim run makes of it too."""
    scenario = Scenario.load("digits", *SMALL, f"learn={learn}", "runtime.name=inline")
    expected = simulate(scenario)
    federation = federation_of(made_ready(scenario, store), scenario, store, Silent())
    grid = InlineGrid(APP, 6, 60.0)
    learning(scenario.learn, federation).start(grid)
    for name in [*CALIBRATE] if learn == "shared" else ["fedwq-cp"]:
        told = Scenario.load("digits", *SMALL, f"learn={learn}", f"calibrate={name}")
        strategy = calibration(told.calibrate, federation)
        strategy.start(grid)
        assert sorted(strategy.evaluations) == list(range(6)), name
        if name == scenario.calibrate.name:
            assert strategy.thresholds == dict(enumerate(expected.column("threshold")))
            assert [strategy.evaluations[k].num_covered for k in range(6)] == expected.column("num_covered")


# -------------------------------------------------------------------------------------------------------- the server


def test_the_components_are_those_of_every_other_runtime():
    assert FLOWER["components"] == {"serverapp": "fl_sim.flower_app:server", "clientapp": APP}


def test_the_server_runs_a_scenario_with_the_digits_of_fl_sim_run(tmp_path, store, capsys):
    told = context(overrides=shlex.join(SMALL), out=str(tmp_path / "run"))
    server(InlineGrid(APP, 6, 60.0), told)
    assert f"Everything is in {tmp_path / 'run'}" in capsys.readouterr().out
    assert {"result.json", "scenario.toml", "coverage.png"} <= {path.name for path in (tmp_path / "run").iterdir()}
    written = (tmp_path / "run" / "clients.csv").stat().st_mtime_ns
    server(InlineGrid(APP, 6, 60.0), told)  # a second time nothing is run
    assert (tmp_path / "run" / "clients.csv").stat().st_mtime_ns == written
    assert rows(tmp_path / "run") == inline(tmp_path)


def test_a_run_that_fails_leaves_nothing_behind(tmp_path, store):
    told = context(overrides=f"{shlex.join(SMALL)} learn=nobody:Nothing", out=str(tmp_path / "run"))
    with pytest.raises(FlSimError, match="cannot be imported"):
        server(InlineGrid(APP, 6, 60.0), told)
    with pytest.raises(FlSimError, match="num-supernodes=40"):
        server(InlineGrid(APP, 50, 60.0), context(out=str(tmp_path / "run")))
    assert not [path for path in tmp_path.iterdir() if "run" in path.name]


# ------------------------------------------------------------------------------------------------------- the command


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def daemon(folder: Path) -> Iterator[dict[str, Any]]:
    """Flower's daemon at a port of its own, with its files in the folder, and the environment to reach it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    told = dict(re.findall(r"^    export ([A-Z]+_\w+)=(\S+)", (ROOT / "docs" / "running.md").read_text(), re.MULTILINE))
    environment = os.environ | told | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "FLWR_HOME": str(folder / "flower"), "FL_SIM_STORE": str(folder / "store"),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": port,
    }  # fmt: skip
    superlink = ["flower-superlink", "--insecure", "--simulation", "--host", "127.0.0.1", "--port", port]
    with (folder / "superlink.log").open("w") as log:
        superlink = [*watching(folder / "daemon-calls", detached=True), *superlink]
        process = subprocess.Popen(superlink, env=environment, cwd=folder, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while not answers(int(port)) and time.monotonic() < deadline:
            time.sleep(0.2)
        yield environment
    finally:
        process.terminate()  # and it ends what it has started
        process.wait(timeout=60)


def flwr_run(environment: dict[str, str], calls: Path, nodes: int, **told: str) -> str:
    """What the README's command prints, for so many nodes; watched in the file `calls`."""
    settings = " ".join(f'{key}="{value}"' for key, value in told.items())
    words = ["run", ".", "--stream", "--run-config", settings, "--federation-config"]
    command = [*watching(calls), "flwr", *words, f"num-supernodes={nodes} client-resources-num-cpus=1"]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    return run.stdout + run.stderr


@pytest.mark.slow
def test_flwr_run_gives_the_digits_of_fl_sim_run(tmp_path):
    """It exits with 0 whatever becomes of the run, so the folder is looked at."""
    with daemon(tmp_path) as environment:
        overrides = " ".join(SMALL)
        said = flwr_run(
            environment, tmp_path / "calls", 6, scenario="digits", overrides=overrides, out=str(tmp_path / "run")
        )
        assert (tmp_path / "run" / "result.json").is_file(), said
        assert f"Everything is in {tmp_path / 'run'}" in said
    assert rows(tmp_path / "run") == inline(tmp_path)
    assert [*spoken_to(tmp_path / "calls"), *spoken_to(tmp_path / "daemon-calls")] == []
