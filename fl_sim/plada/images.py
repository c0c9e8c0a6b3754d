"""A payload of labelled images: what a server sends that sends images themselves, in as few bytes as we can.

"A Dataset is Worth 1 MB", Kimchi Shoshani, Gabay, Hoshen, https://arxiv.org/abs/2602.23358, holds its payload against
target images as JPEG of quality 30, all of them together under Zstd-19. An image of 8x8 to 28x28 pixels is then mostly
headers, and a rival that pays for them would be no rival. So several forms are made and the smallest is kept, which is
never larger than the paper's:

- *jpeg files*: the paper's. One file after another; Zstd takes out most of the headers, which repeat.
- *jpeg sheet*: all images in one column of one JPEG, with Huffman tables made for it, baseline or progressive,
  whichever is smaller. Each is padded to whole DCT blocks (8, colour 16 pixels) by its edge: no block has two images.
- *png sheet*, *pixels*: lossless, all in one column of one PNG, or as they are; these win for a few tiny images.

Images go by class, so that labels cost one count a class. JPEG is PIL's: grey, or RGB with its default subsampling.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_sim.errors import FlSimError
from fl_sim.plada.baselines import smallest_type
from fl_sim.plada.container import opened, sealed

MAGIC = b"PLDI"
FORMS = ("jpeg files", "jpeg sheet", "png sheet", "pixels")  # a payload's form byte is the place in here
HEAD = struct.Struct("<IBHHH")  # images, channels, height, width, classes - 1
QUALITY = 30  # the paper's
MOST_CLASSES = 1 << 16
MOST_SIDE = 1 << 14  # pixels
SHEET_SIDE, SHEET_PIXELS = 65_500, 1 << 24  # JPEG allows the one, PIL warns of a bomb above four times the other
JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"

Images = NDArray[np.uint8]
Ints = NDArray[np.int64]


def pack_images(
    images: Images, labels: NDArray[Any], num_classes: int, quality: int = QUALITY, forms: Sequence[str] = FORMS
) -> bytes:
    """The payload of `images` uint8 (n, c, h, w), c 1 or 3, and their `labels` (n,), in the smallest of `forms`.

    Args:
        images: at least one.
        labels: below num_classes.
        num_classes: 1 to 65,536.
        quality: JPEG's, 1 to 95.
        forms: which of FORMS to try.

    Raises:
        FlSimError: images of another shape or type, or none; labels outside.
    """
    labels = np.asarray(labels, np.int64)
    _check(images, labels, num_classes)
    by_class = images[np.argsort(labels, kind="stable")].transpose(0, 2, 3, 1)
    counts = np.bincount(labels, minlength=num_classes).astype(smallest_type(len(labels))).tobytes()
    n, height, width, channels = by_class.shape
    head = HEAD.pack(n, channels, height, width, num_classes - 1)
    written = [(form, counts + way) for form in forms for way in _written(form, by_class, quality)]
    return min((sealed(MAGIC, FORMS.index(form), head, content) for form, content in written), key=len)


def unpack_images(data: bytes, *, most_images: int, most_bytes: int) -> tuple[Images, Ints]:
    """(images uint8 (n, c, h, w), labels int64 (n,)) of a payload, ordered by class.

    Args:
        data: the payload.
        most_images: how many images the caller allows.
        most_bytes: how many bytes of pixels the caller allows; compressed forms are allowed as much in proportion.

    Raises:
        FlSimError: not a payload of images, damaged, or larger than allowed.
    """
    container = opened(data, MAGIC, HEAD.size)
    n, channels, height, width, last_class = HEAD.unpack(container.head)
    pixels = n * channels * height * width
    if n > most_images:
        raise FlSimError(f"the payload declares {n} images, and at most {most_images} are allowed here")
    if pixels > most_bytes:
        raise FlSimError(f"the payload declares {pixels} bytes of pixels, and at most {most_bytes} are allowed here")
    if not n or channels not in (1, 3) or not (1 <= height <= MOST_SIDE and 1 <= width <= MOST_SIDE):
        raise FlSimError(f"the payload is damaged: {n} images of shape ({channels}, {height}, {width})")
    if container.form >= len(FORMS) or height * width > SHEET_PIXELS:
        raise FlSimError(f"the payload is damaged: form {container.form} of {height} x {width} pixels means nothing")
    kind = smallest_type(n)
    start = (last_class + 1) * kind.itemsize
    content = container.content(start + 4 * pixels + 4096 * n)  # JPEG's headers and padding: see the tests
    if len(content) < start:
        raise FlSimError(f"the payload is damaged: {len(content)} bytes are no counts of {last_class + 1} classes")
    counts = np.frombuffer(content, kind, last_class + 1).astype(np.int64)
    if counts.sum() != n:
        raise FlSimError(f"the payload is damaged: its classes have {counts.sum()} images, not {n}")
    images = _read(FORMS[container.form], content[start:], (n, height, width, channels))
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)), np.repeat(np.arange(last_class + 1), counts)


def form_of(data: bytes) -> str:
    """Which of FORMS a payload has."""
    return FORMS[opened(data, MAGIC, HEAD.size).form]


# ------------------------------------------------------------------------------------------- forms, images (n, h, w, c)


def _written(form: str, images: Images, quality: int) -> Iterator[bytes]:
    """The images in a form, or in each of the ways that it can be written."""
    if form == "pixels":
        yield images.tobytes()
    elif form == "jpeg files":
        yield b"".join(_saved(image, format="JPEG", quality=quality) for image in images)
    elif form == "png sheet":
        yield _lengthened(_saved(sheet, format="PNG", optimize=True) for sheet in _sheets(images, form))
    else:
        for progressive in (False, True):
            how = {"format": "JPEG", "quality": quality, "optimize": True, "progressive": progressive}
            yield _lengthened(_saved(sheet, **how) for sheet in _sheets(images, form))


def _read(form: str, content: bytes, shape: tuple[int, int, int, int]) -> Images:
    n, height, width, channels = shape
    if form == "pixels":
        if len(content) != n * height * width * channels:
            raise FlSimError(f"the payload is damaged: {len(content)} bytes of pixels for images {shape}")
        return np.frombuffer(content, np.uint8).reshape(shape)
    if form == "jpeg files":
        parts = [_opened(file, "JPEG", shape[1:]) for file in _files(content, n)]
        return np.stack(parts)
    down, across = _padded(shape, form)
    parts, per = [], _per_sheet(down, across)
    for start in range(0, n, per):
        size = int.from_bytes(content[:4], "little")
        count, sheet, content = min(per, n - start), content[4 : 4 + size], content[4 + size :]
        tiles = _opened(sheet, "PNG" if form == "png sheet" else "JPEG", (count * down, across, channels))
        parts.append(tiles.reshape(count, down, across, channels)[:, :height, :width].copy())  # not the padding
    if content:
        raise FlSimError(f"the payload is damaged: {len(content)} bytes after its last sheet")
    return np.concatenate(parts)


def _files(content: bytes, n: int) -> list[bytes]:
    """JPEG files that lie one after another. In a JPEG, 0xff of the image is followed by 0: no length is needed."""
    pieces = content.split(JPEG_END + JPEG_START, n)
    if len(pieces) != n:
        raise FlSimError(f"the payload is damaged: it holds not {n} JPEG files")
    last = n - 1
    return [JPEG_START * (i > 0) + piece + JPEG_END * (i < last) for i, piece in enumerate(pieces)]


def _padded(shape: tuple[int, ...], form: str) -> tuple[int, int]:
    """(height, width) of an image's place on a sheet; default chroma subsampling makes colour's blocks 16 pixels."""
    block = 1 if form == "png sheet" else (8 if shape[3] == 1 else 16)
    return -(-shape[1] // block) * block, -(-shape[2] // block) * block


def _per_sheet(down: int, across: int) -> int:
    return max(1, min(SHEET_SIDE // down, SHEET_PIXELS // (down * across)))


def _sheets(images: Images, form: str) -> Iterator[Images]:
    """Columns (count * down, across, c) of images (n, h, w, c)."""
    n, height, width, channels = images.shape
    down, across = _padded(images.shape, form)
    per = _per_sheet(down, across)
    for start in range(0, n, per):
        edges = ((0, 0), (0, down - height), (0, across - width), (0, 0))
        yield np.pad(images[start : start + per], edges, mode="edge").reshape(-1, across, channels)


def _lengthened(sheets: Iterator[bytes]) -> bytes:
    return b"".join(len(sheet).to_bytes(4, "little") + sheet for sheet in sheets)


def _saved(image: Images, **how: Any) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else np.ascontiguousarray(image)).save(file, **how)
    return file.getvalue()


def _opened(data: bytes, kind: str, shape: tuple[int, ...]) -> Images:
    """The image (h, w, c) of a file of that kind and shape."""
    from PIL import Image

    height, width, channels = shape
    try:
        with Image.open(io.BytesIO(data), formats=[kind]) as image:
            if image.size == (width, height) and image.mode == ("L" if channels == 1 else "RGB"):  # read lazily so far
                return np.asarray(image).reshape(shape)
            met = f"{image.mode} of {image.size}"
    except Exception as error:  # PIL has no error of its own: what a decoder meets comes as a dozen kinds
        met = type(error).__name__
    raise FlSimError(f"the payload is damaged: a {kind} of shape {shape} is meant, and there is {met}")


# ------------------------------------------------------------------------------------------------------------- checks


def _check(images: Images, labels: Ints, num_classes: int) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
        raise FlSimError(f"images {images.dtype} {images.shape}: a payload takes uint8 (n, 1 or 3, h, w), n at least 1")
    if max(images.shape[2:]) > MOST_SIDE or images.shape[2] * images.shape[3] > SHEET_PIXELS:
        raise FlSimError(f"images {images.shape}: a side has at most {MOST_SIDE} pixels, an image {SHEET_PIXELS}")
    if labels.shape != images.shape[:1]:
        raise FlSimError(f"images {images.shape} and labels {labels.shape}: there is one label an image")
    if not 1 <= num_classes <= MOST_CLASSES:
        raise FlSimError(f"{num_classes} classes: a payload has 1 to {MOST_CLASSES}")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise FlSimError(f"labels {labels.min()} to {labels.max()}: classes are 0 to {num_classes - 1}")
