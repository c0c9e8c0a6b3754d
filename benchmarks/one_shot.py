"""One-shot calibration and evaluation of K clients as whole commands: ours, Flower's runtime, and the floor.

    .venv/bin/python benchmarks/one_shot.py                 K = 100, 500, 1000, three times each
    .venv/bin/python benchmarks/one_shot.py 1000 5000       other numbers of clients
    .venv/bin/python benchmarks/one_shot.py 100 --repeats 1

Fashion-MNIST, 20,000 calibration and 10,000 test rows over K clients (Dirichlet 0.5), half of them with a linear model,
half with a small CNN, both trained beforehand: what is timed is FedWQ-CP's one round and everybody's test, from the
start of a Python process to its end, without predictions in the store. The commands are run in turn, so that a busy
moment meets all of them.

*floor*: the same arithmetic and nothing else: each model once over the rows, thresholds and counts in NumPy.
*flower*: Flower's own simulation with the app that an ordinary user writes: a client loads its model, predicts its own
rows and answers (up to K = 1,000: its dispatcher is quadratic in K). All four end with the same coverage, to the digit.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

MOST_ON_FLOWER = 1000
WAYS = ("floor", "inline", "ray", "flower")
ALPHA = 0.05


def scenario(count: int, runtime: str = "inline"):
    """The world of K clients."""
    from fl_sim import Scenario

    return Scenario.load("fashion", f"clients.count={count}", f"runtime.name={runtime}", f"calibrate.alpha={ALPHA}")


# --------------------------------------------------------------------------------------------- what each command does


def ours(count: int, runtime: str) -> float:
    """`simulate` as anybody calls it."""
    from fl_sim import simulate

    return simulate(scenario(count, runtime)).calibrate["coverage"]


def world(count: int):
    """The clients and their models' keys; made by `prepare`."""
    from clients.population import populate
    from fl_sim.artifacts import Store
    from fl_sim.data.prepare import prepare

    told, store = scenario(count), Store(Path(os.environ["FL_SIM_STORE"]))
    population = populate(told, prepare(told.data, told.seed, store), store)
    return store, population, json.loads((store.root / "models.json").read_text())


def floor(count: int) -> float:
    """Each model once over all rows, then NumPy."""
    from fl_sim.trained import outputs_on

    store, people, keys = world(count)
    first, last = people.data.evaluated
    rows = np.arange(first, last)
    labels = np.array(people.data.targets[first:last])
    scores = {}
    for tier, key in keys.items():
        logits = outputs_on(store, key, people.data, rows).astype(np.float64)
        exp = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores[tier] = 1 - exp[np.arange(len(rows)), labels] / exp.sum(axis=1)
    clients = [people.client(k) for k in range(count)]
    told = [(scores[c.tier.name][c.calibration - first], scores[c.tier.name][c.test - first]) for c in clients]
    pairs = [(threshold(mine), len(mine)) for mine, _ in told if len(mine)]
    shared = weighted_mean(pairs)
    return sum(int((test <= shared).sum()) for _, test in told) / sum(len(test) for _, test in told)


def threshold(scores: np.ndarray) -> float:
    """The ceil((n + 1)(1 - alpha))-th smallest score, the largest where there are too few."""
    n = len(scores)
    rank = min(n, -(-(n + 1) * 95 // 100))
    return float(np.partition(scores, rank - 1)[rank - 1])


def weighted_mean(pairs: list[tuple[float, int]]) -> float:
    """FedWQ-CP's: sum of n_k q_k over sum of n_k, in exact fractions as ours is."""
    from fractions import Fraction

    return float(sum(Fraction(q) * n for q, n in pairs) / sum(n for _, n in pairs))


def flower(count: int) -> float:
    """Flower's runtime, and the app that an ordinary user writes."""
    import warnings

    from flwr.app import Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
    from flwr.simulation import run_simulation

    client, server = ClientApp(), ServerApp()
    outcome: list[float] = []

    def scores(context: Context, split: str) -> np.ndarray:
        from fl_sim.trained import outputs_on

        store, people, keys = world(count)
        mine = people.client(int(context.node_config["partition-id"]))
        rows = getattr(mine, split)
        logits = outputs_on(store, keys[mine.tier.name], people.data, rows).astype(np.float64)
        exp = np.exp(logits - logits.max(axis=1, keepdims=True))
        return 1 - exp[np.arange(len(rows)), np.array(people.data.targets[rows])] / exp.sum(axis=1)

    @client.query()
    def calibrate(message: Message, context: Context) -> Message:
        mine = scores(context, "calibration")
        told = {"threshold": threshold(mine) if len(mine) else 0.0, "n": len(mine)}
        return Message(RecordDict({"told": MetricRecord(told)}), reply_to=message)

    @client.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        mine = scores(context, "test")
        covered = int((mine <= message.content["asked"]["threshold"]).sum())
        return Message(RecordDict({"told": MetricRecord({"covered": covered, "n": len(mine)})}), reply_to=message)

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        while len(list(grid.get_node_ids())) < count:
            time.sleep(0.1)
        nodes = list(grid.get_node_ids())

        def everybody(kind: str, content: RecordDict) -> list[dict]:
            sent = [Message(content, dst_node_id=node, message_type=kind) for node in nodes]
            return [dict(reply.content["told"]) for reply in grid.send_and_receive(sent, timeout=3600)]

        told = everybody("query", RecordDict())
        shared = weighted_mean([(t["threshold"], t["n"]) for t in told if t["n"]])
        found = everybody("evaluate", RecordDict({"asked": MetricRecord({"threshold": shared})}))
        outcome.append(sum(t["covered"] for t in found) / sum(t["n"] for t in found))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        quiet = {"address": "local", "log_to_driver": False, "logging_level": "ERROR"}
        run_simulation(server, client, count, backend_config={"init_args": quiet})
    return outcome[0]


# ------------------------------------------------------------------------------------------------------- what is timed


def prepare_store(root: Path) -> None:
    """Data and both trained models, and which model is which tier's."""
    from clients.population import populate
    from fl_sim.artifacts import Store
    from fl_sim.data.prepare import prepare
    from fl_sim.trained import trained

    store, told = Store(root), scenario(100)
    data = prepare(told.data, told.seed, store)
    people = populate(told, data, store)
    rows = data.rows("train")
    keys = {t.name: trained(store, data, people.recipe(t, "shared"), rows) for t in told.clients.tier}
    (root / "models.json").write_text(json.dumps(keys))


def timed(way: str, count: int, master: Path) -> tuple[float, float]:
    """(seconds of the whole command, coverage), from a store that holds data and models only."""
    with tempfile.TemporaryDirectory() as place:
        store = Path(place) / "store"
        shutil.copytree(master, store, ignore=shutil.ignore_patterns("outputs", "population"))
        environment = {**os.environ, "FL_SIM_STORE": str(store), "RAY_DEDUP_LOGS": "0"}
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, __file__, "--do", way, str(count)],
            env=environment,
            capture_output=True,
            text=True,
            cwd=place,
        )
        seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{way}, K = {count}:\n{done.stderr}")
    return seconds, float(done.stdout.split()[-1])


def main() -> None:
    """Print a row a number of clients: medians, and ratios to the floor."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("counts", nargs="*", type=int, default=[100, 500, 1000])
    words.add_argument("--repeats", type=int, default=3)
    words.add_argument("--do", choices=WAYS, help=argparse.SUPPRESS)
    told = words.parse_args()
    if told.do:
        work = {"floor": floor, "flower": flower}.get(told.do) or (lambda count: ours(count, told.do))
        print(repr(work(told.counts[0])))
        return
    with tempfile.TemporaryDirectory() as place:
        master = Path(place) / "store"
        prepare_store(master)
        print(
            "| K | floor | inline | ray | flower | inline / floor | ray / floor | flower / ray | coverage |\n"
            + "|---" * 9
            + "|"
        )
        for count in told.counts:
            ways = [way for way in WAYS if way != "flower" or count <= MOST_ON_FLOWER]
            seconds, coverage = {way: [] for way in ways}, {}
            for _ in range(told.repeats):
                for way in ways:
                    took, coverage[way] = timed(way, count, master)
                    seconds[way].append(took)
            assert len(set(coverage.values())) == 1, coverage
            print(
                row(count, {way: statistics.median(took) for way, took in seconds.items()}, coverage["floor"]),
                flush=True,
            )


def row(count: int, seconds: dict[str, float], coverage: float) -> str:
    """One line of the table."""
    shown = [f"{seconds[way]:.1f} s" if way in seconds else "-" for way in WAYS]
    ratios = [f"{seconds[way] / seconds['floor']:.2f}" for way in ("inline", "ray")]
    ratios.append(f"{seconds['flower'] / seconds['ray']:.1f}" if "flower" in seconds else "-")
    return f"| {count:,} | {' | '.join(shown + ratios)} | {coverage:.4f} |"


if __name__ == "__main__":
    main()
