"""What a payload may say of its kept images beyond their labels: when each is shown, and how sure the teacher was.

*Curriculum order*: a level for each kept image, 0 is shown first. *Soft labels*: the teacher's confidence p in the
label, in 2^bits steps. Both are whole numbers, in the order of the kept references; they are range-coded one class
after the other (`fl_sim/plada/coder.py`), since energy and confidence follow the class. A class's frequencies start
from those of the classes before it and learn on the way.

**Chosen**: the steps of p are equal in the angle asin(sqrt(p)). With the rest of the mass spread evenly, a student told
q instead of p pays KL(p || q) = p log(p / q) + (1 - p) log((1 - p) / (1 - q)) nats, near q = p about 2 (difference of
angles)^2: in equal angles every step loses the same, wherever p lies, and where steps are small no other spacing loses
less on average for the bytes it takes after entropy coding (Gish, Pierce, "Asymptotically efficient quantizing", IEEE
Trans. Inf. Theory 14, 1968). Steps equal in p lose most near 1, where the kept images lie; log-odds have no end there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_sim.errors import FlSimError
from fl_sim.plada.coder import Coder, frequencies, uniform

MOST_LEVELS = 256
MOST_BITS = 8
EVEN, TOGETHER, BY_CLASS = range(3)  # a section's first byte: no model, one for all images, one for each class
TRUST = 8  # of how many images a class's frequencies count those of the classes before it
STEP = 32  # what one image met adds to its count
ROUNDING = 1e-5  # by how much a confidence may miss its bounds: softmax in float32 does

Values = NDArray[np.uint8]


def pack_levels(levels: NDArray[Any], num_levels: int, labels: NDArray[Any] | None = None) -> bytes:
    """The section of a curriculum order.

    Args:
        levels: (k,), when each kept image is shown: 0 first, below num_levels.
        num_levels: how many levels there are, 2 to 256.
        labels: (k,), the kept images' labels, if the reader is to know them before this section.

    Raises:
        FlSimError: levels outside, or labels that are not (k,).
    """
    levels = np.asarray(levels)
    if not 2 <= num_levels <= MOST_LEVELS:
        raise FlSimError(f"{num_levels} curriculum levels: a payload has 2 to {MOST_LEVELS}")
    if len(levels) and not (levels.min() >= 0 and levels.max() < num_levels):
        raise FlSimError(f"curriculum levels {levels.min()} to {levels.max()}: must lie within 0 to {num_levels - 1}")
    return _smallest(levels.astype(np.uint8), num_levels, labels)


def unpack_levels(section: bytes, num_kept: int, labels: NDArray[Any] | None = None) -> tuple[Values, int]:
    """(levels uint8 (k,), how many levels there are) of a section; `labels` as it was packed with.

    Raises:
        FlSimError: a section that `pack_levels` does not write, or one that needs labels that were not given.
    """
    return _read(section, "curriculum order", num_kept, labels)


def pack_confidences(confidences: NDArray[Any], bits: int, labels: NDArray[Any], num_classes: int) -> bytes:
    """The section of soft labels.

    Args:
        confidences: (k,), the teacher's probability of each kept label, 1 / num_classes to 1.
        bits: each is told in 2^bits steps, 1 to 8.
        labels: (k,), the kept images' labels.
        num_classes: how many classes there are, 1 or more.

    Raises:
        FlSimError: confidences outside, labels that are not (k,), bits outside.
    """
    confidences = np.asarray(confidences, np.float64)
    if not 1 <= bits <= MOST_BITS:
        raise FlSimError(f"soft labels of {bits} bits: a payload has 1 to {MOST_BITS}")
    least = 1 / num_classes
    if len(confidences) and not (confidences.min() >= least - ROUNDING and confidences.max() <= 1 + ROUNDING):
        raise FlSimError(
            f"confidences {confidences.min():.6g} to {confidences.max():.6g}: the largest of {num_classes} "
            f"probabilities lies within {least:.6g} to 1"
        )
    low, width = _angles(bits, num_classes)
    angles = np.arcsin(np.sqrt(np.clip(confidences, least, 1)))
    steps = (angles - low) / width if width else np.zeros(len(angles))
    return _smallest(np.clip(steps, 0, (1 << bits) - 1).astype(np.uint8), 1 << bits, labels)


def unpack_confidences(section: bytes, num_kept: int, num_classes: int, labels: NDArray[Any]) -> NDArray[np.float32]:
    """The confidences (k,) of a section: of each step the middle, which is never below 1 / num_classes.

    Raises:
        FlSimError: a section that `pack_confidences` does not write.
    """
    steps, count = _read(section, "soft labels", num_kept, labels)
    bits = count.bit_length() - 1
    if count != 1 << bits:
        raise FlSimError(f"the payload's soft labels are damaged: {count} steps are no power of 2")
    low, width = _angles(bits, num_classes)
    middles = np.sin(low + width * (np.arange(count) + 0.5)) ** 2
    return middles.astype(np.float32)[steps]


def soft_targets(labels: NDArray[Any], confidences: NDArray[Any], num_classes: int) -> NDArray[np.float32]:
    """What a student learns from (k, C): the label's confidence, the rest of 1 spread evenly over the other classes."""
    confidences = np.asarray(confidences, np.float32)
    if num_classes == 1:
        return np.ones((len(confidences), 1), np.float32)
    rest = (1 - confidences.astype(np.float64)) / (num_classes - 1)
    targets = np.repeat(rest.astype(np.float32)[:, None], num_classes, axis=1)
    targets[np.arange(len(confidences)), labels] = confidences
    return targets


def _angles(bits: int, num_classes: int) -> tuple[float, float]:
    """The angle of confidence 1 / C, and how wide a step is up to that of confidence 1."""
    low = float(np.arcsin(np.sqrt(1 / num_classes)))
    return low, (float(np.pi / 2) - low) / (1 << bits)


# ------------------------------------------------------------------------------------------------------------- coding


def _smallest(values: Values, count: int, labels: NDArray[Any] | None) -> bytes:
    """How to read on, the number of levels less 1, and the values (k,) as bytes, by the best way there is."""
    classes = _classes(labels, len(values))
    ways = (EVEN, TOGETHER) if classes is None else (EVEN, TOGETHER, BY_CLASS)
    return min((_written(way, values, count, classes) for way in ways), key=len)


def _written(way: int, values: Values, count: int, classes: NDArray[np.int64] | None) -> bytes:
    coder = Coder()
    _coded(way, coder, values, len(values), count, classes)
    return bytes([way, count - 1]) + coder.body()


def _read(section: bytes, what: str, num_kept: int, labels: NDArray[Any] | None) -> tuple[Values, int]:
    """(values (k,), how many levels there are). Bytes that the writer would not have written are refused."""
    if len(section) < 2 or section[0] > BY_CLASS or not section[1]:
        raise FlSimError(f"the payload's {what} is damaged: it begins with {section[:2].hex() or 'nothing'}")
    way, count, classes = section[0], section[1] + 1, _classes(labels, num_kept)
    if way == BY_CLASS and classes is None:
        raise FlSimError(f"the payload's {what} was packed by the labels: give them to read it")
    values = _coded(way, Coder(section[2:]), None, num_kept, count, classes)
    if _written(way, values, count, classes) != section:
        raise FlSimError(f"the payload's {what} is damaged: {len(section)} bytes that no values of {num_kept} have")
    return values, count


def _classes(labels: NDArray[Any] | None, num_kept: int) -> NDArray[np.int64] | None:
    if labels is None:
        return None
    classes = np.asarray(labels, np.int64)
    if classes.shape != (num_kept,):
        raise FlSimError(f"labels {classes.shape}: there is one for each of {num_kept} kept references")
    return classes


def _coded(
    way: int, coder: Coder, values: Values | None, num_kept: int, count: int, classes: NDArray[np.int64] | None
) -> Values:
    """Write the values, or read them where none are given: one class after the other, each in growing blocks."""
    coded = np.zeros(num_kept, np.uint8)
    if way == EVEN:
        return _block(coder, values, coded, np.arange(num_kept), uniform(count))
    order, ends = np.arange(num_kept), np.array([num_kept])
    if way == BY_CLASS and classes is not None:
        order = np.argsort(classes, kind="stable")
        ends = np.append(np.flatnonzero(np.diff(classes[order])) + 1, num_kept)
    overall, start = np.full(count, STEP // 2, np.int64), 0
    for end in ends.tolist():
        counts = np.maximum(overall * (TRUST * STEP) // int(overall.sum()), 1)
        done = start
        while done < end:
            rows = order[done : min(end, done + max(1, (done - start) >> 4))]
            _block(coder, values, coded, rows, frequencies(counts))
            counts += STEP * np.bincount(coded[rows], minlength=count)
            done += len(rows)
        overall += STEP * np.bincount(coded[order[start:end]], minlength=count)
        start = end
    return coded


def _block(coder: Coder, values: Values | None, coded: Values, rows: NDArray[np.int64], using: Any) -> Values:
    """Write or read the values of some rows into `coded`, which is returned."""
    if len(rows):
        coded[rows] = coder.code_all(None if values is None else values[rows].astype(np.int32), len(rows), using)
    return coded
