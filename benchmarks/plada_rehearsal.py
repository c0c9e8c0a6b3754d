"""Does the rehearsal choose well? Every rule and the rehearsed choice on the five tasks, five seeds, at 1 % kept.

    .venv/bin/python benchmarks/plada_rehearsal.py            all tasks: about an hour on one core from an empty store
    .venv/bin/python benchmarks/plada_rehearsal.py digits     one of them

Accuracy is the mean of the weak and the strong student's on all test rows, which no rule has seen. *Hindsight* is the
fixed rule with the best mean over the seeds on that task's test rows; the difference to it comes with a 95 % interval
over the seeds (paired, Student's t). Tasks are the files of scenarios/plada; what they share with their sweeps is taken
from the artifact store.
"""

from __future__ import annotations

import sys

import numpy as np
from scipy import stats

from fl_sim import Scenario, simulate
from fl_sim.plada.rules import RULES, Rule

TASKS = ("digits", "letters", "fashion", "fashion-far", "digits-far")
SEEDS = range(5)
KEEP = 0.01


def scenario(task: str, seed: int, rule: Rule | None) -> Scenario:
    """A task under one rule, or under the rehearsed one."""
    from fl_sim.scenario.toml import assign, locate, read

    tables = read(locate(f"plada/{task}"))
    tables.pop("sweep")
    learn: dict[str, object] = {"name": "plada", "keep_fraction": KEEP, "rule": "rehearsed"}
    if rule is not None:
        learn["rule"] = rule.name
        if rule.safety is not None:
            learn["safety"] = {"share": rule.safety.share, "exponent": rule.safety.exponent}
    return Scenario.of(assign(assign(tables, "learn", learn), "seed", seed))


def accuracy(task: str, seed: int, rule: Rule | None) -> tuple[float, str]:
    """(mean accuracy of the two students, the rule that was used)."""
    result = simulate(scenario(task, seed, rule))
    chosen = result.summary["learn"]["detail"]["rehearsal"]
    return result.learn["accuracy"], chosen[0]["rule"] if chosen else str(rule)


def main() -> None:
    """Print the table, task by task as they are done."""
    tasks = [name for name in TASKS if name in sys.argv[1:]] or list(TASKS)
    accuracies = {}
    for task in tasks:
        fixed = np.array([[accuracy(task, seed, rule)[0] for seed in SEEDS] for rule in RULES])
        rehearsed, chosen = zip(*[accuracy(task, seed, None) for seed in SEEDS], strict=True)
        best = int(fixed.mean(axis=1).argmax())
        gap = np.array(rehearsed) - fixed[best]
        half = stats.t.ppf(0.975, len(gap) - 1) * gap.std(ddof=1) / len(gap) ** 0.5
        accuracies[task] = (fixed.mean(axis=1), float(np.mean(rehearsed)))
        line = f"{task}: rehearsed {np.mean(rehearsed):.3f}, hindsight {fixed[best].mean():.3f} ({RULES[best]})"
        print(f"{line}, difference {gap.mean():+.3f} ± {half:.3f}; best of each seed {fixed.max(axis=0).mean():.3f}")
        print("    chosen:", "; ".join(chosen), flush=True)
        for rule, mean in zip(RULES, fixed, strict=True):
            print(f"    {rule!s:34} {mean.mean():.3f}   " + " ".join(f"{one:.3f}" for one in mean))
    print(f"\nmean over {len(accuracies)} tasks")
    rows = {str(rule): np.mean([fixed[i] for fixed, _ in accuracies.values()]) for i, rule in enumerate(RULES)}
    rows["rehearsed"] = np.mean([mean for _, mean in accuracies.values()])
    for name, mean in sorted(rows.items(), key=lambda row: -row[1]):
        print(f"    {name:34} {mean:.3f}")


if __name__ == "__main__":
    main()
