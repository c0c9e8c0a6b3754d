"""Who holds which labels: the picture of a partition, one column a client."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from fl_sim.report import wording
from fl_sim.report.figures.style import BAND, LEFT, SOFT, WIDTH, Sheet, bars, ranks, sheet, text_width, ticks
from fl_sim.results.run import Result

SIZES, GAP, FLOOR = 0.75, 0.12, 0.5  # inches: the panel of n_k, the space below it, ticks and axis label
MOST_NAMES, LONGEST = 64, 18  # class names shown, and letters of each
MOST_COLUMNS = 1000  # clients that still have a column of dots each; more are averaged
COLOURS = "Blues"
Counts = NDArray[np.int64]


def labels(result: Result) -> Figure:
    """Shares of the labels (or of the target's deciles) in each client's calibration points, and n_k above them."""
    counts = _sorted(np.array([row["label_counts"] for row in wording.answered(result)], dtype=np.int64))
    names = _names(result, counts.shape[1])
    size = 5.5 if len(names) > 24 else 8.0
    height = float(np.clip(len(names) * (0.105 if len(names) > 24 else 0.2), 2.0, 6.7))
    page = sheet(
        _finding(result, counts), wording.world(result), _caption(result, counts), SIZES + GAP + height + FLOOR
    )
    left = max(LEFT, 0.42 + max(text_width(page.figure, name, size) for name in names))
    width = WIDTH - left - 0.85
    ax = page.axes(left, FLOOR, width, height)
    norm = _norm(counts)
    _heat(ax, counts, names, size, norm, "decile" if wording.is_regression(result) else "label")
    _sizes(page.axes(left, FLOOR + height + GAP, width, SIZES), counts.sum(axis=1))
    _scale(page, left + width + 0.15, height, norm)
    ax.set_ylabel("decile of the target" if wording.is_regression(result) else "label")
    return page.figure


def _sorted(counts: Counts) -> Counts:
    """Rows (K, C) by their commonest label, the purest first; rows without points last."""
    total = counts.sum(axis=1)
    top = counts.argmax(axis=1)
    share = counts.max(axis=1) / np.maximum(total, 1)
    return counts[np.lexsort((-share, top, total == 0))]


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
    return [name if len(name) <= LONGEST else f"{name[: LONGEST - 3]}..." for name in names]


# ------------------------------------------------------------------------------------------------------------- drawing


def _norm(counts: Counts) -> Normalize:
    """Colour of a share: up to the largest, and steeper for small ones, which are many."""
    shares = _shares(counts)
    most = float(np.nanmax(shares)) if np.isfinite(shares).any() else 1.0
    return PowerNorm(0.6, vmin=0, vmax=max(most, 0.05))


def _heat(ax: Axes, counts: Counts, names: Sequence[str], size: float, norm: Normalize, unit: str) -> None:
    clients = len(counts)
    ax.imshow(
        _shares(counts).T,
        cmap=COLOURS,
        norm=norm,
        aspect="auto",
        extent=(0.5, clients + 0.5, len(names) - 0.5, -0.5),
        interpolation="nearest" if clients <= MOST_COLUMNS else "antialiased",
    )
    ax.set_facecolor(BAND)  # of clients without points
    step = -(-len(names) // MOST_NAMES)
    ax.set_yticks(range(0, len(names), step), list(names)[::step], fontsize=size)
    ax.tick_params(axis="y", length=0)
    ranks(ax, clients)
    ax.set_xlim(0.5, clients + 0.5)
    ax.set_xlabel(f"clients, by their commonest {unit}")
    for side in ("top", "right"):
        ax.spines[side].set_visible(True)


def _sizes(ax: Axes, sizes: Counts) -> None:
    bars(ax, np.zeros(len(sizes)), sizes.astype(np.float64), "#8a8a8a", "sizes")
    ax.set_xlim(0.5, len(sizes) + 0.5)
    ax.set_ylim(0, max(int(sizes.max(initial=1)), 1) * 1.05)
    ax.tick_params(axis="x", labelbottom=False, length=0)
    ax.yaxis.set_major_locator(ticks(3, integer=True))
    ax.set_ylabel("n_k")


def _scale(page: Sheet, left: float, height: float, norm: Normalize) -> None:
    tall = min(height, 1.6)
    place = page.axes(left, FLOOR + height - tall, 0.12, tall)
    ramp = np.linspace(norm.vmax or 1, 0, 128)[:, None]
    place.imshow(ramp, cmap=COLOURS, norm=norm, aspect="auto", extent=(0, 1, 0, norm.vmax or 1))
    place.set_xticks([])
    place.yaxis.set_major_locator(ticks(4))
    place.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.4g}%"))
    place.yaxis.tick_right()
    place.annotate(
        "of n_k", (0, 0), xycoords="axes fraction", xytext=(0, -12), textcoords="offset points", fontsize=8, color=SOFT
    )


# -------------------------------------------------------------------------------------------------------------- words


def _finding(result: Result, counts: Counts) -> str:
    held = counts[counts.sum(axis=1) > 0]
    if not len(held):
        return "No client has a calibration point"
    few, sizes = int(np.sort(_needed(held))[(len(held) - 1) // 2]), counts.sum(axis=1)
    thing = "target deciles" if wording.is_regression(result) else "labels"
    span = f"from {sizes.min():,} to {sizes.max():,}" if sizes.min() < sizes.max() else f"= {sizes.max():,}"
    return f"Half of the clients have 90% of their points in {few} of {counts.shape[1]} {thing}; n_k {span}"


def _needed(counts: Counts) -> Counts:
    """How many labels, the commonest first, make up 90 % of each row of (K, C)."""
    running = np.sort(counts, axis=1)[:, ::-1].cumsum(axis=1)
    return 1 + (10 * running < 9 * running[:, -1:]).sum(axis=1)


def _caption(result: Result, counts: Counts) -> str:
    empty, lost = int((counts.sum(axis=1) == 0).sum()), len(wording.missing(result))
    said = ["Each column is a client: the shares of its calibration points, and above it n_k, how many they are."]
    said += [f"{wording.count(empty, 'client')} without calibration points, grey, at the right."] * bool(empty)
    said += [f"{wording.count(lost, 'client')} failed and {'is' if lost == 1 else 'are'} missing here."] * bool(lost)
    return " ".join(said)
