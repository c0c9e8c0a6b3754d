"""Time and memory against clients, actors and rounds.

    .venv/bin/python benchmarks/scaling.py                               all parts
    .venv/bin/python benchmarks/scaling.py --parts clients --counts 10 100 1000 --repeats 1
    .venv/bin/python benchmarks/scaling.py --parts noop memory --figure scaling.png

*clients*  the one-shot world of `one_shot.py` as a whole command on ray, K from 10 to 10,000 clients, and its peak
           memory (all processes, in a run of its own that is not timed), beside the floor; a + b K by least squares
           through the medians, with the residuals in % of what was measured. The rows are the same 30,000 at every K,
           so a is all that is computed and b what a client costs
*actors*   the same with one world on 1, 2, ... as many actors as there are cores (runtime.cpus_per_client)
*noop*     one round of clients that return two numbers: 1,000 and 10,000 clients on 2 actors of our ray runtime, all in
           this process (`inline`), and Flower's own runtime with 100 and 1,000 (it is quadratic); medians of rounds
           after warm-up, each from the making of its messages to its last reply
*memory*   100 rounds in one run on 2 actors, after 400 to warm up: of the no-op, and of what federated averaging
           moves (weights go out, are kept by the client, and come back); after rounds 10, 20, ... the driver's and the
           actors' own memory (anonymous pages) and Ray's object store (shared pages), with lines through all of them
           and through the last half, and their standard errors. A leak is a slope of many standard errors that does
           not fade

Each part runs its ways in turn, in processes of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import measuring
import numpy as np

PARTS = ("clients", "actors", "noop", "memory")
NOOP = {"ray": (1_000, 10_000), "inline": (1_000, 10_000), "flower": (100, 1_000)}
ACTORS = 2
WARM_UP = 3  # rounds
PLACES = "driver", "actors", "object store"


# ------------------------------------------------------------------------------------------------------ clients, actors


class Point(NamedTuple):
    """What one number of clients, or of actors, took."""

    x: int
    ray: float  # seconds of the whole command
    rounds: float  # of its exchanges alone, with the workers' start
    floor: float | None  # seconds of the floor's whole command
    peak: int  # bytes


def against_clients(options: argparse.Namespace, master: Path) -> list[Point]:
    """The one-shot world, whole commands."""
    from one_shot import timed

    def point(count: int) -> Point:
        ray, floor = in_turn(options.repeats, [partial(timed, way, count, master) for way in ("ray", "floor")])
        return made(count, ray, floor, timed("ray", count, master, weigh=True).peak)

    points = [point(count) for count in options.counts]
    print_points("K", "Clients: one-shot world, whole commands", points)
    print_fit("s", {"ray": [p.ray for p in points], "ray, exchanges alone": [p.rounds for p in points]}, options.counts)
    print_fit("MB", {"peak memory": [p.peak / 1e6 for p in points]}, options.counts)
    return points


def against_actors(options: argparse.Namespace, master: Path) -> list[Point]:
    """One world on more and more actors."""
    from one_shot import timed

    cores = os.cpu_count() or 1
    numbers = sorted({min(2**i, cores) for i in range(cores.bit_length() + 1)})
    ways = [partial(timed, "ray", options.clients, master, overrides=(per_client(n, cores),)) for n in numbers]
    taken = in_turn(options.repeats, ways)
    points = [made(n, done, [], way(weigh=True).peak) for n, way, done in zip(numbers, ways, taken, strict=True)]
    print_points("actors", f"Actors: {options.clients:,} clients, whole commands", points)
    return points


def per_client(actors: int, cores: int) -> str:
    """The override that makes so many actors."""
    return f"runtime.cpus_per_client={cores / actors}"


def in_turn(repeats: int, ways: Sequence[Callable[[], measuring.Done]]) -> list[list[measuring.Done]]:
    """Each way so many times, one after another."""
    taken: list[list[measuring.Done]] = [[] for _ in ways]
    for _ in range(repeats):
        for mine, way in zip(taken, ways, strict=True):
            mine.append(way())
    return taken


def made(x: int, ray: list[measuring.Done], floor: list[measuring.Done], peak: int | None) -> Point:
    """Medians."""
    figures = Point(
        x, statistics.median(d.seconds for d in ray), statistics.median(sum(d.printed[1:]) for d in ray),
        statistics.median(d.seconds for d in floor) if floor else None, peak or 0,
    )  # fmt: skip
    print(f"{x}: ray {figures.ray:.2f} s, {figures.peak / 1e6:.0f} MB", file=sys.stderr)
    return figures


def print_points(name: str, title: str, points: list[Point]) -> None:
    """A row a point."""

    def cells(p: Point) -> list[str]:
        seconds = (p.ray, p.rounds, p.floor)
        return [
            f"{p.x:,}",
            *map(measuring.seconds, seconds),
            measuring.ratio(p.ray, p.floor),
            measuring.gigabytes(p.peak),
        ]

    head = [name, "ray", "exchanges alone", "floor", "ray / floor", "peak memory, ray"]
    measuring.table(head, map(cells, points), title)


def print_fit(unit: str, series: dict[str, list[float]], counts: Sequence[int]) -> None:
    """a + b K through each series."""
    if len(set(counts)) < 2:
        return

    def cells(name: str, values: list[float]) -> list[str]:
        fit = measuring.line(counts, values)
        off = " ".join(f"{100 * part:+.1f}" for part in fit.residuals)
        slope = f"{1000 * fit.slope:.4g} ± {1000 * fit.slope_error:.2g}"
        return [name, f"{fit.intercept:.3g} {unit}", f"{slope} {unit}", f"{fit.r_squared:.4f}", off]

    head = ["", "a", "b for 1,000 clients", "R²", f"residuals in %, K = {', '.join(f'{k:,}' for k in counts)}"]
    measuring.table(head, [cells(*item) for item in series.items()], "a + b K by least squares")


# ---------------------------------------------------------------------------------------------------------------- no-op


def noop_rounds(where: str, count: int, rounds: int) -> list[float]:
    """Seconds of each round after the warm-up."""

    def work(grid: Any) -> list[float]:
        return [one_round(grid, "query.noop")[0] for _ in range(WARM_UP + rounds)][WARM_UP:]

    if where == "flower":
        return on_flower(count, work)
    return work(inline_grid(count)) if where == "inline" else on_ray(count, work)


def one_round(grid: Any, kind: str, content: Any = None) -> tuple[float, set[int]]:
    """Its seconds, and the processes that answered.

    Raises:
        RuntimeError: a client did not answer, or with an error.
    """
    from flwr.app import Message, RecordDict

    start = time.perf_counter()
    shared = RecordDict() if content is None else content
    messages = [Message(shared, dst_node_id=node, message_type=kind) for node in grid.get_node_ids()]
    replies = list(grid.send_and_receive(messages, timeout=600))
    seconds = time.perf_counter() - start
    bad = [reply for reply in replies if reply.has_error()]
    if bad or len(replies) < len(messages):
        raise RuntimeError(f"{len(replies)} of {len(messages)} answered: {bad[0].error.reason if bad else ''}")
    return seconds, {reply.content["told"]["process"] for reply in replies}


def inline_grid(count: int) -> Any:
    """All clients in this process."""
    from fl_sim.runtime.inline import InlineGrid

    return InlineGrid("noop:app", count, 600.0)


def on_ray(count: int, work: Callable[[Any], Any]) -> Any:
    """What `work` makes of our Grid on ACTORS actors."""
    from fl_sim.runtime.cluster import cluster
    from fl_sim.runtime.ray import RayGrid

    each = {"num_cpus": (os.cpu_count() or 1) / ACTORS, "num_gpus": 0.0}
    with cluster(None, verbose=False):
        grid = RayGrid(
            "noop:app", count, num_actors=ACTORS, client_timeout=600.0, resources=each
        )  # fmt: skip
        while len(one_round(grid, "query.noop")[1]) < min(ACTORS, count):  # until all actors have started
            time.sleep(0.1)
        result = work(grid)
        grid.close()
    return result


def on_flower(count: int, work: Callable[[Any], Any]) -> Any:
    """What `work` makes of Flower's own grid, once all nodes are there."""
    import noop
    from ordinary.calibration import simulate

    def serve(grid: Any) -> Any:
        while len(list(grid.get_node_ids())) < count:
            time.sleep(0.1)
        return work(grid)

    return simulate(noop.app, count, serve)


def noop(options: argparse.Namespace) -> None:
    """The table of no-op rounds."""
    ways = [(where, count) for where, counts in NOOP.items() for count in counts if count <= options.most]
    taken: dict[tuple[str, int], list[float]] = {way: [] for way in ways}
    for _ in range(options.repeats):
        for where, count in ways:
            rounds = done_here("noop", where, count, options.noop_rounds).printed
            taken[where, count].append(statistics.median(rounds))
            print(f"no-op, {where}, {count}: {taken[where, count][-1]:.3f} s", file=sys.stderr)
    seconds = {way: statistics.median(each) for way, each in taken.items()}

    def cells(where: str, count: int) -> list[str]:
        mine = seconds[where, count]
        ratio = measuring.ratio(mine, seconds.get(("ray", count)))
        return [where, f"{count:,}", measuring.seconds(mine), f"{1e6 * mine / count:.0f} µs", ratio]

    title = f"No-op rounds: {ACTORS} actors, medians of {options.noop_rounds} rounds after {WARM_UP}"
    measuring.table(["runtime", "clients", "a round", "a client", "/ ray"], [cells(*way) for way in ways], title)


# --------------------------------------------------------------------------------------------------------------- memory


def memory_of(kind: str, count: int, rounds: int, warm_up: int) -> list[tuple[int, ...]]:
    """(round, and bytes of each of PLACES) after every tenth part of the rounds that follow the warm-up."""
    from flwr.app import Array, ArrayRecord, RecordDict

    def content() -> RecordDict:  # anew each round, as a server's weights are
        if kind == "noop":
            return RecordDict()
        return RecordDict({"arrays": ArrayRecord({"weights": Array(np.zeros(100_000, np.float32))})})

    def work(grid: Any) -> list[tuple[int, ...]]:
        sizes = []
        for number in range(1 - warm_up, rounds + 1):
            one_round(grid, f"query.{kind}", content())
            if number > 0 and number % max(1, rounds // 10) == 0:
                sizes.append((number, *weighed()))
        return sizes

    return on_ray(count, work)


def weighed() -> tuple[int, int, int]:
    """Bytes of each of PLACES now."""
    everyone = measuring.marked(os.environ[measuring.MARK])
    actors = [pid for pid in everyone if measuring.name_of(pid).startswith("ray::Actor")]
    own = [measuring.pss(pid, "Pss_Anon") for pid in actors]
    return measuring.pss(os.getpid(), "Pss_Anon"), sum(own), sum(measuring.pss(pid, "Pss_Shmem") for pid in everyone)


def memory(options: argparse.Namespace) -> dict[str, list[list[int]]]:
    """The table of memory against rounds."""
    kinds = ("noop", "average")
    sizes = (options.memory_clients, options.memory_rounds, options.memory_warm_up)
    taken = {kind: done_here("memory", kind, *sizes).printed for kind in kinds}

    def slope(rows: list[list[int]], place: int) -> str:
        fit = measuring.line([row[0] for row in rows], [row[1 + place] / 1e3 for row in rows])
        return f"{fit.slope:+.1f} ± {fit.slope_error:.1f} kB"

    def cells(kind: str, place: int) -> list[str]:
        rows = taken[kind]
        sizes = " ".join(f"{row[1 + place] / 1e6:.0f}" for row in rows)
        return [kind, PLACES[place], sizes, slope(rows, place), slope(rows[len(rows) // 2 :], place)]

    when = ", ".join(str(row[0]) for row in taken["noop"])
    title = f"Memory against rounds: {options.memory_clients} clients, {ACTORS} actors"
    head = ["round", "of", f"MB after round {when}", "a round", "a round of the last half"]
    measuring.table(head, [cells(kind, place) for kind in kinds for place in range(len(PLACES))], title)
    return taken


# ------------------------------------------------------------------------------------------------------------ the whole


def done_here(what: str, way: str, *numbers: int) -> measuring.Done:
    """This script as a command that does one thing."""
    words = [sys.executable, str(Path(__file__).resolve()), "--do", what, way, *map(str, numbers)]
    with tempfile.TemporaryDirectory() as place:
        environment = {"FL_SIM_STORE": place, "RAY_DEDUP_LOGS": "0"}
        return measuring.command(words, environment=environment, cwd=place)


def draw(file: Path, clients: list[Point], rounds: dict[str, list[list[int]]]) -> None:
    """What was measured as curves: seconds and memory against clients, memory against rounds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    _, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    counts = [point.x for point in clients]
    for axes, unit, values in (
        (left, "seconds", [p.ray for p in clients]), (middle, "peak memory (GB)", [p.peak / 1e9 for p in clients]),
    ):  # fmt: skip
        axes.plot(counts, values, "o")
        axes.set(xlabel="clients", ylabel=unit)
        if len(set(counts)) > 1:
            fit = measuring.line(counts, values)
            axes.plot(counts, [fit.of(k) for k in counts], label=f"{fit.intercept:.2g} + {1000 * fit.slope:.2g} K/1000")
            axes.legend(frameon=False)
        axes.set_ylim(bottom=0)
    for kind, rows in rounds.items():
        for place, name in enumerate(PLACES):
            right.plot([r[0] for r in rows], [r[1 + place] / 1e6 for r in rows], "o-", label=f"{kind}, {name}")
    right.set(xlabel="rounds", ylabel="memory (MB)")
    right.set_ylim(bottom=0)
    if rounds:
        right.legend(frameon=False)
    plt.savefig(file, dpi=150)


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--counts", nargs="+", type=int, default=[10, 100, 300, 1000, 3000, 10_000], metavar="K")
    parser.add_argument("--clients", type=int, default=1000, metavar="K", help="of the part actors")
    parser.add_argument("--noop-rounds", type=int, default=10, help="rounds a no-op run after its warm-up")
    parser.add_argument("--most", type=int, default=10_000, metavar="K", help="leave out larger no-op rounds")
    parser.add_argument("--memory-rounds", type=int, default=100)
    parser.add_argument("--memory-warm-up", type=int, default=400, help="rounds before the first that is weighed")
    parser.add_argument("--memory-clients", type=int, default=200)
    parser.add_argument("--figure", type=Path, metavar="FILE", help="a PNG of clients and rounds")
    parser.add_argument("--do", nargs="+", help=argparse.SUPPRESS)
    return parser.parse_args(words)


def main() -> None:
    """Print the tables of the parts that are wanted."""
    options = arguments()
    if options.do:
        what, way, *numbers = options.do
        work: Callable[..., Any] = noop_rounds if what == "noop" else memory_of
        print(json.dumps(work(way, *map(int, numbers))))
        return
    print(f"{measuring.machine()}; medians of {options.repeats}")
    points: list[Point] = []
    with tempfile.TemporaryDirectory() as place:
        master = Path(place) / "store"
        if {"clients", "actors"} & set(options.parts):
            from one_shot import prepare_store

            prepare_store(master)
        if "clients" in options.parts:
            points = against_clients(options, master)
        if "actors" in options.parts:
            against_actors(options, master)
    if "noop" in options.parts:
        noop(options)
    rounds = memory(options) if "memory" in options.parts else {}
    if options.figure:
        draw(options.figure, points, rounds)


if __name__ == "__main__":
    main()
