"""1,797 handwritten digits (UCI) that travel inside scikit-learn."""

from __future__ import annotations

from functools import partial

import numpy as np

from fl_sim.data.source import Dataset, Source, versions


def read(_count: int, _image_size: int | None, _seed: int) -> Dataset:
    """uint8 (1797, 1, 8, 8), their values 0..16 spread over 0..255."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    pixels = np.rint(images * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    return Dataset(pixels, labels.astype(np.int64), tuple("0123456789"))


source = Source(
    "digits",
    "classification",
    "handwritten digits, 8 x 8 grey",
    "embedded",
    read,
    capacity=1797,
    num_classes=10,
    marks=partial(versions, "scikit-learn"),
)
