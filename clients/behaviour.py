"""How clients misbehave: the targets they work with, what their model says, and the scores they tell of.

`fl_sim/scenario/behaviours.py` holds what each kind is told; `clients/answers.py` does what concerns messages.

label-shuffle  the targets of a client's training and calibration rows
constant       the targets of its training rows, and its model's outputs on calibration and test rows
free-rider     models of its own stay untrained, so that federated averaging gets its weights back as they came, with
               the client's true number of rows

sign-flip, noise, inflate, free-rider, wrong-n
               the calibration scores of which the client sends all, a histogram, a sketch, a count or its range

Test labels are true: evaluation is the laboratory's, and so is a model that a whole tier shares, whoever happens to
train it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_sim.models.recipe import Contrast, Recipe, outputs_of
from fl_sim.population.clients import Client, Indices, Population
from fl_sim.randomness import stream

Floats = NDArray[np.float64]

CERTAIN = 1000.0  # a logit so far above 0 that the class has all the probability there is


def altered_targets(client: Client, people: Population, split: str, rows: Indices) -> NDArray[Any] | None:
    """The targets that a client gives to rows of its training or calibration; None: their true ones."""
    if client.behaviour is None or client.behaviour.kind not in ("label-shuffle", "constant"):
        return None
    return altered(client, people, split, people.data.targets[rows])


def altered(client: Client, people: Population, split: str, true: NDArray[Any]) -> NDArray[Any] | None:
    """What a client takes for the targets `true` (n,) of points of its training or calibration; None: these."""
    if client.behaviour is None:
        return None
    if client.behaviour.kind == "label-shuffle":
        return _shuffled(people, client.id, split, true)
    if client.behaviour.kind == "constant" and split == "train":
        one = people.data.target_mean if people.data.classes is None else _one_class(people, client)
        return np.full_like(true, one)
    return None


def altered_outputs(client: Client, people: Population, rows: Indices) -> NDArray[np.float32] | None:
    """What a client says that its model says of rows, (n, outputs); None: what the model does say."""
    if client.behaviour is None or client.behaviour.kind != "constant":
        return None
    width = outputs_of(people.recipe(client.tier, "constant"), people.data.num_classes)
    outputs = np.zeros((len(rows), width), np.float32)  # in regression the training mean, as models are fitted to it
    if people.data.classes is not None:
        outputs[:, _one_class(people, client)] = CERTAIN
    return outputs


def altered_scores(client: Client, people: Population, scores: Floats) -> tuple[Floats, Indices]:
    """The calibration scores (n,) that a client sends, or sends a summary of, and of which of its points each is."""
    which = np.arange(len(scores))
    behaviour: Any = client.behaviour
    if behaviour is None or behaviour.kind not in SCORES:
        return scores, which
    if behaviour.kind == "wrong-n":
        which = np.resize(which, max(0, round(behaviour.factor * len(scores))) if len(scores) else 0)
        return scores[which], which
    return SCORES[behaviour.kind](scores, behaviour, stream(people.seed, behaviour.kind, client.id, "scores")), which


SCORES: dict[str, Callable[[Floats, Any, np.random.Generator], Floats]] = {
    "sign-flip": lambda s, _, rng: -s,
    "noise": lambda s, behaviour, rng: s + behaviour.scale * np.abs(s) * rng.standard_normal(s.shape),
    "inflate": lambda s, behaviour, rng: behaviour.factor * s,
    "free-rider": lambda s, _, rng: rng.random(s.shape),
    "wrong-n": lambda s, *_: s,  # its counts are wrong, its scores true
}


def own_recipe(client: Client, people: Population, purpose: str, contrast: Contrast = "set") -> Recipe:
    """How a client makes a model of its own."""
    recipe = people.recipe(client.tier, purpose, contrast)
    lazy = client.behaviour is not None and client.behaviour.kind == "free-rider"
    return replace(recipe, epochs=0) if lazy else recipe


def _shuffled(people: Population, k: int, split: str, true: NDArray[Any]) -> NDArray[Any]:
    """Every class by the next one on a random round trip through all; in regression the targets in another order."""
    if people.data.num_classes is None:
        return stream(people.seed, "label-shuffle", k, split).permutation(true)
    trip = stream(people.seed, "label-shuffle", k).permutation(people.data.num_classes)
    instead = np.empty_like(trip)
    instead[trip] = np.roll(trip, 1)
    return instead[true]


def _one_class(people: Population, client: Client) -> int:
    return int(stream(people.seed, "constant", client.id).integers(people.num_bins))
