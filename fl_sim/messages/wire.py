"""A message to and from Flower's `RecordDict`, and what it weighs.

`pack` and `unpack` go by the type of each field: whole numbers and floats travel in a MetricRecord, text and switches
in a ConfigRecord, arrays in an ArrayRecord.
"""

from __future__ import annotations

import dataclasses
import io
import math
from functools import cache, lru_cache
from typing import Any, TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.constant import SType
from flwr.common.serde import recorddict_to_proto
from numpy.typing import NDArray

from fl_sim.messages.record import MEASURED, Record, weighed_fields

T = TypeVar("T", bound="Record")


def pack(record: Record) -> RecordDict:
    """A record as Flower sends it."""
    numbers: dict[str, Any] = {}
    words: dict[str, Any] = {}
    arrays: dict[str, Array] = {}
    measured: dict[str, Array] = {}
    for part in dataclasses.fields(record):
        value = getattr(record, part.name)
        if part.name in record.measured:
            measured |= {part.name: array_of(value)} if value.size else {}
        elif isinstance(value, np.ndarray):
            arrays[part.name] = array_of(value)
        elif isinstance(value, str | bool):
            words[part.name] = value
        else:
            numbers[part.name] = value
    content = RecordDict()
    if numbers:
        content["numbers"] = MetricRecord(numbers)
    if words:
        content["words"] = ConfigRecord(words)
    if arrays:
        content["values"] = ArrayRecord(arrays)
    if measured:
        content[MEASURED] = ArrayRecord(measured)
    return content


def unpack(kind: type[T], content: RecordDict) -> T:
    """The record that was packed.

    Raises:
        ValueError: the content is not that record: another record type, a field that is missing, unknown or of another
            type (a fraction for a whole number, say), an array that is none, or values that are impossible.
    """
    values: dict[str, Any] = {}
    for name, wanted_type in _RECORDS.items():
        record: Any = content.get(name, {})
        if record and not isinstance(record, wanted_type):
            other = f"{name!r} is a {type(record).__name__}, not a {wanted_type.__name__}"
            raise ValueError(f"not a {kind.__name__}: {other}")
        values |= {key: values_of(v) if isinstance(v, Array) else v for key, v in record.items()}
    wanted = _fields(kind)  # type: ignore[arg-type]  # a class is hashable, whatever its instances are
    if set(values) | set(kind.measured) != set(wanted):
        odd = ", ".join(sorted(set(values) ^ set(wanted)))
        raise ValueError(f"not a {kind.__name__}: missing or unknown: {odd}")
    for name, value in values.items():
        if not _is_a(value, wanted[name]):
            shown = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else f"{value!r}"[:80]
            raise ValueError(f"{name} = {shown}: must be {_TYPES.get(wanted[name], f'an array, {wanted[name]}')}")
    return kind(**values)


@cache
def _fields(kind: type[Record]) -> dict[str, str]:
    """Name -> annotation."""
    return {part.name: str(part.type) for part in dataclasses.fields(kind)}


_RECORDS = {"numbers": MetricRecord, "words": ConfigRecord, "values": ArrayRecord, MEASURED: ArrayRecord}

_TYPES = {"int": "a whole number", "float": "a number", "str": "text", "bool": "true or false"}


def _is_a(value: Any, wanted: str) -> bool:
    """Whether a value is of the type that its field's annotation names."""
    if wanted == "int":
        return isinstance(value, int) and not isinstance(value, bool)
    if wanted == "float":
        return isinstance(value, int | float) and not isinstance(value, bool)
    if wanted in ("str", "bool"):
        return isinstance(value, str if wanted == "str" else bool)
    return isinstance(value, np.ndarray) and wanted == f"NDArray[np.{value.dtype.name}]"


def array_of(values: NDArray[Any]) -> Array:
    """What `Array(values)` gives, to the last byte, without NumPy's writing of its header, which for small arrays costs
    more than all else in a message."""
    plain = np.asarray(values, order="C")  # which leaves an array of no dimension one
    name, header = _named(plain.dtype, plain.shape)
    return Array(name, plain.shape, SType.NUMPY, header + plain.tobytes())


@lru_cache(maxsize=4096)
def _named(kind: np.dtype[Any], shape: tuple[int, ...]) -> tuple[str, bytes]:
    """A type's name, and the header of NumPy's file format, version 1.0."""
    file = io.BytesIO()
    header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return str(kind), file.getvalue()


def values_of(array: Array) -> NDArray[Any]:
    """What `array.numpy()` gives, but read-only and without its copy and its parsing of NumPy's header, which for small
    arrays cost more than all else in a message.

    Raises:
        ValueError: the bytes are no array of numbers.
    """
    data, kind = array.data, np.dtype(array.dtype)
    start = 10 + int.from_bytes(data[8:10], "little")
    plain = b"{'descr': '%s', 'fortran_order': False, 'shape': (" % kind.str.encode()
    # NumPy's file format, version 1.0, as np.save writes it; whatever is written otherwise is left to NumPy.
    if data[:8] != b"\x93NUMPY\x01\x00" or not data[10:start].startswith(plain) or kind.hasobject:
        return array.numpy()
    if len(data) - start != math.prod(array.shape) * kind.itemsize:
        raise ValueError(f"an array of shape {tuple(array.shape)} and type {kind} in {len(data) - start} bytes")
    return np.frombuffer(data, kind, offset=start).reshape(array.shape)


def weight(content: RecordDict) -> int:
    """Bytes of a message's content as Flower serialises it, without what is the laboratory's alone."""
    if MEASURED in content:
        content = RecordDict({name: record for name, record in content.items() if name != MEASURED})
    return int(recorddict_to_proto(content).ByteSize())


@lru_cache(maxsize=65_536)  # of thousands of answers few differ in it
def weight_of(kind: type[Record], form: tuple[Any, ...]) -> int:
    """`weight` of a packed record of this form (`Columns.forms`), found from one that is made of it."""
    record = object.__new__(kind)  # unchecked: it says nothing
    for name, about in zip(weighed_fields(kind), form, strict=True):  # type: ignore[arg-type]  # a class is hashable
        record.__dict__[name] = _like(about)
    for name in kind.measured:
        record.__dict__[name] = np.zeros(0)
    return weight(pack(record))


def _like(about: Any) -> Any:
    """A value whose serialised length is that of the values of this form."""
    if isinstance(about, int) and not isinstance(about, bool):  # bits of a whole number
        return (1 << abs(about) - 1) * (1 if about > 0 else -1) if about else 0
    if isinstance(about, tuple):
        kind, shape = about
        return np.zeros(shape, kind)
    return about
