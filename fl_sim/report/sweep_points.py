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

from fl_sim.report.intervals import HOLDS, LEVEL, Interval, mean_interval, upper_limit, values
from fl_sim.report.wording import count, number, percent

COVERAGE, CLIENT_MEAN = "calibrate.coverage", "calibrate.coverage_client_mean"
WORST, WORST_TESTED = "calibrate.coverage_client_min", "calibrate.coverage_client_min_tested"
SET_SIZE, LENGTH = "calibrate.mean_set_size", "calibrate.mean_interval_length"
ACCURACY, RMSE, BYTES_UP = "learn.accuracy", "learn.rmse", "calibrate.bytes_up_per_client"
PAYLOAD, KEPT, TEACHER, TIERS = "learn.payload_bytes", "learn.keep_fraction", "learn.teacher_accuracy", "learn.tiers."
LEAST = f"{ACCURACY}_client_min"
BRIER, ECE, PHI = "calibrate.brier", "calibrate.ece", "calibrate.phi_brier"
DISAGREEMENT, LABELS_DIFFER = "agreement.disagreement", "agreement.label_disagreement"
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
        return mean_interval(values(self.rows, metric))

    @property
    def alpha(self) -> float:
        """Miscoverage; nan where nothing is promised, or not the same by all of them."""
        alphas = values(self.rows, "alpha")
        known = set(alphas[~np.isnan(alphas)].tolist())
        return known.pop() if len(known) == 1 else math.nan

    def below(self, metric: str) -> bool:
        """Whether the mean over the seeds is below 1 - alpha: by chance or not, this does not say."""
        return mean_interval(values(self.rows, metric)).mean < self._least

    def surely_below(self, metric: str) -> bool:
        """Whether a t interval of that mean ends below 1 - alpha."""
        return upper_limit(values(self.rows, metric)) < self._least

    @property
    def _least(self) -> float:
        return 1 - self.alpha - 1e-9  # 0.9 covers 1 - 0.1, whatever their last bits


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
    found = values(points, PHI)
    return bool(np.any(found[~np.isnan(found)] != 0))


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
    kept = [axis for axis in axes if axis in (*STRATEGIES, "seed")]
    points = points.assign(all="", **{metric: values(points, metric) for metric in [*metrics, "alpha"]})
    means = points[_balanced(points, axes)].groupby([*kept, "all"], sort=False, dropna=False)
    return means[[*metrics, "alpha"]].mean().reset_index().assign(status="ok")


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


def lowest(found: Sequence[Cell], metric: str, most: int) -> list[Cell]:
    """The worst cells by that metric: a coverage counts from what was promised, an error is the worse the larger."""
    known = [(_merit(cell, metric), index) for index, cell in enumerate(found)]
    return [found[index] for merit, index in sorted(known) if not math.isnan(merit)][:most]


def _merit(cell: Cell, metric: str) -> float:
    mean, alpha = cell.of(metric).mean, cell.alpha
    return -mean if metric == RMSE else mean - (0 if math.isnan(alpha) else 1 - alpha)


def telling(points: pd.DataFrame, axes: Sequence[str], metrics: Sequence[str], most: int) -> list[list[Cell]]:
    """Of more cells than can be shown: each strategy's average over worlds, and its cells where it loses most."""
    strategies = [axis for axis in axes if axis in STRATEGIES]
    averages = cells(over_worlds(points, axes, metrics), [*strategies, "seed"])[: most // 2]
    each, found, by = (
        min(10 if len(averages) == 1 else 3, most // len(averages) - 1),
        cells(points, axes),
        judged(points),
    )
    groups = [[cell for cell in found if cell.key.items() >= average.key.items()] for average in averages]
    return [averages, [cell for group in groups for cell in lowest(group, by, each)]]


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
    said = [f"{names[axis]} {shown(value)}" for axis, value in key.items() if axis not in STRATEGIES]
    return " and ".join([", ".join(said[:-1]), said[-1]] if len(said) > 1 else said)


def finding(points: pd.DataFrame, axes: Sequence[str]) -> str:
    """The worst that happens, where, and what is best there: `Under pooled the worst client is lowest, 61.0%, ...`."""
    by, names = judged(points), axis_names(axes)
    known = lowest(cells(points, axes), by, len(points))
    if not known:
        return "No point has a result"
    worst, varied = known[0], [axis for axis in axes if axis in STRATEGIES or points[axis].nunique(dropna=False) > 1]
    where = place({axis: value for axis, value in worst.key.items() if axis in varied}, names)
    there = [cell for cell in known[1:] if place(cell.key, names) == place(worst.key, names)]
    said = [f"{_is_worst(known, by)}{where and ', at '}{where}"]
    said += [f"{strategy(cell.key)} {_has(cell, by)} {_amount(cell, by)}{where and ' there'}" for cell in there[-1:]]
    if not there and len(known) > 1:
        best = place({axis: value for axis, value in known[-1].key.items() if axis in varied}, names)
        said += [f"it reaches {_amount(known[-1], by)} at {best}"]
    return "; ".join([*said, *[f"{100 * (1 - worst.alpha):.4g}% promised"] * (worst.alpha == worst.alpha)])


def _is_worst(known: Sequence[Cell], by: str) -> str:
    worst, under = known[0], strategy(known[0].key)
    what = {COVERAGE: "coverage", ACCURACY: "accuracy", RMSE: "the RMSE"}.get(by, "the worst client")
    verb = "is largest," if by == RMSE else "is lowest,"
    if len({cell.alpha for cell in known if cell.alpha == cell.alpha}) > 1:
        verb = "stands worst to its promise,"
    said = f"{f'under {under} ' if under else ''}{what} {'is' if len(known) == 1 else verb} {_amount(worst, by)}"
    return said[0].upper() + said[1:]


def _has(cell: Cell, by: str) -> str:
    promised = by in (COVERAGE, WORST_TESTED) and cell.alpha == cell.alpha
    return "keeps" if promised and not cell.below(by) else "has"


def _amount(cell: Cell, by: str) -> str:
    mean = cell.of(by).mean
    return number(mean) if by == RMSE else percent(mean)


def over_seeds(seeds: int) -> str:
    """What a number with an interval is."""
    return f"mean [{100 * LEVEL:g}% bootstrap interval over {seeds} seeds]"


def few_seeds(seeds: int) -> str:
    """What a bootstrap interval over so few seeds is worth; nothing where they are many."""
    if seeds < 2:
        return "One seed: no interval (add seed=0,1,2)."
    span = "runs from the smallest to the largest and " if seeds < 4 else ""
    said = f"Over {seeds} seeds, a bootstrap interval {span}holds the true mean in some"
    return f"{said} {HOLDS[seeds]} of 100 cases." if seeds in HOLDS else ""


def lost(points: pd.DataFrame, axes: Sequence[str], most: int = 5) -> Iterator[str]:
    """The points that have no numbers, counted and named, a sentence for each status."""
    names = axis_names(axes)
    for status, rows in points[points["status"] != "ok"].groupby("status", sort=False):
        named = [
            ", ".join(f"{names[axis]} {shown(row[axis])}" for axis in axes) for _, row in rows.head(most).iterrows()
        ]
        more = [f"and {len(rows) - most:,} more"] * (len(rows) > most)
        yield f"{len(rows):,} of {count(len(points), 'point')} {status}: {'; '.join([*named, *more])}."
