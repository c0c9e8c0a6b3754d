"""The verdicts: who keeps a promise and who does not, by the tests that tables, figures, page and `certify` share.

Two promises are told apart.

    all clients together    a world is marked `!` where a 95 % t interval over the seeds ends below 1 - alpha, and so
                            is the average over all worlds; a strategy that covers exactly what it promised is marked
                            so in 2.5 % of its worlds.
    each client by itself   the exact tests of `conformal/certificate.py`, and over the points of a strategy its
                            `over_points`: one p-value, of "every client keeps the promise at every point".

To each client the promise is broken where that p-value is at most 5 %. To all clients together it is where more worlds
are marked than so many independent worlds would be by chance, 95 times in 100 (one mark in a single world, three in
sixteen), or where the average is marked. Else it is kept, as far as data can tell, or open: one seed has no interval.

Advised is the strategy of the smallest sets, on average over worlds, of those for which neither promise is shown to be
broken, and whose average coverage is below the promise by no more than a tenth of alpha: few seeds show little.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import pandas as pd

from fl_sim.conformal.certificate import LEVEL, MIN_CALIBRATION, Certificate, certify, over_points
from fl_sim.conformal.laws import binomial_cdf
from fl_sim.errors import FlSimError
from fl_sim.report import sweep_points as over
from fl_sim.report.intervals import values
from fl_sim.report.numbers import count, p_value, promise, promised
from fl_sim.report.sweep_points import JUDGED, P_SMALLEST, REJECTED, STRATEGIES, Cell, cells, strategy
from fl_sim.results.run import Result, Row

BELOW_BY_CHANCE = 0.025  # of a 95 % t interval, on one side
SURE = 0.05
TOLERATED = 0.1  # of alpha: how far below the promise the average of what is advised may be


# -------------------------------------------------------------------------------------------------------------- a run


@dataclass(frozen=True)
class Claim:
    """What is tested: every client covers at least 1 - alpha - slack; see `conformal.certificate.certify`."""

    slack: float = 0.0
    level: float = LEVEL
    min_calibration: int = MIN_CALIBRATION

    def certificate(self, result: Result) -> Certificate:
        """The tests of a run's clients, in the order of its rows; a missing client has no test points.

        Raises:
            FlSimError: nothing was promised (calibrate "none"), or a number is outside its range.
        """
        alpha = result.scenario.calibrate.alpha
        if alpha is None:
            raise FlSimError("calibrate none: no coverage was promised, so there is nothing to certify")
        rows = result.clients
        tested = [row["num_test"] if row["num_covered"] is not None else 0 for row in rows]
        covered = [row["num_covered"] or 0 for row in rows]
        own = [row["num_calibration"] for row in rows]
        how: dict[str, Any] = {
            "slack": self.slack, "level": self.level, "min_calibration": self.min_calibration,
        }  # fmt: skip
        try:
            return certify(covered, tested, own, alpha, **how)
        except ValueError as error:
            raise FlSimError(f"certify: {error}") from None

    def least(self, alpha: float) -> str:
        """1 - alpha - slack: `88%`."""
        return promise(alpha, self.slack)


def named_clients(result: Result) -> list[Row]:
    """The clients of a run that `fl-sim certify` names."""
    rejected = Claim().certificate(result).rejected
    return [row for row, bad in zip(result.clients, rejected, strict=True) if bad]


# ------------------------------------------------------------------------------------------------------------ a sweep


def certified(points: pd.DataFrame, results: Mapping[str, Result]) -> pd.DataFrame:
    """The points with what `fl-sim certify` finds in their runs: clients judged and rejected, and the smallest adjusted
    p-value; nan where nothing is promised."""
    tests: dict[str, tuple[float, float, float]] = {}
    for run, result in results.items():
        if result.scenario.calibrate.alpha is not None:
            test = Claim().certificate(result)
            tests[run] = (test.num_considered, test.num_rejected, test.p_smallest)
    columns = zip(*[tests.get(str(run), (math.nan,) * 3) for run in points["run"]], strict=True)
    return points.assign(**dict(zip((JUDGED, REJECTED, P_SMALLEST), columns, strict=True)))


def each_client(points: pd.DataFrame, smallest: str = P_SMALLEST) -> dict[str, float]:
    """Strategy -> p-value of "every client keeps the promise at every point", from a column with the smallest adjusted
    p-value of each point; nan where no client was judged."""
    by_name: dict[str, list[float]] = {}
    for row, p in zip(points.to_dict("records"), values(points, smallest).tolist(), strict=True):
        if row["status"] == "ok":
            by_name.setdefault(strategy({str(column): value for column, value in row.items()}), []).append(p)
    return {name: over_points(p_values) for name, p_values in by_name.items()}


def breaks(p: float, level: float = LEVEL) -> bool:
    """Whether the promise to each client is shown to be broken; of nan it is not."""
    return p <= level


class Verdict(NamedTuple):
    """What is known of a promise."""

    kind: Literal["kept", "broken", "open"]
    words: str


@dataclass(frozen=True)
class Standing:
    """How one strategy stood over the worlds of a sweep.

    `worlds` are its cells that have a result; `average` is its cell of averages over the worlds that all strategies
    have; `p_each` is the p-value of "every client keeps the promise at every point".
    """

    name: str
    worlds: Sequence[Cell]
    average: Cell
    p_each: float

    @cached_property
    def surely(self) -> list[Cell]:
        """The worlds in which the coverage of all clients together is marked `!`."""
        return [cell for cell in self.worlds if cell.surely_below(over.COVERAGE)]

    @cached_property
    def below(self) -> list[Cell]:
        """The worlds in which its mean is below the promise, marked or not."""
        return [cell for cell in self.worlds if cell.below(over.COVERAGE)]

    @property
    def judged(self) -> int:
        """How many clients the exact tests judged, over all points."""
        return self._sum(JUDGED)

    @property
    def rejected(self) -> int:
        """How many of them fall short beyond bad luck."""
        return self._sum(REJECTED)

    def _sum(self, column: str) -> int:
        return sum(int(cell.rows[column].sum()) for cell in self.worlds if column in cell.rows)

    @property
    def promises(self) -> bool:
        """Whether there is a promise, and a coverage to hold against it."""
        return any(cell.is_promised and cell.of(over.COVERAGE).count for cell in self.worlds)

    @cached_property
    def breaks_all(self) -> bool:
        """Whether the promise to all clients together is shown to be broken."""
        too_many = beyond_chance(len(self.surely), len(self.worlds), BELOW_BY_CHANCE)
        return too_many or self.average.surely_below(over.COVERAGE)

    @property
    def breaks_each(self) -> bool:
        """Whether the promise to each client is shown to be broken."""
        return breaks(self.p_each)

    @property
    def breaks(self) -> bool:
        """Whether either is."""
        return self.breaks_all or self.breaks_each

    @property
    def stands(self) -> bool:
        """Whether it may be advised: no promise is shown to be broken, clients were judged, and on average it is no
        farther below the promise than is tolerated."""
        alpha, mean = self.average.alpha, self.size(over.COVERAGE)
        far_below = mean < promised(alpha, TOLERATED * alpha)
        return self.promises and not self.breaks and self.judged > 0 and not far_below

    def size(self, metric: str) -> float:
        """A metric on average over worlds and seeds."""
        return self.average.of(metric).mean

    @property
    def all_clients(self) -> Verdict:
        """Of the promise to all clients together."""
        worlds, seeds = len(self.worlds), max((cell.of(over.COVERAGE).count for cell in self.worlds), default=0)
        if not self.promises:
            return Verdict("open", "nothing promised")
        if self.breaks_all:
            where = f"in {_of(self.surely, worlds)}" if self.surely else "on average over worlds"
            return Verdict("broken", f"broken {where}")
        if self.surely:
            return Verdict("open", f"open: marked in {_of(self.surely, worlds)}, as chance may")
        if self.below:
            return Verdict("open", f"open: below in {_of(self.below, worlds)}; {count(seeds, 'seed')} cannot tell")
        return Verdict("kept", f"kept in {_of(self.worlds, worlds)}")

    @property
    def each(self) -> Verdict:
        """Of the promise to each client."""
        of = count(self.judged, "client")
        if not self.promises:
            return Verdict("open", "nothing promised")
        if not self.judged:
            return Verdict("open", f"open: none has {MIN_CALIBRATION} calibration points")
        if self.breaks_each:
            return Verdict("broken", f"broken: {self.rejected:,} of {of} fall short (p {p_value(self.p_each)})")
        if self.rejected:
            return Verdict("open", f"open: {self.rejected:,} of {of}, as chance may (p {p_value(self.p_each)})")
        return Verdict("kept", f"kept: none of {of} shown to fall short")


def _of(some: Sequence[Cell], worlds: int) -> str:
    if worlds == 1:
        return "the one world"
    return f"all {worlds} worlds" if len(some) == worlds else f"{len(some)} of {worlds} worlds"


def beyond_chance(marked: int, of: int, probability: float) -> bool:
    """Whether so many marks are more than `of` independent trials of that probability have, 95 times in 100.

    >>> beyond_chance(1, 1, 0.025), beyond_chance(2, 16, 0.025), beyond_chance(3, 16, 0.025)
    (True, False, True)
    """
    return marked > 0 and 1 - float(binomial_cdf(marked - 1, of, probability)) <= SURE


def standings(points: pd.DataFrame, axes: Sequence[str], alone: str) -> list[Standing]:
    """How each strategy stood, in the order of the points.

    Args:
        points: of a sweep, see `fl_sim.results.tables.Tables`, as `certified` returns them.
        axes: the columns of `points` that are axes.
        alone: what the strategy is called where none is swept.
    """
    swept = [axis for axis in axes if axis in STRATEGIES]
    metrics = [over.COVERAGE, over.size_metric(points), over.ACCURACY, over.RMSE, over.BYTES_UP, over.PAYLOAD]
    metrics = [metric for metric in metrics if over.has(points, metric)]
    if not metrics:
        return []
    worlds = [cell for cell in cells(points, axes) if (cell.rows["status"] == "ok").any()]
    averages = cells(over.over_worlds(points, axes, metrics), [*swept, "seed"])
    p_values = each_client(points[[*swept, "status", *[P_SMALLEST] * (P_SMALLEST in points)]])
    return [
        Standing(
            strategy(average.key) or alone,
            [cell for cell in worlds if cell.key.items() >= average.key.items()],
            average,
            p_values.get(strategy(average.key), math.nan),
        )
        for average in averages
    ]


def advised(points: pd.DataFrame, some: Iterable[Standing]) -> Standing | None:
    """The strategy of the smallest sets of those that stand; None where there is none."""
    by = over.size_metric(points)
    return min(
        (one for one in some if one.stands), key=lambda one: (one.size(by), one.size(over.BYTES_UP)), default=None
    )
