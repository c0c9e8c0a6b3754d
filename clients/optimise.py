"""A client's share in the methods that look for a quantile step by step. It keeps nothing from step to step: what it
is asked holds all that it needs, but for its own scores, which a process sorts out once for each client."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from numpy.typing import NDArray

from clients.calibrate import Scorer
from clients.predictions import ClientContext
from fl_sim.conformal.pinball import Terms, agree, descended
from fl_sim.messages.calibration import AgreeRequest, DescendRequest, StepReport
from fl_sim.messages.wire import pack, unpack
from fl_sim.randomness import stream
from fl_sim.store.artifacts import default_root

KEPT = 4096  # clients whose scores a process keeps at hand; together they are no more than the runs' calibration sets

Floats = NDArray[np.float64]


def descend(message: Message, context: Context) -> RecordDict:
    """How far some noisy steps down the smoothed pinball loss of the client's own scores lead (DP-FedCP)."""
    request = unpack(DescendRequest, message.content)
    held = _held(_Place.of(context, request.population, request.score))
    noise = np.zeros(request.steps)
    if request.noise:
        noise = stream(held.seed, "descent", held.client, request.turn).normal(0.0, request.noise, request.steps)
    end = descended(
        held.scores, _weights(held, request.weights), request.start, alpha=request.alpha, smoothing=request.smoothing,
        step_size=request.step_size, noise=noise,
    )  # fmt: skip
    return pack(StepReport(held.client, end - request.start))


def agree_on(message: Message, context: Context) -> RecordDict:
    """The client's next x: where its own smoothed loss and the pull of its neighbours balance (Q-DCP)."""
    request = unpack(AgreeRequest, message.content)
    held = _held(_Place.of(context, request.population, request.score))
    neighbours = request.penalty * (request.degree * request.value + request.neighbours)
    terms = Terms(
        rank=len(held.scores) * request.level,
        sharpness=request.smoothing,
        slope=request.regularisation + 2 * request.penalty * request.degree,
        pull=request.regularisation * request.anchor - request.dual + neighbours,
    )
    return pack(StepReport(held.client, agree(held.scores, terms, request.value)))


@dataclass(frozen=True)
class _Place:
    """All that decides a client's scores; the context only says how to come by them."""

    root: str
    population: str
    client: int
    score: str
    model: str
    context: Context = field(compare=False, repr=False)

    @classmethod
    def of(cls, context: Context, population: str, score: str) -> _Place:
        kept = context.state.get("model")
        model = str(kept["key"]) if isinstance(kept, ConfigRecord) else ""
        return cls(str(default_root()), population, int(context.node_config["partition-id"]), score, model, context)


@dataclass(frozen=True, eq=False)
class _Held:
    """A client's calibration scores (n,) in rising order, and their labels (n,)."""

    client: int
    seed: int
    scores: Floats
    labels: NDArray[np.int64]


@lru_cache(maxsize=KEPT)
def _held(place: _Place) -> _Held:
    client_context = ClientContext.of(place.context, place.population)
    scorer = Scorer.of(client_context, place.score)
    scores = scorer.calibration()
    order = np.argsort(scores, kind="stable")
    return _Held(client_context.client.id, client_context.population.seed, scores[order], scorer.labels()[order])


@lru_cache(maxsize=KEPT)
def _weights(held: _Held, told: str) -> Floats:
    """The weight of each score, (n,), by its label."""
    weights = np.array(json.loads(told))
    return weights[held.labels] if len(weights) > 1 else np.full(len(held.scores), weights[0])
