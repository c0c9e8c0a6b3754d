"""The image sets of torchvision, read from disk; only `fetch` ever downloads.

They lie under `source.data_root()`. Fashion-MNIST is also read where Debian's package dataset-fashion-mnist
puts it.

Each comes also in two parts that share no image: `NAME:labelled` is the first sixth of its publisher's training
images (rounded down; 10,000 of Fashion-MNIST's) and its whole test set; `NAME:unlabelled` is its other training
images, in the publisher's order. Both read the files of NAME.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np

from fl_sim.data.source import Dataset, Source, damaged, data_root
from fl_sim.errors import FlSimError, ScenarioError

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
LABELLED = 6  # one of so many training images is in NAME:labelled
IDX_NAMES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))


@dataclass(frozen=True)
class _Vision:
    """One of torchvision's classes: how its two parts are built, and its files under the data root."""

    class_name: str
    about: str
    num_train: int
    num_test: int
    parts: tuple[dict[str, Any], dict[str, Any]]
    files: tuple[str, ...]


def _mnist_like(class_name: str, about: str) -> _Vision:
    files = tuple(f"{class_name}/raw/{name}" for name in IDX_NAMES)
    return _Vision(class_name, about, 60_000, 10_000, ({"train": True}, {"train": False}), files)


def _cifar(class_name: str, about: str, folder: str, files: tuple[str, ...]) -> _Vision:
    paths = tuple(f"{folder}/{name}" for name in files)
    return _Vision(class_name, about, 50_000, 10_000, ({"train": True}, {"train": False}), paths)


VISION = {
    "mnist": _mnist_like("MNIST", "handwritten digits, 28 x 28 grey"),
    "fashion-mnist": _mnist_like("FashionMNIST", "ten kinds of clothes, 28 x 28 grey"),
    "kmnist": _mnist_like("KMNIST", "ten cursive Japanese characters, 28 x 28 grey"),
    "emnist": _Vision(
        "EMNIST",
        "handwritten letters and digits, 47 classes (the balanced split), 28 x 28 grey",
        112_800,
        18_800,
        ({"train": True, "split": "balanced"}, {"train": False, "split": "balanced"}),
        tuple(
            f"EMNIST/raw/emnist-balanced-{part}-{kind}-ubyte"
            for part in ("train", "test")
            for kind in ("images-idx3", "labels-idx1")
        ),
    ),
    "cifar10": _cifar(
        "CIFAR10",
        "ten kinds of objects, 32 x 32 colour",
        "cifar-10-batches-py",
        (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"),
    ),
    "cifar100": _cifar(
        "CIFAR100",
        "a hundred kinds of objects, 32 x 32 colour",
        "cifar-100-python",
        ("train", "test", "meta"),
    ),
    "svhn": _Vision(
        "SVHN",
        "house numbers in street photographs, 32 x 32 colour",
        73_257,
        26_032,
        ({"split": "train"}, {"split": "test"}),
        ("train_32x32.mat", "test_32x32.mat"),
    ),
}


def sources() -> list[Source]:
    """Every dataset of this file, and the parts of one; the others' are alike, and a list would hardly end."""
    shown = {"fashion-mnist": splits("fashion-mnist")}
    return [source for name, spec in VISION.items() for source in (_source(name, spec), *shown.get(name, ()))]


def splits(name: str) -> tuple[Source, Source]:
    """`NAME:labelled` and `NAME:unlabelled` of one of `VISION`."""
    spec = VISION[name]
    labelled, whole = spec.num_train // LABELLED, _source(name, spec)
    return (
        replace(
            whole,
            name=f"{name}:labelled",
            about=f"its first {labelled:,} training images, and its test set",
            capacity=labelled + spec.num_test,
            read=partial(_read_labelled, name),
        ),
        replace(
            whole,
            name=f"{name}:unlabelled",
            task="unlabelled",
            about=f"its other {spec.num_train - labelled:,} training images, for reference sets",
            capacity=spec.num_train - labelled,
            num_official_test=0,
            num_classes=None,
            read=partial(_refuse_unlabelled, name),
        ),
    )


def unlabelled(name: str) -> np.ndarray:
    """The images of `NAME:unlabelled`, uint8 (n, channels, height, width), which must be at hand."""
    whole = _read(name, 0, None, 0)
    num_train = len(whole.inputs) - whole.num_official_test
    return whole.inputs[num_train // LABELLED : num_train]


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


def _source(name: str, spec: _Vision) -> Source:
    debian = ("apt-get install dataset-fashion-mnist   # Debian, Ubuntu",) if name == "fashion-mnist" else ()
    return Source(
        name,
        "classification",
        spec.about,
        "download",
        capacity=spec.num_train + spec.num_test,
        num_official_test=spec.num_test,
        num_classes={"emnist": 47, "cifar100": 100}.get(name, 10),
        read=partial(_read, name),
        at_hand=lambda: _downloaded(spec) or (name == "fashion-mnist" and _debian_at_hand()),
        to_get=(f"fl-sim data get {name}", *debian),
        fetch=partial(_fetch, spec),
    )


def _downloaded(spec: _Vision) -> bool:
    return all((data_root() / file).is_file() for file in spec.files)


def _debian_at_hand() -> bool:
    return all((DEBIAN_FASHION_MNIST / f"{name}.gz").is_file() for name in IDX_NAMES)


def _read(name: str, _count: int, _image_size: int | None, _seed: int) -> Dataset:
    spec = VISION[name]
    if not _downloaded(spec):
        return _read_debian(spec)  # `datasets.load` has seen that it is at hand, so it can only be there
    try:
        train, test = (_build(spec, part, download=False) for part in spec.parts)
        images = np.concatenate([_images(train), _images(test)])
        if name == "emnist":
            images = np.ascontiguousarray(images.swapaxes(2, 3))  # its publisher stored columns as rows
        labels = np.concatenate([_labels(train), _labels(test)])
        return Dataset(images, labels, _classes(train), num_official_test=len(_labels(test)))
    except Exception as error:  # what a damaged file makes torchvision raise is of many kinds
        places = sorted({str(data_root() / file.split("/")[0]) for file in spec.files})
        raise damaged(name, ", ".join(places), error) from error


def _read_labelled(name: str, _count: int, _image_size: int | None, _seed: int) -> Dataset:
    whole = _read(name, 0, None, 0)
    num_train = len(whole.inputs) - whole.num_official_test
    rows = np.r_[: num_train // LABELLED, num_train : len(whole.inputs)]
    return Dataset(whole.inputs[rows], whole.targets[rows], whole.classes, whole.num_official_test)


def _refuse_unlabelled(name: str, _count: int, _image_size: int | None, _seed: int) -> Dataset:
    raise ScenarioError(
        f"data.name: {name}:unlabelled has no labels; name it among [reference] sets, or use {name}:labelled, which "
        "has them"
    )


def _read_debian(spec: _Vision) -> Dataset:
    import torchvision

    arrays = [read_idx(DEBIAN_FASHION_MNIST / f"{name}.gz") for name in IDX_NAMES]
    images, labels = np.concatenate(arrays[0::2])[:, None], np.concatenate(arrays[1::2]).astype(np.int64)
    classes = tuple(getattr(torchvision.datasets, spec.class_name).classes)
    return Dataset(images, labels, classes, num_official_test=len(arrays[3]))


def _build(spec: _Vision, part: dict[str, Any], download: bool) -> Any:
    import torchvision

    factory: Callable[..., Any] = getattr(torchvision.datasets, spec.class_name)
    return factory(root=str(data_root()), download=download, **part)


def _images(part: Any) -> np.ndarray:
    """uint8 (n, channels, height, width) from torchvision's (n, h, w), (n, h, w, 3) or (n, 3, h, w)."""
    data = np.asarray(part.data)
    if data.ndim == 3:
        return data[:, None]
    return np.ascontiguousarray(data if data.shape[1] == 3 else data.transpose(0, 3, 1, 2))


def _labels(part: Any) -> np.ndarray:
    return np.asarray(part.labels if hasattr(part, "labels") else part.targets).astype(np.int64)


def _classes(part: Any) -> tuple[str, ...]:
    return tuple(getattr(part, "classes", "0123456789"))  # SVHN alone names none: its classes are the digits


def _fetch(spec: _Vision) -> None:
    root = data_root()
    try:
        root.mkdir(parents=True, exist_ok=True)
        for part in spec.parts:
            _build(spec, part, download=True)
    except (URLError, RuntimeError, OSError) as error:
        raise FlSimError(
            f"{spec.class_name} could not be downloaded to {root}: {error}\n"
            "Check the network (a proxy is set by HTTPS_PROXY) and the folder, then try again."
        ) from error
