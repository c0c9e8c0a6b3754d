"""The clients of a report's explorer, as compact JSON: a column is a list, or one value where all clients have it.

Strategies share their worlds: tiers, sizes and labels are there once for all runs that have the same.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from fl_sim.conformal.certificate import clopper_pearson
from fl_sim.report import contribution, wording
from fl_sim.report.numbers import number, promised
from fl_sim.report.verdicts import Claim
from fl_sim.results.run import Result

MOST_CLIENTS = 120_000  # in one page, over all runs
MOST_COUNTS = 2_000_000  # label counts in one page
Column = list[Any] | Any
_BYTES = ("bytes_up", "bytes_down")


@dataclass
class Explorer:
    """The clients of many runs.

    Attributes:
        runs: run -> its place in `data["runs"]`.
        left_out: how many runs had no room.
    """

    data: dict[str, Any] = field(default_factory=lambda: {"worlds": [], "trusts": [], "runs": [], "intervals": {}})
    runs: dict[str, int] = field(default_factory=dict)
    left_out: int = 0
    _places: dict[str, int] = field(default_factory=dict)
    _clients: int = 0
    _counts: int = 0

    def add(self, run: str, result: Result) -> None:
        """Take the clients of a run, unless they are too many for the page; the first run is always taken."""
        if run in self.runs:
            return
        if self._clients and self._clients + len(result.clients) > MOST_CLIENTS:
            self.left_out += 1
            return
        self._clients += len(result.clients)
        self.runs[run] = len(self.data["runs"])
        judged, columns = _judged(result)
        self._intervals(columns["hits"], result.column("num_test"))
        places = {"world": self._world(result), "trust": self._trust(result)}
        self.data["runs"].append(places | judged | {name: packed(column) for name, column in columns.items()})

    def _world(self, result: Result) -> int:
        """The place of what all strategies share."""
        tiers, behaviours = list(wording.tiers(result)), [row.get("behaviour") or "" for row in result.clients]
        kinds = list(dict.fromkeys(behaviours))
        world: dict[str, Any] = {"tiers": tiers, "kinds": kinds, "kind": packed(list(map(kinds.index, behaviours)))}
        if "name" in result.clients[0]:
            world["names"] = result.column("name")
        world["tier"] = packed([tiers.index(tier) for tier in result.column("tier")])
        world |= {"calibration": packed(result.column("num_calibration")), "test": packed(result.column("num_test"))}
        return self._place("worlds", [world, result.column("label_counts")], lambda: world | self._labels(result))

    def _trust(self, result: Result) -> int:
        """The place of how far the clients' probabilities can be trusted; without a calibrator the same for all
        calibrations of the same models."""
        names = ["brier", "ece", *["phi_brier"] * wording.has_calibrator(result)]
        names += ["weight"] * contribution.is_weighed(result)
        columns = {name: packed([_shown(row.get(name)) for row in result.clients]) for name in names}
        return self._place("trusts", columns, lambda: columns)

    def _place(self, kind: str, key: Any, make: Callable[[], Any]) -> int:
        """Where in `data[kind]` that is, of which there is one for each key."""
        text = json.dumps([kind, key])
        if text not in self._places:
            self._places[text] = len(self.data[kind])
            self.data[kind].append(make())
        return self._places[text]

    def _labels(self, result: Result) -> dict[str, Any]:
        """Names of the labels and every client's counts, one after the other; nothing where there is no room."""
        rows = result.column("label_counts")
        wide = len(rows[0]) if rows else 0
        self._counts += wide * len(rows)
        if self._counts > MOST_COUNTS:
            return {}
        named = list(map(str, result.summary.get("classes") or []))
        if len(named) != wide:
            what = "decile" if wording.is_regression(result) else "label"
            named = [f"{what} {k}" for k in range(1, wide + 1)]
        return {"labels": named, "counts": [many for row in rows for many in row]}

    def _intervals(self, counts: Sequence[int | None], tests: Sequence[int]) -> None:
        """The exact 95 % interval of each pair that is not known yet, in percent as `fl-sim certify` prints it."""
        known = self.data["intervals"]
        pairs = {(k, m) for k, m in zip(counts, tests, strict=True) if k is not None and m}
        new = sorted(pair for pair in pairs if str(pair[0]) not in known.get(str(pair[1]), {}))
        if not new:
            return
        low, high = clopper_pearson(*np.array(new, np.int64).T)
        for (k, m), a, b in zip(new, low.tolist(), high.tolist(), strict=True):
            known.setdefault(str(m), {})[str(k)] = [float(f"{100 * a:.1f}"), float(f"{100 * b:.1f}")]

    def text(self) -> Markup:
        """JSON that may stand inside a page: no letter of it ends the element it stands in."""
        return htmlsafe_json_dumps(self.data, separators=(",", ":"), allow_nan=False)


def _judged(result: Result) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """By what clients are judged, what was promised in percent, and who falls short of it by `fl-sim certify`; and the
    columns of the clients. `hits` are the test points covered, or right where nothing was promised."""
    regression = wording.is_regression(result)
    lost = {row["client"]: row["reason"].strip().partition("\n")[0][:120] for row in wording.missing(result)}
    columns: dict[str, list[Any]] = {name: [row.get(name) for row in result.clients] for name in _BYTES}
    columns["lost"] = [lost.get(row["client"]) for row in result.clients]
    if regression:
        columns["rmse"] = [_shown(value) for value in result.column("rmse")]
    else:
        columns["right"] = result.column("num_correct")
    if not wording.is_calibrated(result):
        columns["hits"] = [None] * len(result.clients) if regression else columns["right"]
        return {"judged": "rmse" if regression else "accuracy", "rejected": []}, columns
    columns["hits"] = result.column("num_covered")
    columns["threshold"] = [_shown(row.get("threshold")) for row in result.clients]
    columns["size"] = [_shown(value) for value in result.column(wording.size_name(result))]
    rejected = np.flatnonzero(Claim().certificate(result).rejected).tolist()
    least = round(100 * promised(result.scenario.calibrate.alpha), 9)
    size = wording.size_name(result).replace("_", " ")
    return {"judged": "coverage", "promised": least, "size_name": size, "rejected": rejected}, columns


def _shown(value: float | None) -> float | str | None:
    """A number with the digits that are printed; infinity in words."""
    if value is None or not math.isfinite(value):
        return None if value is None else number(value)
    return float(number(value).replace(",", ""))


def packed(column: list[Any]) -> Column:
    """One value where all are the same, else the list.

    >>> packed([3, 3]), packed([3, 4])
    (3, [3, 4])
    """
    return column[0] if column and all(value == column[0] for value in column) else column
