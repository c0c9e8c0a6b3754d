"""Nonconformity scores: how badly a label fits a prediction; small is good.

A prediction set is {y : score(x, y) <= threshold}. A score's value for the true label at calibration and for
the same label at test time comes from the same expression on the same row, so that a tie is a tie to the last
bit; no row's score depends on the other rows of its batch.

LAC: Sadinle, Lei, Wasserman, "Least ambiguous set-valued classifiers with bounded error levels", 2019.
APS: Romano, Sesia, Candès, "Classification with valid and adaptive coverage", 2020, section 2.
RAPS: Angelopoulos, Bates, Malik, Jordan, "Uncertainty sets for image classifiers using conformal prediction",
2021.
Absolute residual: Lei et al., "Distribution-free predictive inference for regression", 2018.
CQR: Romano, Patterson, Candès, "Conformalized quantile regression", 2019.

>>> p = np.array([[0.125, 0.625, 0.25]])
>>> Lac().all_labels(p, None)
array([[0.875, 0.375, 0.75 ]])
>>> Aps(randomized=False).all_labels(p, None)
array([[1.   , 0.625, 0.875]])
>>> Raps(randomized=False, penalty=0.5, k_reg=1).all_labels(p, None)
array([[2.   , 0.625, 1.375]])
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fl_sim.conformal.thresholds import refuse_where

Floats = NDArray[np.float64]

CALIBRATOR = (
    "calibrate.calibrator"  # a key beside a score's own, for probability_calibrators.py; no score has one like it
)


class _LabelScore(ABC):
    """A score of every label from class probabilities; `all_labels` is the only thing a subclass says."""

    task: ClassVar[Literal["classification"]] = "classification"
    bounds: ClassVar[tuple[float, float] | None] = None  # between which every score lies, whatever the data

    @abstractmethod
    def all_labels(self, probabilities: ArrayLike, uniforms: ArrayLike | None) -> Floats:
        """The score (n, C) of every label."""

    def of(self, probabilities: ArrayLike, targets: ArrayLike, uniforms: ArrayLike | None) -> Floats:
        """The scores (n,) of the labels `targets` (n,): entries of `all_labels`, so ties are exact."""
        scores = self.all_labels(probabilities, uniforms)
        labels = checked_labels(targets, *scores.shape)
        return scores[np.arange(len(labels)), labels]


@dataclass(frozen=True)
class Lac(_LabelScore):
    """Least ambiguous classifier: 1 - p_y (Sadinle et al. 2019)."""

    randomized: ClassVar[bool] = False
    bounds: ClassVar[tuple[float, float] | None] = (0.0, 1.0)

    def all_labels(self, probabilities: ArrayLike, uniforms: ArrayLike | None) -> Floats:
        """1 - p for `probabilities` (n, C), as (n, C); `uniforms` is not looked at."""
        return 1.0 - _checked_probabilities(probabilities)


@dataclass(frozen=True)
class Aps(_LabelScore):
    """Adaptive prediction sets (Romano et al. 2020): the mass of the labels at least as probable as y.

    Labels are ordered by falling probability, equal ones by index. Randomised, U p_y is taken off, U uniform
    on [0, 1); not randomised, y's own mass counts in full, so that the set can be empty.
    """

    bounds: ClassVar[tuple[float, float] | None] = (0.0, 1.0)
    randomized: bool

    def all_labels(self, probabilities: ArrayLike, uniforms: ArrayLike | None) -> Floats:
        """Mass up to and including each label, less U p_y: (n, C) from `probabilities` (n, C), U (n,)."""
        return _cumulative_scores(probabilities, uniforms, self.randomized, penalty=0.0, k_reg=0)


@dataclass(frozen=True)
class Raps(_LabelScore):
    """Regularised APS (Angelopoulos et al. 2021): APS + penalty * max(rank(y) - k_reg, 0), ranks from 1.

    U multiplies p_y alone, never the penalty. `penalty` is the paper's λ, `k_reg` its k_reg.
    """

    randomized: bool
    penalty: float
    k_reg: int

    def __post_init__(self) -> None:
        if not 0 <= self.penalty < math.inf:
            raise ValueError(f"penalty = {self.penalty}: must be finite and at least 0")
        if self.k_reg < 0:
            raise ValueError(f"k_reg = {self.k_reg}: must be at least 0")

    def all_labels(self, probabilities: ArrayLike, uniforms: ArrayLike | None) -> Floats:
        """APS and the penalty of each label's rank: (n, C) from `probabilities` (n, C), U (n,)."""
        return _cumulative_scores(probabilities, uniforms, self.randomized, self.penalty, self.k_reg)


@dataclass(frozen=True)
class AbsoluteResidual:
    """|y - μ| of a predicted mean μ (Lei et al. 2018)."""

    task: ClassVar[Literal["regression"]] = "regression"
    bounds: ClassVar[tuple[float, float] | None] = None

    def of(self, predictions: ArrayLike, targets: ArrayLike) -> Floats:
        """|y - μ| (n,) from `predictions` (n, 1) and `targets` (n,)."""
        centre = self.centre(predictions)
        return np.abs(_checked_targets(targets, len(centre)) - centre)

    def interval(self, predictions: ArrayLike, threshold: float) -> tuple[Floats, Floats]:
        """(μ - q, μ + q), each (n,), for `predictions` (n, 1); low > high says empty."""
        centre = self.centre(predictions)
        return centre - threshold, centre + threshold

    def centre(self, predictions: ArrayLike) -> Floats:
        """The point prediction (n,): μ itself."""
        return _checked_predictions(predictions, 1)[:, 0]


@dataclass(frozen=True)
class Cqr:
    """max(lo - y, y - hi) of two predicted quantiles (Romano et al. 2019); a crossing pair is sorted."""

    task: ClassVar[Literal["regression"]] = "regression"
    bounds: ClassVar[tuple[float, float] | None] = None

    def of(self, predictions: ArrayLike, targets: ArrayLike) -> Floats:
        """max(lo - y, y - hi) (n,) from `predictions` (n, 2) and `targets` (n,); negative inside the pair."""
        low, high = self._pair(predictions)
        y = _checked_targets(targets, len(low))
        return np.maximum(low - y, y - high)

    def interval(self, predictions: ArrayLike, threshold: float) -> tuple[Floats, Floats]:
        """(lo - q, hi + q), each (n,), for `predictions` (n, 2); low > high (a negative q) says empty."""
        low, high = self._pair(predictions)
        return low - threshold, high + threshold

    def centre(self, predictions: ArrayLike) -> Floats:
        """The point prediction (n,): the middle of the pair."""
        low, high = self._pair(predictions)
        return low + (high - low) / 2

    def _pair(self, predictions: ArrayLike) -> tuple[Floats, Floats]:
        pair = _checked_predictions(predictions, 2)
        return pair.min(axis=1), pair.max(axis=1)


# What a strategy takes where no score is named, as a message carries it.
DEFAULT_SCORE = {"classification": '{"name":"lac"}', "regression": '{"name":"residual"}'}

SCORES: dict[str, type] = {"lac": Lac, "aps": Aps, "raps": Raps, "residual": AbsoluteResidual, "cqr": Cqr}


def checked_labels(labels: ArrayLike, n: int, num_classes: int) -> NDArray[np.intp]:
    """`labels` as integers (n,), each in 0..num_classes-1, or a ValueError naming the first that is not."""
    values = np.asarray(labels)
    if values.shape != (n,) or not (np.issubdtype(values.dtype, np.integer) or n == 0):
        raise ValueError(f"labels of shape {values.shape}, type {values.dtype}: must be {n} integers")
    # NumPy reads a negative index from the end, which would score another label without a word.
    wrong = (values < 0) | (values >= num_classes)
    refuse_where(wrong, "labels", values, f"must lie in 0..{num_classes - 1}")
    return values.astype(np.intp)


def _cumulative_scores(
    probabilities: ArrayLike, uniforms: ArrayLike | None, randomized: bool, penalty: float, k_reg: int
) -> Floats:
    """APS and RAPS: computed along each sorted row, then put back at the labels; (n, C)."""
    p = _checked_probabilities(probabilities)
    u = _uniform_column(uniforms, len(p)) if randomized else 0.0
    order = np.argsort(-p, axis=1, kind="stable")
    ordered = np.take_along_axis(p, order, axis=1)
    beyond = np.maximum(np.arange(1, p.shape[1] + 1) - k_reg, 0)
    # cumsum adds from left to right; a sum over the axis would add in blocks that may differ with the layout.
    # Probabilities add up to a little more than 1 in floats: such a sum is 1, at calibration and in a test alike.
    mass = np.minimum(np.cumsum(ordered, axis=1), 1.0)
    scores = mass - u * ordered + penalty * beyond
    at_labels = np.empty_like(scores)
    np.put_along_axis(at_labels, order, scores, axis=1)
    return at_labels


def _checked_probabilities(probabilities: ArrayLike) -> Floats:
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 2:
        raise ValueError(f"probabilities of shape {p.shape}: must have shape (n, C)")
    refuse_where(~((p >= 0) & (p < np.inf)), "probabilities", p, "must be finite and at least 0 (logits?)")
    return p


def _uniform_column(uniforms: ArrayLike | None, n: int) -> Floats:
    if uniforms is None:
        raise ValueError("uniforms = None: a randomised score needs one uniform number in [0, 1) for each point")
    u = np.asarray(uniforms, dtype=np.float64)
    if u.shape != (n,):
        raise ValueError(f"uniforms of shape {u.shape}: must have shape ({n},)")
    refuse_where(~((u >= 0) & (u < 1)), "uniforms", u, "must lie in [0, 1)")
    return u[:, None]


def _checked_predictions(predictions: ArrayLike, width: int) -> Floats:
    values = np.asarray(predictions, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != width:
        raise ValueError(f"predictions of shape {values.shape}: must have shape (n, {width})")
    refuse_where(~np.isfinite(values), "predictions", values, "must be finite")
    return values


def _checked_targets(targets: ArrayLike, n: int) -> Floats:
    # (n, 1) beside (n,) would broadcast to (n, n).
    values = np.asarray(targets, dtype=np.float64)
    if values.shape != (n,):
        raise ValueError(f"targets of shape {values.shape}: must have shape ({n},)")
    refuse_where(~np.isfinite(values), "targets", values, "must be finite")
    return values


class OwnScore:
    """A user's own score, of which nothing is believed before it has been held against what it was given."""

    randomized = True  # for all that is known: it is given its uniforms

    def __init__(self, name: str, score: Any) -> None:
        self.name, self.score = name, score
        self.bounds: tuple[float, float] | None = getattr(score, "bounds", None)

    def __repr__(self) -> str:
        return f"{self.name} ({self.score!r})"

    def all_labels(self, probabilities: ArrayLike, uniforms: ArrayLike | None) -> Floats:
        """The score (n, C) of every label; no NaN.

        Raises:
            ValueError: it returned something else.
        """
        scores = np.asarray(self.score.all_labels(probabilities, uniforms))
        self._refuse_unless("all_labels", scores, np.shape(probabilities))
        return scores.astype(np.float64, copy=False)

    def of(self, predictions: ArrayLike, targets: ArrayLike, *uniforms: ArrayLike | None) -> Floats:
        """The scores (n,) of rows with these targets: finite, and of labels the very entries of `all_labels`.

        Raises:
            ValueError: it returned something else.
        """
        scores = np.asarray(self.score.of(predictions, targets, *uniforms))
        self._refuse_unless("of", scores, np.shape(targets))
        if not np.isfinite(scores).all():
            raise ValueError(f"score {self.name}: of() gave {scores[~np.isfinite(scores)][0]}; a row's score is finite")
        if uniforms:
            each = self.all_labels(predictions, *uniforms)
            labels = checked_labels(targets, *each.shape)
            apart = np.flatnonzero(scores != each[np.arange(len(labels)), labels])
            if apart.size:
                k = int(apart[0])
                raise ValueError(
                    f"score {self.name}: of() gave row {k} the score {scores[k]}, and all_labels() gave its label "
                    f"{each[k, labels[k]]}; they must be the same number, so that ties are ties"
                )
        return scores.astype(np.float64, copy=False)

    def interval(self, predictions: ArrayLike, threshold: float) -> tuple[Floats, Floats]:
        """The ends (n,), (n,) of the targets whose score is at most the threshold; no NaN.

        Raises:
            ValueError: it returned something else.
        """
        low, high = (np.asarray(end) for end in self.score.interval(predictions, threshold))
        for end in (low, high):
            self._refuse_unless("interval", end, np.shape(predictions)[:1])
        return low.astype(np.float64, copy=False), high.astype(np.float64, copy=False)

    def centre(self, predictions: ArrayLike) -> Floats:
        """The prediction (n,) itself.

        Raises:
            ValueError: it returned something else.
        """
        middle = np.asarray(self.score.centre(predictions))
        self._refuse_unless("centre", middle, np.shape(predictions)[:1])
        return middle.astype(np.float64, copy=False)

    def _refuse_unless(self, method: str, values: NDArray[Any], shape: tuple[int, ...]) -> None:
        if values.shape != shape:
            raise ValueError(f"score {self.name}: {method}() gave shape {values.shape}; it must be {shape}")
        if values.dtype.kind not in "buif" or np.isnan(values).any():
            raise ValueError(f"score {self.name}: {method}() gave what is no number, or NaN")


@lru_cache(maxsize=64)
def from_json(text: str) -> Any:
    """The score that a message describes: a JSON table with its `name` (or a user's `module:object`) and parameters.

    >>> from_json('{"name": "raps", "randomized": false, "penalty": 0.5, "k_reg": 1}')
    Raps(randomized=False, penalty=0.5, k_reg=1)
    """
    parameters = json.loads(text)
    parameters.pop(CALIBRATOR, None)
    name = parameters.pop("name")
    module, _, attribute = name.partition(":")
    if attribute:
        return OwnScore(name, getattr(import_module(module), attribute)(**parameters))
    return SCORES[name](**parameters)


def bounds_of(text: str) -> tuple[float, float] | None:
    """Between which numbers every score of this kind lies, whatever the data; None where that is not known, as for a
    user's own score that does not say so.

    >>> bounds_of('{"name": "lac"}'), bounds_of('{"name": "residual"}')
    ((0.0, 1.0), None)
    """
    return getattr(from_json(text), "bounds", None)
