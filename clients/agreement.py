"""What a client says of rows on which everybody is asked; the question is in strategies/families/agreement.py."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from flwr.app import Context, Message, RecordDict
from numpy.typing import NDArray

from clients.calibrate import Scorer, softmax, uniforms
from clients.predictions import ClientContext
from fl_sim.agreement.pairwise import common_rows
from fl_sim.messages.evaluation import CommonRowsReport, CommonRowsRequest
from fl_sim.messages.wire import pack, unpack


@dataclass(frozen=True)
class CommonRowsContext(ClientContext):
    """A client's context with the common rows in the place of its test rows: whatever it does with these, and its
    prediction sets are made of, is done with those in the same way. What it calibrated on stays its own."""

    @classmethod
    def at(cls, client_context: ClientContext, count: int) -> CommonRowsContext:
        """`count` rows, drawn from those on which any client is tested: nobody was trained or calibrated on them."""
        people = client_context.population
        rows = common_rows(people.tested, people.seed, count)
        return cls(replace(client_context.client, test=rows), people, client_context.store, client_context.context)

    def outputs(self, split: str) -> NDArray[np.float32]:
        """As a client context's; on the common rows what the client says of them, (n, outputs)."""
        return self.outputs_on(self.client.test) if split == "test" else super().outputs(split)


def opinions(message: Message, context: Context) -> RecordDict:
    """The model's predictions on the common rows, and the client's prediction sets for them."""
    request = unpack(CommonRowsRequest, message.content)
    client_context = CommonRowsContext.at(ClientContext.of(context, request.population), request.rows)
    outputs = client_context.outputs("test")
    if client_context.population.data.classes is None:
        predictions = outputs.mean(axis=1, keepdims=True)  # of a pair of quantiles the middle, in the target's std
        return pack(
            CommonRowsReport(
                client_context.client.id, predictions.astype(np.float32), intervals=_intervals(client_context, request)
            )
        )
    return pack(
        CommonRowsReport(
            client_context.client.id, softmax(outputs).astype(np.float32), sets=_sets(client_context, request)
        )
    )


def _sets(client_context: ClientContext, request: CommonRowsRequest) -> NDArray[np.uint8]:
    """The client's sets as evaluation makes them, (n C,) bits packed; of length 0 where none are asked for."""
    if not request.score:
        return np.zeros(0, np.uint8)
    scorer = Scorer.of(client_context, request.score, request.align)
    scores = scorer.common(
        scorer.score.all_labels(scorer.predictions("test", scorer.temperature), uniforms(client_context, "test"))
    )
    return np.packbits(scores <= request.threshold)


def _intervals(client_context: ClientContext, request: CommonRowsRequest) -> NDArray[np.float64]:
    """The client's intervals (n, 2) in the unit of the data; (0, 2) where none are asked for."""
    if not request.score:
        return np.zeros((0, 2))
    scorer, (q,) = Scorer.of(client_context, request.score, request.align), request.threshold.tolist()
    low, high = scorer.score.interval(scorer.predictions("test"), scorer.own_threshold(q))
    return np.stack([low, high], axis=1)
