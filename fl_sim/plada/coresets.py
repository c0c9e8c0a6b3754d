"""Which labelled images a server sends that sends images themselves: the rivals of a payload in the paper's table 2.

"A Dataset is Worth 1 MB", Kimchi Shoshani, Gabay, Hoshen, https://arxiv.org/abs/2602.23358: a balanced random subset of
the target images, and k-centre within each class (Sener and Savarese 2018, https://arxiv.org/abs/1708.00489; greedy,
Gonzalez 1985). **Chosen**: k-centre starts at the image nearest its class's mean, which the paper does not say.

Both are orders whose every head is balanced: classes take turns, in order of their index, and a class that has no image
left is passed over. So a larger subset holds every smaller one, which a search for the largest that fits rests on.

>>> random_subset(np.array([0, 0, 0, 0, 1, 2, 2]), 5, np.random.default_rng(0))
array([0, 2, 4, 5, 6])
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_sim.errors import FlSimError
from fl_sim.plada.budget import largest_within
from fl_sim.plada.selection import k_centre

Ints = NDArray[np.int64]


def random_subset(labels: NDArray[Any], count: int, generator: np.random.Generator) -> Ints:
    """Indices (count,), ascending, of images with `labels` (n,), at random but balanced over the classes there are.

    Each class has as many as any other, or one less, or all its images. The same generator gives nested subsets.

    Raises:
        FlSimError: a count outside 1..n.
    """
    groups = _groups(labels, count)
    return _in_turn([generator.permutation(rows) for rows in groups], count)


def k_centre_subset(labels: NDArray[Any], embeddings: NDArray[Any], count: int) -> Ints:
    """As `random_subset`, each class by greedy k-centre over `embeddings` (n, d): it holds no chance.

    K_c of a class's m images cost O(K_c m d).

    Raises:
        FlSimError: a count outside 1..n.
        ValueError: embeddings that are not finite.
    """
    groups = _groups(labels, count)
    most = _quotas([len(rows) for rows in groups], count)
    orders = []
    for rows, quota in zip(groups, most, strict=True):
        if quota:
            points = np.asarray(embeddings[rows], dtype=np.float32)
            offsets = points - points.mean(axis=0, dtype=np.float64).astype(np.float32)
            start = int(np.einsum("ij,ij->i", offsets, offsets).argmin())
            orders.append(rows[k_centre(points, quota, start)])
    return _in_turn(orders, count)


def within(budget_bytes: int, pack: Callable[[int], bytes], *, least: int, most: int) -> int:
    """The largest count in least..most whose payload `pack(count)` has at most `budget_bytes`; see `largest_within`.

    Raises:
        FlSimError: not even `least` images fit.
    """
    smallest = len(pack(least))
    if smallest > budget_bytes:
        raise FlSimError(
            f"a budget of {budget_bytes} bytes: a payload of {least} images, the fewest allowed (one a class), has "
            f"{smallest} bytes; raise the budget"
        )
    return largest_within(lambda count: len(pack(count)), budget_bytes, least, most)


def _groups(labels: NDArray[Any], count: int) -> list[Ints]:
    """The indices of each class that has images, ascending."""
    if not 1 <= count <= len(labels):
        raise FlSimError(f"count = {count}: must lie in 1..{len(labels)}, the images there are")
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)


def _quotas(sizes: list[int], count: int) -> list[int]:
    """How many each class has when classes took `count` turns.

    Not `selection.quotas`: by turns a larger count holds every smaller one by construction.
    """
    turns = np.concatenate([np.arange(size) for size in sizes])
    classes = np.repeat(np.arange(len(sizes)), sizes)
    taken = classes[np.lexsort((classes, turns))[:count]]
    return [int(k) for k in np.bincount(taken, minlength=len(sizes))]


def _in_turn(orders: list[Ints], count: int) -> Ints:
    """The first images of each class's order, as many as its turns are; ascending."""
    taken = _quotas([len(order) for order in orders], count)
    return np.sort(np.concatenate([order[:k] for order, k in zip(orders, taken, strict=True)]))
