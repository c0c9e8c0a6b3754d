"""Glyphs as matplotlib's own fonts draw them; never a font of the system."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fl_sim.errors import FlSimError

# They hold every letter and digit under its own code point, as text (cmex10, cmmi10 and cmsy10 do not).
TEXT_FONTS = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-BoldOblique", "-Oblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-BoldOblique", "-Oblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-BoldItalic", "-Italic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "BolIta", "Italic")),
    *("cmb10", "cmr10", "cmss10", "cmti10", "cmtt10"),
)
# The published order of the pool: these fonts in this order, code points upwards in each. Left out are
# LastResortHE, which draws placeholder boxes, and STIXNonUni…, whose glyphs all stand at private code points.
POOL_FONTS = (
    *TEXT_FONTS,
    *("cmex10", "cmmi10", "cmsy10", "DejaVuSansDisplay", "DejaVuSerifDisplay"),
    *(f"STIXSiz{size}Sym{style}" for size in ("One", "Two", "Three", "Four") for style in ("Reg", "Bol")),
    "STIXSizFiveSymReg",
)
# One family kept back, for letters that nobody who looked at the other fonts has seen; no other font of the pool
# is a relative of STIX. It is Times-like, in four styles; DejaVu and Computer Modern stay, with and without serifs.
UNSEEN_FONTS = tuple(name for name in TEXT_FONTS if name.startswith("STIX"))
SEEN_FONTS = tuple(name for name in POOL_FONTS if not name.startswith("STIX"))

EM = 0.78  # the font's em, as a share of the image's side: capitals are 0.57 of it, W still fits
BASELINE = 0.69  # rows above the baseline, as a share of the side: capital and descender lie midway


def open_font(name: str) -> Any:
    """matplotlib's FT2Font of that file name (without .ttf); FlSimError if it is not shipped."""
    import matplotlib
    from matplotlib.ft2font import FT2Font

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"
    if not path.is_file():
        raise FlSimError(
            f"font {name} is not in matplotlib {matplotlib.__version__} ({path}): glyphs needs the fonts "
            "that matplotlib ships; install it from PyPI: pip install --force-reinstall matplotlib"
        )
    return FT2Font(str(path))


def draw(font: Any, code_point: int, side: int) -> np.ndarray:
    """One glyph, uint8 (side, side), antialiased, centred across, on the common baseline.

    It is moved off the baseline, and drawn smaller than its fellows, only where it would not fit otherwise.
    """
    glyph = _glyph(font, code_point, EM * side)
    largest = max(_pixels(glyph.width), _pixels(glyph.height))
    if largest > side:
        glyph = _glyph(font, code_point, EM * side * (side - 2) / largest)
    left = max((side - _pixels(glyph.width)) // 2, 0)
    top = round(BASELINE * side) - -(-glyph.horiBearingY // 64)
    lowest_top = side - _pixels(glyph.height)
    image = np.zeros((side, side), np.uint8)
    pen = left - glyph.horiBearingX // 64  # across, matplotlib starts at the pen; down, at the ink
    font.draw_glyph_to_bitmap(image, pen, max(min(top, lowest_top), 0), glyph, antialiased=True)
    return image


def _glyph(font: Any, code_point: int, em: float) -> Any:
    from matplotlib.ft2font import LoadFlags

    font.set_size(em, 72)  # at 72 dots per inch a point is a pixel
    return font.load_char(code_point, flags=LoadFlags.NO_HINTING)


def _pixels(length: int) -> int:
    """Pixels that a length in 1/64 pixel may touch, wherever it starts."""
    return -(-length // 64) + 1
