"""One-shot calibration and evaluation of K clients as whole commands: ours, Flower's runtime, and the floor.

    .venv/bin/python benchmarks/one_shot.py                 K = 100, 500, 1000, 5000, three times each
    .venv/bin/python benchmarks/one_shot.py 1000 5000       other numbers of clients
    .venv/bin/python benchmarks/one_shot.py 100 --repeats 1

Fashion-MNIST, 20,000 calibration and 10,000 test rows over K clients (Dirichlet 0.5), half of them with a linear model,
half with a small CNN, both trained beforehand: what is timed is FedWQ-CP's one round and everybody's test, from the
start of a Python process to its end, without predictions in the store. The commands are run in turn, so that a busy
moment meets all of them.

*floor*          the same arithmetic and nothing else: each model once over the rows, thresholds and counts in NumPy
*auto*, *inline*, *ray*  `simulate` as anybody calls it; *auto* is the default
*ordinary*       Flower's own simulation with the app that an ordinary user writes, after Flower's PyTorch quickstart
                 (`benchmarks/ordinary/calibration.py`): the server sends each client its model's weights, the client
                 builds the network, loads them and predicts its rows of torchvision's FashionMNIST by a DataLoader;
                 with Flower's own defaults, by which a client takes two cores
*tuned*          the same with one core a client, as who reads the runtime's source will set it
*maps*           a harder rival: Flower's simulation, and clients that read inputs and models from our memory maps and
                 predict with our code; each still computes by itself; one core a client

The rivals are run up to K = 1,000: Flower's dispatcher is quadratic in K. The memory is the peak of all processes that
the command started (sum of their proportional sets, every 0.5 s), in a run of its own that is not timed.

The exchanges alone are taken on the server, from an exchange's first message to its last reply. *First exchanges* end
when all are calibrated. Whatever the workers import and load while the server waits for them is in it, for every way;
ours also has its learn rounds there, in which each model is asked about all rows. *Last exchange* is the evaluation of
all K clients by workers that are warm: the rivals load and ask their models once more, ours and the floor count. Ours
are told by the server's progress, and end where the next exchange begins and where results are written, so that checks
and averages are in them; the rivals' are taken around Flower's send_and_receive alone.

All but *ordinary* and *tuned* end with the same coverage, to the digit. These divide pixels by 255 before they
standardise them, and take their softmax in float32; their coverage must be within 0.0005.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import measuring
import numpy as np

MOST_ON_FLOWER = 1000
OURS = ("auto", "inline", "ray")
ORDINARY = ("ordinary", "tuned")
ON_FLOWER = (*ORDINARY, "maps")
WAYS = ("floor", *OURS, *ON_FLOWER)
ALPHA = 0.05
CLOSE = 0.0005  # how near the coverage of the ordinary app must come
RAY_STARTS = 9.0  # seconds that the whole command on ray may take beside twice the floor
LAST = "evaluate"  # how the type of the last exchange's messages begins
EXCHANGES = ("train", "query", LAST)
Exchanged = tuple[float, float, float]  # coverage; seconds of the first exchanges, and of the last


def scenario(count: int, runtime: str = "inline", *overrides: str) -> Any:
    """The world of K clients."""
    from fl_sim import Scenario

    fixed = (f"clients.count={count}", f"runtime.name={runtime}", f"calibrate.alpha={ALPHA}")
    return Scenario.load("fashion", *fixed, *overrides)


# --------------------------------------------------------------------------------------------- what each command does


class Stamps(measuring.Stamps):
    """The two exchanges of a run."""

    def exchanges(self, phases: dict[str, float]) -> tuple[float, float]:
        """Seconds from the first message to the evaluation's, and from there until results are written; a run's account
        counts from the first phase."""
        first = next(at for name, at in self.begun if name.partition(".")[0] in EXCHANGES)
        last = next(at for name, at in self.begun if name.partition(".")[0] == LAST)
        return last - first, self.begun[0][1] + phases["total"] - phases["write"] - last


def ours(count: int, runtime: str, *overrides: str) -> Exchanged:
    """`simulate` as anybody calls it."""
    from fl_sim import simulate

    stamps = Stamps()
    result = simulate(scenario(count, runtime, *overrides), progress=stamps)
    return (result.calibrate["coverage"], *stamps.exchanges(result.summary["seconds"]))


@functools.cache  # once a process, also in the workers of `maps`
def world(count: int) -> tuple[Any, Any, dict[str, str]]:
    """The store, the clients and their models' keys; made by `prepare_store`."""
    from fl_sim.population.clients import populate
    from fl_sim.population.prepared_data import prepare
    from fl_sim.store.artifacts import Store

    run_scenario, store = scenario(count), Store(Path(os.environ["FL_SIM_STORE"]))
    population = populate(run_scenario, prepare(run_scenario.data, run_scenario.seed, store), store)
    return store, population, json.loads((store.root / "models.json").read_text())


def floor(count: int) -> Exchanged:
    """Each model once over all rows, then NumPy."""
    from fl_sim.population.model_cache import outputs_on

    store, people, keys = world(count)
    begun = time.perf_counter()
    first, last = people.data.evaluated
    rows = np.arange(first, last)
    labels = np.array(people.data.targets[first:last])
    scores = {tier: lac(outputs_on(store, key, people.data, rows), labels) for tier, key in keys.items()}
    clients = [people.client(k) for k in range(count)]
    scores_by_client = [
        (scores[c.tier.name][c.calibration - first], scores[c.tier.name][c.test - first]) for c in clients
    ]
    shared = weighted_mean([(threshold(mine), len(mine)) for mine, _ in scores_by_client if len(mine)])
    calibrated = time.perf_counter()
    coverage = sum(int((test <= shared).sum()) for _, test in scores_by_client) / sum(
        len(test) for _, test in scores_by_client
    )
    return coverage, calibrated - begun, time.perf_counter() - calibrated


def lac(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """1 - p_y of logits (n, classes) and labels (n,)."""
    logits = outputs.astype(np.float64)
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    return 1 - exp[np.arange(len(labels)), labels] / exp.sum(axis=1)


def threshold(scores: np.ndarray) -> float:
    """The ceil((n + 1)(1 - alpha))-th smallest score, the largest where there are too few."""
    n = len(scores)
    rank = min(n, -(-(n + 1) * 95 // 100))
    return float(np.partition(scores, rank - 1)[rank - 1])


def weighted_mean(pairs: list[tuple[float, int]]) -> float:
    """FedWQ-CP's: sum of n_k q_k over sum of n_k, in exact fractions as ours is."""
    from fractions import Fraction

    return float(sum(Fraction(q) * n for q, n in pairs) / sum(n for _, n in pairs))


def ordinary(count: int, cores: int | None = None) -> Exchanged:
    """Flower's runtime, and the app that an ordinary user writes; `cores` a client, or as many as Flower gives it."""
    from ordinary import calibration

    exchanged: Exchanged = calibration.simulate(
        calibration.app, count, lambda grid: calibration.serve(grid, ALPHA), cores
    )
    return exchanged


def maps(count: int) -> Exchanged:
    """Flower's runtime, and clients on our memory maps, each computing by itself."""
    from flwr.app import Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid
    from ordinary import calibration

    client = ClientApp()

    def scores(context: Context, split: str) -> np.ndarray:
        import one_shot  # this script is sent to the workers by value; what is imported there stays

        from fl_sim.population.model_cache import outputs_on

        store, people, keys = one_shot.world(count)
        mine = people.client(int(context.node_config["partition-id"]))
        rows = getattr(mine, split)
        return lac(outputs_on(store, keys[mine.tier.name], people.data, rows), np.array(people.data.targets[rows]))

    @client.query()
    def calibrate(message: Message, context: Context) -> Message:
        mine = scores(context, "calibration")
        report = {"threshold": threshold(mine) if len(mine) else 0.0, "n": len(mine)}
        return Message(RecordDict({"metrics": MetricRecord(report)}), reply_to=message)

    @client.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        mine = scores(context, "test")
        covered = int((mine <= message.content["asked"]["threshold"]).sum())
        return Message(RecordDict({"metrics": MetricRecord({"covered": covered, "n": len(mine)})}), reply_to=message)

    def server(grid: Grid) -> Exchanged:
        while len(nodes := list(grid.get_node_ids())) < count:
            time.sleep(0.1)
        thresholds = calibration.ask(grid, nodes, "query", [RecordDict()] * count)
        shared = weighted_mean([(t["threshold"], t["n"]) for t in thresholds if t["n"]])
        content = RecordDict({"asked": MetricRecord({"threshold": shared})})
        counts = calibration.ask(grid, nodes, "evaluate", [content] * count)
        first, last = calibration.ask.seconds
        return sum(t["covered"] for t in counts) / sum(t["n"] for t in counts), first, last

    exchanged: Exchanged = calibration.simulate(client, count, server, cores=1)
    return exchanged


# ------------------------------------------------------------------------------------------------------- what is timed


def prepare_store(root: Path) -> None:
    """Data and both trained models, and which model is which tier's."""
    from fl_sim.population.clients import populate
    from fl_sim.population.model_cache import trained
    from fl_sim.population.prepared_data import prepare
    from fl_sim.runtime.choice import remember
    from fl_sim.store.artifacts import Store

    store, run_scenario = Store(root), scenario(100)
    data = prepare(run_scenario.data, run_scenario.seed, store)
    people = populate(run_scenario, data, store)
    rows = data.rows("train")
    remember(run_scenario, store)  # what `auto` looks for
    keys = {t.name: trained(store, data, people.recipe(t, "shared"), rows) for t in run_scenario.clients.tier}
    (root / "models.json").write_text(json.dumps(keys))


def prepare_images(master: Path, folder: Path) -> np.ndarray:
    """Images and models as the ordinary app reads them; the published row of each row of the prepared data, (n,)."""
    import torch
    from ordinary import preparing

    from fl_sim.population.model_cache import load_model
    from fl_sim.population.prepared_data import prepare
    from fl_sim.store.artifacts import Store

    store, run_scenario = Store(master), scenario(100)
    data = prepare(run_scenario.data, run_scenario.seed, store)
    preparing.write_images(folder)
    for tier, key in json.loads((master / "models.json").read_text()).items():
        torch.save(load_model(store, key, data)[0].state_dict(), folder / f"{preparing.MODELS[tier]}.pt")
    return preparing.published_rows(data)


def prepare_partition(master: Path, folder: Path, count: int, rows: np.ndarray) -> None:
    """The clients of a world of K as the ordinary app reads them."""
    from ordinary import preparing

    from fl_sim.population.clients import populate
    from fl_sim.population.prepared_data import prepare
    from fl_sim.store.artifacts import Store

    run_scenario = scenario(count)
    with tempfile.TemporaryDirectory() as place:
        shutil.copytree(master, Path(place) / "store")
        store = Store(Path(place) / "store")
        preparing.write_partition(
            folder, populate(run_scenario, prepare(run_scenario.data, run_scenario.seed, store), store), rows
        )


def timed(
    way: str, count: int, master: Path, images: Path | None = None, *, weigh: bool = False,
    overrides: Sequence[str] = (),
) -> measuring.Done:  # fmt: skip
    """A whole command, from a store that holds data and models only; it tells what it was `Exchanged`."""
    with tempfile.TemporaryDirectory() as place:
        store = Path(place) / "store"
        shutil.copytree(master, store, ignore=shutil.ignore_patterns("outputs", "population"))
        environment = {"FL_SIM_STORE": str(store), "RAY_DEDUP_LOGS": "0"}
        if images is not None:
            environment["FASHION_MNIST"] = str(images)
        words = [sys.executable, str(Path(__file__).resolve()), str(count), "--do", way, *overrides]
        return measuring.command(words, environment=environment, cwd=place, weigh=weigh)


class Figures:
    """What one number of clients took, by way."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.commands: dict[str, list[float]] = {}
        self.first: dict[str, list[float]] = {}
        self.last: dict[str, list[float]] = {}
        self.coverage: dict[str, float] = {}
        self.peak: int | None = None

    def add(self, way: str, done: measuring.Done) -> None:
        """One run of one way."""
        self.coverage[way], first, last = done.printed
        for seconds, table in ((done.seconds, self.commands), (first, self.first), (last, self.last)):
            table.setdefault(way, []).append(seconds)

    def median(self, way: str, of: str = "commands") -> float | None:
        """Seconds of the whole command, or of its "first" exchanges, or the "last"; None for what was not run."""
        taken = getattr(self, of).get(way)
        return statistics.median(taken) if taken else None

    def check(self) -> None:
        """All ways found the same."""
        exact = {way: coverage for way, coverage in self.coverage.items() if way not in ORDINARY}
        assert len(set(exact.values())) == 1, self.coverage
        assert all(abs(coverage - exact["floor"]) <= CLOSE for coverage in self.coverage.values()), self.coverage


def measured(count: int, options: argparse.Namespace, master: Path, images: Path, rows: np.ndarray) -> Figures:
    """All ways at one number of clients, in turn."""
    figures = Figures(count)
    ways = [way for way in options.ways if way not in ON_FLOWER or count <= options.most_on_flower]
    if set(ways) & set(ORDINARY):
        prepare_partition(master, images, count, rows)
    for repeat in range(options.repeats):
        for way in ways:
            figures.add(way, timed(way, count, master, images))
            print(f"K = {count}, {repeat + 1}, {way}: {figures.commands[way][-1]:.2f} s", file=sys.stderr)
    figures.check()
    if "ray" in ways:
        figures.peak = timed("ray", count, master, images, weigh=True).peak
    return figures


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("counts", nargs="*", type=int, default=[100, 500, 1000, 5000], help="numbers of clients")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="the floor always is")
    parser.add_argument("--most-on-flower", type=int, default=MOST_ON_FLOWER, metavar="K")
    parser.add_argument("--do", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    options.ways = [way for way in WAYS if way in {"floor", *options.ways}]
    return options


def main() -> None:
    """Print the tables: whole commands, exchanges alone, memory, and what another client costs."""
    options = arguments()
    if options.do:
        way, *overrides = options.do
        tuned = functools.partial(ordinary, cores=1)
        work = {"floor": floor, "ordinary": ordinary, "tuned": tuned, "maps": maps}.get(way)
        print(json.dumps(work(options.counts[0]) if work else ours(options.counts[0], way, *overrides)))
        return
    with tempfile.TemporaryDirectory() as place:
        master, images = Path(place) / "store", Path(place) / "images"
        prepare_store(master)
        rows = prepare_images(master, images)
        figures = [measured(count, options, master, images, rows) for count in options.counts]
    print(f"{measuring.machine()}; medians of {options.repeats}")
    print_commands(figures)
    print_exchanges(figures)
    print_memory(figures)
    print_slopes(figures)


def print_commands(figures: list[Figures]) -> None:
    """Whole commands."""

    def cells(one: Figures) -> list[str]:
        of = {way: one.median(way) for way in WAYS}
        ray, base = of["ray"], of["floor"] or 0.0
        return [
            f"{one.count:,}", *(measuring.seconds(of[way]) for way in WAYS), measuring.ratio(of["auto"], base),
            measuring.ratio(of["inline"], base),
            measuring.ratio(ray, base), "-" if ray is None else f"{ray - 2 * base:.1f} s",
            *(measuring.ratio(of[way], of[mine]) for mine in OURS for way in ORDINARY), f"{one.coverage['floor']:.4f}",
        ]  # fmt: skip

    head = ["K", *WAYS, "auto / floor", "inline / floor", "ray / floor", f"ray - 2 floor (≤ {RAY_STARTS:g} s)"]
    title = "Whole commands"
    ratios = [f"{way} / {mine}" for mine in OURS for way in ORDINARY]
    measuring.table([*head, *ratios, "coverage"], map(cells, figures), title)


def print_exchanges(figures: list[Figures]) -> None:
    """The exchanges alone, a row a way."""

    def cells(one: Figures, way: str) -> list[str]:
        row_cells = [f"{one.count:,}", way]
        for of in ("first", "last"):
            mine = one.median(way, of)
            over = None if way in ON_FLOWER else one.median("ordinary", of)
            row_cells += [measuring.seconds(mine), measuring.ratio(over, mine)]
        return row_cells

    first, last = "first exchanges (with the workers' start)", "last exchange (evaluation of K clients, workers warm)"
    head = ["K", "way", first, "ordinary / this", last, "ordinary / this"]
    rows = [cells(one, way) for one in figures for way in WAYS if way in one.commands]
    measuring.table(head, rows, "Exchanges alone")
    print("\nOurs asks every model about all rows in the first exchanges, the rivals about a client's in both.")


def print_memory(figures: list[Figures]) -> None:
    """The memory of ours, and how far off the ordinary app's coverage is."""

    def cells(one: Figures) -> list[str]:
        off = one.coverage.get("ordinary")
        apart = "-" if off is None else f"{off - one.coverage['floor']:+.4f}"
        return [f"{one.count:,}", measuring.gigabytes(one.peak), apart]

    head = ["K", "peak memory, ray", "ordinary's coverage less ours"]
    measuring.table(head, map(cells, figures), "Memory and coverage")


def print_slopes(figures: list[Figures]) -> None:
    """What another client costs: the slope over all numbers of clients."""
    counts = [one.count for one in figures]
    if len(set(counts)) < 2 or any(one.median("ray") is None for one in figures):
        return

    def cells(name: str, of: str) -> list[str]:
        taken = [one.median("ray", of) for one in figures]
        fit = measuring.line(counts, taken)
        return [
            name, f"{fit.intercept:.2f} s", f"{fit.slope * 1000:.3f} ± {fit.slope_error * 1000:.3f} ms",
            f"{fit.r_squared:.4f}", " ".join(f"{100 * part:+.1f} %" for part in fit.residuals),
        ]  # fmt: skip

    head = ["ray", "a", "b, a client", "R²", "residuals"]
    rows = [cells("whole command", "commands"), cells("first exchanges", "first"), cells("last exchange", "last")]
    measuring.table(head, rows, "a + b K by least squares")


if __name__ == "__main__":
    main()
