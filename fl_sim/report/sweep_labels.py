"""Learn strategies as a sweep labels them, `plada(keep_fraction=0.01, rule=random)`, taken apart and made shorter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from fl_sim.report.sweep_points import shown
from fl_sim.scenario.strategies import LEARN

# How much is handed out: these tell the points of one line apart, all other arguments tell lines apart.
SIZES = ("keep_fraction", "budget_bytes", "images_per_class", "precision", "centroids")

Arguments = dict[str, str]


def taken_apart(label: str) -> tuple[str, Arguments]:
    """A label's name and its arguments, each as it is written; what stands in brackets stays whole.

    >>> taken_apart("plada(keep_fraction=0.01, safety=(share=1, exponent=0))")
    ('plada', {'keep_fraction': '0.01', 'safety': '(share=1, exponent=0)'})
    """
    name, bracket, rest = label.partition("(")
    inside = rest.removesuffix(")") if bracket else ""
    return name, dict(_split(part) for part in _parts(inside))


def put_together(name: str, arguments: Mapping[str, str]) -> str:
    """The label of a name and its arguments."""
    said = ", ".join(f"{key}={value}" if key else value for key, value in arguments.items())
    return f"{name}({said})" if said and name else name or said


def _parts(text: str) -> Iterator[str]:
    depth, start = 0, 0
    for place, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            yield text[start:place].strip()
            start = place + 1
    if text[start:].strip():
        yield text[start:].strip()


def _split(part: str) -> tuple[str, str]:
    key, sign, value = part.partition("=")
    return (key, value) if sign else ("", part)


def shortened(points: pd.DataFrame, axes: Sequence[str]) -> tuple[pd.DataFrame, str]:
    """The points with shorter labels on the `learn` axis, and in words what is the same for all that have it.

    An argument is left out where every label of every strategy that ever has it has it with the same value, and it is
    said more than once or is a table: labels stay as different as they were.
    """
    if "learn" not in axes:
        return points, ""
    found = {label: taken_apart(str(label)) for label in points["learn"].unique()}
    same = dict(_same(list(found.values())))
    short = {
        label: put_together(name, {key: value for key, value in arguments.items() if key not in same})
        for label, (name, arguments) in found.items()
    }
    return points.assign(learn=points["learn"].map(short)), "; ".join(same.values())


def _same(found: Sequence[tuple[str, Arguments]]) -> Iterator[tuple[str, str]]:
    """(argument, what it is for whom) of those that may be left out."""
    for key in dict.fromkeys(key for _, arguments in found for key in arguments):
        names = list(dict.fromkeys(name for name, arguments in found if key in arguments))
        values = [arguments.get(key) for name, arguments in found if name in names]
        value = values[0]
        if value is not None and set(values) == {value} and (len(values) > 1 or value.startswith("(")):
            yield key, f"{' and '.join(names)} with {key}={value}"


def line_of(key: Mapping[str, Any]) -> str:
    """What a cell's payload is made by, without how large it is: `plada(rule=random)`.

    `key` is a cell's, axis -> value; `learn.rule` says the same as an argument of `learn`, where that strategy has it.
    """
    name, arguments = taken_apart(str(key["learn"])) if "learn" in key else ("", {})
    for axis, value in key.items():
        argument = axis.removeprefix("learn.")
        if argument != axis and (name not in LEARN or argument in LEARN[name].model_fields):
            arguments[argument] = shown(value)
    return put_together(name, {argument: value for argument, value in arguments.items() if argument not in SIZES})


def is_of_learn(axis: str) -> bool:
    """Whether an axis says how clients come by their models."""
    return axis.partition(".")[0] == "learn"


def of_models(points: pd.DataFrame, axes: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """The points and axes that matter to the models: a point that differs from an earlier one in its calibration alone
    is left out, and so is one that shares its run."""
    kept = [axis for axis in axes if axis.partition(".")[0] != "calibrate"]
    points = points[points["status"] == "ok"]
    if "run" in points:
        points = points.drop_duplicates("run")
    return points.drop_duplicates(kept) if kept else points.head(1), kept
