"""The plain mean of the clients' thresholds: FedWQ-CP without its weights.

The ablation of FedWQ-CP (its figure 2); the baseline FedCP-Avg of "One-Shot Federated Conformal Prediction", Humbert,
Le Bars, Bellet, Arlot, 2023, https://arxiv.org/abs/2302.06322; and the option `quantile_method = "mean"` of FCP's
published code.

    q = (1/K) Σ_k q_k        over the K clients that have calibration points

Sent: q_k, 8 bytes, once. Received: q, 8 bytes. Guaranteed: nothing.

Chosen: `aggregation` and `trim` put a median or a trimmed mean in the place of the mean, against clients that lie
(conformal/aggregation.py). As all weigh alike, what a client says of its n_k moves nothing: the median stands any
minority of liars, the trimmed mean fewer than trim K.
"""

from __future__ import annotations

import numpy as np

from fl_sim.conformal.aggregation import aggregated
from fl_sim.messages.calibration import ThresholdReport, ThresholdRequest
from fl_sim.messages.exchange import Columns
from fl_sim.messages.record import FLOAT_BYTES, Record
from strategies.base import ALONE, Calibration, Federation
from strategies.families.options import Mean, SmallN, Trim


class Unweighted(Calibration):
    """The plain mean of the clients' thresholds."""

    def __init__(
        self,
        federation: Federation = ALONE,
        *,
        alpha: float,
        score: str = "",
        small_n: SmallN = "clip",
        aggregation: Mean = "mean",
        trim: Trim = 0.1,
    ) -> None:
        super().__init__(federation, alpha=alpha, score=score)
        self.small_n, self.aggregation, self.trim = small_n, aggregation, trim

    def question(self) -> Record:
        """Each client's q_k."""
        return ThresholdRequest(self.score, self.alpha, self.small_n)

    def threshold(self, reports: Columns[ThresholdReport]) -> float:
        """Σ q_k / K over the clients that have points; infinite if there are none."""
        has_points = np.minimum(reports.num_calibration, 1)
        return aggregated(reports.threshold, has_points, self.aggregation, self.trim)

    def information_up(self, reports: Columns[ThresholdReport]) -> int:
        """The threshold alone."""
        return FLOAT_BYTES
