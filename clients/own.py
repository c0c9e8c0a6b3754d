"""Every calibrate question, answered for a ClientApp of one's own, from one function beside it: Flower's context ->
what the client's model says of its rows.

>>> from flwr.clientapp import ClientApp
>>> app = conformal_app(lambda context: Predicted([[0.9, 0.1]] * 20, [0] * 20, [[0.8, 0.2]] * 5, [0] * 5))
>>> isinstance(app, ClientApp)
True
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable
from numpy.typing import ArrayLike, NDArray

from clients.app import report_failures
from clients.calibrate import HANDLERS
from clients.context import ClientContext, model_record
from clients.handlers import Handler
from fl_sim.data.predictions import LEAST, OFF
from fl_sim.data.source import Dataset
from fl_sim.errors import FlSimError
from fl_sim.messages.wire import pack, unpack
from fl_sim.population.clients import Client, Population
from fl_sim.population.prepared_data import Prepared
from fl_sim.scenario.tables import Clients
from fl_sim.store.artifacts import Store, digest, digest_of_array

ALONE = {"count": 1, "tier": [{"name": "own", "architecture": "given", "epochs": 0}]}


@dataclass(frozen=True)
class Predicted:
    """What a client's model says of its calibration and of its test rows.

    Probabilities (n, C) with labels (n,) from 0 on; logits in their place with `logits`. In regression, `regression`,
    predictions (n,) or ends of intervals (n, 2), with targets (n,).
    """

    calibration: ArrayLike
    calibration_labels: ArrayLike
    test: ArrayLike
    test_labels: ArrayLike
    logits: bool = False
    regression: bool = False


Predict = Callable[[Context], Predicted]


def conformal_app(predict: Predict, app: ClientApp | None = None) -> ClientApp:
    """A ClientApp, `app` if there is one, that answers what fl-sim's calibrate strategies ask: of `predict(context)`,
    which is called for each question, and may keep what it made. Partitions are the context's `partition-id`.

    Raises:
        ValueError: `app` answers one of the questions already, or is Flower's old kind with `client_fn`.
    """
    app = ClientApp() if app is None else app
    for handler in HANDLERS:
        category, _, action = handler.request.message_type.partition(".")
        try:
            getattr(app, category)(action)(_answering(handler, predict))
        except ValueError as error:
            raise ValueError(
                f"{handler.request.message_type}: this ClientApp cannot take it ({error}); use one without client_fn, "
                "and without a handler of that name"
            ) from error
    return app


def _answering(handler: Handler, predict: Predict) -> ClientAppCallable:
    def answer(message: Message, context: Context) -> Message:
        question: Any = unpack(handler.request, message.content)
        return Message(pack(handler.answer([question], _client_of(predict(context), context))[0]), reply_to=message)

    return lambda message, context: report_failures(message, context, answer)


@dataclass(frozen=True)
class OwnClient(ClientContext):
    """A client whose rows are what its model says of them."""

    def outputs(self, split: str) -> NDArray[np.float32]:
        """As `predict` gave them, (n, outputs)."""
        return np.asarray(self.population.data.inputs[self.rows(split)])

    def labels(self, split: str) -> NDArray[np.int64]:
        """The classes of a split's rows.

        Raises:
            FlSimError: in regression: bins of the target are everybody's, and this client knows but its own rows.
        """
        if self.population.data.classes is None:
            raise FlSimError("in regression this app has no labels: the strategy asks for bins of everybody's target")
        return self.targets(split)


def _client_of(predicted: Predicted, context: Context) -> OwnClient:
    """The client as the handlers take it: alone in a population that holds its own rows and nobody else's."""
    parts = [_outputs(predicted, part) for part in (predicted.calibration, predicted.test)]
    labels = [np.asarray(values) for values in (predicted.calibration_labels, predicted.test_labels)]
    n, width = len(parts[0]), parts[0].shape[1]
    classes = None if predicted.regression else tuple(map(str, range(width)))
    data = Dataset(np.concatenate(parts), np.concatenate(labels), classes)  # which checks them
    everybody = Clients.model_validate(ALONE)
    none, total = np.zeros(0, np.int64), len(data.targets)
    people = Population(
        key="", seed=0, device="cpu", precision="float32", clients=everybody, tiers=np.zeros(1, np.int64),
        behaviours=np.full(1, -1), bins=none if classes is None else data.targets,
        reference_set=None, rows={"calibration": (np.array([0, n]), np.arange(n))},
        data=Prepared(
            key="", inputs=data.inputs, targets=data.targets, classes=classes, target_mean=0.0, target_std=1.0,
            starts={"train": (0, 0), "server": (0, 0), "calibration": (0, n), "test": (n, total)},
            mean=np.zeros(width, np.float32), std=np.ones(width, np.float32),
        ),
    )  # fmt: skip
    partition = context.node_config.get("partition-id")
    if partition is None:
        raise FlSimError("node_config has no partition-id: start the SuperNode with --node-config 'partition-id=0'")
    client = Client(int(partition), everybody.tier[0], np.arange(n), np.arange(n, total), none)
    contents = [digest_of_array(values) for values in (data.inputs, data.targets)]
    model = model_record("", digest(contents=contents, calibration=n), True, -1)
    return OwnClient((client,), people, Store(Path()), RecordDict({"model": model}))


def _outputs(predicted: Predicted, part: ArrayLike) -> NDArray[np.float32]:
    values = np.asarray(part, np.float64)
    if predicted.regression:
        return values.reshape(len(values), -1).astype(np.float32)
    if values.ndim != 2:
        raise FlSimError(f"predictions of shape {values.shape}; must be (n, classes)")
    if predicted.logits:
        return values.astype(np.float32)
    if (values < 0).any() or (values > 1).any() or (np.abs(values.sum(axis=1) - 1) > OFF).any():
        raise FlSimError("probabilities must lie in 0..1 and sum up to 1; of logits say logits=True")
    return np.log(np.maximum(values, LEAST)).astype(np.float32)
