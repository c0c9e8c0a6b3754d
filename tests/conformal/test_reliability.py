"""Brier score, log loss, PHI, ECE and Kuiper: by their definitions, by other libraries, and added over clients."""

from __future__ import annotations

import json
import math
import re
import warnings
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_sim import Scenario, simulate
from fl_sim.conformal.probability_calibrators import Temperature
from fl_sim.conformal.reliability import (
    BINS,
    CELL,
    CONFIDENCE,
    COUNT,
    FINE,
    HITS,
    LEAST_LOG,
    NAMES,
    NOTHING,
    added,
    checked_table,
    curves,
    is_calibrated,
    judged,
    judged_each,
    log_softmax,
    tabulate,
)
from fl_sim.report.figures import of_a_run
from fl_sim.report.figures.catalogue import modules
from fl_sim.report.figures.of_a_run.calibration import ece as ece_drawn
from fl_sim.report.figures.style import save, styled
from fl_sim.report.page.build import page
from fl_sim.report.table import notes, probabilities
from fl_sim.results.run import Result, RunFolder

QUICK = settings(derandomize=True, deadline=None, max_examples=60)
Points = tuple[np.ndarray, np.ndarray]  # log-probabilities (n, C), labels (n,)


@st.composite
def points(draw: st.DrawFn, most: int = 40, least: int = 1) -> Points:
    """Of models that are nearly sure, nearly uniform, and in between; some rows are there several times."""
    n, classes = draw(st.integers(least, most)), draw(st.integers(2, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    logits = rng.normal(size=(n, classes)) * draw(st.sampled_from([0.05, 1.0, 4.0, 20.0]))
    again = rng.integers(0, n, n) if draw(st.booleans()) and n else np.arange(n)
    return log_softmax(logits[again]), rng.integers(0, classes, n)


def top(log_p: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(confidence, hit) of each point."""
    p = np.exp(log_p)
    return p.max(axis=1), (log_p.argmax(axis=1) == labels).astype(float)


# ------------------------------------------------------------------------------------- the definitions, point by point


def brier(log_p: np.ndarray, labels: np.ndarray) -> float:
    rows = zip(np.exp(log_p).tolist(), labels.tolist(), strict=True)
    return math.fsum((p - (k == y)) ** 2 for row, y in rows for k, p in enumerate(row)) / len(labels)


def log_loss(log_p: np.ndarray, labels: np.ndarray) -> float:
    return math.fsum(
        -max(row[y], math.log(2**-52)) for row, y in zip(log_p.tolist(), labels.tolist(), strict=True)
    ) / len(labels)


def ece(confidence: np.ndarray, hit: np.ndarray) -> float:
    """Guo et al., equation 3: bins (b/15, (b+1)/15], in exact arithmetic."""
    bins: list[list[float]] = [[] for _ in range(BINS)]
    for c, a in zip(confidence.tolist(), hit.tolist(), strict=True):
        bins[min(max(math.ceil(Fraction(c) * BINS) - 1, 0), BINS - 1)].append(a - c)
    return math.fsum(abs(math.fsum(gaps)) for gaps in bins) / len(hit)


def kuiper(confidence: np.ndarray, hit: np.ndarray) -> float:
    """ECCE-R: range of the cumulative differences; points of one confidence are added at once."""
    path, at = [0.0], 0.0
    for c in sorted(set(confidence.tolist())):
        at += math.fsum((hit - confidence)[confidence == c].tolist())
        path.append(at)
    return (max(path) - min(path)) / len(hit)


@given(points())
@QUICK
def test_the_numbers_are_those_of_their_definitions(drawn):
    log_p, labels = drawn
    found, (confidence, hit) = judged(tabulate(log_p, labels)), top(log_p, labels)
    assert found["brier"] == pytest.approx(brier(log_p, labels), abs=1e-12)
    assert found["log_loss"] == pytest.approx(log_loss(log_p, labels), abs=1e-12)
    assert found["ece"] == pytest.approx(ece(confidence, hit), abs=1e-12)
    cells = np.clip(np.ceil(confidence * FINE), 1, FINE)
    path = np.cumsum([0.0] + [(hit - confidence)[cells == cell].sum() for cell in np.unique(cells)])
    assert found["kuiper"] == pytest.approx(np.ptp(path) / len(hit), abs=1e-12)


@given(points(most=400))
@QUICK
def test_kuiper_of_cells_is_as_near_to_that_of_all_points_as_is_said(drawn):
    log_p, labels = drawn
    table = tabulate(log_p, labels)
    found, exact = judged(table)["kuiper"], kuiper(*top(log_p, labels))
    hits, misses = table[:, HITS], table[:, COUNT] - table[:, HITS]
    low, high = table[:, CELL] / FINE, (table[:, CELL] + 1) / FINE
    n = table[:, COUNT].sum()
    slack = 2 / n * np.minimum(hits * (1 - low), misses * high).max()
    middle = table[:, CONFIDENCE] / table[:, COUNT]
    assert found - 1e-12 <= exact <= found + slack + 1e-12
    assert slack <= 2 * ((middle * (1 - middle) + 1 / FINE) * table[:, COUNT]).max() / n + 1e-12
    if (table[:, COUNT] == 1).all():
        assert found == pytest.approx(exact, abs=1e-12)


def test_kuiper_of_many_sure_points_is_near_that_of_all_points():
    """The last cell holds nearly everything: a model that is sure, and wrong in 3 of 100."""
    rng = np.random.default_rng(0)
    n = 20_000
    log_p = log_softmax(np.stack([rng.exponential(2.0, n) + 9, np.zeros(n)], axis=1))
    labels = (rng.random(n) < 0.03).astype(int)
    found = judged(tabulate(log_p, labels))["kuiper"]
    assert len(tabulate(log_p, labels)) == 1
    assert found == pytest.approx(0.03, abs=0.004)
    assert 0 <= kuiper(*top(log_p, labels)) - found <= 2 / FINE


# --------------------------------------------------------------------------------------------------- by hand, by others


def test_by_hand():
    with np.errstate(divide="ignore"):
        log_p = np.log([[0.5, 0.5], [1.0, 0.0], [0.0, 1.0]])
    # Ties go to class 0: right at .5, right at 1, wrong at 1.
    found = judged(tabulate(log_p, np.array([0, 0, 0])))
    assert found["brier"] == (0.5 + 0 + 2) / 3
    assert found["log_loss"] == pytest.approx((math.log(2) + 0 + 52 * math.log(2)) / 3)
    assert found["ece"] == (0.5 + 1) / 3
    assert found["kuiper"] == (0.5 - -0.5) / 3  # .5 after the first, -.5 after the two of confidence 1
    assert (found["phi_brier"], found["phi_log"]) == (0.0, 0.0)


def test_perfect_predictions_have_no_error():
    with np.errstate(divide="ignore"):
        found = judged(tabulate(np.log(np.eye(4)[[0, 3, 2]]), np.array([0, 3, 2])))
    assert found == dict.fromkeys(NAMES, 0.0)
    assert math.copysign(1, found["log_loss"]) == 1


def test_what_halving_a_sure_models_confidence_gains():
    before, after = np.log([[0.9, 0.1]] * 2), np.log([[0.6, 0.4]] * 2)
    found = judged(tabulate(before, np.array([0, 1]), after))
    assert found["brier"] == pytest.approx((0.32 + 0.72) / 2)
    assert found["phi_brier"] == pytest.approx((0.02 + 1.62) / 2 - (0.32 + 0.72) / 2)
    assert found["phi_log"] == pytest.approx(-math.log(0.9 * 0.1) / 2 + math.log(0.6 * 0.4) / 2)
    assert found["ece"] == pytest.approx(0.1)


def test_other_libraries_find_the_same():
    from sklearn.calibration import calibration_curve
    from sklearn.metrics import brier_score_loss
    from sklearn.metrics import log_loss as their_log_loss

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        from probmetrics.distributions import CategoricalProbs
        from probmetrics.metrics import BrierLoss, LogLoss
    rng = np.random.default_rng(3)
    log_p, labels = log_softmax(rng.normal(size=(300, 4)) * 2), rng.integers(0, 4, 300)
    p, found = np.exp(log_p), judged(tabulate(log_p, labels))
    told = [metric.compute_from_labels_probs(torch.as_tensor(labels), torch.as_tensor(p))
            for metric in (BrierLoss(), LogLoss())]  # fmt: skip
    assert [found["brier"], found["log_loss"]] == pytest.approx([float(value) for value in told], abs=1e-6)
    assert found["log_loss"] == pytest.approx(their_log_loss(labels, p), abs=1e-6)
    two, hit = log_softmax(rng.normal(size=(300, 2))), rng.integers(0, 2, 300)
    assert judged(tabulate(two, hit))["brier"] == pytest.approx(2 * brier_score_loss(hit, np.exp(two)[:, 1]), abs=1e-6)
    confidence, right = top(log_p, labels)
    share, mean = calibration_curve(right, confidence, n_bins=15)  # of the bins that hold any
    held = np.histogram(confidence, 15, (0, 1))[0]
    assert found["ece"] == pytest.approx(np.average(np.abs(share - mean), weights=held[held > 0]), abs=1e-6)
    pair = CategoricalProbs(torch.as_tensor(np.stack([1 - confidence, confidence], axis=1)))
    from probmetrics.distributions import CategoricalDirac
    from probmetrics.metrics import KuiperCalibrationMetric

    dirac = CategoricalDirac(torch.as_tensor(right.astype(np.int64)), 2)
    exact = float(KuiperCalibrationMetric().compute(dirac, pair))
    assert kuiper(confidence, right) == pytest.approx(exact, abs=1e-6)
    assert found["kuiper"] == pytest.approx(exact, abs=1e-3)


# ---------------------------------------------------------------------------------------------------------- what adds


@given(points(most=60), st.lists(st.integers(0, 60), max_size=4), st.booleans(), st.randoms())
@QUICK
def test_tables_of_parts_add_up_to_that_of_all(drawn, cuts, calibrated, shuffle):
    log_p, labels = drawn
    after = log_softmax(log_p / 1.7) if calibrated else None
    order = list(range(len(labels)))
    shuffle.shuffle(order)
    ends = sorted({0, len(labels), *(min(cut, len(labels)) for cut in cuts)})
    parts = [order[a:b] for a, b in pairwise(ends)]
    tables = [tabulate(log_p[part], labels[part], None if after is None else after[part]) for part in parts]
    whole, together = tabulate(log_p, labels, after), added([*tables, NOTHING])
    assert whole.shape == together.shape
    assert (whole[:, [CELL, COUNT, HITS]] == together[:, [CELL, COUNT, HITS]]).all()
    np.testing.assert_allclose(whole, together, rtol=0, atol=1e-10)
    for name, value in judged(whole).items():
        assert value == pytest.approx(judged(together)[name], abs=1e-12)
    checked_table(together, len(labels))
    checked_table(whole, len(labels))


def test_many_tables_are_judged_as_each_by_itself():
    rng = np.random.default_rng(2)
    tables = [NOTHING]
    for k, n in enumerate(rng.integers(0, 40, 60).tolist()):
        log_p, labels = log_softmax(rng.normal(size=(n, 4)) * 4), rng.integers(0, 4, n)
        tables.append(tabulate(log_p, labels, log_softmax(log_p / 3) if k % 2 else None))
    together = judged_each(tables)
    for k, table in enumerate(tables):
        assert {name: values[k] for name, values in together.items()} == judged(table)


def test_losses_of_all_are_the_means_of_the_clients_by_their_points():
    rng = np.random.default_rng(1)
    tables = [
        tabulate(log_softmax(z), rng.integers(0, 3, len(z)), log_softmax(z / 2))
        for z in (rng.normal(size=(n, 3)) * 3 for n in (5, 50, 500))
    ]
    found = judged(added(tables))
    for name in ("brier", "log_loss", "phi_brier", "phi_log"):
        assert found[name] == pytest.approx(np.average([judged(t)[name] for t in tables], weights=[5, 50, 500]))


@given(points())
@QUICK
def test_the_identity_improves_nothing_at_all(drawn):
    log_p, labels = drawn
    without, identity = tabulate(log_p, labels), tabulate(log_p, labels, log_p.copy())
    assert is_calibrated(identity)
    assert not is_calibrated(without)
    assert judged(identity) == judged(without)
    for table in (identity, without, added([identity, identity]), added([without])):
        assert (judged(table)["phi_brier"], judged(table)["phi_log"]) == (0.0, 0.0)


@given(points())
@QUICK
def test_a_temperature_of_one_is_the_identity_to_the_last_bit(drawn):
    logits = drawn[0].astype(np.float32) * 3
    assert (log_softmax(logits) == Temperature(1.0)(logits)).all()
    assert log_softmax(logits).dtype == np.float64


def test_curves_are_the_sums_behind_ece():
    rng = np.random.default_rng(2)
    z, labels = rng.normal(size=(200, 5)) * 3, rng.integers(0, 5, 200)
    table = tabulate(log_softmax(z), labels, log_softmax(z / 3))
    for side, z_side in (("before", z), ("after", z / 3)):
        drawn = curves(table)[side]
        confidence, hit = top(log_softmax(z_side), labels)
        assert (len(drawn["count"]), sum(drawn["count"]), sum(drawn["hits"])) == (BINS, 200, hit.sum())
        gaps = np.abs(np.array(drawn["hits"]) - np.array(drawn["confidence"])).sum() / 200
        assert gaps == pytest.approx(ece(confidence, hit))
    assert gaps == pytest.approx(judged(table)["ece"])


# --------------------------------------------------------------------------------------------------------------- edges


def test_no_points_have_no_numbers():
    empty = np.zeros((0, 3))
    assert tabulate(empty, np.zeros(0, int)).shape == (0, 6)
    assert tabulate(empty, np.zeros(0, int), empty).shape == (0, 6)
    assert judged(NOTHING) == dict.fromkeys(NAMES)
    assert added([]).shape == (0, 6)
    assert sum(curves(NOTHING)["after"]["count"]) == 0


def test_a_model_that_answers_nan_has_no_probabilities():
    for bad in (math.nan, math.inf):
        log_p = log_softmax(np.array([[0.0, 1.0], [bad, 0.0]]))
        assert np.isnan(log_p[1]).all()
        assert judged(tabulate(log_p, np.array([1, 0]))) == dict.fromkeys(NAMES)
        assert tabulate(log_p, np.array([1, 0]), log_p).shape == (0, 6)


def test_a_probability_of_nothing_costs_36_and_no_infinity():
    log_p = log_softmax(np.array([[1000.0, 0.0]]))
    assert judged(tabulate(log_p, np.array([1])))["log_loss"] == -LEAST_LOG == pytest.approx(36.04, abs=0.01)
    with np.errstate(divide="ignore"):
        zero = np.log(np.array([[1.0, 0.0]]))
    assert judged(tabulate(log_p, np.array([1]), zero))["log_loss"] == -LEAST_LOG


def test_confidence_at_an_edge_belongs_to_the_bin_below():
    for k in range(1, BINS + 1):
        share = k / BINS
        cell = math.ceil(share * FINE) - 1
        with np.errstate(divide="ignore"):
            table = tabulate(np.log([[share, 1 - share]]), np.array([0]))
        if share >= 0.5 and math.exp(math.log(share)) == share:
            assert table[0, CELL] == cell
            assert curves(table)["before"]["count"][k - 1] == 1


LOG_HALF = np.log([[0.5, 0.5]])


@pytest.mark.parametrize(("arguments", "fault"), [
    ((LOG_HALF, [2]), "labels"),
    ((LOG_HALF, [-1]), "labels"),
    ((LOG_HALF, [0, 1]), "labels"),
    ((LOG_HALF, [0], np.full((1, 2), np.nan)), "a calibrator gave nan"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(arguments, fault):
    with pytest.raises(ValueError, match=fault):
        tabulate(*(np.asarray(one) for one in arguments))


GOOD = tabulate(np.log([[0.5, 0.5], [0.9, 0.1]]), np.array([0, 1]), np.log([[0.6, 0.4], [0.6, 0.4]]))


@pytest.mark.parametrize("table", [
    GOOD[:, :5], GOOD[0], GOOD.astype(np.float32), -GOOD, GOOD * np.nan, GOOD[::-1], GOOD[1:], GOOD[:1],
    GOOD + np.array([2 * FINE, 0, 0, 0, 0, 0]), np.where(GOOD == 0, np.inf, GOOD),
])  # fmt: skip
def test_what_can_be_no_table_is_refused(table):
    checked_table(GOOD, 2)
    with pytest.raises(ValueError, match="reliability"):
        checked_table(table, 2)


# ------------------------------------------------------------------------------------------------------------- in a run


SMALL = ("runtime.name=inline", "clients.count=6", "data.train=200", "clients.tier.strong.epochs=5")
CALIBRATED = 'calibrate={name="local", calibrator="temperature"}'


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


def weighted(rows, name):
    return np.average([row[name] for row in rows], weights=[row["num_test"] for row in rows])


@pytest.mark.parametrize("calibrate", [
    "none", "local", '{name="local", calibrator="temperature"}', '{name="local", calibrator="identity"}',
])  # fmt: skip
def test_a_run_tells_of_every_client_tier_and_of_all(place, calibrate):
    result = simulate(Scenario.load("digits", *SMALL, f"calibrate={calibrate}"), store=place)
    rows, found = result.clients, result.calibrate
    for name in ("brier", "log_loss", "phi_brier", "phi_log"):
        assert found[name] == pytest.approx(weighted(rows, name), abs=1e-12)
        for tier, of in found["tiers"].items():
            assert of[name] == pytest.approx(weighted([r for r in rows if r["tier"] == tier], name), abs=1e-12)
    assert 0 < found["kuiper"] <= 1
    assert 0 < found["ece"] <= weighted(rows, "ece") + 1e-12  # gaps of clients may cancel, and never add up to more
    assert ("reliability" in found) == ("calibrator" in calibrate)
    if "temperature" in calibrate:
        assert found["phi_brier"] != 0
        diagram = found["reliability"]["weak"]
        gap = np.abs(np.array(diagram["after"]["hits"]) - np.array(diagram["after"]["confidence"])).sum()
        assert gap / sum(diagram["after"]["count"]) == pytest.approx(found["tiers"]["weak"]["ece"])
        assert sum(diagram["after"]["hits"]) == sum(r["num_correct"] for r in rows if r["tier"] == "weak")
    else:
        assert {(row["phi_brier"], row["phi_log"]) for row in rows} == {(0.0, 0.0)}
        assert (found["phi_brier"], found["phi_log"]) == (0.0, 0.0)


def figure_files(name: str, result: Result, folder: Path) -> list[Path]:
    """The files of one of a run's figures, as `draw_run` draws it among all that it has."""
    module = dict(modules(of_a_run))[name]
    assert module.applies(result)
    with styled():
        return save(module.draw(result), folder, name)


def test_the_report_shows_what_a_calibrator_did(place, tmp_path):
    result = simulate(Scenario.load("digits", *SMALL, CALIBRATED), store=place)
    first, again = (figure_files("calibration", result, tmp_path / name) for name in "ab")
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in again]
    assert [p.name for p in first] == ["calibration.png", "calibration.svg"]
    said = " ".join(notes(result))
    assert f"lowered the Brier score: {result.calibrate['phi_brier']:+.4f} (weak " in said
    for tier, curves_of in result.calibrate["reliability"].items():
        assert ece_drawn(curves_of["after"]) == pytest.approx(result.calibrate["tiers"][tier]["ece"])
    headers, rows = probabilities(result)
    assert headers[1:] == ["Brier score", "log loss", "ECE", "Kuiper", "PHI, Brier score", "PHI, log loss"]
    assert [row[0] for row in rows] == ["all", *result.calibrate["tiers"]]


def test_the_page_and_an_old_runs_folder(place, tmp_path):
    scenario = Scenario.load("digits", *SMALL, CALIBRATED)
    result = simulate(scenario, store=place)
    folder = RunFolder(tmp_path / "run")
    folder.write(result)
    folder.finish()
    read = Result.load(tmp_path / "run")
    assert [[row[name] for name in NAMES] for row in read.clients] == [
        [r[name] for name in NAMES] for r in result.clients
    ]
    told = page(tmp_path / "run")
    assert "How far the probabilities can be trusted" in told
    data = json.loads(re.search(r'id="data">(.*?)</script>', told, re.DOTALL)[1])
    (trust,) = data["trusts"]
    assert trust["brier"] == pytest.approx(result.column("brier"), rel=5e-3)
    assert set(trust) == {"brier", "ece", "phi_brier"}
    # As it was written before this was measured.
    lines = [line.split(",") for line in (tmp_path / "run/clients.csv").read_text().splitlines()]
    kept = [k for k, name in enumerate(lines[0]) if name not in NAMES]
    (tmp_path / "run/clients.csv").write_text("".join(",".join(line[k] for k in kept) + "\n" for line in lines))
    told = json.loads((tmp_path / "run/result.json").read_text())
    del told["sha256"]
    metrics = told["calibrate"]["metrics"]
    for group in (metrics, *metrics["tiers"].values()):
        for name in (*NAMES, "reliability"):
            group.pop(name, None)
    (tmp_path / "run/result.json").write_text(json.dumps(told))
    old = Result.load(tmp_path / "run")
    assert old.column("coverage") == result.column("coverage")
    assert "trusted" not in page(tmp_path / "run").partition("<script")[0]
    assert probabilities(old) == ([], [])


def test_regression_has_none_of_it(place):
    result = simulate(
        Scenario.load("regression", "runtime.name=inline", "clients.count=4", "data.name=diabetes", "data.train=100",
                      "data.calibration=100", "data.test=100"), store=place)  # fmt: skip
    assert all(row[name] is None for row in result.clients for name in NAMES)
    assert not set(NAMES) & set(result.calibrate)
