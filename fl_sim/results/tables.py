"""Results as tables to compute with: a row a point, a row a client, as pandas data frames."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from fl_sim.errors import FlSimError
from fl_sim.results import thresholds
from fl_sim.results.run import RESULT, Result
from fl_sim.results.sweep_folder import POINTS, SWEEP, SweepFile, failures
from fl_sim.scenario.scenario import Scenario
from fl_sim.scenario.tables import Clients
from fl_sim.store.folders import is_there

FORMATS = ("csv", "parquet", "json")


@dataclass(frozen=True)
class Tables:
    """What a run, a comparison or a sweep found.

    Attributes:
        points: one row a point: `point`, `run`, `status` ("ok", "failed" or "not run"), a column for each axis,
            `alpha`, and every number of `result.json` under its path, such as "calibrate.tiers.weak.coverage".
        clients: one row a client of each finished point: `point`, the axes, and the columns of `clients.csv`.
        axes: the columns of `points` that are axes, in the order of the file.
        values: axis -> value as the columns show it -> value as the file has it, which may be a table.
        title: the file's name, and in words what was not swept.
        runs: point and axes of each finished point, and its result.
    """

    points: pd.DataFrame
    clients: pd.DataFrame
    axes: list[str]
    title: str
    values: dict[str, dict[Any, Any]] = field(default_factory=dict)
    runs: list[tuple[dict[str, Any], Result]] = field(default_factory=list, repr=False)

    @cached_property
    def thresholds(self) -> pd.DataFrame:
        """One row a threshold of each client that was tested: `point`, the axes, `client`, `class` (nothing where it
        is for all), `threshold`."""
        return pd.DataFrame([point | row for point, result in self.runs for row in thresholds.rows(result)])


def load(folder: str | Path) -> Tables:
    """The results under a folder: a run's, or a sweep's, finished or not.

    Raises:
        FlSimError: neither is there, or it was written by another version.
    """
    folder = Path(folder)
    try:
        if is_there(folder / SWEEP):
            return _load_sweep(folder)
        if is_there(folder / RESULT):
            return _frames(folder.name, [], [({}, folder.name, folder)], {})
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        what = f"{type(error).__name__}: {error}"
        raise FlSimError(f"{folder}: its results are damaged, or not fl-sim's ({what})") from error
    raise FlSimError(f"{folder}: holds no results of fl-sim (neither {RESULT} nor {SWEEP})")


def write(frame: pd.DataFrame, form: str, to: Any) -> None:
    """Write a frame as csv, json (a list of rows) or parquet to an open file or a path.

    Raises:
        FlSimError: parquet is asked for and the package pyarrow is missing.
    """
    if form == "csv":
        frame.to_csv(to, index=False)
    elif form == "json":
        # Not pandas' own writer, which rounds to ten decimals.
        rows = [{k: _plain(v) for k, v in row.items()} for row in frame.to_dict("records")]
        text = json.dumps(rows, indent=1, allow_nan=False) + "\n"
        to.write(text) if hasattr(to, "write") else Path(to).write_text(text, encoding="utf-8")
    else:
        try:
            frame.to_parquet(to, index=False)
        except ImportError:
            raise FlSimError("--format parquet needs a package that is not here: pip install pyarrow") from None


def _plain(value: Any) -> Any:
    """A cell as standard JSON has it: what is missing or infinite is null."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _load_sweep(folder: Path) -> Tables:
    sweep = SweepFile.read(folder)
    points = [(point.labels(), point.run, folder / POINTS / point.run) for point in sweep.points]
    values = {axis: {point.labels()[axis]: point.settings[axis] for point in sweep.points} for axis in sweep.axes}
    return replace(_frames(sweep.name, sweep.axes, points, failures(folder)), values=values)


def _frames(
    name: str, axes: list[str], points: list[tuple[dict[str, Any], str, Path]], failed: Mapping[str, str]
) -> Tables:
    rows, clients, runs = [], [], []
    loaded: dict[str, Result] = {}  # points may share a run
    title = name
    for number, (settings, run, place) in enumerate(points):
        status = "failed" if run in failed else "not run"
        row: dict[str, Any] = {"point": number, "run": run, "status": status, **settings}
        if is_there(place / RESULT):
            result = loaded.get(run) or loaded.setdefault(run, Result.load(place))
            title = f"{name}: {fixed(result.scenario, axes)}"
            columns = {"status": "ok", "alpha": result.scenario.calibrate.alpha} | dict(numbers(result))
            row |= columns | settings  # an axis keeps its value where a metric has its name, as learn.keep_fraction
            clients += [{"point": number, **settings, **_flat(client)} for client in result.clients]
            runs.append(({"point": number, **settings}, result))
        rows.append(row)
    return Tables(pd.DataFrame(rows), pd.DataFrame(clients), axes, title, runs=runs)


def fixed(scenario: Scenario, axes: Sequence[str]) -> str:
    """What all points have in common, in words."""
    clients, calibrate = scenario.clients, scenario.calibrate
    words_of = {
        "clients.count": f"{clients.count:,} client{'s' * (clients.count != 1)}",
        "data.name": f"on {scenario.data.name}",
        **_dealt(clients),
        "clients.test": "tested on their own data" if clients.test == "local" else "tested on shared data",
        "learn": f"learn {scenario.learn.name}",
        "calibrate": f"calibrate {calibrate.name}",
        "calibrate.alpha": f"alpha {calibrate.alpha:g}" if calibrate.alpha else "",
        "calibrate.score": f"score {calibrate.score.name}" if calibrate.score else "",
        "calibrate.calibrator": _calibrator(calibrate),
    }
    return ", ".join(words for key, words in words_of.items() if words and key not in axes)


def _calibrator(calibrate: Any) -> str:
    name = getattr(calibrate, "calibrator", "none")
    return "" if name == "none" else f"calibrator {name} on {calibrate.calibrator_share:g} of the calibration rows"


def _dealt(clients: Clients) -> dict[str, str]:
    """Path of the key -> words, of how rows are dealt to the clients."""
    if clients.partition == "natural":
        return {"clients.partition": "natural clients"}
    if not clients.splits_by_tier:
        a = clients.concentration
        few = f"{clients.classes_per_client} labels a client" if clients.classes_per_client else ""
        words = {"clients.partition": clients.partition, "clients.concentration": f"concentration {a:g}" if a else ""}
        return words | {"clients.classes_per_client": few}
    words = {}
    for tier in clients.tier:
        own, at = clients.partition_of(tier), f"clients.tier.{tier.name}"
        words[f"{at}.partition"] = f"{tier.name} {own.kind}"
        if tier.concentration and own.kind != "iid":
            words[f"{at}.concentration"] = f"{tier.name} concentration {own.concentration:g}"
    return words


def _flat(client: Mapping[str, Any]) -> dict[str, Any]:
    return {k: " ".join(map(str, v)) if isinstance(v, list) else v for k, v in client.items()}


def numbers(result: Result) -> Iterator[tuple[str, Any]]:
    """Every number of a result by its path; what is not there is nan."""
    summary = result.summary
    parts = {
        "clients": {k: v for k, v in summary["clients"].items() if k != "missing"},
        "learn": summary["learn"]["metrics"],
        "calibrate": summary["calibrate"]["metrics"],
        **({"agreement": summary["agreement"]} if "agreement" in summary else {}),
        "seconds": summary["seconds"],
    }
    return _paths("", parts)


def _paths(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, dict):
            yield from _paths(f"{prefix}{key}.", inner)
        elif not isinstance(inner, list | str):
            yield f"{prefix}{key}", float("nan") if inner is None else inner
