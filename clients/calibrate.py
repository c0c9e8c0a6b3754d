"""A client's calibration: scores of its own points, its own threshold, and its test with a threshold given."""

from __future__ import annotations

import numpy as np
from flwr.app import Context, Message, RecordDict
from numpy.typing import NDArray

from clients.predictions import Seat
from fl_sim.conformal.coverage import Tally, tally_intervals, tally_sets
from fl_sim.conformal.scores import from_json
from fl_sim.conformal.thresholds import local_threshold
from fl_sim.randomness import stream
from fl_sim.records import (
    EvaluateReport,
    EvaluateRequest,
    ScoresReport,
    ScoresRequest,
    ThresholdReport,
    ThresholdRequest,
    pack,
    unpack,
)

Floats = NDArray[np.float64]


def threshold(message: Message, context: Context) -> RecordDict:
    """(q_k, n_k) of the client's own calibration points."""
    request = unpack(ThresholdRequest, message.content)
    seat = Seat.of(context, request.population)
    q, n = local_threshold(_calibration_scores(seat, request.score), request.alpha, request.small_n)  # type: ignore[arg-type]
    return pack(ThresholdReport(seat.client.id, q, n))


def scores(message: Message, context: Context) -> RecordDict:
    """All calibration scores of the client."""
    request = unpack(ScoresRequest, message.content)
    seat = Seat.of(context, request.population)
    return pack(ScoresReport(seat.client.id, _calibration_scores(seat, request.score)))


def evaluate(message: Message, context: Context) -> RecordDict:
    """Counts over the client's test points."""
    request = unpack(EvaluateRequest, message.content)
    seat = Seat.of(context, request.population)
    if seat.population.data.classes is None:
        tally = _tally_regression(seat, request)
    else:
        tally = _tally_classification(seat, request)
    return pack(EvaluateReport.of(seat.client.id, tally))


def _calibration_scores(seat: Seat, score: str) -> Floats:
    data, targets = seat.population.data, seat.targets("calibration")
    if data.classes is None:
        return np.asarray(from_json(score).of(data.in_unit(seat.outputs("calibration")), targets))
    probabilities = softmax(seat.outputs("calibration"))
    return np.asarray(from_json(score).of(probabilities, targets, _uniforms(seat, "calibration")))


def _tally_classification(seat: Seat, request: EvaluateRequest) -> Tally:
    data, rows = seat.population.data, seat.client.test
    outputs = seat.outputs("test")
    guesses, targets = outputs.argmax(axis=1), data.targets[rows]
    if not request.score:
        return tally_sets(np.zeros_like(outputs), targets, np.inf, guesses)
    all_labels = from_json(request.score).all_labels(softmax(outputs), _uniforms(seat, "test"))
    return tally_sets(all_labels, targets, request.threshold, guesses)


def _tally_regression(seat: Seat, request: EvaluateRequest) -> Tally:
    data = seat.population.data
    predictions, targets = data.in_unit(seat.outputs("test")), data.targets[seat.client.test]
    if not request.score:
        centre = predictions.mean(axis=1)
        return tally_intervals(centre, centre, targets, scores=np.zeros(len(targets)), threshold=np.inf, centres=centre)
    score = from_json(request.score)
    low, high = score.interval(predictions, request.threshold)
    own = score.of(predictions, targets)
    return tally_intervals(
        low, high, targets, scores=own, threshold=request.threshold, centres=score.centre(predictions)
    )


def softmax(logits: NDArray[np.float32]) -> Floats:
    """Probabilities (n, C) in double precision, so that a confident model's scores stay apart from each other."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True, initial=-np.inf)
    np.exp(shifted, out=shifted)
    return shifted / shifted.sum(axis=1, keepdims=True)


def _uniforms(seat: Seat, split: str) -> Floats:
    """A randomised score's uniforms: the client's own, one for each of its points."""
    rows = getattr(seat.client, split)
    return stream(seat.population.seed, "score", split, seat.client.id).random(len(rows))
