"""What a client makes of what it was handed: a task it learns from its own copies of the reference images."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.behaviour import altered, own_recipe
from clients.context import ClientContext
from clients.handlers import of_tier
from fl_sim.data.source import versions
from fl_sim.errors import FlSimError
from fl_sim.messages.learning import FitReport, ImagesRequest, PayloadRequest, ProbeRequest, WeightsRequest
from fl_sim.models.model_key import key_parts
from fl_sim.models.recipe import Recipe
from fl_sim.plada.codec import MOST_REFERENCES
from fl_sim.plada.images import unpack_images
from fl_sim.plada.payload import Payload
from fl_sim.plada.probe import unpack_probe
from fl_sim.plada.sections import soft_targets
from fl_sim.plada.weights import unpack_weights
from fl_sim.population.clients import Client, Population
from fl_sim.population.model_cache import Cohort, TransferSet, cohort_on_transfer, distilled, gathered, shared_backbone
from fl_sim.store.artifacts import Artifact, Store, digest

MOST_IMAGES = 10_000_000  # that a client takes in a payload
MOST_BYTES = 1 << 34  # of them
MOST_WEIGHTS = 1 << 32  # bytes of a network that a client takes


def payload(request: PayloadRequest, client_context: ClientContext) -> FitReport:
    """Train the client's own architecture on the reference images that a payload labels, and on nothing else."""
    return _learn(client_context, decoded(client_context, request.payload.tobytes()), request.per_client)


def images(request: ImagesRequest, client_context: ClientContext) -> FitReport:
    """Train the client's own architecture on the images of a payload."""
    file, shape = request.payload.tobytes(), client_context.population.data.shape

    def make() -> Artifact:
        raw_images, labels = unpack_images(file, most_images=MOST_IMAGES, most_bytes=MOST_BYTES)
        if raw_images.shape[1:] != shape:
            raise FlSimError(f"the payload has images of shape {raw_images.shape[1:]}, and this client's task {shape}")
        return Artifact({"images": raw_images, "labels": labels})

    key = digest(payload=hashlib.sha256(file).hexdigest(), shape=list(shape), decoder=versions("Pillow"))
    client_context.store.ensure("transfer", key, make)
    return _learn(client_context, _opened(client_context.store, key), request.per_client)


def weights(request: WeightsRequest, client_context: ClientContext) -> FitReport:
    """Take the network of a payload as the client's model."""
    recipe, file = json.loads(request.recipe), request.payload.tobytes()
    key = digest(recipe=key_parts(Recipe(**recipe)), payload=hashlib.sha256(file).hexdigest())

    def make() -> Artifact:
        import torch

        state = unpack_weights(file, most_bytes=MOST_WEIGHTS)
        return Artifact(meta={"recipe": recipe}, tensors={name: torch.from_numpy(part) for name, part in state.items()})

    client_context.store.ensure("model", key, make)
    return _adopt(client_context, key)


def probe(request: ProbeRequest, client_context: ClientContext) -> FitReport:
    """Put the linear layer of a payload on the backbone that the client's own reference set gives."""
    file = request.payload.tobytes()
    backbone = shared_backbone(client_context.store, client_context.population.reference, request.centroids)
    key = digest(backbone=backbone, payload=hashlib.sha256(file).hexdigest())

    def make() -> Artifact:
        weights = unpack_probe(file, most_bytes=MOST_WEIGHTS)
        return Artifact({"weights": weights.weights, "bias": weights.bias}, {"backbone": backbone})

    client_context.store.ensure("model", key, make)
    return _adopt(client_context, key)


def decoded(client_context: ClientContext, file: bytes) -> TransferSet:
    """A payload with the client's own copies of the images; checked and made once on a machine, memory-mapped by all
    clients there that hold the same reference set and know the same classes.

    Raises:
        FlSimError: not a payload, or a damaged one; one for another reference set; one that names classes which the
            client does not know.
    """
    people = client_context.population
    key_parts = {"payload": hashlib.sha256(file).hexdigest(), "classes": list(people.data.classes or ())}
    key = digest(reference=people.reference.key, **key_parts)
    client_context.store.ensure("transfer", key, lambda: _artifact(client_context, _checked(client_context, file)))
    return _opened(client_context.store, key)


@lru_cache(maxsize=8)  # once a process, not once a client
def _opened(store: Store, key: str) -> TransferSet:
    arrays = store.open("transfer", key).arrays
    return TransferSet(key, arrays["images"], arrays["labels"], arrays.get("soft"), arrays.get("levels"))


def _checked(client_context: ClientContext, file: bytes) -> Payload:
    reference, classes = client_context.population.reference, client_context.population.data.classes or ()
    payload = Payload.from_bytes(file, most_references=MOST_REFERENCES, most_kept=len(reference))
    payload.for_reference(reference.digest)
    strange = [name for name in payload.class_names if name not in classes]
    if strange:
        raise FlSimError(
            f"the payload labels images as {strange[0]!r}, which is none of this client's classes: {', '.join(classes)}"
        )
    return payload


def _artifact(client_context: ClientContext, payload: Payload) -> Artifact:
    reference, classes = client_context.population.reference, client_context.population.data.classes or ()
    indices, labels = payload.unpack(reference.groups)
    arrays: dict[str, NDArray[Any]] = {
        "images": gathered(client_context.store, reference, indices),
        "labels": np.array([classes.index(name) for name in payload.class_names], np.int64)[labels],
    }
    levels, confidences = payload.levels(labels), payload.confidences(labels)
    if levels is not None:
        arrays["levels"] = levels[0]
    if confidences is not None:
        arrays["soft"] = soft_targets(arrays["labels"], confidences, len(classes))
    return Artifact(arrays)


def _adopt(client_context: ClientContext, key: str) -> FitReport:
    client_context.keep_model(key, shared=True)
    client_context.predict()
    return FitReport(client_context.client.id, 0)


def _learn(client_context: ClientContext, transfer: TransferSet, per_client: bool) -> FitReport:
    """A student of the client's own, or the one of its tier."""
    client, people = client_context.client, client_context.population
    if not per_client:
        recipe = people.recipe(client.tier, "student", "image")
        client_context.keep_model(distilled(client_context.store, people.data, recipe, transfer), shared=True)
    elif len(client_context.cohort) > 1:
        client_context.keep_member(_students(people, client_context.cohort, transfer))
    else:
        recipe, labels = _own(client, people, transfer)
        client_context.keep_model(distilled(client_context.store, people.data, recipe, transfer, labels), shared=False)
    client_context.predict()
    return FitReport(client.id, len(transfer.labels))


def _own(client: Client, people: Population, transfer: TransferSet) -> tuple[Recipe, NDArray[np.int64] | None]:
    """How a client makes a student of its own, and the labels it goes by where they are not the set's."""
    recipe = own_recipe(client, people, f"student of client {client.id}", "image")
    return recipe, altered(client, people, "train", np.array(transfer.labels))


@lru_cache(maxsize=64)
def _students(people: Population, members: tuple[int, ...], transfer: TransferSet) -> Cohort:
    """The students of clients that learn together."""
    recipes, labels = zip(*(_own(people.client(k), people, transfer) for k in members), strict=True)
    return cohort_on_transfer(people.data, recipes, transfer, labels)


HANDLERS = (
    of_tier(PayloadRequest, payload),
    of_tier(ImagesRequest, images),
    of_tier(WeightsRequest, weights),
    of_tier(ProbeRequest, probe),
)
