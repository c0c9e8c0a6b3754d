"""The one ClientApp: each type of message has its handler. It runs unchanged on every runtime, and
the laboratory's own ask it many clients at a time."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterable, Sequence
from typing import Any

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable

from clients import agreement, broadcast, calibrate, learn, optimise
from clients.answers import ANSWERS, misbehaving
from clients.handlers import Handler, answer_all, answering
from fl_sim.errors import StoreError, noted
from fl_sim.messages.columns import Columns
from fl_sim.messages.record import TIMING
from fl_sim.timing import spending

RAISED = 2  # Flower's code for a ClientApp that raised
NO_STORE = 104  # an error code beside those of fl_sim/runtime/grids.py


def report_failures(message: Message, context: Context, handler: ClientAppCallable) -> Message:
    """Answer an exception with its traceback, where Flower's runtime would wrap it in the traceback of its own
    machinery, and send along how long the client took, and how much of that it trained or waited for others."""
    start = time.perf_counter()
    try:
        with spending() as account, noted() as notes:
            reply = handler(message, context)
    except StoreError as error:  # where it was asked says nothing
        return Message(Error(NO_STORE, "; ".join([*notes, str(error)])), reply_to=message)
    except (Exception, SystemExit):  # a library's sys.exit is a client's failure, not its worker's end
        return Message(Error(RAISED, traceback.format_exc()), reply_to=message)
    if reply.has_error():
        return reply
    # A ConfigRecord, because Flower's own strategies take a reply to hold exactly one MetricRecord.
    reply.content[TIMING] = ConfigRecord({
        "seconds": time.perf_counter() - start,
        **{kind: account[kind] for kind in ("train", "wait") if kind in account},
        **({"notes": notes} if notes else {}),
    })  # fmt: skip
    return reply


class ColumnsApp(ClientApp):
    """A ClientApp whose clients can be asked many at a time: see `answer`. By message it is Flower's."""

    def __init__(self, handlers: Iterable[Handler]) -> None:
        self.handlers = {handler.request.message_type: handler for handler in handlers}
        super().__init__(mods=[report_failures, misbehaving(self.handlers)])
        for message_type, handler in self.handlers.items():
            category, _, action = message_type.partition(".")
            getattr(self, category)(action)(answering(handler))

    def answer(
        self, questions: Sequence[Any], partitions: Sequence[int], states: Sequence[RecordDict]
    ) -> tuple[Columns[Any], list[RecordDict], list[int]]:
        """See `answer_all`; the questions are of one type."""
        return answer_all(self.handlers[questions[0].message_type], questions, partitions, states, ANSWERS)


app = ColumnsApp([
    *learn.HANDLERS, *broadcast.HANDLERS, *calibrate.HANDLERS, *optimise.HANDLERS, *agreement.HANDLERS,
])  # fmt: skip
app.train()(learn.train)  # federated averaging's own, whose weights travel beside any record
app.train("adopt")(learn.adopt)
