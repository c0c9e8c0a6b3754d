"""One temperature for all clients, agreed on before they are calibrated: `calibrator = "federated-temperature"`.

Ours. Temperature scaling is that of "On calibration of modern neural networks", Guo, Pleiss, Sun, Weinberger, 2017,
https://arxiv.org/abs/1706.04599; that clients send theirs and the server takes one mean of them is not in it.

    T_k = argmin_T of the mean of -log softmax(z / T)_y over the m_k rows that client k's calibrator is fitted on
    T = exp( sum_k m_k log T_k / sum_k m_k )

    T is `temperature` · log T_k is a report's `log_temperature`, m_k its `num_calibration` · z are logits, y labels

Sent: (log T_k, m_k), 16 bytes, once. Received: T, 8 bytes. The mean is of logarithms, so that T and 1/T weigh alike.
It has the least log loss on all clients' rows together only where their losses have one curvature in log T; to pool the
rows would be exact, and would send them. T_k lies in 1/20..20, so that a client with few rows that are all right, whose
likeliest temperature is 0, cannot decide it alone. A client without rows has no weight; with none at all T is 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid

from fl_sim.messages.exchange import Columns
from fl_sim.messages.record import FLOAT_BYTES
from fl_sim.messages.summaries import TemperatureReport, TemperatureRequest
from strategies.base import Calibration, Federation, Method, node_ids, request


class FederatedTemperature(Method):
    """The mean of the clients' own temperatures."""

    def __init__(self, federation: Federation, score: str) -> None:
        super().__init__()
        self.federation, self.score = federation, score  # the score's text says on which rows clients fit
        self.temperature = 1.0
        self.reports = Columns.of(TemperatureReport, [])
        self.bytes_up: dict[int, int] = {}  # partition -> information the method sent, in bytes
        self.bytes_down: dict[int, int] = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask everybody."""
        return self.sent(request(TemperatureRequest(self.score), node_ids(grid)))

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """T."""
        self.reports = self.answers(replies)
        partitions, m = self.reports.partition.tolist(), self.reports.num_calibration
        self.bytes_up = dict.fromkeys(partitions, TemperatureReport.information_bytes)
        self.bytes_down = dict.fromkeys(partitions, FLOAT_BYTES)
        if m.sum():
            self.temperature = math.exp(math.fsum(m * self.reports.log_temperature) / int(m.sum()))
        return None, MetricRecord({"temperature": self.temperature})

    def book_on(self, calibrate: Calibration) -> None:
        """Add the bytes and the round that it took to those of the calibration that it came before."""
        for account, before in ((calibrate.bytes_up, self.bytes_up), (calibrate.bytes_down, self.bytes_down)):
            account |= {k: account.get(k, 0) + sent for k, sent in before.items()}
        calibrate.rounds_before = self.num_rounds

    def detail(self) -> dict[str, Any]:
        """T, and between which temperatures those of the clients that had rows lie."""
        m = self.reports.num_calibration
        own = [math.exp(log_t) for log_t in self.reports.log_temperature[m > 0].tolist()]
        ends = {"lowest": min(own), "highest": max(own)} if own else {}
        return {"temperature": self.temperature, "rows": int(m.sum())} | ends
