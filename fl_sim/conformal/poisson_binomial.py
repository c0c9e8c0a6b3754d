"""How many of K independent events happen: the Poisson-binomial law PB of their probabilities.

>>> fewer(np.array([0.5, 0.5])).tolist()
[0.25, 0.75]
>>> at_most(1, np.array([[0.5]]), np.array([2])).tolist()
[0.75]
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

NEGLIGIBLE = 1e-16  # a probability that is taken for 0


def fewer(probabilities: Floats) -> Floats:
    """P(PB <= k - 1) for k = 1..K, (K,), from `probabilities` (K,), one after another."""
    law = np.zeros(len(probabilities) + 1)  # of how many of the events so far happen
    law[0] = 1.0
    for j, p in enumerate(probabilities):
        moved = law[: j + 1] * p
        law[: j + 1] -= moved
        law[1 : j + 2] += moved
    return np.cumsum(law[:-1])


def reach(probabilities: Floats, number: Counts) -> tuple[Floats, Floats]:
    """(nodes,) means of the laws of `at_most`, and how far from them PB may be, but with a probability of `NEGLIGIBLE`
    at most on either side: Bernstein's bound."""
    mean, variance = probabilities @ number, (probabilities * (1 - probabilities)) @ number
    far = -math.log(NEGLIGIBLE)
    return mean, far / 3 + np.sqrt(far**2 / 9 + 2 * far * variance)


def at_most(most: int, probabilities: Floats, number: Counts) -> Floats:
    """(nodes,) P(PB <= most), `number` (kinds,) events of each of `probabilities` (nodes, kinds); to about 1e-14.

    By inversion of their characteristic functions φ, which factor over kinds: with L points that hold all of PB's law
    but a negligible part, first .. first + L - 1, P(PB <= most) is the mean over the L-th roots e^iθ of 1 of
    φ(θ) Σ e^-iθm, m = first .. most. Angles where |φ| <= exp(-2 Var sin²(θ/2)) is negligible are left out.
    """
    events = int(number.sum())
    mean, far = reach(probabilities, number)
    points = min(events + 1, 2 * math.ceil(float(far.max())) + 1) // 2 * 2 + 1  # odd: no angle π to count once
    first = np.floor(mean - far).clip(0) if points <= events else np.zeros_like(mean)
    half = np.pi * np.arange(1, points // 2 + 1) / points
    least = float(((probabilities * (1 - probabilities)) @ number).min())
    half = half[2 * least * np.sin(half) ** 2 <= -math.log(NEGLIGIBLE)]
    summed = (most + 1 - first).clip(0, points)
    total = summed.copy()
    for angle in half.tolist():  # θ/2
        size, turn = _factor(probabilities, angle)
        turned = turn @ number - angle * (2 * first + summed - 1)
        total += 2 * np.exp(size @ number) * np.cos(turned) * np.sin(angle * summed) / math.sin(angle)
    return np.asarray((total / points).clip(0, 1))


def _factor(p: Floats, half: float) -> tuple[Floats, Floats]:
    """log |φ| and the angle of φ = 1 - p + p e^iθ, that of one event, from θ/2."""
    sine, cosine = math.sin(2 * half), math.cos(2 * half)
    with np.errstate(divide="ignore"):
        size = np.log1p(-4 * p * (1 - p) * math.sin(half) ** 2) / 2
    return size, np.arctan2(p * sine, 1 - p + p * cosine)
