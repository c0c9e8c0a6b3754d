"""The server's half: one method a file, which goes by the file's name (`fl_sim/scenario/strategies.py`). Here they are
made from a scenario's tables."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from fl_sim.conformal.calibrator_plan import Plan, with_plan
from fl_sim.errors import own_code
from fl_sim.names import OWN, own_object
from fl_sim.scenario.options import Options
from fl_sim.scenario.scores import Score
from fl_sim.scenario.strategies import as_declared
from strategies.base import Calibration, Federation, Learning


def learning(options: Options, federation: Federation) -> Learning:
    """The learn strategy that a scenario's `[learn]` describes."""
    made_by, settings = _declared(options)
    with whose(made_by):
        made: Learning = made_by(federation=federation, **settings)
    return made


def calibration(options: Options, federation: Federation, temperature: float | None = None) -> Calibration:
    """The calibrate strategy that a scenario's `[calibrate]` describes; `temperature`: see `score_text`."""
    made_by, settings = _declared(options)
    if isinstance(settings.get("score"), Score):
        settings["score"] = score_text(options, temperature)
    with whose(made_by):
        made: Calibration = made_by(federation=federation, **settings)
    return made


def score_text(options: Any, temperature: float | None = None) -> str:
    """The score of a `[calibrate]`, as messages carry it, with the calibrator that comes before it; with `temperature`
    where all clients have agreed on one."""
    text: str = options.score.model_dump_json()
    if options.calibrator == "none":
        return text
    return with_plan(text, Plan(options.calibrator, options.calibrator_share, temperature))


def _declared(options: Any) -> tuple[type[Any], dict[str, Any]]:
    """The class of a strategy, and its options, those of a user's own as its constructor declares them."""
    if not OWN.match(options.name):
        return options.strategy, options.arguments()
    return own_object(options.name), as_declared(options).arguments()


def whose(made_by: type[Any]) -> contextlib.AbstractContextManager[None]:
    """Within, what a strategy of the user's own class raises is told as the user's."""
    module = made_by.__module__
    if module.partition(".")[0] == __name__:
        return contextlib.nullcontext()
    file = getattr(sys.modules.get(module), "__file__", None)
    return own_code(f"{made_by.kind} = '{module}:{made_by.__qualname__}'", file=file)
