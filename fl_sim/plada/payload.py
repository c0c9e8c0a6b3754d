"""The file that carries a task: a header of 48 bytes, the class names, the body and optional sections.

`docs/payload-format.md` gives the layout byte by byte. The header declares every size, so that a reader refuses what
is too large for it before any memory is taken, and ends with a checksum over everything else.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_sim.errors import FlSimError
from fl_sim.plada import codec, sections
from fl_sim.plada.container import CHECKSUM, checksum

MAGIC = b"PLDA"
VERSION = 1  # raise it when a change of this file or of the codec changes a payload's bytes
# Kept references that are believed of a header before its body is read: real payloads keep one or two in a byte; a run
# of neighbours of one class takes hardly any.
KEPT_IN_ANY_BODY, KEPT_IN_A_BYTE = 1 << 16, 1 << 12
LAYOUT = struct.Struct("<4sBB16sIIHIII")  # magic, version, flags, reference, N, k, C - 1, names, body, more
HEADER = LAYOUT.size + CHECKSUM  # 48
REFERENCE = 16  # bytes of the reference set's digest
HAS_ORDER, HAS_SOFT_LABELS = 1, 2  # bits of the flags byte; each says that a section follows the body
SECTION = struct.Struct("<I")  # a section's length, before it


@dataclass(frozen=True)
class Payload:
    """Labels over a reference set, packed.

    `reference` is the digest (16 bytes) of the reference set that the indices address; `body` is what
    `fl_sim.plada.codec` wrote; `order` and `soft_labels` are optional sections, as `fl_sim.plada.sections` wrote them.
    """

    reference: bytes
    class_names: tuple[str, ...]
    num_references: int
    num_kept: int
    body: bytes
    order: bytes | None = None
    soft_labels: bytes | None = None

    def __post_init__(self) -> None:
        if len(self.reference) != REFERENCE:
            raise FlSimError(f"a reference digest of {len(self.reference)} bytes: a payload carries {REFERENCE}")
        if not 1 <= len(self.class_names) <= codec.MOST_CLASSES:
            raise FlSimError(f"{len(self.class_names)} classes: a payload has 1 to {codec.MOST_CLASSES}")
        if len(self.class_names) > 1 and any("\n" in name for name in self.class_names):
            raise FlSimError("a class name holds a line break, which separates names in a payload")
        if not 0 <= self.num_kept <= self.num_references < codec.MOST_REFERENCES:
            raise FlSimError(
                f"{self.num_kept} kept of {self.num_references} references: a payload keeps at most all, and addresses "
                f"less than {codec.MOST_REFERENCES}"
            )

    @classmethod
    def pack(
        cls,
        indices: NDArray[np.int64],
        labels: NDArray[Any],
        *,
        reference: bytes,
        class_names: tuple[str, ...],
        num_references: int,
        groups: NDArray[np.int64] | None = None,
        levels: NDArray[Any] | None = None,
        num_levels: int | None = None,
        confidences: NDArray[Any] | None = None,
        bits: int = 4,
    ) -> Payload:
        """The payload of ascending indices (k,) and their labels (k,).

        `groups` as in `codec.encode`; `levels` (k,) of `num_levels` as in `sections.pack_levels`, `confidences` (k,) in
        2^`bits` steps as in `sections.pack_confidences`, each a section of its own if given.

        Raises:
            FlSimError: what one of these does not take.
        """
        body = codec.encode(indices, labels, num_references, len(class_names), groups)
        for what, values in (("curriculum levels", levels), ("confidences", confidences)):
            if values is not None and len(values) != len(indices):
                raise FlSimError(f"{len(values)} {what}: there is one for each of {len(indices)} kept references")
        order = soft_labels = None
        if levels is not None:
            assert num_levels is not None, "levels come with their number"
            order = sections.pack_levels(levels, num_levels, labels)
        if confidences is not None:
            soft_labels = sections.pack_confidences(confidences, bits, labels, len(class_names))
        return cls(reference, class_names, num_references, len(indices), body, order, soft_labels)

    def unpack(self, groups: NDArray[np.int64] | None = None) -> codec.Decoded:
        """(indices (k,) ascending, labels (k,)); `groups` as it was packed with.

        Raises:
            FlSimError: a body that no payload of these sizes has, or one that needs `groups` that were not given.
        """
        return codec.decode(self.body, self.num_references, self.num_kept, len(self.class_names), groups)

    def levels(self, labels: NDArray[Any]) -> tuple[NDArray[np.uint8], int] | None:
        """(when each kept image is shown (k,), 0 first; how many levels there are), or None where it is not told.

        `labels` (k,) are those that `unpack` gives.

        Raises:
            FlSimError: a section that is damaged.
        """
        return None if self.order is None else sections.unpack_levels(self.order, self.num_kept, labels)

    def confidences(self, labels: NDArray[Any]) -> NDArray[np.float32] | None:
        """How sure the teacher was of each label (k,), or None where it is not told; `labels` and errors as above."""
        if self.soft_labels is None:
            return None
        return sections.unpack_confidences(self.soft_labels, self.num_kept, len(self.class_names), labels)

    def for_reference(self, reference: bytes) -> None:
        """Check that a reference set is the one this payload addresses.

        Raises:
            FlSimError: it is another one; the message has both digests.
        """
        if reference != self.reference:
            raise FlSimError(
                f"the payload is for the reference set {self.reference.hex()}, and this one is {reference.hex()}: its "
                "indices would name other images"
            )

    def to_bytes(self) -> bytes:
        """The file."""
        names = "\n".join(self.class_names).encode()
        sections = [section for section in (self.order, self.soft_labels) if section is not None]
        more = b"".join(SECTION.pack(len(section)) + section for section in sections)
        flags = HAS_ORDER * (self.order is not None) | HAS_SOFT_LABELS * (self.soft_labels is not None)
        sizes = (self.num_references, self.num_kept, len(self.class_names) - 1, len(names), len(self.body), len(more))
        head = LAYOUT.pack(MAGIC, VERSION, flags, self.reference, *sizes)
        rest = names + self.body + more
        return head + checksum(head, rest) + rest

    def parts(self) -> dict[str, int]:
        """Bytes of each part of the file."""
        parts = {"header": HEADER, "class names": len("\n".join(self.class_names).encode()), "body": len(self.body)}
        sections = {"curriculum order": self.order, "soft labels": self.soft_labels}
        return parts | {name: SECTION.size + len(one) for name, one in sections.items() if one is not None}

    @classmethod
    def from_bytes(cls, data: bytes, *, most_references: int, most_kept: int | None) -> Payload:
        """The payload of a file, decoded no further than its parts.

        Args:
            data: the file's content.
            most_references: how many references the caller allows, e.g. as many as its own reference set has.
            most_kept: how many kept references the caller allows; None: as many as a body of this length is believed
                to hold, for memory and time are taken for as many as the header declares.

        Raises:
            FlSimError: not a payload, an unknown version, more declared than allowed, cut, or changed on the way.
        """
        if data[: len(MAGIC)] != MAGIC[: len(data)] or not data:
            raise FlSimError("this is not a payload: it does not begin with PLDA")
        if len(data) > len(MAGIC) and data[len(MAGIC)] != VERSION:
            raise FlSimError(f"the payload has version {data[len(MAGIC)]}; this program reads version {VERSION}")
        if len(data) < HEADER:
            raise FlSimError(f"the payload is cut: {len(data)} bytes, and its header alone has {HEADER}")
        _, _, flags, reference, references, num_kept, last_class, names, body, more = LAYOUT.unpack_from(data)
        believed = KEPT_IN_ANY_BODY + KEPT_IN_A_BYTE * body
        if most_kept is None and num_kept > believed:
            raise FlSimError(
                f"the payload declares {num_kept} kept in a body of {body} bytes, where at most {believed} are "
                "believed; say how many you allow (--most-kept) if you trust it"
            )
        most_kept = believed if most_kept is None else most_kept
        for what, declared, most in (("references", references, most_references), ("kept", num_kept, most_kept)):
            if declared > most:
                raise FlSimError(f"the payload declares {declared} {what}, and at most {most} are allowed here")
        declared = HEADER + names + body + more
        if len(data) != declared:
            how = "is cut" if len(data) < declared else "has bytes after its end"
            raise FlSimError(f"the payload {how}: {len(data)} bytes, and its header declares {declared}")
        rest = data[HEADER:]
        if data[LAYOUT.size : HEADER] != checksum(data[: LAYOUT.size], rest):
            raise FlSimError("the payload was changed on its way: its checksum does not fit")
        sections = _sections(flags, rest[names + body :])
        return cls(
            reference, _names(rest[:names], last_class + 1), references, num_kept, rest[names : names + body], *sections
        )


def _names(text: bytes, count: int) -> tuple[str, ...]:
    try:
        names = tuple(text.decode().split("\n")) if count > 1 else (text.decode(),)
    except UnicodeDecodeError:
        raise FlSimError("the payload's class names are not UTF-8") from None
    if len(names) != count:
        raise FlSimError(f"the payload declares {count} classes and names {len(names)}")
    return names


def _sections(flags: int, more: bytes) -> tuple[bytes | None, bytes | None]:
    if flags & ~(HAS_ORDER | HAS_SOFT_LABELS):
        raise FlSimError(f"the payload's flags {flags:#04x} ask for sections that this program does not know")
    parts: list[bytes | None] = []
    for flag in (HAS_ORDER, HAS_SOFT_LABELS):
        if not flags & flag:
            parts.append(None)
            continue
        size = SECTION.unpack_from(more)[0] if len(more) >= SECTION.size else len(more)
        section, more = more[SECTION.size : SECTION.size + size], more[SECTION.size + size :]
        if len(section) != size:
            raise FlSimError(f"the payload's optional sections are cut: {len(section)} bytes of {size}")
        parts.append(section)
    if more:
        raise FlSimError(f"the payload has {len(more)} bytes after its last section")
    return parts[0], parts[1]
