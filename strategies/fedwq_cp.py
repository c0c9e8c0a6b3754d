"""FedWQ-CP: the size-weighted mean of the clients' own conformal thresholds.

"Conformalized Neural Networks for Federated Uncertainty Quantification under Dual Heterogeneity",
Nguyen, Wang, Ku, 2026, https://arxiv.org/abs/2602.23296

    q_k = the ceil((n_k + 1)(1 - α))-th smallest score of client k        clients/calibrate.py, conformal/thresholds.py
    q   = Σ_k (n_k / Σ_j n_j) q_k                                         `threshold` below

    α is `alpha` · q_k is `report.threshold` · n_k is `report.num_calibration` · q is `global_threshold`

Sent: (q_k, n_k), 16 bytes, once. Received: q, 8 bytes.

Guaranteed: nothing in finite samples. The mean of quantiles is the quantile of the mixture only where the clients'
score laws agree near it; where they do not, the mean lies between the smallest and the largest q_k and can cover too
little.

Chosen, because the paper's text was not reachable: the local level is the exact split-conformal rank (the standard
one); a client with n_k < 1/α - 1, whose rank is larger than n_k, sends its largest score (`small_n = "clip"`),
infinity, or nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from fl_sim.conformal.thresholds import weighted_mean_threshold
from fl_sim.records import Record, ThresholdReport, ThresholdRequest
from strategies.base import Calibration


class FedWQCP(Calibration):
    """The size-weighted mean of the clients' thresholds."""

    answer = ThresholdReport

    def __init__(self, population: str, alpha: float, score: str, small_n: str) -> None:
        super().__init__(population, alpha, score)
        self.small_n = small_n

    def question(self) -> Record:
        """Each client's (q_k, n_k)."""
        return ThresholdRequest(self.population, self.alpha, self.score, self.small_n)

    def threshold(self, reports: Sequence[ThresholdReport]) -> float:
        """Σ n_k q_k / Σ n_k over the clients that have points; infinite if there are none."""
        return weighted_mean_threshold([r.threshold for r in reports], [r.num_calibration for r in reports])
