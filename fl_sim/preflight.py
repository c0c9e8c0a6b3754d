"""What is refused before any work: a scenario that this machine, as it is, cannot run.

Light to import, so that `fl-sim validate` answers at once and a run can start Ray before it imports torch.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from fl_sim.data.datasets import describe
from fl_sim.data.reference import missing
from fl_sim.errors import DataNotAtHandError, FlSimError
from fl_sim.models import architectures
from fl_sim.models.device import resolve_device
from fl_sim.names import OWN, own_object
from fl_sim.scenario.scenario import Scenario
from fl_sim.scenario.tables import Runtime

if TYPE_CHECKING:
    from strategies.base import Calibration


def check(scenario: Scenario) -> None:
    """Refuse what cannot be run on this machine, before any work.

    Raises:
        DataNotAtHandError: with the commands that get it.
        FlSimError: a GPU is asked for and there is none, or an object of the user's own is not what it must be.
    """
    _check_own(scenario)
    source = describe(scenario.data.name)
    if not source.at_hand():
        commands = "".join(f"\n    {command}" for command in source.to_get)
        raise DataNotAtHandError(
            f"data.name = {scenario.data.name!r}: the data is not on this machine; get it with{commands}"
        )
    for name, to_get in missing(scenario.references):
        lines = "".join(f"\n    {command}" for command in to_get)
        raise DataNotAtHandError(f"reference.sets: {name!r} is not on this machine; get it with{lines}")
    for architecture in sorted({*scenario.names()}):
        lacks = architectures.missing_weights(architecture)
        if lacks is not None:
            raise DataNotAtHandError(
                f"architecture {architecture!r}: {lacks[0]} is not on this machine; get it with\n    {lacks[1]}"
            )
    _check_gpu(scenario.runtime)


def _check_gpu(where: Runtime) -> None:
    share = where.gpus_per_client or 0
    if where.device != "cuda" and not share:
        return  # torch, which takes a second to import, need not be asked
    try:
        device = resolve_device(where.device)
    except ValueError as error:
        raise FlSimError(f"runtime.{error}") from None
    if share and device != "cuda":
        raise FlSimError(
            f"runtime.gpus_per_client = {share:g}, but the clients run on the CPU here (torch sees no GPU, or "
            "runtime.device = 'cpu'); leave it out"
        )


def _check_own(scenario: Scenario) -> None:
    """Import what is the user's own, `module:object`, and see that it has the form it must have."""
    for name, key in scenario.names().items():
        if not OWN.match(name) or (key == "data.name" and not _is_own(name)):
            continue
        try:
            named = own_object(name)
        except (ImportError, AttributeError) as error:
            raise FlSimError(
                f"{key} = {name!r} cannot be imported: {error}; is it in the launch folder or on PYTHONPATH?"
            ) from None
        lacks = _lacks(named, key)
        if lacks:
            raise FlSimError(f"{key} = {name!r} {lacks}")
    if any(OWN.match(table.name) for table in (scenario.learn, scenario.calibrate)):
        scenario.check_own()


def _is_own(data: str) -> bool:
    return describe(data).origin == "yours"


def _lacks(named: Any, key: str) -> str:
    """What a user's own object lacks to stand at that key; nothing if it will do."""
    if not callable(named):
        return "is not callable"
    if key == "calibrate.score":
        forms = (("of", "all_labels"), ("of", "interval", "centre"))
        if not any(all(hasattr(named, method) for method in form) for form in forms):
            return "lacks the methods of a score: of and all_labels (classification), or of, interval and centre"
        return ""
    if key in ("learn", "calibrate"):
        from strategies.base import Calibration, Learning

        base = Learning if key == "learn" else Calibration
        if not (isinstance(named, type) and issubclass(named, base)):
            return f"is no subclass of strategies.base.{base.__name__}"
        return _takes_too_little(named) or (_says_nothing(named) if issubclass(named, Calibration) else "")
    given: dict[str, Any] = {"count": 1, "image_size": None, "seed": 0}
    try:
        inspect.signature(named).bind(**given) if key == "data.name" else inspect.signature(named).bind((1,), 1)
    except TypeError as error:
        wanted = "(count, image_size, seed)" if key == "data.name" else "(shape, outputs)"
        return f"must take {wanted}: {error}"
    return ""


def _takes_too_little(strategy: type[Any]) -> str:
    """Which argument that every strategy of its kind is given a user's own does not take; nothing if it takes all."""
    parameters = inspect.signature(strategy.__init__).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return ""
    wanted = ("federation",) if strategy.kind == "learn" else ("federation", "alpha", "score")
    lacks = next((name for name in wanted if name not in parameters), None)
    return "" if lacks is None else f"has a constructor without the argument {lacks}"


def _says_nothing(calibration: type[Calibration]) -> str:
    """Which half of a calibration a user's own leaves out; nothing if it says both."""
    from strategies.base import Calibration

    halves = (("question", "ask"), ("threshold", "for_each", "take"))
    for half in halves:
        if all(getattr(calibration, name) is getattr(Calibration, name) for name in half):
            return f"says none of {', '.join(half)}: a calibration is a question and a rule for the answers"
    return ""
