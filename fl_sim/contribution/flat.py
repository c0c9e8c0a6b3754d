"""The weights of a network as one vector, and back.

Arrays of floats are part of the vector, in the order of their names in the state dict: weights, biases, and the running
moments of batch normalisation. Arrays of whole numbers (its count of batches) are not: no average of them means
anything, and whoever unflattens says which are to stand there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Layout:
    """Where each array lies in the vector."""

    parts: tuple[tuple[str, tuple[int, ...], np.dtype[Any]], ...]  # name, shape, type of each, in order

    @classmethod
    def of(cls, arrays: Arrays) -> Layout:
        """That of a network's arrays."""
        return cls(tuple((name, a.shape, a.dtype) for name, a in arrays.items() if a.dtype.kind == "f"))

    @property
    def size(self) -> int:
        """d, the length of the vector."""
        return sum(math.prod(shape) for _, shape, _ in self.parts)

    def flat(self, arrays: Arrays) -> Vector:
        """The vector (d,), float32."""
        return self.difference(arrays, np.zeros(self.size, np.float32))

    def difference(self, arrays: Arrays, start: Vector, out: Vector | None = None) -> Vector:
        """The arrays as a vector less `start`, (d,), written to `out` where one is given: one pass, nothing copied.

        Raises:
            ValueError: an array is missing, or of another shape.
        """
        vector = np.empty(self.size, np.float32) if out is None else out
        first = 0
        for name, shape, _ in self.parts:
            if name not in arrays or arrays[name].shape != shape:
                other = arrays[name].shape if name in arrays else "missing"
                raise ValueError(f"weights {name!r}: must be of shape {shape}, and are {other}")
            last = first + math.prod(shape)
            np.subtract(arrays[name].reshape(-1), start[first:last], out=vector[first:last], casting="same_kind")
            first = last
        return vector

    def arrays(self, vector: Vector, others: Arrays) -> dict[str, NDArray[Any]]:
        """The arrays that a vector (d,) holds, and those that are no part of one from `others`, in their order there.

        Raises:
            ValueError: the vector is not (d,).
        """
        if vector.shape != (self.size,):
            raise ValueError(f"a vector of shape {vector.shape}: must be ({self.size},)")
        ends = np.cumsum([math.prod(shape) for _, shape, _ in self.parts])
        cut = dict(zip((name for name, *_ in self.parts), np.split(vector, ends[:-1]), strict=True))
        kinds = {name: (shape, kind) for name, shape, kind in self.parts}
        return {
            name: cut[name].reshape(kinds[name][0]).astype(kinds[name][1], copy=False) if name in kinds else array
            for name, array in others.items()
        }
