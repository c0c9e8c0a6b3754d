"""What a result says, in numbers and words that the table and the figures share.

All of it is plain ASCII, so that it can be printed anywhere.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Sequence
from typing import Any

from fl_sim.conformal.coverage import exchangeable_band
from fl_sim.conformal.thresholds import SmallN, local_rank
from fl_sim.results.run import Result, Row, by_tier
from fl_sim.scenario.scenario import Scenario
from fl_sim.scenario.tables import Partition

LEVEL = 0.95  # of the band that an exchangeable client's coverage fills

_METHODS = {
    "fedwq-cp": "FedWQ-CP",
    "unweighted": "The unweighted mean",
    "local": "Local calibration",
    "pooled": "Pooled calibration",
}

# ------------------------------------------------------------------------------------------------------------ numbers


def percent(share: float | None) -> str:
    """`93.4%`, or a dash where there is nothing to tell."""
    return "-" if share is None else f"{100 * share:.1f}%"


def promised(scenario: Scenario) -> str:
    """1 - alpha: `90%`."""
    return f"{100 * (1 - scenario.calibrate.alpha):.4g}%"


def number(value: float | None) -> str:
    """Three significant digits without an exponent where that is readable."""
    if value is None:
        return "-"
    if math.isinf(value):
        return "infinite"
    if value and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.2e}"
    decimals = 2 - math.floor(math.log10(abs(value))) if value else 2
    return f"{value:,.{max(0, decimals)}f}"


def signed(value: float | None) -> str:
    """A difference, with its sign: `+0.0123`, `-0.0045`, `0`."""
    return "-" if value is None else f"{value:+.4f}" if value else "0"


def p_value(p: float) -> str:
    """`0.012`, `3e-05`, `-` where there is none."""
    return "-" if math.isnan(p) else f"{p:.3f}" if p >= 0.001 else f"{p:.0e}"


def count(many: int, one: str, plural: str = "") -> str:
    """`1 client`, `1,000 clients`."""
    return f"{many:,} {one if many == 1 else plural or one + 's'}"


def size_of(bytes_: float) -> str:
    """`16 bytes`, `1.23 MB`."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e4, "kB")):
        if bytes_ >= unit:
            return f"{number(bytes_ / (1e3 if name == 'kB' else unit))} {name}"
    return f"{bytes_:,.0f} bytes" if bytes_ >= 10 or bytes_ == int(bytes_) else f"{bytes_:.1f} bytes"


# ----------------------------------------------------------------------------------------------------------- scenario


def took(result: Result) -> str:
    """Wall time, and the phases of it that can be seen: `12.3 s: start 4.1, train 5.0, infer 3.2`."""
    seconds = dict(result.summary["seconds"])
    total = f"{seconds.pop('total'):.1f} s"
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
    scenario = result.scenario
    where = "the shared test set" if scenario.clients.test == "shared" else "their own data"
    calibrate = scenario.calibrate
    score = f", alpha {calibrate.alpha:g}, score {calibrate.score.name}" if is_calibrated(result) else ""
    if getattr(calibrate, "calibrator", "none") != "none":
        rows = f"{calibrate.calibrator_share:g} of" if calibrate.calibrator_share else "all"
        score += f" after {calibrate.calibrator} on {rows} the calibration rows"
    return (
        f"{count(scenario.clients.count, 'client')} on {scenario.data.name}, {_partition(result)}, tested on {where}; "
        f"learn {scenario.learn.name}, calibrate {scenario.calibrate.name}{score}, seed {scenario.seed}"
    )


def _partition(result: Result) -> str:
    clients, unit = result.scenario.clients, "target decile" if is_regression(result) else "label"

    def dealt(told: Partition) -> str:
        return {
            "iid": "split at random (iid)",
            "dirichlet": f"Dirichlet({told.concentration or 0:g}) by {unit}",
            "pathological": f"{count(told.classes_per_client or 0, unit)} a client",
            "quantity-skew": f"sizes from Dirichlet({told.concentration or 0:g})",
        }[told.kind]

    if not clients.splits_by_tier:
        return dealt(clients.partition_of())
    return ", ".join(f"{tier.name} {dealt(clients.partition_of(tier))}" for tier in clients.tier if tier.share != 0)


def finding(result: Result) -> str:
    """Coverage in one sentence: overall, at the worst client, and what was promised."""
    found = result.calibrate
    name = _METHODS.get(result.scenario.calibrate.name, result.scenario.calibrate.name)
    if found["coverage"] is None:
        return f"{name}: no client could be tested; {promised(result.scenario)} promised"
    many = found["clients_with_test"]
    worst = "" if many == 1 else f", {percent(found['coverage_client_min'])} at the worst of {count(many, 'client')}"
    return f"{name} covers {percent(found['coverage'])} overall{worst}; {promised(result.scenario)} promised"


# ------------------------------------------------------------------------------------------------------------ clients


def tested(result: Result) -> list[Row]:
    """The clients that have a coverage."""
    return [row for row in result.clients if row["coverage"] is not None]


def worst_client(result: Result) -> Row | None:
    """The client of the smallest coverage; of several, the one with the most test points, which tells most."""
    return min(tested(result), key=lambda row: (row["coverage"], -row["num_test"], row["client"]), default=None)


def band(scenario: Scenario, row: Row, clients: int = 1) -> tuple[float, float] | None:
    """Where the coverage of an exchangeable client of that size falls, 95 times in 100, by its own threshold.

    With `clients` above 1, where those of that many clients all fall at once. None where no such band is true: clients
    tested on data that is not their own, clients whose own threshold would be infinite, and calibrators fitted on the
    very rows that set the threshold.
    """
    if scenario.clients.test != "local" or scenario.calibrate.alpha is None or shares_rows(scenario):
        return None
    alpha: float = scenario.calibrate.alpha
    small_n: SmallN = getattr(scenario.calibrate, "small_n", "clip")
    if local_rank(row["num_calibration"], alpha, small_n) is None:
        return None
    level = 1 - (1 - LEVEL) / clients
    return exchangeable_band(row["num_calibration"], row["num_test"], alpha, level, small_n=small_n)


def below_band(result: Result) -> tuple[int, int, int]:
    """How many clients fall below their own band, how many below what the unluckiest of all reaches, of how many."""
    rows = [row for row in tested(result) if band(result.scenario, row) is not None]
    return _below(result, rows, 1), _below(result, rows, len(rows)), len(rows)


def _below(result: Result, rows: Sequence[Row], clients: int) -> int:
    bands = [band(result.scenario, row, clients) for row in rows]
    return sum(row["coverage"] < low[0] for row, low in zip(rows, bands, strict=True) if low is not None)


def luck(result: Result, row: Row) -> str:
    """Whether an exchangeable client of that size could cover so little by bad luck."""
    alone = band(result.scenario, row)
    if shares_rows(result.scenario):
        return "its calibrator was fitted on the rows that set its threshold, so it is held against nothing"
    if alone is None:
        return "it has no finite threshold of its own to be held against"
    could = "bad luck alone could explain this client"
    if alone[0] == 0:
        return f"an exchangeable client of its size may cover nothing: {could}"
    reach = f"an exchangeable client of its size reaches {percent(alone[0])} or more in 39 of 40 draws"
    if row["coverage"] >= alone[0]:
        return f"{reach}: {could}"
    together = band(result.scenario, row, clients=below_band(result)[2])
    assert together is not None
    if row["coverage"] >= together[0]:
        return f"{reach}, but the unluckiest of them all may have {percent(together[0])}: {could}"
    return f"{reach}, the unluckiest of them all {percent(together[0])}: this is more than bad luck"


def keeps(result: Result, row: Row) -> bool:
    """Whether the client has no less than what was promised."""
    least: float = 1 - result.scenario.calibrate.alpha - 1e-9  # 0.9 covers 1 - 0.1, whatever their last bits
    return bool(row["coverage"] >= least)


def below_band_said(result: Result) -> str:
    """How many clients cover less than their own band, and how many would by chance; nothing where no band is true."""
    low, beyond, banded = below_band(result)
    if not banded:
        return ""
    more = f" {beyond:,} cover{'s' * (beyond == 1)} less than even the unluckiest would." if beyond else ""
    share = f"{low:,} of {count(banded, 'client')} ({percent(low / banded)}) cover{'s' * (low == 1)}"
    return f"{share} less than their own 95% band; of exchangeable clients at most 2.5% would.{more}".replace(
        "covers less than their", "covers less than its"
    )


def who(row: Row) -> str:
    """`client 17 (weak, 12 calibration and 8 test points)`, with its behaviour if it misbehaves."""
    points = f"{row['num_calibration']:,} calibration and {count(row['num_test'], 'test point')}"
    behaviour = f"{row['behaviour']}, " if row.get("behaviour") else ""
    return f"client {row['client']} ({row['tier']}, {behaviour}{points})"


def misbehaving(result: Result) -> dict[str, int]:
    """How many clients misbehave in each way, in the order of the clients; empty where all behave."""
    return dict(collections.Counter(row["behaviour"] for row in result.clients if row.get("behaviour")))


def missing(result: Result) -> Sequence[dict[str, Any]]:
    """The clients that failed, with their reasons."""
    found: Sequence[dict[str, Any]] = result.summary["clients"]["missing"]
    return found


def absent(result: Result) -> list[str]:
    """A sentence for each kind of client that has no mark in a figure."""
    untested = sum(row["status"] == "ok" and row["num_test"] == 0 for row in result.clients)
    lost = len(missing(result))
    said = [f"{count(untested, 'client')} without test points: not shown."] * bool(untested)
    return said + [f"{count(lost, 'client')} failed and {'is' if lost == 1 else 'are'} missing here."] * bool(lost)


def answered(result: Result) -> list[Row]:
    """The clients that did not fail."""
    return [row for row in result.clients if row["status"] == "ok"]
