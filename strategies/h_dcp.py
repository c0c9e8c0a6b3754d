"""H-DCP: the histograms of all clients, added up.

"Distributed conformal prediction via message passing", Wen, Xing, Simeone, 2025, https://arxiv.org/abs/2501.14544

    S_i   = each score, rounded up to the next of M levels over the scores' range          conformal/histogram.py
    p     = Σ_k counts of client k over the levels, M + 1 of them with what lies above      `from_counts`
    s     = the first level whose cumulative count reaches ceil((N + K)(1 - α)), else +inf

    α is `alpha` · M is `levels` · N is the sum of all counts · s is `global_threshold`

Sent: M + 1 counts of 8 bytes, once; where the score has no known range, (smallest, largest score) before, 16 bytes.
Received: s, 8 bytes, and where it had to be agreed the range, 16 bytes.

Guaranteed: what FCP guarantees for π_k ∝ n_k + 1 (strategies/fcp.py), 1 - α <= coverage, as s is at least FCP's
threshold, whatever the levels, even chosen from these scores: rounding up is increasing, so the rank's rounded score is
the rank's score rounded up. It is larger by one step of the levels at most.

Chosen: in the paper clients gossip with their neighbours, and a margin ε_T is added for what T rounds have not levelled
out; with a server the sum is exact, and ε_T = 0. The authors' code lays its levels between the smallest and the largest
of all calibration scores, whatever the score. Here they lie in [0, 1] where a score has these bounds, and nobody has to
tell; for any other the range is agreed through the server, and whoever takes part learns it. K is everybody who
answered, with points or without.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fl_sim.conformal.histogram import ScoreGrid, threshold_at
from fl_sim.conformal.thresholds import conformal_rank
from fl_sim.messages.exchange import Columns
from fl_sim.messages.record import FLOAT_BYTES
from fl_sim.messages.summaries import HistogramReport
from strategies.base import ALONE, Federation
from strategies.families.histograms import Counts, HistogramCalibration


class HDCP(HistogramCalibration):
    """Histograms summed in one round (Wen et al.)."""

    tail = 0.0

    def __init__(
        self,
        federation: Federation = ALONE,
        *,
        alpha: float,
        score: str = "",
        levels: Annotated[int, Field(ge=1, le=65536)] = 1000,  # that scores are rounded up to
    ) -> None:
        super().__init__(federation, alpha=alpha, score=score, bins=levels)

    def from_counts(self, partitions: list[int], counts: Counts, grid: ScoreGrid) -> Mapping[int, float]:
        """The level that the ceil((N + K)(1 - α))-th smallest score is rounded up to."""
        total = counts.sum(axis=(0, 1))
        rank = conformal_rank(max(0, int(total.sum()) + len(partitions) - 1), self.alpha)
        self.global_threshold = threshold_at(total, grid.edges, rank) if partitions else math.inf
        return dict.fromkeys(partitions, self.global_threshold)

    def information_up(self, reports: Columns[Any]) -> int | NDArray[np.int64]:
        """All counts as they are, as published; our code for them would take less."""
        if reports.kind is HistogramReport:
            return FLOAT_BYTES * (self.bins + 1)
        return super().information_up(reports)

    def detail(self) -> dict[str, Any]:
        """Between which numbers the levels lie."""
        return {"low": self.grid.low, "high": self.grid.high}
