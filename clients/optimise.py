"""A client's share in the methods that look for a quantile step by step. It keeps nothing from step to step: what it
is asked holds all that it needs, but for its own scores, which a process sorts out once for each client."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from clients.context import ClientContext, Keyed
from clients.handlers import of_client
from clients.scorer import Scorer
from fl_sim.conformal.pinball import Terms, agree, descended
from fl_sim.messages.summaries import AgreeRequest, DescendRequest, StepReport
from fl_sim.randomness import stream

KEPT = 4096  # clients whose scores a process keeps at hand; together they are no more than the runs' calibration sets

Floats = NDArray[np.float64]


def descend(request: DescendRequest, client_context: ClientContext) -> StepReport:
    """How far some noisy steps down the smoothed pinball loss of the client's own scores lead (DP-FedCP)."""
    client = _sorted(Keyed.of(client_context), request.score)
    noise = np.zeros(request.steps)
    if request.noise:
        noise = stream(client.seed, "descent", client.id, request.turn).normal(0.0, request.noise, request.steps)
    end = descended(
        client.scores, _weights(client, request.weights), request.start, alpha=request.alpha,
        smoothing=request.smoothing, step_size=request.step_size, noise=noise,
    )  # fmt: skip
    return StepReport(client.id, end - request.start)


def agree_on(request: AgreeRequest, client_context: ClientContext) -> StepReport:
    """The client's next x: where its own smoothed loss and the pull of its neighbours balance (Q-DCP)."""
    client = _sorted(Keyed.of(client_context), request.score)
    neighbours = request.penalty * (request.degree * request.value + request.neighbours)
    terms = Terms(
        rank=len(client.scores) * request.level,
        sharpness=request.smoothing,
        slope=request.regularisation + 2 * request.penalty * request.degree,
        pull=request.regularisation * request.anchor - request.dual + neighbours,
    )
    return StepReport(client.id, agree(client.scores, terms, request.value))


@dataclass(frozen=True, eq=False)
class _SortedScores:
    """A client's calibration scores (n,) in rising order, and their labels (n,)."""

    id: int
    seed: int
    scores: Floats
    labels: NDArray[np.int64]


@lru_cache(maxsize=KEPT)
def _sorted(client: Keyed, score: str) -> _SortedScores:
    scorer = Scorer.of(client.client_context, score)
    scores = scorer.calibration()
    order = np.argsort(scores, kind="stable")
    seed = client.client_context.population.seed
    return _SortedScores(scorer.id, seed, scores[order], scorer.labels()[order])


@lru_cache(maxsize=KEPT)
def _weights(client: _SortedScores, text: str) -> Floats:
    """The weight of each score, (n,), by its label."""
    weights = np.array(json.loads(text))
    return weights[client.labels] if len(weights) > 1 else np.full(len(client.scores), weights[0])


HANDLERS = (
    of_client(DescendRequest, descend, number="value", made_up=lambda request, client, points: StepReport(client, 0.0)),
    of_client(AgreeRequest, agree_on, number="value", made_up=lambda request, client, points: StepReport(client, 0.0)),
)
