"""How far models of one size disagree, beside what a size twice as large buys in accuracy: trees by depth, boosting by
the number of its stages.

"Model Agreement via Anchoring", Eaton, Goel, Hussing, Kearns, Roth, Sengupta, Sorrell, 2026,
https://arxiv.org/abs/2602.23360, corollary 5.4 (trees, n the depth) and theorems 4.4 and 4.5 (boosting, n the stages)

    R_n                     the mean risk of clients' models of size n, `DoublingOfSize.risk`
    4 (R_n - R_2n)          `DoublingOfSize.four_gains`
    D_n                     the mean disagreement of two clients' models of size n, `DoublingOfSize.disagreement`
    D <= 4 (R(F_n) - R(F_2n) + eps)     lemma 2.4: R(F_n) the least risk of any model of size n, and both models within
                                        eps of it; `excess` = D_n / 4 - (R_n - R_2n) stands where eps would

**No bound.** The lemma is about models that are within eps of the best of their size on the population. A tree that is
grown greedily is not, nor is one of few rows: R_n is then not R(F_n), and D_n may be more than 4 (R_n - R_2n). What
D_n / 4 exceeds R_n - R_2n by is no eps of the theorem either, only what the measured risks leave unexplained: what the
clients' samples and greedy growing do. So both are set side by side, and nothing is drawn as a bound.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fl_sim.agreement.ensembles import standard_error

Floats = NDArray[np.float64]

NO_BOUND = (
    "4 (R_n - R_2n) is no bound here: the theorem is about models that are within eps of the best of their size on the "
    "population, and neither greedy trees nor models of few rows are."
)
STANDS_FOR = (
    "D_n / 4 - (R_n - R_2n) stands where eps would in D <= 4 (R_n - R_2n + eps): what the measured risks leave "
    "unexplained, ± its standard error over the seeds."
)
HEADERS = ("R_n", "4 (R_n - R_2n)", "D_n", "D_n / 4 - (R_n - R_2n)")
_TREE = re.compile(r"tree-(\d+)")


@dataclass(frozen=True)
class Measured:
    """What one run found of its clients' models, all of one size."""

    size: int  # n: depth, or stages
    seed: int
    risk: float  # mean over clients, in squared units of the target, or the Brier score
    disagreement: float  # mean over pairs of clients, in the same unit


@dataclass(frozen=True)
class DoublingOfSize:
    """Means over the seeds of one size, with their standard errors; of the larger size where it is measured too, by the
    same seeds."""

    size: int
    seeds: int
    risk: float
    risk_se: float
    disagreement: float
    disagreement_se: float
    four_gains: float | None  # 4 (R_n - R_2n)
    four_gains_se: float
    excess: float | None  # D_n / 4 - (R_n - R_2n)
    excess_se: float


def size_of(architecture: str, epochs: int) -> tuple[str, int] | None:
    """What n is of a model, in words, and how large; None of what is neither a tree nor a boosting.

    >>> size_of("tree-4", 1), size_of("boosting", 16), size_of("mlp", 16)
    (('depth', 4), ('stages', 16), None)
    """
    tree = _TREE.fullmatch(architecture)
    if tree:
        return "depth", int(tree[1])
    return ("stages", epochs) if architecture == "boosting" and epochs else None


def doublings(measured: Iterable[Measured]) -> list[DoublingOfSize]:
    """A row for each size, ascending.

    Raises:
        ValueError: two runs of one size and one seed, which differ in something else.
    """
    runs: dict[int, dict[int, Measured]] = {}
    for one in measured:
        if runs.setdefault(one.size, {}).setdefault(one.seed, one) is not one:
            raise ValueError(f"size {one.size}, seed {one.seed}: two runs, and one is needed")
    return [_doubling(size, runs[size], runs.get(2 * size, {})) for size in sorted(runs)]


def _doubling(size: int, here: dict[int, Measured], twice: dict[int, Measured]) -> DoublingOfSize:
    risks, apart = (np.array([getattr(one, name) for one in here.values()]) for name in ("risk", "disagreement"))
    both = [(one, twice[seed]) for seed, one in here.items() if seed in twice]
    gains = np.array([small.risk - large.risk for small, large in both])
    left = np.array([small.disagreement for small, _ in both]) / 4 - gains

    def mean(values: Floats) -> tuple[float, float]:
        return float(values.mean()), standard_error(values)

    none = (None, 0.0)
    return DoublingOfSize(
        size, len(here), *mean(risks), *mean(apart), *(mean(4 * gains) if both else none),
        *(mean(left) if both else none),
    )  # fmt: skip


def enough(rows: Sequence[DoublingOfSize], within: float) -> int | None:
    """The least size from which on, up to the largest measured, doubling lowers the risk by no more than `within`, or
    than two standard errors of that; None where the last doubling still does."""
    smallest = None
    for row in reversed([row for row in rows if row.four_gains is not None]):
        if (row.four_gains or 0.0) / 4 > max(within, row.four_gains_se / 2):
            break
        smallest = row.size
    return smallest


def cells(row: DoublingOfSize) -> Iterator[tuple[float, float] | None]:
    """The means and standard errors of a row, in the order of HEADERS; None where twice the size is not measured."""
    yield row.risk, row.risk_se
    yield None if row.four_gains is None else (row.four_gains, row.four_gains_se)
    yield row.disagreement, row.disagreement_se
    yield None if row.excess is None else (row.excess, row.excess_se)
