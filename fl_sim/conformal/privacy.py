"""Differential privacy for counts, and a conformal threshold that allows for its noise.

The mechanism. One calibration point more or less changes one count by one, so counts with independent noise of
P(z) ∝ exp(-ε |z|) on each are (ε, 0)-differentially private for neighbours that differ by one point (Ghosh,
Roughgarden, Sundararajan, "Universally utility-maximizing privacy mechanisms", 2009: the geometric mechanism). Such
noise is the sum of K shares, each a difference of two Pólya (negative binomial, 1/K) variables, because its
characteristic function ((1-p)² / (1 - 2p cos θ + p²)), p = exp(-ε), has a K-th root of the same kind (Goryczka, Xiong,
"A comprehensive comparison of secure multiparty additions with differential privacy", 2017).

The threshold. N points in bins 0..B, the last above the grid; C_b points up to the edge e_b, G_b = N - C_b above it; of
all this the server sees C~_b = C_b + P_b and G~_b = G_b + H_b, with noises P_b of b + 1 cells and H_b of B - b. With
1 - α' = (1-α)/(1-failure) and Δ_b the least number for which P(α' P_b - (1-α') H_b > Δ_b) <= failure, it goes down from
the highest edge while

    (1-α')(G~_b + 1) <= α' C~_b - Δ_b                                                                        (*)

holds, and takes the last edge where it did; +inf if it does not hold at the highest.

Its coverage is at least 1 - α for a test point exchangeable with the N, over draws of the points and of the noise:
call an edge good if (1-α')(G_b + 1) <= α' C_b, that is C_b >= (1-α')(N + 1). All edges above a good one are good, and a
good one is at least q, the ceil((1-α')(N+1))-th smallest of the N scores, which covers with probability 1 - α' or more.
Let e_b0 be the highest that is not good (if there is none there is nothing to show). An edge below q can be taken only
if (*) holds at b0, and where it holds while b0 is not good, α' P_b0 - (1-α') H_b0 > Δ_b0. Now b0 is a matter of the
scores, the noise is independent of them, so this has probability at most failure, whatever the scores are. Coverage is
hence at least (1-failure)(1-α') = 1-α. One edge has to be right, not all B at once: no union over bins is paid for.
(This is testing in a fixed sequence, of monotone claims.) Rounding up to edges only raises coverage.

The law of the noise is exact: Δ_b comes from inverting characteristic functions, of which the mass left out and the
rounding are below GUARD, which is taken from failure. Noise that reaches farther than MOST_REACH has Chernoff's bound
for Δ_b in its place, a fifth to a half larger: the guarantee stands, and a tiny ε takes no gigabytes.

Not shown here: numpy draws negative binomials with floating-point arithmetic, so that probabilities, and with them
exp(ε), are true up to its last bits only; and its generator is seeded, as all of the laboratory's. A real client would
draw from an exact sampler with the system's entropy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import hyp2f1

from fl_sim.conformal.decimals import as_meant

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]

GUARD = 1e-9  # of probability: what the computed law of the noise may be wrong by
MOST_REACH = 1 << 18  # of a law that is computed: some tens of megabytes
_LEFT_OUT = 1e-16  # probability beyond the reach of a law, on either side


def noisy_counts(counts: Counts, epsilon: float, share: int, rng: np.random.Generator) -> Counts:
    """Counts with noise of P(z) ∝ exp(-ε |z|) on each, or with one of `share` shares that add up to such noise."""
    stay = -math.expm1(-epsilon)
    up, down = (rng.negative_binomial(1 / share, stay, counts.shape) for _ in range(2))
    noisy: Counts = counts + up - down
    return noisy


def epsilon_of_shares(epsilon: float, present: float) -> float:
    """The ε of a count whose noise lacks shares: of the shares that make it ε-private only `present` of (0, 1] are in
    it, because clients failed, or because some told theirs to whoever looks.

    The noise is then a difference of two negative binomials of that shape, and P(0)/P(1) is its steepest ratio.

    >>> [round(epsilon_of_shares(1.0, share), 3) for share in (1.0, 0.9, 0.5, 0.1)]
    [1.0, 1.099, 1.675, 3.296]
    """
    p = math.exp(-epsilon)
    at_0, at_1 = hyp2f1(present, present, 1, p * p), hyp2f1(present, present + 1, 2, p * p) * present * p
    return math.log(at_0 / at_1)


@dataclass(frozen=True)
class NoiseLaw:
    """A sum of noises on the whole numbers -reach..reach: `pmf` (2 reach + 1,), what is left out being below 1e-15."""

    reach: int
    pmf: Floats

    @property
    def above(self) -> Floats:
        """(2 reach + 2,) P(sum > z) for z = -reach - 1..reach."""
        tail = np.cumsum(self.pmf[::-1])[::-1]
        return np.append(np.minimum(tail, 1.0), 0.0)


def noise_law(noises: float, epsilon: float) -> NoiseLaw:
    """The law of the sum of `noises` independent noises P(z) ∝ exp(-ε |z|); a part of one is a sum of its shares. Its
    arrays are as long as its reach, so they are made anew and not kept."""
    if noises == 0:
        return NoiseLaw(0, np.ones(1))
    p = math.exp(-epsilon)
    reach = _reach(noises, epsilon)
    size = 1 << (2 * reach + 1).bit_length()
    angles = 2 * math.pi * np.arange(size // 2 + 1) / size
    # log φ(θ) = -log(1 + 2p(1 - cos θ)/(1-p)²), without the cancellation at small angles.
    log_phi = -np.log1p(4 * p * np.sin(angles / 2) ** 2 / math.expm1(-epsilon) ** 2)
    whole = np.fft.irfft(np.exp(noises * log_phi), size)
    pmf = np.maximum(np.concatenate([whole[-reach:], whole[: reach + 1]]), 0.0)
    pmf.setflags(write=False)
    return NoiseLaw(reach, pmf)


def _reach(noises: float, epsilon: float) -> int:
    """The least Chernoff bound z with P(sum > z) <= _LEFT_OUT, over a range of its parameter t < ε."""
    t = epsilon * _PARTS
    return math.ceil(float(((noises * _log_moment(t, epsilon) - math.log(_LEFT_OUT)) / t).min())) + 1


_PARTS = np.linspace(0.002, 0.98, 250)  # of ε: where Chernoff's bound is looked for


def _log_moment(t: Floats, epsilon: float) -> Floats:
    """log E exp(t Z) of one noise Z, for |t| < ε."""
    return 2 * math.log(-math.expm1(-epsilon)) - np.log(-np.expm1(t - epsilon)) - np.log(-np.expm1(-t - epsilon))


@lru_cache(maxsize=4096)
def noise_allowance(below: float, above: float, epsilon: float, alpha: float, failure: float) -> float:
    """Δ: the least number with P(α P - (1-α) H > Δ) <= failure, where P is the sum of `below` noises, H of `above`."""
    if below == above == 0:
        return 0.0
    if max(_reach(n, epsilon) for n in (below, above) if n) > MOST_REACH:
        return _most_allowance(below, above, epsilon, alpha, failure)
    up, down = noise_law(below, epsilon), noise_law(above, epsilon)
    tail = up.above
    h = np.arange(-down.reach, down.reach + 1)

    def exceeded(delta: float) -> float:
        # P > (Δ + (1-α) h) / α; a number that is whole but for its last bits is taken for the smaller one.
        least = np.floor((delta + (1 - alpha) * h) / alpha - 1e-7)
        place = np.clip(least + up.reach + 1, 0, len(tail) - 1).astype(np.int64)
        return float(down.pmf @ tail[place])

    high = alpha * up.reach + (1 - alpha) * down.reach + 1
    low = -high
    for _ in range(200):
        middle = (low + high) / 2
        if high - low <= 1e-6:
            break
        low, high = (low, middle) if exceeded(middle) <= failure - GUARD else (middle, high)
    return high


def _most_allowance(below: float, above: float, epsilon: float, alpha: float, failure: float) -> float:
    """Chernoff's bound on the Δ of `noise_allowance`: never smaller."""
    t = epsilon / max(alpha, 1 - alpha) * _PARTS
    log_moment = below * _log_moment(alpha * t, epsilon) + above * _log_moment((1 - alpha) * t, epsilon)
    return float(((log_moment - math.log(failure)) / t).min()) * (1 + 1e-6)  # more than its own rounding


@dataclass(frozen=True)
class PrivateThreshold:
    """A threshold from noisy counts.

    Attributes:
        threshold: an edge of the grid, or +inf.
        allowance: Δ at that edge (at the highest edge where the threshold is infinite), in points.
        noisy_total: the number of points as the noise shows it; may be below 0.
    """

    threshold: float
    allowance: float
    noisy_total: int


def inner_alpha(alpha: float, failure: float) -> Fraction:
    """α' with (1-failure)(1-α') = 1-α.

    Raises:
        ValueError: failure is not below alpha.
    """
    outer, lost = as_meant(alpha), as_meant(failure)
    if not 0 < lost < outer < 1:
        raise ValueError(f"failure = {failure}: must lie between 0 and alpha = {alpha}, of which it is a part")
    return 1 - (1 - outer) / (1 - lost)


def private_threshold(
    counts: ArrayLike, edges: Floats, *, alpha: float, failure: float, epsilon: float, noises: float
) -> PrivateThreshold:
    """The threshold of the module's docstring.

    Args:
        counts: (B + 1,) noisy counts, the last above the grid.
        edges: (B,) upper ends of the bins.
        alpha: miscoverage, the noise's share of it included.
        failure: that share: how often the noise may exceed what is allowed for.
        epsilon: of the noise.
        noises: how many noises P(z) ∝ exp(-ε |z|) each count holds: K where every client adds one, 1 where each adds
            one of K shares, less where shares are missing; 0 for true counts.
    """
    inner, bins = inner_alpha(alpha, failure), len(edges)
    up_to = np.cumsum(np.asarray(counts, np.int64)).tolist()
    threshold, allowance = math.inf, math.nan
    for b in reversed(range(bins)):
        needed = noise_allowance(noises * (b + 1), noises * (bins - b), epsilon, float(inner), failure)
        allowance = needed if math.isnan(allowance) else allowance
        if (1 - inner) * (up_to[-1] - up_to[b] + 1) > inner * up_to[b] - Fraction(needed):
            break
        threshold, allowance = float(edges[b]), needed
    return PrivateThreshold(threshold, allowance, int(up_to[-1]))
