"""Messages of some calibrations: summaries of a client's scores, and steps towards a quantile."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from fl_sim.conformal.calibrator_plan import MOST_TEMPERATURE
from fl_sim.conformal.histogram import ScoreGrid, decode, refined
from fl_sim.conformal.sketches import sketch_from
from fl_sim.messages.calibration import ScoreQuestion
from fl_sim.messages.record import FLOAT_BYTES, Record, checked_bytes, checked_count, checked_number

if TYPE_CHECKING:
    from fl_sim.messages.exchange import Columns

MOST_ROWS = 1 << 16  # of a histogram whose number of classes was not known


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
class TemperatureRequest(Record):
    """Send the temperature of your logits that makes the labels likeliest on the rows that your calibrator is fitted
    on, and how many rows they are."""

    message_type: ClassVar[str] = "query.temperature"
    reply: ClassVar[type[Record] | None] = TemperatureReport
    score: str  # JSON of the score's table, with the share of the rows


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
class SketchRequest(ScoreQuestion):
    """Send a mergeable sketch of your calibration scores."""

    message_type: ClassVar[str] = "query.sketch"
    reply: ClassVar[type[Record] | None] = SketchReport
    kind: str  # of conformal/sketches.py

    def check(self, answers: Columns[SketchReport]) -> None:
        """Sketches of as many scores as they say, and those within their bounds."""
        for report in answers:
            sketch = sketch_from(report.sketch.tobytes(), self.kind)
            if sketch.count != report.num_calibration:
                raise ValueError(f"a sketch of {sketch.count} scores, and it says {report.num_calibration}")
            if sketch.count:
                low, high = sketch.ends()
                if self.bounds is not None:  # drawn in, they may stand in the wrong order
                    low, high = min(low, self.bounds[1]), max(high, self.bounds[0])
                self.check_bounds("a sketch's smallest or largest score", np.array([low, high]))


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
class HistogramRequest(ScoreQuestion):
    """Send the counts of your calibration scores over a grid."""

    message_type: ClassVar[str] = "query.histogram"
    reply: ClassVar[type[Record] | None] = HistogramReport
    grid: str  # JSON of a `ScoreGrid`
    by_class: bool  # a row of counts for each class (in regression for each bin of the target), or one for all
    num_labels: int  # of which there are so many; 0: that is not said
    budget: int  # bytes: a client whose code is longer coarsens its bins by twos until it fits; 0: never
    parts: int = 1  # in which a client's points arrive, one after another
    part_from: int = 0  # of them those from this one, counted from 0, up to but without `part_to`: a row of counts
    part_to: int = 1  # (with `by_class`, a row for each class) for each part
    epsilon: float = 0.0  # of the geometric mechanism on each count; 0: true counts
    share: int = 1  # over how many clients the noise is shared out (their sum is private, not each report)

    def rows(self, num_labels: int) -> int:
        """Of counts in an answer, where there are so many classes."""
        return (self.part_to - self.part_from) * (num_labels if self.by_class else 1)

    def check(self, answers: Columns[HistogramReport]) -> None:
        """Histograms over the grid, of as many rows as were asked for, with no points where no score can be."""
        grid = ScoreGrid.from_text(self.grid)
        for report in answers:
            wanted = self.rows(self.num_labels)
            unsaid = self.by_class and not self.num_labels and 0 < report.rows <= MOST_ROWS
            if report.rows != wanted and not unsaid:
                raise ValueError(f"a histogram of {report.rows} rows: must be {wanted}, as was asked for")
            counts = refined(decode(report.code, report.rows), grid.bins)
            if self.epsilon:
                continue  # noise may stand anywhere, and below 0
            if (counts < 0).any():
                raise ValueError("a histogram with a count below 0: counts must be at least 0")
            above = int(counts[:, -1].sum())
            if above and self.bounds is not None and grid.high >= self.bounds[1]:
                low, high = self.bounds
                rule = f"must lie in [{low:g}, {high:g}], as this score does"
                raise ValueError(f"a histogram with {above} of its scores above {high:g}: {rule}")


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
class CountsRequest(Record):
    """Count your calibration scores up to each of these candidates, (J,)."""

    message_type: ClassVar[str] = "query.counts"
    reply: ClassVar[type[Record] | None] = CountsReport
    score: str
    candidates: NDArray[np.float64]
    align: str = ""  # the common scale that the candidates are on

    @property
    def information_bytes(self) -> int:  # type: ignore[override]
        """Eight bytes a candidate."""
        return FLOAT_BYTES * len(self.candidates)

    def check(self, answers: Columns[CountsReport]) -> None:
        """A count for each candidate, which does not fall from one to the next larger."""
        order = np.argsort(self.candidates, kind="stable")
        for counts in answers.counts:
            if len(counts) != len(self.candidates):
                raise ValueError(f"{len(counts)} counts for {len(self.candidates)} candidates: must be one for each")
            if (np.diff(counts[order]) < 0).any():
                raise ValueError(
                    "counts that fall from one candidate to the next larger: as many scores lie up to it, or more"
                )


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
class LabelCountsRequest(Record):
    """Count your calibration points of each class (in regression, of each bin of the target)."""

    message_type: ClassVar[str] = "query.labels"
    reply: ClassVar[type[Record] | None] = LabelCountsReport
    num_labels: int = 0  # of which there are so many; 0: that is not said
    score: str = ""  # JSON: count those that such a score is taken of; empty: all of them

    def check(self, answers: Columns[LabelCountsReport]) -> None:
        """A count for each class there is."""
        for counts in answers.counts:
            if self.num_labels and len(counts) != self.num_labels:
                raise ValueError(f"{len(counts)} counts for {self.num_labels} classes: must be one for each")


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


@dataclass(frozen=True)
class DescendRequest(Record):
    """Go some steps down the smoothed pinball loss of your own scores, and say how far you came (dp-fedcp)."""

    message_type: ClassVar[str] = "query.descend"
    reply: ClassVar[type[Record] | None] = StepReport
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

    def check(self, answers: Columns[StepReport]) -> None:
        """No farther than the steps reach, where there is no noise, which has no bounds."""
        most = self.steps * self.step_size * max(self.alpha, 1 - self.alpha)
        too_far = np.abs(answers.value) > most + 1e-9 * (most + abs(self.start))  # what rounding may add
        if not self.noise and too_far.any():
            value = answers.value[np.argmax(too_far)]
            raise ValueError(f"value = {value:g}: {self.steps} steps lead no farther than {most:g}")


@dataclass(frozen=True)
class AgreeRequest(Record):
    """Solve your own part of the ADMM step for the pooled quantile (q-dcp)."""

    message_type: ClassVar[str] = "query.agree"
    reply: ClassVar[type[Record] | None] = StepReport
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
