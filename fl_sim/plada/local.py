"""Readings of a payload whose kept references, and their labels, come in clusters.

A gap is coded by its bucket under frequencies that adapt in each context, then by its place in the bucket. The context
of the *clustered* reading is what a hidden Markov model believes of the density (`fl_sim/plada/density.py`), and the
bucket before; the model's law is what a context starts from. The *foldered* reading tells how many are kept in each
folder, given its size and the folder before, and then their places, given how many are left for how much room. A label
is first looked for among those lately met nearby (or in the folder), best first, and else told by the frequencies of
all labels, without those.
"""

from __future__ import annotations

from bisect import bisect
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fl_sim.errors import FlSimError
from fl_sim.plada.coder import Adaptive, Coder, frequencies
from fl_sim.plada.density import Density
from fl_sim.plada.gaps import bucket_lows, bucket_of, bucket_widths, long_tailed, without_return

MOST_FOLDERS = 1 << 18
SAME = (26, 102, 179, 230, 248)  # of 256: where the contexts of a label part, by the chance of the same cluster
TRUST = 64  # how many gaps the law that a context starts from counts for
MANY_CLASSES = 256  # beyond, the labels near by are not taken out of the frequencies of all: too slow
Decoded = tuple[NDArray[np.int64], NDArray[np.int64]]


class Gaps:
    """Numbers coded by bucket and place, with frequencies of their own in each context."""

    def __init__(self, coder: Coder) -> None:
        self._coder = coder
        self._contexts: dict[tuple[int, ...], Adaptive] = {}
        self._lows, self._widths = bucket_lows().tolist(), bucket_widths().tolist()
        self.bucket = 0  # of the last number

    def known(self, context: tuple[int, ...]) -> bool:
        """Whether the context was met before; if not, `learn` it."""
        return context in self._contexts

    def learn(self, context: tuple[int, ...], law: NDArray[np.int64], trust: int) -> None:
        """Start a context from a law's weights, as if `trust` symbols had been met."""
        prior = law * (trust * Adaptive.STEP) // int(law.sum())
        self._contexts[context] = Adaptive(np.where(law > 0, np.maximum(prior, 1), 0))

    def code(self, number: int, context: tuple[int, ...]) -> int:
        """Write or read one number, 0 or more."""
        bucket, low, bits = bucket_of(number)
        self.bucket = bucket = self._contexts[context].code(self._coder, bucket)
        if self._coder.decoding:
            low, bits = self._lows[bucket], self._widths[bucket]
        return low + self._coder.code_bits(number - low, bits) if bits else low


class Labels:
    """Labels coded by their rank among those near by, else by the frequencies of all."""

    RANKS = 4

    def __init__(self, coder: Coder, num_classes: int) -> None:
        self._coder = coder
        self._num_classes = num_classes
        self._contexts: dict[tuple[int, ...], Adaptive] = {}
        self._all = np.full(num_classes, Adaptive.STEP >> 2, np.int64)
        self._many = Adaptive(self._all, 1 << 24) if num_classes > MANY_CLASSES else None
        self.near: dict[int, int] = {}  # label -> score

    def code(self, label: int, context: tuple[int, ...]) -> int:
        """Write or read one label; the caller scores it."""
        near = self.near
        ranked = sorted(near, key=lambda one: (-near[one], one))[: self.RANKS]
        count = len(ranked)
        if not count:
            return self._far(label, ranked)
        symbols = min(count + 1, self._num_classes)
        rank = ranked.index(label) if label in ranked else count
        total = sum(near.values())
        share = 8 * near[ranked[0]] // total
        key = (count, share, *context)
        adaptive = self._contexts.get(key)
        if adaptive is None:
            prior = np.full(symbols, Adaptive.STEP >> 2, np.int64)
            prior[0] = Adaptive.STEP * (1 + share) // 4
            adaptive = self._contexts[key] = Adaptive(prior)
        rank = adaptive.code(self._coder, rank)
        return ranked[rank] if rank < count else self._far(label, ranked)

    def _far(self, label: int, ranked: list[int]) -> int:
        if self._many is not None:
            return self._many.code(self._coder, label)
        counts = self._all.copy()
        counts[ranked] = 0
        label = self._coder.code(label, frequencies(counts))
        self._all[label] += Adaptive.STEP
        if self._all[label] >= 1 << 24:
            self._all = (self._all + 1) >> 1
        return label


def _lists(decoded: Decoded | None, num_kept: int) -> tuple[list[int], list[int]]:
    """Places and classes to write; zeros to be replaced where they are read."""
    return (decoded[0].tolist(), decoded[1].tolist()) if decoded is not None else ([0] * num_kept, [0] * num_kept)


def code_clustered(
    coder: Coder, decoded: Decoded | None, num_references: int, num_kept: int, num_classes: int, hazard: int
) -> Decoded:
    """Write or read a payload by the density and the labels lately met; `hazard` as in `Density`."""
    places, classes = _lists(decoded, num_kept)
    gaps, labels = Gaps(coder), Labels(coder, num_classes)
    density = Density(num_references, num_kept, hazard)
    last = -1
    for i in range(num_kept):
        context = (*density.context(), gaps.bucket // 6)
        if not gaps.known(context):
            gaps.learn(context, density.law(), TRUST)
        gap = gaps.code(places[i] - last - 1, context)
        last += gap + 1
        if last >= num_references:
            raise FlSimError(f"the payload's body is damaged: a reference beyond {num_references - 1}")
        places[i] = last
        same = density.met(gaps.bucket)
        if num_classes > 1:
            classes[i] = label = labels.code(classes[i], (bisect(SAME, same),))
            # Where the density was drawn anew, another cluster is likely: what was near counts for less.
            weight = same * 15
            near = {one: score * weight >> 12 for one, score in labels.near.items() if score * weight >> 18}
            near[label] = near.get(label, 0) + 1024
            labels.near = near
    return np.array(places, np.int64), np.array(classes, np.int64)


def code_foldered(
    coder: Coder,
    decoded: Decoded | None,
    num_references: int,
    num_kept: int,
    num_classes: int,
    starts: NDArray[np.int64],
) -> Decoded:
    """Write or read a payload folder by folder; `starts` (G + 1,) are their starts and the end of the last."""
    counts = [0] * (len(starts) - 1)
    if decoded is not None:
        counts = np.diff(np.searchsorted(decoded[0], starts)).tolist()
    places, classes = _lists(decoded, num_kept)
    numbers, gaps, labels = Gaps(coder), Gaps(coder), Labels(coder, num_classes)
    edges = starts.tolist()
    done = before = 0
    for folder, (start, end) in enumerate(pairwise(edges)):
        if done == num_kept:
            break
        size = end - start
        context = (size.bit_length(), min(before, 24) // 4)
        if not numbers.known(context):
            numbers.learn(context, long_tailed(size * num_kept // num_references + 1, 1, size + 1), 2)
        count = numbers.code(counts[folder], context)
        before = numbers.bucket
        if count > min(size, num_kept - done):
            raise FlSimError(f"the payload's body is damaged: {count} references in a folder of {size}")
        if count:
            _code_places(coder, gaps, places, done, count, start, end)
            if num_classes > 1:
                _code_folder_labels(labels, classes, done, count)
            done += count
    if done < num_kept:
        raise FlSimError(f"the payload's body is damaged: {done} references in all folders, not {num_kept}")
    return np.array(places, np.int64), np.array(classes, np.int64)


def _code_places(coder: Coder, gaps: Gaps, places: list[int], done: int, count: int, start: int, end: int) -> None:
    """Places done to done + count, in the folder from start to end."""
    for i in range(done, done + count):
        left, room = done + count - i, end - start
        if left >= room:
            gap = 0
        elif left == 1:
            gap = coder.code_below(places[i] - start, room)
        else:
            context = (min(left, 16).bit_length(), bucket_of(16 * room // left)[0])
            if not gaps.known(context):
                few = min(left, 16)
                gaps.learn(context, without_return(room * few // left, few, room), 32)
            gap = gaps.code(places[i] - start, context)
        places[i] = start + gap
        start += gap + 1
        if start > end - left + 1:
            raise FlSimError("the payload's body is damaged: a reference beyond its folder")


def _code_folder_labels(labels: Labels, classes: list[int], done: int, count: int) -> None:
    """Labels done to done + count, all of one folder."""
    near = labels.near
    labels.near = {max(near, key=lambda one: (near[one], -one)): 1} if near else {}
    for i in range(done, done + count):
        classes[i] = label = labels.code(classes[i], (min(i - done, 15).bit_length(),))
        if i == done:
            labels.near = {}
        labels.near[label] = labels.near.get(label, 0) + 1
