"""One range coder seen from both ends, and the integer models that drive it.

The coder is the `constriction` package's. Every probability handed to it is n / 2^SCALE with integers n that come from
integer counts, so that no rounding decides a bit and the bytes are the same on every machine.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from fl_sim.errors import FlSimError

model, queue = constriction.stream.model, constriction.stream.queue

SCALE = 22
CHUNK = 16  # bits of a long remainder that go into one uniform symbol


class Coder:
    """The encoder (`Coder()`) or the decoder (`Coder(body)`): the same calls in the same order on both ends.

    Encoding, `code` writes the symbol it is given and returns it; decoding, it ignores what it is given and returns
    what was written. A modelling routine written once so serves both ends and cannot differ between them.
    """

    def __init__(self, body: bytes | None = None) -> None:
        self.decoding = body is not None
        self._written: Any = None
        if body is None:
            self._written = queue.RangeEncoder()
            self._call = self._written.encode
        else:
            words = np.frombuffer(body + bytes(-len(body) % 4), ">u4").astype(np.uint32)
            self._call = queue.RangeDecoder(words).decode

    def code(self, symbol: int, using: Any) -> int:
        """Write or read one symbol."""
        try:
            if self.decoding:
                return int(self._call(using))
            self._call(symbol, using)
            return symbol
        except AssertionError:
            raise FlSimError("the payload's body is damaged: no symbols lead to these bits") from None

    def code_all(self, symbols: NDArray[np.int32] | None, count: int, using: Any) -> NDArray[np.int32]:
        """Write or read `count` symbols of one model."""
        return self._all(symbols, using, count)

    def code_uniform(self, symbols: NDArray[np.int32] | None, sizes: NDArray[np.int32]) -> NDArray[np.int32]:
        """Write or read one symbol below each of `sizes`, all of which are 2 or more."""
        return self._all(symbols, model.Uniform(), sizes) if len(sizes) else np.zeros(0, np.int32)

    def _all(self, symbols: NDArray[np.int32] | None, using: Any, what: Any) -> NDArray[np.int32]:
        try:
            if self.decoding:
                return np.asarray(self._call(using, what), np.int32)
            assert symbols is not None
            self._call(symbols, using, *([what] if isinstance(what, np.ndarray) else []))
            return symbols
        except AssertionError:
            raise FlSimError("the payload's body is damaged: no symbols lead to these bits") from None

    def code_bits(self, value: int, bits: int) -> int:
        """Write or read `bits` equally likely bits."""
        number = 0
        while bits > 0:
            part = min(bits, CHUNK)
            bits -= part
            number = number << part | self.code(value >> bits & ((1 << part) - 1), uniform(1 << part))
        return number

    def code_below(self, value: int, size: int) -> int:
        """Write or read a value below `size`, all equally likely; nothing is written where there is no choice."""
        if size > 1 << 24:
            return self.code_bits(value, (size - 1).bit_length())
        return self.code(value, model.Uniform(size)) if size > 1 else 0

    def body(self) -> bytes:
        """What was written, in the fewest bytes: the decoder reads zeros past its end."""
        assert self._written is not None
        sealed = np.asarray(self._written.get_compressed()).astype(">u4").tobytes()
        words, (low, width) = self._written.pos()
        settled, end = sealed[: 4 * words], sealed[4 * words :].ljust(8, b"\0")
        # Any 64 bits from low on, fewer than width above it, end as well as those: take what ends in most zeros. Where
        # those are below low they were carried over into what is settled, and stay.
        if end >= low.to_bytes(8, "big"):
            most = min(low + width, 1 << 64) - 1
            rounded = (-(-low >> zeros) << zeros for zeros in range(64, -1, -8))
            end = next(number for number in rounded if number <= most).to_bytes(8, "big")
        return (settled + end).rstrip(b"\0")


@cache
def uniform(size: int) -> Any:
    """The model of `size` equally likely symbols, two or more."""
    return model.Uniform(size)


def frequencies(counts: NDArray[np.int64]) -> Any:
    """The model of symbols seen in proportion to `counts` (n,), n at least 2; counts are at least 0, not all 0."""
    share = (counts << SCALE) // int(counts.sum())
    share[counts.argmax()] += (1 << SCALE) - int(share.sum())
    return model.Categorical(share / (1 << SCALE), perfect=False)


class Adaptive:
    """Frequencies that learn from each symbol coded; the model is renewed less and less often as they settle."""

    STEP = 1 << 10  # what one symbol met adds to its count

    def __init__(self, prior: NDArray[np.int64], most: int = 1 << 22) -> None:
        """`prior` (n,), n at least 2, is what the counts start from; they are halved when their sum reaches `most`."""
        self._counts = prior.copy()
        self._total = int(prior.sum())
        self._most = max(most, 8 * self._total)
        self._model = frequencies(prior)
        self._coded = 0
        self._due = 1

    def code(self, coder: Coder, symbol: int) -> int:
        """Write or read one symbol, and learn it."""
        symbol = coder.code(symbol, self._model)
        self._counts[symbol] += self.STEP
        self._total += self.STEP
        self._coded += 1
        if self._coded >= self._due:
            if self._total >= self._most:
                self._counts = (self._counts + 1) >> 1
                self._total = int(self._counts.sum())
            self._model = frequencies(self._counts)
            self._due = self._coded + 1 + min(self._coded >> 4, max(64, len(self._counts) >> 4))
        return symbol
