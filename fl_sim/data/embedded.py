"""Real data that travels inside scikit-learn: nothing to download."""

from __future__ import annotations

import numpy as np

from fl_sim.data.source import Dataset

NUM_DIGITS = 1797
NUM_DIABETES = 442


def digits(_count: int, _image_size: int | None, _seed: int) -> Dataset:
    """1,797 handwritten digits (UCI): uint8 (1797, 1, 8, 8), their values 0..16 spread over 0..255."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    pixels = np.rint(images * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    return Dataset(pixels, labels.astype(np.int64), tuple("0123456789"))


def diabetes(_count: int, _image_size: int | None, _seed: int) -> Dataset:
    """Disease progression (25..346) of 442 patients: float32 (442, 10), columns of mean 0 and deviation 1.

    Efron et al., "Least Angle Regression", 2004. scikit-learn scales the columns to length 1; a deviation of
    1 is what networks expect.
    """
    from sklearn.datasets import load_diabetes

    features, progression = load_diabetes(return_X_y=True)
    return Dataset((features * len(features) ** 0.5).astype(np.float32), progression.astype(np.float32), None)
