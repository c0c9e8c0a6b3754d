"""Reference sets: images without labels, in a published order, that both ends hold, so that an index names an image.

Their content is made once, at the size that is asked for, and lies in the artifact store: arrays memory-mapped, image
folders (`fl_sim/data/folders.py`) as a listing alone.

The digest, which a payload carries, is the first 16 bytes of SHA-256 over the word `fl-sim reference 1`, the shape
(three int64, little-endian), and for each set: one byte, its number of images (int64), 32 bytes for its content, and
the SHA-256 of its groups' starts (int64, counted in the set). The byte is `A` for an array, whose content is the
SHA-256 of its own channels, height and width (int64) and its uint8 pixels, in order, before they are converted: the
last bit of a resized pixel may depend on a machine's arithmetic. It is `F` for an image folder, whose content is that
of its relative paths and file sizes (`Listing.digest`); the files are not read for it, because there may be 14
million, and that they are the same images is their owner's word. Names and places are no part of the digest, and
groups are, because the codec uses them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_sim.data.datasets import KNOWN, describe, load
from fl_sim.data.folders import Listing, fingerprint, listed
from fl_sim.data.images import as_shape
from fl_sim.data.source import versions
from fl_sim.errors import DataNotAtHandError, FlSimError, ScenarioError
from fl_sim.store.artifacts import Arrays, Artifact, Store, digest

VERSION = 1  # raise it when a change here changes what is stored
WORD = b"fl-sim reference 1"  # begins the digest: another rule gets another number
FOLDER = "image-folder:"
CHUNK = 1024  # images converted at a time

Shape = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Reference:
    """Reference images 0 .. len - 1: one set after the other."""

    key: str  # in the artifact store; made of names and fingerprints, without reading the content
    digest: bytes  # 16: identifies content and order, the same wherever the content is
    sets: tuple[str, ...]
    starts: NDArray[np.int64]  # (S + 1,), the first index of each set, and the number of all
    groups: NDArray[np.int64]  # (G,), ascending from 0: where fonts, sets and folders begin; for the codec
    shape: Shape  # channels, height and width of every image
    _parts: tuple[NDArray[np.uint8] | Listing, ...] = field(repr=False)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def images(self, indices: Sequence[int] | NDArray[Any]) -> NDArray[np.uint8]:
        """Copies (k, c, h, w) of the images `indices` (k,), in their order; memory is taken for these alone.

        Raises:
            FlSimError: an index outside, or a file of an image folder that is gone, changed or damaged.
        """
        rows = np.asarray(indices)
        if rows.size and not 0 <= rows.min() <= rows.max() < len(self):
            raise FlSimError(f"reference indices {rows.min()}..{rows.max()}: must lie in 0..{len(self) - 1}")
        rows = rows.astype(np.int64)
        of_set = np.searchsorted(self.starts, rows, side="right") - 1
        out = np.empty((len(rows), *self.shape), np.uint8)
        for number, part in enumerate(self._parts):
            mine = np.flatnonzero(of_set == number)
            if len(mine):
                inside = rows[mine] - self.starts[number]
                out[mine] = part.images(inside, self.shape) if isinstance(part, Listing) else part[inside]
        return out

    def blocks(self, size: int) -> Iterator[tuple[slice, NDArray[np.uint8]]]:
        """All images in order: (their indices, images (m, c, h, w)) with m <= size; a block never spans two sets.

        Of arrays they are read-only views of the memory-mapped file; of folders they are decoded by several threads,
        the next block while one is used, so that about two are in memory.
        """
        if size < 1:
            raise ValueError(f"size = {size}: must be at least 1")
        for first, part in zip(self.starts.tolist(), self._parts, strict=False):
            for span, images in part.blocks(size, self.shape) if isinstance(part, Listing) else _views(part, size):
                yield slice(first + span.start, first + span.stop), images


def check_sets(sets: Sequence[str]) -> None:
    """Refuse a list of names that no reference set can be made of; nothing is loaded.

    Raises:
        ScenarioError: none, one that is unknown, labelled and generated, of features or the user's own, or two that
            hold the same images.
    """
    if not sets:
        raise ScenarioError("reference.sets: [] names none; name at least one set, for instance glyphs-pool")
    for number, name in enumerate(sets):
        _check_set(name)
        for earlier in sets[:number]:
            if _share(name, earlier):
                how = "stands there twice" if name == earlier else f"holds images of {earlier}, which stands there too"
                raise ScenarioError(f"reference.sets: {name} {how}; every image may be there once")


def missing(sets: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    """(name, commands that get it) of every set that is not on this machine."""
    lacking: list[tuple[str, tuple[str, ...]]] = []
    for name in sets:
        if name.startswith(FOLDER):
            folder = _folder(name)
            if not folder.is_dir():
                lacking.append((name, (f"mkdir -p {folder}   # and put the images there, in folders",)))
        elif not (source := describe(name, "reference.sets")).at_hand():
            lacking.append((name, source.to_get))
    return lacking


def overlaps(data_name: str, sets: Sequence[str]) -> str | None:
    """Why labelled data and reference sets may not go together: the first set that holds images that rows of the data
    are, or are made of, in a sentence; None if there is none.

    MNIST and EMNIST count as sharing images: both are made of NIST's Special Database 19. Of a user's own dataset
    nothing is known.
    """
    nist = {"mnist", "emnist"}
    for name in sets:
        bases = {data_name.partition(":")[0], name.partition(":")[0]}
        if _share(data_name, name) or bases == nist:
            return (
                f"reference.sets holds {name!r}, and rows of data.name = {data_name!r} are drawn from the same images: "
                f"what is tested would have been seen; {_instead(data_name, name)}"
            )
    return None


def fingerprints(sets: Sequence[str]) -> list[list[str]]:
    """Name and a word that changes when the content behind it may have, of each set; no image is read for it."""
    return [
        [name, _folder_print(name) if name.startswith(FOLDER) else describe(name, "reference.sets").fingerprint()]
        for name in sets
    ]


def _folder_print(name: str) -> str:
    folder = _folder(name)
    return fingerprint(folder) if folder.is_dir() else ""  # `missing` says what to do about that


def refer(sets: Sequence[str], shape: Shape, store: Store) -> Reference:
    """The reference set of those names, every image as `shape` (1 or 3, side, side); from the store or made now.

    Grey becomes colour by repetition, colour grey by ITU-R 601; other sizes are resized, antialiased bilinear; the
    glyph pools are drawn at the size itself. About one set is in memory while it is made, of a folder its listing.

    Raises:
        ScenarioError: from `check_sets`, or a shape that is no square of 1 or 3 channels.
        DataNotAtHandError: with the commands that get what is missing.
        FlSimError: an image folder without images, or the store is full.
    """
    check_sets(sets)
    if shape[0] not in (1, 3) or shape[1] != shape[2] or shape[1] < 1:
        raise ScenarioError(
            f"reference images of shape {shape} (channels, height, width): must be squares of 1 or 3 channels; "
            "set data.image_size"
        )
    for name, commands in missing(sets):
        lines = "".join(f"\n    {command}" for command in commands)
        raise DataNotAtHandError(f"reference.sets: {name} is not on this machine; get it with{lines}")
    # The place too, because a relative path means another folder elsewhere.
    places = [str(_folder(name).resolve()) for name in sets if name.startswith(FOLDER)]
    key = digest(sets=fingerprints(sets), places=places, shape=list(shape), version=VERSION, torch=versions("torch"))
    if not store.has("reference", key):
        with store.scratch() as scratch:
            store.ensure("reference", key, lambda: _make(tuple(sets), shape, scratch))
    return open_reference(store, key)


def open_reference(store: Store, key: str) -> Reference:
    """A reference set that is in the store, memory-mapped.

    Raises:
        FlSimError: it is not there.
    """
    artifact = store.open("reference", key)
    meta, arrays = artifact.meta, artifact.arrays
    parts: list[NDArray[np.uint8] | Listing] = []
    for number, folder in enumerate(meta["folders"]):
        if folder is None:
            parts.append(arrays[f"images-{number}"])
        else:
            parts.append(Listing(Path(folder), *(arrays[f"{name}-{number}"] for name in ("paths", "offsets", "sizes"))))
    channels, height, width = meta["shape"]
    return Reference(
        key, bytes.fromhex(meta["digest"]), tuple(meta["sets"]), arrays["starts"], arrays["groups"],
        (channels, height, width), tuple(parts),
    )  # fmt: skip


def _check_set(name: str) -> None:
    if name.startswith(FOLDER):
        if name == FOLDER:
            raise ScenarioError(f"reference.sets: {name!r} names no folder; write {FOLDER}PATH")
        return
    source = describe(name, "reference.sets")
    if source.task == "regression":
        raise ScenarioError(f"reference.sets: {name} has features, and a reference set is of images; choose images")
    if source.origin == "generated" and source.pool is None:
        raise ScenarioError(f"reference.sets: {name} is made anew for each seed, in no fixed order; use glyphs-pool")
    if source.task is None:
        raise ScenarioError(
            f"reference.sets: {name} is a dataset of your own, whose order is not published; save its images as files "
            f"and name {FOLDER}PATH"
        )


def _share(name: str, other: str) -> bool:
    """Whether the two hold, or are drawn from, some of the same images."""
    if name.startswith(FOLDER) and other.startswith(FOLDER):
        one, two = _folder(name), _folder(other)
        return one.is_relative_to(two) or two.is_relative_to(one)
    mine, others = (KNOWN[one].pieces if one in KNOWN else {one} for one in (name, other))
    return bool(mine & others)


def _instead(data_name: str, name: str) -> str:
    base = data_name.partition(":")[0]
    if name.startswith("glyphs-pool"):
        return "use glyphs-pool:seen with unseen-letters, or other sets"
    if base == name.partition(":")[0] and base in KNOWN and KNOWN[base].parts:
        return f"use {base}:unlabelled with {base}:labelled, or other sets"
    return "use other sets"


def _folder(name: str) -> Path:
    return Path(name.removeprefix(FOLDER)).expanduser().resolve()


def _views(images: NDArray[np.uint8], size: int) -> Iterator[tuple[slice, NDArray[np.uint8]]]:
    for start in range(0, len(images), size):
        block = images[start : start + size]
        yield slice(start, start + len(block)), block


def _make(sets: tuple[str, ...], shape: Shape, scratch: Path) -> Artifact:
    whole = hashlib.sha256(WORD + np.array(shape, "<i8").tobytes())
    arrays: Arrays = {}
    starts, groups = [0], []
    folders: list[str | None] = []
    for number, name in enumerate(sets):
        if name.startswith(FOLDER):
            folder = _folder(name)
            listing, begins = listed(folder)
            arrays |= {f"{part}-{number}": array for part, array in listing.arrays().items()}
            count, kind, content = len(listing), b"F", listing.digest()
            folders.append(str(folder))
        else:
            images, begins = _images(name, shape[1])
            arrays[f"images-{number}"], content = _converted(images, shape, scratch / f"{number}.npy")
            count, kind = len(images), b"A"
            del images  # before the next set is read
            folders.append(None)
        of_groups = hashlib.sha256(begins.astype("<i8").tobytes()).digest()
        whole.update(kind + np.int64(count).astype("<i8").tobytes() + content + of_groups)
        groups.append(begins + starts[-1])
        starts.append(starts[-1] + count)
    arrays |= {"starts": np.array(starts, np.int64), "groups": np.concatenate(groups)}
    meta = {"sets": list(sets), "shape": list(shape), "digest": whole.hexdigest()[:32], "folders": folders}
    return Artifact(arrays, meta)


def _images(name: str, side: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """A set's images as it has them (n, channels, height, width), and where its groups begin."""
    pool = describe(name, "reference.sets").pool
    if pool is not None:
        return pool(side)
    return load(name, count=0, image_size=None, seed=0).inputs, np.zeros(1, np.int64)


def _converted(images: NDArray[np.uint8], shape: Shape, file: Path) -> tuple[NDArray[np.uint8], bytes]:
    """The images as `shape`, written to `file` a chunk at a time and memory-mapped; and their content's SHA-256."""
    content = hashlib.sha256(np.array(images.shape[1:], "<i8").tobytes())
    try:
        with file.open("wb") as out:
            header = {"descr": "|u1", "fortran_order": False, "shape": (len(images), *shape)}
            np.lib.format.write_array_header_2_0(out, header)
            for start in range(0, len(images), CHUNK):
                chunk = np.ascontiguousarray(images[start : start + CHUNK])
                content.update(chunk.data)
                out.write(as_shape(chunk, shape).data)
    except OSError as error:
        raise FlSimError(
            f"the artifact store cannot be written: {error}; free some space, or choose another with --store"
        ) from error
    mapped: NDArray[np.uint8] = np.load(file, mmap_mode="r")
    return mapped, content.digest()
