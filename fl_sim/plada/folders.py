"""The file that says where a reference set's folders start, for readers that have the payload and not the set.

A .npz with `starts`, int64 (G,), and `reference`, the reference set's digest as uint8 (16,). Starts of another set
often still decode a body that was packed by folders, into other indices and labels; hence the digest.
"""

from __future__ import annotations

import io
import struct
import tokenize
import zipfile
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_sim.errors import FlSimError
from fl_sim.plada.local import MOST_FOLDERS

REFERENCE = 16  # bytes of the digest
MEMBERS = {"starts.npy", "reference.npy"}
MOST_MEMBER = 8 * MOST_FOLDERS + 1024  # bytes of one of them, its header included
MOST_FILE = 2 * MOST_MEMBER + 4096  # and the zip's own


def pack_folders(starts: NDArray[np.int64], reference: bytes) -> bytes:
    """The file; the same bytes for the same content.

    Args:
        starts: (G,), where folders start, ascending from 0 or above.
        reference: 16 bytes, the digest of the reference set.

    Raises:
        FlSimError: starts that do not ascend, more than a body is ever packed by, a digest of another length.
    """
    if len(reference) != REFERENCE:
        raise FlSimError(f"a reference digest of {len(reference)} bytes: must have {REFERENCE}")
    starts = np.asarray(starts, np.int64)
    if not _ascend(starts):
        raise FlSimError(f"the folder starts, {starts.shape}: must be one row of places, ascending from 0 or above")
    if len(starts) > MOST_FOLDERS:
        raise FlSimError(f"{len(starts)} folder starts: must be at most {MOST_FOLDERS}; no payload is packed by more")
    file = io.BytesIO()
    np.savez(file, starts=starts, reference=np.frombuffer(reference, np.uint8))  # neither times nor names go in
    return file.getvalue()


def read_folders(data: bytes, reference: bytes) -> NDArray[np.int64]:
    """The starts (G,) of a file that `pack_folders` wrote for the reference set of this digest.

    Memory is taken for the file's size and at most `MOST_MEMBER` bytes a member; nothing in it is run.

    Raises:
        FlSimError: what is no such file, or starts of another reference set; that message has both digests.
    """
    if len(data) > MOST_FILE:
        raise FlSimError(f"{len(data)} bytes are no file of folder starts: it has at most {MOST_FILE}")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {info.filename: _member(archive, info) for info in archive.infolist()[: len(MEMBERS) + 1]}
    except _NONE as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise FlSimError(f"is no file of folder starts, or damaged: {reason}") from None
    if members.keys() != MEMBERS:
        raise FlSimError(
            f"is no file of folder starts: it holds {', '.join(members) or 'nothing'}, not starts.npy, reference.npy"
        )
    starts, of = members["starts.npy"], members["reference.npy"]
    if of.dtype != np.uint8 or of.shape != (REFERENCE,) or starts.dtype != np.dtype("<i8") or not _ascend(starts):
        raise FlSimError(
            f"is no file of folder starts: must hold starts as int64, ascending, and reference as {REFERENCE} uint8; "
            f"it holds {starts.dtype} {starts.shape} and {of.dtype} {of.shape}"
        )
    if of.tobytes() != reference:
        raise FlSimError(
            f"holds the folder starts of the reference set {of.tobytes().hex()}, and the payload is for "
            f"{reference.hex()}: it would be decoded into wrong indices and labels; name those of its own set"
        )
    return starts


# What zipfile and NumPy raise where a file is none of theirs, or was cut or changed.
_NONE = (
    ValueError, TypeError, OSError, EOFError, KeyError, RuntimeError, NotImplementedError, zipfile.BadZipFile,
    zlib.error, struct.error, tokenize.TokenError,
)  # fmt: skip


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    """An array whose header may not declare more than is there."""
    if info.file_size > MOST_MEMBER:
        raise ValueError(f"{info.filename} declares {info.file_size} bytes, and at most {MOST_MEMBER} are allowed")
    content = archive.read(info)  # never more than it declares; its CRC is checked
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise ValueError(f"{info.filename} has version {version} of NumPy's format, not (1, 0)")
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    rest = content[stream.tell() :]
    if dtype.hasobject or len(shape) != 1 or shape[0] * dtype.itemsize != len(rest):
        raise ValueError(f"{info.filename} declares {dtype} {shape} and holds {len(rest)} bytes")
    return np.frombuffer(rest, dtype).copy()


def _ascend(starts: NDArray[Any]) -> bool:
    """Whether places stand in one ascending row, none below 0 (compared: differences could overflow)."""
    return starts.ndim == 1 and bool((starts[1:] > starts[:-1]).all()) and bool((starts[:1] >= 0).all())
