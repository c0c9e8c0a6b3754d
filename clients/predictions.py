"""A client's model and what it says of the client's rows, each made once and kept in the artifact store."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context
from numpy.typing import NDArray

from clients.behaviour import own_recipe, told_outputs, told_targets
from fl_sim.errors import FlSimError
from fl_sim.models import training
from fl_sim.models.model_key import key_parts
from fl_sim.models.recipe import Recipe
from fl_sim.population.clients import Client, Indices, Population, open_population
from fl_sim.population.model_cache import Cohort, cohort_on_rows, kept, kept_outputs, kept_outputs_of_all, trained
from fl_sim.randomness import one_thread
from fl_sim.store.artifacts import Artifact, Store, default_root, digest, digest_of_array, store_at

WORTH_KEEPING = 0.05  # seconds that a round's training of one client takes, from which on it is kept


@dataclass(frozen=True)
class ClientContext:
    """What a handler works with: the client, its rows, the store, and what it keeps from message to message."""

    client: Client
    population: Population
    store: Store
    context: Context

    @classmethod
    def of(cls, context: Context, population: str) -> ClientContext:
        """The client whose Flower context this is, in the population of that key.

        The key comes with the message, the store from this machine (`FL_SIM_STORE`).
        """
        store = store_at(str(default_root()))
        people = open_population(str(store.root), population)
        return cls(people.client(int(context.node_config["partition-id"])), people, store, context)

    @property
    def cohort(self) -> tuple[int, ...]:
        """The clients whose models of their own are trained together with this client's, itself among them."""
        return self.population.cohort(self.client.id)

    def keep_model(self, key: str, *, shared: bool) -> None:
        """Remember which model is this client's; `shared` says that others have it too."""
        self.context.state["model"] = ConfigRecord({"key": key, "shared": shared, "member": -1})

    def keep_member(self, cohort: Cohort) -> None:
        """Remember that this client's model is its cohort's; train them all now unless the store has them."""
        self.store.ensure("model", cohort.key, cohort.make)
        member = self.cohort.index(self.client.id)
        self.context.state["model"] = ConfigRecord({"key": cohort.key, "shared": False, "member": member})

    def rows(self, split: str) -> Indices:
        """The client's rows of a split; for "train" those its model was trained on, which may be everybody's."""
        held: Indices = getattr(self.client, split)
        return held if split != "train" or self.population.trains_locally else self.population.data.rows("train")

    def labels(self, split: str) -> Indices:
        """The class of each row of a split, as the client gives it; in regression the bin of its target."""
        people = self.population
        return self.targets(split) if people.data.classes is not None else people.bins[self.rows(split)]

    def targets(self, split: str) -> NDArray[Any]:
        """The targets of the client's "train" or "calibration" rows, as it gives them."""
        rows = self.rows(split)
        told = told_targets(self.client, self.population, split, rows)
        return np.array(self.population.data.targets[rows]) if told is None else told

    def outputs(self, split: str) -> NDArray[np.float32]:
        """The client's model on its "calibration", "test" or "train" rows, (n, outputs)."""
        kept = self._kept()
        told = told_outputs(self.client, self.population, self.rows(split))
        if told is not None:
            return told
        key, member = str(kept["key"]), int(kept["member"])  # type: ignore[arg-type]
        if member >= 0:
            return _outputs_of_all(self.store, self.population, key, self.cohort, split)[member]
        if split == "train":
            whose = self.client.id if self.population.trains_locally else None
            return _outputs(self.store, self.population, key, whose, split)
        if not kept["shared"]:
            return _outputs(self.store, self.population, key, self.client.id, split)
        # One pass over everybody's rows, and each client gathers its own.
        first, _ = self.population.data.evaluated
        return _outputs(self.store, self.population, key, None, "evaluated")[getattr(self.client, split) - first]

    def outputs_on(self, rows: Indices) -> NDArray[np.float32]:
        """The client's model on rows of the data that everybody is asked about, (n, outputs)."""
        kept, data = self._kept(), self.population.data
        told = told_outputs(self.client, self.population, rows)
        if told is not None:
            return told
        key, member = str(kept["key"]), int(kept["member"])  # type: ignore[arg-type]
        if member >= 0:
            return kept_outputs_of_all(self.store, key, data, [rows] * len(self.cohort))[member]
        return kept_outputs(self.store, key, data, rows)

    def _kept(self) -> ConfigRecord:
        """Which model is this client's; see `keep_model`."""
        kept = self.context.state.get("model")
        if not isinstance(kept, ConfigRecord):
            raise RuntimeError(
                "this client has no model yet: a learn strategy has to come before it is asked for predictions"
            )
        return kept


@lru_cache(maxsize=256)
def _outputs(store: Store, population: Population, model: str, client: int | None, split: str) -> NDArray[np.float32]:
    """What a model says of one client's rows of a split, or of all clients' rows; memory-mapped, and kept open."""
    data = population.data
    everybodys = np.arange(*data.evaluated) if split == "evaluated" else data.rows("train")
    rows = everybodys if client is None else getattr(population.client(client), split)
    return kept_outputs(store, model, data, rows)


@lru_cache(maxsize=64)
def _outputs_of_all(
    store: Store, population: Population, model: str, cohort: tuple[int, ...], split: str
) -> list[NDArray[np.float32]]:
    """What each model of a cohort says of its client's rows of a split; computed together, whoever asks first."""
    data = population.data
    everybodys = {"train": not population.trains_locally, "test": population.clients.test == "shared"}
    if everybodys.get(split, False):
        return kept_outputs_of_all(store, model, data, [data.rows(split)] * len(cohort))
    return kept_outputs_of_all(store, model, data, [getattr(population.client(k), split) for k in cohort])


@lru_cache(maxsize=64)
def cohort_fitted(population: Population, members: tuple[int, ...], own_rows: bool) -> Cohort:
    """The models of clients that train together, each on its own rows or all on the shared training set."""
    clients, everybodys = [population.client(k) for k in members], population.data.rows("train")
    rows = [client.train if own_rows else everybodys for client in clients]
    recipes = [own_recipe(client, population, f"client {client.id}") for client in clients]
    told = [told_targets(client, population, "train", mine) for client, mine in zip(clients, rows, strict=True)]
    return cohort_on_rows(population.data, recipes, rows, told)


def fitted(client_context: ClientContext, recipe: Recipe, rows: Indices, targets: NDArray[Any] | None = None) -> str:
    """The key of the model that `recipe` gives on `rows`, trained now unless the store has it; `targets` where they
    are not the true ones."""
    return trained(client_context.store, client_context.population.data, recipe, rows, targets)


def trained_on(client_context: ClientContext, recipe: Recipe, weights: dict[str, Any]) -> OrderedDict[str, Any]:
    """What training on the client's own rows makes of these weights (a torch state dict), done now unless the store has
    it: one round of one client, which the next calibration of the same federation asks for again. Kept if it took
    `WORTH_KEEPING` seconds: to write and read less costs more than to make it again."""
    data, rows, targets = client_context.population.data, client_context.client.train, client_context.targets("train")
    key = digest(
        recipe=key_parts(recipe), data=data.key, rows=digest_of_array(rows), targets=digest_of_array(targets),
        weights=_digests(weights), layout="channels last",
    )  # fmt: skip

    def make() -> Artifact:
        model = training.initial(recipe, data.shape, training.outputs_of(recipe, data.num_classes))
        with one_thread():  # a second one is woken for longer than the copy takes
            model.load_state_dict(weights)
        if isinstance(model, training.FitsItself):
            raise FlSimError(f"architecture {recipe.architecture!r} fits itself: it has no weights to be averaged")
        inputs, told = data.standardised(rows), data.scaled(targets)
        return kept(training.fit(model, inputs, told, recipe, channels_last=True), recipe)

    if client_context.store.has("update", key):
        found = client_context.store.open("update", key).tensors
    else:
        start = time.perf_counter()
        made = make()
        if time.perf_counter() - start >= WORTH_KEEPING:
            client_context.store.ensure("update", key, lambda: made)
        found = made.tensors
    # In the model's order, which a file does not keep; where a file would have them.
    return OrderedDict((name, found[name].cpu()) for name in weights)


def adopted(client_context: ClientContext, weights: dict[str, Any]) -> str:
    """The key of a model with these weights (a torch state dict), stored now unless the store has it."""
    recipe = client_context.population.recipe(client_context.client.tier, "adopted")
    key = digest(weights=_digests(weights), recipe=key_parts(recipe), data=client_context.population.data.key)
    client_context.store.ensure("model", key, lambda: Artifact(meta={"recipe": recipe.__dict__}, tensors=weights))
    return key


def _digests(weights: dict[str, Any]) -> dict[str, str]:
    return {name: digest_of_array(tensor.numpy()) for name, tensor in weights.items()}
