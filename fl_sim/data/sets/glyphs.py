"""Letters and digits in matplotlib's own fonts, and as a reference set every character of these fonts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fl_sim.data import glyphs
from fl_sim.data.fonts import POOL_FONTS, SEEN_FONTS, TEXT_FONTS
from fl_sim.data.source import Dataset, Images, Source


def read(count: int, image_size: int | None, seed: int) -> Dataset:
    """Every letter and digit is a class."""
    images, labels = glyphs.render(count, image_size or glyphs.DEFAULT_SIZE, seed)
    return Dataset(images, labels, tuple(glyphs.CHARACTERS))


def _characters(fonts: tuple[str, ...], side: int) -> tuple[Images, NDArray[np.int64]]:
    """The pool of these fonts; a code point is a group."""
    drawn = glyphs.pool(side, fonts)
    return drawn.images, np.flatnonzero(np.diff(drawn.code_point, prepend=-1))


labelled = Source(
    "glyphs",
    "classification",
    "letters and digits in 21 fonts, distorted, 62 classes, any size, grey",
    "generated",
    read,
    num_classes=62,
    marks=glyphs.marks,
    made_of=TEXT_FONTS,
)
pool = Source(
    "glyphs-pool",
    "unlabelled",
    "every printable character of matplotlib's fonts, about 40,000 images, any size, grey",
    "generated",
    marks=glyphs.marks,
    made_of=POOL_FONTS,
    pool=lambda side: _characters(POOL_FONTS, side),
)
pool_seen = Source(
    "glyphs-pool:seen",
    "unlabelled",
    "glyphs-pool without the STIX fonts, about 34,000 images",
    "generated",
    marks=glyphs.marks,
    made_of=SEEN_FONTS,
    pool=lambda side: _characters(SEEN_FONTS, side),
)
