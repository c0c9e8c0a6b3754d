"""Online calibration: a histogram that is kept up as points arrive and clients come and go. Ours.

Weighted split conformal on counts; the rule, its bound and the paper it is from are in fl_sim/conformal/running.py.

    round r = 1 .. rounds       the r-th of `rounds` parts of every client's calibration points arrives at the client
        a drawn share           `fraction` of the clients are asked for the counts of the parts that they have not yet
                                reported, a row for each part                                       clients/calibrate.py
        server                  adds each row with the weight of its own round, f^(now - round), late or not    `take`
    after the last              q = the smallest edge with Σ w 1{S <= e} >= (1-α)(Σ w + 1), for every client, those that
                                were never drawn too

    α is `alpha` · f is `forgetting` · q is `global_threshold`

Nobody is asked twice for the same points. A client that was asked and did not answer is taken for gone: what it has
reported stays (departed = "keep") or is taken out ("leave"); should it be drawn and answer again, it starts anew.

Sent: a code of the new points' counts, in each round a client is drawn; before the first, where the score has no known
bounds, its range, 16 bytes. (The laboratory's clients know the range of all their points then, a real one that of its
first; a score above the grid counts as +inf, so the threshold is not too low for it.) Received: the threshold, 8 bytes.

Guaranteed: with f = 1, as for the pooled threshold of the points that have been reported: 1 - α for a test point
exchangeable with them. With f < 1 the same, minus the bound on drift. Not for any single client.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fl_sim.conformal.histogram import ScoreGrid, decode
from fl_sim.conformal.running import RunningHistogram
from fl_sim.conformal.scores import bounds_of
from fl_sim.messages.calibration import SizeReport, SizeRequest
from fl_sim.messages.exchange import Columns
from fl_sim.messages.record import FLOAT_BYTES, Record
from fl_sim.messages.summaries import HistogramReport, HistogramRequest
from fl_sim.randomness import stream
from strategies.base import ALONE, Calibration, Federation
from strategies.families.histograms import Bins, grid_for


class Online(Calibration):
    """A histogram that is kept up as clients and points come and go."""

    def __init__(
        self,
        federation: Federation = ALONE,
        *,
        alpha: float,
        score: str = "",
        bins: Bins = 512,
        rounds: Annotated[int, Field(ge=1)] = 10,  # in which a client's calibration points arrive, one part a round
        # of the clients that report in a round; others catch up later
        fraction: Annotated[float, Field(gt=0, le=1)] = 0.5,
        # what a round leaves of the weight of the points before it
        forgetting: Annotated[float, Field(gt=0, le=1)] = 1.0,
        # a client that was asked and did not answer: its counts stay, or go
        departed: Literal["keep", "leave"] = "keep",
    ) -> None:
        super().__init__(federation, alpha=alpha, score=score)
        if not federation.tiers:
            raise ValueError("online draws among the clients: Federation(tiers=...) must name the tier of each")
        self.bins, self.rounds, self.fraction, self.departed = bins, rounds, fraction, departed
        self.forgetting = forgetting
        self.scalar_rounds = 0 if bounds_of(self.score) is not None else 1
        self.num_rounds = self.scalar_rounds + rounds
        self.histogram = self._empty(grid_for(self.score, bins, None))
        self.reported = dict.fromkeys(range(len(federation.tiers)), 0)  # partition -> how many parts it has reported
        self.asked: dict[int, int] = {}  # partition -> the first part it is asked for in this round
        self.history: list[float] = []  # the threshold after each round

    def ask(self, server_round: int) -> Record | Mapping[int, Record]:
        """The range of the scores first, where it is not known; then those drawn for what is new."""
        turn = server_round - self.scalar_rounds
        if turn < 1:
            return SizeRequest(self.score)
        order = stream(self.federation.seed, "online", turn).permutation(len(self.reported))
        drawn = order[: max(1, round(self.fraction * len(order)))].tolist()
        self.asked = {k: self.reported[k] for k in sorted(drawn)}
        record = {first: self._request(first, turn) for first in set(self.asked.values())}  # one for all who are alike
        return {k: record[first] for k, first in self.asked.items()}

    def take(self, server_round: int, reports: Columns[Any]) -> None:
        """Add what is new, each part with its own round's weight."""
        turn = server_round - self.scalar_rounds
        if turn < 1:
            self.histogram = self._empty(grid_for(self.score, self.bins, reports))
            return
        if turn > 1:
            self.histogram.tick()
        for report in reports:
            self._add(report, turn)
        gone = self.asked.keys() - {*reports.partition.tolist()}
        for k in gone if self.departed == "leave" else ():
            self.histogram.leave(k)
            self.reported[k] = 0
        self.global_threshold = self.histogram.threshold(self.alpha)
        self.history.append(self.global_threshold)
        self.thresholds = dict.fromkeys((k for k in self.reported if k not in gone), self.global_threshold)

    def information_up(self, reports: Columns[Any]) -> int | NDArray[np.int64]:
        """The code, or the two ends of the range."""
        return 2 * FLOAT_BYTES if reports.kind is SizeReport else super().information_up(reports)

    def detail(self) -> dict[str, Any]:
        """What the threshold rests on, and how it came about; an infinite one is null."""
        return {
            "thresholds": [None if q == math.inf else q for q in self.history],
            "clients_in_histogram": len(self.histogram.clients),
            "clients_never_reported": sum(parts == 0 for parts in self.reported.values()),
            "points": sum(int(counts.sum()) for counts in self.histogram.by_period().values()),
            "total_weight": self.histogram.total_weight(),
            "effective_size": self.histogram.effective_size(),
        }

    def _empty(self, grid: ScoreGrid) -> RunningHistogram:
        return RunningHistogram(grid, self.forgetting)

    def _request(self, first: int, turn: int) -> Record:
        return HistogramRequest(
            self.score, self.histogram.grid.text(), by_class=False, num_labels=0, budget=0,
            parts=self.rounds, part_from=first, part_to=turn,
        )  # fmt: skip

    def _add(self, report: HistogramReport, turn: int) -> None:
        k, first = report.partition, self.asked[report.partition]
        for part, counts in enumerate(decode(report.code, turn - first), start=first):
            self.histogram.update(k, counts, period=part)
        if self.scalar_rounds and not self.reported[k]:  # the grid that was agreed went down with the question
            self.bytes_down[k] = self.bytes_down.get(k, 0) + 2 * FLOAT_BYTES
        self.reported[k] = turn
