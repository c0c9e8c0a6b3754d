"""Files that users give: read where they are plain files, and as text in the encodings that editors write.

>>> decoded(b"\\xef\\xbb\\xbfa = 1\\r\\n"), decoded("ä".encode("utf-16"))
('a = 1\\n', 'ä')
"""

from __future__ import annotations

import codecs
import hashlib
from functools import lru_cache
from pathlib import Path

from fl_sim.errors import FlSimError

# The longer marks first: that of UTF-32 begins with that of UTF-16.
MARKS = (
    (codecs.BOM_UTF32_LE, None), (codecs.BOM_UTF32_BE, None), (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"), (b"", "utf-8"),
)  # fmt: skip


def content_of(path: Path) -> bytes:
    """The bytes of a plain file; nothing else is opened, because a pipe may never end.

    Raises:
        FlSimError: there is none, it is something else, or it may not be read.
    """
    try:
        if path.is_dir():
            raise FlSimError(f"{path}: cannot be read: is a folder; name a file")
        if path.exists() and not path.is_file():
            raise FlSimError(f"{path}: cannot be read: is a pipe or a device; save what comes out of it, and name that")
        return path.read_bytes()
    except OSError as error:
        raise FlSimError(f"{path}: cannot be read: {error.strerror or error}") from None


def text_of(path: Path) -> str:
    """The text of a plain file, in UTF-8, or in UTF-16 with its mark; lines end in newlines alone.

    Raises:
        FlSimError: from `content_of`, or it is in another encoding.
    """
    try:
        return decoded(content_of(path))
    except UnicodeError as error:
        raise FlSimError(f"{path}: cannot be read: is not in UTF-8 ({error}); save it in UTF-8") from None


def content_digest(path: Path) -> str:
    """A digest of a file's content, taken anew when its size or time has changed.

    Raises:
        FlSimError: it cannot be read.
    """
    try:
        status = path.stat()
        return _digest(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise FlSimError(f"{path}: cannot be read: {error.strerror or error}") from None


@lru_cache(maxsize=16)
def _digest(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def decoded(content: bytes) -> str:
    """The text of these bytes.

    Raises:
        UnicodeError: they are in another encoding.
    """
    mark, encoding = next((mark, encoding) for mark, encoding in MARKS if content.startswith(mark))
    if encoding is None:
        raise UnicodeError("it has the mark of UTF-32")
    text = content[len(mark) :].decode(encoding)
    return text.replace("\r\n", "\n").replace("\r", "\n")
