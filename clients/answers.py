"""How clients misbehave: what they answer, a Flower mod before the handlers.

`fl_sim/scenario/behaviours.py` holds what each kind is told; `clients/behaviour.py` does what concerns data, models
and scores.

sign-flip, noise, inflate    what is sent: the update w_k - w of the weights w, the threshold, the step; an infinite
                             threshold stays
free-rider                   its threshold is 1 - alpha, its order statistic rank / size, which uniform scores have
                             about, its step none (and n_k is true): no data is looked at
nan                          every number that is not a count
wrong-n                      every count of its own rows
raise, dropout, straggler    whether and when it answers

The counts of a test are not tampered with, but for NaN: evaluation is the laboratory's. Messages are told apart by
their records, never by a strategy.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Error, Message, MetricRecord
from flwr.clientapp.typing import ClientAppCallable
from numpy.typing import NDArray

from fl_sim.conformal.calibrator_plan import plan_of
from fl_sim.messages.calibration import (
    CountsReport,
    HistogramReport,
    OrderStatisticRequest,
    ScoresReport,
    SizeReport,
    SketchReport,
    StepReport,
    TemperatureReport,
    TemperatureRequest,
    ThresholdReport,
    ThresholdRequest,
)
from fl_sim.messages.record import Record
from fl_sim.messages.replies import REPLIES
from fl_sim.messages.wire import pack, unpack, values_of
from fl_sim.population.clients import Client, open_population
from fl_sim.randomness import stream
from fl_sim.store.artifacts import default_root

DROPPED_OUT = 103  # an error code beside those of fl_sim/runtime/grids.py
COUNTS = ("num_calibration", "num_examples", "num-examples")  # what a client may claim of its own rows

# The number that a reply is about.
SCALARS: dict[Any, str] = {ThresholdReport: "threshold", StepReport: "value", TemperatureReport: "log_temperature"}
SUMMARIES = (ScoresReport, SizeReport, SketchReport, HistogramReport, CountsReport)

Floats = NDArray[np.float64]
Change = Callable[[Floats, Floats], Floats]  # of values and their magnitudes, of the same shape


@dataclass(frozen=True)
class Asked:
    """A message to a client that misbehaves."""

    message: Message
    client: Client
    seed: int
    count: int  # of messages of this type to this client, this one included
    honest: Callable[[], Message]  # the answer of the handler

    @property
    def behaviour(self) -> Any:
        """The client's."""
        return self.client.behaviour

    @property
    def kind(self) -> type[Record] | None:
        """The record that answers the message; None for federated averaging's own."""
        return REPLIES.get(self.message.metadata.message_type)

    def points(self, score: str) -> tuple[int, int]:
        """How many calibration points the client has for a calibrator, and for a score's threshold."""
        plan, n = plan_of(score), len(self.client.calibration)
        return (0, n) if plan is None else plan.counts(n)

    def stream(self) -> np.random.Generator:
        """Random numbers of this behaviour, client and message."""
        kind = self.message.metadata.message_type
        return stream(self.seed, self.behaviour.kind, self.client.id, kind, self.count)


def misbehave(message: Message, context: Context, handler: ClientAppCallable) -> Message:
    """Answer for the clients that misbehave; the others' messages go straight to their handlers."""
    key = next((r["population"] for r in message.content.config_records.values() if "population" in r), None)
    people = None if key is None else open_population(str(default_root()), str(key))
    k = int(context.node_config["partition-id"])
    behaviour = None if people is None else people.behaviour(k)
    if people is None or behaviour is None or behaviour.kind not in ANSWERS:
        return handler(message, context)
    counts: Any = context.state.setdefault("asked", MetricRecord())
    kind = message.metadata.message_type
    counts[kind] = counts.get(kind, 0) + 1
    asked = Asked(message, people.client(k), people.seed, counts[kind], lambda: handler(message, context))
    return ANSWERS[behaviour.kind](asked)


def _raise(asked: Asked) -> Message:
    raise RuntimeError(f"client {asked.client.id} raises at every message")


def _drop_out(asked: Asked) -> Message:
    if asked.stream().random() < asked.behaviour.rate:
        return Message(Error(DROPPED_OUT, "it dropped out"), reply_to=asked.message)
    return asked.honest()


def _straggle(asked: Asked) -> Message:
    time.sleep(asked.behaviour.delay)
    return asked.honest()


def _make_up(asked: Asked) -> Message:
    k, kind = asked.client.id, asked.message.metadata.message_type
    made: Record
    if kind == ThresholdRequest.message_type:
        told = unpack(ThresholdRequest, asked.message.content)
        made = ThresholdReport(k, 1 - told.alpha, asked.points(told.score)[1])
    elif kind == TemperatureRequest.message_type:
        score = unpack(TemperatureRequest, asked.message.content).score
        made = TemperatureReport(k, 0.0, asked.points(score)[0])
    elif kind == OrderStatisticRequest.message_type:
        request = unpack(OrderStatisticRequest, asked.message.content)
        made = ThresholdReport(k, request.rank / request.size, request.size)
    elif asked.kind is StepReport:
        made = StepReport(k, 0.0)
    else:
        return asked.honest()
    return Message(pack(made), reply_to=asked.message)


def _claim(asked: Asked) -> Message:
    reply = asked.honest()

    def claimed(n: Any) -> int:
        return round(asked.behaviour.factor * n)

    if asked.kind in SUMMARIES:  # its counts are those of the scores it tells of
        return reply
    for record in reply.content.metric_records.values():
        for name in set(COUNTS) & set(record):
            record[name] = claimed(record[name])
    return reply


def _not_a_number(asked: Asked) -> Message:
    reply = asked.honest()
    for metrics in reply.content.metric_records.values():
        for name in [name for name, value in metrics.items() if isinstance(value, float)]:
            metrics[name] = math.nan
    for name, record in list(reply.content.array_records.items()):
        reply.content[name] = _each(record, lambda _, values: np.full_like(values, np.nan))
    return reply


def _flip(asked: Asked) -> Message:
    return _changed(asked, lambda values, _: -values)


def _add_noise(asked: Asked) -> Message:
    rng, scale = asked.stream(), asked.behaviour.scale
    return _changed(asked, lambda values, size: values + scale * size * rng.standard_normal(values.shape))


def _inflate(asked: Asked) -> Message:
    return _changed(asked, lambda values, _: asked.behaviour.factor * values)


ANSWERS: dict[str, Callable[[Asked], Message]] = {
    "sign-flip": _flip,
    "noise": _add_noise,
    "inflate": _inflate,
    "free-rider": _make_up,
    "nan": _not_a_number,
    "wrong-n": _claim,
    "raise": _raise,
    "dropout": _drop_out,
    "straggler": _straggle,
}


# ------------------------------------------------------------------------------------------------------ what was sent


def _changed(asked: Asked, change: Change) -> Message:
    """The honest answer with what it says changed: the update of weights, the threshold or the step.

    The magnitude of a threshold or a step is its own, of an update its root mean square, array by array.
    """
    reply = asked.honest()
    content = reply.content
    said = SCALARS.get(asked.kind)
    if said is not None:
        numbers: Any = content["numbers"]
        numbers[said] = float(_finite(change, np.array(numbers[said])))
    elif "arrays" in content:
        before: Any = asked.message.content["arrays"]

        def turned(name: str, after: NDArray[Any]) -> NDArray[Any]:
            base = values_of(before[name]).astype(np.float64)
            update = after.astype(np.float64) - base
            size = np.full_like(update, np.sqrt(np.mean(update**2)))
            with np.errstate(over="ignore"):  # too large a number becomes infinite, and is refused
                return (base + change(update, size)).astype(after.dtype)

        content["arrays"] = _each(content["arrays"], turned)
    return reply


def _finite(change: Change, values: Floats) -> Floats:
    """Changed where finite: an infinite threshold says that there is none."""
    changed = values.copy()
    finite = np.isfinite(values)
    with np.errstate(over="ignore"):
        changed[finite] = change(values[finite], np.abs(values[finite]))
    return changed


def _each(record: Any, make: Callable[[str, NDArray[Any]], NDArray[Any]]) -> ArrayRecord:
    """An ArrayRecord with each array of floats made anew; those of whole numbers are counts."""
    held = {name: values_of(array) for name, array in record.items()}
    return ArrayRecord({
        name: Array(np.ascontiguousarray(make(name, values) if values.dtype.kind == "f" else values))
        for name, values in held.items()
    })  # fmt: skip
