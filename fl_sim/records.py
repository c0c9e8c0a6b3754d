"""Every message between server and clients: one frozen dataclass each, to and from Flower's `RecordDict`.

`pack` and `unpack` go by the type of each field: whole numbers and floats travel in a MetricRecord, text and switches
in a ConfigRecord, arrays in an ArrayRecord. A record checks itself when it is made, so that a NaN or a negative count
is refused at the door and never reaches an average.
"""

from __future__ import annotations

import dataclasses
import io
import math
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any, ClassVar, TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.constant import SType
from flwr.common.serde import recorddict_to_proto
from numpy.typing import NDArray

from fl_sim.calibration_metrics import NOTHING, checked_table
from fl_sim.calibrators import MOST_TEMPERATURE
from fl_sim.conformal.coverage import Tally

FLOAT_BYTES = 8
MEASURED = "measured"  # the record for what a reply holds for the laboratory alone, which is not weighed
TIMING = "timing"  # the record in which every reply says how long its client took
T = TypeVar("T", bound="Record")


@dataclass(frozen=True)
class Record:
    """Base of all messages."""

    message_type: ClassVar[str] = ""  # a request's: what the client's handler is registered for
    information_bytes: ClassVar[int] = 0  # of what the method itself has to send; the rest is the laboratory's wrapping
    measured: ClassVar[tuple[str, ...]] = ()  # arrays with a default for `MEASURED`, left out where they are empty


# ------------------------------------------------------------------------------------------------------------- learn


@dataclass(frozen=True)
class FitRequest(Record):
    """Make (or find in the store) the model you are to have."""

    message_type: ClassVar[str] = "train.fit"
    population: str  # key in the artifact store
    per_client: bool  # own initial weights and batch order
    own_rows: bool  # train on your own rows, not on the shared training set
    models: int = 1  # how many you may have to train for that, all of a cohort; your time is as many times a client's


@dataclass(frozen=True)
class AdoptRequest(Record):
    """Take these weights as your model; the arrays themselves travel beside this record, as `arrays`."""

    message_type: ClassVar[str] = "train.adopt"
    population: str


@dataclass(frozen=True)
class Parcel(Record):
    """Base of what a server hands out: bytes, the same to every client."""

    population: str
    parcel: NDArray[np.uint8]  # (bytes,)

    def __post_init__(self) -> None:
        _bytes("parcel", self.parcel)

    @property
    def information_bytes(self) -> int:  # type: ignore[override]
        """The parcel's."""
        return self.parcel.nbytes


@dataclass(frozen=True)
class PayloadRequest(Parcel):
    """Learn the task from these labels over your reference images: docs/payload-format.md (plada)."""

    message_type: ClassVar[str] = "train.payload"
    per_client: bool  # a student of your own
    models: int = 1  # see FitRequest


@dataclass(frozen=True)
class ImagesRequest(Parcel):
    """Learn the task from these labelled images: fl_sim/plada/images.py (coreset)."""

    message_type: ClassVar[str] = "train.images"
    per_client: bool
    models: int = 1


@dataclass(frozen=True)
class WeightsRequest(Parcel):
    """Take this network as your model: fl_sim/plada/weights.py (weights)."""

    message_type: ClassVar[str] = "train.weights"
    recipe: str  # JSON: of which architecture it is


@dataclass(frozen=True)
class ProbeRequest(Parcel):
    """Put this linear layer on the backbone that your reference set gives: fl_sim/plada/probe.py (probe)."""

    message_type: ClassVar[str] = "train.probe"
    centroids: int  # of the backbone


@dataclass(frozen=True)
class FitReport(Record):
    """A client has its model."""

    partition: int
    num_examples: int  # rows it was trained on

    def __post_init__(self) -> None:
        checked_count("num_examples", self.num_examples)


# --------------------------------------------------------------------------------------------------------- calibrate


@dataclass(frozen=True)
class TemperatureRequest(Record):
    """Send the temperature of your logits that makes the labels likeliest on the rows that your calibrator is fitted
    on, and how many rows they are."""

    message_type: ClassVar[str] = "query.temperature"
    population: str
    score: str  # JSON of the score's table, with the share of the rows


@dataclass(frozen=True)
class TemperatureReport(Record):
    """(log T_k, m_k): 16 bytes of information."""

    partition: int
    log_temperature: float
    num_calibration: int  # m_k, the client's weight

    information_bytes: ClassVar[int] = 2 * FLOAT_BYTES

    def __post_init__(self) -> None:
        checked_count("num_calibration", self.num_calibration)
        _number("log_temperature", self.log_temperature)
        if not abs(self.log_temperature) <= math.log(MOST_TEMPERATURE) + 1e-9:
            raise ValueError(f"log_temperature = {self.log_temperature!r}: the temperature must lie in 1/20..20")


@dataclass(frozen=True)
class ThresholdRequest(Record):
    """Send your own conformal threshold and how many points it rests on."""

    message_type: ClassVar[str] = "query.threshold"
    population: str
    alpha: float
    score: str  # JSON of the score's table
    small_n: str
    align: str = ""  # bring your scores to a common scale first: one of conformal/alignment.py; empty: as they are
    density: bool = False  # also send the density of your scores at the threshold


@dataclass(frozen=True)
class ThresholdReport(Record):
    """(q_k, n_k): 16 bytes of information."""

    partition: int
    threshold: float
    num_calibration: int  # the client's weight: 0 for a client that takes no part
    density: float = 0.0  # of its scores at the threshold; 0 where it was not asked for

    information_bytes: ClassVar[int] = 2 * FLOAT_BYTES

    def __post_init__(self) -> None:
        checked_count("num_calibration", self.num_calibration)
        _number("threshold", self.threshold)
        _number("density", self.density, least=0)


@dataclass(frozen=True)
class OrderStatisticRequest(Record):
    """Send the `rank`-th smallest of `size` of your calibration scores, drawn at random where you have more."""

    message_type: ClassVar[str] = "query.order"
    population: str
    score: str
    rank: int  # from 1
    size: int

    information_bytes: ClassVar[int] = FLOAT_BYTES


@dataclass(frozen=True)
class ScoresRequest(Record):
    """Send all your calibration scores."""

    message_type: ClassVar[str] = "query.scores"
    population: str
    score: str
    labels: bool = False  # and the label of each, in regression its target's bin
    num_labels: int = 0  # of which there are so many; 0: that is not said


@dataclass(frozen=True)
class ScoresReport(Record):
    """Every calibration score of a client, (n_k,), and their labels, (n_k,) or (0,) where they were not asked for."""

    partition: int
    scores: NDArray[np.float64]
    labels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def __post_init__(self) -> None:
        if self.scores.ndim != 1 or np.isnan(self.scores).any():
            raise ValueError("scores must be one number for each calibration point, and none of them NaN")
        if self.labels.shape not in ((0,), self.scores.shape) or self.labels.dtype.kind != "i":
            raise ValueError("labels must be one whole number for each score, or none at all")
        if (self.labels < 0).any():
            raise ValueError("labels must be at least 0")

    @property
    def information_bytes(self) -> int:  # type: ignore[override]
        """Eight bytes a score, one a label."""
        return FLOAT_BYTES * len(self.scores) + len(self.labels)


@dataclass(frozen=True)
class SizeRequest(Record):
    """Send the number of your calibration points, and between which numbers their scores lie."""

    message_type: ClassVar[str] = "query.size"
    population: str
    score: str


@dataclass(frozen=True)
class SizeReport(Record):
    """n_k, and the smallest and largest score of them (0 and 0 where there is none)."""

    partition: int
    num_calibration: int
    low: float
    high: float

    def __post_init__(self) -> None:
        checked_count("num_calibration", self.num_calibration)
        _number("low", self.low)
        _number("high", self.high, least=self.low)


@dataclass(frozen=True)
class SketchRequest(Record):
    """Send a mergeable sketch of your calibration scores."""

    message_type: ClassVar[str] = "query.sketch"
    population: str
    score: str
    kind: str  # of conformal/sketches.py


@dataclass(frozen=True)
class SketchReport(Record):
    """A sketch of n_k scores, as its package serialises it."""

    partition: int
    num_calibration: int
    sketch: NDArray[np.uint8]

    def __post_init__(self) -> None:
        checked_count("num_calibration", self.num_calibration)
        _bytes("sketch", self.sketch)

    @property
    def information_bytes(self) -> int:  # type: ignore[override]
        """The sketch and the number."""
        return len(self.sketch) + FLOAT_BYTES


@dataclass(frozen=True)
class HistogramRequest(Record):
    """Send the counts of your calibration scores over a grid."""

    message_type: ClassVar[str] = "query.histogram"
    population: str
    score: str
    grid: str  # JSON of a `ScoreGrid`
    num_labels: int  # a row of counts for each of so many classes (in regression bins of the target); 0: one for all
    budget: int  # bytes: a client whose code is longer coarsens its bins by twos until it fits; 0: never
    parts: int = 1  # in which a client's points arrive, one after another
    part_from: int = 0  # of them those from this one, counted from 0, up to but without `part_to`: a row of counts
    part_to: int = 1  # (with `num_labels`, a row for each class) for each part
    epsilon: float = 0.0  # of the geometric mechanism on each count; 0: true counts
    share: int = 1  # over how many clients the noise is shared out (their sum is private, not each report)

    @property
    def rows(self) -> int:
        """Of counts in the answer."""
        return (self.part_to - self.part_from) * max(1, self.num_labels)


@dataclass(frozen=True)
class HistogramReport(Record):
    """Counts over a grid, coded by conformal/histogram.py."""

    partition: int
    code: NDArray[np.uint8]
    rows: int = 1  # one for each part that was asked for, or one for each class of each

    def __post_init__(self) -> None:
        _bytes("code", self.code)
        checked_count("rows", self.rows)

    @property
    def information_bytes(self) -> int:  # type: ignore[override]
        """The code."""
        return len(self.code)


@dataclass(frozen=True)
class CountsRequest(Record):
    """Count your calibration scores up to each of these candidates, (J,)."""

    message_type: ClassVar[str] = "query.counts"
    population: str
    score: str
    align: str
    candidates: NDArray[np.float64]

    @property
    def information_bytes(self) -> int:  # type: ignore[override]
        """Eight bytes a candidate."""
        return FLOAT_BYTES * len(self.candidates)


@dataclass(frozen=True)
class CountsReport(Record):
    """#{S <= candidate} for each candidate, (J,), and n_k."""

    partition: int
    num_calibration: int
    counts: NDArray[np.int64]

    def __post_init__(self) -> None:
        checked_count("num_calibration", self.num_calibration)
        counts = self.counts
        if counts.ndim != 1 or counts.dtype.kind != "i" or (counts < 0).any() or (counts > self.num_calibration).any():
            raise ValueError(f"counts must be whole numbers in 0..{self.num_calibration}")

    @property
    def information_bytes(self) -> int:  # type: ignore[override]
        """Four bytes a count."""
        return 4 * len(self.counts)


@dataclass(frozen=True)
class LabelCountsRequest(Record):
    """Count your calibration points of each class (in regression, of each bin of the target)."""

    message_type: ClassVar[str] = "query.labels"
    population: str
    num_labels: int = 0  # of which there are so many; 0: that is not said
    score: str = ""  # JSON: count those that such a score is taken of; empty: all of them


@dataclass(frozen=True)
class LabelCountsReport(Record):
    """How many calibration points a client has of each class, (C,)."""

    partition: int
    counts: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.counts.ndim != 1 or self.counts.dtype.kind != "i" or (self.counts < 0).any():
            raise ValueError("counts must be whole numbers, at least 0, one for each class")

    @property
    def information_bytes(self) -> int:  # type: ignore[override]
        """Four bytes a count."""
        return 4 * len(self.counts)


@dataclass(frozen=True)
class DescendRequest(Record):
    """Go some steps down the smoothed pinball loss of your own scores, and say how far you came (dp-fedcp)."""

    message_type: ClassVar[str] = "query.descend"
    population: str
    score: str
    start: float
    alpha: float
    steps: int
    step_size: float
    smoothing: float
    noise: float  # standard deviation of the Gaussian noise on each step's gradient
    turn: int  # number of the round, so that each has its own noise
    weights: str = "[1.0]"  # JSON: importance of each class (in regression of each bin), or of all alike

    @property
    def information_bytes(self) -> int:  # type: ignore[override]
        """The start, and the weights where there is one for each class."""
        return FLOAT_BYTES * (1 + self.weights.count(",") + ("," in self.weights))


@dataclass(frozen=True)
class AgreeRequest(Record):
    """Solve your own part of the ADMM step for the pooled quantile (q-dcp)."""

    message_type: ClassVar[str] = "query.agree"
    population: str
    score: str
    level: float  # 1 - the corrected alpha
    smoothing: float  # the sharpness of the softplus, κ
    regularisation: float  # μ
    anchor: float  # q_0
    penalty: float  # c
    degree: int  # neighbours
    value: float  # your last x
    dual: float  # your last dual variable
    neighbours: float  # sum of your neighbours' last x

    information_bytes: ClassVar[int] = FLOAT_BYTES  # of which only the neighbours' sum is news to the client


@dataclass(frozen=True)
class StepReport(Record):
    """One number: how far a client's descent came, or its new x."""

    partition: int
    value: float

    information_bytes: ClassVar[int] = FLOAT_BYTES

    def __post_init__(self) -> None:
        _number("value", self.value)
        if self.value == math.inf:
            raise ValueError("value = inf: must be finite")


# ---------------------------------------------------------------------------------------------------------- evaluate


@dataclass(frozen=True)
class EvaluateRequest(Record):
    """Test yourself with this threshold, or with these, one for each class."""

    message_type: ClassVar[str] = "evaluate.sets"
    population: str
    score: str  # empty: accuracy only
    threshold: NDArray[np.float64]  # (1,) or (C,); inf covers every label; ignored where `score` is empty
    align: str = ""  # the threshold is on this common scale

    def __post_init__(self) -> None:
        if self.threshold.ndim != 1 or not len(self.threshold):
            raise ValueError(f"threshold of shape {self.threshold.shape}: must have shape (1,) or (C,)")
        for value in self.threshold.tolist():
            _number("threshold", value)

    @property
    def information_bytes(self) -> int:  # type: ignore[override]
        """Eight bytes a threshold."""
        return self.threshold.nbytes


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
    # Of probabilities, (m, 6), see calibration_metrics.py; of no points in regression, and where the model answers nan.
    reliability: NDArray[np.float64] = field(default_factory=lambda: NOTHING)

    measured: ClassVar[tuple[str, ...]] = ("reliability",)

    def __post_init__(self) -> None:
        checked_table(self.reliability, self.num_test)
        for name in ("num_test", "num_covered", "num_empty", "num_infinite", "num_correct"):
            checked_count(name, getattr(self, name))
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
    def of(cls, partition: int, tally: Tally, reliability: NDArray[np.float64] = NOTHING) -> EvaluateReport:
        """A client's tally, and the table of its probabilities, as its report."""
        counts = {f.name: getattr(tally, f.name) for f in dataclasses.fields(tally)}
        return cls(partition=partition, **counts, reliability=reliability)

    def tally(self) -> Tally:
        """The counts alone."""
        return Tally(**{f.name: getattr(self, f.name) for f in dataclasses.fields(Tally)})


@dataclass(frozen=True)
class OpinionsRequest(Record):
    """Say what you think of the rows on which everybody is asked: the laboratory's question, of no method."""

    message_type: ClassVar[str] = "evaluate.opinions"
    population: str
    rows: int  # how many of the rows that are tested; which they are everybody draws alike
    score: str  # empty: no prediction sets
    threshold: NDArray[np.float64]  # (1,) or (C,), your own; ignored where `score` is empty
    align: str = ""  # the threshold is on this common scale


@dataclass(frozen=True)
class OpinionsReport(Record):
    """What a client's model says of the n common rows, and the client's prediction sets for them."""

    partition: int
    predictions: NDArray[np.float32]  # (n, C) probabilities; in regression (n, 1) means in the target's std
    sets: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))  # n C bits, packed; none: (0,)
    intervals: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 2)))  # (n, 2) in regression

    def __post_init__(self) -> None:
        _bytes("sets", self.sets)
        if self.predictions.ndim != 2 or not np.isfinite(self.predictions).all():
            raise ValueError("predictions must be finite numbers, a row for each of the common rows")
        bits, rows = -(-self.predictions.size // 8), len(self.predictions)
        if len(self.sets) not in (0, bits) or self.intervals.shape not in ((0, 2), (rows, 2)):
            raise ValueError(f"sets or intervals that are not of the {rows} rows of the predictions")
        if np.isnan(self.intervals).any():
            raise ValueError("intervals must have numbers or infinities at their ends")


# ------------------------------------------------------------------------------------------------------------ wiring


def pack(record: Record) -> RecordDict:
    """A record as Flower sends it."""
    numbers: dict[str, Any] = {}
    words: dict[str, Any] = {}
    arrays: dict[str, Array] = {}
    measured: dict[str, Array] = {}
    for part in dataclasses.fields(record):
        value = getattr(record, part.name)
        if part.name in record.measured:
            measured |= {part.name: array_of(value)} if value.size else {}
        elif isinstance(value, np.ndarray):
            arrays[part.name] = array_of(value)
        elif isinstance(value, str | bool):
            words[part.name] = value
        else:
            numbers[part.name] = value
    content = RecordDict()
    if numbers:
        content["numbers"] = MetricRecord(numbers)
    if words:
        content["words"] = ConfigRecord(words)
    if arrays:
        content["values"] = ArrayRecord(arrays)
    if measured:
        content[MEASURED] = ArrayRecord(measured)
    return content


def unpack(kind: type[T], content: RecordDict) -> T:
    """The record that was packed.

    Raises:
        ValueError: the content is not that record: another record type, a field that is missing, unknown or of another
            type (a fraction for a whole number, say), an array that is none, or values that are impossible.
    """
    found: dict[str, Any] = {}
    for name, wanted_type in _RECORDS.items():
        record: Any = content.get(name, {})
        if record and not isinstance(record, wanted_type):
            told = f"{name!r} is a {type(record).__name__}, not a {wanted_type.__name__}"
            raise ValueError(f"not a {kind.__name__}: {told}")
        found |= {key: values_of(v) if isinstance(v, Array) else v for key, v in record.items()}
    wanted = _fields(kind)  # type: ignore[arg-type]  # a class is hashable, whatever its instances are
    if set(found) | set(kind.measured) != set(wanted):
        odd = ", ".join(sorted(set(found) ^ set(wanted)))
        raise ValueError(f"not a {kind.__name__}: missing or unknown: {odd}")
    for name, value in found.items():
        if not _is_a(value, wanted[name]):
            told = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else f"{value!r}"[:80]
            raise ValueError(f"{name} = {told}: must be {_TYPES.get(wanted[name], f'an array, {wanted[name]}')}")
    return kind(**found)


@cache
def _fields(kind: type[Record]) -> dict[str, str]:
    """Name -> annotation."""
    return {part.name: str(part.type) for part in dataclasses.fields(kind)}


_RECORDS = {"numbers": MetricRecord, "words": ConfigRecord, "values": ArrayRecord, MEASURED: ArrayRecord}
_TYPES = {"int": "a whole number", "float": "a number", "str": "text", "bool": "true or false"}


def _is_a(value: Any, wanted: str) -> bool:
    """Whether a value is of the type that its field's annotation names."""
    if wanted == "int":
        return isinstance(value, int) and not isinstance(value, bool)
    if wanted == "float":
        return isinstance(value, int | float) and not isinstance(value, bool)
    if wanted in ("str", "bool"):
        return isinstance(value, str if wanted == "str" else bool)
    return isinstance(value, np.ndarray) and wanted == f"NDArray[np.{value.dtype.name}]"


def array_of(values: NDArray[Any]) -> Array:
    """What `Array(values)` gives, to the last byte, without NumPy's writing of its header, which for small arrays costs
    more than all else in a message."""
    plain = np.asarray(values, order="C")  # which leaves an array of no dimension one
    name, header = _named(plain.dtype, plain.shape)
    return Array(name, plain.shape, SType.NUMPY, header + plain.tobytes())


@lru_cache(maxsize=4096)
def _named(kind: np.dtype[Any], shape: tuple[int, ...]) -> tuple[str, bytes]:
    """A type's name, and the header of NumPy's file format, version 1.0."""
    file = io.BytesIO()
    told = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, told)
    return str(kind), file.getvalue()


def values_of(array: Array) -> NDArray[Any]:
    """What `array.numpy()` gives, but read-only and without its copy and its parsing of NumPy's header, which for small
    arrays cost more than all else in a message.

    Raises:
        ValueError: the bytes are no array of numbers.
    """
    data, kind = array.data, np.dtype(array.dtype)
    start = 10 + int.from_bytes(data[8:10], "little")
    plain = b"{'descr': '%s', 'fortran_order': False, 'shape': (" % kind.str.encode()
    # NumPy's file format, version 1.0, as np.save writes it; whatever is written otherwise is left to NumPy.
    if data[:8] != b"\x93NUMPY\x01\x00" or not data[10:start].startswith(plain) or kind.hasobject:
        return array.numpy()
    if len(data) - start != math.prod(array.shape) * kind.itemsize:
        raise ValueError(f"an array of shape {tuple(array.shape)} and type {kind} in {len(data) - start} bytes")
    return np.frombuffer(data, kind, offset=start).reshape(array.shape)


# What answers each type of request; a type that is not here is a user's own.
REPLIES: dict[str, type[Record]] = {
    FitRequest.message_type: FitReport,
    AdoptRequest.message_type: FitReport,
    PayloadRequest.message_type: FitReport,
    ImagesRequest.message_type: FitReport,
    WeightsRequest.message_type: FitReport,
    ProbeRequest.message_type: FitReport,
    TemperatureRequest.message_type: TemperatureReport,
    ThresholdRequest.message_type: ThresholdReport,
    OrderStatisticRequest.message_type: ThresholdReport,
    ScoresRequest.message_type: ScoresReport,
    SizeRequest.message_type: SizeReport,
    SketchRequest.message_type: SketchReport,
    HistogramRequest.message_type: HistogramReport,
    CountsRequest.message_type: CountsReport,
    LabelCountsRequest.message_type: LabelCountsReport,
    DescendRequest.message_type: StepReport,
    AgreeRequest.message_type: StepReport,
    EvaluateRequest.message_type: EvaluateReport,
    OpinionsRequest.message_type: OpinionsReport,
}

# Exchanges that are the laboratory's altogether: neither question nor answer is weighed.
UNWEIGHED = frozenset({OpinionsRequest.message_type})


def weight(content: RecordDict) -> int:
    """Bytes of a message's content as Flower serialises it, without what is the laboratory's alone."""
    if MEASURED in content:
        content = RecordDict({name: record for name, record in content.items() if name != MEASURED})
    return int(recorddict_to_proto(content).ByteSize())


def checked_count(name: str, value: Any) -> None:
    """Refuse what is no whole number, at least 0."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{name} = {value!r}: must be a whole number, at least 0")


def _bytes(name: str, value: NDArray[np.uint8]) -> None:
    if value.ndim != 1 or value.dtype != np.uint8:
        raise ValueError(f"{name} of shape {value.shape}, type {value.dtype}: must be bytes")


def _number(name: str, value: Any, least: float | None = None) -> None:
    if not isinstance(value, int | float) or math.isnan(value) or value == -math.inf:
        raise ValueError(f"{name} = {value!r}: must be a number or +inf")
    if least is not None and value < least:
        raise ValueError(f"{name} = {value!r}: must be at least {least:g}")
