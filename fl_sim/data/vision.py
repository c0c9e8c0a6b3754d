"""The image sets of torchvision, read from disk; only `fetch` ever downloads.

They lie under `source.data_root()`.

Each comes also in two parts that share no image: `NAME:labelled` is the first sixth of its publisher's training
images (rounded down; 10,000 of Fashion-MNIST's) and its whole test set; `NAME:unlabelled` is its other training
images, in the publisher's order. Both read the files of NAME.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple
from urllib.error import URLError

import numpy as np

from fl_sim.data.source import Dataset, Source, damaged, data_root
from fl_sim.errors import FlSimError

LABELLED = 6  # one of so many training images is in NAME:labelled
IDX_NAMES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
SPLITS = ({"train": True}, {"train": False})


class LocalCopy(NamedTuple):
    """Where a set may lie too, and how it is read there."""

    at_hand: Callable[[], bool]
    read: Callable[[], Dataset]
    to_get: str  # the command that puts it there


@dataclass(frozen=True)
class VisionSet:
    """One of torchvision's classes: how its two parts are built, and its files under the data root."""

    name: str
    class_name: str
    files: tuple[str, ...]
    num_train: int = 60_000
    num_test: int = 10_000
    num_classes: int = 10
    parts: tuple[dict[str, Any], dict[str, Any]] = SPLITS
    columns_first: bool = False  # its publisher stored columns as rows
    elsewhere: LocalCopy | None = None

    def source(self, about: str) -> Source:
        """The whole set, with its two parts."""
        first, name = self.num_train // LABELLED, self.name
        whole = Source(
            name,
            "classification",
            about,
            "download",
            lambda *_: self.read(),
            capacity=self.num_train + self.num_test,
            num_official_test=self.num_test,
            num_classes=self.num_classes,
            at_hand=self.at_hand,
            to_get=(f"fl-sim data get {name}", *([self.elsewhere.to_get] if self.elsewhere else [])),
            fetch=self.fetch,
        )
        labelled = replace(
            whole,
            name=f"{name}:labelled",
            about=f"its first {first:,} training images, and its test set",
            capacity=first + self.num_test,
            read=lambda *_: self.labelled(),
        )
        unlabelled = replace(
            whole,
            name=f"{name}:unlabelled",
            task="unlabelled",
            about=f"its other {self.num_train - first:,} training images, for reference sets",
            capacity=self.num_train - first,
            num_official_test=0,
            num_classes=None,
            read=None,
            pool=lambda _side: (self.unlabelled(), np.zeros(1, np.int64)),
        )
        return replace(whole, parts=(labelled, unlabelled))

    def at_hand(self) -> bool:
        """Whether all of its files are here."""
        return self._downloaded() or (self.elsewhere is not None and self.elsewhere.at_hand())

    def _downloaded(self) -> bool:
        return all((data_root() / file).is_file() for file in self.files)

    def read(self) -> Dataset:
        """Both parts; the publisher's test set is the end.

        Raises:
            DataNotAtHandError: a file is damaged.
        """
        if self.elsewhere is not None and not self._downloaded():
            return self.elsewhere.read()
        try:
            train, test = (_build(self, part, download=False) for part in self.parts)
            images = np.concatenate([_images(train), _images(test)])
            if self.columns_first:
                images = np.ascontiguousarray(images.swapaxes(2, 3))
            labels = np.concatenate([_labels(train), _labels(test)])
            return Dataset(images, labels, _classes(train), num_official_test=len(_labels(test)))
        except Exception as error:  # what a damaged file makes torchvision raise is of many kinds
            places = sorted({str(data_root() / file.split("/")[0]) for file in self.files})
            raise damaged(self.name, ", ".join(places), error) from error

    def labelled(self) -> Dataset:
        """`NAME:labelled`."""
        whole = self.read()
        num_train = len(whole.inputs) - whole.num_official_test
        rows = np.r_[: num_train // LABELLED, num_train : len(whole.inputs)]
        return Dataset(whole.inputs[rows], whole.targets[rows], whole.classes, whole.num_official_test)

    def unlabelled(self) -> np.ndarray:
        """The images of `NAME:unlabelled`, uint8 (n, channels, height, width)."""
        whole = self.read()
        num_train = len(whole.inputs) - whole.num_official_test
        return whole.inputs[num_train // LABELLED : num_train]

    def fetch(self) -> None:
        """Download it.

        Raises:
            FlSimError: that failed.
        """
        root = data_root()
        try:
            root.mkdir(parents=True, exist_ok=True)
            for part in self.parts:
                _build(self, part, download=True)
        except (URLError, RuntimeError, OSError) as error:
            raise FlSimError(
                f"{self.class_name} could not be downloaded to {root}: {error}\n"
                "Check the network (a proxy is set by HTTPS_PROXY) and the folder, then try again."
            ) from error


def idx_files(class_name: str) -> tuple[str, ...]:
    """The files of a set in the form of MNIST's."""
    return tuple(f"{class_name}/raw/{name}" for name in IDX_NAMES)


def _build(vision_set: VisionSet, part: dict[str, Any], download: bool) -> Any:
    import torchvision

    factory: Callable[..., Any] = getattr(torchvision.datasets, vision_set.class_name)
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
