"""Bytes and seconds of PLADA's codec on made payloads, beside the paper's encodings with Zstd-19 and the bounds.

    .venv/bin/python benchmarks/plada_codec.py              all of them, about two minutes
    .venv/bin/python benchmarks/plada_codec.py --small      without those over 14.2 million references
    .venv/bin/python benchmarks/plada_codec.py RUN FILE.plada --reference-folders FILE.npz     of real runs instead

A payload of a real run is a file, or a folder with `payload.plada`; its indices and labels are encoded again. Where the
reference set's folders start is taken from what `--reference-folders` names, or else from `folders.npz` in the run's
folder, or from `X.folders.npz` beside X.plada. Only payloads that are packed by folders have such a file; without one,
the second half of the line stays empty.

*sorted*: the reference set lies in folders (log-normal sizes); a folder's density is Gamma(0.1), its kept references
lie anywhere in it, a label is the folder's own class for 80 %, the folder's second class for 10 %, any class for the
rest (classes by Zipf's law with exponent 0.7). *law* is the maker's own cost: the entropy of mask and labels given
every folder's density and classes, which no codec knows. *shuffled*: k places anywhere, labels by the same Zipf law.
*bound* is log2 C(N, k) + k H(labels), with the labels' own frequencies. All sizes are in bytes, of the body; *under* is
under the better Zstd, *bound+* over the bound. First our codec without the folders' starts, then with them.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fl_sim.plada import baselines, codec
from fl_sim.plada.folders import read_folders
from fl_sim.plada.payload import Payload

PURITY, SECOND, SHAPE, ZIPF = 0.8, 0.1, 0.1, 0.7
SETS = ((14_200_000, 650, (0.01,)), (50_000, 500, (0.001, 0.005, 0.01, 0.05, 0.1)), (41_284, 62, (0.001, 0.01, 0.1)))
CLASSES = {14_200_000: (10, 100, 365), 50_000: (10, 100), 41_284: (26,)}


class Made(NamedTuple):
    """A payload, where its folders start, and the bytes that its maker's law allows, where they are known."""

    indices: NDArray[np.int64]
    labels: NDArray[np.int64]
    starts: NDArray[np.int64] | None
    law: float | None


def popularity(classes: int) -> NDArray[np.float64]:
    """How frequent each class is, (C,)."""
    weights = 1 / np.arange(1, classes + 1) ** ZIPF
    return weights / weights.sum()


def class_sorted(rng: np.random.Generator, size: int, mean: int, keep: float, classes: int) -> Made:
    """Folders of `mean` references, each with a density and classes of its own."""
    weights = rng.lognormal(0, 0.5, max(1, size // mean))
    starts = np.unique((np.cumsum(weights) - weights) / weights.sum() * size // 1).astype(np.int64)
    sizes = np.diff(np.append(starts, size))
    chance = densities(rng.gamma(SHAPE, 1, len(starts)), sizes, keep * size)
    indices = np.flatnonzero(rng.random(size) < np.repeat(chance, sizes))
    folder = np.searchsorted(starts, indices, side="right") - 1
    often = rng.permutation(popularity(classes))
    first, second = rng.choice(classes, (2, len(starts)), p=often)
    any_class, u = rng.choice(classes, len(indices), p=often), rng.random(len(indices))
    labels = np.where(u < PURITY, first[folder], np.where(u < PURITY + SECOND, second[folder], any_class))
    chances = (1 - PURITY - SECOND) * often[labels] + PURITY * (labels == first[folder])
    chances += SECOND * (labels == second[folder])
    spread = -np.where((chance > 0) & (chance < 1), chance * np.log2(np.clip(chance, 1e-300, 1)), 0)
    spread -= np.where((chance > 0) & (chance < 1), (1 - chance) * np.log2(np.clip(1 - chance, 1e-300, 1)), 0)
    return Made(indices, labels, starts, float((sizes * spread).sum() - np.log2(chances).sum()) / 8)


def densities(gamma: NDArray[np.float64], sizes: NDArray[np.int64], wanted: float) -> NDArray[np.float64]:
    """Each folder's density, at most 0.9, so that `wanted` references are kept on average."""
    low, high = 1e-6, 1e9
    for _ in range(200):
        scale = (low * high) ** 0.5
        low, high = (low, scale) if (np.minimum(gamma * scale, 0.9) * sizes).sum() > wanted else (scale, high)
    return np.minimum(gamma * low, 0.9)


def shuffled(rng: np.random.Generator, size: int, keep: float, classes: int) -> Made:
    """Kept references anywhere."""
    count = round(size * keep)
    indices = np.sort(rng.choice(size, count, replace=False))
    labels = rng.choice(classes, count, p=popularity(classes))
    return Made(indices, labels, np.zeros(1, np.int64), baselines.bound(labels, size))


def timed(how, *what):
    """(what it returns, seconds)."""
    start = time.perf_counter()
    result = how(*what)
    return result, time.perf_counter() - start


def real(place: Path, folders: Path | None) -> tuple[Made, int, int]:
    """(a run's payload, N, C)."""
    file = place / "payload.plada" if place.is_dir() else place
    payload = Payload.from_bytes(file.read_bytes(), most_references=codec.MOST_REFERENCES, most_kept=20_000_000)
    beside = (file.with_suffix(".folders.npz"), file.with_name("folders.npz"))
    starts_file = folders or next(
        (path for path in beside[: 1 + (file.name == "payload.plada")] if path.is_file()), None
    )
    starts = None if starts_file is None else read_folders(starts_file.read_bytes(), payload.reference)
    return Made(*payload.unpack(starts), starts, None), payload.num_references, len(payload.class_names)


def row(kind: str, made: Made, size: int, keep: float, classes: int) -> str:
    """One payload's line, its bodies decoded and compared."""
    indices, labels, starts, law = made
    zstd = baselines.zstd_sizes(indices, labels, size, classes)
    best, cells = min(zstd.values()), []
    for groups in [None] if starts is None else [None, starts]:
        body, writing = timed(codec.encode, indices, labels, size, classes, groups)
        decoded, reading = timed(codec.decode, body, size, len(indices), classes, groups)
        assert np.array_equal(decoded, [indices, labels])
        under = f"{1 - len(body) / best:6.1%} {len(body) / baselines.bound(labels, size) - 1:+7.1%}"
        cells.append(f"{codec.reading_of(body):9} {len(body):7} {under} {writing:5.2f} {reading:5.2f}")
    bounds = f"{baselines.bound(labels, size):7.0f} " + ("      ?" if law is None else f"{law:7.0f}")
    sizes = f"{zstd['indices']:7} {zstd['bitmap']:7} {bounds}"
    return f"{kind:8} {size:9} {keep:6.1%} {classes:4} {len(indices):7} | {sizes} | " + " | ".join(cells)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("payloads", nargs="*", type=Path, help="payload files or run folders; none: made payloads")
    parser.add_argument("--reference-folders", type=Path, help="a .npz file, where the reference set's folders start")
    parser.add_argument("--small", action="store_true", help="without the made payloads over 14.2 million references")
    options = parser.parse_args()
    ours = "reading     bytes  under bound+    enc   dec"
    print(
        "kind             N   keep    C       k |     idx     bmp   bound     law | alone:", ours, "| by folders:", ours
    )
    for place in options.payloads:
        decoded, size, classes = real(place, options.reference_folders)
        name = place.parent.name if place.name == "payload.plada" else place.stem
        print(row(name[-8:], decoded, size, len(decoded.indices) / size, classes), flush=True)
    if not options.payloads:
        made(options.small)


def made(small: bool) -> None:
    """The rows of made payloads."""
    for size, mean, keeps in SETS:
        if size > 1_000_000 and small:
            continue
        for keep in keeps:
            for classes in CLASSES[size]:
                rng = np.random.default_rng([size, classes, round(keep * 10_000)])
                print(row("sorted", class_sorted(rng, size, mean, keep, classes), size, keep, classes))
                print(row("shuffled", shuffled(rng, size, keep, classes), size, keep, classes), flush=True)


if __name__ == "__main__":
    main()
