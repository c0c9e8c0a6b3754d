"""`grouped` against FedWQ-CP at every single client, and what its sets cost over the sets of an oracle.

    .venv/bin/python benchmarks/who_keeps_the_promise.py              all worlds: about 5 minutes on 2 cores
    .venv/bin/python benchmarks/who_keeps_the_promise.py own          those whose name has "own" in it

For each world, over its seeds: how many clients with at least 50 calibration points the certificate rejects at
1 - alpha - 0.02 (fl_sim/conformal/certificate.py: calibration noise and test noise allowed for, Holm over clients), the
lowest coverage of a client with at least 30 test points, the mean size of sets or intervals, and that of `grouped` over
the oracle's. The oracle gives each client the smallest threshold that covers 1 - alpha of its own calibration and test
points together: it has seen what it is tested on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
from flwr.app import Context, RecordDict
from numpy.typing import NDArray

from clients import learn
from clients.context import ClientContext
from clients.scorer import Scorer
from fl_sim import Result, Scenario
from fl_sim.conformal.thresholds import conformal_rank
from fl_sim.messages.learning import FitRequest
from fl_sim.population.clients import populate
from fl_sim.population.prepared_data import prepare
from fl_sim.report.certificate import rejected
from fl_sim.simulation import Silent, simulator
from fl_sim.store.artifacts import Store, default_root

Floats = NDArray[np.float64]

METHODS = ("fedwq-cp", "local", "class-conditional", "grouped")
SLACK = 0.02
CORE = {"fashion": "conformal/core-fashion", "friedman": "conformal/core-friedman"}
AROUND = ("own-learning", "fifty-clients", "alpha", "aps", "cqr", "digits", "glyphs", "diabetes")
SEEDS = (0, 1, 2)


def worlds() -> Iterator[tuple[str, str, list[str]]]:
    """(name, file, overrides) of every world, the seed left open."""
    tiers = {
        "one tier": ["clients.tier.weak.share=0.0"],
        "two tiers": ["clients.tier.weak.share=0.5"],
        "tiers by size": ["clients.tier.weak.share=0.5", "clients.tier_by=size"],
    }
    for (data, file), test, concentration, tier in product(CORE.items(), ("local", "shared"), (0.1, 0.5, 5.0), tiers):
        fixed = [f"clients.test={test}", f"clients.concentration={concentration}", *tiers[tier]]
        yield f"{data}, {test} test, {concentration:g}, {tier}", file, fixed
    for name in AROUND:
        yield name, f"conformal/{name}", []
    yield "own-learning, 0.1", "conformal/own-learning", ["clients.concentration=0.1"]
    yield "own-learning, 200 clients", "conformal/own-learning", ["clients.count=200"]


def main(wanted: list[str]) -> None:
    """Print a row a world."""
    print("| world | " + " | ".join(f"{name}: rejected, worst, size" for name in METHODS) + " | grouped / oracle |")
    print("|---" * (len(METHODS) + 2) + "|")
    with simulator(scenario(CORE["fashion"], []).runtime, 200) as run:
        for name, file, overrides in worlds():
            if any(word not in name for word in wanted):
                continue
            cells, sizes = [], {}
            scenarios = [scenario(file, [*overrides, f"seed={seed}"]) for seed in SEEDS]
            for method in METHODS:
                if method == "class-conditional" and scenarios[0].calibrate.score.task == "regression":
                    cells.append("-")
                    continue
                results = [run(s.with_(f"calibrate={method}"), Silent()) for s in scenarios]
                sizes[method] = float(np.mean([size(result) for result in results]))
                cells.append(f"{judged(results)}, {sizes[method]:.2f}")
            ratio = sizes["grouped"] / float(np.mean([oracle_size(s) for s in scenarios]))
            print(f"| {name} | {' | '.join(cells)} | {ratio:.3f} |", flush=True)


def scenario(file: str, overrides: list[str]) -> Scenario:
    """A world of a sweep's file, under its first method."""
    from fl_sim.scenario.toml import locate, override, read

    tables = read(locate(file))
    tables.pop("sweep")
    return Scenario.of(override(tables, [*overrides, "runtime.name=inline"]))


def judged(results: list[Result]) -> str:
    """Rejected clients over the seeds, and the lowest coverage of a client with enough test points."""
    least = [result.calibrate["coverage_client_min_tested"] for result in results]
    lowest = f"{min(x for x in least if x is not None):.2f}" if any(x is not None for x in least) else "-"
    return f"{sum(rejected(result, slack=SLACK) for result in results)}, {lowest}"


def size(result: Result) -> float:
    """Mean size of a run's sets or intervals."""
    mean_size = result.calibrate.get("mean_set_size", result.calibrate.get("mean_interval_length"))
    return float("inf") if mean_size is None else float(mean_size)


def oracle_size(world: Scenario) -> float:
    """Mean size, over all clients' test points, of the sets at each client's oracle threshold."""
    store = Store(default_root())
    population = populate(world, prepare(world.data, world.seed, store), store)
    total = points = 0.0
    for k in range(len(population)):
        scorer = Scorer.of(_seated(world, population.key, k), world.calibrate.score.model_dump_json())
        if not len(scorer.client_context.client.test):
            continue
        tested, sizes_at = _test_points(scorer)
        own = np.sort(np.concatenate([scorer.calibration(), tested]))
        total += float(np.sum(sizes_at(own[conformal_rank(len(own) - 1, world.calibrate.alpha) - 1])))
        points += len(scorer.client_context.client.test)
    return total / points


def _test_points(scorer: Scorer) -> tuple[Floats, Callable[[float], Floats]]:
    """The scores of a client's test points, and the sizes of their sets at a threshold."""
    client_context = scorer.client_context
    targets = client_context.population.data.targets[client_context.client.test]
    predictions = scorer.predictions("test")
    if client_context.population.data.classes is None:

        def lengths(threshold: float) -> Floats:
            low, high = scorer.score.interval(predictions, threshold)
            return np.maximum(high - low, 0)

        return np.asarray(scorer.score.of(predictions, targets)), lengths
    all_labels = scorer.all_labels(predictions, "test")
    return all_labels[np.arange(len(targets)), targets], lambda threshold: (all_labels <= threshold).sum(axis=1)


def _seated(world: Scenario, population: str, k: int) -> ClientContext:
    context = Context(run_id=0, node_id=k, node_config={"partition-id": k}, state=RecordDict(), run_config={})
    client, alone = ClientContext.of(context, population), world.learn.name == "own"
    learn.fit(FitRequest(population, alone, alone), client)
    return client


if __name__ == "__main__":
    main(sys.argv[1:])
