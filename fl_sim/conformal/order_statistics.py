"""The k-th smallest of the clients' order statistics: what it covers, and which one to take (FedCP-QQ).

Client j of K sends the l_j-th smallest of its n_j scores, the server takes the k-th smallest of the K numbers. Where
all scores are drawn alike and have no ties, the share of new scores up to client j's number follows
U_j ~ Beta(l_j, n_j - l_j + 1), with distribution function F_j, whatever the scores' law. So the coverage of the
server's number is the k-th smallest of K independent U_j, and as PB(t) = #{j : U_j <= t} is a Poisson-binomial of the
probabilities F_1(t) .. F_K(t),

    P(coverage <= t) = P(PB(t) >= k)
    M = E coverage   = ∫_0^1 P(PB(t) <= k - 1) dt          for equal sizes P(PB(t) <= k - 1) = P(Beta(k, K-k+1) > F(t))

`ranks` are the l_j, `sizes` the n_j, `expected_coverage` is M, and `shortfall` is P(coverage < 1 - α). Ties can only
raise the coverage. Humbert, Le Bars, Bellet, Arlot, "One-shot federated conformal prediction", ICML 2023,
https://arxiv.org/abs/2302.06322 (M, as a sum of hypergeometric terms), and "Marginal and training-conditional
guarantees in one-shot federated conformal prediction", 2024, https://arxiv.org/abs/2405.12567 (the Beta-Beta law).

>>> round(float(equal_expected_coverage(n=19, rank=18, num_clients=1, k=1)), 12)
0.9
>>> rank, choice = choose_equal(20, 10, Aim(0.1))
>>> rank, choice.k, round(choice.expected_coverage, 6), round(choice.shortfall, 6)
(19, 5, 0.907915, 0.346347)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc, betaincc, betainccinv, betaincinv

from fl_sim.conformal.decimals import as_meant

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Guarantee = Literal["marginal", "conditional"]

TOLERANCE = 1e-12  # M and shortfall are known to about 1e-13; so near to what is asked for they count as meeting it
_NEGLIGIBLE = 1e-16  # probability beyond which the equal sizes' integrand is taken for 0 or 1
_AGREE = 1e-11  # a panel and its halves; the halves, which are kept, are then many digits better
_DEEPEST = 48  # halvings
_BATCH = 1 << 21  # numbers (nodes x clients) at a time


@dataclass(frozen=True)
class Aim:
    """What is asked of the coverage: M >= 1 - α ("marginal"), or P(coverage < 1 - α) <= β ("conditional")."""

    alpha: float
    guarantee: Guarantee = "marginal"
    beta: float = 0.1

    def __post_init__(self) -> None:
        for name in ("alpha", "beta"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must lie strictly between 0 and 1")
        if self.guarantee not in get_args(Guarantee):
            raise ValueError(f"guarantee = {self.guarantee!r}: must be one of {', '.join(get_args(Guarantee))}")

    @property
    def level(self) -> float:
        """1 - α, rounded once."""
        return float(1 - as_meant(self.alpha))

    def met(self, coverage: ArrayLike, shortfall: ArrayLike) -> NDArray[np.bool_]:
        """Where M and P(coverage < 1 - α), of the same shape, are as asked; `TOLERANCE` off still is."""
        if self.guarantee == "marginal":
            return np.asarray(coverage) >= self.level - TOLERANCE
        return np.asarray(shortfall) <= self.beta + TOLERANCE


@dataclass(frozen=True)
class Choice:
    """The k-th smallest of the clients' numbers; where none is `feasible`, the largest of them and what it can do."""

    k: int
    expected_coverage: float
    shortfall: float
    feasible: bool


def choose(sizes: Sequence[int], ranks: Sequence[int], aim: Aim) -> Choice:
    """The smallest k that meets the aim, of clients with `sizes` (K,) that send their `ranks`-th (K,) smallest scores.

    Both M grows and P(coverage < 1 - α) falls with k, so the smallest k covers least of those that meet the aim.
    """
    coverage, short = expected_coverages(sizes, ranks), shortfalls(sizes, ranks, aim.alpha)
    met = aim.met(coverage, short)
    best = int(met.argmax()) if met.any() else len(met) - 1
    return Choice(best + 1, float(coverage[best]), float(short[best]), bool(met[best]))


def choose_equal(n: int, num_clients: int, aim: Aim) -> tuple[int, Choice]:
    """(l, k) of the smallest M among all that meet the aim, where each client has `n` scores; of equals the smallest k.

    M grows with l and with k, so only the smallest l of each k can be it.
    """
    sizes, _ = _checked([n] * num_clients, [1] * num_clients)
    k = np.arange(1, len(sizes) + 1)

    def met(rank: Counts) -> NDArray[np.bool_]:
        if aim.guarantee == "marginal":
            return aim.met(equal_expected_coverage(n, rank, num_clients, k), 0.0)
        return aim.met(0.0, equal_shortfall(n, rank, num_clients, k, aim.alpha))

    rank = _smallest(met, np.ones_like(k), np.full_like(k, n))
    coverage = equal_expected_coverage(n, rank, num_clients, k)
    short = equal_shortfall(n, rank, num_clients, k, aim.alpha)
    feasible = aim.met(coverage, short)
    best = int(np.where(feasible, coverage, np.inf).argmin()) if feasible.any() else len(k) - 1
    choice = Choice(best + 1, float(coverage[best]), float(short[best]), bool(feasible[best]))
    return int(rank[best]), choice


def expected_coverages(sizes: Sequence[int], ranks: Sequence[int]) -> Floats:
    """M for k = 1..K, (K,), of clients with `sizes` (K,) that send their `ranks`-th (K,) smallest scores; to 1e-12."""
    n, rank = _checked(sizes, ranks)
    kinds, which = np.unique(np.stack([rank, n - rank + 1]), axis=1, return_inverse=True)
    return _integral(lambda t: _fewer(betainc(kinds[0], kinds[1], t[:, None])[:, which.ravel()]), len(n))


def shortfalls(sizes: Sequence[int], ranks: Sequence[int], alpha: float) -> Floats:
    """P(coverage < 1 - α) for k = 1..K, (K,)."""
    n, rank = _checked(sizes, ranks)
    above: Floats = betaincc(rank, n - rank + 1, Aim(alpha).level)
    return _fewer(above[None, :])[0, ::-1]  # at least k of K lie below, so at most K - k above


def equal_expected_coverage(n: int, rank: ArrayLike, num_clients: int, k: ArrayLike) -> Floats:
    """M where each of the clients sends the `rank`-th smallest of `n` scores; `rank` and `k` broadcast."""
    r, order = np.broadcast_arrays(np.asarray(rank), np.asarray(k))
    own, ours = (r, n - r + 1), (order, num_clients - order + 1)  # parameters of the two beta laws
    low = betaincinv(*own, betaincinv(*ours, _NEGLIGIBLE))
    high = betainccinv(*own, betaincinv(*ours[::-1], _NEGLIGIBLE))
    nodes, weights = _gauss(96)
    t = low[..., None] + (high - low)[..., None] * nodes
    beyond = betaincc(*(x[..., None] for x in ours), betainc(*(x[..., None] for x in own), t))
    return np.asarray(low + (high - low) * (beyond @ weights))


def equal_shortfall(n: int, rank: ArrayLike, num_clients: int, k: ArrayLike, alpha: float) -> Floats:
    """P(coverage < 1 - α) = P(Beta(k, K-k+1) <= F(1 - α)) where all send the same; `rank` and `k` broadcast."""
    r, order = np.asarray(rank), np.asarray(k)
    return np.asarray(betainc(order, num_clients - order + 1, betainc(r, n - r + 1, Aim(alpha).level)))


def _fewer(probabilities: Floats) -> Floats:
    """P(PB <= k - 1) for k = 1..K, (nodes, K), of Poisson-binomials with `probabilities` (nodes, K)."""
    nodes, clients = probabilities.shape
    law = np.zeros((clients + 1, nodes))  # of how many of the clients so far are there
    law[0] = 1.0
    for j, p in enumerate(np.ascontiguousarray(probabilities.T)):
        moved = law[: j + 1] * p
        law[: j + 1] -= moved
        law[1 : j + 2] += moved
    return np.cumsum(law[:-1], axis=0).T


def _integral(function: Callable[[Floats], Floats], size: int) -> Floats:
    """∫_0^1 of `function`, (nodes,) -> (nodes, size): panels are halved until they agree with their halves.

    Clients of unlike sizes make steps of unlike widths, so no fixed set of nodes serves all.
    """
    nodes, weights = _gauss(16)

    def panels(low: Floats, width: Floats) -> Floats:
        found = np.empty((len(low), size))
        step = max(1, _BATCH // (len(nodes) * size))
        for i in range(0, len(low), step):
            t = low[i : i + step, None] + width[i : i + step, None] * nodes
            values = function(t.ravel()).reshape(*t.shape, size)
            found[i : i + step] = width[i : i + step, None] * np.einsum("pns,n->ps", values, weights)
        return found

    low, width = np.arange(16) / 16, np.full(16, 1 / 16)
    coarse, total = panels(low, width), np.zeros(size)
    for depth in range(_DEEPEST):
        low, width = np.concatenate([low, low + width / 2]), np.concatenate([width, width]) / 2
        fine = panels(low, width)
        left, right = np.split(fine, 2)
        settled = (np.abs(left + right - coarse).max(axis=1) <= _AGREE) | (depth == _DEEPEST - 1)
        total += (left + right)[settled].sum(axis=0)
        open_ = ~np.concatenate([settled, settled])
        low, width, coarse = low[open_], width[open_], fine[open_]
        if not len(low):
            break
    return total


def _smallest(holds: Callable[[Counts], NDArray[np.bool_]], low: Counts, high: Counts) -> Counts:
    """For each entry the smallest number in low..high where `holds`, which once true stays true; `high` if none."""
    while (low < high).any():
        middle = (low + high) // 2
        found = holds(middle)
        low, high = np.where(found, low, np.minimum(middle + 1, high)), np.where(found, middle, high)
    return high


@cache
def _gauss(count: int) -> tuple[Floats, Floats]:
    """Gauss-Legendre nodes and weights on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return (nodes + 1) / 2, weights / 2


def _checked(sizes: Sequence[int], ranks: Sequence[int]) -> tuple[Counts, Counts]:
    n, rank = np.asarray(sizes, np.int64), np.asarray(ranks, np.int64)
    if n.ndim != 1 or n.shape != rank.shape or not len(n):
        raise ValueError(f"sizes {n.shape} and ranks {rank.shape}: must both have shape (K,), K at least 1")
    for j, (size, r) in enumerate(zip(n.tolist(), rank.tolist(), strict=True)):
        if not 1 <= r <= size:
            raise ValueError(f"ranks[{j}] = {r} of sizes[{j}] = {size}: must lie in 1..{size}")
    return n, rank
