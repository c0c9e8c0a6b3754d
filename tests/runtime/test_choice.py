"""Where clients run under "auto": by what is left to do, and by nothing else."""

from __future__ import annotations

import json
import sys

import pytest

from fl_sim import Scenario, simulate
from fl_sim.cli import main
from fl_sim.runtime import choice
from fl_sim.runtime.choice import choose, learning_key, work
from fl_sim.store.artifacts import Store


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "store")


def chosen(store: Store, *overrides: str, file: str = "digits", jobs: int = 1) -> tuple[str, str]:
    where, why = choose([Scenario.load(file, *overrides)], store, jobs)
    return where.name, why


def test_the_work_of_digits_is_its_two_trainings_and_its_clients(store):
    expected = 500 * (3 * choice.ROW["linear"] + 30 * choice.ROW["cnn"]) + 40 * choice.ANSWER
    assert work([Scenario.load("digits")], store) == pytest.approx(expected)


@pytest.mark.parametrize(("learn", "rows"), [
    (["learn=shared", "learn.per_client=true"], 40 * 500), (["learn=own"], 500),
    (["learn=fedavg", "learn.rounds=7", "learn.fraction=0.5"], 3.5 * 500),
])  # fmt: skip
def test_the_work_follows_the_strategy(store, learn, rows):
    words = ["clients.tier.weak.share=0.0", "clients.tier.strong.architecture=linear"]
    scenario = Scenario.load("digits", *words, *learn)
    turns = 40 * (choice.ANSWER + choice.UPDATE * 3.5 * (learn[0] == "learn=fedavg"))
    assert work([scenario], store) == pytest.approx(rows * 30 * choice.ROW["linear"] + turns)


def test_what_points_have_in_common_is_counted_once(store):
    points = [Scenario.load("digits", f"clients.concentration={c}") for c in (0.1, 1.0, 10.0)]
    assert work(points, store) == pytest.approx(work(points[:1], store) + 2 * 40 * choice.ANSWER)


def test_little_work_is_done_here_and_much_on_ray(store):
    assert chosen(store)[0] == "inline"
    assert "about 3.8 s" in chosen(store)[1]
    assert chosen(store, file="crowd")[0] == "ray"
    assert chosen(store, "clients.tier.strong.architecture=resnet18") == (
        "ray", "clients run on Ray: clients have models to learn; --runtime inline does without it",
    )  # fmt: skip


@pytest.mark.parametrize(("overrides", "why"), [
    (["runtime.timeout=30"], "runtime.timeout is set"),
    (["runtime.cpus_per_client=0.5"], "runtime.cpus_per_client is set"),
    (["clients.behaviour=[{kind='straggler', share=0.1, delay=1}]"], "a straggler is stopped there"),
    (["clients.tier.weak.architecture=examples.own:net"], "clients.tier.weak.architecture is your own"),
])  # fmt: skip
def test_what_may_hang_or_says_something_of_ray_goes_there(store, overrides, why):
    for jobs in (1, 2):
        name, reason = chosen(store, *overrides, jobs=jobs)
        assert (name, why in reason) == ("ray", True), reason


def test_a_runtime_that_is_named_is_taken_without_a_word(store):
    assert chosen(store, "runtime.address='127.0.0.1:6379'") == ("ray", "")
    for name in ("inline", "ray", "flower"):
        assert chosen(store, f"runtime.name={name}", file="crowd", jobs=2) == (name, "")


def test_points_side_by_side_are_their_own_parallelism(store):
    assert chosen(store, file="crowd", jobs=2)[0] == "inline"


def test_the_key_holds_what_decides_the_models_and_nothing_else():
    keys = {}
    for word in ("seed=0", "clients.concentration=3", "calibrate=local", "clients.count=12", "runtime.name=ray"):
        keys[word] = learning_key(Scenario.load("digits", word))
    assert len(set(keys.values())) == 1
    for word in ("seed=1", "data.train=499", "clients.tier.weak.epochs=4", "learn=own", "runtime.precision=bfloat16"):
        assert learning_key(Scenario.load("digits", word)) not in keys.values(), word
    own = [learning_key(Scenario.load("digits", "learn=own", word)) for word in ("clients.count=12", "clients.count=9")]
    assert own[0] != own[1]  # whose rows are whose decides


def test_what_was_learnt_is_no_work_any_more(tmp_path, monkeypatch, capsys):
    """The crowd goes to Ray to learn; then to this process, where the result and the command say so."""
    monkeypatch.chdir(tmp_path)
    store, words = Store(tmp_path / "store"), ["data.train=400", "data.calibration=300", "data.test=200"]
    small = Scenario.load("digits", "clients.count=8", "clients.tier.strong.epochs=1")
    before = work([small], store)
    result = simulate(small, store=store.root)
    assert result.summary["machine"]["runtime"] == "inline"
    assert work([small.with_("clients.concentration=5")], store) == pytest.approx(8 * choice.ANSWER)
    assert before > 10 * 8 * choice.ANSWER
    argv = ["fl-sim", "run", "digits", *words, "--store", str(store.root), "--out", "out", "--figures", "none"]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 0
    assert "clients run in this process" in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "result.json").read_text())["machine"]["runtime"] == "inline"
    assert json.loads((tmp_path / "out" / "result.json").read_text())["scenario"]["runtime"]["name"] == "auto"
