"""Image folders of any size as a reference set: listed once, addressed by index, decoded when asked for.

The published order: folders by the bytes of their path below the root, '' first, and in each its images by the bytes
of their name. An image is a file with one of `named.IMAGE_ENDINGS`, its name not beginning with a dot; links are
followed.

The published picture of a file: its first frame, as stored (no turning by EXIF), alpha dropped, made RGB or, where one
channel is wanted, grey by ITU-R 601, then the whole of it resized to the square by Pillow's antialiased bilinear
filter. All of this is `decoded`.
"""

from __future__ import annotations

import hashlib
import io
import os
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_sim.data.named import IMAGE_ENDINGS, MODES
from fl_sim.errors import FlSimError
from fl_sim.store.artifacts import Arrays

ENDINGS = frozenset(ending.encode() for ending in IMAGE_ENDINGS)
MOST_THREADS = 16


@dataclass(frozen=True, eq=False)
class Listing:
    """The images under `root`, in the published order: image i is the file `paths[offsets[i] : offsets[i + 1]]`."""

    root: Path
    paths: NDArray[np.uint8]  # relative paths, one after the other
    offsets: NDArray[np.int64]  # (n + 1,)
    sizes: NDArray[np.int64]  # (n,), bytes of each file when it was listed

    def __len__(self) -> int:
        return len(self.sizes)

    def arrays(self) -> Arrays:
        """As they are stored."""
        return {"paths": self.paths, "offsets": self.offsets, "sizes": self.sizes}

    def digest(self) -> bytes:
        """32 bytes that identify the relative paths, their order and the files' sizes, wherever the folder lies."""
        whole = hashlib.sha256()
        for one in (self.offsets.astype("<i8"), self.paths, self.sizes.astype("<i8")):
            whole.update(hashlib.sha256(one.data).digest())
        return whole.digest()

    def path(self, index: int) -> Path:
        """Of an image."""
        first, last = self.offsets[index : index + 2]
        return self.root / os.fsdecode(self.paths[first:last].tobytes())

    def images(self, rows: NDArray[np.int64], shape: tuple[int, int, int]) -> NDArray[np.uint8]:
        """(k, *shape) of the images `rows` (k,), decoded by several threads."""
        with ThreadPoolExecutor(_threads()) as pool:
            return self._begin(pool, rows, shape)()

    def blocks(self, size: int, shape: tuple[int, int, int]) -> Iterator[tuple[slice, NDArray[np.uint8]]]:
        """All images in order, `size` at a time; while one block is used the next is decoded."""
        pool = ThreadPoolExecutor(_threads())
        try:
            spans = [slice(start, min(start + size, len(self))) for start in range(0, len(self), size)]
            ahead = self._begin(pool, np.r_[spans[0]], shape)
            for span, following in zip(spans, [*spans[1:], None], strict=True):
                block = ahead()
                if following is not None:
                    ahead = self._begin(pool, np.r_[following], shape)
                yield span, block
        finally:
            pool.shutdown(cancel_futures=True)  # of a reader that stops half-way too

    def _begin(
        self, pool: ThreadPoolExecutor, rows: NDArray[np.int64], shape: tuple[int, int, int]
    ) -> Callable[[], NDArray[np.uint8]]:
        """Give the pool its work; what is returned waits for it."""
        out = np.empty((len(rows), *shape), np.uint8)

        def one(place: int) -> None:
            row = int(rows[place])
            out[place] = decoded(self.path(row), shape, int(self.sizes[row]))

        done = pool.map(one, range(len(rows)))

        def finished() -> NDArray[np.uint8]:
            for _ in done:  # raises what a thread has raised
                pass
            return out

        return finished


def listed(root: Path) -> tuple[Listing, NDArray[np.int64]]:
    """The images under `root`, and where in the listing each folder that holds some begins (G,).

    It takes as much memory as the paths and 16 bytes a file; the names of one folder at a time are held twice.

    Raises:
        FlSimError: no image at all, a link in a circle, or a folder that cannot be read.
    """
    paths, offsets, sizes, groups = bytearray(), array("q", [0]), array("q"), array("q")
    try:
        for folder in sorted(folder for folder, _, _ in _folders(root)):
            images = sorted(_images_in(_below(os.fsencode(root), folder)))
            if images:
                groups.append(len(sizes))
            for name, size in images:
                paths += _below(folder, name)
                offsets.append(len(paths))
                sizes.append(size)
    except OSError as error:
        raise _unlisted(root, error) from error
    if not sizes:
        raise FlSimError(
            f"reference.sets: image-folder:{root} holds no images ({', '.join(sorted(IMAGE_ENDINGS))}); put some "
            "there, in folders"
        )
    listing = Listing(root, np.frombuffer(paths, np.uint8), np.array(offsets, np.int64), np.array(sizes, np.int64))
    return listing, np.array(groups, np.int64)


def fingerprint(root: Path) -> str:
    """Hex digest of the folders under `root`: their names, times and how many entries each has; no file is looked at.

    A file that is overwritten in place leaves it as it is; `decoded` refuses one whose size has changed.
    """
    whole = hashlib.sha256()
    try:
        for folder, changed, entries in sorted(_folders(root)):
            whole.update(folder + b"\0%d %d\0" % (changed, entries))
    except OSError as error:
        raise _unlisted(root, error) from error
    return whole.hexdigest()


def decoded(path: Path, shape: tuple[int, int, int], size: int) -> NDArray[np.uint8]:
    """The image in a file of `size` bytes, uint8 of `shape` (1 or 3, side, side), as the module says.

    Raises:
        FlSimError: the file is gone, has another size, or is no whole image of 8 bits a channel.
    """
    from PIL import Image

    changed = "its folder has changed since it was listed: put it back, or touch the folder to have it listed anew"
    try:
        content = path.read_bytes()
    except OSError as error:
        everywhere = "; every machine of a cluster needs it at this path"
        raise FlSimError(f"image {path} cannot be read ({error.strerror}); {changed}{everywhere}") from error
    if len(content) != size:
        raise FlSimError(f"image {path} has {len(content)} bytes, and had {size}; {changed}")
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.mode not in MODES:
                raise ValueError(f"its mode is {image.mode}, and 8 bits a channel are needed")
            alpha = image.convert("RGBA") if "transparency" in image.info else image  # Pillow warns of the direct way
            plain = alpha.convert("L" if shape[0] == 1 else "RGB")
            pixels: NDArray[Any] = np.asarray(plain.resize((shape[2], shape[1]), Image.Resampling.BILINEAR))
    except Exception as error:  # Pillow's readers raise whatever they stumble over
        raise FlSimError(f"image {path} cannot be decoded ({error}); replace it, or take it out of there") from error
    return pixels[None] if shape[0] == 1 else pixels.transpose(2, 0, 1)


def _folders(root: Path) -> Iterator[tuple[bytes, int, int]]:
    """(path below root, time of the last change in ns, number of entries) of `root` and all folders below it."""
    base, waiting, met = os.fsencode(root), [b""], set()
    while waiting:
        folder = waiting.pop()
        stat = Path(os.fsdecode(_below(base, folder))).stat()
        if (stat.st_dev, stat.st_ino) in met:
            raise FlSimError(
                f"reference.sets: image-folder:{root} holds the folder {os.fsdecode(folder)} twice, by a link; "
                "remove the link"
            )
        met.add((stat.st_dev, stat.st_ino))
        entries = 0
        with os.scandir(_below(base, folder)) as inside:
            for entry in inside:
                entries += 1
                if entry.is_dir():
                    waiting.append(_below(folder, entry.name))
        yield folder, stat.st_mtime_ns, entries


def _images_in(folder: bytes) -> Iterator[tuple[bytes, int]]:
    with os.scandir(folder) as inside:
        for entry in inside:
            if _is_image(entry.name) and not entry.is_dir():
                yield entry.name, entry.stat().st_size


def _is_image(name: bytes) -> bool:
    _, dot, ending = name.rpartition(b".")
    return (dot + ending).lower() in ENDINGS and not name.startswith(b".")


def _below(folder: bytes, name: bytes) -> bytes:
    # Bytes, not Path: names need not be text, and there may be millions.
    return folder + b"/" + name if folder and name else folder + name


def _unlisted(root: Path, error: OSError) -> FlSimError:
    where = os.fsdecode(error.filename) if error.filename else root
    return FlSimError(f"reference.sets: image-folder:{root} cannot be listed: {where}: {error.strerror}")


def _threads() -> int:
    return min(os.cpu_count() or 1, MOST_THREADS)
