"""The strategies of a comparison, by kind.

A value `{ kind = "one-round" }` of a sweep's axis `calibrate` stands for all strategies of that kind, each in the
settings that its own file says (`Calibration.compared`):

    one-round     every strategy that takes no `rounds`, in its first settings
    variants      the same in their other settings
    many-rounds   every strategy that takes `rounds`, in all its settings

One that is for another task than the data's is left out. What a strategy is told in this world stands beside the kind,
under its name: `{ kind = "one-round", private = { range = [0, 40] } }`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fl_sim.data.datasets import describe
from fl_sim.errors import ScenarioError
from fl_sim.names import nearest
from fl_sim.scenario.calibrate import Calibrate
from fl_sim.scenario.strategies import CALIBRATE

KINDS = ("one-round", "variants", "many-rounds")
# The order of the published tables; strategies that are not in them follow by name.
ORDER = (
    *("fedwq-cp", "unweighted", "local", "pooled", "fcp", "fedcp-qq", "cphet", "h-dcp", "rob-fcp", "fedhist-cp"),
    *("grouped", "class-conditional", "private", "dp-fedcp", "q-dcp", "online"),
)


def by_kind(values: Sequence[Any], tables: Mapping[str, Any]) -> list[Any]:
    """The values of the axis `calibrate`, each kind replaced by its strategies; `tables` are the world's.

    Raises:
        ScenarioError: no such kind, or it says something of a strategy that is not of it.
    """
    data = tables.get("data", {}).get("name")
    task = describe(data).task if isinstance(data, str) else None
    strategies: list[Any] = []
    for value in values:
        if isinstance(value, dict) and "kind" in value:
            strategies += _of_kind(value, task)
        else:
            strategies.append(value)
    return strategies


def _of_kind(value: Mapping[str, Any], task: str | None) -> Iterator[Any]:
    kind = value["kind"]
    if kind not in KINDS:
        raise ScenarioError(f"calibrate.kind = {kind!r}: must be one of {', '.join(KINDS)}")
    settings = dict(_settings(kind, task))
    for name in value.keys() - {"kind"}:
        if name not in settings:
            raise ScenarioError(
                f"calibrate.{name}: no strategy of kind = {kind!r} is called so{nearest(name, settings)}"
            )
    for name, each in settings.items():
        for options in each:
            options = options | value.get(name, {})
            yield {"name": name, **options} if options else name


def _settings(kind: str, task: str | None) -> Iterator[tuple[str, Sequence[dict[str, Any]]]]:
    """(name, its settings) of every strategy of a kind."""
    for name in sorted(CALIBRATE, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name)):
        table: Any = CALIBRATE[name]
        fits = issubclass(table, Calibrate) and (task is None or table.strategy.task in (None, task))
        if fits and ("rounds" in table.model_fields) == (kind == "many-rounds"):
            first, *others = table.strategy.compared
            yield name, {"one-round": [first], "variants": others, "many-rounds": [first, *others]}[kind]
