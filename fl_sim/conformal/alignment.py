"""Bringing clients' scores to one scale before thresholds are averaged, and thresholds back.

Every client fits its own map on the scores of the rows its model was trained on, never on its calibration points, so
that these stay exchangeable with its test points.

"rank": a score becomes its rank among the training scores, 0 to 1, and keeps on rising beyond them, in a straight
line. A model that knows its training rows by heart scores new ones far beyond them, where ranks say nothing: then the
scale is but a ratio of training ranges, and thresholds on it can be far too large. Compare "temperature".
"temperature": in classification logits are divided by the one temperature that makes the training labels likeliest
(`probability_calibrators.best_temperature`); in regression scores are divided by their root mean
square on the training rows.

>>> ranks = RankScale(np.array([1.0, 3.0]))
>>> ranks.common(np.array([2.0, 3.0, 5.0]))
array([0.5, 1. , 2. ])
>>> ranks.own(0.5)
2.0
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


class RankScale:
    """Ranks among `reference` scores (m,), straight lines between them; beyond them one range of theirs is 1."""

    FAR = 1e6  # ranges: beyond any score that is not infinite in effect

    def __init__(self, reference: ArrayLike) -> None:
        values = np.asarray(reference, np.float64)
        values = np.sort(values[np.isfinite(values)])
        at = np.unique(values)
        if len(at) < 2:  # nothing to rank among: the scale stays as it is, from there on
            low = float(at[0]) if len(at) else 0.0
            at, ranks = np.array([low, low + 1.0]), np.array([0.0, 1.0])
        else:
            ranks = (np.searchsorted(values, at, side="right") - 1) / (len(values) - 1)  # ties count as they come
            ranks[0] = 0.0
        span = at[-1] - at[0]
        self._scores = np.concatenate([[at[0] - self.FAR * span], at, [at[-1] + self.FAR * span]])
        self._ranks = np.concatenate([[-self.FAR], ranks, [1.0 + self.FAR]])

    def common(self, scores: ArrayLike) -> Floats:
        """Scores on the common scale; rising, and +inf stays."""
        values = np.asarray(scores, np.float64)
        return np.where(np.isinf(values), values, np.interp(values, self._scores, self._ranks))

    def own(self, threshold: float) -> float:
        """A threshold of the common scale on the client's own."""
        return threshold if math.isinf(threshold) else float(np.interp(threshold, self._ranks, self._scores))


@dataclass(frozen=True)
class Ratio:
    """Scores divided by a positive number; 1 leaves them."""

    scale: float

    def common(self, scores: ArrayLike) -> Floats:
        """Scores on the common scale."""
        return np.asarray(scores, np.float64) / self.scale

    def own(self, threshold: float) -> float:
        """A threshold of the common scale on the client's own."""
        return threshold * self.scale


def root_mean_square(scores: ArrayLike) -> float:
    """Of the finite ones of scores (m,); 1 where there are none, or all are 0."""
    values = np.asarray(scores, np.float64)
    values = values[np.isfinite(values)]
    return math.sqrt(float(np.mean(values**2))) or 1.0 if len(values) else 1.0
