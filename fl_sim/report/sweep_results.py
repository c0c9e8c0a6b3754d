"""What a sweep's folder gives to tables, figures and pages: its points, with short labels and their verdicts, and its
runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from fl_sim.report.sweep_labels import shortened
from fl_sim.report.verdicts import certified
from fl_sim.results import tables
from fl_sim.results.run import Result
from fl_sim.results.sweep_folder import POINTS


@dataclass(frozen=True)
class SweepResults:
    """A sweep, finished or not.

    Attributes:
        points: a row a point, see `fl_sim.results.tables.Tables`, with what `fl-sim certify` finds.
        axes: the columns of `points` that are axes.
        title: what was not swept, in words.
        clients: a row a client, with `point`.
        settings: of the axis `learn`, value as `points` shows it -> as the file has it.
        results: run -> its result, of those that are there.
        table: the points as `fl-sim results` has them.
    """

    points: pd.DataFrame
    axes: list[str]
    title: str = ""
    clients: pd.DataFrame = field(default_factory=pd.DataFrame)
    settings: Mapping[Any, Any] = field(default_factory=dict)
    results: Mapping[str, Result] = field(default_factory=dict)
    table: pd.DataFrame = field(default_factory=pd.DataFrame)

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
        finished = points.loc[points["status"] == "ok", "run"].map(str).drop_duplicates()
        results = {run: Result.load(folder / POINTS / run) for run in finished}
        title = "; ".join(filter(None, [loaded.title, same]))
        return cls(certified(points, results), loaded.axes, title, loaded.clients, settings, results, loaded.points)
