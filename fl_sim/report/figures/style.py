"""How figures look: one dict of settings, one palette, and the sheet on which every figure stands.

A sheet is laid out in inches: title and subtitle above, then a key, the plot, and a caption below, each as high as its
text needs. Nothing here touches matplotlib's global state.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

INK, SOFT, BAND, WARN = "#222222", "#666666", "#dcdcdc", "#b3261e"

STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # travels with matplotlib, so that two machines draw the same
    "font.size": 8.2,
    "text.color": INK,
    "text.parse_math": False,  # a name may hold a dollar
    "text.usetex": False,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": False,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.2,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "path.simplify": False,
    "svg.hashsalt": "fl-sim",  # else the ids differ at every drawing
    "svg.fonttype": "path",
}

# Okabe and Ito's colours, ordered so that neighbours differ in lightness too; with a shape each, they read in grey.
_LOOKS = (
    ("#0072b2", "o"),
    ("#e69f00", "^"),
    ("#009e73", "s"),
    ("#d55e00", "v"),
    ("#56b4e9", "D"),
    ("#cc79a7", "P"),
    ("#222222", "X"),
)

LOOKS = len(_LOOKS)  # so many differ in colour
WIDTH, LEFT, RIGHT, DPI = 9.0, 0.72, 0.95, 150  # inches, and PNG's dots an inch
_TITLE, _TEXT = 11.5, 8.2  # points
_LEADING = 1.35 / 72  # inches a line, for each point of its size


def look(index: int) -> dict[str, Any]:
    """Colour and marker of the tier of that index."""
    turn, place = divmod(index, len(_LOOKS))
    return {"color": _LOOKS[place][0], "marker": _LOOKS[(place + turn) % len(_LOOKS)][1]}


def ticks(most: int, *, integer: bool = False) -> MaxNLocator:
    """At most so many ticks, at round numbers."""
    return MaxNLocator(most, integer=integer, steps=[1, 2, 5, 10] if integer else [1, 2, 2.5, 5, 10])


def ranks(axes: Axes, clients: int) -> None:
    """An x axis of clients 1..K."""
    axes.set_xlim(0.4 - 0.01 * clients, clients + 0.6 + 0.01 * clients)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda rank, _: f"{rank:,.0f}"))
    axes.set_xticks([tick for tick in ticks(8, integer=True).tick_values(1, max(clients, 2)) if 1 <= tick <= clients])


def bars(axes: Axes, low: NDArray[np.float64], high: NDArray[np.float64], colour: str, name: str) -> None:
    """Bars from `low` to `high`, both (K,), at 1..K; none where they are nan. One path, however many they are."""
    half = 0.4 if len(low) < 150 else 0.5
    place = np.arange(1, len(low) + 1)
    edges = np.stack([place - half, place + half], axis=1).ravel()
    tops, bottoms = (np.stack([ends, np.full(len(ends), np.nan)], axis=1).ravel()[:-1] for ends in (high, low))
    axes.stairs(tops, edges, baseline=bottoms, fill=True, color=colour, linewidth=0, gid=name)


@dataclass(frozen=True)
class Sheet:
    """A figure with its words; `bottom` and `height` in inches are the plot's place on it."""

    figure: Figure
    bottom: float
    height: float

    def axes(self, left: float, bottom: float, width: float, height: float) -> Axes:
        """Axes at that place, in inches, counted from the lower left of the plot's place."""
        w, h = self.figure.get_size_inches()
        return self.figure.add_axes((left / w, (self.bottom + bottom) / h, width / w, height / h))


def sheet(title: str, subtitle: str, caption: str, height: float, key: Sequence[Artist] = ()) -> Sheet:
    """An empty sheet with a plot that is `height` inches high, its words wrapped and its key in rows above the plot."""
    figure = Figure(figsize=(WIDTH, 4))
    FigureCanvasAgg(figure)
    heads, subs, foots = (
        _wrap(figure, title, _TITLE, "bold"),
        _wrap(figure, subtitle, _TEXT),
        _wrap(figure, caption, _TEXT),
    )
    columns = _key_columns(figure, key)
    rows = -(-len(key) // columns)
    head = 0.14 + _LEADING * (_TITLE * len(heads) + _TEXT * len(subs)) + 0.15
    foot = 0.14 + _LEADING * _TEXT * len(foots)
    total = head + 0.2 * rows + height + foot
    figure.set_size_inches(WIDTH, total)
    _words(figure, heads, _TITLE, INK, total - 0.14, weight="bold")
    _words(figure, subs, _TEXT, SOFT, total - 0.2 - _LEADING * _TITLE * len(heads))
    _words(figure, foots, _TEXT, SOFT, foot - 0.08)
    if key:
        figure.legend(
            handles=list(key),
            loc="upper left",
            bbox_to_anchor=(0.1 / WIDTH, (total - head + 0.02) / total),
            ncols=columns,
            handletextpad=0.4,
            columnspacing=1.6,
            borderaxespad=0,
            borderpad=0.2,
            labelspacing=0.35,
        )
    return Sheet(figure, foot, height)


def _words(figure: Figure, lines: Sequence[str], size: float, colour: str, top: float, weight: str = "normal") -> None:
    w, h = figure.get_size_inches()
    figure.text(
        0.14 / w, top / h, "\n".join(lines), fontsize=size, color=colour, weight=weight, va="top", linespacing=1.2
    )


def text_width(figure: Figure, text: str, size: float = _TEXT, weight: str = "normal") -> float:
    """Width of a line of text, in inches."""
    font = FontProperties(family="DejaVu Sans", size=size, weight=weight)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a letter that the font lacks is drawn as a box
        canvas: Any = figure.canvas
        return float(canvas.get_renderer().get_text_width_height_descent(text, font, ismath=False)[0]) / figure.dpi


def _wrap(figure: Figure, text: str, size: float, weight: str = "normal") -> list[str]:
    """As few lines as the sheet's width allows, of about equal lengths, so that no word stands alone."""
    widths = {word: text_width(figure, word, size, weight) for word in {*text.split(), "x x", "xx"}}
    space = widths["x x"] - widths["xx"]
    most = WIDTH - 0.35
    lines = _filled(text, widths, space, most)
    while len(lines) > 1 and most > 3 and len(tighter := _filled(text, widths, space, most - 0.2)) == len(lines):
        lines, most = tighter, most - 0.2
    return lines


def _filled(text: str, widths: dict[str, float], space: float, most: float) -> list[str]:
    lines: list[str] = []
    used = 0.0
    for word in text.split():
        if lines and used + space + widths[word] <= most:
            lines[-1], used = f"{lines[-1]} {word}", used + space + widths[word]
        else:
            lines, used = [*lines, word], widths[word]
    return lines


def _key_columns(figure: Figure, key: Sequence[Artist]) -> int:
    widest = max((text_width(figure, str(handle.get_label())) for handle in key), default=0.0) + 0.55
    return max(1, min(len(key), int((WIDTH - 0.2) / widest)))


def styled() -> AbstractContextManager[None]:
    """The settings, for the block."""
    settings: Any = STYLE  # matplotlib's stubs ask for literal keys
    return rc_context(settings)


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write PNG and SVG; the same figure gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    png, svg = folder / f"{name}.png", folder / f"{name}.svg"
    with warnings.catch_warnings(), styled():
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(png, dpi=DPI, metadata={"Software": None})
        figure.savefig(svg, dpi=DPI, metadata={"Date": None, "Creator": None})
    return [png, svg]
