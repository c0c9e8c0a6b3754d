"""Messages of the calibrate strategies: what clients are asked of their scores, and what they answer.

A record checks itself when it is made, so that a NaN or a negative count
is refused at the door and never reaches an average.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fl_sim.conformal.calibrator_plan import MOST_TEMPERATURE
from fl_sim.messages.record import FLOAT_BYTES, Record, checked_bytes, checked_count, checked_number

# ------------------------------------------------------------------------------------------------------------- learn


# --------------------------------------------------------------------------------------------------------- calibrate


@dataclass(frozen=True)
class TemperatureRequest(Record):
    """Send the temperature of your logits that makes the labels likeliest on the rows that your calibrator is fitted
    on, and how many rows they are."""

    message_type: ClassVar[str] = "query.temperature"
    population: str
    score: str  # JSON of the score's table, with the share of the rows


@dataclass(frozen=True)
class TemperatureReport(Record):
    """(log T_k, m_k): 16 bytes of information."""

    partition: int
    log_temperature: float
    num_calibration: int  # m_k, the client's weight

    information_bytes: ClassVar[int] = 2 * FLOAT_BYTES

    def __post_init__(self) -> None:
        checked_count("num_calibration", self.num_calibration)
        checked_number("log_temperature", self.log_temperature)
        if not abs(self.log_temperature) <= math.log(MOST_TEMPERATURE) + 1e-9:
            raise ValueError(f"log_temperature = {self.log_temperature!r}: the temperature must lie in 1/20..20")


@dataclass(frozen=True)
class ThresholdRequest(Record):
    """Send your own conformal threshold and how many points it rests on."""

    message_type: ClassVar[str] = "query.threshold"
    population: str
    alpha: float
    score: str  # JSON of the score's table
    small_n: str
    align: str = ""  # bring your scores to a common scale first: one of conformal/alignment.py; empty: as they are
    density: bool = False  # also send the density of your scores at the threshold


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
class OrderStatisticRequest(Record):
    """Send the `rank`-th smallest of `size` of your calibration scores, drawn at random where you have more."""

    message_type: ClassVar[str] = "query.order"
    population: str
    score: str
    rank: int  # from 1
    size: int

    information_bytes: ClassVar[int] = FLOAT_BYTES


@dataclass(frozen=True)
class ScoresRequest(Record):
    """Send all your calibration scores."""

    message_type: ClassVar[str] = "query.scores"
    population: str
    score: str
    labels: bool = False  # and the label of each, in regression its target's bin
    num_labels: int = 0  # of which there are so many; 0: that is not said


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
class SizeRequest(Record):
    """Send the number of your calibration points, and between which numbers their scores lie."""

    message_type: ClassVar[str] = "query.size"
    population: str
    score: str


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
class SketchRequest(Record):
    """Send a mergeable sketch of your calibration scores."""

    message_type: ClassVar[str] = "query.sketch"
    population: str
    score: str
    kind: str  # of conformal/sketches.py


@dataclass(frozen=True)
class SketchReport(Record):
    """A sketch of n_k scores, as its package serialises it."""

    partition: int
    num_calibration: int
    sketch: NDArray[np.uint8]

    def __post_init__(self) -> None:
        checked_count("num_calibration", self.num_calibration)
        checked_bytes("sketch", self.sketch)

    @property
    def information_bytes(self) -> int:  # type: ignore[override]
        """The sketch and the number."""
        return len(self.sketch) + FLOAT_BYTES


@dataclass(frozen=True)
class HistogramRequest(Record):
    """Send the counts of your calibration scores over a grid."""

    message_type: ClassVar[str] = "query.histogram"
    population: str
    score: str
    grid: str  # JSON of a `ScoreGrid`
    num_labels: int  # a row of counts for each of so many classes (in regression bins of the target); 0: one for all
    budget: int  # bytes: a client whose code is longer coarsens its bins by twos until it fits; 0: never
    parts: int = 1  # in which a client's points arrive, one after another
    part_from: int = 0  # of them those from this one, counted from 0, up to but without `part_to`: a row of counts
    part_to: int = 1  # (with `num_labels`, a row for each class) for each part
    epsilon: float = 0.0  # of the geometric mechanism on each count; 0: true counts
    share: int = 1  # over how many clients the noise is shared out (their sum is private, not each report)

    @property
    def rows(self) -> int:
        """Of counts in the answer."""
        return (self.part_to - self.part_from) * max(1, self.num_labels)


@dataclass(frozen=True)
class HistogramReport(Record):
    """Counts over a grid, coded by conformal/histogram.py."""

    partition: int
    code: NDArray[np.uint8]
    rows: int = 1  # one for each part that was asked for, or one for each class of each

    def __post_init__(self) -> None:
        checked_bytes("code", self.code)
        checked_count("rows", self.rows)

    @property
    def information_bytes(self) -> int:  # type: ignore[override]
        """The code."""
        return len(self.code)


@dataclass(frozen=True)
class CountsRequest(Record):
    """Count your calibration scores up to each of these candidates, (J,)."""

    message_type: ClassVar[str] = "query.counts"
    population: str
    score: str
    align: str
    candidates: NDArray[np.float64]

    @property
    def information_bytes(self) -> int:  # type: ignore[override]
        """Eight bytes a candidate."""
        return FLOAT_BYTES * len(self.candidates)


@dataclass(frozen=True)
class CountsReport(Record):
    """#{S <= candidate} for each candidate, (J,), and n_k."""

    partition: int
    num_calibration: int
    counts: NDArray[np.int64]

    def __post_init__(self) -> None:
        checked_count("num_calibration", self.num_calibration)
        counts = self.counts
        if counts.ndim != 1 or counts.dtype.kind != "i" or (counts < 0).any() or (counts > self.num_calibration).any():
            raise ValueError(f"counts must be whole numbers in 0..{self.num_calibration}")

    @property
    def information_bytes(self) -> int:  # type: ignore[override]
        """Four bytes a count."""
        return 4 * len(self.counts)


@dataclass(frozen=True)
class LabelCountsRequest(Record):
    """Count your calibration points of each class (in regression, of each bin of the target)."""

    message_type: ClassVar[str] = "query.labels"
    population: str
    num_labels: int = 0  # of which there are so many; 0: that is not said
    score: str = ""  # JSON: count those that such a score is taken of; empty: all of them


@dataclass(frozen=True)
class LabelCountsReport(Record):
    """How many calibration points a client has of each class, (C,)."""

    partition: int
    counts: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.counts.ndim != 1 or self.counts.dtype.kind != "i" or (self.counts < 0).any():
            raise ValueError("counts must be whole numbers, at least 0, one for each class")

    @property
    def information_bytes(self) -> int:  # type: ignore[override]
        """Four bytes a count."""
        return 4 * len(self.counts)


@dataclass(frozen=True)
class DescendRequest(Record):
    """Go some steps down the smoothed pinball loss of your own scores, and say how far you came (dp-fedcp)."""

    message_type: ClassVar[str] = "query.descend"
    population: str
    score: str
    start: float
    alpha: float
    steps: int
    step_size: float
    smoothing: float
    noise: float  # standard deviation of the Gaussian noise on each step's gradient
    turn: int  # number of the round, so that each has its own noise
    weights: str = "[1.0]"  # JSON: importance of each class (in regression of each bin), or of all alike

    @property
    def information_bytes(self) -> int:  # type: ignore[override]
        """The start, and the weights where there is one for each class."""
        return FLOAT_BYTES * (1 + self.weights.count(",") + ("," in self.weights))


@dataclass(frozen=True)
class AgreeRequest(Record):
    """Solve your own part of the ADMM step for the pooled quantile (q-dcp)."""

    message_type: ClassVar[str] = "query.agree"
    population: str
    score: str
    level: float  # 1 - the corrected alpha
    smoothing: float  # the sharpness of the softplus, κ
    regularisation: float  # μ
    anchor: float  # q_0
    penalty: float  # c
    degree: int  # neighbours
    value: float  # your last x
    dual: float  # your last dual variable
    neighbours: float  # sum of your neighbours' last x

    information_bytes: ClassVar[int] = FLOAT_BYTES  # of which only the neighbours' sum is news to the client


@dataclass(frozen=True)
class StepReport(Record):
    """One number: how far a client's descent came, or its new x."""

    partition: int
    value: float

    information_bytes: ClassVar[int] = FLOAT_BYTES

    def __post_init__(self) -> None:
        checked_number("value", self.value)
        if self.value == math.inf:
            raise ValueError("value = inf: must be finite")


# ---------------------------------------------------------------------------------------------------------- evaluate


# ------------------------------------------------------------------------------------------------------------ wiring
