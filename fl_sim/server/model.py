"""A network of the clients' kind on the server: it takes weights, is trained further, asked and measured.

It is another in each round, so nothing of it is kept in the artifact store.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fl_sim.models import training
from fl_sim.models.recipe import Recipe
from fl_sim.population.model_cache import untrained
from fl_sim.randomness import one_thread
from fl_sim.server.context import Rows, ServerContext

MOST_VALUES, LAST = 1 << 24, 4  # the inputs of so many sets of rows are kept, each of so many values at most


class ServerModel:
    """A network of the clients' kind on the server: it takes weights, is trained further, asked and measured.

    Weights are arrays by their names in the state dict; rows are indices into the server's data. Nothing is kept from
    one call to the next but the module, whose weights are replaced each time.
    """

    def __init__(self, server: ServerContext, recipe: Recipe) -> None:
        self.data, self.recipe = server.data, recipe
        self.module = untrained(recipe, server.data)
        self._last_inputs: dict[bytes, NDArray[Any]] = {}  # rows -> inputs as the network takes them, of the last few

    def trained(
        self, weights: Mapping[str, NDArray[Any]], recipe: Recipe, rows: Rows, steps: int,
        targets: NDArray[Any] | None = None,
    ) -> dict[str, NDArray[Any]]:  # fmt: skip
        """What so many steps on these rows make of the weights; the rows are gone round as often as that takes. With
        `targets` (n,) in the place of their own."""
        self._load(weights)
        if steps and len(rows):
            epochs = -(-steps // len(training.starts_of(len(rows), recipe.batch_size)))
            inputs, labels = self._inputs(rows), self.data.learnable(rows) if targets is None else targets
            training.fit(self.module, inputs, labels, replace(recipe, epochs=epochs), most=steps, channels_last=True)
        return {name: tensor.detach().cpu().numpy().copy() for name, tensor in self.module.state_dict().items()}

    def outputs(self, weights: Mapping[str, NDArray[Any]], rows: Rows) -> NDArray[np.float32]:
        """What the network with these weights says of rows, (n, outputs)."""
        self._load(weights)
        size = max(1, MOST_VALUES // math.prod(self.data.shape))
        blocks = [rows[start : start + size] for start in range(0, len(rows), size)] or [rows]
        return np.concatenate([training.predict(self.module, self._inputs(block), self.recipe) for block in blocks])

    def measured(self, weights: Mapping[str, NDArray[Any]], rows: Rows) -> dict[str, float | None]:
        """The mean "loss" it is trained by and, of classes, the "accuracy" of the network with these weights on rows;
        None where there are no rows, or no classes, and for a loss that is not finite."""
        if not len(rows):
            return {"loss": None, "accuracy": None}
        outputs, targets = self.outputs(weights, rows), self.data.learnable(rows)
        classes = self.data.classes is not None
        with one_thread():
            true = torch.from_numpy(targets if classes else targets.astype(np.float64))
            loss = float(training.loss_of(torch.from_numpy(outputs).double(), true, self.recipe.quantiles))
        right = float((outputs.argmax(axis=1) == targets).mean()) if classes else None
        return {"loss": loss if math.isfinite(loss) else None, "accuracy": right}

    def _load(self, weights: Mapping[str, NDArray[Any]]) -> None:
        with one_thread():  # a second one is woken for longer than the copy takes
            self.module.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in weights.items()})

    def _inputs(self, rows: Rows) -> NDArray[Any]:
        key = rows.tobytes()
        inputs = self._last_inputs.get(key)
        if inputs is None:
            inputs = self.data.inputs_for(rows, self.recipe.contrast)
            if inputs.size <= MOST_VALUES:
                self._last_inputs = dict([*self._last_inputs.items()][1 - LAST :]) | {key: inputs}
        return inputs
