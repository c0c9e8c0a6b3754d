"""Whether a rejection can be trusted: the error of the tests under valid calibration, their power, and their tables."""

from __future__ import annotations

import io
import json
import sys
from fractions import Fraction
from math import comb

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy import stats
from typer.testing import CliRunner

from fl_sim import Scenario, simulate
from fl_sim.cli import main
from fl_sim.conformal.certificate import certify, clopper_pearson, found_for_sure, holm, over_points, power
from fl_sim.conformal.thresholds import conformal_rank
from fl_sim.report.advice import headline
from fl_sim.report.certificate import clients, of_points, rejected
from fl_sim.report.verdicts import Claim
from fl_sim.results.run import Result

CLIENTS = 200


def covered_by_valid_local(rng: np.random.Generator, n: int, m: int, alpha: float, repeats: int) -> np.ndarray:
    """(repeats, CLIENTS) counts of clients, each with split conformal on its own n points and m test points: the true
    coverage is Beta(rank, n+1-rank), which tests/conformal/test_coverage.py shows from scores."""
    rank = conformal_rank(n, alpha)
    assert rank <= n
    return rng.binomial(m, rng.beta(rank, n + 1 - rank, (repeats, CLIENTS)))


# ----------------------------------------------------------------------------------------------------- closed forms


def test_holm_is_its_definition():
    rng = np.random.default_rng(0)
    for size in (1, 2, 7):
        p = rng.random(size) ** 3
        by_hand = [
            min(1.0, max((size - j) * q for j, q in enumerate(sorted(p)) if q <= mine)) for mine in p
        ]  # of distinct p: the largest of (K - j) p_(j) up to one's own
        assert holm(p) == pytest.approx(by_hand, abs=1e-15)
    assert holm([]).shape == (0,)
    assert holm([1.0, 1.0]).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("coverage", [0.6, 0.75, 0.85])
def test_the_power_is_how_often_such_a_client_is_rejected(coverage):
    """One client of 20 covers too little, the others all: at Holm's first step it is alone."""
    rng, n, m, runs = np.random.default_rng(1), 80, 60, 2000
    covered = np.full(20, m)
    counts = rng.binomial(m, coverage, runs)
    rejected_at = [certify([x, *covered[1:]], [m] * 20, [n] * 20, 0.1).rejected[0] for x in range(m + 1)]
    share = np.mean([rejected_at[x] for x in counts])
    exact = power(coverage, m, n, 0.1, 20)
    assert share == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / runs) + 1e-9)
    assert power(found_for_sure(m, n, 0.1, 20), m, n, 0.1, 20) == pytest.approx(0.8)


def test_few_points_find_little():
    """50 test points that are covered .85 where .95 is promised, one client of 200."""
    assert power(0.85, 50, 50, 0.05, 200) < 0.01
    assert power(0.85, 50, 1000, 0.05, 200) < 0.13
    assert np.isnan(found_for_sure(1, 50, 0.05, 200))


def test_over_points_is_at_most_level_however_points_depend():
    rng = np.random.default_rng(2)
    for together in (0.0, 0.5, 1.0):  # how often a strategy's five points have the same p-value
        same, each = rng.random((4000, 1)), rng.random((4000, 5))
        p = np.where(rng.random((4000, 1)) < together, same, each)
        share = np.mean([over_points(row) <= 0.05 for row in p])
        assert share <= 0.05 + 4 * np.sqrt(0.05 * 0.95 / 4000)
    assert np.isnan(over_points([np.nan]))


def test_a_pooled_threshold_does_not_always_make_the_test_the_more_cautious():
    """A client with a fifth of its scores in one tie at the pooled quantile: .9 covered on average, and rejected."""
    rng, n, runs = np.random.default_rng(3), 50, 2000
    below = rng.random(runs) < 0.5  # whether the pool's quantile falls below the tie or on it
    covered = np.where(below, rng.binomial(n, 0.8, runs), n)
    assert covered.mean() / n == pytest.approx(0.9, abs=0.01)
    wrong = np.mean([certify([x], [n], [n], 0.1).rejected[0] for x in covered])
    assert 0.15 < wrong < 0.27  # at level 5 %; exactly .208


@pytest.mark.parametrize(("x", "m"), [(0, 10), (3, 10), (10, 10), (47, 50)])
def test_the_interval_is_where_both_tails_are_a_fortieth(x, m):
    (low,), (high,) = clopper_pearson([x], [m])
    if x > 0:
        assert stats.binom.sf(x - 1, m, low) == pytest.approx(0.025, abs=1e-9)
    if x < m:
        assert stats.binom.cdf(x, m, high) == pytest.approx(0.025, abs=1e-9)
    assert (low == 0) == (x == 0)
    assert (high == 1) == (x == m)


def test_p_over_draws_is_the_law_of_ranks_where_the_rank_is_whole():
    """n = 9, alpha = 0.1 gives rank 9 exactly: each order of the 9 + m scores is as likely as any other."""
    n, m, rank = 9, 6, 9
    of_ranks = [Fraction(comb(rank - 1 + x, x) * comb(n - rank + m - x, m - x), comb(n + m, m)) for x in range(m + 1)]
    assert sum(of_ranks) == 1
    for x in range(m + 1):
        found = certify([x], [m], [n], 0.1, min_calibration=1)
        assert found.p_value[0] == pytest.approx(float(sum(of_ranks[: x + 1])), abs=1e-12)
        assert found.p_threshold[0] == pytest.approx(stats.binom.cdf(x, m, 0.9), abs=1e-12)


def test_the_smallest_of_200_valid_clients_is_far_below_what_was_promised():
    rng = np.random.default_rng(1)
    truth = rng.beta(49, 2, (2_000, CLIENTS)).min(axis=1)  # n = 50, alpha = 0.05
    assert 0.83 < truth.mean() < 0.88


# --------------------------------------------------------------------------------------------------- error and power


@pytest.mark.parametrize("n", [19, 50, 200])
@pytest.mark.parametrize("m", [30, 300])
def test_valid_local_calibration_is_hardly_ever_rejected(n, m):
    alpha, repeats = 0.05, 400
    rng = np.random.default_rng(n * 10_000 + m)
    false = np.array([
        certify(row, np.full(CLIENTS, m), np.full(CLIENTS, n), alpha, min_calibration=1).num_rejected > 0
        for row in covered_by_valid_local(rng, n, m, alpha, repeats)
    ])  # fmt: skip
    assert false.mean() <= 0.05 + 4 * np.sqrt(0.05 * 0.95 / repeats)


def test_a_test_that_forgets_the_luck_of_calibration_rejects_valid_clients():
    """The defect that `over draws` is there to avoid: a binomial test per client, which is about this threshold."""
    rng = np.random.default_rng(3)
    n, m, alpha = 50, 1000, 0.05
    found = [
        certify(row, np.full(CLIENTS, m), np.full(CLIENTS, n), alpha)
        for row in covered_by_valid_local(rng, n, m, alpha, 50)
    ]
    assert np.mean([c.threshold_rejected.any() for c in found]) == 1
    assert np.mean([c.threshold_rejected.mean() for c in found]) > 0.08
    assert np.mean([c.rejected.any() for c in found]) <= 0.1


def test_a_threshold_that_spreads_less_is_rejected_less():
    """A pooled threshold that covers exactly 1 - alpha everywhere: the most even of valid calibrations."""
    rng = np.random.default_rng(4)
    false = [
        certify(rng.binomial(200, 0.95, CLIENTS), np.full(CLIENTS, 200), np.full(CLIENTS, 50), 0.05).num_rejected > 0
        for _ in range(300)
    ]
    assert np.mean(false) <= 0.05


def test_clients_that_cover_80_percent_are_found():
    rng = np.random.default_rng(5)
    n, m, bad = 200, 200, 10
    found = []
    for _ in range(50):
        covered = covered_by_valid_local(rng, n, m, 0.05, 1)[0]
        covered[:bad] = rng.binomial(m, 0.80, bad)
        one = certify(covered, np.full(CLIENTS, m), np.full(CLIENTS, n), 0.05)
        found.append((one.rejected[:bad].mean(), one.rejected[bad:].any(), one.threshold_rejected[:bad].mean()))
    power, error, power_threshold = np.mean(found, axis=0)
    assert power > 0.9
    assert power_threshold > 0.95
    assert error <= 0.1


def test_holm_holds_where_all_clients_share_their_test_points_and_threshold():
    """The same test points for all, the strongest dependence there is."""
    rng = np.random.default_rng(6)
    counts = covered_by_valid_local(rng, 100, 100, 0.1, 1_000)[:, 0]
    false = [certify(np.full(50, x), np.full(50, 100), np.full(50, 100), 0.1).num_rejected > 0 for x in counts.tolist()]
    assert np.mean(false) <= 0.05


# ------------------------------------------------------------------------------------------------------ what is asked


def test_slack_is_let_pass_and_small_clients_are_not_judged():
    covered, tested, own = [160, 160, 10, 0], [200, 200, 40, 0], [500, 49, 500, 500]
    strict = certify(covered, tested, own, 0.1)
    assert strict.considered.tolist() == [True, False, True, False]
    assert strict.rejected.tolist() == [True, False, True, False]
    assert np.isnan(strict.p_adjusted[[1, 3]]).all()
    assert certify(covered, tested, own, 0.1, slack=0.1).rejected.tolist() == [False, False, True, False]
    assert certify(covered, tested, own, 0.1, min_calibration=0).considered.tolist() == [True, True, True, False]
    assert strict.order().tolist()[:2] == [2, 0]
    assert np.isnan(strict.coverage[3])
    assert (strict.low[3], strict.high[3]) == (0, 1)


def test_no_client_at_all():
    found = certify([], [], [], 0.1)
    assert (found.num_considered, found.num_rejected) == (0, 0)
    assert certify([5], [5], [0], 0.1, min_calibration=0).p_value[0] == 1  # its own threshold is infinite


@pytest.mark.parametrize(("change", "said"), [
    ({"alpha": 1.0}, "alpha = 1.0: must lie strictly between 0 and 1"),
    ({"slack": 0.9}, "slack = 0.9: must lie in 0..0.9"),
    ({"slack": -0.1}, "slack = -0.1"),
    ({"level": 0.0}, "level = 0.0"),
    ({"num_covered": [11]}, r"num_covered\[0\] = 11: must lie in 0..num_test"),
    ({"num_calibration": [-1]}, r"num_calibration\[0\] = -1"),
    ({"num_calibration": [1, 2]}, r"must all have shape \(K,\)"),
])  # fmt: skip
def test_what_cannot_be_is_refused(change, said):
    told = {"num_covered": [5], "num_test": [10], "num_calibration": [20], "alpha": 0.1} | change
    with pytest.raises(ValueError, match=said):
        certify(**told)


# ----------------------------------------------------------------------------------------------------------- the table

SMALL = ("clients.count=6", "clients.tier.strong.epochs=1", "clients.tier.weak.epochs=1", "runtime.name=inline")


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> Result:
    return simulate(Scenario.load("digits", *SMALL), store=tmp_path_factory.mktemp("store"))


def test_a_runs_headline_and_rows(result):
    found = clients(result, Claim())
    assert len(found) == 6
    assert found["p_value"].dropna().is_monotonic_increasing
    assert found["rejected"].sum() == rejected(result)
    assert "least 50 calibration points" in headline(result, Claim())
    assert "so none is judged" in headline(result, Claim(min_calibration=10_000))
    easy = Claim(slack=0.8)
    assert easy.certificate(result).num_rejected == 0
    assert "None of" in headline(result, easy)
    assert "10%" in headline(result, easy)
    impossible = Result(result.scenario, [row | {"num_covered": 0} for row in result.clients], result.summary)
    assert "cover less than 90% beyond bad luck" in headline(impossible, Claim())


def test_a_missing_client_is_not_judged(result):
    rows = [dict(row) for row in result.clients]
    rows[0] |= {"num_covered": None, "coverage": None, "status": "failed"}
    lost = Result(result.scenario, rows, result.summary)
    assert not Claim().certificate(lost).considered[0]
    assert clients(lost, Claim())["num_covered"].isna().sum() == 1


def test_the_command_on_a_run_and_on_a_comparison(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys, "path", list(sys.path))
    runner = CliRunner()
    assert runner.invoke(main.app, ["run", "digits", *SMALL, "--out", "one"]).exit_code == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "one").iterdir()}
    told = runner.invoke(main.app, ["certify", "one", "--format", "json", "--slack", "0.02"])
    assert told.exit_code == 0
    assert len(json.loads(told.stdout)) == 6
    assert runner.invoke(main.app, ["certify", "one", "--format", "csv"]).stdout.startswith("client,tier,behaviour,")
    shown = runner.invoke(main.app, ["certify", "one", "--min-calibration", "1"])
    assert shown.exit_code == 0
    condition = "The 5% hold where a threshold spreads over draws no more than one from the client's own points does."
    assert condition in " ".join(shown.stdout.split())
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "one").iterdir()} == before

    assert runner.invoke(main.app, ["compare", "digits", "local", "pooled", *SMALL, "--out", "two"]).exit_code == 0
    rows = json.loads(runner.invoke(main.app, ["certify", "two", "--format", "json"]).stdout)
    assert [row["calibrate"] for row in rows] == ["local", "pooled"]
    assert all(row["considered"] == 6 - sum(n < 50 for n in _sizes(tmp_path / "one")) for row in rows)
    assert runner.invoke(main.app, ["certify", "two"]).exit_code == 0
    failed = runner.invoke(main.app, ["certify", "one", "--format", "xml"])
    assert "choose one of table, csv, json" in str(failed.exception)
    failed = runner.invoke(main.app, ["certify", str(tmp_path)])
    assert "no finished run" in str(failed.exception)


def _sizes(folder) -> list[int]:
    return Result.load(folder).column("num_calibration")


def test_a_sweeps_table_adds_up_the_seeds():
    """Counts are over seeds, p and the interval those of the worst; what has not run is no seed."""
    told = {"status": "ok", "clients": 9, "threshold_rejected": 0, "p_threshold_adjusted_min": 1.0, "worst_client": 0}
    rows = [
        {"calibrate": "local", "seed": 0, "considered": 7, "rejected": 0, "p_adjusted_min": 0.9, "worst_low": 0.8},
        {"calibrate": "local", "seed": 1, "considered": 8, "rejected": 2, "p_adjusted_min": 0.01, "worst_low": 0.5},
        {"calibrate": "pooled", "seed": 0, "status": "not run"},
    ]
    ends = {"worst_high": 0.95}, {"worst_high": 0.75}, {}
    table = pd.DataFrame([
        {"point": k, "run": str(k)} | told | row | end for k, (row, end) in enumerate(zip(rows, ends, strict=True))
    ])  # fmt: skip
    front = ["point", "run", "status", "calibrate", "seed"]
    table = table[front + [c for c in table.columns if c not in front]]
    text = io.StringIO()
    Console(file=text, width=80).print(of_points(table, "a sweep", Claim()))
    lines = [" ".join(line.split()) for line in text.getvalue().splitlines()]
    assert "local 15 ! 2 0.010 50.0-75.0%" in lines
    assert "pooled not run" in lines
