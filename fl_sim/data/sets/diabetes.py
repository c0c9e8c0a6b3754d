"""Disease progression of 442 patients, which travels inside scikit-learn.

Efron et al., "Least Angle Regression", 2004.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from fl_sim.data.source import Dataset, Source, versions


def read(_count: int, _image_size: int | None, _seed: int) -> Dataset:
    """Targets 25..346, inputs float32 (442, 10): columns of mean 0 and deviation 1.

    scikit-learn scales the columns to length 1; a deviation of 1 is what networks expect.
    """
    from sklearn.datasets import load_diabetes

    features, progression = load_diabetes(return_X_y=True)
    return Dataset((features * len(features) ** 0.5).astype(np.float32), progression.astype(np.float32), None)


source = Source(
    "diabetes",
    "regression",
    "disease progression of 442 patients, 10 features",
    "embedded",
    read,
    capacity=442,
    marks=partial(versions, "scikit-learn"),
)
