"""The teacher's own weights: what a payload of labels is measured against.

"A Dataset is Worth 1 MB", Kimchi Shoshani, Gabay, Hoshen, 2026, https://arxiv.org/abs/2602.23358, figure 5: a network
sent as float32, or with INT8 weights (fl_sim/plada/weights.py), under Zstd-19.

**Sent** to every client: the weights, once. Every client then has the one model, whatever it can compute: what tiers
differ in is gone, and whether a weak client can run it is not asked here.
"""

from __future__ import annotations

import json
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fl_sim.messages.learning import WeightsRequest
from fl_sim.plada.weights import pack_weights
from fl_sim.scenario.learn import Trained
from strategies.base import ALONE, Federation
from strategies.families.training import Broadcast

if TYPE_CHECKING:  # torch comes with it
    from fl_sim.server.context import Teacher


class Weights(Broadcast):
    """The teacher itself, as weights: every client has the same model, whatever it can compute."""

    def __init__(
        self,
        federation: Federation = ALONE,
        *,
        teacher: Trained,  # on data.server
        precision: Literal["float32", "int8"] = "float32",  # of what is sent
    ) -> None:
        super().__init__(federation, per_client=None)
        self.teacher_options, self.precision = teacher, precision

    def request(self) -> WeightsRequest:
        """The payload, and how to build the network it is for."""
        recipe = json.dumps(self.teacher.recipe.__dict__)
        return WeightsRequest(self.federation.population, self.array, recipe)

    @cached_property
    def teacher(self) -> Teacher:
        """Trained on the server's rows."""
        return self.server.teacher(self.teacher_options)

    @cached_property
    def file(self) -> bytes:
        """The payload."""
        from fl_sim.population.model_cache import load_model

        module, _ = load_model(self.server.store, self.teacher.key, self.server.data)
        state = {name: np.ascontiguousarray(tensor.cpu().numpy()) for name, tensor in module.state_dict().items()}
        return pack_weights(state, self.precision)

    def metrics(self) -> dict[str, Any]:
        """What was handed out, and what it cost."""
        return {
            "payload_bytes": len(self.file),
            "rule": f"the teacher's weights, {self.precision}",
            "teacher_accuracy": self.server.accuracy(self.teacher.key),
        }
