"""What a handler works with: a client's rows, its model, and what the model says of the rows, each made once and kept
in the artifact store."""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, RecordDict
from numpy.typing import NDArray

from clients.behaviour import altered_outputs, altered_targets, own_recipe
from fl_sim.errors import FlSimError
from fl_sim.models.model_key import key_parts
from fl_sim.models.recipe import Recipe
from fl_sim.population.clients import Client, Indices, Population, open_population
from fl_sim.population.model_cache import (
    Cohort,
    cohort_on_rows,
    kept,
    kept_outputs,
    kept_outputs_of_all,
    untrained,
)
from fl_sim.randomness import one_thread, stream
from fl_sim.store.artifacts import Artifact, Store, default_root, digest, digest_of_array, store_at

WORTH_KEEPING = 0.05  # seconds that a round's training of one client takes, from which on it is kept


@dataclass(frozen=True)
class ClientContext:
    """What a handler works with: a client, its rows, the store, and what it keeps from message to message. Or several
    clients that behave and have one model: their rows, and what is said of them, then stand one after another."""

    clients: tuple[Client, ...]
    population: Population
    store: Store
    state: RecordDict  # what is kept

    @classmethod
    def of(cls, context: Context, population: str = "") -> ClientContext:
        """The client whose Flower context this is; the population's key comes with the message by which it learns, and
        is kept. The store is this machine's (`FL_SIM_STORE`)."""
        people, store = opened(population or model_of(context.state).population)
        return cls((people.client(int(context.node_config["partition-id"])),), people, store, context.state)

    @property
    def client(self) -> Client:
        """The client, where there is but one."""
        (one,) = self.clients
        return one

    @property
    def ids(self) -> NDArray[np.int64]:
        """Their partitions, (K,)."""
        return np.array([client.id for client in self.clients])

    def each(self) -> Iterator[ClientContext]:
        """The clients, one by one."""
        return (replace(self, clients=(client,)) for client in self.clients)

    @property
    def cohort(self) -> tuple[int, ...]:
        """The clients whose models of their own are trained together with this client's, itself among them."""
        return self.population.cohort(self.client.id)

    def keep_model(self, key: str, *, shared: bool) -> None:
        """Remember which model is this client's; `shared` says that others have it too."""
        self.state["model"] = model_record(self.population.key, key, shared, -1)

    def keep_member(self, cohort: Cohort) -> None:
        """Remember that this client's model is its cohort's; train them all now unless the store has them."""
        self.store.ensure("model", cohort.key, cohort.make)
        self.state["model"] = model_record(self.population.key, cohort.key, False, self.cohort.index(self.client.id))

    def rows(self, split: str) -> Indices:
        """The clients' rows of a split; for "train" those its model was trained on, which may be everybody's."""
        if split == "train" and not self.population.trains_locally:
            return self.population.data.rows("train")
        rows: list[Indices] = [getattr(client, split) for client in self.clients]
        return rows[0] if len(rows) == 1 else np.concatenate(rows)

    def sizes(self, split: str) -> list[int]:
        """How many rows of a split each client has."""
        return [len(getattr(client, split)) for client in self.clients]

    def labels(self, split: str) -> Indices:
        """The class of each row of a split, as the client gives it; in regression the bin of its target."""
        people = self.population
        return self.targets(split) if people.data.classes is not None else people.bins[self.rows(split)]

    def targets(self, split: str) -> NDArray[Any]:
        """The targets of the "train" or "calibration" rows, as the client gives them; true ones of several."""
        rows = self.rows(split)
        instead = altered_targets(self.client, self.population, split, rows) if len(self.clients) == 1 else None
        return np.array(self.population.data.targets[rows]) if instead is None else instead

    def uniforms(self, split: str) -> NDArray[np.float64]:
        """A randomised score's uniforms: each client's own, one for each of its points."""
        drawn = [
            stream(self.population.seed, "score", split, client.id).random(n)
            for client, n in zip(self.clients, self.sizes(split), strict=True)
        ]
        return np.concatenate(drawn)

    def outputs(self, split: str) -> NDArray[np.float32]:
        """The model on the "calibration", "test" or "train" rows, (n, outputs)."""
        model = model_of(self.state)
        if len(self.clients) == 1:
            instead = altered_outputs(self.client, self.population, self.rows(split))
            if instead is not None:
                return instead
        if model.member >= 0:
            return _outputs_of_all(self.store, self.population, model.key, self.cohort, split)[model.member]
        if split == "train":
            whose = self.client.id if self.population.trains_locally else None
            return _outputs(self.store, self.population, model.key, whose, split)
        if not model.shared:
            return _outputs(self.store, self.population, model.key, self.client.id, split)
        # One pass over everybody's rows, and each client gathers its own.
        first, _ = self.population.data.evaluated
        return _outputs(self.store, self.population, model.key, None, "evaluated")[self.rows(split) - first]

    def predict(self) -> None:
        """Make the predictions that calibration and test will ask for, now: while this client has the model warm and
        others have work of their own."""
        if model_of(self.state).shared:
            _outputs(self.store, self.population, model_of(self.state).key, None, "evaluated")
        else:
            self.outputs("calibration"), self.outputs("test")

    def outputs_on(self, rows: Indices) -> NDArray[np.float32]:
        """The client's model on rows of the data that everybody is asked about, (n, outputs)."""
        model, data = model_of(self.state), self.population.data
        instead = altered_outputs(self.client, self.population, rows)
        if instead is not None:
            return instead
        if model.member >= 0:
            return kept_outputs_of_all(self.store, model.key, data, [rows] * len(self.cohort))[model.member]
        return kept_outputs(self.store, model.key, data, rows)


@dataclass(frozen=True)
class Model:
    """Which model a client has."""

    population: str  # key in the artifact store
    key: str  # of the model there
    shared: bool  # others have it too
    member: int  # its place among the models that were trained together; -1: it was trained by itself


def model_of(state: RecordDict) -> Model:
    """The model that a client keeps.

    Raises:
        RuntimeError: it has none.
    """
    model = state.get("model")
    if not isinstance(model, ConfigRecord):
        raise RuntimeError(
            "this client has no model yet: a learn strategy has to come before it is asked for predictions"
        )
    return Model(**model)  # type: ignore[arg-type]  # written by `model_record`


@dataclass(frozen=True)
class Keyed:
    """A client as the key of what a process keeps of it: all that decides that, and how to come by it."""

    decided_by: tuple[Any, ...]
    client_context: ClientContext = field(compare=False, repr=False)

    @classmethod
    def of(cls, client_context: ClientContext) -> Keyed:
        """The client's store, population, partition and model."""
        where, model = str(client_context.store.root), model_of(client_context.state)
        return cls((where, client_context.population.key, client_context.client.id, model.key), client_context)


@lru_cache(maxsize=4096)
def model_record(population: str, key: str, shared: bool, member: int) -> ConfigRecord:
    """The same object for clients that have the same, which is not changed: thousands of them take no room."""
    return ConfigRecord(asdict(Model(population, key, shared, member)))


def opened(population: str) -> tuple[Population, Store]:
    """The population of that key, and this machine's store."""
    return _opened(os.environ.get("FL_SIM_STORE"), population)


@lru_cache(maxsize=16)  # as many as stay open; where the store is follows from the variable
def _opened(store_says: str | None, population: str) -> tuple[Population, Store]:
    store = store_at(str(default_root()))
    return open_population(str(store.root), population), store


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
    instead = [altered_targets(client, population, "train", mine) for client, mine in zip(clients, rows, strict=True)]
    return cohort_on_rows(population.data, recipes, rows, instead)


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
        from fl_sim.models.training import FitsItself, fit

        model = untrained(recipe, data)
        with one_thread():  # a second one is woken for longer than the copy takes
            model.load_state_dict(weights)
        if isinstance(model, FitsItself):
            raise FlSimError(f"architecture {recipe.architecture!r} fits itself: it has no weights to be averaged")
        inputs, labels = data.standardised(rows), data.scaled(targets)
        return kept(fit(model, inputs, labels, recipe, channels_last=True), recipe)

    if client_context.store.has("update", key):
        tensors = client_context.store.open("update", key).tensors
    else:
        start = time.perf_counter()
        made = make()
        if time.perf_counter() - start >= WORTH_KEEPING:
            client_context.store.ensure("update", key, lambda: made)
        tensors = made.tensors
    # In the model's order, which a file does not keep; where a file would have them.
    return OrderedDict((name, tensors[name].cpu()) for name in weights)


def adopted(client_context: ClientContext, weights: dict[str, Any]) -> str:
    """The key of a model with these weights (a torch state dict), stored now unless the store has it."""
    recipe = client_context.population.recipe(client_context.client.tier, "adopted")
    key = digest(weights=_digests(weights), recipe=key_parts(recipe), data=client_context.population.data.key)
    client_context.store.ensure("model", key, lambda: Artifact(meta={"recipe": recipe.__dict__}, tensors=weights))
    return key


def _digests(weights: dict[str, Any]) -> dict[str, str]:
    return {name: digest_of_array(tensor.numpy()) for name, tensor in weights.items()}
