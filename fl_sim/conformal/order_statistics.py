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

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc, betaincc, betainccinv, betaincinv

from fl_sim.conformal.decimals import exact_alpha
from fl_sim.conformal.poisson_binomial import NEGLIGIBLE, at_most, fewer, reach

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Guarantee = Literal["marginal", "conditional"]

TOLERANCE = 1e-12  # M and shortfall are known to about 1e-13; so near to what is asked for they count as meeting it
_AGREE = 1e-11  # a panel and its halves; the halves, which are kept, are then many digits better
_DEEPEST = 48  # halvings


@dataclass(frozen=True)
class Aim:
    """What is asked of the coverage: M >= 1 - α ("marginal"), or P(coverage < 1 - α) <= β ("conditional")."""

    alpha: float
    guarantee: Guarantee = "marginal"
    beta: float = 0.1

    @property
    def level(self) -> float:
        """1 - α, rounded once."""
        return float(1 - exact_alpha(self.alpha))

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
    kinds, short = _kinds(sizes, ranks), shortfalls(sizes, ranks, aim.alpha)
    coverage = cache(lambda k: _expected_coverage(kinds, k))  # which takes its time, and few k are looked at
    if aim.guarantee == "conditional":
        met = aim.met(0.0, short)
        best = int(met.argmax()) + 1 if met.any() else None
    else:
        about = math.ceil(float(kinds.number @ kinds.below(np.array([aim.level]))[0]))
        best = _first(lambda k: bool(aim.met(coverage(k), 0.0)), min(max(about, 1), len(short)), len(short))
    k = len(short) if best is None else best
    return Choice(k, coverage(k), float(short[k - 1]), best is not None)


def choose_equal(n: int, num_clients: int, aim: Aim) -> tuple[int, Choice]:
    """(l, k) of the smallest M among all that meet the aim, where each client has `n` scores; of equals the smallest k.

    M grows with l and with k, so only the smallest l of each k can be it, or the smallest k of each l: whichever are
    fewer are looked at.
    """
    each = np.arange(1, min(n, num_clients) + 1)

    def pair(other: Counts) -> tuple[Counts, Counts]:
        return (each, other) if n < num_clients else (other, each)

    def met(other: Counts) -> NDArray[np.bool_]:
        rank, k = pair(other)
        if aim.guarantee == "marginal":
            return aim.met(equal_expected_coverage(n, rank, num_clients, k), 0.0)
        return aim.met(0.0, equal_shortfall(n, rank, num_clients, k, aim.alpha))

    rank, k = pair(_smallest(met, np.ones_like(each), np.full_like(each, max(n, num_clients))))
    coverage = equal_expected_coverage(n, rank, num_clients, k)
    short = equal_shortfall(n, rank, num_clients, k, aim.alpha)
    feasible = aim.met(coverage, short)
    best = int(np.lexsort((k, np.where(feasible, coverage, np.inf)))[0]) if feasible.any() else len(each) - 1
    choice = Choice(int(k[best]), float(coverage[best]), float(short[best]), bool(feasible[best]))
    return int(rank[best]), choice


def shortfalls(sizes: Sequence[int], ranks: Sequence[int], alpha: float) -> Floats:
    """P(coverage < 1 - α) for k = 1..K, (K,)."""
    n, rank = np.asarray(sizes, np.int64), np.asarray(ranks, np.int64)
    above: Floats = betaincc(rank, n - rank + 1, Aim(alpha).level)
    return fewer(above)[::-1]  # at least k of K lie below, so at most K - k above


def equal_expected_coverage(n: int, rank: ArrayLike, num_clients: int, k: ArrayLike) -> Floats:
    """M where each of the clients sends the `rank`-th smallest of `n` scores; `rank` and `k` broadcast."""
    r, order = np.broadcast_arrays(np.asarray(rank), np.asarray(k))
    own, ours = (r, n - r + 1), (order, num_clients - order + 1)  # parameters of the two beta laws
    low = betaincinv(*own, betaincinv(*ours, NEGLIGIBLE))
    high = betainccinv(*own, betaincinv(*ours[::-1], NEGLIGIBLE))
    nodes, weights = _gauss(96)
    t = low[..., None] + (high - low)[..., None] * nodes
    beyond = betaincc(*(x[..., None] for x in ours), betainc(*(x[..., None] for x in own), t))
    return np.asarray(low + (high - low) * (beyond @ weights))


def equal_shortfall(n: int, rank: ArrayLike, num_clients: int, k: ArrayLike, alpha: float) -> Floats:
    """P(coverage < 1 - α) = P(Beta(k, K-k+1) <= F(1 - α)) where all send the same; `rank` and `k` broadcast."""
    r, order = np.asarray(rank), np.asarray(k)
    return np.asarray(betainc(order, num_clients - order + 1, betainc(r, n - r + 1, Aim(alpha).level)))


class _Kinds(NamedTuple):
    """The clients by the law of their U_j: Beta(`rank`, `above`) of `number` clients, (kinds,) each."""

    rank: Counts
    above: Counts
    number: Counts

    def below(self, t: Floats) -> Floats:
        """(nodes, kinds) F_j(t) at t (nodes,)."""
        return np.asarray(betainc(self.rank, self.above, t[:, None]))


def _kinds(sizes: Sequence[int], ranks: Sequence[int]) -> _Kinds:
    n, rank = np.asarray(sizes, np.int64), np.asarray(ranks, np.int64)
    laws, number = np.unique(np.stack([rank, n - rank + 1]), axis=1, return_counts=True)
    return _Kinds(laws[0], laws[1], number)


def _expected_coverage(kinds: _Kinds, k: int) -> float:
    """M: outside of low..high PB(t) <= k - 1 is as good as certain, or as good as impossible."""

    def within(t: float, sign: int) -> bool:
        mean, far = reach(kinds.below(np.array([t])), kinds.number)
        return bool(mean[0] + sign * far[0] <= k - 1)

    low, high = _last(lambda t: within(t, 1)), _last(lambda t: within(t, -1), from_above=True)
    return low + _integral(lambda t: at_most(k - 1, kinds.below(t), kinds.number), low, high)


def _last(holds: Callable[[float], bool], from_above: bool = False) -> float:
    """The last t of [0, 1] where `holds`, which once false stays false, rounded down to 2^-20, or up `from_above`."""
    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return high if from_above else low


def _integral(function: Callable[[Floats], Floats], start: float, end: float) -> float:
    """The integral of `function`, (nodes,) -> (nodes,): panels are halved until they agree with their halves.

    Clients of unlike sizes make steps of unlike widths, so no fixed set of nodes serves all.
    """
    nodes, weights = _gauss(16)

    def panels(low: Floats, width: Floats) -> Floats:
        t = low[:, None] + width[:, None] * nodes
        return np.asarray(width * (function(t.ravel()).reshape(t.shape) @ weights))

    width = np.full(16, (end - start) / 16)
    low = start + np.arange(16) * width
    coarse, total = panels(low, width), 0.0
    for depth in range(_DEEPEST):
        low, width = np.concatenate([low, low + width / 2]), np.concatenate([width, width]) / 2
        fine = panels(low, width)
        left, right = np.split(fine, 2)
        settled = (np.abs(left + right - coarse) <= _AGREE) | (depth == _DEEPEST - 1)
        total += float((left + right)[settled].sum())
        open_ = ~np.concatenate([settled, settled])
        low, width, coarse = low[open_], width[open_], fine[open_]
        if not len(low):
            break
    return total


def _first(holds: Callable[[int], bool], guess: int, last: int) -> int | None:
    """The smallest number of 1..last where `holds`, which once true stays true; None if none. From a guess, so that
    a good one costs few questions, and any of them no more than some 2 log2(last)."""
    step = 1
    if holds(guess):
        low, high = guess - 1, guess
        while low > 0 and holds(low):
            low, high, step = max(low - 2 * step, 0), low, 2 * step
    else:
        low, high = guess, min(guess + 1, last)
        while not holds(high):
            if high == last:
                return None
            low, high, step = high, min(high + 2 * step, last), 2 * step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _smallest(holds: Callable[[Counts], NDArray[np.bool_]], low: Counts, high: Counts) -> Counts:
    """For each entry the smallest number in low..high where `holds`, which once true stays true; `high` if none."""
    while (low < high).any():
        middle = (low + high) // 2
        true = holds(middle)
        low, high = np.where(true, low, np.minimum(middle + 1, high)), np.where(true, middle, high)
    return high


@cache
def _gauss(count: int) -> tuple[Floats, Floats]:
    """Gauss-Legendre nodes and weights on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return (nodes + 1) / 2, weights / 2
