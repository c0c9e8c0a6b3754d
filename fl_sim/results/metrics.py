"""From counts to what is shown: the clients' rows and the metrics of `result.json`. Rates are taken here, once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from operator import add
from typing import Any

import numpy as np

from fl_sim.agreement import measure
from fl_sim.agreement.pairwise import common_rows
from fl_sim.conformal import reliability
from fl_sim.conformal.calibrator_plan import plan_of
from fl_sim.conformal.coverage import coverage_summary
from fl_sim.conformal.thresholds import min_calibration
from fl_sim.messages.calibration import EvaluateReport
from fl_sim.messages.exchange import Columns
from fl_sim.population.clients import Population
from fl_sim.results.run import Row, by_tier, json_number
from fl_sim.runtime.checked_grid import CheckedGrid
from fl_sim.scenario.scenario import Scenario
from strategies.base import Calibration, Learning
from strategies.families import agreement

Metrics = dict[str, Any]


def client_rows(
    population: Population, checked_grid: CheckedGrid, learn: Learning, calibrate: Calibration
) -> list[Row]:
    """One row a client."""
    retried, missing, counts_of = checked_grid.retried, checked_grid.missing, _counts(calibrate.evaluated)
    messages = (checked_grid.message_bytes_up, checked_grid.message_bytes_down, checked_grid.client_seconds)
    return [
        _who(population, calibrate, k)
        | _how_well(population, calibrate, k, counts_of.get(k))
        | {
            "weight": learn.client_weights.get(k),
            "bytes_up": learn.bytes_up.get(k, 0) + calibrate.bytes_up.get(k, 0),
            "bytes_down": learn.bytes_down.get(k, 0) + calibrate.bytes_down.get(k, 0),
            "message_bytes_up": up,
            "message_bytes_down": down,
            "retries": retried.get(k, 0),
            "status": missing.get(k, "ok"),
            "seconds": round(seconds, 6),
        }
        for k, (up, down, seconds) in enumerate(zip(*(column.tolist() for column in messages), strict=True))
    ]


def _counts(reports: Columns[EvaluateReport]) -> dict[int, dict[str, Any]]:
    """Partition -> what its test counted, by the names of `EvaluateReport`."""
    columns = {
        name: column.tolist() if isinstance(column, np.ndarray) and column.ndim == 1 else column
        for name, column in reports.columns.items()
    }
    rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    return {row["partition"]: row for row in rows}


def _who(population: Population, calibrate: Calibration, k: int) -> Row:
    client = population.client(k)
    behaviour = client.behaviour
    return {
        "client": k,
        "tier": client.tier.name,
        "behaviour": "" if behaviour is None else behaviour.kind,
        "num_calibration": _points(population, calibrate, k)[1],
        "num_test": len(client.test),
        "label_counts": population.label_counts(k),
    }


def _points(population: Population, calibrate: Calibration, k: int) -> tuple[int, int]:
    """How many calibration rows client k has for its calibrator, and how many for thresholds."""
    plan, n = plan_of(calibrate.score) if calibrate.score else None, len(population.client(k).calibration)
    return (0, n) if plan is None else plan.counts(n)


def _fitted(rows: Sequence[Row], population: Population, calibrate: Calibration) -> Metrics:
    """What the calibrators rest on; nothing where there are none. A client without rows keeps its probabilities."""
    if not calibrate.score or plan_of(calibrate.score) is None:
        return {}
    fitted = [_points(population, calibrate, r["client"])[0] for r in rows]
    return {"calibrator_rows": sum(fitted), "clients_without_calibrator": fitted.count(0)}


def _how_well(population: Population, calibrate: Calibration, k: int, counts: dict[str, Any] | None) -> Row:
    """Counts and rates of a client's test; None where it was not tested, or has no test points."""
    calibrated = bool(calibrate.score)
    size = "mean_set_size" if population.data.classes is not None else "mean_interval_length"
    row: Row = dict.fromkeys(("threshold", "num_covered", "coverage", size, "num_empty", "num_correct", "accuracy"))
    row |= dict.fromkeys(reliability.NAMES)
    if population.data.classes is None:
        row["rmse"] = None
    if counts is None:
        return row
    n = counts["num_test"]
    if calibrated:
        row |= {"num_covered": counts["num_covered"], "num_empty": counts["num_empty"]}
        threshold = calibrate.thresholds[k]
        each = isinstance(threshold, np.ndarray) and threshold.ndim  # of each class there is no one number
        row |= {"threshold": None if each else float(threshold)}
        row |= {"coverage": counts["num_covered"] / n if n else None, size: counts["total_size"] / n if n else None}
    if population.data.classes is not None:
        row |= {"num_correct": counts["num_correct"], "accuracy": counts["num_correct"] / n if n else None}
        row |= reliability.judged(counts["reliability"])
    else:
        row["rmse"] = math.sqrt(counts["total_squared_error"] / n) if n else None
    return row


def learn_metrics(rows: Sequence[Row], population: Population, calibrate: Calibration) -> Metrics:
    """How good the models are: over all client-test pairs, over clients, by tier, and over those that behave."""

    def of(group: Sequence[Row]) -> Metrics:
        if population.data.classes is None:
            reports = _reports(group, calibrate)
            tested, error = int(reports.num_test.sum()), math.fsum(reports.total_squared_error)
            worst = [r["rmse"] for r in group if r["rmse"] is not None]
            return {"rmse": math.sqrt(error / tested) if tested else None, "rmse_client_max": max(worst, default=None)}
        tested_rows = [r for r in group if r["num_correct"] is not None]
        rates = coverage_summary([r["num_correct"] for r in tested_rows], [r["num_test"] for r in tested_rows])
        names = {
            "accuracy": "coverage",
            "accuracy_client_mean": "coverage_client_mean",
            "accuracy_client_min": "coverage_client_min",
        }
        return {ours: rates[theirs] for ours, theirs in names.items()}

    return {
        **of(rows),
        "tiers": {tier: of(group) for tier, group in by_tier(rows).items()},
        **{name: of(group) for name, group in _honest(rows).items()},
        **_weights(rows),
    }


def _weights(rows: Sequence[Row]) -> Metrics:
    """Where the learn strategy weighs clients: which share of all weight those that misbehave have in the end (None
    where nobody has any), and the mean weight by kind of behaviour and, of those that behave, by tier."""
    if all(row["weight"] is None for row in rows):
        return {}

    def mean(group: Sequence[Row]) -> float:
        return math.fsum(row["weight"] or 0.0 for row in group) / len(group)

    total = mean(rows) * len(rows)
    behaving, others = ([row for row in rows if bool(row["behaviour"]) == bad] for bad in (False, True))
    kinds = {kind: [row for row in others if row["behaviour"] == kind] for kind in {row["behaviour"] for row in others}}
    return {
        "weight_share_misbehaving": mean(others) * len(others) / total if others and total else 0.0 if total else None,
        "weight_by_behaviour": {kind: mean(kinds[kind]) for kind in sorted(kinds)},
        "weight_by_tier": {tier: mean(group) for tier, group in by_tier(behaving).items()},
    }


def calibrate_metrics(
    rows: Sequence[Row], scenario: Scenario, population: Population, calibrate: Calibration
) -> Metrics:
    """Whether the promise was kept, at what size and cost, and how far the probabilities can be trusted."""

    def of(group: Sequence[Row]) -> Metrics:
        coverage = _coverage(group, calibrate, population) if calibrate.score else {}
        return coverage | _trust(group, calibrate, population)

    groups = {
        **of(rows),
        "tiers": {tier: of(group) for tier, group in by_tier(rows).items()},
        **{name: of(group) for name, group in _honest(rows).items()},
        **_reliability(rows, calibrate),
    }
    if not calibrate.score:
        return {**(groups if population.data.classes is not None else {}), "rounds": 0}
    calibrated = [r for r in rows if r["client"] in calibrate.bytes_up]

    def mean_bytes(account: dict[int, int]) -> float | None:
        return math.fsum(account.values()) / len(account) if account else None

    return {
        **groups,
        "coverage_by_class": _by_class(calibrate, population),
        "threshold": None if calibrate.global_threshold is None else json_number(calibrate.global_threshold),
        "threshold_is_infinite": calibrate.global_threshold == math.inf,
        "clients_below_min_n": sum(
            r["num_calibration"] < min_calibration(scenario.calibrate.alpha) for r in calibrated
        ),
        "clients_without_calibration": sum(r["num_calibration"] == 0 for r in calibrated),
        **_fitted(calibrated, population, calibrate),
        "bytes_up_per_client": mean_bytes(calibrate.bytes_up),
        "bytes_down_per_client": mean_bytes(calibrate.bytes_down),
        "rounds": calibrate.rounds_before + calibrate.num_rounds,
    }


def _honest(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The clients that behave, as a group of their own where there are others."""
    behaving = [row for row in rows if not row["behaviour"]]
    return {"honest": behaving} if len(behaving) < len(rows) else {}


def _coverage(rows: Sequence[Row], calibrate: Calibration, population: Population) -> Metrics:
    reports = _reports(rows, calibrate)
    n = int(reports.num_test.sum())
    kind = "mean_set_size" if population.data.classes is not None else "mean_interval_length"
    size = reduce(add, reports.total_size.tolist()) / n if n else None  # in the order of the clients
    summary: Metrics = coverage_summary(reports.num_covered, reports.num_test)
    return summary | {
        kind: json_number(size),
        f"{kind}_is_infinite": size == math.inf,
        "empty_set_rate": int(reports.num_empty.sum()) / n if n else None,
        "infinite_interval_rate": int(reports.num_infinite.sum()) / n if n else None,
        "clients": len(rows),
    }


def _reports(rows: Sequence[Row], calibrate: Calibration) -> Columns[EvaluateReport]:
    """What was counted at the clients of these rows that were tested."""
    reports = calibrate.evaluated
    clients = [row["client"] for row in rows]
    return reports if len(reports) == len(rows) else reports.taken(np.flatnonzero(np.isin(reports.partition, clients)))


def _trust(rows: Sequence[Row], calibrate: Calibration, population: Population) -> Metrics:
    """How far the probabilities can be trusted; nothing in regression."""
    return {} if population.data.classes is None else reliability.judged(_table(rows, calibrate))


def _reliability(rows: Sequence[Row], calibrate: Calibration) -> Metrics:
    """The reliability diagrams of each tier, where there is a calibrator."""
    tables = {tier: _table(group, calibrate) for tier, group in by_tier(rows).items()}
    if not any(reliability.is_calibrated(table) for table in tables.values()):
        return {}
    return {"reliability": {tier: reliability.curves(table) for tier, table in tables.items()}}


def _table(rows: Sequence[Row], calibrate: Calibration) -> reliability.Floats:
    return reliability.added(_reports(rows, calibrate).reliability)


def _by_class(calibrate: Calibration, population: Population) -> dict[str, float | None]:
    classes = population.data.classes
    reports = calibrate.evaluated
    if classes is None or not len(reports):
        return {}
    covered_by_class, tested_by_class = (
        np.sum(column, axis=0) for column in (reports.class_covered, reports.class_tested)
    )
    counts = zip(classes, covered_by_class.tolist(), tested_by_class.tolist(), strict=True)
    return {name: covered / tested if tested else None for name, covered, tested in counts}


def agreed(population: Population, scenario: Scenario, common: agreement.CommonRows) -> measure.AgreementSummary:
    """How far the clients agree that have answered on the common rows.

    Raises:
        ValueError: the scenario does not ask for it.
    """
    options, data = scenario.agreement, population.data
    if options is None:
        raise ValueError("the scenario has no table [agreement]")
    reports, classes = common.opinions, data.classes
    targets = data.scaled(np.array(data.targets[common_rows(population.tested, population.seed, options.rows)]))
    reply = list(reports.values())
    predictions = np.stack([report.predictions for report in reply])
    calibrated = bool(common.score) and reports.keys() <= common.thresholds.keys()
    sets = intervals = None
    if calibrated and classes is not None:
        bits = np.stack([np.unpackbits(report.sets, count=predictions[0].size) for report in reply])
        sets = bits.reshape(predictions.shape).astype(np.bool_)
    elif calibrated:
        intervals = np.stack([report.intervals for report in reply])
    summary = measure.measure(
        measure.CommonAnswers(
            clients=tuple(reports), tiers=tuple(population.tier(k).name for k in reports),
            order=tuple(tier.name for tier in scenario.clients.tier),
            behaves=tuple(population.behaviour(k) is None for k in reports), predictions=predictions,
            targets=targets[:, None].astype(np.float64) if classes is None else np.eye(len(classes))[targets],
            classes=classes, sets=sets, intervals=intervals,
        ),
        population.seed, options.draws, options.within,
    )  # fmt: skip
    missing = [k for k in range(len(population)) if k not in reports]
    return replace(summary, summary=summary.summary | {"missing": missing})
