"""The strategies by name, and what each can be told: the tables `[learn]` and `[calibrate]`.

A strategy is a file in `strategies/`, and goes by that file's name. Its options are the keyword-only parameters of its
constructor, with their annotations, defaults and comments. Here alone a lower layer looks upward: a strategy is
imported when a scenario names it, and all of them only where all are asked for. A name of the form `module:object` is
the user's own: its keys are handed to it as keyword arguments, checked as its constructor declares them once its module
is imported, before the run.
"""

from __future__ import annotations

import importlib.util
import inspect
import warnings
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_type_hints

from pydantic import create_model

from fl_sim.names import own_object
from fl_sim.scenario.calibrate import Calibrate, OwnCalibrate, Uncalibrated
from fl_sim.scenario.learn import Learn, OwnLearn
from fl_sim.scenario.options import Options, chosen

Kind = Literal["learn", "calibrate"]
COMMON = ("self", "federation", "alpha", "score")  # parameters that every strategy of a kind has


@cache
def _names() -> tuple[str, ...]:
    package = importlib.util.find_spec("strategies")
    assert package is not None, "it is installed with this package"
    assert package.origin is not None
    files = sorted(path.stem for path in Path(package.origin).parent.glob("*.py"))
    return tuple(stem.replace("_", "-") for stem in files if stem not in ("__init__", "base"))


@cache
def strategy(name: str) -> Any:
    """The class of the strategy of that name: the one that its file defines."""
    module = import_module(f"strategies.{name.replace('-', '_')}")
    defined = [thing for thing in vars(module).values() if getattr(thing, "__module__", "") == module.__name__]
    (made,) = [thing for thing in defined if isinstance(thing, type) and hasattr(thing, "kind")]
    return made


@cache
def _table(name: str) -> type[Options]:
    made_by = strategy(name)
    return _declared(made_by, name, get_type_hints(made_by.__init__, include_extras=True))


def _declared(made_by: Any, name: str, types: Mapping[str, Any]) -> type[Options]:
    """The table of a strategy as its constructor declares it; what it says no type of may be anything."""
    parameters = inspect.signature(made_by.__init__).parameters
    base = Learn if made_by.kind == "learn" else Calibrate if "alpha" in parameters else Uncalibrated
    fields: dict[str, Any] = {"name": (Literal[name], name)}
    for key, parameter in parameters.items():
        if key not in COMMON and parameter.kind not in _OTHERS:
            fields[key] = (types.get(key, Any), ... if parameter.default is parameter.empty else parameter.default)
    table: Any = create_model(made_by.__name__, __base__=base, __doc__=made_by.__doc__, **fields)
    table.strategy = made_by
    return table


_OTHERS = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def own_table(options: Options) -> type[Options]:
    """The table of a user's own strategy, which may declare no types, or such as nobody here knows, and take any key.

    Raises:
        ImportError, AttributeError: there is no such module, or nothing of that name in it.
    """
    return _own_table(own_object(options.name), options.name)


@cache
def _own_table(made_by: Any, name: str) -> type[Options]:
    kinds = [parameter.kind for parameter in inspect.signature(made_by.__init__).parameters.values()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an option that has the name of a method of ours
        try:
            table = _declared(made_by, name, get_type_hints(made_by.__init__, include_extras=True))
        except Exception:  # pydantic's, of a type that it does not know, and Python's, of a name that is not there
            table = _declared(made_by, name, {})
        if inspect.Parameter.VAR_KEYWORD in kinds:
            table.model_config["extra"] = "allow"
            table.model_rebuild(force=True)
    return table


def as_declared(options: Options) -> Options:
    """The options of a user's own strategy, whose table took any key, in the table that its constructor declares.

    Raises:
        pydantic.ValidationError: a key is none of its options, is missing or has a value that its type excludes.
    """
    table = own_table(options)
    given = {key: getattr(options, key) for key in type(options).model_fields if key in table.model_fields}
    return table.model_validate(given | (options.model_extra or {}))


class StrategyTables(Mapping[str, type[Options]]):
    """Name -> table of every strategy of a kind; a strategy is imported when its table is asked for."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind

    def __getitem__(self, name: str) -> type[Options]:
        if name not in _names() or strategy(name).kind != self.kind:
            raise KeyError(name)
        return _table(name)

    def __iter__(self) -> Iterator[str]:
        return (name for name in _names() if strategy(name).kind == self.kind)

    def __len__(self) -> int:
        return len(list(iter(self)))


LEARN, CALIBRATE = StrategyTables("learn"), StrategyTables("calibrate")


def learn_options(value: Any) -> Any:
    """The learn strategy that a name or a table chooses; see `chosen`."""
    return chosen(LEARN, value, "learn strategy", OwnLearn)


def calibrate_options(value: Any) -> Any:
    """The calibrate strategy that a name or a table chooses; see `chosen`."""
    return chosen(CALIBRATE, value, "calibrate strategy", OwnCalibrate)
