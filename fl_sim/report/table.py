"""The table that a run prints: whether the promise was kept, for all and by tier, with notes on what numbers hide."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from fl_sim.conformal.thresholds import min_calibration
from fl_sim.report import advice, agreement, contribution, payload, verdicts, wording
from fl_sim.report.numbers import count, keeps, number, percent, promise, signed, size_of
from fl_sim.report.terminal import bullets, table_of
from fl_sim.report.verdicts import Claim
from fl_sim.results.run import Result

Metrics = dict[str, Any]

ROOMY = 100  # columns of the terminal from which the table is spaced out


def summary(result: Result) -> RenderableType:
    """Scenario, table and notes, for rich to print; readable without colour and from 80 columns."""
    return _TableSummary(result)


@dataclass(frozen=True)
class _TableSummary:
    result: Result

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(wording.world(self.result), style="bold")
        yield ""
        yield _table(self.result, gap=int(options.max_width >= ROOMY))
        yield ""
        yield bullets(list(notes(self.result)))


def _table(result: Result, gap: int) -> Table:
    headers, everybody, tiers = rows(result)
    table = table_of([""], headers[1:], 2 * gap)
    for row in everybody:
        table.add_row(*row)
    table.add_section()
    for row in tiers:
        table.add_row(*row)
    return table


def rows(result: Result) -> tuple[list[str], list[list[Text]], list[list[Text]]]:
    """What the table says: its headers, the rows of all clients and of the honest, and a row a tier."""
    calibrate, learn, tiers = result.calibrate, result.learn, wording.tiers(result)

    def row(name: str, clients: int, calibrate: Metrics, learn: Metrics) -> list[Text]:
        return [Text(name), Text(f"{clients:,}"), *_cells(result, calibrate, learn).values()]

    everybody = [row("all", len(result.clients), calibrate, learn)]
    if "honest" in learn:
        honest = len(result.clients) - sum(wording.misbehaving(result).values())
        everybody.append(row("honest", honest, calibrate.get("honest", {}), learn["honest"]))
    by_tier = [
        row(tier, len(members), calibrate.get("tiers", {}).get(tier, {}), learn["tiers"].get(tier, {}))
        for tier, members in tiers.items()
    ]
    return ["", "clients", *_cells(result, calibrate, learn)], everybody, by_tier


def _cells(result: Result, calibrate: Metrics, learn: Metrics) -> dict[str, Text]:
    """Header -> cell of a group of clients, from its metrics."""
    calibrated, regression, alpha = wording.is_calibrated(result), wording.is_regression(result), 0.0
    cells: dict[str, Text] = {}
    if calibrated:
        alpha = result.scenario.calibrate.alpha
        names = {"coverage": "coverage", "client\nmean": "coverage_client_mean", "5%\nquantile": "coverage_client_p05"}
        for header, name in (names | {"worst\nclient": "coverage_client_min"}).items():
            share = calibrate.get(name)
            colour = "" if share is None else "green" if keeps(share, alpha) else "red"
            cells[header] = Text(percent(share), style=colour)
        # Marked where `fl-sim certify` names a client of that coverage or less.
        worst = calibrate.get("coverage_client_min")
        lowest = max((row["coverage"] for row in verdicts.named_clients(result)), default=-1.0)
        if worst is not None and worst <= lowest:
            cells["worst\nclient"] = Text(f"! {percent(worst)}", style="bold red")
        cells["interval\nlength" if regression else "mean set\nsize"] = Text(
            number(wording.mean_size(result, calibrate))
        )
        cells["empty" if regression else "empty\nsets"] = Text(percent(calibrate.get("empty_set_rate")))
    models = {"RMSE": "rmse"} if regression else {"accuracy": "accuracy"}
    if not calibrated:
        of_all = {"client\nmean": "accuracy_client_mean", "worst\nclient": "accuracy_client_min"}
        models |= {"worst\nclient": "rmse_client_max"} if regression else of_all
    return cells | {
        header: Text((number if regression else percent)(learn.get(name))) for header, name in models.items()
    }


def probabilities(result: Result) -> tuple[list[str], list[list[str]]]:
    """How far probabilities can be trusted: headers, and a row for all clients, the honest and each tier; no row in
    regression, or where the run is from before this was measured."""
    calibrate = result.calibrate
    if calibrate.get("brier") is None:
        return [], []
    columns: dict[str, Callable[[Any], str]] = {"brier": number, "log_loss": number, "ece": percent, "kuiper": percent}
    headers = ["", "Brier score", "log loss", "ECE", "Kuiper"]
    if wording.has_calibrator(result):
        columns |= {"phi_brier": signed, "phi_log": signed}
        headers += ["PHI, Brier score", "PHI, log loss"]
    honest = {name: calibrate[name] for name in ("honest",) if name in calibrate}
    groups = {"all": calibrate, **honest, **calibrate["tiers"]}
    return headers, [[name, *[show(of.get(key)) for key, show in columns.items()]] for name, of in groups.items()]


# -------------------------------------------------------------------------------------------------------------- notes


def notes(result: Result) -> Iterator[str]:
    """What a reader has to know beside the numbers, each line only where it applies."""
    calibrated = wording.is_calibrated(result)
    if calibrated:
        yield from _named(result)
    yield from _misbehaving(result)
    yield _over_how_many(result)
    yield from _trust(result)
    yield from filter(None, [contribution.weights(result)])
    if calibrated:
        yield from (f"{caveat}." for caveat in result.summary["calibrate"].get("caveats", ()))  # older results: none
        yield from _few_points(result)
        yield from _infinite(result)
    yield from _failures(result)
    yield from payload.notes(result)
    yield from agreement.notes(result)
    yield from _cost(result)
    if calibrated:
        yield from _worst(result)


def _named(result: Result) -> Iterator[str]:
    """What the exact tests of `fl-sim certify` find, and which method would mend it."""
    tests = Claim().certificate(result)
    if not tests.num_considered:
        least = promise(result.scenario.calibrate.alpha)
        yield f"{least} is promised; no client has points enough to be judged by itself (fl-sim certify)."
        return
    yield advice.headline(result, Claim())
    if tests.num_rejected:
        yield f"! marks the worst client where certify names one. {advice.mending(result)}"


def _misbehaving(result: Result) -> Iterator[str]:
    kinds = wording.misbehaving(result)
    if kinds:
        named = ", ".join(f"{many:,} {kind}" for kind, many in kinds.items())
        yield f"{sum(kinds.values()):,} of {count(len(result.clients), 'client')} misbehave ({named})."


def _over_how_many(result: Result) -> str:
    sent, failed = len(result.clients), len(wording.missing(result))
    untested = sum(row["status"] == "ok" and row["num_test"] == 0 for row in result.clients)
    between = ", 5% quantile" if wording.is_calibrated(result) else ""
    numbers = f"Client mean{between} and worst client are"
    if wording.is_regression(result) and not wording.is_calibrated(result):
        numbers = "The worst client is"
    if not failed and not untested:
        return f"{numbers} over all {count(sent, 'client')}."
    why = [f"{untested:,} without test points"] * bool(untested) + [f"{failed:,} missing"] * bool(failed)
    return f"{numbers} over {sent - failed - untested:,} of {count(sent, 'client')} ({', '.join(why)})."


def _few_points(result: Result) -> Iterator[str]:
    calibrate, none = result.scenario.calibrate, result.calibrate["clients_without_calibration"]
    few, rule = result.calibrate["clients_below_min_n"] - none, getattr(calibrate, "small_n", None)
    if few > 0:
        least = f"{count(min_calibration(calibrate.alpha), 'calibration point')} (1/alpha - 1)"
        what = "too few for a threshold of one's own" if rule is None else f"small_n = {rule} says what they do"
        yield f"Clients with some but fewer than {least}: {few:,}; {what}."
    if none:
        what = "infinite thresholds of their own" if calibrate.name == "local" else "tested with the others' threshold"
        yield f"Clients without any calibration point: {none:,}; {what}."


def _trust(result: Result) -> Iterator[str]:
    """In a line and not in columns, for which 80 letters have no room."""
    if result.calibrate.get("ece") is None:
        return
    after = " after the calibrator" * wording.has_calibrator(result)
    yield f"ECE, how far confidence is from accuracy{after}: {_by_tier(result, 'ece', percent)}."
    if wording.has_calibrator(result):
        harmed = sum((row.get("phi_brier") or 0) < 0 for row in result.clients)
        worse = f"; it is worse for {count(harmed, 'client')}" * bool(harmed)
        improved = _by_tier(result, "phi_brier", signed)
        yield f"PHI, by how much the calibrator lowered the Brier score: {improved}{worse}."
    if wording.shares_rows(result.scenario):
        yield "No coverage is promised: calibrator_share = 0, calibrators were fitted on the rows that set thresholds."


def _by_tier(result: Result, name: str, show: Callable[[float | None], str]) -> str:
    """`7.0% (weak 7.5%, strong 7.2%)`."""
    calibrate, tiers = result.calibrate, wording.tiers(result)
    named = ", ".join(f"{tier} {show(calibrate['tiers'].get(tier, {}).get(name))}" for tier in tiers)
    return f"{show(calibrate[name])} ({named})" if len(tiers) > 1 else show(calibrate[name])


def _infinite(result: Result) -> Iterator[str]:
    if result.calibrate["threshold_is_infinite"]:
        regression = wording.is_regression(result)
        every = "interval is the whole line" if regression else "set holds every label"
        yield f"The threshold is infinite: every {every}."
    elif result.calibrate.get("infinite_interval_rate"):
        share = percent(result.calibrate["infinite_interval_rate"])
        yield f"{share} of the intervals are infinite, and so is their mean length."


def _failures(result: Result) -> Iterator[str]:
    lost, again = wording.missing(result), result.summary["clients"]["retried"]
    if lost:
        by_reason: dict[str, list[int]] = {}
        for one in lost:
            by_reason.setdefault(_first_line(one["reason"]), []).append(one["client"])
        named = [f"{_clients_named(clients)}: {reason}" for reason, clients in list(by_reason.items())[:3]]
        rest = sum(map(len, list(by_reason.values())[3:]))
        who = "; ".join([*named, *[f"and {rest:,} more"] * bool(rest)])
        yield f"Missing: {count(len(lost), 'client')} ({who})."
    if again:
        yield f"Run again after a failure: {count(again, 'client')}."


def _clients_named(clients: list[int], most: int = 8) -> str:
    """`client 3`, `clients 3, 8, 12`, `clients 3, 8, and 20 more`."""
    shown = ", ".join(map(str, clients[:most])) + f", and {len(clients) - most:,} more" * (len(clients) > most)
    return f"client{'s' * (len(clients) > 1)} {shown}"


def _first_line(reason: str, most: int = 120) -> str:
    line = (reason.strip().splitlines() or ["no reason given"])[0]
    return line if len(line) <= most else f"{line[: most - 3]}..."


def _cost(result: Result) -> Iterator[str]:
    calibrate = result.calibrate
    up, down = calibrate.get("bytes_up_per_client") or 0.0, calibrate.get("bytes_down_per_client") or 0.0
    if wording.is_calibrated(result):
        yield f"Calibration cost {_traffic(up, down)} per client in {count(calibrate['rounds'], 'round')}."
    all_up, all_down = _mean(result, "bytes_up"), _mean(result, "bytes_down")
    if all_up > up + 0.5 or all_down > down + 0.5:
        yield f"Learning cost {_traffic(max(all_up - up, 0), max(all_down - down, 0))} per client."


def _traffic(up: float, down: float) -> str:
    return f"{size_of(up)} up and {size_of(down)} down"


def _mean(result: Result, column: str) -> float:
    answered = [row[column] for row in result.clients if row["status"] == "ok"]
    return sum(answered) / len(answered) if answered else 0.0


def _worst(result: Result) -> Iterator[str]:
    """Who the worst client is, beside the band of an exchangeable client of its size where there is one."""
    row = wording.worst_client(result)
    if row is None:
        return
    worst, band = f"Worst is {wording.who(row)} with {percent(row['coverage'])}", wording.band(result.scenario, row)
    if keeps(row["coverage"], result.scenario.calibrate.alpha):
        yield f"{worst}: even the worst client has no less than promised."
        return
    if band is None:
        yield f"{worst}; there is no band to hold it against."
    else:
        yield f"{worst}; an exchangeable client of its size reaches {percent(band[0])} or more in 39 of 40 draws."
    yield from filter(None, [wording.below_band_said(result)])
