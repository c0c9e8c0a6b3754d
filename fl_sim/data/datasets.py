"""Every dataset by name: what is known of it, loading it, and (only when asked) downloading it.

Each is a file in `fl_sim/data/sets/`. A user's own dataset is named `package.module:object`;
`object(count=…, image_size=…, seed=…)` is called and returns a Dataset.

>>> describe("digits").capacity
1797
>>> load("digits", count=0, image_size=None, seed=0).inputs.shape
(1797, 1, 8, 8)
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules

from fl_sim.data import sets
from fl_sim.data.named import PATTERNS, named_source
from fl_sim.data.source import Dataset, Source, data_root
from fl_sim.errors import DataNotAtHandError, FlSimError, ScenarioError

__all__ = ["DATASETS", "KNOWN", "Dataset", "Source", "data_root", "describe", "get", "load"]


def load(name: str, *, count: int, image_size: int | None, seed: int) -> Dataset:
    """The dataset of that name, whole, at its native size; nothing is ever downloaded.

    `count` rows are made where data is generated (glyphs, friedman) and the number means nothing elsewhere;
    `image_size` is the side in pixels of glyphs (28 if None) and of image folders. Raises ScenarioError for a
    name that cannot be one, DataNotAtHandError, with the commands that get it, for one that is not on this
    machine.
    """
    source = describe(name)
    if not source.at_hand():
        commands = "".join(f"\n    {command}" for command in source.to_get)
        raise DataNotAtHandError(
            f"dataset {name} is not on this machine (looked in {data_root()}); get it with{commands}"
        )
    if source.read is None:
        raise ScenarioError(
            f"data.name: {name} has no labels; name it among [reference] sets, or use data that has them"
        )
    return source.read(count, image_size, seed)


def describe(name: str, key: str = "data.name") -> Source:
    """What is known of a dataset without loading it.

    Raises:
        ScenarioError: no such name; the message begins with `key`, where it stands, and has the nearest valid name.
    """
    if name in KNOWN:
        return KNOWN[name]
    if ":" in name and not _meant_for_ours(name):
        return named_source(name, key)
    near = difflib.get_close_matches(name, KNOWN, 1)
    raise ScenarioError(
        f"{key}: no dataset {name!r}{f'; nearest: {near[0]}' if near else ''} "
        f"(all: {', '.join([*DATASETS, *PATTERNS])}; NAME:labelled and NAME:unlabelled of "
        f"{', '.join(name for name, source in DATASETS.items() if source.parts)})"
    )


def _meant_for_ours(name: str) -> bool:
    """Whether a name with a colon that is none of ours was meant to be one, and not a `module:object`."""
    kind, _, argument = name.partition(":")
    if "-" in kind:  # no module is called so
        return kind != "image-folder"
    return kind in DATASETS and bool(difflib.get_close_matches(argument, ("labelled", "unlabelled"), 1, 0.8))


def get(name: str) -> str:
    """Bring a dataset to this machine, the only thing that downloads; returns a line that says what happened.

    Raises FlSimError, with what failed, if it cannot be had.
    """
    source = describe(name)
    if source.origin == "yours":
        return f"{name} is your own: there is nothing to get"
    if source.at_hand():
        return f"{name} is at hand ({source.origin})"
    if source.fetch is None:
        commands = "".join(f"\n    {command}" for command in source.to_get)
        raise FlSimError(f"dataset {name} cannot be downloaded from here; first{commands}")
    source.fetch()
    return f"{name} is now in {data_root()}"


def _sources() -> Iterator[Source]:
    """Those that the files in `sets/` define."""
    for module in iter_modules(sets.__path__):
        for thing in vars(import_module(f"{sets.__name__}.{module.name}")).values():
            if isinstance(thing, Source):
                yield thing


DATASETS: dict[str, Source] = {source.name: source for source in _sources()}
KNOWN = DATASETS | {part.name: part for source in DATASETS.values() for part in source.parts}
