"""The points of a sweep, grouped over their seeds and over their worlds, and the words for them.

Points are a DataFrame with a row a point: a column for each swept axis, `status`, `alpha`, and the flattened metrics of
its `result.json`, which are nan where the point has no result. A world is what the axes say beside strategies and seed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from fl_sim.conformal.certificate import LEVEL as SURE
from fl_sim.conformal.certificate import over_points
from fl_sim.report.intervals import LEVEL, Interval, t_interval, values
from fl_sim.report.numbers import count, keeps, listed, number, percent, promise, promised

COVERAGE, CLIENT_MEAN = "calibrate.coverage", "calibrate.coverage_client_mean"
WORST, WORST_TESTED = "calibrate.coverage_client_min", "calibrate.coverage_client_min_tested"
SET_SIZE, LENGTH = "calibrate.mean_set_size", "calibrate.mean_interval_length"
ACCURACY, RMSE, BYTES_UP = "learn.accuracy", "learn.rmse", "calibrate.bytes_up_per_client"
PAYLOAD, KEPT, TEACHER, TIERS = "learn.payload_bytes", "learn.keep_fraction", "learn.teacher_accuracy", "learn.tiers."
LEAST = f"{ACCURACY}_client_min"
BRIER, ECE, PHI = "calibrate.brier", "calibrate.ece", "calibrate.phi_brier"
DISAGREEMENT, LABELS_DIFFER = "agreement.disagreement", "agreement.label_disagreement"
# What `fl-sim certify` finds in a point's run: clients judged, clients found to fall short, the smallest p-value.
JUDGED, REJECTED, P_SMALLEST = "certify.judged", "certify.rejected", "certify.p"
OF_MANY = "Of many clients the smallest is below the promise under any method"
STRATEGIES = ("learn", "calibrate")  # the axes whose values are strategies


# -------------------------------------------------------------------------------------------------------------- cells


@dataclass(frozen=True)
class Cell:
    """The points that differ in their seed alone; `key` is what they share, axis -> value."""

    key: dict[str, Any]
    rows: pd.DataFrame

    def of(self, metric: str) -> Interval:
        """A metric over the seeds."""
        return t_interval(values(self.rows, metric))

    @property
    def alpha(self) -> float:
        """Miscoverage; nan where nothing is promised, or not the same by all of them."""
        alphas = values(self.rows, "alpha")
        known = set(alphas[~np.isnan(alphas)].tolist())
        return known.pop() if len(known) == 1 else math.nan

    @property
    def is_promised(self) -> bool:
        """Whether there is one promise to hold a coverage against."""
        return not math.isnan(self.alpha)

    def below(self, metric: str) -> bool:
        """Whether the mean over the seeds is below 1 - alpha: by chance or not, this does not say."""
        return not keeps(self.of(metric).mean, self.alpha)

    def surely_below(self, metric: str) -> bool:
        """Whether the t interval of that mean ends below 1 - alpha."""
        interval = self.of(metric)
        return interval.known and not keeps(interval.high, self.alpha)

    @property
    def p_each(self) -> float:
        """The p-value of "every client keeps the promise at every point"; nan where no client was judged."""
        return over_points(values(self.rows, P_SMALLEST))

    def breaks(self, metric: str) -> bool:
        """Whether the promise is shown to be broken: to all clients together, or, where the metric is one of single
        clients, to each."""
        return self.surely_below(metric) if metric in (COVERAGE, CLIENT_MEAN) else self.p_each <= SURE


def cells(points: pd.DataFrame, axes: Sequence[str]) -> list[Cell]:
    """A cell for each combination of the axes but the seed, in the order of their first points."""
    named = [axis for axis in axes if axis != "seed"]
    if not named:
        return [Cell({}, points)]
    groups = points.groupby(named, sort=False, dropna=False)
    return [Cell(dict(zip(named, key, strict=True)), rows) for key, rows in groups]


def has(points: pd.DataFrame, metric: str) -> bool:
    """Whether any point has that metric."""
    return bool(np.any(~np.isnan(values(points, metric))))


def has_calibrator(points: pd.DataFrame) -> bool:
    """Whether at any point a calibrator moved the probabilities."""
    improvements = values(points, PHI)
    return bool(np.any(improvements[~np.isnan(improvements)] != 0))


def tier_accuracies(points: pd.DataFrame) -> dict[str, str]:
    """Tier -> metric of its accuracy; the metric of all clients under no name where there are no two tiers."""
    paths = [str(column).split(".") for column in points if str(column).startswith(TIERS)]
    tiers = [path[2] for path in paths if path[3:] == ["accuracy"]]
    return {tier: f"{TIERS}{tier}.accuracy" for tier in tiers} if len(tiers) > 1 else {"": ACCURACY}


def size_metric(points: pd.DataFrame) -> str:
    """Set size, or interval length in regression."""
    return LENGTH if has(points, LENGTH) else SET_SIZE


def worst_metric(points: pd.DataFrame) -> str:
    """The worst client with at least 30 test points, or of all clients where some point has none so large."""
    tested, worst = (~np.isnan(values(points, metric)) for metric in (WORST_TESTED, WORST))
    return WORST_TESTED if tested.any() and not (worst & ~tested).any() else WORST


def num_seeds(points: pd.DataFrame) -> int:
    """How many seeds the points have at most."""
    return int(points["seed"].nunique()) if "seed" in points else 1


def over_worlds(points: pd.DataFrame, axes: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
    """A point for each strategy and seed: averages over the worlds in which every strategy has a result."""
    methods = [axis for axis in axes if axis in (*STRATEGIES, "seed")]
    points = points.assign(all="", **{metric: values(points, metric) for metric in [*metrics, "alpha"]})
    groups = points[_balanced(points, axes)].groupby([*methods, "all"], sort=False, dropna=False)
    means = groups[[*metrics, "alpha"]].mean()
    if P_SMALLEST in points:
        means[P_SMALLEST] = groups[P_SMALLEST].agg(over_points)
    return means.reset_index().assign(status="ok")


def _balanced(points: pd.DataFrame, axes: Sequence[str]) -> pd.Series:
    """Whether a point is ok, and so are all strategies that ever are on the same world and seed."""
    ok = points["status"] == "ok"
    alive = ok.groupby([points[axis] for axis in (*STRATEGIES, "all") if axis in points]).transform("any")
    same = [points[axis] for axis in (*axes, "all") if axis not in STRATEGIES]
    whole = ok & (ok | ~alive).groupby(same, dropna=False).transform("all")
    return whole if whole.any() else ok


def judged(points: pd.DataFrame) -> str:
    """The metric by which a cell is called bad. The smallest coverage of clients with few test points says nothing."""
    order = [WORST_TESTED] * (worst_metric(points) == WORST_TESTED) + [COVERAGE, RMSE, ACCURACY]
    return next((metric for metric in order if has(points, metric)), COVERAGE)


def lowest(some: Sequence[Cell], metric: str) -> list[Cell]:
    """The cells that have that metric, the worst first: a coverage counts from its promise, an error by its size."""
    merits = [(merit_of(cell, metric), index) for index, cell in enumerate(some)]
    return [some[index] for merit, index in sorted(merits) if not math.isnan(merit)]


def merit_of(cell: Cell, metric: str) -> float:
    """How good a cell's mean is by that metric."""
    mean = cell.of(metric).mean
    return -mean if metric == RMSE else mean - promised(cell.alpha) if cell.is_promised else mean


# -------------------------------------------------------------------------------------------------------------- words


def axis_names(axes: Sequence[str]) -> dict[str, str]:
    """Short names: `weak share` for `clients.tier.weak.share`; the whole path where two would be the same.

    >>> axis_names(["clients.concentration", "data.name", "calibrate"])
    {'clients.concentration': 'concentration', 'data.name': 'data', 'calibrate': 'calibrate'}
    """
    short = {axis: _short(axis.split(".")) for axis in axes}
    many = Counter(short.values())
    return {axis: name if many[name] == 1 else axis for axis, name in short.items()}


def _short(path: Sequence[str]) -> str:
    if list(path) == ["clients", "count"]:
        return "clients"
    parts = [part for part in path if part not in ("tier", "behaviour", "name")]
    return " ".join(parts[1:] or parts[:1]).replace("_", " ")


def shown(value: Any) -> str:
    """A value of an axis."""
    if value is None or value != value:
        return "-"
    return f"{value:g}" if isinstance(value, float) else str(value)


def strategy(key: Mapping[str, Any]) -> str:
    """The strategies of a cell: `fedwq-cp`, `own + fedwq-cp`, nothing where none is swept."""
    return " + ".join(str(key[axis]) for axis in STRATEGIES if axis in key)


def place(key: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """`concentration 0.1 and weak share 0.5`: the world of a cell, nothing where no world is swept."""
    return listed([f"{names[axis]} {shown(value)}" for axis, value in key.items() if axis not in STRATEGIES])


def finding(points: pd.DataFrame, axes: Sequence[str]) -> str:
    """The worst that happens, and where: `The worst client's coverage is lowest under pooled at seed 3: 61.0%, ...`."""
    by, names = judged(points), axis_names(axes)
    known = lowest(cells(points, axes), by)
    if not known:
        return "No point has a result"
    worst, varied = known[0], [axis for axis in axes if axis in STRATEGIES or points[axis].nunique(dropna=False) > 1]
    what = {COVERAGE: "Coverage is lowest", ACCURACY: "Accuracy is lowest", RMSE: "The RMSE is largest"}
    where = place({axis: value for axis, value in worst.key.items() if axis in varied}, names)
    parts = [what.get(by, "The worst client's coverage is lowest")]
    parts += [f"under {strategy(worst.key)}"] * bool(strategy(worst.key)) + [f"at {where}"] * bool(where)
    mean = worst.of(by).mean
    amount = number(mean) if by == RMSE else percent(mean)
    return f"{' '.join(parts)}: {amount}{f', {promise(worst.alpha)} promised' if worst.is_promised else ''}"


def over_seeds(seeds: int) -> str:
    """What the interval of a mean is."""
    return f"{100 * LEVEL:g}% t interval over {seeds} seeds"


ONE_SEED = "One seed: no interval."


def intervals_said(seeds: int, what: str) -> str:
    """What drawn intervals are: `Bands: 95% t interval over 3 seeds.`"""
    return f"{what}: {over_seeds(seeds)}." if seeds > 1 else ONE_SEED


def lost(points: pd.DataFrame, axes: Sequence[str], most: int = 5) -> Iterator[str]:
    """The points that have no numbers, counted and named, a sentence for each status."""
    names = axis_names(axes)
    for status, rows in points[points["status"] != "ok"].groupby("status", sort=False):
        named = [
            ", ".join(f"{names[axis]} {shown(row[axis])}" for axis in axes) for _, row in rows.head(most).iterrows()
        ]
        more = [f"and {len(rows) - most:,} more"] * (len(rows) > most)
        yield f"{len(rows):,} of {count(len(points), 'point')} {status}: {'; '.join([*named, *more])}."
