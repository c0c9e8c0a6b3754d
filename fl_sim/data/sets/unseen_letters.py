"""Letters in fonts that `glyphs-pool:seen` has no relative of: a task where nothing was seen before."""

from __future__ import annotations

from fl_sim.data.fonts import UNSEEN_FONTS
from fl_sim.data.glyphs import DEFAULT_SIZE, LETTERS, marks, render
from fl_sim.data.source import Dataset, Source


def read(count: int, image_size: int | None, seed: int) -> Dataset:
    """Every letter is a class."""
    images, labels = render(count, image_size or DEFAULT_SIZE, seed, UNSEEN_FONTS, LETTERS)
    return Dataset(images, labels, tuple(LETTERS))


source = Source(
    "unseen-letters",
    "classification",
    "letters in the four STIX text fonts, distorted, 52 classes, any size, grey",
    "generated",
    read,
    num_classes=52,
    marks=marks,
    made_of=UNSEEN_FONTS,
)
