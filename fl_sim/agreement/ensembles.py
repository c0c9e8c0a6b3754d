"""The local learning curve: stacks of k clients' models, and what doubling k buys in accuracy and in agreement.

"Model Agreement via Anchoring", Eaton, Goel, Hussing, Kearns, Roth, Sengupta, Sorrell, 2026,
https://arxiv.org/abs/2602.23360, theorem 3.1 and, for other losses and vectors of outputs, section 6.

    f = sum_i w_i f_i, w = argmin E |f - y|^2        `fit`: a stack of k base models, least squares on the population
    R_k = E over groups of k of R(f)                 `Doubling.risk`
    D                                                of the stacks of two disjoint groups, `Doubling.disagreement`
    D <= (8 / mu) (R_k - R_2k), on average           `Doubling.bound`; mu = 2 for the Brier score and squared error: 4

The base models are the clients', the population is the rows that they have answered on, a group is drawn at random,
without replacement, and the stack of 2k is that of both groups of a draw together. So a draw bounds itself: the mean of
both stacks is one that 2k models can make, R_2k is no more, and D = 2 (R + R' - 2 R_mid) <= 4 ((R + R') / 2 - R_2k).
Whatever breaks the bound is therefore no least-squares stack on these rows. What it says beyond these clients, of
others to come, rests on their being independent draws of one law. What a stack is worth on rows to come is another
matter, for 64 weights learn a few hundred rows by heart: `Doubling.held` is R where the weights are found on one half
of the rows and measured on the other, and it is by this that `enough` tells what doubling is worth (section 1.1.3).

>>> from fl_sim.agreement.pairwise import gram
>>> says = np.array([[[1.0], [0.0]], [[0.0], [1.0]]], np.float32)  # two models, two rows, one output
>>> at = gram(says, np.array([[1.0], [1.0]]))
>>> fit(at, [0, 1]).round(9), risk(at, [0, 1], fit(at, [0, 1])), risk(at, [0], fit(at, [0]))
(array([1., 1.]), 0.0, 0.5)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fl_sim.agreement.pairwise import Gram

Floats = NDArray[np.float64]

BRIER = 2.0  # mu of squared error, summed over the classes: 8 / mu = 4
BEYOND = 3.0  # standard errors
PIVOT = 1e-11  # of the largest: below it models are as good as dependent
ROUNDING = 1e-9  # of the risks: what is lost where weights are found through the Gram product


@dataclass(frozen=True)
class Draws:
    """What the draws of one k gave, each (draws,)."""

    k: int
    risk: Floats  # the mean of both stacks' R
    risk_2k: Floats  # of the stack of both groups
    disagreement: Floats  # of the two stacks
    held_out: Floats  # as risk, on rows that the weights were not found on
    held_2k: Floats


@dataclass(frozen=True)
class Doubling:
    """A point of the curve: means over the draws and their standard errors."""

    k: int
    risk: float
    risk_se: float
    risk_2k: float
    risk_2k_se: float
    disagreement: float
    disagreement_se: float
    held: float  # R_k on rows that the weights were not found on
    held_se: float
    held_2k: float
    held_2k_se: float
    gain: float  # held - held_2k: what doubling buys in accuracy
    gain_se: float
    bound: float  # (8 / mu) (R_k - R_2k)
    bound_se: float
    holds: bool  # `bound_holds`


def fit(gram: Gram, members: Sequence[int]) -> Floats:
    """(k,) weights of the stack of these models: least squares on the rows, of minimum norm.

    A scalar weight a model, the outputs of a model's classes one after the other: n C equations, k unknowns. They are
    solved as normal equations, whose minimum-norm solution is the same: (AᵀA)⁺ Aᵀy = A⁺ y.
    """
    here = np.asarray(members, np.int64)
    products, wanted = gram.products[np.ix_(here, here)], gram.with_target[here]
    if _well_posed(products):
        return np.linalg.solve(products, wanted).astype(np.float64)
    return np.linalg.lstsq(products, wanted, rcond=None)[0].astype(np.float64)


def _well_posed(products: Floats) -> bool:
    """Whether there is one solution only, so that it need not be sought by singular values, some ten times slower."""
    try:
        pivots = np.diag(np.linalg.cholesky(products)) ** 2
    except np.linalg.LinAlgError:
        return False
    return bool(pivots.min() > PIVOT * pivots.max())


def risk(gram: Gram, members: Sequence[int], weights: Floats) -> float:
    """R of a stack, on the rows of `gram`."""
    here = np.asarray(members, np.int64)
    square = weights @ gram.products[np.ix_(here, here)] @ weights
    return max(float(square - 2 * weights @ gram.with_target[here] + gram.target) / gram.rows, 0.0)


def distance(gram: Gram, one: Sequence[int], first: Floats, two: Sequence[int], second: Floats) -> float:
    """D of two stacks, on the rows of `gram`."""
    here, both = np.asarray([*one, *two], np.int64), np.concatenate([first, -second])
    return max(float(both @ gram.products[np.ix_(here, here)] @ both) / gram.rows, 0.0)


@dataclass(frozen=True, eq=False)
class Halves:
    """Two halves of the rows, apart and together."""

    first: Gram
    second: Gram

    @cached_property
    def both(self) -> Gram:
        """All rows."""
        one, two = self.first, self.second
        return Gram(
            one.products + two.products, one.with_target + two.with_target, one.target + two.target, one.rows + two.rows
        )


def draw(rows: Halves, k: int, draws: int, rng: np.random.Generator) -> Draws:
    """Draw so many times two disjoint groups of k models, stack each and both together.

    Args:
        rows: what the models say of the rows, in two halves.
        k: models a group; 2k are needed.
        draws: how often.
        rng: draws the groups.

    Raises:
        ValueError: there are fewer than 2k models.
    """
    gram = rows.both
    models = len(gram.with_target)
    if not 1 <= k <= models // 2:
        raise ValueError(f"k = {k}: two disjoint groups of {models} models hold 1 to {models // 2} each")

    def held_out(members: Sequence[int]) -> float:
        return risk(rows.second, members, fit(rows.first, members))

    measured = []
    for _ in range(draws):
        both = rng.permutation(models)[: 2 * k].tolist()
        one, two = both[:k], both[k:]
        first, second = fit(gram, one), fit(gram, two)
        measured.append((
            (risk(gram, one, first) + risk(gram, two, second)) / 2, risk(gram, both, fit(gram, both)),
            distance(gram, one, first, two, second), (held_out(one) + held_out(two)) / 2, held_out(both),
        ))  # fmt: skip
    return Draws(k, *np.array(measured).T)


def bound_holds(draws: Draws, mu: float = BRIER) -> bool:
    """Whether D <= (8 / mu) (R_k - R_2k) on average over the draws, but for 3 standard errors of the difference, which
    a draw tells by itself, and for rounding."""
    beyond = draws.disagreement - 8 / mu * (draws.risk - draws.risk_2k)
    slack = BEYOND * standard_error(beyond) + ROUNDING * float(draws.risk.max(initial=1.0))
    return bool(beyond.mean() <= slack)


def doubling(draws: Draws, mu: float = BRIER) -> Doubling:
    """The means of the draws of one k."""

    def mean(values: Floats) -> tuple[float, float]:
        return float(values.mean()), standard_error(values)

    return Doubling(
        draws.k, *mean(draws.risk), *mean(draws.risk_2k), *mean(draws.disagreement), *mean(draws.held_out),
        *mean(draws.held_2k), *mean(draws.held_out - draws.held_2k), *mean(8 / mu * (draws.risk - draws.risk_2k)),
        bound_holds(draws, mu),
    )  # fmt: skip


def curve(rows: Halves, draws: int, rng: np.random.Generator, mu: float = BRIER) -> list[Doubling]:
    """A point for k = 1, 2, 4, ... while 2k models are there; none where there are fewer than two."""
    models = len(rows.first.with_target)
    sizes = [2**power for power in range(models.bit_length()) if 2 ** (power + 1) <= models]
    return [doubling(draw(rows, k, draws, rng), mu) for k in sizes]


def enough(points: Sequence[Doubling], within: float, mu: float = BRIER) -> int | None:
    """The smallest k from which on doubling buys neither accuracy nor agreement; None where it does to the end.

    At k and at every larger one measured: on rows held out a stack of 2k is better by at most `within`, or by less than
    two standard errors; and two stacks of 2k, where they are measured, differ less than two of k by at most
    (8 / mu) `within`, or by less than two standard errors.
    """
    smallest = None
    for index, point in reversed(list(enumerate(points))):
        accuracy = point.gain <= max(within, 2 * point.gain_se)
        larger = points[index + 1] if index + 1 < len(points) else point
        closer, doubt = point.disagreement - larger.disagreement, point.disagreement_se + larger.disagreement_se
        if not (accuracy and closer <= max(8 / mu * within, 2 * doubt)):
            break
        smallest = point.k
    return smallest


def standard_error(values: Floats) -> float:
    """Of the mean of draws; 0 where there is one alone."""
    return float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
