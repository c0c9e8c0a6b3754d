"""How many images the clients of the five tasks hold, and how many rows their server and their test have.

.venv/bin/python benchmarks/plada_references.py       15 seconds from an empty store
"""

from __future__ import annotations

from plada_rehearsal import TASKS, scenario

from fl_sim.data.reference import refer
from fl_sim.population.prepared_data import prepare
from fl_sim.store.artifacts import Store, default_root


def main() -> None:
    """Print a row a task."""
    store = Store(default_root())
    print("| task | references | server's labels | test rows |\n|---|---|---|---|")
    for task in TASKS:
        world = scenario(task, 0, None)
        assert world.reference is not None
        channels, height, width = prepare(world.data, world.seed, store).shape
        references = refer(world.reference.sets, (channels, height, width), store)
        print(f"| {task} | {len(references):,} | {world.data.server:,} | {world.data.test:,} |", flush=True)


if __name__ == "__main__":
    main()
