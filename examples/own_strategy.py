"""A calibration of one's own: each client's threshold lies between its own and everybody's, by how many points it has.

PYTHONPATH=examples .venv/bin/fl-sim compare digits fedwq-cp local own_strategy:Shrunken
"""

from collections.abc import Mapping

import numpy as np

from fl_sim.messages.calibration import ThresholdReport, ThresholdRequest
from fl_sim.messages.exchange import Columns
from strategies.base import Calibration


class Shrunken(Calibration):
    """q = w q_k + (1 - w) Σ n_k q_k / Σ n_k with w = n_k / (n_k + 10). 16 bytes up; nothing is guaranteed."""

    def question(self) -> ThresholdRequest:
        return ThresholdRequest(self.score, self.alpha, small_n="clip")

    def for_each(self, reports: Columns[ThresholdReport]) -> Mapping[int, float]:
        n = reports.num_calibration
        q = np.where(n > 0, reports.threshold, 0.0)  # that of a client without points is infinite, and weighs nothing
        mean, w = (n * q).sum() / n.sum(), n / (n + 10)
        return dict(zip(reports.partition.tolist(), (w * q + (1 - w) * mean).tolist(), strict=True))
