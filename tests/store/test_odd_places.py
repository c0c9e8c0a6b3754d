"""Stores and folders in odd places: other users', read-only, without locks, without a home. Each works or is a line."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from as_user import ASIDE, SMALL
from test_cli import call

from fl_sim.errors import FlSimError
from fl_sim.runtime.artifact_exchange import driver_store
from fl_sim.store.artifacts import Artifact, Store, default_root, located

Step = tuple[int, int, int, list[str], dict[str, str]]

KEY = "0" * 32
HERE = Path(__file__).parents[1]
NOBODY, STRANGER, GROUP = 65534, 12345, 500  # the stranger has no entry in the list of users

only_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become other users")


@pytest.fixture
def fl_sim(monkeypatch, capsys, tmp_path):
    """The command, in an empty launch folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *words: call(monkeypatch, capsys, *words)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that everybody may write to."""
    with tempfile.TemporaryDirectory(prefix="everybodys-") as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


@pytest.fixture(scope="module")
def as_users() -> Iterator[Callable[..., list[tuple[int, str]]]]:
    """Calls of the command by other users, each (user, group, umask, words, variables): exit code, what is printed."""
    command = [sys.executable, HERE / "as_user.py"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdin is not None
        assert program.stdout is not None

        def asked(*steps: Step) -> list[tuple[int, str]]:
            program.stdin.write("".join(f"{json.dumps(step)}\n" for step in steps))
            program.stdin.flush()
            return [tuple(json.loads(program.stdout.readline())) for _ in steps]

        yield asked


def run_in(folder: Path, out: str, *more: str) -> list[str]:
    return ["run", "digits", *SMALL, *more, "--store", f"{folder}/store", "--out", f"{folder}/{out}"]


def store_in(folder: Path, *more: str) -> list[str]:
    return ["store", "--store", f"{folder}/store", *more]


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


def one_line(said: str) -> str:
    lines = said.strip().splitlines()
    assert len(lines) == 1, said
    return lines[0]


def an_artifact() -> Artifact:
    return Artifact({"a": np.arange(3.0)}, {"why": "test"})


# --------------------------------------------------------------------------------------------------------- other users


@only_root
def test_two_users_share_a_store_that_both_may_write(shared, as_users):
    mine, yours = (STRANGER, GROUP, 0o002), (NOBODY, GROUP, 0o002)
    first, second, another, again, pruned = as_users(
        (*mine, run_in(shared, "a"), {}),
        (*yours, run_in(shared, "b", "calibrate.alpha=0.3"), {}),
        (*yours, run_in(shared, "c", "seed=1"), {}),
        (*mine, run_in(shared, "d", "seed=1", "calibrate.alpha=0.3"), {}),
        (*yours, store_in(shared, "--prune", "--days", "0"), {}),
    )
    assert [code for code, _ in (first, second, another, again, pruned)] == [0] * 5
    assert "deleted 12 artifacts" in pruned[1]
    assert Store(shared / "store").listing() == []
    for path in (shared / "store").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o775 if path.is_dir() else 0o664), path


@only_root
def test_a_store_that_only_its_owner_may_write_serves_others_and_stays_as_it_is(shared, as_users):
    (made,) = as_users((STRANGER, STRANGER, 0o022, run_in(shared, "a"), {}))
    assert made[0] == 0
    (shared / "store" / "tmp").rmdir()  # as where it was copied without what is empty
    before = snapshot(shared / "store")
    me = (NOBODY, GROUP, 0o022)
    complete, missing, pruned, checked = as_users(
        (*me, run_in(shared, "b", "calibrate.alpha=0.3"), {}),
        (*me, run_in(shared, "c", "seed=1"), {}),
        (*me, store_in(shared, "--prune", "--days", "0"), {}),
        (*me, store_in(shared, "--check"), {}),
    )
    assert complete[0] == 0
    assert missing[0] == 1
    cannot = f"is missing, and the artifact store {shared}/store cannot be written: [Errno 13] Permission denied: "
    assert one_line(missing[1]).startswith(f"error: {shared}/store/data/")
    assert cannot in missing[1]
    assert not (shared / "c").exists()
    assert "deleted 0 artifacts" in pruned[1]
    assert ": cannot be deleted: Permission denied; nor can 5 others\n" in pruned[1]
    assert "no artifact is damaged" in checked[1]
    assert snapshot(shared / "store") == before


@only_root
def test_what_is_damaged_or_hidden_in_anothers_store_is_named(shared, as_users):
    (made,) = as_users((STRANGER, STRANGER, 0o022, run_in(shared, "a"), {}))
    assert made[0] == 0
    (file,) = shared.glob("store/population/*/tiers.npy")
    os.truncate(file, 10)
    me, (hidden, *_) = (NOBODY, GROUP, 0o022), shared.glob("store/data/*")
    damaged, checked = as_users((*me, run_in(shared, "b"), {}), (*me, store_in(shared, "--check"), {}))
    for code, said in (damaged, checked):
        assert code == 1
        assert one_line(said) == (
            f"error: {file.parent}: is not what fl-sim wrote: tiers.npy has 10 bytes in place of 152; it cannot be "
            "deleted, to be made again: Permission denied"
        )
    hidden.chmod(0o700)
    code, said = as_users((*me, run_in(shared, "c"), {}))[0]
    assert (code, one_line(said)) == (1, f"error: {hidden}: cannot be read: Permission denied; choose another --store")


@only_root
def test_what_was_copied_to_another_user_is_compared_and_used(shared, as_users):
    """Its times cannot be set, so that it is compared each time; that is no damage."""
    (made,) = as_users((STRANGER, STRANGER, 0o022, run_in(shared, "a"), {}))
    assert made[0] == 0
    shutil.copytree(shared / "store", shared / "copy", copy_function=shutil.copyfile)
    (shared / "store").rename(shared / "first")
    (shared / "copy").rename(shared / "store")
    before = snapshot(shared / "store")
    code, said = as_users((NOBODY, GROUP, 0o022, run_in(shared, "b", "calibrate.alpha=0.3"), {}))[0]
    assert (code, "is not what" in said) == (0, False)
    assert snapshot(shared / "store") == before


# ------------------------------------------------------------------------------------------------------ without a home


@only_root
def test_who_has_no_home_is_told_what_to_name_and_can_run_with_it(shared, as_users):
    stranger = (STRANGER, STRANGER, 0o022)
    told = f"no home folder is known (HOME is not set, and the list of users has none for user {STRANGER}); say where"
    store = f"{told} with --store, or FL_SIM_STORE"
    *none, data, named, variable = as_users(
        (*stranger, ["run", "digits", *SMALL, "--out", f"{shared}/a"], {}),
        (*stranger, ["store"], {}),
        (*stranger, ["run", "digits", *SMALL, "--store", "~/store", "--out", f"{shared}/a"], {}),
        (*stranger, ["run", "digits", *SMALL, "--out", f"{shared}/a"], {"FL_SIM_STORE": "~/store"}),
        (*stranger, ["data", "get", "mnist"], {}),
        (*stranger, run_in(shared, "b"), {}),
        (*stranger, ["run", "digits", *SMALL, "--out", f"{shared}/c"], {"FL_SIM_STORE": "~/s", "HOME": str(shared)}),
    )
    for code, said in none:
        assert code == 1
        assert one_line(said) in (f"error: the artifact store: {store}", f"error: the artifact store ~/store: {store}")
    assert data == (1, f"error: the data folder: {told} with FL_SIM_DATA\n")
    assert (named[0], variable[0]) == (0, 0)
    assert {path.name for path in shared.iterdir()} == {"store", "b", "s", "c"}


def test_a_home_is_found_by_its_sign(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert located("~/a") == tmp_path / "a"
    monkeypatch.setenv("FL_SIM_STORE", "~/b")
    assert default_root() == tmp_path / "b"
    for name in ASIDE:
        monkeypatch.delenv(name, raising=False)

    def unknown(user: int) -> None:
        raise KeyError(user)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(FlSimError, match=r"^the artifact store: no home folder is known .* --store, or FL_SIM_STORE$"):
        default_root()


# ------------------------------------------------------------------------------------------------------ other disks


@pytest.mark.parametrize("why", [errno.ENOLCK, errno.ENOTSUP])
def test_a_disk_without_locks_serves_a_run_and_its_store(fl_sim, tmp_path, monkeypatch, why):
    def refused(handle: object, how: int) -> None:
        raise OSError(why, os.strerror(why))

    monkeypatch.setattr(fcntl, "flock", refused)
    (tmp_path / "empty").mkdir()
    for out, alpha in (("a", 0.1), ("empty", 0.2)):
        code, _, said = fl_sim("run", "digits", *SMALL, f"calibrate.alpha={alpha}", "--store", "store", "--out", out)
        assert (code, said) == (0, "")
    code, _, said = fl_sim("sweep", "digits", *SMALL, "seed=0,1", "--store", "store", "--out", "swept")
    assert (code, "swept/points/.lock-" in one_line(said)) == (1, True)


def test_a_disk_that_cannot_sync_folders_keeps_artifacts(tmp_path, monkeypatch):
    sync = os.fsync

    def files_only(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        sync(handle)

    monkeypatch.setattr(os, "fsync", files_only)
    assert Store(tmp_path).get("model", KEY, an_artifact).meta == {"why": "test"}


def test_an_artifact_is_on_the_disk_before_it_can_be_seen(tmp_path, monkeypatch):
    synced: list[str] = []
    sync = os.fsync

    def noting(handle: int) -> None:
        synced.append(Path(f"/proc/self/fd/{handle}").readlink().name)
        assert not (tmp_path / "model" / KEY).exists()
        sync(handle)

    monkeypatch.setattr(os, "fsync", noting)
    Store(tmp_path).ensure("model", KEY, an_artifact)
    assert sorted(synced[:2]) == ["a.npy", "meta.json"]
    assert synced[2].startswith("fl-sim-")


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077])
def test_what_is_written_has_the_permissions_that_the_umask_says(fl_sim, tmp_path, umask):
    before = os.umask(umask)
    try:
        code, _, _ = fl_sim("run", "digits", *SMALL, "--store", "store", "--out", "out")
    finally:
        os.umask(before)
    assert code == 0
    for path in [tmp_path / "store", tmp_path / "out", *tmp_path.glob("store/**/*"), *tmp_path.glob("out/**/*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o777 if path.is_dir() else 0o666) & ~umask, path


def test_a_read_only_store_is_home_to_whoever_sees_it(tmp_path, monkeypatch):
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    store = Store(tmp_path / "store")
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "TemporaryDirectory", refused)
        monkeypatch.setenv("FL_SIM_STORE", str(tmp_path / "mine"))
        with driver_store(str(store.root)) as told:
            assert told.settle()
            assert os.environ["FL_SIM_STORE"] == str(store.root)
            monkeypatch.setenv("FL_SIM_NODE_STORE", str(tmp_path / "another"))
            assert not told.settle()


def test_a_lock_that_another_user_made_is_taken_all_the_same(tmp_path, monkeypatch):
    store, opened = Store(tmp_path), os.open
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks" / f"model-{KEY}").touch()

    def not_to_write(path: Path, flags: int, *more: int) -> int:
        if "locks" in str(path) and flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return opened(path, flags, *more)

    monkeypatch.setattr(os, "open", not_to_write)
    assert store.get("model", KEY, an_artifact).meta == {"why": "test"}
