"""What `fl-sim certify` shows: which clients of a finished run cover less than was promised, beyond bad luck.

The tests are in `fl_sim/conformal/certificate.py`; here are the counts of a run, the tables and the words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fl_sim.conformal.certificate import LEVEL, MIN_CALIBRATION, Certificate
from fl_sim.report import advice, verdicts, wording
from fl_sim.report.numbers import count, p_value, percent
from fl_sim.report.sweep_points import axis_names, shown, strategy
from fl_sim.report.terminal import bullets, table_of
from fl_sim.report.verdicts import Claim
from fl_sim.results import tables
from fl_sim.results.run import Result
from fl_sim.results.sweep_folder import POINTS

MOST_ROWS = 40
P_ADJUSTED = "p_adjusted_min"
_COUNTS = ["clients", "considered", "rejected", "threshold_rejected", "worst_client"]  # whole, or missing
_TESTS = {*_COUNTS, P_ADJUSTED, "p_threshold_adjusted_min", "worst_coverage", "worst_low", "worst_high"}


def rejected(
    result: Result, *, slack: float = 0.0, level: float = LEVEL, min_calibration: int = MIN_CALIBRATION
) -> int:
    """How many clients of a run cover less than 1 - alpha - slack beyond bad luck (over draws, Holm at `level`)."""
    return Claim(slack, level, min_calibration).certificate(result).num_rejected


# --------------------------------------------------------------------------------------------------------------- data


def clients(result: Result, claim: Claim) -> pd.DataFrame:
    """One row a client, those with the smallest p-value first."""
    tests = claim.certificate(result)
    named = ["name"] * ("name" in result.clients[0])
    names = ("client", *named, "tier", "behaviour", "num_calibration", "num_test", "num_covered")
    columns: dict[str, Any] = {name: [row[name] for row in result.clients] for name in names}
    columns["num_covered"] = pd.array(columns["num_covered"], dtype="Int64")  # whole, or missing
    tested = "coverage low high considered p_value p_adjusted rejected"
    for name in f"{tested} p_threshold p_threshold_adjusted threshold_rejected".split():
        columns[name] = getattr(tests, name)
    return pd.DataFrame(columns).iloc[tests.order()].reset_index(drop=True)


def points(folder: Path, claim: Claim) -> pd.DataFrame:
    """One row a point of a comparison or a sweep: its axes, how many clients were considered and rejected, the
    smallest adjusted p-values, and the lowest of the intervals."""
    loaded = tables.load(folder)
    tests: dict[str, dict[str, Any]] = {}  # points may share a run
    rows = []
    for row in loaded.points.to_dict("records"):
        run = str(row["run"])
        if row["status"] == "ok" and run not in tests:
            tests[run] = _point(Result.load(folder / POINTS / run), claim)
        rows.append({name: row[name] for name in ("point", "run", "status", *loaded.axes)} | tests.get(run, {}))
    table = pd.DataFrame(rows)
    return table.astype({name: "Int64" for name in _COUNTS if name in table})


def _point(result: Result, claim: Claim) -> dict[str, Any]:
    if not wording.is_calibrated(result):
        return {}
    tests = claim.certificate(result)
    row: dict[str, Any] = {"clients": len(result.clients), "considered": tests.num_considered}
    row |= {"rejected": tests.num_rejected, "threshold_rejected": int(tests.threshold_rejected.sum())}
    if not tests.num_considered:
        return row
    worst = int(np.argmin(np.where(tests.considered, tests.high, np.inf)))
    return row | {
        P_ADJUSTED: tests.p_smallest,
        "p_threshold_adjusted_min": float(np.nanmin(tests.p_threshold_adjusted)),
        "worst_client": int(result.clients[worst]["client"]),
        **({"worst_name": wording.name_of(result.clients[worst])} if "name" in result.clients[worst] else {}),
        "worst_coverage": float(tests.coverage[worst]),
        "worst_low": float(tests.low[worst]),
        "worst_high": float(tests.high[worst]),
    }


# -------------------------------------------------------------------------------------------------------------- words


def _notes(result: Result, claim: Claim, tests: Certificate) -> Iterator[str]:
    least = claim.least(result.scenario.calibrate.alpha)
    if tests.num_considered > MOST_ROWS:
        yield f"{tests.num_considered - MOST_ROWS:,} more were judged: --format csv."
    left_out = len(result.clients) - tests.num_considered
    if left_out:
        yield f"{count(left_out, 'client')} too small, untested or missing: not judged."
    yield (
        f'"over draws": the claim that the client, calibrated anew with as many points, covers {least} on average. '
        "This allows for the luck of its calibration draw, and is what conformal prediction promises. "
        f"The {100 * claim.level:g}% hold where a threshold spreads over draws no more than one from the client's own "
        "points does. One that rests on others' points may spread more, for instance where many scores are equal."
    )
    if tests.num_rejected:
        yield advice.found_by_chance(result, claim)
    short = int(tests.threshold_rejected.sum())
    yield (
        f'"this threshold": the claim that the very threshold it has covers {least}. '
        f"{short:,} {'is' if short == 1 else 'are'} rejected. A valid calibration may fail it: no promise is refuted."
    )
    yield "The interval is the exact 95% one of this threshold's coverage, each client's by itself."
    if result.scenario.clients.test == "shared":
        yield (
            "Clients are tested on shared points, not on data like their own: the claim is about the shared data. "
            "Their p-values depend on each other; Holm's correction holds whatever the dependence."
        )
    else:
        yield "p-values are Holm's over the clients judged, which holds whatever their dependence."


def _interval(low: float, high: float) -> str:
    return f"{100 * low:.1f}-{100 * high:.1f}%"


# ------------------------------------------------------------------------------------------------------------- tables


def of_run(result: Result, claim: Claim) -> RenderableType:
    """Headline, a row a client judged (those rejected first) and notes."""
    tests = claim.certificate(result)
    world, headline = Text(wording.world(result), style="bold"), Text(advice.headline(result, claim))
    if not tests.num_considered:
        return Group(world, "", headline)
    return Group(
        world, "", headline, "", _clients_table(result, tests), "", bullets(list(_notes(result, claim, tests)))
    )


def _clients_table(result: Result, tests: Certificate) -> Table:
    who = ["client", "tier", *["behaviour"] * bool(wording.misbehaving(result))]
    numbers = ["calib.", "test", "coverage", "95%\ninterval", "p over\ndraws", "p this\nthreshold"]
    table = table_of(["", *who], numbers)
    order = [k for k in tests.order().tolist() if tests.considered[k]]
    for k in order[:MOST_ROWS]:
        row, bad = result.clients[k], bool(tests.rejected[k])
        points = (f"{row['num_calibration']:,}", f"{row['num_test']:,}")
        how = (percent(float(tests.coverage[k])), _interval(tests.low[k], tests.high[k]))
        p_values = (p_value(tests.p_adjusted[k]), p_value(tests.p_threshold_adjusted[k]))
        named = [wording.name_of(row), *(str(row[name]) for name in who[1:])]
        table.add_row("!" * bad, *named, *points, *how, *p_values, style="bold red" if bad else "")
    return table


def of_points(table: pd.DataFrame, title: str, claim: Claim) -> RenderableType:
    """A row a combination of the axes, its seeds together, from `points`; and the verdict on each strategy, the one
    that the report's page gives."""
    p_values = verdicts.each_client(table, P_ADJUSTED)
    parts = []
    for broken, words in ((True, "The promise to single clients is broken by"), (False, "It is not shown broken by")):
        known = {name or "it": p for name, p in p_values.items() if not np.isnan(p)}
        named = [f"{name} (p {p_value(p)})" for name, p in known.items() if verdicts.breaks(p, claim.level) == broken]
        parts += [f"{words}: {', '.join(named)}."] * bool(named)
    slack = f" - {claim.slack:g}" if claim.slack else ""
    parts += [
        f"Clients with at least {count(claim.min_calibration, 'calibration point')} are judged; those rejected cover "
        f"less than 1 - alpha{slack} beyond the luck of their calibration draw, Holm at {100 * claim.level:g}% within "
        "each point. Counts are over all seeds, p and worst the lowest. ! marks them where the strategy's verdict, "
        "over all its points, is that it breaks the promise.",
        '"worst": the exact 95% interval of the client whose interval ends lowest.',
    ]
    return Group(Text(title, style="bold"), "", _points_table(table, p_values, claim), "", bullets(parts))


def _points_table(points: pd.DataFrame, p_values: Mapping[str, float], claim: Claim) -> Table:
    axes = [c for c in points.columns[3:] if c not in (*_TESTS, "seed")]
    table = table_of([axis_names(axes)[axis] for axis in axes], ["judged", "rejected", "smallest\np", "worst"])
    for key, rows in points.groupby([points[axis].map(shown) for axis in axes] or (lambda _: ""), sort=False):
        table.add_row(*(map(str, key) if axes else ()), *_point_cells(rows, p_values, claim))
    return table


def _point_cells(rows: pd.DataFrame, p_values: Mapping[str, float], claim: Claim) -> list[Text]:
    done = rows[rows["status"] == "ok"]
    judged = done.dropna(subset=["considered"]) if "considered" in done else done.head(0)
    if judged.empty:
        return [Text("no promise" if len(done) else str(rows["status"].iloc[0]))]
    of, bad = int(judged["considered"].sum()), int(judged["rejected"].sum())
    first = {str(column): value for column, value in judged.iloc[0].items()}
    marked = bool(bad) and verdicts.breaks(p_values[strategy(first)], claim.level)
    known = judged.dropna(subset=[P_ADJUSTED]) if P_ADJUSTED in judged else judged.head(0)
    worst = smallest = "-"
    if len(known):
        lowest = known.sort_values(["worst_high", "worst_low"]).iloc[0]
        worst, smallest = _interval(lowest["worst_low"], lowest["worst_high"]), p_value(float(known[P_ADJUSTED].min()))
    cells = [f"{of:,}", f"{'! ' * marked}{bad:,}", smallest, worst]
    return [Text(text, style="bold red" * marked) for text in cells]
