"""A ClientApp that does next to nothing, for `scaling.py`: what is left is the runtime. Ray's and Flower's workers
import it by its name."""

from __future__ import annotations

import os

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.query("noop")
def noop(message: Message, context: Context) -> Message:
    """Two numbers."""
    metrics = MetricRecord({"partition": int(context.node_config["partition-id"]), "process": os.getpid()})
    return Message(RecordDict({"told": metrics}), reply_to=message)


@app.query("average")
def average(message: Message, context: Context) -> Message:
    """What a round of federated averaging moves, without the training: weights come, weights are kept and go back."""
    weights = message.content["arrays"]["weights"].numpy() + np.float32(1)  # type: ignore[index, union-attr]
    context.state["kept"] = ArrayRecord({"weights": Array(weights)})
    reply = noop(message, context)
    reply.content["arrays"] = ArrayRecord({"weights": Array(weights)})
    return reply
