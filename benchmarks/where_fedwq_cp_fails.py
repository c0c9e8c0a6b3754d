"""Where FedWQ-CP keeps its promise and where it does not: the table of the README, over five seeds.

    .venv/bin/python benchmarks/where_fedwq_cp_fails.py            all worlds (about 5 minutes on 2 cores from an empty store)
    .venv/bin/python benchmarks/where_fedwq_cp_fails.py scales     one of them

Each cell is the mean over the seeds and, after ±, its standard error. `worst` is the smallest coverage of a client with at
least 50 test points (a client with three test points can miss one and stand at .67 under any method).
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

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
        print(
            "| strategy | coverage | client mean | worst | weak tier | strong tier | size |\n|---|---|---|---|---|---|---|"
        )
        for strategy in STRATEGIES:
            cells = [
                figures(simulate(Scenario.load(file, *overrides, f"calibrate={strategy}", f"seed={s}"))) for s in SEEDS
            ]
            print(
                f"| {strategy} | " + " | ".join(_cell([row[i] for row in cells]) for i in range(6)) + " |", flush=True
            )


def figures(result: Result) -> list[float | None]:
    """The row of one run."""
    found = result.calibrate
    tested = [r["coverage"] for r in result.clients if r["num_test"] >= LEAST_TESTED and r["coverage"] is not None]
    tiers = [found["tiers"].get(tier, {}).get("coverage") for tier in ("weak", "strong")]
    size = found.get("mean_set_size", found.get("mean_interval_length"))
    return [found["coverage"], found["coverage_client_mean"], min(tested), *tiers, size]


def _cell(values: list[float | None]) -> str:
    here = [v for v in values if v is not None]
    if not here:
        return "–"
    error = statistics.stdev(here) / len(here) ** 0.5
    digits = 3 if max(here) <= 1 else 2
    return (
        f"{statistics.mean(here):.{digits}f} ± {error:.{digits}f}".replace("0.", ".")
        if digits == 3
        else f"{statistics.mean(here):.2f} ± {error:.2f}"
    )


if __name__ == "__main__":
    main([Path(a).name for a in sys.argv[1:]])
