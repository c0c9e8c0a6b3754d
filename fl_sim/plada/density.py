"""How dense kept references lie where we are: a hidden Markov model over densities, filtered in integers.

From one reference to the next the density stays or, with a small chance, is drawn anew, as where another folder begins;
a reference is kept with the chance that the density says. Densities are 33 numbers in geometric steps, drawn with
weights density^(1/16): few places hold most of what is kept. What is believed of the density after each gap gives the
law of the next one, and the chance that the density was not drawn anew on the way.

All is integers over 2^UNIT: powers of the one-step matrix by squaring, sums that cannot overflow, so that the beliefs
are the same on every machine. A gap is taken at the middle of its bucket, which makes one matrix a bucket enough.
"""

from __future__ import annotations

from functools import lru_cache
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from fl_sim.plada.gaps import NUM_BUCKETS, bucket_lows, bucket_widths

UNIT = 30
STATES = 33  # a power of 2 of steps between the least and the largest density, so that square roots give the step
LEAST = 10  # the least density is 2^-LEAST of the average
HAZARDS = 16  # hazard 0 to 15
SPARE = 5  # bits that a sum over the states may need

Ints = NDArray[np.int64]


class Density:
    """What is believed of the density, from gap to gap."""

    def __init__(self, num_references: int, num_kept: int, hazard: int) -> None:
        """`hazard` below HAZARDS: the density is drawn anew every 2^(hazard + 2) references or so."""
        self._prior, self._after, self._laws = _tables(int(num_references), int(num_kept), hazard)
        self._belief = self._prior
        index = np.arange(STATES)
        self._moments = np.stack([np.ones_like(index), index, index**2], axis=1)

    def context(self) -> tuple[int, int]:
        """(the mean, the spread) of the belief over the logarithm of the density, in coarse steps."""
        total, first, second = (self._belief @ self._moments).tolist()
        mean = (first << 4) // total
        return mean * 3 >> 6, isqrt(max((second << 8) // total - mean * mean, 0)) >> 5

    def law(self) -> Ints:
        """Weights of the next gap's buckets."""
        weights = np.zeros(NUM_BUCKETS, np.int64)
        weights[: self._laws.shape[1]] = np.maximum(self._belief @ self._laws >> (2 * UNIT - 20), 1)
        return weights

    def met(self, bucket: int) -> int:
        """Learn that the next gap was in a bucket; the chance, over 256, that the density was the same all along."""
        beliefs = self._belief @ self._after[bucket]
        same, total = int(beliefs[STATES]), int(beliefs[STATES + 1])
        if not total:
            self._belief = self._prior
            return 0
        shift = total.bit_length() - UNIT
        self._belief = beliefs[:STATES] >> shift if shift > 0 else beliefs[:STATES] << -shift
        return (same << 8) // total


@lru_cache(maxsize=4)
def _tables(num_references: int, num_kept: int, hazard: int) -> tuple[Ints, Ints, Ints]:
    """(belief at the start (S,), beliefs after a gap of each bucket (B, S, S + 2), chances of each bucket (S, B)).

    The last columns of the second have the chance that the density stays all along, and the sum of the S before. All
    entries of one bucket share a factor, so that they are told finely enough for wide buckets too.
    """
    densities = _densities(num_references, num_kept)
    prior = _prior(densities)
    stays = (1 << UNIT) - (1 << (UNIT - 2 - hazard))
    step = np.tile(prior >> (2 + hazard), (STATES, 1)) + np.diag(np.full(STATES, stays))
    buckets = int(np.searchsorted(bucket_lows(), max(num_references, 2)))
    lows, half = bucket_lows()[:buckets], (1 << bucket_widths()[:buckets]) >> 1
    missing = (1 << UNIT) - densities
    walk = _Walk(_rounded(step * missing), _rounded(stays * missing))
    states = np.column_stack([_rounded(step * densities), _rounded(stays * densities)])
    left, after, lefts = np.full((STATES, 1), 1 << UNIT), [], []
    for to_middle, to_low in zip(np.diff(lows + half, prepend=0), np.diff(lows, prepend=0), strict=True):
        states, left = walk.back(states, int(to_middle)), walk.back(left, int(to_low))
        states = states << max(0, UNIT - int(states.max()).bit_length())
        spared = states >> SPARE
        after.append(np.column_stack([spared, spared[:, :STATES].sum(axis=1)]))
        lefts.append(left[:, 0])
    beyond = np.stack([*lefts, np.zeros(STATES, np.int64)], axis=1)
    return prior, np.stack(after), beyond[:, :-1] - beyond[:, 1:]


class _Walk:
    """Chances some references back, none kept on the way; powers of two are kept."""

    def __init__(self, miss: Ints, stayed: Ints) -> None:
        self._powers = [(miss, stayed)]

    def back(self, states: Ints, count: int) -> Ints:
        """`states` (S, S + 1) or (S, 1) from `count` references earlier; column S + 1 is without any change."""
        for bit in range(count.bit_length()):
            if bit == len(self._powers):
                miss, stayed = self._powers[-1]
                self._powers.append((_rounded(miss @ miss), _rounded(stayed * stayed)))
            if count >> bit & 1:
                miss, stayed = self._powers[bit]
                same = _rounded(stayed[:, None] * states[:, STATES:])
                states = np.column_stack([_rounded(miss @ states[:, :STATES]), same])
        return states


def _rounded(products: Ints) -> Ints:
    return (products + (1 << (UNIT - 1))) >> UNIT


def _densities(num_references: int, num_kept: int) -> Ints:
    """The densities over 2^UNIT, from 2^-LEAST of the average to 0.98, in geometric steps."""
    top = 98 * (1 << UNIT) // 100
    ratio = ((num_kept << UNIT + 64 - LEAST) // num_references) // top  # over 2^64
    steps = STATES - 1
    while steps > 1:
        ratio, steps = isqrt(ratio << 64), steps >> 1
    falling = [top << 64]
    for _ in range(STATES - 1):
        falling.append(falling[-1] * ratio >> 64)
    return np.array([max(one >> 64, 1) for one in reversed(falling)], np.int64)


def _prior(densities: Ints) -> Ints:
    """How likely each density is where it is drawn, over 2^UNIT."""
    weights = [isqrt(isqrt(isqrt(isqrt(one << 130) << 64) << 64) << 64) for one in densities.tolist()]
    return np.array([(one << UNIT) // sum(weights) for one in weights], np.int64)
