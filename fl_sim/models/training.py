"""Fit and predict: the only places where a model meets data. Device, precision and seed are arguments.

On the CPU a client computes with one thread, on every runtime, so that the same work gives the same bits everywhere.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.optim.adam import adam

from fl_sim.data.contrast import contrasted
from fl_sim.errors import FlSimError, log
from fl_sim.models import architectures
from fl_sim.models.recipe import Recipe, outputs_of
from fl_sim.randomness import one_thread, stream, torch_seeded
from fl_sim.telemetry import spent

PREDICT_BATCH = 128  # rows at once on a CPU: what they make fits its cache; 1,024 take a CNN 1.5 times as long a row
PREDICT_BATCH_GPU = 4096
PREDICT_VALUES = 1 << 24  # of large images fewer are predicted at once, so many values: 111 of 224 x 224 x 3
HELD_VALUES = 1 << 26  # images of more values than that are standardised a batch at a time

ADAM: dict[str, Any] = {"amsgrad": False, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "maximize": False}  # torch's own
WEIGHT_DECAY = 0.01  # AdamW's, torch's own default; it holds for every parameter, biases and norms too


@runtime_checkable
class FitsItself(Protocol):
    """A model that is not trained by gradients: a `torch.nn.Module` with a method of its own for it.

    What it learns it keeps in buffers, which the store keeps with it; `load_state_dict` on a fresh one must take them.
    Such models are never trained in a stack, nor averaged.
    """

    def fit_rows(self, inputs: NDArray[np.float32], targets: NDArray[Any], recipe: Recipe) -> None:
        """Learn, on the CPU, from standardised inputs (n, *shape), n >= 1, and targets as `fit` takes them; randomness
        from `recipe.seed` and `recipe.purpose` alone."""


def initial(recipe: Recipe, shape: tuple[int, ...], outputs: int) -> nn.Module:
    """The untrained model; its weights follow from the recipe's seed and purpose alone."""
    with torch_seeded(recipe.seed, "initial-weights", recipe.purpose):
        return architectures.build(recipe.architecture, shape, outputs)


@spent("train")
def fit(
    model: nn.Module,
    inputs: NDArray[Any],
    targets: NDArray[Any],
    recipe: Recipe,
    *,
    levels: NDArray[Any] | None = None,
    most: int | None = None,
    channels_last: bool = False,
) -> nn.Module:
    """Train `model` in place and return it.

    Args:
        model: from `initial`, or with the weights of an earlier round.
        inputs: float32, (n, *shape), standardised; or for contrast = "image" uint8 images (n, channels, height, width),
            a memory map if you like. With n = 0 the model is left as it is.
        targets: int64 labels (n,), float32 class probabilities (n, C) (soft labels), or float32 (n,) of a regression.
        recipe: epochs, optimizer, learning rate and its schedule, batch size, loss, seed, device and precision.
        levels: unsigned integers (n,), a curriculum: a row is shown from the epoch on in which `open_levels` opens its
            level. A level that no row has takes no turn. None shows every row in every epoch.
        most: how many steps are taken at most, at least 1; None: those of all epochs.
        channels_last: on a CPU, let the values of an image and a convolution's weights lie channel by channel within a
            pixel while the model is trained: a small CNN is trained 1.4 times as fast, and rounds differently.

    Raises:
        ValueError: levels that are not (n,), or uint8 inputs for contrast = "set", or others for "image".
        FlSimError: a curriculum for a model that fits itself.
    """
    if len(inputs) == 0 or recipe.epochs == 0:
        return model
    if isinstance(model, FitsItself):
        if levels is not None:
            raise FlSimError(
                f"architecture {recipe.architecture!r} fits itself, without epochs: it takes no curriculum"
            )
        with one_thread(), torch_seeded(recipe.seed, "fit-rows", recipe.purpose):
            model.fit_rows(reader(inputs, replace(recipe, device="cpu"))(slice(None)).numpy(), targets, recipe)
        return model
    batch_of = reader(inputs, recipe)
    by_pixel = channels_last and inputs.ndim == 4 and recipe.device == "cpu"
    y = torch.from_numpy(targets).to(recipe.device)
    first = first_epochs(levels, recipe.epochs, len(inputs))
    steps = num_steps(first, recipe) if most is None else min(num_steps(first, recipe), most)
    order, step = stream(recipe.seed, "batch-order", recipe.purpose), 0
    model.to(recipe.device).train()
    step_at = _stepper(model, recipe)
    with one_thread(), torch_seeded(recipe.seed, "dropout", recipe.purpose), _by_pixel(model, by_pixel):
        for epoch in range(recipe.epochs):
            everyone = order.permutation(len(inputs))
            for rows in _batches(everyone[first[everyone] <= epoch], recipe.batch_size):
                _normalise_by_batch(model, len(rows) > 1)
                model.zero_grad(set_to_none=True)
                with autocast(recipe):  # it remembers the weights it has rounded until the block ends: one step each
                    loss = loss_of(model(_laid(batch_of(rows), by_pixel)), y[rows], recipe.quantiles)
                loss.backward()
                step_at(learning_rate_at(recipe, step, steps))
                step += 1
                if step == steps:
                    return model
    return model


def open_levels(epoch: int, epochs: int, num_levels: int) -> int:
    """How many levels of a curriculum are open in `epoch`, which counts from 0: levels 0 to that less one are shown.

    The levels open one after another, evenly, over the first half of the epochs; all are open from epoch
    ceil(epochs / 2) on, and in the last epoch at any rate. Level 0 is open from the start.

    >>> [open_levels(epoch, 6, 4) for epoch in range(6)]
    [1, 2, 3, 4, 4, 4]
    """
    half = min(-(-epochs // 2), epochs - 1)
    return num_levels if epoch >= half else 1 + epoch * (num_levels - 1) // half


def learning_rate_at(recipe: Recipe, step: int, steps: int) -> float:
    """The learning rate of `step`, which counts from 0, of `steps` in all; cosine would be 0 at `steps` itself.

    Loshchilov and Hutter, "SGDR", 2017, https://arxiv.org/abs/1608.03983, eq. 5, without restarts and down to 0.
    """
    if recipe.schedule == "constant":
        return recipe.learning_rate
    return recipe.learning_rate * (1 + math.cos(math.pi * step / steps)) / 2


@spent("infer")
def predict(model: nn.Module, inputs: NDArray[Any], recipe: Recipe) -> NDArray[np.float32]:
    """The model's outputs, (n, outputs) float32: logits, means or quantiles."""
    if len(inputs) == 0:  # one row tells the shape; a model of the user's may not take none
        return predict(model, np.zeros((1, *inputs.shape[1:]), inputs.dtype), recipe)[:0]
    batch_of, parts = reader(inputs, recipe), []
    size, start = _batch_of(inputs, recipe.device), 0
    with _evaluating(model, recipe):
        while start < len(inputs):
            try:
                parts.append(_outputs(model, batch_of(slice(start, start + size)), recipe))
                start += size
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
                size = -(-size // 2)
                log.warning("architecture %r: asked %d rows at a time, for want of memory", recipe.architecture, size)
    return np.concatenate(parts)


@spent("infer")
def predict_and_embed(
    model: nn.Module, inputs: NDArray[Any], recipe: Recipe
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The outputs (n, outputs) and the embeddings (n, d) of `inputs`, both float32.

    An embedding is what the model's last linear layer gets, the last by the order in which the model's parts were
    assigned.

    Raises:
        FlSimError: the model has no linear layer, or does not use the last one once for each row.
    """
    if len(inputs) == 0:
        outputs, embeddings = predict_and_embed(model, np.zeros((1, *inputs.shape[1:]), inputs.dtype), recipe)
        return outputs[:0], embeddings[:0]
    batch_of, parts = reader(inputs, recipe), []
    with _evaluating(model, recipe), _listening(model, recipe) as embedded:
        size = _batch_of(inputs, recipe.device)
        for start in range(0, len(inputs), size):
            outputs = _outputs(model, batch_of(slice(start, start + size)), recipe)
            parts.append((outputs, embedded(len(outputs))))
    return np.concatenate([outputs for outputs, _ in parts]), np.concatenate([embedding for _, embedding in parts])


def peak_bytes(recipe: Recipe, shape: tuple[int, ...], num_classes: int | None) -> int:
    """Bytes of a GPU's memory that a step of training or a batch of predictions takes at its peak, measured on blank
    rows."""
    rows = np.zeros((recipe.batch_size, *shape), np.float32 if recipe.contrast == "set" else np.uint8)
    targets = np.zeros(recipe.batch_size, np.float32 if num_classes is None else np.int64)
    torch.cuda.reset_peak_memory_stats()
    model = fit(initial(recipe, shape, outputs_of(recipe, num_classes)), rows, targets, replace(recipe, epochs=1))
    predict(model, np.zeros((_batch_of(rows, recipe.device), *shape), rows.dtype), recipe)
    peak = torch.cuda.max_memory_reserved()
    torch.cuda.empty_cache()
    return peak


def loss_of(outputs: torch.Tensor, targets: torch.Tensor, quantiles: tuple[float, float] | None) -> torch.Tensor:
    """The mean loss of outputs (n, outputs): cross-entropy for classes (n,) or probabilities (n, C), for numbers (n,)
    the squared error or, with two levels, the pinball loss."""
    if targets.dtype == torch.int64 or targets.ndim == 2:
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


def _stepper(model: nn.Module, recipe: Recipe) -> Callable[[float], None]:
    """What makes a step, at a learning rate, of the weights that have a gradient.

    SGD is as federated averaging was published with: no momentum, no decay, no state. Adam and AdamW are torch's own,
    by its function: the class imports torch's compiler, a second's work in a worker.
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    state: dict[
        nn.Parameter, tuple[torch.Tensor, ...]
    ] = {}  # made at the first step, when a lazy layer knows its shape
    options = ADAM | decay_of(recipe)

    @torch.no_grad()
    def sgd(rate: float) -> None:
        for weight in weights:
            if weight.grad is not None:
                weight.add_(weight.grad, alpha=-rate)

    @torch.no_grad()
    def by_adam(rate: float) -> None:
        moved = [weight for weight in weights if weight.grad is not None]
        for weight in moved:
            if weight not in state:
                state[weight] = torch.zeros_like(weight), torch.zeros_like(weight), torch.zeros(())
        first, second, counts = ([state[weight][part] for weight in moved] for part in range(3))
        adam(moved, [weight.grad for weight in moved], first, second, [], counts, lr=rate, **options)  # type: ignore

    return sgd if recipe.optimizer == "sgd" else by_adam


def decay_of(recipe: Recipe) -> dict[str, Any]:
    """A recipe's weight decay, as torch's function of Adam wants it."""
    decay = WEIGHT_DECAY if recipe.optimizer == "adamw" else 0.0
    return {"weight_decay": decay, "decoupled_weight_decay": decay > 0}


def first_epochs(levels: NDArray[Any] | None, epochs: int, n: int) -> NDArray[np.int64]:
    """The epoch (n,) from which on each row is shown."""
    if levels is None:
        return np.zeros(n, np.int64)
    if levels.shape != (n,):
        raise ValueError(f"levels of shape {levels.shape}: must have shape ({n},)")
    distinct, ranks = np.unique(levels, return_inverse=True)
    opened = [open_levels(epoch, epochs, len(distinct)) for epoch in range(epochs)]
    return np.searchsorted(opened, ranks, side="right")  # a level is open where more are than go before it


def num_steps(first: NDArray[np.int64], recipe: Recipe) -> int:
    """How many steps all epochs take, where each row (n,) is shown from its `first` epoch on."""
    counts = np.searchsorted(np.sort(first), np.arange(recipe.epochs), side="right")
    return sum(len(starts_of(int(count), recipe.batch_size)) for count in counts)


def reader(inputs: NDArray[Any], recipe: Recipe) -> Callable[[torch.Tensor | slice], torch.Tensor]:
    """What gives rows as the model takes them, on the device."""
    if (inputs.dtype == np.uint8) != (recipe.contrast == "image"):
        raise ValueError(f"inputs of {inputs.dtype} for contrast = {recipe.contrast!r}: must be uint8 for 'image' only")
    if inputs.dtype == np.uint8 and inputs.size > HELD_VALUES:
        # Each image by its own contrast, so a batch gives the same floats as all at once would.
        return lambda rows: torch.from_numpy(
            contrasted(np.asarray(inputs[rows if isinstance(rows, slice) else rows.numpy()]))
        ).to(recipe.device)
    on_device = torch.from_numpy(contrasted(inputs) if inputs.dtype == np.uint8 else inputs).to(recipe.device)
    return lambda rows: on_device[rows]


def _outputs(model: nn.Module, batch: torch.Tensor, recipe: Recipe) -> NDArray[np.float32]:
    batch = _laid(batch, batch.ndim == 4 and recipe.device == "cpu")
    with one_thread(), autocast(recipe), torch.inference_mode():
        return model(batch).float().cpu().numpy()


def _laid(batch: torch.Tensor, by_pixel: bool) -> torch.Tensor:
    return batch.contiguous(memory_format=torch.channels_last) if by_pixel else batch


@contextlib.contextmanager
def _evaluating(model: nn.Module, recipe: Recipe) -> Iterator[None]:
    """The model on its device, in evaluation, for the block; on a CPU with its weights by pixel, by which a small
    CNN answers three times as fast."""
    model.to(recipe.device).eval()
    with _by_pixel(model, recipe.device == "cpu"):
        yield


@contextlib.contextmanager
def _by_pixel(model: nn.Module, really: bool) -> Iterator[None]:
    """The model's weights lie channel by channel within a pixel for the block, and then as they are kept."""
    if not really:
        yield
        return
    model.to(memory_format=torch.channels_last)
    try:
        yield
    finally:
        model.to(memory_format=torch.contiguous_format)


@contextlib.contextmanager
def _listening(model: nn.Module, recipe: Recipe) -> Iterator[Callable[[int], NDArray[np.float32]]]:
    """Gives what tells, after a batch of so many rows, what the model's last linear layer got."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    if not layers:
        raise FlSimError(
            f"architecture {recipe.architecture!r} has no embeddings: they are what its last linear layer gets, and it "
            "has none; choose another architecture, or a rule that needs no embeddings"
        )
    caught: list[torch.Tensor] = []
    hook = layers[-1].register_forward_hook(lambda _layer, inputs, _outputs: caught.append(inputs[0]))

    def embedded(rows: int) -> NDArray[np.float32]:
        shapes = [tuple(each.shape) for each in caught]
        if len(shapes) != 1 or len(shapes[0]) != 2 or shapes[0][0] != rows:
            raise FlSimError(
                f"architecture {recipe.architecture!r} has no embeddings: of {rows} rows its last linear layer got "
                f"{shapes or 'nothing'}, and must get one vector a row; choose another architecture, or a rule that "
                "needs no embeddings"
            )
        return caught.pop().float().cpu().numpy()

    try:
        yield embedded
    finally:
        hook.remove()


def _batch_of(inputs: NDArray[Any], device: str) -> int:
    most = PREDICT_BATCH if device == "cpu" else PREDICT_BATCH_GPU
    return max(1, min(most, PREDICT_VALUES // math.prod(inputs.shape[1:])))


def starts_of(count: int, size: int) -> list[int]:
    """Where the batches of `count` rows start. A last batch of one row would break batch normalisation; it joins the
    batch before it."""
    starts = list(range(0, count, size))
    if len(starts) > 1 and count - starts[-1] == 1:
        starts.pop()
    return starts


def _batches(order: NDArray[np.int64], size: int) -> Iterator[torch.Tensor]:
    starts = starts_of(len(order), size)
    for start, end in zip(starts, [*starts[1:], len(order)], strict=False):
        yield torch.from_numpy(order[start:end])


def autocast(recipe: Recipe) -> contextlib.AbstractContextManager[Any]:
    """Half precision in the block where a recipe asks for it. Weights are rounded once in a block, whatever becomes of
    them there: one block a step."""
    return torch.autocast(recipe.device, torch.bfloat16, enabled=recipe.precision == "bfloat16")
