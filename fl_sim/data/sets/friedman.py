"""Regression whose noise depends on the input: one interval width cannot be right everywhere."""

from __future__ import annotations

from functools import partial

import numpy as np

from fl_sim.data.source import Dataset, Source, versions
from fl_sim.randomness import stream

NUM_FEATURES = 10


def read(count: int, _image_size: int | None, seed: int) -> Dataset:
    """Friedman's first function with uneven noise: inputs float32 (count, 10), targets float32 (count,).

    x_1 … x_10 uniform on 0..1 and y = mean(x) + deviation(x) e with e standard normal, where

        mean(x)      = 10 sin(pi x_1 x_2) + 20 (x_3 - 1/2)^2 + 10 x_4 + 5 x_5
        deviation(x) = 1/4 + x_6

    The mean is Friedman, "Multivariate Adaptive Regression Splines", 1991, whose deviation is 1 everywhere;
    x_7 … x_10 do nothing. Row i depends on the seed alone, never on `count`.
    """
    inputs = stream(seed, "friedman", "inputs").random((count, NUM_FEATURES))
    noise = stream(seed, "friedman", "noise").standard_normal(count)
    targets = mean(inputs) + deviation(inputs) * noise
    return Dataset(inputs.astype(np.float32), targets.astype(np.float32), None)


def mean(inputs: np.ndarray) -> np.ndarray:
    """E[y | x] for inputs (n, 10), shape (n,)."""
    x = inputs.T
    return 10 * np.sin(np.pi * x[0] * x[1]) + 20 * (x[2] - 0.5) ** 2 + 10 * x[3] + 5 * x[4]


def deviation(inputs: np.ndarray) -> np.ndarray:
    """The noise's standard deviation for inputs (n, 10), shape (n,): 0.25 to 1.25, in units of y."""
    return 0.25 + inputs[:, 5]


source = Source(
    "friedman",
    "regression",
    "Friedman's function, noise depending on x, 10 features",
    "generated",
    read,
    marks=partial(versions, "numpy"),
)
