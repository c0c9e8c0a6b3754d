"""The one ClientApp: each type of message has its handler. It runs unchanged on every runtime."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable

from clients import agreement, broadcast, calibrate, learn, optimise
from clients.answers import misbehave
from fl_sim.errors import StoreError, noted
from fl_sim.messages.record import TIMING
from fl_sim.timing import spending

RAISED = 2  # Flower's code for a ClientApp that raised
NO_STORE = 104  # an error code beside those of fl_sim/runtime/grids.py

Handler = Callable[[Message, Context], RecordDict]


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


def answering(handler: Handler) -> ClientAppCallable:
    """A handler that gives the content of its reply, as Flower wants it: giving the reply."""

    def answer(message: Message, context: Context) -> Message:
        return Message(handler(message, context), reply_to=message)

    return answer


app = ClientApp(mods=[report_failures, misbehave])
app.train()(answering(learn.train))
app.train("fit")(answering(learn.fit))
app.train("adopt")(answering(learn.adopt))
app.train("payload")(answering(broadcast.payload))
app.train("images")(answering(broadcast.images))
app.train("weights")(answering(broadcast.weights))
app.train("probe")(answering(broadcast.probe))
app.query("temperature")(answering(calibrate.temperature))
app.query("threshold")(answering(calibrate.threshold))
app.query("order")(answering(calibrate.order))
app.query("size")(answering(calibrate.size))
app.query("sketch")(answering(calibrate.sketch))
app.query("histogram")(answering(calibrate.histogram))
app.query("counts")(answering(calibrate.counts))
app.query("labels")(answering(calibrate.label_counts))
app.query("scores")(answering(calibrate.scores))
app.query("descend")(answering(optimise.descend))
app.query("agree")(answering(optimise.agree_on))
app.evaluate("sets")(answering(calibrate.evaluate))
app.evaluate("opinions")(answering(agreement.opinions))
