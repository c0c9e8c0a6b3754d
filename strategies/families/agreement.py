"""What all clients say of the same rows: the laboratory's question after calibration, from which their agreement is
measured (fl_sim/agreement/measure.py). No method: none of it counts as bytes that a method sends.

Sent: how many rows, of which everybody draws the same, and the client's own threshold, which it was tested with.
Received: the probabilities of its model on these rows and its prediction sets; in regression means and intervals.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid

from fl_sim.messages.agreement import CommonRowsReport, CommonRowsRequest
from fl_sim.messages.exchange import Questions
from strategies.base import Federation, Method, Threshold, node_ids


class CommonRows(Method):
    """One round; after it `reports` holds every answer by partition. Who is missing did not answer."""

    def __init__(
        self, federation: Federation, rows: int, score: str = "", align: str = "",
        thresholds: Mapping[int, Threshold] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.federation, self.rows, self.score, self.align = federation, rows, score, align
        self.thresholds = dict(thresholds or {})  # partition -> its own; those without one are asked for no sets
        self.reports: dict[int, CommonRowsReport] = {}

    def question(self, partition: int) -> CommonRowsRequest:
        """What a client is asked."""
        own = self.thresholds.get(partition)
        score, align = ("", "") if own is None else (self.score, self.align)
        values = np.atleast_1d(np.asarray(np.inf if own is None else own, np.float64))
        return CommonRowsRequest(self.rows, score, values, align)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Nothing is learnt."""
        return []

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Nothing was answered."""
        return None, None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask everybody; those with equal thresholds share one question."""
        nodes, same = node_ids(grid), dict[tuple[str, bytes], CommonRowsRequest]()
        asked = [self.question(partition) for partition in range(len(nodes))]
        return self.sent(Questions([same.setdefault((a.score, a.threshold.tobytes()), a) for a in asked], nodes))

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Keep what was answered."""
        reports = self.answers(replies)
        self.reports = dict(zip(reports.partition.tolist(), reports, strict=True))
        return MetricRecord({"clients": len(reports)})
