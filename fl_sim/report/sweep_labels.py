"""Learn strategies of a sweep by their settings: labels without what all have in common, and the lines of a figure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from fl_sim.results.sweep_folder import label
from fl_sim.scenario.strategies import LEARN

# How much is handed out: these tell the points of one line apart, all other options tell lines apart.
SIZES = ("keep_fraction", "budget_bytes", "images_per_class", "precision", "centroids")

Settings = Mapping[Any, Any]  # a value of an axis as it is shown -> as the file has it


def shortened(points: pd.DataFrame, settings: Settings) -> tuple[pd.DataFrame, dict[Any, Any], str]:
    """The points with shorter labels on the `learn` axis, the settings of these, and in words what was left out.

    An option is left out where every table of every strategy that ever has it has it with the same value, and it is
    said more than once or is a table: labels stay as different as they were.
    """
    tables = [value for value in settings.values() if isinstance(value, dict)]
    same = dict(_same(tables))
    short = {
        text: {key: inner for key, inner in value.items() if key not in same} if isinstance(value, dict) else value
        for text, value in settings.items()
    }
    labels = {text: label(value) for text, value in short.items()}
    named = {labels[text]: value for text, value in short.items()}
    return points.assign(learn=points["learn"].map(labels)), named, "; ".join(same.values())


def _same(tables: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """(option, what it is for whom) of those that may be left out."""
    for key in dict.fromkeys(key for table in tables for key in table if key != "name"):
        names = list(dict.fromkeys(table["name"] for table in tables if key in table))
        values = [table.get(key) for table in tables if table["name"] in names]
        if all(value == values[0] for value in values) and (len(values) > 1 or isinstance(values[0], dict)):
            yield key, f"{' and '.join(names)} with {key}={label(values[0])}"


def line_of(key: Mapping[str, Any], settings: Settings) -> str:
    """What a cell's payload is made by, without how large it is: `plada(rule=random)`.

    `key` is a cell's, axis -> value; `learn.rule` says the same as an option of `learn`, where that strategy has it.
    """
    value = settings.get(key.get("learn"), key.get("learn"))
    table = dict(value) if isinstance(value, dict) else {"name": value} if value else {}
    name = table.get("name", "")
    for axis, swept in key.items():
        option = axis.removeprefix("learn.")
        if option != axis and (name not in LEARN or option in LEARN[name].model_fields):
            table[option] = swept
    line = str(label({option: value for option, value in table.items() if option not in SIZES}))
    return line if name else line.strip("()")


def is_of_learn(axis: str) -> bool:
    """Whether an axis says how clients come by their models."""
    return axis.partition(".")[0] == "learn"


def of_models(points: pd.DataFrame, axes: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """The points and axes that matter to the models: a point that differs from an earlier one in its calibration alone
    is left out, and so is one that shares its run."""
    axes_of_models = [axis for axis in axes if axis.partition(".")[0] != "calibrate"]
    points = points[points["status"] == "ok"]
    if "run" in points:
        points = points.drop_duplicates("run")
    return points.drop_duplicates(axes_of_models) if axes_of_models else points.head(1), axes_of_models
