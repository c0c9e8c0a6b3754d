"""The server's half: one method a file. `STRATEGIES` is the one list of them."""

from __future__ import annotations

from typing import Any

from fl_sim.options import OWN, Options, Score, own_object
from strategies.base import Calibration, Learning, Roster
from strategies.fedavg import FedAvg
from strategies.fedwq_cp import FedWQCP
from strategies.local import Local
from strategies.none import NoCalibration
from strategies.own import Own
from strategies.pooled import Pooled
from strategies.shared import Shared
from strategies.unweighted import Unweighted

STRATEGIES: dict[str, type[Any]] = {
    # learn
    "shared": Shared,
    "own": Own,
    "fedavg": FedAvg,
    # calibrate
    "fedwq-cp": FedWQCP,
    "unweighted": Unweighted,
    "local": Local,
    "pooled": Pooled,
    "none": NoCalibration,
}

__all__ = ["STRATEGIES", "Calibration", "Learning", "Roster", "calibration", "learning"]


def learning(options: Options, roster: Roster) -> Learning:
    """The learn strategy that a scenario's `[learn]` describes."""
    made: Learning = _class(options.name)(roster=roster, **options.arguments())
    return made


def calibration(options: Options, population: str) -> Calibration:
    """The calibrate strategy that a scenario's `[calibrate]` describes."""
    told = options.arguments()
    if isinstance(told.get("score"), Score):
        told["score"] = told["score"].model_dump_json()
    made: Calibration = _class(options.name)(population=population, **told)
    return made


def _class(name: str) -> type[Any]:
    if OWN.match(name):
        own: type[Any] = own_object(name)
        return own
    return STRATEGIES[name]
