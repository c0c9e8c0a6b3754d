"""Two hundred clients each training a model of its own from one PLADA payload: one by one, and in cohorts.

    .venv/bin/python benchmarks/students.py           all tiers, on the CPU, and on a GPU where torch sees one
    .venv/bin/python benchmarks/students.py --devices cuda --runtimes inline --repeats 1
    .venv/bin/python benchmarks/students.py --tiers mlp --clients 20 --epochs 3

All on embedded data: handwritten digits as 413 labels over 41,000 rendered characters, made once beforehand by a small
teacher and a named rule, without a rehearsal. A tier is an architecture: `linear`, `mlp`, `cnn`. What is timed is the
one exchange in which every client trains its student (and predicts its few test rows), from its first message to its
last answer. Students of another seed have been trained for an epoch on the same runtime before, two cohorts a worker
(as many as there are clients, at most), so that every worker, its kernels and its decoded payload are warm. No student
is in the store.

*alone*        `fl_sim.population.model_cache.student` in a loop, one client after another, in this process; no
               messages, no store
*inline, ray*  `simulate` with learn.name = "plada", learn.per_client = true; `cohort` is the tier's setting of that
               name: 1 is one by one, "auto" the measured choice, n so many in a stack

Printed are clients a minute, medians of runs in turn, and their ratios to one by one on the same runtime and device.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import measuring

TIERS = ("linear", "mlp", "cnn")
WARM = 1000  # the seed of the students that are trained beforehand
ALONE = "alone"
FEW = 8  # students trained beforehand, at least


class Way(NamedTuple):
    """How students are trained."""

    runtime: str  # or ALONE
    cohort: str

    def __str__(self) -> str:
        return self.runtime if self.runtime == ALONE else f"{self.runtime}, cohort {self.cohort}"


def scenario(options: argparse.Namespace, device: str, tier: str, way: Way, *overrides: str) -> Any:
    """The world; every client is of the tier called strong, which has that architecture."""
    from fl_sim import Scenario

    runtime = "inline" if way.runtime == ALONE else way.runtime
    return Scenario.load(
        "plada-then-fedwqcp", f"clients.count={options.clients}", "clients.tier.weak.share=0.0",
        f"clients.tier.strong.architecture={tier}", f"clients.tier.strong.epochs={options.epochs}", "learn.rule=random",
        "learn.keep_fraction=0.01", "learn.per_client=true", "learn.teacher.epochs=5", "calibrate=none",
        "data.calibration=1", f"clients.tier.strong.cohort={way.cohort}", f"runtime.name={runtime}",
        f"runtime.device={device}", *overrides,
    )  # fmt: skip


# -------------------------------------------------------------------------------------------------------- what is timed


def prepare(options: argparse.Namespace, device: str, master: Path) -> None:
    """Data, reference set, payload and transfer set of both seeds."""
    from fl_sim import simulate

    for seed in (0, WARM):
        few = ("clients.count=1", "clients.tier.strong.epochs=1", f"seed={seed}")
        simulate(scenario(options, device, "linear", Way("inline", "1"), *few), store=master)


def through_simulate(options: argparse.Namespace, device: str, tier: str, way: Way, store: Path) -> float:
    """Clients a minute."""
    from fl_sim.preflight import check
    from fl_sim.simulation import simulator

    world, warm = scenario(options, device, tier, way), warmed(options, device, tier, way)
    check(world)
    with simulator(world.runtime, options.clients, store=store) as run:
        few = (f"clients.count={warm}", "clients.tier.strong.epochs=1", f"seed={WARM}")
        run(scenario(options, device, tier, way, *few), measuring.Stamps())
        watch = measuring.Stamps()
        run(world, watch)
    return 60 * options.clients / sum(watch.lasted("payload"))


def warmed(options: argparse.Namespace, device: str, tier: str, way: Way) -> int:
    """Clients trained before the clock starts: at least two cohorts for each worker, of which there is no more than one
    a processor, where there are so many clients."""
    if options.warm is not None:
        return min(options.clients, options.warm)
    from fl_sim.models.stacked_training import AUTO, AUTO_GPU

    auto = AUTO.get(tier, 1) if device == "cpu" else AUTO_GPU
    workers = (os.cpu_count() or 1) if way.runtime == "ray" else 1
    return min(options.clients, max(FEW, 2 * workers * (auto if way.cohort == "auto" else int(way.cohort))))


def alone(options: argparse.Namespace, device: str, tier: str, store: Path) -> float:
    """Clients a minute, by the first `--alone` of them."""
    from clients.behaviour import own_recipe
    from fl_sim.population.model_cache import student
    from fl_sim.simulation import made_ready
    from fl_sim.store.artifacts import Store

    artifacts = Store(store)
    people = made_ready(scenario(options, device, tier, Way(ALONE, "1")), artifacts)
    transfer = transfer_set(artifacts)

    def train(name: str, k: int) -> None:
        student(people.data, own_recipe(people.client(k), people, f"{name} {k}", "image"), transfer)

    for k in range(min(warmed(options, device, tier, Way(ALONE, "1")), options.alone)):
        train("warm", k)
    synchronise(device)
    start = time.perf_counter()
    for k in range(options.alone):
        train("student of client", k)
    synchronise(device)
    return 60 * options.alone / (time.perf_counter() - start)


def transfer_set(store: Any) -> Any:
    """One of the decoded payloads; those of the two seeds are alike in size."""
    from fl_sim.population.model_cache import TransferSet

    key = min(place.name for place in (store.root / "transfer").iterdir())
    arrays = store.open("transfer", key).arrays
    return TransferSet(key, arrays["images"], arrays["labels"], arrays.get("soft"), arrays.get("levels"))


def synchronise(device: str) -> None:
    """Wait for a GPU, which computes while Python goes on."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def measured(options: argparse.Namespace, device: str, tier: str, way: Way, master: Path) -> float:
    """Clients a minute, from a store without students."""
    with tempfile.TemporaryDirectory() as place:
        store = Path(place) / "store"
        shutil.copytree(master, store, ignore=shutil.ignore_patterns("model", "outputs"))
        if way.runtime == ALONE:
            return alone(options, device, tier, store)
        return through_simulate(options, device, tier, way, store)


# ------------------------------------------------------------------------------------------------------------ the table


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=30, help="of a student")
    parser.add_argument("--tiers", nargs="+", choices=TIERS, default=list(TIERS))
    parser.add_argument(
        "--devices", nargs="+", choices=("cpu", "cuda"), help="default: cpu, and cuda where there is one"
    )
    parser.add_argument("--runtimes", nargs="+", choices=("inline", "ray"), default=["inline", "ray"])
    parser.add_argument("--cohorts", nargs="+", default=["1", "auto"], help="1, auto, or a number of clients")
    parser.add_argument("--alone", type=int, default=40, metavar="N", help="clients that the bare loop trains")
    parser.add_argument(
        "--warm", type=int, metavar="N", help="clients trained before the clock starts; default: two cohorts a worker"
    )
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args(words)


def main() -> None:
    """Print a table a device."""
    import torch

    options = arguments()
    devices = options.devices or ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    ways = [Way(ALONE, "1"), *(Way(runtime, cohort) for runtime in options.runtimes for cohort in options.cohorts)]
    print(measuring.machine())
    if "cuda" not in devices:
        print("No GPU was measured.")
    for device in devices:
        with tempfile.TemporaryDirectory() as place:
            master = Path(place) / "store"
            prepare(options, device, master)
            rows = [(tier, rates(options, device, tier, ways, master)) for tier in options.tiers]
        print_table(options, device, ways, rows)


def rates(options: argparse.Namespace, device: str, tier: str, ways: list[Way], master: Path) -> dict[Way, float]:
    """Clients a minute by way, medians of runs in turn."""
    seconds: dict[Way, list[float]] = {way: [] for way in ways}
    for repeat in range(options.repeats):
        for way in ways:
            seconds[way].append(measured(options, device, tier, way, master))
            print(f"{device}, {tier}, {repeat + 1}, {way}: {seconds[way][-1]:.0f} a minute", file=sys.stderr)
    return {way: statistics.median(each) for way, each in seconds.items()}


def print_table(
    options: argparse.Namespace, device: str, ways: list[Way], rows: list[tuple[str, dict[Way, float]]]
) -> None:
    """Rates, and each runtime's cohorts over its first."""
    first = {runtime: Way(runtime, options.cohorts[0]) for runtime in options.runtimes}
    compared = [way for way in ways if way.runtime != ALONE and way != first[way.runtime]]

    def cells(tier: str, by_way: dict[Way, float]) -> list[str]:
        ratios = [f"{by_way[way] / by_way[first[way.runtime]]:.2f}" for way in compared]
        return [tier, *(f"{by_way[way]:,.0f}" for way in ways), *ratios]

    head = ["tier", *map(str, ways), *(f"{way} / cohort {options.cohorts[0]}" for way in compared)]
    title = (
        f"{device}: clients a minute; {options.clients} clients, {options.epochs} epochs, medians of {options.repeats}"
    )
    measuring.table(head, [cells(*row) for row in rows], title)


if __name__ == "__main__":
    main()
