"""Rows with clients of their own: tables as features and targets, splits within each client, and runs with names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_diabetes

from fl_sim import Result, Scenario, simulate
from fl_sim.data import Dataset, user_tables
from fl_sim.errors import FlSimError, ScenarioError
from fl_sim.population.prepared_data import _within_clients
from fl_sim.randomness import stream


def write(path: Path, table: pd.DataFrame) -> Path:
    writers = {".csv": table.to_csv, ".parquet": table.to_parquet, ".arrow": table.to_feather}
    writers[path.suffix](path, **({"index": False} if path.suffix == ".csv" else {}))
    return path


def table(**changed: Any) -> pd.DataFrame:
    columns = {
        "age": [20.0, 40.0, None, 60.0], "ward": ["north", None, "south", "north"],
        "smokes": [True, False, False, True], "site": ["b", "b", "a", "a"], "mark": [1, 2, 3, 1],
        "stay": [1.5, 2.5, 3.5, 4.5],
    }  # fmt: skip
    return pd.DataFrame(columns | changed)


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".arrow"])
def test_numbers_categories_and_what_is_missing(tmp_path, ending):
    path = write(tmp_path / f"rows{ending}", table())
    dataset = user_tables.read(path, "stay", "site", ("mark",), None)
    assert dataset.classes is None
    assert dataset.targets.tolist() == [1.5, 2.5, 3.5, 4.5]
    # age and where it is missing (the mean of 20, 40, 60), ward's two categories (none of them: missing), smokes
    assert dataset.inputs.tolist() == [[20, 0, 1, 0, 1], [40, 0, 0, 0, 0], [40, 1, 0, 1, 0], [60, 0, 1, 0, 1]]
    assert (dataset.client_names, dataset.clients.tolist()) == (("a", "b"), [1, 1, 0, 0])


def test_the_target_says_what_is_to_be_learnt_or_the_user_does(tmp_path):
    path = write(tmp_path / "rows.csv", table())
    marks = user_tables.read(path, "mark", None, (), None)
    assert (marks.classes, marks.targets.tolist(), marks.clients) == (("1", "2", "3"), [0, 1, 2, 0], None)
    assert user_tables.read(path, "mark", None, (), "regression").classes is None
    assert user_tables.read(path, "stay", None, (), "classification").classes == ("1.5", "2.5", "3.5", "4.5")
    assert user_tables.read(path, "site", None, (), None).classes == ("a", "b")
    many = write(tmp_path / "many.csv", pd.DataFrame({"x": range(30), "y": range(30)}))
    assert user_tables.read(many, "y", None, (), None).classes is None  # more than 20 whole numbers are an amount


@pytest.mark.parametrize(("changed", "how", "words"), [
    ({}, {"target": "wage"}, "data.target = 'wage': {path} has no such column; it has age, ward"),
    ({}, {"client": "hospital"}, "data.client = 'hospital': {path} has no such column"),
    ({}, {"drop": ("weight",)}, "data.drop = 'weight': {path} has no such column"),
    ({"stay": [1.0, None, 2.0, 3.0]}, {}, "data.target = 'stay' is missing in 1 rows; leave those rows out"),
    ({"age": [None] * 4}, {}, "column 'age' is empty; leave it out (data.drop)"),
    ({"age": [1.0, np.inf, 2.0, 3.0]}, {}, "column 'age' holds infinite numbers"),
    ({"site": [None, "a", "b", "b"]}, {}, "site mixes"),
    ({"ward": pd.to_datetime(["2020-01-01"] * 4)}, {}, "column 'ward' holds"),
    ({}, {"drop": ("age", "ward", "smokes", "mark")}, "no column is left to learn from"),
])  # fmt: skip
def test_what_cannot_be_is_refused_in_a_line(tmp_path, changed, how, words):
    path = write(tmp_path / "rows.parquet", table(**changed))
    asked: dict[str, Any] = {"target": "stay", "client": "site", "drop": (), "task": None} | how
    with pytest.raises(FlSimError) as caught:
        user_tables.read(path, **asked)
    assert words.format(path=path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_category_a_row_is_no_category(tmp_path):
    path = write(tmp_path / "rows.csv", pd.DataFrame({"id": [f"p{k}" for k in range(300)], "y": np.arange(300.0)}))
    with pytest.raises(FlSimError, match=r"column 'id' has 300 categories, more than 256; leave it out"):
        user_tables.read(path, "y", None, (), None)


@pytest.mark.parametrize(("words", "said"), [
    (["data.target=y"], "target = 'y' belongs to table:FILE, not to digits; leave it out"),
    (["data.name=table:none.csv"], "needs target: the column that is to be predicted"),
    (["data.name=table:rows.xlsx", "data.target=y"], "ends in .xlsx"),
])  # fmt: skip
def test_scenarios_that_cannot_be_are_refused(words, said):
    with pytest.raises(ScenarioError) as caught:
        Scenario.load("digits", *words)
    assert said in str(caught.value)


def test_every_part_of_the_rows_has_of_each_client_about_its_share():
    clients = np.repeat(np.arange(5), [200, 100, 40, 10, 1])
    order = _within_clients(clients, stream(0, "test"))
    assert sorted(order.tolist()) == list(range(351))
    for first, last in ((0, 100), (100, 250), (250, 351)):
        counts = np.bincount(clients[order[first:last]], minlength=5)
        shares = np.bincount(clients) * (last - first) / 351
        assert np.abs(counts - shares).max() <= 2
    assert order.tolist() != _within_clients(clients, stream(1, "test")).tolist()


SCENARIO = """
[data]
name = "table:{path}"
target = "target"
client = "site"
train = 0.4
calibration = 0.3
test = "all"

[clients]
count = 9
partition = "natural"

[[clients.tier]]
name = "small"
share = 0.5
architecture = "linear"
epochs = 5
learning_rate = 0.05

[[clients.tier]]
name = "large"
architecture = "mlp"
epochs = 20

[learn]
name = "shared"

[calibrate]
name = "local"
alpha = 0.2
score = "residual"

[runtime]
name = "inline"
"""


@pytest.fixture(scope="module")
def sites(tmp_path_factory) -> Path:
    """Patients of scikit-learn's at eight sites of unlike sizes, with an effect of the site, and one patient alone."""
    rng = np.random.default_rng(0)
    rows = load_diabetes(as_frame=True, scaled=False).frame
    site = rng.choice(list("ABCDEFGH"), len(rows), p=rng.dirichlet(np.full(8, 2.0))).astype(object)
    site[0] = "alone"
    effect = {name: rng.normal(0, 25) for name in sorted(set(site))}
    path = tmp_path_factory.mktemp("sites") / "sites.csv"
    write(path, rows.assign(site=site, target=rows["target"] + [effect[name] for name in site]))
    scenario = path.with_name("sites.toml")
    scenario.write_text(SCENARIO.format(path=path))
    return scenario


@pytest.mark.parametrize("learn", ["shared", "own", "fedavg"])
def test_clients_are_who_they_are(sites, tmp_path, learn):
    words = {"fedavg": ["learn.rounds=2", "clients.tier.small.architecture=mlp"]}.get(learn, [])
    scenario = Scenario.load(sites, f"learn={learn}", *words)
    assert (scenario.data.train, scenario.data.calibration, scenario.data.test) == (176, 132, 134)
    result = simulate(scenario, store=tmp_path)
    rows = pd.read_csv(sites.with_name("sites.csv"))
    names = [*sorted("ABCDEFGH"), "alone"]
    assert [row["name"] for row in result.clients] == names
    held = rows["site"].value_counts()
    for row in result.clients:
        own = row["num_calibration"] + row["num_test"]
        assert abs(own - held[row["name"]] * 266 / 442) <= 2
    alone = result.clients[-1]
    assert alone["num_calibration"] + alone["num_test"] <= 1  # few rows, or none, are ordinary
    assert sum(row["num_test"] for row in result.clients) == 134
    assert 0.7 < result.calibrate["coverage"] <= 1


def test_local_keeps_its_promise_over_the_draws_of_the_split(sites, tmp_path):
    """Within a client calibration and test rows are drawn alike: 80 % over draws, within 4 standard errors."""
    scenarios = [Scenario.load(sites, f"seed={seed}") for seed in range(12)]
    coverages = [simulate(scenario, store=tmp_path).calibrate["coverage"] for scenario in scenarios]
    assert np.mean(coverages) >= 0.8 - 4 * np.std(coverages, ddof=1) / 12**0.5
    assert len(set(coverages)) > 6


def test_a_table_in_another_folder_is_dealt_out_in_the_same_way(sites, tmp_path):
    moved = tmp_path / "moved.csv"
    moved.write_bytes(sites.with_name("sites.csv").read_bytes())
    here, there = (
        simulate(Scenario.load(sites, *words), store=tmp_path / "store").clients
        for words in ([], [f"data.name=table:{moved}"])
    )
    untimed = [[{**row, "seconds": 0} for row in rows] for rows in (here, there)]
    assert untimed[0] == untimed[1]


def test_a_data_set_of_ones_own_may_carry_clients(tmp_path, monkeypatch):
    (tmp_path / "wards.py").write_text(
        "import numpy as np\n"
        "from fl_sim.data import Dataset\n\n"
        "def wards(count, image_size, seed):\n"
        "    rng = np.random.default_rng(seed)\n"
        "    x = rng.normal(size=(600, 4))\n"
        "    names = [f'ward {k % 6}' for k in range(600)]\n"
        "    return Dataset(x, (x.sum(axis=1) > 0).astype(int), ('no', 'yes'), clients=names)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ["data.name=wards:wards", "data.train=300", "data.calibration=150", "data.test=150", "clients.count=6"]
    words += ["clients.tier.strong.architecture=linear", "runtime.name=inline"]
    result = simulate(Scenario.load("digits", *words, "clients.partition=natural"), store=tmp_path / "store")
    assert [row["name"] for row in result.clients] == [f"ward {k}" for k in range(6)]
    assert {row["num_calibration"] + row["num_test"] for row in result.clients} <= {49, 50, 51}
    with pytest.raises(ScenarioError, match=r"clients\.count = 5, and wards:wards has 6 clients; say that"):
        simulate(
            Scenario.load("digits", *words, "clients.partition=natural", "clients.count=5"), store=tmp_path / "store"
        )
    with pytest.raises(FlSimError, match="clients are <U3 of shape"):
        Dataset(np.zeros((3, 1)), [0, 1, 0], ("no", "yes"), clients=["one", "two"])


def test_names_stay_in_the_folder_and_another_number_of_clients_is_refused(sites, tmp_path, monkeypatch, capsys):
    from test_cli import call

    monkeypatch.chdir(tmp_path)
    code, out, _ = call(
        monkeypatch, capsys, "run", str(sites), "--store", "store", "--out", "here", "--figures", "none"
    )
    assert code == 0
    assert "natural clients" in " ".join(out.split())
    assert [row["name"] for row in Result.load(tmp_path / "here").clients][-1] == "alone"
    code, _, err = call(monkeypatch, capsys, "run", str(sites), "clients.count=8", "--store", "store", "--out", "there")
    assert (code, "clients.count = 8, and table:" in err, "has 9 clients; say that" in err) == (2, True, True)
    assert not (tmp_path / "there").exists()


def test_what_the_file_holds_is_part_of_the_run(sites, tmp_path):
    before = Scenario.load(sites).identity()
    path = sites.with_name("sites.csv")
    content = path.read_bytes()
    try:
        path.write_bytes(content.replace(b"alone", b"along"))
        assert Scenario.load(sites).identity() != before
    finally:
        path.write_bytes(content)
    assert Scenario.load(sites).identity() == before
