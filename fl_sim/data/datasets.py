"""Every dataset by name: what is known of it, loading it, and (only when asked) downloading it.

A user's own dataset is named `package.module:object`; `object(count=…, image_size=…, seed=…)` is called and
returns a Dataset.

>>> describe("digits").capacity
1797
>>> load("digits", count=0, image_size=None, seed=0).inputs.shape
(1797, 1, 8, 8)
"""

from __future__ import annotations

import difflib
from functools import partial

from fl_sim.data import embedded, glyphs, vision
from fl_sim.data.fonts import UNSEEN_FONTS
from fl_sim.data.friedman import friedman
from fl_sim.data.named import PATTERNS, named_source
from fl_sim.data.source import Dataset, Source, data_root, versions
from fl_sim.errors import DataNotAtHandError, FlSimError, ScenarioError

__all__ = ["DATASETS", "Dataset", "Source", "data_root", "describe", "get", "load"]

DEFAULT_GLYPH_SIZE = 28


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
    return source.read(count, image_size, seed)


def describe(name: str, key: str = "data.name") -> Source:
    """What is known of a dataset without loading it.

    Raises:
        ScenarioError: no such name; the message begins with `key`, where it stands, and has the nearest valid name.
    """
    known = DATASETS | SPLITS
    if name in known:
        return known[name]
    if ":" in name and not _meant_for_ours(name):
        return named_source(name, key)
    near = difflib.get_close_matches(name, known, 1)
    raise ScenarioError(
        f"{key}: no dataset {name!r}{f'; nearest: {near[0]}' if near else ''} "
        f"(all: {', '.join([*DATASETS, *PATTERNS])}; NAME:labelled and NAME:unlabelled of {', '.join(vision.VISION)})"
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


def _glyphs(count: int, image_size: int | None, seed: int) -> Dataset:
    images, labels = glyphs.render(count, DEFAULT_GLYPH_SIZE if image_size is None else image_size, seed)
    return Dataset(images, labels, tuple(glyphs.CHARACTERS))


def _unseen_letters(count: int, image_size: int | None, seed: int) -> Dataset:
    size = DEFAULT_GLYPH_SIZE if image_size is None else image_size
    images, labels = glyphs.render(count, size, seed, UNSEEN_FONTS, glyphs.LETTERS)
    return Dataset(images, labels, tuple(glyphs.LETTERS))


def _refuse_pool(_count: int, _image_size: int | None, _seed: int) -> Dataset:
    raise ScenarioError(
        "data.name: glyphs-pool has no labels; name it among [reference] sets, or use glyphs or unseen-letters, which "
        "have them"
    )


def _glyph_marks() -> tuple[str, ...]:
    return (f"glyphs {glyphs.VERSION}", *versions("matplotlib", "numpy", "torch"))


DATASETS: dict[str, Source] = {
    source.name: source
    for source in (
        Source(
            name="digits",
            task="classification",
            about="handwritten digits, 8 x 8 grey",
            origin="embedded",
            capacity=embedded.NUM_DIGITS,
            num_classes=10,
            read=embedded.digits,
            marks=partial(versions, "scikit-learn"),
        ),
        Source(
            name="diabetes",
            task="regression",
            about="disease progression of 442 patients, 10 features",
            origin="embedded",
            capacity=embedded.NUM_DIABETES,
            read=embedded.diabetes,
            marks=partial(versions, "scikit-learn"),
        ),
        Source(
            name="glyphs",
            task="classification",
            about="letters and digits in 21 fonts, distorted, 62 classes, any size, grey",
            origin="generated",
            num_classes=62,
            read=_glyphs,
            marks=_glyph_marks,
        ),
        Source(
            name="glyphs-pool",
            task="unlabelled",
            about="every printable character of matplotlib's fonts, about 40,000 images, any size, grey",
            origin="generated",
            read=_refuse_pool,
            marks=_glyph_marks,
        ),
        Source(
            name="unseen-letters",
            task="classification",
            about="letters in the four STIX text fonts, distorted, 52 classes, any size, grey",
            origin="generated",
            num_classes=52,
            read=_unseen_letters,
            marks=_glyph_marks,
        ),
        Source(
            name="glyphs-pool:seen",
            task="unlabelled",
            about="glyphs-pool without the STIX fonts, about 34,000 images",
            origin="generated",
            read=_refuse_pool,
            marks=_glyph_marks,
        ),
        Source(
            name="friedman",
            task="regression",
            about="Friedman's function, noise depending on x, 10 features",
            origin="generated",
            read=friedman,
            marks=partial(versions, "numpy"),
        ),
        *vision.sources(),
    )
}
SPLITS: dict[str, Source] = {source.name: source for name in vision.VISION for source in vision.splits(name)}
