"""Fit and predict: the only places where a model meets data. Device, precision and seed are arguments.

On the CPU a client computes with one thread, on every runtime, so that the same work gives the same bits everywhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fl_sim import models
from fl_sim.options import own_digest
from fl_sim.randomness import stream, torch_seeded

VERSION = 1  # raise it when a change here changes what training or prediction gives: it is part of every model's key

PREDICT_BATCH = 1024


@dataclass(frozen=True)
class Recipe:
    """All that decides a model besides its rows: what a model's key is made of."""

    architecture: str
    epochs: int
    learning_rate: float  # Adam's
    batch_size: int
    quantiles: tuple[float, float] | None  # levels of the two heads of a quantile regressor; None otherwise
    seed: int
    purpose: str  # what the model is for; with `seed` it names the streams of its initial weights and batch order
    device: str  # "cpu" or "cuda": kernels of different devices round differently
    precision: str  # "float32" or "bfloat16"
    cohort: int = 1  # how many clients are trained in one stacked batch; their kernels round differently too

    def parts(self) -> dict[str, Any]:
        """As JSON values for a key, with torch's version and this file's."""
        own = own_digest(self.architecture)
        return {**self.__dict__, "torch": torch.__version__, "learning": VERSION, "own": own}


def initial(recipe: Recipe, shape: tuple[int, ...], outputs: int) -> nn.Module:
    """The untrained model; its weights follow from the recipe's seed and purpose alone."""
    with torch_seeded(recipe.seed, "initial-weights", recipe.purpose):
        return models.build(recipe.architecture, shape, outputs)


def outputs_of(recipe: Recipe, num_classes: int | None) -> int:
    """How many values the model gives a row: one a class, one mean, or two quantiles."""
    if num_classes is not None:
        return num_classes
    return 1 if recipe.quantiles is None else 2


def fit(model: nn.Module, inputs: NDArray[Any], targets: NDArray[Any], recipe: Recipe) -> nn.Module:
    """Train `model` in place by Adam and return it.

    Args:
        model: from `initial`, or with the weights of an earlier round.
        inputs: float32, (n, *shape), standardised. With n = 0 the model is left as it is.
        targets: int64 labels (n,), or float32 (n,).
        recipe: epochs, learning rate, batch size, loss, seed, device and precision.
    """
    if len(inputs) == 0 or recipe.epochs == 0:
        return model
    x, y = torch.from_numpy(inputs).to(recipe.device), torch.from_numpy(targets).to(recipe.device)
    order = stream(recipe.seed, "batch-order", recipe.purpose)
    model.to(recipe.device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate)
    with _one_thread(), _autocast(recipe), torch_seeded(recipe.seed, "dropout", recipe.purpose):
        for _ in range(recipe.epochs):
            for rows in _batches(order.permutation(len(x)), recipe.batch_size):
                _normalise_by_batch(model, len(rows) > 1)
                optimizer.zero_grad(set_to_none=True)
                _loss(model(x[rows]), y[rows], recipe.quantiles).backward()
                optimizer.step()
    return model


def predict(model: nn.Module, inputs: NDArray[Any], recipe: Recipe) -> NDArray[np.float32]:
    """The model's outputs, (n, outputs) float32: logits, means or quantiles."""
    if len(inputs) == 0:  # one row tells the shape; a model of the user's may not take none
        return predict(model, np.zeros((1, *inputs.shape[1:]), np.float32), recipe)[:0]
    model.to(recipe.device).eval()
    parts = []
    with _one_thread(), _autocast(recipe), torch.inference_mode():
        for start in range(0, len(inputs), PREDICT_BATCH):
            batch = torch.from_numpy(inputs[start : start + PREDICT_BATCH]).to(recipe.device)
            parts.append(model(batch).float().cpu().numpy())
    return np.concatenate(parts)


def resolve_device(wanted: str) -> str:
    """`"auto"` made into a device that is here.

    Raises:
        ValueError: a GPU is asked for and there is none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda' is asked for, and torch sees no GPU here; use device = 'cpu' or 'auto'")
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return wanted


def _loss(outputs: torch.Tensor, targets: torch.Tensor, quantiles: tuple[float, float] | None) -> torch.Tensor:
    if targets.dtype == torch.int64:
        return nn.functional.cross_entropy(outputs, targets)
    if quantiles is None:
        return nn.functional.mse_loss(outputs[:, 0], targets)
    levels = torch.tensor(quantiles, device=outputs.device)
    miss = targets[:, None] - outputs
    return torch.maximum(levels * miss, (levels - 1) * miss).mean()  # pinball loss


def _normalise_by_batch(model: nn.Module, enough: bool) -> None:
    # A single row has no variance to normalise by: it goes by what the model has seen so far.
    for layer in model.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.train(enough)


def _batches(order: NDArray[np.int64], size: int) -> Iterator[torch.Tensor]:
    # A last batch of one row would break batch normalisation; it joins the batch before it.
    starts = list(range(0, len(order), size))
    if len(starts) > 1 and len(order) - starts[-1] == 1:
        starts.pop()
    for i, start in enumerate(starts):
        end = starts[i + 1] if i + 1 < len(starts) else len(order)
        yield torch.from_numpy(order[start:end])


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _autocast(recipe: Recipe) -> contextlib.AbstractContextManager[Any]:
    return torch.autocast(recipe.device, torch.bfloat16, enabled=recipe.precision == "bfloat16")
