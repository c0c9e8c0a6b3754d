"""The one ClientApp: each type of message has its handler. It runs unchanged on every runtime, and
the laboratory's own ask it many clients at a time."""

from __future__ import annotations

import time
import traceback

from flwr.app import ConfigRecord, Context, Error, Message
from flwr.clientapp.typing import ClientAppCallable

from clients import agreement, broadcast, calibrate, learn, optimise
from clients.answers import ANSWERS, misbehaving
from clients.handlers import ColumnsApp
from fl_sim.errors import StoreError
from fl_sim.messages.record import TIMING
from fl_sim.telemetry import noted, spending

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


HANDLERS = [*learn.HANDLERS, *broadcast.HANDLERS, *calibrate.HANDLERS, *optimise.HANDLERS, *agreement.HANDLERS]

app = ColumnsApp(HANDLERS, [report_failures, misbehaving(HANDLERS)], ANSWERS)
app.train()(learn.train)  # federated averaging's own, whose weights travel beside any record
app.train("adopt")(learn.adopt)
