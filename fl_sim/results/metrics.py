"""From counts to what is shown: the clients' rows and the metrics of `result.json`. Rates are taken here, once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
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
ColumnsOfRows = dict[str, list[Any]]  # name -> of each client


def client_rows(
    population: Population, checked_grid: CheckedGrid, learn: Learning, calibrate: Calibration
) -> list[Row]:
    """One row a client."""
    everyone = range(len(population))
    columns = (
        _who(population, calibrate)
        | _how_well(population, calibrate)
        | {
            "weight": [learn.client_weights.get(k) for k in everyone],
            "bytes_up": [learn.bytes_up.get(k, 0) + calibrate.bytes_up.get(k, 0) for k in everyone],
            "bytes_down": [learn.bytes_down.get(k, 0) + calibrate.bytes_down.get(k, 0) for k in everyone],
            "message_bytes_up": checked_grid.message_bytes_up.tolist(),
            "message_bytes_down": checked_grid.message_bytes_down.tolist(),
            "retries": [checked_grid.retried.get(k, 0) for k in everyone],
            "status": [checked_grid.missing.get(k, "ok") for k in everyone],
            "seconds": [round(seconds, 6) for seconds in checked_grid.client_seconds.tolist()],
        }
    )
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _who(population: Population, calibrate: Calibration) -> ColumnsOfRows:
    kinds = [*(behaviour.kind for behaviour in population.clients.behaviour), ""]  # -1 is the last
    return {
        "client": list(range(len(population))),
        **({"name": list(population.data.client_names)} if population.is_natural else {}),
        "tier": [population.clients.tier[i].name for i in population.tiers.tolist()],
        "behaviour": [kinds[i] for i in population.behaviours.tolist()],
        "num_calibration": [_points(calibrate, n)[1] for n in population.sizes("calibration").tolist()],
        "num_test": population.sizes("test").tolist(),
        "label_counts": population.label_counts.tolist(),
    }


def _points(calibrate: Calibration, n: int) -> tuple[int, int]:
    """How many of a client's n calibration rows are for its calibrator, and how many for thresholds."""
    plan = plan_of(calibrate.score) if calibrate.score else None
    return (0, n) if plan is None else plan.counts(n)


def _fitted(rows: Sequence[Row], population: Population, calibrate: Calibration) -> Metrics:
    """What the calibrators rest on; nothing where there are none. A client without rows keeps its probabilities."""
    if not calibrate.score or plan_of(calibrate.score) is None:
        return {}
    sizes = population.sizes("calibration").tolist()
    fitted = [_points(calibrate, sizes[r["client"]])[0] for r in rows]
    return {"calibrator_rows": sum(fitted), "clients_without_calibrator": fitted.count(0)}


def _how_well(population: Population, calibrate: Calibration) -> ColumnsOfRows:
    """Counts and rates of the clients' tests; None of a client that was not tested, or has no test points."""
    reports, nobody = calibrate.evaluated, [None] * len(population)
    classes, clients = population.data.classes is not None, reports.partition.tolist()
    n = reports.num_test.tolist()

    def placed(values: Iterable[Any]) -> list[Any]:
        column: list[Any] = [*nobody]
        for k, value in zip(clients, values, strict=True):
            column[k] = value
        return column

    def rates(counts: Iterable[Any]) -> list[Any]:
        return placed(count / m if m else None for count, m in zip(counts, n, strict=True))

    size = "mean_set_size" if classes else "mean_interval_length"
    names = ("threshold", "num_covered", "coverage", size, "num_empty", "num_correct", "accuracy", *reliability.NAMES)
    columns: ColumnsOfRows = dict.fromkeys(names, nobody)
    if calibrate.score:
        thresholds = (calibrate.thresholds[k] for k in clients)
        of_each = (
            None if isinstance(t, np.ndarray) and t.ndim else float(t) for t in thresholds
        )  # class: no one number
        columns |= {"threshold": placed(of_each), "num_covered": placed(reports.num_covered.tolist())}
        columns |= {"coverage": rates(reports.num_covered.tolist()), size: rates(reports.total_size.tolist())}
        columns |= {"num_empty": placed(reports.num_empty.tolist())}
    if classes:
        correct, judged = reports.num_correct.tolist(), reliability.judged_each(reports.reliability)
        columns |= {"num_correct": placed(correct), "accuracy": rates(correct)}
        columns |= {name: placed(values) for name, values in judged.items()}
    else:
        means = rates(reports.total_squared_error.tolist())
        columns["rmse"] = [None if mean is None else math.sqrt(mean) for mean in means]
    return columns


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
    reports, classes = common.reports, data.classes
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
