"""How many images of each class a Safety-Net keeps: eq. 6 of PLADA's paper, in whole numbers."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from operator import index

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def quotas(sizes: Sequence[int] | Ints, reserved: int, exponent: float) -> Ints:
    """Eq. 6: whole quotas K_c (C,) proportional to (N_c)^exponent that add up to `reserved` exactly, K_c <= N_c.

    A class whose share is more than it has gives all it has, and the others share the rest, until every share can be
    filled; these are rounded by largest remainder: down, what is missing to the largest remainders, equal ones by class
    index. Shares and remainders are exact for the exponents 0, 1, 2 ...; for others, of the weights as floats.

    >>> quotas([1, 10, 89], 11, exponent=0), quotas([1, 10, 89], 10, exponent=1)
    (array([1, 5, 5]), array([0, 1, 9]))
    """
    counts = [int(size) for size in sizes]
    check_count(reserved, sum(counts), least=0, name="reserved")
    weights, quota, left = _weights(counts, exponent), list(counts), index(reserved)
    able = [c for c, size in enumerate(counts) if size]
    while True:  # a round that is not the last fills a class, so there are at most C
        whole = sum(weights[c] for c in able)
        full = [c for c in able if left * weights[c] >= counts[c] * whole]
        if not full:
            break
        left -= sum(counts[c] for c in full)
        able = [c for c in able if c not in set(full)]
    for c, share in zip(able, _largest_remainder([weights[c] for c in able], left), strict=True):
        quota[c] = share
    return np.array(quota, dtype=np.int64)


def _weights(sizes: list[int], exponent: float) -> list[int]:
    """(N_c)^exponent as whole numbers on a common scale; 0 for an empty class."""
    if exponent >= 0 and float(exponent).is_integer():
        return [size ** int(exponent) if size else 0 for size in sizes]
    powers = [Fraction(float(size) ** exponent) if size else Fraction(0) for size in sizes]
    scale = max(power.denominator for power in powers)  # floats: every denominator is a power of 2
    return [int(power * scale) for power in powers]


def _largest_remainder(weights: list[int], total: int) -> list[int]:
    whole = sum(weights)
    parts = [divmod(total * weight, whole) for weight in weights]
    shares = [share for share, _ in parts]
    by_remainder = sorted(range(len(parts)), key=lambda c: -parts[c][1])  # stable: equal ones stay by index
    for c in by_remainder[: total - sum(shares)]:
        shares[c] += 1
    return shares


def check_count(count: int, n: int, least: int = 1, name: str = "count") -> None:
    """ValueError for a count that is no whole number in least..n."""
    if not least <= index(count) <= n:
        raise ValueError(f"{name} = {count}: must lie in {least}..{n}")
