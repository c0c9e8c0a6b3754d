"""The tables and the figure of docs/plada.md, from the folders of finished sweeps.

    for task in digits letters fashion fashion-far digits-far; do
        .venv/bin/fl-sim sweep plada/$task --out runs/plada-$task; done
    .venv/bin/python benchmarks/plada_tasks.py rules runs/plada-*             task x rule x share kept
    .venv/bin/python benchmarks/plada_tasks.py rivals runs/plada-*            everything else on the byte axis
    .venv/bin/python benchmarks/plada_tasks.py codec runs/plada-*             real payloads beside Zstd and the bound
    .venv/bin/python benchmarks/plada_tasks.py plot PICTURE runs/plada-*      accuracy against bytes

Cells are means over the seeds, ± their standard deviation, in percent, on all test rows: weak student / strong student.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import PercentFormatter

from fl_sim.plada.rules import Rule
from fl_sim.plada.selection import Safety
from fl_sim.results.run import Result

TITLES = {
    "digits": "digits from rendered characters",
    "letters": "letters of unseen fonts from other fonts",
    "fashion": "Fashion-MNIST from its own unlabelled images, among distractors",
    "fashion-far": "Fashion-MNIST from rendered characters",
    "digits-far": "digits from Fashion-MNIST",
}
LINES = {  # what the figure shows: name -> (colour, marker, dashes)
    "rehearsed": ("#000000", "o", "-"),
    "lowest": ("#d55e00", "v", "-"),
    "lowest, 0.5 by class ** -0.2": ("#e69f00", "^", "-"),
    "coreset random": ("#0072b2", "s", "--"),
    "coreset k-centre": ("#56b4e9", "D", "--"),
    "probe": ("#009e73", "P", ":"),
    "weights": ("#cc79a7", "X", ":"),
}


class Cell(NamedTuple):
    """One point of a sweep."""

    what: str  # a rule, or a rival
    size: float | None  # share kept, or images a class
    bytes: int
    weak: float
    strong: float
    metrics: dict
    chosen: str


def cells(folder: Path) -> list[Cell]:
    """Every finished point."""
    runs = sorted({point["run"] for point in json.loads((folder / "sweep.json").read_text())["points"]})
    return [_cell(Result.load(folder / "points" / run)) for run in runs if (folder / "points" / run).is_dir()]


def _cell(result: Result) -> Cell:
    learn, metrics = result.scenario.learn, result.learn
    tiers = [metrics["tiers"][tier]["accuracy"] for tier in ("weak", "strong")]
    rehearsal = result.summary["learn"]["detail"].get("rehearsal") or [{"rule": ""}]
    what = _what(learn)
    return Cell(*what, metrics["payload_bytes"], *tiers, metrics, rehearsal[0]["rule"])


def _what(learn) -> tuple[str, float | None]:
    if learn.name == "coreset":
        return f"coreset {learn.how}", learn.images_per_class
    if learn.name == "probe":
        return "probe", learn.centroids
    if learn.name == "weights":
        return f"weights {learn.precision}", None
    name = str(Rule(learn.rule, learn.safety and Safety(learn.safety.share, learn.safety.exponent)))
    for applies, words in ((learn.labels == "random", "random labels"), (learn.soft_labels, "soft labels"),
                        (learn.curriculum, "curriculum"), (learn.keep_fraction == 1, "all labels")):  # fmt: skip
        name = words if applies else name
    return name, learn.keep_fraction


def grouped(folder: Path) -> dict[tuple[str, float | None], list[Cell]]:
    """(what, size) -> its points, one a seed; in the order of the file."""
    groups: dict[tuple[str, float | None], list[Cell]] = defaultdict(list)
    for cell in cells(folder):
        groups[cell.what, cell.size].append(cell)
    return groups


def spread(values: list[float]) -> str:
    """Mean ± standard deviation in percent."""
    return (
        f"{100 * np.mean(values):.1f} ± {100 * np.std(values, ddof=1):.1f}"
        if len(values) > 1
        else f"{100 * values[0]:.1f}"
    )


def both(cells: list[Cell]) -> str:
    """Weak / strong."""
    return f"{spread([c.weak for c in cells])} / {spread([c.strong for c in cells])}"


def rules(folders: list[Path]) -> None:
    """Task by task: a row a rule, and for each share kept the payload's bytes and the students' accuracy."""
    for folder in folders:
        groups = grouped(folder)
        shares = sorted({size for what, size in groups if size and size < 1 and not what.startswith(("core", "probe"))})
        names = list(dict.fromkeys(what for what, size in groups if size == shares[0]))
        teacher = np.mean([c.metrics["teacher_accuracy"] for c in groups["rehearsed", shares[0]]])
        print(f"\n**{TITLES[task_of(folder)]}** (teacher {100 * teacher:.1f} %)\n")
        print("| rule | " + " | ".join(f"{s:.1%}: bytes | weak / strong" for s in shares) + " |")
        print("|---" * (1 + 2 * len(shares)) + "|")
        order = sorted(
            names, key=lambda n: (n == "rehearsed", np.mean([c.weak + c.strong for c in groups[n, shares[1]]]))
        )
        for name in order:
            line = [f"{np.mean([c.bytes for c in groups[name, s]]):,.0f} | {both(groups[name, s])}" for s in shares]
            print(f"| {f'**{name}**' if name == 'rehearsed' else name} | {' | '.join(line)} |")


def rivals(folders: list[Path]) -> None:
    """Task by task: what is no rule, the smallest first."""
    for folder in folders:
        print(f"\n**{TITLES[task_of(folder)]}**\n")
        print("| what is sent | bytes | weak / strong |\n|---|---|---|")
        order = ("random labels", "soft labels", "curriculum", "all labels", "coreset", "probe", "weights")
        for (what, size), cells in sorted(grouped(folder).items(), key=lambda row: np.mean([c.bytes for c in row[1]])):
            if what.startswith(order):
                words = f"{what}{amount(what, size)}"
                print(f"| {words} | {np.mean([c.bytes for c in cells]):,.0f} | {both(cells)} |")


def amount(what: str, size: float | None) -> str:
    """How much of it, in words."""
    if what.startswith("coreset"):
        return f", {size} images a class"
    if what == "probe":
        return f", {size} centroids"
    return f", {size:.0%} kept" if size is not None else ""


def codec(folders: list[Path]) -> None:
    """Bodies of real payloads, all rules and seeds of a task and a size together: beside the better of the paper's
    encodings with Zstd-19, and beside the entropy bound."""
    print(
        "| task | kept | payloads | ours | Zstd-19 | under: mean (least to most) | over the bound |\n|---"
        + "|---" * 6
        + "|"
    )
    for folder in folders:
        sizes: dict[float, list[dict]] = defaultdict(list)
        for (_, size), cells in grouped(folder).items():
            sizes[size or 0] += [c.metrics["codec"] for c in cells if "codec" in c.metrics]
        for size in sorted(size for size, values in sizes.items() if values):
            ours, zstd, bound = (np.array([c[k] for c in sizes[size]]) for k in ("body", "zstd", "entropy_bound"))
            under = 1 - ours / zstd
            values = f"{len(ours)} | {ours.mean():,.0f} | {zstd.mean():,.0f} | "
            values += (
                f"{under.mean():.1%} ({under.min():.1%} to {under.max():.1%}) | {ours.sum() / bound.sum() - 1:+.1%}"
            )
            print(f"| {task_of(folder)} | {size:.1%} | {values} |")


def task_of(folder: Path) -> str:
    """`plada-digits` -> `digits`."""
    return folder.name.removeprefix("plada-")


def plot(path: Path, folders: list[Path]) -> None:
    """Accuracy against bytes: a column a task, the strong student above, the weak below."""
    figure, panels = plt.subplots(2, len(folders), figsize=(3.3 * len(folders), 6.2), sharex="col", squeeze=False)
    for column, folder in zip(panels.T, folders, strict=True):
        groups = grouped(folder)
        teacher = np.mean(
            [c.metrics["teacher_accuracy"] for (w, _), cs in groups.items() if w == "rehearsed" for c in cs]
        )
        for axes, tier in zip(column, ("strong", "weak"), strict=True):
            _draw(axes, groups, tier)
            axes.axhline(teacher, color="0.5", linewidth=0.8, linestyle="--")
            axes.text(0.99, teacher, "teacher", ha="right", va="bottom", fontsize=7, color="0.4",
                      transform=axes.get_yaxis_transform())  # fmt: skip
            axes.set(xscale="log", ylim=(0, 1.02))
            axes.yaxis.set_major_formatter(PercentFormatter(1))
            axes.spines[["top", "right"]].set_visible(False)
        column[0].set_title(
            TITLES[task_of(folder)].replace(" from ", "\nfrom ", 1).replace(", among", ",\namong"),
            loc="left",
            fontsize=9,
        )
        column[1].set_xlabel("bytes to every client")
    for axes, tier in zip(panels[:, 0], ("strong", "weak"), strict=True):
        axes.set_ylabel(f"accuracy, {tier} student", fontsize=9)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncol=len(labels), fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.045, 1, 1))
    figure.savefig(path, dpi=150)


def _draw(axes: plt.Axes, groups: dict[tuple[str, float | None], list[Cell]], tier: str) -> None:
    for name, (colour, marker, dashes) in LINES.items():
        mine = [cs for (what, _), cs in groups.items() if what == name or (name == "weights" and what.startswith(name))]
        mine.sort(key=lambda cs: np.mean([c.bytes for c in cs]))
        x = [np.mean([c.bytes for c in cs]) for cs in mine]
        y = np.array([[getattr(c, tier) for c in cs] for cs in mine])
        axes.plot(
            x,
            y.mean(1),
            color=colour,
            marker=marker,
            linestyle=dashes,
            markersize=4.5,
            linewidth=1.3,
            label=_label(name),
        )
        axes.fill_between(x, y.min(1), y.max(1), color=colour, alpha=0.12, linewidth=0)
    for name, marker in (("random labels", "x"), ("all labels", "*")):
        for (what, _), cs in groups.items():
            if what == name:
                axes.plot(np.mean([c.bytes for c in cs]), np.mean([getattr(c, tier) for c in cs]), marker, color="0.35",
                          markersize=7, label=name, linestyle="none")  # fmt: skip


def _label(name: str) -> str:
    return {"rehearsed": "PLADA, rehearsed", "lowest": "PLADA, lowest energy", "weights": "teacher's weights",
            "lowest, 0.5 by class ** -0.2": "PLADA, Safety-Net", "probe": "INT8 probe"}.get(name, name)  # fmt: skip


def main(arguments: list[str]) -> None:
    """rules FOLDER..., rivals FOLDER..., codec FOLDER... or plot PICTURE FOLDER..."""
    what, *rest = arguments or [""]
    order = list(TITLES)
    paths = [Path(a) for a in rest]
    folders = sorted((p for p in paths if p.is_dir()), key=lambda p: order.index(task_of(p)))
    if what in ("rules", "rivals", "codec") and folders:
        {"rules": rules, "rivals": rivals, "codec": codec}[what](folders)
    elif what == "plot" and len(paths) > 1:
        plot(paths[0], folders)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
