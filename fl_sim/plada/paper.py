"""The paper's encodings as a body: what our codec falls back to when Zstd finds a pattern that it does not model."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_sim.errors import FlSimError
from fl_sim.plada import baselines

BITMAP = 3  # variants 0 to 2 are deltas of 1, 2 and 4 bytes


def smallest(
    indices: NDArray[np.int64], labels: NDArray[Any], num_references: int, num_classes: int, beside: int
) -> tuple[int, bytes]:
    """(variant, bytes) of the smaller of the two encodings, to be held against `beside` bytes."""
    deltas = baselines.indexed(indices, labels, num_classes)
    width = (len(deltas[0]) // len(indices)).bit_length() - 1
    bits = baselines.bitmap(indices, labels, num_references, num_classes)
    tried = [
        (width, baselines.squeezed(*deltas, magic=False, beside=beside)),
        (BITMAP, baselines.squeezed(*bits, magic=False, beside=beside)),
    ]
    return min(tried, key=lambda pair: len(pair[1]))


def read(
    variant: int, content: bytes, num_references: int, num_kept: int, num_classes: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(indices, labels) of such a body; no more memory is taken than these sizes need."""
    if variant > BITMAP:
        raise FlSimError(f"the payload's body is damaged: encoding {variant} means nothing")
    size = (num_references + 7) // 8 if variant == BITMAP else num_kept << variant
    kind = baselines.smallest_type(max(num_classes - 1, 0))
    raw = baselines.unsqueezed(content, size + num_kept * kind.itemsize, "the payload's body", 1 << 27)
    labels = np.frombuffer(raw, kind, num_kept, size).astype(np.int64)
    if variant == BITMAP:
        indices = np.flatnonzero(np.unpackbits(np.frombuffer(raw, np.uint8, size), count=num_references))
    else:
        indices = np.cumsum(np.frombuffer(raw, f"<u{1 << variant}", num_kept).astype(np.int64))
    if len(indices) != num_kept:
        raise FlSimError(f"the payload's body is damaged: {len(indices)} references are kept, not {num_kept}")
    return indices, labels
