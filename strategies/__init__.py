"""The server's half: one method a file, which goes by the file's name (`fl_sim/scenario/strategies.py`). Here they are
made from a scenario's tables."""

from __future__ import annotations

from typing import Any

from fl_sim.conformal.calibrator_plan import Plan, with_plan
from fl_sim.names import OWN, own_object
from fl_sim.scenario.options import Options
from fl_sim.scenario.scores import Score
from strategies.base import Calibration, Federation, Learning


def learning(options: Options, federation: Federation) -> Learning:
    """The learn strategy that a scenario's `[learn]` describes."""
    made: Learning = _class(options)(federation=federation, **options.arguments())
    return made


def calibration(options: Options, federation: Federation, temperature: float | None = None) -> Calibration:
    """The calibrate strategy that a scenario's `[calibrate]` describes; `temperature`: see `score_text`."""
    told = options.arguments()
    if isinstance(told.get("score"), Score):
        told["score"] = score_text(options, temperature)
    made: Calibration = _class(options)(federation=federation, **told)
    return made


def score_text(options: Any, temperature: float | None = None) -> str:
    """The score of a `[calibrate]`, as messages carry it, with the calibrator that comes before it; with `temperature`
    where all clients have agreed on one."""
    text: str = options.score.model_dump_json()
    if options.calibrator == "none":
        return text
    return with_plan(text, Plan(options.calibrator, options.calibrator_share, temperature))


def _class(options: Any) -> type[Any]:
    made_by: type[Any] = own_object(options.name) if OWN.match(options.name) else options.strategy
    return made_by
