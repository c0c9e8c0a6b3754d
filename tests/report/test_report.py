"""The table and the figures of results made by hand."""

from __future__ import annotations

import io
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from rich.console import Console

from fl_sim import Result, Scenario
from fl_sim.conformal.coverage import coverage_summary, exchangeable_band
from fl_sim.report import numbers, wording
from fl_sim.report.figures.catalogue import draw_run as draw
from fl_sim.report.table import notes, summary
from fl_sim.results.run import Row

REGRESSION = Path(__file__).parents[2] / "scenarios" / "regression.toml"


def client(k: int, tier: str, covered: int | None, tested: int, n: int = 20, **more: Any) -> Row:
    rate = covered / tested if covered is not None and tested else None
    size = None if rate is None else 1.0 + k / 100
    return {
        "client": k,
        "tier": tier,
        "num_calibration": n,
        "num_test": tested,
        "label_counts": [n, *[0] * 9],
        "num_covered": covered,
        "coverage": rate,
        "mean_set_size": size,
        "num_empty": 0,
        "num_correct": covered,
        "accuracy": rate,
        "bytes_up": 16,
        "bytes_down": 8,
        "retries": 0,
        "status": "ok",
    } | more


def metrics(rows: list[Row], size: str = "mean_set_size") -> dict[str, Any]:
    tested = [row for row in rows if row["num_covered"] is not None]
    sizes = [row[size] for row in tested if row["num_test"]]
    mean = sum(sizes) / len(sizes) if sizes else None
    return coverage_summary([r["num_covered"] for r in tested], [r["num_test"] for r in tested]) | {
        size: None if mean is None or math.isinf(mean) else mean,
        f"{size}_is_infinite": mean == math.inf,
        "empty_set_rate": 0.0 if sizes else None,
        "infinite_interval_rate": sizes.count(math.inf) / len(sizes) if sizes else None,
    }


def result(rows: list[Row], *overrides: str, name: str | Path = "digits", **found: Any) -> Result:
    scenario = Scenario.load(name, f"clients.count={len(rows)}", *overrides)
    groups = {tier.name: [r for r in rows if r["tier"] == tier.name] for tier in scenario.clients.tier}
    learn: dict[str, Any] = {"accuracy": 0.883, "accuracy_client_mean": 0.88, "accuracy_client_min": 0.5}
    size = "mean_set_size"
    if "rmse" in rows[0]:
        size, learn = "mean_interval_length", {"rmse": 2.2, "rmse_client_max": 3.5}
    calibrate = {
        **metrics(rows, size),
        "tiers": {tier: metrics(group, size) for tier, group in groups.items() if group},
        "coverage_by_class": {str(c): 0.9 for c in range(len(rows[0]["label_counts"]))},
        "threshold_is_infinite": False,
        "clients_below_min_n": 0,
        "clients_without_calibration": 0,
        "bytes_up_per_client": 16.0,
        "bytes_down_per_client": 8.0,
        "rounds": 1,
    }
    lost = [{"client": r["client"], "reason": r["status"]} for r in rows if r["status"] != "ok"]
    numbers = {
        "classes": found.pop("classes", None),
        "clients": {"retried": found.pop("retried", 0), "missing": lost},
        "learn": {"metrics": learn | {"tiers": dict.fromkeys(groups, learn)}},
        "calibrate": {"metrics": (calibrate | found) if scenario.calibrate.alpha is not None else {"rounds": 0}},
    }
    return Result(scenario, rows, numbers)


def plain(clients: int = 40) -> list[Row]:
    return [client(k, ("weak", "strong")[k % 2], 10 + k % 11, 20, n=20 + k) for k in range(clients)]


def regression(clients: int = 12) -> list[Row]:
    lengths = {"mean_set_size": None, "accuracy": None, "num_correct": None}
    rows = [client(k, ("weak", "strong")[k % 2], 18, 20) | lengths for k in range(clients)]
    return [row | {"mean_interval_length": 4.0 + row["client"], "rmse": 2.0} for row in rows]


def printed(shown: Result, width: int = 80, **how: Any) -> str:
    console = Console(width=width, file=io.StringIO(), **how)
    console.print(summary(shown))
    return console.file.getvalue()  # type: ignore[attr-defined]


# -------------------------------------------------------------------------------------------------------------- table


def row_of(text: str, name: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(name))


def test_the_table_shows_all_clients_and_each_tier() -> None:
    text = printed(result([client(0, "weak", 8, 10), client(1, "weak", 9, 10), client(2, "strong", 30, 30)]))
    # 47 of 50 pairs; mean of .8, .9 and 1; below 20 clients the 5% quantile is the smallest
    assert row_of(text, "all").split() == [
        "all",
        "3",
        "94.0%",
        "90.0%",
        "80.0%",
        "80.0%",
        "1.01",
        "0.0%",
        "88.3%",
    ]
    assert row_of(text, "weak").split()[:4] == ["weak", "2", "85.0%", "85.0%"]
    assert row_of(text, "strong").split()[:4] == ["strong", "1", "100.0%", "100.0%"]
    assert "3 clients, on digits, dirichlet, concentration 0.5" in text


def test_coverage_has_a_colour_and_a_mark_only_where_the_exact_test_names_a_client() -> None:
    rows = [client(0, "weak", 9, 10), client(1, "strong", 8, 10)]
    coloured = printed(result(rows), force_terminal=True, color_system="standard")
    assert re.search(r"\x1b\[32m *90\.0%", coloured)  # 0.9 reaches 1 - 0.1
    assert re.search(r"\x1b\[31m *80\.0%", coloured)  # less, and by chance or not, ten points cannot tell
    text = printed(result(rows))
    assert "!" not in text
    assert "90% is promised; no client has points enough to be judged by itself" in text
    large = [client(0, "weak", 140, 200, n=200), client(1, "strong", 182, 200, n=200)]
    text = printed(result(large), width=160)
    assert row_of(text, "all").count("!") == row_of(text, "weak").count("!") == 1
    assert "!" not in row_of(text, "strong")
    said = " ".join(text.split())
    assert "1 of 2 clients with at least 50 calibration points covers less than 90% beyond bad luck: client 0" in said
    assert "To mend it: calibrate=grouped" in said
    assert "is named in" not in said  # the power is said where nobody is named
    kept = " ".join(printed(result([client(0, "weak", 182, 200, n=200)]), width=160).split())
    assert "Power: a client of median size (200 calibration and 200 test points) that covers 80.0% is named in" in kept


@pytest.mark.parametrize("width", [80, 120])
def test_nothing_is_cut(width: int) -> None:
    rows = [r | {"mean_set_size": 123.4} for r in plain(1000)]
    text = printed(result(rows), width)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    assert "…" not in text
    headers = ["clients", "coverage", "mean", "quantile", "client", "size", "sets", "accuracy"]
    assert any(line.split() == headers for line in text.splitlines())


def test_it_can_be_printed_where_there_is_only_ascii() -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Console(file=file, width=80).print(summary(result(plain())))
    file.flush()


def test_clients_without_test_points_and_missing_ones_are_counted() -> None:
    reason = "train: it raised RuntimeError: out of memory\nTraceback of many lines"
    rows = plain(10)
    rows[0] = client(0, "weak", 0, 0)
    rows[3:8] = [client(k, "strong", None, 20, status=reason) for k in range(3, 8)]
    text = "\n".join(notes(result(rows, retried=1)))
    assert "worst client are over 4 of 10 clients (1 without test points, 5 missing)" in text
    assert "Missing: 5 clients (clients 3, 4, 5, 6, 7: train: it raised RuntimeError: out of memory)." in text
    assert "Traceback" not in text
    assert "Run again after a failure: 1 client." in text


def test_missing_clients_are_grouped_by_reason() -> None:
    reasons = ["nonsense", "late", "nonsense", "lost", "nonsense", "odd", "odder"]
    rows = plain(30)
    rows[:7] = [client(k, "weak", None, 20, status=reason) for k, reason in enumerate(reasons)]
    text = "\n".join(notes(result(rows)))
    assert "Missing: 7 clients (clients 0, 2, 4: nonsense; client 1: late; client 3: lost; and 2 more)." in text
    rows[:20] = [client(k, "weak", None, 20, status="late") for k in range(20)]
    assert "(clients 0, 1, 2, 3, 4, 5, 6, 7, and 12 more: late)" in "\n".join(notes(result(rows)))


@pytest.mark.parametrize(("few", "none", "override", "said"), [
    (3, 1, "calibrate=fedwq-cp", ["fewer than 9 calibration points (1/alpha - 1): 2; small_n = clip", "point: 1; "]),
    (3, 1, 'calibrate={name="local", alpha=0.1, score="lac"}', ["small_n = clip", "point: 1; infinite thresholds"]),
    (3, 1, "calibrate=pooled", ["too few for a threshold of one's own", "point: 1; tested with the others'"]),
    (4, 2, 'calibrate={name="pooled", alpha=0.5, score="lac"}', ["fewer than 1 calibration point (1/alpha - 1): 2"]),
    (19, 19, "calibrate=fedwq-cp", ["without any calibration point: 19"]),
])  # fmt: skip
def test_clients_with_few_points_are_counted(few: int, none: int, override: str, said: list[str]) -> None:
    text = "\n".join(notes(result(plain(), override, clients_below_min_n=few, clients_without_calibration=none)))
    assert all(words in text for words in said)
    assert ("some but fewer" in text) == (few > none)


def test_the_cost_of_calibration_and_of_learning() -> None:
    rows = [row | {"bytes_up": 16 + 2_000_000} for row in plain()]
    text = "\n".join(notes(result(rows)))
    assert "Calibration cost 16 bytes up and 8 bytes down per client in 1 round." in text
    assert "Learning cost 2.00 MB up and 0 bytes down per client." in text
    assert "Learning cost" not in "\n".join(notes(result(plain())))


def test_infinite_intervals_are_said() -> None:
    rows = regression()
    rows[0]["mean_interval_length"] = math.inf
    text = printed(result(rows, name=REGRESSION))
    assert "infinite" in row_of(text, "all")
    assert "8.3% of the intervals are infinite" in text
    assert "RMSE" in text


def test_without_calibration_only_accuracy_is_shown() -> None:
    text = printed(result(plain(), "calibrate=none"))
    assert "accuracy" in text
    for word in ("coverage", "promised", "band", "Calibration cost"):
        assert word not in text
    assert "Client mean and worst client are over all 40 clients." in text


# ------------------------------------------------------------------------------------------- luck or a broken promise


def test_the_worst_client_is_held_against_its_own_band() -> None:
    rows = [client(k, "weak", 180, 200, n=200) for k in range(10)]
    band = exchangeable_band(200, 200, 0.1, small_n="clip")
    assert band is not None
    low = round(band[0] * 200)
    for covered, below in ((low, 0), (low - 1, 1), (100, 1)):
        rows[4] = client(4, "weak", covered, 200, n=200)
        text = "\n".join(notes(result(rows)))
        assert f"Worst is client 4 (weak, 200 calibration and 200 test points) with {covered / 2:.1f}%" in text
        assert f"reaches {100 * band[0]:.1f}% or more in 39 of 40 draws" in text
        assert wording.below_band(result(rows)) == (below, 10)
    assert "1 of 10 clients (10.0%) covers less than its own 95% band" in text


@pytest.mark.parametrize("override", ["clients.test=local", "clients.test=shared"])
def test_a_worst_client_that_has_what_was_promised_needs_no_luck(override: str) -> None:
    for covered in (180, 200):  # 0.9 is 1 - 0.1
        text = "\n".join(notes(result([client(k, "weak", covered, 200, n=200) for k in range(10)], override)))
        assert f"{covered / 2:.1f}%: even the worst client has no less than promised." in text
        assert "luck" not in text
        assert "band" not in text


def test_of_equally_bad_clients_the_one_with_most_test_points_is_named() -> None:
    worst = wording.worst_client(
        result([client(0, "weak", 1, 2), client(1, "weak", 50, 100), client(2, "weak", 9, 10)])
    )
    assert worst is not None
    assert worst["client"] == 1


def test_there_is_no_band_on_a_shared_test_set_or_without_calibration_points() -> None:
    row = client(0, "weak", 5, 10, n=0)
    assert wording.band(result([row]).scenario, row) is None
    row = client(0, "weak", 5, 10, n=50)
    assert wording.band(result([row]).scenario, row) is not None
    shared = result([row], "clients.test=shared")
    assert wording.band(shared.scenario, row) is None
    assert "no band" in "\n".join(notes(shared))


def test_numbers_are_readable() -> None:
    assert [numbers.number(x) for x in (0.9071, 1.0, 12.34, 1234.5, 0.0, None, math.inf, 1e-9)] == [
        "0.907", "1.00", "12.3", "1,234", "0.00", "-", "infinite", "1.00e-09",
    ]  # fmt: skip
    assert [numbers.size_of(x) for x in (16.0, 7.5, 2048.0, 20_000.0, 3e6)] == [
        "16 bytes", "7.5 bytes", "2,048 bytes", "20.0 kB", "3.00 MB",
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ figures


def names(paths: list[Path]) -> list[str]:
    assert all(path.stat().st_size > 5000 for path in paths)
    return [path.name for path in paths]


def has(folder: Path, part: str) -> bool:
    return f'id="{part}"' in (folder / "coverage.svg").read_text()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The figures of `plain`, whose clients have test points of their own."""
    folder = tmp_path_factory.mktemp("local")
    draw(result(plain()), folder)
    return folder


def test_figures_are_drawn_with_the_same_bytes_each_time(tmp_path: Path, local: Path) -> None:
    second = draw(result(plain()), tmp_path)
    first = [local / path.name for path in second]
    assert len(list(local.iterdir())) == 6
    assert names(first) == [f"{n}.{kind}" for n in ("coverage", "set_sizes", "labels") for kind in ("png", "svg")]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert b"<dc:date>" not in first[1].read_bytes()


def test_the_band_is_drawn_only_where_it_is_true(tmp_path: Path, local: Path) -> None:
    draw(result(plain(), "clients.test=shared"), tmp_path, ["svg"])
    assert has(local, "band")
    assert has(local, "nominal")
    assert not has(tmp_path, "band")
    assert has(tmp_path, "nominal")


def test_clients_without_points_and_missing_clients_do_not_disturb(tmp_path: Path) -> None:
    rows = plain(20)
    rows[0] = client(0, "weak", 0, 0, n=0)
    rows[1] = client(1, "strong", 3, 10, n=0)
    rows[2] = client(2, "weak", None, 20, status="evaluate: it did not answer")
    shown = result(rows)
    names(draw(shown, tmp_path))
    assert wording.absent(shown) == ["1 client without test points: not shown.", "1 client failed and is missing here."]
    assert len(wording.tested(shown)) == 18


def test_a_world_in_which_nobody_could_be_tested_is_drawn(tmp_path: Path) -> None:
    names(draw(result([client(k, "weak", 0, 0, n=0) for k in range(3)]), tmp_path, ["svg"]))


def test_a_single_client_is_drawn(tmp_path: Path) -> None:
    names(draw(result([client(0, "weak", 9, 10)]), tmp_path, ["png"]))


def test_many_clients_and_many_classes_are_drawn(tmp_path: Path) -> None:
    rows = [row | {"label_counts": [int(c == row["client"] % 100) for c in range(100)]} for row in plain(1200)]
    names(draw(result(rows), tmp_path))
    assert all(path.stat().st_size < 2_000_000 for path in tmp_path.iterdir())


def test_regression_draws_lengths(tmp_path: Path) -> None:
    rows = regression()
    rows[3]["mean_interval_length"] = math.inf
    assert "interval_lengths.svg" in names(draw(result(rows, name=REGRESSION), tmp_path, ["svg"]))


def test_without_calibration_accuracy_and_labels_are_drawn(tmp_path: Path) -> None:
    drawn = draw(result(plain(), "calibrate=none"), tmp_path / "c", ["png"])
    assert names(drawn) == ["accuracy.png", "labels.png"]
    drawn = draw(result(regression(), "calibrate=none", name=REGRESSION), tmp_path / "r", ["svg"])
    assert names(drawn) == ["rmse.svg", "labels.svg"]


def test_names_are_drawn_as_they_are(tmp_path: Path) -> None:
    rows = plain(4)
    shown = result(rows, classes=[f"$a_{c}$ 漢 a name that is far too long" for c in range(10)])
    names(draw(shown, tmp_path))


def test_only_drawing_imports_matplotlib() -> None:
    code = "import sys, fl_sim.report.table; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_drawing_leaves_the_global_settings_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it fails
    before = matplotlib.rcParams.copy()
    draw(result(plain(3)), tmp_path, ["png"])
    assert matplotlib.rcParams.copy() == before
