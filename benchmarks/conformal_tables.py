"""The tables and figures of docs/conformal.md, from the folders of finished sweeps.

    .venv/bin/fl-sim sweep conformal/core-fashion --out runs/core-fashion
    .venv/bin/python benchmarks/conformal_tables.py tables runs/core-fashion        a table for each world
    .venv/bin/python benchmarks/conformal_tables.py promise runs/core-fashion       who breaks the promise, and where
    .venv/bin/python benchmarks/conformal_tables.py behaviours runs/misbehaving    honest clients among others
    .venv/bin/python benchmarks/conformal_tables.py calibrators runs/calibrators   the worst client after a calibrator
    .venv/bin/python benchmarks/conformal_tables.py plane PICTURE runs/core-fashion runs/core-friedman

A cell is the mean over seeds and, after ±, its standard error. `5 %` and `worst` are the 5 % quantile of the coverages
of clients and the smallest of one with at least 30 test points; `rejected` is the number of clients, all seeds
together, that fl_sim/conformal/certificate.py rejects at 1 - alpha - 0.02.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from fl_sim.report import certificate
from fl_sim.report.certificate import Claim
from fl_sim.results import tables as frames

CLAIM = Claim(slack=0.02)
SHORT = {
    "clients.test": "test", "clients.concentration": "concentration", "clients.tier.weak.share": "weak share",
    "clients.tier_by": "tiers by", "clients.behaviour": "behaviour",
}  # fmt: skip
CALIBRATOR = "calibrate.calibrator"
SIZES = ("calibrate.mean_set_size", "calibrate.mean_interval_length")
COLUMNS = {
    "coverage": "calibrate.coverage",
    "client mean": "calibrate.coverage_client_mean",
    "5 %": "calibrate.coverage_client_p05",
    "worst": "calibrate.coverage_client_min_tested",
}


def load(folder: Path) -> pd.DataFrame:
    """A row a point of a sweep: its axes, its metrics, and how many clients are rejected."""
    loaded = frames.load(folder)
    points = loaded.points[loaded.points["status"] == "ok"]
    judged = certificate.points(folder, CLAIM)[["point", "considered", "rejected"]]
    table = points.merge(judged, on="point")
    table.attrs = {"axes": [a for a in loaded.axes if a not in ("calibrate", "seed")], "name": folder.name}
    return table


def worlds(points: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """(the world in words, its points) for each combination of the axes but strategy and seed, each world once."""
    axes, shown = points.attrs["axes"], set()
    if not axes:
        yield points.attrs["name"], points
        return
    for values, group in points.groupby(axes, sort=False):
        runs = tuple(sorted(group["run"]))
        if runs not in shown:
            shown.add(runs)
            yield ", ".join(f"{SHORT.get(a, a)} {_value(v)}" for a, v in zip(axes, values, strict=True)), group


def _value(value: object) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text.split("'kind': ")[1].split("'")[1] if "'kind': " in text else text


def tables(folders: list[Path]) -> None:
    """A table a world."""
    for folder in folders:
        for title, group in worlds(load(folder)):
            print(f"\n**{folder.name}: {title}**\n")
            print("| strategy | " + " | ".join(COLUMNS) + " | size | rejected | bytes up | rounds |")
            print("|---" * (len(COLUMNS) + 5) + "|")
            for strategy, rows in group.groupby("calibrate", sort=False):
                size = _sizes(rows)
                infinite = rows["calibrate.infinite_interval_rate"].mean()
                cells = [_mean(rows[column]) for column in COLUMNS.values()]
                cells.append("infinite" if infinite > 0 and size.isna().any() else _mean(size))
                cells += [f"{rows['rejected'].sum()} of {rows['considered'].sum()}"]
                cells += [f"{rows['calibrate.bytes_up_per_client'].mean():.0f}"]
                print(f"| {strategy} | {' | '.join(cells)} | {rows['calibrate.rounds'].max():.0f} |")


def promise(folders: list[Path]) -> None:
    """Rejected clients by strategy, a column a sweep: in how many of its worlds any client is rejected, and how many
    clients in all."""
    loaded = [load(folder) for folder in folders]
    strategies = list(dict.fromkeys(s for points in loaded for s in points["calibrate"]))
    print("| strategy | " + " | ".join(points.attrs["name"] for points in loaded) + " |")
    print("|---" * (len(loaded) + 1) + "|")
    for strategy in strategies:
        cells = []
        for points in loaded:
            groups = [g[g["calibrate"] == strategy] for _, g in worlds(points)]
            rejected = [int(g["rejected"].sum()) for g in groups if len(g)]
            cells.append(f"{sum(map(bool, rejected))} of {len(rejected)} worlds, {sum(rejected)}" if rejected else "-")
        print(f"| {strategy} | {' | '.join(cells)} |")


def behaviours(folders: list[Path]) -> None:
    """Honest clients under each behaviour of the others: coverage, worst client, size."""
    columns = ("coverage", "coverage_client_min_tested", "mean_interval_length")
    for folder in folders:
        points = load(folder)
        points["kind"] = points["clients.behaviour"].map(_value)
        means = points.groupby(["calibrate", "kind"], sort=False)[[f"calibrate.honest.{c}" for c in columns]].mean()
        kinds = list(dict.fromkeys(points["kind"]))
        print("| strategy | " + " | ".join(kinds) + " |")
        print("|---" * (len(kinds) + 1) + "|")
        for strategy in dict.fromkeys(points["calibrate"]):
            numbers = [means.loc[(strategy, kind)].to_list() for kind in kinds]
            cells = [f"{_short(rejected)}, {_short(worst)}, {size:.1f}" for rejected, worst, size in numbers]
            print(f"| {strategy} | {' | '.join(cells)} |")


def calibrators(folders: list[Path]) -> None:
    """The worst client of each world after each calibrator, and its sets; then who is rejected, over all worlds."""
    for points in map(load, folders):
        points.attrs["axes"] = [axis for axis in points.attrs["axes"] if axis != CALIBRATOR]
        names = list(dict.fromkeys(points[CALIBRATOR]))
        for strategy in dict.fromkeys(points["calibrate"]):
            print(f"\n**{strategy}: worst client, set size**\n\n| world | {' | '.join(names)} |")
            print("|---" * (len(names) + 1) + "|")
            for title, group in worlds(_of(points, calibrate=strategy)):
                groups = [_of(group, **{CALIBRATOR: name}) for name in names]
                cells = [f"{_mean(rows[COLUMNS['worst']])}, {rows[SIZES[0]].mean():.2f}" for rows in groups]
                print(f"| {title} | {' | '.join(cells)} |")
        print("\n**worlds with a rejected client, and how many are**\n")
        print(f"| strategy, tested | {' | '.join(names)} |\n{'|---' * (len(names) + 1)}|")
        for strategy, test in points[["calibrate", "clients.test"]].drop_duplicates().itertuples(index=False):
            cells = []
            for name in names:
                mine = _of(points, **{"calibrate": strategy, "clients.test": test, CALIBRATOR: name})
                rejected = [int(group["rejected"].sum()) for _, group in worlds(mine)]
                cells.append(f"{sum(map(bool, rejected))} of {len(rejected)}, {sum(rejected)}")
            print(f"| {strategy}, {test} | {' | '.join(cells)} |")


def _of(points: pd.DataFrame, **values: str) -> pd.DataFrame:
    """The points with these values."""
    for column, value in values.items():
        points = points[points[column] == value]
    return points


def _short(rate: float) -> str:
    return f"{rate:.3f}".removeprefix("0")


def plane(path: Path, folders: list[Path]) -> None:
    """Worst client against size: the world with two tiers and concentration 0.1, tested on clients' own data."""
    figure, panels = plt.subplots(1, len(folders), figsize=(6.4 * len(folders), 5), squeeze=False)
    for axes, folder in zip(panels[0], folders, strict=True):
        points = load(folder)
        at = (points["clients.test"] == "local") & (points["clients.concentration"] == 0.1)
        at &= (points["clients.tier.weak.share"] == 0.5) & (points["clients.tier_by"] == "random")
        _plane(axes, folder.name.removeprefix("core-"), points[at])
    panels[0, 0].set_ylabel("coverage of the worst client (30 or more test points)")
    figure.tight_layout(w_pad=9, rect=(0, 0, 0.9, 1))
    figure.savefig(path, dpi=160)


def _plane(axes: plt.Axes, title: str, points: pd.DataFrame) -> None:
    alpha = float(points["alpha"].iloc[0])
    axes.axhline(1 - alpha, color="0.6", linestyle="--", linewidth=1)
    axes.text(0.01, 1 - alpha, f"promised {1 - alpha:.0%}", va="bottom", color="0.4", fontsize=9,
              transform=axes.get_yaxis_transform())  # fmt: skip
    drawn = []
    for strategy, rows in points.groupby("calibrate", sort=False):
        size, worst = _sizes(rows).mean(), rows["calibrate.coverage_client_min_tested"].mean()
        if not np.isfinite(size):
            continue
        own = str(strategy).startswith(("grouped", "class-conditional"))
        axes.plot(size, worst, "o", markersize=6, color="black" if own else "white", markeredgecolor="black", zorder=3)
        drawn.append((worst, size, str(strategy).split("(range")[0]))
    _labelled(axes, sorted(drawn))
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xlabel("mean size of sets" if "calibrate.mean_set_size" in points else "mean length of intervals")
    axes.spines[["top", "right"]].set_visible(False)


def _labelled(axes: plt.Axes, drawn: list[tuple[float, float, str]]) -> None:
    """Names to the right, at the height of their points as nearly as they do not run into each other."""
    (low, high), right = axes.get_ylim(), axes.get_xlim()[1]
    heights, gap = np.array([worst for worst, _, _ in drawn]), (high - low) * 0.032
    for _ in range(2000):
        close = np.maximum(gap - np.diff(heights), 0) / 2
        heights[1:] += close
        heights[:-1] -= close
    for (worst, size, name), height in zip(drawn, heights, strict=True):
        axes.plot([size, right], [worst, height], color="0.85", linewidth=0.7, zorder=1)
        axes.text(right, height, f" {name}", fontsize=7.5, va="center")
    axes.set(xlim=(None, right), ylim=(min(low, heights[0] - gap), max(high, heights[-1] + gap)))


def _sizes(rows: pd.DataFrame) -> pd.Series:
    column = next(c for c in SIZES if c in rows)
    return rows[column]


def _mean(values: pd.Series) -> str:
    here = values.dropna().to_numpy(float)
    if not len(here):
        return "-"
    error = here.std(ddof=1) / len(here) ** 0.5 if len(here) > 1 else 0.0
    if here.max() > 1:
        return f"{here.mean():.2f} ± {error:.2f}"
    return f"{here.mean():.3f} ± {error:.3f}".replace("0.", ".")


def main(arguments: list[str]) -> None:
    """tables, promise, behaviours or calibrators FOLDER..., or plane PICTURE FOLDER..."""
    what, *rest = arguments or [""]
    paths = [Path(a) for a in rest]
    printed = {"tables": tables, "promise": promise, "behaviours": behaviours, "calibrators": calibrators}
    if what in printed and paths:
        printed[what](paths)
    elif what == "plane" and len(paths) > 1:
        plane(paths[0], paths[1:])
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
