"""Messages after calibration: how a client is tested, and what it says of rows that all are asked about."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from fl_sim.conformal.coverage import Tally
from fl_sim.conformal.reliability import NOTHING, checked_table
from fl_sim.messages.record import Record, checked_bytes, checked_count, checked_number

if TYPE_CHECKING:
    from fl_sim.messages.columns import Columns


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
        for value in self.threshold.tolist():
            checked_number("threshold", value)

    @property
    def information_bytes(self) -> int:  # type: ignore[override]
        """Eight bytes a threshold."""
        return self.threshold.nbytes


@dataclass(frozen=True)
class CommonRowsReport(Record):
    """What a client's model says of the n common rows, and the client's prediction sets for them."""

    partition: int
    predictions: NDArray[np.float32]  # (n, C) probabilities; in regression (n, 1) means in the target's std
    sets: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))  # n C bits, packed; none: (0,)
    intervals: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 2)))  # (n, 2) in regression

    def __post_init__(self) -> None:
        checked_bytes("sets", self.sets)
        if self.predictions.ndim != 2 or not np.isfinite(self.predictions).all():
            raise ValueError("predictions must be finite numbers, a row for each of the common rows")
        bits, rows = -(-self.predictions.size // 8), len(self.predictions)
        if len(self.sets) not in (0, bits) or self.intervals.shape not in ((0, 2), (rows, 2)):
            raise ValueError(f"sets or intervals that are not of the {rows} rows of the predictions")
        if np.isnan(self.intervals).any():
            raise ValueError("intervals must have numbers or infinities at their ends")


@dataclass(frozen=True)
class CommonRowsRequest(Record):
    """Say what you think of the rows on which everybody is asked: the laboratory's question, of no method."""

    message_type: ClassVar[str] = "evaluate.predictions"
    reply: ClassVar[type[Record] | None] = CommonRowsReport
    weighed: ClassVar[bool] = False
    rows: int  # how many of the rows that are tested; which they are everybody draws alike
    score: str  # empty: no prediction sets
    threshold: NDArray[np.float64]  # (1,) or (C,), your own; ignored where `score` is empty
    align: str = ""  # the threshold is on this common scale

    def check(self, answers: Columns[CommonRowsReport]) -> None:
        """Predictions for each of the rows."""
        for predictions in answers.predictions:
            if len(predictions) != self.rows:
                raise ValueError(f"predictions for {len(predictions)} rows: {self.rows} were asked for")
