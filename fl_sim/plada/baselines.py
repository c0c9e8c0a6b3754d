"""What a payload costs without our codec: the paper's two encodings under Zstd-19, and the entropy bound.

"A Dataset is Worth 1 MB", Kimchi Shoshani, Gabay, Hoshen, https://arxiv.org/abs/2602.23358, section on encodings.
"Idx": ascending indices, delta-coded, in the smallest unsigned type that holds every delta, then the labels in their
smallest type. "Bmp": one bit a reference, then the labels. **Chosen**: one Zstd frame over mask and labels together or
one for each, whichever is smaller (the paper does not say); a baseline that could be beaten by a better framing of
itself would be no baseline.
"""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_sim.errors import FlSimError

LEVEL = 19


def smallest_type(most: int) -> np.dtype[Any]:
    """The smallest unsigned little-endian type that holds `most`."""
    return np.dtype(np.min_scalar_type(most)).newbyteorder("<")


def indexed(indices: NDArray[np.int64], labels: NDArray[Any], num_classes: int) -> tuple[bytes, bytes]:
    """The paper's "Idx" before Zstd: (deltas between ascending indices (k,), labels (k,)) as bytes."""
    deltas = np.diff(indices, prepend=0)
    mask = deltas.astype(smallest_type(int(deltas.max(initial=0)))).tobytes()
    return mask, labels.astype(smallest_type(max(num_classes - 1, 0))).tobytes()


def bitmap(
    indices: NDArray[np.int64], labels: NDArray[Any], num_references: int, num_classes: int
) -> tuple[bytes, bytes]:
    """The paper's "Bmp" before Zstd: (one bit a reference, labels (k,)) as bytes."""
    mask = np.zeros(num_references, bool)
    mask[indices] = True
    return np.packbits(mask).tobytes(), labels.astype(smallest_type(max(num_classes - 1, 0))).tobytes()


def squeezed(mask: bytes, labels: bytes, *, magic: bool = True, beside: int | None = None) -> bytes:
    """Both under Zstd-19, in one frame or two, whichever is smaller.

    Without `magic`, a frame has 4 bytes less. One frame was met 1 % smaller than two and takes as long again: it is not
    tried where two are a tenth larger than `beside` bytes.
    """
    import zstandard

    kind = zstandard.FORMAT_ZSTD1 if magic else zstandard.FORMAT_ZSTD1_MAGICLESS
    settings = zstandard.ZstdCompressionParameters.from_level(LEVEL, format=kind, write_content_size=False)
    squeeze = zstandard.ZstdCompressor(compression_params=settings).compress
    apart = squeeze(mask) + squeeze(labels)
    hopeless = beside is not None and 10 * len(apart) > 11 * beside
    return apart if hopeless else min(squeeze(mask + labels), apart, key=len)


def unsqueezed(content: bytes, size: int, what: str, window: int) -> bytes:
    """The `size` bytes that frames without their magic hold; `window` is the largest that is taken memory for.

    Raises:
        FlSimError: they are damaged, or hold another number of bytes.
    """
    import zstandard

    plain = zstandard.ZstdDecompressor(format=zstandard.FORMAT_ZSTD1_MAGICLESS, max_window_size=window)
    try:
        raw = plain.stream_reader(io.BytesIO(content), read_across_frames=True).read(size + 1)  # a bomb stops there
    except zstandard.ZstdError as error:
        raise FlSimError(f"{what} is damaged: {error}") from None
    if len(raw) != size:
        raise FlSimError(f"{what} is damaged: it holds not {size} bytes")
    return raw


def zstd_sizes(
    indices: NDArray[np.int64], labels: NDArray[Any], num_references: int, num_classes: int
) -> dict[str, int]:
    """Bytes of the paper's encodings under Zstd-19: {"indices": ..., "bitmap": ...}."""
    return {
        "indices": len(squeezed(*indexed(indices, labels, num_classes))),
        "bitmap": len(squeezed(*bitmap(indices, labels, num_references, num_classes))),
    }


def entropy(labels: NDArray[Any]) -> float:
    """Bits a label under the labels' own frequencies; 0 for none."""
    _, counts = np.unique(labels, return_counts=True)
    return float(-(counts / counts.sum() * np.log2(counts / counts.sum())).sum()) if len(labels) else 0.0


def bound(labels: NDArray[Any], num_references: int) -> float:
    """Bytes of log2 C(N, k) + k H(labels): what an unclustered payload cannot go below (a clustered one can)."""
    k = len(labels)
    ways = math.lgamma(num_references + 1) - math.lgamma(k + 1) - math.lgamma(num_references - k + 1)
    return (ways / math.log(2) + k * entropy(labels)) / 8
