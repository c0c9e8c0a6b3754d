"""How figures look: one dict of settings, one palette, and how they are saved; nothing here touches matplotlib's global
state."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

INK, SOFT, BAND, WARN, GRID = "#222222", "#666666", "#dcdcdc", "#b3261e", "#eeeeee"
WIDE, NARROW, DPI = 9.0, 4.4, 150  # inches on paper and on a phone, and PNG's dots an inch
TEXT = 8.2  # points
FORMATS: dict[str, dict[str, None]] = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}  # left out

STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # travels with matplotlib, so that two machines draw the same
    "font.size": TEXT,
    "text.color": INK,
    "text.parse_math": False,  # a name may hold a dollar
    "text.usetex": False,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": TEXT,
    "axes.titlepad": 5,
    "axes.unicode_minus": False,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "legend.fontsize": TEXT,
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
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.2, 1.4)), (0, (5, 1.5, 1.2, 1.5)), (0, (9, 2)))
DASHED = (0, (5, 3))


def look(index: int) -> dict[str, Any]:
    """Colour and marker of the tier of that index."""
    turn, place = divmod(index, len(_LOOKS))
    return {"color": _LOOKS[place][0], "marker": _LOOKS[(place + turn) % len(_LOOKS)][1]}


def line_look(index: int) -> dict[str, Any]:
    """The same, and a dash, of the line of that index."""
    return {**look(index), "linestyle": _DASHES[index % len(_DASHES)]}


def styled(width: float = WIDE) -> AbstractContextManager[None]:
    """The settings, and how wide figures are, for the block."""
    settings: Any = STYLE | {"figure.figsize": (width, 4)}  # matplotlib's stubs ask for literal keys
    return rc_context(settings)


def save(figure: Figure, folder: Path, name: str, formats: Sequence[str] = tuple(FORMATS)) -> list[Path]:
    """Write it in these formats; the same figure gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{form}" for form in formats]
    with warnings.catch_warnings(), styled():
        warnings.filterwarnings("ignore", message="Glyph")  # a letter that the font lacks is drawn as a box
        for path, form in zip(paths, formats, strict=True):
            figure.savefig(path, dpi=DPI, metadata=FORMATS[form])
    return paths
