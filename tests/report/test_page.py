"""The report: what it says is what the terminal says, it needs nothing else, and nothing in it can do harm."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from test_cli import call
from test_report import client, plain, regression, result

from fl_sim import Result
from fl_sim.conformal.certificate import clopper_pearson
from fl_sim.errors import FlSimError
from fl_sim.report import advice, sweep_table, wording
from fl_sim.report import table as run_table
from fl_sim.report import verdicts as judge
from fl_sim.report.certificate import P_ADJUSTED
from fl_sim.report.certificate import points as certified
from fl_sim.report.numbers import number
from fl_sim.report.page import build, clients
from fl_sim.report.page.build import write_report
from fl_sim.report.page.clients import Explorer
from fl_sim.report.sweep_points import COVERAGE as OVERALL
from fl_sim.report.sweep_points import SET_SIZE
from fl_sim.report.sweep_results import SweepResults
from fl_sim.report.verdicts import (
    JUDGED,
    P_SMALLEST,
    REJECTED,
    Claim,
    Standing,
    advised,
    beyond_chance,
    each_client,
    standings,
)  # fmt: skip
from fl_sim.results import tables
from fl_sim.results.run import CLIENTS, RESULT, RunFolder
from fl_sim.results.sweep_folder import FAILED, POINTS, SweepFile
from fl_sim.sweep.expand import Sweep, load_comparison, load_sweep
from fl_sim.sweep.run import claim

AXES = ("clients.concentration=0.1,10", "calibrate=fedwq-cp,local,pooled", "seed=0,1,2")


def written(found: Result, place: Path) -> Path:
    """The run's folder, without figures."""
    told = {"format": 1, "seconds": {"total": 1.0}, "versions": {"python": "3.11"}, "machine": {"cpus": 2}}
    folder = RunFolder(place)
    folder.write(Result(found.scenario, found.clients, found.summary | told))
    folder.finish()
    return place


def covered(strategy: str, concentration: float, seed: int, k: int) -> int:
    """Of 60 test points; 57 are promised. Where data are unequal, `fedwq-cp` fails everybody, `pooled` one client."""
    if strategy == "fedwq-cp" and concentration < 1:
        return 40 if k == 0 else 54
    if strategy == "pooled" and concentration < 1:
        return 60 if k else 36  # 456 of 480 in all: 95 %
    return 58 if strategy == "local" else 57 + (k > 0 or seed == 1)


def swept(folder: Path, *, but: int = 0, axes: Sequence[str] = AXES) -> Sweep:
    """A sweep's folder, without the last `but` points."""
    sweep = load_sweep("digits", ["clients.count=8", "calibrate.alpha=0.05", *axes])
    claim(sweep, folder)
    for point in sweep.points[: len(sweep.points) - but]:
        strategy, concentration = point.settings["calibrate"], point.scenario.clients.concentration
        hits = [covered(strategy, concentration, point.settings["seed"], k) for k in range(8)]
        size = {"fedwq-cp": 1.1, "local": 1.6, "pooled": 1.3}[strategy]
        rows = [
            client(
                k, ("weak", "strong")[k % 2], hit, 60, n=80, mean_set_size=size, threshold=0.5 + k / 10, behaviour=""
            )
            for k, hit in enumerate(hits)
        ]
        sent = {"bytes_up_per_client": {"fedwq-cp": 16.0, "local": 0.0, "pooled": 640.0}[strategy]}
        written(Result(point.scenario, rows, result(rows, **sent).summary), folder / POINTS / point.run)
    return sweep


@pytest.fixture(scope="module")
def sweep_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("page") / "swept"
    swept(folder)
    return folder


@pytest.fixture(scope="module")
def sweep_page(sweep_folder) -> str:
    return build.page(sweep_folder)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    return written(result(plain(), classes=list("abcdefghij")), tmp_path_factory.mktemp("page") / "run")


@pytest.fixture(scope="module")
def run_page(run_folder) -> str:
    return build.page(run_folder)


def text_of(told: str) -> str:
    """What a reader sees, tags left out."""
    return html.unescape(re.sub(r"<[^>]*>", "", re.sub(r"<(style|script).*?</\1>", "", told, flags=re.DOTALL)))


def table_of(told: str, caption: str) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of the table of that caption."""
    (table,) = [each for each in re.findall(r"<table.*?</table>", told, re.DOTALL) if f"<span>{caption}" in each]
    headers = [text_of(head) for head in re.findall(r'title="Sort by[^"]*">(.*?)</button>', table)]
    rows = [re.findall(r"<t[hd] data-v.*?</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)[1:]]
    return headers, [[text_of(cell) for cell in row] for row in rows]


def verdicts_of(told: str) -> dict[str, tuple[str, str]]:
    """Strategy -> (kind of the verdict on all clients together, kind of that on each)."""
    rows = re.findall(r"<tr>(.*?)</tr>", told.partition("Who kept the promise")[2].partition("</table>")[0], re.DOTALL)[
        1:
    ]
    kinds = [re.findall(r'class="(broken|kept|open)"', row) for row in rows]
    names = [text_of(re.findall(r"<th.*?</th>", row)[0]) for row in rows]
    return {name: (both[0], both[1]) for name, both in zip(names, kinds, strict=True)}


def data_of(told: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', told, re.DOTALL)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def at(column: Any, k: int) -> Any:
    return column[k] if isinstance(column, list) else column


# ------------------------------------------------------------------------------------------------- the page by itself


def assert_stands_alone(told: str) -> None:
    """No address but its own parts, no script but the one that its policy names, no id twice."""
    addresses = re.findall(r'\b(?:src|href|data|action)="([^"]*)', told) + re.findall(r"url\(([^)]*)", told)
    assert {address[:5] for address in addresses if not address.startswith("#")} <= {"data:"}
    assert "@import" not in told
    scripts = re.findall(r"<script>(.*?)</script>", told, re.DOTALL)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'" in told
    assert told.count("<script") == 2
    ids = re.findall(r'\sid="([^"]*)"', told)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]*)', told)) <= set(ids)


def test_a_sweeps_page_stands_alone_and_is_the_same_at_every_call(sweep_folder, sweep_page):
    assert_stands_alone(sweep_page)
    assert build.page(sweep_folder) == sweep_page


def test_a_runs_page_stands_alone_and_says_what_the_terminal_says(run_page):
    found, told = result(plain()), run_page
    assert_stands_alone(told)
    said = text_of(told)
    for line in [wording.finding(found), wording.world(found), *run_table.notes(found)]:
        assert line in said
    headers, everybody, tiers = run_table.rows(found)
    shown_headers, shown_rows = table_of(told, "All clients, and each tier")
    assert shown_rows == [[cell.plain for cell in row] for row in [*everybody, *tiers]]
    assert shown_headers == [header.replace("\n", " ") for header in headers]
    assert told.count("<svg role=") == 2 * 3  # coverage, sizes, labels, for wide and narrow screens


def test_what_has_no_promise_or_no_labels_has_a_page(tmp_path):
    none = [row | {"num_covered": None, "coverage": None, "mean_set_size": None} for row in plain()]
    told = build.page(written(result(none, "calibrate=none"), tmp_path / "none"))
    assert "The models are 88.3% accurate overall" in text_of(told)
    assert data_of(told)["runs"][0]["judged"] == "accuracy"
    rows = [row | {"mean_interval_length": math.inf} if row["client"] == 0 else row for row in regression()]
    path = Path(__file__).parents[2] / "scenarios" / "regression.toml"
    told = build.page(written(result(rows, name=path), tmp_path / "regression"))
    assert data_of(told)["runs"][0]["size"][:2] == ["infinite", 5.0]


def test_names_and_reasons_cannot_become_elements(tmp_path):
    evil = "</script><script>alert(1)</script>"
    rows = [client(k, "weak", 18, 20, behaviour=evil, status="ok") for k in range(3)]
    rows += [client(3, "strong", None, 20, behaviour="", status=evil)]
    place = written(result(rows, classes=[evil] * 10), tmp_path / '<b onclick="x">&')
    told = build.page(place)
    assert_stands_alone(told)
    assert "<script>alert" not in told
    assert "<b onclick" not in told
    data = data_of(told)
    assert data["worlds"][0]["kinds"] == [evil, ""]
    assert data["worlds"][0]["labels"] == [evil] * 10
    assert evil in text_of(told)
    sweep = swept(tmp_path / "swept", but=1, axes=["calibrate=local,pooled", "seed=0,1"])
    lost = sweep.points[-1].run
    (tmp_path / "swept" / FAILED).write_text(json.dumps({lost: f"Traceback\n<img src=x> {evil}"}))
    told = build.page(tmp_path / "swept")
    assert_stands_alone(told)
    assert f"<img src=x> {evil}" in text_of(told)


def test_embedded_text_ends_no_script_and_reads_back():
    explorer = Explorer({"a": "</script><!--", "b": ["&lt;", 1, None]})
    assert "<" not in explorer.text()
    assert json.loads(explorer.text()) == explorer.data


# ----------------------------------------------------------------------------------------------------------- the answer


def test_a_sweeps_page_has_a_verdict_for_each_strategy_and_promise(sweep_page):
    # `fedwq-cp` fails everybody in one of two worlds, `pooled` one client of eight.
    assert verdicts_of(sweep_page) == {
        "fedwq-cp": ("broken", "broken"), "local": ("kept", "kept"), "pooled": ("kept", "broken"),
    }  # fmt: skip
    headers, rows = table_of(sweep_page, "Who kept the promise")
    by_name = {row[0]: dict(zip(headers, row, strict=True)) for row in rows}
    assert [by_name[name]["set size"] for name in ("fedwq-cp", "local", "pooled")] == ["1.10", "1.60", "1.30"]
    assert [by_name[name]["bytes up"] for name in ("fedwq-cp", "local", "pooled")] == [
        "16 bytes",
        "0 bytes",
        "640 bytes",
    ]
    # (40 + 7 * 54) / 480 = 87.1 % in one world, and 57 of 60 or more in the other.
    assert "1 of 2 worlds" in by_name["fedwq-cp"]["promise to all clients together"]
    assert "3 of 48 clients" in by_name["pooled"]["promise to each client"]


def test_what_is_rejected_is_not_advised_though_its_sets_are_smaller(sweep_folder, sweep_page):
    sentences = [text_of(line) for line in re.findall(r"<p[^>]*>(.*?)</p>", sweep_page)][:3]
    assert "in 2 worlds over 3 seeds; 95% was promised" in sentences[0]
    assert sentences[1].startswith("local kept its promise")
    assert "1.60 labels" in sentences[1]
    assert "Use local." in sentences[2]
    assert not any(f"Use {name}" in " ".join(sentences) for name in ("fedwq-cp", "pooled"))


def test_the_table_of_a_sweep_has_the_terminals_cells_in_their_order(sweep_folder, sweep_page):
    found = tables.load(sweep_folder)
    block = sweep_table.blocks(found.points, found.axes)[0]
    assert len(block.rows) == 6
    _, shown = table_of(sweep_page, "mean")
    for row, cells_ in zip(block.rows, shown, strict=True):
        numbers = [sweep_table.cell_text(block, row, k, False).plain for k in range(len(block.columns))]
        assert cells_ == [*row.labels, *numbers]
    assert sweep_page.count("data-point=") == 6


def test_points_without_a_result_are_named_with_their_reasons(tmp_path):
    sweep = swept(tmp_path / "swept", but=2, axes=["calibrate=local,pooled", "seed=0,1,2"])
    (tmp_path / "swept" / FAILED).write_text(json.dumps({sweep.points[-1].run: "Traceback\nValueError: too warm"}))
    told = build.page(tmp_path / "swept")
    assert "2 points without a result" in text_of(told)
    _, rows = table_of(told, "2 points without a result")
    assert ["calibrate pooled, seed 2", "failed", "ValueError: too warm"] in rows
    assert ["calibrate pooled, seed 1", "not run", ""] in rows


@pytest.mark.parametrize(("of", "p"), [(1, 0.025), (4, 0.025), (16, 0.025), (48, 0.05)])
def test_more_marks_than_chance_are_a_binomial_tail(of, p):
    for marked in range(of + 1):
        tail = sum(math.comb(of, k) * p**k * (1 - p) ** (of - k) for k in range(marked, of + 1))
        assert beyond_chance(marked, of, p) == (marked > 0 and tail <= 0.05)


def standing(coverages: list[float], p_values: list[float], alpha: float = 0.1) -> Standing:
    """One world, a point a seed, ten clients judged in each, of which one falls short where p is at most 5 %."""
    points = pd.DataFrame({
        "calibrate": "x", "seed": range(len(coverages)), "status": "ok", "alpha": alpha, OVERALL: coverages,
        JUDGED: 10, REJECTED: [int(p <= 0.05) for p in p_values], P_SMALLEST: p_values,
    })  # fmt: skip
    (found,) = standings(points, ["calibrate", "seed"], "x")
    return found


def test_one_world_is_judged_by_its_seeds_and_its_clients():
    fails = standing([0.80, 0.81, 0.80], [0.5, 0.5, 0.5])
    assert (fails.breaks_all, fails.breaks_each, fails.stands) == (True, False, False)
    unclear = standing([0.80], [0.5])  # one seed shows nothing, and far below the promise is not advised
    assert (unclear.breaks_all, unclear.stands) == (False, False)
    assert standing([0.895, 0.893], [0.5, 0.5]).stands  # below by less than a tenth of alpha
    single = standing([0.91, 0.92], [0.03, 0.5])  # the smaller of two, so that it counts twice
    assert (single.p_each, single.breaks_each, single.stands) == (0.06, False, True)
    assert standing([0.91, 0.92, 0.92], [1e-5, 0.5, math.nan]).breaks_each  # one point is enough that is sure
    assert (single.judged, single.rejected) == (20, 1)
    assert not standing([0.91], [math.nan]).breaks_each


def test_the_exact_tests_are_those_of_certify(sweep_folder):
    counted = certified(sweep_folder, Claim())
    sweep = SweepResults.load(sweep_folder)
    mine = judge.certified(sweep.points, sweep.results)
    assert mine[JUDGED].tolist() == counted["considered"].tolist()
    assert mine[REJECTED].tolist() == counted["rejected"].tolist()
    assert mine[P_SMALLEST].tolist() == pytest.approx(counted[P_ADJUSTED].tolist(), nan_ok=True)


def test_table_page_and_certify_have_one_verdict(tmp_path, monkeypatch, capsys):
    """The world of which certify rejected what the page acquitted and recommended."""
    monkeypatch.setenv("FL_SIM_STORE", str(tmp_path / "store"))
    world = ("clients.count=12", "data.train=300", "data.calibration=800", "data.test=697", "clients.concentration=0.3")
    axes = ("calibrate=pooled,rob-fcp,cphet", "seed=0,1,2", "runtime.name=inline")
    folder = tmp_path / "sweep"
    assert call(monkeypatch, capsys, "sweep", "digits", *axes, *world, "--out", str(folder))[0] == 0
    p_values = each_client(certified(folder, Claim()), P_ADJUSTED)
    sweep = SweepResults.load(folder)
    points = judge.certified(sweep.points, sweep.results)
    some = standings(points, sweep.axes, "")
    page = build.page(folder)
    for one in some:
        assert one.p_each == pytest.approx(p_values[one.name])
        assert one.breaks_each == (p_values[one.name] <= 0.05) == (one.name in ("pooled", "rob-fcp"))
        assert (verdicts_of(page)[one.name][1] == "broken") == one.breaks_each
        assert (f"Use {one.name}" in text_of(page)) == (one.name == "cphet")
    best = advised(points, some)
    assert best is not None
    assert best.name == "cphet"
    certificate = call(monkeypatch, capsys, "certify", str(folder))[1]
    marked = {line.split()[0] for line in certificate.splitlines() if re.match(r"(pooled|rob-fcp|cphet) .*! ", line)}
    assert marked == {"pooled", "rob-fcp"}


def test_nothing_is_advised_where_all_break_or_none_is_judged():
    points = pd.DataFrame({
        "calibrate": "x", "seed": [0, 1, 2], "status": "ok", "alpha": 0.1, OVERALL: 0.95, SET_SIZE: 1.0, JUDGED: 10,
        REJECTED: 1, P_SMALLEST: 1e-6,
    })  # fmt: skip
    assert advised(points, standings(points, ["calibrate", "seed"], "")) is None
    unjudged = points.assign(**{JUDGED: 0, REJECTED: 0, P_SMALLEST: math.nan})
    assert advised(unjudged, standings(unjudged, ["calibrate", "seed"], "")) is None


def test_a_runs_page_suggests_what_would_mend_a_broken_promise(tmp_path):
    broken = result([client(0, "weak", 140, 200, n=200), client(1, "strong", 182, 200, n=200)])
    told = build.page(written(broken, tmp_path / "broken"))
    assert "calibrate=grouped" in text_of(told)
    assert "fl-sim compare scenario.toml fedwq-cp grouped" in text_of(told)
    assert verdicts_of(told)["fedwq-cp"][1] == "broken"
    kept = result([client(0, "weak", 182, 200, n=200), client(1, "strong", 182, 200, n=200)])
    assert "To mend it" not in " ".join(advice.of_run(kept))


# --------------------------------------------------------------------------------------------------------- the explorer


def test_the_explorer_holds_every_client_with_its_exact_interval(run_folder, run_page):
    found, data = Result.load(run_folder), data_of(run_page)
    (run,), (world,) = data["runs"], data["worlds"]
    for k, row in enumerate(found.clients):
        assert at(run["hits"], k) == row["num_covered"]
        assert at(world["test"], k) == row["num_test"]
        assert at(world["calibration"], k) == row["num_calibration"]
        assert world["tiers"][at(world["tier"], k)] == row["tier"]
        assert f"{at(run['size'], k):g}" == f"{float(number(row['mean_set_size'])):g}"
        low, high = (float(end[0]) for end in clopper_pearson([row["num_covered"]], [row["num_test"]]))
        told = data["intervals"][str(row["num_test"])][str(row["num_covered"])]
        assert [f"{end:.1f}" for end in told] == [f"{100 * low:.1f}", f"{100 * high:.1f}"]
    assert world["counts"][:10] == found.clients[0]["label_counts"]
    assert world["labels"] == list("abcdefghij")
    assert run["promised"] == 90


def test_strategies_share_the_world_and_every_point_finds_its_run(sweep_page):
    data = data_of(sweep_page)
    assert len(data["points"]) == len(data["runs"]) == 18
    assert len(data["worlds"]) == 1  # the same hand-made clients everywhere
    assert [axis["name"] for axis in data["axes"]] == ["concentration", "calibrate", "seed"]
    assert [point["at"] for point in data["points"][:4]] == [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 1, 0]]
    assert data["points"][0]["run"] == 0
    hits = data["runs"][data["points"][0]["run"]]["hits"]
    assert hits == [40, *[54] * 7]
    assert data["runs"][0]["rejected"] == [0]


def test_what_has_no_room_is_left_out_one_seed_of_each_row_first(sweep_folder, monkeypatch):
    monkeypatch.setattr(clients, "MOST_CLIENTS", 8 * 7)
    told = build.page(sweep_folder)
    data = data_of(told)
    assert [point["at"] for point in data["points"] if point["run"] is not None] == [
        [0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 2, 0], [1, 0, 0], [1, 1, 0], [1, 2, 0],
    ]  # fmt: skip
    assert "11 runs had no room in this page" in text_of(told)
    assert told.count("data-point=") == 6


def test_ten_thousand_clients_fit(tmp_path):
    rows = [
        client(k, ("weak", "strong")[k % 2], 20 + k % 31, 50, n=20 + k % 90, threshold=k / 7, behaviour="",
               label_counts=[k % 7] * 10)
        for k in range(10_000)
    ]  # fmt: skip
    explorer = Explorer()
    explorer.add("", result(rows))
    text = explorer.text()
    assert len(text) < 1_000_000
    assert len(json.loads(text)["runs"][0]["threshold"]) == 10_000


def test_label_counts_go_where_they_are_too_many(monkeypatch):
    monkeypatch.setattr(clients, "MOST_COUNTS", 100)
    explorer = Explorer()
    explorer.add("", result(plain()))
    assert "labels" not in explorer.data["worlds"][0]


# ---------------------------------------------------------------------------------------------------- making it again


def test_the_command_of_a_sweep_is_the_one_that_made_it(sweep_folder, sweep_page):
    found = re.search(r'<pre class="command"><code>(.*?)</code>', sweep_page)
    assert found is not None
    _, command, file, *assignments = shlex.split(html.unescape(found[1]))
    assert (command, file) == ("sweep", "digits")
    again = load_sweep(file, assignments)
    assert again.identity == json.loads((sweep_folder / "sweep.json").read_text())["identity"]


def test_tables_of_an_axis_come_back_as_they_were_said(tmp_path):
    axis = "calibrate=fedwq-cp,{name='fcp', sketch='ddsketch', alpha=0.2}"
    sweep = load_sweep("digits", [axis])
    claim(sweep, tmp_path / "swept")
    told = json.loads((tmp_path / "swept/sweep.json").read_text())
    assert told["command"] == ["sweep", "digits", axis]
    assert told["points"][1]["settings"] == {"calibrate": {"name": "fcp", "sketch": "ddsketch", "alpha": 0.2}}
    file = SweepFile.read(tmp_path / "swept")
    assert shlex.split(file.command_line) == ["fl-sim", "sweep", "digits", axis]
    assert file.points[1].labels() == {"calibrate": "fcp(sketch=ddsketch, alpha=0.2)"}
    assert load_comparison("digits", ["local", "pooled"], ["seed=0,1"]).command == (
        "compare", "digits", "local", "pooled", "seed=0,1",
    )  # fmt: skip


@pytest.mark.parametrize("command", ["report", "results", "certify"])
def test_a_sweeps_folder_of_an_older_version_is_one_line(tmp_path, fl_sim, command):
    """Which kept labels in the place of settings, and no command."""
    swept(tmp_path / "swept", but=17)
    path = tmp_path / "swept/sweep.json"
    told = json.loads(path.read_text())
    told = {key: told[key] for key in ("identity", "name", "axes", "points")} | {"format": 1}
    path.write_text(json.dumps(told))
    code, out, err = fl_sim(command, str(tmp_path / "swept"))
    assert (code, out, len(err.strip().splitlines())) == (1, "", 1)
    assert "has format 1, and this fl-sim reads format 2; delete that file, and the same command makes it again" in err


def test_a_run_of_a_shipped_scenario_is_known(tmp_path):
    found = result([client(k, ("weak", "strong")[k % 2], 9, 10) for k in range(40)])
    assert build._run_again(tmp_path / "digits-0123abcd", found)[0] == "fl-sim run digits"
    assert build._run_again(tmp_path / "mine-0123abcd", found)[0] == "fl-sim run scenario.toml"


def test_versions_that_differ_are_all_told():
    first, second = (result(plain()) for _ in range(2))
    first.summary["versions"], second.summary["versions"] = {"torch": "1"}, {"torch": "2"}
    assert build.versions([first, second, result(plain())]) == {"torch": "1, 2"}


# ---------------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def fl_sim(monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    return lambda *words: call(monkeypatch, capsys, *words)


def test_the_command_writes_the_page_at_once_says_where_and_opens_it_where_asked(tmp_path, fl_sim, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(result(plain()), tmp_path / "run")
    code, out, _ = fl_sim("report", "run")
    assert code == 0
    assert re.fullmatch(r"run/report\.html \(\d+\.?\d* kB\)\n", out)
    first = (tmp_path / "run/report.html").read_bytes()
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)
    assert fl_sim("report", "run", "--out", "other.html", "--open")[0] == 0
    assert opened == [(tmp_path / "other.html").as_uri()]
    assert (tmp_path / "other.html").read_bytes() == first
    assert (tmp_path / "other.html").stat().st_mode & 0o777 == 0o644
    monkeypatch.setattr(build, "_run", lambda folder: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(tmp_path / "run")
    assert (tmp_path / "run/report.html").read_bytes() == first
    assert not list((tmp_path / "run").glob(".report*"))


@pytest.mark.parametrize(("make", "words_", "said"), [
    (lambda here: None, ["nowhere"], "nowhere: there is no such folder"),
    (lambda here: (here / "empty").mkdir(), ["empty"], "holds no finished run (result.json) and no sweep (sweep.json)"),
    (lambda here: swept(here / "swept", but=18), ["swept"], "none of its 18 points is finished; run the sweep first"),
    (lambda here: written(result(plain()), here / "run"), ["run", "--out", "no/where.html"], "cannot be written"),
    (lambda here: written(result(plain()), here / "run"), ["run", "--out", "run"], "is a folder; name a file"),
])  # fmt: skip
def test_what_cannot_be_reported_is_one_line(tmp_path, fl_sim, monkeypatch, make, words_, said):
    monkeypatch.chdir(tmp_path)
    make(tmp_path)
    code, out, err = fl_sim("report", *words_)
    assert (code, out) == (1, "")
    assert said in err
    assert len(err.strip().splitlines()) == 1


def test_damaged_folders_are_refused_and_older_ones_read(tmp_path):
    place = written(result(plain()), tmp_path / "run")
    told = json.loads((place / RESULT).read_text())
    for key in ("versions", "machine", "classes", "sha256"):
        told.pop(key)
    (place / RESULT).write_text(json.dumps(told))
    assert "behaviour" not in (place / CLIENTS).read_text().splitlines()[0]
    assert "label 1" in build.page(place)
    (place / RESULT).write_text("{")
    with pytest.raises(FlSimError, match="is not what fl-sim wrote"):
        build.page(place)


def test_its_template_style_and_script_are_shipped_beside_it():
    folder = Path(sys.modules["fl_sim.report.page.build"].__file__ or "").parent
    assert {"page.html", "page.css", "page.js"} <= {path.name for path in folder.iterdir()}
    assert "</script" not in (folder / "page.js").read_text()
    assert "</style" not in (folder / "page.css").read_text()
