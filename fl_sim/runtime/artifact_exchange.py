"""Artifacts for the machines of a cluster that do not see the driver's store.

Each such machine has a store of its own. Behind it stands the driver's, reached by messages: an `ArtifactServer` on the
driver's machine answers them, an `ArtifactClient` on the other asks. An artifact travels in
chunks, so that none is large in memory and a small one is a single message; it is placed in a store whole or not at
all. What carries the messages is not known here.
"""

from __future__ import annotations

import contextlib
import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from fl_sim.errors import FlSimError
from fl_sim.store.artifacts import KEY, KINDS, Store, default_root, located, note_use

CHUNK = 1 << 24  # bytes in one message: 16 MiB take tens of milliseconds, beside which the message's own is little

Piece = tuple[str, int, bytes]  # a file's name, where in the file, content


@dataclass(frozen=True)
class DriverStore:
    """The driver's store, as its workers are told of it."""

    root: str
    mark: str  # the name of a folder in its `tmp` that is there while the driver runs; "" where it may only be read
    machine: str  # the driver's

    @property
    def other_machine(self) -> str:
        """The name of this machine, unless it is the driver's."""
        return "" if platform.node() == self.machine else platform.node()

    def settle(self) -> bool:
        """Choose the store of this process, its `FL_SIM_STORE`; whether that is the driver's own.

        It is the machine's `FL_SIM_NODE_STORE`, if that is set; else the driver's folder, if this machine sees it; else
        this machine's `FL_SIM_STORE`, or the user's cache folder. A folder is the driver's if it has its mark: another
        machine may have a folder of the same name, even a copy of it.
        """
        own, drivers = os.environ.get("FL_SIM_NODE_STORE"), Path(self.root)
        elses = drivers if self._marks(drivers) else default_root()
        place = located(own) if own else elses
        os.environ["FL_SIM_STORE"] = str(place)
        return self._marks(place)

    def _marks(self, place: Path) -> bool:
        if not self.mark:
            return platform.node() == self.machine and place.resolve() == Path(self.root).resolve()
        return (place / "tmp" / self.mark).is_dir()


@contextlib.contextmanager
def driver_store(root: str) -> Iterator[DriverStore]:
    """The store at `root` of this process, a driver, marked for the block."""
    with contextlib.ExitStack() as stack:
        try:
            mark = stack.enter_context(tempfile.TemporaryDirectory(prefix="fl-sim-", dir=Path(root) / "tmp"))
        except OSError:
            mark = ""
        yield DriverStore(root, Path(mark).name, platform.node())


class ArtifactServer:
    """The driver's store, for those who cannot see it."""

    def __init__(self, root: str) -> None:
        self.store = Store(Path(root))

    def send(self, kind: str, key: str, start: int) -> tuple[list[Piece], int] | None:
        """The next chunk of an artifact, from byte `start` of all its files, and how many these are; None where it is
        not there.

        Raises:
            FlSimError: the store cannot be read.
        """
        folder = self._folder(kind, key)
        if not self.store.has(kind, key):
            return None
        try:
            note_use(folder)
            return _cut(folder, start)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise FlSimError(f"the driver's artifact store {self.store.root} cannot be read: {error}") from error

    def take(self, kind: str, key: str, sender: str, pieces: list[Piece], last: bool) -> bool:
        """Keep a chunk of an artifact; with the `last` it is there. False where it was there before: send no more.

        Raises:
            FlSimError: the store cannot be written.
        """
        folder = self._folder(kind, key)
        if self.store.has(kind, key):
            return False
        # What a sender that has died leaves there, `prune` takes.
        arriving = self.store.root / "tmp" / f"fl-sim-{sender}"
        with self.store.writing():
            arriving.mkdir(exist_ok=True)
            _put(pieces, arriving)
            if last:
                self.store.place(arriving, folder)
        return True

    def _folder(self, kind: str, key: str) -> Path:
        if kind not in KINDS or not KEY.match(key):
            raise FlSimError(f"{kind} {key} is no artifact's kind and key")
        return self.store.root / kind / key


class ArtifactClient:
    """`fl_sim.store.artifacts.Elsewhere` for those who reach an artifact server by `call(method, *arguments)`."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call

    def fetch(self, kind: str, key: str, into: Path) -> bool:
        """Bring an artifact's files into a folder; False where the artifact server has none.

        Raises:
            FlSimError: it was deleted half-way, or the artifact server does not answer.
        """
        start, total = 0, 1
        while start < total:
            sent = self.call("send", kind, key, start)
            if sent is None and start:
                raise FlSimError(
                    f"{kind} {key} was deleted from the driver's artifact store while it was fetched; run again"
                )
            if sent is None:
                return False
            pieces, total = sent
            _put(pieces, into)
            start += CHUNK
        return True

    def give(self, kind: str, key: str, folder: Path) -> None:
        """Bring the files of a folder to the artifact server as this artifact.

        Raises:
            FlSimError: the driver's store cannot be written, or the artifact server does not answer.
        """
        sender, start, total = uuid4().hex, 0, 1
        while start < total:
            pieces, total = _cut(folder, start)
            start += CHUNK
            if not self.call("take", kind, key, sender, pieces, start >= total):
                return


def _cut(folder: Path, start: int) -> tuple[list[Piece], int]:
    """`CHUNK` bytes from byte `start` of the folder's files, one after the other, and how many they all have; no file
    of an artifact is empty."""
    pieces: list[Piece] = []
    before = 0
    for path in sorted(folder.iterdir()):
        size = path.stat().st_size
        first, last = max(start - before, 0), min(start + CHUNK - before, size)
        if first < last:
            with path.open("rb") as file:
                file.seek(first)
                pieces.append((path.name, first, file.read(last - first)))
        before += size
    return pieces, before


def _put(pieces: list[Piece], folder: Path) -> None:
    for name, first, content in pieces:
        with (folder / Path(name).name).open("r+b" if first else "wb") as file:
            file.seek(first)
            file.write(content)
