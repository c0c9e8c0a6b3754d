"""The tables and the figure of docs/contribution.md, from the folders of finished sweeps.

    .venv/bin/fl-sim sweep contribution/published --out runs/published
    .venv/bin/python benchmarks/contribution_tables.py published runs/published
    .venv/bin/python benchmarks/contribution_tables.py attacks runs/attacks
    .venv/bin/python benchmarks/contribution_tables.py plot PICTURE runs/published

A cell is the mean over seeds and, after ±, its standard error. `accuracy` and `loss` are those of the federation's
model after the last round on the test rows of all clients; `last fifty` is the mean accuracy over the last 50 rounds,
which no single round's participants decide; `misbehaving` is the share that those clients have of the weight of all;
`rare to common` is the mean weight of an honest client with rare data over that of an honest one with common data.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from fl_sim.report.figures.style import STYLE, look
from fl_sim.results import tables

LAST = 50  # rounds
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))


@dataclass(frozen=True)
class Run:
    """One point of a sweep."""

    strategy: str
    attack: str
    seed: int
    rounds: list[dict[str, Any]]  # of `detail`
    metrics: dict[str, Any]  # learn's
    folder: Path

    @property
    def accuracy(self) -> float:
        """After the last round."""
        return float(self.rounds[-1]["accuracy"])

    @property
    def settled(self) -> float:
        """On average over the last rounds."""
        last = [r["accuracy"] for r in self.rounds if r.get("accuracy") is not None and r["round"] > self.end - LAST]
        return float(np.mean(last))

    @property
    def end(self) -> int:
        """The number of the last round."""
        return int(self.rounds[-1]["round"])

    @property
    def rare(self) -> float | None:
        """An honest rare client's mean weight over a common one's."""
        tiers = self.metrics.get("weight_by_tier")
        return None if tiers is None or not tiers["common"] else float(tiers["rare"] / tiers["common"])


def runs(folder: Path) -> Iterator[Run]:
    """The runs of a sweep, in its order."""
    for place in tables.load(folder).points["run"]:
        result = json.loads((folder / "points" / str(place) / "result.json").read_text())
        learn = result["scenario"]["learn"]
        name = "fedavg, uniform" if learn.get("weights") == "uniform" else str(learn["name"])
        kind = result["scenario"]["clients"]["behaviour"][0]["kind"]
        learn = result["learn"]
        yield Run(
            name, kind, result["seed"], learn["detail"]["rounds"], learn["metrics"], folder / "points" / str(place)
        )


def grouped(all_runs: list[Run], *keys: str) -> dict[tuple[str, ...], list[Run]]:
    """By these fields, in the order in which they come."""
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in all_runs:
        groups.setdefault(tuple(getattr(run, key) for key in keys), []).append(run)
    return groups


def mean(values: list[float | None], scale: float = 1, digits: int = 3) -> str:
    """Over seeds, and its standard error."""
    known = [scale * value for value in values if value is not None]
    if not known:
        return "-"
    error = np.std(known, ddof=1) / np.sqrt(len(known)) if len(known) > 1 else 0
    return f"{np.mean(known):.{digits}f} ± {error:.{digits}f}"


def published(folder: Path) -> None:
    """A row a strategy."""
    print("\n**the published world**\n")
    print("| strategy | accuracy | last fifty | loss | misbehaving, % of weight | rare to common |")
    print("|---|---|---|---|---|---|")
    for (strategy,), group in grouped(list(runs(folder)), "strategy").items():
        cells = [
            mean([run.accuracy for run in group]), mean([run.settled for run in group]),
            mean([run.rounds[-1]["loss"] for run in group]),
            mean([run.metrics.get("weight_share_misbehaving") for run in group], 100, 1),
            mean([run.rare for run in group], 1, 2),
        ]  # fmt: skip
        print(f"| {strategy} | {' | '.join(cells)} |")


def attacks(folder: Path) -> None:
    """Three tables, a row an attack and a column a strategy."""
    all_runs = list(runs(folder))
    names, kinds = (list(dict.fromkeys(getattr(run, key) for run in all_runs)) for key in ("strategy", "attack"))
    groups = grouped(all_runs, "attack", "strategy")
    for title, cell in (
        ("accuracy over the last fifty rounds", lambda group: mean([run.settled for run in group])),
        (
            "misbehaving clients, % of all weight",
            lambda group: mean([run.metrics.get("weight_share_misbehaving") for run in group], 100, 1),
        ),
        ("rare to common", lambda group: mean([run.rare for run in group], 1, 2)),
    ):
        weighed = [name for name in names if title.startswith("accuracy") or not name.startswith("fedavg")]
        print(f"\n**{title}**\n")
        print(f"| attack | {' | '.join(weighed)} |")
        print("|---" * (len(weighed) + 1) + "|")
        for kind in kinds:
            print(f"| {kind} | {' | '.join(cell(groups[kind, name]) for name in weighed)} |")


def plot(path: Path, folder: Path) -> None:
    """Accuracy over the rounds, a line a strategy; beside it the final weight of every client, by kind."""
    groups = {name: group for (name,), group in grouped(list(runs(folder)), "strategy").items()}
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), width_ratios=(1.2, 1), layout="constrained")
        _curves(left, groups)
        _weights(right, {name: group for name, group in groups.items() if not name.startswith("fedavg")})
        figure.savefig(path, dpi=150)
    print("final accuracy: " + ", ".join(f"{n} {np.mean([r.accuracy for r in g]):.3f}" for n, g in groups.items()))


def _curves(axes: plt.Axes, groups: dict[str, list[Run]]) -> None:
    for i, (name, group) in enumerate(groups.items()):
        accuracies = [{r["round"]: r["accuracy"] for r in run.rounds if r.get("accuracy") is not None} for run in group]
        y = np.array([list(each.values()) for each in accuracies])
        colour = look(i)["color"]
        axes.plot(list(accuracies[0]), y.mean(axis=0), label=name, linestyle=DASHES[i], markersize=4, **look(i))
        axes.fill_between(list(accuracies[0]), y.min(axis=0), y.max(axis=0), color=colour, alpha=0.12, linewidth=0)
    axes.set(xlabel="round", ylabel="accuracy on the clients' test rows")
    axes.legend(loc="lower right")
    axes.set_title("The federation's model; bands hold all seeds", loc="left")


def _weights(axes: plt.Axes, groups: dict[str, list[Run]]) -> None:
    kinds = ("honest, common data", "honest, rare data", "misbehaving")
    for row, group in enumerate(groups.values()):
        clients = pd.concat([_clients(run) for run in group])
        for i, kind in enumerate(kinds):
            mine = np.sort(clients.loc[clients["kind"] == kind, "weight"])
            place = row + 0.27 * (i - 1) + np.linspace(-0.07, 0.07, len(mine))
            axes.plot(mine, place, linestyle="", markersize=3.5, alpha=0.6, label=None if row else kind, **look(i))
    axes.set_yticks(range(len(groups)), list(groups))
    axes.invert_yaxis()
    axes.set(xlabel="a client's final weight, of the largest", xlim=(-0.03, 1.03))
    axes.legend(loc="upper center", bbox_to_anchor=(0.45, -0.14), ncols=3, handletextpad=0.1, columnspacing=1)
    axes.set_title("Who weighs how much in the end", loc="left")


def _clients(run: Run) -> pd.DataFrame:
    clients = pd.read_csv(run.folder / "clients.csv")
    clients["kind"] = np.where(clients["behaviour"].notna(), "misbehaving", "honest, " + clients["tier"] + " data")
    clients["weight"] = clients["weight"] / max(clients["weight"].max(), np.finfo(float).tiny)
    return clients


def main(words: list[str]) -> None:
    """The one that the first word names."""
    if words[0] == "plot":
        plot(Path(words[1]), Path(words[2]))
    else:
        {"published": published, "attacks": attacks}[words[0]](Path(words[1]))


if __name__ == "__main__":
    main(sys.argv[1:])
