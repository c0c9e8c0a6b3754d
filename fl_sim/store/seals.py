"""An artifact's folder: arrays (`.npy`, opened memory-mapped), tensors (`.safetensors`) and one `meta.json`, sealed, so
that damage is noticed before it is believed. Nothing is pickled.

The seal is a key of `meta.json`: whose folder it is, size and digest of each file beside it, a moment, and the digest
of all of `meta.json` but this digest. Sealed files bear that moment as the time of their last change, so that whoever
looks need only ask the file system: a file that was written to has another time, and its content is held against its
digest; if that is right (the folder was copied), it is given the moment again. What changes content and leaves size and
time as they were is found by a thorough look alone, that of `fl-sim store --check`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Arrays = dict[str, NDArray[Any]]

META = "meta.json"
SEAL = "seal"
TENSORS = "tensors.safetensors"
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)  # from a file system that cannot


@dataclass(frozen=True)
class Artifact:
    """What is in one folder of the store."""

    arrays: Arrays = field(default_factory=dict)  # memory-mapped and read-only when they come from the store
    meta: dict[str, Any] = field(default_factory=dict)  # JSON values
    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)


class OlderError(ValueError):
    """The artifact has no seal: an older fl-sim made it, and nobody can tell whether it is whole."""


class Sealed(NamedTuple):
    """What is in the folder of an artifact that is as it was made."""

    meta: dict[str, Any]
    files: list[str]  # beside `meta.json`; what else may lie there is not the artifact's


def write(folder: Path, name: str, artifact: Artifact) -> None:
    """Write the files of the artifact of that name, KIND/KEY, into an empty folder, and seal them."""
    for array, values in artifact.arrays.items():
        np.save(folder / f"{array}.npy", values, allow_pickle=False)
    if artifact.tensors:
        _write_tensors(artifact.tensors, folder / TENSORS)
    at = _moment()
    meta = json.loads(json.dumps(artifact.meta))  # keys as they are read back
    files = {path.name: [path.stat().st_size, _digest_of(str(path))] for path in sorted(folder.iterdir())}
    meta[SEAL] = {"of": name, "at": at, "files": files}
    meta[SEAL] |= {"sha256": _digest(meta)}
    (folder / META).write_text(json.dumps(meta, sort_keys=True), encoding="utf-8")
    for path in folder.iterdir():
        os.utime(path, ns=(at, at))


def read(folder: Path, name: str) -> Artifact:
    """The artifact of that name, from its folder.

    Raises:
        ValueError, OSError: as `look`; the first too for what is damaged and bears the time of its seal.
    """
    status = look(folder, name)
    arrays: Arrays = {}
    tensors: Mapping[str, torch.Tensor] = {}
    for file in status.files:
        try:
            if file == TENSORS:
                tensors = _read_tensors(folder / file)
            else:
                arrays[file.removesuffix(".npy")] = np.lib.format.open_memmap(folder / file, mode="r")
        except (OSError, MemoryError, ImportError):
            raise
        except Exception as error:  # whatever a library says of bytes that it did not write
            raise ValueError(f"{file}: {error}") from None
    return Artifact(arrays, status.meta, tensors)


def look(folder: Path, name: str, *, thorough: bool = False) -> Sealed:
    """What the folder of that artifact holds, seen to be as it was made; `thorough` compares every byte.

    Raises:
        OlderError: it has no seal.
        ValueError: it is damaged.
        OSError: it is not there, a file of it is not, or it cannot be read.
    """
    # Texts, and not paths, which take longer to make than what is asked of them: every client asks several times.
    path = f"{folder}/{META}"
    with open(path, "rb") as file:  # noqa: PTH123
        changed = os.fstat(file.fileno()).st_mtime_ns
        meta = _parsed(file.read())
    at, files = _seal_of(meta, name)
    moved = []
    if thorough or changed != at:
        if meta[SEAL].pop("sha256", None) != _digest(meta):
            raise ValueError(f"{META} says something else")
        thorough, moved = True, [path]
    del meta[SEAL]
    for beside, (size, content) in files.items():
        path = f"{folder}/{beside}"
        status = os.stat(path)  # noqa: PTH116
        if status.st_size != size:
            raise ValueError(f"{beside} has {status.st_size} bytes in place of {size}")
        if thorough or status.st_mtime_ns != at:
            if _digest_of(path) != content:
                raise ValueError(f"{beside} has another content")
            moved.append(path)
    for path in moved:
        with contextlib.suppress(OSError, OverflowError):  # not ours to mark, so it is compared again the next time
            os.utime(path, ns=(at, at))
    return Sealed(meta, list(files))


def written_through(folder: Path) -> None:
    """See the files of a folder, and their names, on the disk."""
    for path in [*folder.iterdir(), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno not in _NO_SYNC:
                raise
        finally:
            os.close(handle)


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{META}: {error}") from None


def _seal_of(meta: Any, name: str) -> tuple[int, dict[str, tuple[int, str]]]:
    """The moment, and of each file the size and the digest."""
    if not isinstance(meta, dict):
        raise ValueError(f"{META} holds a {type(meta).__name__} where an object should be")
    if SEAL not in meta:
        raise OlderError(f"{META} has no seal")
    seal = meta[SEAL]
    try:
        of, at = seal["of"], int(seal["at"])
        files = {str(beside): (int(size), str(content)) for beside, (size, content) in seal["files"].items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ValueError(f"{META} has a seal of another form") from None
    if of != name:
        raise ValueError(f"it is {of}")
    return at, files


def _moment() -> int:
    """A moment, in nanoseconds, that every file system can tell, and at which nothing is written any more."""
    return (int(time.time()) // 2 * 2 - 2) * 1_000_000_000


def _digest(meta: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def _digest_of(path: str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    from safetensors.torch import save

    # Not save_file, which reports a full disk by an error of its own kind.
    path.write_bytes(save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}))


def _read_tensors(path: Path) -> Mapping[str, torch.Tensor]:
    from safetensors.torch import load_file

    loaded: dict[str, torch.Tensor] = load_file(path)
    return loaded
