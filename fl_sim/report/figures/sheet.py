"""The sheet on which every figure stands, and the panels on it.

A sheet is laid out in inches: title and subtitle above, then a key, the plot, and a caption below, each as high as its
text needs. It is as wide as the style says, so that the same figure is drawn for paper and for a phone.
"""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib import rcParams
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from fl_sim.report.figures.style import INK, SOFT, TEXT

LEFT, RIGHT, FLOOR, HEAD = 0.72, 0.25, 0.5, 0.28  # inches beside, below and above a panel
_TITLE = 11.5  # points
_LEADING = 1.35 / 72  # inches a line, for each point of its size
_LETTER = 0.53  # how wide a letter is, of its size


@dataclass(frozen=True)
class Words:
    """What stands above and below a plot."""

    title: str
    subtitle: str
    caption: str


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

    def below(self, text: str, left: float, right: float) -> None:
        """A label under all panels, between these margins."""
        w, h = self.figure.get_size_inches()
        middle = (left + w - right) / 2 / w
        self.figure.text(middle, (self.bottom + 0.06) / h, text, ha="center", va="bottom", fontsize=TEXT, color=INK)


def sheet_width() -> float:
    """Inches of a sheet, as the style says."""
    return float(rcParams["figure.figsize"][0])


def sheet(words: Words, height: float, key: Sequence[Artist] = ()) -> Sheet:
    """An empty sheet with a plot that is `height` inches high, its words wrapped and its key in rows above the plot."""
    width = sheet_width()
    figure = Figure(figsize=(width, 4))
    FigureCanvasAgg(figure)
    heads = _wrap(words.title, _TITLE * 1.2)  # bold is broader
    subs, foots = (_wrap(text, TEXT) for text in (words.subtitle, words.caption))
    columns = max(1, min(len(key), int((width - 0.2) / (widest([str(one.get_label()) for one in key]) + 0.55))))
    rows = -(-len(key) // columns)
    head = 0.14 + _LEADING * (_TITLE * len(heads) + TEXT * len(subs)) + 0.15
    foot = 0.14 + _LEADING * TEXT * len(foots)
    total = head + 0.2 * rows + height + foot
    figure.set_size_inches(width, total)
    _write(figure, heads, _TITLE, INK, total - 0.14, weight="bold")
    _write(figure, subs, TEXT, SOFT, total - 0.2 - _LEADING * _TITLE * len(heads))
    _write(figure, foots, TEXT, SOFT, foot - 0.08)
    if key:
        corner = (0.1 / width, (total - head + 0.02) / total)
        figure.legend(
            handles=list(key), loc="upper left", bbox_to_anchor=corner, ncols=columns, handletextpad=0.4,
            columnspacing=1.6, borderaxespad=0, borderpad=0.2, labelspacing=0.35,
        )  # fmt: skip
    return Sheet(figure, foot, height)


# -------------------------------------------------------------------------------------------------------------- panels


@dataclass(frozen=True)
class Grid:
    """How panels stand on a sheet, in inches: rows of these heights, `columns` abreast, and what is around them."""

    heights: Sequence[float]
    columns: int
    left: float = LEFT
    right: float = RIGHT
    across: float = 0.16
    down: float = 0.16
    above: float = HEAD
    below: float = FLOOR

    @property
    def height(self) -> float:
        """Of the whole plot."""
        return self.above + sum(self.heights) + self.down * (len(self.heights) - 1) + self.below

    @property
    def panel(self) -> float:
        """How wide a panel is."""
        return (sheet_width() - self.left - self.right - self.across * (self.columns - 1)) / self.columns


def abreast(panels: int, narrowest: float, across: float, left: float = LEFT, right: float = RIGHT) -> int:
    """How many of the panels fit side by side where none may be narrower than that; one at least."""
    room = sheet_width() - left - right + across
    return max(1, min(panels, int((room + 1e-9) / (narrowest + across))))


def facets(page: Sheet, grid: Grid) -> list[list[Axes]]:
    """The axes of a grid, row by row from the top."""
    rows, bottom = [], grid.height - grid.above
    for height in grid.heights:
        bottom -= height
        places = [grid.left + k * (grid.panel + grid.across) for k in range(grid.columns)]
        rows.append([page.axes(left, bottom, grid.panel, height) for left in places])
        bottom -= grid.down
    return rows


def side_by_side(
    words: Words, panels: int, height: float, *, narrowest: float, across: float = 0.62, right: float = RIGHT,
    left: float = LEFT, key: Sequence[Artist] = (),
) -> tuple[Figure, list[Axes]]:  # fmt: skip
    """A figure with so many panels, each with a title and an axis label of its own, as many in a row as fit."""
    columns = abreast(panels, narrowest, across, left, right)
    rows = -(-panels // columns)
    grid = Grid([height] * rows, columns, left, right, across, FLOOR + HEAD)
    page = sheet(words, grid.height, key)
    axes = [ax for row in facets(page, grid) for ax in row]
    for ax in axes[panels:]:
        ax.remove()
    return page.figure, axes[:panels]


# --------------------------------------------------------------------------------------------------------------- words


def _write(figure: Figure, lines: Sequence[str], size: float, colour: str, top: float, weight: str = "normal") -> None:
    w, h = figure.get_size_inches()
    place: dict[str, Any] = {"va": "top", "linespacing": 1.2, "weight": weight}
    figure.text(0.14 / w, top / h, "\n".join(lines), fontsize=size, color=colour, **place)


def widest(texts: Sequence[str], size: float = TEXT) -> float:
    """Width of the longest line of these texts, in inches; 0 of none."""
    figure, font = Figure(), FontProperties(family="DejaVu Sans", size=size)
    width: Any = FigureCanvasAgg(figure).get_renderer().get_text_width_height_descent
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        lines = [line for text in texts for line in text.split("\n")]
        return max((float(width(line, font, ismath=False)[0]) / figure.dpi for line in lines), default=0.0)


def _wrap(text: str, size: float) -> list[str]:
    """As few lines as the sheet's width allows; a letter is about half as wide as its size."""
    return textwrap.wrap(text, int((sheet_width() - 0.35) / (size * _LETTER / 72)), break_on_hyphens=False)
