"""How far clients' models disagree on the same rows: in their predictions, their labels, their prediction sets.

"Model Agreement via Anchoring", Eaton, Goel, Hussing, Kearns, Roth, Sengupta, Sorrell, 2026,
https://arxiv.org/abs/2602.23360

    D(f1, f2) = E |f1 - f2|^2            `disagreement`: summed over the classes, in regression of the predicted means
    R(f) = E |f - y|^2                   the Brier score, y one-hot; in regression the mean squared error
    D = 2 (R(f1) + R(f2) - 2 R(fbar))    Lemma 2.2, fbar = (f1 + f2) / 2: `identity_residual`

E is the mean over the rows that all clients have answered on: these rows are the population here. Nothing of a model is
needed but what it says of them, and of that one Gram product: D_ij = G_ii + G_jj - 2 G_ij. ensembles.py fits ensembles
of models from the same product.

>>> says = np.array([[[0.75, 0.25]], [[0.25, 0.75]]], np.float32)  # two clients, one row, two classes
>>> disagreement(gram(says, np.array([[1.0, 0.0]])))
array([[0. , 0.5],
       [0.5, 0. ]])
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
from numpy.typing import NDArray

from fl_sim.randomness import stream

Floats = NDArray[np.float64]
Bits = NDArray[np.bool_]

BLOCK = 1 << 25  # bytes of double precision that are gathered at once


def common_rows(tested: NDArray[np.int64], seed: int, count: int) -> NDArray[np.int64]:
    """The `count` of the `tested` rows (m,) on which everybody is asked, ascending: the same for whoever draws them.

    Raises:
        ValueError: there are fewer.
    """
    if not 0 < count <= len(tested):
        raise ValueError(f"agreement.rows = {count}, and clients are tested on {len(tested)} rows; ask for fewer")
    return np.sort(stream(seed, "agreement").permutation(tested)[:count])


# -------------------------------------------------------------------------------------------------------- predictions


@dataclass(frozen=True, eq=False)
class Gram:
    """All that squares can tell of K models on n rows: inner products over rows and classes, in double precision."""

    products: Floats  # (K, K) <f_i, f_j>
    with_target: Floats  # (K,) <f_i, y>
    target: float  # <y, y>
    rows: int  # n

    @property
    def risks(self) -> Floats:
        """(K,) R of each model."""
        return np.maximum((np.diag(self.products) - 2 * self.with_target + self.target) / self.rows, 0.0)


def gram(predictions: NDArray[np.float32], targets: Floats) -> Gram:
    """The Gram product of `predictions` (K, n, C), what K models say of n rows, and of `targets` (n, C).

    Raises:
        ValueError: the shapes do not belong together, or there is no row.
    """
    if predictions.ndim != 3 or not predictions.shape[1] or targets.shape != predictions.shape[1:]:
        raise ValueError(f"predictions {predictions.shape}, targets {targets.shape}: must be (K, n, C) and (n, C)")
    models, rows, _ = predictions.shape
    products, with_target = np.zeros((models, models)), np.zeros(models)
    for first, last in _blocks(predictions.shape):
        block = predictions[:, first:last].reshape(models, -1).astype(np.float64)
        products += block @ block.T
        with_target += block @ targets[first:last].ravel()
    return Gram(products, with_target, float((targets.astype(np.float64) ** 2).sum()), rows)


def disagreement(gram: Gram) -> Floats:
    """(K, K) D of each pair: not negative, symmetric, exactly 0 on the diagonal."""
    own = np.diag(gram.products)
    between = (own[:, None] + own[None, :] - 2 * gram.products) / gram.rows
    np.fill_diagonal(between, 0.0)
    return np.maximum((between + between.T) / 2, 0.0)


def same_models(predictions: NDArray[np.float32]) -> NDArray[np.int64]:
    """(K,) for each model the first that says exactly the same of every row, itself if it is the first."""
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(each.tobytes(), k) for k, each in enumerate(predictions)], np.int64)


def label_disagreement(labels: NDArray[np.int64], classes: int) -> Floats:
    """(K, K) the share of n rows on which two models name different labels, from `labels` (K, n) in 0..classes-1."""
    models, rows = labels.shape
    same = np.zeros((models, models))
    for first, last in _blocks((models, rows, classes)):
        hot = np.zeros((models, last - first, classes), np.float32)  # counts in it are exact up to 2^24 rows
        np.put_along_axis(hot, labels[:, first:last, None], 1, axis=2)
        flat = hot.reshape(models, -1)
        same += flat @ flat.T
    return (rows - same) / rows


def identity_residual(
    predictions: NDArray[np.float32], targets: Floats, between: Floats, pairs: Sequence[tuple[int, int]]
) -> float:
    """The largest |D - 2 (R_1 + R_2 - 2 R_mid)| over `pairs`, the risks each from its own rows and `between` (K, K)
    from the Gram product; 0 without pairs. Lemma 2.2 says that it is rounding alone."""
    worst, y = 0.0, targets.astype(np.float64)

    def risk(says: Floats) -> float:
        return float(((says - y) ** 2).sum(axis=1).mean())

    for i, j in pairs:
        one, two = predictions[i].astype(np.float64), predictions[j].astype(np.float64)
        by_risks = 2 * (risk(one) + risk(two) - 2 * risk((one + two) / 2))
        worst = max(worst, abs(float(between[i, j]) - by_risks))
    return worst


def by_row(predictions: NDArray[np.float32]) -> Floats:
    """(n,) |f_i - f_j|^2 at each row, the mean over all pairs of K >= 2 models; their sum: K sum |f|^2 - |sum f|^2."""
    models, summed = len(predictions), np.empty(predictions.shape[1])
    for first, last in _blocks(predictions.shape):
        block = predictions[:, first:last].astype(np.float64)
        block -= block.mean(axis=0)  # around their mean, so that those who agree give 0
        summed[first:last] = models * (block**2).sum(axis=(0, 2)) - (block.sum(axis=0) ** 2).sum(axis=1)
    return np.maximum(summed, 0.0) / (models * (models - 1) / 2)


def labels_by_row(labels: NDArray[np.int64], classes: int) -> Floats:
    """(n,) the share of pairs of K >= 2 models that name different labels, from `labels` (K, n)."""
    models = len(labels)
    counts = np.stack([(labels == each).sum(axis=0) for each in range(classes)])
    return (models**2 - (counts.astype(np.float64) ** 2).sum(axis=0)) / (models * (models - 1))


def _blocks(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """(first, last) of the rows of (K, n, C) that are gathered at once."""
    models, rows, width = shape
    step = max(1, BLOCK // (8 * max(1, models * width)))
    return ((first, min(first + step, rows)) for first in range(0, rows, step))


# ---------------------------------------------------------------------------------------------------- prediction sets


def set_overlap(sets: Bits) -> tuple[Floats, Floats]:
    """Of the prediction sets of K clients for n rows over C labels, `sets` (K, n, C), both (K, K):

    the mean over rows of the Jaccard index |A ∩ B| / |A ∪ B|, 1 where both are empty; and the share of rows where both
    hold a label and none in common: they contradict each other.

    On a row clients have few different sets (u of K), so intersections are a product of u x u, U T Uᵀ a pair each.
    """
    models, rows, _ = sets.shape
    overlap, contradiction = np.zeros((models, models)), np.zeros((models, models))
    for row in range(rows):
        distinct, which = _distinct(sets[:, row])
        labels = distinct.astype(np.float64)
        shared, sizes = labels @ labels.T, labels.sum(axis=1)
        union = sizes[:, None] + sizes[None, :] - shared
        _spread(overlap, np.where(union > 0, shared / np.maximum(union, 1), 1.0), which)
        apart = (shared == 0) & (sizes[:, None] > 0) & (sizes[None, :] > 0)
        if apart.any():
            _spread(contradiction, apart.astype(np.float64), which)
    return overlap / rows, contradiction / rows


def _distinct(sets: Bits) -> tuple[Bits, NDArray[np.intp]]:
    """The different sets (u, C) among `sets` (K, C), and which of them each is, (K,)."""
    packed = np.packbits(sets, axis=1)
    words = np.zeros((len(sets), -(-packed.shape[1] // 8) * 8), np.uint8)
    words[:, : packed.shape[1]] = packed
    code = words.view(np.uint64)
    if code.shape[1] == 1:
        _, first, which = np.unique(code[:, 0], return_index=True, return_inverse=True)
    else:
        _, first, which = np.unique(code, axis=0, return_index=True, return_inverse=True)
    return sets[first], which.reshape(-1)


def _spread(total: Floats, table: Floats, which: NDArray[np.intp]) -> None:
    """Add table[which_i, which_j] to each (i, j) of `total`."""
    if len(table) == 1:
        total += table[0, 0]
    else:
        total += table.take(which, axis=0).take(which, axis=1)


def interval_overlap(ends: Floats) -> tuple[Floats, Floats]:
    """The same of intervals, `ends` (K, n, 2) lower and upper: lengths in place of numbers of labels.

    An interval with lower > upper is empty. Where there is no length to go by, as with two points or an infinite
    interval, the index is 1 if both are the same and else 0.
    """
    models, rows, _ = ends.shape
    overlap, contradiction = np.zeros((models, models)), np.zeros((models, models))
    for row in range(rows):
        low, high = ends[:, row, 0], ends[:, row, 1]
        nonempty, finite = high >= low, np.isfinite(low) & np.isfinite(high)
        same = (low[:, None] == low) & (high[:, None] == high) | ~nonempty[:, None] & ~nonempty
        bottom, top = np.where(finite, low, 0.0), np.where(finite, high, 0.0)
        length = np.where(nonempty, top - bottom, 0.0)
        between = np.minimum(top[:, None], top) - np.maximum(bottom[:, None], bottom)
        measured = (nonempty & finite)[:, None] & nonempty & finite
        shared = np.where(measured, np.maximum(between, 0.0), 0.0)
        union = length[:, None] + length - shared
        overlap += np.where(same, 1.0, shared / np.where(union > 0, union, 1.0))
        touch = np.minimum(high[:, None], high) >= np.maximum(low[:, None], low)
        contradiction += nonempty[:, None] & nonempty & ~touch
    return overlap / rows, contradiction / rows


# -------------------------------------------------------------------------------------------------------------- means


def pair_mean(matrix: Floats, group: Sequence[int] | None = None, other: Sequence[int] | None = None) -> float | None:
    """The mean of a symmetric (K, K) matrix over pairs i < j: of all, within a group, or of one of a group and one of
    an `other` without members in common; None where there is no pair."""
    everyone = np.arange(len(matrix))
    mine = everyone if group is None else np.asarray(group, np.int64)
    if other is not None:
        part = matrix[np.ix_(mine, np.asarray(other, np.int64))]
        return float(part.mean()) if part.size else None
    if len(mine) < 2:
        return None
    upper = matrix[np.ix_(mine, mine)][np.triu_indices(len(mine), 1)]
    return float(upper.mean())


def groups_of(tiers: Sequence[str], names: Sequence[str]) -> Iterator[tuple[str, list[int], list[int] | None]]:
    """(name, group, other) of each tier and each pair of tiers, as `pair_mean` takes them: `weak`, `weak x strong`.

    `tiers` (K,) is the tier of each client, `names` says in which order they come; those without clients are left out.
    """
    members = {name: [k for k, tier in enumerate(tiers) if tier == name] for name in names if name in tiers}
    for one, two in combinations_with_replacement(members, 2):
        yield (one, members[one], None) if one == two else (f"{one} x {two}", members[one], members[two])
