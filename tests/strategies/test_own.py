"""A strategy of the user's own: its options are held to its constructor before any work, and what it raises is told as
the user's."""

from __future__ import annotations

import pytest
from test_cli import SMALL, call

MINE = """
from __future__ import annotations
from typing import Annotated, Literal
from pydantic import Field
from strategies.class_conditional import ClassConditional
from strategies.local import Local
from strategies.none import NoCalibration
from strategies.own import Own
from strategies.probe import ProbeStrategy as Probe
from strategies.weights import Weights


class Wider(Local):
    def __init__(self, federation, *, alpha, score="", width: Annotated[float, Field(ge=1)] = 1.0, small_n="clip"):
        super().__init__(federation, alpha=alpha, score=score, small_n=small_n)
        self.width = width


class Untyped(Local):
    def __init__(self, federation, alpha, score, wide, *rest: Nobody, **more: Nobody):
        super().__init__(federation, alpha=alpha, score=score)


class Alone(Local):
    def __init__(self, alpha, score):
        super().__init__(alpha=alpha, score=score)


class Raises(Local):
    def for_each(self, reports):
        return {report.partition: self.nothing for report in reports}


class Starts(Local):
    def __init__(self, federation, *, alpha, score=""):
        raise KeyError("at the start")


class Nan(Local):
    def for_each(self, reports):
        return dict.fromkeys(range(len(reports)), float("nan"))


class Some(Local):
    def for_each(self, reports):
        return {0: 0.5}


class Says(Local):
    def detail(self):
        return {"mine": object()}
"""


@pytest.fixture
def fl_sim(monkeypatch, capsys, tmp_path):
    """The command, in a folder with that module."""
    (tmp_path / "mine_own_strategies.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return lambda *words: call(monkeypatch, capsys, *words)


def told(name: str, **options: str) -> str:
    keys = {"alpha": "0.1", "score": "'lac'"} | options
    given = "".join(f", {key}={value}" for key, value in keys.items())
    return f"calibrate={{name='mine_own_strategies:{name}'{given}}}"


@pytest.mark.parametrize(("word", "refused"), [
    (told("Local", small_n="'bogus'"), "calibrate.small_n = 'bogus': input should be 'clip', 'inf' or 'drop'"),
    (told("Local", small_m="'inf'"), "calibrate.small_m: mine_own_strategies:Local has no such option; did you mean"),
    (told("Local", small_n="3"), "calibrate.small_n = 3: input should be 'clip', 'inf' or 'drop'"),
    (told("Wider", width="0.5"), "calibrate.width = 0.5: input should be greater than or equal to 1"),
    (told("Wider", height="0.5"), "calibrate.height: mine_own_strategies:Wider has no such option"),
    (told("Untyped"), "calibrate.wide: this key is needed and is missing"),
    (told("Alone"), "'mine_own_strategies:Alone' has a constructor without the argument federation"),
    (told("NoCalibration"), "'mine_own_strategies:NoCalibration' has a constructor without the argument alpha"),
    (told("ClassConditional", rare="'lend'"), "calibrate.rare = 'lend': input should be"),
    ("learn=mine_own_strategies:Weights", "learn.teacher: this key is needed and is missing"),
    ("learn=mine_own_strategies:Probe", "data.server = 0, and learn = 'mine_own_strategies:Probe' learns from these"),
])  # fmt: skip
@pytest.mark.parametrize("command", ["validate", "run"])
def test_options_are_refused_before_any_work(fl_sim, command, word, refused):
    code, _, said = fl_sim(command, "digits", *SMALL, word)
    assert (code in (1, 2), "should not have happened" in said) == (True, False), said
    assert refused in said
    assert "Traceback" not in said


@pytest.mark.parametrize("word", [
    told("Local"), told("Local", small_n="'inf'"), told("Wider", width="2", small_n="'drop'"),
    told("Untyped", wide="[1, 'two']", more="true"), "learn={name='mine_own_strategies:Own'}",
])  # fmt: skip
def test_options_that_its_constructor_has_are_handed_to_it(fl_sim, word):
    code, _, said = fl_sim("run", "digits", *SMALL, word, "--out", "here")
    assert (code, said) == (0, "")


@pytest.mark.parametrize(("name", "raised"), [
    ("Raises", "AttributeError: 'Raises' object has no attribute 'nothing'"),
    ("Starts", "KeyError: 'at the start'"),
    ("Nan", "ValueError: threshold = nan: must be a number or +inf"),
    ("Some", "ValueError: Some set no threshold for 7 of 8 clients that answered (client 1 is one): for_each, or "
     "take, must set one for each; +inf covers everything"),
    ("Says", "TypeError: Object of type object is not JSON serializable"),
])  # fmt: skip
def test_what_it_raises_is_the_users_with_the_users_traceback(fl_sim, name, raised):
    code, _, said = fl_sim("run", "digits", *SMALL, told(name), "--out", "here")
    assert code == 1, said
    assert said.startswith("error: Traceback (most recent call last):")
    assert said.endswith(f"\n\ncalibrate = 'mine_own_strategies:{name}' raised {raised}\n")
    assert "report it" not in said
    if name in ("Raises", "Starts"):
        assert "mine_own_strategies.py" in said.splitlines()[1]
