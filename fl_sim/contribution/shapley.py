"""Whose update moves the mean towards a reference: Shapley values from inner products, without averaging any coalition.

"FedTSV", Kuznetsov, Wang, 2026, https://arxiv.org/abs/2605.30336, eq. 9 to 11; the value itself is Shapley's, "A value
for n-person games", 1953; its sampling by permutations is Castro, Gómez, Tejada, "Polynomial calculation of the Shapley
value based on sampling", 2009, https://doi.org/10.1016/j.cor.2008.04.004.

    Δ_S  = (1 / |S|) Σ_{i ∈ S} Δ_i, and 0 where S is empty                                                      (9)
    v(S) = 1 / (1 + ‖Δ_S - Δ_val‖² / σ),  σ = max(‖Δ_val‖², ε)                                                 (11)
    φ_i  = Σ_{S ∌ i} |S|! (m - |S| - 1)! / m! (v(S ∪ i) - v(S))

With E_ij = ⟨Δ_i - Δ_val, Δ_j - Δ_val⟩ a distance is ‖Δ_S - Δ_val‖² = (1 / |S|²) Σ_{i,j ∈ S} E_ij, so that all 2^m
coalitions follow from the (m + 1) x (m + 1) inner products of the m updates and Δ_val, whatever the number of
parameters; they are what takes time (`gram`). A coalition is a whole number whose bit i says whether i is in it.
"""

from __future__ import annotations

from collections.abc import Callable
from math import comb
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

EXACT = 15  # participants up to which all coalitions are looked at: 32,768 of them
EPSILON = 1e-12  # ε of eq. 11, whose value the paper does not say: where the reference stands still
# Values whose products float32 adds up; the sums of blocks are added in float64. They stay in a processor's cache, and
# below the 10,000 from which OpenBLAS gives a sum to several threads, so that the number of threads decides no digit.
BLOCK = 8192

Floats = NDArray[np.float64]
Vectors = NDArray[np.float32] | NDArray[np.float64]
Prefixes = Callable[[NDArray[np.int64]], Floats]  # orders (P, m) of m players -> (P, m + 1) value of each beginning


class Sampled(NamedTuple):
    """Shapley values as a sample of permutations gives them."""

    values: Floats  # (m,); they add up to v(all) - v(none) exactly, as those of each permutation do
    errors: Floats  # (m,) their standard errors


def gram(updates: Vectors, reference: Vectors | None = None) -> Floats:
    """The inner products (m + 1, m + 1) of a reference (d,), which comes first, and updates (m, d); without a reference
    its row and column are 0.

    Of float32 vectors the products are added up in float32 within blocks, and nothing is copied: an entry is off by a
    few 1e-8 |a| |b| as a rule (test: 1e-6 at most), and by it a utility by no more than 1e-6. Numbers so large that
    float32 cannot hold their squares are multiplied in float64.

    Raises:
        ValueError: other shapes, or vectors that hold NaN or infinite numbers.
    """
    if updates.ndim != 2 or (reference is not None and reference.shape != updates.shape[1:]):
        shape = None if reference is None else reference.shape
        raise ValueError(f"updates of shape {updates.shape}, reference {shape}: must be (m, d) and (d,)")
    rows = [*([] if reference is None else [reference]), *updates]
    with np.errstate(over="ignore", invalid="ignore"):
        products = _products(rows, updates.dtype)
        if not np.isfinite(products).all():
            products = _products(rows, np.dtype(np.float64))
    if not np.isfinite(products).all():
        raise ValueError("updates or reference hold NaN or infinite numbers: all must be finite")
    whole, first = np.zeros((len(updates) + 1, len(updates) + 1)), 1 if reference is None else 0
    i, j = np.triu_indices(len(rows))
    whole[i + first, j + first] = whole[j + first, i + first] = products
    return whole


def _products(rows: list[Vectors], kind: np.dtype[np.float32] | np.dtype[np.float64]) -> Floats:
    """Of each pair of rows, those of the first row first."""
    size = len(rows[0]) if rows else 0
    sums = np.zeros((max(1, -(-size // BLOCK)), len(rows) * (len(rows) + 1) // 2))
    for block, start in zip(sums, range(0, size, BLOCK), strict=False):
        parts = [row[start : start + BLOCK].astype(kind, copy=False) for row in rows]
        block[:] = [a.dot(b) for i, a in enumerate(parts) for b in parts[i:]]
    return sums.sum(axis=0)


def utilities(gram: Floats) -> Floats:
    """v(S) of all 2^m coalitions (2^m,), from `gram` (m + 1, m + 1); eq. 11.

    Raises:
        ValueError: more than EXACT participants.
    """
    m = len(gram) - 1
    if m > EXACT:
        raise ValueError(f"{m} participants have 2^{m} coalitions: at most {EXACT}; sample them (`sampled`)")
    return _values(gram, (np.arange(2**m)[:, None] >> np.arange(m)) & 1)


def _values(gram: Floats, members: NDArray[np.int64]) -> Floats:
    """v of coalitions given by who is in them, (s, m) of 0 and 1."""
    inside = members.astype(np.float64)
    return _utility(gram, np.einsum("si,ij,sj->s", inside, _towards(gram), inside, optimize=True), inside.sum(axis=1))


def _towards(gram: Floats) -> Floats:
    """E (m, m), the inner products of the updates less the reference."""
    return gram[1:, 1:] - gram[0, 1:] - gram[1:, :1] + gram[0, 0]


def _utility(gram: Floats, total: Floats, size: Floats | int) -> Floats:
    """v, from Σ_{i,j ∈ S} E_ij and |S|."""
    distance = np.where(np.equal(size, 0), gram[0, 0], total.clip(min=0) / np.square(np.maximum(size, 1)))
    return 1 / (1 + distance / max(gram[0, 0], EPSILON))


def shapley(values: Floats) -> Floats:
    """The Shapley value (m,) of each player of any game, from the value of all its 2^m coalitions.

    Raises:
        ValueError: not the values of 2^m coalitions, m from 0 to EXACT.
    """
    m = len(values).bit_length() - 1
    if len(values) != 2**m or m > EXACT:
        raise ValueError(f"{len(values)} values: must be 2^m, one of each coalition, for m from 0 to {EXACT}")
    others = np.array([coalition.bit_count() for coalition in range(2 ** max(0, m - 1))])
    shares = np.array([1 / (m * comb(m - 1, size)) for size in range(m)])  # |S|! (m - |S| - 1)! / m!
    averages = np.empty(m)
    for i in range(m):
        pairs = values.reshape(-1, 2, 2**i)  # the same others without and with i, by how many they are
        averages[i] = shares[others] @ (pairs[:, 1] - pairs[:, 0]).reshape(-1)
    return averages


def prefixes(gram: Floats) -> Prefixes:
    """v(none), v(first), v(first two), … along orders of the participants, each from the one before; for `sampled`."""
    towards = _towards(gram)

    def value_of(orders: NDArray[np.int64]) -> Floats:
        p = np.arange(len(orders))
        total, reached = np.zeros(len(orders)), np.zeros((len(orders), len(towards)))
        along = [_utility(gram, total, 0)]
        for size, who in enumerate(orders.T, start=1):
            total = total + towards[who, who] + 2 * reached[p, who]
            reached += towards[who]
            along.append(_utility(gram, total, size))
        return np.stack(along, axis=1)

    return value_of


def sampled(
    value_of: Prefixes, m: int, permutations: int, rng: np.random.Generator, *, antithetic: bool = True
) -> Sampled:
    """Shapley values of m players from what each adds to those before it, on average over random orders.

    Args:
        value_of: of each order (P, m) the values (P, m + 1) of its beginnings, that of nobody first.
        m: how many players.
        permutations: how many orders; at least 2, with `antithetic` at least 4 and an even number.
        rng: draws them.
        antithetic: every second order is the one before it reversed. A pair's mean then varies less than two orders
            apart where what a player adds falls or rises with who is there; the error is that of the pairs' means.

    Raises:
        ValueError: too few permutations, or an odd number.
    """
    each = 2 if antithetic else 1
    if permutations % each or permutations < 2 * each:
        raise ValueError(f"permutations = {permutations}: must be at least {2 * each}{', and even' * antithetic}")
    drawn = rng.permuted(np.tile(np.arange(m), (permutations // each, 1)), axis=1)
    orders = np.stack([drawn, drawn[:, ::-1]], axis=1).reshape(-1, m) if antithetic else drawn
    added = np.empty((permutations, m))
    np.put_along_axis(added, orders, np.diff(value_of(orders), axis=1), axis=1)
    units = added.reshape(-1, each, m).mean(axis=1)
    return Sampled(units.mean(axis=0), units.std(axis=0, ddof=1) / np.sqrt(len(units)))


def leave_one_out(gram: Floats) -> Floats:
    """v(all) - v(all but i) of each participant, (m,)."""
    m = len(gram) - 1
    everybody = np.ones((1, m), np.int64)
    return _values(gram, everybody) - _values(gram, everybody - np.eye(m, dtype=np.int64))


def cosines(gram: Floats, weights: Floats | None = None) -> Floats:
    """The cosine (m,) of each update to their mean, which `weights` (m,) may weigh; 0 where either of them is 0."""
    inner = gram[1:, 1:]
    shares = np.full(len(inner), 1 / max(1, len(inner))) if weights is None else weights
    along = inner @ shares
    length = np.sqrt(np.diag(inner) * max(0.0, float(shares @ along)))
    return np.divide(along, length, out=np.zeros(len(inner)), where=length > 0).clip(-1, 1)
