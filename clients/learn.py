"""How a client comes by its model."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict

from clients.behaviour import own_recipe, told_targets
from clients.predictions import ClientContext, adopted, cohort_fitted, fitted, trained_on
from fl_sim.messages.learning import AdoptRequest, FitReport, FitRequest
from fl_sim.messages.wire import pack, unpack, values_of


def fit(message: Message, context: Context) -> RecordDict:
    """Train alone: on the shared training set, or on the client's own rows."""
    request = unpack(FitRequest, message.content)
    client_context = ClientContext.of(context, request.population)
    client, data = client_context.client, client_context.population.data
    rows = client.train if request.own_rows else data.rows("train")
    if not request.per_client:
        client_context.keep_model(
            fitted(client_context, client_context.population.recipe(client.tier, "shared"), rows), shared=True
        )
    elif len(client_context.cohort) > 1:
        client_context.keep_member(cohort_fitted(client_context.population, client_context.cohort, request.own_rows))
    else:
        recipe = own_recipe(client, client_context.population, f"client {client.id}")
        targets = told_targets(client, client_context.population, "train", rows)
        client_context.keep_model(fitted(client_context, recipe, rows, targets), shared=False)
    for split in ("calibration", "test"):
        client_context.outputs(split)  # now, while this client has the model warm and others have work of their own
    return pack(FitReport(client.id, len(rows)))


def train(message: Message, context: Context) -> RecordDict:
    """One round of federated averaging: from the server's weights, on the client's own rows."""
    config: Any = message.content["config"]
    client_context = ClientContext.of(context, config["population"])
    recipe = own_recipe(
        client_context.client,
        client_context.population,
        f"client {client_context.client.id}, round {config['server-round']}",
    )
    weights = trained_on(client_context, recipe, _state(message))
    metrics = MetricRecord({"num-examples": len(client_context.client.train), "partition": client_context.client.id})
    return RecordDict({"arrays": ArrayRecord(weights), "metrics": metrics})


def adopt(message: Message, context: Context) -> RecordDict:
    """Take the federation's final weights as this client's model."""
    request = unpack(AdoptRequest, RecordDict({"words": message.content["words"]}))
    client_context = ClientContext.of(context, request.population)
    client_context.keep_model(adopted(client_context, _state(message)), shared=True)
    return pack(FitReport(client_context.client.id, int(np.size(client_context.client.train))))


def _state(message: Message) -> dict[str, torch.Tensor]:
    """The weights in a message, as torch's state dict."""
    arrays: Any = message.content["arrays"]
    return {name: torch.from_numpy(values_of(array).copy()) for name, array in arrays.items()}
