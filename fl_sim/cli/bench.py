"""What this machine does in half a minute, and how many clients a minute that lets one expect.

Every figure comes from whole scenarios on the runtime that a run would use, in a store of their own that is deleted
afterwards, so that nothing is found ready-made and nothing is left. What clients cost is a line a + bK through two runs
with different numbers of clients K; how many these are follows from the time there is.
"""

from __future__ import annotations

import itertools
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_sim.data import Dataset, glyphs
from fl_sim.errors import FlSimError, ScenarioError
from fl_sim.models.recipe import Recipe
from fl_sim.models.stacked_training import cohort_size
from fl_sim.preflight import check
from fl_sim.results.run import Result
from fl_sim.scenario.scenario import Scenario
from fl_sim.scenario.tables import Runtime
from fl_sim.scenario.toml import override
from fl_sim.simulation import Progress, simulator
from fl_sim.store.artifacts import Store, default_root

SECONDS = 4.0  # for a line: four of them and the start-up make half a minute on two processors
FIRST = {"shared": 20, "own": 4}  # clients of a line's first run, at least
WAVES = 2  # cohorts that every worker trains in the first run of a line with models of the clients' own
MOST_CLIENTS = 1000
MOST_ROWS = 350_000  # of 784 bytes
ROOM = 4e9  # bytes of disk, about twice what the runs keep there
DRAWN = 2000  # glyphs that are drawn; where more rows are wanted they come again, which no client minds
CALIBRATION, TEST, TRAIN, EPOCHS = 100, 50, 500, 5  # of each client
WARM = 10  # training rows of each client of the first run
ARCHITECTURES = ("linear", "mlp", "cnn")

NOTES = (
    f"One-shot: a client has {CALIBRATION} calibration and {TEST} test rows of 28 x 28, is calibrated and tested. With "
    f"a model of its own it first trains that, on {TRAIN} rows for {EPOCHS} epochs.",
    "A client's time is what one more costs, all workers together; in brackets, how many clients the runs had. One "
    f"number: no time, or no room ({MOST_ROWS:,} rows), for a second run; that one's time is divided by its clients.",
    "1,000 clients: that line drawn on, with the start-up. Making the data and training shared models are not in it.",
)

Tables = dict[str, Any]
Run = Callable[[Tables], Result]


@dataclass(frozen=True)
class Figure:
    """One thing that was measured, and what it lets one expect, where it is of clients."""

    what: str
    measured: str
    a_minute: float | None = None  # clients
    thousand: float | None = None  # seconds that 1,000 clients take


@dataclass(frozen=True)
class Line:
    """Seconds of K clients, `fixed` + `more` K, as runs of `counts` clients say."""

    fixed: float
    more: float
    counts: tuple[int, ...]

    @classmethod
    def through(cls, *points: tuple[int, float]) -> Line:
        """Through the last two points (clients, seconds); through the origin and the last one where there is no other
        one, or where more clients took less time.

        >>> Line.through((10, 3.0), (20, 4.0))
        Line(fixed=2.0, more=0.1, counts=(10, 20))
        """
        (clients, seconds), others = points[-1], points[-2:-1]
        for fewer, less in others:
            if seconds > less:
                more = (seconds - less) / (clients - fewer)
                return cls(max(0.0, less - more * fewer), more, (fewer, clients))
        return cls(0.0, seconds / clients, (clients,))


def repeated_glyphs(count: int, image_size: int | None, seed: int) -> Dataset:
    """`count` images (28 x 28, if no size is said), the same few again and again; a data set for `data.name`."""
    images, labels = _drawn(image_size or 28)
    again = np.arange(count) % DRAWN
    return Dataset(images[again], labels[again], tuple(glyphs.CHARACTERS))


@cache
def _drawn(size: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    return glyphs.render(DRAWN, size, 0)


# ---------------------------------------------------------------------------------------------------------- measuring


def bench(settings: Sequence[str], watch: Progress) -> tuple[str, list[Figure]]:
    """Where it was measured, in words, and what.

    Args:
        settings: `runtime.KEY=VALUE`, as a scenario has them.
        watch: is told of phases and of clients that have answered.

    Raises:
        ScenarioError: another setting, or one that cannot be.
        FlSimError: there is no room on the disk, or the runtime cannot be started here.
    """
    runtime = _runtime(settings)
    store = Store(default_root())  # on the disk that runs use
    root = store.root
    free = shutil.disk_usage(root).free
    if free < ROOM:
        raise FlSimError(
            f"--bench needs {ROOM / 1e9:.2g} GB for a while in {root}, and {free / 1e9:.2g} GB are free; free some, or "
            "set FL_SIM_STORE to a folder with more room"
        )
    _drawn(28)  # now: while the data is made, the runtime would start unseen
    watch.phase("starting", None)
    seeds = itertools.count()  # another for every run, so that none finds anything in the store
    with (
        store.scratch() as place,
        simulator(runtime, MOST_CLIENTS, store=place) as simulate,
    ):

        def run(tables: Tables) -> Result:
            return simulate(
                Scenario.of(tables | {"seed": next(seeds), "runtime": runtime.model_dump(mode="json")}), watch
            )

        begun = run(_one_shot(FIRST["shared"]))
        machine, workers = begun.summary["machine"], _workers(runtime)
        waves = {name: workers * _together(name, machine["device"]) for name in ARCHITECTURES}
        run(_warm_up(min(MOST_CLIENTS, len(waves) * max(waves.values()))))
        at = f"on {machine['cpus']} processors" if runtime.address is None else f"at {runtime.address}"
        return f"{runtime.name} {at}, clients on {machine['device']}", list(_figures(run, begun, waves))


def _runtime(settings: Sequence[str]) -> Runtime:
    for setting in settings:
        if not setting.startswith("runtime."):
            raise ScenarioError(f"{setting}: --bench has a world of its own; say runtime.KEY=VALUE")
    scenario: Scenario = Scenario.of(override(_one_shot(1), settings))
    if scenario.runtime.name == "flower":
        raise ScenarioError("runtime.name = 'flower': starts anew with every run; --bench measures ray or inline")
    check(scenario)
    where = scenario.runtime
    return where.model_copy(update={"name": "ray"}) if where.name == "auto" else where


def _workers(runtime: Runtime) -> int:
    """How many clients work at once, at most; asked once the runtime is up, because only Ray knows what is at an
    address. Where GPUs are shared out by memory it may be fewer."""
    if runtime.name == "inline":
        return 1
    from fl_sim.runtime.cluster import room

    return max(1, room(runtime.cpus_per_client, runtime.gpus_per_client or 0.0))


def _together(architecture: str, device: str) -> int:
    """How many clients of `_own` are trained as one cohort."""
    recipe = Recipe(architecture, EPOCHS, 1e-3, 64, None, 0, "", device, "float32")
    return cohort_size("auto", recipe, (1, 28, 28), len(glyphs.CHARACTERS))


def _figures(run: Run, begun: Result, waves: dict[str, int]) -> Iterator[Figure]:
    """`waves`: architecture -> clients that give every worker one cohort."""
    start = begun.summary["seconds"]["start"]
    yield Figure("start-up", f"{start:.1f} s")
    shared = _line(run, FIRST["shared"], CALIBRATION + TEST, _one_shot)
    yield _clients("one-shot, shared models", shared, start)
    for name, wave in waves.items():
        first = max(FIRST["own"], WAVES * wave)
        own = _line(run, first, CALIBRATION + TEST + TRAIN, partial(_own, name), wave)
        yield _clients(f"one-shot, own {name}", own, start)


def _line(run: Run, first: int, rows: int, tables: Callable[[int], Tables], wave: int = 1) -> Line:
    """More clients at each run, while there is time; each of them has so many rows.

    Runs are whole waves, in which every worker has as much to do: with fewer cohorts than workers, more clients would
    take no longer. Where even the first run is larger than there is room for, there is one as large as may be, and the
    line goes through the origin.
    """
    most = min(MOST_CLIENTS, MOST_ROWS // rows)
    ends, clients, points = time.perf_counter() + SECONDS, min(first, most), []
    while True:
        began = time.perf_counter()
        seconds = run(tables(clients)).summary["seconds"]
        points.append((clients, max(0.001, seconds["total"] - seconds["start"] - seconds["data"])))  # told to 1 ms
        now = time.perf_counter()
        there_is_time = int(0.6 * (ends - now) / (now - began) * clients)  # 0.6: the last run may have been a lucky one
        larger = min(most, max(there_is_time, 2 * clients if len(points) == 1 and now < ends else 0))
        larger -= larger % wave
        if larger < 2 * clients:
            return Line.through(*points)
        clients = larger


def _clients(what: str, line: Line, start: float) -> Figure:
    counts = ", ".join(f"{count:,}" for count in line.counts)
    measured = f"{about(1000 * line.more)} ms a client ({counts})"
    return Figure(what, measured, 60 / line.more, start + line.fixed + 1000 * line.more)


def about(value: float) -> str:
    """To two digits, without an exponent: more would promise too much.

    >>> about(1234.5), about(12.345), about(0.01234)
    ('1,200', '12', '0.012')
    """
    rounded = float(f"{value:.2g}")
    return f"{rounded:,.{max(0, 1 - math.floor(math.log10(rounded)))}f}"


# --------------------------------------------------------------------------------------------------------- scenarios


def _one_shot(clients: int) -> Tables:
    """The models are shared, untrained, and none of the clients' cost."""
    tiers = [_tier("linear", 0, 0.5), _tier("cnn", 0)]
    rows = {"train": 100, "calibration": CALIBRATION * clients, "test": TEST * clients}
    return _world(clients, "shared", tiers, rows)


def _own(architecture: str, clients: int) -> Tables:
    rows = {"train": TRAIN * clients, "calibration": CALIBRATION * clients, "test": TEST * clients}
    return _world(clients, "own", [_tier(architecture, EPOCHS)], rows)


def _warm_up(clients: int) -> Tables:
    """Every worker meets every architecture, so that what it loads then is nobody's cost later."""
    tiers = [_tier(name, 1, 1 / len(ARCHITECTURES)) for name in ARCHITECTURES]
    rows = {"train": WARM * clients, "calibration": clients, "test": clients}
    return _world(clients, "own", tiers, rows)


def _world(clients: int, learn: str, tiers: list[Tables], rows: dict[str, int]) -> Tables:
    return {
        "data": {"name": "fl_sim.cli.bench:repeated_glyphs", **rows},
        "clients": {"count": clients, "tier": tiers},
        "learn": {"name": learn},
        "calibrate": {"name": "fedwq-cp", "alpha": 0.1, "score": "lac"},
    }


def _tier(architecture: str, epochs: int, share: float | None = None) -> Tables:
    return {"name": architecture, "architecture": architecture, "epochs": epochs, "share": share}
