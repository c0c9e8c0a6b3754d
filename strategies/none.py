"""No calibration: clients are tested for accuracy only."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid

from fl_sim.messages.calibration import EvaluateRequest
from fl_sim.messages.exchange import Columns
from strategies.base import ALONE, Calibration, Federation, node_ids, request


class NoCalibration(Calibration):
    """Accuracy only."""

    def __init__(
        self,
        federation: Federation = ALONE,
    ) -> None:
        super().__init__(federation, alpha=math.nan)
        self.score = ""  # clients make no sets
        self.global_threshold = math.inf  # everything is covered

    def configure_train(
        self,
        server_round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,
        grid: Grid,
    ) -> Iterable[Message]:
        """Nothing is asked."""
        return []

    def take(self, server_round: int, reports: Columns[Any]) -> None:
        """Nothing was answered."""

    def configure_evaluate(
        self,
        server_round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,
        grid: Grid,
    ) -> Iterable[Message]:
        """Every client counts what it gets right."""
        return self.sent(request(EvaluateRequest("", np.array([math.inf])), node_ids(grid)))
