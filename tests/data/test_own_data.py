"""What a user brings is checked when it comes in: data sets, scores, and what only the loaded data show."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fl_sim import Scenario, simulate
from fl_sim.conformal.scores import from_json
from fl_sim.data import Dataset
from fl_sim.errors import FlSimError, OwnCodeError, ScenarioError

X, Y = np.arange(12, dtype=np.float32).reshape(6, 2), np.array([0, 1, 2, 0, 1, 2])
NAMES = ("a", "b", "c")


def spoiled(value: float, *places: tuple[int, int]) -> np.ndarray:
    features = X.copy()
    for place in places:
        features[place] = value
    return features


@pytest.mark.parametrize(("inputs", "targets", "classes", "told"), [
    (spoiled(np.nan, (1, 1), (4, 1)), Y, NAMES, "NaN or infinite numbers in 2 of 6 rows, in column 1; fill"),
    (spoiled(np.inf, (1, 0), (1, 1)), Y, NAMES, "NaN or infinite numbers in 1 of 6 rows, in columns 0, 1; fill"),
    (X, np.array([0, np.nan, 1, 1, 1, 1], np.float32), None, "1 of 6 targets are NaN or infinite"),
    (X[:, :0], Y, NAMES, "hold no feature"),
    (X, Y, ("a", "a", "b"), "2 classes are called 'a'; their names must differ"),
    (X, Y, (1, "1", 2), "2 classes are called '1'"),
    (X, Y, (1.5, 2.5, 3.5), "class name 1.5 is float; names must be texts"),
    (X, Y, "abc", "classes = 'abc'; they must be a tuple of names"),
    (X, Y, (), "classes = \\(\\)"),
    (X, Y + 0.5, NAMES, "labels are not whole numbers"),
    (X, Y - 1, NAMES, "labels run from -1 to 1"),
    (X, ["x"] * 6, NAMES, "targets are <U1"),
    ([[1, 2], [3]], Y[:2], NAMES, "inputs are no array"),
    (pd.DataFrame({"age": [1.0, 2], "town": ["x", "y"]}), Y[:2], NAMES, r"no numbers: town \\("),
    (np.array([[1, None]], object), Y[:1], NAMES, "NaN or infinite numbers in 1 of 1 rows"),
    (np.array([[1, "x"]], object), Y[:1], NAMES, "hold what is no number"),
    (X.astype(complex), Y, NAMES, "they must be numbers"),
])  # fmt: skip
def test_a_data_set_is_refused_when_it_is_made(inputs, targets, classes, told):
    with pytest.raises(FlSimError, match=told.replace("\\\\", "\\")):
        Dataset(inputs, targets, classes)


def test_lists_frames_and_other_numbers_are_taken():
    expected = Dataset(X, Y, NAMES)
    for inputs, targets, classes in (
        (X.tolist(), Y.tolist(), list(NAMES)), (pd.DataFrame(X), pd.Series(Y), NAMES), (X.astype(np.float64), Y, NAMES),
        (X.astype(int), Y.astype(np.uint8), np.array(NAMES)), (X, Y.astype(float), NAMES),
    ):  # fmt: skip
        made = Dataset(inputs, targets, classes)
        assert (made.inputs.dtype, made.targets.dtype, made.classes) == (np.float32, np.int64, NAMES)
        assert np.array_equal(made.inputs, expected.inputs)
        assert np.array_equal(made.targets, expected.targets)
    assert Dataset(X, Y, tuple(np.unique(Y))).classes == ("0", "1", "2")
    assert Dataset(X, [1, 2, 3, 4, 5, 6], None).targets.dtype == np.float32


OWN = """
import numpy as np
from fl_sim.data import Dataset

def rows(count, image_size, seed, classes=("a", "b", "c")):
    y = np.arange(count) % len(classes)
    x = np.random.default_rng(seed).normal(size=(count, 4)) + y[:, None]
    return Dataset(x, y, classes)

def one_class(count, image_size, seed):
    return rows(count, image_size, seed, ("only",))

def numbers(count, image_size, seed):
    x = np.random.default_rng(seed).normal(size=(count, 4))
    return Dataset(x, x.sum(axis=1), None)

def read_from_a_file(count, image_size, seed):
    import os
    y = np.load(os.environ["LABELS"])
    return Dataset(np.random.default_rng(seed).normal(size=(count, 3)), y, ("a", "b"))

def broken(count, image_size, seed):
    return {}["no such column"]

def spoiled(count, image_size, seed):
    return Dataset(np.full((count, 2), np.nan), np.zeros(count, int), ("a",))

class Flat:
    def all_labels(self, p, u): return 1 - p
    def of(self, p, y, u): return (1 - p).ravel()

class Other(Flat):
    def of(self, p, y, u): return 1 - p[np.arange(len(y)), y] + 1e-9

class Fewer(Flat):
    def of(self, p, y, u): return (1 - p[np.arange(len(y)), y])[1:]

class Nan(Flat):
    def of(self, p, y, u): return np.full(len(y), np.nan)

class Wide(Flat):
    def all_labels(self, p, u): return (1 - p)[:, :1]
    def of(self, p, y, u): return 1 - p[np.arange(len(y)), y]

class Good(Flat):
    def of(self, p, y, u): return self.all_labels(p, u)[np.arange(len(y)), y]
"""


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store):
    (tmp_path / "brought.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "brought", None)
    del sys.modules["brought"]

    def run(data: str, *overrides: str):
        told = (
            "clients.count=4", "data.train=60", "data.calibration=60", "data.test=40", "runtime.name=inline",
            "clients.partition=iid", 'clients.tier=[{name="t", architecture="linear", epochs=1}]',
        )  # fmt: skip
        return simulate(Scenario.load("digits", f"data.name=brought:{data}", *told, *overrides), store=store.root)

    return run


@pytest.mark.parametrize(("data", "overrides", "told"), [
    ("spoiled", [], "^data.name = 'brought:spoiled': dataset: NaN or infinite numbers in 160 of 160 rows"),
    ("numbers", [], "calibrate.score = 'lac' is a classification score, and brought:numbers is regression"),
    ("rows", ['calibrate={name="pooled", alpha=0.1, score="residual"}'], "is a regression score, and brought:rows is"),
    ("numbers", ['calibrate={name="class-conditional", alpha=0.1, score="residual"}'], "is for classification"),
    *[("one_class", [f"calibrate.calibrator={name}"], f"calibrator = '{name}' tells classes apart")
      for name in ("ets", "vector", "matrix", "svs", "sms")],
])  # fmt: skip
def test_what_only_the_loaded_data_show_is_refused_in_words(world, data, overrides, told):
    with pytest.raises(FlSimError, match=told):
        world(data, *overrides)


def test_what_a_function_reads_may_change_though_its_text_does_not(world, tmp_path, monkeypatch):
    """A file of labels: once the first result came back under every later name."""
    file = tmp_path / "labels.npy"
    monkeypatch.setenv("LABELS", str(file))
    np.save(file, np.arange(160) % 2)
    first = world("read_from_a_file")
    np.save(file, np.arange(160) // 80)
    second = world("read_from_a_file")
    assert [row["label_counts"] for row in first.clients] != [row["label_counts"] for row in second.clients]
    np.save(file, np.arange(160) % 2)
    assert world("read_from_a_file").column("label_counts") == first.column("label_counts")


def test_one_class_is_served_by_calibrators_that_do_not_tell_classes_apart(world):
    assert world("one_class", "calibrate.calibrator=temperature").calibrate["coverage"] == 1.0


def test_an_exception_in_a_users_function_is_the_users(world):
    with pytest.raises(OwnCodeError) as error:
        world("broken")
    said = str(error.value)
    assert said.splitlines()[0] == "Traceback (most recent call last):"
    assert "brought.py" in said
    assert "fl_sim/errors.py" not in said
    assert said.splitlines()[-1] == "data.name = 'brought:broken' raised KeyError: 'no such column'"


@pytest.mark.parametrize(("score", "told"), [
    ("Flat", r"of\(\) gave shape \(\d+,\); it must be \(\d+,\)"), ("Fewer", r"of\(\) gave shape"),
    ("Nan", "NaN"), ("Other", "they must be the same number"), ("Wide", r"all_labels\(\) gave shape"),
])  # fmt: skip
def test_a_score_is_held_against_what_it_was_given(world, score, told):
    with pytest.raises(FlSimError, match=told):
        world("rows", f"calibrate.score=brought:{score}")


def test_a_score_of_ones_own_that_is_right_covers_as_lac_does(world):
    own, lac = world("rows", "calibrate.score=brought:Good"), world("rows")
    assert own.column("num_covered") == lac.column("num_covered")
    assert "brought:Good" in repr(from_json('{"name": "brought:Good"}'))


def test_a_scenario_is_refused_for_data_that_do_not_fit_it():
    scenario = Scenario.load("digits")
    scenario.check_data(10)
    with pytest.raises(ScenarioError, match="for regression on features choose one of"):
        scenario.check_data(None)
