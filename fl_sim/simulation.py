"""Scenario -> Result: the one place that sees strategies and clients together."""

from __future__ import annotations

import contextlib
import json
import os
import platform
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fl_sim.conformal.calibrator_plan import FEDERATED
from fl_sim.data.reference import refer
from fl_sim.errors import ClientFailedError, FlSimError, log
from fl_sim.models import architectures
from fl_sim.names import OWN, own_object
from fl_sim.population.clients import Population, populate
from fl_sim.population.model_cache import untrained
from fl_sim.population.prepared_data import Prepared, prepare
from fl_sim.preflight import check
from fl_sim.results.metrics import agreed, calibrate_metrics, client_rows, learn_metrics
from fl_sim.results.run import FORMAT, Result
from fl_sim.results.thresholds import file_of as thresholds_file
from fl_sim.runtime import processor
from fl_sim.runtime.checked_grid import CheckedGrid
from fl_sim.runtime.choice import choose, remember
from fl_sim.runtime.grids import SimulatedGrid
from fl_sim.runtime.session import Session
from fl_sim.scenario.scenario import Scenario
from fl_sim.scenario.tables import Runtime, Tier
from fl_sim.server.context import ServerContext, Student
from fl_sim.store.artifacts import Store, users_store
from fl_sim.telemetry import Clock, spending
from strategies import calibration, learning, score_text, whose
from strategies.base import Calibration, Federation, Learning, Method
from strategies.families.agreement import CommonRows
from strategies.families.temperature import FederatedTemperature
from strategies.families.training import Broadcast

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
    where, why = choose([scenario], users_store(store))
    if why:
        log.info("%s", why)
    with simulator(where, scenario.clients.count, store=store, verbose=verbose) as run:
        return run(scenario, watch)


Simulator = Callable[[Scenario, Progress], Result]


@contextlib.contextmanager
def simulator(
    where: Runtime, max_clients: int, *, store: str | Path | None = None, verbose: bool = False, share: int = 1
) -> Iterator[Simulator]:
    """A runtime that is up for the block, as a function that runs scenarios on it. They must have passed `check`, and
    "auto" have been made into a runtime (`fl_sim.runtime.choice`); `share`: so many such share this machine, or the
    cluster."""
    with Session(where, max_clients, store=store, verbose=verbose, share=share) as session:
        yield partial(simulate_on, session)


def simulate_on(session: Session, scenario: Scenario, watch: Progress) -> Result:
    """Run a scenario that has passed `check` on a runtime that is up, or is starting while the data is made."""
    clock = session.clock()
    clock.lap("start")
    watch.phase("data", None)
    population = made_ready(scenario, session.store)
    if _hands_out(scenario):
        _check_networks(scenario, population)
    clock.lap("data")
    watch.phase("starting", None)

    def serve(grid: SimulatedGrid) -> Result:
        clock.lap("start")
        result = _run(scenario, population, session.store, grid, watch, clock)
        result.summary["machine"]["runtime"] = session.where.name
        return result

    return session.serve(serve, len(population), watch.done, partial(_need, scenario, population))


def _need(scenario: Scenario, population: Population) -> int:
    """Bytes of a GPU that one worker takes at most: all rows, and a step of the hungriest tier's training, as many
    models at once as it trains together."""
    from fl_sim.models.training import peak_bytes

    data = population.data
    own = population.trains_locally or getattr(scenario.learn, "per_client", False)

    def step(tier: Tier) -> int:
        peak = peak_bytes(population.recipe(tier, "footprint"), data.shape, data.num_classes)
        return peak * (population.cohort_size(tier) if own else 1)

    return data.inputs.size * np.dtype(np.float32).itemsize + max(map(step, population.clients.tier))


def _hands_out(scenario: Scenario) -> bool:
    name = scenario.learn.name
    return scenario.learn.strategy.hands_out or (
        OWN.match(name) is not None and issubclass(own_object(name), Broadcast)
    )


@dataclass(frozen=True)
class World:
    """What the server's side works with."""

    population: Population
    checked_grid: CheckedGrid
    learn: Learning
    calibrate: Calibration
    temperature: FederatedTemperature | None = None
    asked: CommonRows | None = None  # about common rows, where the scenario wants to know how far clients agree


def _run(
    scenario: Scenario, population: Population, store: Store, grid: SimulatedGrid, watch: Progress, clock: Clock
) -> Result:
    labels = [population.label(k) for k in range(len(population))]
    checked_grid = CheckedGrid(grid, labels, scenario.runtime.on_failure, watch.phase, scenario.runtime.timeout)
    federation = federation_of(population, scenario, store, watch)
    learn = learning(scenario.learn, federation)
    calibrate, temperature = calibration(scenario.calibrate, federation), None
    with spending() as own:  # what the server itself trains and predicts
        _start("learn", learn, checked_grid)
        remember(scenario, store)
        if scenario.calibrate.calibrator == FEDERATED:
            temperature = FederatedTemperature(federation, score_text(scenario.calibrate))
            _start("temperature", temperature, checked_grid)
            calibrate = calibration(scenario.calibrate, federation, temperature.temperature)
        _start("calibrate", calibrate, checked_grid)
        if temperature is not None:
            temperature.book_on(calibrate)
        asked = _asked(scenario, federation, calibrate, checked_grid)
    clock.lap("aggregate", checked_grid.seconds, own)
    return _result(scenario, World(population, checked_grid, learn, calibrate, temperature, asked), clock)


def _start(name: str, method: Method, checked_grid: CheckedGrid) -> None:
    with whose(type(method)):
        method.start(checked_grid)
    if len(checked_grid.missing) == checked_grid.num_clients:
        raise ClientFailedError(f"every client is missing after {name}; the first: {checked_grid.missing[0]}")


def _as_json(method: Method, what: str) -> Any:
    """What a method says of itself for `result.json`, which must be JSON values."""
    with whose(type(method)):
        values = getattr(method, what)()
        json.dumps(values, allow_nan=False)
    return values


def _asked(
    scenario: Scenario, federation: Federation, calibrate: Calibration, checked_grid: CheckedGrid
) -> CommonRows | None:
    """Every client's answers on the common rows, where the scenario asks for them."""
    if scenario.agreement is None:
        return None
    asked = CommonRows(federation, scenario.agreement.rows, calibrate.score, calibrate.align, calibrate.thresholds)
    asked.start(checked_grid)
    if len(asked.reports) < 2:
        raise ClientFailedError(
            f"{len(asked.reports)} of {len(federation.tiers)} clients answered on the common rows: agreement takes "
            "two; leave [agreement] out"
        )
    return asked


def made_ready(scenario: Scenario, store: Store) -> Population:
    """The scenario's data, reference set and clients, from the store or made now."""
    data = prepare(scenario.data, scenario.seed, store)
    scenario.check_data(None if data.classes is None else len(data.classes))
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
    if len(data.shape) != 3:
        raise FlSimError(
            f"learn = {scenario.learn.name!r} hands out classes of images, and data.name = {scenario.data.name!r} "
            "has features; choose other data"
        )


def _check_networks(scenario: Scenario, population: Population) -> None:
    """Build every network once, before the server learns for hours what a client then cannot."""
    data = population.data
    networks = {key: trained.architecture for key, trained in scenario.networks().items()}
    tiers = [scenario.clients.tier[i] for i in sorted(set(population.tiers.tolist()))]
    networks |= {f"clients.tier.{tier.name}.architecture": tier.architecture for tier in tiers}
    for key, architecture in networks.items():
        try:
            architectures.build(architecture, data.shape, data.num_classes or 1)
        except Exception as error:  # a user's own may raise anything
            raise FlSimError(
                f"{key} = {architecture!r} cannot be built for inputs of shape {data.shape}: "
                f"{type(error).__name__}: {error}"
            ) from error


def federation_of(population: Population, scenario: Scenario, store: Store, watch: Progress) -> Federation:
    """What the strategies of a scenario know of its clients, and the server's server."""
    tiers = [population.clients.tier[i] for i in population.tiers.tolist()]

    def initial(k: int) -> dict[str, Any]:
        recipe, data = population.recipe(population.tier(k), "federation"), population.data
        try:
            model = untrained(recipe, data)
        except Exception as error:  # a user's own may raise anything
            what = f"architecture {recipe.architecture!r} cannot be built for inputs of shape {data.shape}"
            raise FlSimError(f"{what}: {type(error).__name__}: {error}") from error
        return dict(model.state_dict())

    return Federation(
        population=population.key, seed=scenario.seed, tiers=tuple(t.name for t in tiers),
        architectures=tuple(f"{t.architecture} {t.quantiles or ''}".strip() for t in tiers),
        num_train=tuple(population.sizes("train").tolist()), num_labels=population.num_bins,
        task="regression" if population.data.classes is None else "classification", test=scenario.clients.test,
        one_law_a_tier=scenario.one_law_a_tier, cohorts=lambda: population.cohorts.tolist(), initial=initial,
        recipe=lambda k, purpose: population.recipe(population.tier(k), purpose),
        server=_server_context(population, scenario, store, watch),
    )  # fmt: skip


def _server_context(population: Population, scenario: Scenario, store: Store, watch: Progress) -> ServerContext:
    counts = Counter(population.tiers.tolist())
    students = tuple(
        Student(partial(population.recipe, tier, contrast="image"), counts[i] / len(population))
        for i, tier in enumerate(scenario.clients.tier)
        if counts[i]
    )
    return ServerContext(
        data=population.data, reference=population.reference_set, store=store, seed=scenario.seed,
        device=population.device, precision=population.precision, students=students, tested=population.tested,
        watch=watch,
    )  # fmt: skip


def _result(scenario: Scenario, world: World, clock: Clock) -> Result:
    checked_grid, calibrate = world.checked_grid, world.calibrate
    rows = client_rows(world.population, checked_grid, world.learn, calibrate)
    missing = checked_grid.missing
    calibrated = calibrate_metrics(rows, scenario, world.population, calibrate)
    agreement = None if world.asked is None else agreed(world.population, scenario, world.asked)
    if agreement is not None:
        rows = [row | {"disagreement": agreement.by_client.get(row["client"])} for row in rows]
    before = {} if world.temperature is None else {"federated_temperature": world.temperature.detail()}
    each_class = thresholds_file(calibrate.thresholds, world.population.data.classes or ())
    clock.lap("write")
    return Result(scenario, rows, {
        "format": FORMAT,
        "scenario": scenario.plain(),
        "seed": scenario.seed,
        "classes": None if world.population.data.classes is None else list(world.population.data.classes),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "machine": {
            "system": platform.platform(), "cpus": os.cpu_count(), "device": world.population.device,
            "processor": processor.kind(),
        },
        "seconds": clock.table(),
        "clients": {
            "sent": len(rows), "ok": len(rows) - len(missing), "retried": len(checked_grid.retried),
            "failed": len(missing),
            "missing": [{"client": k, "reason": reason} for k, reason in missing.items()],
        },
        "notes": list(checked_grid.notes),
        "learn": {
            "name": scenario.learn.name,
            "metrics": learn_metrics(rows, world.population, calibrate) | _as_json(world.learn, "metrics"),
            "detail": _as_json(world.learn, "detail"),
        },
        "calibrate": {
            "name": scenario.calibrate.name, "metrics": calibrated, "detail": _as_json(calibrate, "detail") | before,
            "caveats": _as_json(calibrate, "caveats"),
        },
        **({} if agreement is None else {"agreement": agreement.summary}),
    }, world.learn.files() | ({} if agreement is None else agreement.files) | each_class)  # fmt: skip
