"""Images of one size and one kind of colour made of those of another."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def resized(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Bilinear with antialiasing, to size x size."""
    import torch

    if images.shape[2:] == (size, size):
        return images
    parts = []
    for start in range(0, len(images), 4096):
        batch = torch.from_numpy(images[start : start + 4096]).float()
        batch = torch.nn.functional.interpolate(
            batch, (size, size), mode="bilinear", antialias=True, align_corners=False
        )
        parts.append(batch.round().clamp(0, 255).to(torch.uint8).numpy())
    return np.concatenate(parts)


def as_shape(images: NDArray[np.uint8], shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Images (n, c, h, w), c = 1 or 3, as (n, *shape), 1 or 3 channels and a square: colour made `grey`, then
    `resized`, then grey repeated where colour is wanted."""
    if images.shape[1] == 3 and shape[0] == 1:
        images = grey(images)
    images = resized(np.ascontiguousarray(images), shape[1])
    return np.ascontiguousarray(np.broadcast_to(images, (len(images), *shape)))


def grey(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Luma of ITU-R 601, 0.299 R + 0.587 G + 0.114 B, of colour images (n, 3, h, w): (n, 1, h, w), rounded as Pillow's
    convert("L") does, so that arrays and files come out alike."""
    red, green, blue = np.moveaxis(images.astype(np.uint32), 1, 0)
    luma = (19_595 * red + 38_470 * green + 7_471 * blue + (1 << 15)) >> 16
    return luma.astype(np.uint8)[:, None]
