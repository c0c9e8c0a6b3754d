"""Telling clients whose calibration scores do not look like the others': Rob-FCP's mathematics.

"Certifiably Byzantine-Robust Federated Conformal Prediction", Kang, Lin, Sun, Xiao, Li, ICML 2024,
https://arxiv.org/abs/2406.01960; its code: https://github.com/kangmintong/Rob-FCP.

>>> vectors = np.array([[0.5, 0.5], [0.5, 0.5], [0.6, 0.4], [0.0, 1.0]])
>>> maliciousness(vectors, 1).round(2).tolist()
[0.14, 0.14, 0.28, 1.41]
>>> most_likely_malicious(vectors)
1
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Neighbours = Literal["nearest", "farthest"]

_BATCH = 1 << 21  # distances at a time


def score_range(scores: Sequence[Floats], bounded: bool) -> tuple[float, float]:
    """Between which numbers histograms are to be taken, each client of `scores` having one vote: the median of their
    smallest scores and that of their largest, or 0 and 1 where `bounded` and both medians lie in between.

    `scores` are arrays (n_k,), none empty. Fewer than half of the clients cannot move it beyond honest scores.
    """
    low = float(np.sort([s.min() for s in scores])[(len(scores) - 1) // 2])
    high = float(np.sort([s.max() for s in scores])[len(scores) // 2])
    return (0.0, 1.0) if bounded and low >= 0 and high <= 1 else (low, high)


def histograms(scores: Sequence[Floats], bins: int, low: float, high: float) -> Floats:
    """(K, bins): which share of each client's scores (n_k,), n_k > 0, lies in each of `bins` equal bins of [low, high].

    Scores outside count in the first or last bin. (The published code puts scores of the first bin into the last.)
    """
    width = (high - low) / bins
    made = np.empty((len(scores), bins))
    for row, values in zip(made, scores, strict=True):
        with np.errstate(over="ignore", invalid="ignore"):
            place = np.floor((values - low) / width) if 0 < width < math.inf else np.where(values > low, bins, 0.0)
        place = np.clip(np.nan_to_num(place, nan=bins, posinf=bins), 0, bins - 1).astype(np.int64)
        row[:] = np.bincount(place, minlength=bins) / len(values)
    return made


def maliciousness(vectors: Floats, num_malicious: int, neighbours: Neighbours = "nearest") -> Floats:
    """(K,) sums of the Euclidean distances of each of `vectors` (K, H) to K - K_m - 1 others: its nearest ones, or its
    farthest."""
    from scipy.spatial.distance import cdist

    clients = len(vectors)
    others = clients - num_malicious - 1
    counting = slice(1, 1 + others) if neighbours == "nearest" else slice(clients - others, clients)
    summed = np.empty(clients)
    step = max(1, _BATCH // max(clients, 1))
    for i in range(0, clients, step):
        # By differences, not the dot products of |a|^2 - 2ab + |b|^2, which leave equal vectors 1e-8 apart.
        distances = cdist(vectors[i : i + step], vectors)
        distances.sort(axis=1)
        summed[i : i + step] = distances[:, counting].sum(axis=1)
    return summed


def dropped(suspicion: Floats, num_malicious: int) -> list[int]:
    """The places of the `num_malicious` largest of `suspicion` (K,), rising; of equal ones the later."""
    order = np.argsort(suspicion, kind="stable")
    return sorted(order[len(order) - num_malicious :].tolist())


def most_likely_malicious(vectors: Floats, neighbours: Neighbours = "nearest") -> int:
    """K_m, estimated: of 1..ceil(K/2) - 1 the number m for which the m most malicious are least likely under a Gaussian
    fitted to the others, compared with the likelihood of these themselves; 0 for K < 3.

    The published code orders the clients by their maliciousness for K_m = K/2 and takes the m, from 2 up, of the
    largest difference between the mean log-likelihoods of those kept and those left out, under a Gaussian fitted to
    those kept with a variance for each bin. Its search for that Gaussian starts at variance 1, in units in which
    vectors differ by hundredths, and stops after 200 steps of Nelder-Mead in twice as many dimensions as bins, about
    where it started. Here the Gaussian has one variance, fitted in closed form: of the difference then remains
    H/2 (ratio - 1), ratio the mean squared distance to the mean of those kept of the vectors left out over that of the
    vectors kept. Of 40 honest clients that are alike it leaves out 5 on average; of 10 clients with 3 liars one too
    many in a quarter of cases.
    """
    clients = len(vectors)
    if clients < 3:
        return 0
    most = (clients - 1) // 2
    order = np.argsort(maliciousness(vectors, most, neighbours), kind="stable")
    inside, out = _around(vectors[order]), _around(vectors[order[::-1][:most]])
    ratios: list[tuple[float, int]] = []
    for m in range(1, most + 1):
        mean, within = inside.means[clients - m - 1], inside.squares[clients - m - 1] / (clients - m)
        beyond = out.squares[m - 1] / m + float(((out.means[m - 1] - mean) ** 2).sum())
        ratio = beyond / within if within > 0 else math.inf if beyond > 0 else 1.0
        ratios.append((ratio, -m))
    return -max(ratios)[1]


class _Around(NamedTuple):
    """Of the first 1, 2, .. of some vectors their means, (K, H), and the sums of their squared distances to these."""

    means: Floats
    squares: list[float]


def _around(vectors: Floats) -> _Around:
    """One vector after another (Welford, "Note on a method for calculating corrected sums of squares and products",
    1962): all that is added up is at least 0, and is 0 where all are equal."""
    means, squares = np.empty_like(vectors), []
    mean, whole = np.zeros(vectors.shape[1]), 0.0
    for n, vector in enumerate(vectors, start=1):
        away = vector - mean
        mean = mean + away / n
        whole += float(away @ (vector - mean))
        means[n - 1] = mean
        squares.append(whole)
    return _Around(means, squares)


def certified_coverage(
    clients: int, benign: int, points: int, bins: int, alpha: float, epsilon: float = 0.0, beta: float = 0.05
) -> tuple[float, float]:
    """Rob-FCP's bounds on the coverage of benign clients, with probability 1 - `beta`, as its code has them.

        1 - α - (ε n_b + 1) / (n_b + K_b) - h  and  1 - α + ε + K_b / (n_b + K_b) + h,   cut off at 0 and 1
        h = H Φ^-1(1 - β / (2 H K_b)) / (2 √n_b) (1 + 2 τ / (1 - τ)),                    τ = (K - K_b) / K_b

    K is `clients`, K_b `benign`, n_b `points` of a benign client, H `bins`, ε the sketch's error. With 20 bins
    they are 0 and 1 up to an n_b of some thousands.
    """
    from scipy.stats import norm

    tau = (clients - benign) / benign
    spread = bins * float(norm.ppf(1 - beta / (2 * bins * benign))) / (2 * math.sqrt(points))
    spread *= 1 + 2 * tau / (1 - tau)
    low = 1 - alpha - (epsilon * points + 1) / (points + benign) - spread
    high = 1 - alpha + epsilon + benign / (points + benign) + spread
    return max(low, 0.0), min(high, 1.0)
