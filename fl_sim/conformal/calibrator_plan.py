"""Which calibrator comes before a score, and on which rows a client fits it: part of the score's text.

>>> with_plan('{"name": "lac"}', Plan("svs", 0.5))
'{"name": "lac", "calibrate.calibrator": {"name": "svs", "share": 0.5, "temperature": null}}'
>>> plan_of('{"name": "lac"}') is None
True
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fl_sim.conformal.scores import CALIBRATOR
from fl_sim.randomness import stream

MOST_TEMPERATURE = 20.0  # and 1/20 is the least: few points that are all right, or all wrong, ask for 0, or infinity
FEDERATED = "federated-temperature"  # one temperature for all clients: strategies/families/temperature.py

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Plan:
    """Which calibrator a client fits, and on how many of its calibration rows. It travels in the score's text, so that
    whatever asks for scores asks for those of the same rows and probabilities."""

    name: str
    share: float  # of the rows, on which it is fitted; 0: on all, which then also set the threshold
    temperature: float | None = None  # of all clients; None: none was agreed

    def counts(self, n: int) -> tuple[int, int]:
        """On how many of n rows it is fitted (share * n, rounded down), and how many set the threshold."""
        fitted = math.floor(self.share * n + 1e-9)
        return (fitted, n - fitted) if self.share else (n, n)

    def split(self, seed: int, client: int, n: int) -> tuple[Labels, Labels]:
        """Which of n rows the calibrator is fitted on, and which set the threshold: drawn at random, ascending and
        without a row in common; with share = 0 both are all of them."""
        if not self.share:
            return np.arange(n), np.arange(n)
        order, (first, _) = stream(seed, "calibrator", client).permutation(n), self.counts(n)
        return np.sort(order[:first]), np.sort(order[first:])

    def agreed(self, temperature: float) -> Plan:
        """The same with a temperature for all."""
        return replace(self, temperature=temperature)


def with_plan(score: str, plan: Plan) -> str:
    """The text of a score (JSON, as a message carries it) with what is done before it is taken."""
    return json.dumps(json.loads(score) | {CALIBRATOR: asdict(plan)})


@lru_cache(maxsize=64)
def plan_of(score: str) -> Plan | None:
    """What such a text says of calibrating; None: nothing."""
    plan = json.loads(score).get(CALIBRATOR)
    return None if plan is None else Plan(**plan)
