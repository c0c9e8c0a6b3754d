"""Federated averaging by the round: ours, Flower's runtime, pfl-research where it is installed, and the floor.

    .venv/bin/python benchmarks/fedavg.py                           200 clients, 50 a round, 8 rounds, three times
    .venv/bin/python benchmarks/fedavg.py --pfl PATH/bin/python     with pfl-research, in an interpreter that has it
    .venv/bin/python benchmarks/fedavg.py --rounds 3 --repeats 1 --ways floor ray

A small CNN on Fashion-MNIST: 50,000 training rows over 200 clients (Dirichlet 0.5, so that clients differ in size),
five local epochs, batches of 64, Adam at 0.001. What is compared is the steady round: the median of rounds 2 to R of
each command, then the median of the commands, which are run in turn. The first round starts workers and loads data.

*floor*     a bare PyTorch loop on persistent processes of one thread each (`ordinary/bare.py`): weights in shared
            memory, clients handed out one by one, the largest first, one vector a process at the end of a round
*ray*       `simulate` of ours, on as many actors; a fresh store each time, so that no round is found there
*flower*    `simulate` of ours on Flower's own runtime
*ordinary*  Flower's own runtime and strategy with the app that an ordinary user writes, after Flower's PyTorch
            quickstart (`ordinary/averaging.py`)
*pfl*       pfl-research on as many processes under torchrun (`ordinary/pfl_averaging.py`)

All begin with the same weights, have the same rows on the same clients and train the same clients in the same rounds.
The accuracy is that of the last global model on the clients' test rows; ways differ in it by the order of batches.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import measuring
import numpy as np

WAYS = ("floor", "ray", "flower", "ordinary", "pfl")
HERE = Path(__file__).resolve().parent


def scenario(options: argparse.Namespace, runtime: str = "inline") -> Any:
    """The world."""
    from fl_sim import Scenario

    cores = max(1.0, (os.cpu_count() or 1) / options.processes)
    return Scenario.load(
        "fashion", f"data.train={options.train}", "data.calibration=2_000", f"clients.count={options.clients}",
        "clients.tier.weak.share=0.0", f"clients.tier.strong.epochs={options.epochs}", "learn=fedavg",
        f"learn.rounds={options.rounds}", f"learn.fraction={options.cohort / options.clients}",
        f"runtime.name={runtime}",
        "runtime.device=cpu", f"runtime.cpus_per_client={cores}",
    )  # fmt: skip


def ours(options: argparse.Namespace, runtime: str) -> dict[str, Any]:
    """Seconds of each round of `simulate`, from its messages to those of the next, and the accuracy."""
    from fl_sim import simulate

    stamps = measuring.Stamps()
    result = simulate(scenario(options, runtime), progress=stamps)
    return {"rounds": stamps.lasted("train"), "accuracy": result.learn["accuracy"]}


def ordinary(options: argparse.Namespace) -> dict[str, Any]:
    """The same of Flower's runtime with an ordinary app."""
    from ordinary import averaging, calibration

    return calibration.simulate(
        averaging.app, options.clients, lambda grid: averaging.serve(grid, options.rounds), cores=1
    )


def prepare(options: argparse.Namespace, master: Path, folder: Path) -> None:
    """The store with data and clients, and what the rivals read."""
    import torch
    from ordinary import preparing

    from fl_sim.models import training
    from fl_sim.population import prepared_data as preparation
    from fl_sim.population.clients import populate
    from fl_sim.store.artifacts import Store

    world, store = scenario(options), Store(master)
    prepared = preparation.prepare(world.data, world.seed, store)
    people = populate(world, prepared, store)
    preparing.write_images(folder)
    preparing.write_partition(folder, people, preparing.published_rows(prepared))
    preparing.write_arrays(folder, people, draws(options, people, world.seed), options.epochs)
    recipe = people.recipe(people.tier(0), "federation")
    torch.save(training.initial(recipe, prepared.shape, 10).state_dict(), folder / "initial.pt")


def draws(options: argparse.Namespace, people: Any, seed: int) -> np.ndarray:
    """Who trains in each round, (rounds, cohort), drawn as `strategies/fedavg.py` draws.

    Raises:
        SystemExit: a client has no training row, so that the cohort would be another.
    """
    from fl_sim.randomness import stream

    able = [k for k in range(len(people)) if len(people.client(k).train)]
    if len(able) < len(people):
        sys.exit(f"{len(people) - len(able)} clients have no training row; take fewer clients or more rows")
    rounds = range(1, options.rounds + 1)
    return np.array([sorted(stream(seed, "fedavg", r, 0).permutation(able)[: options.cohort].tolist()) for r in rounds])


def timed(way: str, options: argparse.Namespace, master: Path, folder: Path) -> measuring.Done:
    """A whole command; it tells the seconds of each round and the accuracy."""
    with tempfile.TemporaryDirectory() as place:
        store = Path(place) / "store"
        shutil.copytree(master, store)
        environment = {"FL_SIM_STORE": str(store), "FASHION_MNIST": str(folder), "RAY_DEDUP_LOGS": "0"}
        return measuring.command(words_of(way, options, folder), environment=environment, cwd=place)


def words_of(way: str, options: argparse.Namespace, folder: Path) -> list[str]:
    """The command of a way."""
    if way == "floor":
        return [sys.executable, str(HERE / "ordinary" / "bare.py"), str(folder), str(options.processes)]
    if way == "pfl":
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(options.processes)]
        return [options.pfl, *torchrun, str(HERE / "ordinary" / "pfl_averaging.py"), str(folder)]
    sizes = ("clients", "cohort", "rounds", "epochs", "train", "processes")
    return [sys.executable, __file__, "--do", way, *(f"--{name}={getattr(options, name)}" for name in sizes)]


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--cohort", type=int, default=50, help="clients a round")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument(
        "--epochs", type=int, default=5,
        help="local ones, as in McMahan et al. (2017); with fewer messages weigh more",
    )  # fmt: skip
    parser.add_argument(
        "--train", type=int, default=50_000,
        help="training rows in all. 50,000 are 250 a client and a floor of one to two seconds a round, as in practice; "
        "with fewer rows messages weigh more",
    )  # fmt: skip
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="actors, or processes of a rival")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="the floor always is")
    parser.add_argument("--pfl", metavar="PYTHON", help="an interpreter with pfl-research; without one it is left out")
    parser.add_argument("--do", help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.rounds < 2 or not 1 <= options.cohort <= options.clients:
        parser.error("at least 2 rounds are needed, and a cohort of 1 to all clients")
    options.ways = [way for way in WAYS if way in {"floor", *options.ways} and (way != "pfl" or options.pfl)]
    return options


def main() -> None:
    """Print the table."""
    options = arguments()
    if options.do:
        print(json.dumps(ordinary(options) if options.do == "ordinary" else ours(options, options.do)))
        return
    timings: dict[str, list[measuring.Done]] = {way: [] for way in options.ways}
    with tempfile.TemporaryDirectory() as place:
        master, folder = Path(place) / "store", Path(place) / "images"
        prepare(options, master, folder)
        for repeat in range(options.repeats):
            for way in options.ways:
                timings[way].append(timed(way, options, master, folder))
                print(f"{repeat + 1}, {way}: {steady(timings[way][-1]):.2f} s a round", file=sys.stderr)
    print(f"{measuring.machine()}; {options.processes} processes, medians of {options.repeats}")
    print_table(options, timings)


def steady(done: measuring.Done) -> float:
    """Seconds of a steady round: the median without the first."""
    return statistics.median(done.printed["rounds"][1:])


def print_table(options: argparse.Namespace, timings: dict[str, list[measuring.Done]]) -> None:
    """A row a way."""
    base = statistics.median(map(steady, timings["floor"]))

    def cells(way: str) -> list[str]:
        mine = statistics.median(map(steady, timings[way]))
        first = statistics.median(done.printed["rounds"][0] for done in timings[way])
        whole = statistics.median(done.seconds for done in timings[way])
        accuracy = statistics.median(done.printed["accuracy"] for done in timings[way])
        steady_one, first_one, whole_one = map(measuring.seconds, (mine, first, whole))
        return [way, steady_one, f"{mine / base:.3f}", first_one, whole_one, f"{accuracy:.4f}"]

    rounds = f"{options.clients} clients, {options.cohort} a round, rounds 2 to {options.rounds}"
    head = ["way", "steady round", "/ floor", "first round", "whole command", f"accuracy after {options.rounds} rounds"]
    measuring.table(head, map(cells, options.ways), rounds)
    if len(options.ways) < len(WAYS):
        print(f"\nNot run: {', '.join(way for way in WAYS if way not in options.ways)}.")


if __name__ == "__main__":
    main()
