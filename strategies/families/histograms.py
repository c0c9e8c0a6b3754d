"""What the strategies on histograms of scores have in common: the grid, who sends what, and the counts in one array.

A score that is known to lie in [0, 1] (1 - p, APS) has its grid from the start and needs one round. For any other a
first round asks every client between which numbers its scores lie, and the grid spans them all. A score above the
grid, of a client that missed the first round or of a later part of its points, counts as +inf: no threshold comes out
too low for it.

Sent: in that first round (smallest, largest score), 16 bytes, which tells everybody the extremes; then a code of the
counts (fl_sim/conformal/histogram.py). Received before the thresholds: the grid's two ends, 16 bytes, where they had
to be agreed.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from fl_sim.conformal.histogram import ScoreGrid, decode, refined
from fl_sim.conformal.scores import bounds_of
from fl_sim.messages.calibration import SizeReport, SizeRequest
from fl_sim.messages.exchange import Columns
from fl_sim.messages.record import FLOAT_BYTES, Record
from fl_sim.messages.summaries import HistogramReport, HistogramRequest
from strategies.base import ALONE, Calibration, Federation, Threshold

Counts = NDArray[Any]  # whole numbers, many clients' in as few bytes as hold each client's sum

MOST_NAMED = 8  # classes in a sentence
TAIL = 1e-3  # of the grid of a bounded score: a bin at its upper end is a thousand times narrower than at its lower end


def grid_for(score: str, bins: int, reports: Columns[SizeReport] | None, tail: float = TAIL) -> ScoreGrid:
    """The grid of a score (JSON): from its known bounds, finer towards the upper one by `tail`; else with bins of equal
    width over the range that the clients with points report. Infinite ends are left out: such scores count as +inf."""
    bounds = bounds_of(score)
    if bounds is not None:
        return ScoreGrid(*bounds, bins, tail)
    if reports is None:
        return ScoreGrid(0.0, 1.0, bins)
    ends = np.concatenate([reports.low, reports.high])[np.tile(reports.num_calibration > 0, 2)]
    ends = ends[np.isfinite(ends)]
    return ScoreGrid(float(ends.min()), float(ends.max()), bins) if len(ends) else ScoreGrid(0.0, 1.0, bins)


Bins = Annotated[int, Field(ge=2, le=65536, description="of the grid that scores are counted on")]


def _can_be_halved(bins: int) -> int:
    """A client whose code is longer than its budget joins its bins in pairs, which only an even number of them lets it
    do: of a multiple of 32 any client can do so five times."""
    if bins % 32:
        raise ValueError("must be a multiple of 32, so that clients can join bins in pairs to keep the budget")
    return bins


HalvedBins = Annotated[Bins, AfterValidator(_can_be_halved)]
Budget = Annotated[int, Field(ge=32, description="bytes a client may send")]
Rare = Literal["borrow", "inf"]


class HistogramCalibration(Calibration):
    """Thresholds from the clients' counts over a grid: `from_counts` is all that a method of one histogram says."""

    by_class: bool = False  # a row of counts for each class
    groups: str = "one"  # whose scores are put together
    budget: int = 0  # bytes a client may send; 0: as many as it takes
    tail: float = TAIL  # of the grid of a bounded score

    def __init__(
        self,
        federation: Federation = ALONE,
        *,
        alpha: float,
        score: str = "",
        bins: Bins = 512,
    ) -> None:
        super().__init__(federation, alpha=alpha, score=score)
        self.bins = bins
        bounded = bounds_of(self.score) is not None
        self.scalar_rounds = 0 if bounded else 1
        self.num_rounds = self.scalar_rounds + 1
        self.grid = grid_for(self.score, bins, None, self.tail)  # to be agreed: the first round's answers make it
        self.seen: set[int] = set()  # partitions that ever answered

    @property
    def one_law(self) -> bool:
        """Whether the scenario gives all clients whose scores are put together one law of scores given the label."""
        together = set(self.federation.tiers) if self.groups == "one" else set()
        return self.federation.one_law_a_tier and self.groups != "found" and len(together) <= 1

    def classes(self, numbers: Sequence[int]) -> str:
        """`classes 3, 4`: in words, of many the first."""
        more = len(numbers) - MOST_NAMED
        shown = ", ".join(map(str, numbers[:MOST_NAMED])) + f" and {more} more" * (more > 0)
        return f"{self.class_word} {shown}"

    @property
    def class_word(self) -> str:
        """What a row of counts is of."""
        return "classes" if self.federation.task == "classification" else "bins of the target"

    def not_guaranteed(self, groups: Sequence[Mapping[str, Any]]) -> list[str]:
        """A sentence that names the groups of `detail` that no guarantee is about; none where it is about all."""
        names = [str(group["group"]) for group in groups if not group["guaranteed"]]
        if not names:
            return []
        why = ""
        if not self.one_law:
            why = ": nothing in the scenario gives all clients of a group one law of scores"
        elif self.federation.test == "shared":
            why = ": clients are tested on everybody's data"
        return [f"Coverage is not guaranteed for {', '.join(names)}{why}"]

    @abstractmethod
    def from_counts(self, partitions: list[int], counts: Counts, grid: ScoreGrid) -> Mapping[int, Threshold]:
        """The threshold of each partition from `counts` (K, C, bins + 1), C = 1 unless `by_class`. A client that
        answered only the scalar round has a row of zeros."""

    def histogram_request(self, grid: ScoreGrid, turn: int) -> Record:
        """What is asked in the histogram round `turn`, from 1."""
        return HistogramRequest(self.score, grid.text(), self.by_class, self.federation.num_labels, self.budget)

    def ask(self, server_round: int) -> Record | Mapping[int, Record]:
        """The range of the scores first, where it is not known; then their counts."""
        if server_round <= self.scalar_rounds:
            return SizeRequest(self.score)
        return self.histogram_request(self.grid, server_round - self.scalar_rounds)

    def take(self, server_round: int, reports: Columns[Any]) -> None:
        """Agree on a grid, or go from counts to thresholds."""
        self.seen |= set(reports.partition.tolist())
        if server_round <= self.scalar_rounds:
            self.grid = grid_for(self.score, self.bins, reports, self.tail)
            return
        partitions, counts = self.counts_of(reports)
        self.thresholds = dict(self.from_counts(partitions, counts, self.grid))

    def counts_of(self, reports: Columns[HistogramReport]) -> tuple[list[int], Counts]:
        """(partitions, counts (K, C, bins + 1)) of everybody who ever answered, on the fine grid; zeros for who is not
        among the reports.

        Raises:
            ValueError: clients whose histograms are of different numbers of classes.
        """
        rows = self._rows(reports)
        partitions = sorted(self.seen | set(reports.partition.tolist()))
        # A client's bins are empty but for some hundred: of 10,000 clients and ten classes 0.1 GB, not 0.4.
        counts: Counts = np.zeros((len(partitions), rows, self.bins + 1), np.int16)
        places = np.searchsorted(partitions, reports.partition).tolist()
        for place, k, code in zip(places, reports.partition.tolist(), reports.code, strict=True):
            own = refined(decode(code, rows), self.bins)
            wide = np.promote_types(counts.dtype, np.min_scalar_type(-int(np.abs(own).sum()) - 1))
            counts = counts.astype(wide, copy=False)
            counts[place] = own
            if self.scalar_rounds:  # the grid that was agreed went down with the question
                self.bytes_down[k] = self.bytes_down.get(k, 0) + 2 * FLOAT_BYTES
        return partitions, counts

    def _rows(self, reports: Columns[HistogramReport]) -> int:
        """How many classes clients count, which where the federation does not say it they do."""
        known = self.federation.num_labels if self.by_class else 1
        numbers = dict(zip(reports.rows.tolist(), reports.partition.tolist(), strict=True))
        if not known and len(numbers) > 1:
            (one, k), (other, j), *_ = numbers.items()
            raise ValueError(f"client {k} has {one} classes and client {j} {other}: say Federation(num_labels=...)")
        return known or next(iter(numbers), 1)

    def information_up(self, reports: Columns[Any]) -> int | NDArray[np.int64]:
        """The code, or the two ends of the range."""
        return 2 * FLOAT_BYTES if reports.kind is SizeReport else super().information_up(reports)
