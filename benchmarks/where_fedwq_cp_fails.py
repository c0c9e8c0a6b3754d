"""Where FedWQ-CP keeps its promise and where it does not: the table of the README, over five seeds.

    .venv/bin/python benchmarks/where_fedwq_cp_fails.py            all worlds: 3 minutes on 2 cores
    .venv/bin/python benchmarks/where_fedwq_cp_fails.py scales     one of them

Each cell is the mean over the seeds and, after ±, its standard error. `worst` is the smallest coverage of a client with
at least 50 test points (a client with three test points can miss one and stand at .67 under any method).
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence

from fl_sim import Result, Scenario, simulate

SEEDS = range(5)
STRATEGIES = ("fedwq-cp", "unweighted", "local", "pooled")
LEAST_TESTED = 50

HUNDRED = ("clients.count=100", "runtime.name=inline")
WORLDS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "labels-0.1": ("Fashion-MNIST, LAC, concentration 0.1", "fashion", ("clients.concentration=0.1", *HUNDRED)),
    "labels-0.5": ("Fashion-MNIST, LAC, concentration 0.5", "fashion", ("clients.concentration=0.5", *HUNDRED)),
    "labels-5": ("Fashion-MNIST, LAC, concentration 5", "fashion", ("clients.concentration=5.0", *HUNDRED)),
    "shared-test": (
        "Fashion-MNIST, LAC, concentration 0.1, every client on the global test set",
        "fashion",
        ("clients.concentration=0.1", "clients.test=shared", *HUNDRED),
    ),
    "scales": (
        "Friedman, residual, iid: good and bad regressors",
        "regression",
        ("clients.partition=iid", *HUNDRED),
    ),
    "alike": (
        "Friedman, residual, iid: all clients strong",
        "regression",
        ("clients.partition=iid", "clients.tier.weak.share=0.0", *HUNDRED),
    ),
}


def main(names: list[str]) -> None:
    """Print a table for each world."""
    for name in names or WORLDS:
        if name not in WORLDS:
            sys.exit(f"{name}: choose from {', '.join(WORLDS)}")
        title, file, overrides = WORLDS[name]
        print(f"\n{title}\n")
        print("| strategy | coverage | client mean | worst | weak tier | strong tier | size |")
        print("|---|---|---|---|---|---|---|")
        for strategy in STRATEGIES:
            world = [Scenario.load(file, *overrides, f"calibrate={strategy}", f"seed={seed}") for seed in SEEDS]
            columns = zip(*(figures(simulate(scenario)) for scenario in world), strict=True)
            print(f"| {strategy} | {' | '.join(map(_cell, columns))} |", flush=True)


def figures(result: Result) -> list[float | None]:
    """The row of one run."""
    metrics = result.calibrate
    tested = [r["coverage"] for r in result.clients if r["num_test"] >= LEAST_TESTED and r["coverage"] is not None]
    tiers = [metrics["tiers"].get(tier, {}).get("coverage") for tier in ("weak", "strong")]
    size = metrics.get("mean_set_size", metrics.get("mean_interval_length"))
    return [metrics["coverage"], metrics["coverage_client_mean"], min(tested), *tiers, size]


def _cell(values: Sequence[float | None]) -> str:
    here = [v for v in values if v is not None]
    if not here:
        return "-"
    mean, error = statistics.mean(here), statistics.stdev(here) / len(here) ** 0.5
    if max(here) > 1:
        return f"{mean:.2f} ± {error:.2f}"
    return f"{mean:.3f} ± {error:.3f}".replace("0.", ".")


if __name__ == "__main__":
    main(sys.argv[1:])
