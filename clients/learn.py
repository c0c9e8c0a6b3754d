"""How a client comes by its model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict

from clients.behaviour import altered_targets, own_recipe
from clients.context import ClientContext, adopted, cohort_fitted, trained_on
from clients.handlers import of_tier
from fl_sim.messages.learning import AdoptRequest, FitReport, FitRequest
from fl_sim.messages.wire import pack, unpack, values_of
from fl_sim.population.model_cache import trained

if TYPE_CHECKING:
    import torch


def fit(request: FitRequest, client_context: ClientContext) -> FitReport:
    """Train alone: on the shared training set, or on the client's own rows."""
    client, people = client_context.client, client_context.population
    rows = client.train if request.own_rows else people.data.rows("train")
    if not request.per_client:
        client_context.keep_model(
            trained(client_context.store, people.data, people.recipe(client.tier, "shared"), rows), shared=True
        )
    elif len(client_context.cohort) > 1:
        client_context.keep_member(cohort_fitted(people, client_context.cohort, request.own_rows))
    else:
        recipe, targets = (
            own_recipe(client, people, f"client {client.id}"),
            altered_targets(client, people, "train", rows),
        )
        client_context.keep_model(trained(client_context.store, people.data, recipe, rows, targets), shared=False)
    client_context.predict()
    return FitReport(client.id, len(rows))


def train(message: Message, context: Context) -> Message:
    """One round of federated averaging: from the server's weights, on the client's own rows."""
    config: Any = message.content["config"]
    client_context = ClientContext.of(context, config["population"])
    client, purpose = client_context.client, f"client {client_context.client.id}, round {config['server-round']}"
    recipe = own_recipe(client, client_context.population, purpose)
    weights = trained_on(client_context, recipe, _state(message))
    metrics = MetricRecord({"num-examples": len(client.train), "partition": client.id})
    return Message(RecordDict({"arrays": ArrayRecord(weights), "metrics": metrics}), reply_to=message)


def adopt(message: Message, context: Context) -> Message:
    """Take the federation's final weights as this client's model."""
    request = unpack(AdoptRequest, RecordDict({"words": message.content["words"]}))
    client_context = ClientContext.of(context, request.population)
    client_context.keep_model(adopted(client_context, _state(message)), shared=True)
    report = FitReport(client_context.client.id, len(client_context.client.train))
    return Message(pack(report), reply_to=message)


def _state(message: Message) -> dict[str, torch.Tensor]:
    """The weights in a message, as torch's state dict."""
    import torch

    arrays: Any = message.content["arrays"]
    return {name: torch.from_numpy(values_of(array).copy()) for name, array in arrays.items()}


HANDLERS = (of_tier(FitRequest, fit),)
