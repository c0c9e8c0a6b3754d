"""The figures of a report: inline SVG in the page's own colours, or PNG where an SVG would be too large."""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from fl_sim.report.figures import accuracy_by_bytes, plane, run, sweep
from fl_sim.report.figures import sizes as figure_sizes
from fl_sim.report.figures.sizes import Sizes
from fl_sim.report.figures.style import BAND, DPI, INK, SOFT, WARN, styled
from fl_sim.results.run import Result

_FONTS = "DejaVu Sans, Verdana, Bitstream Vera Sans, sans-serif"  # of nearly one width
MOST_LETTERS = 600_000  # of an SVG; beyond, a PNG is smaller and quicker to show
# What becomes the page's own colour, so that figures follow it into the dark.
_COLOURS = {
    INK: "ink", SOFT: "soft", BAND: "band", WARN: "warn", "#eeeeee": "grid", "#ffffff": "paper", "white": "paper",
}  # fmt: skip


@contextmanager
def _drawing() -> Iterator[None]:
    """The style, with text as text: it can be selected and searched."""
    with styled(), rc_context({"svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        yield


def of_run(result: Result) -> Iterator[str]:
    """The figures of a run, each an HTML element."""
    with _drawing():
        for name, plot in run.plots(result).items():
            yield _element(name, plot(result))


def of_sweep(points: pd.DataFrame, clients: pd.DataFrame, axes: list[str], title: str) -> Iterator[str]:
    """The figures of a sweep."""
    with _drawing():
        for name, figure in sweep.figures(points, axes, title):
            yield _element(name, figure)
        for name, figure in plane.figures(points, axes, title):
            yield _element(name, figure)
        for name, figure in accuracy_by_bytes.figures(points, clients, axes, title):
            yield _element(name, figure)


def of_sizes(sizes: Sizes, title: str) -> str:
    """The figure of a sweep over the size of trees or boostings."""
    with _drawing():
        return _element("sizes", figure_sizes.figure(sizes, title))


def _element(name: str, figure: Figure) -> str:
    told = " ".join(figure.texts[0].get_text().split()) if figure.texts else name  # the sheet's title
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = inlined(buffer.getvalue(), name, told)
    if len(svg) > MOST_LETTERS:
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=DPI, metadata={"Software": None})
        coded = base64.b64encode(picture.getvalue()).decode()
        svg = f'<img alt="{escape(told)}" src="data:image/png;base64,{coded}">'
    return f'<figure id="figure-{escape(name)}" class="sheet" tabindex="0">{svg}</figure>'


def inlined(svg: str, name: str, told: str) -> str:
    """Matplotlib's SVG as an element of a page: ids of its own, the page's colours, a title to be read out."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<style\b.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    prefix = re.sub(r"\W", "-", name)
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', body))  # the other ids may be there more than once
    body = re.sub(r'\bid="([^"]*)"', lambda found: found[0] if found[1] in used else "", body)
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", body)
    body = re.sub(r'style="[^"]*"', lambda found: _recoloured(found[0]), body)
    body = re.sub(r"(<svg\b[^>]*?) width=\"[^\"]*\"", r"\1", body, count=1)
    body = re.sub(r"(<svg\b[^>]*?) height=\"[^\"]*\"", r"\1", body, count=1)
    titled = f'<svg role="img" aria-labelledby="{prefix}-title"'
    body = body.replace("<svg", titled, 1).replace(">", f'><title id="{prefix}-title">{escape(told)}</title>', 1)
    return re.sub(r"\n\s*", "\n", body).strip()


def _recoloured(style: str) -> str:
    for colour, name in _COLOURS.items():
        style = re.sub(rf"{re.escape(colour)}\b", f"var(--{name})", style)
    return style.replace("'DejaVu Sans'", _FONTS)
