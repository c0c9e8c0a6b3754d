"""Messages of every calibration: what clients are asked of their scores, and how they are tested.

A record checks itself when it is made, so that a NaN or a negative count is refused at the door and never reaches an
average; a question checks what comes back for what cannot be an answer to it.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from fl_sim.conformal.coverage import Tally
from fl_sim.conformal.reliability import NOTHING, checked_table
from fl_sim.conformal.scores import bounds_of
from fl_sim.conformal.thresholds import min_calibration
from fl_sim.messages.record import FLOAT_BYTES, Record, checked_count, checked_number

if TYPE_CHECKING:
    from fl_sim.messages.exchange import Columns


@dataclass(frozen=True)
class ScoreQuestion(Record):
    """Base of the questions about a client's calibration scores."""

    score: str  # JSON of the score's table

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Between which numbers every score asked about lies; None where that is not known."""
        return None if self.align or not self.score.startswith("{") else bounds_of(self.score)

    def check_bounds(self, name: str, values: NDArray[np.float64]) -> None:
        """Refuse numbers that are not finite, or none that such a score can be."""
        low, high = self.bounds or (-math.inf, math.inf)
        wrong = ~np.isfinite(values) | (values < low) | (values > high)
        if wrong.any():
            rule = "must be finite" if self.bounds is None else f"must lie in [{low:g}, {high:g}], as this score does"
            raise ValueError(f"{name} = {values[np.argmax(wrong)]:g}: {rule}")


@dataclass(frozen=True)
class ThresholdReport(Record):
    """(q_k, n_k): 16 bytes of information."""

    partition: int
    threshold: float
    num_calibration: int  # the client's weight: 0 for a client that takes no part
    density: float = 0.0  # of its scores at the threshold; 0 where it was not asked for

    information_bytes: ClassVar[int] = 2 * FLOAT_BYTES

    def __post_init__(self) -> None:
        checked_count("num_calibration", self.num_calibration)
        checked_number("threshold", self.threshold)
        checked_number("density", self.density, least=0)


@dataclass(frozen=True)
class ThresholdRequest(ScoreQuestion):
    """Send your own conformal threshold and how many points it rests on."""

    message_type: ClassVar[str] = "query.threshold"
    reply: ClassVar[type[Record] | None] = ThresholdReport
    alpha: float
    small_n: str
    align: str = ""  # bring your scores to a common scale first: one of conformal/alignment.py; empty: as they are
    density: bool = False  # also send the density of your scores at the threshold

    def check(self, answers: Columns[ThresholdReport]) -> None:
        """A threshold within the score's bounds; an infinite one only where there are too few points."""
        _check_thresholds(self, answers, min_calibration(self.alpha), always_finite=self.small_n == "clip")


@dataclass(frozen=True)
class OrderStatisticRequest(ScoreQuestion):
    """Send the `rank`-th smallest of `size` of your calibration scores, drawn at random where you have more."""

    message_type: ClassVar[str] = "query.order"
    reply: ClassVar[type[Record] | None] = ThresholdReport
    rank: int  # from 1
    size: int

    information_bytes: ClassVar[int] = FLOAT_BYTES

    def check(self, answers: Columns[ThresholdReport]) -> None:
        """A score within the score's bounds; an infinite one only where there are no points."""
        _check_thresholds(self, answers, 1, always_finite=False)


@dataclass(frozen=True)
class ScoresReport(Record):
    """Every calibration score of a client, (n_k,), and their labels, (n_k,) or (0,) where they were not asked for."""

    partition: int
    scores: NDArray[np.float64]
    labels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def __post_init__(self) -> None:
        if self.scores.ndim != 1 or np.isnan(self.scores).any():
            raise ValueError("scores must be one number for each calibration point, and none of them NaN")
        if self.labels.shape not in ((0,), self.scores.shape) or self.labels.dtype.kind != "i":
            raise ValueError("labels must be one whole number for each score, or none at all")
        if (self.labels < 0).any():
            raise ValueError("labels must be at least 0")

    @property
    def information_bytes(self) -> int:  # type: ignore[override]
        """Eight bytes a score, one a label."""
        return FLOAT_BYTES * len(self.scores) + len(self.labels)


@dataclass(frozen=True)
class ScoresRequest(ScoreQuestion):
    """Send all your calibration scores."""

    message_type: ClassVar[str] = "query.scores"
    reply: ClassVar[type[Record] | None] = ScoresReport
    labels: bool = False  # and the label of each, in regression its target's bin
    num_labels: int = 0  # of which there are so many; 0: that is not said

    def check(self, answers: Columns[ScoresReport]) -> None:
        """Scores within their bounds; a label for each where they were asked for, and of the classes there are."""
        for scores, labels in zip(answers.scores, answers.labels, strict=True):
            self.check_bounds("scores", scores)
            wanted, largest = len(scores) if self.labels else 0, int(labels.max(initial=-1))
            if len(labels) != wanted:
                raise ValueError(f"{len(labels)} labels of {len(scores)} scores: must be {wanted}")
            if self.num_labels and largest >= self.num_labels:
                raise ValueError(f"label {largest}: must lie in 0..{self.num_labels - 1}")


@dataclass(frozen=True)
class SizeReport(Record):
    """n_k, and the smallest and largest score of them (0 and 0 where there is none)."""

    partition: int
    num_calibration: int
    low: float
    high: float

    def __post_init__(self) -> None:
        checked_count("num_calibration", self.num_calibration)
        checked_number("low", self.low)
        checked_number("high", self.high, least=self.low)


@dataclass(frozen=True)
class SizeRequest(ScoreQuestion):
    """Send the number of your calibration points, and between which numbers their scores lie."""

    message_type: ClassVar[str] = "query.size"
    reply: ClassVar[type[Record] | None] = SizeReport

    def check(self, answers: Columns[SizeReport]) -> None:
        """Scores within their bounds."""
        self.check_bounds("low and high", np.concatenate([answers.low, answers.high]))


@dataclass(frozen=True)
class EvaluateReport(Record):
    """Counts of one client's test points; they add. See `Tally`."""

    partition: int
    num_test: int
    num_covered: int
    total_size: float
    num_empty: int
    num_infinite: int
    num_correct: int
    total_squared_error: float
    class_tested: NDArray[np.int64]
    class_covered: NDArray[np.int64]
    # Of probabilities, (m, 6), see calibration_metrics.py; of no points in regression, and where the model answers nan.
    reliability: NDArray[np.float64] = field(default_factory=lambda: NOTHING)

    measured: ClassVar[tuple[str, ...]] = ("reliability",)

    def __post_init__(self) -> None:
        checked_table(self.reliability, self.num_test)
        for name in ("num_test", "num_covered", "num_empty", "num_infinite", "num_correct"):
            checked_count(name, getattr(self, name))
        if max(self.num_covered, self.num_empty, self.num_infinite, self.num_correct) > self.num_test:
            raise ValueError(f"counts above num_test = {self.num_test}")
        for name in ("total_size", "total_squared_error"):
            checked_number(name, getattr(self, name), least=0)
        tested, covered = self.class_tested, self.class_covered
        if not (tested.dtype.kind == covered.dtype.kind == "i" and tested.ndim == 1 and tested.shape == covered.shape):
            raise ValueError("class_tested and class_covered must be whole numbers, one for each class")
        if (covered < 0).any() or (covered > tested).any():
            raise ValueError("class_covered must lie in 0..class_tested")

    @classmethod
    def of(cls, partition: int, tally: Tally, reliability: NDArray[np.float64] = NOTHING) -> EvaluateReport:
        """A client's tally, and the table of its probabilities, as its report."""
        counts = {f.name: getattr(tally, f.name) for f in dataclasses.fields(tally)}
        return cls(partition=partition, **counts, reliability=reliability)

    def tally(self) -> Tally:
        """The counts alone."""
        return Tally(**{f.name: getattr(self, f.name) for f in dataclasses.fields(Tally)})


@dataclass(frozen=True)
class EvaluateRequest(Record):
    """Test yourself with this threshold, or with these, one for each class."""

    message_type: ClassVar[str] = "evaluate.sets"
    reply: ClassVar[type[Record] | None] = EvaluateReport
    score: str  # empty: accuracy only
    threshold: NDArray[np.float64]  # (1,) or (C,); inf covers every label; ignored where `score` is empty
    align: str = ""  # the threshold is on this common scale

    def __post_init__(self) -> None:
        if self.threshold.ndim != 1 or not len(self.threshold):
            raise ValueError(f"threshold of shape {self.threshold.shape}: must have shape (1,) or (C,)")
        if not (self.threshold > -np.inf).all():
            wrong = self.threshold[~(self.threshold > -np.inf)][0]
            raise ValueError(f"threshold = {wrong}: must be a number or +inf")

    @property
    def information_bytes(self) -> int:  # type: ignore[override]
        """Eight bytes a threshold."""
        return self.threshold.nbytes


def _check_thresholds(
    question: ScoreQuestion, answers: Columns[ThresholdReport], least: int, *, always_finite: bool
) -> None:
    """Of clients with at least `least` points the thresholds must be finite, of those with fewer they may be."""
    infinite, n = np.isposinf(answers.threshold), answers.num_calibration
    wrong = infinite & (n > 0) & ((n >= least) | always_finite)
    if wrong.any():
        points = n[np.argmax(wrong)]
        raise ValueError(f"threshold = inf with num_calibration = {points}: there are points enough for a finite one")
    question.check_bounds("threshold", answers.threshold[~infinite])
