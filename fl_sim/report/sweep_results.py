"""What a sweep's folder gives to tables, figures and pages: its points with short labels, and its runs when asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from fl_sim.report.sweep_labels import shortened
from fl_sim.results import tables
from fl_sim.results.run import Result
from fl_sim.results.sweep_folder import POINTS


@dataclass(frozen=True)
class SweepResults:
    """A sweep, finished or not.

    Attributes:
        points: a row a point, see `fl_sim.results.tables.Tables`.
        axes: the columns of `points` that are axes.
        title: what was not swept, in words.
        clients: a row a client, with `point`.
        settings: of the axis `learn`, value as `points` shows it -> as the file has it.
        folder: the sweep's.
        unshortened: `points` with their whole labels.
    """

    points: pd.DataFrame
    axes: list[str]
    title: str = ""
    clients: pd.DataFrame = field(default_factory=pd.DataFrame)
    settings: Mapping[Any, Any] = field(default_factory=dict)
    folder: Path = Path()
    unshortened: pd.DataFrame = field(default_factory=pd.DataFrame)

    @classmethod
    def load(cls, folder: Path) -> SweepResults:
        """Of a sweep's folder; labels of learn strategies without what all have in common.

        Raises:
            FlSimError: see `tables.load`.
        """
        loaded = tables.load(folder)
        points, settings, same = loaded.points, dict(loaded.values.get("learn", {})), ""
        if "learn" in loaded.axes:
            points, settings, same = shortened(points, settings)
        title = "; ".join(filter(None, [loaded.title, same]))
        return cls(points, loaded.axes, title, loaded.clients, settings, folder, loaded.points)

    @cached_property
    def results(self) -> dict[str, Result]:
        """Run -> its result, of those that are there."""
        runs = self.points.loc[self.points["status"] == "ok", "run"].map(str).drop_duplicates()
        return {run: Result.load(self.folder / POINTS / run) for run in runs}
