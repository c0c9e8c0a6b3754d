"""Mergeable sketches of scores as other packages make them: t-digest and DDSketch, in their own serialisations.

t-digest: Dunning, Ertl, "Computing extremely accurate quantiles using t-digests", 2019,
https://arxiv.org/abs/1902.04023; Apache DataSketches' `tdigest_double` with compression 100 (the δ = 0.01 of the
package that FCP's authors use), 16 bytes a centroid. Up to 78 scores it is the scores themselves: no privacy.
DDSketch: Masson, Rim, Lee, "DDSketch: a fast and fully-mergeable quantile sketch with relative-error guarantees", 2019,
https://arxiv.org/abs/1908.10693; Datadog's package with its relative accuracy of 0.01, as FCP's authors use it. A dense
row of counts between the smallest and the largest score's logarithm, 8 bytes each and in steps of 128: a score of 1e-16
beside one of 1 takes 15 kB.

Neither bounds its error from one side: an order statistic that is read from them may be smaller than the true one, so
that a conformal guarantee does not survive them. t-digest promises no error at all; DDSketch one in value, which in
[0.98, 1] is the whole interval: two thresholds there, however different in rank, come out the same.

>>> codes = [sketch_of(np.arange(1.0, 11.0), "tdigest"), sketch_of(np.arange(11.0, 21.0), "tdigest")]
>>> pool = merged([sketch_from(code, "tdigest") for code in codes])
>>> pool.count, pool.at_rank(18)
(20, 18.0)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

COMPRESSION = 100  # of the t-digest
SINGLE = 78  # scores that a t-digest keeps as they are
RELATIVE_ACCURACY = 0.01  # of DDSketch
FARTHEST_BIN = 40_000  # a double's logarithm to the base 1.02 is nearer to 0


class Sketch(ABC):
    """A sketch of some scores."""

    @property
    @abstractmethod
    def count(self) -> int:
        """Of how many scores."""

    @abstractmethod
    def at_rank(self, rank: int) -> float:
        """About the `rank`-th smallest score, 1 <= rank <= count."""

    @abstractmethod
    def ends(self) -> tuple[float, float]:
        """The smallest and the largest score, of at least one; no farther out than the scores themselves, so that the
        first may be the larger where all are alike."""

    @abstractmethod
    def with_all(self, others: Sequence[Any]) -> Sketch:
        """The sketch of the scores in this and in `others` of its kind; it may be this one, changed."""


@dataclass(frozen=True)
class TDigest(Sketch):
    """A `tdigest_double`."""

    inner: Any

    @property
    def count(self) -> int:
        """Of how many scores."""
        return int(self.inner.get_total_weight())

    def at_rank(self, rank: int) -> float:
        """About the `rank`-th smallest: where the sketch's mass reaches the middle of its unit, as a centroid's mean is
        in the middle of its own.

        The package's `get_rank` is inverted by bisection. Its `get_quantile` interpolates between two centroids with
        their weights exchanged, which is off by up to 4 % of the scores, and larger for the smaller of two ranks; it is
        right, to the last bit, where each centroid is one score.
        """
        level = (rank - 0.5) / self.count
        if self.count <= SINGLE:
            return float(self.inner.get_quantile(level))
        low, high = float(self.inner.get_min_value()), float(self.inner.get_max_value())
        if self._up_to(low) >= level:
            return low
        while low < (middle := low + (high - low) / 2) < high:
            low, high = (low, middle) if self._up_to(middle) >= level else (middle, high)
        return high

    def _up_to(self, score: float) -> float:
        """The mass up to a score; at the score itself the package counts half of those equal to it."""
        return float(self.inner.get_rank(math.nextafter(score, math.inf)))

    def ends(self) -> tuple[float, float]:
        """As it says, and as its centroids say, which may lie elsewhere where somebody made it up; NaN among them
        makes NaN."""
        values = [self.inner.get_min_value(), self.inner.get_max_value()]
        values += [self.inner.get_quantile(level / 100) for level in range(101)]
        low, high = float(np.min(values)), float(np.max(values))
        return low + 1e-12 * abs(low), high - 1e-12 * abs(high)  # of what rounding may add in between

    def with_all(self, others: Sequence[TDigest]) -> TDigest:
        """This one, with the others merged into it."""
        for other in others:
            self.inner.merge(other.inner)
        return self


@dataclass(frozen=True)
class DDSketch(Sketch):
    """A `ddsketch.DDSketch`, read from its serialisation: the package itself takes every bin of every sketch in hand by
    itself, a millisecond each. Its answers are the package's.

    `first` is the key of the first of `counts`, rows of bins for scores below and above 0, and `zeros` of them are 0.
    """

    zeros: float
    first: tuple[int, int]
    counts: tuple[NDArray[np.float64], NDArray[np.float64]]

    @property
    def count(self) -> int:
        """Of how many scores."""
        return round(self.zeros + float(sum(row.sum() for row in self.counts)))

    def at_rank(self, rank: int) -> float:
        """The `rank`-th smallest, to one in a hundred of itself: what the package says at the level rank / count, of
        which it takes level · (count - 1), rounded down, as index from 0."""
        below, above = self.counts
        up_to = np.cumsum(np.concatenate([below[::-1], [self.zeros], above]))
        place = int(np.searchsorted(up_to, rank - 1, side="right")) - len(below)
        if place == 0:
            return 0.0
        mapping = _mapping()
        if place < 0:  # of the keys below 0 the largest is the smallest score
            return -float(mapping.value(self.first[0] - place - 1))
        return float(mapping.value(self.first[1] + place - 1))

    def ends(self) -> tuple[float, float]:
        """Its first and last bin's values, drawn in by its relative accuracy."""
        low, high = self.at_rank(1), self.at_rank(self.count)
        off = RELATIVE_ACCURACY / (1 - RELATIVE_ACCURACY) + 1e-9
        return low + off * abs(low), high - off * abs(high)

    def with_all(self, others: Sequence[DDSketch]) -> DDSketch:
        """Bins added up."""
        sketches = [self, *others]
        sides = [_added([(one.first[side], one.counts[side]) for one in sketches]) for side in (0, 1)]
        firsts, counts = zip(*sides, strict=True)
        return DDSketch(sum(one.zeros for one in sketches), firsts, counts)


def _added(rows: Sequence[tuple[int, NDArray[np.float64]]]) -> tuple[int, NDArray[np.float64]]:
    """(first key, counts) of rows of bins that begin at some key each."""
    filled = [(first, counts) for first, counts in rows if len(counts)]
    low = min((first for first, _ in filled), default=0)
    whole = np.zeros(max((first + len(counts) for first, counts in filled), default=low) - low)
    for first, counts in filled:
        whole[first - low : first - low + len(counts)] += counts
    return low, whole


@cache
def _mapping() -> Any:
    """The package's keys of scores, as it makes them of a serialised sketch."""
    from ddsketch.mapping import LogarithmicMapping

    return LogarithmicMapping.from_gamma_offset(LogarithmicMapping(RELATIVE_ACCURACY).gamma, 0.0)


def sketch_of(scores: ArrayLike, kind: str) -> bytes:
    """The sketch of `scores` (n,), serialised.

    Raises:
        ValueError: a score is not finite, or no sketch is called `kind`.
    """
    values = np.asarray(scores, np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError("a sketch takes one finite score for each point, no other")
    if _reader(kind) is _read_tdigest:
        return _tdigest_of(values)
    return _ddsketch_of(values)


def sketch_from(code: bytes, kind: str) -> Sketch:
    """The sketch that `sketch_of` serialised.

    Raises:
        ValueError: bytes that are no such sketch, or no sketch is called `kind`.
    """
    return _reader(kind)(code)


def merged(sketches: Sequence[Sketch]) -> Sketch:
    """One sketch of all scores in these, at least one, of one kind; the first may become it."""
    return sketches[0].with_all(sketches[1:])


def _reader(kind: str) -> Callable[[bytes], Sketch]:
    if kind not in _READERS:
        raise ValueError(f"kind = {kind!r}: must be one of {', '.join(_READERS)}")
    return _READERS[kind]


def _tdigest_of(values: NDArray[np.float64]) -> bytes:
    from datasketches import tdigest_double

    digest = tdigest_double(COMPRESSION)
    digest.update(values)
    return bytes(digest.serialize())


def _read_tdigest(code: bytes) -> TDigest:
    from datasketches import tdigest_double

    try:
        digest = tdigest_double.deserialize(code)
    except Exception as error:  # IndexError, ValueError, RuntimeError: as the package happens to notice
        raise ValueError(f"{len(code)} bytes are no t-digest: {error}") from None
    if digest.k != COMPRESSION or digest.get_serialized_size_bytes() != len(code):
        raise ValueError(f"{len(code)} bytes are no t-digest of compression {COMPRESSION}")
    if not digest.is_empty() and not np.isfinite([digest.get_min_value(), digest.get_max_value()]).all():
        raise ValueError("a t-digest whose smallest or largest score is not finite")
    return TDigest(digest)


def _ddsketch_of(values: NDArray[np.float64]) -> bytes:
    from ddsketch import DDSketch as Dense
    from ddsketch.pb.proto import DDSketchProto

    sketch = Dense(RELATIVE_ACCURACY)
    for value in values.tolist():
        sketch.add(value)
    return bytes(DDSketchProto.to_proto(sketch).SerializeToString(deterministic=True))


def _read_ddsketch(code: bytes) -> DDSketch:
    from ddsketch.pb.proto import pb

    message = pb.DDSketch()
    try:
        message.ParseFromString(code)
    except Exception as error:  # protobuf's DecodeError
        raise ValueError(f"{len(code)} bytes are no DDSketch: {error}") from None
    stores = (message.negativeValues, message.positiveValues)
    below, above = (np.array(store.contiguousBinCounts, np.float64) for store in stores)
    first = (message.negativeValues.contiguousBinIndexOffset, message.positiveValues.contiguousBinIndexOffset)
    farthest = max(abs(end) for at, row in zip(first, (below, above), strict=True) for end in (at, at + len(row)))
    other = message.mapping.gamma != _mapping().gamma or message.mapping.indexOffset or message.mapping.interpolation
    if other or farthest > FARTHEST_BIN:
        raise ValueError(f"{len(code)} bytes are no DDSketch of relative accuracy {RELATIVE_ACCURACY}")
    counts = np.concatenate([[message.zeroCount], below, above])
    whole = np.isfinite(counts) & (counts >= 0) & (np.floor(counts) == counts)
    if not whole.all() or any(store.binCounts for store in stores):
        raise ValueError("a DDSketch whose counts are not whole numbers from 0 on")
    return DDSketch(message.zeroCount, first, (below, above))


_READERS: dict[str, Callable[[bytes], Sketch]] = {"tdigest": _read_tdigest, "ddsketch": _read_ddsketch}
