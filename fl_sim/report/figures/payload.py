"""What a payload is made of: its bytes beside what they would be otherwise, and why it holds the images it holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from fl_sim.report import payload as handed
from fl_sim.report import wording
from fl_sim.report.figures.style import BAND, INK, SOFT, WIDTH, Sheet, sheet, text_width, ticks
from fl_sim.report.wording import count, percent, size_of
from fl_sim.results.run import Result

ROW, LEAST, FLOOR, HEAD = 0.22, 2.3, 0.5, 0.24  # inches: a rule or class, the least plot, below the plots, above them
BYTES = 2.1  # inches: the panel of bytes
MOST_CLASSES, ENDS, LONGEST = 24, 10, 18  # classes shown at all; of more, so many from each end; letters of a name
DOT, SENT = "#8a8a8a", "#0072b2"  # of rules that were not taken, and of the one that was
# Of the parts, from the bottom of the stack; neighbours differ in lightness, so that they read in grey.
_PARTS = {
    "indices": ("indices", "#0072b2"),
    "labels": ("labels", "#56b4e9"),
    "names": ("header and class names", "#222222"),
    "curriculum_order": ("curriculum order", "#e69f00"),
    "soft_labels": ("soft labels", "#f3d9a4"),
}
_ZSTD = "#b0b0b0"

Trials = Sequence[dict[str, Any]]


def payload(result: Result) -> Figure:
    """Left, the payload's bytes; right, how the rules fared in rehearsal, or what is kept of each class.

    The result must be one of `handed.has_payload`.
    """
    trials: Trials = handed.detail(result).get("rehearsal") or []
    rows = _classes(handed.detail(result)["kept_by_class"])
    height = max(LEAST, ROW * len(trials or rows))
    page = sheet(_finding(result), wording.world(result), _caption(result), height + FLOOR + HEAD, _key(result))
    left = 0.85
    _bytes(page.axes(left, FLOOR, BYTES, height), result.learn["codec"])
    names = [str(trial["rule"]) for trial in trials] or [name for name, _ in rows]
    after = left + BYTES + 0.45 + max(text_width(page.figure, name, 8) for name in names) + 0.1
    ax = page.axes(after, FLOOR, WIDTH - after - 0.62, height)
    if trials:
        _rehearsal(ax, trials, result.learn["accuracy"])
    else:
        _kept(ax, rows, result.learn["num_kept"] / len(handed.detail(result)["kept_by_class"]))
    _heads(page, height, left, "bytes", after, "rehearsal" if trials else "kept images of each class")
    return page.figure


def _heads(page: Sheet, height: float, left: float, one: str, after: float, two: str) -> None:
    w, h = page.figure.get_size_inches()
    for place, text in ((left, one), (after, two)):
        where = (page.bottom + FLOOR + height + 0.08) / h
        page.figure.text(place / w, where, text, fontsize=8.2, color=INK, va="bottom")


# --------------------------------------------------------------------------------------------------------------- bytes


def parts_of(codec: dict[str, Any]) -> dict[str, int]:
    """Bytes of the parts, in the order of the stack, those of none left out; they add up to the file's."""
    found = {**codec, "names": codec["header"] + codec["class_names"]}
    return {name: found[name] for name in _PARTS if found.get(name)}


def _key(result: Result) -> list[Artist]:
    codec = result.learn["codec"]
    said: list[Artist] = [
        Patch(facecolor=_PARTS[name][1], label=f"{_PARTS[name][0]} {size:,}") for name, size in parts_of(codec).items()
    ]
    said.append(Patch(facecolor=_ZSTD, label=f"indices and labels by Zstd-19 {codec['zstd']:,}"))
    bound = f"entropy bound {codec['entropy_bound']:,.0f}"
    return [*said, Line2D([], [], color=INK, linewidth=1.2, linestyle=(0, (5, 3)), label=bound)]


def _bytes(ax: Axes, codec: dict[str, Any]) -> None:
    bottom = 0
    for name, size in parts_of(codec).items():
        ax.bar(0, size, 0.62, bottom, color=_PARTS[name][1], linewidth=0.6, edgecolor="white", zorder=3)
        bottom += size
    ax.bar(1, codec["zstd"], 0.62, color=_ZSTD, linewidth=0.6, edgecolor="white", zorder=3)
    for place, size in ((0, bottom), (1, codec["zstd"])):
        ax.annotate(
            f"{size:,}", (place, size), xytext=(0, 3), textcoords="offset points", ha="center", fontsize=8, color=INK,
            zorder=5, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
        )  # fmt: skip
    bound = codec["entropy_bound"]
    ax.plot([-0.45, 1.45], [bound, bound], color=INK, linewidth=1.2, linestyle=(0, (5, 3)), zorder=4, gid="bound")
    ax.set_xlim(-0.5, 1.5)
    ax.set_ylim(0, 1.1 * max(bottom, codec["zstd"], bound))
    ax.set_xticks([0, 1], ["this payload", "Zstd-19"])
    ax.tick_params(axis="x", length=0)
    ax.yaxis.set_major_locator(ticks(5, integer=True))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda size, _: _axis_bytes(size)))


def _axis_bytes(size: float) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e4, "kB")):
        if size >= unit:
            return f"{size / (1e3 if name == 'kB' else unit):.4g} {name}"
    return f"{size:,.0f}"


# ----------------------------------------------------------------------------------------------------------- rehearsal


def _rehearsal(ax: Axes, trials: Trials, reached: float | None) -> None:
    """A row a rule, the one that was taken on top: a dot a round, and a stroke at their mean."""
    rounds = [len(trial["rounds"]) for trial in trials]
    for row, trial in enumerate(trials):
        colour = SENT if row == 0 else DOT
        ax.plot(
            trial["rounds"], [row] * rounds[row], linestyle="none", marker="o", markersize=5, color=colour,
            markerfacecolor="white", markeredgewidth=1.2, zorder=3,
        )  # fmt: skip
        mean = trial["accuracy"]
        ax.plot([mean, mean], [row - 0.32, row + 0.32], color=colour, linewidth=2.2, solid_capstyle="butt", zorder=4)
        ax.annotate(
            percent(mean), (1, row), xycoords=("axes fraction", "data"), xytext=(5, 0), textcoords="offset points",
            va="center", fontsize=7.5, color=INK if row == 0 else SOFT, annotation_clip=False,
        )  # fmt: skip
        if row and rounds[row] < rounds[row - 1]:
            ax.axhline(row - 0.5, color=BAND, linewidth=0.8)
    if reached is not None:
        ax.axvline(reached, color=INK, linewidth=1.0, linestyle=(0, (5, 3)), zorder=2, gid="reached")
    _rows(ax, [str(trial["rule"]) for trial in trials], bold=0)
    ends = [share for trial in trials for share in trial["rounds"]] + [reached] * (reached is not None)
    low, high = min(ends), max(ends)
    room = 0.05 * max(high - low, 0.1)
    ax.set_xlim(max(low - room, -0.01), min(high + room, 1.01))
    ax.xaxis.set_major_locator(ticks(5))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.4g}%"))
    ax.set_xlabel("accuracy of students on rows held out")


# -------------------------------------------------------------------------------------------------------- kept classes


def _classes(kept: dict[str, int]) -> list[tuple[str, int | None]]:
    """(name, images) of the classes in their order; of many, the fullest and the emptiest, with a gap of None."""
    named = [(name if len(name) <= LONGEST else f"{name[: LONGEST - 3]}...", many) for name, many in kept.items()]
    if len(named) <= MOST_CLASSES:
        return list(named)
    ordered = sorted(named, key=lambda one: -one[1])
    between = ordered[ENDS:-ENDS]
    return [*ordered[:ENDS], (f"{len(between):,} between", None), *ordered[-ENDS:]]


def _kept(ax: Axes, rows: Sequence[tuple[str, int | None]], even: float) -> None:
    """A bar a class; dashed, what an even share would be."""
    for row, (_, many) in enumerate(rows):
        ax.barh(row, many or 0, 0.62, color=SENT, linewidth=0, zorder=3)
        ax.annotate(
            "..." if many is None else f"{many:,}", (many or 0, row), xytext=(4, 0), textcoords="offset points",
            va="center", fontsize=7.5, color=INK, zorder=5,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        )  # fmt: skip
    ax.axvline(even, color=INK, linewidth=1.0, linestyle=(0, (5, 3)), zorder=4, gid="even")
    _rows(ax, [name for name, _ in rows])
    ax.set_xlim(0, 1.12 * max([many or 0 for _, many in rows] + [even, 1]))
    ax.xaxis.set_major_locator(ticks(5, integer=True))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda many, _: f"{many:,.0f}"))
    ax.set_xlabel("images")


def _rows(ax: Axes, names: Sequence[str], bold: int | None = None) -> None:
    ax.set_ylim(len(names) - 0.5, -0.5)  # the first on top
    ax.set_yticks(np.arange(len(names)), list(names), fontsize=8)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.grid(axis="x", color="#eeeeee", linewidth=0.6, zorder=0)
    ax.set_axisbelow(True)
    if bold is not None:
        ax.get_yticklabels()[bold].set_fontweight("bold")


# --------------------------------------------------------------------------------------------------------------- words


def _finding(result: Result) -> str:
    learn = result.learn
    reached, teacher = learn["accuracy"], learn["teacher_accuracy"]
    said = f"{size_of(learn['payload_bytes'])} carry the labels of {handed.kept(learn)}"
    came = f"the clients reach {percent(reached)}" if reached is not None else "no client could be tested"
    return f"{said}; {came}, the teacher {percent(teacher)}"


def _caption(result: Result) -> str:
    learn, found = result.learn, handed.detail(result)
    said = [f"Kept by: {learn['rule']}."]
    said += ["Zstd-19: the smaller of the paper's two encodings of the same indices and labels; neither it nor the "
             "bound, which holds for payloads without clusters, counts header, names and sections."]  # fmt: skip
    if found.get("rehearsal"):
        tried = count(len(found["rehearsal"]), "rule")
        said += [f"Right: {tried}, tried on rows of the server's; a dot a round, a stroke at their mean; after each "
                 "round the worse half was dropped; in bold the one that was taken; dashed, what the clients reach in "
                 "this run."]  # fmt: skip
    else:
        said += ["Right: dashed, an even share of the classes."]
        classes = len(found["kept_by_class"])
        said += [f"Of {classes:,} classes the {ENDS} fullest and the {ENDS} emptiest."] * (classes > MOST_CLASSES)
    return " ".join(said)
