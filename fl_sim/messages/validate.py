"""What the server looks at before it believes an answer: whether the client can mean it, given what it was asked."""

from __future__ import annotations

from functools import cache

import numpy as np
from flwr.app import Message, MessageType, RecordDict

from fl_sim.messages import agreement, calibration, learning, summaries
from fl_sim.messages.exchange import Columns, checked
from fl_sim.messages.record import Record, checked_count
from fl_sim.messages.wire import unpack, values_of

OURS = (calibration, summaries, learning, agreement)  # the modules that hold the laboratory's messages


@cache
def request_of(message_type: str) -> type[Record] | None:
    """The request that travels under this type; None for Flower's own, and a user's."""
    every = (thing for module in OURS for thing in vars(module).values())
    requests = [kind for kind in every if isinstance(kind, type) and issubclass(kind, Record)]
    return next((kind for kind in requests if kind.reply is not None and kind.message_type == message_type), None)


def read(question: Message | Record, reply: Message) -> tuple[int | None, Record | None]:
    """What a reply says: the partition that it is from, if it says so, and its record, if it answers one of ours.

    It is the one place where an answer that came as a message is believed, on every Grid.

    Raises:
        ValueError: it is an error, is not what was asked for, or says what cannot be; the message is for the user.
    """
    if reply.has_error():
        raise ValueError(f"failed: {last_line(reply.error.reason)}")
    try:
        if isinstance(question, Message):
            if question.metadata.message_type == MessageType.TRAIN:
                return check_trained(question.content, reply.content), None
            kind = request_of(question.metadata.message_type)
            if kind is None:
                return None, None
            question = unpack(kind, question.content)
        if question.reply is None:  # a question of a user's own
            return None, None
        answer = unpack(question.reply, reply.content)
        checked(question, Columns.of(question.reply, [answer]))
    except ValueError as error:
        raise ValueError(f"it answered nonsense: {error}") from None
    except Exception as error:  # a foreign process's bytes may make any decoder stumble
        raise ValueError(f"it answered nonsense: {type(error).__name__}: {error}") from None
    return answer.partition, answer  # type: ignore[attr-defined]


def last_line(reason: str | None) -> str:
    """The last line of what a client says of its failure, which in a traceback is the exception."""
    return ((reason or "").strip() or "no reason was given").splitlines()[-1]


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
    shapes = {name: tuple(array.shape) for name, array in arrays.items()}
    if shapes != wanted:
        odd = ", ".join(sorted(name for name in wanted.keys() | shapes.keys() if wanted.get(name) != shapes.get(name)))
        raise ValueError(f"not the weights that were sent: other or missing: {odd}")
    for name, array in arrays.items():
        if not np.isfinite(values_of(array)).all():
            raise ValueError(f"weights {name!r} hold NaN or infinite numbers: all must be finite")
    return int(numbers["partition"])  # type: ignore[arg-type]
