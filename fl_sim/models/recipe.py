"""All that decides a model besides its rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Contrast = Literal["set", "image"]  # by what the inputs were standardised: the data's moments, or each image's own


@dataclass(frozen=True)
class Recipe:
    """All that decides a model besides its rows: what a model's key is made of."""

    architecture: str
    epochs: int
    learning_rate: float  # of the first step
    batch_size: int
    quantiles: tuple[float, float] | None  # levels of the two heads of a quantile regressor; None otherwise
    seed: int
    purpose: str  # what the model is for; with `seed` it names the streams of its initial weights and batch order
    device: str  # "cpu" or "cuda": kernels of different devices round differently
    precision: str  # "float32" or "bfloat16"
    cohort: int = 1  # how many clients are trained in one stacked batch; their kernels round differently too
    optimizer: str = "adam"  # or "adamw", with WEIGHT_DECAY; or "sgd", without momentum
    schedule: str = "constant"  # or "cosine": from the learning rate to 0 over all steps of all epochs
    contrast: Contrast = "set"  # inputs are standardised by a set's moments, or each image by its own


def outputs_of(recipe: Recipe, num_classes: int | None) -> int:
    """How many values the model gives a row: one a class, one mean, or two quantiles."""
    if num_classes is not None:
        return num_classes
    return 1 if recipe.quantiles is None else 2
