"""The table that a run prints: whether the promise was kept, for all and by tier, with notes on what numbers hide."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from fl_sim.conformal.thresholds import min_calibration
from fl_sim.report import agreement, contribution, payload, verdicts, wording
from fl_sim.report.verdicts import Claim
from fl_sim.report.wording import count, number, percent, signed
from fl_sim.results.run import Result

Metrics = dict[str, Any]
Column = tuple[str, Callable[[Metrics, Metrics], Text]]  # header, cell from a group's calibrate and learn metrics

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
        yield _table(self.result, gap=1 if options.max_width >= ROOMY else 0)
        yield ""
        yield bullets(list(notes(self.result)))


def _table(result: Result, gap: int) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, gap), header_style="")
    table.add_column("", overflow="fold")
    headers, everybody, tiers = rows(result)
    for header in headers[1:]:
        table.add_column(header, justify="right", no_wrap=True)
    for row in everybody:
        table.add_row(*row)
    table.add_section()
    for row in tiers:
        table.add_row(*row)
    return table


def rows(result: Result) -> tuple[list[str], list[list[Text]], list[list[Text]]]:
    """What the table says: its headers, the rows of all clients and of the honest, and a row a tier."""
    columns = list(_columns(result))
    calibrate, learn = result.calibrate, result.learn

    def row(name: str, clients: int, calibrate: Metrics, learn: Metrics) -> list[Text]:
        return [Text(name), Text(f"{clients:,}"), *[cell(calibrate, learn) for _, cell in columns]]

    everybody = [row("all", len(result.clients), calibrate, learn)]
    if "honest" in learn:
        honest = len(result.clients) - sum(wording.misbehaving(result).values())
        everybody.append(row("honest", honest, calibrate.get("honest", {}), learn["honest"]))
    tiers = [
        row(tier, len(members), calibrate.get("tiers", {}).get(tier, {}), learn["tiers"].get(tier, {}))
        for tier, members in wording.tiers(result).items()
    ]
    return ["", "clients", *[header for header, _ in columns]], everybody, tiers


def bullets(lines: list[str]) -> Table:
    """The lines as a list under a table, with hanging indents."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for line in lines:
        grid.add_row("-", Text(line))
    return grid


def probabilities(result: Result) -> tuple[list[str], list[list[str]]]:
    """How far probabilities can be trusted: headers, and a row for all clients, the honest and each tier; no row in
    regression, or where the run is from before this was measured."""
    found = result.calibrate
    if found.get("brier") is None:
        return [], []
    columns: dict[str, Callable[[Any], str]] = {"brier": number, "log_loss": number, "ece": percent, "kuiper": percent}
    headers = ["", "Brier score", "log loss", "ECE", "Kuiper"]
    if wording.has_calibrator(result):
        columns |= {"phi_brier": signed, "phi_log": signed}
        headers += ["PHI, Brier score", "PHI, log loss"]
    groups = {"all": found, **{name: found[name] for name in ("honest",) if name in found}, **found["tiers"]}
    return headers, [[name, *[show(of.get(key)) for key, show in columns.items()]] for name, of in groups.items()]


# ------------------------------------------------------------------------------------------------------------ columns


def _columns(result: Result) -> Iterator[Column]:
    if wording.is_calibrated(result):
        yield "coverage", _coverage(result, "coverage")
        yield "client\nmean", _coverage(result, "coverage_client_mean")
        yield "5%\nquantile", _coverage(result, "coverage_client_p05")
        yield "worst\nclient", _worst_coverage(result)
        header = "interval\nlength" if wording.is_regression(result) else "mean set\nsize"
        yield header, lambda calibrate, _: Text(number(wording.mean_size(result, calibrate)))
        yield (
            "empty" if wording.is_regression(result) else "empty\nsets",
            lambda calibrate, _: _share(calibrate, "empty_set_rate"),
        )
    yield from _learn_columns(result)


def _learn_columns(result: Result) -> Iterator[Column]:
    alone = not wording.is_calibrated(result)
    if wording.is_regression(result):
        yield "RMSE", lambda _, learn: Text(number(learn.get("rmse")))
        if alone:
            yield "worst\nclient", lambda _, learn: Text(number(learn.get("rmse_client_max")))
        return
    yield "accuracy", lambda _, learn: _share(learn, "accuracy")
    if alone:
        yield "client\nmean", lambda _, learn: _share(learn, "accuracy_client_mean")
        yield "worst\nclient", lambda _, learn: _share(learn, "accuracy_client_min")


def _share(metrics: Metrics, name: str) -> Text:
    return Text(percent(metrics.get(name)))


def _coverage(result: Result, name: str) -> Callable[[Metrics, Metrics], Text]:
    least = 1 - result.scenario.calibrate.alpha - 1e-9  # 0.9 covers as much as 1 - 0.1, whatever their last bits

    def cell(calibrate: Metrics, _: Metrics) -> Text:
        share = calibrate.get(name)
        if share is None:
            return Text("-")
        return Text(percent(share), style="green" if share >= least else "red")

    return cell


def _worst_coverage(result: Result) -> Callable[[Metrics, Metrics], Text]:
    """The smallest coverage, marked where `fl-sim certify` names a client of that coverage or less."""
    show, named = _coverage(result, "coverage_client_min"), verdicts.named_clients(result)
    lowest = max((row["coverage"] for row in named), default=-1.0)

    def cell(calibrate: Metrics, learn: Metrics) -> Text:
        text, share = show(calibrate, learn), calibrate.get("coverage_client_min")
        return Text(f"! {text.plain}", style="bold red") if share is not None and share <= lowest else text

    return cell


# -------------------------------------------------------------------------------------------------------------- notes


def notes(result: Result) -> Iterator[str]:
    """What a reader has to know beside the numbers, each line only where it applies."""
    if wording.is_calibrated(result):
        yield from _named(result)
    yield from _misbehaving(result)
    yield _over_how_many(result)
    yield from _trust(result)
    yield from filter(None, [contribution.told(result)])
    if wording.is_calibrated(result):
        yield from (f"{told}." for told in result.summary["calibrate"].get("caveats", ()))  # older results have none
        yield from _few_points(result)
        yield from _infinite(result)
    yield from _failures(result)
    yield from payload.notes(result)
    yield from agreement.notes(result)
    yield from _cost(result)
    if wording.is_calibrated(result):
        yield from _worst(result)


def _named(result: Result) -> Iterator[str]:
    """What the exact tests of `fl-sim certify` find, and which method would mend it."""
    found = Claim().certificate(result)
    promised = wording.promised(result.scenario)
    if not found.num_considered:
        yield f"{promised} is promised; no client has points enough to be judged by itself (fl-sim certify)."
        return
    yield verdicts.headline(result, Claim())
    if found.num_rejected:
        yield f"! marks the worst client where certify names one. {verdicts.mending(result)}"


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
    calibrate, found = result.scenario.calibrate, result.calibrate
    none = found["clients_without_calibration"]
    few = found["clients_below_min_n"] - none
    if few > 0:
        least = count(min_calibration(calibrate.alpha), "calibration point")
        yield f"{_have(few)} some but fewer than {least} (1/alpha - 1){_small_n(calibrate, few)}."
    if none and calibrate.name == "local":
        owned = "its own threshold is" if none == 1 else "their own thresholds are"
        yield f"{_have(none)} no calibration points at all: {owned} infinite."
    elif none:
        are = "it is" if none == 1 else "they are"
        yield f"{_have(none)} no calibration points at all: {are} tested with the others' threshold."


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
    found = result.calibrate
    told = ", ".join(f"{tier} {show(found['tiers'].get(tier, {}).get(name))}" for tier in wording.tiers(result))
    return f"{show(found[name])} ({told})" if len(wording.tiers(result)) > 1 else show(found[name])


def _have(clients: int) -> str:
    return f"{count(clients, 'client')} {'has' if clients == 1 else 'have'}"


def _small_n(calibrate: Any, few: int) -> str:
    """What the rule for too few points did with these clients."""
    rule = getattr(calibrate, "small_n", None)
    if rule is None:
        return ", too few for a threshold of one's own"
    kept, each = calibrate.name == "local", "it" if few == 1 else "each"
    infinite = f"{each} has an infinite threshold"
    left_out = "its threshold is left out" if few == 1 else "their thresholds are left out"
    what = {
        "clip": f"{each} {'takes' if kept else 'sends'} its largest score",
        "inf": infinite if kept else f"{each} sends an infinite threshold, which makes everybody's infinite",
        "drop": infinite if kept else left_out,
    }
    return f": {what[rule]} (small_n = {rule})"


def _infinite(result: Result) -> Iterator[str]:
    found = result.calibrate
    if found["threshold_is_infinite"]:
        yield f"The threshold is infinite: {_everything(result)}."
    elif found.get("infinite_interval_rate"):
        yield f"{percent(found['infinite_interval_rate'])} of the intervals are infinite, and so is their mean length."


def _everything(result: Result) -> str:
    return "every interval is the whole line" if wording.is_regression(result) else "every set holds every label"


def _failures(result: Result) -> Iterator[str]:
    lost = wording.missing(result)
    if lost:
        by_reason: dict[str, list[int]] = {}
        for one in lost:
            by_reason.setdefault(_first_line(one["reason"]), []).append(one["client"])
        named = [f"{_clients_named(clients)}: {reason}" for reason, clients in list(by_reason.items())[:3]]
        rest = sum(map(len, list(by_reason.values())[3:]))
        told = "; ".join([*named, *[f"and {rest:,} more"] * bool(rest)])
        yield f"{count(len(lost), 'client')} {'is' if len(lost) == 1 else 'are'} missing ({told})."
    again = result.summary["clients"]["retried"]
    if again:
        yield f"{count(again, 'client')} {'was' if again == 1 else 'were'} run again after a failure."


def _clients_named(clients: list[int], most: int = 8) -> str:
    """`client 3`, `clients 3, 8 and 12`, `clients 3, 8 and 20 more`."""
    shown = [str(client) for client in clients[:most]] + [f"{len(clients) - most:,} more"] * (len(clients) > most)
    *first, last = shown
    return f"clients {', '.join(first)} and {last}" if first else f"client {last}"


def _first_line(reason: str, most: int = 120) -> str:
    line = (reason.strip().splitlines() or ["no reason given"])[0]
    return line if len(line) <= most else f"{line[: most - 3]}..."


def _cost(result: Result) -> Iterator[str]:
    found = result.calibrate
    up, down = found.get("bytes_up_per_client") or 0.0, found.get("bytes_down_per_client") or 0.0
    if wording.is_calibrated(result):
        yield f"Calibration cost {_traffic(up, down)} per client in {count(found['rounds'], 'round')}."
    all_up, all_down = _mean(result, "bytes_up"), _mean(result, "bytes_down")
    if all_up > up + 0.5 or all_down > down + 0.5:
        yield f"Learning cost {_traffic(max(all_up - up, 0), max(all_down - down, 0))} per client."


def _traffic(up: float, down: float) -> str:
    return f"{wording.size_of(up)} up and {wording.size_of(down)} down"


def _mean(result: Result, column: str) -> float:
    answered = [row[column] for row in result.clients if row["status"] == "ok"]
    return sum(answered) / len(answered) if answered else 0.0


def _worst(result: Result) -> Iterator[str]:
    row = wording.worst_client(result)
    if row is None:
        return
    worst = f"Worst is {wording.who(row)} with {percent(row['coverage'])}"
    if wording.keeps(result, row):
        yield f"{worst}: even the worst client has no less than promised."
        return
    if result.scenario.clients.test != "local":
        yield f"{worst}. Clients are tested on data that is not their own, so there is no band to hold it against."
        return
    yield f"{worst}; {wording.luck(result, row)}."
    said = wording.below_band_said(result)
    if said:
        yield said
