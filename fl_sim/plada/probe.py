"""A linear probe as a payload: what a server sends to those who have the same backbone, in the paper the best rival.

"A Dataset is Worth 1 MB", Kimchi Shoshani, Gabay, Hoshen, https://arxiv.org/abs/2602.23358, its experiment on weights
as payload. The weights travel as INT8 with one scale a class (`fl_sim/plada/weights.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fl_sim.errors import FlSimError
from fl_sim.plada.backbone import Floats
from fl_sim.plada.weights import pack_weights, unpack_weights
from fl_sim.randomness import one_thread, stream

if TYPE_CHECKING:
    import torch

PENALTIES = (1.0, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)  # a probe's, the strongest first
STEPS = 40  # most of L-BFGS for one penalty
HELD_OUT = 5  # one row in so many chooses the penalty


@dataclass(frozen=True, eq=False)
class Probe:
    """A linear classifier of features: logits are f @ `weights` (d, C) + `bias` (C,), float32."""

    weights: Floats
    bias: Floats

    def logits(self, features: Floats) -> Floats:
        """Logits (n, C) of `features` (n, d)."""
        return np.asarray(features @ self.weights + self.bias, np.float32)


def fit_probe(features: Floats, labels: NDArray[Any], num_classes: int, *, seed: int = 0) -> Probe:
    """Multinomial logistic regression on `features` (n, d), standardised as a backbone's are, with `labels` (n,).

    The L2 penalty is one of PENALTIES: from the strongest on, as long as the cross-entropy of a fifth of the rows,
    held out by `seed`, falls. The probe is then fitted to all rows. L-BFGS, float32.

    Raises:
        FlSimError: fewer rows than HELD_OUT.
    """
    import torch

    labels = np.asarray(labels, np.int64)
    if features.ndim != 2 or labels.shape != features.shape[:1] or len(labels) < HELD_OUT:
        raise FlSimError(
            f"features {features.shape} and labels {labels.shape}: a probe takes (n, d) and (n,), n at least {HELD_OUT}"
        )
    mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)  # L-BFGS is faster without it
    x, y = torch.from_numpy(features - mean), torch.from_numpy(labels)
    with one_thread():
        weights, bias = _regularised(x, y, num_classes, stream(seed, "plada", "probe").permutation(len(labels)))
    return Probe(weights.numpy(), bias.numpy() - mean @ weights.numpy())


def pack_probe(probe: Probe) -> bytes:
    """The payload of a probe: INT8 weights with a float32 scale a class, float32 biases, under Zstd-19.

    Raises:
        FlSimError: weights that are not finite.
    """
    return pack_weights({"w": np.ascontiguousarray(probe.weights.T), "b": probe.bias}, "int8")


def unpack_probe(data: bytes, *, most_bytes: int) -> Probe:
    """The probe of a payload, its weights within half a step of those packed.

    Raises:
        FlSimError: not a probe's payload, damaged, or larger than allowed.
    """
    state = unpack_weights(data, most_bytes=most_bytes)
    kinds = {name: (tensor.dtype.str[1:], tensor.ndim) for name, tensor in state.items()}
    if kinds != {"w": ("f4", 2), "b": ("f4", 1)} or len(state["w"]) != len(state["b"]):
        raise FlSimError(f"the payload is no probe's: it has {sorted(state)}, and a probe has weights w and biases b")
    return Probe(np.ascontiguousarray(state["w"].T), state["b"])


def _regularised(
    x: torch.Tensor, y: torch.Tensor, num_classes: int, order: NDArray[np.int64]
) -> tuple[torch.Tensor, torch.Tensor]:
    """(weights (d, C), bias (C,)) under the penalty that the first fifth of `order`, held out, chooses."""
    import torch

    tested, rest = np.split(order, [len(order) // HELD_OUT])
    start = best = torch.zeros(x.shape[1], num_classes), torch.zeros(num_classes)
    least, chosen = np.inf, PENALTIES[0]
    for penalty in PENALTIES:
        start = _minimised(x[rest], y[rest], penalty, start)
        loss = float(torch.nn.functional.cross_entropy(x[tested] @ start[0] + start[1], y[tested]))
        if loss >= least:
            break
        least, chosen, best = loss, penalty, start
    return _minimised(x, y, chosen, best)


def _minimised(
    x: torch.Tensor, y: torch.Tensor, penalty: float, start: tuple[torch.Tensor, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the mean cross-entropy + penalty / 2 |weights|^2 is least, from `start` on."""
    import torch

    weights, bias = (part.clone().requires_grad_() for part in start)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=STEPS, tolerance_grad=1e-5, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(x @ weights + bias, y) + penalty / 2 * weights.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return weights.detach(), bias.detach()
