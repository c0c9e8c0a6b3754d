"""The artifacts under one folder: found whole or cleared away, listed, checked and pruned."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TypeVar

from fl_sim.errors import StoreError, log
from fl_sim.store import seals

T = TypeVar("T")

KINDS = ("data", "reference", "population", "model", "update", "outputs", "transfer", "payload")
KEY = re.compile(r"^[0-9a-f]{32}$")
DAY = 86_400  # seconds


@dataclass(frozen=True)
class Folders:
    """Artifacts, each in its folder KIND/KEY, which may be several users'."""

    root: Path

    def _found(self, folder: Path, how: Callable[[Path, str], T], *, clear: bool = False) -> T | None:
        """What `how` finds in an artifact's folder; None where there is none, or one that is damaged, which whoever may
        `clear` it names and deletes.

        Raises:
            StoreError: it may not be read, or not be deleted.
        """
        why: ValueError
        try:
            return how(folder, f"{folder.parent.name}/{folder.name}")
        except OSError as error:
            if error.errno in _ABSENT and not os.path.lexists(folder):
                return None
            if error.errno not in (*_ABSENT, *_BROKEN):
                raise StoreError(f"{folder}: cannot be read: {error.strerror}; choose another --store") from None
            why = ValueError(f"{Path(error.filename or folder).name}: {error.strerror}")
        except ValueError as error:
            why = error
        if clear:
            self._clear(folder, why)
        return None

    def _clear(self, folder: Path, why: ValueError) -> None:
        reason = f"{folder}: is not what fl-sim wrote: {' '.join(str(why).split())}"
        try:
            self._delete(folder)
        except FileNotFoundError:
            return  # another process, on a file system without locks
        except OSError as error:
            raise StoreError(f"{reason}; it cannot be deleted, to be made again: {error.strerror}") from None
        if isinstance(why, seals.OlderError):
            _say_older(self.root)
        else:
            log.warning("%s; it is deleted, to be made again", reason)

    def check(self) -> int:
        """Hold every byte of every artifact against its seal; what is damaged is named and deleted. Returns how many
        were."""
        return sum(self._found(row.folder, _THOROUGHLY, clear=True) is None for row in self.listing())

    def prune(self, older_than_days: float) -> tuple[int, int]:
        """Delete what was not used for so many days; returns how many artifacts and bytes went. What may not be
        deleted stays, and is said to."""
        count = freed = 0
        refused: list[str] = []
        for row in self.listing():
            if row.idle_days >= older_than_days:
                try:
                    self._delete(row.folder)
                except OSError as error:
                    refused.append(f"{row.folder}: cannot be deleted: {error.strerror}")
                else:
                    count, freed = count + 1, freed + row.num_bytes
        if refused:
            log.warning("%s%s", refused[0], f"; nor can {len(refused) - 1} others" if refused[1:] else "")
        for leftover in (self.root / "tmp").glob("fl-sim-*"):  # of killed runs; a day is longer than any write takes
            with contextlib.suppress(FileNotFoundError):
                if time.time() - leftover.stat().st_mtime > DAY:
                    shutil.rmtree(leftover, ignore_errors=True)
        return count, freed

    def listing(self) -> list[Entry]:
        """Every artifact that is there; what else may lie under the root is not looked at."""
        folders = [f for kind in KINDS for f in sorted((self.root / kind).glob("*")) if KEY.match(f.name)]
        return [entry for entry in map(_entry, folders) if entry is not None]

    def _delete(self, folder: Path) -> None:
        # Renamed first: killed half-way, nothing that looks whole is left where artifacts are looked for.
        with self._temporary() as grave:
            folder.rename(grave / folder.name)

    @contextlib.contextmanager
    def _temporary(self) -> Iterator[Path]:
        """An empty folder, which may be placed, and is gone afterwards; with the permissions that the umask says."""
        folder = self.root / "tmp" / f"fl-sim-{uuid.uuid4().hex}"
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


_THOROUGHLY = partial(seals.look, thorough=True)
_ABSENT = (errno.ENOENT, errno.ENOTDIR)
_BROKEN = (errno.EISDIR, errno.ELOOP, errno.EIO)  # what an artifact's path may be found to be


def note_use(folder: Path) -> None:
    """Remember that an artifact was used now, where that may be written down."""
    with contextlib.suppress(OSError):  # not ours, on a read-only disk, or pruned a moment ago
        os.utime(folder)  # `prune` goes by last use


@cache  # once, and not for each artifact
def _say_older(root: Path) -> None:
    log.warning("the artifact store %s: what an older fl-sim made has no seal, and is made again", root)


@dataclass(frozen=True)
class Entry:
    """One artifact in the store's listing."""

    kind: str
    folder: Path
    num_bytes: int
    idle_days: float  # since its last use


def _entry(folder: Path) -> Entry | None:
    """None for what is no folder, may not be looked into, or is gone by now."""
    try:
        size = sum(path.stat().st_size for path in folder.iterdir())
        return Entry(folder.parent.name, folder, size, (time.time() - folder.stat().st_mtime) / DAY)
    except OSError:
        return None
