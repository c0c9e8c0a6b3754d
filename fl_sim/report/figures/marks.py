"""What several figures draw: the promise, axes of shares and of clients, bars, clouds of clients, labels beside."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import ArrayLike, NDArray

from fl_sim.report.figures.style import BAND, DASHED, INK, SOFT, WARN

MOST_COLUMNS = 1000  # clients that still have a column each
MANY = 5000  # marks, beyond which they are a picture within an SVG, which else has megabytes
_GOLDEN = (5**0.5 - 1) / 2  # its multiples fill an interval evenly: a jitter without chance


def promise_lines(ax: Axes, promised: Iterable[float], *, upright: bool = False, shaded: bool = True) -> None:
    """A dashed line at each coverage that was promised; where there is one, what is less is shaded."""
    levels = sorted(set(promised))
    line, span = (ax.axvline, ax.axvspan) if upright else (ax.axhline, ax.axhspan)
    for level in levels:
        line(level, color=INK, linewidth=1.0, linestyle=DASHED, zorder=2, gid="nominal")
    if len(levels) == 1 and shaded:
        low = (ax.get_xlim() if upright else ax.get_ylim())[0]
        span(low, levels[0], color=WARN, alpha=0.06, linewidth=0, zorder=0.5)


def ticks(most: int, *, integer: bool = False) -> MaxNLocator:
    """At most so many ticks, at round numbers."""
    return MaxNLocator(most, integer=integer, steps=[1, 2, 5, 10] if integer else [1, 2, 2.5, 5, 10])


def share_axis(axis: Axis, most: int = 5) -> None:
    """An axis of shares, in percent."""
    axis.set_major_locator(ticks(most))
    axis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.4g}%"))


def count_axis(axis: Axis, most: int = 5) -> None:
    """An axis of whole numbers."""
    axis.set_major_locator(ticks(most, integer=True))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def short(name: str, most: int = 18) -> str:
    """A name of a class, cut where it is too long for the margin."""
    return name if len(name) <= most else f"{name[: most - 3]}..."


def names_axis(ax: Axes, names: Sequence[str]) -> None:
    """A y axis of names, the first on top, each in the middle of its row."""
    ax.set_ylim(max(len(names), 1) - 0.5, -0.5)
    ax.set_yticks(np.arange(len(names)), list(names))
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.grid(axis="x", zorder=0)


def ranks(ax: Axes, clients: int) -> None:
    """An x axis of clients 1..K."""
    ax.set_xlim(0.4 - 0.01 * clients, clients + 0.6 + 0.01 * clients)
    count_axis(ax.xaxis)
    ax.set_xticks([tick for tick in ticks(8, integer=True).tick_values(1, max(clients, 2)) if 1 <= tick <= clients])


def columns(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values of K clients in their order, (K, ...), as they are drawn: beyond `MOST_COLUMNS` of them a column is the
    mean of neighbours, as many in each as K allows, without those that are nan.

    >>> columns(np.array([1.0, np.nan, 3.0])).tolist()
    [1.0, nan, 3.0]
    """
    if len(values) <= MOST_COLUMNS:
        return values
    starts = np.linspace(0, len(values), MOST_COLUMNS, endpoint=False).astype(np.int64)
    total, known = (np.add.reduceat(part, starts, axis=0) for part in (np.nan_to_num(values), ~np.isnan(values) * 1.0))
    return np.divide(total, known, out=np.full(total.shape, np.nan), where=known > 0)


def bars(ax: Axes, low: NDArray[np.float64], high: NDArray[np.float64], colour: str, name: str) -> None:
    """Bars from `low` to `high`, both (K,), at 1..K, in `columns`; none where they are nan. One path, however many."""
    edges = np.linspace(0, len(low), len(columns(low)) + 1) + 0.5
    low, high = columns(low), columns(high)
    gap = 0.1 if len(low) < 150 else 0.0
    edges = np.stack([edges[:-1] + gap, edges[1:] - gap], axis=1).ravel()
    tops, bottoms = (np.stack([ends, np.full(len(ends), np.nan)], axis=1).ravel()[:-1] for ends in (high, low))
    ax.stairs(tops, edges, baseline=bottoms, fill=True, color=colour, linewidth=0, gid=name)


def cloud(ax: Axes, values: ArrayLike, low: float, high: float, style: dict[str, Any]) -> None:
    """A mark a value (n,), sorted, between two heights."""
    x = np.sort(np.asarray(values, np.float64))
    y = low + (high - low) * (np.arange(1, len(x) + 1) * _GOLDEN % 1)
    area = float(np.clip(6000 / max(len(x), 1), 8, 30))
    ax.scatter(
        x, y, s=area, linewidth=0.4, edgecolor="white", zorder=3, clip_on=False, rasterized=len(x) > MANY, **style
    )


def mark(face: str | None, size: float = 5.5) -> dict[str, Any]:
    """An open mark of a line, or one that is filled with that colour."""
    return {"markersize": size, "markerfacecolor": face or "white", "markeredgewidth": 1.3}


def note(ax: Axes, text: str, place: tuple[float, float], away: tuple[float, float], **how: Any) -> None:
    """A text so many points away from the place of which it speaks."""
    look: dict[str, Any] = {"fontsize": 7.5, "color": INK, "va": "center", "annotation_clip": False}
    ax.annotate(text, place, xytext=away, textcoords="offset points", **look | how)


def beside(ax: Axes, text: str, height: float, away: float = 4, **how: Any) -> None:
    """A text to the right of the axes, at a height of theirs."""
    note(ax, text, (1, height), (away, 0), xycoords=("axes fraction", "data"), **{"fontsize": 8} | how)


def names_beside(ax: Axes, named: Sequence[tuple[float, float | None, str]], gap: float) -> None:
    """Texts to the right of the axes, (height, place of the mark that is meant or None, text), each as near its height
    as they keep `gap` apart, with a line to its mark; what has no mark hardly moves."""
    labels = sorted(named, key=lambda label: (label[0], label[2]))
    heights, weights = [label[0] for label in labels], [1.0 if label[1] is not None else 100.0 for label in labels]
    places = spread(heights, weights, *ax.get_ylim(), gap)
    right = ax.get_xlim()[1]
    for (height, mark_at, text), place in zip(labels, places, strict=True):
        if mark_at is not None:
            ax.plot([mark_at, right], [height, place], color=BAND, linewidth=0.8, zorder=1, clip_on=False)
        beside(ax, text, place, color=SOFT if mark_at is None else INK)


def spread(heights: Sequence[float], weights: Sequence[float], low: float, high: float, gap: float) -> list[float]:
    """Heights, ascending, moved as little as they are `gap` apart and, where there is room, within `low` to `high`.

    Little is meant in weighted squares: what has a large weight hardly moves.

    >>> [round(height, 6) for height in spread([1.0, 1.0, 5.0], [1.0, 1.0, 1.0], 0.0, 6.0, 1.0)]
    [0.5, 1.5, 5.0]
    """
    # Least squares under an order: what touches moves as one block to the mean of what its members ask for.
    blocks: list[tuple[float, float, int]] = []
    for index, (height, weight) in enumerate(zip(heights, weights, strict=True)):
        blocks.append((height - index * gap, weight, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (first, many, few), (second, more, rest) = blocks[-2:]
            blocks[-2:] = [((first * many + second * more) / (many + more), many + more, few + rest)]
    asked = [start for start, _, members in blocks for _ in range(members)]
    return [max(min(start, high - (len(asked) - 1) * gap), low) + index * gap for index, start in enumerate(asked)]
