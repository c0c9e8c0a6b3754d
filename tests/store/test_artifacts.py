"""The store: made once, whole or not at all, opened memory-mapped, pruned by last use."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from fl_sim.errors import FlSimError
from fl_sim.store.artifacts import Artifact, Store, default_root, digest, digest_of_array, store_at

DAY = 86_400


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A process of its own; `root` is its first argument, and the store is imported."""
    head = "import os, resource, signal, sys, time\nfrom pathlib import Path\nimport numpy as np\n"
    head += "from fl_sim.store.artifacts import Artifact, Store\nroot = Path(sys.argv[1])\n"
    command = [sys.executable, "-c", head + code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def an_artifact() -> Artifact:
    return Artifact({"a": np.arange(3.0)}, {"why": "test"})


def test_what_was_made_is_not_made_again(tmp_path):
    store, made = Store(tmp_path), []

    def make() -> Artifact:
        made.append(1)
        return an_artifact()

    assert not store.has("kind", "key")
    for place in (store, store, Store(tmp_path)):
        found = place.get("kind", "key", make)
        assert found.arrays["a"].tolist() == [0.0, 1.0, 2.0]
        assert found.meta == {"why": "test"}
        assert found.tensors == {}
    assert made == [1]
    assert store.has("kind", "key")
    store.get("kind", "another key", make)
    store.get("another kind", "key", make)
    assert made == [1, 1, 1]


def test_arrays_are_memory_mapped_and_cannot_be_written(tmp_path):
    array = Store(tmp_path).get("kind", "key", an_artifact).arrays["a"]
    assert isinstance(array, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 7.0


@pytest.mark.parametrize("array", [
    np.zeros((0, 10), np.float32), np.zeros((2, 0)), np.array(3), np.array([True, False]),
    np.arange(24, dtype=np.uint8).reshape(2, 3, 4)[:, ::2], np.array([np.nan, np.inf, -0.0]),
], ids=lambda array: f"{array.dtype}{array.shape}")  # fmt: skip
def test_arrays_come_back_as_they_were(tmp_path, array):
    found = Store(tmp_path).get("kind", "key", lambda: Artifact({"a": array})).arrays["a"]
    assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, array.shape, array.tobytes())


def test_tensors_come_back_as_they_were(tmp_path):
    tensors = {"layer.weight": torch.arange(6.0).reshape(3, 2).t(), "steps": torch.tensor(7)}
    found = Store(tmp_path).get("model", "key", lambda: Artifact(tensors=tensors)).tensors
    assert set(found) == set(tensors)
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in tensors.items()
    )


def test_pickle_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        Store(tmp_path).get("kind", "key", lambda: Artifact({"a": np.array([{}])}))
    assert not Store(tmp_path).has("kind", "key")


def test_processes_that_want_the_same_make_it_once(tmp_path):
    code = """
def make():
    with (root / "made").open("a") as log:
        log.write("made\\n")
    time.sleep(0.3)
    return Artifact({"a": np.full(5, os.getpid())})
(root / f"ready-{os.getpid()}").touch()
while len(list(root.glob("ready-*"))) < 3:
    time.sleep(0.005)
print(Store(root / "store").get("kind", "key", make).arrays["a"].tolist())
"""
    processes = [python(code, tmp_path) for _ in range(3)]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [err for _, err in outputs] == [""] * 3
    assert len({out for out, _ in outputs}) == 1
    assert (tmp_path / "made").read_text() == "made\n"


def test_a_killed_write_leaves_nothing_half_made(tmp_path):
    code = """
class Arrays(dict):
    def items(self):
        yield "a", np.arange(3.0)
        os.kill(os.getpid(), signal.SIGKILL)
Store(root).get("kind", "key", lambda: Artifact(Arrays()))
"""
    process = python(code, tmp_path)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    store = Store(tmp_path)
    assert not store.has("kind", "key")
    assert store.listing() == []
    assert store.get("kind", "key", an_artifact).meta == {"why": "test"}
    # Pruning takes what the killed process left, once no write can still be at it.
    (left,) = (tmp_path / "tmp").iterdir()
    assert store.prune(older_than_days=365) == (0, 0)
    assert left.exists()
    os.utime(left, (time.time() - 2 * DAY,) * 2)
    store.prune(older_than_days=365)
    assert not left.exists()


@pytest.mark.parametrize(("module", "content"), [
    ("numpy", '{"a": numpy.zeros(100_000)}'), ("torch", 'tensors={"a": torch.zeros(100_000)}'),
])  # fmt: skip
def test_a_full_disk_is_an_error_that_says_so_and_leaves_nothing(tmp_path, module, content):
    code = f"""
import {module}
from fl_sim.errors import FlSimError
store = Store(root)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    store.get("kind", "key", lambda: Artifact({content}))
except FlSimError as error:
    print(error)
"""
    out, err = python(code, tmp_path).communicate(timeout=60)
    assert err == ""
    assert out.startswith(f"the artifact store {tmp_path} cannot be written: ")
    assert out.strip().endswith("; free some space, or choose another with --store")
    assert not Store(tmp_path).has("kind", "key")
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_failed_make_leaves_nothing_and_the_next_one_is_free_to_make_it(tmp_path):
    store = Store(tmp_path)

    def fail() -> Artifact:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        store.get("kind", "key", fail)
    assert store.listing() == []
    assert store.get("kind", "key", an_artifact).meta == {"why": "test"}


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    root = tmp_path / "file" / "store"
    told = rf"^the artifact store {root} cannot be written: .*; choose another with --store$"
    with pytest.raises(FlSimError, match=told):
        Store(root)


def test_what_is_not_there_cannot_be_opened(tmp_path):
    with pytest.raises(FlSimError, match=r"has no model 1234: .*the same command makes it again$"):
        Store(tmp_path).open("model", "1234")


OLD, NEW = "0" * 32, "1" * 32


def at_its_time(path: Path, content: bytes) -> None:
    """Write a file so that the time of its last change stays as it was."""
    before = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_another_size_is_noticed_whatever_the_time_says(tmp_path):
    store = Store(tmp_path)
    store.ensure("model", OLD, an_artifact)
    at_its_time(tmp_path / "model" / OLD / "a.npy", bytes(10))
    assert not store.has("model", OLD)
    store.ensure("model", OLD, an_artifact)
    assert store.open("model", OLD).arrays["a"].tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(("old", "new"), [(b'"test"', b'"tesT"'), (b'"why"', b'"who"'), (b"[152,", b"[152 ,")])
def test_what_is_said_beside_the_arrays_is_sealed_too(tmp_path, old, new):
    store = Store(tmp_path)
    store.ensure("model", OLD, an_artifact)
    file = tmp_path / "model" / OLD / "meta.json"
    content = file.read_bytes()
    assert old in content
    file.write_bytes(content.replace(old, new))
    assert store.has("model", OLD) == (new == b"[152 ,")  # which says the same
    file.write_bytes(content)
    assert store.has("model", OLD)
    at_its_time(file, content.replace(old, new))
    assert store.has("model", OLD)
    assert store.check() == (new != b"[152 ,")


def test_listing_and_pruning_go_by_last_use(tmp_path):
    store = Store(tmp_path)
    for kind, key in (("payload", OLD), ("payload", NEW), ("outputs", OLD)):
        store.get(kind, key, an_artifact)
        if key == OLD:
            os.utime(tmp_path / kind / key, (time.time() - 40 * DAY,) * 2)
    rows = {(row.kind, row.folder.name): row for row in store.listing()}
    size = sum(path.stat().st_size for path in (tmp_path / "payload" / OLD).iterdir())
    assert {which: (round(row.idle_days), row.num_bytes) for which, row in rows.items()} == {
        ("payload", NEW): (0, size), ("payload", OLD): (40, size), ("outputs", OLD): (40, size),
    }  # fmt: skip
    assert store.prune(older_than_days=41) == (0, 0)
    store.open("outputs", OLD)  # used now, so no longer idle
    assert store.prune(older_than_days=30) == (1, size)
    assert {(row.kind, row.folder.name) for row in store.listing()} == {("payload", NEW), ("outputs", OLD)}
    assert store.prune(older_than_days=0) == (2, 2 * size)
    assert store.listing() == []
    assert store.get("payload", NEW, an_artifact).meta == {"why": "test"}


def test_only_what_the_store_made_is_listed_and_pruned(tmp_path):
    (tmp_path / "thesis" / "chapter").mkdir(parents=True)
    (tmp_path / "thesis" / "chapter" / "text.md").write_text("years of work")
    (tmp_path / "model" / "notes").mkdir(parents=True)
    (tmp_path / "tmp" / "mine").mkdir(parents=True)
    os.utime(tmp_path / "tmp" / "mine", (0, 0))
    assert Store(tmp_path).prune(older_than_days=0) == (0, 0)
    assert (tmp_path / "thesis" / "chapter" / "text.md").is_file()
    assert (tmp_path / "model" / "notes").is_dir()
    assert (tmp_path / "tmp" / "mine").is_dir()


def test_a_key_changes_with_every_part_and_with_nothing_else():
    parts = {"seed": 0, "name": "cnn", "levels": [0.1, 0.9], "nested": {"a": 1}, "none": None}
    assert digest(**parts) == digest(**dict(reversed(parts.items())))
    changes = [{"seed": 1}, {"seed": "0"}, {"seed": 0.0}, {"name": "mlp"}, {"levels": [0.9, 0.1]}, {"nested": {"a": 2}},
               {"none": 0}, {"more": 0}]  # fmt: skip
    keys = [digest(**(parts | change)) for change in changes]
    assert len({digest(**parts), *keys}) == 1 + len(changes)


def test_an_arrays_digest_is_of_type_shape_and_content():
    array = np.arange(6, dtype=np.int64)
    others = [array.astype(np.int32), array.astype(np.float64), array.reshape(2, 3), array[::-1], array[:5], array + 1]
    assert len({digest_of_array(a) for a in (array, *others)}) == 7
    assert digest_of_array(np.arange(12)[::2]) == digest_of_array(np.arange(12)[::2].copy())


def test_the_store_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("FL_SIM_STORE", str(tmp_path / "here"))
    assert default_root() == tmp_path / "here"
    monkeypatch.delenv("FL_SIM_STORE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if sys.platform == "linux":
        assert default_root() == tmp_path / "cache" / "fl-sim" / "store"
    assert not (tmp_path / "cache").exists()


def test_a_process_has_one_store_a_place(tmp_path: Path):
    assert store_at(str(tmp_path)) is store_at(str(tmp_path))
    assert store_at(str(tmp_path)) == Store(tmp_path)
