"""What it costs to fit a calibrator on the very points that set the threshold.

    .venv/bin/python benchmarks/calibrator_sharing.py            300 draws: about 70 seconds of one core
    .venv/bin/python benchmarks/calibrator_sharing.py 30         so many draws; with a new store 20 s for the model

One CNN on Fashion-MNIST (the strong tier of conformal/core-fashion); from its 30,000 rows outside training n are drawn,
and 1,000 others to test on. Split conformal with LAC scores at alpha = 0.1 on logits that a calibrator has seen to:
fitted on half of the n, the other half sets the threshold; or fitted on all n, which set it too. Coverage and mean set
size over draws of both, with the standard error. The same draws serve every calibrator, so that rows compare.

A half of its own promises ceil((n/2 + 1) 0.9) / (n/2 + 1) on average for distinct scores, which is at least 0.9; where
scores tie, as isotonic regression's do, more. All points at once promise nothing, but with `identity`, which fits
nothing.
"""

from __future__ import annotations

import sys

import numpy as np
from flwr.app import Context, RecordDict
from numpy.typing import NDArray

from clients import learn
from clients.context import ClientContext
from fl_sim import Scenario
from fl_sim.conformal.calibrator_plan import Plan
from fl_sim.conformal.probability_calibrators import fit
from fl_sim.conformal.thresholds import conformal_threshold
from fl_sim.messages.learning import FitRequest
from fl_sim.population.clients import populate
from fl_sim.population.prepared_data import prepare
from fl_sim.randomness import stream
from fl_sim.scenario.toml import locate, override, read
from fl_sim.store.artifacts import Store, default_root

Floats = NDArray[np.float64]

CALIBRATORS = ("identity", "temperature", "svs", "sms", "isotonic")
SIZES = (20, 50, 100, 500)
ALPHA, TESTED, DRAWS = 0.1, 1000, 300
WAYS = {"a half of its own": 0.5, "the same points": 0.0}  # calibrator_share


def main(arguments: list[str]) -> None:
    """Print a row for each calibrator and number of points."""
    draws = int(arguments[0]) if arguments else DRAWS
    logits, labels = rows_of_one_model()
    print("| calibrator | n | " + " | ".join(f"{way}: coverage | size" for way in WAYS) + " |")
    print("|---" * (2 + 2 * len(WAYS)) + "|")
    for name in CALIBRATORS:
        for n in SIZES:
            cells = [f"`{name}`", f"{n}"]
            for share in WAYS.values():
                rates = np.array([covered(logits, labels, name, n, share, draw) for draw in range(draws)])
                mean, error = rates.mean(axis=0), rates.std(axis=0, ddof=1) / np.sqrt(draws)
                cells += [f"{m:.3f} ± {e:.3f}" for m, e in zip(mean, error, strict=True)]
            print(f"| {' | '.join(cells)} |", flush=True)


def covered(
    logits: Floats, labels: NDArray[np.int64], name: str, n: int, share: float, draw: int
) -> tuple[float, float]:
    """Coverage and mean set size on the tested points of a draw."""
    order = stream(0, "calibrator sharing", draw).permutation(len(labels))
    calibration, tested = order[:n], order[-TESTED:]
    fitted, scored = Plan(name, share).split(0, draw, n)
    calibrator = fit(name, logits[calibration[fitted]], labels[calibration[fitted]])
    rows = np.concatenate([calibration[scored], tested])
    scores = 1 - np.exp(calibrator(logits[rows]))
    threshold = conformal_threshold(scores[np.arange(len(scored)), labels[calibration[scored]]], ALPHA)
    sets = scores[len(scored) :] <= threshold
    return float(sets[np.arange(TESTED), labels[tested]].mean()), float(sets.sum(axis=1).mean())


def rows_of_one_model() -> tuple[Floats, NDArray[np.int64]]:
    """Logits (m, 10) and labels (m,) of rows that the model was not trained on; trained now unless the store has it."""
    world = one_client()
    store = Store(default_root())
    population = populate(world, prepare(world.data, world.seed, store), store)
    context = Context(run_id=0, node_id=0, node_config={"partition-id": 0}, state=RecordDict(), run_config={})
    client_context = ClientContext.of(context, population.key)
    learn.fit(FitRequest(population.key, False, False), client_context)
    logits = np.concatenate([client_context.outputs("calibration"), client_context.outputs("test")]).astype(np.float64)
    rows = np.concatenate([client_context.client.calibration, client_context.client.test])
    return logits, np.array(population.data.targets[rows])


def one_client() -> Scenario:
    """The core grid's data and strong model, all rows with one client."""
    tables = read(locate("conformal/core-fashion"))
    tables.pop("sweep")
    overrides = ("clients.count=1", "clients.partition=iid", "clients.tier.weak.share=0.0", "runtime.name=inline")
    return Scenario.of(override(tables, overrides))


if __name__ == "__main__":
    main(sys.argv[1:])
