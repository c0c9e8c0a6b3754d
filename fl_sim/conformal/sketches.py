"""Mergeable sketches of scores as another package makes them: t-digest, in its own serialisation.

Dunning, Ertl, "Computing extremely accurate quantiles using t-digests", 2019, https://arxiv.org/abs/1902.04023; Apache
DataSketches' `tdigest_double` with compression 100 (the δ = 0.01 of the package that FCP's authors use), 16 bytes a
centroid. Up to 78 scores it is the scores themselves: no privacy.

It promises no error: an order statistic that is read from it may be smaller than the true one, so that a conformal
guarantee does not survive it.

>>> codes = [sketch_of(np.arange(1.0, 11.0), "tdigest"), sketch_of(np.arange(11.0, 21.0), "tdigest")]
>>> pool = merged([sketch_from(code, "tdigest") for code in codes])
>>> pool.count, pool.at_rank(18)
(20, 18.0)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

COMPRESSION = 100
SINGLE = 78  # scores that a t-digest keeps as they are


@dataclass(frozen=True)
class Sketch:
    """A sketch of some scores: a `tdigest_double`."""

    digest: Any

    @property
    def count(self) -> int:
        """Of how many scores."""
        return int(self.digest.get_total_weight())

    def at_rank(self, rank: int) -> float:
        """About the `rank`-th smallest score, 1 <= rank <= count: where the sketch's mass reaches the middle of its
        unit, as a centroid's mean is in the middle of its own.

        The package's `get_rank` is inverted by bisection. Its `get_quantile` interpolates between two centroids with
        their weights exchanged, which is off by up to 4 % of the scores, and larger for the smaller of two ranks; it is
        right, to the last bit, where each centroid is one score.
        """
        level = (rank - 0.5) / self.count
        if self.count <= SINGLE:
            return float(self.digest.get_quantile(level))
        low, high = float(self.digest.get_min_value()), float(self.digest.get_max_value())
        if self._up_to(low) >= level:
            return low
        while low < (middle := low + (high - low) / 2) < high:
            low, high = (low, middle) if self._up_to(middle) >= level else (middle, high)
        return high

    def _up_to(self, score: float) -> float:
        """The mass up to a score; at the score itself the package counts half of those equal to it."""
        return float(self.digest.get_rank(math.nextafter(score, math.inf)))

    def ends(self) -> tuple[float, float]:
        """The smallest and the largest score, of at least one; no farther out than the scores themselves, so that the
        first may be the larger where all are alike. As the sketch says, and as its centroids say, which may lie
        elsewhere where somebody made it up; NaN among them makes NaN."""
        places = [self.digest.get_min_value(), self.digest.get_max_value()]
        places += [self.digest.get_quantile(level / 100) for level in range(101)]
        low, high = float(np.min(places)), float(np.max(places))
        return low + 1e-12 * abs(low), high - 1e-12 * abs(high)  # of what rounding may add in between


def sketch_of(scores: ArrayLike, kind: str) -> bytes:
    """The sketch of `scores` (n,), serialised.

    Raises:
        ValueError: a score is not finite, or no sketch is called `kind`.
    """
    values = np.asarray(scores, np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError("a sketch takes one finite score for each point, no other")
    digest = _tdigest(kind)(COMPRESSION)
    digest.update(values)
    return bytes(digest.serialize())


def sketch_from(code: bytes, kind: str) -> Sketch:
    """The sketch that `sketch_of` serialised.

    Raises:
        ValueError: bytes that are no such sketch, or no sketch is called `kind`.
    """
    try:
        digest = _tdigest(kind).deserialize(code)
    except Exception as error:  # IndexError, ValueError, RuntimeError: as the package happens to notice
        raise ValueError(f"{len(code)} bytes are no t-digest: {error}") from None
    if digest.k != COMPRESSION or digest.get_serialized_size_bytes() != len(code):
        raise ValueError(f"{len(code)} bytes are no t-digest of compression {COMPRESSION}")
    if not digest.is_empty() and not np.isfinite([digest.get_min_value(), digest.get_max_value()]).all():
        raise ValueError("a t-digest whose smallest or largest score is not finite")
    return Sketch(digest)


def merged(sketches: Sequence[Sketch]) -> Sketch:
    """One sketch of all scores in these, at least one; it is the first of them, changed."""
    for other in sketches[1:]:
        sketches[0].digest.merge(other.digest)
    return sketches[0]


def _tdigest(kind: str) -> Any:
    from datasketches import tdigest_double

    if kind != "tdigest":
        raise ValueError(f"kind = {kind!r}: must be tdigest")
    return tdigest_double
