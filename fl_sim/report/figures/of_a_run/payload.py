"""What a payload is made of: its bytes beside what they would be otherwise, and why it holds the images it holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter

from fl_sim.report import payload as handed_out
from fl_sim.report import wording
from fl_sim.report.figures.marks import beside, count_axis, mark, names_axis, note, share_axis, short, ticks
from fl_sim.report.figures.sheet import Words, side_by_side, widest
from fl_sim.report.figures.style import BAND, DASHED, INK, SOFT
from fl_sim.report.numbers import count, percent, size_of
from fl_sim.results.run import Result

ORDER = 50
ROW, LEAST, NARROWEST, RIGHT = 0.22, 2.3, 1.6, 0.62  # inches: a rule or class, the least panel, and beside the panels
MOST_CLASSES, ENDS = 24, 10  # classes shown at all; of more, so many from each end
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
_WHITE = {"facecolor": "white", "edgecolor": "none", "pad": 0.7}

Trials = Sequence[dict[str, Any]]


def applies(result: Result) -> bool:
    """Where PLADA's payload was handed out."""
    return handed_out.has_payload(result)


def draw(result: Result) -> Figure:
    """The payload's bytes, and how the rules fared in rehearsal, or what is kept of each class."""
    trials: Trials = handed_out.detail(result).get("rehearsal") or []
    per_class = handed_out.detail(result)["kept_by_class"]
    rows = _classes(per_class)
    names = [str(trial["rule"]) for trial in trials] or [name for name, _ in rows]
    across = max(0.85, 0.45 + widest(names, 8))
    words = Words(_finding(result), wording.world(result), _caption(result))
    height = max(LEAST, ROW * len(names))
    figure, (left, right) = side_by_side(
        words, 2, height, narrowest=NARROWEST, across=across, right=RIGHT, left=across, key=_key(result)
    )
    _bytes(left, result.learn["codec"])
    names_axis(right, names)
    if trials:
        _rehearsal(right, trials, result.learn["accuracy"])
    else:
        _kept(right, rows, result.learn["num_kept"] / len(per_class))
    return figure


# --------------------------------------------------------------------------------------------------------------- bytes


def parts_of(codec: dict[str, Any]) -> dict[str, int]:
    """Bytes of the parts, in the order of the stack, those of none left out; they add up to the file's."""
    parts = {**codec, "names": codec["header"] + codec["class_names"]}
    return {name: parts[name] for name in _PARTS if parts.get(name)}


def _key(result: Result) -> list[Artist]:
    codec = result.learn["codec"]
    key: list[Artist] = [
        Patch(facecolor=_PARTS[name][1], label=f"{_PARTS[name][0]} {size:,}") for name, size in parts_of(codec).items()
    ]
    key.append(Patch(facecolor=_ZSTD, label=f"indices and labels by Zstd-19 {codec['zstd']:,}"))
    bound = f"entropy bound {codec['entropy_bound']:,.0f}"
    return [*key, Line2D([], [], color=INK, linewidth=1.2, linestyle=DASHED, label=bound)]


def _bytes(ax: Axes, codec: dict[str, Any]) -> None:
    bottom = 0
    for name, size in parts_of(codec).items():
        ax.bar(0, size, 0.62, bottom, color=_PARTS[name][1], linewidth=0.6, edgecolor="white", zorder=3)
        bottom += size
    ax.bar(1, codec["zstd"], 0.62, color=_ZSTD, linewidth=0.6, edgecolor="white", zorder=3)
    for place, size in ((0, bottom), (1, codec["zstd"])):
        note(ax, f"{size:,}", (place, size), (0, 3), ha="center", va="baseline", fontsize=8, zorder=5, bbox=_WHITE)
    bound = codec["entropy_bound"]
    ax.plot([-0.45, 1.45], [bound, bound], color=INK, linewidth=1.2, linestyle=DASHED, zorder=4, gid="bound")
    ax.set_xlim(-0.5, 1.5)
    ax.set_ylim(0, 1.1 * max(bottom, codec["zstd"], bound))
    ax.set_xticks([0, 1], ["this payload", "Zstd-19"])
    ax.tick_params(axis="x", length=0)
    ax.yaxis.set_major_locator(ticks(5, integer=True))
    ax.yaxis.set_major_formatter(EngFormatter("B"))
    ax.set_title("bytes")


# ----------------------------------------------------------------------------------------------------------- rehearsal


def _rehearsal(ax: Axes, trials: Trials, reached: float | None) -> None:
    """A row a rule, the one that was taken on top: a dot a round, and a stroke at their mean."""
    rounds = [len(trial["rounds"]) for trial in trials]
    for row, trial in enumerate(trials):
        colour, mean = SENT if row == 0 else DOT, trial["accuracy"]
        dots: dict[str, Any] = {"linestyle": "none", "marker": "o", "color": colour, "zorder": 3}
        ax.plot(trial["rounds"], [row] * rounds[row], **dots, **mark(None, 5))
        ax.plot([mean, mean], [row - 0.32, row + 0.32], color=colour, linewidth=2.2, solid_capstyle="butt", zorder=4)
        beside(ax, percent(mean), row, 5, fontsize=7.5, color=INK if row == 0 else SOFT)
        if row and rounds[row] < rounds[row - 1]:
            ax.axhline(row - 0.5, color=BAND, linewidth=0.8)
    if reached is not None:
        ax.axvline(reached, color=INK, linewidth=1.0, linestyle=DASHED, zorder=2, gid="reached")
    ax.get_yticklabels()[0].set_fontweight("bold")
    ends = [share for trial in trials for share in trial["rounds"]] + [reached] * (reached is not None)
    room = 0.05 * max(max(ends) - min(ends), 0.1)
    ax.set_xlim(max(min(ends) - room, -0.01), min(max(ends) + room, 1.01))
    share_axis(ax.xaxis)
    ax.set_xlabel("accuracy of students on rows held out")
    ax.set_title("rehearsal")


# -------------------------------------------------------------------------------------------------------- kept classes


def _classes(per_class: dict[str, int]) -> list[tuple[str, int | None]]:
    """(name, images) of the classes in their order; of many, the fullest and the emptiest, with a gap of None."""
    named: list[tuple[str, int | None]] = [(short(name), many) for name, many in per_class.items()]
    if len(named) <= MOST_CLASSES:
        return named
    ordered = sorted(named, key=lambda one: -(one[1] or 0))
    return [*ordered[:ENDS], (f"{len(ordered) - 2 * ENDS:,} between", None), *ordered[-ENDS:]]


def _kept(ax: Axes, rows: Sequence[tuple[str, int | None]], even: float) -> None:
    """A bar a class; dashed, what an even share would be."""
    for row, (_, many) in enumerate(rows):
        ax.barh(row, many or 0, 0.62, color=SENT, linewidth=0, zorder=3)
        note(ax, "..." if many is None else f"{many:,}", (many or 0, row), (4, 0), zorder=5, bbox=_WHITE)
    ax.axvline(even, color=INK, linewidth=1.0, linestyle=DASHED, zorder=4, gid="even")
    ax.set_xlim(0, 1.12 * max([many or 0 for _, many in rows] + [even, 1]))
    count_axis(ax.xaxis)
    ax.set_xlabel("images")
    ax.set_title("kept images of each class")


# --------------------------------------------------------------------------------------------------------------- words


def _finding(result: Result) -> str:
    learn = result.learn
    reached, teacher = learn["accuracy"], learn["teacher_accuracy"]
    text = f"{size_of(learn['payload_bytes'])} carry the labels of {handed_out.kept(learn)}"
    came = f"the clients reach {percent(reached)}" if reached is not None else "no client could be tested"
    return f"{text}; {came}, the teacher {percent(teacher)}"


def _caption(result: Result) -> str:
    detail = handed_out.detail(result)
    classes, trials = len(detail["kept_by_class"]), detail.get("rehearsal") or []
    parts = [f"Kept by: {result.learn['rule']}. Zstd-19: the smaller of the paper's two encodings of the same indices "
            "and labels; neither it nor the bound, which holds for payloads without clusters, counts header, names and "
            "sections."]  # fmt: skip
    if trials:
        parts += [f"Rehearsal: {count(len(trials), 'rule')}, tried on rows of the server's; a dot a round, a stroke at "
                 "their mean; after each round the worse half was dropped; in bold the one that was taken; dashed, "
                 "what the clients reach in this run."]  # fmt: skip
        return " ".join(parts)
    parts += ["Dashed: an even share of the classes."]
    parts += [f"Of {classes:,} classes the {ENDS} fullest and the {ENDS} emptiest."] * (classes > MOST_CLASSES)
    return " ".join(parts)
