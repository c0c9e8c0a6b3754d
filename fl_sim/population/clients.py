"""Who client k is: tier, behaviour, and which rows are its own. Drawn once from the scenario, then only read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_sim.data.partition import deal, proportions, quantile_bins
from fl_sim.data.reference import Reference, open_reference
from fl_sim.errors import FlSimError, ScenarioError
from fl_sim.models.device import resolve_device
from fl_sim.models.recipe import Contrast, Recipe, outputs_of
from fl_sim.population.prepared_data import Prepared, open_prepared
from fl_sim.randomness import stream
from fl_sim.scenario.assignment import assign_behaviours, assign_tiers, largest_remainder
from fl_sim.scenario.behaviours import Behaviour
from fl_sim.scenario.scenario import Scenario
from fl_sim.scenario.tables import NATURAL, Clients, Tier
from fl_sim.store.artifacts import Artifact, Store, digest, store_at

VERSION = 3  # raise it when a change here changes who gets what
TARGET_BINS = 10  # regression: a client's "labels" are the deciles of the target
DRAWS = 100  # how often a partition is drawn before min_calibration is given up

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Client:
    """One client. Its rows are indices into the prepared data."""

    id: int
    tier: Tier
    calibration: Indices
    test: Indices
    train: Indices  # empty unless clients learn on rows of their own
    behaviour: Behaviour | None = None  # None: it behaves


@dataclass(frozen=True, eq=False)
class Population:
    """All clients of a scenario, and the data they hold."""

    key: str
    seed: int
    device: str
    precision: str
    clients: Clients  # the scenario's table
    data: Prepared
    tiers: NDArray[np.int64]  # (K,) index into clients.tier
    behaviours: NDArray[np.int64]  # (K,) index into clients.behaviour; -1 for those that behave
    bins: NDArray[np.int64]  # (n,) label of every row; for regression its decile of the target
    reference_set: Reference | None  # the reference set that every client holds, where there is one
    rows: dict[str, tuple[Indices, Indices]]  # split -> (offsets (K + 1,), indices)

    def __len__(self) -> int:
        return len(self.tiers)

    @cached_property
    def client(self) -> Callable[[int], Client]:
        """Client k of 0..K-1, made once."""
        return cache(self._client)

    def _client(self, k: int) -> Client:
        test = self.data.rows("test") if self.clients.test == "shared" else self._rows("test", k)
        calibration, train = self._rows("calibration", k), self._rows("train", k)
        return Client(k, self.tier(k), calibration, test, train, self.behaviour(k))

    def tier(self, k: int) -> Tier:
        """What client k can compute."""
        return self.clients.tier[int(self.tiers[k])]

    def behaviour(self, k: int) -> Behaviour | None:
        """How client k misbehaves; None: it does not."""
        which = int(self.behaviours[k])
        return None if which < 0 else self.clients.behaviour[which]

    def label(self, k: int) -> str:
        """Client k in messages to the user: `client 3 (weak)`, `client 4 (strong, sign-flip)`."""
        behaviour = self.behaviour(k)
        name = self.data.client_names[k] if self.is_natural else k
        return f"client {name} ({self.tier(k).name}{'' if behaviour is None else f', {behaviour.kind}'})"

    @cached_property
    def label_counts(self) -> Indices:
        """(K, num_bins) how many calibration points each client has of each class, or of each decile of the target."""
        whose = np.repeat(np.arange(len(self)), self.sizes("calibration"))
        cells = whose * self.num_bins + self.bins[self.rows["calibration"][1]]
        return np.bincount(cells, minlength=len(self) * self.num_bins).reshape(-1, self.num_bins)

    def sizes(self, split: str) -> Indices:
        """(K,) how many rows of a split each client has."""
        if split == "test" and self.clients.test == "shared":
            return np.full(len(self), len(self.data.rows("test")))
        return np.diff(self.rows[split][0]) if split in self.rows else np.zeros(len(self), np.int64)

    @property
    def is_natural(self) -> bool:
        """Whether clients are who the data say, and have names."""
        return self.clients.partition == NATURAL

    @property
    def trains_locally(self) -> bool:
        """Whether clients have training rows of their own."""
        return "train" in self.rows

    @property
    def reference(self) -> Reference:
        """The reference set that every client holds.

        Raises:
            FlSimError: this population holds none.
        """
        if self.reference_set is None:
            raise FlSimError("this client holds no reference set: the scenario needs [reference]")
        return self.reference_set

    @property
    def tested(self) -> Indices:
        """The rows on which any client is tested, ascending."""
        return np.sort(np.array(self.rows["test"][1])) if "test" in self.rows else self.data.rows("test")

    @property
    def num_bins(self) -> int:
        """Classes, or deciles."""
        return self.data.num_classes or TARGET_BINS

    @cached_property
    def cohorts(self) -> NDArray[np.int64]:
        """(K,) the number of each client's cohort: clients of one tier, with about as many training rows each, whose
        models of their own are trained together. It follows from the scenario alone; free-riders, who train nothing,
        are alone.

        Raises:
            FlSimError: a tier says how many, and its architecture cannot be trained in a stack.
        """
        order, idle = (
            np.lexsort((self.sizes("train"), self.tiers)),
            self._idle(),
        )  # of equal sizes the lower id comes first
        numbers, used = np.empty(len(self), np.int64), 0
        for i, tier in enumerate(self.clients.tier):
            members = order[(self.tiers[order] == i) & ~idle[order]]
            if len(members):
                numbers[members] = used + np.arange(len(members)) // self.cohort_size(tier)
                used = int(numbers[members[-1]]) + 1
        numbers[idle] = used + np.arange(idle.sum())
        return numbers

    def cohort(self, k: int) -> tuple[int, ...]:
        """The clients of client k's cohort, ascending; k among them.

        Raises:
            FlSimError: see `cohorts`.
        """
        order, ends = self._members
        number = int(self.cohorts[k])
        return tuple(order[ends[number] : ends[number + 1]].tolist())

    @cached_property
    def _members(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        counts = np.bincount(self.cohorts)
        return np.argsort(self.cohorts, kind="stable"), np.concatenate([[0], np.cumsum(counts)])

    def _idle(self) -> NDArray[np.bool_]:
        lazy = [i for i, behaviour in enumerate(self.clients.behaviour) if behaviour.kind == "free-rider"]
        return np.isin(self.behaviours, lazy)

    def cohort_size(self, tier: Tier) -> int:
        """How many clients of a tier are trained together, at most."""
        from fl_sim.models.stacked_training import cohort_size  # late: it imports torch

        recipe = self.recipe(tier, "cohort")
        try:
            return cohort_size(tier.cohort, recipe, self.data.shape, outputs_of(recipe, self.data.num_classes))
        except FlSimError as error:
            raise FlSimError(f"clients.tier.{tier.name}.{error}") from None

    def recipe(self, tier: Tier, purpose: str, contrast: Contrast = "set") -> Recipe:
        """How a model of this tier is made."""
        return Recipe(
            architecture=tier.architecture, epochs=tier.epochs, learning_rate=tier.learning_rate,
            batch_size=tier.batch_size, quantiles=tier.quantiles, seed=self.seed, purpose=purpose,
            device=self.device, precision=self.precision, optimizer=tier.optimizer, schedule=tier.schedule,
            contrast=contrast,
        )  # fmt: skip

    def _rows(self, split: str, k: int) -> Indices:
        if split not in self.rows:
            return np.zeros(0, np.int64)
        offsets, indices = self.rows[split]
        return indices[offsets[k] : offsets[k + 1]]


def populate(scenario: Scenario, data: Prepared, store: Store, reference: Reference | None = None) -> Population:
    """Draw the clients of a scenario, or find them in the store; `reference` is what all of them hold.

    Raises:
        ScenarioError: no partition in 100 draws gave every client `min_calibration` points.
        ValueError: a GPU is asked for and there is none.
    """
    key_parts = {
        "seed": scenario.seed,
        "clients": scenario.clients.model_dump(mode="json"),
        "data": data.key,
        "trains_locally": scenario.trains_locally,
        "device": resolve_device(scenario.runtime.device),
        "precision": scenario.runtime.precision,
        "reference": None if reference is None else reference.key,
    }
    key = digest(version=VERSION, **key_parts)
    store.get("population", key, lambda: Artifact(_draw(scenario, data), key_parts))
    return open_population(str(store.root), key)


@lru_cache(maxsize=16)  # a sweep's workers meet hundreds
def open_population(root: str, key: str) -> Population:
    """The population of that key in the store at `root`; kept open by the process."""
    store = store_at(root)
    artifact = store.open("population", key)
    reference = artifact.meta["reference"]
    rows = {
        split: (np.array(artifact.arrays[f"{split}-offsets"]), np.asarray(artifact.arrays[f"{split}-indices"]))
        for split in ("calibration", "test", "train")
        if f"{split}-offsets" in artifact.arrays
    }
    return Population(
        key=key, seed=artifact.meta["seed"], device=artifact.meta["device"], precision=artifact.meta["precision"],
        clients=Clients.model_validate(artifact.meta["clients"]), data=open_prepared(store, artifact.meta["data"]),
        tiers=np.array(artifact.arrays["tiers"]), behaviours=np.array(artifact.arrays["behaviours"]),
        bins=np.asarray(artifact.arrays["bins"]), rows=rows,
        reference_set=None if reference is None else open_reference(store, reference),
    )  # fmt: skip


def _draw(scenario: Scenario, data: Prepared) -> dict[str, NDArray[Any]]:
    clients = scenario.clients
    bins = np.array(data.targets) if data.classes is not None else quantile_bins(np.array(data.targets), TARGET_BINS)
    drawn_again = clients.min_calibration and clients.partition != NATURAL
    for attempt in range(DRAWS if drawn_again else 1):
        mine = _partition(scenario, data, bins, attempt)
        sizes = np.array([len(rows) for rows in mine["calibration"]])
        if sizes.min() >= clients.min_calibration:
            tiers = _own_tiers(scenario, data)
            tiers = assign_tiers(clients, scenario.seed, sizes) if tiers is None else tiers
            behaviours = assign_behaviours(clients, tiers, scenario.seed)
            return {"tiers": tiers, "behaviours": behaviours, "bins": bins} | {
                name: part for split, parts in mine.items() for name, part in _packed(split, parts).items()
            }
    if not drawn_again:
        who = data.client_names[int(sizes.argmin())]
        raise ScenarioError(
            f"clients.min_calibration = {clients.min_calibration}: client {who} has {sizes.min()} calibration points; "
            "lower it, or leave such clients out of the data"
        )
    raise ScenarioError(
        f"clients.min_calibration = {clients.min_calibration}: none of {DRAWS} partitions gave every client that many "
        f"(the last one's smallest client has {sizes.min()}); lower it, raise clients.concentration, or have "
        "fewer clients"
    )


def _partition(scenario: Scenario, data: Prepared, bins: Indices, attempt: int) -> dict[str, list[Indices]]:
    """Rows of each split, client by client. One matrix of proportions serves all splits: a client that sees much of a
    class in training sees much of it in calibration too."""
    num_bins, rng = data.num_classes or TARGET_BINS, stream(scenario.seed, "partition", attempt)
    if scenario.clients.partition == NATURAL:
        return _natural(scenario, data, rng)
    shares = _shares(scenario.clients, num_bins, scenario.seed, attempt, rng)

    def dealt(first: int, last: int) -> list[Indices]:
        return [first + part for part in deal(bins[first:last], shares, rng)]

    rows = {}
    if scenario.clients.test == "local":
        together = dealt(*data.evaluated)
        rows["calibration"], rows["test"] = _split(together, scenario.data.calibration, rng)
    else:
        rows["calibration"] = dealt(*data.starts["calibration"])
    if scenario.trains_locally:
        rows["train"] = dealt(*data.starts["train"])
    return rows


def _natural(scenario: Scenario, data: Prepared, rng: np.random.Generator) -> dict[str, list[Indices]]:
    """`_partition` of clients whose rows the data name; their own test rows stay test rows, where they have such."""
    if data.clients is None:
        raise ScenarioError(f"clients.partition = 'natural': {scenario.data.name} has no clients of its own")
    try:
        scenario.check_clients(len(data.client_names), tuple(dict.fromkeys(data.client_tiers)))
    except ValueError as error:
        raise ScenarioError(str(error)) from None
    whose, count = np.array(data.clients), len(data.client_names)

    def of_each(first: int, last: int) -> list[Indices]:
        order = first + np.argsort(whose[first:last], kind="stable")
        return np.split(order, np.cumsum(np.bincount(whose[first:last], minlength=count))[:-1])

    rows = {}
    if scenario.clients.test == "local" and not data.keeps_splits:
        rows["calibration"], rows["test"] = _split(of_each(*data.evaluated), scenario.data.calibration, rng)
    else:
        rows["calibration"] = of_each(*data.starts["calibration"])
        if scenario.clients.test == "local":
            rows["test"] = of_each(*data.starts["test"])
    if scenario.trains_locally:
        rows["train"] = of_each(*data.starts["train"])
    return rows


def _own_tiers(scenario: Scenario, data: Prepared) -> Indices | None:
    """(K,) the tiers that natural clients have of their own; None where they have none, or the scenario has but one."""
    names = [tier.name for tier in scenario.clients.tier]
    if scenario.clients.partition != NATURAL or not data.client_tiers or len(names) < 2:
        return None
    return np.array([names.index(tier) for tier in data.client_tiers])


def _shares(
    clients: Clients, num_classes: int, seed: int, attempt: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """How each class is shared among the clients, (num_classes, K), rows that sum to 1: by one partition for all; or,
    where tiers have partitions of their own, of each class |tier| / K to each tier, and within it by the tier's."""
    if not clients.splits_by_tier:
        partition = clients.partition_of()
        return proportions(partition.kind, num_classes, clients.count, rng, **partition.parameters)
    shares = np.empty((num_classes, clients.count))
    tiers = assign_tiers(clients, seed)
    for i, tier in enumerate(clients.tier):
        members, partition = np.flatnonzero(tiers == i), clients.partition_of(tier)
        if len(members):  # a stream for each, so that a change of one tier leaves the others' clients as they are
            own = stream(seed, "partition", attempt, tier.name)
            dealt = proportions(partition.kind, num_classes, len(members), own, **partition.parameters)
            shares[:, members] = dealt * (len(members) / clients.count)
    return shares


def _split(
    together: Sequence[Indices], calibration: int, rng: np.random.Generator
) -> tuple[list[Indices], list[Indices]]:
    """Split each client's rows at random, `calibration` rows in all; the sizes do not look at the data, so within a
    client calibration and test rows are exchangeable."""
    sizes = np.array([len(rows) for rows in together])
    first = largest_remainder(sizes * (calibration / sizes.sum()), calibration, rng)
    shuffled = [rng.permutation(rows) for rows in together]
    return (
        [np.sort(rows[:n]) for rows, n in zip(shuffled, first, strict=True)],
        [np.sort(rows[n:]) for rows, n in zip(shuffled, first, strict=True)],
    )


def _packed(split: str, parts: Sequence[Indices]) -> dict[str, Indices]:
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
    return {f"{split}-offsets": offsets, f"{split}-indices": np.concatenate(parts).astype(np.int64)}
