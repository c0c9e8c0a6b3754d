"""What clients answer when they are calibrated: of their scores, and of their test with a threshold given."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from clients.context import ClientContext
from clients.handlers import Handler, of_client, of_scores
from clients.scorer import Scorer
from fl_sim.conformal.aggregation import density_at
from fl_sim.conformal.coverage import tallies_of_intervals, tallies_of_sets
from fl_sim.conformal.histogram import ScoreGrid, coarsened, encode
from fl_sim.conformal.privacy import noisy_counts
from fl_sim.conformal.probability_calibrators import best_temperature
from fl_sim.conformal.reliability import NOTHING, log_softmax, tabulate_each
from fl_sim.conformal.sketches import sketch_of
from fl_sim.conformal.thresholds import local_threshold
from fl_sim.messages.calibration import (
    EvaluateReport,
    EvaluateRequest,
    OrderStatisticRequest,
    ScoresReport,
    ScoresRequest,
    SizeReport,
    SizeRequest,
    ThresholdReport,
    ThresholdRequest,
)
from fl_sim.messages.exchange import Columns
from fl_sim.messages.summaries import (
    CountsReport,
    CountsRequest,
    HistogramReport,
    HistogramRequest,
    LabelCountsReport,
    LabelCountsRequest,
    SketchReport,
    SketchRequest,
    TemperatureReport,
    TemperatureRequest,
)

Floats = NDArray[np.float64]


def temperature(request: TemperatureRequest, scorer: Scorer) -> TemperatureReport:
    """(log T_k, m_k) of the client's own best temperature on the m_k rows that its calibrator is fitted on."""
    logits, labels = scorer.fitting()
    return TemperatureReport(scorer.id, math.log(best_temperature(logits, labels)), len(labels))


def threshold(requests: Sequence[ThresholdRequest], several: ClientContext) -> Columns[ThresholdReport]:
    """(q_k, n_k) of each client's own calibration points."""
    request = requests[0]
    scores = Scorer.of(several, request.score, request.align).by_client()
    pairs = [local_threshold(own, request.alpha, request.small_n) for own in scores]  # type: ignore[arg-type]
    thresholds, sizes = (np.array(column) for column in zip(*pairs, strict=True))
    density = np.zeros(len(scores))
    if request.density:
        density = np.array([density_at(own, q) for own, (q, _) in zip(scores, pairs, strict=True)])
    columns = {"partition": several.ids, "threshold": thresholds, "num_calibration": sizes, "density": density}
    return Columns(ThresholdReport, columns)


def order(request: OrderStatisticRequest, scorer: Scorer) -> ThresholdReport:
    """An order statistic of the calibration scores, or of so many of them drawn at random."""
    scores = scorer.calibration()
    if not 1 <= request.rank <= request.size <= len(scores):
        wanted = f"rank {request.rank} of {request.size} scores"
        raise ValueError(f"{wanted}, and the client has {len(scores)}: 1 <= rank <= size <= n_k")
    drawn = scorer.stream("order statistic").permutation(scores)[: request.size]
    return ThresholdReport(scorer.id, float(np.sort(drawn)[request.rank - 1]), request.size)


def scores(request: ScoresRequest, scorer: Scorer) -> ScoresReport:
    """All calibration scores of the client, and their labels where they are asked for."""
    values, which = scorer.sent()
    return ScoresReport(scorer.id, values, scorer.labels()[which] if request.labels else np.zeros(0, np.int64))


def size(request: SizeRequest, scorer: Scorer) -> SizeReport:
    """n_k and the range of the calibration scores."""
    values, _ = scorer.sent()
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)
    return SizeReport(scorer.id, len(values), low, high)


def sketch(request: SketchRequest, scorer: Scorer) -> SketchReport:
    """A sketch of the calibration scores."""
    values, _ = scorer.sent()
    return SketchReport(scorer.id, len(values), np.frombuffer(sketch_of(values, request.kind), np.uint8))


def histogram(request: HistogramRequest, scorer: Scorer) -> HistogramReport:
    """Counts of the calibration scores over a grid."""
    values, which = scorer.sent()
    part = np.arange(len(values)) % request.parts
    arrived = (part >= request.part_from) & (part < request.part_to)
    num_labels = scorer.num_labels
    if request.by_class and request.num_labels not in (0, num_labels):
        raise ValueError(f"num_labels = {request.num_labels}: must be {num_labels}, or 0")
    row = part - request.part_from
    if request.by_class:
        row = row * num_labels + scorer.labels()[which]
    rows = request.rows(num_labels)
    counts = ScoreGrid.from_text(request.grid).count_by(values[arrived], row[arrived], rows)
    if request.epsilon:
        counts = noisy_counts(counts, request.epsilon, request.share, scorer.stream("private"))
    code = encode(counts)
    while request.budget and len(code) > request.budget and (counts.shape[1] - 1) % 2 == 0:
        counts = coarsened(counts)
        code = encode(counts)
    return HistogramReport(scorer.id, code, rows)


def counts(request: CountsRequest, scorer: Scorer) -> CountsReport:
    """How many calibration scores lie up to each candidate."""
    values, _ = scorer.sent()
    up_to = np.searchsorted(np.sort(values), request.candidates, side="right").astype(np.int64)
    return CountsReport(scorer.id, len(values), up_to)


def label_counts(request: LabelCountsRequest, client_context: ClientContext) -> LabelCountsReport:
    """How many calibration points the client has of each class."""
    asked = Scorer.of(client_context, request.score).labels() if request.score else client_context.labels("calibration")
    counts = np.bincount(asked, minlength=client_context.population.num_bins)
    return LabelCountsReport(client_context.client.id, counts.astype(np.int64))


def evaluate(requests: Sequence[EvaluateRequest], several: ClientContext) -> Columns[EvaluateReport]:
    """Counts over each client's test points."""
    regression = several.population.data.classes is None
    tallies, reliability = (_of_intervals if regression else _of_sets)(requests, several)
    return Columns(EvaluateReport, {"partition": several.ids, **tallies, "reliability": reliability})


def _of_sets(
    requests: Sequence[EvaluateRequest], several: ClientContext
) -> tuple[dict[str, NDArray[np.int64]], list[Floats]]:
    """The tallies, and the tables of the probabilities, the model's own and its calibrator's."""
    outputs, sizes = several.outputs("test"), several.sizes("test")
    targets = several.population.data.targets[several.rows("test")]
    guesses, own, score = outputs.argmax(axis=1), log_softmax(outputs), requests[0].score
    if not score:
        everything = np.full((len(sizes), 1), np.inf)
        tallies = tallies_of_sets(np.zeros_like(outputs), targets, everything, guesses, sizes)
        return tallies, tabulate_each(own, targets, sizes)
    scorer = Scorer.of(several, score, requests[0].align)
    # What `predictions` says, but once for both: a library's calibrator takes its time.
    calibrated = None if scorer.plan is None else scorer.log_probabilities("test")
    made = scorer.predictions("test", scorer.temperature) if calibrated is None else np.exp(calibrated)
    thresholds = _thresholds(requests, outputs.shape[1])
    tallies = tallies_of_sets(scorer.all_labels(made, "test"), targets, thresholds, guesses, sizes)
    return tallies, tabulate_each(own, targets, sizes, calibrated)


def _thresholds(requests: Sequence[EvaluateRequest], num_classes: int) -> Floats:
    """(K, 1), or (K, C) where some client's are one for each class."""
    widths = {len(request.threshold) for request in requests}
    if not widths <= {1, num_classes}:
        raise ValueError(f"thresholds of {sorted(widths)} numbers: must be one, or one for each of {num_classes}")
    return np.array([np.broadcast_to(request.threshold, max(widths)) for request in requests])


def _of_intervals(
    requests: Sequence[EvaluateRequest], several: ClientContext
) -> tuple[dict[str, NDArray[np.int64]], list[Floats]]:
    """The tallies, and nothing of probabilities."""
    data, sizes = several.population.data, several.sizes("test")
    predictions, targets = data.in_unit(several.outputs("test")), data.targets[several.rows("test")]
    nothing = [NOTHING] * len(sizes)
    if not requests[0].score:
        centre, n = predictions.mean(axis=1), len(targets)
        parts = {"scores": np.zeros(n), "thresholds": np.full(n, np.inf), "centres": centre, "sizes": sizes}
        return tallies_of_intervals(centre, centre, targets, **parts), nothing
    scorer = Scorer.of(several, requests[0].score, requests[0].align)
    own = np.repeat([float(q) for (q,) in (request.threshold for request in requests)], sizes)
    low, high = scorer.intervals(predictions, own)
    scores = scorer.common(scorer.score.of(predictions, targets))
    centres = scorer.score.centre(predictions)
    tallies = tallies_of_intervals(low, high, targets, scores=scores, thresholds=own, centres=centres, sizes=sizes)
    return tallies, nothing


HANDLERS = (
    of_scores(
        TemperatureRequest, temperature, number="log_temperature",
        made_up=lambda request, client, points: TemperatureReport(client, 0.0, points[0]),
    ),
    Handler(
        ThresholdRequest, threshold, together=True, number="threshold",
        made_up=lambda request, client, points: ThresholdReport(client, 1 - request.alpha, points[1]),
    ),
    of_scores(
        OrderStatisticRequest, order, number="threshold",
        made_up=lambda request, client, points: ThresholdReport(client, request.rank / request.size, request.size),
    ),
    of_scores(ScoresRequest, scores, counts_scores=True),
    of_scores(SizeRequest, size, counts_scores=True),
    of_scores(SketchRequest, sketch, counts_scores=True),
    of_scores(HistogramRequest, histogram, counts_scores=True),
    of_scores(CountsRequest, counts, counts_scores=True),
    of_client(LabelCountsRequest, label_counts),
    Handler(EvaluateRequest, evaluate, together=True),
)  # fmt: skip
