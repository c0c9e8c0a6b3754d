"""The points of a sweep: every combination of its axes' values, validated whole before the first is run.

Points whose scenarios cannot differ in their results share one run.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fl_sim.data import predictions
from fl_sim.errors import ScenarioError
from fl_sim.models.architectures import GIVEN
from fl_sim.results.sweep_folder import FilePoint, SweepFile, is_finished, label
from fl_sim.scenario.comparison import by_kind
from fl_sim.scenario.scenario import Scenario
from fl_sim.scenario.strategies import CALIBRATE, LEARN, StrategyTables
from fl_sim.scenario.toml import assign, locate, read, values_of

MOST_POINTS = 100_000
MOST_REFUSALS = 8

WHOLE: dict[str, StrategyTables] = {"learn": LEARN, "calibrate": CALIBRATE}  # axes whose values are strategies

SHARE = "calibrate.calibrator_share"  # does not matter to calibrator = "none"

Settings = dict[str, Any]  # axis -> value, as the file or the command line has it


@dataclass(frozen=True)
class Point:
    """One combination of the axes' values."""

    settings: Settings
    scenario: Scenario

    @cached_property
    def run(self) -> str:
        """What its run is called; points that cannot differ share it."""
        return self.scenario.identity()

    def labels(self) -> dict[str, Any]:
        """Its settings as they are shown."""
        return {axis: label(value) for axis, value in self.settings.items()}

    def words(self) -> str:
        """Its settings in a line."""
        return ", ".join(f"{axis}={value}" for axis, value in self.labels().items())


@dataclass(frozen=True)
class Sweep:
    """All points, in the order of the axes: the last one changes fastest."""

    name: str
    axes: dict[str, list[Any]]
    points: list[Point]
    command: tuple[str, ...] = ()  # the words after `fl-sim` that made it

    @cached_property
    def identity(self) -> str:
        """A digest of the axes and of every run."""
        parts = {"axes": {axis: [label(v) for v in values] for axis, values in self.axes.items()}}
        text = json.dumps(parts | {"runs": [point.run for point in self.points]}, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def file(self) -> SweepFile:
        """What the folder of this sweep says of it."""
        points = [FilePoint(settings=point.settings, run=point.run) for point in self.points]
        axes, command = list(self.axes), list(self.command)
        return SweepFile(identity=self.identity, name=self.name, command=command, axes=axes, points=points)

    @property
    def runs(self) -> dict[str, Point]:
        """Run -> the first point that needs it."""
        first: dict[str, Point] = {}
        for point in self.points:
            first.setdefault(point.run, point)
        return first


# ---------------------------------------------------------------------------------------------------------- the points


def load_sweep(
    file: str,
    assignments: Sequence[str] = (),
    axes: Mapping[str, list[Any]] | None = None,
    command: Sequence[str] | None = None,
) -> Sweep:
    """The sweep of a file: its `[sweep]`, then `axes`, then `key=a,b,c` from the command line.

    `key=a` fixes a key, whether the file sweeps it or not. `command` is what the user typed, if not `sweep FILE ...`.

    Raises:
        ScenarioError: an axis without values, or points that cannot be run, each named.
    """
    path = locate(file)
    return sweep_of(path.stem, read(path), assignments, axes, command or ("sweep", file, *assignments))


def sweep_of(
    name: str, tables: dict[str, Any], assignments: Sequence[str], axes: Mapping[str, list[Any]] | None,
    command: Sequence[str],
) -> Sweep:  # fmt: skip
    """`load_sweep` of tables that are there already."""
    swept = _axes_of(tables.pop("sweep", {})) | dict(axes or {})
    if "calibrate" in swept:
        swept["calibrate"] = by_kind(swept["calibrate"], tables)
    for assignment in assignments:
        key, values = values_of(assignment)
        values = by_kind(values, tables) if key == "calibrate" else values
        if len(values) == 1:
            swept.pop(key, None)
            tables = assign(tables, key, values[0])
        else:
            swept[key] = values
    for axis, values in swept.items():
        _refuse_repeated(axis, values)
        _refuse_said_twice(axis, swept)
    return Sweep(name, swept, _points(tables, swept), tuple(command))


def load_comparison(file: str, names: Sequence[str], assignments: Sequence[str]) -> Sweep:
    """A file's world under strategies of one kind, in the order given; a `[sweep]` in the file is kept beside it.

    Raises:
        ScenarioError: fewer than two names, or not all of one kind.
    """
    if len(names) < 2:
        raise ScenarioError("compare: name at least two different strategies, for instance fedwq-cp pooled")
    kinds = {"learn" if name in LEARN else "calibrate" for name in names}
    if len(kinds) > 1:
        raise ScenarioError(
            f"compare: {', '.join(names)} are of both kinds; compare learn with learn, calibrate with calibrate"
        )
    typed = ("compare", file, *names, *assignments)
    return load_sweep(file, assignments, {kinds.pop(): list(names)}, typed)


def load_predictions(
    path: Path, names: Sequence[str], assignments: Sequence[str], alpha: float, score: str, command: Sequence[str]
) -> Sweep:
    """Predictions that are there already, under calibrate strategies: those named, or all of one round.

    Raises:
        FlSimError: the file cannot be read, or says what cannot be.
        ScenarioError: a strategy that does not go with it.
    """
    loaded = predictions.load(path)
    dataset = loaded.dataset
    odd = next((tier for tier in loaded.tiers if not re.fullmatch(r"[\w-]+", tier)), None)
    if odd is not None:
        raise ScenarioError(f"{path}: tier {odd!r}: letters, digits, _ and - alone make the name of a tier")
    levels = {"quantiles": [alpha / 2, 1 - alpha / 2]} if loaded.intervals else {}
    tiers = [
        {"name": tier, "share": many / loaded.num_clients, "architecture": GIVEN, "epochs": 0, **levels}
        for tier, many in zip(loaded.tiers, loaded.per_tier, strict=True)
    ]
    tiers[-1].pop("share")  # the rest
    strategies: list[Any] = list(names) or [{"kind": "one-round"}]
    default = "lac" if dataset.classes is not None else "cqr" if loaded.intervals else "residual"
    tables: dict[str, Any] = {
        "data": {
            "name": f"{predictions.KIND}:{path}", "train": 0,
            "calibration": len(dataset.targets) - dataset.num_official_test, "test": dataset.num_official_test,
        },
        "clients": {"count": loaded.num_clients, "partition": "natural", "tier": tiers},
        "learn": {"name": "given"},
        "calibrate": {"name": "fedwq-cp", "alpha": alpha, "score": score or default},
    }  # fmt: skip
    return sweep_of(path.stem, tables, assignments, {"calibrate": strategies}, command)


def _axes_of(table: Any) -> dict[str, list[Any]]:
    if not isinstance(table, dict):
        raise ScenarioError(f"sweep = {table!r}: must be a table of lists")
    for axis, values in table.items():
        if not isinstance(values, list) or not values:
            raise ScenarioError(f'sweep."{axis}" = {values!r}: an axis is a list of at least one value')
    return dict(table)


def _refuse_repeated(axis: str, values: Sequence[Any]) -> None:
    shown = [str(label(value)) for value in values]
    twice = next((value for value in shown if shown.count(value) > 1), None)
    if twice is not None:
        raise ScenarioError(f"{axis}: {twice} is there twice, and would count as two; name each value once")


def _refuse_said_twice(axis: str, swept: Mapping[str, list[Any]]) -> None:
    section, _, key = axis.partition(".")
    for value in swept.get(section, []) if key else []:
        if isinstance(value, dict) and key in value:
            raise ScenarioError(f"{axis} is an axis, and {section} = {label(value)} says it too; leave one of them out")


def _points(tables: dict[str, Any], axes: Mapping[str, list[Any]]) -> list[Point]:
    if not axes:
        raise ScenarioError(
            "nothing is swept: give the file a [sweep] table, or an axis as key=a,b,c, or use fl-sim run"
        )
    number = 1
    for values in axes.values():
        number *= len(values)
    if number > MOST_POINTS:
        raise ScenarioError(f"the axes make {number} points, and at most {MOST_POINTS} can be swept")
    points: list[Point] = []
    refused: dict[str, list[Settings]] = {}  # why -> the points
    for combination in itertools.product(*axes.values()):
        settings = dict(zip(axes, combination, strict=True))
        try:
            points.append(_point(tables, settings))
        except ScenarioError as error:
            refused.setdefault(str(error), []).append(settings)
    if refused:
        raise ScenarioError("\n".join(_refusal(why, where) for why, where in list(refused.items())[:MOST_REFUSALS]))
    return points


def _refusal(why: str, where: Sequence[Settings]) -> str:
    first = ", ".join(f"{axis}={label(value)}" for axis, value in where[0].items())
    return f"{why}\n    at the point {first}" + (f" and {len(where) - 1} more" if len(where) > 1 else "")


def _point(tables: dict[str, Any], settings: Settings) -> Point:
    """The strategies first, then what they are told, and how a calibrator is fitted after which: the order of the axes
    is the order of the rows, no more."""
    changed: Any = tables
    for axis, value in sorted(settings.items(), key=lambda item: (item[0] not in WHOLE, item[0] == SHARE)):
        section = axis.partition(".")[0]
        if f"{section}." in axis and section in WHOLE and _is_anothers(axis, section, changed):
            continue
        changed = assign(changed, axis, value)
    return Point(settings, Scenario.of(changed))


def _is_anothers(axis: str, section: str, tables: dict[str, Any]) -> bool:
    """Whether the key belongs to other strategies than the one chosen at this point, and so does not matter to it."""
    table, key = WHOLE[section], axis.split(".")[1]
    chosen = tables.get(section)
    if axis == SHARE and isinstance(chosen, dict) and chosen.get("calibrator", "none") == "none":
        return True
    name = chosen.get("name") if isinstance(chosen, dict) else chosen
    mine = table.get(str(name))
    return mine is not None and key not in mine.model_fields and any(key in t.model_fields for t in table.values())


# ------------------------------------------------------------------------------------------------------ what they cost


@dataclass(frozen=True)
class Cost:
    """What a sweep will take, without having run it."""

    points: int
    runs: int
    finished: int
    trainings: int  # models to fit from an empty store; one that several runs share counts once
    rows: int  # rows that pass through training, epochs counted
    clients: int  # client runs


def cost(sweep: Sweep, folder: Path) -> Cost:
    """Counted from the scenarios; what the store holds already is not looked at."""
    todo = [point.scenario for point in sweep.runs.values() if not is_finished(folder, point.run)]
    fits: dict[str, tuple[int, int]] = {}
    for scenario in todo:
        fits |= dict(_fits(scenario))
    return Cost(
        points=len(sweep.points), runs=len(sweep.runs), finished=len(sweep.runs) - len(todo),
        trainings=sum(number for number, _ in fits.values()), rows=sum(rows for _, rows in fits.values()),
        clients=sum(scenario.clients.count for scenario in todo),
    )  # fmt: skip


def _fits(scenario: Scenario) -> Iterator[tuple[str, tuple[int, int]]]:
    """(what decides the models, (how many, rows passed)) for each tier."""
    data, clients, learn = scenario.data, scenario.clients, scenario.learn
    apart = scenario.trains_locally or getattr(learn, "per_client", False)
    given = sum(tier.share or 0.0 for tier in clients.tier)
    for tier in clients.tier:
        members = round(clients.count * (1 - given if tier.share is None else tier.share))
        rounds = getattr(learn, "rounds", 1)
        number = (members * rounds if apart else 1) if members else 0
        rows = data.train * tier.epochs
        if scenario.trains_locally:
            rows = round(rows * members / clients.count * rounds * getattr(learn, "fraction", 1.0))
        elif apart:
            rows *= members
        world = clients.model_dump(mode="json", exclude={"tier"}) if apart else None
        made = [scenario.seed, data.model_dump(mode="json"), tier.model_dump(mode="json", exclude={"name", "share"})]
        yield (
            json.dumps([made, learn.model_dump(mode="json"), world, members if apart else 0]),
            (number, rows if number else 0),
        )
