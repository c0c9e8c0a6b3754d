"""The plain mean of the clients' thresholds: FedWQ-CP without its weights.

The ablation of FedWQ-CP (its figure 2); the baseline FedCP-Avg of "One-Shot Federated Conformal Prediction", Humbert,
Le Bars, Bellet, Arlot, 2023, https://arxiv.org/abs/2302.06322; and the option `quantile_method = "mean"` of FCP's
published code.

    q = (1/K) Σ_k q_k        over the K clients that have calibration points

Sent: q_k, 8 bytes, once. Received: q, 8 bytes. Guaranteed: nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from fl_sim.conformal.thresholds import weighted_mean_threshold
from fl_sim.records import FLOAT_BYTES, ThresholdReport
from strategies.fedwq_cp import FedWQCP


class Unweighted(FedWQCP):
    """The plain mean of the clients' thresholds."""

    def threshold(self, reports: Sequence[ThresholdReport]) -> float:
        """Σ q_k / K over the clients that have points; infinite if there are none."""
        return weighted_mean_threshold([r.threshold for r in reports], [min(r.num_calibration, 1) for r in reports])

    def information_up(self, report: ThresholdReport) -> int:
        """The threshold alone."""
        return FLOAT_BYTES
