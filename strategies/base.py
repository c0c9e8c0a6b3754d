"""What the laboratory's strategies have in common. Each is an ordinary Flower `Strategy` and works in any
`ServerApp`."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from logging import WARNING
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from numpy.typing import NDArray

from fl_sim.conformal.scores import DEFAULT_SCORE
from fl_sim.errors import ClientFailedError
from fl_sim.messages.calibration import EvaluateReport, EvaluateRequest
from fl_sim.messages.exchange import Columns, Questions, Replies
from fl_sim.messages.record import FLOAT_BYTES, Record
from fl_sim.messages.validate import read
from fl_sim.runtime.checked_grid import CheckedGrid

if TYPE_CHECKING:
    from fl_sim.models.recipe import Recipe
    from fl_sim.server.context import ServerContext


def _untrained(partition: int) -> dict[str, Any]:
    raise ValueError(f"no untrained weights were given for partition {partition}: say Federation(initial=...)")


def _no_recipe(partition: int, purpose: str) -> Recipe:
    raise ValueError(f"it was not said how partition {partition} makes a model ({purpose}): say Federation(recipe=...)")


@dataclass(frozen=True)
class Federation:
    """What a strategy knows of the clients, in the order of their partitions. A learn strategy needs `population`; a
    calibration needs nothing, but for those that group clients or aim at their labels, which say so."""

    population: str = ""  # key in the artifact store
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
    server: ServerContext | None = (
        None  # the server's own rows, the clients' test rows, the reference set and the store
    )


def node_ids(grid: Grid) -> list[int]:
    """The nodes in the order of their partitions, which in every simulation is the order in which they registered."""
    if isinstance(grid, CheckedGrid):  # which says so of its own; of 100,000 the others would be sorted in each round
        return list(grid.nodes)
    return [node.node_id for node in sorted(grid.get_nodes(), key=lambda node: node.registered_at)]


def request(record: Record, nodes: Iterable[int]) -> Questions:
    """The same question to each of the nodes."""
    to = list(nodes)
    return Questions([record] * len(to), to)


ALONE = Federation()  # of a ServerApp of one's own, where nothing is known of the clients


class Method(Strategy):
    """What both kinds have in common: a method knows in how many rounds it is done, and believes no answer that it has
    not checked, on whatever Grid it is.

    Attributes:
        on_failure: what becomes of a client that fails or answers what cannot be: "stop" ends the run with its name,
            "skip" goes on without it. (In a scenario `runtime.on_failure` says it, and the laboratory's Grid does it.)
        left_out: node -> why it is no longer asked.
    """

    kind: ClassVar[str]  # "learn" or "calibrate"
    num_rounds: int = 1
    on_failure: Literal["stop", "skip"] = "stop"

    def __init__(self) -> None:
        self.left_out: dict[int, str] = {}
        self._sent: dict[int, Message | Record] = {}  # node -> the last question to it
        self._claimed: dict[int, int] = {}  # node -> the partition that it said it is
        self._claimant: dict[int, int] = {}  # the same the other way round

    @classmethod
    def check(cls, options: Any) -> None:
        """Refuse options that do not go together; `options` has the keys of the scenario's table as attributes.

        Raises:
            ValueError: in a sentence with the keys and their values.
        """

    @classmethod
    def check_world(cls, options: Any, scenario: Any, task: str | None) -> None:
        """Refuse options in a world that they do not fit; `task` is None where only the data themselves say it.

        Raises:
            ValueError: in a sentence with the keys and their values.
        """

    def sent(self, messages: Iterable[Message]) -> Sequence[Message]:
        """The messages of an exchange, kept to hold the replies against; none to those who are left out."""
        if isinstance(messages, Questions):
            questions = messages.without(self.left_out)
            self._sent = dict(zip(questions.nodes, questions.records, strict=True))
            return questions
        asked = [message for message in messages if message.metadata.dst_node_id not in self.left_out]
        self._sent = {message.metadata.dst_node_id: message for message in asked}
        return asked

    def answers(self, replies: Iterable[Message]) -> Columns[Any]:
        """What was answered to the questions, in the order of the partitions.

        Raises:
            ClientFailedError: a client failed, or answered what cannot be, and `on_failure` is "stop".
        """
        if isinstance(replies, Replies):  # checked, and in order
            self._claim(dict(zip(replies.nodes, replies.columns.partition.tolist(), strict=True)))
            return replies.columns
        kind = next((sent.reply for sent in self._sent.values() if isinstance(sent, Record)), None)
        return Columns.of(kind or Record, [record for _, record in self.good(replies)])

    def good(self, replies: Iterable[Message]) -> list[tuple[Message, Any]]:
        """(reply, its record) of every good reply, in the order of the partitions; the record is None where the message
        is Flower's own or a user's. What it raises: see `answers`."""
        if isinstance(replies, Replies):
            return list(zip(replies, self.answers(replies), strict=True))
        good: dict[int, tuple[int | None, Message, Any]] = {}
        for reply in replies:
            node = reply.metadata.src_node_id
            try:
                if node not in self._sent or node in good:
                    raise ValueError("it answered what it was not asked, or twice")
                partition, record = read(self._sent[node], reply)
                before = self._claimed.get(node, partition)
                if partition != before:
                    raise ValueError(f"it answered as client {partition}, and was client {before} before")
            except ValueError as error:
                good.pop(node, None)
                self._leave_out(node, str(error))
                continue
            good[node] = partition, reply, record
        claimed = Counter(partition for partition, _, _ in good.values() if partition is not None)
        for node, (partition, _, _) in list(good.items()):
            if partition is None:
                continue
            earlier = self._claimant.get(partition, node)
            if claimed[partition] > 1 or (earlier != node and earlier not in self.left_out):
                del good[node]
                self._leave_out(node, f"it answered as client {partition}, as another node did")
        self._claim({node: partition for node, (partition, _, _) in good.items() if partition is not None})
        # Replies come in any order; sums must not.
        ordered = sorted(good.values(), key=lambda one: -1 if one[0] is None else one[0])
        return [(reply, record) for _, reply, record in ordered]

    def _claim(self, partitions: Mapping[int, int]) -> None:
        self._claimed |= partitions
        self._claimant |= {partition: node for node, partition in partitions.items()}

    def number_of(self, replies: Iterable[Message]) -> int:
        """How many good replies there are. What it raises: see `answers`."""
        return len(self.answers(replies) if isinstance(replies, Replies) else self.good(replies))

    def _leave_out(self, node: int, why: str) -> None:
        who = f"node {node}" + (f" (client {self._claimed[node]})" if node in self._claimed else "")
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
        self.good(replies)
        return None

    def summary(self) -> None:
        """Flower's hook for its log; the scenario says it all."""


class Learning(Method):
    """How clients come by their models, in `num_rounds` rounds. The models stay with the clients."""

    kind = "learn"
    trains_locally: ClassVar[bool] = True  # the training rows are split over the clients
    hands_out: ClassVar[bool] = False  # the server learns from data.server, and what it found out travels
    needs_reference: ClassVar[bool] = False  # every client holds the images of [reference]
    averages: ClassVar[bool] = False  # the clients' weights, so every architecture must have such

    @classmethod
    def one_model_a_tier(cls, options: Any) -> bool:
        """Whether it follows from the options that all clients of a tier have the same model."""
        return not cls.trains_locally or cls.averages

    @classmethod
    def rows_an_epoch(cls, options: Any, train: int, clients: int, of: int) -> float | None:
        """How many of the `train` rows `clients` of a tier, `of` so many in all, go over in an epoch of their training,
        over all rounds: by this `runtime.name = "auto"` weighs the work. None: it is not known before."""
        return None

    def __init__(self, federation: Federation = ALONE) -> None:
        super().__init__()
        self.federation = federation
        self.bytes_up: dict[int, int] = {}  # partition -> information the method sent, in bytes
        self.bytes_down: dict[int, int] = {}
        self.client_weights: dict[int, float] = {}  # partition -> its weight, where the method weighs clients

    @property
    def server(self) -> ServerContext:
        """The server's rows, reference set and store.

        Raises:
            ValueError: the federation was made without.
        """
        if self.federation.server is None:
            raise ValueError(f"{type(self).__name__} learns from rows of the server's: say Federation(server=...)")
        return self.federation.server

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
        return None, MetricRecord({"round": server_round, "clients": self.number_of(replies)})


Threshold = float | NDArray[np.float64]  # one for all labels, or (C,) one for each class


class Calibration(Method):
    """How thresholds are agreed: in `num_rounds` rounds the clients answer a question each, then every client is
    evaluated.

    A method of one round says these two things and nothing else:

    >>> from fl_sim.messages.calibration import ThresholdReport, ThresholdRequest
    >>> class Cautious(Calibration):
    ...     def question(self):
    ...         return ThresholdRequest(self.score, self.alpha, "clip")
    ...     def threshold(self, reports):
    ...         return reports.threshold.max()
    >>> reports = Columns.of(ThresholdReport, [ThresholdReport(0, 0.5, 9), ThresholdReport(1, 0.7, 9)])
    >>> float(Cautious(alpha=0.1).threshold(reports))
    0.7

    Answers are columns over the clients, `reports.threshold` (K,), and a sequence of records, `reports[0].threshold`.
    One with a threshold for each client overrides `for_each`, one with more rounds `ask` and `take`.
    """

    kind = "calibrate"
    task: ClassVar[str | None] = None  # the only one it is for
    compared: ClassVar[tuple[dict[str, Any], ...]] = ({},)  # the settings in which comparisons by kind have it
    rounds_before: int = 0  # in which clients agreed on something before they were calibrated

    def __init__(self, federation: Federation = ALONE, *, alpha: float, score: str = "") -> None:
        super().__init__()
        self.federation, self.alpha, self.score = federation, alpha, score or DEFAULT_SCORE[federation.task]
        self.align = ""  # the common scale the thresholds are on, where there is one
        self.global_threshold: float | None = None  # None where there is not one for all
        self.thresholds: dict[int, Threshold] = {}  # partition -> what it is tested with
        self.evaluated: Columns[EvaluateReport] = Columns.of(EvaluateReport, [])
        self.bytes_up: dict[int, int] = {}  # partition -> information the method sent, in bytes
        self.bytes_down: dict[int, int] = {}
        self._partition_of: dict[int, int] = {}  # node -> partition

    @property
    def evaluations(self) -> dict[int, EvaluateReport]:
        """Partition -> what its test counted."""
        return dict(zip(self.evaluated.partition.tolist(), self.evaluated, strict=True))

    # ------------------------------------------------------------------------------------------ what a method says

    def caveats(self) -> list[str]:
        """What of its promise does not hold in this run, in sentences for the table, the page and `result.json`."""
        return []

    def question(self) -> Record:
        """What every client is asked, in a method of one round."""
        raise NotImplementedError(f"{type(self).__name__} says neither question() nor ask()")

    def threshold(self, reports: Columns[Any]) -> float:
        """The threshold for all, from the answers in the order of the partitions."""
        raise NotImplementedError(f"{type(self).__name__} says neither threshold(), nor for_each(), nor take()")

    def for_each(self, reports: Columns[Any]) -> Mapping[int, Threshold]:
        """The threshold of each partition; here the same for all."""
        self.global_threshold = float(self.threshold(reports))
        return dict.fromkeys(reports.partition.tolist(), self.global_threshold)

    def ask(self, server_round: int) -> Record | Mapping[int, Record]:
        """The question of a round (from 1) to everybody, or partition -> question for those who are asked."""
        return self.question()

    def take(self, server_round: int, reports: Columns[Any]) -> None:
        """A round's answers, in the order of the partitions; after the last round `thresholds` is complete."""
        self.thresholds = dict(self.for_each(reports))

    def information_up(self, reports: Columns[Any]) -> int | NDArray[np.int64]:
        """Bytes of information in the clients' answers, (K,), or the same for all."""
        sizes: NDArray[np.int64] = reports.information_bytes
        return sizes

    def information_down(self, threshold: Threshold) -> int:
        """Bytes of information in a client's threshold."""
        return FLOAT_BYTES * (threshold.size if isinstance(threshold, np.ndarray) else 1)

    def detail(self) -> dict[str, Any]:
        """What else the method found, for `result.json`: JSON values."""
        return {}

    # ------------------------------------------------------------------------------------------- what Flower calls

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask; clients that are asked the same share one question."""
        nodes, asked = node_ids(grid), self.ask(server_round)
        if not self._partition_of:
            self._partition_of = dict(zip(nodes, range(len(nodes)), strict=True))
        if isinstance(asked, Record):
            asked = dict.fromkeys(sorted(self._partition_of.values()), asked)
        return self._questions(asked)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Take the answers."""
        reports = self.answers(replies)
        self._partition_of |= self._claimed
        self._book(reports)
        self.take(server_round, reports)
        if server_round == self.num_rounds:
            self._refuse_to_leave_out(reports.partition.tolist())
        return None, MetricRecord({"clients": len(reports)})

    def _refuse_to_leave_out(self, answered: list[int]) -> None:
        """No client that answered is left without a threshold unsaid."""
        without = sorted(set(answered) - self.thresholds.keys())
        if without:
            raise ValueError(
                f"{type(self).__name__} set no threshold for {len(without)} of {len(answered)} clients that answered "
                f"(client {without[0]} is one): for_each, or take, must set one for each; +inf covers everything"
            )

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
            key = values.tobytes()
            if key not in same:
                same[key] = EvaluateRequest(self.score, values, self.align)
            return same[key]

        return self._questions({partition: test(threshold) for partition, threshold in self.thresholds.items()})

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Keep every client's counts."""
        reports = self.answers(replies)
        if not len(reports):
            return MetricRecord({"covered": 0, "tested": 0})
        self.evaluated = reports
        return MetricRecord({"covered": int(reports.num_covered.sum()), "tested": int(reports.num_test.sum())})

    def _questions(self, records: Mapping[int, Record]) -> Iterable[Message]:
        """The question of each partition to its node."""
        node_of = {partition: node for node, partition in self._partition_of.items()}
        asked = {node_of[k]: record for k, record in records.items() if k in node_of}
        return self.sent(Questions(list(asked.values()), list(asked)))

    def _book(self, reports: Columns[Any]) -> None:
        """Add the information in a round's questions and answers to the account of each client."""
        if not len(reports):
            return
        partitions, nodes = reports.partition.tolist(), {k: node for node, k in self._partition_of.items()}
        up = np.broadcast_to(self.information_up(reports), len(reports)).tolist()
        records = {id(sent): sent for sent in self._sent.values() if isinstance(sent, Record)}
        sizes = {key: int(record.information_bytes) for key, record in records.items()}
        for k, size in zip(partitions, up, strict=True):
            self.bytes_up[k] = self.bytes_up.get(k, 0) + size
            self.bytes_down[k] = self.bytes_down.get(k, 0) + sizes[id(self._sent[nodes[k]])]
