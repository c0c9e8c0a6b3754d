"""A content-addressed store of what must not be computed twice: prepared data, populations, models, predictions.

An artifact is a folder `KIND/KEY`; what is in it, `fl_sim/seals.py` says. Its key is a digest of everything that
decides its content, so an artifact is never changed, only made or deleted. It is written under a temporary name,
through to the disk, and renamed, so that a killed run leaves nothing half-made; a lock per key keeps two processes from
making the same one. What is damaged is named, deleted and made again.

A store may be several users', who may write to it as their umasks let them. One that may only be read is used without a
word as long as nothing is missing. On a file system without locks two processes may make the same artifact; one stays.

A machine of a cluster that does not see the driver's store has one of its own, behind which the driver's stands: what
is missing is brought from there before it is made, and what is made is given there.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from fl_sim.errors import StoreError
from fl_sim.store import seals
from fl_sim.store.folders import at_home, locked
from fl_sim.store.on_disk import KEY, KINDS, Folders, note_use
from fl_sim.store.seals import Arrays, Artifact
from fl_sim.telemetry import spent

__all__ = [
    "KEY", "KINDS", "Arrays", "Artifact", "Store", "attach", "default_root", "digest", "digest_of_array", "located",
    "note_use", "store_at",
]  # fmt: skip

T = TypeVar("T")


def digest(**parts: Any) -> str:
    """The key of what is decided by `parts`, which must be JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def digest_of_array(array: NDArray[Any]) -> str:
    """A digest of an array's type, shape and content, to stand for it among the parts of a key."""
    head = f"{array.dtype.str}{array.shape}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()[:32]


def default_root() -> Path:
    """`FL_SIM_STORE`, or the user's cache folder.

    Raises:
        FlSimError: no home folder is known.
    """
    from platformdirs import user_cache_path

    return located(os.environ.get("FL_SIM_STORE") or (lambda: user_cache_path("fl-sim") / "store"))


def located(given: str | Path | Callable[[], Path]) -> Path:
    """The store at a place as a user names it, where `~` is the home folder.

    Raises:
        FlSimError: no home folder is known.
    """
    return at_home(given, "the artifact store", "with --store, or FL_SIM_STORE")


class Elsewhere(Protocol):
    """Another place where artifacts are kept, which this process reaches by messages only."""

    def fetch(self, kind: str, key: str, into: Path) -> bool:
        """Put an artifact's files into the empty folder `into`; False where there is no such artifact."""

    def give(self, kind: str, key: str, folder: Path) -> None:
        """Keep a copy of the files in `folder` as this artifact, unless it is there."""


@dataclass(frozen=True)
class Store(Folders):
    """The artifacts under one root folder, and those of `elsewhere` where there is such a place."""

    elsewhere: Elsewhere | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        try:
            (self.root / "tmp").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if not self.root.is_dir():  # else it may be complete, so that nothing need be written
                raise StoreError(
                    f"the artifact store {self.root} cannot be written: {error.strerror}; choose another with --store"
                ) from None

    def get(self, kind: str, key: str, make: Callable[[], Artifact]) -> Artifact:
        """The artifact, made first if it is not there; other processes that want the same one wait for it."""
        return self._made(kind, key, make, seals.read)

    def ensure(self, kind: str, key: str, make: Callable[[], Artifact]) -> None:
        """What `get` does for those who want its key alone: what is there is looked at and not read."""
        self._made(kind, key, make, seals.look)

    def _made(self, kind: str, key: str, make: Callable[[], Artifact], how: Callable[[Path, str], T]) -> T:
        folder = self.root / kind / key
        artifact = self._found(folder, how)
        if artifact is None:
            with self._lock(folder):
                artifact = self._found(folder, how, clear=True)
                if artifact is None:
                    artifact = self._brought(folder, how)
                if artifact is None:
                    self._write(folder, make())
                    artifact = self._found(folder, how)
        if artifact is None:
            raise StoreError(
                f"{folder}: was deleted or damaged as soon as it was written; the same command tries again"
            )
        note_use(folder)
        return artifact

    def has(self, kind: str, key: str) -> bool:
        """Whether it is there, and whole; what is elsewhere is, from now on."""
        folder = self.root / kind / key
        if self._found(folder, seals.look) is not None:
            return True
        if self.elsewhere is None:
            return False
        with self._lock(folder):
            artifact = self._found(folder, seals.look, clear=True)
            return artifact is not None or self._brought(folder, seals.look) is not None

    def open(self, kind: str, key: str) -> Artifact:
        """An artifact that is there.

        Raises:
            StoreError: it is not.
        """

        def missing() -> Artifact:
            gone = "it was deleted while it was used, or damaged; the same command makes it again"
            raise StoreError(f"the artifact store {self.root} has no {kind} {key}: {gone}")

        return self._made(kind, key, missing, seals.read)

    def _write(self, folder: Path, artifact: Artifact) -> None:
        with self.writing(), self._temporary() as temporary:
            seals.write(temporary, f"{folder.parent.name}/{folder.name}", artifact)
            if self.elsewhere is not None:
                with spent("wait"):  # before it can be seen here, so that what this machine makes is there too
                    self.elsewhere.give(folder.parent.name, folder.name, temporary)
            self.place(temporary, folder)

    def _brought(self, folder: Path, how: Callable[[Path, str], T]) -> T | None:
        """What `how` finds in the artifact that is brought from elsewhere; None where there is none, or a damaged one.
        The caller holds its lock."""
        if self.elsewhere is None:
            return None
        with spent("wait"), self.writing(), self._temporary() as temporary:
            if not self.elsewhere.fetch(folder.parent.name, folder.name, temporary):
                return None
            self.place(temporary, folder)
        return self._found(folder, how, clear=True)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder for a large file that is gone after the block: in the store, or, where that may only be read, where
        the system keeps such files."""
        where = self.root / "tmp"
        with tempfile.TemporaryDirectory(prefix="fl-sim-", dir=where if os.access(where, os.W_OK) else None) as folder:
            yield Path(folder)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Say of what cannot be written in the block, on a full disk for one, what to do.

        Raises:
            StoreError: in place of an OSError.
        """
        try:
            yield
        except OSError as error:
            then = "choose another with --store"
            if self.elsewhere is not None:
                then = "name another in FL_SIM_NODE_STORE on this machine, before `ray start`"
            if error.errno in _FULL:
                then = f"free some space, or {then}"
            raise StoreError(f"the artifact store {self.root} cannot be written: {error}; {then}") from error

    def place(self, filled: Path, folder: Path) -> None:
        """Make `filled`, with an artifact's files, its `folder`: at once, so that nobody sees half of it."""
        folder.parent.mkdir(exist_ok=True)
        seals.written_through(filled)
        try:
            filled.rename(folder)
        except OSError:
            # Somebody with another lock folder was faster, and the content is the same; or a damaged one is there.
            if self._found(folder, seals.look, clear=True) is None:
                filled.rename(folder)

    @contextlib.contextmanager
    def _lock(self, folder: Path) -> Iterator[None]:
        """Be the only one who makes this artifact, or clears it away."""
        try:
            with self.writing():
                handle = _lock_file(self.root / "locks" / f"{folder.parent.name}-{folder.name}")
        except StoreError as error:
            what = "is not as it was made" if os.path.lexists(folder) else "is missing"
            raise StoreError(f"{folder}: {what}, and {error}") from None
        try:
            with spent("wait"), self.writing():
                locked(handle, wait=True)  # released by the kernel when the process dies
            yield
        finally:
            os.close(handle)


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, None)  # None: numpy's, which says how much it could not write


def _lock_file(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:
        if not path.exists():
            raise
        return os.open(path, os.O_RDONLY)  # another user's, which may be locked all the same if it may be read


_stores: dict[str, Store] = {}  # of this process, by root


def users_store(place: str | Path | None = None) -> Store:
    """The store at a place as a user names it; by default `default_root`."""
    return Store(located(place or default_root()))


def store_at(root: str) -> Store:
    """The store of this process at `root`."""
    if root not in _stores:
        _stores[root] = Store(Path(root))
    return _stores[root]


def attach(root: str, elsewhere: Elsewhere) -> None:
    """Let `elsewhere` stand behind the store of this process at `root`."""
    _stores[root] = Store(Path(root), elsewhere)
