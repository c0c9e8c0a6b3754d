"""Means over seeds with Student's t intervals, and differences between strategies paired by world and seed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

Floats = NDArray[np.float64]

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean and the ends of its t interval, to be unpacked as `mean, low, high`; `count` values are behind it.

    One value alone has no interval, and neither have values that are not all finite: both ends are then the mean.
    """

    mean: float
    low: float
    high: float
    count: int

    def __iter__(self) -> Iterator[float]:
        return iter((self.mean, self.low, self.high))

    @property
    def known(self) -> bool:
        """Whether `low` and `high` tell more than the mean."""
        return self.count > 1 and math.isfinite(self.mean)


def t_interval(values: ArrayLike, level: float = LEVEL) -> Interval:
    """Mean of `values` (n,) without nan, and Student's t interval of it.

    >>> mean, low, high = t_interval([0.8, 0.9])
    >>> round(mean, 3), round(low, 3), round(high, 3)
    (0.85, 0.215, 1.485)
    """
    given = np.asarray(values, np.float64)
    known = np.sort(given[~np.isnan(given)])
    n = len(known)
    mean = float(known.mean()) if n else math.nan
    if n < 2 or known[0] == known[-1] or not math.isfinite(mean):
        mean = float(known[0]) if n and known[0] == known[-1] else mean
        return Interval(mean, mean, mean, n)
    reach = float(stdtrit(n - 1, (1 + level) / 2) * known.std(ddof=1) / math.sqrt(n))
    return Interval(mean, mean - reach, mean + reach, n)


def paired_differences(
    points: pd.DataFrame, axes: Sequence[str], between: str, metric: str, reference: str
) -> pd.DataFrame:
    """How each value of the axis `between` differs from `reference` in `metric`, on the same world and seed.

    Returns:
        A row for each world (the axes but `between` and the seed) and each value other than `reference`: these axes,
        `between`, `mean`, `low` and `high` of the differences over the seeds, and `pairs`, how many they are.
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
    rows = [(*key, *(interval := t_interval(differences)), interval.count) for key, differences in groups]
    return pd.DataFrame(rows, columns=[*worlds, between, "mean", "low", "high", "pairs"])


def values(points: pd.DataFrame, metric: str) -> Floats:
    """A metric of each point; nan where it has none, +inf where the flag beside it says so."""
    if metric not in points:
        return np.full(len(points), np.nan)
    numbers = pd.to_numeric(points[metric]).to_numpy(np.float64, copy=True)
    flag = f"{metric}_is_infinite"
    if flag in points:
        numbers[points[flag].eq(True).to_numpy(bool)] = math.inf
    return numbers
