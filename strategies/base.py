"""What the laboratory's strategies have in common. Each is an ordinary Flower `Strategy` and works in any
`ServerApp`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fl_sim.errors import ClientFailedError
from fl_sim.records import FLOAT_BYTES, EvaluateReport, EvaluateRequest, Record, pack, unpack


@dataclass(frozen=True)
class Roster:
    """What a learn strategy knows of the clients, in the order of their partitions."""

    population: str  # key in the artifact store
    seed: int
    tiers: tuple[str, ...]
    architectures: tuple[str, ...]
    num_train: tuple[int, ...]  # rows a client may train on
    initial: Callable[[int], dict[str, Any]]  # partition -> untrained weights of its model (a torch state dict)


def node_ids(grid: Grid) -> list[int]:
    """The nodes in the order of their partitions, which in every simulation is the order in which they registered."""
    return [node.node_id for node in sorted(grid.get_nodes(), key=lambda node: node.registered_at)]


def request(record: Record, nodes: Iterable[int]) -> list[Message]:
    """One message a node, all with the same content."""
    content = pack(record)
    return [Message(content, dst_node_id=node, message_type=record.message_type) for node in nodes]


def contents(replies: Iterable[Message]) -> list[tuple[int, RecordDict]]:
    """(node, content) of every reply.

    Raises:
        ClientFailedError: a reply is an error. (In a simulation the runtime has dealt with those before.)
    """
    found = []
    for reply in replies:
        if reply.has_error():
            raise ClientFailedError(f"node {reply.metadata.src_node_id} failed: {reply.error.reason}")
        found.append((reply.metadata.src_node_id, reply.content))
    return found


class Learning(Strategy):
    """How clients come by their models, in `num_rounds` rounds. The models stay with the clients."""

    num_rounds: int = 1

    def __init__(self, roster: Roster) -> None:
        self.roster = roster
        self.bytes_up: dict[int, int] = {}  # partition -> information the method sent, in bytes
        self.bytes_down: dict[int, int] = {}

    @abstractmethod
    def messages(self, server_round: int, nodes: Sequence[int], grid: Grid) -> Iterable[Message]:
        """What is sent in a round (from 1); `nodes` are in the order of the partitions."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """A round's messages."""
        return self.messages(server_round, node_ids(grid), grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Nothing to aggregate: every client keeps its own model."""
        return None, MetricRecord({"round": server_round, "clients": len(contents(replies))})

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Clients are evaluated after calibration."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Clients are evaluated after calibration."""
        contents(replies)
        return None

    def summary(self) -> None:
        """Flower's hook for its log; the scenario says it all."""


class Calibration(Strategy):
    """One round: every client answers `question`, the server makes `threshold` of the answers, every client is
    evaluated.

    A method of one's own says these two things and nothing else:

    >>> from fl_sim.records import ThresholdReport, ThresholdRequest
    >>> class Cautious(Calibration):
    ...     answer = ThresholdReport
    ...     def question(self):
    ...         return ThresholdRequest(self.population, self.alpha, self.score, "clip")
    ...     def threshold(self, reports):
    ...         return max(report.threshold for report in reports)
    >>> Cautious(population="", alpha=0.1, score="").threshold([ThresholdReport(0, 0.5, 9), ThresholdReport(1, 0.7, 9)])
    0.7
    """

    num_rounds: int = 1
    answer: ClassVar[type[Record]]  # the record that answers the question

    def __init__(self, population: str, alpha: float, score: str) -> None:
        self.population, self.alpha, self.score = population, alpha, score
        self.global_threshold: float | None = None  # None where each client has its own
        self.thresholds: dict[int, float] = {}  # partition -> the threshold it is tested with
        self.evaluations: dict[int, EvaluateReport] = {}
        self.bytes_up: dict[int, int] = {}
        self.bytes_down: dict[int, int] = {}
        self._node_of: dict[int, int] = {}  # partition -> node

    @abstractmethod
    def question(self) -> Record:
        """What every client is asked."""

    @abstractmethod
    def threshold(self, reports: Sequence[Any]) -> float:
        """The threshold for all, from the answers in the order of the partitions."""

    def for_each(self, reports: Sequence[Any]) -> dict[int, float]:
        """The threshold of each partition; here the same for all."""
        self.global_threshold = self.threshold(reports)
        return {report.partition: self.global_threshold for report in reports}

    def information_up(self, report: Any) -> int:
        """Bytes of information in a client's answer."""
        return int(report.information_bytes)

    def information_down(self) -> int:
        """Bytes of information the server answers a client with: the threshold."""
        return FLOAT_BYTES

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask every client."""
        return request(self.question(), node_ids(grid))

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Make the thresholds."""
        reports = []
        for node, content in contents(replies):
            report: Any = unpack(self.answer, content)
            self._node_of[report.partition] = node
            reports.append(report)
        reports.sort(key=lambda report: report.partition)  # replies come in any order; sums must not
        self.thresholds = self.for_each(reports)
        self.bytes_up = {report.partition: self.information_up(report) for report in reports}
        self.bytes_down = {report.partition: self.information_down() for report in reports}
        return None, MetricRecord({"clients": len(reports)})

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send every client its threshold; clients of equal threshold share one message content."""
        groups: dict[float, list[int]] = {}
        for partition, threshold in self.thresholds.items():
            groups.setdefault(threshold, []).append(self._node_of[partition])
        return [
            m for q, nodes in groups.items() for m in request(EvaluateRequest(self.population, self.score, q), nodes)
        ]

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Keep every client's counts."""
        reports = sorted((unpack(EvaluateReport, c) for _, c in contents(replies)), key=lambda report: report.partition)
        self.evaluations = {report.partition: report for report in reports}
        covered, tested = sum(r.num_covered for r in reports), sum(r.num_test for r in reports)
        return MetricRecord({"covered": covered, "tested": tested})

    def summary(self) -> None:
        """Flower's hook for its log; the scenario says it all."""
