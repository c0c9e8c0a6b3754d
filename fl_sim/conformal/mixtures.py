"""Thresholds for clients that differ in their labels, from class laws that a group of clients shares.

The setting: client k has label counts c_k(y) among its n_k calibration points; given its label y, a score of a client
of group g follows a law F_{g,y} that all clients of the group share (one model, one P(x | y)). The server has the
counts of the group's scores by class, n_{g,y} points each. For a candidate label y of a test point of client k,

    T_k(y) = the smallest t with  Σ_y' (c_k(y') + 1[y' = y]) / (n_k + 1) · #{S_{g,y'} <= t} / (n_{g,y'} + 1)  >=  1 - α

and the set is {y : s(x, y) <= T_k(y)}. It is, for each client, the quantile of the mixture of class laws under its own
labels with the candidate counted among them.

Theorem. If a client's n_k calibration labels and its test label are exchangeable, and scores given labels are
independent draws from F_{g,y}, then P(S <= T_k(Y)) >= 1 - α for that client, for any n_k, 0 included.

Proof. Condition on the other clients' labels, on the multiset of this client's n_k + 1 labels, with shares π, and on
the bags: all scores of the group with the test score among them, class by class, m(y) of class y. None of it says
which point is the test point: its label is y with probability π(y), and its score is then any of bag y, equally likely.
Let T' be the smallest t with Σ π(y) #{bag y <= t} / m(y) >= 1 - α, a number that bags and multiset determine. T_k(Y)
has the same π, because the candidate Y completes the multiset; of class Y it has the bag without S, over
n_{g,Y} + 1 = m(Y), and of every other class the whole bag, over m(y) + 1. So its sum is nowhere above that of T', and
T_k(Y) >= T'. Hence P(S <= T_k(Y)) >= P(S <= T') = Σ π(y) #{bag y <= T'} / m(y) >= 1 - α. Rounding scores up to a grid
can only raise T. □

With one group and one class it is split conformal prediction, with n_k = 0 class-conditional conformal prediction
(Vovk 2012; Ding et al. 2023); the mixture form is that of weighted exchangeability (Tibshirani et al. 2019; Podkopaev
and Ramdas, "Distribution-free uncertainty quantification for classification under label shift", 2021), with the
client's own labels in place of an estimated ratio.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]

LEVEL = 1e-12  # what a sum of shares may fall short of 1 - alpha by rounding
COARSE = 8  # bins in which clients are compared when groups are looked for
UNLIKELY = 0.01  # posterior probability of a group below which a client is not taken to be of it
SURE = 2.0  # standard errors at which clients of one group are taken to differ


def class_laws(counts: Counts) -> Floats:
    """(C, B) #{S <= edge} / (n_y + 1) from the counts (C, B + 1) of scores by class."""
    return np.cumsum(counts[:, :-1], axis=1) / (counts.sum(axis=1, keepdims=True) + 1)


def mixture_laws(labels: Counts, laws: Floats) -> Floats:
    """(C, B) for each candidate label the mixture of `laws` (C, B) under `labels` (C,) counts and the candidate."""
    return np.asarray((labels @ laws + laws) / (labels.sum() + 1))


def crossing(laws: Floats, alpha: float) -> Counts:
    """(C,) index of the first edge at which each law (C, B) reaches 1 - alpha; B where none does."""
    reached = laws >= 1 - alpha - LEVEL
    return np.where(reached.any(axis=1), reached.argmax(axis=1), laws.shape[1])


def shrunk_by_class(own: Counts, group: Floats, pseudo_points: float) -> Floats:
    """(C, B) laws by class, from a client's counts (C, B + 1) and a group's laws (C, B), weighed by n_{k,y} and
    `pseudo_points`; the client's own part keeps one place of n_k + 1 at +inf, whatever the class."""
    if math.isinf(pseudo_points):
        return group
    points = own.sum(axis=1, keepdims=True)
    weight = np.divide(points, points + pseudo_points, out=np.zeros(points.shape), where=points > 0)
    mine = np.cumsum(own[:, :-1], axis=1) / np.maximum(points, 1) * (points.sum() / (points.sum() + 1))
    return np.asarray(weight * mine + (1 - weight) * group)


def joined_classes(counts: Counts, alpha: float) -> Counts:
    """(C,) cluster of each class, from a group's counts (C, B + 1): a class is its own where there are points enough.

    The place kept at +inf in every class weighs about (number of classes) / n in all. Where that is more than a quarter
    of alpha, classes are joined, those next to each other in the order of their mean scores, in clusters of about as
    many points each (as in Ding et al. 2023, who join classes of like scores), down to one: the group's pool.
    """
    sizes = counts.sum(axis=1)
    most = max(1, int(sizes.sum() * alpha / 4))
    if most >= len(counts):
        return np.arange(len(counts))
    order = np.argsort(_mean_place(counts[:, None]), kind="stable")
    before = np.cumsum(sizes[order]) - sizes[order] / 2
    clusters = np.empty(len(counts), np.int64)
    clusters[order] = np.minimum(before * most / max(1, int(sizes.sum())), most - 1).astype(np.int64)
    return np.unique(clusters, return_inverse=True)[1].astype(np.int64)


def by_cluster(counts: Counts, clusters: Counts) -> Counts:
    """Counts (..., C, B + 1) with the rows of each cluster's classes added up; these themselves where nothing is."""
    if np.array_equal(clusters, np.arange(counts.shape[-2])):
        return counts
    whole = np.zeros((*counts.shape[:-2], int(clusters.max()) + 1, counts.shape[-1]), counts.dtype)
    for y, cluster in enumerate(clusters):
        whole[..., cluster, :] += counts[..., y, :]
    return whole


@dataclass(frozen=True)
class Spread:
    """How much clients of one group differ in the share of their scores beyond their thresholds.

    `correlation` is the intraclass correlation of the exceedances, 0 where all follow the group's law; `errors` how
    many standard errors it is above 0; `pseudo_points` how many points of its own a client must have for them to count
    as much as the group's law: (1 - correlation) / correlation, +inf where the clients do not differ for sure.
    """

    correlation: float
    errors: float
    pseudo_points: float


def spread(exceeding: Counts, expected: Floats, variance: Floats, sizes: Counts) -> Spread:
    """The moments estimate from how many of `sizes` (K,) scores exceed a client's thresholds, (K,), and the mean and
    variance of that number where all follow the group's law, (K,) each.

    For beta-binomial counts of mean e and binomial variance v, Var(x) = v (1 + (n - 1) ρ), so ρ is the sum of
    (x - e)² - v over that of (n - 1) v; its standard error at ρ = 0 is from Var((x - e)²) ≈ 2 v² + v.
    """
    total = float((variance * (sizes - 1)).sum())
    if total <= 0:
        return Spread(0.0, 0.0, math.inf)
    correlation = float(((exceeding - expected) ** 2 - variance).sum()) / total
    error = math.sqrt(float((2 * variance**2 + variance).sum())) / total
    differ = correlation > SURE * error
    return Spread(max(correlation, 0.0), correlation / error, max(1 / correlation - 1, 0.0) if differ else math.inf)


def shrunk(own: Counts, group: Floats, pseudo_points: float) -> Floats:
    """A client's own law, from its counts (B + 1,), and a group's laws (C, B), weighed by n_k + 1 and `pseudo_points`.

    At 0 pseudo points it is the client's own split conformal law, at +inf the group's.
    """
    if math.isinf(pseudo_points):
        return group
    points = float(own.sum()) + 1
    return (np.cumsum(own[:-1]) + pseudo_points * group) / (points + pseudo_points)


def found_groups(counts: Counts, most: int = 4) -> tuple[Counts, NDArray[np.bool_]]:
    """Groups of clients that share class laws, from counts (K, C, B + 1): the likeliest of each client, (K,), from
    0, and which others its points do not rule out, (K, G).

    A mixture of multinomials, one for each group and class over COARSE bins, by classification EM (Celeux and Govaert
    1992) from groups of equal size in the order of the clients' mean place within their classes; the number of groups
    up to `most` is that of least BIC. It compares clients within classes, so that other labels are not another group.
    A group is ruled out whose posterior probability is below UNLIKELY; a client without points may be of any.
    """
    coarse = _coarse(counts)
    order = np.argsort(_mean_place(coarse), kind="stable")
    best: tuple[float, Floats] | None = None
    for number in range(1, most + 1):
        groups = np.empty(len(counts), np.int64)
        groups[order] = np.arange(len(counts)) * number // max(1, len(counts))
        each = _settled(coarse, groups, number)
        parameters = number * coarse.shape[1] * (coarse.shape[2] - 1)
        criterion = parameters * math.log(max(2, int(coarse.sum()))) - 2 * float(each.max(axis=1).sum())
        if best is None or criterion < best[0]:
            best = criterion, each
    assert best is not None
    used, groups = np.unique(best[1].argmax(axis=1), return_inverse=True)
    each = best[1][:, used] + np.log(np.bincount(groups, minlength=len(used)).clip(min=1) / max(1, len(groups)))
    return groups.astype(np.int64), each >= each.max(axis=1, keepdims=True) + math.log(UNLIKELY)


def _coarse(counts: Counts) -> Counts:
    """(K, C, COARSE) counts in bins that hold about the same number of all scores each."""
    total = counts.sum(axis=(0, 1))
    level = (np.cumsum(total) - total / 2) / max(1, int(total.sum()))
    bins = np.minimum((level * COARSE).astype(np.int64), COARSE - 1)
    coarse = np.zeros((*counts.shape[:2], COARSE), np.int64)
    ends = np.searchsorted(bins, np.arange(COARSE + 1))  # they ascend
    for b in range(COARSE):
        coarse[:, :, b] = counts[:, :, ends[b] : ends[b + 1]].sum(axis=2)
    return coarse


def _mean_place(coarse: Counts) -> Floats:
    """(K,) mean of the places, 0 to 1, of each K's points among everybody's points of their class; (K, C, B)."""
    total = coarse.sum(axis=0)
    place = (np.cumsum(total, axis=1) - total / 2) / np.maximum(total.sum(axis=1, keepdims=True), 1)
    points = coarse.sum(axis=(1, 2))
    return np.asarray(np.where(points > 0, (coarse * place).sum(axis=(1, 2)) / np.maximum(points, 1), 0.5))


def _settled(coarse: Counts, groups: Counts, number: int) -> Floats:
    """(K, number) log-likelihoods of each client in each group, once nobody would rather be in another."""
    likelihood = -math.inf
    for _ in range(100):
        laws = np.stack([coarse[groups == g].sum(axis=0) + 0.5 for g in range(number)])
        laws /= laws.sum(axis=2, keepdims=True)
        each = np.asarray(np.einsum("kcb,gcb->kg", coarse, np.log(laws)))
        groups, before, likelihood = each.argmax(axis=1), likelihood, float(each.max(axis=1).sum())
        if likelihood <= before + 1e-9:
            break
    return each
