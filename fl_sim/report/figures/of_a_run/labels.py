"""Who holds which labels: the picture of a partition, one column a client."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fl_sim.report import wording
from fl_sim.report.figures.marks import MOST_COLUMNS, bars, columns, count_axis, note, ranks, share_axis, short
from fl_sim.report.figures.sheet import FLOOR, LEFT, Grid, Sheet, Words, facets, sheet, widest
from fl_sim.report.figures.style import BAND, SOFT
from fl_sim.report.numbers import count
from fl_sim.results.run import Result

ORDER = 30
SIZES, RIGHT = 0.75, 0.85  # inches: the panel of n_k, and beside the panels the scale
MOST_NAMES = 64  # class names shown
COLOURS = "Blues"
Counts = NDArray[np.int64]


def applies(result: Result) -> bool:
    """Always."""
    return True


def draw(result: Result) -> Figure:
    """Shares of the labels (or of the target's deciles) in each client's calibration points, and n_k above them."""
    answered = [row for row in result.clients if row["status"] == "ok"]
    counts = _sorted(np.array([row["label_counts"] for row in answered], dtype=np.int64))
    names = _names(result, counts.shape[1])
    size = 5.5 if len(names) > 24 else 8.0
    height = float(np.clip(len(names) * (0.105 if len(names) > 24 else 0.2), 2.0, 6.7))
    left = max(LEFT, 0.42 + widest(names, size))
    grid = Grid([SIZES, height], 1, left, RIGHT, down=0.12, above=0)
    page = sheet(Words(_finding(result, counts), wording.world(result), _caption(result, counts)), grid.height)
    (sizes,), (ax,) = facets(page, grid)
    norm = _norm(counts)
    unit = "decile" if wording.is_regression(result) else "label"
    _heat(ax, counts, names, size, norm)
    _sizes(sizes, counts.sum(axis=1))
    _scale(page, left + grid.panel + 0.15, height, norm)
    ax.set_xlabel(f"clients, by their commonest {unit}")
    ax.set_ylabel("decile of the target" if wording.is_regression(result) else "label")
    return page.figure


def _sorted(counts: Counts) -> Counts:
    """Rows (K, C) by their commonest label, the purest first; rows without points last."""
    total = counts.sum(axis=1)
    share = counts.max(axis=1) / np.maximum(total, 1)
    return counts[np.lexsort((-share, counts.argmax(axis=1), total == 0))]


def _shares(counts: Counts) -> NDArray[np.float64]:
    """(K, C) shares of each row; nan in rows without points."""
    total = counts.sum(axis=1, keepdims=True).astype(np.float64)
    return np.divide(counts, total, out=np.full(counts.shape, np.nan), where=total > 0)


def _names(result: Result, number: int) -> list[str]:
    """Class names where the result has them, else their numbers; deciles count from 1."""
    if wording.is_regression(result):
        return [str(k + 1) for k in range(number)]
    known = result.summary.get("classes") or []
    names = known if len(known) == number else [str(k) for k in range(number)]
    return list(map(short, names))


# ------------------------------------------------------------------------------------------------------------- drawing


def _norm(counts: Counts) -> Normalize:
    """Colour of a share: up to the largest, and steeper for small ones, which are many."""
    shares = _shares(counts)
    most = float(np.nanmax(shares)) if np.isfinite(shares).any() else 1.0
    return PowerNorm(0.6, vmin=0, vmax=max(most, 0.05))


def _heat(ax: Axes, counts: Counts, names: Sequence[str], size: float, norm: Normalize) -> None:
    clients, shares = len(counts), columns(_shares(counts))
    place = (0.5, clients + 0.5, len(names) - 0.5, -0.5)
    ax.imshow(shares.T, cmap=COLOURS, norm=norm, aspect="auto", extent=place, interpolation="nearest")
    ax.set_facecolor(BAND)  # of clients without points
    step = -(-len(names) // MOST_NAMES)
    ax.set_yticks(range(0, len(names), step), list(names)[::step], fontsize=size)
    ax.tick_params(axis="y", length=0)
    ranks(ax, clients)
    ax.set_xlim(0.5, clients + 0.5)
    ax.spines[["top", "right"]].set_visible(True)


def _sizes(ax: Axes, sizes: Counts) -> None:
    bars(ax, np.zeros(len(sizes)), sizes.astype(np.float64), "#8a8a8a", "sizes")
    ax.set_xlim(0.5, len(sizes) + 0.5)
    ax.set_ylim(0, max(int(sizes.max(initial=1)), 1) * 1.05)
    ax.tick_params(axis="x", labelbottom=False, length=0)
    count_axis(ax.yaxis, 3)
    ax.set_ylabel("n_k")


def _scale(page: Sheet, left: float, height: float, norm: Normalize) -> None:
    tall, most = min(height, 1.6), norm.vmax or 1
    place = page.axes(left, FLOOR + height - tall, 0.12, tall)
    ramp = np.linspace(most, 0, 128)[:, None]
    place.imshow(ramp, cmap=COLOURS, norm=norm, aspect="auto", extent=(0, 1, 0, most))
    place.set_xticks([])
    share_axis(place.yaxis, 4)
    place.yaxis.tick_right()
    note(place, "of n_k", (0, 0), (0, -12), xycoords="axes fraction", va="baseline", fontsize=8, color=SOFT)


# -------------------------------------------------------------------------------------------------------------- words


def _finding(result: Result, counts: Counts) -> str:
    full = counts[counts.sum(axis=1) > 0]
    if not len(full):
        return "No client has a calibration point"
    few, sizes = int(np.sort(_needed(full))[(len(full) - 1) // 2]), counts.sum(axis=1)
    thing = "target deciles" if wording.is_regression(result) else "labels"
    span = f"from {sizes.min():,} to {sizes.max():,}" if sizes.min() < sizes.max() else f"= {sizes.max():,}"
    return f"Half of the clients have 90% of their points in {few} of {counts.shape[1]} {thing}; n_k {span}"


def _needed(counts: Counts) -> Counts:
    """How many labels, the commonest first, make up 90 % of each row of (K, C)."""
    running = np.sort(counts, axis=1)[:, ::-1].cumsum(axis=1)
    return 1 + (10 * running < 9 * running[:, -1:]).sum(axis=1)


def _caption(result: Result, counts: Counts) -> str:
    empty, lost = int((counts.sum(axis=1) == 0).sum()), len(wording.missing(result))
    parts = ["Each column is a client: the shares of its calibration points, and above it n_k, how many they are."]
    if len(counts) > MOST_COLUMNS:
        of_each = "the shares of their calibration points, and above it n_k, how many they are"
        parts = [f"Each of {MOST_COLUMNS:,} columns is the mean of neighbouring clients: {of_each}."]
    parts += [f"{count(empty, 'client')} without calibration points, grey, at the right."] * bool(empty)
    parts += [f"{count(lost, 'client')} failed and {'is' if lost == 1 else 'are'} missing here."] * bool(lost)
    return " ".join(parts)
