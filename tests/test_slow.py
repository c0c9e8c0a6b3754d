"""What needs more than Python and the package index: Fashion-MNIST, a Ray cluster of its own, the installed command."""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from watched import spoken_to, watching

from fl_sim import Result
from fl_sim.report.certificate import rejected
from fl_sim.simulation import Silent, simulator
from fl_sim.store.artifacts import Store

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
COMMAND = Path(sys.executable).parent / "fl-sim"


def fl_sim(folder: Path, *words: str, before: Sequence[str] = ()) -> subprocess.CompletedProcess:
    """The installed command, launched in `folder`, with the store that the folder holds."""
    environment = {**os.environ, "FL_SIM_STORE": str(folder / "store")}
    return subprocess.run([*before, COMMAND, *words], cwd=folder, env=environment, capture_output=True, text=True)


def rows(run: Path) -> list[dict[str, str]]:
    """clients.csv without what a clock decides."""
    with (run / "clients.csv").open(newline="") as handle:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(handle)]


def models(folder: Path) -> set[Path]:
    return {entry.folder for entry in Store(folder / "store").listing() if entry.kind == "model"}


FEW = "clients.tier.strong.epochs=2"


def test_fashion_mnist_is_trained_once_for_every_partition_of_it(tmp_path):
    first = fl_sim(tmp_path, "run", "fashion", FEW, "--out", "first")
    assert first.returncode == 0, first.stderr
    trained = models(tmp_path)
    assert len(trained) == 2
    second = fl_sim(tmp_path, "run", "fashion", FEW, "clients.concentration=0.1", "--out", "second")
    assert second.returncode == 0, second.stderr
    assert models(tmp_path) == trained
    found = Result.load(tmp_path / "first")
    assert sum(found.column("num_calibration")) == 20_000
    assert sum(found.column("num_test")) == 10_000
    assert found.calibrate["tiers"]["strong"]["coverage"] > found.calibrate["tiers"]["weak"]["coverage"]
    assert rows(tmp_path / "first") != rows(tmp_path / "second")


def test_fashion_mnist_is_learnt_from_a_kilobyte_of_labels_over_its_own_unlabelled_images(tmp_path):
    """Balanced random labels of 1 % of the references, distractors among them; docs/plada.md has the other rules."""
    words = ("learn.keep_fraction=0.01", "learn.rule=random", "learn.safety={share=1, exponent=0}", "clients.count=20")
    run = fl_sim(tmp_path, "run", "plada-fashion", *words, "--out", "run")
    assert run.returncode == 0, run.stderr
    found = Result.load(tmp_path / "run")
    assert found.learn["num_references"] > 90_000
    assert found.learn["num_kept"] == round(found.learn["num_references"] / 100)
    assert found.learn["payload_bytes"] < 1500 < found.learn["codec"]["zstd"]
    assert found.learn["teacher_accuracy"] > 0.84
    assert found.learn["tiers"]["strong"]["accuracy"] > 0.7
    told = fl_sim(tmp_path, "plada", "unpack", "run", "--out", "labels.csv")
    assert told.returncode == 0, told.stderr
    lines = (tmp_path / "labels.csv").read_text().splitlines()
    assert len(lines) == 1 + found.learn["num_kept"]


def test_grouped_keeps_its_promise_at_every_client_where_fedwq_cp_does_not(tmp_path, monkeypatch):
    """The goal of the method, on the world of the README, for one seed; benchmarks/ has all worlds and three."""
    monkeypatch.setenv("FL_SIM_STORE", str(tmp_path / "store"))
    place = importlib.util.spec_from_file_location("who", ROOT / "benchmarks" / "who_keeps_the_promise.py")
    assert place is not None
    assert place.loader is not None
    who = importlib.util.module_from_spec(place)
    place.loader.exec_module(who)
    world = who.scenario("conformal/core-fashion", ["clients.concentration=0.1", "seed=0"])
    with simulator(world.runtime, world.clients.count) as run:
        fedwq_cp, grouped = (run(world.with_(f"calibrate={name}"), Silent()) for name in ("fedwq-cp", "grouped"))
    assert rejected(fedwq_cp, slack=0.02) > 0
    assert rejected(grouped, slack=0.02) == 0
    assert who.size(grouped) < 1.1 * who.oracle_size(world)
    assert grouped.calibrate["rounds"] == 1
    assert max(row["bytes_up"] for row in grouped.clients) <= 512


@pytest.fixture
def second_ray() -> Iterator[str]:
    """The address of a Ray cluster that somebody else has started."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ray = Path(sys.executable).parent / "ray"
    start = [ray, "start", "--head", f"--port={port}", "--num-cpus=2", "--include-dashboard=false", "--block"]
    with subprocess.Popen(start, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True) as head:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        time.sleep(5)  # the port answers before the node has registered
        yield f"127.0.0.1:{port}"
        head.terminate()
        head.wait(timeout=60)


def test_a_running_ray_cluster_gives_the_same_digits(tmp_path, second_ray):
    there = fl_sim(tmp_path, "run", "digits", f"runtime.address={second_ray}", "--out", "there")
    assert there.returncode == 0, there.stderr
    shutil.rmtree(tmp_path / "store")
    here = fl_sim(tmp_path, "run", "digits", "--runtime", "inline", "--out", "here")
    assert here.returncode == 0, here.stderr
    assert rows(tmp_path / "there") == rows(tmp_path / "here")


def test_no_cluster_at_the_address_is_one_clear_message(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    end = fl_sim(tmp_path, "run", "digits", f"runtime.address=127.0.0.1:{port}")
    assert end.returncode == 1
    assert f"runtime.address = '127.0.0.1:{port}'" in end.stderr
    assert "Traceback" not in end.stderr


def test_flower_and_ray_are_quiet_unless_asked_and_speak_to_nobody_outside(tmp_path):
    for runtime in ("ray", "flower"):
        words, calls = ("run", "digits", "clients.count=6", "--runtime", runtime, "--out", runtime), tmp_path / "calls"
        end = fl_sim(tmp_path, *words, before=watching(calls))
        assert spoken_to(calls) == []
        assert (end.returncode, end.stderr) == (0, ""), end.stderr
        assert "INFO" not in end.stdout
    assert rows(tmp_path / "ray") == rows(tmp_path / "flower")


def test_launching_beside_a_folder_called_clients_changes_nothing(tmp_path):
    (tmp_path / "clients").mkdir()
    (tmp_path / "clients" / "notes.txt").write_text("not a package")
    end = fl_sim(tmp_path, "run", "digits", "clients.count=6", "--out", "run")
    assert end.returncode == 0, end.stderr


def test_ctrl_c_in_a_sweep_keeps_what_is_finished_and_says_so(tmp_path):
    words = ["sweep", "digits", "runtime.name=inline", "clients.count=6", "seed=" + ",".join(map(str, range(60)))]
    environment = {**os.environ, "FL_SIM_STORE": str(tmp_path / "store")}
    with subprocess.Popen(
        [COMMAND, *words, "--out", "s"], cwd=tmp_path, env=environment, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:  # fmt: skip
        while not list((tmp_path / "s" / "points").glob("[!.]*/result.json")):
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, "the same command goes on" in said) == (130, True)
    kept = list((tmp_path / "s" / "points").glob("[!.]*/result.json"))
    assert 0 < len(kept) < 60
    assert not [p for p in (tmp_path / "s" / "points").iterdir() if p.name.startswith(".") and p.is_dir()]


# ------------------------------------------------------------------------------------------------- two machines in one

TWO_MACHINES = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": float(sys.argv[1]), "include_dashboard": False})
second = cluster.add_node(num_cpus=1, env_vars={"FL_SIM_NODE_STORE": sys.argv[2]})
print(cluster.address, flush=True)
for line in sys.stdin:
    if line == "lose\\n":
        cluster.remove_node(second, allow_graceful=False)
    if line == "join\\n":
        cluster.add_node(num_cpus=1, env_vars={"FL_SIM_NODE_STORE": sys.argv[2] + "-of-the-third"})
    print("done", flush=True)
cluster.shutdown()
"""


@contextlib.contextmanager
def two_machines(folder: Path, head_cpus: int) -> Iterator[tuple[str, Callable[[str], None]]]:
    """The address of a Ray cluster whose second node, of one processor, keeps its artifacts in the folder's `node`;
    and what makes the second node "lose" its power, or a third "join"."""
    command = [sys.executable, "-c", TWO_MACHINES, str(head_cpus), str(folder / "node")]
    with (
        (folder / "ray.log").open("w") as log,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True) as cluster,
    ):
        assert cluster.stdin is not None
        assert cluster.stdout is not None
        pipe, said = cluster.stdin, cluster.stdout
        address = said.readline().strip()
        assert address, (folder / "ray.log").read_text()

        def change(how: str) -> None:
            pipe.write(f"{how}\n")
            pipe.flush()
            assert said.readline() == "done\n"

        yield address, change
        pipe.close()  # upon which it shuts down
        assert cluster.wait(timeout=60) == 0


OWN = ("run", "digits", "learn=own", "clients.tier.strong.epochs=500")


def kept(store: Path) -> set[tuple[str, str]]:
    """Kind and key of everything in a store."""
    return {(entry.kind, entry.folder.name) for entry in Store(store).listing()}


def undisturbed(folder: Path) -> list[dict[str, str]]:
    """The rows of an inline run of OWN, in a folder and a store of its own."""
    folder.mkdir()
    run = fl_sim(folder, *OWN, "--runtime", "inline", "--out", "run")
    assert run.returncode == 0, run.stderr
    return rows(folder / "run")


def test_a_machine_without_the_drivers_store_fetches_and_gives_through_ray(tmp_path):
    with two_machines(tmp_path, head_cpus=1) as (address, _):
        run = fl_sim(tmp_path, *OWN, "--address", address, "--out", "run")
    assert run.returncode == 0, run.stderr
    assert rows(tmp_path / "run") == undisturbed(tmp_path / "alone")
    # The driver's store ends with all that one machine alone would have made, and nothing else.
    assert kept(tmp_path / "store") == kept(tmp_path / "alone" / "store")
    there = kept(tmp_path / "node")
    assert {kind for kind, _ in there} == {"data", "population", "model", "outputs"}
    assert 0 < len([kind for kind, _ in there if kind == "model"]) < 40
    assert there <= kept(tmp_path / "store")  # all of it, where its clients came to ask for every model
    assert [*(tmp_path / "store" / "tmp").iterdir(), *(tmp_path / "node" / "tmp").iterdir()] == []


@contextlib.contextmanager
def running(folder: Path, address: str) -> Iterator[subprocess.Popen[str]]:
    """OWN on a cluster, once a client has begun on its second node."""
    environment = {**os.environ, "FL_SIM_STORE": str(folder / "store")}
    command = [COMMAND, *OWN, f"runtime.address={address}", "--out", "run"]
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        while run.poll() is None and not kept(folder / "node"):
            time.sleep(0.05)
        try:
            assert run.poll() is None, ("it was over before the node could be lost", run.communicate())
            yield run
        finally:
            run.kill()  # else a run that hangs would be waited for


def test_a_lost_nodes_clients_are_run_again_elsewhere(tmp_path):
    # The head has no processor to share, so that all is trained on the second node until that one is lost.
    with two_machines(tmp_path, head_cpus=0) as (address, change), running(tmp_path, address) as run:
        change("join")
        change("lose")
        _, said = run.communicate(timeout=120)
    assert run.returncode == 0, said
    found, expected = rows(tmp_path / "run"), undisturbed(tmp_path / "alone")
    again = [row["client"] for row in found if row["retries"] != "0"]
    assert 0 < len(again) < 20  # those that were running there
    assert [row | {"retries": "0"} for row in found] == expected
    told = Result.load(tmp_path / "run").summary["clients"]
    assert (told["ok"], told["retried"], told["failed"]) == (40, len(again), 0)
    assert kept(tmp_path / "store") == kept(tmp_path / "alone" / "store")


def test_the_last_node_lost_is_one_clear_message_and_no_hang(tmp_path):
    with two_machines(tmp_path, head_cpus=0) as (address, change), running(tmp_path, address) as run:
        change("lose")
        _, said = run.communicate(timeout=120)
    assert run.returncode == 1
    assert said.startswith("error: no node of the Ray cluster is left that has runtime.cpus_per_client = 1")
    assert said.count("\n") == 1
