"""The reference images that stand for each class: a contact sheet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fl_sim.report.figures.marks import note, short
from fl_sim.report.figures.sheet import Words, sheet, sheet_width, widest
from fl_sim.report.figures.style import DPI, INK, SOFT, styled
from fl_sim.report.numbers import count

MOST_CLASSES, MOST_IMAGES = 10, 20  # rows, and images in each
GAP = 0.06  # between images, of an image's side

Indices = NDArray[np.int64]
Images = NDArray[np.uint8]


def draw_kept(
    images: Callable[[Indices], Images], indices: Indices, labels: NDArray[Any], names: Sequence[str], file: Path,
    about: str = "",
) -> None:  # fmt: skip
    """Draw a row a class into a PNG file, its kept images evenly spaced over the reference set.

    Args:
        images: gives the images (m, channels, height, width) of reference indices (m,).
        indices: (k,), which references are kept, ascending.
        labels: (k,), the class of each.
        names: the classes.
        file: the PNG.
        about: what the payload is, for the line under the title.
    """
    with styled():
        figure = _figure(images, indices, labels, names, about)
        figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})


def spread(indices: Indices, most: int) -> Indices:
    """At most so many of them, evenly spaced, the first and the last among them.

    >>> spread(np.arange(10, 20), 4).tolist()
    [10, 13, 16, 19]
    """
    return indices[np.linspace(0, len(indices) - 1, min(most, len(indices))).round().astype(np.int64)]


def _figure(
    images: Callable[[Indices], Images], indices: Indices, labels: NDArray[Any], names: Sequence[str], about: str
) -> Figure:
    classes = np.unique(labels)
    shown = spread(classes.astype(np.int64), MOST_CLASSES)
    mine = [indices[labels == label] for label in shown]
    texts = [short(names[label]) for label in shown]
    left = 0.4 + widest([*texts, "0,000,000 kept"])
    width = sheet_width() - left - 0.2
    height = max(width / MOST_IMAGES * len(shown), 0.1)
    title = f"{count(len(indices), 'reference image')} stand for {count(len(names), 'class', 'classes')}"
    page = sheet(Words(title, about, _caption(len(shown), len(classes), len(names))), height)
    ax = page.axes(left, 0, width, height)
    ax.set_axis_off()
    if len(shown):
        ax.imshow(_mosaic([images(spread(one, MOST_IMAGES)) for one in mine]), aspect="auto")
    for row, (text, one) in enumerate(zip(texts, mine, strict=True)):
        place = (0, 1 - (row + 0.5) / len(shown))
        for words, lift, colour in ((text, 6, INK), (f"{len(one):,} kept", -6, SOFT)):
            note(ax, words, place, (-8, lift), xycoords="axes fraction", ha="right", fontsize=8, color=colour)
    return page.figure


def _mosaic(rows: Sequence[Images]) -> Images:
    """All images in one, white between them: uint8 (height, width, 3)."""
    channels, high, wide = rows[0].shape[1:]
    gap = max(1, round(GAP * max(high, wide)))
    whole = np.full((len(rows) * (high + gap), MOST_IMAGES * (wide + gap), 3), 255, np.uint8)
    for row, images in enumerate(rows):
        for column, image in enumerate(images):
            top, left = row * (high + gap), column * (wide + gap)
            whole[top : top + high, left : left + wide] = np.moveaxis(image, 0, -1)  # grey is repeated
    assert channels in (1, 3)
    return whole


def _caption(shown: int, filled: int, classes: int) -> str:
    parts = [f"Each row is a class: at most {MOST_IMAGES} of its kept images, evenly spaced over the reference set."]
    parts += [f"{shown} of {filled:,} classes, evenly spaced."] * (shown < filled)
    parts += [f"{count(classes - filled, 'class', 'classes')} without a kept image."] * (filled < classes)
    return " ".join(parts)
