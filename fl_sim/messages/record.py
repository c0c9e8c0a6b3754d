"""What all messages have in common."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

FLOAT_BYTES = 8

MOST_COUNTED = 1 << 40  # no client has more of anything, and there are no more clients: sums of counts stay whole

MEASURED = "measured"  # the record for what a reply holds for the laboratory alone, which is not weighed

TIMING = "timing"  # the record in which every reply says how long its client took


@dataclass(frozen=True)
class Record:
    """Base of all messages. A request names what answers it and says which answers it rules out."""

    message_type: ClassVar[str] = ""  # a request's: what the client's handler is registered for
    reply: ClassVar[type[Record] | None] = None  # a request's: what answers it
    weighed: ClassVar[bool] = True  # false: an exchange that is the laboratory's altogether
    information_bytes: ClassVar[int] = 0  # of what the method itself has to send; the rest is the laboratory's wrapping
    measured: ClassVar[tuple[str, ...]] = ()  # arrays with a default for `MEASURED`, left out where they are empty

    # What only some requests say; not annotated, so that these are no fields of the others.
    align = ""  # the common scale that scores are brought to first; empty: none
    models = 1  # how many a client may have to train

    def check(self, answers: Any) -> None:
        """Refuse answers (`Columns` of its `reply`) that this question rules out, whoever sent them.

        Raises:
            ValueError: the message says of one of them what is wrong.
        """


@cache
def weighed_fields(kind: type[Record]) -> tuple[str, ...]:
    """The fields that count as sent."""
    return tuple(part.name for part in dataclasses.fields(kind) if part.name not in kind.measured)


def checked_count(name: str, value: Any) -> None:
    """Refuse what is no whole number in 0..2^40."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{name} = {value!r}: must be a whole number, at least 0")
    if value > MOST_COUNTED:
        raise ValueError(f"{name} = {value!r}: must be at most 2^40")


def checked_bytes(name: str, value: NDArray[np.uint8]) -> None:
    """Refuse what is no row of bytes."""
    if value.ndim != 1 or value.dtype != np.uint8:
        raise ValueError(f"{name} of shape {value.shape}, type {value.dtype}: must be bytes")


def checked_number(name: str, value: Any, least: float | None = None) -> None:
    """Refuse what is neither a number nor +inf, or less than `least`."""
    if not isinstance(value, int | float) or math.isnan(value) or value == -math.inf:
        raise ValueError(f"{name} = {value!r}: must be a number or +inf")
    if least is not None and value < least:
        raise ValueError(f"{name} = {value!r}: must be at least {least:g}")
