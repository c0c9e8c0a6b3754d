"""What a client says of rows on which everybody is asked; the question is in strategies/families/agreement.py."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from clients.context import ClientContext
from clients.handlers import of_client
from clients.scorer import Scorer, softmax
from fl_sim.agreement.pairwise import common_rows
from fl_sim.messages.agreement import CommonRowsReport, CommonRowsRequest


@dataclass(frozen=True)
class CommonRowsContext(ClientContext):
    """A client's context with the common rows in the place of its test rows: whatever it does with these, and its
    prediction sets are made of, is done with those in the same way. What it calibrated on stays its own."""

    @classmethod
    def at(cls, client: ClientContext, count: int) -> CommonRowsContext:
        """`count` rows, drawn from those on which any client is tested: nobody was trained or calibrated on them."""
        people = client.population
        rows = common_rows(people.tested, people.seed, count)
        return cls((replace(client.client, test=rows),), people, client.store, client.state)

    def outputs(self, split: str) -> NDArray[np.float32]:
        """As a client context's; on the common rows what the client says of them, (n, outputs)."""
        return self.outputs_on(self.client.test) if split == "test" else super().outputs(split)


def predictions(request: CommonRowsRequest, client_context: ClientContext) -> CommonRowsReport:
    """The model's predictions on the common rows, and the client's prediction sets for them."""
    client = CommonRowsContext.at(client_context, request.rows)
    outputs, who = client.outputs("test"), client.client.id
    if client.population.data.classes is None:
        middle = outputs.mean(axis=1, keepdims=True)  # of a pair of quantiles the middle, in the target's std
        return CommonRowsReport(who, middle.astype(np.float32), intervals=_intervals(client, request))
    return CommonRowsReport(who, softmax(outputs).astype(np.float32), sets=_sets(client, request))


def _sets(client: ClientContext, request: CommonRowsRequest) -> NDArray[np.uint8]:
    """The client's sets as evaluation makes them, (n C,) bits packed; of length 0 where none are asked for."""
    if not request.score:
        return np.zeros(0, np.uint8)
    scorer = Scorer.of(client, request.score, request.align)
    scores = scorer.all_labels(scorer.predictions("test", scorer.temperature), "test")
    return np.packbits(scores <= request.threshold)


def _intervals(client: ClientContext, request: CommonRowsRequest) -> NDArray[np.float64]:
    """The client's intervals (n, 2) in the unit of the data; (0, 2) where none are asked for."""
    if not request.score:
        return np.zeros((0, 2))
    scorer, (q,) = Scorer.of(client, request.score, request.align), request.threshold.tolist()
    return np.stack(scorer.intervals(made := scorer.predictions("test"), np.full(len(made), q)), axis=1)


HANDLERS = (of_client(CommonRowsRequest, predictions),)
