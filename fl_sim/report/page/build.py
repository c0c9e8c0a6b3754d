"""`fl-sim report`: a run, a comparison or a sweep as one HTML page that needs nothing else and opens offline.

It says what the terminal says, with the same numbers: tables from `table` and `sweep_table`, figures from `figures` and
`figure_sweep`, tests from `certificate`. The page has no source but itself, and tells the browser so (its security
policy forbids everything else); two reports of the same folder have the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import pandas as pd

from fl_sim.agreement.model_size import HEADERS, NO_BOUND, STANDS_FOR
from fl_sim.agreement.model_size import cells as size_cells
from fl_sim.errors import FlSimError
from fl_sim.report import agreement, certificate, sweep_table, wording
from fl_sim.report import table as run_table
from fl_sim.report.figures import sizes as figure_sizes
from fl_sim.report.figures.sizes import Sizes
from fl_sim.report.figures.strips import how_good
from fl_sim.report.page import again as page_again
from fl_sim.report.page import answer
from fl_sim.report.page import figures as page_figures
from fl_sim.report.page import html as page_html
from fl_sim.report.page.answer import Answer
from fl_sim.report.page.clients import Explorer
from fl_sim.report.page.glance import glance
from fl_sim.report.page.html import esc
from fl_sim.report.page.standings import JUDGED, P_SMALLEST, REJECTED
from fl_sim.report.sweep_labels import shortened
from fl_sim.report.sweep_points import STRATEGIES, axis_names, cells, shown
from fl_sim.report.sweep_points import lost as lost_points
from fl_sim.report.verdicts import Claim
from fl_sim.report.wording import count, percent
from fl_sim.results import tables as frames
from fl_sim.results.run import RESULT, Result
from fl_sim.results.sweep_folder import POINTS, SWEEP, failures
from fl_sim.store.folders import is_there, write_whole

NAME = "report.html"


@dataclass(frozen=True)
class PageSection:
    """A section of the page."""

    name: str
    title: str
    html: str


def write_report(folder: Path, to: Path | None = None) -> Path:
    """Write the report of a folder, at once, and return where it is (default: `report.html` in the folder).

    Raises:
        FlSimError: the folder holds no finished run or point, or the file cannot be written.
    """
    if not folder.is_dir():
        raise FlSimError(f"{folder}: there is no such folder; name one that fl-sim run, compare or sweep has written")
    to = to or folder / NAME
    if to.is_dir():
        raise FlSimError(f"{to}: is a folder; name a file with --out")
    if not os.access(to.parent, os.W_OK):  # told before the page is made, which takes seconds
        raise FlSimError(f"{to}: cannot be written: {to.parent} is no folder that may be written; choose another --out")
    html = page(folder)
    try:
        write_whole(to, html.encode())
    except OSError as error:
        raise FlSimError(f"{to}: cannot be written: {error.strerror or error}; choose another --out") from None
    return to


def page(folder: Path) -> str:
    """The report of a folder as HTML.

    Raises:
        FlSimError: the folder holds no finished run or point.
    """
    if is_there(folder / SWEEP):
        title, parts, explorer = _sweep(folder)
    elif is_there(folder / RESULT):
        title, parts, explorer = _run(folder)
    else:
        raise FlSimError(
            f"{folder}: holds no finished run ({RESULT}) and no sweep ({SWEEP}); name a folder that fl-sim run, "
            "compare or sweep has written"
        )
    return _whole(title, parts, explorer)


# --------------------------------------------------------------------------------------------------------------- a run


def _run(folder: Path) -> tuple[str, list[PageSection], Explorer]:
    result, explorer = Result.load(folder), Explorer()
    explorer.add("", result)
    explorer.data |= {"axes": [], "points": [{"at": [], "run": 0}]}
    headers, everybody, tiers = run_table.rows(result)
    rows = [[cell.plain for cell in row] for row in [*everybody, *tiers]]
    table = page_html.of_texts("All clients, and each tier", headers, rows)
    command, said = page_again.of_run(folder, result)
    parts = [
        PageSection("answer", "In short", _run_answer(result)),
        PageSection("table", "Table", table + page_html.notes(list(run_table.notes(result))) + _probabilities(result)),
        PageSection("figures", "Figures", "".join(page_figures.of_run(result))),
        PageSection("clients", "Client by client", _explorer_html(explorer)),
        PageSection(
            "again", "Scenario, versions, command", _again(command, said, page_again.scenario_text(folder), [result])
        ),
    ]
    if agreement.is_measured(result):
        parts.insert(3, PageSection("agreement", "Agreement", _agreement(result)))
    return folder.resolve().name, parts, explorer


def _agreement(result: Result) -> str:
    """How far clients agree: in words, by tier, by class, and the stacks' curve."""
    said = "".join(f"<p>{esc(line)}</p>" for line in agreement.notes(result))
    conditions = page_html.notes([f"{holds}: {text}." for holds, text in agreement.conditions(result)])
    tables = [page_html.of_texts(title, headers, rows) for title, headers, rows in agreement.tables(result)]
    return f"{said}{''.join(tables)}<p>What the bound asks for:</p>{conditions}"


def _run_answer(result: Result) -> str:
    world = f'<p class="world">{esc(wording.world(result))}.</p>'
    if not wording.is_calibrated(result):
        return f'<p class="headline">{esc(how_good(result))}.</p>{world}'
    said = [f'<p class="headline">{esc(wording.finding(result))}.</p>', world]
    tiers = {tier: of.get("coverage") for tier, of in result.calibrate["tiers"].items()}
    known = sorted((value, tier) for tier, value in tiers.items() if value is not None)
    if len(known) > 1:
        told = ", ".join(f"{tier} {percent(value)}" for value, tier in known)
        said.append(f"<p><strong>By tier, lowest first:</strong> {esc(told)}.</p>")
    said.append(
        f"<p><strong>Client by client (fl-sim certify):</strong> {esc(certificate.headline(result, Claim()))}</p>"
    )
    said.append(
        "<p><strong>What to use instead?</strong> This is one run of one strategy. To hold others against it, in its "
        "folder: <code>fl-sim compare scenario.toml "
        f"{esc(' '.join(_others(result.scenario.calibrate.name)))} seed=0,1,2</code></p>"
    )
    return "".join(said)


def _probabilities(result: Result) -> str:
    headers, rows = run_table.probabilities(result)
    if not rows:
        return ""
    title = "How far the probabilities can be trusted"
    shown = " open" * wording.has_calibrator(result)
    return f"<details{shown}><summary>{title}</summary>{page_html.of_texts(title, headers, rows)}</details>"


def _others(name: str) -> list[str]:
    return list(dict.fromkeys([name, "local", "pooled", "fedwq-cp"]))


# ------------------------------------------------------------------------------------------------------------- a sweep


def _sweep(folder: Path) -> tuple[str, list[PageSection], Explorer]:
    found = frames.load(folder)
    results = {
        run: Result.load(folder / POINTS / run)
        for run in dict.fromkeys(found.points.loc[found.points["status"] == "ok", "run"].map(str))
    }
    if not results:
        raise FlSimError(f"{folder}: none of its {count(len(found.points), 'point')} is finished; run the sweep first")
    points, same = shortened(_certified(found.points, results), found.axes)
    title = "; ".join(filter(None, [found.title, same]))
    explorer = _of_points(points, found.axes, results)
    first = next(iter(results.values()))
    said = answer.answer(points, found.axes, str(first.scenario.calibrate.name))
    command, about = page_again.of_sweep(folder, list(results))
    scenario = page_again.scenario_text(folder / POINTS / next(iter(results)))
    again = _again(command, about, scenario, list(results.values()), "the first point")
    figures = page_figures.of_sweep(
        points.drop(columns=[JUDGED, REJECTED, P_SMALLEST]), found.clients, found.axes, title
    )
    parts = [
        PageSection("answer", "In short", _sweep_answer(said, points, title)),
        PageSection("table", "Table", _tables(points, found.axes, explorer, _without(folder, points, found.axes))),
        PageSection("figures", "Figures", "".join(figures)),
        PageSection("clients", "Client by client", _explorer_html(explorer)),
        PageSection("again", "Scenario, versions, command", _axes_html(points, found.axes) + again),
    ]
    sizes = figure_sizes.found(results.values(), found.axes)
    if sizes is not None:
        parts.insert(3, PageSection("sizes", f"What doubling the {sizes.what} buys", _sizes(sizes, title)))
    return folder.resolve().name, parts, explorer


def _sizes(sizes: Sizes, title: str) -> str:
    rows = []
    for row in sizes.rows:
        told = [("-", "") if cell is None else (f"{cell[0]:.3f}", f"± {cell[1]:.3f}") for cell in size_cells(row)]
        rows.append(
            [page_html.TableCell(str(row.size), value=row.size), *(page_html.TableCell(*both) for both in told)]
        )
    table = page_html.table(sizes.finding, [sizes.what, *HEADERS], 1, rows)
    return page_figures.of_sizes(sizes, title) + table + page_html.notes([sizes.beyond, NO_BOUND, STANDS_FOR])


def _certified(points: pd.DataFrame, results: dict[str, Result]) -> pd.DataFrame:
    """The points with what `fl-sim certify` finds: clients judged and rejected, and its smallest p-value; nan where
    nothing is promised."""
    found: dict[str, tuple[float, float, float]] = {}
    for run, result in results.items():
        if wording.is_calibrated(result):
            tested = Claim().certificate(result)
            found[run] = (tested.num_considered, tested.num_rejected, tested.p_smallest)
    columns = zip(*[found.get(str(run), (float("nan"),) * 3) for run in points["run"]], strict=True)
    return points.assign(**dict(zip((JUDGED, REJECTED, P_SMALLEST), columns, strict=True)))


def _of_points(points: pd.DataFrame, axes: Sequence[str], results: dict[str, Result]) -> Explorer:
    """The explorer of a sweep. Where not all runs have room, the first seed of every row of the table comes first."""
    explorer, names = Explorer(), axis_names(axes)
    ok = points[points["status"] == "ok"]
    first = [str(cell.rows["run"].iloc[0]) for cell in cells(ok, axes)]
    for run in [*first, *ok["run"].map(str)]:
        explorer.add(run, results[run])
    values = {axis: list(dict.fromkeys(map(shown, points[axis]))) for axis in axes}
    explorer.data["axes"] = [{"name": names[axis], "values": told} for axis, told in values.items()]
    explorer.data["points"] = [
        {"at": [values[axis].index(shown(row[axis])) for axis in axes], "run": explorer.runs.get(str(row["run"]))}
        | ({} if row["status"] == "ok" else {"status": row["status"]})
        for row in points.to_dict("records")
    ]
    explorer.left_out = len(results) - len(explorer.runs)
    return explorer


def _sweep_answer(said: Answer, points: pd.DataFrame, title: str) -> str:
    html = [f'<p class="headline">{esc(said.headline)}</p>', f'<p class="world">{esc(title)}.</p>']
    html += [f"<p>{f'<strong>{esc(lead)}</strong> ' if lead else ''}{esc(text)}</p>" for lead, text in said.paragraphs]
    return "".join([*html, glance(said, points)])


def _tables(points: pd.DataFrame, axes: list[str], explorer: Explorer, without: list[tuple[str, str, str]]) -> str:
    blocks = sweep_table.blocks(points, axes)
    if not blocks:
        return "<p>No point has a number to show.</p>" + "".join(page_html.lost(without))
    first, *others = blocks
    go = [_first_point(cell.rows, explorer) for cell in cells(points, axes)]
    html = page_html.of_block(first, first.heading or "Every combination of the axes", go)
    metrics = {column.metric for block in blocks for column in block.columns}
    html += page_html.notes(list(sweep_table.notes(points, axes, metrics)))
    html += "".join(page_html.lost(without))
    for block in others:
        title = block.heading.removesuffix(":")
        html += f"<details><summary>{esc(title)}</summary>{page_html.of_block(block, title)}</details>"
    return html


def _first_point(rows: pd.DataFrame, explorer: Explorer) -> int | None:
    here = [int(point) for point, run in zip(rows["point"], rows["run"], strict=True) if str(run) in explorer.runs]
    return here[0] if here else None


def _without(folder: Path, points: pd.DataFrame, axes: Sequence[str]) -> list[tuple[str, str, str]]:
    """(settings, status, reason) of the points without a result."""
    names, reasons = axis_names(axes), failures(folder)
    return [
        (
            ", ".join(f"{names[axis]} {shown(row[axis])}" for axis in axes),
            row["status"],
            (reasons.get(row["run"], "").strip().splitlines() or [""])[-1],
        )
        for row in points[points["status"] != "ok"].to_dict("records")
    ]


def _axes_html(points: pd.DataFrame, axes: Sequence[str]) -> str:
    told = {axis: ", ".join(dict.fromkeys(map(shown, points[axis]))) for axis in axes}
    kinds = ["strategies" if axis in STRATEGIES else "axis" for axis in axes]
    said = f"{count(len(points), 'point')}: every combination of these values"
    lost = " ".join(lost_points(points, axes))
    named = {f"{axis} ({kind})": values for (axis, values), kind in zip(told.items(), kinds, strict=True)}
    return f"<p>{esc(said)}. {esc(lost)}</p>{page_html.pairs(named)}"


# ----------------------------------------------------------------------------------------------------------- the whole


def _again(command: str, said: str, scenario: str, results: Sequence[Result], whose: str = "this run") -> str:
    return (
        f'<p>To make it again: {esc(said)}</p><pre class="command"><code>{esc(command)}</code></pre>'
        f"<details><summary>The whole scenario of {esc(whose)}</summary><pre>{esc(scenario)}</pre></details>"
        f"<details><summary>Versions and machine</summary>{page_html.pairs(page_again.versions(results))}</details>"
    )


def _explorer_html(explorer: Explorer) -> str:
    left = ""
    if explorer.left_out:
        left = (
            f"<p>{count(explorer.left_out, 'run')} had no room in this page; fl-sim report {POINTS}/RUN makes a page "
            "of each.</p>"
        )
    return (
        "<noscript><p>The explorer needs JavaScript; clients.csv has its numbers.</p></noscript>"
        '<div id="explorer" hidden>'
        '<p class="screen">Every mark is a client. Point at one, tap it, or move with the arrow keys (Page Up and '
        "Down: farther; Home and End: first and last).</p>"
        f'{left}<div class="controls"></div><p id="where"></p><div class="key"></div>'
        '<div class="beside"><div id="plot" tabindex="0" role="slider" aria-label="clients" aria-describedby="where">'
        '</div><div id="client" class="card"></div></div></div>'
    )


def _whole(title: str, parts: Sequence[PageSection], explorer: Explorer) -> str:
    style, script = _shipped("page.css"), _shipped("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"
    links = "".join(f'<a href="#{part.name}">{esc(part.title)}</a>' for part in parts)
    sections = "".join(
        f'<section id="{part.name}" aria-labelledby="{part.name}-h"><h2 id="{part.name}-h">{esc(part.title)}</h2>'
        f"{part.html}</section>"
        for part in parts
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>{esc(title)}: fl-sim report</title><style>{style}</style></head><body>"
        f'<header><h1>{esc(title)}</h1><nav aria-label="Contents">{links}<a href="#glossary">Words</a></nav></header>'
        f"<main>{sections}{page_html.glossary()}</main>"
        f'<script type="application/json" id="data">{explorer.text()}</script><script>{script}</script></body></html>\n'
    )


def _shipped(name: str) -> str:
    return files("fl_sim.report.page").joinpath(name).read_text(encoding="utf-8")
