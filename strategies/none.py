"""No calibration: clients are tested for accuracy only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid

from fl_sim.records import EvaluateRequest, Record
from strategies.base import Calibration, node_ids, request


class NoCalibration(Calibration):
    """Accuracy only."""

    def __init__(self, population: str) -> None:
        super().__init__(population, alpha=math.nan, score="")

    def question(self) -> Record:
        """Nothing is asked."""
        raise AssertionError("no calibration asks no question")

    def threshold(self, reports: Sequence[Any]) -> float:
        """Everything is covered."""
        return math.inf

    def configure_train(
        self,
        server_round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,
        grid: Grid,
    ) -> Iterable[Message]:
        """Nothing is asked."""
        return []

    def configure_evaluate(
        self,
        server_round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,
        grid: Grid,
    ) -> Iterable[Message]:
        """Every client counts what it gets right."""
        return request(EvaluateRequest(self.population, "", math.inf), node_ids(grid))
