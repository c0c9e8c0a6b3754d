"""A backbone that every holder of the reference set computes by itself: features of an image without any label.

In the paper ("A Dataset is Worth 1 MB", Kimchi Shoshani, Gabay, Hoshen, https://arxiv.org/abs/2602.23358) the most
efficient rival is an INT8 linear probe on a backbone that both ends have. Ours is learnt from the unlabelled reference
images alone: Coates, Ng, Lee, "An Analysis of Single-Layer Networks in Unsupervised Feature Learning", AISTATS 2011,
https://proceedings.mlr.press/v15/coates11a.html, with k-means:

1. patches are normalised in brightness and contrast, (p - mean p) / sqrt(var p + 10), and ZCA-whitened (epsilon 0.1);
2. k-means over patches of the sample gives K centroids c;
3. a patch x becomes f_k = max(0, mean_j |x - c_j| - |x - c_k|), the "triangle" activation;
4. f is summed over each quadrant of the image: 4 K features, standardised as the probe takes them.

**Chosen**: patches of one colour are left out of the dictionary, since most of a glyph is one; a fixed number of Lloyd
iterations; a centroid that has lost all its patches goes to the patch farthest from its own. Features are standardised
by their moments over the sample, which both ends have, and not over the labelled images: then no scale need be sent or
folded into the weights, where the largest would eat up INT8's steps.

All is computed by torch on the CPU with one thread. The same inputs give the same bits on the same machine; on another
the last bits may differ, which a probe does not feel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fl_sim.errors import FlSimError
from fl_sim.randomness import one_thread, stream

if TYPE_CHECKING:
    import torch

CONTRAST, WHITENING = 10.0, 0.1  # the paper's epsilons, for pixels of 0 to 255
PATCHES = 100_000  # that the dictionary is learnt from
ITERATIONS = 10  # Lloyd's
CHUNK = 1 << 18  # numbers of an activation at a time, so that a chunk stays in the cache

FLOOR = 0.1  # of the features' mean spread: no feature is divided by less

Images = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Backbone:
    """Arrays float32 that decide the features of an image: D = c * patch^2 numbers a patch, K centroids."""

    mean: Floats  # (D,) of the normalised patches
    whitening: Floats  # (D, D)
    centroids: Floats  # (K, D)
    centre: Floats  # (4 K,), of the sample's features
    spread: Floats  # (4 K,)
    patch: int  # pixels a side
    stride: int

    @property
    def width(self) -> int:
        """How many features an image has: 4 K."""
        return 4 * len(self.centroids)

    def features(self, images: Images) -> Floats:
        """Features (n, 4 K) of `images` uint8 (n, c, h, w), a chunk of them at a time.

        Raises:
            FlSimError: images with other channels, or so small that they have no four quadrants of patches.
        """
        import torch

        down, across = self._grid(images)
        centroids = torch.from_numpy(self.centroids)
        ones, norms = torch.ones(len(centroids), 1), centroids.square().sum(dim=1, keepdim=True)
        table = torch.cat([-2 * centroids, ones, norms], dim=1).T.contiguous()  # (D + 2, K), see `_triangle`
        quadrants = _quadrants(down, across)
        batch = max(1, CHUNK // (down * across * len(centroids)))
        features = np.empty((len(images), self.width), np.float32)
        with one_thread(), torch.inference_mode():
            for start in range(0, len(images), batch):
                rows = images[start : start + batch]
                patches = _whitened(_patches(rows, self.patch, self.stride), self.mean, self.whitening)
                active = _triangle(patches, table).view(len(rows), down * across, -1)
                pooled = torch.matmul(quadrants, active).flatten(1).numpy()
                features[start : start + batch] = (pooled - self.centre) / self.spread
        return features

    def _grid(self, images: Images) -> tuple[int, int]:
        """How many patches there are down and across an image."""
        if images.ndim != 4 or images.dtype != np.uint8 or images.shape[1] * self.patch**2 != len(self.mean):
            channels = len(self.mean) // self.patch**2
            raise FlSimError(f"images {images.dtype} {images.shape}: this backbone takes uint8 (n, {channels}, h, w)")
        down, across = ((side - self.patch) // self.stride + 1 for side in images.shape[2:])
        if min(down, across) < 2:
            least = self.patch + self.stride
            raise FlSimError(f"images {images.shape}: this backbone takes images of {least} x {least} pixels or more")
        return down, across


def fit_backbone(
    images: Images, *, num_centroids: int = 100, patch: int = 6, stride: int = 1, seed: int = 0
) -> Backbone:
    """The backbone learnt from `images` uint8 (m, c, h, w), which need no labels: some thousands are enough.

    Args:
        images: a sample of the reference set; every holder must take the same.
        num_centroids: K; an image has 4 K features.
        patch: pixels a side, at least 2.
        stride: pixels between patches when features are computed.
        seed: of the patches drawn and of the first centroids.

    Raises:
        FlSimError: images smaller than a patch and a step, or fewer patches of more than one colour than centroids.
    """
    import torch

    if images.ndim != 4 or images.dtype != np.uint8 or not len(images):
        raise FlSimError(f"images {images.dtype} {images.shape}: a backbone is fitted to uint8 (m, c, h, w)")
    if patch < 2 or stride < 1 or num_centroids < 2 or min(images.shape[2:]) < patch:
        raise FlSimError(
            f"patch = {patch}, stride = {stride}, num_centroids = {num_centroids} and images {images.shape}: must be a "
            "patch of 2 pixels or more that fits the images, a stride of 1 or more, 2 centroids or more"
        )
    generator = stream(seed, "plada", "backbone")
    with one_thread(), torch.inference_mode():
        patches = _sample(images, patch, generator)
        if len(patches) < num_centroids:
            raise FlSimError(
                f"num_centroids = {num_centroids}: the images have {len(patches)} patches of more than one colour; "
                "give more images, or ask for fewer centroids"
            )
        mean, whitening = _zca(patches)
        centroids = _lloyd(_whitened(patches, mean, whitening), num_centroids, generator)
    zero, one = np.zeros(4 * num_centroids, np.float32), np.ones(4 * num_centroids, np.float32)
    raw = Backbone(mean, whitening, centroids, centre=zero, spread=one, patch=patch, stride=stride)
    features = raw.features(images)
    spread = features.std(axis=0, dtype=np.float64)
    centre, spread = features.mean(axis=0, dtype=np.float64), np.maximum(spread, FLOOR * spread.mean() or 1)
    return replace(raw, centre=centre.astype(np.float32), spread=spread.astype(np.float32))


# ------------------------------------------------------------------------------------ patches (rows, D) as torch has it


def _patches(images: Images, patch: int, stride: int) -> torch.Tensor:
    """Every patch of the images, normalised in brightness and contrast."""
    import torch

    pixels = torch.from_numpy(np.ascontiguousarray(images)).float()
    tiles = pixels.unfold(2, patch, stride).unfold(3, patch, stride)  # (n, c, down, across, patch, patch)
    return _normalised(tiles.permute(0, 2, 3, 1, 4, 5).reshape(-1, images.shape[1] * patch**2))


def _normalised(patches: torch.Tensor) -> torch.Tensor:
    patches = patches - patches.mean(dim=1, keepdim=True)
    return patches.div_((patches.square().mean(dim=1, keepdim=True) + CONTRAST).sqrt_())


def _sample(images: Images, patch: int, generator: np.random.Generator) -> torch.Tensor:
    """PATCHES of the images at random places, normalised, without those of one colour."""
    import torch

    windows = np.lib.stride_tricks.sliding_window_view(images, (patch, patch), axis=(2, 3))
    image = generator.integers(len(images), size=PATCHES)
    top, left = (generator.integers(side, size=PATCHES) for side in windows.shape[2:4])
    drawn = windows[image, :, top, left].reshape(PATCHES, -1)
    some = drawn[(drawn != drawn[:, :1]).any(axis=1)]
    return _normalised(torch.from_numpy(some).float())


def _zca(patches: torch.Tensor) -> tuple[Floats, Floats]:
    """(mean (D,), whitening (D, D)): V (Lambda + epsilon)^-1/2 V^T of the patches' covariance, in float64."""
    import torch

    wide = patches.double()
    mean = wide.mean(dim=0)
    covariance = (wide - mean).T @ (wide - mean) / len(wide)
    values, vectors = torch.linalg.eigh(covariance)
    whitening = vectors @ torch.diag((values.clamp(min=0) + WHITENING).rsqrt()) @ vectors.T
    return mean.float().numpy(), whitening.float().numpy()


def _whitened(patches: torch.Tensor, mean: Floats, whitening: Floats) -> torch.Tensor:
    import torch

    return (patches - torch.from_numpy(mean)) @ torch.from_numpy(whitening)


def _lloyd(patches: torch.Tensor, num_centroids: int, generator: np.random.Generator) -> Floats:
    """k-means centroids (K, D) after ITERATIONS, from patches drawn as the first ones."""
    import torch

    points = patches.numpy().astype(np.float64)
    centroids = points[np.sort(generator.choice(len(points), num_centroids, replace=False))]
    for _ in range(ITERATIONS):
        there = torch.from_numpy(centroids.astype(np.float32))
        # |x - c|^2 without |x|^2, which is the same for every centroid
        distance, nearest = torch.addmm(there.square().sum(dim=1), patches, there.T, alpha=-2).min(dim=1)
        own, counts = nearest.numpy(), np.bincount(nearest.numpy(), minlength=num_centroids)
        sums = np.stack([np.bincount(own, column, num_centroids) for column in points.T], axis=1)
        centroids = sums / np.maximum(counts, 1)[:, None]
        empty = np.flatnonzero(counts == 0)
        far = np.argsort(-(distance + patches.square().sum(dim=1)).numpy(), kind="stable")[: len(empty)]
        centroids[empty] = points[far]
    return centroids.astype(np.float32)


def _triangle(patches: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """max(0, mean_j z_j - z_k), z_k = |x - c_k|: one product gives z^2 = x . (-2 c) + |x|^2 . 1 + 1 . |c|^2."""
    import torch

    norms = patches.square().sum(dim=1, keepdim=True)
    squares = torch.cat([patches, norms, torch.ones_like(norms)], dim=1) @ table
    distances = squares.clamp_(min=0).sqrt_()
    return torch.sub(distances.mean(dim=1, keepdim=True), distances, out=distances).relu_()


def _quadrants(down: int, across: int) -> torch.Tensor:
    """(4, down * across): 1 where a place lies in a quadrant; the upper and left ones have the odd row and column."""
    import torch

    lower = np.arange(down)[:, None] >= (down + 1) // 2
    right = np.arange(across)[None, :] >= (across + 1) // 2
    place = (2 * lower + right).ravel()
    return torch.from_numpy((place == np.arange(4)[:, None]).astype(np.float32))
