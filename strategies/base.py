"""What the laboratory's strategies have in common. Each is an ordinary Flower `Strategy` and works in any
`ServerApp`."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from logging import WARNING
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from numpy.typing import NDArray

from fl_sim.checks import read
from fl_sim.errors import ClientFailedError
from fl_sim.records import FLOAT_BYTES, EvaluateReport, EvaluateRequest, Parcel, Record, pack

if TYPE_CHECKING:
    from fl_sim.desk import Desk
    from fl_sim.learning import Recipe


def _untrained(partition: int) -> dict[str, Any]:
    raise ValueError(f"no untrained weights were given for partition {partition}: say Roster(initial=...)")


def _no_recipe(partition: int, purpose: str) -> Recipe:
    raise ValueError(f"it was not said how partition {partition} makes a model ({purpose}): say Roster(recipe=...)")


@dataclass(frozen=True)
class Roster:
    """What a strategy knows of the clients, in the order of their partitions; a calibration needs `population` alone,
    but for those that group clients or aim at their labels, which say so."""

    population: str  # key in the artifact store
    seed: int = 0
    tiers: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    num_train: tuple[int, ...] = ()  # rows a client may train on
    num_labels: int = 0  # classes, or bins of the target
    task: Literal["classification", "regression"] = "classification"
    test: Literal["local", "shared"] = "local"  # clients are tested on data like their own, or on everybody's
    one_law_a_tier: bool = False  # within a tier scores given the label follow one law: `Scenario.one_law_a_tier`
    cohorts: Callable[[], Sequence[int]] = tuple  # (K,) whose models of their own are trained together; (): nobody's
    initial: Callable[[int], dict[str, Any]] = _untrained  # partition -> untrained weights (a torch state dict)
    recipe: Callable[[int, str], Recipe] = _no_recipe  # partition, purpose -> how a client of its tier makes a model
    desk: Desk | None = None  # the server's own rows, the clients' test rows, the reference set and the store


def node_ids(grid: Grid) -> list[int]:
    """The nodes in the order of their partitions, which in every simulation is the order in which they registered."""
    return [node.node_id for node in sorted(grid.get_nodes(), key=lambda node: node.registered_at)]


def request(record: Record, nodes: Iterable[int]) -> list[Message]:
    """One message a node, all with the same content."""
    content = pack(record)
    return [Message(content, dst_node_id=node, message_type=record.message_type) for node in nodes]


class Method(Strategy):
    """What both kinds have in common: a method knows in how many rounds it is done, and believes no answer that it has
    not checked, on whatever Grid it is.

    Attributes:
        on_failure: what becomes of a client that fails or answers what cannot be: "stop" ends the run with its name,
            "skip" goes on without it. (In a scenario `runtime.on_failure` says it, and the laboratory's Grid does it.)
        left_out: node -> why it is no longer asked.
    """

    num_rounds: int = 1
    on_failure: Literal["stop", "skip"] = "stop"

    def __init__(self) -> None:
        self.left_out: dict[int, str] = {}
        self._sent: dict[int, Message] = {}  # node -> the last message to it
        self._partition_said: dict[int, int] = {}  # node -> the partition that it said it is

    def sent(self, messages: Iterable[Message]) -> list[Message]:
        """The messages of an exchange, kept to hold the replies against; none to those who are left out."""
        kept = [message for message in messages if message.metadata.dst_node_id not in self.left_out]
        self._sent = {message.metadata.dst_node_id: message for message in kept}
        return kept

    def answers(self, replies: Iterable[Message]) -> list[tuple[Message, Any]]:
        """(reply, its record) of every good reply, in the order of the partitions; the record is None where the message
        is Flower's own or a user's.

        Raises:
            ClientFailedError: a client failed, or answered what cannot be, and `on_failure` is "stop".
        """
        good: dict[int, tuple[int | None, Message, Any]] = {}
        for reply in replies:
            node = reply.metadata.src_node_id
            try:
                if node not in self._sent or node in good:
                    raise ValueError("it answered what it was not asked, or twice")
                partition, record = read(self._sent[node], reply)
                before = self._partition_said.get(node, partition)
                if partition != before:
                    raise ValueError(f"it answered as client {partition}, and was client {before} before")
            except ValueError as error:
                good.pop(node, None)
                self._leave_out(node, str(error))
                continue
            good[node] = partition, reply, record
        claimed = Counter(partition for partition, _, _ in good.values() if partition is not None)
        claimed.update(p for node, p in self._partition_said.items() if node not in good and node not in self.left_out)
        for node, (partition, _, _) in list(good.items()):
            if partition is not None and claimed[partition] > 1:
                del good[node]
                self._leave_out(node, f"it answered as client {partition}, as another node did")
        self._partition_said |= {node: partition for node, (partition, _, _) in good.items() if partition is not None}
        # Replies come in any order; sums must not.
        ordered = sorted(good.values(), key=lambda one: -1 if one[0] is None else one[0])
        return [(reply, record) for _, reply, record in ordered]

    def _leave_out(self, node: int, why: str) -> None:
        who = f"node {node}" + (f" (client {self._partition_said[node]})" if node in self._partition_said else "")
        if self.on_failure == "stop":
            raise ClientFailedError(f"{who}: {why}; on_failure = 'skip' goes on without it")
        self.left_out[node] = why
        log(WARNING, "%s is left out: %s", who, why)

    def start(
        self, grid: Grid, initial_arrays: ArrayRecord | None = None, num_rounds: int | None = None, *args: Any,
        **kwargs: Any,
    ) -> Result:  # fmt: skip
        """Flower's own, in the method's own rounds and, unless one is given, with no model to begin with.

        Raises:
            ValueError: another number of rounds is asked for.
        """
        if num_rounds not in (None, self.num_rounds):
            raise ValueError(f"num_rounds = {num_rounds}: {type(self).__name__} takes {self.num_rounds}; leave it out")
        begin = ArrayRecord() if initial_arrays is None else initial_arrays
        return super().start(grid, begin, self.num_rounds, *args, **kwargs)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Nobody is asked: clients are evaluated after calibration, where no method says otherwise."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Nothing comes back."""
        self.answers(replies)
        return None

    def summary(self) -> None:
        """Flower's hook for its log; the scenario says it all."""


class Learning(Method):
    """How clients come by their models, in `num_rounds` rounds. The models stay with the clients."""

    def __init__(self, roster: Roster) -> None:
        super().__init__()
        self.roster = roster
        self.bytes_up: dict[int, int] = {}  # partition -> information the method sent, in bytes
        self.bytes_down: dict[int, int] = {}
        self.client_weights: dict[int, float] = {}  # partition -> its weight, where the method weighs clients

    @property
    def desk(self) -> Desk:
        """The server's rows, reference set and store.

        Raises:
            ValueError: the roster was made without.
        """
        if self.roster.desk is None:
            raise ValueError(f"{type(self).__name__} learns from rows of the server's: say Roster(desk=...)")
        return self.roster.desk

    def metrics(self) -> dict[str, Any]:
        """What the method found beside the models, for the metrics of `result.json`: JSON values."""
        return {}

    def detail(self) -> dict[str, Any]:
        """What else it found, for `result.json`: JSON values."""
        return {}

    def files(self) -> dict[str, bytes]:
        """Name -> content of what is left in the run's folder."""
        return {}

    @abstractmethod
    def messages(self, server_round: int, nodes: Sequence[int], grid: Grid) -> Iterable[Message]:
        """What is sent in a round (from 1); `nodes` are in the order of the partitions."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """A round's messages."""
        return self.sent(self.messages(server_round, node_ids(grid), grid))

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Nothing to aggregate: every client keeps its own model."""
        return None, MetricRecord({"round": server_round, "clients": len(self.answers(replies))})


class InTurns(Learning):
    """Whoever is first makes a model in round 1; in round 2 the others find theirs in the artifact store. So nobody
    waits for what another is making.

    Where clients have models of their own (`per_client`) the first of each cohort trains those of the whole cohort;
    where a tier shares one, the first of the tier. None: the clients make nothing, and all are asked at once.
    """

    def __init__(self, roster: Roster, per_client: bool | None) -> None:
        super().__init__(roster)
        self.per_client = bool(per_client)
        self._first = [] if per_client is None else turns(roster.tiers, per_client, roster.cohorts)
        self.num_rounds = 1 if all(self._first) else 2
        cohorts = roster.cohorts() if per_client else ()
        self.models = max(Counter(cohorts).values(), default=1)  # that whoever is asked may have to train

    def turn(self, server_round: int, count: int) -> list[int]:
        """The partitions, of `count`, whose turn it is."""
        first = self._first or [True] * count
        return [k for k in range(count) if first[k] == (server_round == 1)]


class HandOut(InTurns):
    """The server learns from rows of its own, and hands what it found to every client: the same bytes to all."""

    @property
    @abstractmethod
    def file(self) -> bytes:
        """What is handed out."""

    @property
    def parcel(self) -> NDArray[np.uint8]:
        """The same, as a message carries it."""
        return np.frombuffer(self.file, np.uint8)

    @abstractmethod
    def request(self) -> Parcel:
        """What every client is sent."""

    def messages(self, server_round: int, nodes: Sequence[int], grid: Grid) -> Iterable[Message]:
        """Whose turn it is."""
        record, now = self.request(), self.turn(server_round, len(nodes))
        self.bytes_down |= dict.fromkeys(now, int(record.information_bytes))
        return request(record, [nodes[k] for k in now])


def turns(tiers: Sequence[str], per_client: bool, cohorts: Callable[[], Sequence[int]] = tuple) -> list[bool]:
    """(K,) who is first: of each tier, or with models of their own of each cohort, where there are such, else
    everybody."""
    groups: Sequence[str | int] = [*cohorts()] or range(len(tiers)) if per_client else tiers
    firsts = {group: k for k, group in reversed(list(enumerate(groups)))}
    return [firsts[group] == k for k, group in enumerate(groups)]


Threshold = float | NDArray[np.float64]  # one for all labels, or (C,) one for each class


class Calibration(Method):
    """How thresholds are agreed: in `num_rounds` rounds the clients answer a question each, then every client is
    evaluated.

    A method of one round says these two things and nothing else:

    >>> from fl_sim.records import ThresholdReport, ThresholdRequest
    >>> class Cautious(Calibration):
    ...     def question(self):
    ...         return ThresholdRequest(self.population, self.alpha, self.score, "clip")
    ...     def threshold(self, reports):
    ...         return max(report.threshold for report in reports)
    >>> Cautious(Roster(""), alpha=0.1, score="").threshold([ThresholdReport(0, 0.5, 9), ThresholdReport(1, 0.7, 9)])
    0.7

    One with a threshold for each client overrides `for_each`, one with more rounds `ask` and `take`.
    """

    rounds_before: int = 0  # in which clients agreed on something before they were calibrated

    def __init__(self, roster: Roster, alpha: float, score: str) -> None:
        super().__init__()
        self.roster, self.alpha, self.score = roster, alpha, score
        self.align = ""  # the common scale the thresholds are on, where there is one
        self.global_threshold: float | None = None  # None where there is not one for all
        self.thresholds: dict[int, Threshold] = {}  # partition -> what it is tested with
        self.evaluations: dict[int, EvaluateReport] = {}
        self.bytes_up: dict[int, int] = {}  # partition -> information the method sent, in bytes
        self.bytes_down: dict[int, int] = {}
        self._asked: dict[int, Record] = {}  # partition -> the round's question
        self._partition_of: dict[int, int] = {}  # node -> partition

    @property
    def population(self) -> str:
        """The clients' key in the artifact store, which every question carries."""
        return self.roster.population

    # ------------------------------------------------------------------------------------------ what a method says

    def caveats(self) -> list[str]:
        """What of its promise does not hold in this run, in sentences for the table, the page and `result.json`."""
        return []

    def question(self) -> Record:
        """What every client is asked, in a method of one round."""
        raise NotImplementedError(f"{type(self).__name__} says neither question() nor ask()")

    def threshold(self, reports: Sequence[Any]) -> float:
        """The threshold for all, from the answers in the order of the partitions."""
        raise NotImplementedError(f"{type(self).__name__} says neither threshold(), nor for_each(), nor take()")

    def for_each(self, reports: Sequence[Any]) -> Mapping[int, Threshold]:
        """The threshold of each partition; here the same for all."""
        self.global_threshold = self.threshold(reports)
        return {report.partition: self.global_threshold for report in reports}

    def ask(self, server_round: int) -> Record | Mapping[int, Record]:
        """The question of a round (from 1) to everybody, or partition -> question for those who are asked."""
        return self.question()

    def take(self, server_round: int, reports: Sequence[Any]) -> None:
        """A round's answers, in the order of the partitions; after the last round `thresholds` is complete."""
        self.thresholds = dict(self.for_each(reports))

    def information_up(self, report: Any) -> int:
        """Bytes of information in a client's answer."""
        return int(report.information_bytes)

    def information_down(self, threshold: Threshold) -> int:
        """Bytes of information in a client's threshold."""
        return FLOAT_BYTES * np.size(threshold)

    def detail(self) -> dict[str, Any]:
        """What else the method found, for `result.json`: JSON values."""
        return {}

    # ------------------------------------------------------------------------------------------- what Flower calls

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask; clients that are asked the same share one message content."""
        nodes, asked = node_ids(grid), self.ask(server_round)
        if not self._partition_of:
            self._partition_of = dict(zip(nodes, range(len(nodes)), strict=True))
        everybody = sorted(self._partition_of.values())
        self._asked = dict.fromkeys(everybody, asked) if isinstance(asked, Record) else dict(asked)
        return self._messages(self._asked)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Take the answers."""
        reports: list[Any] = []
        for reply, report in self.answers(replies):
            node = reply.metadata.src_node_id
            self._book(report, self._asked[self._partition_of[node]])
            self._partition_of[node] = report.partition
            reports.append(report)
        self.take(server_round, reports)
        return None, MetricRecord({"clients": len(reports)})

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """After the last round, send every client its threshold."""
        if server_round < self.num_rounds:
            return []
        for partition, threshold in self.thresholds.items():
            self.bytes_down[partition] = self.bytes_down.get(partition, 0) + self.information_down(threshold)
        same: dict[bytes, Record] = {}  # equal thresholds, one request

        def test(threshold: Threshold) -> Record:
            values = np.atleast_1d(np.asarray(threshold, np.float64))
            made = EvaluateRequest(self.population, self.score, values, self.align)
            return same.setdefault(values.tobytes(), made)

        return self._messages({partition: test(threshold) for partition, threshold in self.thresholds.items()})

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Keep every client's counts."""
        reports: list[EvaluateReport] = [report for _, report in self.answers(replies)]
        if server_round == self.num_rounds:
            self.evaluations = {report.partition: report for report in reports}
        covered, tested = sum(r.num_covered for r in reports), sum(r.num_test for r in reports)
        return MetricRecord({"covered": covered, "tested": tested})

    def _messages(self, records: Mapping[int, Record]) -> list[Message]:
        """One message for each partition, grouped by content."""
        node_of = {partition: node for node, partition in self._partition_of.items() if node not in self.left_out}
        groups: dict[int, list[int]] = {}
        for partition, record in records.items():
            if partition in node_of:
                groups.setdefault(id(record), []).append(partition)
        return self.sent(m for ks in groups.values() for m in request(records[ks[0]], [node_of[k] for k in ks]))

    def _book(self, report: Any, asked: Record) -> None:
        k = report.partition
        self.bytes_up[k] = self.bytes_up.get(k, 0) + self.information_up(report)
        self.bytes_down[k] = self.bytes_down.get(k, 0) + int(asked.information_bytes)
