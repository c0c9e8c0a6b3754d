"""A store that does not see the driver's: what is there comes from there, what is made goes there, whole or not."""

from __future__ import annotations

import collections
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict

from fl_sim.errors import FlSimError
from fl_sim.runtime import artifact_exchange as module
from fl_sim.runtime import ray as runtime
from fl_sim.runtime.artifact_exchange import ArtifactClient, ArtifactServer, DriverStore, driver_store
from fl_sim.runtime.grids import FIRST_NODE
from fl_sim.runtime.inline import Host, InlineGrid
from fl_sim.store.artifacts import Artifact, Store, attach, store_at
from fl_sim.telemetry import noted

KEY, OTHER = "0" * 32, "1" * 32
Refuses = Callable[[str, int], bool]


class Wire:
    """Carries a link's messages to an artifact server in this process, counts them, and breaks when told to."""

    def __init__(self, artifact_server: ArtifactServer, breaks: Refuses = lambda method, nth: False) -> None:
        self.artifact_server, self.breaks = artifact_server, breaks
        self.calls: collections.Counter[str] = collections.Counter()

    def __call__(self, method: str, *arguments: Any) -> Any:
        self.calls[method] += 1
        if self.breaks(method, self.calls[method]):
            raise FlSimError("the line is dead")
        return getattr(self.artifact_server, method)(*arguments)


@pytest.fixture
def driver(tmp_path) -> Store:
    return Store(tmp_path / "driver")


@pytest.fixture
def wire(driver) -> Wire:
    return Wire(ArtifactServer(str(driver.root)))


@pytest.fixture
def node(tmp_path, wire) -> Store:
    return Store(tmp_path / "node", ArtifactClient(wire))


def an_artifact() -> Artifact:
    tensors = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.tensor(7)}
    return Artifact({"a": np.arange(100.0), "b": np.zeros((0, 3), np.uint8)}, {"why": "test"}, tensors)


def never() -> Artifact:
    raise AssertionError("it need not be made")


def files(store: Store, kind: str = "model", key: str = KEY) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (store.root / kind / key).iterdir()}


def is_empty(store: Store) -> bool:
    return not store.listing() and not list((store.root / "tmp").iterdir())


# ---------------------------------------------------------------------------------------------------- there and back


def test_what_the_driver_has_is_brought_once_and_not_made(driver, node, wire):
    driver.get("model", KEY, an_artifact)
    for _ in range(2):
        found = node.get("model", KEY, never)
        assert found.arrays["a"].tolist() == list(range(100))
        assert found.arrays["b"].shape == (0, 3)
        assert found.meta == {"why": "test"}
        assert found.tensors["weight"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert isinstance(found.arrays["a"], np.memmap)
    assert files(node) == files(driver)
    assert wire.calls == {"send": 1}  # a small one is one message


def test_what_is_made_here_is_there_too_and_for_every_other(driver, node, wire, tmp_path):
    node.get("model", KEY, an_artifact)
    assert files(driver) == files(node)
    assert wire.calls == {"send": 1, "take": 1}
    other = Store(tmp_path / "other", ArtifactClient(wire))
    assert other.get("model", KEY, never).meta == {"why": "test"}
    assert driver.get("model", KEY, never).meta == {"why": "test"}
    assert list((driver.root / "tmp").iterdir()) == []


@pytest.mark.parametrize("chunk", [1, 7, 100, 4096])
def test_any_size_travels_in_chunks(driver, node, wire, monkeypatch, chunk):
    monkeypatch.setattr(module, "CHUNK", chunk)

    def small() -> Artifact:
        return Artifact({"a": np.arange(20, dtype=np.uint8), "z": np.arange(3.0)}, {"why": "chunks"})

    driver.get("data", KEY, small)
    node.ensure("data", KEY, never)
    node.ensure("data", OTHER, small)
    total = sum(map(len, files(driver, "data").values()))
    assert files(node, "data") == files(driver, "data")
    assert files(node, "data", OTHER) == files(driver, "data", OTHER)
    assert wire.calls == {"send": -(-total // chunk) + 1, "take": -(-total // chunk)}


def test_to_ask_for_it_or_to_open_it_brings_it(driver, node, wire):
    assert not node.has("model", KEY)
    with pytest.raises(FlSimError, match=rf"{node.root} has no model {KEY}"):
        node.open("model", KEY)
    driver.ensure("model", KEY, an_artifact)
    assert node.has("model", KEY)
    calls = sum(wire.calls.values())
    assert node.open("model", KEY).meta == {"why": "test"}
    assert node.has("model", KEY)
    assert sum(wire.calls.values()) == calls
    driver.ensure("model", OTHER, an_artifact)
    assert node.open("model", OTHER).meta == {"why": "test"}


def test_what_is_fetched_counts_as_used(driver, node):
    driver.ensure("model", KEY, an_artifact)
    os.utime(driver.root / "model" / KEY, (0, 0))
    node.open("model", KEY)
    assert driver.prune(older_than_days=1) == (0, 0)


# ------------------------------------------------------------------------------------------------------ many at once


def test_threads_that_want_one_bring_it_once(driver, tmp_path):
    driver.ensure("model", KEY, an_artifact)

    def slowly(method: str, nth: int) -> bool:
        time.sleep(0.1)
        return False

    wire = Wire(ArtifactServer(str(driver.root)), slowly)
    found: list[dict[str, Any]] = []
    threads = [
        threading.Thread(
            target=lambda: found.append(Store(tmp_path / "node", ArtifactClient(wire)).open("model", KEY).meta)
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [{"why": "test"}] * 4
    assert wire.calls == {"send": 1}


def test_two_machines_that_make_the_same_are_both_content(driver, tmp_path):
    """Each asks before the other has given; the second to give finds it there."""
    both = threading.Barrier(2)
    wire = Wire(ArtifactServer(str(driver.root)))

    def make() -> Artifact:
        both.wait(timeout=30)
        return an_artifact()

    nodes = [Store(tmp_path / name, ArtifactClient(wire)) for name in ("one", "two")]
    threads = [threading.Thread(target=store.ensure, args=("model", KEY, make)) for store in nodes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert files(nodes[0]) == files(nodes[1]) == files(driver)
    assert [list((store.root / "tmp").iterdir()) for store in nodes] == [[], []]
    assert wire.calls == {"send": 2, "take": 2}


def test_two_that_give_in_turns_do_not_mix(driver, node, tmp_path, monkeypatch):
    """Chunks of the same artifact from two senders, one after the other: each has a place of its own."""
    monkeypatch.setattr(module, "CHUNK", 64)
    node.ensure("model", KEY, an_artifact)
    folder, artifact_server = node.root / "model" / KEY, ArtifactServer(str(driver.root / "fresh"))
    total = sum(map(len, files(node).values()))
    taken = [
        artifact_server.take("model", KEY, sender, module._cut(folder, start)[0], start + 64 >= total)
        for start in range(0, total, 64)
        for sender in ("first", "second")
    ]
    assert taken == [True] * (len(taken) - 1) + [False]  # the second's last is not wanted any more
    assert files(artifact_server.store) == files(node)


# ------------------------------------------------------------------------------------------------------ what goes wrong


def test_a_transfer_that_breaks_leaves_nothing_to_be_seen(driver, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 200)
    driver.ensure("model", KEY, an_artifact)
    dead = Wire(ArtifactServer(str(driver.root)), lambda method, nth: nth == 3)
    node = Store(tmp_path / "node", ArtifactClient(dead))
    with pytest.raises(FlSimError, match="the line is dead"):
        node.get("model", KEY, never)
    assert is_empty(node)
    assert node.get("model", KEY, never).meta == {"why": "test"}


def test_what_could_not_be_given_is_not_there_either(driver, tmp_path, monkeypatch):
    """Else the driver's store would lack it for ever."""
    monkeypatch.setattr(module, "CHUNK", 200)
    dead = Wire(ArtifactServer(str(driver.root)), lambda method, nth: method == "take" and nth == 2)
    node = Store(tmp_path / "node", ArtifactClient(dead))
    with pytest.raises(FlSimError, match="the line is dead"):
        node.get("model", KEY, an_artifact)
    assert is_empty(node)
    assert driver.listing() == []
    (left,) = (driver.root / "tmp").iterdir()
    node.get("model", KEY, an_artifact)
    assert files(node) == files(driver)
    os.utime(left, (0, 0))
    driver.prune(older_than_days=365)
    assert not left.exists()


def test_what_is_deleted_half_way_is_an_error_and_is_made_next_time(driver, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 200)
    driver.ensure("model", KEY, an_artifact)

    def deletes(method: str, nth: int) -> bool:
        if nth == 2:
            driver.prune(older_than_days=-1)
        return False

    node = Store(tmp_path / "node", ArtifactClient(Wire(ArtifactServer(str(driver.root)), deletes)))
    with pytest.raises(FlSimError, match=rf"^model {KEY} was deleted from the driver's artifact store .*; run again$"):
        node.get("model", KEY, never)
    assert is_empty(node)
    assert node.get("model", KEY, an_artifact).meta == {"why": "test"}


@pytest.mark.parametrize("in_secret", [False, True])
def test_what_is_damaged_at_the_drivers_is_made_again(driver, node, in_secret):
    """Noticed there, it is not sent, and what is made takes its place; noticed only here, it is not believed."""
    driver.ensure("model", KEY, an_artifact)
    file = driver.root / "model" / KEY / "a.npy"
    times, content = file.stat(), bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    if in_secret:
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    with noted() as notes:
        found = node.get("model", KEY, an_artifact)
    assert found.arrays["a"].tolist() == list(range(100))
    said = "is not what fl-sim wrote: a.npy has another content; it is deleted, to be made again"
    assert notes == [f"{node.root if in_secret else driver.root}/model/{KEY}: {said}"]
    assert driver.check() == in_secret
    assert node.check() == 0


@pytest.mark.parametrize(("whose", "told"), [
    ("node", "name another in FL_SIM_NODE_STORE on this machine, before `ray start`"),
    ("driver", "choose another with --store"),
])  # fmt: skip
def test_a_full_disk_on_either_side_says_which(tmp_path, whose, told):
    code = """
import resource, sys
from pathlib import Path
import numpy as np
from fl_sim.store.artifacts import Artifact, Store
from fl_sim.errors import FlSimError
from fl_sim.telemetry import noted
from fl_sim.runtime.artifact_exchange import ArtifactServer, ArtifactClient
root, whose = Path(sys.argv[1]), sys.argv[2]
driver = Store(root / "driver")
artifact_server = ArtifactServer(str(driver.root))
def full():
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
def call(method, *arguments):
    if method == "take" and whose == "driver":
        full()
    return getattr(artifact_server, method)(*arguments)
node = Store(root / "node", ArtifactClient(call))
large = Artifact({"a": np.zeros(100_000)})
if whose == "node":
    driver.ensure("data", "0" * 32, lambda: large)
    full()
try:
    node.ensure("data", "0" * 32, lambda: large)
except FlSimError as error:
    print(error)
print(sorted(p.name for p in (node.root / "tmp").iterdir()), node.listing(), [e.kind for e in driver.listing()])
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path), whose], capture_output=True, text=True)
    assert done.stderr == ""
    said, left = done.stdout.splitlines()
    assert said.startswith(f"the artifact store {tmp_path / whose} cannot be written: ")
    assert said.endswith(f"free some space, or {told}")
    assert left == f"[] [] {['data'] if whose == 'node' else []}"


# ----------------------------------------------------------------------------------------------- which store is whose


def test_a_machine_that_sees_the_drivers_store_uses_it(driver, tmp_path, monkeypatch):
    monkeypatch.setenv("FL_SIM_STORE", str(tmp_path / "mine"))
    with driver_store(str(driver.root)) as told:
        assert told.settle()
        assert os.environ["FL_SIM_STORE"] == str(driver.root)
    assert is_empty(driver)


def test_a_folder_of_the_same_name_even_a_copy_is_not_the_drivers(driver, tmp_path, monkeypatch):
    monkeypatch.setenv("FL_SIM_STORE", str(tmp_path / "mine"))
    with driver_store(str(driver.root)) as told:
        copy = DriverStore(told.root, "fl-sim-of-another-session", told.machine)
        assert not copy.settle()
        assert os.environ["FL_SIM_STORE"] == str(tmp_path / "mine")
    assert not told.settle()  # the driver is gone


def test_a_machines_own_folder_comes_first(driver, tmp_path, monkeypatch):
    monkeypatch.setenv("FL_SIM_STORE", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FL_SIM_NODE_STORE", "~/disk")
    with driver_store(str(driver.root)) as told:
        assert not told.settle()
        assert os.environ["FL_SIM_STORE"] == str(tmp_path / "disk")
        (tmp_path / "disk").symlink_to(driver.root)  # the same folder, mounted elsewhere
        assert told.settle()


def test_what_stands_behind_a_store_belongs_to_its_process(tmp_path, wire, driver):
    driver.ensure("model", KEY, an_artifact)
    root = str(tmp_path / "node")
    assert store_at(root) is store_at(root)
    assert not store_at(root).has("model", KEY)
    attach(root, ArtifactClient(wire))
    assert store_at(root).has("model", KEY)
    assert store_at(root) is store_at(root)
    assert store_at(root) == Store(Path(root))  # what a process keeps open of one it keeps open of the other


def behave(folder: Path, partitions: range, **who: list[int]) -> list[Message]:
    told = RecordDict({"told": ConfigRecord({"folder": str(folder), "word": "", **who})})
    return [Message(told, dst_node_id=FIRST_NODE + k, message_type="query.behave") for k in partitions]


def test_errors_name_another_machine_and_not_the_servers_own(tmp_path):
    assert DriverStore("", "", platform.node()).other_machine == ""
    assert DriverStore("", "", "elsewhere").other_machine == platform.node()
    for machine, end in (("node-7", "will not (on node-7)"), ("", "will not")):
        InlineGrid("grid_app:app", 1, 60.0)  # has Flower's identity, without which there is no message
        (message,) = behave(tmp_path, range(1), **{"raise": [0]})
        reply, _, _ = Host("grid_app:app", machine).run(message, RecordDict(), 1)
        assert reply.error.reason.rstrip().endswith(f"partition 0 {end}")


# ------------------------------------------------------------------------------------------------------ over Ray itself


def test_who_sees_the_drivers_store_costs_no_artifact_server(ray_session, driver, tmp_path):
    asked = {"num_actors": 2, "resources": {"num_cpus": 0.5, "num_gpus": 0}, "client_timeout": 60.0}
    with driver_store(str(driver.root)) as told:
        near = runtime.RayGrid("grid_app:app", 4, driver_store=told, **asked)
        far = runtime.RayGrid(
            "grid_app:app", 4, driver_store=DriverStore(told.root, "fl-sim-unseen", "elsewhere"), **asked
        )
        for grid, needed in ((near, False), (far, True)):
            replies = list(grid.send_and_receive(behave(tmp_path, range(4))))
            assert [reply.has_error() for reply in replies] == [False] * 4
            assert (grid.artifact_server is not None) == needed
            grid.close()


def test_a_artifact_servers_error_arrives_as_it_was(ray_session, driver, tmp_path):
    import ray

    driver.ensure("model", KEY, an_artifact)
    actor = ray.remote(ArtifactServer).options(num_cpus=0).remote(str(driver.root))
    node = Store(tmp_path / "node", ArtifactClient(lambda *words: runtime._ask(actor, *words)))
    assert node.get("model", KEY, never).meta == {"why": "test"}
    (driver.root / "outputs").touch()  # where a folder is to be
    with pytest.raises(FlSimError, match=rf"^the artifact store {driver.root} cannot be written: [^\n]*$"):
        node.ensure("outputs", KEY, an_artifact)
    ray.kill(actor)
    with pytest.raises(FlSimError, match=r"^the driver's artifact store cannot be reached: [^\n]*$"):
        node.ensure("model", OTHER, an_artifact)
    assert [entry.kind for entry in node.listing()] == ["model"]


@pytest.mark.parametrize(("kind", "key"), [("model", "../" * 3), ("../model", "0" * 32), ("model", "0" * 31)])
def test_what_is_no_key_is_refused(tmp_path, kind, key):
    with pytest.raises(FlSimError, match="is no artifact's kind and key"):
        ArtifactServer(str(tmp_path)).send(kind, key, 0)
