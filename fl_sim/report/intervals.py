"""Means over seeds with their bootstrap intervals, and differences between strategies paired by world and seed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from fl_sim.conformal.decimals import as_meant
from fl_sim.randomness import stream

Floats = NDArray[np.float64]

LEVEL = 0.95
RESAMPLES, EXACT = 10_000, 5  # of the bootstrap; up to so many values every resample is enumerated instead
# Of 100 bootstrap intervals from n normal values, so many hold the true mean (measured; exact for n = 2 and 3).
HOLDS = {2: 50, 3: 75, 4: 80, 5: 84, 6: 86, 7: 87, 8: 89, 9: 89, 10: 90}


@dataclass(frozen=True)
class Interval:
    """A mean and where it may lie, to be unpacked as `mean, low, high`; one value alone has no interval."""

    mean: float
    low: float
    high: float
    count: int

    def __iter__(self) -> Iterator[float]:
        return iter((self.mean, self.low, self.high))

    @property
    def known(self) -> bool:
        """Whether `low` and `high` tell more than the mean."""
        return self.count > 1


def mean_interval(values: ArrayLike, level: float = LEVEL) -> Interval:
    """Mean of `values` (n,) without nan, and its percentile bootstrap interval; the same at every call.

    From few values it is too short, see `HOLDS`: it shows how the values scatter, and nothing is judged by it.

    >>> mean, low, high = mean_interval([0.5, 1.0])
    >>> mean, low, high
    (0.75, 0.5, 1.0)
    """
    given = np.asarray(values, np.float64)
    found = np.sort(given[~np.isnan(given)])
    n = len(found)
    if n < 2:
        value = float(found[0]) if n else math.nan
        return Interval(value, value, value, n)
    means = np.sort(found[_resamples(n)].mean(axis=1))
    cut = int(len(means) * (1 - as_meant(level)) / 2)
    # Clipped, because the mean of equal numbers may differ from them in the last bit.
    mean, low, high = np.clip([found.mean(), means[cut], means[-1 - cut]], found[0], found[-1]).tolist()
    return Interval(mean, low, high, n)


def upper_limit(values: ArrayLike, level: float = LEVEL) -> float:
    """The upper end of Student's t interval of the mean of `values` (n,) without nan; +inf from fewer than two.

    A mean is judged to be below a promise where even this is.

    >>> round(upper_limit([0.8, 0.9]), 3)
    1.485
    """
    given = np.asarray(values, np.float64)
    found = given[~np.isnan(given)]
    n = len(found)
    if n < 2 or not np.isfinite(found).all():
        return math.inf
    t = stdtrit(n - 1, (1 + level) / 2)
    return float(found.mean() + t * found.std(ddof=1) / math.sqrt(n))


@lru_cache(maxsize=32)
def _resamples(n: int) -> NDArray[np.intp]:
    """Indices (resamples, n) drawn with replacement from n values."""
    if n <= EXACT:
        return np.array(list(product(range(n), repeat=n)), dtype=np.intp)
    return stream(0, "bootstrap", n).integers(0, n, size=(RESAMPLES, n), dtype=np.intp)


def paired_differences(
    points: pd.DataFrame, axes: Sequence[str], between: str, metric: str, reference: str
) -> pd.DataFrame:
    """How each value of the axis `between` differs from `reference` in `metric`, on the same world and seed.

    Returns:
        A row for each world (the axes but `between` and the seed) and each value other than `reference`: these axes,
        `between`, `mean`, `low` and `high` of the differences over the seeds, `pairs`, how many they are, and `upper`,
        their `upper_limit`.
    """
    if reference not in set(points[between]):
        raise ValueError(f"{between} = {reference!r}: no point has it")
    # "all" is a key too, so that there is one where nothing else is swept.
    points = points.assign(all=0, value=values(points, metric))
    same = [*(axis for axis in axes if axis != between), "all"]
    base = points.loc[points[between] == reference, [*same, "value"]].drop_duplicates()
    others = points[points[between] != reference]
    pairs = others.merge(base, on=same, how="left", validate="many_to_one", suffixes=("", "_of_reference"))
    with np.errstate(invalid="ignore"):  # two infinite lengths have no difference
        pairs["difference"] = pairs["value"] - pairs["value_of_reference"]
    worlds = [axis for axis in axes if axis not in (between, "seed")]
    groups = pairs.groupby([*worlds, between], sort=False, dropna=False)["difference"]
    found = [(*key, *(interval := mean_interval(rows)), interval.count, upper_limit(rows)) for key, rows in groups]
    return pd.DataFrame(found, columns=[*worlds, between, "mean", "low", "high", "pairs", "upper"])


def values(points: pd.DataFrame, metric: str) -> Floats:
    """A metric of each point; nan where it has none, +inf where the flag beside it says so."""
    if metric not in points:
        return np.full(len(points), np.nan)
    found = pd.to_numeric(points[metric]).to_numpy(np.float64, copy=True)
    flag = f"{metric}_is_infinite"
    if flag in points:
        found[points[flag].eq(True).to_numpy(bool)] = math.inf
    return found
