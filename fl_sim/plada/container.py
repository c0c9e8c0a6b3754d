"""The frame that the rivals of a payload travel in: a magic, a version, sizes in the clear, one Zstd-19 frame, a CRC.

10 bytes and the checksum's 4, the owner's own fixed fields, then the content under Zstd-19. The sizes stand outside
the compressed part, so that a reader refuses what is too large for it before any memory is taken.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from fl_sim.errors import FlSimError
from fl_sim.plada.baselines import LEVEL, unsqueezed

VERSION = 1
FIXED = struct.Struct("<4sBBI")  # magic, version, form, bytes of the content before Zstd
CHECKSUM = 4
MOST_CONTENT = (1 << 32) - 1
WINDOW = 1 << 23  # Zstd-19 looks no farther back, so a reader needs no larger window


@dataclass(frozen=True)
class Container:
    """A payload in its frame, whose checksum fits; its content is still under Zstd."""

    form: int  # 0 to 255, the owner's own
    head: bytes  # the owner's fixed fields
    size: int  # bytes of the content
    squeezed: bytes

    def content(self, most_bytes: int) -> bytes:
        """The content.

        Raises:
            FlSimError: more than `most_bytes` declared, or Zstd cannot read it, or it holds not the size declared.
        """
        if self.size > most_bytes:
            raise FlSimError(f"the payload declares {self.size} bytes of content, and at most {most_bytes} are allowed")
        return unsqueezed(self.squeezed, self.size, "the payload", WINDOW)


def sealed(magic: bytes, form: int, head: bytes, content: bytes) -> bytes:
    """The file of a payload; `magic` has 4 bytes.

    Raises:
        FlSimError: a content of 4 GiB or more.
    """
    import zstandard

    if len(content) > MOST_CONTENT:
        raise FlSimError(f"a payload of {len(content)} bytes before Zstd: it holds less than 4 GiB")
    settings = zstandard.ZstdCompressionParameters.from_level(
        LEVEL, format=zstandard.FORMAT_ZSTD1_MAGICLESS, write_content_size=False
    )
    squeezed = zstandard.ZstdCompressor(compression_params=settings).compress(content)
    start = FIXED.pack(magic, VERSION, form, len(content)) + head
    return start + checksum(start, squeezed) + squeezed


def opened(data: bytes, magic: bytes, head_size: int) -> Container:
    """The payload of a file, with `head_size` bytes of the owner's fixed fields; nothing is decompressed yet.

    Raises:
        FlSimError: another magic or version, a cut file, a checksum that does not fit.
    """
    start = FIXED.size + head_size
    if data[: len(magic)] != magic:
        raise FlSimError(f"this is not the payload meant: it does not begin with {magic.decode()}")
    if len(data) < start + CHECKSUM:
        raise FlSimError(f"the payload is cut: {len(data)} bytes, and its header alone has {start + CHECKSUM}")
    _, version, form, size = FIXED.unpack_from(data)
    if version != VERSION:
        raise FlSimError(f"the payload has version {version}; this program reads version {VERSION}")
    squeezed = data[start + CHECKSUM :]
    if data[start : start + CHECKSUM] != checksum(data[:start], squeezed):
        raise FlSimError("the payload was cut or changed on its way: its checksum does not fit")
    return Container(form, data[FIXED.size : start], size, squeezed)


def checksum(start: bytes, rest: bytes) -> bytes:
    """CRC-32: it misses no change within 32 neighbouring bits, and one in 2^32 of all others."""
    return zlib.crc32(rest, zlib.crc32(start)).to_bytes(CHECKSUM, "little")
