"""What is taken away: thresholds of every client and class, and tables for a paper."""

from __future__ import annotations

import csv
import io
import re

import numpy as np
import pytest
from test_cli import call

from fl_sim import Scenario, load, simulate
from fl_sim.results.run import THRESHOLDS, Result, RunFolder
from fl_sim.results.thresholds import file_of

SMALL = ("clients.count=8", "clients.tier.strong.epochs=1", "runtime.name=inline")


def finished(result: Result, place) -> Result:
    with RunFolder(place) as folder:
        folder.write(result)
        folder.finish()
    return Result.load(place)


@pytest.mark.parametrize("method", ["grouped", "class-conditional"])
def test_thresholds_of_each_class_are_those_by_which_clients_were_tested(method, tmp_path):
    """A lac set has a label whose probability is at least 1 - threshold: the counts follow from the file alone."""
    from fl_sim.population.clients import populate
    from fl_sim.population.model_cache import outputs_on, trained
    from fl_sim.population.prepared_data import prepare
    from fl_sim.store.artifacts import Store

    store = Store(tmp_path / "store")
    scenario = Scenario.load("digits", *SMALL, f"calibrate={method}")
    result = finished(simulate(scenario, store=store.root), tmp_path / "run")
    frame = load(tmp_path / "run").thresholds
    assert frame["class"].unique().tolist() == [str(k) for k in range(10)]
    data = prepare(scenario.data, scenario.seed, store)
    people = populate(scenario, data, store)
    for row in result.clients:
        client = people.client(row["client"])
        key = trained(store, data, people.recipe(client.tier, "shared"), data.rows("train"))
        z = outputs_on(store, key, data, np.arange(*data.evaluated))[client.test - data.evaluated[0]].astype(np.float64)
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        mine = frame[frame["client"] == row["client"]]["threshold"].to_numpy()
        covered = 1 - p[np.arange(len(p)), data.targets[client.test]] <= mine[data.targets[client.test]]
        assert covered.sum() == row["num_covered"]


def test_where_thresholds_are_numbers_there_is_no_such_file(tmp_path):
    result = finished(simulate(Scenario.load("digits", *SMALL), store=tmp_path / "store"), tmp_path / "run")
    assert THRESHOLDS not in result.files
    assert not (tmp_path / "run" / THRESHOLDS).exists()
    frame = load(tmp_path / "run").thresholds
    assert frame["threshold"].tolist() == [row["threshold"] for row in result.clients]
    assert set(frame["class"]) == {""}


def test_every_digit_and_infinity_is_kept():
    content = file_of({1: np.array([0.1 + 0.2, np.inf]), 0: np.array([1 / 3, 2.0])}, ["ant", "bee, honey"])[THRESHOLDS]
    rows = list(csv.reader(io.StringIO(content.decode())))
    assert rows == [["client", "ant", "bee, honey"], ["0", repr(1 / 3), "2.0"], ["1", "0.30000000000000004", "inf"]]
    assert file_of({0: 0.5, 1: 0.7}, ["ant"]) == {}


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    place = tmp_path_factory.mktemp("compared")
    with pytest.MonkeyPatch.context() as patch:
        words = ("compare", "digits", "fedwq-cp", "local", *SMALL, "seed=0,1", "--figures", "none")
        patch.setattr("sys.argv", ["fl-sim", *words, "--store", str(place / "store"), "--out", str(place / "c")])
        from fl_sim.cli import main

        with pytest.raises(SystemExit) as ended:
            main.main()
    assert ended.value.code == 0
    return place / "c"


def test_a_papers_table_has_the_terminals_numbers(compared, monkeypatch, capsys):
    code, markdown, _ = call(monkeypatch, capsys, "results", str(compared), "--format", "markdown")
    assert code == 0
    header, rule, *rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in markdown.splitlines()]
    assert header[:2] == ["calibrate", "coverage"]
    assert {"set size", "accuracy", "bytes up"} <= set(header)
    assert set("".join(rule)) <= set("-| ")
    means = load(compared).points.groupby("calibrate")["calibrate.coverage"].mean()
    for row in rows:
        assert row[1].startswith(f"{100 * means[row[0]]:.1f}%") or row[1].startswith(f"! {100 * means[row[0]]:.1f}%")
    code, latex, _ = call(monkeypatch, capsys, "results", str(compared), "--format", "latex")
    lines = latex.splitlines()
    assert lines[0] == rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}"
    assert lines[-1] == r"\end{tabular}"
    cells = [re.sub(r"\\([%&#_])", r"\1", line.removesuffix(r" \\")).split(" & ") for line in lines if "&" in line]
    assert cells == [header, *rows]


@pytest.mark.parametrize(("words", "said"), [
    (["--format", "latex", "--what", "clients"], "is of a comparison's or a sweep's points"),
    (["--format", "tex"], "choose one of csv, parquet, json, markdown, latex"),
    (["--what", "sets"], "choose points, clients or thresholds"),
])  # fmt: skip
def test_what_cannot_be_had_is_refused(compared, monkeypatch, capsys, words, said):
    code, out, err = call(monkeypatch, capsys, "results", str(compared), *words)
    assert (code, out, said in " ".join(err.split())) == (1, "", True), err
