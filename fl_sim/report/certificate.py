"""What `fl-sim certify` shows: which clients of a finished run cover less than was promised, beyond bad luck.

The tests are in `fl_sim/conformal/certificate.py`; here are the counts of a run, the tables and the words.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from fl_sim.conformal.certificate import LEVEL, MIN_CALIBRATION, Certificate, over_points
from fl_sim.report import wording
from fl_sim.report.sweep_points import axis_names, shown, strategy
from fl_sim.report.table import bullets
from fl_sim.report.verdicts import Claim, found_by_chance, headline
from fl_sim.report.wording import count, p_value, percent
from fl_sim.results import tables
from fl_sim.results.run import Result
from fl_sim.results.sweep_folder import POINTS

MOST_ROWS = 40


def verdicts(points: pd.DataFrame) -> dict[str, float]:
    """Strategy -> p-value of "every client keeps the promise at every point", from a table of `points`; nan where no
    client was judged. It is what the report of the same folder goes by."""
    smallest: dict[str, list[float]] = {}
    for row in points.to_dict("records"):
        if row["status"] == "ok":
            smallest.setdefault(strategy(_named(row)), []).append(float(row.get("p_adjusted_min", np.nan)))
    return {name: over_points(found) for name, found in smallest.items()}


def _named(row: Mapping[Hashable, Any]) -> dict[str, Any]:
    return {str(column): value for column, value in row.items()}


def rejected(
    result: Result, *, slack: float = 0.0, level: float = LEVEL, min_calibration: int = MIN_CALIBRATION
) -> int:
    """How many clients of a run cover less than 1 - alpha - slack beyond bad luck (over draws, Holm at `level`)."""
    return Claim(slack, level, min_calibration).certificate(result).num_rejected


# --------------------------------------------------------------------------------------------------------------- data


def clients(result: Result, claim: Claim) -> pd.DataFrame:
    """One row a client, those with the smallest p-value first."""
    found = claim.certificate(result)
    columns: dict[str, Any] = {
        name: [row[name] for row in result.clients]
        for name in ("client", "tier", "behaviour", "num_calibration", "num_test", "num_covered")
    }
    columns["num_covered"] = pd.array(columns["num_covered"], dtype="Int64")  # whole, or missing
    columns |= {
        "coverage": found.coverage, "low": found.low, "high": found.high, "considered": found.considered,
        "p_value": found.p_value, "p_adjusted": found.p_adjusted, "rejected": found.rejected,
        "p_threshold": found.p_threshold, "p_threshold_adjusted": found.p_threshold_adjusted,
        "threshold_rejected": found.threshold_rejected,
    }  # fmt: skip
    return pd.DataFrame(columns).iloc[found.order()].reset_index(drop=True)


def points(folder: Path, claim: Claim) -> pd.DataFrame:
    """One row a point of a comparison or a sweep: its axes, how many clients were considered and rejected, the
    smallest adjusted p-values, and the lowest of the intervals."""
    loaded = tables.load(folder)
    found: dict[str, dict[str, Any]] = {}  # points may share a run
    rows = []
    for row in loaded.points.to_dict("records"):
        run = str(row["run"])
        if row["status"] == "ok" and run not in found:
            found[run] = _point(Result.load(folder / POINTS / run), claim)
        rows.append({name: row[name] for name in ("point", "run", "status", *loaded.axes)} | found.get(run, {}))
    table = pd.DataFrame(rows)
    whole = ["clients", "considered", "rejected", "threshold_rejected", "worst_client"]
    return table.astype({name: "Int64" for name in whole if name in table})  # whole, or missing


def _point(result: Result, claim: Claim) -> dict[str, Any]:
    if not wording.is_calibrated(result):
        return {}
    found = claim.certificate(result)
    told: dict[str, Any] = {"clients": len(result.clients), "considered": found.num_considered}
    told |= {"rejected": found.num_rejected, "threshold_rejected": int(found.threshold_rejected.sum())}
    if not found.num_considered:
        return told
    worst = int(np.argmin(np.where(found.considered, found.high, np.inf)))
    return told | {
        "p_adjusted_min": found.p_smallest,
        "p_threshold_adjusted_min": float(np.nanmin(found.p_threshold_adjusted)),
        "worst_client": int(result.clients[worst]["client"]),
        "worst_coverage": float(found.coverage[worst]),
        "worst_low": float(found.low[worst]),
        "worst_high": float(found.high[worst]),
    }


# -------------------------------------------------------------------------------------------------------------- words


def _notes(result: Result, claim: Claim, found: Certificate) -> Iterator[str]:
    least = claim.least(result.scenario.calibrate.alpha)
    if found.num_considered > MOST_ROWS:
        yield f"{found.num_considered - MOST_ROWS:,} more were judged: --format csv."
    left_out = len(result.clients) - found.num_considered
    if left_out:
        yield f"{count(left_out, 'client')} too small, untested or missing: not judged."
    yield (
        f'"over draws": the claim that the client, calibrated anew with as many points, covers {least} on average. '
        "This allows for the luck of its calibration draw, and is what conformal prediction promises. "
        f"The {100 * claim.level:g}% hold where a threshold spreads over draws no more than one from the client's own "
        "points does. One that rests on others' points may spread more, for instance where many scores are equal."
    )
    if found.num_rejected:
        yield found_by_chance(result, claim)
    short = int(found.threshold_rejected.sum())
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
    return _Run(result, claim)


@dataclass(frozen=True)
class _Run:
    result: Result
    claim: Claim

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        found = self.claim.certificate(self.result)
        yield Text(wording.world(self.result), style="bold")
        yield ""
        yield Text(headline(self.result, self.claim))
        if not found.num_considered:
            return
        yield ""
        yield self._table(found)
        yield ""
        yield bullets(list(_notes(self.result, self.claim, found)))

    def _table(self, found: Certificate) -> Table:
        who = ["client", "tier", *["behaviour"] * bool(wording.misbehaving(self.result))]
        numbers = ["calib.", "test", "coverage", "95%\ninterval", "p over\ndraws", "p this\nthreshold"]
        table = _table(["", *who, *numbers], ("", *who))
        order = [k for k in found.order().tolist() if found.considered[k]]
        for k in order[:MOST_ROWS]:
            row, bad = self.result.clients[k], bool(found.rejected[k])
            points = (f"{row['num_calibration']:,}", f"{row['num_test']:,}")
            how = (percent(float(found.coverage[k])), _interval(found.low[k], found.high[k]))
            p_values = (p_value(found.p_adjusted[k]), p_value(found.p_threshold_adjusted[k]))
            named = [str(row[name]) for name in who]
            table.add_row("!" * bad, *named, *points, *how, *p_values, style="bold red" if bad else "")
        return table


def of_points(table: pd.DataFrame, title: str, claim: Claim) -> RenderableType:
    """A row a combination of the axes, its seeds together, from `points`."""
    return _Points(table, title, claim)


@dataclass(frozen=True)
class _Points:
    found: pd.DataFrame
    title: str
    claim: Claim

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(self.title, style="bold")
        yield ""
        yield self._table()
        yield ""
        slack = f" - {self.claim.slack:g}" if self.claim.slack else ""
        yield bullets([
            *self._verdicts(),
            f"Clients with at least {count(self.claim.min_calibration, 'calibration point')} are judged; those "
            f"rejected cover less than 1 - alpha{slack} beyond the luck of their calibration draw, Holm at "
            f"{100 * self.claim.level:g}% within each point. Counts are over all seeds, p and worst the lowest. ! "
            "marks them where the strategy's verdict, over all its points, is that it breaks the promise.",
            '"worst": the exact 95% interval of the client whose interval ends lowest.',
        ])  # fmt: skip

    def _verdicts(self) -> Iterator[str]:
        """The verdict on each strategy, the one that the report's page gives."""
        told = verdicts(self.found)
        broken = {name: p for name, p in told.items() if p <= self.claim.level}
        named = ", ".join(f"{name or 'it'} (p {p_value(p)})" for name, p in broken.items())
        verb = "breaks" if len(broken) == 1 else "break"
        if broken:
            yield f"{named} {verb} the promise to single clients (over all points, at {100 * self.claim.level:g}%)."
        others = {name: p for name, p in told.items() if name not in broken and not np.isnan(p)}
        if others:
            told_of = ", ".join(f"{name or 'it'} (p {p_value(p)})" for name, p in others.items())
            yield f"Not shown to be broken: {told_of}. What a test of such clients finds, certify says of a single run."

    def _over_seeds(self, axes: list[str]) -> Iterator[tuple[list[str], pd.DataFrame]]:
        """(what is shown of the axes, its points) for each combination of the axes' values."""
        if not axes:
            yield [], self.found
            return
        for key, rows in self.found.groupby([self.found[axis].map(shown) for axis in axes], sort=False):
            yield [*map(str, key)], rows

    def _table(self) -> Table:
        axes = [c for c in self.found.columns[3:] if c not in (*_FOUND, "seed")]
        told = verdicts(self.found)
        names = [axis_names(axes)[axis] for axis in axes]
        table = _table([*names, "judged", "rejected", "smallest\np", "worst"], tuple(names))
        for key, rows in self._over_seeds(axes):
            done = [row for row in rows.to_dict("records") if row["status"] == "ok"]
            judged = [row for row in done if not pd.isna(row.get("considered", np.nan))]
            if not judged:
                table.add_row(*key, "no promise" if done else str(rows["status"].iloc[0]))
                continue
            of, bad = (sum(int(row[name]) for row in judged) for name in ("considered", "rejected"))
            least = min((row["p_adjusted_min"] for row in judged if "p_adjusted_min" in row), default=np.nan)
            ends = [
                (row["worst_high"], row["worst_low"]) for row in judged if not pd.isna(row.get("worst_high", np.nan))
            ]
            worst = _interval(*min(ends)[::-1]) if ends else "-"
            marked = bool(bad) and told[strategy(_named(done[0]))] <= self.claim.level
            table.add_row(*key, f"{of:,}", f"{'! ' * marked}{bad:,}", p_value(least), worst, style="bold red" * marked)
        return table


_FOUND = {
    "clients", "considered", "rejected", "threshold_rejected", "p_adjusted_min", "p_threshold_adjusted_min",
    "worst_client", "worst_coverage", "worst_low", "worst_high",
}  # fmt: skip


def _table(headers: list[str], left: tuple[str, ...]) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1), header_style="")
    for header in headers:
        named = header in left  # names give way where the terminal is narrow, numbers never
        table.add_column(header, justify="left" if named else "right", no_wrap=not named, overflow="fold")
    return table
