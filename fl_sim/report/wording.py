"""What a run's result says, in words that the table, the figures and the page share: all of it plain ASCII."""

from __future__ import annotations

import collections
import math
from collections.abc import Sequence
from typing import Any

from fl_sim.conformal.coverage import exchangeable_band
from fl_sim.conformal.thresholds import SmallN, local_rank
from fl_sim.report.numbers import count, number, percent, promise
from fl_sim.results.run import Result, Row, by_tier
from fl_sim.results.tables import fixed
from fl_sim.scenario.scenario import Scenario

# ----------------------------------------------------------------------------------------------------------- scenario


RUNTIMES = {"inline": " in this process", "ray": " on Ray", "flower": " on Flower's runtime"}


def took(result: Result) -> str:
    """Wall time, where clients ran, and the phases that can be seen: `12.3 s on Ray: start 4.1, train 5.0`."""
    seconds, where = dict(result.summary["seconds"]), result.summary.get("machine", {}).get("runtime", "")
    total = f"{seconds.pop('total'):.1f} s{RUNTIMES.get(where, '')}"
    phases = ", ".join(f"{phase} {spent:.1f}" for phase, spent in seconds.items() if spent >= 0.05)
    return f"{total}: {phases}" if phases else total


def is_calibrated(result: Result) -> bool:
    """Whether there is a promise to be judged."""
    return result.scenario.calibrate.alpha is not None


def has_calibrator(result: Result) -> bool:
    """Whether probabilities went through a calibrator before they were scored."""
    return "reliability" in result.calibrate


def shares_rows(scenario: Scenario) -> bool:
    """Whether a calibrator is fitted on the very rows that set the threshold, by which the promise is lost."""
    return getattr(scenario.calibrate, "calibrator_share", None) == 0 and scenario.calibrate.calibrator != "identity"


def is_regression(result: Result) -> bool:
    """Whether targets are numbers, not labels."""
    return "rmse" in result.learn


def size_name(result: Result) -> str:
    """The column and metric of how large the predictions are."""
    return "mean_interval_length" if is_regression(result) else "mean_set_size"


def mean_size(result: Result, metrics: dict[str, Any]) -> float | None:
    """Mean set size or interval length, infinite where the flag beside it says so."""
    name = size_name(result)
    return math.inf if metrics.get(f"{name}_is_infinite") else metrics.get(name)


def tiers(result: Result) -> dict[str, list[Row]]:
    """The clients of each tier, in the order of the scenario; a tier may be empty."""
    groups = by_tier(result.clients)
    return {tier.name: groups.get(tier.name, []) for tier in result.scenario.clients.tier}


def world(result: Result) -> str:
    """The scenario in a sentence."""
    return f"{fixed(result.scenario, [])}, seed {result.scenario.seed}"


def finding(result: Result) -> str:
    """What came of it, in one sentence: coverage overall, at the worst client, and what was promised; or how good the
    models are where nothing is calibrated."""
    if not is_calibrated(result):
        return how_good(result)
    calibrate, name = result.calibrate, result.scenario.calibrate.name
    what = f"{promise(result.scenario.calibrate.alpha)} promised"
    if calibrate["coverage"] is None:
        return f"{name}: no client could be tested; {what}"
    many = calibrate["clients_with_test"]
    least = percent(calibrate["coverage_client_min"])
    worst = "" if many == 1 else f", {least} at the worst of {count(many, 'client')}"
    return f"{name} covers {percent(calibrate['coverage'])} overall{worst}; {what}"


def how_good(result: Result) -> str:
    """How good the models are, in a sentence without its full stop."""
    column, show = ("rmse", number) if is_regression(result) else ("accuracy", percent)
    many = count(sum(row[column] is not None for row in result.clients), "client")
    if is_regression(result):
        overall, worst = show(result.learn["rmse"]), show(result.learn["rmse_client_max"])
        return f"The models err by {overall} (RMSE) overall, {worst} at the worst of {many}"
    overall, worst = show(result.learn["accuracy"]), show(result.learn["accuracy_client_min"])
    return f"The models are {overall} accurate overall, {worst} at the worst of {many}"


# ------------------------------------------------------------------------------------------------------------ clients


def tested(result: Result) -> list[Row]:
    """The clients that have a coverage."""
    return [row for row in result.clients if row["coverage"] is not None]


def worst_client(result: Result) -> Row | None:
    """The client of the smallest coverage; of several, the one with the most test points, which tells most."""
    return min(tested(result), key=lambda row: (row["coverage"], -row["num_test"], row["client"]), default=None)


def band(scenario: Scenario, row: Row) -> tuple[float, float] | None:
    """Where the coverage of an exchangeable client of that size falls, 95 times in 100, by its own threshold.

    None where no such band is true: clients tested on data that is not their own, clients whose own threshold would be
    infinite, and calibrators fitted on the very rows that set the threshold.
    """
    alpha: float | None = scenario.calibrate.alpha
    if scenario.clients.test != "local" or alpha is None or shares_rows(scenario):
        return None
    small_n: SmallN = getattr(scenario.calibrate, "small_n", "clip")
    if local_rank(row["num_calibration"], alpha, small_n) is None:
        return None
    return exchangeable_band(row["num_calibration"], row["num_test"], alpha, small_n=small_n)


def below_band(result: Result) -> tuple[int, int]:
    """How many clients fall below their own band, and how many have one."""
    bands = [(row["coverage"], band(result.scenario, row)) for row in tested(result)]
    known = [coverage < ends[0] for coverage, ends in bands if ends is not None]
    return sum(known), len(known)


def below_band_said(result: Result) -> str:
    """How many clients cover less than their own band, and how many would by chance; nothing where no band is true."""
    below, banded = below_band(result)
    if not banded:
        return ""
    verb, whose = ("covers", "its") if below == 1 else ("cover", "their")
    share = f"{below:,} of {count(banded, 'client')} ({percent(below / banded)}) {verb} less than {whose} own 95% band"
    return f"{share}; of exchangeable clients at most 2.5% would."


def name_of(row: Row) -> str:
    """A client's own name, where it has one, or its number."""
    return str(row.get("name") or row["client"])


def who(row: Row) -> str:
    """`client 17 (weak, 12 calibration and 8 test points)`, with its behaviour if it misbehaves."""
    points = f"{row['num_calibration']:,} calibration and {count(row['num_test'], 'test point')}"
    behaviour = f"{row['behaviour']}, " if row.get("behaviour") else ""
    return f"client {name_of(row)} ({row['tier']}, {behaviour}{points})"


def misbehaving(result: Result) -> dict[str, int]:
    """How many clients misbehave in each way, in the order of the clients; empty where all behave."""
    return dict(collections.Counter(row["behaviour"] for row in result.clients if row.get("behaviour")))


def missing(result: Result) -> Sequence[dict[str, Any]]:
    """The clients that failed, with their reasons."""
    lost: Sequence[dict[str, Any]] = result.summary["clients"]["missing"]
    return lost


def absent(result: Result) -> list[str]:
    """A sentence for each kind of client that has no mark in a figure."""
    untested = sum(row["status"] == "ok" and row["num_test"] == 0 for row in result.clients)
    lost = len(missing(result))
    parts = [f"{count(untested, 'client')} without test points: not shown."] * bool(untested)
    return parts + [f"{count(lost, 'client')} failed and {'is' if lost == 1 else 'are'} missing here."] * bool(lost)
