"""Fashion-MNIST, which is also read where Debian's package dataset-fashion-mnist puts it."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np

from fl_sim.data.source import Dataset
from fl_sim.data.vision import IDX_NAMES, LocalCopy, VisionSet, idx_files
from fl_sim.errors import FlSimError

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def read_idx(path: Path) -> np.ndarray:
    """The uint8 array in a gzipped idx file (Le Cun's format), shaped as its header says; or FlSimError."""
    try:
        content = gzip.decompress(path.read_bytes())
        zeros, kind, num_axes = content[:2], content[2], content[3]
        shape = np.frombuffer(content, ">u4", num_axes, 4)
        if zeros != b"\0\0" or kind != 8:
            raise ValueError("its header is not that of unsigned bytes")
        return np.frombuffer(content, np.uint8, offset=4 + 4 * num_axes).reshape(shape).copy()
    except (OSError, EOFError, IndexError, ValueError, zlib.error) as error:
        raise FlSimError(f"{path} cannot be read as a gzipped idx file: {error}; install it again") from error


def _debian_at_hand() -> bool:
    return all((DEBIAN / f"{name}.gz").is_file() for name in IDX_NAMES)


def _read_debian() -> Dataset:
    from torchvision.datasets import FashionMNIST

    arrays = [read_idx(DEBIAN / f"{name}.gz") for name in IDX_NAMES]
    pixels, labels = np.concatenate(arrays[0::2])[:, None], np.concatenate(arrays[1::2]).astype(np.int64)
    return Dataset(pixels, labels, tuple(FashionMNIST.classes), num_official_test=len(arrays[3]))


images = VisionSet(
    "fashion-mnist",
    "FashionMNIST",
    idx_files("FashionMNIST"),
    elsewhere=LocalCopy(_debian_at_hand, _read_debian, "apt-get install dataset-fashion-mnist   # Debian, Ubuntu"),
)
source = images.source("ten kinds of clothes, 28 x 28 grey")
labelled, unlabelled = source.parts  # listed too; the others' are alike, and a list would hardly end
