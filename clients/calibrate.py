"""A client's calibration: scores of its own points, its own threshold, and its test with a threshold given."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from numpy.typing import NDArray

from clients.behaviour import told_scores
from clients.predictions import ClientContext
from fl_sim.conformal.aggregation import density_at
from fl_sim.conformal.alignment import RankScale, Ratio, root_mean_square
from fl_sim.conformal.calibrator_plan import Plan, plan_of
from fl_sim.conformal.coverage import Tally, tally_intervals, tally_sets
from fl_sim.conformal.histogram import ScoreGrid, coarsened, encode
from fl_sim.conformal.privacy import noisy_counts
from fl_sim.conformal.probability_calibrators import Calibrator, Temperature, best_temperature, fit
from fl_sim.conformal.reliability import NOTHING, log_softmax, tabulate
from fl_sim.conformal.scores import from_json
from fl_sim.conformal.sketches import sketch_of
from fl_sim.conformal.thresholds import local_threshold
from fl_sim.errors import log
from fl_sim.messages.calibration import (
    CountsReport,
    CountsRequest,
    HistogramReport,
    HistogramRequest,
    LabelCountsReport,
    LabelCountsRequest,
    OrderStatisticRequest,
    ScoresReport,
    ScoresRequest,
    SizeReport,
    SizeRequest,
    SketchReport,
    SketchRequest,
    TemperatureReport,
    TemperatureRequest,
    ThresholdReport,
    ThresholdRequest,
)
from fl_sim.messages.evaluation import EvaluateReport, EvaluateRequest
from fl_sim.messages.wire import pack, unpack
from fl_sim.randomness import stream

Floats = NDArray[np.float64]
Which = NDArray[np.int64] | slice  # rows

ALL = slice(None)
KEPT = 4096  # clients whose calibrator a process keeps at hand


def temperature(message: Message, context: Context) -> RecordDict:
    """(log T_k, m_k) of the client's own best temperature on the m_k rows that its calibrator is fitted on."""
    request = unpack(TemperatureRequest, message.content)
    client_context = ClientContext.of(context, request.population)
    logits, labels = Scorer.of(client_context, request.score).fitting()
    return pack(TemperatureReport(client_context.client.id, math.log(best_temperature(logits, labels)), len(labels)))


def threshold(message: Message, context: Context) -> RecordDict:
    """(q_k, n_k) of the client's own calibration points."""
    request = unpack(ThresholdRequest, message.content)
    client_context = ClientContext.of(context, request.population)
    scores = Scorer.of(client_context, request.score, request.align).calibration()
    q, n = local_threshold(scores, request.alpha, request.small_n)  # type: ignore[arg-type]
    return pack(ThresholdReport(client_context.client.id, q, n, density_at(scores, q) if request.density else 0.0))


def order(message: Message, context: Context) -> RecordDict:
    """An order statistic of the calibration scores, or of so many of them drawn at random."""
    request = unpack(OrderStatisticRequest, message.content)
    client_context = ClientContext.of(context, request.population)
    scores = Scorer.of(client_context, request.score).calibration()
    if not 1 <= request.rank <= request.size <= len(scores):
        asked = f"rank {request.rank} of {request.size} scores"
        raise ValueError(f"{asked}, and the client has {len(scores)}: 1 <= rank <= size <= n_k")
    drawn = stream(client_context.population.seed, "order statistic", client_context.client.id).permutation(scores)[
        : request.size
    ]
    return pack(ThresholdReport(client_context.client.id, float(np.sort(drawn)[request.rank - 1]), request.size))


def scores(message: Message, context: Context) -> RecordDict:
    """All calibration scores of the client, and their labels where they are asked for."""
    request = unpack(ScoresRequest, message.content)
    client_context = ClientContext.of(context, request.population)
    scorer = Scorer.of(client_context, request.score)
    found, which = told_scores(client_context.client, client_context.population, scorer.calibration())
    labels = scorer.labels()[which] if request.labels else np.zeros(0, np.int64)
    return pack(ScoresReport(client_context.client.id, found, labels))


def size(message: Message, context: Context) -> RecordDict:
    """n_k and the range of the calibration scores."""
    request = unpack(SizeRequest, message.content)
    client_context = ClientContext.of(context, request.population)
    found, _ = told_scores(
        client_context.client, client_context.population, Scorer.of(client_context, request.score).calibration()
    )
    low, high = (float(found.min()), float(found.max())) if len(found) else (0.0, 0.0)
    return pack(SizeReport(client_context.client.id, len(found), low, high))


def sketch(message: Message, context: Context) -> RecordDict:
    """A sketch of the calibration scores."""
    request = unpack(SketchRequest, message.content)
    client_context = ClientContext.of(context, request.population)
    found, _ = told_scores(
        client_context.client, client_context.population, Scorer.of(client_context, request.score).calibration()
    )
    made = np.frombuffer(sketch_of(found, request.kind), np.uint8)
    return pack(SketchReport(client_context.client.id, len(found), made))


def histogram(message: Message, context: Context) -> RecordDict:
    """Counts of the calibration scores over a grid."""
    request = unpack(HistogramRequest, message.content)
    client_context, grid = ClientContext.of(context, request.population), ScoreGrid.from_text(request.grid)
    scorer = Scorer.of(client_context, request.score)
    found, which = told_scores(client_context.client, client_context.population, scorer.calibration())
    part = np.arange(len(found)) % request.parts
    arrived = (part >= request.part_from) & (part < request.part_to)
    classes = request.num_labels
    if classes not in (0, client_context.population.num_bins):
        raise ValueError(
            f"num_labels = {classes}: must be {client_context.population.num_bins}, or 0 for all in one row"
        )
    labels = scorer.labels()[which] if classes else np.zeros(len(found), np.int64)
    row = (part - request.part_from) * max(1, classes) + labels
    counts = grid.count_by(found[arrived], row[arrived], request.rows)
    if request.epsilon:
        rng = stream(client_context.population.seed, "private", client_context.client.id)
        counts = noisy_counts(counts, request.epsilon, request.share, rng)
    code = encode(counts)
    while request.budget and len(code) > request.budget and (counts.shape[1] - 1) % 2 == 0:
        counts = coarsened(counts)
        code = encode(counts)
    return pack(HistogramReport(client_context.client.id, code, request.rows))


def counts(message: Message, context: Context) -> RecordDict:
    """How many calibration scores lie up to each candidate."""
    request = unpack(CountsRequest, message.content)
    client_context = ClientContext.of(context, request.population)
    found, _ = told_scores(
        client_context.client,
        client_context.population,
        Scorer.of(client_context, request.score, request.align).calibration(),
    )
    up_to = np.searchsorted(np.sort(found), request.candidates, side="right").astype(np.int64)
    return pack(CountsReport(client_context.client.id, len(found), up_to))


def label_counts(message: Message, context: Context) -> RecordDict:
    """How many calibration points the client has of each class."""
    request = unpack(LabelCountsRequest, message.content)
    client_context = ClientContext.of(context, request.population)
    labels = (
        Scorer.of(client_context, request.score).labels() if request.score else client_context.labels("calibration")
    )
    found = np.bincount(labels, minlength=client_context.population.num_bins)
    return pack(LabelCountsReport(client_context.client.id, found.astype(np.int64)))


def evaluate(message: Message, context: Context) -> RecordDict:
    """Counts over the client's test points."""
    request = unpack(EvaluateRequest, message.content)
    client_context = ClientContext.of(context, request.population)
    if client_context.population.data.classes is None:
        tally, reliability = _tally_regression(client_context, request), NOTHING
    else:
        tally, reliability = _tally_classification(client_context, request)
    return pack(EvaluateReport.of(client_context.client.id, tally, reliability))


@dataclass(frozen=True)
class Scorer:
    """A client's points as a score sees them: after the client's calibrator where it fits one, and on a scale common to
    all clients where one is asked for. The calibration rows that a calibrator is fitted on set no threshold: of the
    "calibration" split, `calibration`, `labels`, `predictions` and `log_probabilities` hold the other rows alone."""

    client_context: ClientContext
    score: Any
    align: str
    plan: Plan | None = None  # of calibrating

    @classmethod
    def of(cls, client_context: ClientContext, score: str, align: str = "") -> Scorer:
        """`score` is JSON, as a message carries it."""
        return cls(client_context, from_json(score), align, plan_of(score))

    @property
    def _regression(self) -> bool:
        return self.client_context.population.data.classes is None

    def calibration(self) -> Floats:
        """The scores of the calibration points, (n_k,)."""
        return self.common(self._of("calibration", self.client_context.targets("calibration"), self.temperature))

    def labels(self) -> NDArray[np.int64]:
        """The labels of the same points, (n_k,), as the client gives them; in regression their targets' bins."""
        return self.client_context.labels("calibration")[self._which("calibration")]

    def fitting(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The logits (m_k, C) and labels (m_k,) that the client fits its calibrator to."""
        rows = self._split[0]
        return self.client_context.outputs("calibration")[rows], self.client_context.labels("calibration")[rows]

    def common(self, scores: Floats) -> Floats:
        """The client's scores on the common scale, of any shape. Test scores go the same way as those of calibration
        and are compared there, so that a score that ties with the threshold stays a tie."""
        return self.scale.common(scores) if self.scale else scores

    def predictions(self, split: str, temperature: float = 1.0) -> Floats:
        """What the score takes: probabilities (n, C), or predictions in the unit of the data."""
        if self.plan is not None:
            return np.exp(self.log_probabilities(split))
        outputs = self.client_context.outputs(split)
        return (
            self.client_context.population.data.in_unit(outputs) if self._regression else softmax(outputs / temperature)
        )

    def log_probabilities(self, split: str) -> Floats:
        """Log-probabilities (n, C) of the client's rows of a split, as its scores are made of: of its calibrator where
        it fits one, else `log_softmax` of its logits, `client_context.outputs(split)`, over the temperature that
        `align` asks for. Finite. Of "calibration" the rows that set the threshold; classification only."""
        outputs = self.client_context.outputs(split)[self._which(split)].astype(np.float64)
        if self.calibrator is not None:
            return self.calibrator(outputs)
        return log_softmax(outputs / self.temperature)

    @cached_property
    def calibrator(self) -> Calibrator | None:
        """The client's; None where it fits none."""
        if self.plan is None:
            return None
        if self.plan.temperature is not None:
            return Temperature(self.plan.temperature)
        found = _calibrator(_Fitting.of(self.client_context, self.plan))
        if getattr(found, "stayed", False):
            log.warning("calibrator = %r: a client's probabilities stay where no minimum is found", self.plan.name)
        return found

    @cached_property
    def _split(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The calibration rows that the calibrator is fitted on, and those that set the threshold."""
        if self.plan is None:
            raise ValueError("this client fits no calibrator")
        client = self.client_context.client
        return self.plan.split(self.client_context.population.seed, client.id, len(client.calibration))

    def _which(self, split: str) -> Which:
        return ALL if self.plan is None or split != "calibration" else self._split[1]

    @cached_property
    def temperature(self) -> float:
        """What the client's logits are divided by."""
        if self.align != "temperature" or self._regression:
            return 1.0
        return best_temperature(self.client_context.outputs("train"), self.client_context.targets("train"))

    @cached_property
    def scale(self) -> RankScale | Ratio | None:
        """The client's own map to the common scale; None where its scores stay as they are."""
        if not self.align or (self.align == "temperature" and not self._regression):
            return None
        reference = self._of("train", self.client_context.targets("train"), 1.0)
        return RankScale(reference) if self.align == "rank" else Ratio(root_mean_square(reference))

    def own_threshold(self, threshold: float) -> float:
        """A threshold of the common scale on the client's own."""
        return self.scale.own(threshold) if self.scale else threshold

    def _of(self, split: str, targets: NDArray[Any], temperature: float) -> Floats:
        if self._regression:
            return np.asarray(self.score.of(self.predictions(split), targets))
        which, predictions = self._which(split), self.predictions(split, temperature)
        return np.asarray(self.score.of(predictions, targets[which], uniforms(self.client_context, split)[which]))


@dataclass(frozen=True)
class _Fitting:
    """All that decides a client's calibrator; the context only says how to come by it."""

    root: str
    population: str
    client: int
    model: str
    plan: Plan
    client_context: ClientContext = field(compare=False, repr=False)

    @classmethod
    def of(cls, client_context: ClientContext, plan: Plan) -> _Fitting:
        kept = client_context.context.state.get("model")
        model = str(kept["key"]) if isinstance(kept, ConfigRecord) else ""
        return cls(
            str(client_context.store.root),
            client_context.population.key,
            client_context.client.id,
            model,
            plan,
            client_context,
        )


@lru_cache(maxsize=KEPT)
def _calibrator(fitting: _Fitting) -> Calibrator:
    scorer = Scorer(fitting.client_context, None, "", fitting.plan)
    return fit(fitting.plan.name, *scorer.fitting())


def _tally_classification(client_context: ClientContext, request: EvaluateRequest) -> tuple[Tally, Floats]:
    """The tally, and the table of the probabilities, the model's own and its calibrator's."""
    data, rows = client_context.population.data, client_context.client.test
    outputs = client_context.outputs("test")
    guesses, targets, own = outputs.argmax(axis=1), data.targets[rows], log_softmax(outputs)
    if not request.score:
        return tally_sets(np.zeros_like(outputs), targets, np.inf, guesses), tabulate(own, targets)
    scorer = Scorer.of(client_context, request.score, request.align)
    # What `predictions` says, but once for both: a library's calibrator takes its time.
    calibrated = None if scorer.plan is None else scorer.log_probabilities("test")
    found = scorer.predictions("test", scorer.temperature) if calibrated is None else np.exp(calibrated)
    all_labels = scorer.score.all_labels(found, uniforms(client_context, "test"))
    tally = tally_sets(scorer.common(all_labels), targets, request.threshold, guesses)
    return tally, tabulate(own, targets, calibrated)


def _tally_regression(client_context: ClientContext, request: EvaluateRequest) -> Tally:
    data = client_context.population.data
    predictions, targets = data.in_unit(client_context.outputs("test")), data.targets[client_context.client.test]
    if not request.score:
        centre = predictions.mean(axis=1)
        return tally_intervals(centre, centre, targets, scores=np.zeros(len(targets)), threshold=np.inf, centres=centre)
    scorer = Scorer.of(client_context, request.score, request.align)
    (q,) = request.threshold.tolist()
    low, high = scorer.score.interval(predictions, scorer.own_threshold(q))
    own = scorer.common(scorer.score.of(predictions, targets))
    return tally_intervals(low, high, targets, scores=own, threshold=q, centres=scorer.score.centre(predictions))


def softmax(logits: NDArray[np.float32]) -> Floats:
    """Probabilities (n, C) in double precision, so that a confident model's scores stay apart from each other."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True, initial=-np.inf)
    np.exp(shifted, out=shifted)
    return shifted / shifted.sum(axis=1, keepdims=True)


def uniforms(client_context: ClientContext, split: str) -> Floats:
    """A randomised score's uniforms: the client's own, one for each of its points."""
    return stream(client_context.population.seed, "score", split, client_context.client.id).random(
        len(client_context.rows(split))
    )
