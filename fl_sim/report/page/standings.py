"""How strategies stand over the worlds of a sweep: which keep the promise, which do not, and what to use instead.

Two promises are told apart, and each has its own test, the same that the tables' marks and `fl-sim certify` have.

    all clients together    a world is marked `!` where a 95 % t interval over the seeds ends below 1 - alpha, and so
                            is the average over all worlds; a strategy that covers exactly what it promised is marked
                            so in 2.5 % of its worlds.
    each client by itself   `fl-sim certify`'s exact tests of the clients of a point, and over the points of a strategy
                            `certificate.over_points`: one p-value, of "every client keeps the promise at every point".

To each client the promise is broken where that p-value is at most 5 %. To all clients together it is where more worlds
are marked than so many independent worlds would be by chance, 95 times in 100 (one mark in a single world, three in
sixteen), or where the average is marked. Else it is "not shown to be broken", which is all that data can say. One seed
has no interval: the first test then says nothing. Tables, pages, figures and `certify` have their marks from here.

What to use instead is the strategy of the smallest sets, on average over worlds, of those for which neither promise is
shown to be broken, and whose average coverage is below the promise by no more than a tenth of alpha: few seeds show
little, and what covers far too little is not advised because of that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from fl_sim.conformal.certificate import LEVEL, over_points
from fl_sim.report import sweep_points as over
from fl_sim.report.intervals import values
from fl_sim.report.sweep_points import STRATEGIES, Cell, cells, strategy

BELOW_BY_CHANCE = 0.025  # of a 95 % t interval, on one side
SURE = 0.05
TOLERATED = 0.1  # of alpha: how far below the promise the average of what is advised may be
# Columns of points: clients tested, clients found to fall short, and the smallest adjusted p-value.
JUDGED, REJECTED, P_SMALLEST = "certify.judged", "certify.rejected", "certify.p"


@dataclass(frozen=True)
class Standing:
    """How one strategy stood over the worlds of a sweep.

    `worlds` are its cells that have a result; `average` is its cell of averages over the worlds that all strategies
    have; `axes` are the sweep's.
    """

    name: str
    worlds: Sequence[Cell]
    average: Cell
    axes: Sequence[str]

    @cached_property
    def surely(self) -> list[Cell]:
        """The worlds in which the coverage of all clients together is marked `!`."""
        return [cell for cell in self.worlds if cell.surely_below(over.COVERAGE)]

    @cached_property
    def surely_by_clients(self) -> list[Cell]:
        """The worlds in which the mean of the clients' coverages is marked `!`."""
        return [cell for cell in self.worlds if cell.surely_below(over.CLIENT_MEAN)]

    @property
    def means_fall_short(self) -> bool:
        """Whether these are more than chance would mark."""
        return beyond_chance(len(self.surely_by_clients), len(self.worlds), BELOW_BY_CHANCE)

    @cached_property
    def below(self) -> list[Cell]:
        """The worlds in which its mean is below the promise, marked or not."""
        return [cell for cell in self.worlds if cell.below(over.COVERAGE)]

    @cached_property
    def short(self) -> list[Cell]:
        """The worlds in which a client falls short beyond bad luck."""
        return [cell for cell in self.worlds if values(cell.rows, REJECTED).max(initial=0) > 0]

    @property
    def judged(self) -> int:
        """How many clients the exact tests judged, over all points."""
        return sum(int(cell.rows[JUDGED].sum()) for cell in self.worlds) if self._certified else 0

    @property
    def rejected(self) -> int:
        """How many of them fall short beyond bad luck."""
        return sum(int(cell.rows[REJECTED].sum()) for cell in self.worlds) if self._certified else 0

    @property
    def _certified(self) -> bool:
        return all(JUDGED in cell.rows for cell in self.worlds)

    @property
    def promises(self) -> bool:
        """Whether there is a promise, and a coverage to hold against it."""
        return any(cell.alpha == cell.alpha and cell.of(over.COVERAGE).count for cell in self.worlds)

    @cached_property
    def breaks_all(self) -> bool:
        """Whether the promise to all clients together is shown to be broken."""
        return self.average.surely_below(over.COVERAGE) or beyond_chance(
            len(self.surely), len(self.worlds), BELOW_BY_CHANCE
        )

    @cached_property
    def breaks_each(self) -> bool:
        """Whether the promise to each client is shown to be broken."""
        return self.p_each <= LEVEL  # of nan it is not

    @cached_property
    def p_each(self) -> float:
        """The p-value of "every client keeps the promise at every point"; nan where no client was judged."""
        return over_points([p for cell in self.worlds for p in values(cell.rows, P_SMALLEST).tolist()])

    @property
    def breaks(self) -> bool:
        """Whether either is."""
        return self.breaks_all or self.breaks_each

    @property
    def seeds(self) -> int:
        """How many seeds its worlds have at most."""
        return max((cell.of(over.COVERAGE).count for cell in self.worlds), default=0)

    @property
    def falls_short(self) -> bool:
        """Whether its average is farther below the promise than is tolerated, shown to be so or not."""
        alpha = self.average.alpha
        return self.average.of(over.COVERAGE).mean < 1 - alpha - TOLERATED * alpha

    @property
    def stands(self) -> bool:
        """Whether it may be advised where all clients together are promised coverage."""
        return self.promises and not self.breaks_all and not self.falls_short

    def least(self, metric: str) -> Cell | None:
        """The world in which it stands lowest."""
        return next(iter(over.lowest(self.worlds, metric, 1)), None)

    def size(self, metric: str) -> float:
        """A metric on average over worlds and seeds."""
        return self.average.of(metric).mean


def beyond_chance(marked: int, of: int, probability: float) -> bool:
    """Whether so many marks are more than `of` independent trials of that probability have, 95 times in 100.

    >>> beyond_chance(1, 1, 0.025), beyond_chance(2, 16, 0.025), beyond_chance(3, 16, 0.025)
    (True, False, True)
    """
    from scipy.stats import binom  # late: it takes half a second

    return marked > 0 and float(binom.sf(marked - 1, of, probability)) <= SURE


def standings(points: pd.DataFrame, axes: Sequence[str], alone: str) -> list[Standing]:
    """How each strategy stood, in the order of the points.

    Args:
        points: of a sweep, see `fl_sim.results.tables.Tables`, with the columns `JUDGED`, `REJECTED` and `P_SMALLEST`.
        axes: the columns of `points` that are axes.
        alone: what the strategy is called where none is swept.
    """
    swept = [axis for axis in axes if axis in STRATEGIES]
    metrics = [over.COVERAGE, over.size_metric(points), over.ACCURACY, over.RMSE, over.BYTES_UP, over.PAYLOAD]
    metrics = [metric for metric in metrics if over.has(points, metric)]
    if not metrics:
        return []
    found = [cell for cell in cells(points, axes) if (cell.rows["status"] == "ok").any()]
    averages = cells(over.over_worlds(points, axes, metrics), [*swept, "seed"])
    return [
        Standing(strategy(a.key) or alone, [c for c in found if c.key.items() >= a.key.items()], a, axes)
        for a in averages
    ]


def instead(points: pd.DataFrame, promised: Sequence[Standing]) -> Standing | None:
    """The strategy of the smallest sets of those for which no broken promise is found; None where there is none."""
    by = over.size_metric(points)
    kept = [one for one in promised if one.stands and one.judged and not one.breaks_each]
    return min(kept, key=lambda one: (one.size(by), one.size(over.BYTES_UP)), default=None)
