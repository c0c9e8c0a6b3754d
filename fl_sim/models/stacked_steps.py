"""One step of a stack: its forward pass, each member's gradient, and what an optimizer makes of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.func import functional_call, vmap
from torch.optim.adam import adam
from torch.overrides import TorchFunctionMode

from fl_sim.models import training
from fl_sim.models.recipe import Recipe

Tensors = dict[str, torch.Tensor]
Forward = Callable[[Tensors, torch.Tensor], torch.Tensor]

# Where a convolution of a stack is done as a product of patches by weights: as a grouped convolution, which torch.func
# makes of it, it would run on a GPU in kernels that are made for few groups.
PATCHES = frozenset({"cuda"})


def forward_of(module: nn.Module, device: str, *, same: bool = False) -> Forward:
    """(S, n, outputs) of stacked weights and rows (S, n, *shape), or (n, *shape) if they are the `same` for all."""

    def alone(weights: Tensors, rows: torch.Tensor) -> torch.Tensor:
        return functional_call(module, weights, (rows,))

    together = vmap(alone, in_dims=(0, None if same else 0))

    def forward(weights: Tensors, rows: torch.Tensor) -> torch.Tensor:
        with _ByPatches() if device in PATCHES else contextlib.nullcontext():
            return together(weights, rows)

    return forward


class _ByPatches(TorchFunctionMode):
    """Every `nn.Conv2d` of one group as a product of patches by weights."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        plain = func is nn.functional.conv2d and len(args) == 7 and not kwargs
        if plain and args[6] == 1 and args[0].ndim == 4 and isinstance(args[4], tuple):
            return _convolved(*args[:6])
        return func(*args, **(kwargs or {}))


def _convolved(
    rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int],
) -> torch.Tensor:  # fmt: skip
    """`nn.functional.conv2d` of rows (n, c, h, w) by weights (o, c, i, j)."""
    kernel = weight.shape[2:]
    lasts = nn.functional.pad(rows.movedim(1, -1), (0, 0, padding[1], padding[1], padding[0], padding[0]))
    high, wide = (
        (lasts.shape[1 + axis] - dilation[axis] * (kernel[axis] - 1) - 1) // stride[axis] + 1 for axis in range(2)
    )
    patches = [
        lasts[:, i : i + stride[0] * (high - 1) + 1 : stride[0], j : j + stride[1] * (wide - 1) + 1 : stride[1]]
        for i in range(0, dilation[0] * kernel[0], dilation[0])
        for j in range(0, dilation[1] * kernel[1], dilation[1])
    ]
    flat = torch.cat(patches, -1).flatten(0, 2)  # (n * high * wide, i * j * c)
    made = flat @ weight.permute(2, 3, 1, 0).flatten(0, 2)
    made = made if bias is None else made + bias
    return made.unflatten(0, (len(rows), high, wide)).movedim(-1, 1)


def gradients_of(
    forward: Forward, weights: Tensors, rows: torch.Tensor, targets: torch.Tensor, counts: NDArray[np.int64],
    recipe: Recipe,
) -> list[torch.Tensor]:  # fmt: skip
    """Of each member's mean loss over its first `counts` (m,) rows (m, b, *shape), the gradient by its weights."""
    with training.autocast(recipe):
        losses = _losses(forward(weights, rows), targets, recipe.quantiles)
    if (counts == losses.shape[1]).all():
        loss = losses.sum() / losses.shape[1]
    else:
        true = np.arange(losses.shape[1]) < counts[:, None]
        shares = torch.from_numpy((true / counts[:, None]).astype(np.float32)).to(losses.device)
        loss = (losses * shares).sum()
    gradients = torch.autograd.grad(loss, list(weights.values()))
    return [gradient.contiguous() for gradient in gradients]  # a fused step goes by memory, not by strides


def _losses(outputs: torch.Tensor, targets: torch.Tensor, quantiles: tuple[float, float] | None) -> torch.Tensor:
    """(m, b): what `training.loss_of` is the mean of."""
    if targets.dtype == torch.int64 or targets.ndim == 3:
        flat = nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten(0, 1), reduction="none")
        return flat.unflatten(0, targets.shape[:2])
    if quantiles is None:
        return nn.functional.mse_loss(outputs[..., 0], targets, reduction="none")
    levels = torch.tensor(quantiles, device=outputs.device)
    miss = targets[..., None] - outputs
    return torch.maximum(levels * miss, (levels - 1) * miss).mean(-1)


class StackedSteps:
    """Stacked weights, and what their optimizer keeps of each beside it: nothing for SGD as `training` has it; torch's
    own Adam or AdamW two moments and a count, which all members share, for they begin together."""

    def __init__(self, weights: Tensors, recipe: Recipe) -> None:
        self._recipe, self._names = recipe, list(weights)
        states = 0 if recipe.optimizer == "sgd" else 2
        self._all = [list(weights.values())] + [[torch.zeros_like(w) for w in weights.values()] for _ in range(states)]
        self._count = [torch.zeros((), device=w.device) for w in weights.values()]
        self._now: list[list[torch.Tensor]] = []

    def weights(self, m: int) -> Tensors:
        """The first m members', to take gradients by."""
        if not self._now or len(self._now[0][0]) != m:
            self._now = [[tensor[:m] for tensor in each] for each in self._all]
            self._now[0] = [tensor.detach().requires_grad_() for tensor in self._now[0]]
        return dict(zip(self._names, self._now[0], strict=True))

    @torch.no_grad()
    def step(self, gradients: list[torch.Tensor], step: int, steps: NDArray[np.int64]) -> None:
        """Step `step` of the first m members, who have `steps` (m,) in all."""
        recipe, weights = self._recipe, self._now[0]
        options, decay = training.ADAM | {"fused": True}, training.decay_of(recipe)
        state: Any = (gradients, *self._now[1:], [], self._count)  # [] AMSGrad alone would keep
        if recipe.optimizer != "sgd" and recipe.schedule == "constant":
            rate = recipe.learning_rate
            adam(weights, *state, lr=rate, **(options | decay))
            return
        moves = gradients
        if recipe.optimizer != "sgd":
            # Each member has a rate of its own: the step is made at a rate of 1, from 0, and added in the right size.
            moves = [torch.zeros_like(weight) for weight in weights]
            adam(moves, *state, lr=1.0, weight_decay=0.0, **options)
        for weight, move, rates in zip(weights, moves, self._rates(step, steps), strict=True):
            if recipe.optimizer == "sgd":
                weight.addcmul_(move, rates, value=-1)
            else:
                weight.mul_(1 - rates * decay["weight_decay"])
                weight.addcmul_(move, rates)

    def _rates(self, step: int, steps: NDArray[np.int64]) -> list[torch.Tensor]:
        """Each member's rate at `step`, in the form of each weight, (m, 1, ...)."""
        rates = np.array([training.learning_rate_at(self._recipe, step, int(n)) for n in steps], np.float32)
        here = torch.from_numpy(rates).to(self._now[0][0].device)
        return [here.view(-1, *[1] * (weight.ndim - 1)) for weight in self._now[0]]
