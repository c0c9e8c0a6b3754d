"""A payload of a model's weights: what a server sends that sends the teacher itself, as float32 or as INT8.

float32 is bit for bit. INT8 is symmetric with one float32 scale an output channel (the first axis) for tensors of two
axes or more, s = max |w| / 127, w ~ s * round(w / s), so that no weight is off by more than half a step s / 2;
other float32 tensors (biases, the moments of batch normalisation) stay float32. This is the usual weight quantisation:
Krishnamoorthi 2018, https://arxiv.org/abs/1806.08342, section 3.1.1. Integer tensors are kept. All under Zstd-19.

A table in JSON has name, kind and shape of each tensor; nothing in a payload is ever run.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fl_sim.errors import FlSimError
from fl_sim.plada.container import opened, sealed

MAGIC = b"PLDW"
PRECISIONS = ("float32", "int8")
TABLE = struct.Struct("<I")  # the table's length, before it
KEPT = ("f4", "i8", "i4", "i2", "i1", "u1", "b1")  # types that travel as they are
QUANTISED = "q"
MOST_AXES = 32
STEPS = 127

Arrays = dict[str, NDArray[Any]]


def pack_weights(state: Mapping[str, NDArray[Any]], precision: Literal["float32", "int8"]) -> bytes:
    """The payload of tensors by name, as numpy arrays of float32, of integers or of truth values.

    Raises:
        FlSimError: a tensor of another type, an unknown precision, or, for INT8, weights that are not finite.
    """
    if precision not in PRECISIONS:
        raise FlSimError(f"precision = {precision!r}: must be one of {', '.join(PRECISIONS)}")
    table, parts = [], []
    for name, tensor in state.items():
        kind = tensor.dtype.str[1:]
        if kind not in KEPT:
            raise FlSimError(f"the tensor {name!r} is {tensor.dtype}: a payload takes float32, integers and bool")
        if precision == "int8" and kind == "f4" and tensor.ndim >= 2 and tensor.size:
            scales, steps = _quantised(name, tensor)
            kind, content = QUANTISED, scales.astype("<f4").tobytes() + steps.tobytes()
        else:
            content = tensor.astype(tensor.dtype.newbyteorder("<")).tobytes()
        table.append([name, kind, list(tensor.shape)])
        parts.append(content)
    header = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    content = TABLE.pack(len(header)) + header + b"".join(parts)
    return sealed(MAGIC, PRECISIONS.index(precision), b"", content)


def unpack_weights(data: bytes, *, most_bytes: int) -> Arrays:
    """The tensors of a payload, by name and in the order packed, quantised ones as float32.

    Args:
        data: the payload.
        most_bytes: how many bytes the caller allows, for what is unpacked and for the tensors made of it.

    Raises:
        FlSimError: not a payload of weights, damaged, or larger than allowed.
    """
    container = opened(data, MAGIC, 0)
    if container.form >= len(PRECISIONS):
        raise FlSimError(f"the payload is damaged: form {container.form} means nothing")
    content = container.content(most_bytes)
    length = TABLE.unpack_from(content)[0] if len(content) >= TABLE.size else len(content)
    start = TABLE.size + length
    if start > len(content):
        raise FlSimError(f"the payload is damaged: a table of {length} bytes in {len(content)}")
    table = _table(content[TABLE.size : start])
    stored = sum(_stored_bytes(kind, shape) for _, kind, shape in table)
    if stored != len(content) - start:
        raise FlSimError(f"the payload is damaged: its table tells {stored} bytes, and {len(content) - start} follow")
    made = sum(_item(kind) * math.prod(shape) for _, kind, shape in table)
    if made > most_bytes:
        raise FlSimError(f"the payload declares tensors of {made} bytes, and at most {most_bytes} are allowed here")
    state: Arrays = {}
    for name, kind, shape in table:
        state[name] = _tensor(content, start, kind, shape)
        start += _stored_bytes(kind, shape)
    return state


def _quantised(name: str, tensor: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """(scales (channels,), steps of the tensor's shape); a channel of zeros has scale 0."""
    rows = tensor.reshape(len(tensor), -1)
    if not np.isfinite(rows).all():
        raise FlSimError(f"the tensor {name!r} holds NaN or infinite numbers: INT8 takes finite ones")
    scales = (np.abs(rows).max(axis=1) / np.float32(STEPS)).astype(np.float32)
    divisors = np.where(scales > 0, scales, 1).astype(np.float64)[:, None]
    steps = np.clip(np.rint(rows / divisors), -STEPS, STEPS).astype(np.int8)
    return scales, steps.reshape(tensor.shape)


def _tensor(content: bytes, start: int, kind: str, shape: tuple[int, ...]) -> NDArray[Any]:
    size = math.prod(shape)
    if kind != QUANTISED:
        return np.frombuffer(content, np.dtype(kind).newbyteorder("<"), size, start).reshape(shape).astype(kind)
    scales = np.frombuffer(content, "<f4", shape[0], start)
    steps = np.frombuffer(content, np.int8, size, start + scales.nbytes).reshape(shape[0], -1)
    if not (np.isfinite(scales).all() and (scales >= 0).all()):
        raise FlSimError("the payload is damaged: scales must be finite and at least 0")
    most = np.finfo(np.float32).max
    with np.errstate(over="ignore"):  # where the largest number was packed, its scale may have been rounded up
        return np.clip(scales[:, None] * steps, -most, most).astype(np.float32).reshape(shape)


def _table(text: bytes) -> list[tuple[str, str, tuple[int, ...]]]:
    """(name, kind, shape) of each tensor."""
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError):
        raise FlSimError("the payload is damaged: its table is not JSON") from None
    rows = rows if isinstance(rows, list) else [rows]
    if not all(_is_row(row) for row in rows) or len({row[0] for row in rows}) < len(rows):
        raise FlSimError("the payload is damaged: its table is not of names, each once, kinds and shapes")
    return [(name, kind, tuple(shape)) for name, kind, shape in rows]


def _is_row(row: Any) -> bool:
    if not (isinstance(row, list) and len(row) == 3 and isinstance(row[0], str) and isinstance(row[2], list)):
        return False
    _, kind, shape = row
    known = kind in KEPT or (kind == QUANTISED and len(shape) >= 2 and 0 not in shape)
    sides = len(shape) <= MOST_AXES and all(type(side) is int and side >= 0 for side in shape)
    return known and sides and math.prod(max(side, 1) for side in shape) < 1 << 40  # numpy's limit is 2^63 bytes


def _stored_bytes(kind: str, shape: tuple[int, ...]) -> int:
    return 4 * shape[0] + math.prod(shape) if kind == QUANTISED else _item(kind) * math.prod(shape)


def _item(kind: str) -> int:
    """Bytes of a number once unpacked."""
    return 4 if kind == QUANTISED else np.dtype(kind).itemsize
