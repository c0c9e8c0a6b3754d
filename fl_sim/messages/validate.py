"""What the server looks at before it believes an answer: whether the client can mean it, given what it was asked."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from flwr.app import Message, MessageType, RecordDict
from numpy.typing import NDArray

from fl_sim.conformal.histogram import ScoreGrid, decode, refined
from fl_sim.conformal.scores import bounds_of
from fl_sim.conformal.sketches import sketch_from
from fl_sim.conformal.thresholds import min_calibration
from fl_sim.messages.calibration import (
    CountsReport,
    DescendRequest,
    HistogramReport,
    HistogramRequest,
    LabelCountsReport,
    ScoresReport,
    SizeReport,
    SketchReport,
    StepReport,
    ThresholdReport,
)
from fl_sim.messages.evaluation import CommonRowsReport
from fl_sim.messages.record import Record, checked_count
from fl_sim.messages.replies import REPLIES
from fl_sim.messages.wire import unpack, values_of

MOST_CLIENTS = 1 << 40  # no partition is larger


def read(question: Message, reply: Message) -> tuple[int | None, Record | None]:
    """What a reply says: the partition that it is from, if it says so, and its record, if it answers one of ours.

    It is the one place where an answer is believed, on every Grid: `CheckedGrid` asks it, and every strategy by itself.

    Raises:
        ValueError: it is an error, is not what was asked for, or says what cannot be; the message is for the user.
    """
    if reply.has_error():
        raise ValueError(f"failed: {last_line(reply.error.reason)}")
    kind = question.metadata.message_type
    try:
        if kind == MessageType.TRAIN:
            return check_trained(question.content, reply.content), None
        if kind not in REPLIES:
            return None, None
        answer = unpack(REPLIES[kind], reply.content)
        check_answer(question.content, answer)
        partition: int = getattr(answer, "partition", -1)
        if not 0 <= partition < MOST_CLIENTS:
            raise ValueError(f"partition = {partition}: must lie in 0..{MOST_CLIENTS - 1}")
    except ValueError as error:
        raise ValueError(f"it answered nonsense: {error}") from None
    except Exception as error:  # a foreign process's bytes may make any decoder stumble
        raise ValueError(f"it answered nonsense: {type(error).__name__}: {error}") from None
    return partition, answer


def last_line(reason: str | None) -> str:
    """The last line of what a client says of its failure, which in a traceback is the exception."""
    return ((reason or "").strip() or "no reason was given").splitlines()[-1]


def check_answer(question: RecordDict, answer: Record) -> None:
    """Refuse an answer that its question rules out, whoever sent it.

    Raises:
        ValueError: a score or a threshold outside the bounds of the score, an infinite one where there are points for
            a finite one; a histogram that is not one over the grid that was asked for, or has points where no score
            can be; a sketch of another number of scores than it says; a step farther than the steps asked for reach;
            counts or labels that are not those of the candidates or classes asked for.
    """
    asked: dict[str, Any] = {**question.get("numbers", {}), **question.get("words", {})}
    arrays: Any = question.get("values", {})
    asked |= {name: values_of(array) for name, array in arrays.items()}
    score = str(asked.get("score", ""))
    bounds = bounds_of(score) if score.startswith("{") and not asked.get("align") else None
    if isinstance(answer, ThresholdReport):
        _check_threshold(answer, asked, bounds)
    elif isinstance(answer, ScoresReport):
        _check_bounds("scores", answer.scores, bounds)
        _check_labels(answer, asked)
    elif isinstance(answer, SizeReport):
        _check_bounds("low and high", np.array([answer.low, answer.high]), bounds)
    elif isinstance(answer, HistogramReport):
        _check_histogram(answer, HistogramRequest(**asked), bounds)
    elif isinstance(answer, SketchReport):
        _check_sketch(answer, str(asked["kind"]), bounds)
    elif isinstance(answer, CountsReport):
        _check_counts(answer, asked["candidates"])
    elif isinstance(answer, LabelCountsReport):
        if asked["num_labels"] and len(answer.counts) != asked["num_labels"]:
            raise ValueError(f"{len(answer.counts)} counts for {asked['num_labels']} classes: must be one for each")
    elif isinstance(answer, CommonRowsReport):
        if len(answer.predictions) != asked["rows"]:
            raise ValueError(f"predictions for {len(answer.predictions)} rows: {asked['rows']} were asked for")
    elif isinstance(answer, StepReport) and "steps" in asked:
        _check_step(answer, unpack(DescendRequest, question))


def _check_threshold(answer: ThresholdReport, asked: dict[str, Any], bounds: tuple[float, float] | None) -> None:
    if answer.threshold < math.inf:
        return _check_bounds("threshold", np.array([answer.threshold]), bounds)
    n, least = answer.num_calibration, min_calibration(float(asked["alpha"])) if "alpha" in asked else 1
    if n and (n >= least or asked.get("small_n") == "clip"):
        raise ValueError(f"threshold = inf with num_calibration = {n}: there are points enough for a finite one")
    return None


def _check_labels(answer: ScoresReport, asked: dict[str, Any]) -> None:
    wanted = len(answer.scores) if asked["labels"] else 0
    if len(answer.labels) != wanted:
        raise ValueError(f"{len(answer.labels)} labels of {len(answer.scores)} scores: must be {wanted}")
    largest = int(answer.labels.max(initial=-1))
    if asked["num_labels"] and largest >= asked["num_labels"]:
        raise ValueError(f"label {largest}: must lie in 0..{asked['num_labels'] - 1}")


def _check_histogram(answer: HistogramReport, asked: HistogramRequest, bounds: tuple[float, float] | None) -> None:
    grid = ScoreGrid.from_text(asked.grid)
    if answer.rows != asked.rows:
        raise ValueError(f"a histogram of {answer.rows} rows: must be {asked.rows}, as was asked for")
    counts = refined(decode(answer.code, asked.rows), grid.bins)
    if asked.epsilon:
        return  # noise may stand anywhere, and below 0
    if (counts < 0).any():
        raise ValueError("a histogram with a count below 0: points cannot be owed")
    above = int(counts[:, -1].sum())
    if above and bounds is not None and grid.high >= bounds[1]:
        rule = f"must lie in [{bounds[0]:g}, {bounds[1]:g}], as this score does"
        raise ValueError(f"a histogram with {above} of its scores above {bounds[1]:g}: {rule}")


def _check_sketch(answer: SketchReport, kind: str, bounds: tuple[float, float] | None) -> None:
    sketch = sketch_from(answer.sketch.tobytes(), kind)
    if sketch.count != answer.num_calibration:
        raise ValueError(f"a sketch of {sketch.count} scores, and it says {answer.num_calibration}")
    if sketch.count:
        low, high = sketch.ends()
        if bounds is not None:  # drawn in, they may stand in the wrong order
            low, high = min(low, bounds[1]), max(high, bounds[0])
        _check_bounds("a sketch's smallest or largest score", np.array([low, high]), bounds)


def _check_counts(answer: CountsReport, candidates: NDArray[np.float64]) -> None:
    if len(answer.counts) != len(candidates):
        raise ValueError(f"{len(answer.counts)} counts for {len(candidates)} candidates: must be one for each")
    if (np.diff(answer.counts[np.argsort(candidates, kind="stable")]) < 0).any():
        raise ValueError("counts that fall from one candidate to the next larger: as many scores lie up to it, or more")


def _check_step(answer: StepReport, asked: DescendRequest) -> None:
    if asked.noise:
        return  # which has no bounds
    most = asked.steps * asked.step_size * max(asked.alpha, 1 - asked.alpha)
    if abs(answer.value) > most + 1e-9 * (most + abs(asked.start)):  # what rounding may add
        raise ValueError(f"value = {answer.value:g}: {asked.steps} steps lead no farther than {most:g}")


def _check_bounds(name: str, values: NDArray[np.float64], bounds: tuple[float, float] | None) -> None:
    low, high = bounds or (-math.inf, math.inf)
    wrong = ~np.isfinite(values) | (values < low) | (values > high)
    if wrong.any():
        rule = "must be finite" if bounds is None else f"must lie in [{low:g}, {high:g}], as this score does"
        raise ValueError(f"{name} = {values[np.argmax(wrong)]:g}: {rule}")


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
        checked_count(name, numbers.get(name))
    wanted = {name: tuple(array.shape) for record in sent.array_records.values() for name, array in record.items()}
    found = {name: tuple(array.shape) for name, array in arrays.items()}
    if found != wanted:
        odd = ", ".join(sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)))
        raise ValueError(f"not the weights that were sent: other or missing: {odd}")
    for name, array in arrays.items():
        if not np.isfinite(values_of(array)).all():
            raise ValueError(f"weights {name!r} hold NaN or infinite numbers: all must be finite")
    return int(numbers["partition"])  # type: ignore[arg-type]
