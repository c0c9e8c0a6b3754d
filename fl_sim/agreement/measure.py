"""What a run tells of how far its clients agree: `result.json["agreement"]`, from what all said of the same rows.

The mathematics is in pairwise.py (matrices over pairs of clients) and ensembles.py (the learning curve).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_sim.agreement import ensembles, pairwise
from fl_sim.agreement.ensembles import Halves
from fl_sim.agreement.pairwise import Bits, Floats, Gram, pair_mean
from fl_sim.randomness import stream

Metrics = dict[str, Any]

MATRIX = "disagreement.csv"  # of a run's folder
MOST_IN_MATRIX = 500  # clients; of more the file would be of tens of megabytes
PAIRS_CHECKED = 200  # on which the identity is computed a second time, from the rows


@dataclass(frozen=True, eq=False)
class CommonAnswers:
    """What K clients say of the same n rows."""

    clients: tuple[int, ...]  # (K,) partitions, ascending
    tiers: tuple[str, ...]  # (K,)
    order: tuple[str, ...]  # of all tiers, as the scenario has them
    behaves: tuple[bool, ...]  # (K,)
    predictions: NDArray[np.float32]  # (K, n, C) probabilities; in regression (K, n, 1) means, in the target's std
    targets: Floats  # (n, C) one-hot; in regression (n, 1), in the same unit
    classes: tuple[str, ...] | None = None  # None in regression
    sets: Bits | None = None  # (K, n, C); None where there is no calibration
    intervals: Floats | None = None  # (K, n, 2); the same in regression


@dataclass(frozen=True, eq=False)
class AgreementSummary:
    """What they come to.

    Attributes:
        summary: JSON values.
        by_client: partition -> its mean disagreement with the others.
        files: name -> content, of the run's folder.
    """

    summary: Metrics
    by_client: dict[int, float]
    files: dict[str, bytes]


def measure(answers: CommonAnswers, seed: int, draws: int, within: float) -> AgreementSummary:
    """Everything of the section `[agreement]`, with one thread: how many there are would decide the last bits, and on a
    busy machine several wait for each other for 20 times as long as one takes.

    Raises:
        ValueError: fewer than two clients have answered.
    """
    from threadpoolctl import threadpool_limits

    if len(answers.predictions) < 2:
        raise ValueError(f"{len(answers.predictions)} client has answered on the common rows: disagreement takes two")
    with threadpool_limits(limits=1, user_api="blas"):
        return _measured(answers, seed, draws, within)


def _measured(answers: CommonAnswers, seed: int, draws: int, within: float) -> AgreementSummary:
    many, rows, _ = answers.predictions.shape
    halves = _halves(answers, seed)
    gram = halves.both
    first = pairwise.same_models(answers.predictions)
    matrices = _matrices(answers, gram, first)
    between = matrices["disagreement"]
    rng = stream(seed, "agreement", "pairs")
    pairs = [tuple(rng.choice(many, 2, replace=False).tolist()) for _ in range(PAIRS_CHECKED)]
    summary: Metrics = {
        "rows": rows,
        "clients": many,
        **_means(matrices),
        "risk": float(gram.risks.mean()),
        "risk_of_the_mean": ensembles.risk(gram, range(many), np.full(many, 1 / many)),  # which no client has
        "identity_residual": pairwise.identity_residual(answers.predictions, answers.targets, between, pairs),
        "identity_pairs": len(pairs),
        "tiers": {
            name: _means(matrices, mine, other)
            for name, mine, other in pairwise.groups_of(answers.tiers, answers.order)
        },
        **_honest(answers, matrices),
        "by_class": _by_class(answers),
        **_curve(answers, halves, first, seed, draws, within),
    }
    means = between.sum(axis=1) / (many - 1)
    files = {MATRIX: _csv(answers.clients, between)} if many <= MOST_IN_MATRIX else {}
    return AgreementSummary(summary, dict(zip(answers.clients, means.tolist(), strict=True)), files)


def _matrices(answers: CommonAnswers, gram: Gram, first: NDArray[np.int64]) -> dict[str, Floats]:
    """Name -> (K, K), of what is measured on pairs."""
    between = pairwise.disagreement(gram)
    between[first[:, None] == first] = 0.0  # the same model twice differs by nothing, and not by rounding
    matrices = {"disagreement": between}
    if answers.classes is not None:
        labels = answers.predictions.argmax(axis=2).astype(np.int64)
        matrices["label_disagreement"] = pairwise.label_disagreement(labels, len(answers.classes))
    if answers.sets is not None:
        matrices["jaccard"], matrices["contradiction"] = pairwise.set_overlap(answers.sets)
    elif answers.intervals is not None:
        matrices["jaccard"], matrices["contradiction"] = pairwise.interval_overlap(answers.intervals)
    return matrices


def _means(
    matrices: dict[str, Floats], group: Sequence[int] | None = None, other: Sequence[int] | None = None
) -> Metrics:
    return {name: pair_mean(matrix, group, other) for name, matrix in matrices.items()}


def _honest(answers: CommonAnswers, matrices: dict[str, Floats]) -> Metrics:
    """The clients that behave, as a group of their own where there are others."""
    honest = [k for k, behaves in enumerate(answers.behaves) if behaves]
    return {} if len(honest) == len(answers.behaves) else {"honest": _means(matrices, honest)}


def _by_class(answers: CommonAnswers) -> Metrics:
    """Class of the row -> means over all pairs of clients; nothing in regression."""
    if answers.classes is None:
        return {}
    of_rows = pairwise.by_row(answers.predictions)
    of_labels = pairwise.labels_by_row(answers.predictions.argmax(axis=2).astype(np.int64), len(answers.classes))
    true = answers.targets.argmax(axis=1)
    by_class = {}
    for index, name in enumerate(answers.classes):
        here = true == index
        by_class[name] = {
            "rows": int(here.sum()),
            "disagreement": float(of_rows[here].mean()) if here.any() else None,
            "label_disagreement": float(of_labels[here].mean()) if here.any() else None,
        }
    return by_class


# --------------------------------------------------------------------------------------------------- the learning curve


def _halves(answers: CommonAnswers, seed: int) -> Halves:
    """Two halves of the rows, drawn at random; of one row alone both halves are that row."""
    rows = answers.predictions.shape[1]
    order = stream(seed, "agreement", "halves").permutation(rows)
    parts = np.sort(order[: (rows + 1) // 2]), np.sort(order[rows // 2 :] if rows == 1 else order[(rows + 1) // 2 :])
    return Halves(*(pairwise.gram(answers.predictions[:, part], answers.targets[part]) for part in parts))


def _curve(
    answers: CommonAnswers, halves: Halves, first: NDArray[np.int64], seed: int, draws: int, within: float
) -> Metrics:
    """The curve, from which k on doubling buys nothing, and whether the bound's conditions hold."""
    points = ensembles.curve(halves, draws, stream(seed, "agreement", "stacks"))
    conditions = _conditions(answers, first, 2 * points[-1].k)
    applies = all(each["holds"] for each in conditions)
    return {
        "curve": [_point(point, applies) for point in points],
        "enough": ensembles.enough(points, within),
        "within": within,
        "draws": draws,
        "distinct_models": len(set(first.tolist())),
        "bound_applies": applies,
        "conditions": conditions,
    }


def _point(point: ensembles.Doubling, applies: bool) -> Metrics:
    """A point as JSON; without its bound where that is not promised."""
    row = asdict(point)
    return row if applies else row | dict.fromkeys(("bound", "bound_se", "holds"))


def _conditions(answers: CommonAnswers, first: NDArray[np.int64], most: int) -> list[Metrics]:
    """What theorem 3.1 asks for, and whether it is so; each {"holds", "said"}."""
    honest = np.array(answers.behaves, np.bool_)
    models, clients = len(set(first[honest].tolist())), int(honest.sum())
    _, rows, width = answers.predictions.shape
    equations = rows * (width if answers.classes is None else width - 1)  # probabilities add up to 1
    independent = models == clients > 1
    shared = f"{clients:,} {'client that behaves has' if clients == 1 else 'clients that behave have'} {models:,} "
    shared += f"different {'model' if models == 1 else 'models'}"
    return [
        {
            "holds": independent,
            "said": f"independent base models of one law: {shared}"
            + (", and groups are drawn at random" if independent else ", so they are no independent draws"),
        },
        {
            "holds": equations > most,
            "said": f"least squares over the population, for which the {rows:,} rows stand: {equations:,} free "
            f"equations for at most {most:,} weights",
        },
    ]


# --------------------------------------------------------------------------------------------------------------- a file


def _csv(clients: Sequence[int], matrix: Floats) -> bytes:
    """The matrix with the clients' ids on top and before each row."""
    lines = [",".join(["client", *map(str, clients)])]
    lines += [
        ",".join([str(k), *(f"{value:.6g}" for value in row)]) for k, row in zip(clients, matrix.tolist(), strict=True)
    ]
    return ("\n".join(lines) + "\n").encode()


def read_matrix(content: bytes) -> tuple[list[int], Floats]:
    """The clients' ids (K,) and the matrix (K, K) of a `disagreement.csv`.

    Raises:
        ValueError: it is not one.
    """
    head, *lines = content.decode().splitlines()
    clients = [int(word) for word in head.split(",")[1:]]
    matrix = np.array([[float(word) for word in line.split(",")[1:]] for line in lines])
    if matrix.shape != (len(clients), len(clients)):
        raise ValueError(f"{MATRIX} of {len(clients)} clients has {matrix.shape} numbers")
    return clients, matrix
