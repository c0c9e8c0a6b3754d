"""Quantiles as minimisers of a smoothed pinball loss: by federated descent (DP-FedCP) and by consensus ADMM (Q-DCP).

The pinball loss at level 1-α of a score S is ℓ_S(q) = (1-α) (S-q)⁺ + α (q-S)⁺; summed over scores its minimisers are
their (1-α)-quantiles. Both methods make it smooth, which moves the minimiser:

DP-FedCP by its Moreau envelope, min_x ℓ_S(x) + (x-q)²/2γ, of gradient clip((q-S)/γ, -(1-α), α). As
clip((q-s)/γ, -(1-α), α) + (1-α) = P(U >= s-q) with U uniform on [-γα, γ(1-α)], the gradients' mean is 0 where
P(S-U <= q) = 1-α: the minimiser is the (1-α)-quantile of S-U, U independent of S, and to first order in γ lies
E U = γ(1/2-α) below that of S.

Q-DCP by a softplus and a square, f(q) = Σ_i [(1-a) g(S_i-q) + a g(q-S_i)] + μ/2 (q-q_0)², g(x) = x + log(1+e^(-κx))/κ,
of gradient Σ_i σ(κ(q-S_i)) - n(1-a) + μ(q-q_0), σ the logistic function (g' is σ(κx), and σ(-u) = 1-σ(u)). Summed over
K clients of N points together it is 0 where Σ_i σ(κ(q-S_i)) = N(1-a) + Kμ(q_0-q): μ moves the rank by Kμ(q_0-q).

>>> moreau_gradient(np.array([0.0, 0.5, 1.0]), np.ones(3), 0.5, alpha=0.25, smoothing=0.1)  # (0.25 + 0 - 0.75) / 3
-0.16666666666666666
>>> agree(np.array([0.25, 0.75]), Terms(rank=1.0, sharpness=2000.0, slope=1e-9, pull=0.5e-9))  # between 1st and 2nd
0.5
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

Floats = NDArray[np.float64]
Topology = Literal["complete", "cycle"]

EPSILON_0 = 0.1  # |q_0 - q*| as the authors' code of Q-DCP has it, where a user gives none
NEWTON_STEPS = 200  # far more than are ever taken


# ---------------------------------------------------------------------------------------------------------- DP-FedCP


def moreau_gradient(scores: Floats, weights: Floats, q: float, *, alpha: float, smoothing: float) -> float:
    """Mean over scores (n,) by `weights` (n,) of clip((q-S)/γ, -(1-α), α), γ = `smoothing`; 0 where there are none."""
    if not len(scores):
        return 0.0
    clipped = np.minimum(np.maximum((q - scores) / smoothing, alpha - 1), alpha)
    return float(weights @ clipped / weights.sum())


def descended(
    scores: Floats, weights: Floats, start: float, *, alpha: float, smoothing: float, step_size: float, noise: Floats
) -> float:
    """Where q is after one step q <- q - η (gradient + z) for each z of `noise` (E,), η = `step_size`."""
    q = start
    for z in noise.tolist():
        q -= step_size * (moreau_gradient(scores, weights, q, alpha=alpha, smoothing=smoothing) + z)
    return q


def importance(counts: ArrayLike) -> Floats:
    """w_y = P*(y) / P(y) for labels all alike in the target, P* = 1/C, and P(y) = N_y/N from `counts` (C,) of all
    clients' points; +inf for a label that no point has."""
    points = np.asarray(counts, np.float64)
    with np.errstate(divide="ignore"):
        return np.where(points > 0, points.sum() / (len(points) * points), np.inf)


def corrected_alpha(alpha: float, heaviest: float, mass: float) -> float:
    """1 - (1-α)(1 + w/W): the α at which the W = `mass` of the scores alone has the quantile that scores and a mass
    w = `heaviest` at +inf have at α. It is 0 or below where that quantile is +inf."""
    if mass <= 0:
        return -math.inf
    return 1 - (1 - alpha) * (1 + heaviest / mass)


def privacy_spent(noise_multiplier: float, steps: int, delta: float) -> float:
    """ε of (ε, δ)-differential privacy after `steps` Gaussian mechanisms, one after the other, with noise of standard
    deviation `noise_multiplier` times their sensitivity: by Rényi differential privacy, neighbours differ in one record
    replaced. +inf without noise, 0 without steps.

    Mironov, "Rényi differential privacy", 2017; Google's dp_accounting.
    """
    if steps == 0:
        return 0.0
    if noise_multiplier == 0:
        return math.inf
    from dp_accounting import GaussianDpEvent, NeighboringRelation, SelfComposedDpEvent
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(neighboring_relation=NeighboringRelation.REPLACE_ONE)
    accountant.compose(SelfComposedDpEvent(GaussianDpEvent(noise_multiplier), steps))
    return float(accountant.get_epsilon(delta))


# ------------------------------------------------------------------------------------------------------------- Q-DCP


@dataclass(frozen=True)
class Terms:
    """A client's equation Σ_i σ(κ(x-S_i)) - rank + slope·x - pull = 0, whose left side rises strictly."""

    rank: float  # n(1-a)
    sharpness: float  # κ
    slope: float  # μ + 2cd
    pull: float  # μ q_0 - a_k + c(d x_k + Σ_j x_j)

    def at(self, scores: Floats, x: float) -> tuple[float, float]:
        """(the left side, its derivative) at x."""
        soft = expit(self.sharpness * (x - scores))
        left = float(soft.sum()) - self.rank + self.slope * x - self.pull
        return left, self.sharpness * float(soft @ (1 - soft)) + self.slope


def agree(scores: Floats, terms: Terms, near: float = 0.0) -> float:
    """The root x of the equation of `terms` for scores (n,), by Newton's method kept inside a bracket, from `near`.

    As σ lies between 0 and 1 the root is between (rank - n + pull)/slope and (rank + pull)/slope.
    """
    most = (terms.rank + terms.pull) / terms.slope
    low, high = most - len(scores) / terms.slope, most
    x = min(max(near, low), high)
    width = high - low
    for _ in range(NEWTON_STEPS):
        left, derivative = terms.at(scores, x)
        low, high = (low, x) if left > 0 else (x, high)
        step = left / derivative
        # Newton's step unless it leaves the bracket or is no shorter than half of the one before (Press et al.,
        # "Numerical recipes", `rtsafe`).
        new = x - step if low <= x - step <= high and abs(step) < width / 2 else (low + high) / 2
        width = abs(new - x)
        if new == x or width <= 4 * np.finfo(float).eps * abs(x):
            return new
        x = new
    return x


def neighbour_sums(values: Floats, topology: Topology) -> Floats:
    """Σ of the neighbours' values at each node, (K,), of `values` (K,)."""
    if len(values) < 2:
        return np.zeros(len(values))
    if topology == "complete" or len(values) < 4:
        return values.sum() - values
    return np.roll(values, 1) + np.roll(values, -1)


@dataclass(frozen=True)
class Graph:
    """A graph of `size` >= 1 nodes, and what the authors' rules ask of it: extreme singular values of its incidence
    matrices M₊ and M₋, unsigned and signed, (K, E)."""

    size: int
    topology: Topology

    @property
    def degree(self) -> int:
        """The neighbours of each node."""
        return min(self.size - 1, 2) if self.topology == "cycle" else self.size - 1

    @property
    def edges(self) -> int:
        """Their number."""
        return self.size * self.degree // 2

    @property
    def spectrum(self) -> Floats:
        """The eigenvalues (K,) of the Laplacian M₋M₋ᵀ in the order of the discrete Fourier transform, which
        diagonalises it; the first is 0."""
        row = neighbour_sums(np.eye(1, self.size)[0], self.topology)
        return self.degree - np.fft.fft(row).real

    @property
    def largest(self) -> float:
        """σ_max(M₊): the largest eigenvalue of M₊M₊ᵀ = D + A is twice the degree where all degrees are alike."""
        return math.sqrt(2 * self.degree)

    @property
    def smallest(self) -> float:
        """σ_min(M₋) above 0."""
        return math.sqrt(float(np.sort(self.spectrum)[1]))


def published_penalty(graph: Graph, most: int, sharpness: float, regularisation: float) -> float:
    """The authors' c = √ρ L / (σ_max(M₊) σ_min(M₋)), L = n κ/4 + μ, n = `most` points at one client; ρ below. With
    fewer than two clients nothing has to agree, and it is 1."""
    if graph.size < 2:
        return 1.0
    lipschitz = most * sharpness / 4 + regularisation
    return math.sqrt(_rho(graph, lipschitz / regularisation)) * lipschitz / (graph.largest * graph.smallest)


def _rho(graph: Graph, condition: float) -> float:
    """(1 + r²/2 - r/2 √(r² + 4))⁻¹, r = κ_G/κ_f the graph's condition number over the function's."""
    ratio = graph.largest / graph.smallest / condition
    # 1 + r²/2 - r/2 √(r²+4) is ((√(r²+4) - r)/2)²; written so nothing cancels.
    return ((math.sqrt(ratio**2 + 4) + ratio) / 2) ** 2


def published_margin(
    values: Floats, duals: Floats, graph: Graph, *, points: int, most: int, sharpness: float, regularisation: float,
    penalty: float, rounds: int, start: float = 0.0,
) -> float:  # fmt: skip
    """The authors' √ε_T + √(2N log 2 / μκ + ε_0²), to be added to the mean of `values` (K,) after T = `rounds`.

    ε_T = (1+δ)^(2-T) ‖u‖²_G / Kμ bounds what is left of a `start` if u is its distance from the optimum; the authors
    put the last values and `duals` (K,) in the optimum's place, so that after few rounds it bounds nothing. ε_0 = 0.1
    is their constant, and 0 their start.

    Args:
        points: N, of all clients.
        most: n, of the client that has most.
    """
    smoothing = math.sqrt(2 * points * math.log(2) / (regularisation * sharpness) + EPSILON_0**2)
    if graph.size < 2:
        return smoothing
    lipschitz = most * sharpness / 4 + regularisation
    rho, high, low = _rho(graph, lipschitz / regularisation), graph.largest**2, graph.smallest**2
    delta = min(
        (rho - 1) * low / (rho * high),
        regularisation / (penalty / 4 * high + rho / penalty * lipschitz**2 / low),
    )
    power = np.abs(np.fft.fft(duals)) ** 2 / graph.size
    edge_duals = float((power[1:] / graph.spectrum[1:]).sum())  # ‖M₋⁺ a‖² = aᵀ L⁺ a
    distance = penalty * graph.edges * (float(values.mean()) - start) ** 2 + edge_duals / penalty
    left = (1 + delta) ** (2 - rounds) * distance / (graph.size * regularisation)
    return math.sqrt(left) + smoothing
