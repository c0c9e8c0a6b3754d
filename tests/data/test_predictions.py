"""Predictions that somebody has: read as they are, refused in a line, calibrated as in the scenario they came from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fl_sim import Scenario, load, simulate
from fl_sim.data import predictions
from fl_sim.errors import DataNotAtHandError, FlSimError, ScenarioError
from fl_sim.models.architectures import GIVEN
from fl_sim.population.clients import populate
from fl_sim.population.model_cache import outputs_on, trained
from fl_sim.population.prepared_data import prepare
from fl_sim.store.artifacts import Store
from fl_sim.sweep.expand import load_predictions

METHODS = ["fedwq-cp", "unweighted", "local", "pooled", "fcp", "fedhist-cp", "class-conditional"]


def frame(**changed: Any) -> pd.DataFrame:
    """Twelve rows of three clients and two classes."""
    columns = {
        "client": ["Lille"] * 4 + ["Nice"] * 4 + ["Brest"] * 4, "split": ["calibration", "test"] * 6,
        "label": ["ant", "bee"] * 6, "p_ant": [0.75, 0.25] * 6, "p_bee": [0.25, 0.75] * 6,
    }  # fmt: skip
    return pd.DataFrame(columns | changed)


def regression(**changed: Any) -> pd.DataFrame:
    columns: dict[str, Any] = {"label": np.arange(12.0), "prediction": np.arange(12.0) + 0.5} | changed
    return frame(**columns).drop(columns=["p_ant", "p_bee"])


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_a_table_is_read_as_it_is(tmp_path, ending):
    path = tmp_path / f"preds{ending}"
    table = frame(tier=["big"] * 4 + ["small"] * 8)
    table.to_csv(path, index=False) if ending == ".csv" else table.to_parquet(path)
    found = predictions.load(path)
    assert (found.num_clients, found.tiers, found.per_tier) == (3, ("big", "small"), (1, 2))
    assert found.dataset.client_names == ("Brest", "Lille", "Nice")
    assert found.dataset.classes == ("ant", "bee")
    assert found.dataset.num_official_test == 6
    assert found.dataset.targets.tolist() == [0] * 6 + [1] * 6  # calibration first, each in the file's order
    assert found.dataset.clients.tolist() == [1, 1, 2, 2, 0, 0] * 2
    assert np.exp(found.dataset.inputs) == pytest.approx(np.array([[0.75, 0.25]] * 6 + [[0.25, 0.75]] * 6))


def test_arrays_are_saved_and_read(tmp_path):
    z = np.arange(24.0).reshape(12, 2)
    client = [3, 3, 3, 3, 20, 20, 20, 20, 100, 100, 100, 100]
    path = predictions.save(
        tmp_path / "preds", client=client, split=frame()["split"], label=[0, 1] * 6, logits=z, classes=("ant", "bee")
    )
    found = predictions.load(path)
    assert path.suffix == ".npz"
    assert found.dataset.client_names == ("3", "20", "100")  # numbers by their size
    assert found.dataset.inputs.tolist() == [*z[::2].tolist(), *z[1::2].tolist()]
    with pytest.raises(FlSimError, match=r"row 0 sum up to 1\.5"):
        predictions.save(
            tmp_path / "odd", client=client, split=frame()["split"], label=[0, 1] * 6, probabilities=[[0.5, 1.0]] * 12
        )
    assert not (tmp_path / "odd.npz").exists()


def test_a_regression_has_predictions_or_intervals(tmp_path):
    path = tmp_path / "preds.csv"
    regression().to_csv(path, index=False)
    found = predictions.load(path)
    assert (found.dataset.classes, found.intervals, found.dataset.inputs.shape) == (None, False, (12, 1))
    regression(lower=-1.0, upper=np.arange(12.0)).drop(columns="prediction").to_csv(path, index=False)
    found = predictions.load(path)
    assert (found.intervals, found.dataset.inputs.shape) == (True, (12, 2))
    assert found.dataset.inputs[1].tolist() == [-1.0, 2.0]


def without(name: str) -> Callable[[], pd.DataFrame]:
    return lambda: frame().drop(columns=name)


def doubled() -> pd.DataFrame:
    table = frame()
    table.columns = ["client", "split", "label", "p_ant", "p_ant"]
    return table


WRONG: list[tuple[str, Callable[[], pd.DataFrame], str]] = [
    ("no client", without("client"), "has no column 'client'"),
    ("no split", without("split"), "has no column 'split'"),
    ("no label", without("label"), "has no column 'label'"),
    ("no predictions", lambda: frame().iloc[:, :3], "must have columns p_CLASS"),
    ("no row", lambda: frame().iloc[:0], "has no row"),
    ("split", lambda: frame(split=["calibration", "tset"] * 6), "split = 'tset' in row 1; must be calibration or test"),
    ("one split", lambda: frame(split=["test"] * 4 + ["calibration", "test"] * 4), "client 'Lille' has no calib"),
    ("sum", lambda: frame(p_bee=0.5), "probabilities of row 0 sum up to 1.25; must be 1"),
    ("negative", lambda: frame(p_bee=-0.25), "p_bee = -0.25 in row 0 is no probability; call logits z_CLASS"),
    ("logits as probabilities", lambda: frame(p_ant=3.0, p_bee=-1.0), "p_ant = 3 in row 0 is no probability"),
    ("probabilities as logits", lambda: frame().rename(columns=lambda c: c.replace("p_", "z_")), "are probabilities"),
    ("both", lambda: frame(z_ant=1.0), "must have columns p_CLASS"),
    ("class and number", lambda: frame(prediction=1.0), "must have columns p_CLASS"),
    ("label", lambda: frame(label=["ant", "wasp"] * 6), "label = 'wasp' is none of the 2 classes: ant, bee"),
    ("label's place", lambda: frame(label=[0, 2] * 6), "label = '2' is none of the 2 classes"),
    ("rows", lambda: frame(row=[*range(11), 3]), "row '3' is there 2 times"),
    ("nan", lambda: frame(p_bee=[np.nan] * 12), "p_bee = nan in row 0; must be a finite number"),
    ("infinite", lambda: regression(prediction=np.inf), "prediction = inf in row 0"),
    ("text", lambda: frame(p_bee=["much"] * 12), "p_bee holds 'much', which is no number"),
    ("empty client", lambda: frame(client=[None] + ["Lille"] * 11), "client mixes"),
    ("tiers", lambda: frame(tier=["big", "small"] * 6), "client 'Lille' is of tier 'big' in one row and 'small' in"),
    ("one end", lambda: regression(lower=0.0).drop(columns="prediction"), "has lower; must have prediction, or lower"),
    ("regression's label", lambda: regression(label=["high"] * 12), "label holds 'high', which is no number"),
]  # fmt: skip


@pytest.mark.parametrize(("table", "words"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_what_cannot_be_is_refused_in_a_line_before_any_work(tmp_path, table, words):
    path = tmp_path / "preds.parquet"
    table().to_parquet(path)
    with pytest.raises(FlSimError) as caught:
        load_predictions(path, ["local"], [], 0.1, "", ())
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert [one.name for one in tmp_path.iterdir()] == ["preds.parquet"]


@pytest.mark.parametrize(("name", "content", "words"), [
    ("preds.csv", b"", "cannot be read as csv"), ("preds.parquet", b"PAR1", "cannot be read as parquet"),
    ("preds.npz", b"PK\x03\x04", "is no archive of NumPy's, or damaged"), ("preds.csv", b"\xff\xfe\xff", "UTF-8"),
])  # fmt: skip
def test_damaged_files_are_named(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FlSimError, match=words):
        predictions.load(tmp_path / name)


def test_a_scenario_whose_file_is_not_there_says_so(exported, tmp_path):
    path, _, _ = exported
    scenario = load_predictions(path, ["local"], ["seed=0"], 0.1, "lac", ()).points[0].scenario
    elsewhere = scenario.with_(f"data.name=predictions:{tmp_path / 'gone.npz'}")
    with pytest.raises(DataNotAtHandError, match=r"the data is not on this machine; get it with\n    ls .*gone\.npz"):
        simulate(elsewhere, store=tmp_path)


def test_files_that_are_not_there_or_of_another_kind_are_named(tmp_path):
    with pytest.raises(FlSimError, match=r"none\.csv: cannot be read: No such file"):
        predictions.load(tmp_path / "none.csv")
    with pytest.raises(ScenarioError, match=r"ends in \.xlsx; must be one of \.csv, \.parquet, \.npz"):
        predictions.source("predictions:a.xlsx", Path("a.xlsx"))


def test_a_file_larger_than_memory_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "preds.csv"
    frame().to_csv(path, index=False)
    monkeypatch.setattr(predictions.os, "sysconf", lambda name: 1)
    with pytest.raises(FlSimError, match="of memory are free; cut it in parts"):
        predictions.load(path)


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> tuple[Path, Path, dict[str, Any]]:
    """Float32 logits of a small scenario's clients, in their order; the store, and the scenario's own results."""
    place = tmp_path_factory.mktemp("exported")
    store = Store(place / "store")
    words = ("clients.count=12", "clients.tier.strong.architecture=mlp", "runtime.name=inline")
    scenario = Scenario.load("digits", *words)
    own = {name: simulate(scenario.with_(f"calibrate={name}"), store=store.root) for name in METHODS}
    data = prepare(scenario.data, scenario.seed, store)
    people = populate(scenario, data, store)
    first, last = data.evaluated
    columns: dict[str, list[Any]] = {name: [] for name in ("client", "split", "label", "tier", "logits")}
    for k in range(12):
        client = people.client(k)
        key = trained(store, data, people.recipe(client.tier, "shared"), data.rows("train"))
        said = outputs_on(store, key, data, np.arange(first, last))
        for split in ("calibration", "test"):
            rows = getattr(client, split)
            columns["client"] += [f"site {k:02d}"] * len(rows)
            columns["split"] += [split] * len(rows)
            columns["tier"] += [client.tier.name] * len(rows)
            columns["label"] += data.targets[rows].tolist()
            columns["logits"] += said[rows - first].tolist()
    path = predictions.save(place / "preds", **columns, classes=data.classes)
    return path, store.root, own


def test_the_door_agrees_to_the_digit_with_the_scenario_it_came_from(exported):
    path, store, own = exported
    sweep = load_predictions(path, METHODS, ["runtime.name=inline"], 0.1, "lac", ())
    kept = ("tier", "num_calibration", "num_test", "label_counts", "threshold", "num_covered", "mean_set_size", "brier",
            "log_loss", "ece", "kuiper", "bytes_up", "bytes_down")  # fmt: skip
    for point in sweep.points:
        result, theirs = simulate(point.scenario, store=store), own[point.scenario.calibrate.name]
        for mine, other in zip(result.clients, theirs.clients, strict=True):
            assert {name: mine[name] for name in kept} == {name: other[name] for name in kept}
            assert mine["name"] == f"site {mine['client']:02d}"
        assert result.calibrate["coverage"] == theirs.calibrate["coverage"]
        assert "guaranteed" not in result.summary["calibrate"]["detail"] or not point.scenario.one_law_a_tier


def test_clients_with_names_are_the_same_on_ray(exported, ray_session):
    path, store, _ = exported
    (point,) = load_predictions(path, ["local"], ["seed=0"], 0.1, "lac", ()).points
    rows = {}
    for name in ("inline", "ray"):
        result = simulate(point.scenario.with_(f"runtime.name={name}"), store=store)
        rows[name] = [{k: v for k, v in row.items() if k != "seconds"} for row in result.clients]
    assert rows["inline"] == rows["ray"]


def test_other_scores_calibrators_and_levels_go_with_it(exported):
    path, store, _ = exported
    words = ["calibrate.score=lac,aps", "calibrate.alpha=0.1,0.2", "calibrate.calibrator=temperature"]
    sweep = load_predictions(path, ["pooled"], [*words, "runtime.name=inline"], 0.1, "", ())
    assert len(sweep.points) == 4
    for point in sweep.points:
        result = simulate(point.scenario, store=store)
        assert result.calibrate["coverage"] > 1 - point.scenario.calibrate.alpha - 0.06
        assert result.calibrate["phi_log"] != 0


def test_the_guarantee_of_grouped_is_not_given_for_models_that_nobody_knows(exported):
    path, store, _ = exported
    (point,) = load_predictions(path, ["grouped"], ["runtime.name=inline", "seed=0"], 0.1, "lac", ()).points
    assert point.scenario.one_law_a_tier is False
    groups = simulate(point.scenario, store=store).summary["calibrate"]["detail"]["groups"]
    assert {group["guaranteed"] for group in groups} == {False}


def test_the_command_leaves_tables_figures_and_page_with_the_clients_names(exported, tmp_path, monkeypatch, capsys):
    from test_cli import call

    monkeypatch.chdir(tmp_path)
    path, store, _ = exported
    words = ("calibrate", str(path), "fedwq-cp", "local", "--alpha", "0.2", "--page", "--figures", "png")
    code, out, err = call(monkeypatch, capsys, *words, "--store", str(store), "--out", "here")
    assert (code, "clients run in this process" in err) == (0, True), err
    assert "natural clients" in " ".join(out.split())
    assert {"points.csv", "sweep.json", "sweep.png", "report.html"} <= {
        one.name for one in (tmp_path / "here").iterdir()
    }
    clients = load(tmp_path / "here").clients
    assert clients["name"].tolist() == [f"site {k:02d}" for k in range(12)] * 2
    assert "site 07" in (tmp_path / "here" / "report.html").read_text()
    run = next((tmp_path / "here" / "points").glob("[0-9a-f]*"))
    code, out, _ = call(monkeypatch, capsys, "certify", str(run), "--min-calibration", "5", "--format", "json")
    assert {row["name"] for row in json.loads(out)} == {f"site {k:02d}" for k in range(12)}
    code, out, _ = call(monkeypatch, capsys, "certify", str(run), "--min-calibration", "5")
    assert "site 0" in out


@pytest.mark.parametrize(("word", "said"), [
    ("clients.count=11", "clients.count = 11, and predictions:{path} has 12 clients; say that"),
    ("clients.tier.weak.architecture=linear", "predictions are there already; say 'given'"),
    ("data.name=digits", "digits has no clients of its own"),
    ("clients.partition=iid", "say 'natural'"),
    ("clients.min_calibration=5000", "clients.min_calibration"),
])  # fmt: skip
def test_scenarios_that_cannot_be_are_refused(exported, word, said):
    path, store, _ = exported
    with pytest.raises(ScenarioError) as caught:
        simulate(load_predictions(path, ["local"], [word], 0.1, "", ()).points[0].scenario, store=store)
    assert said.format(path=path) in str(caught.value)


def test_natural_clients_are_of_data_that_have_some():
    with pytest.raises(ScenarioError, match="digits has no clients of its own"):
        Scenario.load("digits", "clients.partition=natural")
    with pytest.raises(ScenarioError, match="only learn = 'given' has predictions"):
        Scenario.load("digits", f"clients.tier.weak.architecture={GIVEN}")
