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
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Error, Message, MetricRecord
from flwr.clientapp.typing import ClientAppCallable, Mod
from numpy.typing import NDArray

from clients.context import model_of, opened
from clients.handlers import Handler
from fl_sim.conformal.calibrator_plan import plan_of
from fl_sim.messages.wire import pack, unpack, values_of
from fl_sim.population.clients import Client
from fl_sim.randomness import stream

DROPPED_OUT = 103  # an error code beside those of fl_sim/runtime/grids.py
COUNTS = ("num_calibration", "num_examples", "num-examples")  # what a client may claim of its own rows

Floats = NDArray[np.float64]
Change = Callable[[Floats, Floats], Floats]  # of values and their magnitudes, of the same shape


@dataclass(frozen=True)
class Asked:
    """A message to a client that misbehaves."""

    message: Message
    client: Client
    seed: int
    count: int  # of messages of this type to this client, this one included
    handler: Handler | None  # None for federated averaging's own messages
    honest: Callable[[], Message]  # the answer of the handler

    @property
    def behaviour(self) -> Any:
        """The client's."""
        return self.client.behaviour

    def points(self, score: str) -> tuple[int, int]:
        """How many calibration points the client has for a calibrator, and for a score's threshold."""
        plan, n = plan_of(score) if score else None, len(self.client.calibration)
        return (0, n) if plan is None else plan.counts(n)

    def stream(self) -> np.random.Generator:
        """Random numbers of this behaviour, client and message."""
        kind = self.message.metadata.message_type
        return stream(self.seed, self.behaviour.kind, self.client.id, kind, self.count)


def misbehaving(handlers: Iterable[Handler]) -> Mod:
    """Answer for the clients that misbehave; the others' messages go straight to their handlers."""
    by_type = {handler.request.message_type: handler for handler in handlers}

    def misbehave(message: Message, context: Context, call: ClientAppCallable) -> Message:
        client = _client(message, context)
        if client is None or client.behaviour is None or client.behaviour.kind not in ANSWERS:
            return call(message, context)
        counts: Any = context.state.setdefault("asked", MetricRecord())
        kind = message.metadata.message_type
        counts[kind] = counts.get(kind, 0) + 1
        seed = opened(_population(message, context))[0].seed
        asked = Asked(message, client, seed, counts[kind], by_type.get(kind), lambda: call(message, context))
        return ANSWERS[client.behaviour.kind](asked)

    return misbehave


def _population(message: Message, context: Context) -> str:
    """The key of the client's population, which the message by which it learns says, and it keeps; empty: neither."""
    sent = (str(record["population"]) for record in message.content.config_records.values() if "population" in record)
    model = context.state.get("model")
    return next(sent, "") or (model_of(context.state).population if model is not None else "")


def _client(message: Message, context: Context) -> Client | None:
    key = _population(message, context)
    return opened(key)[0].client(int(context.node_config["partition-id"])) if key else None


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
    handler = asked.handler
    if handler is None or handler.made_up is None:
        return asked.honest()
    question: Any = unpack(handler.request, asked.message.content)
    points = asked.points(getattr(question, "score", ""))
    return Message(pack(handler.made_up(question, asked.client.id, points)), reply_to=asked.message)


def _claim(asked: Asked) -> Message:
    reply = asked.honest()

    def claimed(n: Any) -> int:
        return round(asked.behaviour.factor * n)

    if asked.handler is not None and asked.handler.counts_scores:
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
    number = "" if asked.handler is None else asked.handler.number
    if number:
        numbers: Any = content["numbers"]
        numbers[number] = float(_finite(change, np.array(numbers[number])))
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
    arrays = {name: values_of(array) for name, array in record.items()}
    return ArrayRecord({
        name: Array(np.ascontiguousarray(make(name, values) if values.dtype.kind == "f" else values))
        for name, values in arrays.items()
    })  # fmt: skip
