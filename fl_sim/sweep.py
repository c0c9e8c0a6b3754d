"""Many runs of one file: the points of a sweep, run once each, and gone on with where they stopped.

Every combination of the axes' values is a point. All points are validated before the first is run; points whose
scenarios cannot differ in their results share one run. A run is finished when its folder is there, which appears at
once, under a lock: killed at any moment, the same command repeats nothing that was finished.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from fl_sim.errors import FlSimError, ScenarioError
from fl_sim.options import LEARN
from fl_sim.results import RESULT, RunFolder
from fl_sim.scenario import Scenario
from fl_sim.scenario_file import assign, build, locate, read, values_of
from fl_sim.simulation import Progress, check, simulator

FORMAT = 1
SWEEP, POINTS, FAILED = "sweep.json", "points", "failed.json"
MOST_POINTS = 100_000
MOST_REFUSALS = 8

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

    @cached_property
    def identity(self) -> str:
        """A digest of the axes and of every run."""
        told = {"axes": {axis: [label(v) for v in values] for axis, values in self.axes.items()}}
        text = json.dumps(told | {"runs": [point.run for point in self.points]}, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def runs(self) -> dict[str, Point]:
        """Run -> the first point that needs it."""
        first: dict[str, Point] = {}
        for point in self.points:
            first.setdefault(point.run, point)
        return first


def label(value: Any) -> Any:
    """A value as tables show it: a table by its name and what else it says.

    >>> label({"name": "fcp", "sketch": "exact"}), label(0.5)
    ('fcp(sketch=exact)', 0.5)
    """
    if isinstance(value, dict):
        rest = ", ".join(f"{k}={label(v)}" for k, v in value.items() if k != "name")
        return f"{value.get('name', '')}({rest})" if rest else value.get("name", "")
    return str(value) if isinstance(value, list) else value


# ---------------------------------------------------------------------------------------------------------- the points


def load_sweep(file: str, assignments: Sequence[str] = (), axes: Mapping[str, list[Any]] | None = None) -> Sweep:
    """The sweep of a file: its `[sweep]`, then `axes`, then `key=a,b,c` from the command line.

    `key=a` fixes a key, whether the file sweeps it or not.

    Raises:
        ScenarioError: an axis without values, or points that cannot be run, each named.
    """
    path = locate(file)
    tables = read(path)
    swept = _axes_of(tables.pop("sweep", {})) | dict(axes or {})
    for assignment in assignments:
        key, values = values_of(assignment)
        if len(values) == 1:
            swept.pop(key, None)
            tables = assign(tables, key, values[0])
        else:
            swept[key] = values
    return Sweep(path.stem, swept, _points(tables, swept))


def load_comparison(file: str, names: Sequence[str], assignments: Sequence[str]) -> Sweep:
    """A file's world under strategies of one kind, in the order given; a `[sweep]` in the file is kept beside it.

    Raises:
        ScenarioError: fewer than two names, or not all of one kind.
    """
    if len(set(names)) < 2:
        raise ScenarioError("compare: name at least two different strategies, for instance fedwq-cp pooled")
    kinds = {"learn" if name in LEARN else "calibrate" for name in names}
    if len(kinds) > 1:
        raise ScenarioError(
            f"compare: {', '.join(names)} are of both kinds; compare learn with learn, calibrate with calibrate"
        )
    return load_sweep(file, assignments, {kinds.pop(): list(names)})


def _axes_of(table: Any) -> dict[str, list[Any]]:
    if not isinstance(table, dict):
        raise ScenarioError(f"sweep = {table!r}: must be a table of lists")
    for axis, values in table.items():
        if not isinstance(values, list) or not values:
            raise ScenarioError(f'sweep."{axis}" = {values!r}: an axis is a list of at least one value')
    return dict(table)


def _points(tables: dict[str, Any], axes: Mapping[str, list[Any]]) -> list[Point]:
    if not axes:
        raise ScenarioError("nothing is swept: give the file a [sweep] table, or an axis as key=a,b,c")
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
    changed: Any = tables
    for axis, value in settings.items():
        changed = assign(changed, axis, value)
    return Point(settings, build(changed))


# --------------------------------------------------------------------------------------------------------- running them


class Watch(Progress, Protocol):
    """Told what is going on in a sweep."""

    def begin(self, total: int, finished: int) -> None:
        """So many runs, of which so many are finished already."""

    def point(self, words: str) -> None:
        """A run begins."""

    def ended(self, words: str, failure: str | None) -> None:
        """A run has ended, well or not."""


def run_sweep(
    sweep: Sweep, folder: Path, watch: Watch, *, store: Path | None, verbose: bool, fail_fast: bool
) -> dict[str, str]:
    """Run what is not finished. Returns run -> why it failed.

    Raises:
        FlSimError: the folder cannot be written or is not this sweep's, or `fail_fast` and a point failed.
    """
    for point in sweep.runs.values():
        check(point.scenario)
    claim(sweep, folder)
    (folder / FAILED).unlink(missing_ok=True)
    todo = [point for point in sweep.runs.values() if not is_finished(folder, point.run)]
    watch.begin(len(sweep.runs), len(sweep.runs) - len(todo))
    failed: dict[str, str] = {}
    for where, points in _by_runtime(todo):
        most = max(point.scenario.clients.count for point in points)
        with simulator(where, most, store=store, verbose=verbose) as simulate:
            for point in _nobody_else_first(folder, points):
                failure = _run_point(point, folder, lambda s: simulate(s, watch), watch)
                if failure is not None:
                    failed[point.run] = failure
                    if fail_fast:
                        raise FlSimError(f"{failure}\nat the point {point.words()}; the finished points are kept")
    if failed:
        (folder / FAILED).write_text(json.dumps(failed, indent=2, sort_keys=True) + "\n")
    return failed


def _run_point(point: Point, folder: Path, simulate: Callable[[Scenario], Any], watch: Watch) -> str | None:
    """Run a point unless it is finished by now; returns why it failed."""
    with _lock(folder, point.run, wait=True):
        if is_finished(folder, point.run):
            watch.ended(point.words(), None)
            return None
        watch.point(point.words())
        for leftover in (folder / POINTS).glob(f".{point.run}-*"):  # of a killed run: we hold its lock
            shutil.rmtree(leftover)
        place = RunFolder(folder / POINTS / point.run)
        try:
            place.write(simulate(point.scenario))
            place.finish()
        except Exception as error:  # whatever it is, it must not cost the other points
            place.discard()
            failure = str(error) if isinstance(error, FlSimError) else f"{type(error).__name__}: {error}"
            watch.ended(point.words(), failure)
            return failure
        except BaseException:
            place.discard()
            raise
    watch.ended(point.words(), None)
    return None


def claim(sweep: Sweep, folder: Path) -> None:
    """Make the folder this sweep's.

    Raises:
        FlSimError: it is another sweep's, of another version, or holds something else, or cannot be written.
    """
    told = {
        "format": FORMAT, "identity": sweep.identity, "name": sweep.name, "axes": list(sweep.axes),
        "points": [{"settings": point.labels(), "run": point.run} for point in sweep.points],
    }  # fmt: skip
    try:
        if (folder / SWEEP).is_file():
            _refuse_another(json.loads((folder / SWEEP).read_text()), sweep, folder)
            return
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise FlSimError(f"{folder}: is there already and is no sweep of fl-sim; choose another --out")
        (folder / POINTS).mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{SWEEP}"
        temporary.write_text(json.dumps(told, indent=1, default=str) + "\n")
        temporary.rename(folder / SWEEP)
    except OSError as error:
        raise FlSimError(f"{folder}: cannot be read or written: {error.strerror}; choose another --out") from None
    except json.JSONDecodeError as error:
        raise FlSimError(f"{folder / SWEEP}: is not what a sweep wrote: {error}; choose another --out") from None


def _refuse_another(found: Any, sweep: Sweep, folder: Path) -> None:
    if found.get("format") != FORMAT:
        raise FlSimError(
            f"{folder}: its sweep has format {found.get('format')}, and this fl-sim reads format {FORMAT}; choose "
            "another --out"
        )
    if found.get("identity") != sweep.identity:
        raise FlSimError(f"{folder}: belongs to another sweep ({found.get('name')}); choose another --out")


def is_finished(folder: Path, run: str) -> bool:
    """Whether that run is there."""
    return (folder / POINTS / run / RESULT).is_file()


def _by_runtime(points: Sequence[Point]) -> Iterator[tuple[Any, list[Point]]]:
    """Points that can share one runtime, in the order in which they come."""
    groups: dict[str, list[Point]] = {}
    for point in points:
        groups.setdefault(point.scenario.runtime.model_dump_json(), []).append(point)
    for group in groups.values():
        yield group[0].scenario.runtime, group


def _nobody_else_first(folder: Path, points: Sequence[Point]) -> Iterator[Point]:
    """The points; those that another process is at come last, when it has probably finished them."""
    later = []
    for point in points:
        try:
            with _lock(folder, point.run, wait=False):
                pass
        except BlockingIOError:
            later.append(point)
            continue
        yield point
    yield from later


@contextlib.contextmanager
def _lock(folder: Path, run: str, *, wait: bool) -> Iterator[None]:
    path = folder / POINTS / f".lock-{run}"
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))  # released when the process dies
        yield


# ------------------------------------------------------------------------------------------------------- what it costs


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
