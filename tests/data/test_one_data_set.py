"""A data set is one file: dropped into a copy of the tree it is listed, validated, run by its name and documented."""

from __future__ import annotations

import json
import sys

from test_one_file import fl_sim, run, tree

from fl_sim.data.datasets import DATASETS, sets

__all__ = ["tree"]

RINGS = '''"""Two rings around each other: points of a plane, by the ring they lie on."""

from __future__ import annotations

import numpy as np

from fl_sim.data.source import Dataset, Source
from fl_sim.randomness import stream


def read(count: int, _image_size: int | None, seed: int) -> Dataset:
    """Radius 1 or 2, and a little noise."""
    rng = stream(seed, "rings")
    labels, angles = rng.integers(0, 2, count), rng.random(count) * 2 * np.pi
    points = (1 + labels)[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return Dataset(points + 0.1 * rng.standard_normal((count, 2)), labels, ("inner", "outer"))


source = Source("rings", "classification", "two rings in a plane", "generated", read, num_classes=2)
'''


def test_a_data_set_is_added_by_dropping_one_file(tree):
    (tree / "fl_sim" / "data" / "sets" / "rings.py").write_text(RINGS)
    listed = fl_sim(tree, "list", "datasets")
    assert "rings classification at hand two rings in a plane" in [
        " ".join(x.split()) for x in listed.stdout.splitlines()
    ]
    refused = fl_sim(tree, "validate", "digits", "data.name=ring")
    assert (refused.returncode, "nearest: rings" in refused.stderr) == (2, True)
    assert fl_sim(tree, "validate", "digits", "data.name=rings", "clients.tier.strong.architecture=mlp").returncode == 0
    words = ("data.name=rings", "clients.tier.strong.architecture=mlp", "clients.count=4", "runtime.name=inline")
    done = fl_sim(tree, "run", "digits", *words, "--out", "out")
    assert done.returncode == 0, done.stderr
    assert json.loads((tree / "out" / "result.json").read_text())["classes"] == ["inner", "outer"]
    assert run(tree, sys.executable, "docs/generate.py").returncode == 0
    assert "`rings.py` | Two rings around each other" in (tree / "ARCHITECTURE.md").read_text()


def test_a_data_sets_name_is_its_files():
    from importlib import import_module
    from pkgutil import iter_modules

    files = [module.name for module in iter_modules(sets.__path__)]
    assert len(files) >= 12
    for name in files:
        module = import_module(f"fl_sim.data.sets.{name}")
        assert DATASETS[name.replace("_", "-")] in vars(module).values()
