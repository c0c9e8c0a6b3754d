"""Every message between server and clients: one frozen dataclass each, to and from Flower's `RecordDict`.

`pack` and `unpack` go by the type of each field: whole numbers and floats travel in a MetricRecord, text and switches
in a ConfigRecord, arrays in an ArrayRecord. A record checks itself when it is made, so that a NaN or a negative count
is refused at the door and never reaches an average.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.serde import recorddict_to_proto
from numpy.typing import NDArray

from fl_sim.conformal.coverage import Tally

FLOAT_BYTES = 8
TIMING = "timing"  # the record in which every reply says how long its client took
T = TypeVar("T", bound="Record")


@dataclass(frozen=True)
class Record:
    """Base of all messages."""

    message_type: ClassVar[str] = ""  # a request's: what the client's handler is registered for
    information_bytes: ClassVar[int] = 0  # of what the method itself has to send; the rest is the laboratory's wrapping


# ------------------------------------------------------------------------------------------------------------- learn


@dataclass(frozen=True)
class FitRequest(Record):
    """Make (or find in the store) the model you are to have."""

    message_type: ClassVar[str] = "train.fit"
    population: str  # key in the artifact store
    per_client: bool  # own initial weights and batch order
    own_rows: bool  # train on your own rows, not on the shared training set


@dataclass(frozen=True)
class AdoptRequest(Record):
    """Take these weights as your model; the arrays themselves travel beside this record, as `arrays`."""

    message_type: ClassVar[str] = "train.adopt"
    population: str


@dataclass(frozen=True)
class FitReport(Record):
    """A client has its model."""

    partition: int
    num_examples: int  # rows it was trained on

    def __post_init__(self) -> None:
        _count("num_examples", self.num_examples)


# --------------------------------------------------------------------------------------------------------- calibrate


@dataclass(frozen=True)
class ThresholdRequest(Record):
    """Send your own conformal threshold and how many points it rests on."""

    message_type: ClassVar[str] = "query.threshold"
    population: str
    alpha: float
    score: str  # JSON of the score's table
    small_n: str


@dataclass(frozen=True)
class ThresholdReport(Record):
    """(q_k, n_k): 16 bytes of information."""

    partition: int
    threshold: float
    num_calibration: int  # the client's weight: 0 for a client that takes no part

    information_bytes: ClassVar[int] = 2 * FLOAT_BYTES

    def __post_init__(self) -> None:
        _count("num_calibration", self.num_calibration)
        _number("threshold", self.threshold)


@dataclass(frozen=True)
class ScoresRequest(Record):
    """Send all your calibration scores."""

    message_type: ClassVar[str] = "query.scores"
    population: str
    score: str


@dataclass(frozen=True)
class ScoresReport(Record):
    """Every calibration score of a client, (n_k,)."""

    partition: int
    scores: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.scores.ndim != 1 or np.isnan(self.scores).any():
            raise ValueError("scores must be one number for each calibration point, and none of them NaN")

    @property
    def information_bytes(self) -> int:  # type: ignore[override]
        """Eight bytes a score."""
        return FLOAT_BYTES * len(self.scores)


# ---------------------------------------------------------------------------------------------------------- evaluate


@dataclass(frozen=True)
class EvaluateRequest(Record):
    """Test yourself with this threshold."""

    message_type: ClassVar[str] = "evaluate.sets"
    population: str
    score: str  # empty: accuracy only
    threshold: float  # inf covers every label; ignored where `score` is empty

    def __post_init__(self) -> None:
        _number("threshold", self.threshold)


@dataclass(frozen=True)
class EvaluateReport(Record):
    """Counts of one client's test points; they add. See `Tally`."""

    partition: int
    num_test: int
    num_covered: int
    total_size: float
    num_empty: int
    num_infinite: int
    num_correct: int
    total_squared_error: float
    class_tested: NDArray[np.int64]
    class_covered: NDArray[np.int64]

    def __post_init__(self) -> None:
        for name in ("num_test", "num_covered", "num_empty", "num_infinite", "num_correct"):
            _count(name, getattr(self, name))
        if max(self.num_covered, self.num_empty, self.num_infinite, self.num_correct) > self.num_test:
            raise ValueError(f"counts above num_test = {self.num_test}")
        for name in ("total_size", "total_squared_error"):
            _number(name, getattr(self, name), least=0)
        tested, covered = self.class_tested, self.class_covered
        if not (tested.dtype.kind == covered.dtype.kind == "i" and tested.ndim == 1 and tested.shape == covered.shape):
            raise ValueError("class_tested and class_covered must be whole numbers, one for each class")
        if (covered < 0).any() or (covered > tested).any():
            raise ValueError("class_covered must lie in 0..class_tested")

    @classmethod
    def of(cls, partition: int, tally: Tally) -> EvaluateReport:
        """A client's tally as its report."""
        return cls(partition=partition, **{f.name: getattr(tally, f.name) for f in dataclasses.fields(tally)})

    def tally(self) -> Tally:
        """The counts alone."""
        return Tally(**{f.name: getattr(self, f.name) for f in dataclasses.fields(Tally)})


# ------------------------------------------------------------------------------------------------------------ wiring


def pack(record: Record) -> RecordDict:
    """A record as Flower sends it."""
    numbers: dict[str, Any] = {}
    words: dict[str, Any] = {}
    arrays: dict[str, Array] = {}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if isinstance(value, np.ndarray):
            arrays[field.name] = Array(np.ascontiguousarray(value))
        elif isinstance(value, str | bool):
            words[field.name] = value
        else:
            numbers[field.name] = value
    content = RecordDict()
    if numbers:
        content["numbers"] = MetricRecord(numbers)
    if words:
        content["words"] = ConfigRecord(words)
    if arrays:
        content["values"] = ArrayRecord(arrays)
    return content


def unpack(kind: type[T], content: RecordDict) -> T:
    """The record that was packed.

    Raises:
        ValueError: the content is not that record, or its values are impossible.
    """
    found: dict[str, Any] = {**content.get("numbers", {}), **content.get("words", {})}
    found |= {name: array.numpy() for name, array in content.get("values", {}).items()}  # type: ignore[union-attr]
    wanted = {field.name for field in dataclasses.fields(kind)}
    if set(found) != wanted:
        odd = ", ".join(sorted(set(found) ^ wanted))
        raise ValueError(f"not a {kind.__name__}: missing or unknown: {odd}")
    return kind(**found)


# What answers each type of request; a type that is not here is a user's own.
REPLIES: dict[str, type[Record]] = {
    FitRequest.message_type: FitReport,
    AdoptRequest.message_type: FitReport,
    ThresholdRequest.message_type: ThresholdReport,
    ScoresRequest.message_type: ScoresReport,
    EvaluateRequest.message_type: EvaluateReport,
}


def check_trained(sent: RecordDict, content: RecordDict) -> int:
    """The partition that answers Flower's plain "train" with weights.

    Raises:
        ValueError: not one array for each that was sent and of its shape, a number in them that is not finite, or
            counts that are no counts.
    """
    if len(content.array_records) != 1 or len(content.metric_records) != 1:
        raise ValueError("not trained weights: one ArrayRecord and one MetricRecord are wanted")
    (arrays,), (numbers,) = content.array_records.values(), content.metric_records.values()
    for name in ("num-examples", "partition"):
        _count(name, numbers.get(name))
    wanted = {name: tuple(array.shape) for record in sent.array_records.values() for name, array in record.items()}
    found = {name: tuple(array.shape) for name, array in arrays.items()}
    if found != wanted:
        odd = ", ".join(sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)))
        raise ValueError(f"not the weights that were sent: other or missing: {odd}")
    for name, array in arrays.items():
        if not np.isfinite(array.numpy()).all():
            raise ValueError(f"weights {name!r} hold NaN or infinite numbers: all must be finite")
    return int(numbers["partition"])  # type: ignore[arg-type]


def weight(content: RecordDict) -> int:
    """Bytes of a message's content as Flower serialises it."""
    return int(recorddict_to_proto(content).ByteSize())


def _count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{name} = {value!r}: must be a whole number, at least 0")


def _number(name: str, value: Any, least: float | None = None) -> None:
    if not isinstance(value, int | float) or math.isnan(value) or value == -math.inf:
        raise ValueError(f"{name} = {value!r}: must be a number or +inf")
    if least is not None and value < least:
        raise ValueError(f"{name} = {value!r}: must be at least {least:g}")
