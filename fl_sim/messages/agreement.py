"""Messages after calibration: what a client says of rows that all are asked about, the laboratory's question."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from fl_sim.messages.record import Record, checked_bytes

if TYPE_CHECKING:
    from fl_sim.messages.exchange import Columns


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
