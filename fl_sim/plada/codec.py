"""A codec made for PLADA's payload: which references are kept, and their labels, in as few bytes as we can.

The mask is clustered because reference sets come sorted, and the labels follow the clusters. Several readings of the
same payload are tried, and the smallest is sent; its first byte says which:

- *plain*: kept references lie anywhere with one density, labels come by their frequencies, learnt on the way. Within
  2 % of log2 C(N, k) + k H(labels), which nothing can beat when the references are shuffled.
- *clustered*: a gap is coded given what the gaps before say of the density here, a label given the labels lately met
  (`fl_sim/plada/local.py`, `fl_sim/plada/density.py`).
- *foldered*: with the starts of the reference set's folders, which both ends know: how many are kept in each folder,
  where in it, and labels given those of the same folder (`fl_sim/plada/local.py`).
- *paper*: the better of the paper's encodings with Zstd-19, so that no body is larger than that.

Every reading goes through one range coder (`fl_sim/plada/coder.py`) and one routine for both ends.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_sim.errors import FlSimError
from fl_sim.plada import paper
from fl_sim.plada.coder import Coder, frequencies
from fl_sim.plada.density import HAZARDS
from fl_sim.plada.gaps import bucket_lows, bucket_widths, buckets_of, geometric
from fl_sim.plada.local import MOST_FOLDERS, code_clustered, code_foldered

MOST_CLASSES = 1 << 16
MOST_REFERENCES = 1 << 31
PLAIN, CLUSTERED, FOLDERED, PAPER = range(4)  # the low two bits of a body's first byte; the rest is the reading's own
SAMPLE, STRETCHES = 4096, 4  # how many kept references set the clustered reading, from how many places
PRIORS = (1, 4, 32, 256)  # a class's weight before it is met, in units where one label met counts 32

Decoded = tuple[NDArray[np.int64], NDArray[np.int64]]


def encode(
    mask_indices: NDArray[np.int64],
    labels: NDArray[Any],
    num_references: int,
    num_classes: int,
    groups: NDArray[np.int64] | None = None,
) -> bytes:
    """The body of a payload.

    Args:
        mask_indices: (k,), which references are kept, ascending.
        labels: (k,), the class of each, below num_classes.
        num_references: how many references there are.
        num_classes: how many classes there are, 1 to 65,536.
        groups: (G,), where the reference set's folders start, ascending; the decoder must be given the same.

    Raises:
        FlSimError: indices that do not ascend or lie outside, labels outside, sizes outside.
    """
    indices, labels = np.asarray(mask_indices, np.int64), np.asarray(labels, np.int64)
    _check(indices, labels, num_references, num_classes)
    if not len(indices):
        return b""
    starts = _starts(groups, num_references)
    tried = [_written(PLAIN | prior << 2, indices, labels, num_references, num_classes) for prior in range(len(PRIORS))]
    head = _clustered_head(indices, labels, num_classes)
    if head is not None:
        tried.append(_written(head, indices, labels, num_references, num_classes))
    if starts is not None:
        tried.append(_written(FOLDERED, indices, labels, num_references, num_classes, starts))
    variant, content = paper.smallest(indices, labels, num_references, num_classes, min(map(len, tried)))
    tried.append(bytes([PAPER | variant << 2]) + content)
    return min(tried, key=len)


def decode(
    body: bytes, num_references: int, num_kept: int, num_classes: int, groups: NDArray[np.int64] | None = None
) -> Decoded:
    """(indices (k,) ascending, labels (k,)) of a body; memory is taken for num_references bits and num_kept labels.

    Raises:
        FlSimError: a body that no payload of these sizes has, or one that needs `groups` that were not given.
    """
    _check_sizes(num_references, num_kept, num_classes)
    if not num_kept:
        if body:
            raise FlSimError(f"the payload's body is damaged: {len(body)} bytes for no kept reference")
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    if not body:
        raise FlSimError(f"the payload's body is damaged: no byte for {num_kept} kept references")
    reading, detail = body[0] & 3, body[0] >> 2
    if reading == PAPER:
        indices, labels = paper.read(detail, body[1:], num_references, num_kept, num_classes)
    else:
        starts = _starts(groups, num_references) if reading == FOLDERED else None
        if reading == FOLDERED and starts is None:
            raise FlSimError("the payload was packed by the reference set's folders: give their starts to decode it")
        if detail >= {PLAIN: len(PRIORS), CLUSTERED: HAZARDS, FOLDERED: 1}[reading]:
            raise FlSimError(f"the payload's body is damaged: its first byte is {body[0]}, which means nothing")
        indices, labels = _coded(body[0], Coder(body[1:]), None, num_references, num_kept, num_classes, starts)
    try:
        _check(indices, labels, num_references, num_classes)
    except FlSimError as error:
        raise FlSimError(f"the payload's body is damaged: {error}") from None
    return indices, labels


def reading_of(body: bytes) -> str:
    """The name of the reading that a body's first byte tells."""
    return ("plain", "clustered", "foldered", "paper")[body[0] & 3] if body else "empty"


def _written(
    head: int,
    indices: NDArray[np.int64],
    labels: NDArray[np.int64],
    num_references: int,
    num_classes: int,
    starts: NDArray[np.int64] | None = None,
) -> bytes:
    coder = Coder()
    _coded(head, coder, (indices, labels), num_references, len(indices), num_classes, starts)
    return bytes([head]) + coder.body()


def _clustered_head(indices: NDArray[np.int64], labels: NDArray[np.int64], num_classes: int) -> int | None:
    """The clustered reading's first byte: how often the density changes, by a sample's bytes, downhill from the middle.

    None where the sample says that a large payload has no clusters: trying would take as long again as all the rest.
    """
    rows = np.arange(len(indices))
    if len(indices) > SAMPLE:
        ends = np.linspace(SAMPLE // STRETCHES, len(indices), STRETCHES).astype(np.int64)
        rows = np.concatenate([np.arange(end - SAMPLE // STRETCHES, end) for end in ends])
    places = np.cumsum(np.diff(indices, prepend=-1)[rows]) - 1  # the stretches joined
    size = int(places[-1]) + 1

    @cache
    def cost(hazard: int) -> int:
        return len(_written(CLUSTERED | hazard << 2, places, np.zeros(len(rows), np.int64), size, 1))

    best = HAZARDS // 2
    while cost(other := min((h for h in (best - 1, best + 1) if 0 <= h < HAZARDS), key=cost)) < cost(best):
        best = other
    heads = [PLAIN | 1 << 2, CLUSTERED | best << 2]
    if len(indices) > 8 * SAMPLE:
        plain, clustered = (len(_written(head, places, labels[rows], size, num_classes)) for head in heads)
        if clustered > plain:
            return None
    return heads[1]


def _coded(
    head: int,
    coder: Coder,
    decoded: Decoded | None,
    num_references: int,
    num_kept: int,
    num_classes: int,
    starts: NDArray[np.int64] | None,
) -> Decoded:
    """Write what is decoded, or read it where nothing is."""
    if head & 3 == CLUSTERED:
        return code_clustered(coder, decoded, num_references, num_kept, num_classes, head >> 2)
    if starts is not None:
        return code_foldered(coder, decoded, num_references, num_kept, num_classes, starts)
    indices, labels = decoded if decoded is not None else (None, None)
    mask = _plain_mask(coder, indices, num_references, num_kept)
    return mask, _plain_labels(coder, labels, num_kept, num_classes, PRIORS[head >> 2])


def _plain_mask(
    coder: Coder, indices: NDArray[np.int64] | None, num_references: int, num_kept: int
) -> NDArray[np.int64]:
    """Gaps by their bucket under the geometric law of density k / N, then by their place in the bucket."""
    using = frequencies(geometric(num_references, num_kept))
    gaps = None if indices is None else np.diff(indices, prepend=-1) - 1
    buckets = coder.code_all(None if gaps is None else buckets_of(gaps).astype(np.int32), num_kept, using)
    lows, widths = bucket_lows()[buckets], bucket_widths()[buckets]
    rest = np.zeros(num_kept, np.int64) if gaps is None else gaps - lows
    for shift in (16, 0):  # the high bits of wide places, then the low sixteen
        bits = np.clip(widths - shift, 0, 16 if shift == 0 else 15)
        some = np.flatnonzero(bits)
        part = None if gaps is None else ((rest[some] >> shift) & ((1 << bits[some]) - 1)).astype(np.int32)
        read = coder.code_uniform(part, (1 << bits[some]).astype(np.int32))
        if gaps is None:
            rest[some] |= read.astype(np.int64) << shift
    return np.cumsum(lows + rest + 1) - 1


def _plain_labels(
    coder: Coder, labels: NDArray[np.int64] | None, num_kept: int, num_classes: int, prior: int
) -> NDArray[np.int64]:
    """Labels in growing blocks, each under the frequencies of all before it."""
    coded = np.zeros(num_kept, np.int64)
    if num_classes == 1:
        return coded
    counts = np.full(num_classes, prior, np.int64)
    done = 0
    while done < num_kept:
        stop = min(num_kept, done + max(1, num_classes >> 6, done >> 4))
        block = None if labels is None else labels[done:stop].astype(np.int32)
        coded[done:stop] = coder.code_all(block, stop - done, frequencies(counts))
        counts += 32 * np.bincount(coded[done:stop], minlength=num_classes)
        done = stop
    return coded


# ------------------------------------------------------------------------------------------------------------- checks


def _check_sizes(num_references: int, num_kept: int, num_classes: int) -> None:
    if not 0 <= num_references < MOST_REFERENCES:
        raise FlSimError(f"{num_references} references: a payload addresses 0 to {MOST_REFERENCES - 1}")
    if not 1 <= num_classes <= MOST_CLASSES:
        raise FlSimError(f"{num_classes} classes: a payload has 1 to {MOST_CLASSES}")
    if not 0 <= num_kept <= num_references:
        raise FlSimError(f"{num_kept} kept references: there are {num_references}")


def _check(indices: NDArray[np.int64], labels: NDArray[np.int64], num_references: int, num_classes: int) -> None:
    _check_sizes(num_references, len(indices), num_classes)
    if indices.shape != labels.shape or indices.ndim != 1:
        raise FlSimError(f"indices {indices.shape} and labels {labels.shape}: there is one label an index")
    if len(indices) and (np.diff(indices, prepend=-1).min() < 1 or indices[-1] >= num_references):
        raise FlSimError(f"kept references must ascend within 0 to {num_references - 1}")
    if len(labels) and not (labels.min() >= 0 and labels.max() < num_classes):
        raise FlSimError(f"labels {labels.min()} to {labels.max()}: classes are 0 to {num_classes - 1}")


def _starts(groups: NDArray[np.int64] | None, num_references: int) -> NDArray[np.int64] | None:
    """Where folders start, with the end of the last; None where nothing is known."""
    if groups is None or not num_references:
        return None
    starts = np.asarray(groups, np.int64)
    if len(starts) and (not (starts[1:] > starts[:-1]).all() or starts[0] < 0 or starts[-1] >= num_references):
        raise FlSimError(f"folders must start at ascending places within 0 to {num_references - 1}")
    starts = starts[starts > 0]
    if not 0 < len(starts) < MOST_FOLDERS:
        return None  # one folder tells nothing; more would take too long to walk
    return np.concatenate([[0], starts, [num_references]])
