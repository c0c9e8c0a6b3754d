"""How far a classifier's probabilities can be trusted, before and after a calibrator, as sums that add over clients.

Of n test points with probabilities p_i (C,), labels y_i, confidence c_i = max p_i and hit a_i = [argmax p_i = y_i]:

    Brier       1/n sum_i sum_k (p_ik - [k = y_i])^2   over all classes: of two it is twice scikit-learn's binary score
                (G. W. Brier, "Verification of forecasts expressed in terms of probability", 1950)
    log loss    -1/n sum_i log p_iy                    p_iy below 2^-52 counts as 2^-52, as in scikit-learn, so that a
                                                       probability of 0 costs 36.04 and not infinity
    PHI         loss before - loss after               post-hoc improvement, above 0 where the calibrator helped; for a
                                                       proper loss it charges what a calibrator loses in sharpness
                (E. Berta, D. Holzmueller, F. Bach, M. I. Jordan, "CalArena", 2026, https://arxiv.org/abs/2605.30188)
    ECE         sum_b |sum_{i in b} (a_i - c_i)| / n   over 15 bins of confidence of equal width, (low, high]
                (C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, "On calibration of modern neural networks", 2017,
                https://arxiv.org/abs/1706.04599, equation 3)
    Kuiper      (max_j F_j - min_j F_j) / n            F_0 = 0, F_j the sum of a_i - c_i over the j smallest confidences
                (I. Arrieta-Ibarra, P. Gujral, J. Tannen, M. Tygert, C. Xu, "Metrics of calibration for probabilistic
                predictions", 2022, https://arxiv.org/abs/2205.09680: ECCE-R)

All are found from one table of sums, a row for each occupied cell: a cell is a 960th of the confidences, before or
after the calibrator. 960 = 15 * 64, so ECE's bins are whole runs of cells to the last bit, and tables add.

Points of one cell are ties of the Kuiper statistic: F is looked at between cells, never inside one, whence neither the
order of rows nor that of clients matters. This K is never above K*, the statistic of all points of distinct
confidences, and close to it: inside cell b, of h_b hits and m_b misses, F leaves the range of its two ends by no more
than the smaller of its hits' sum of 1 - c and its misses' sum of c, so that

    0 <= K* - K <= 2/n max_b min(h_b (1 - low_b), m_b high_b) <= 2 max_b (c_b (1 - c_b) + 1/960) n_b / n,

where n_b / n is the cell's share of the points: two thousandths at most of a cell at confidence 1, where many points
may be, and at most some half of the share of any other.

>>> before = np.log([[0.9, 0.1], [0.8, 0.2]])  # both say class 0, and the second is wrong
>>> found = judged(tabulate(before, np.array([0, 1])))
>>> {name: round(value, 6) for name, value in found.items()}  # doctest: +NORMALIZE_WHITESPACE
{'brier': 0.65, 'log_loss': 0.857399, 'ece': 0.45, 'kuiper': 0.4, 'phi_brier': 0.0, 'phi_log': 0.0}
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fl_sim.conformal.scores import checked_labels

Floats = NDArray[np.float64]

BINS, FINE = 15, 960  # of ECE, and cells a side: BINS times a power of two
LEAST_LOG = float(np.log(np.finfo(np.float64).eps))  # of a probability in the log loss
CELL, COUNT, CONFIDENCE, HITS, BRIER, LOG = range(6)  # columns of a table
NOTHING: Floats = np.zeros((0, 6))  # the table of no points
NAMES = ("brier", "log_loss", "ece", "kuiper", "phi_brier", "phi_log")
Metrics = dict[str, float | None]


def log_softmax(logits: ArrayLike) -> Floats:
    """Log-probabilities (n, C) of `logits` (n, C), in double precision; nan where a row holds nan or +inf."""
    shifted = np.array(logits, np.float64)
    with np.errstate(invalid="ignore"):
        shifted -= shifted.max(axis=1, keepdims=True, initial=-np.inf)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def tabulate(before: ArrayLike, labels: ArrayLike, after: ArrayLike | None = None) -> Floats:
    """The table (m, 6) of a client's points: for each occupied cell its number, 0..959 before and 960..1919 after the
    calibrator, and the sums of its points' count, confidence, hits, Brier and log losses; cells in ascending order.

    Args:
        before: log-probabilities (n, C) of the model.
        labels: (n,) the true labels.
        after: log-probabilities (n, C) of the calibrated model; None where there is no calibrator.

    Returns:
        No row where n = 0, and where `before` holds nan: a model that answers nan has no probabilities.

    Raises:
        ValueError: labels outside 0..C-1, nan in `after` alone.
    """
    return tabulate_each(before, labels, [np.size(labels)], after)[0]


def tabulate_each(
    before: ArrayLike, labels: ArrayLike, sizes: Sequence[int], after: ArrayLike | None = None
) -> list[Floats]:
    """`tabulate` of K clients at once, whose `sizes` (K,) points stand one after another."""
    log_p = np.asarray(before, np.float64)
    n, truth, client = len(log_p), checked_labels(labels, *log_p.shape), np.repeat(np.arange(len(sizes)), sizes)
    if after is not None:
        log_p = np.concatenate([log_p, np.asarray(after, np.float64)])
        truth, client = np.tile(truth, 2), np.tile(client, 2)
    rows, guess, p = np.arange(len(log_p)), log_p.argmax(axis=1), np.exp(log_p)
    confidence = p[rows, guess]  # argmax points at a row's first nan
    lost = np.isin(client, client[:n][np.isnan(confidence[:n])])  # rows of clients whose model answers nan
    if np.isnan(confidence[~lost]).any():
        raise ValueError("a calibrator gave nan: log-probabilities must be numbers, or -inf")
    sums = np.ones((5, len(p)))
    sums[CONFIDENCE - 1], sums[HITS - 1] = confidence, guess == truth
    sums[LOG - 1] = -np.maximum(np.minimum(log_p[rows, truth], 0.0), LEAST_LOG)
    p[rows, truth] -= 1.0
    sums[BRIER - 1] = np.einsum("ij,ij->i", p, p)
    with np.errstate(invalid="ignore"):
        cell = np.maximum(np.minimum(np.ceil(confidence * FINE), FINE) - 1, 0)
    cell[n:] += FINE
    cell = np.where(lost, 0, cell) + client * (2 * FINE)
    # Of one client small integers, which NumPy sorts by their digits.
    cell = cell.astype(np.int16 if len(sizes) == 1 else np.int64)
    order = np.argsort(cell, kind="stable")
    order = order[~lost[order]]
    return _by_client(_summed(cell[order], sums[:, order]), len(sizes))


def _by_client(table: Floats, clients: int) -> list[Floats]:
    """A table of many clients' cells, numbered one client after another, as the table of each."""
    ends = np.searchsorted(table[:, CELL], np.arange(1, clients + 1) * (2 * FINE)).tolist()
    table[:, CELL] %= 2 * FINE
    return [table[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def added(tables: Sequence[Floats]) -> Floats:
    """The table of all points from tables of some each."""
    whole = np.concatenate([NOTHING, *tables])
    whole = whole[np.argsort(whole[:, CELL], kind="stable")]
    return _summed(whole[:, CELL], whole[:, COUNT:].T)


def judged(table: Floats) -> Metrics:
    """Brier score, log loss, ECE and Kuiper statistic after the calibrator, where there is one, and PHI of both losses,
    exactly 0.0 where there is none; None of no points."""
    return {name: values[0] for name, values in judged_each([table]).items()}


def judged_each(tables: Sequence[Floats]) -> dict[str, list[float | None]]:
    """`judged` of K tables at once."""
    each: list[list[float | None]] = [[None] * len(tables) for _ in NAMES]
    ends = np.cumsum([len(table) for table in tables])
    whole = np.concatenate([NOTHING, *tables])
    # Sides of one length are summed in one array, and each in the order of its own rows.
    lengths = np.array([[len(table), len(sides(table)[1])] for table in tables], np.int64).reshape(-1, 2)
    for both, after in np.unique(lengths[lengths[:, 0] > 0], axis=0).tolist():
        mine = np.flatnonzero((lengths == (both, after)).all(axis=1))
        last = whole[(ends[mine] - after)[:, None] + np.arange(after)]
        first = last if both == after else whole[(ends[mine] - both)[:, None] + np.arange(both - after)]
        for values, column in zip(each, _judged(first, last).T.tolist(), strict=True):
            for k, value in zip(mine.tolist(), column, strict=True):
                values[k] = value
    return dict(zip(NAMES, each, strict=True))


def _judged(before: Floats, after: Floats) -> Floats:
    """(g, 6) the values of NAMES from the two sides of g tables, (g, m, 6)."""
    first, last = before.sum(axis=1), after.sum(axis=1)
    gaps = after[..., HITS] - after[..., CONFIDENCE]
    path = gaps.cumsum(axis=1)
    bins = _bins(after) + np.arange(len(after))[:, None] * BINS
    off = np.bincount(bins.ravel(), gaps.ravel(), len(after) * BINS).reshape(-1, BINS)
    n = first[:, COUNT]
    return np.stack([
        last[:, BRIER] / n, last[:, LOG] / n, np.abs(off).sum(axis=1) / n,
        (np.maximum(path.max(axis=1), 0.0) - np.minimum(path.min(axis=1), 0.0)) / n,
        (first[:, BRIER] - last[:, BRIER]) / n, (first[:, LOG] - last[:, LOG]) / n,
    ], axis=1)  # fmt: skip


def curves(table: Floats) -> dict[str, dict[str, list[float]]]:
    """The reliability diagrams "before" and "after": in each of the 15 bins, from confidence 0 up, the count of points
    and the sums of their confidences and hits."""
    sums = {"count": COUNT, "confidence": CONFIDENCE, "hits": HITS}
    return {
        name: {what: np.bincount(_bins(side), side[:, at], BINS).tolist() for what, at in sums.items()}
        for name, side in zip(("before", "after"), sides(table), strict=True)
    }


def sides(table: Floats) -> tuple[Floats, Floats]:
    """The rows before and those after the calibrator; twice the same where there is none."""
    first = int(np.searchsorted(table[:, CELL], FINE))
    return table[:first], table[first:] if is_calibrated(table) else table


def is_calibrated(table: Floats) -> bool:
    """Whether its points have been through a calibrator."""
    return bool(len(table) and table[-1, CELL] >= FINE)


def checked_table(table: Floats, num_test: int) -> None:
    """Refuse what cannot be the table of `num_test` points.

    Raises:
        ValueError: a wrong shape, cells out of order, numbers below 0 or not finite, other counts of points.
    """
    if table.ndim != 2 or table.shape[1] != NOTHING.shape[1] or table.dtype != np.float64:
        raise ValueError(f"reliability of shape {table.shape}, type {table.dtype}: must be numbers (m, 6)")
    if not len(table):
        return
    cells = table[:, CELL]
    if not ((table >= 0) & (table < np.inf)).all() or cells[-1] >= 2 * FINE or (cells[1:] <= cells[:-1]).any():
        rule = f"must be numbers of at least 0, none nan or infinite, in ascending cells below {2 * FINE}"
        raise ValueError(f"reliability: {rule}")
    for side in sides(table):
        if side[:, COUNT].sum() != num_test:
            raise ValueError(f"reliability of {side[:, COUNT].sum():g} points: must be of num_test = {num_test}")


def _summed(cells: NDArray[Any], sums: Floats) -> Floats:
    """A table from the cells (n,), ascending, and what is summed up in each, (5, n)."""
    if not len(cells):
        return NOTHING.copy()
    starts = np.flatnonzero(np.concatenate([[True], cells[1:] != cells[:-1]]))
    table = np.empty((len(starts), 6))
    table[:, CELL] = cells[starts]
    table[:, COUNT:] = np.add.reduceat(sums, starts, axis=1).T
    return table


def _bins(side: Floats) -> NDArray[np.intp]:
    """Which of ECE's bins each cell lies in."""
    return (side[..., CELL].astype(np.intp) % FINE) // (FINE // BINS)
