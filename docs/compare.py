"""Whether a table or figure of a page is as its command made it, within the spread that is stated."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

from shown import ROOT, Shown, Table, tables_in

_ROUNDED = 1e-12  # of sums and differences of what is printed
FEW = 4  # standard errors by which a mean may differ on another kind of processor
GREY, ALIKE = (64, 64), 0.01  # the coarse picture, and how much of black to white its points may differ on average

NUMBER = re.compile(r"(?<![\w.])-?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+|(?<=\d))(?![\d])")
ENTRY = re.compile(rf"{NUMBER.pattern}|\binf\b")  # of a cell


@dataclass(frozen=True)
class Spread:
    """How far a number may be from what is shown: not at all, or on another kind of processor as far as was stated.

    `stated` has for a column (or `says`, `title`, or `all`, the rest) the allowed change of each number in a cell:
    absolute, or below 0 a share of what is shown. A column without has that of its standard errors, the `± b` of its
    cells.
    """

    exact: bool
    stated: dict[str, tuple[float, ...]] = field(default_factory=dict)

    def allows(self, column: str, shown: str, made: str, errors: Sequence[float] = ()) -> bool:
        """Whether a text may be made in place of what is shown; `errors` are the standard errors in its column."""
        if shown == made:
            return True
        ours, theirs = (ENTRY.findall(text) for text in (shown, made))
        if self.exact or ENTRY.sub("#", shown) != ENTRY.sub("#", made) or not ours:
            return False
        pairs = [(_value(a), _value(b)) for a, b in zip(ours, theirs, strict=True)]
        most = self.stated.get(column)
        if most is None and "±" in shown and len(pairs) == 2:
            most = (FEW * max(pairs[1][0], statistics.median(errors)) or _ROUNDED,) * 2
        most = most or self.stated.get("all")
        if most is None or len(most) not in (1, len(pairs)):
            return False
        allowed = most * (len(pairs) if len(most) == 1 else 1)
        return all(
            a == b or abs(a - b) <= (-each * abs(a) if each < 0 else each) + (_unit(text) if each else 0.0) + _ROUNDED
            for text, (a, b), each in zip(ours, pairs, allowed, strict=True)
        )


def spread_of(origin: dict[str, str], here: str) -> Spread:
    """What the marker allows on the kind of processor `here`.

    >>> spread_of({"on": "a", "spread": "worst = 0.02; rejected, size = 3, 5 %"}, "b").stated
    {'worst': (0.02,), 'rejected, size': (3.0, -0.05)}
    """
    stated = {}
    for part in filter(None, origin.get("spread", "").split("; ")):
        column, _, numbers = part.rpartition(" = ")
        stated[column] = tuple(
            -float(number.removesuffix("%")) / 100 if number.endswith("%") else float(number)
            for number in numbers.split(", ")
        )
    return Spread(origin.get("on") == here, stated)


def _value(text: str) -> float:
    return float(text.replace(",", ""))


def _unit(text: str) -> float:
    """What printing two numbers may have rounded them apart: one in the last decimal, nothing of whole numbers."""
    return float("." in text) * 10.0 ** -len(text.partition(".")[2])


# --------------------------------------------------------------------------------------------------------- comparing


def differences(one: Shown, output: str, *, sampled: bool, folder: Path, here: str) -> list[str]:
    """What of a table or figure is not as the command made it on the kind of processor `here`; nothing if all is."""
    origin, spread = one.origin, spread_of(one.origin, here)
    if one.table is None:
        picture = _picture(ROOT / one.image, folder / origin.get("file", one.image))
        return [*_missing_text(origin, output, spread), *_words(origin), *picture]
    if origin.get("compare") == "numbers":
        return [*_missing_text(origin, output, spread), *_numbers(one.table, output, origin.get("columns"), spread)]
    made = made_table(one, output)
    if made is None:
        return [f"the command prints no table {one.table.title!r} with these headings"] * (not sampled)
    if origin.get("compare") == "shape":
        ours, theirs = ([row[0] for row in t.rows] for t in (one.table, made))
        return [f"rows {ours} are shown, {theirs} were made"] * (ours != theirs)
    wrong = [] if sampled else _titles(one.table, made, spread)
    return [*wrong, *_rows(one.table, made, sampled=sampled, spread=spread)]


def made_table(one: Shown, output: str) -> Table | None:
    """The table of a page among those that its command prints."""
    assert one.table is not None
    made = [t for t in tables_in(output) if t.header == one.table.header]
    titled = [t for t in made if bare(t.title) == bare(one.table.title)]
    if not made or (len(made) > 1 and not titled):
        return None
    return titled[0] if titled else made[0]


def bare(title: str) -> str:
    """A title without what stands in brackets, after it, or emphasised."""
    return re.split(r"\*\*|, teacher| \(", title)[0].strip()


def _titles(ours: Table, made: Table, spread: Spread) -> list[str]:
    shown_, theirs = (" ".join(NUMBER.findall(table.title)) for table in (ours, made))
    if bare(ours.title) != bare(made.title) or spread.allows("title", shown_, theirs):
        return []
    return [f"the title {ours.title!r} is shown, {made.title!r} was made"]


def _rows(ours: Table, made: Table, *, sampled: bool, spread: Spread) -> Iterator[str]:
    if not sampled and [row[0] for row in ours.rows] != [row[0] for row in made.rows]:
        yield f"rows {[row[0] for row in ours.rows]} are shown, {[row[0] for row in made.rows]} were made"
        return
    for row in made.rows:
        mine = next((r for r in ours.rows if r[0] == row[0]), None)
        if mine is None:
            yield f"the row {row[0]} was made, and is not shown"
            continue
        for k, (name, shown_, cell) in enumerate(zip(ours.header, mine, row, strict=True)):
            errors = [
                _value(numbers[1]) for r in ours.rows if "±" in r[k] and len(numbers := NUMBER.findall(r[k])) == 2
            ]
            if not spread.allows(name, shown_, cell, errors):
                yield f"{row[0]}, {name}: {shown_} is shown, {cell} was made"


def _numbers(table: Table, output: str, columns: str | None, spread: Spread) -> Iterator[str]:
    """Each number of the table is somewhere in the output, as it is or as a percentage; elsewhere one that is near."""
    wanted = None if columns is None else columns.split(", ")
    made = {Decimal(text.replace(",", "")) for text in NUMBER.findall(output)}
    made |= {100 * number for number in made} | {number / 100 for number in made}
    for row in table.rows:
        for name, cell in zip(table.header[1:], row[1:], strict=True):
            if wanted is not None and name not in wanted:
                continue
            for text in NUMBER.findall(cell):
                near = (f"{number:f}" for number in made)
                if Decimal(text.replace(",", "")) not in made and not any(spread.allows(name, text, n) for n in near):
                    yield f"{row[0]}, {name}: {text} is shown, and is not in what the command prints"


def _missing_text(origin: dict[str, str], output: str, spread: Spread) -> list[str]:
    printed = " ".join(output.split())
    return [
        f"the command does not say {part!r}"
        for part in filter(None, origin.get("says", "").split("; "))
        if not any(spread.allows("says", part, text) for text in _like(part, printed))
    ]


def _like(part: str, printed: str) -> list[str]:
    """The places of an output that are a text with other numbers."""
    number = NUMBER.pattern
    return re.findall(number.join(map(re.escape, NUMBER.split(part))), printed)


def _words(origin: dict[str, str]) -> Iterator[str]:
    """What running text says of a figure stands there, with no numbers but those that its command must print."""
    numbers = set(NUMBER.findall(origin.get("says", "")))
    for part in filter(None, origin.get("words", "").split("; ")):
        page, _, text = part.partition(": ")
        if text not in " ".join((ROOT / page).read_text().split()):
            yield f"{page} does not say {text!r}"
        for number in NUMBER.findall(text):
            if number not in numbers:
                yield f"{page} says {text!r}, and {number} is not in what the command must say"


def _picture(ours: Path, made: Path) -> Iterator[str]:
    import numpy as np
    from PIL import Image

    if not made.is_file():
        yield f"the command did not write {made.name}"
        return
    with Image.open(ours) as one, Image.open(made) as other:
        if any(abs(a - b) > 0.02 * a for a, b in zip(one.size, other.size, strict=True)):
            yield f"{ours.name} has {one.size} points, and {other.size} were made"
        grey = [np.asarray(image.convert("L").resize(GREY), np.float64) / 255 for image in (one, other)]
    apart = float(np.abs(grey[0] - grey[1]).mean())
    if apart > ALIKE:
        yield f"{ours.name} differs from what was made by {apart:.1%} of black to white on average"


def misquoted(one: Shown) -> Iterator[str]:
    """What of a table that is quoted from another page is not what stands there."""
    origin = one.origin
    assert one.table is not None, "figures are not quoted"
    source = tables_in((ROOT / origin["quoted from"]).read_text())
    titles = origin["table"].split("; ")
    tables = [t for t in source if t.title.rstrip("*").startswith(tuple(titles))]
    if len(tables) < len(titles):
        yield f"{origin['quoted from']} has no table {origin['table']}"
        return
    mine, _, theirs = origin.get("columns", "").partition(" = ")
    for row in one.table.rows:
        quoted = next(((t, r) for t in tables if (r := t.row(row[0])) is not None), None)
        if quoted is None:
            yield f"{row[0]}: is not in {origin['quoted from']}"
            continue
        if not mine:
            cell, there = " | ".join(row), " | ".join(quoted[1])
        else:
            cell = row[one.table.header.index(mine)]
            there = ", ".join(quoted[1][quoted[0].header.index(name)].split(" ± ")[0] for name in theirs.split(", "))
        if cell != there:
            yield f"{row[0]}: {cell} is shown, {there} stands in {origin['quoted from']}"
