"""What it costs the server to weigh clients: inner products against averages of all coalitions.

    .venv/bin/python benchmarks/contribution_cost.py                     5 participants, a million parameters
    .venv/bin/python benchmarks/contribution_cost.py --participants 10

Medians of processor time (`time.process_time`, one thread) in milliseconds; no data, no network: updates are random
float32 numbers. *gram*, *utilities* and *shapley* are FedTSV's step after the updates are there; *updates* is what
comes before it (each client's weights less the global ones), *aggregate* what comes after. *coalitions* gives the same
values from all 2^m means in parameter space, as the definition reads.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy is loaded: processor time of one thread

import measuring
import numpy as np

from fl_sim.contribution import shapley
from fl_sim.contribution.flat import Layout
from fl_sim.randomness import stream


def coalitions(updates: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Eq. 9 and 11 as they read, in float32."""
    m, sigma = len(updates), float(reference @ reference)
    values = [0.5]
    for mask in range(1, 2**m):
        away = updates[[i for i in range(m) if mask >> i & 1]].mean(axis=0) - reference
        values.append(1 / (1 + float(away @ away) / sigma))
    return np.array(values)


def median_ms(work: Callable[[], Any], repeats: int) -> float:
    """Milliseconds of processor time, after one run that warms up."""
    work()
    took = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        took.append(1000 * (time.process_time() - start))
    return statistics.median(took)


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--participants", type=int, default=5, help=f"1 to {shapley.EXACT}")
    parser.add_argument("--parameters", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=50)
    options = parser.parse_args(words)
    if not 1 <= options.participants <= shapley.EXACT or options.parameters < 1 or options.repeats < 1:
        parser.error(f"1 to {shapley.EXACT} participants, a parameter and a repeat at least")
    return options


def main() -> None:
    """Print the table."""
    options = arguments()
    rng = stream(0, "contribution-cost")
    start, reference = rng.standard_normal((2, options.parameters), dtype=np.float32)
    clients = [
        {"w": start + rng.standard_normal(options.parameters, dtype=np.float32)} for _ in range(options.participants)
    ]
    layout, updates = Layout.of(clients[0]), np.empty((options.participants, options.parameters), np.float32)

    def unpacked() -> None:
        for client, row in zip(clients, updates, strict=True):
            layout.difference(client, start, out=row)

    unpacked()
    inner = shapley.gram(updates, reference)
    values = shapley.utilities(inner)
    shares = np.full(options.participants, 1 / options.participants, np.float32)
    off = np.abs(shapley.shapley(values) - shapley.shapley(coalitions(updates, reference))).max()
    steps: dict[str, Callable[[], Any]] = {
        "gram": lambda: shapley.gram(updates, reference),
        "utilities": lambda: shapley.utilities(inner),
        "shapley": lambda: shapley.shapley(values),
        "**all three**": lambda: shapley.shapley(shapley.utilities(shapley.gram(updates, reference))),
        "coalitions": lambda: shapley.shapley(coalitions(updates, reference)),
        "updates": unpacked,
        "aggregate": lambda: start + shares @ updates,
    }
    print(
        f"{measuring.machine()}; {options.participants} participants, {options.parameters:,} parameters; "
        "ms of processor time"
    )
    measuring.table(["step", "ms"], [[name, f"{median_ms(work, options.repeats):.3f}"] for name, work in steps.items()])
    print(f"\nThe values differ by {off:.1e} at most.")


if __name__ == "__main__":
    main()
