"""Models of many clients trained and asked together: one kernel does the same layer of all of them (a *stack*).

Each model keeps the initial weights, the batches in their order, the learning rates and the number of steps that
`training.fit` would give it alone, so what comes out is what one-by-one training gives, up to the order in which a
kernel adds: in float32 a model's weights differ by less than TOLERANCE of their norm. (Few do not: where two values
that a ReLU or a pooling compares are equal but for rounding, training goes on from another place. Of 1,056 models 3
parted so from their one-by-one selves, and of 264 models 3 when they were trained one by one in float32 and in
float64. A GPU may round the convolutions of one model to TF32, which it does not with a stack's.) No model sees
another's numbers: rows of one leave the bits of the others as they are.

The kernels come from `torch.func` (https://docs.pytorch.org/docs/stable/func.html): a forward pass mapped over stacked
parameters, whose products of matrices become batched ones. Not every architecture can be stacked: see `stackable`.

To measure again what AUTO says, time `training.fit` model by model against `fit_together` on the same models, one
thread, process time, the two in turns: `benchmarks/students.py`.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fl_sim.errors import FlSimError, log
from fl_sim.models import training
from fl_sim.models.recipe import Recipe
from fl_sim.models.stacked_steps import Forward, StackedSteps, Tensors, forward_of, gradients_of
from fl_sim.randomness import one_thread, stream
from fl_sim.telemetry import spent

TOLERANCE = 1e-4  # of the norm of a model's weights, in float32

# How many clients make a cohort where the scenario says "auto". Stacks of 16 on one thread of a CPU, by process time,
# against one model after another (batches of 32 and 64, 100 and 500 rows; the lower and the higher of the gains):
#
#              28x28 inputs             8x8 inputs
#              fit       predict        fit       predict
#   linear     1.7-3.0   0.85-1.2       4.2-6.0   2.2-2.7
#   mlp        1.5-2.3   1.0-1.1        3.6-5.1   1.8-2.4
#   cnn        0.7-1.1   0.3-0.5        2.1-2.9   1.0-1.3      fit 16x16: 0.9-1.2
#
# Stacks of 64 gain little more (none at 28x28), and leave a machine of many processors fewer cohorts to share out. What
# a stacked cnn makes of larger images outgrows the cache, so on them it is trained alone.
AUTO = {"linear": 16, "mlp": 16, "mlp-64": 16, "cnn": 16}
SMALL = {"cnn": 64}  # values of a row up to which that holds
AUTO_GPU = 64  # every architecture: a small model alone leaves a GPU idle between its kernels

TOGETHER = 8192  # rows asked at once, over all models
BATCH, ROWS = 2, 3  # of the trial by which `stackable` tells

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Stack:
    """Models of one architecture."""

    module: nn.Module  # what their weights are put into; its own are not used
    weights: Tensors  # name -> (S, ...), in the order of the members

    def __len__(self) -> int:
        return len(next(iter(self.weights.values())))

    def member(self, i: int) -> Tensors:
        """The weights of one model, a torch state dict."""
        return {name: tensor[i] for name, tensor in self.weights.items()}


def stacked(models: Sequence[nn.Module], device: str = "cpu") -> Stack:
    """The models as one; they keep their own weights."""
    states = [dict(model.named_parameters()) for model in models]
    weights = {name: torch.stack([state[name].detach() for state in states]).to(device) for name in states[0]}
    return Stack(models[0].to(device), weights)


@spent("train")
@one_thread()
def fit_together(
    models: Sequence[nn.Module],
    inputs: NDArray[Any],
    targets: Sequence[NDArray[Any]],
    recipes: Sequence[Recipe],
    *,
    shared: bool = False,
    levels: NDArray[Any] | None = None,
) -> Stack:
    """What `training.fit` makes of each model, all at once; the models keep the weights they have.

    A GPU whose memory is too small for all gets half of them at a time, or a quarter, and so on, with a warning in the
    log `fl_sim`; the results stay within the same tolerance.

    Args:
        models: S models of one `stackable` architecture, for instance of `training.initial`.
        inputs: as `training.fit` takes them: the rows of one model after those of another, (n_1 + ... + n_S, *shape);
            or, if `shared`, the rows of every model, (n, *shape), held once.
        targets: S arrays as `training.fit` takes them, (n_s,) or (n_s, C), n_s >= 0; if the rows are shared, any of
            them may be the same object, and is held once if all are.
        recipes: S recipes that differ in their purpose alone, which names each model's batch order.
        levels: a curriculum, as `training.fit` takes it: for each row of `inputs`.

    Raises:
        ValueError: the numbers of targets and rows do not go together.
        FlSimError: a GPU's memory is too small for one model.
    """
    sizes = [len(each) for each in targets]
    rows = max(sizes, default=0) if shared else sum(sizes)
    if len(inputs) != rows or (shared and min(sizes) < rows):
        raise ValueError(f"{len(inputs)} rows of inputs for targets of {sizes}: must be as many")
    ends = np.cumsum([0, *sizes])

    def fit(part: slice) -> Stack:
        mine = slice(None) if shared else slice(ends[part.start], ends[part.stop])
        of_rows = None if levels is None else levels[mine]
        members = stacked(models[part], recipes[0].device)
        return _fit(members, inputs[mine], targets[part], recipes[part], shared, of_rows)

    parts = _in_slices(len(models), recipes[0], "trained", fit)
    weights = {name: torch.cat([part.weights[name] for part in parts]) for name in parts[0].weights}
    return Stack(parts[0].module, weights)


@spent("infer")
@one_thread()
def predict_together(
    stack: Stack, inputs: NDArray[Any], recipe: Recipe, sizes: Sequence[int] | None = None
) -> list[NDArray[np.float32]]:
    """What each model says, S arrays (n_s, outputs) float32: `training.predict` for all at once, in bounded memory.

    Args:
        stack: S models.
        inputs: as `training.predict` takes them: the rows for one model after those for another, or the same for all.
        recipe: any member's.
        sizes: how many rows (n_s) are for each model; None: every row is for all of them.
    """
    if len(inputs) == 0:
        one = np.zeros((1, *inputs.shape[1:]), inputs.dtype)  # one row tells the shape
        return [outputs[:0] for outputs in predict_together(stack, one, recipe)]
    ends = np.cumsum([0, *(sizes or [len(inputs)] * len(stack))])

    def ask(part: slice) -> list[NDArray[np.float32]]:
        some = Stack(stack.module, {name: tensor[part].to(recipe.device) for name, tensor in stack.weights.items()})
        if sizes is None:
            return _ask_the_same(some, inputs, recipe)
        return _ask_each(some, inputs[ends[part.start] : ends[part.stop]], recipe, np.diff(ends)[part])

    return [outputs for part in _in_slices(len(stack), recipe, "asked", ask) for outputs in part]


def cohort_size(wanted: int | str, recipe: Recipe, shape: tuple[int, ...], outputs: int) -> int:
    """How many models of a recipe are trained together: a tier's `cohort`, "auto" or a number.

    Raises:
        FlSimError: a number is asked for, and the architecture cannot be stacked.
    """
    size = _auto(recipe, shape) if isinstance(wanted, str) else wanted
    if size == 1 or stackable(recipe.architecture, shape, outputs):
        return size
    if isinstance(wanted, str):
        return 1
    raise FlSimError(
        f"cohort = {wanted}: architecture {recipe.architecture!r} cannot be trained in a stack (buffers as of batch "
        "normalisation, dropout, or operations that torch.func cannot map); leave cohort out, or set it to 1"
    )


def _auto(recipe: Recipe, shape: tuple[int, ...]) -> int:
    if recipe.device != "cpu":
        return AUTO_GPU
    small = math.prod(shape) <= SMALL.get(recipe.architecture, math.inf)
    return AUTO.get(recipe.architecture, 1) if small else 1


@cache  # a property of the architecture
def stackable(architecture: str, shape: tuple[int, ...], outputs: int) -> bool:
    """Whether models of an architecture can be trained together: tried out with two of them on the CPU.

    They must have parameters alone, all trained in float32 (no buffers as of batch normalisation); nothing may be drawn
    at random in training (dropout); every operation must be one that torch.func maps; and a row's output must not
    depend on the other rows. An architecture that cannot be built is not stackable; whoever builds it hears why.
    """
    recipe = Recipe(architecture, 1, 1e-3, BATCH, None, 0, "", "cpu", "float32")
    try:
        models = [training.initial(replace(recipe, purpose=f"trial {i}"), shape, outputs) for i in range(2)]
        with warnings.catch_warnings(record=True) as caught, one_thread(), _every_warning():
            warnings.simplefilter("always")
            same = all(map(_has_parameters_alone, models)) and _trial(models, shape, outputs)
        return same and not any("batching rule" in str(warning.message) for warning in caught)  # mapped by a loop
    except Exception:  # a user's own may raise anything, and so does torch.func
        return False


# ------------------------------------------------------------------------------------------------------------ training


def _fit(
    stack: Stack, inputs: NDArray[Any], targets: Sequence[NDArray[Any]], recipes: Sequence[Recipe], shared: bool,
    levels: NDArray[Any] | None,
) -> Stack:  # fmt: skip
    """Members with the most steps come first, so that those that still train at any step are the first ones: views."""
    recipe, sizes = recipes[0], np.array([len(each) for each in targets])
    begins = np.zeros(len(sizes), np.int64) if shared else np.cumsum(sizes) - sizes
    mine = [None if levels is None else levels[b : b + n] for b, n in zip(begins, sizes, strict=True)]
    first = [training.first_epochs(each, recipe.epochs, n) for each, n in zip(mine, sizes.tolist(), strict=True)]
    steps = np.array([training.num_steps(each, recipe) for each in first])
    if not steps.any():
        return stack
    order = np.argsort(-steps, kind="stable")
    once = shared and all(each is targets[0] for each in targets)
    y = torch.from_numpy(targets[0] if once else np.concatenate([targets[s] for s in range(len(sizes))]))
    y, in_y = y.to(recipe.device), np.zeros_like(begins) if once else np.cumsum(sizes) - sizes
    x = training.reader(inputs, recipe)
    weights = {name: tensor[torch.from_numpy(order)] for name, tensor in stack.weights.items()}
    forward = forward_of(stack.module.train(), recipe.device)
    optimizer = StackedSteps(weights, recipe)
    batches = _batches([recipes[s] for s in order], [first[s] for s in order], steps[order])
    for step, (rows, counts) in enumerate(batches):
        now = order[: len(rows)]
        batch = x(torch.from_numpy(rows + begins[now, None]).flatten()).unflatten(0, rows.shape)
        labels = y[torch.from_numpy(rows + in_y[now, None]).to(recipe.device)]
        gradients = gradients_of(forward, optimizer.weights(len(rows)), batch, labels, counts, recipe)
        optimizer.step(gradients, step, steps[now])
    back = torch.from_numpy(np.argsort(order))
    return Stack(stack.module, {name: tensor[back] for name, tensor in weights.items()})


def _batches(
    recipes: Sequence[Recipe], first: Sequence[NDArray[np.int64]], steps: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """At each step the rows (m, b) of the m members that still train, and how many of each (m,) count; a member's rows
    beyond these repeat its last. They are those that `training.fit` would show it, in that order."""
    orders = [_epochs(recipe, rows) for recipe, rows in zip(recipes, first, strict=True)]
    epoch_rows = np.zeros((len(first), max(map(len, first))), np.int64)
    begin, left, size = np.zeros_like(steps), np.zeros_like(steps), recipes[0].batch_size
    for step in range(int(steps.max())):
        m = int((steps > step).sum())
        for s in np.flatnonzero(left[:m] == 0):
            rows = next(orders[s])
            epoch_rows[s, : len(rows)], begin[s], left[s] = rows, 0, len(rows)
        counts = np.where(left[:m] <= size + 1, left[:m], size)  # a last batch of one joins the batch before it
        places = begin[:m, None] + np.minimum(np.arange(counts.max()), counts[:, None] - 1)
        yield np.take_along_axis(epoch_rows[:m], places, 1), counts
        begin[:m] += counts
        left[:m] -= counts


def _epochs(recipe: Recipe, first: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    order = stream(recipe.seed, "batch-order", recipe.purpose)
    for epoch in range(recipe.epochs):
        everyone = order.permutation(len(first))
        yield everyone[first[everyone] <= epoch]


# ---------------------------------------------------------------------------------------------------------- predicting


def _ask_the_same(stack: Stack, inputs: NDArray[Any], recipe: Recipe) -> list[NDArray[np.float32]]:
    rows, forward = training.reader(inputs, recipe), forward_of(stack.module.eval(), recipe.device, same=True)
    chunk, parts = _chunk(stack, inputs), []
    for start in range(0, len(inputs), chunk):
        parts.append(_outputs(forward, stack.weights, rows(slice(start, min(start + chunk, len(inputs)))), recipe))
    return list(np.concatenate(parts, axis=1))


def _ask_each(
    stack: Stack, inputs: NDArray[Any], recipe: Recipe, sizes: NDArray[np.int64]
) -> list[NDArray[np.float32]]:
    """Members with the most rows come first; what is short of a chunk is filled with a member's last row."""
    if not len(inputs):  # of a slice of members without rows
        return predict_together(stack, inputs, recipe)
    rows, forward = training.reader(inputs, recipe), forward_of(stack.module.eval(), recipe.device)
    order, begins, chunk = np.argsort(-sizes, kind="stable"), np.cumsum(sizes) - sizes, _chunk(stack, inputs)
    weights = {name: tensor[torch.from_numpy(order)] for name, tensor in stack.weights.items()}
    parts: list[list[NDArray[np.float32]]] = [[] for _ in sizes]
    for start in range(0, int(sizes.max()), chunk):
        now = order[sizes[order] > start]
        counts = np.minimum(sizes[now] - start, chunk)
        places = (begins[now] + start)[:, None] + np.minimum(np.arange(counts.max()), counts[:, None] - 1)
        batch = rows(torch.from_numpy(places).flatten()).unflatten(0, places.shape)
        outputs = _outputs(forward, {name: tensor[: len(now)] for name, tensor in weights.items()}, batch, recipe)
        for s, count, values in zip(now, counts, outputs, strict=True):
            parts[s].append(values[:count])
    none = np.zeros((0, outputs.shape[-1]), np.float32)
    return [np.concatenate([none, *each]) for each in parts]


def _outputs(forward: Forward, weights: Tensors, batch: torch.Tensor, recipe: Recipe) -> NDArray[np.float32]:
    with training.autocast(recipe), torch.no_grad():
        return forward(weights, batch).float().cpu().numpy()


def _chunk(stack: Stack, inputs: NDArray[Any]) -> int:
    values = training.PREDICT_VALUES // math.prod(inputs.shape[1:])
    return max(1, min(TOGETHER, values) // len(stack))


# ------------------------------------------------------------------------------------------------- memory and the trial


def _in_slices(count: int, recipe: Recipe, done: str, work: Callable[[slice], T]) -> list[T]:
    """`work` on all `count` members, or on half of those at a time where memory does not suffice, and so on."""
    results: list[T] = []
    start, size = 0, count
    while start < count:
        try:
            results.append(work(slice(start, min(start + size, count))))
            start += size
            continue
        except torch.OutOfMemoryError as error:
            reason = str(error).splitlines()[0]
        if size == 1:
            raise FlSimError(
                f"architecture {recipe.architecture!r}: one model alone does not fit into the memory of the "
                f"{recipe.device} device ({reason}); lower batch_size = {recipe.batch_size}, or raise gpus_per_client"
            )
        size = -(-size // 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        log.warning(
            "architecture %r: a cohort of %d models does not fit into the memory of the %s device; %s %d at a time",
            recipe.architecture, count, recipe.device, done, size,
        )  # fmt: skip
    return results


@contextlib.contextmanager
def _every_warning() -> Iterator[None]:
    """Let torch give its warnings each time and not once a process: what `stackable` finds must not depend on what came
    before."""
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        yield
    finally:
        torch.set_warn_always(before)


def _has_parameters_alone(model: nn.Module) -> bool:
    mine = dict(model.named_parameters())
    plain = all(p.requires_grad and p.dtype == torch.float32 for p in mine.values())
    random = any(isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0 for layer in model.modules())
    by_gradients = not isinstance(model, training.FitsItself)
    return bool(mine) and plain and not random and by_gradients and list(mine) == list(model.state_dict())


def _trial(models: Sequence[nn.Module], shape: tuple[int, ...], outputs: int) -> bool:
    """Whether gradients and outputs of two models, together and one fewer row for the second, are those of each."""
    rng = stream(0, "stackable")
    rows = torch.from_numpy(rng.standard_normal((2, ROWS, *shape)).astype(np.float32))
    of_targets = (2, ROWS, outputs) if outputs > 1 else (2, ROWS)  # one class alone has no gradient
    targets = torch.from_numpy(rng.random(of_targets).astype(np.float32))
    counts, stack = np.array([ROWS, ROWS - 1]), stacked(models)
    recipe = Recipe("", 1, 1e-3, BATCH, None, 0, "", "cpu", "float32")
    forward = forward_of(stack.module.train(), "cpu")
    leaves = {name: tensor.requires_grad_() for name, tensor in stack.weights.items()}
    together = gradients_of(forward, leaves, rows, targets, counts, recipe)
    for s, (model, n) in enumerate(zip(models, counts.tolist(), strict=True)):
        loss = training.loss_of(model.train()(rows[s, :n]), targets[s, :n], None)
        alone = torch.autograd.grad(loss, list(model.parameters()))
        if not all(_close(mine[s], other) for mine, other in zip(together, alone, strict=True)):
            return False
    predicted = predict_together(stack, rows.flatten(0, 1).numpy(), recipe, [ROWS, ROWS])
    return all(
        _close(torch.from_numpy(mine), torch.from_numpy(training.predict(model, rows[s].numpy(), recipe)))
        for s, (mine, model) in enumerate(zip(predicted, models, strict=True))
    )


def _close(mine: torch.Tensor, other: torch.Tensor) -> bool:
    return bool((mine - other).norm() <= 1e-3 * other.norm() + 1e-12)
