"""Files that the rivals read, written beforehand and outside what is timed: they know nothing of our store."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MODELS = {"weak": "linear", "strong": "cnn"}


def write_images(folder: Path) -> None:
    """Fashion-MNIST as torchvision's `FashionMNIST(folder)` reads it."""
    data = published()
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    first = len(data.targets) - data.num_official_test
    for part, rows in (("train", slice(0, first)), ("t10k", slice(first, None))):
        write_idx(raw / f"{part}-images-idx3-ubyte", data.inputs[rows, 0])
        write_idx(raw / f"{part}-labels-idx1-ubyte", data.targets[rows].astype(np.uint8))


def write_idx(path: Path, array: NDArray[np.uint8]) -> None:
    """An array of unsigned bytes in Le Cun's format."""
    path.write_bytes(struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes())


def published() -> Any:
    """Fashion-MNIST as it was published: its 60,000 training rows, then its 10,000 test rows."""
    from fl_sim.data.datasets import load

    return load("fashion-mnist", count=70_000, image_size=28, seed=0)


def published_rows(data: Any) -> NDArray[np.int64]:
    """Which published row each row of our prepared data is, (n,); of two that are alike to the last pixel and in the
    label, either."""
    whole = published()
    place = {digest(whole, i): i for i in range(len(whole.targets))}
    return np.array([place[digest(data, i)] for i in range(len(data.targets))])


def digest(data: Any, row: int) -> tuple[bytes, int]:
    """What a row is known by."""
    return data.inputs[row].tobytes(), int(data.targets[row])


def write_partition(folder: Path, people: Any, rows: NDArray[np.int64]) -> None:
    """Who has which model and which published rows; the moments of pixels that ToTensor has divided by 255."""

    def rows_of(k: int) -> dict[str, Any]:
        client = people.client(k)
        splits = {split: rows[getattr(client, split)].tolist() for split in ("train", "calibration", "test")}
        return {"model": MODELS[client.tier.name], **splits}

    mean, std = (float(part.reshape(())) / 255 for part in (people.data.mean, people.data.std))
    world = {"mean": mean, "std": std, "clients": [rows_of(k) for k in range(len(people))]}
    (folder / "partition.json").write_text(json.dumps(world))


def write_arrays(folder: Path, people: Any, draws: NDArray[np.int64], epochs: int) -> None:
    """What a loop over tensors reads: `arrays.npz` with standardised training and test images, labels, where each
    client's rows begin, who trains in which round, and for how many epochs."""
    clients = [people.client(k) for k in range(len(people))]
    first, trained, tested = people.data.starts["train"][0], people.data.rows("train"), people.tested
    np.savez(
        folder / "arrays.npz", draws=draws, epochs=epochs, rows=np.concatenate([c.train - first for c in clients]),
        starts=np.cumsum([0, *(len(c.train) for c in clients)]),
        train_x=people.data.standardised(trained), train_y=people.data.targets[trained],
        test_x=people.data.standardised(tested), test_y=people.data.targets[tested],
    )  # fmt: skip
