"""The figures of a page: inline SVG in the page's own colours, or PNG where an SVG would be too large.

Each is drawn twice, as wide as paper and as narrow as a phone; the style sheet shows the one that fits the screen.
"""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import escape

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

from fl_sim.report.figures.style import BAND, DPI, GRID, INK, NARROW, SOFT, WARN, WIDE, styled

_FONTS = "DejaVu Sans, Verdana, Bitstream Vera Sans, sans-serif"  # of nearly one width
MOST_LETTERS = 600_000  # of an SVG; beyond, a PNG is smaller and quicker to show
# What becomes the page's own colour, so that figures follow it into the dark.
_COLOURS = {
    INK: "ink", SOFT: "soft", BAND: "band", WARN: "warn", GRID: "grid", "#ffffff": "paper", "white": "paper",
}  # fmt: skip


@dataclass(frozen=True)
class PageFigure:
    """A figure, as it is shown on a wide and on a narrow screen."""

    name: str
    wide: Markup
    narrow: Markup


def drawn(figures: Callable[[], Iterator[tuple[str, Figure]]]) -> list[PageFigure]:
    """The figures that a call gives, made once for each width."""
    wide, narrow = (list(_elements(figures, width)) for width in (WIDE, NARROW))
    names = dict(narrow)  # a narrow screen may take more of them
    first = {name: names.pop(name, Markup()) for name, _ in wide}
    rest = [PageFigure(name, Markup(), picture) for name, picture in names.items()]
    return [*(PageFigure(name, picture, first[name]) for name, picture in wide), *rest]


def _elements(figures: Callable[[], Iterator[tuple[str, Figure]]], width: float) -> Iterator[tuple[str, Markup]]:
    """With text as text: it can be selected and searched."""
    with styled(width), rc_context({"svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        for name, figure in figures():
            yield name, _element(name if width == WIDE else f"{name}-narrow", figure)


def _element(name: str, figure: Figure) -> Markup:
    title = " ".join(figure.texts[0].get_text().split()) if figure.texts else name  # the sheet's
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = inlined(buffer.getvalue(), name, title)
    if len(svg) <= MOST_LETTERS:
        return Markup(svg)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=DPI, metadata={"Software": None})
    coded = base64.b64encode(picture.getvalue()).decode()
    return Markup('<img alt="{}" src="data:image/png;base64,{}">').format(title, coded)


def inlined(svg: str, name: str, title: str) -> str:
    """Matplotlib's SVG as an element of a page: ids of its own, the page's colours, a title to be read out."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<style\b.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    prefix = re.sub(r"\W", "-", name)
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', body))  # the other ids may be there more than once
    body = re.sub(r'\bid="([^"]*)"', lambda match: match[0] if match[1] in used else "", body)
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", body)
    body = re.sub(r'style="[^"]*"', lambda match: _recoloured(match[0]), body)
    for size in ("width", "height"):
        body = re.sub(rf"(<svg\b[^>]*?) {size}=\"[^\"]*\"", r"\1", body, count=1)
    titled = f'<svg role="img" aria-labelledby="{prefix}-title"'
    body = body.replace("<svg", titled, 1).replace(">", f'><title id="{prefix}-title">{escape(title)}</title>', 1)
    return re.sub(r"\n\s*", "\n", body).strip()


def _recoloured(style: str) -> str:
    for colour, name in _COLOURS.items():
        style = re.sub(rf"{re.escape(colour)}\b", f"var(--{name})", style)
    return style.replace("'DejaVu Sans'", _FONTS)
