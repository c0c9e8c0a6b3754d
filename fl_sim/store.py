"""A content-addressed store of what must not be computed twice: prepared data, populations, models, predictions.

An artifact is a folder `KIND/KEY` of arrays (`.npy`, opened memory-mapped), tensors (`.safetensors`) and one
`meta.json`. Its key is a digest of everything that decides its content, so an artifact is never changed, only made or
deleted. It is written under a temporary name and renamed, so that a killed run leaves nothing half-made; a lock per
key keeps two processes from making the same one. Nothing is pickled.

A machine of a cluster that does not see the driver's store has one of its own, behind which the driver's stands: what
is missing is brought from there before it is made, and what is made is given there.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fl_sim.errors import FlSimError
from fl_sim.timing import spent

if TYPE_CHECKING:
    import torch

Arrays = dict[str, NDArray[Any]]

KINDS = ("data", "reference", "population", "model", "update", "outputs", "transfer", "payload")
KEY = re.compile(r"^[0-9a-f]{32}$")


def digest(**parts: Any) -> str:
    """The key of what is decided by `parts`, which must be JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def digest_of_array(array: NDArray[Any]) -> str:
    """A digest of an array's type, shape and content, to stand for it among the parts of a key."""
    head = f"{array.dtype.str}{array.shape}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()[:32]


def default_root() -> Path:
    """`FL_SIM_STORE`, or the user's cache folder."""
    from platformdirs import user_cache_path

    given = os.environ.get("FL_SIM_STORE")
    return Path(given) if given else user_cache_path("fl-sim") / "store"


@dataclass(frozen=True)
class Artifact:
    """What is in one folder of the store."""

    arrays: Arrays = field(
        default_factory=dict
    )  # name -> array, memory-mapped and read-only when it comes from the store
    meta: dict[str, Any] = field(default_factory=dict)  # JSON values
    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)


class Elsewhere(Protocol):
    """Another place where artifacts are kept, which this process reaches by messages only."""

    def fetch(self, kind: str, key: str, into: Path) -> bool:
        """Put an artifact's files into the empty folder `into`; False where there is no such artifact."""

    def give(self, kind: str, key: str, folder: Path) -> None:
        """Keep a copy of the files in `folder` as this artifact, unless it is there."""


@dataclass(frozen=True)
class Store:
    """The artifacts under one root folder, and those of `elsewhere` where there is such a place."""

    root: Path
    elsewhere: Elsewhere | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        try:
            (self.root / "tmp").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FlSimError(
                f"the artifact store {self.root} cannot be written: {error.strerror}; choose another with --store"
            ) from None

    def get(self, kind: str, key: str, make: Callable[[], Artifact]) -> Artifact:
        """The artifact, made first if it is not there; other processes that want the same one wait for it."""
        self.ensure(kind, key, make)
        return self.open(kind, key)

    def ensure(self, kind: str, key: str, make: Callable[[], Artifact]) -> None:
        """What `get` does for those who want its key alone: what is there is not read."""
        folder = self.root / kind / key
        if not folder.is_dir():
            with self._lock(f"{kind}-{key}"):
                if not folder.is_dir() and not self._fetched(folder):
                    self._write(folder, make())
        os.utime(folder)  # `prune` goes by last use

    def has(self, kind: str, key: str) -> bool:
        """Whether it is there; what is elsewhere is, from now on."""
        folder = self.root / kind / key
        if folder.is_dir() or self.elsewhere is None:
            return folder.is_dir()
        with self._lock(f"{kind}-{key}"):
            return folder.is_dir() or self._fetched(folder)

    def open(self, kind: str, key: str) -> Artifact:
        """An artifact that is there.

        Raises:
            FileNotFoundError: it is not.
        """
        folder = self.root / kind / key
        if not self.has(kind, key):
            raise FileNotFoundError(f"the artifact store {self.root} has no {kind} {key}")
        os.utime(folder)  # `prune` goes by last use
        arrays = {path.stem: np.load(path, mmap_mode="r", allow_pickle=False) for path in sorted(folder.glob("*.npy"))}
        meta = json.loads((folder / "meta.json").read_text())
        return Artifact(arrays, meta, _read_tensors(folder / "tensors.safetensors"))

    def prune(self, older_than_days: float) -> tuple[int, int]:
        """Delete what was not used for so many days; returns how many artifacts and bytes went."""
        count = freed = 0
        for row in self.listing():
            if row.idle_days >= older_than_days:
                self._delete(row.folder)
                count, freed = count + 1, freed + row.num_bytes
        for leftover in (self.root / "tmp").glob("fl-sim-*"):  # of killed runs; a day is longer than any write takes
            if time.time() - leftover.stat().st_mtime > 86_400:
                shutil.rmtree(leftover)
        return count, freed

    def listing(self) -> list[Entry]:
        """Every artifact that is there; what else may lie under the root is not looked at."""
        folders = [
            f for kind in KINDS for f in sorted((self.root / kind).glob("*")) if KEY.match(f.name) and f.is_dir()
        ]
        now = time.time()
        return [
            Entry(f.parent.name, f, sum(p.stat().st_size for p in f.iterdir()), (now - f.stat().st_mtime) / 86_400)
            for f in folders
        ]

    def _delete(self, folder: Path) -> None:
        # Renamed first: killed half-way, nothing that looks whole is left where artifacts are looked for.
        grave = Path(tempfile.mkdtemp(prefix="fl-sim-", dir=self.root / "tmp"))
        folder.rename(grave / folder.name)
        shutil.rmtree(grave)

    def _write(self, folder: Path, artifact: Artifact) -> None:
        with self.writing(), self._temporary() as temporary:
            for name, array in artifact.arrays.items():
                np.save(temporary / f"{name}.npy", array, allow_pickle=False)
            if artifact.tensors:
                _write_tensors(artifact.tensors, temporary / "tensors.safetensors")
            (temporary / "meta.json").write_text(json.dumps(artifact.meta, sort_keys=True))
            if self.elsewhere is not None:
                with spent("wait"):  # before it can be seen here, so that what this machine makes is there too
                    self.elsewhere.give(folder.parent.name, folder.name, temporary)
            self.place(temporary, folder)

    def _fetched(self, folder: Path) -> bool:
        """Whether the artifact could be brought from elsewhere. The caller holds its lock."""
        if self.elsewhere is None:
            return False
        with spent("wait"), self.writing(), self._temporary() as temporary:
            found = self.elsewhere.fetch(folder.parent.name, folder.name, temporary)
            if found:
                self.place(temporary, folder)
        return found

    @contextlib.contextmanager
    def _temporary(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="fl-sim-", dir=self.root / "tmp") as folder:
            yield Path(folder)  # which may be placed, and is gone then

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Say of what cannot be written in the block, on a full disk for one, what to do.

        Raises:
            FlSimError: in place of an OSError.
        """
        try:
            yield
        except OSError as error:
            other = "choose another with --store"
            if self.elsewhere is not None:
                other = "name another in FL_SIM_NODE_STORE on this machine, before `ray start`"
            raise FlSimError(
                f"the artifact store {self.root} cannot be written: {error}; free some space, or {other}"
            ) from error

    def place(self, filled: Path, folder: Path) -> None:
        """Make `filled`, with an artifact's files, its `folder`: at once, so that nobody sees half of it."""
        folder.parent.mkdir(exist_ok=True)
        try:
            filled.rename(folder)
        except OSError:
            if not folder.is_dir():  # else somebody with another lock folder was faster; the content is the same
                raise

    @contextlib.contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        path = self.root / "locks" / name
        path.parent.mkdir(exist_ok=True)
        with path.open("w") as handle:
            with spent("wait"):
                fcntl.flock(handle, fcntl.LOCK_EX)  # released by the kernel when the process dies
            yield


@dataclass(frozen=True)
class Entry:
    """One artifact in the store's listing."""

    kind: str
    folder: Path
    num_bytes: int
    idle_days: float  # since its last use


_stores: dict[str, Store] = {}  # of this process, by root


def store_at(root: str) -> Store:
    """The store of this process at `root`."""
    if root not in _stores:
        _stores[root] = Store(Path(root))
    return _stores[root]


def attach(root: str, elsewhere: Elsewhere) -> None:
    """Let `elsewhere` stand behind the store of this process at `root`."""
    _stores[root] = Store(Path(root), elsewhere)


def _write_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    from safetensors.torch import save

    # Not save_file, which reports a full disk by an error of its own kind.
    path.write_bytes(save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}))


def _read_tensors(path: Path) -> Mapping[str, torch.Tensor]:
    if not path.exists():
        return {}
    from safetensors.torch import load_file

    loaded: dict[str, torch.Tensor] = load_file(path)
    return loaded
