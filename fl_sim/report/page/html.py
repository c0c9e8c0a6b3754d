"""The parts of a report as HTML. Everything that comes from a scenario or a result passes through `esc`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from fl_sim.report.sweep_table import Block, cell_text
from fl_sim.report.wording import count

FILTERED = 12  # rows from which a table can be filtered


def esc(text: object) -> str:
    """Text, safe between tags and in quoted attributes."""
    return escape(str(text), quote=True)


@dataclass(frozen=True)
class TableCell:
    """A cell of a table: what it says, in small print after it, what it is sorted by, and a class."""

    text: str
    small: str = ""
    value: float | str | None = None
    kind: str = ""

    def html(self, tag: str = "td") -> str:
        """The element."""
        value = self.text if self.value is None else self.value
        told = f' data-v="{esc(repr(value) if isinstance(value, float) else value)}"'
        told += f' class="{esc(self.kind)}"' * bool(self.kind)
        told += ' scope="row"' * (tag == "th")
        small = f" <small>{esc(self.small)}</small>" if self.small else ""
        return f"<{tag}{told}>{esc(self.text)}{small}</{tag}>"


def table(
    caption: str, headers: Sequence[str], names: int, rows: Sequence[Sequence[TableCell]], go: Sequence[int | None] = ()
) -> str:
    """A table that can be sorted by its headings; the first `names` columns name the row.

    `go` has, for each row, the point whose clients a button shows, or None.
    """
    heads = "".join(
        f'<th scope="col" class="{_kind(k, names, rows)}"><button type="button" '
        f'title="Sort by {esc(header or "name")}">{esc(header)}<span class="arrow" aria-hidden="true"></span></button>'
        "</th>"
        for k, header in enumerate(headers)
    )
    heads += '<th class="go"><span class="unseen">clients</span></th>' * bool(go)
    body = []
    for index, row in enumerate(rows):
        cells = "".join(cell.html("th" if k < names else "td") for k, cell in enumerate(row))
        body.append(f"<tr>{cells}{_button(row[:names], go[index]) if go else ''}</tr>")
    find = (
        '<label class="find">Rows with <input type="search" placeholder="for instance fedwq-cp 0.1"></label>'
        if len(rows) > FILTERED
        else ""
    )
    return (
        f'<div class="tabled">{find}<div class="scroll" tabindex="0" role="region" aria-label="{esc(caption)}">'
        f'<table class="sortable"><caption><span>{esc(caption)}</span></caption><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div></div>"
    )


def _kind(column: int, names: int, rows: Sequence[Sequence[TableCell]]) -> str:
    """What a column holds: names of rows, words, or numbers."""
    if column < names:
        return "name"
    return "words" if any(row[column].kind in ("broken", "kept", "open") for row in rows) else "number"


def _button(names: Sequence[TableCell], point: int | None) -> str:
    if point is None:
        return '<td class="go"></td>'
    said = f"Show the clients of {', '.join(cell.text for cell in names)}"
    return f'<td class="go"><button type="button" data-point="{point}" title="{esc(said)}">clients</button></td>'


def of_block(block: Block, caption: str, go: Sequence[int | None] = ()) -> str:
    """A block of a sweep's tables, every row of it, with the words of the terminal."""
    headers = [*block.axes, *(column.header.replace("\n", " ") for column in block.columns)]
    rows = []
    for row in (row for section in block.sections for row in section):
        cells = [TableCell(label, value=_number(label)) for label in row.labels]
        for index, (mark, found) in enumerate(row.found):
            text, _, interval = cell_text(block, row, index, False).plain.partition(" [")
            text, _, alone = text.partition(" (")
            small = f"[{interval}" if interval else f"({alone}" if alone else ""
            kind = "sure" * bool(mark)
            cells.append(TableCell(text, small, found.mean, kind))
        rows.append(cells)
    return table(caption, headers, len(block.axes), rows, go)


def of_texts(caption: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A run's table, whose cells are words; less than promised is marked `!`."""
    found = [
        [TableCell(text, value=_number(text), kind="low" if text.startswith("! ") else "") for text in row]
        for row in rows
    ]
    return table(caption, [header.replace("\n", " ") for header in headers], 1, found)


def _number(text: str) -> float | str:
    """What a printed cell is sorted by."""
    plain = text.removeprefix("! ").replace(",", "").removesuffix("%")
    if plain == "-":
        return math.nan
    try:
        return math.inf if plain == "infinite" else float(plain)
    except ValueError:
        return text


def notes(lines: Sequence[str]) -> str:
    """The lines under a table."""
    return f'<ul class="notes">{"".join(f"<li>{esc(line)}</li>" for line in lines)}</ul>' if lines else ""


def pairs(told: dict[str, str]) -> str:
    """Names and values."""
    return f"<dl>{''.join(f'<dt>{esc(name)}</dt><dd>{esc(value)}</dd>' for name, value in told.items())}</dl>"


def lost(named: Sequence[tuple[str, str, str]]) -> Iterator[str]:
    """Points without a result: (settings, status, reason); nothing where there are none."""
    if named:
        rows = [[TableCell(where), TableCell(status), TableCell(reason)] for where, status, reason in named]
        said = f"{count(len(named), 'point')} without a result"
        told = table(said, ["point", "status", "why"], 1, rows)
        yield f"<details open><summary>{esc(said)}</summary>{told}</details>"


GLOSSARY = {
    "coverage": "The share of test points whose true answer lies in the predicted set (or interval).",
    "nominal, promised": "The coverage that the method was asked for: 1 - alpha.",
    "client": "One participant of the federation, with data of its own. Its calibration points (n_k) set its "
    "threshold, its test points measure its coverage.",
    "threshold": "An answer goes into the set where its score is no larger than the threshold: the larger, the larger "
    "the sets and the coverage.",
    "worst client": "The client of the smallest coverage. With few test points it says little, so (30+) counts those "
    "with at least 30 of them; of many clients the smallest is below the promise under any method.",
    "falls short beyond bad luck": "An exact test of the client's counts rejects, after Holm's correction over the "
    "clients, that it is covered as promised on average over draws of its calibration points: fl-sim certify.",
    "exact interval": "Where the coverage of this client's threshold may truly lie, 95 times in 100, by Clopper and "
    "Pearson from its counts.",
    "!": "The mean is below the promise by a 95% t interval over the seeds.",
    "set size": "How many labels a predicted set holds on average (in regression: the length of the interval). "
    "Smaller says more, if the promise is kept.",
    "Brier score": "The squared distance between the predicted probabilities and the truth, over all classes: 0 is "
    "best, 2 is sure and wrong.",
    "ECE, Kuiper": "How far confidence is from accuracy. ECE: the mean gap over 15 bins of confidence. Kuiper: the "
    "largest gap that adds up over any range of confidence. 0 is best.",
    "PHI": "By how much a calibrator lowered the Brier score (or the log loss): above 0 it helped.",
    "tier": "Clients that have the same model: weak and strong, for instance.",
    "behaviour": "What a client does that it should not; nothing for those that behave.",
    "concentration": "How alike the clients' data are: small is unequal, large is nearly alike.",
    "world, point": "A world is everything but strategy and seed; a point is a world under one strategy with one seed.",
}


def glossary() -> str:
    """What the words mean."""
    return f'<details id="glossary"><summary>What the words mean</summary>{pairs(GLOSSARY)}</details>'
