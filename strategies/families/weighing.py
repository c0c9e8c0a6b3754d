"""What the strategies that weigh clients by their contribution have in common; each is a file of its own.

    Δ_i       = θ_i^{t+1} - θ^t                                        `Answers.updates`
    Δ_val     = θ_0^{t,K} - θ^t, K steps from θ^t on the server's rows `Weighing.reference`
    α         = the subclass's rule                                    `Weighing.weigh`
    θ^{t+1}   = θ^t + Σ_i (α_i / Σ_j α_j) Δ_i, uniform where all α_i are 0

This is FedTSV's frame ("FedTSV", Kuznetsov, Wang, 2026, https://arxiv.org/abs/2605.30336, eq. 10 and 13); Σ_i α_i θ_i
over normalised weights is the same as adding the weighed updates. One architecture for all clients, since updates of
different ones cannot be compared.

The server trains as the participants do: from the same weights, with the optimizer, learning rate and batch size of
their tier, and for as many steps K. A client's number of steps is that of its batches in an epoch, times its epochs; of
participants that differ in it the median one is followed, in its tier's settings too (of an even number the lower of
the two in the middle). The server goes round its rows as often as that takes.

Only floats are weighed (fl_sim/contribution/flat.py): a counter of batch normalisation stays as the global model has
it. Vectors are float32.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar

import numpy as np
from flwr.app import Array, ArrayRecord, Message
from numpy.typing import NDArray
from pydantic import Field

from fl_sim.contribution.flat import Layout, Vector
from fl_sim.messages.wire import values_of
from strategies.base import ALONE, Federation
from strategies.families.averaging import AveragedGroup, Averaging

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


Participants = Annotated[int, Field(ge=1, description="clients a round, drawn anew from those with training rows")]


@dataclass(frozen=True, eq=False)
class Answers:
    """What came back in a round from its m participants, in the order of their partitions."""

    round: int  # from 1
    participants: list[int]  # (m,) partitions
    start: Vector  # (d,) θ^t, the global weights that the round began with
    updates: Vector  # (m, d) θ_i^{t+1} - θ^t
    sizes: NDArray[np.int64]  # (m,) training rows, as each client says


class Weighing(Averaging):
    """Rounds of `participants` clients each, whose updates are weighed by `weigh` in the same round."""

    validates: ClassVar[bool] = True  # the server trains on data.server to judge the clients' updates

    @classmethod
    def check_world(cls, options: Any, scenario: Any, task: str | None) -> None:
        """Updates of one architecture are compared, and held against what the server makes of rows of its own."""
        clients = scenario.clients
        if cls.validates and not scenario.data.server:
            raise ValueError(
                f"data.server = 0, and learn = {options.name!r} judges updates by these rows; must be at least 1"
            )
        if options.participants > clients.count:
            raise ValueError(f"learn.participants = {options.participants}, and clients.count = {clients.count}")
        rest = 1 - sum(tier.share or 0 for tier in clients.tier)  # of the tier that leaves its share out
        tiers = [tier for tier in clients.tier if (rest if tier.share is None else tier.share) > 1e-9]
        if len({(tier.architecture, tier.quantiles) for tier in tiers}) > 1:
            kinds = ", ".join(
                f"{tier.name} ({tier.architecture}{f' {tier.quantiles}' if tier.quantiles else ''})" for tier in tiers
            )
            raise ValueError(
                f"learn = {options.name!r} compares updates of one architecture, and the tiers differ: {kinds}; give "
                "all tiers the same, or an empty share"
            )

    def __init__(
        self,
        federation: Federation = ALONE,
        *,
        rounds: int,
        participants: int,
        evaluate_every: int,
    ) -> None:
        if len(set(federation.architectures)) > 1:
            raise ValueError(
                f"{type(self).__name__} compares updates of one architecture, and the clients have "
                f"{', '.join(sorted(set(federation.architectures)))}"
            )
        super().__init__(federation, rounds=rounds, evaluate_every=evaluate_every)
        self.participants = participants
        self._details: dict[str, Any] = {}

    # ------------------------------------------------------------------------------------------ what a method says

    @abstractmethod
    def weigh(self, answers: Answers) -> Floats:
        """The weights α (m,) of a round's participants, finite and at least 0; they need not add up to 1."""

    @abstractmethod
    def standing(self) -> Floats:
        """The weight (K,) of every client as it is now, were it to take part with the update it is judged by."""

    def shares(self, alpha: Floats) -> Floats:
        """What part (m,) each participant has in the round's step: its weight of theirs, or as much as any where all
        are 0."""
        return alpha / alpha.sum() if alpha.sum() > 0 else np.full(len(alpha), 1 / len(alpha))

    def step(self, answers: Answers, shares: Floats) -> Vector:
        """What is added to the global weights, (d,): each update by its share. Called after `weigh`."""
        return np.asarray(shares.astype(np.float32) @ answers.updates)

    # ---------------------------------------------------------------------------------------- what it may work with

    @property
    def server_rows(self) -> Rows:
        """(n,) the rows that only the server holds, as indices into `self.server.data`."""
        return self.server.data.rows("server")

    def reference(
        self, answers: Answers, rows: Rows | None = None, purpose: str = "server", targets: NDArray[Any] | None = None
    ) -> Vector:
        """Δ_val (d,): what as many steps as the participants take make of the same weights on the server's rows, or on
        `rows` (n,) of them, with their own targets or these (n,). Another purpose is another order of batches."""
        group = self.group
        recipe, steps = self._pace(answers, f"{purpose}, round {answers.round}")
        model, where = self.model(group), self.server_rows if rows is None else rows
        made = model.trained(self.state(answers.start), recipe, where, steps, targets)
        return self.layout.difference(made, answers.start)

    def outputs(self, weights: Vector, rows: Rows) -> NDArray[np.float32]:
        """What the network with these weights (d,) says of rows of `self.server.data`, (n, outputs)."""
        return self.model(self.group).outputs(self.state(weights), rows)

    def measured(self, weights: Vector, rows: Rows) -> dict[str, float | None]:
        """The mean "loss" and, of classes, the "accuracy" of the network with these weights (d,) on rows."""
        return self.model(self.group).measured(self.state(weights), rows)

    def tell(self, **values: Any) -> None:
        """Add to this round's record in `detail`: JSON values."""
        self._details |= values

    @property
    def group(self) -> AveragedGroup:
        """All clients: there is one architecture."""
        return self.groups[0]

    @cached_property
    def layout(self) -> Layout:
        """How the weights lie in a vector."""
        return Layout.of(self._arrays(self.group.weights))

    def state(self, weights: Vector) -> dict[str, NDArray[Any]]:
        """A vector (d,) as arrays by name; those of whole numbers are the global model's."""
        return self.layout.arrays(weights, self._arrays(self.group.weights))

    # ------------------------------------------------------------------------------------------------------- a round

    def how_many(self, able: int) -> int:
        """As many as the scenario says, or all there are."""
        return min(self.participants, able)

    def combine(self, server_round: int, group: AveragedGroup, replies: Mapping[int, Message]) -> dict[str, Any]:
        """Weigh, and add the weighed updates to the global weights."""
        if not replies:
            return {"weights": []}
        self._details = {}
        answers = self._answers(server_round, replies)
        alpha = np.asarray(self.weigh(answers), np.float64)
        if alpha.shape != (len(replies),) or not np.isfinite(alpha).all() or (alpha < 0).any():
            raise ValueError(f"weights {alpha}: must be {len(replies)} finite numbers, at least 0")
        shares = self.shares(alpha)
        state = self.state(answers.start + self.step(answers, shares))
        group.weights = ArrayRecord({name: Array(np.asarray(a, order="C")) for name, a in state.items()})
        self.client_weights = dict(enumerate(self.standing().tolist()))
        return {"weights": shares.tolist()} | self._details

    def detail(self) -> dict[str, Any]:
        """Round by round: who took part, with which share of the weight, and what else the method tells."""
        return {"rounds": self.records}

    def _answers(self, server_round: int, replies: Mapping[int, Message]) -> Answers:
        contents = [reply.content for reply in replies.values()]
        start = self.layout.flat(self._arrays(self.group.weights))
        updates = np.empty((len(contents), self.layout.size), np.float32)
        for content, row in zip(contents, updates, strict=True):
            (arrays,) = content.array_records.values()
            self.layout.difference(self._arrays(arrays), start, out=row)
        sizes = np.array([content["metrics"]["num-examples"] for content in contents], np.int64)
        return Answers(server_round, list(replies), start, updates, sizes)

    def _pace(self, answers: Answers, purpose: str) -> tuple[Any, int]:
        """The recipe and the number of steps K of the participant with the median number of steps."""
        from fl_sim.models.training import starts_of

        def steps(k: int) -> int:
            recipe = self.federation.recipe(k, purpose)
            return recipe.epochs * len(starts_of(self.federation.num_train[k], recipe.batch_size))

        ordered = sorted(answers.participants, key=steps)  # stable: of equal ones the first
        median = ordered[(len(ordered) - 1) // 2]
        return self.federation.recipe(median, purpose), steps(median)

    @staticmethod
    def _arrays(record: ArrayRecord) -> dict[str, NDArray[Any]]:
        return {name: values_of(array) for name, array in record.items()}
