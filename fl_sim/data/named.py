"""Datasets whose name carries an argument: `medmnist:NAME`, `image-folder:PATH`, `predictions:FILE`,
`table:FILE`, `package.module:object`."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import textwrap
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from fl_sim.data import predictions, user_tables
from fl_sim.data.source import Dataset, Source, damaged, data_root
from fl_sim.errors import DataNotAtHandError, FlSimError, ScenarioError, own_code
from fl_sim.names import own_digest

PATTERNS = ("medmnist:NAME", "image-folder:PATH", "predictions:FILE", "table:FILE", "package.module:object")
IMAGE_ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"})  # torchvision's
MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})  # of 8 bits: a deeper one would be cut
SPLIT_FOLDERS = frozenset({"train", "training", "test", "testing", "val", "valid", "validation"})


def named_source(name: str, key: str = "data.name") -> Source:
    """The source of a name that holds a colon; ScenarioError, which begins with `key`, if it cannot be one."""
    kind, _, argument = name.partition(":")
    if not kind or not argument:
        raise ScenarioError(f"{key}: {name!r} has nothing beside its colon; write one of {', '.join(PATTERNS)}")
    if kind == "medmnist":
        return _medmnist(name, argument, key)
    if kind == "image-folder":
        return _image_folder(name, Path(argument).expanduser())
    if kind == predictions.KIND:
        return predictions.source(name, Path(argument).expanduser())
    if kind == user_tables.KIND:
        return user_tables.source(name, Path(argument).expanduser())
    read, marks = partial(_call, kind, argument), partial(_digest, name)
    return Source(name, None, f"your own: {argument} of {kind}", "yours", read, marks=marks, num_clients=None)


def _medmnist(name: str, flag: str, key: str) -> Source:
    file = data_root() / "medmnist" / f"{flag}.npz"
    package = _medmnist_package()
    if package is None:
        return Source(
            name,
            "classification",
            "medical images, 28 x 28 (needs the package medmnist)",
            "optional package",
            read=_unreadable,
            at_hand=lambda: False,
            to_get=("pip install medmnist", f"fl-sim data get {name}"),
        )
    info = _medmnist_info(package, flag, key)
    return Source(
        name,
        "classification",
        f"medical images, 28 x 28: {textwrap.shorten(info['description'], 100, placeholder=' …')}",
        "optional package",
        capacity=sum(info["n_samples"].values()),
        num_official_test=info["n_samples"]["test"],
        read=partial(_read_medmnist, file, info),
        at_hand=file.is_file,
        to_get=(f"fl-sim data get {name}",),
        fetch=partial(_fetch_medmnist, package, info, file),
    )


def _medmnist_package() -> ModuleType | None:
    try:
        return importlib.import_module("medmnist")
    except ImportError:
        return None


def _medmnist_info(package: ModuleType, flag: str, key: str) -> dict[str, Any]:
    usable = {
        name: info
        for name, info in package.INFO.items()
        if not name.endswith("3d") and not info["task"].startswith("multi-label")
    }
    if flag not in usable:
        near = difflib.get_close_matches(flag, usable, 1, 0) or ["pathmnist"]
        raise ScenarioError(
            f"{key}: medmnist has no set {flag!r} of flat images with one label each; "
            f"nearest: medmnist:{near[0]} (all: {', '.join(usable)})"
        )
    return usable[flag]


def _unreadable(_count: int, _image_size: int | None, _seed: int) -> Dataset:
    raise DataNotAtHandError("the package medmnist is not installed:\n    pip install medmnist")


def _read_medmnist(file: Path, info: dict[str, Any], _count: int, _size: int | None, _seed: int) -> Dataset:
    try:
        with file.open("rb") as content, np.load(content) as arrays:
            images = np.concatenate([arrays[f"{part}_images"] for part in ("train", "val", "test")])
            labels = np.concatenate([arrays[f"{part}_labels"] for part in ("train", "val", "test")])
            num_test = len(arrays["test_labels"])
        channels_first = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
        classes = tuple(info["label"][str(i)] for i in range(len(info["label"])))
        return Dataset(np.ascontiguousarray(channels_first), labels.ravel().astype(np.int64), classes, num_test)
    except Exception as error:  # what a damaged file makes zipfile and NumPy raise is of many kinds
        raise damaged(f"medmnist:{file.stem}", str(file), error) from error


def _fetch_medmnist(package: ModuleType, info: dict[str, Any], file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        getattr(package, info["python_class"])(split="train", root=str(file.parent), download=True)
    except (RuntimeError, OSError) as error:
        raise FlSimError(f"{info['url']} could not be downloaded to {file.parent}: {error}") from error


def _image_folder(name: str, folder: Path) -> Source:
    return Source(
        name,
        "classification",
        f"your own images, one folder for each class in {folder}",
        "yours",
        capacity=len(_image_files(folder)) if folder.is_dir() else None,
        read=partial(_read_folder, folder),
        at_hand=folder.is_dir,
        to_get=(f"mkdir -p {folder}/CLASS   # a folder for each class, its images inside",),
        marks=partial(_folder_marks, folder),
    )


def _image_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*/**/*") if path.suffix.lower() in IMAGE_ENDINGS)


def _folder_marks(folder: Path) -> tuple[str, ...]:
    stats = [(path, path.lstat()) for path in _image_files(folder)]  # a dangling link is named when it is read
    return tuple(f"{path.relative_to(folder)} {stat.st_size} {stat.st_mtime_ns}" for path, stat in stats)


def _read_folder(folder: Path, _count: int, image_size: int | None, _seed: int) -> Dataset:
    """RGB images by class and file name, each resized to a square of `image_size` pixels.

    Raises:
        FlSimError: no class folders, folders of splits where classes are wanted, a class without an image, a circle of
            links, or a file that is no whole image of 8 bits a channel; by its path.
    """
    if image_size is None:
        raise ScenarioError(f"data.image_size: not set; image-folder:{folder} needs it, for its images may differ")
    classes = _class_names(folder)
    files = [sorted(_images_below(folder / name)) for name in classes]
    empty = next((name for name, paths in zip(classes, files, strict=True) if not paths), None)
    if empty is not None:
        raise FlSimError(f"image-folder:{folder}: class folder {empty} holds no image ({', '.join(IMAGE_ENDINGS)})")
    pixels = [_pixels(path, image_size) for paths in files for path in paths]
    labels = np.repeat(np.arange(len(classes)), [len(paths) for paths in files])
    return Dataset(np.ascontiguousarray(np.stack(pixels).transpose(0, 3, 1, 2)), labels, tuple(classes))


def _class_names(folder: Path) -> list[str]:
    """The names of the class folders; hidden ones are none."""
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not names:
        raise FlSimError(f"image-folder:{folder}: holds no class folder; make one for each class, its images inside")
    if {name.lower() for name in names} <= SPLIT_FOLDERS:
        raise FlSimError(
            f"image-folder:{folder}: holds {', '.join(names)}, which are splits and no classes; name one of them "
            f"(image-folder:{folder / names[0]}), for fl-sim splits by itself"
        )
    return names


def _images_below(folder: Path) -> Iterator[Path]:
    """The image files of a class; links are followed, and hidden folders are left out."""
    met: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        here = os.path.realpath(place)
        if here in met:
            raise FlSimError(f"image {place}: is the folder {here} again, by a link; remove the link")
        met.add(here)
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (
            Path(place, name)
            for name in names
            if Path(name).suffix.lower() in IMAGE_ENDINGS and not name.startswith(".")
        )


def _pixels(path: Path, size: int) -> np.ndarray:
    """(size, size, 3) of a file; nothing that is no plain file is opened."""
    from PIL import Image

    if not path.is_file():
        what = "a link that leads nowhere" if path.is_symlink() and not path.exists() else "no plain file"
        raise FlSimError(f"image {path}: is {what}; remove it")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if image.mode not in MODES:
                    raise ValueError(f"its mode is {image.mode}, and 8 bits a channel are needed")
                plain = image.convert("RGBA") if "transparency" in image.info else image
                return np.asarray(plain.convert("RGB").resize((size, size)))
    except Exception as error:  # Pillow's readers raise whatever they stumble over
        raise FlSimError(f"image {path}: cannot be decoded ({error}); replace it, or take it out of there") from error


def _digest(name: str) -> tuple[str, ...]:
    return tuple(filter(None, [own_digest(name)]))


def _call(module: str, attribute: str, count: int, image_size: int | None, seed: int) -> Dataset:
    """What the user's `attribute(count=…, image_size=…, seed=…)` returns.

    Raises:
        ScenarioError: it is not there, or returns no Dataset.
        OwnCodeError: it raises; with its traceback.
    """
    name = f"{module}:{attribute}"
    try:
        make = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ScenarioError(
            f"data.name: {name} cannot be imported ({error}); is its folder on PYTHONPATH? "
            "For the names that are built in: fl-sim list datasets"
        ) from error
    with own_code(f"data.name = {name!r}"):
        dataset = make(count=count, image_size=image_size, seed=seed)
    if not isinstance(dataset, Dataset):
        raise ScenarioError(f"data.name: {name} returned {type(dataset).__name__}; it must be fl_sim.data.Dataset")
    return dataset
