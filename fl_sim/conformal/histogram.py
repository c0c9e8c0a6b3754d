"""Scores as counts over a grid that everybody shares: mergeable by addition, rounded up, coded in some tens of bytes.

A score in (e_{b-1}, e_b] is counted in bin b and stands for e_b from then on, a score above the last edge for +inf.
Rounding up keeps every conformal guarantee, because a threshold can only grow, by one bin at most.

>>> grid = ScoreGrid(0.0, 1.0, bins=4)
>>> grid.edges
array([0.25, 0.5 , 0.75, 1.  ])
>>> counts = grid.count([0.1, 0.25, 0.6, 1.5])
>>> counts
array([2, 0, 1, 0, 1])
>>> [threshold_at(counts, grid.edges, rank) for rank in (1, 3, 4, 5)]
[0.25, 0.75, inf, inf]
>>> len(encode(counts[None])), decode(encode(counts[None]), rows=1)
(4, array([[2, 0, 1, 0, 1]]))

The code is a multiset's, in Golomb-Rice (Rice, "Some practical universal noiseless coding techniques", 1979) with the
parameter that suits best and from the side that suits best: how many bins lie between one point and the next, or how
many points in one bin and the next. For n points in B bins it needs little more than log2 of the number of such
multisets, n log2(B / n) + 1.5 n bits where n << B.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]

MOST_BINS = 1 << 16

GAPS, CELLS, SIGNED = 0, 1, 2  # what a code holds: bins between points, points in bins, or signed counts


@dataclass(frozen=True)
class ScoreGrid:
    """`bins` bins from `low` to `high`, and one more for what lies above.

    `tail` = 0 gives bins of equal width. With `tail` = c > 0 they are equal on the scale -log(1 - t + c), t the place
    between low and high: as fine at the upper end as at the lower one they would be with some 1/c times as many, which
    is where the thresholds of confident models lie.
    """

    low: float
    high: float
    bins: int
    tail: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high):
            raise ValueError(f"a grid from {self.low} to {self.high}: both must be finite, the first not the larger")

    @cached_property
    def edges(self) -> Floats:
        """(bins,) upper ends of the bins, the last exactly `high`; read-only."""
        t = np.arange(1, self.bins + 1) / self.bins
        if self.tail:
            whole = math.log((1 + self.tail) / self.tail)
            t = 1 + self.tail - (1 + self.tail) * np.exp(-t * whole)
        edges = self.low * (1 - t) + self.high * t  # high - low can be too large for a float
        edges[-1] = self.high
        edges = np.maximum.accumulate(np.clip(edges, self.low, self.high))
        edges.setflags(write=False)
        return edges

    def place(self, scores: ArrayLike) -> Counts:
        """The bin of each score, 0..bins; scores below `low` are in the first, NaN is refused."""
        values = np.asarray(scores, np.float64)
        if np.isnan(values).any():
            raise ValueError("scores hold NaN: a score must be a number")
        return np.searchsorted(self.edges, values, side="left").astype(np.int64)

    def count(self, scores: ArrayLike) -> Counts:
        """(bins + 1,) counts of the scores (n,), the last of those above `high`."""
        return np.bincount(self.place(scores), minlength=self.bins + 1).astype(np.int64)

    def count_by(self, scores: ArrayLike, labels: ArrayLike, num_labels: int) -> Counts:
        """(num_labels, bins + 1) counts of the scores (n,) by label (n,)."""
        flat = np.asarray(labels, np.int64) * (self.bins + 1) + self.place(scores)
        return np.bincount(flat, minlength=num_labels * (self.bins + 1)).reshape(num_labels, -1).astype(np.int64)

    def text(self) -> str:
        """The grid as a message carries it."""
        return json.dumps(asdict(self))

    @staticmethod
    @lru_cache(maxsize=64)
    def from_text(text: str) -> ScoreGrid:
        """The grid of a message."""
        return ScoreGrid(**json.loads(text))


def threshold_at(counts: ArrayLike, edges: Floats, rank: float) -> float:
    """The upper end of the bin in which the `rank`-th smallest score lies; +inf where it lies above all of them.

    `counts` (B + 1,) may be weights that are not whole; `edges` (B,).
    """
    reached = np.cumsum(np.asarray(counts))[:-1] >= rank
    return float(edges[int(np.argmax(reached))]) if reached.any() else math.inf


def coarsened(counts: Counts) -> Counts:
    """(C, B/2 + 1) counts of (C, B + 1) with bins joined in pairs, the overflow left alone; B must be even."""
    body = counts[:, :-1]
    if body.shape[1] % 2:
        raise ValueError(f"{body.shape[1]} bins cannot be joined in pairs")
    return np.concatenate([body[:, 0::2] + body[:, 1::2], counts[:, -1:]], axis=1)


def refined(counts: Counts, bins: int) -> Counts:
    """(C, bins + 1) counts of coarsened ones, each bin's at its upper end, which is where its points were counted."""
    fewer = counts.shape[1] - 1
    if fewer == bins:
        return counts
    if bins % fewer:
        raise ValueError(f"{fewer} bins do not divide {bins}: a coarser grid must join bins of the finer one")
    step = bins // fewer
    fine = np.zeros((counts.shape[0], bins + 1), np.int64)
    fine[:, step - 1 : bins : step] = counts[:, :-1]
    fine[:, -1] = counts[:, -1]
    return fine


def encode(counts: ArrayLike) -> NDArray[np.uint8]:
    """Counts (C, B + 1) as bytes: what it holds and the Rice parameter, number of bins, then the code. Counts below 0,
    as noise makes them, are coded as 2|c| - 1, the others then as 2c."""
    cells = np.asarray(counts, np.int64)
    flat = cells.ravel()
    codes = {CELLS: flat}
    if (flat < 0).any():
        codes = {SIGNED: np.where(flat < 0, -2 * flat - 1, 2 * flat)}
    elif flat.sum() < 4 * len(flat) + 64:  # beyond, the gaps are longer, and there are too many to try
        codes[GAPS] = np.diff(np.repeat(np.arange(len(flat)), flat), prepend=0).astype(np.int64)
    _, kind, k = min((_rice_bits(values, k), kind, k) for kind, values in codes.items() for k in range(31))
    head = bytes([kind << 5 | k]) + _varint(cells.shape[1] - 1) + (_varint(len(codes[GAPS])) if kind == GAPS else b"")
    return np.concatenate([np.frombuffer(head, np.uint8), _rice(codes[kind], k)])


def decode(code: NDArray[np.uint8], rows: int) -> Counts:
    """The counts (rows, B + 1) of `encode`, for a known number of rows.

    Raises:
        ValueError: it is not such a code: cut short, too long, or with points outside the grid.
    """
    data = bytes(np.asarray(code, np.uint8))
    if len(data) < 2:
        raise ValueError(f"a histogram's code of {len(data)} bytes: must be at least 2")
    kind, k, position = data[0] >> 5, data[0] & 31, 1
    bins, position = _read_varint(data, position)
    if kind > SIGNED or k > 30 or not 1 <= bins <= MOST_BINS:
        raise ValueError(f"a histogram's code of kind {kind}, parameter {k}, with {bins} bins: there is no such code")
    cells = rows * (bins + 1)
    if kind != GAPS:
        values = _unrice(data[position:], k, cells).reshape(rows, -1)
        return values if kind == CELLS else np.where(values % 2, -(values + 1) // 2, values // 2)
    n, position = _read_varint(data, position)
    places = np.cumsum(_unrice(data[position:], k, n))
    if n and places[-1] >= cells:
        raise ValueError(f"a histogram's code has a point in cell {places[-1]} of {cells}")
    return np.bincount(places, minlength=cells).reshape(rows, -1).astype(np.int64)


def _rice_bits(values: Counts, k: int) -> int:
    return int((values >> k).sum()) + len(values) * (1 + k)


def _rice(values: Counts, k: int) -> NDArray[np.uint8]:
    """Each value v as v >> k ones, a zero, and its k low bits."""
    high = values >> k
    ends = np.cumsum(high + 1 + k)
    bits = np.ones(_rice_bits(values, k), np.uint8)
    bits[ends - k - 1] = 0
    for bit in range(k):
        bits[ends - k + bit] = (values >> (k - 1 - bit)) & 1
    return np.packbits(bits)


def _unrice(data: bytes, k: int, count: int) -> Counts:
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    next_zero, whole = bits.tobytes().find, len(bits)
    ends, position = [], 0  # ends: of each value's ones
    for i in range(count):
        zero = next_zero(b"\0", position)
        position = zero + 1 + k
        if zero < 0 or position > whole:
            raise ValueError(f"a histogram's code ends after {i} of {count} values")
        ends.append(zero)
    if whole - position >= 8 or bits[position:].any():
        raise ValueError(f"a histogram's code goes on after its {count} values")
    low, end = np.zeros(count, np.int64), np.array(ends, np.int64)
    for bit in range(1, k + 1):
        low = low << 1 | bits[end + bit]
    end[1:] -= end[:-1] + 1 + k  # now the number of ones
    return end << k | low


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(data) or shift > 42:
            raise ValueError("a histogram's code ends in the middle of a number")
        value |= (data[position] & 127) << shift
        position, shift = position + 1, shift + 7
        if data[position - 1] < 128:
            return value, position
