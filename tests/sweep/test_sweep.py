"""Sweeps and comparisons: their points, what is run, gone on with, refused, and read back."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from fl_sim import load
from fl_sim.errors import FlSimError, RuntimeLostError, ScenarioError
from fl_sim.results.run import RunFolder
from fl_sim.results.sweep_folder import is_finished
from fl_sim.runtime.inline import InlineGrid
from fl_sim.scenario.toml import locate, values_of
from fl_sim.sweep.expand import cost, label, load_comparison, load_sweep
from fl_sim.sweep.run import claim, run_sweep

TINY = ("clients.count=6", "clients.tier.strong.epochs=1", "clients.tier.weak.epochs=1", "runtime.name=inline")


class Quiet:
    """A watch that only counts."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.failures: list[str] = []
        self.placed_words: list[str] = []

    def phase(self, name, total): ...

    def done(self, count): ...

    def begin(self, total, finished):
        self.total, self.finished = total, finished

    def placed(self, words):
        self.placed_words.append(words)

    def point(self, words):
        self.begun.append(words)

    def ended(self, words, failure):
        if failure is not None:
            self.failures.append(words)


def run(sweep, folder, *, fail_fast=False) -> tuple[Quiet, dict[str, str]]:
    watch = Quiet()
    return watch, run_sweep(sweep, folder, watch, store=folder.parent / "store", verbose=False, fail_fast=fail_fast)


# ---------------------------------------------------------------------------------------------------------- the points


def test_points_are_the_product_of_the_axes_the_last_changing_fastest():
    sweep = load_sweep("digits", ["clients.concentration=0.1,1", "calibrate=fedwq-cp,local", "seed=0,1,2"])
    assert [tuple(p.labels().values()) for p in sweep.points[:4]] == [
        (0.1, "fedwq-cp", 0), (0.1, "fedwq-cp", 1), (0.1, "fedwq-cp", 2), (0.1, "local", 0),
    ]  # fmt: skip
    assert len(sweep.points) == len(sweep.runs) == 12
    last = sweep.points[-1].scenario
    assert (last.clients.concentration, last.calibrate.name, last.seed) == (1, "local", 2)


def test_the_files_axes_are_replaced_and_fixed_from_the_command_line():
    assert len(load_sweep("heterogeneity").points) == 4 * 4 * 4 * 3
    sweep = load_sweep("heterogeneity", ["seed=0,1", "clients.concentration=0.5"])
    assert list(sweep.axes) == ["clients.tier.weak.share", "calibrate", "seed"]
    assert len(sweep.points) == 4 * 4 * 2
    assert {point.scenario.clients.concentration for point in sweep.points} == {0.5}


def test_whole_strategies_with_keys_of_their_own_are_values():
    sweep = load_sweep("digits", ["calibrate=pooled,{name='fedwq-cp', alpha=0.2, score='aps', small_n='inf'}"])
    first, second = (point.scenario.calibrate for point in sweep.points)
    assert (first.name, first.alpha, second.name, second.alpha, second.small_n) == (
        "pooled",
        0.1,
        "fedwq-cp",
        0.2,
        "inf",
    )
    assert label({"name": "pooled"}) == "pooled"
    assert sweep.points[1].labels() == {"calibrate": "fedwq-cp(alpha=0.2, score=aps, small_n=inf)"}


def test_commas_inside_a_value_are_its_own():
    assert values_of("a=1,2") == ("a", [1, 2])
    assert values_of("a=[1, 2],[3, 4]") == ("a", [[1, 2], [3, 4]])
    assert values_of("a='x,y',z") == ("a", ["x,y", "z"])


def test_points_that_cannot_differ_are_run_once(tmp_path):
    sweep = load_sweep("digits", [*TINY, "clients.partition=iid", "clients.concentration=0.1,1,10"])
    assert (len(sweep.points), len(sweep.runs)) == (3, 1)
    none = load_sweep("digits", [*TINY, "calibrate.alpha=0.1,0.2", "calibrate=none,pooled"])
    assert (len(none.points), len(none.runs)) == (4, 3)
    empty = load_sweep("digits", [*TINY, "clients.tier.weak.share=0.0,0.5", "clients.tier.weak.epochs=1,2"])
    assert (len(empty.points), len(empty.runs)) == (4, 3)
    watch, _ = run(sweep, tmp_path / "out")
    assert len(watch.begun) == 1
    assert load(tmp_path / "out").points["calibrate.coverage"].nunique() == 1


def test_the_cost_counts_what_is_shared_once(tmp_path):
    shared = cost(load_sweep("digits", ["calibrate=local,pooled", "seed=0,1"]), tmp_path)
    assert (shared.runs, shared.trainings, shared.rows, shared.clients) == (4, 2 * 2, 2 * 500 * (3 + 30), 4 * 40)
    own = cost(load_sweep("digits", ["calibrate=local,pooled", "learn=own"]), tmp_path)
    assert (own.trainings, own.rows) == (40, 500 * (3 + 30) // 2)
    averaged = {"name": "fedavg", "rounds": 3, "fraction": 0.5}
    told = cost(load_sweep("digits", ["seed=0,1"], {"learn": [averaged]}), tmp_path)
    assert told.rows == 2 * 3 * 500 * (3 + 30) // 4


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "nothing is swept"),
        (["clients.concentratoin=0.1,1"], "clients.concentratoin: there is no such key; did you mean 'concentration'?"),
        (["calibrate=fedwq-cp,poled"], "no calibrate strategy is called 'poled'; did you mean 'pooled'?"),
        (["calibrate=fedwq-cp,poled"], "at the point calibrate=poled"),
        (
            ["seed=0,1", "clients.tier.weak.share=0.1,1.2"],
            "at the point seed=0, clients.tier.weak.share=1.2 and 1 more",
        ),
        (["seed=0,1,2,-3"], "seed = -3"),
        (["clients.tier.wek.share=0.1,0.2"], "nothing there is called 'wek'; did you mean 'weak'?"),
        (["seed"], "an override is written key=value"),
    ],
)
def test_a_wrong_point_is_named_before_anything_runs(words, said):
    with pytest.raises(ScenarioError) as refusal:
        load_sweep("digits", words)
    assert said in str(refusal.value)


@pytest.mark.parametrize("table", ["sweep = 3", '[sweep]\n"seed" = 3', '[sweep]\n"seed" = []'])
def test_a_sweep_that_is_no_table_of_lists_is_refused(tmp_path, table):
    text = locate("digits").read_text()
    (tmp_path / "x.toml").write_text(f"{table}\n{text}" if table.startswith("sweep") else f"{text}\n{table}")
    with pytest.raises(ScenarioError, match="sweep"):
        load_sweep(str(tmp_path / "x.toml"))


@pytest.mark.parametrize(
    ("names", "said"),
    [(["pooled"], "at least two"), (["pooled", "pooled"], "pooled is there twice"), (["pooled", "own"], "both kinds")],
)
def test_a_comparison_needs_two_strategies_of_one_kind(names, said):
    with pytest.raises(ScenarioError, match=said):
        load_comparison("digits", names, [])


def test_folders_that_are_not_this_sweeps_are_refused_and_left_alone(tmp_path):
    one, other = (load_sweep("digits", [*TINY, f"seed=0,{k}"]) for k in (1, 2))
    claim(one, tmp_path / "out")
    before = (tmp_path / "out/sweep.json").read_bytes()
    with pytest.raises(FlSimError, match="belongs to another sweep"):
        run(other, tmp_path / "out")
    assert (tmp_path / "out/sweep.json").read_bytes() == before
    (tmp_path / "out/sweep.json").write_text(before.decode().replace('"format": 2', '"format": 0'))
    with pytest.raises(FlSimError, match="format 0"):
        run(one, tmp_path / "out")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/a.tex").write_text("years")
    with pytest.raises(FlSimError, match="is no sweep of fl-sim"):
        run(one, tmp_path / "thesis")
    (tmp_path / "file").write_text("")
    with pytest.raises(FlSimError, match="choose another --out"):
        run(one, tmp_path / "file")


# ------------------------------------------------------------------------------------------------------------- running


def test_a_finished_point_is_never_run_again(tmp_path):
    sweep = load_sweep("digits", [*TINY, "calibrate=local,pooled", "seed=0,1"])
    first, _ = run(sweep, tmp_path / "out")
    assert len(first.begun) == 4
    again, _ = run(sweep, tmp_path / "out")
    assert (again.begun, again.finished, again.total) == ([], 4, 4)


def test_a_failed_point_is_told_and_costs_the_others_nothing(tmp_path, monkeypatch):
    (tmp_path / "breaks_at_seed_1.py").write_text(
        "from strategies.pooled import Pooled\n"
        "class Breaks(Pooled):\n"
        "    def threshold(self, reports):\n"
        "        if len(reports) == 5:\n"
        "            raise RuntimeError('five')\n"
        "        return super().threshold(reports)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    sweep = load_sweep("digits", [*TINY, "calibrate=breaks_at_seed_1:Breaks", "clients.count=4,5,6"])
    watch, failed = run(sweep, tmp_path / "out")
    (failure,) = failed.values()
    assert failure.endswith("\ncalibrate = 'breaks_at_seed_1:Breaks' raised RuntimeError: five")
    assert watch.failures == ["clients.count=5"]
    assert list(load(tmp_path / "out").points["status"]) == ["ok", "failed", "ok"]
    assert not list((tmp_path / "out/points").glob(".*-*[!0-9a-f]*"))
    with pytest.raises(FlSimError, match=r"five\nat the point clients.count=5"):
        run(sweep, tmp_path / "out", fail_fast=True)
    again, _ = run(sweep, tmp_path / "out")
    assert again.begun == ["clients.count=5"]


def test_a_sweep_whose_ray_dies_stops_at_once_and_the_same_command_goes_on(tmp_path, monkeypatch):
    sweep, died = load_sweep("digits", [*TINY, "seed=0,1,2,3"]), []
    ask = InlineGrid.ask

    def dies(grid, questions):
        if len(watched.begun) == 2:
            died.append(watched.begun[-1])
            raise RuntimeLostError("Ray's process raylet was killed by signal 9")
        return ask(grid, questions)

    watched = Quiet()
    with monkeypatch.context() as patch:
        patch.setattr(InlineGrid, "ask", dies)
        with pytest.raises(RuntimeLostError) as stopped:
            run_sweep(sweep, tmp_path / "out", watched, store=tmp_path / "store", verbose=False, fail_fast=False)
    assert died == watched.begun[1:] == ["seed=1"]
    assert str(stopped.value) == (
        "Ray's process raylet was killed by signal 9; 1 of 4 runs is finished and kept, and the same command goes on "
        "with the others"
    )
    assert list(load(tmp_path / "out").points["status"]) == ["ok", "not run", "not run", "not run"]
    again, failed = run(sweep, tmp_path / "out")
    assert (again.begun, again.finished, failed) == (["seed=1", "seed=2", "seed=3"], 1, {})


def test_a_full_disk_loses_one_point_and_the_same_command_goes_on(tmp_path, monkeypatch):
    sweep = load_sweep("digits", [*TINY, "seed=0,1,2"])
    write, calls = RunFolder.write, []

    def full(self, result):
        calls.append(self)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        write(self, result)

    monkeypatch.setattr(RunFolder, "write", full)
    _, failed = run(sweep, tmp_path / "out")
    assert list(failed.values()) == ["OSError: [Errno 28] No space left on device"]
    watch, failed = run(sweep, tmp_path / "out")
    assert (watch.begun, failed) == (["seed=1"], {})
    assert not (tmp_path / "out/failed.json").exists()


def test_two_sweeps_over_one_folder_run_every_point_once(tmp_path):
    words = ["digits", *TINY, "seed=" + ",".join(map(str, range(8)))]
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from test_sweep import load_sweep, run\n"
        "print(len(run(load_sweep(sys.argv[3], sys.argv[4:]), Path(sys.argv[2]))[0].begun))"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path / "out"), *words]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    counts = [int(process.communicate()[0]) for process in both]
    assert sum(counts) == 8
    assert set(load(tmp_path / "out").points["status"]) == {"ok"}


def without_times(folder: Path) -> dict[str, bytes]:
    """Every file of a sweep's folder; the clock's part taken out."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")):
        content = path.read_bytes()
        if path.name == "result.json":
            told = json.loads(content)
            del told["seconds"]
            for timed in ("result.json", "clients.csv"):  # these digests cover the seconds; the text itself is compared
                told["sha256"].pop(timed)
            content = json.dumps(told).encode()
        if path.name == "clients.csv":
            content = pd.read_csv(path).drop(columns="seconds").to_csv().encode()
        found[str(path.relative_to(folder))] = content
    return found


@pytest.mark.slow
def test_killed_ten_times_it_ends_as_if_undisturbed_and_repeats_nothing(tmp_path):
    words = [*TINY, "clients.concentration=0.1,0.5,2,10", "calibrate=fedwq-cp,local,pooled", "seed=0,1,2,3,4"]
    fl_sim = [Path(sys.executable).parent / "fl-sim", "sweep", "digits", *words, "--out"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}

    def environment(store: str) -> dict[str, str]:
        return {**os.environ, "FL_SIM_STORE": str(tmp_path / store)}

    subprocess.run([*fl_sim, tmp_path / "calm"], env=environment("calm-store"), check=True, **quiet)
    moments, kills, finished = random.Random(0), 0, {}
    while kills < 10:
        with subprocess.Popen(
            [*fl_sim, tmp_path / "killed"], env=environment("store"), start_new_session=True, **quiet
        ) as process:
            time.sleep(moments.uniform(2.0, 4.0))  # imports take two of them
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        now = {p: p.stat().st_mtime_ns for p in (tmp_path / "killed").glob("points/[!.]*/result.json")}
        assert finished.items() <= now.items()
        finished = now
    subprocess.run([*fl_sim, tmp_path / "killed"], env=environment("store"), check=True, **quiet)
    now = {p: p.stat().st_mtime_ns for p in (tmp_path / "killed").glob("points/[!.]*/result.json")}
    assert finished.items() <= now.items()
    assert len(now) == 60
    assert without_times(tmp_path / "killed") == without_times(tmp_path / "calm")


# ------------------------------------------------------------------------------------------------------------- as data


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("swept") / "out"
    run(load_sweep("digits", [*TINY, "calibrate=fedwq-cp,local", "seed=0,1"]), folder)
    return folder


def test_results_are_frames_with_a_row_a_point_and_a_row_a_client(swept):
    found = load(swept)
    assert found.axes == ["calibrate", "seed"]
    assert list(found.points["calibrate"]) == ["fedwq-cp", "fedwq-cp", "local", "local"]
    assert len(found.clients) == 4 * 6
    one = found.clients[found.clients["point"] == 2]
    assert found.points["calibrate.coverage"][2] == one["num_covered"].sum() / one["num_test"].sum()
    assert set(found.points["alpha"]) == {0.1}


def test_a_single_run_is_a_frame_of_one_point(swept):
    place = next((swept / "points").glob("[!.]*"))
    found = load(place)
    assert (len(found.points), found.axes) == (1, [])


def test_an_unfinished_sweep_can_be_read(tmp_path):
    sweep = load_sweep("digits", [*TINY, "seed=0,1"])
    claim(sweep, tmp_path / "out")
    assert list(load(tmp_path / "out").points["status"]) == ["not run", "not run"]
    assert not is_finished(tmp_path / "out", sweep.points[0].run)


@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
def test_frames_survive_every_format(swept, tmp_path, form):
    from fl_sim.results.tables import write

    clients = load(swept).clients
    write(clients, form, tmp_path / f"x.{form}")
    read = {"csv": pd.read_csv, "json": pd.read_json, "parquet": pd.read_parquet}[form](tmp_path / f"x.{form}")
    assert list(read.columns) == list(clients.columns)
    assert list(read["num_covered"]) == list(clients["num_covered"])


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(FlSimError, match="holds no results"):
        load(tmp_path)


# -------------------------------------------------------------------------------------- found in review, held from here


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["seed=0,0,1"], "seed: 0 is there twice"),
        (["calibrate=local,local"], "calibrate: local is there twice"),
        (["calibrate.alpha=0.05,0.1", "calibrate={name='pooled', alpha=0.3, score='lac'},fedwq-cp"], "says it too"),
        (["clients.tier.weak=5,6"], "clients.tier.weak: is a table; name a key of it"),
    ],
)
def test_axes_that_would_count_twice_or_say_two_things_are_refused(words, said):
    with pytest.raises(ScenarioError) as refusal:
        load_sweep("digits", words)
    assert said in str(refusal.value)


def test_a_key_of_some_strategies_only_is_an_axis_whatever_the_order():
    for words in (
        ["calibrate=fedwq-cp,pooled", "calibrate.small_n=clip,inf"],
        ["calibrate.small_n=clip,inf", "calibrate=fedwq-cp,pooled"],
    ):
        sweep = load_sweep("digits", words)
        assert (len(sweep.points), len(sweep.runs)) == (4, 3)  # to pooled it does not matter
    with pytest.raises(ScenarioError, match=r"calibrate\.small_m: there is no such key; did you mean 'small_n'"):
        load_sweep("digits", ["calibrate=fedwq-cp,pooled", "calibrate.small_m=clip,inf"])


def test_a_claim_killed_half_way_is_gone_on_with(tmp_path):
    sweep = load_sweep("digits", [*TINY, "seed=0,1"])
    (tmp_path / "out").mkdir()
    (tmp_path / "out/.sweep.json-left").write_text("{")
    claim(sweep, tmp_path / "out")
    claim(sweep, tmp_path / "out")
    assert (tmp_path / "out/points").is_dir()


def test_many_claims_at_once_agree(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    sweep = load_sweep("digits", [*TINY, "seed=0,1"])
    for attempt in range(20):
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _, a=attempt: claim(sweep, tmp_path / f"out{a}"), range(8)))


def test_json_keeps_every_digit_and_says_null_for_what_is_not_finite(tmp_path):
    from fl_sim.results.tables import write

    frame = pd.DataFrame({"x": [0.1 + 0.2, float("inf"), float("nan"), 5e-17], "n": [1, 2, 3, 4]})
    write(frame, "json", tmp_path / "x.json")
    told = json.loads((tmp_path / "x.json").read_text())
    assert [row["x"] for row in told] == [0.1 + 0.2, None, None, 5e-17]
    assert [row["n"] for row in told] == [1, 2, 3, 4]


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 1}'])
def test_damaged_results_are_one_clear_message(tmp_path, content):
    for name in ("sweep.json", "result.json"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / name).write_text(content)
        with pytest.raises(FlSimError):
            load(tmp_path / name)


def test_a_federation_whose_rounds_are_worth_keeping_is_trained_once_for_all_calibrations(tmp_path, monkeypatch):
    from clients import context
    from fl_sim.models import training

    monkeypatch.setattr(context, "WORTH_KEEPING", 0.0)
    fits = []
    fit = training.fit
    monkeypatch.setattr(training, "fit", lambda *a, **told: fits.append(1) or fit(*a, **told))
    averaged = {"name": "fedavg", "rounds": 2}
    run(load_sweep("digits", [*TINY, "calibrate=local,pooled,none"], {"learn": [averaged]}), tmp_path / "out")
    assert len(fits) == 2 * 6
