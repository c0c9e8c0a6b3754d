"""Scenario -> Result: the one place that sees strategies and clients together."""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from flwr.app import ArrayRecord

import strategies
from clients.population import Population, populate
from fl_sim import learning, models
from fl_sim.artifacts import Store, default_root
from fl_sim.data.datasets import describe
from fl_sim.data.prepare import Prepared, prepare
from fl_sim.data.reference import missing, refer
from fl_sim.desk import Desk, Student
from fl_sim.errors import ClientFailedError, DataNotAtHandError, FlSimError
from fl_sim.options import OWN, own_object
from fl_sim.results import FORMAT, Result
from fl_sim.runtime.grids import SimulatedGrid
from fl_sim.runtime.ledger import Ledger
from fl_sim.runtime.session import Session
from fl_sim.scenario import Runtime, Scenario
from fl_sim.summary import calibrate_metrics, client_rows, learn_metrics
from strategies.base import Calibration, HandOut, Learning, Roster

PACKAGES = ("fl-sim", "flwr", "ray", "torch", "numpy", "scikit-learn", "matplotlib")  # whose versions may move a digit


class Progress(Protocol):
    """Told what is going on."""

    def phase(self, name: str, total: int | None) -> None:
        """A phase begins, with so many clients to wait for if that is known."""

    def done(self, count: int) -> None:
        """So many more clients have answered."""


class Silent:
    """Progress that nobody looks at."""

    def phase(self, name: str, total: int | None) -> None:
        """Nothing."""

    def done(self, count: int) -> None:
        """Nothing."""


def simulate(
    scenario: Scenario, *, store: str | Path | None = None, progress: Progress | None = None, verbose: bool = False
) -> Result:
    """Run a scenario.

    Args:
        scenario: from `Scenario.load`.
        store: folder of the artifact store; by default `FL_SIM_STORE`, or the user's cache folder.
        progress: is told of phases and of clients that have answered.
        verbose: let Flower and Ray log.

    Raises:
        FlSimError: the run cannot be made; among them `DataNotAtHandError` and, when a client fails and `on_failure`
            is "stop", `ClientFailedError`.
    """
    check(scenario)
    watch = progress or Silent()
    watch.phase("starting", None)
    with simulator(scenario.runtime, scenario.clients.count, store=store, verbose=verbose) as run:
        return run(scenario, watch)


Simulator = Callable[[Scenario, Progress], Result]


@contextlib.contextmanager
def simulator(
    where: Runtime, max_clients: int, *, store: str | Path | None = None, verbose: bool = False
) -> Iterator[Simulator]:
    """A runtime that is up for the block, as a function that runs scenarios on it. They must have passed `check`."""
    clocks = [Clock()]  # what starting takes is the first run's
    place = Store(Path(store) if store else default_root())

    def run(scenario: Scenario, watch: Progress) -> Result:
        mine = clocks.pop() if clocks else Clock()
        mine.lap("start")
        count = scenario.clients.count
        return session.serve(lambda grid: _run(scenario, place, grid, watch, mine), count, watch.done)

    with _environment(place, verbose=verbose), Session(where, max_clients, verbose=verbose) as session:
        yield run


def refuse_lookalikes(folder: Path) -> None:
    """Refuse a folder whose own `clients`, `strategies` or `fl_sim` would be imported by the workers in place of ours.

    Raises:
        FlSimError: naming what is in the way.
    """
    ours = Path(__file__).resolve().parent.parent
    for name in ("clients", "strategies", "fl_sim"):
        for found in (folder / name / "__init__.py", folder / f"{name}.py"):
            if found.exists() and ours not in found.resolve().parents:
                other = found.parent if found.name == "__init__.py" else found
                raise FlSimError(
                    f"{other} has the name of one of fl-sim's own packages, and Ray's workers, which search the launch "
                    "folder first, would import it in their place; rename it, or launch from another folder"
                )


def check(scenario: Scenario) -> None:
    """Refuse what cannot be run on this machine, before any work.

    Raises:
        DataNotAtHandError: with the commands that get it.
        FlSimError: a GPU is asked for and there is none, or the launch folder holds a look-alike of our packages.
    """
    if scenario.runtime.name != "inline":
        refuse_lookalikes(Path.cwd())
    _check_own(scenario)
    source = describe(scenario.data.name)
    if not source.at_hand():
        commands = "".join(f"\n    {command}" for command in source.to_get)
        raise DataNotAtHandError(
            f"data.name = {scenario.data.name!r}: the data is not on this machine; get it with{commands}"
        )
    for name, to_get in missing(scenario.references):
        told = "".join(f"\n    {command}" for command in to_get)
        raise DataNotAtHandError(f"reference.sets: {name!r} is not on this machine; get it with{told}")
    for architecture in sorted({*scenario.names()}):
        lacks = models.missing_weights(architecture)
        if lacks is not None:
            raise DataNotAtHandError(
                f"architecture {architecture!r}: {lacks[0]} is not on this machine; get it with\n    {lacks[1]}"
            )
    wants_gpu = scenario.runtime.gpus_per_client or 0
    try:
        device = learning.resolve_device(scenario.runtime.device)
    except ValueError as error:
        raise FlSimError(f"runtime.{error}") from None
    if wants_gpu > 0 and device != "cuda":
        raise FlSimError(
            f"runtime.gpus_per_client = {wants_gpu:g}, but the clients run on the CPU here (torch sees no GPU, or "
            "runtime.device = 'cpu'); leave it out"
        )


def _hands_out(scenario: Scenario) -> bool:
    name = scenario.learn.name
    return scenario.learn.hands_out or (OWN.match(name) is not None and issubclass(own_object(name), HandOut))


def _check_own(scenario: Scenario) -> None:
    """Import what is the user's own, `module:object`, and see that it has the form it must have."""
    for name, key in scenario.names().items():
        if not OWN.match(name) or (key == "data.name" and not _is_own(name)):
            continue
        try:
            found = own_object(name)
        except (ImportError, AttributeError) as error:
            raise FlSimError(
                f"{key} = {name!r} cannot be imported: {error}; is it in the launch folder or on PYTHONPATH?"
            ) from None
        lacks = _lacks(found, key)
        if lacks:
            raise FlSimError(f"{key} = {name!r} {lacks}")


def _is_own(data: str) -> bool:
    return not data.startswith(("medmnist:", "image-folder:")) and describe(data).origin == "yours"


def _lacks(found: Any, key: str) -> str:
    """What a user's own object lacks to stand at that key; nothing if it will do."""
    if not callable(found):
        return "is not callable"
    if key == "calibrate.score":
        forms = (("of", "all_labels"), ("of", "interval", "centre"))
        if not any(all(hasattr(found, method) for method in form) for form in forms):
            return "lacks the methods of a score: of and all_labels (classification), or of, interval and centre"
        return ""
    if key == "learn" or key == "calibrate":
        base = Learning if key == "learn" else Calibration
        if not (isinstance(found, type) and issubclass(found, base)):
            return f"is no subclass of strategies.base.{base.__name__}"
        return _says_nothing(found) if issubclass(found, Calibration) else ""
    given: dict[str, Any] = {"count": 1, "image_size": None, "seed": 0}
    try:
        inspect.signature(found).bind(**given) if key == "data.name" else inspect.signature(found).bind((1,), 1)
    except TypeError as error:
        wanted = "(count, image_size, seed)" if key == "data.name" else "(shape, outputs)"
        return f"must take {wanted}: {error}"
    return ""


def _says_nothing(calibration: type[Calibration]) -> str:
    """Which half of a calibration a user's own leaves out; nothing if it says both."""
    halves = (("question", "ask"), ("threshold", "for_each", "take"))
    for half in halves:
        if all(getattr(calibration, name) is getattr(Calibration, name) for name in half):
            return f"says none of {', '.join(half)}: a calibration is a question and a rule for the answers"
    return ""


class Clock:
    """Wall time by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = self._start = time.perf_counter()

    def lap(self, phase: str) -> None:
        """What has passed since the last lap belongs to `phase`."""
        now = time.perf_counter()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._last
        self._last = now

    def table(self) -> dict[str, float]:
        """Phases and the total, to the millisecond."""
        told = {**self.seconds, "total": time.perf_counter() - self._start}
        return {phase: round(seconds, 3) for phase, seconds in told.items()}


@dataclass(frozen=True)
class World:
    """What the server's side works with."""

    population: Population
    ledger: Ledger
    learn: Learning
    calibrate: Calibration


def _run(scenario: Scenario, store: Store, grid: SimulatedGrid, watch: Progress, clock: Clock) -> Result:
    watch.phase("data", None)
    population = made_ready(scenario, store)
    clock.lap("data")
    labels = [population.label(k) for k in range(len(population))]
    if _hands_out(scenario):
        _check_networks(scenario, population)
    ledger = Ledger(grid, labels, scenario.runtime.on_failure, watch.phase, scenario.runtime.timeout)
    roster = roster_of(population, scenario, store, watch)
    learn = strategies.learning(scenario.learn, roster)
    calibrate = strategies.calibration(scenario.calibrate, roster)
    for name, strategy in (("learn", learn), ("calibrate", calibrate)):
        strategy.start(ledger, ArrayRecord(), num_rounds=strategy.num_rounds)
        if len(ledger.missing) == len(population):
            raise ClientFailedError(f"every client is missing after {name}; the first: {ledger.missing[0]}")
        clock.lap(name)
    return _result(scenario, World(population, ledger, learn, calibrate), clock)


def made_ready(scenario: Scenario, store: Store) -> Population:
    """The scenario's data, reference set and clients, from the store or made now."""
    data = prepare(scenario.data, scenario.seed, store)
    if _hands_out(scenario):
        _check_can_be_handed_out(scenario, data)
    if not scenario.references:
        return populate(scenario, data, store)
    if len(data.shape) != 3:
        raise FlSimError(f"reference.sets holds images, and data.name = {scenario.data.name!r} has features")
    channels, height, width = data.shape
    return populate(scenario, data, store, refer(scenario.references, (channels, height, width), store))


def _check_can_be_handed_out(scenario: Scenario, data: Prepared) -> None:
    """Refuse what only the data themselves show: a user's own may be of any form."""
    for wrong, has in ((len(data.shape) != 3, "features"), (data.classes is None, "no classes")):
        if wrong:
            raise FlSimError(
                f"learn = {scenario.learn.name!r} hands out classes of images, and data.name = {scenario.data.name!r} "
                f"has {has}; choose other data"
            )


def _check_networks(scenario: Scenario, population: Population) -> None:
    """Build every network once, before the server learns for hours what a client then cannot."""
    data = population.data
    networks = {key: trained.architecture for key, trained in scenario.networks().items()}
    tiers = [scenario.clients.tier[i] for i in sorted(set(population.tiers.tolist()))]
    networks |= {f"clients.tier.{tier.name}.architecture": tier.architecture for tier in tiers}
    for key, architecture in networks.items():
        try:
            models.build(architecture, data.shape, data.num_classes or 1)
        except Exception as error:  # a user's own may raise anything
            raise FlSimError(
                f"{key} = {architecture!r} cannot be built for inputs of shape {data.shape}: "
                f"{type(error).__name__}: {error}"
            ) from error


def roster_of(population: Population, scenario: Scenario, store: Store, watch: Progress) -> Roster:
    """What the strategies of a scenario know of its clients; the server's desk where something is handed out."""
    everyone = range(len(population))
    tiers = [population.tier(k) for k in everyone]

    def initial(k: int) -> dict[str, Any]:
        recipe, data = population.recipe(population.tier(k), "federation"), population.data
        try:
            model = learning.initial(recipe, data.shape, learning.outputs_of(recipe, data.num_classes))
        except Exception as error:  # a user's own may raise anything
            what = f"architecture {recipe.architecture!r} cannot be built for inputs of shape {data.shape}"
            raise FlSimError(f"{what}: {type(error).__name__}: {error}") from error
        return dict(model.state_dict())

    return Roster(
        population=population.key, seed=scenario.seed, tiers=tuple(t.name for t in tiers),
        architectures=tuple(f"{t.architecture} {t.quantiles or ''}".strip() for t in tiers),
        num_train=tuple(len(population.client(k).train) for k in everyone), num_labels=population.num_bins,
        task="regression" if population.data.classes is None else "classification", test=scenario.clients.test,
        initial=initial, desk=_desk(population, scenario, store, watch) if _hands_out(scenario) else None,
    )  # fmt: skip


def _desk(population: Population, scenario: Scenario, store: Store, watch: Progress) -> Desk:
    counts = Counter(population.tiers.tolist())
    students = tuple(
        Student(partial(population.recipe, tier, contrast="image"), counts[i] / len(population))
        for i, tier in enumerate(scenario.clients.tier)
        if counts[i]
    )
    return Desk(
        data=population.data, reference=population.held, store=store, seed=scenario.seed, device=population.device,
        precision=population.precision, students=students, tested=population.tested, watch=watch,
    )  # fmt: skip


def _result(scenario: Scenario, world: World, clock: Clock) -> Result:
    ledger, calibrate = world.ledger, world.calibrate
    rows = client_rows(world.population, ledger, world.learn, calibrate)
    missing = ledger.missing
    calibrated = calibrate_metrics(rows, scenario, world.population, calibrate)
    clock.lap("write")
    return Result(scenario, rows, {
        "format": FORMAT,
        "scenario": scenario.plain(),
        "seed": scenario.seed,
        "classes": None if world.population.data.classes is None else list(world.population.data.classes),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "machine": {"system": platform.platform(), "cpus": os.cpu_count(), "device": world.population.device},
        "seconds": clock.table(),
        "clients": {
            "sent": len(rows), "ok": len(rows) - len(missing), "retried": len(ledger.retried), "failed": len(missing),
            "missing": [{"client": k, "reason": reason} for k, reason in missing.items()],
        },
        "learn": {
            "name": scenario.learn.name,
            "metrics": learn_metrics(rows, world.population, calibrate) | world.learn.metrics(),
            "detail": world.learn.detail(),
        },
        "calibrate": {
            "name": scenario.calibrate.name, "metrics": calibrated, "detail": calibrate.detail(),
        },
    }, world.learn.files())  # fmt: skip


@contextlib.contextmanager
def _environment(store: Store, *, verbose: bool) -> Iterator[None]:
    """Where the workers find the store, and how much Flower says, for the block."""
    before = os.environ.get("FL_SIM_STORE")
    flower = logging.getLogger("flwr")
    level = flower.level
    os.environ["FL_SIM_STORE"] = str(store.root.resolve())
    flower.setLevel(logging.INFO if verbose else logging.ERROR)
    try:
        yield
    finally:
        flower.setLevel(level)
        if before is None:
            del os.environ["FL_SIM_STORE"]
        else:
            os.environ["FL_SIM_STORE"] = before
