"""Split conformal prediction at every client alone: no federation.

"Algorithmic Learning in a Random World", Vovk, Gammerman, Shafer, 2005.

    q_k = the ceil((n_k + 1)(1 - α))-th smallest score of client k

Sent and received: nothing (in the laboratory the thresholds do travel, so that they can be shown).

Guaranteed: P(covered at client k) >= 1 - α for every client whose test points are exchangeable with its calibration
points and whose n_k >= 1/α - 1, on average over its calibration draw; a given draw covers Beta(rank, n_k + 1 - rank),
which is wide for small n_k. With `small_n = "clip"` a smaller client covers n_k / (n_k + 1), with "inf" always. A
client without points has an infinite threshold.
"""

from __future__ import annotations

import math

import numpy as np

from fl_sim.messages.calibration import ThresholdReport, ThresholdRequest
from fl_sim.messages.exchange import Columns
from fl_sim.messages.record import Record
from strategies.base import ALONE, Calibration, Federation, Threshold
from strategies.families.options import SmallN


class Local(Calibration):
    """Each client keeps its own threshold."""

    def __init__(
        self,
        federation: Federation = ALONE,
        *,
        alpha: float,
        score: str = "",
        small_n: SmallN = "clip",
    ) -> None:
        super().__init__(federation, alpha=alpha, score=score)
        self.small_n = small_n

    def question(self) -> Record:
        """Each client's q_k, which need not leave it."""
        return ThresholdRequest(self.score, self.alpha, self.small_n)

    def for_each(self, reports: Columns[ThresholdReport]) -> dict[int, float]:
        """q_k for client k."""
        thresholds = np.where(reports.num_calibration > 0, reports.threshold, math.inf)
        return dict(zip(reports.partition.tolist(), thresholds.tolist(), strict=True))

    def information_up(self, reports: Columns[ThresholdReport]) -> int:
        """Nothing has to be sent."""
        return 0

    def information_down(self, threshold: Threshold) -> int:
        """Nothing has to be sent."""
        return 0
