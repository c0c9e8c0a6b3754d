"""Characters rendered from the fonts that travel inside matplotlib: any number, nothing to download.

`render` draws the labelled set `glyphs`: every letter and digit is a class (26 + 26 + 10 = 62), each image
one of 21 text fonts, distorted at random (rotation, shear, scale, translation), blurred and noisy, white ink
on black. `pool` draws the unlabelled set `glyphs-pool`: every printable code point of every font once,
undistorted.

With other fonts and characters the same two make a pair where nothing was seen before: `unseen-letters` is the
52 letters in the four STIX text fonts, and `glyphs-pool:seen` the pool without any font of that family.

Every glyph stands on the same baseline at the same size of its font, so that size and height tell `o` from
`O` and `p` from `P`: in part, for the random scale lets them overlap, and `o O 0`, `l I 1`, `s S`, `v V`
share their shapes in several fonts. No classifier reaches 100 % here. That is wanted: a conformal set has
something to say.

The shapes are FreeType's and the arithmetic torch's: the same seed gives the same images for the same
versions of matplotlib, NumPy and torch.
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from fl_sim.data.fonts import POOL_FONTS, TEXT_FONTS, draw, open_font
from fl_sim.data.source import versions
from fl_sim.randomness import stream

if TYPE_CHECKING:
    import torch

DEFAULT_SIZE = 28
VERSION = 2  # raise it when a change here changes an image or its place
LETTERS = string.ascii_lowercase + string.ascii_uppercase
CHARACTERS = LETTERS + string.digits
CHUNK = 2048  # images distorted at a time


@dataclass(frozen=True)
class GlyphPool:
    """The unlabelled pool: `images` uint8 (n, 1, size, size); row i is `code_point[i]` of `fonts[font[i]]`.

    In the Computer Modern fonts (`cm…`) a code point is the font's own encoding, not always the Unicode
    character.
    """

    images: np.ndarray
    fonts: tuple[str, ...]
    font: np.ndarray
    code_point: np.ndarray


def render(
    count: int, image_size: int, seed: int, fonts: tuple[str, ...] = TEXT_FONTS, characters: str = CHARACTERS
) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (count, 1, image_size, image_size) and labels int64 (count,), indices into `characters`.

    Row i depends on all but `count`. Each run of as many rows as there are characters holds every class once.
    `fonts` must draw every character.
    """
    labels = _balanced_labels(count, seed, len(characters))
    draws = stream(seed, "glyphs", "distortion").random((count, 11), dtype=np.float32)
    noise = stream(seed, "glyphs", "noise")
    images = np.empty((count, 1, image_size, image_size), np.uint8)
    for start in range(0, count, CHUNK):
        part = slice(start, start + CHUNK)
        images[part, 0] = _distort(labels[part], draws[part], noise, image_size, fonts, characters)
    return images, labels


def pool(image_size: int, fonts: tuple[str, ...] = POOL_FONTS) -> GlyphPool:
    """Every printable code point of every font, undistorted; blank and repeated images are left out.

    The order is fixed: code point, then `fonts`, so that what looks alike lies together and a payload of it is
    small. Of equal images the one of the first font is kept, and there the first. What is equal depends on
    `image_size`; at 28 there are about 40,000 images. A glyph too large for the image is drawn smaller.
    """
    images, font, code_points = [], [], []
    digests: set[bytes] = set()  # not the images themselves
    for index, name in enumerate(fonts):
        for code, image in _printable_glyphs(name, image_size):
            content = hashlib.sha256(image.tobytes()).digest()
            if image.any() and content not in digests:
                digests.add(content)
                images.append(image)
                font.append(index)
                code_points.append(code)
    order = np.argsort(code_points, kind="stable")
    drawn = np.stack([images[i] for i in order])[:, None]
    return GlyphPool(drawn, fonts, np.array(font)[order], np.array(code_points)[order])


def marks() -> tuple[str, ...]:
    """What decides an image besides the arguments above."""
    return (f"glyphs {VERSION}", *versions("matplotlib", "numpy", "torch"))


def _balanced_labels(count: int, seed: int, num_classes: int) -> np.ndarray:
    num_blocks = -(-count // num_classes)
    keys = stream(seed, "glyphs", "labels").random((num_blocks, num_classes))
    return keys.argsort(axis=1).ravel()[:count].astype(np.int64)


def _printable_glyphs(name: str, image_size: int) -> Iterator[tuple[int, np.ndarray]]:
    font = open_font(name)
    for code in sorted(font.get_charmap()):
        if chr(code).isprintable():
            yield code, draw(font, code, image_size)


@lru_cache(maxsize=4)
def _atlas(side: int, fonts: tuple[str, ...] = TEXT_FONTS, characters: str = CHARACTERS) -> torch.Tensor:
    """Every font's characters, uint8 (fonts * characters, side, side), font by font."""
    import torch

    opened = [open_font(name) for name in fonts]
    return torch.from_numpy(np.stack([draw(font, ord(char), side) for font in opened for char in characters]))


def _distort(
    labels: np.ndarray,
    draws: np.ndarray,
    noise: np.random.Generator,
    size: int,
    fonts: tuple[str, ...],
    characters: str,
) -> np.ndarray:
    """Glyphs under their random affine maps, blurred, dimmed and noisy: uint8 (m, size, size).

    Every step is elementwise per image, so that an image does not depend on its neighbours in the chunk.
    """
    import torch

    # Twice as fine as the result, so that bilinear sampling averages instead of skipping.
    atlas = _atlas(2 * size, fonts, characters)
    font = torch.from_numpy(np.minimum((draws[:, 0] * len(fonts)).astype(np.int64), len(fonts) - 1))
    glyphs = atlas[font * len(characters) + torch.from_numpy(labels)].float()
    grid = _affine_grid(torch.from_numpy(draws[:, 1:8]), size)
    ink = torch.nn.functional.grid_sample(glyphs[:, None], grid, align_corners=False)[:, 0]
    ink = _blur(ink, torch.from_numpy(0.25 * draws[:, 8]))
    contrast, grain = 0.5 + 0.5 * draws[:, 9], 30 * draws[:, 10]
    image = ink.numpy() * contrast[:, None, None]
    image += grain[:, None, None] * noise.standard_normal(image.shape, dtype=np.float32)
    return np.rint(image).clip(0, 255).astype(np.uint8)


def _affine_grid(draws: torch.Tensor, size: int) -> torch.Tensor:
    """Where each pixel looks in its glyph, in -1..1: (m, size, size, 2) from uniform draws (m, 7)."""
    import torch

    unit = (2 * draws - 1)[:, :, None, None]  # -1..1, to broadcast over rows and columns
    angle, shear = 0.25 * unit[:, 0], 0.25 * unit[:, 1]  # ± 14 degrees
    width, height = (torch.exp(0.15 * unit[:, 2] + 0.1 * unit[:, axis]) for axis in (3, 4))  # ± 28 % at most
    centres = (2 * torch.arange(size) + 1) / size - 1
    x, y = (centres - 0.15 * unit[:, 5]), (centres[:, None] - 0.15 * unit[:, 6])  # ± 2 pixels of 28
    turned_x, turned_y = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    return torch.stack([(turned_x + shear * turned_y) / width, turned_y / height], dim=-1)


def _blur(images: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Each image (m, h, w) by its own kernel (weight, 1 - 2 weight, weight), down and then across."""
    import torch

    weight = weight[:, None, None]
    for axis in (1, 2):
        ahead, behind = torch.zeros_like(images), torch.zeros_like(images)
        length = images.shape[axis] - 1
        ahead.narrow(axis, 0, length).copy_(images.narrow(axis, 1, length))
        behind.narrow(axis, 1, length).copy_(images.narrow(axis, 0, length))
        images = (1 - 2 * weight) * images + weight * (ahead + behind)
    return images
