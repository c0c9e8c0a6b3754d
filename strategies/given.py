"""Clients come with predictions that somebody has made: nothing is learnt.

For `data.name = "predictions:FILE"` (fl_sim/data/predictions.py), whose rows are what the clients' models say; their
tiers have the architecture "given".

Sent: nothing.
"""

from __future__ import annotations

from typing import Any

from fl_sim.models.architectures import GIVEN
from strategies.base import ALONE, Federation
from strategies.shared import Shared


class GivenModels(Shared):
    """Predictions that are there already, of data.name = "predictions:FILE": nothing is learnt.

    Round 1: the first client of each tier takes them from the data. Round 2: the others find them.
    """

    @classmethod
    def one_model_a_tier(cls, options: Any) -> bool:
        """Whose they are is not known."""
        return False

    @classmethod
    def check_world(cls, options: Any, scenario: Any, task: str | None) -> None:
        """Predictions are needed, and clients that take them as they are."""
        name = scenario.data.name
        if not name.startswith("predictions:"):
            raise ValueError(f"learn = 'given' takes data.name = 'predictions:FILE', and not {name!r}")
        if scenario.clients.partition != "natural":
            raise ValueError(
                f"clients.partition = {scenario.clients.partition!r}: predictions are those of their clients' models; "
                "say 'natural'"
            )
        for tier in scenario.clients.tier:
            if tier.architecture != GIVEN:
                raise ValueError(
                    f"clients.tier.{tier.name}.architecture = {tier.architecture!r}: predictions are there already; "
                    f"say {GIVEN!r}"
                )

    @classmethod
    def rows_an_epoch(cls, options: Any, train: int, clients: int, of: int) -> float:
        """None."""
        return 0.0

    def __init__(self, federation: Federation = ALONE) -> None:
        super().__init__(federation, per_client=False)
