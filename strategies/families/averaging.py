"""What federated averaging and the strategies that weigh clients have in common: rounds, who is drawn, what is sent.

In each round some clients are drawn from those with training rows, from a stream of the scenario's seed that all these
strategies share, so that with as many participants they have the same. Each gets the federation's weights by Flower's
own messages, trains, and sends what it made of them; a subclass combines that (`combine`). After the last round every
client adopts the federation's weights.

Sent: the weights of the architecture, by each client that is drawn, in each round. Received: as many, and once more at
the end.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

import flwr.serverapp.strategy as flower
import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray
from pydantic import Field

from fl_sim.messages.learning import AdoptRequest
from fl_sim.messages.wire import pack, values_of
from fl_sim.randomness import stream
from fl_sim.runtime.grids import Subset
from strategies.base import ALONE, Federation, Learning

if TYPE_CHECKING:
    from fl_sim.server.model import ServerModel


Rounds = Annotated[int, Field(ge=1, description="of the federation")]
EvaluateEvery = Annotated[int, Field(ge=0, description="rounds; then, and at the end, the model is tested; 0: never")]


@dataclass
class AveragedGroup:
    """The clients of one architecture and what they have in common."""

    members: list[int]  # partitions
    able: NDArray[np.int64]  # those of them that have rows to train on
    strategy: Strategy  # Flower's, which makes the messages and may average
    weights: ArrayRecord

    @cached_property
    def num_bytes(self) -> int:
        """Of the weights as numbers, which is what they cost each way in every round."""
        return sum(values_of(array).nbytes for array in self.weights.values())


class Averaging(Learning):
    """`rounds` rounds, then every client adopts its federation's weights.

    `evaluate_every` rounds, and after the last, the global model is measured on the clients' test rows, on the server
    and by the laboratory: no client is asked, and nothing depends on it. 0: never.
    """

    averages = True

    @classmethod
    def rows_an_epoch(cls, options: Any, train: int, clients: int, of: int) -> float:
        """Their own, in each round in which they are drawn."""
        return options.rounds * options.model_dump().get("fraction", 1.0) * train * clients / of

    def __init__(
        self,
        federation: Federation = ALONE,
        *,
        rounds: int,
        evaluate_every: int,
    ) -> None:
        super().__init__(federation)
        self.num_rounds, self.evaluate_every = rounds, evaluate_every
        self.nodes: list[int] = []
        self._partition: dict[int, int] = {}  # node -> its partition
        self.groups = [self._group(name) for name in sorted(set(federation.architectures))]
        self.records: list[dict[str, Any]] = []  # of each round and federation, what `detail` tells
        self._models: dict[int, ServerModel] = {}

    @abstractmethod
    def how_many(self, able: int) -> int:
        """How many of the clients with training rows are drawn in a round."""

    @abstractmethod
    def combine(self, server_round: int, group: AveragedGroup, replies: Mapping[int, Message]) -> dict[str, Any]:
        """Make the federation's next weights of the replies, partition -> message, ascending; and what there is to
        tell of the round: JSON values."""

    def averager(self) -> Strategy:
        """Flower's strategy of a federation; it draws nobody and evaluates nothing."""
        return self.flowers("FedAvg")

    def flowers(self, name: str, **arguments: Any) -> Strategy:
        """The strategy of Flower's of that name, for a grid that shows only the clients that are drawn."""
        made: Strategy = getattr(flower, name)(
            fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=1, min_evaluate_nodes=0, min_available_nodes=1,
            **arguments,
        )  # fmt: skip
        return made

    def _group(self, architecture: str) -> AveragedGroup:
        members = [k for k, name in enumerate(self.federation.architectures) if name == architecture]
        able = np.array([k for k in members if self.federation.num_train[k] > 0], np.int64)
        return AveragedGroup(members, able, self.averager(), ArrayRecord(self.federation.initial(members[0])))

    def _drawn(self, group: AveragedGroup, server_round: int) -> list[int]:
        """The partitions that train in this round; clients without rows never do."""
        if not len(group.able):
            return []
        rng = stream(self.federation.seed, "fedavg", server_round, group.members[0])
        return sorted(rng.permutation(group.able)[: self.how_many(len(group.able))].tolist())

    def messages(self, server_round: int, nodes: Sequence[int], grid: Grid) -> Iterable[Message]:
        """Flower's own messages to the clients drawn."""
        if self.nodes != list(nodes):
            self.nodes = list(nodes)
            self._partition = {node: k for k, node in enumerate(self.nodes)}
        messages: list[Message] = []
        for group in self.groups:
            drawn = self._drawn(group, server_round)
            if not drawn:
                continue
            view = Subset(grid, [self.nodes[k] for k in drawn])
            config = ConfigRecord({"population": self.federation.population})
            messages += group.strategy.configure_train(server_round, group.weights, config, view)
            for k in drawn:
                self._count(self.bytes_down, k, group)
        # Those with most rows first: who is last then keeps the others waiting for a short time only.
        rows = self.federation.num_train
        return sorted(messages, key=lambda message: -rows[self._partition[message.metadata.dst_node_id]])

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Combine the replies, federation by federation, in the order of the partitions."""
        answered = {self._partition[reply.metadata.src_node_id]: reply for reply, _ in self.good(replies)}
        names = self.federation.architectures
        for group in self.groups:
            mine = {k: answered[k] for k in sorted(answered) if names[k] == names[group.members[0]]}
            combined = self.combine(server_round, group, mine)
            for k in mine:
                self._count(self.bytes_up, k, group)
            self._record(server_round, group, {"participants": list(mine)} | combined)
        return None, MetricRecord({"round": server_round, "clients": len(answered)})

    def configure_evaluate(
        self,
        server_round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,
        grid: Grid,
    ) -> Iterable[Message]:
        """After the last round, everybody gets the weights to keep."""
        if server_round < self.num_rounds:
            return []
        messages = []
        for group in self.groups:
            content = RecordDict({**pack(AdoptRequest(self.federation.population)), "arrays": group.weights})
            for k in group.members:
                messages.append(Message(content, dst_node_id=self.nodes[k], message_type=AdoptRequest.message_type))
                self._count(self.bytes_down, k, group)
        return self.sent(messages)

    def detail(self) -> dict[str, Any]:
        """Round by round, where the model is measured: who answered, and the loss and accuracy after it."""
        return {"rounds": self.records} if self.evaluate_every else {}

    def model(self, group: AveragedGroup) -> ServerModel:
        """A network of the federation's architecture on the server, to be given weights, trained and measured."""
        from fl_sim.server.model import ServerModel

        first = group.members[0]
        if first not in self._models:
            self._models[first] = ServerModel(self.server, self.federation.recipe(first, "federation"))
        return self._models[first]

    def _record(self, server_round: int, group: AveragedGroup, metrics: dict[str, Any]) -> None:
        record: dict[str, Any] = {"round": server_round}
        if len(self.groups) > 1:
            record["architecture"] = self.federation.architectures[group.members[0]]
        record |= metrics
        every = self.evaluate_every
        if every and (server_round % every == 0 or server_round == self.num_rounds):
            state = {name: values_of(array) for name, array in group.weights.items()}
            record |= self.model(group).measured(state, self.server.tested)
        self.records.append(record)

    def _count(self, account: dict[int, int], partition: int, group: AveragedGroup) -> None:
        account[partition] = account.get(partition, 0) + group.num_bytes
