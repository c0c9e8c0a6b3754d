"""Who holds what: a matrix of proportions (classes x clients), then one deal of the indices.

Row c of the matrix says how class c is shared among the K clients; `deal` cuts every class by its row. All
randomness comes from the generator that is handed in.

>>> rng = np.random.default_rng(0)
>>> shares = proportions("iid", num_classes=2, num_clients=3, rng=rng)
>>> [len(part) for part in deal(np.array([0, 0, 0, 0, 1, 1, 1]), shares, rng)]
[3, 2, 2]

Why not flwr-datasets 0.6.1: its IidPartitioner takes contiguous blocks without shuffling and has no seed, its
DirichletPartitioner cuts each class at truncated positions (the first of many clients comes out half an item
a class too small, the last as much too large), repeats the draw until every client has ten points (and gives
up after ten times), and it brings 215 MB of packages for one matrix and one cut.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fl_sim.errors import ScenarioError


def proportions(
    kind: str,
    num_classes: int,
    num_clients: int,
    rng: np.random.Generator,
    *,
    concentration: float | None = None,
    classes_per_client: int | None = None,
) -> np.ndarray:
    """How each class is shared among the clients: float64 (num_classes, num_clients), every row sums to 1.

    "iid": the same share everywhere. "dirichlet": each row is its own draw from Dir(concentration), so a
    smaller `concentration` is more unequal. "pathological": each client holds exactly `classes_per_client`
    classes, chosen so that the numbers of holders differ by one at most; a class is shared evenly among its
    holders. "quantity-skew": one draw from Dir(concentration) over clients for all classes, so that clients
    differ in size alone.

    Raises ScenarioError for a pathological partition with so few clients that a class would be held by nobody.
    """
    parameter = classes_per_client if kind == "pathological" else concentration
    return PARTITIONS[kind](num_classes, num_clients, rng, parameter)


def deal(labels: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """The clients' indices into `labels` (n,), K sorted int64 arrays; every index is in exactly one of them.

    `labels` are integers in 0..C-1 and `shares` is a matrix (C, K) of `proportions`; ValueError for others.

    A client's due of a class, share times size, is seldom whole: it gets the whole part, and the items that
    remain go one each to the clients that are owed most over the classes dealt so far. So a count differs
    from its due by less than 1, a client without a share gets nothing, a client's size stays within about 1
    of its due, and with equal shares sizes differ by 1 at most, however many classes there are. Everybody
    begins with a random credit between 0 and 1, so that no client is favoured and even a small due is met now
    and then: over many deals a count's mean is its due (measured: within 0.02 of an item for 20 clients,
    0.003 for 200).
    """
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(shares):
        raise ValueError(
            f"labels run from {labels.min()} to {labels.max()}; with {len(shares)} rows of shares they must "
            f"be in 0..{len(shares) - 1}"
        )
    num_clients = shares.shape[1]
    owed = rng.random((num_clients,))
    owner = np.empty(len(labels), np.int64)
    for label, row in enumerate(shares):
        members = rng.permutation(np.flatnonzero(labels == label))
        counts, owed = _round_fairly(row * len(members), owed)
        owner[members] = np.repeat(np.arange(num_clients), counts)
    cuts = np.bincount(owner, minlength=num_clients).cumsum()[:-1]
    return np.split(np.argsort(owner, kind="stable"), cuts)


def quantile_bins(targets: np.ndarray, num_bins: int) -> np.ndarray:
    """Labels int64 (n,) in 0..num_bins-1 by the quantiles of `targets` (n,): regression splits like classes.

    Equal targets get equal labels; with many ties a bin may be larger than others, or empty.
    """
    edges = np.quantile(targets, np.arange(1, num_bins) / num_bins) if len(targets) else np.zeros(num_bins - 1)
    return np.searchsorted(edges, targets, side="right").astype(np.int64)


def _round_fairly(due: np.ndarray, owed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whole counts (K,) that sum as `due` (K,) does, each rounded down or up, and what is owed afterwards."""
    due = due.round(9)  # 20.000000000000004 is 20: no item for a rounding error of the product
    counts = np.floor(due).astype(np.int64)
    fraction = due - counts
    owed = owed + fraction
    num_left = round(due.sum()) - counts.sum()
    waiting = np.flatnonzero(fraction)
    lucky = waiting[np.argsort(-owed[waiting], kind="stable")[:num_left]]
    counts[lucky] += 1
    owed[lucky] -= 1
    return counts, owed


def _iid(num_classes: int, num_clients: int, _rng: np.random.Generator, _parameter: float | None) -> np.ndarray:
    return np.full((num_classes, num_clients), 1 / num_clients)


def _dirichlet(num_classes: int, num_clients: int, rng: np.random.Generator, concentration: float | None) -> np.ndarray:
    """Rows of Dir(concentration), computed from logarithms of gamma variables.

    Below about 1e-2 every gamma variable of a row may underflow to 0, and 0/0 is no proportion. With
    G(a) = G(a + 1) U^(1/a), log G(a) never underflows: all goes to the largest, which is the limit.
    """
    assert concentration is not None, "the scenario has seen to it"
    a = max(float(concentration), 1e-300)  # below that, 1/a overflows and the limit is reached anyway
    shape = (num_classes, num_clients)
    logs = np.log(rng.standard_gamma(a + 1, shape)) - rng.standard_exponential(shape) / a
    weights = np.exp(logs - logs.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def _quantity_skew(
    num_classes: int, num_clients: int, rng: np.random.Generator, concentration: float | None
) -> np.ndarray:
    return np.repeat(_dirichlet(1, num_clients, rng, concentration), num_classes, axis=0)


def _pathological(
    num_classes: int, num_clients: int, rng: np.random.Generator, classes_per_client: float | None
) -> np.ndarray:
    assert classes_per_client is not None, "the scenario has seen to it"
    if num_clients * classes_per_client < num_classes:
        raise ScenarioError(
            f"clients.classes_per_client: {num_clients} clients of {classes_per_client} classes cannot hold "
            f"{num_classes} classes; at least {-(-num_classes // num_clients)} are needed, or more clients"
        )
    holds = np.zeros((num_classes, num_clients), bool)
    num_holders = np.zeros(num_classes)
    for client in range(num_clients):  # each takes the classes with fewest holders, ties at random
        taken = np.argsort(num_holders + rng.random(num_classes))[: int(classes_per_client)]
        holds[taken, client] = True
        num_holders[taken] += 1
    return holds / num_holders[:, None]


PARTITIONS: dict[str, Callable[[int, int, np.random.Generator, float | None], np.ndarray]] = {
    "iid": _iid,
    "dirichlet": _dirichlet,
    "pathological": _pathological,
    "quantity-skew": _quantity_skew,
}
