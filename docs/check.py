"""Do the tables and figures of README.md and docs/ come out of the commands that they state?

    make docs-check                                  the fast part: each command of at most a minute
    .venv/bin/python docs/check.py --fast 30         each of at most so many seconds
    .venv/bin/python docs/check.py --all             everything: hours
    .venv/bin/python docs/check.py --list            what there is, and what it takes
    .venv/bin/python docs/check.py --all --only plada.md --keep runs/check    one page, in a folder that is kept

Before each table and figure of these pages stands a comment that says where it is from; docs/reproduce.md has the
words. Commands run in a fresh folder with a fresh artifact store, joined by `&&`; a step that several of them share
runs once.

What is compared. Tables: every cell, as text, with the Markdown table of that title in what the command prints. By its
marker, a table may instead be held against a part of the rows (`sample`), or have only its numbers looked for in the
output (`compare: numbers`, for tables that are laid out anew), or only its headings and row names (`compare: shape`,
for wall times). Figures: the file is written, as wide and high as ours within 2 %, alike as a coarse grey picture
(fonts and their edges differ between machines), and the command prints the numbers that the marker names (`says`).

On which processor. Float sums are rounded otherwise on another kind of processor (fl_sim/runtime/processor.py), so a
marker says on which kind its numbers were made (`on`). On that kind they must come out to the digit. On any other they
must lie within the spread that the table itself states, or that its marker does (`spread`); what has no spread must
come out to the digit everywhere. docs/reproduce.md has the rule.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

from fl_sim.runtime.processor import kind

ROOT = Path(__file__).resolve().parent.parent
GALLERY = "docs/gallery.md"  # a figure's command stands there, wherever else it is shown
MADE = "<!-- made by `make docs`"  # first line of a page that docs/generate.py writes, and a test holds current
KINDS = ("made by", "quoted from", "in words")
KEYS = frozenset(
    {*KINDS, "seconds", "tables", "compare", "columns", "table", "sample", "sample seconds", "file", "says", "words"}
    | {"on", "spread"}
)
WAYS = ("cells", "numbers", "shape")
A_MINUTE = 60.0
UNRECORDED = "unrecorded"  # the kind of processor of numbers that were made before it was recorded
_ROUNDED = 1e-12  # of sums and differences of what is printed
FEW = 4  # standard errors by which a mean may differ on another kind of processor
GREY, ALIKE = (64, 64), 0.01  # the coarse picture, and how much of black to white its points may differ on average

COMMENT = re.compile(r"^<!--(.*?)-->", re.DOTALL | re.MULTILINE)  # indented ones are examples
IMAGE = re.compile(r"!\[[^\]]*\]\(([^)\s]+)\)")
NUMBER = re.compile(r"(?<![\w.])-?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+|(?<=\d))(?![\d])")
ENTRY = re.compile(rf"{NUMBER.pattern}|\binf\b")  # of a cell


# ------------------------------------------------------------------------------------------------------- what there is


@dataclass(frozen=True)
class Table:
    """A table of a page or of an output."""

    title: str  # the line in bold before it, or the heading it stands under
    header: list[str]
    rows: list[list[str]]

    def row(self, name: str) -> list[str] | None:
        """The row of that name, or the first of it with options: `q-dcp` is `q-dcp(rounds=50)`."""
        exact = [row for row in self.rows if row[0] == name]
        return next(iter(exact or [row for row in self.rows if row[0].startswith(f"{name}(")]), None)


@dataclass(frozen=True)
class Shown:
    """A table or a figure of a page, and what is said of where it is from."""

    page: str  # relative to the repository
    line: int
    table: Table | None
    image: str  # relative to the repository; empty for a table
    told: dict[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """Where a reader finds it."""
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """README.md and all of docs/, but for those that another test holds current."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [page for page in found if not page.read_text().startswith(MADE)]


def shown(page: Path) -> list[Shown]:
    """The tables and figures of a page, in its order.

    Raises:
        ValueError: a marker that says what no marker can.
    """
    text, name = page.read_text(), page.relative_to(ROOT).as_posix()
    marks = [(text[: m.start()].count("\n") + 1, told) for m in COMMENT.finditer(text) if (told := marker(m[1]))]
    found: list[Shown] = []
    waiting: list[dict[str, str]] = []  # one for each table that the last marker speaks of
    for line, what in _things(text):
        while marks and marks[0][0] < line:
            if waiting:
                raise ValueError(f"{name}:{marks[0][0]}: a marker before the last one had its {len(waiting)} more")
            told = marks.pop(0)[1]
            waiting = [told] * int(told.get("tables", 1))
        told = waiting.pop(0) if waiting else {}
        if isinstance(what, Table):
            found.append(Shown(name, line, what, "", told))
        else:
            image = Path(os.path.normpath(page.parent / what)).relative_to(ROOT).as_posix()
            found.append(Shown(name, line, None, image, told))
    return found


def marker(comment: str) -> dict[str, str]:
    """`made by: COMMAND | seconds: 5` -> its keys; nothing for a comment of another kind."""
    words = " ".join(comment.split())
    if not words.startswith(KINDS):
        return {}
    pairs = (part.partition(":") for part in re.split(r" \| ", words))
    told = {key.strip(): value.strip() for key, _, value in pairs}
    wrong = set(told) - KEYS
    if wrong or told.get("compare", "cells") not in WAYS or ("made by" in told and "seconds" not in told):
        raise ValueError(f"<!-- {words} -->: keys are {', '.join(sorted(KEYS))}; compare is one of {', '.join(WAYS)}")
    return told


def _things(text: str) -> Iterator[tuple[int, Table | str]]:
    """(line, a table or an image's path), from 1, in order; code blocks are not looked at."""
    lines, title, fenced, at = text.split("\n"), "", False, 0
    while at < len(lines):
        line = lines[at]
        fenced ^= line.startswith("```")
        bold = re.match(r"\*\*(.+?)\*\*", line)
        if not fenced and (line.startswith("#") or bold):
            title = bold[1] + line[bold.end() :] if bold else line.lstrip("# ")
        if not fenced and line.startswith("|") and at + 1 < len(lines) and re.match(r"\|[-: |]+$", lines[at + 1]):
            end = next((i for i in range(at, len(lines)) if not lines[i].startswith("|")), len(lines))
            yield at + 1, Table(title, _cells(line), [_cells(row) for row in lines[at + 2 : end]])
            at = end
            continue
        if not fenced:
            yield from ((at + 1, image) for image in IMAGE.findall(line))
        at += 1


def _cells(line: str) -> list[str]:
    """Of a row, without marks of emphasis and code."""
    inner = line.strip().removeprefix("|").removesuffix("|")
    return [re.sub(r"^\*\*(.*)\*\*$|^`(.*)`$", r"\1\2", cell.strip()) for cell in re.split(r"(?<!\\)\|", inner)]


def tables_in(text: str) -> list[Table]:
    """The Markdown tables of a text."""
    return [thing for _, thing in _things(text) if isinstance(thing, Table)]


# ---------------------------------------------------------------------------------------------------------- commands


class Failed(Exception):
    """A command that ended in an error."""


@dataclass
class Workplace:
    """A folder in which the commands run, as if it were a checkout; each step runs once."""

    folder: Path
    done: dict[str, str] = field(default_factory=dict)  # step -> what it printed

    def __post_init__(self) -> None:
        (self.folder / "docs" / "images").mkdir(parents=True, exist_ok=True)
        for name in ("benchmarks", "scenarios", "examples"):
            self._link(name, ROOT / name)
        self._link(".venv", Path(sys.prefix))

    def _link(self, name: str, target: Path) -> None:
        if not (self.folder / name).is_symlink():
            (self.folder / name).symlink_to(target)

    def output(self, command: str, seconds: float) -> str:
        """What the last step of `A && B` prints.

        Raises:
            Failed: with the end of what was said.
        """
        for step in command.split(" && "):
            if step not in self.done:
                self.done[step] = self._run(step, max(600.0, 10 * seconds))
        return self.done[command.split(" && ")[-1]]

    def _run(self, step: str, most: float) -> str:
        environment = os.environ | {
            "FL_SIM_STORE": str(self.folder / "store"),
            "COLUMNS": "250",  # a narrow terminal leaves columns out
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT / "examples"), os.environ.get("PYTHONPATH", "")])),
        }
        try:
            run = subprocess.run(
                ["bash", "-c", step], cwd=self.folder, env=environment, capture_output=True, text=True, timeout=most
            )
        except subprocess.TimeoutExpired:
            raise Failed(f"took more than {most:.0f} s: {step}") from None
        if run.returncode:
            said = (run.stderr.strip() or run.stdout.strip() or "no word").splitlines()
            raise Failed(f"exit code {run.returncode}: {said[-1]}")
        return run.stdout


# ------------------------------------------------------------------------------------------------------------- spread


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


def spread_of(told: dict[str, str], here: str) -> Spread:
    """What the marker allows on the kind of processor `here`.

    >>> spread_of({"on": "a", "spread": "worst = 0.02; rejected, size = 3, 5 %"}, "b").stated
    {'worst': (0.02,), 'rejected, size': (3.0, -0.05)}
    """
    stated = {}
    for part in filter(None, told.get("spread", "").split("; ")):
        column, _, numbers = part.rpartition(" = ")
        stated[column] = tuple(
            -float(number.removesuffix("%")) / 100 if number.endswith("%") else float(number)
            for number in numbers.split(", ")
        )
    return Spread(told.get("on") == here, stated)


def _value(text: str) -> float:
    return float(text.replace(",", ""))


def _unit(text: str) -> float:
    """What printing two numbers may have rounded them apart: one in the last decimal, nothing of whole numbers."""
    return float("." in text) * 10.0 ** -len(text.partition(".")[2])


# --------------------------------------------------------------------------------------------------------- comparing


def differences(one: Shown, output: str, *, sampled: bool, folder: Path, here: str) -> list[str]:
    """What of a table or figure is not as the command made it on the kind of processor `here`; nothing if all is."""
    told, spread = one.told, spread_of(one.told, here)
    if one.table is None:
        picture = _picture(ROOT / one.image, folder / told.get("file", one.image))
        return [*_not_said(told, output, spread), *_words(told), *picture]
    if told.get("compare") == "numbers":
        return [*_not_said(told, output, spread), *_numbers(one.table, output, told.get("columns"), spread)]
    found = made_table(one, output)
    if found is None:
        return [f"the command prints no table {one.table.title!r} with these headings"] * (not sampled)
    if told.get("compare") == "shape":
        ours, theirs = ([row[0] for row in t.rows] for t in (one.table, found))
        return [f"rows {ours} are shown, {theirs} were made"] * (ours != theirs)
    wrong = [] if sampled else _titles(one.table, found, spread)
    return [*wrong, *_rows(one.table, found, sampled=sampled, spread=spread)]


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
            errors = [_value(found[1]) for r in ours.rows if "±" in r[k] and len(found := NUMBER.findall(r[k])) == 2]
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


def _not_said(told: dict[str, str], output: str, spread: Spread) -> list[str]:
    said = " ".join(output.split())
    return [
        f"the command does not say {part!r}"
        for part in filter(None, told.get("says", "").split("; "))
        if not any(spread.allows("says", part, found) for found in _like(part, said))
    ]


def _like(part: str, said: str) -> list[str]:
    """The places of an output that are a text with other numbers."""
    number = NUMBER.pattern
    return re.findall(number.join(map(re.escape, NUMBER.split(part))), said)


def _words(told: dict[str, str]) -> Iterator[str]:
    """What running text says of a figure stands there, with no numbers but those that its command must print."""
    said = set(NUMBER.findall(told.get("says", "")))
    for part in filter(None, told.get("words", "").split("; ")):
        page, _, text = part.partition(": ")
        if text not in " ".join((ROOT / page).read_text().split()):
            yield f"{page} does not say {text!r}"
        for number in NUMBER.findall(text):
            if number not in said:
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
    told = one.told
    assert one.table is not None, "figures are not quoted"
    source = tables_in((ROOT / told["quoted from"]).read_text())
    titles = told["table"].split("; ")
    tables = [t for t in source if t.title.rstrip("*").startswith(tuple(titles))]
    if len(tables) < len(titles):
        yield f"{told['quoted from']} has no table {told['table']}"
        return
    mine, _, theirs = told.get("columns", "").partition(" = ")
    for row in one.table.rows:
        found = next(((t, r) for t in tables if (r := t.row(row[0])) is not None), None)
        if found is None:
            yield f"{row[0]}: is not in {told['quoted from']}"
            continue
        if not mine:
            cell, there = " | ".join(row), " | ".join(found[1])
        else:
            cell = row[one.table.header.index(mine)]
            there = ", ".join(found[1][found[0].header.index(name)].split(" ± ")[0] for name in theirs.split(", "))
        if cell != there:
            yield f"{row[0]}: {cell} is shown, {there} stands in {told['quoted from']}"


# ----------------------------------------------------------------------------------------------------------- the check


@dataclass(frozen=True)
class Job:
    """A command that is to be run for a table or figure."""

    one: Shown
    command: str
    seconds: float
    sampled: bool


def everything() -> list[Shown]:
    """All tables and figures; a figure has the marker that it has in the gallery."""
    found = [one for page in pages() for one in shown(page)]
    commands = {one.image: one.told for one in found if one.image and one.page == GALLERY}
    return [
        Shown(one.page, one.line, None, one.image, commands.get(one.image, {})) if one.image and not one.told else one
        for one in found
    ]


def job(one: Shown, most: float) -> Job | None:
    """What is run where a command may take `most` seconds: the command, its sample, or nothing."""
    told = one.told
    if "made by" not in told:
        return None
    if float(told["seconds"]) <= most:
        return Job(one, told["made by"], float(told["seconds"]), sampled=False)
    if "sample" in told and float(told["sample seconds"]) <= most:
        return Job(one, told["sample"], float(told["sample seconds"]), sampled=True)
    return None


def listing(found: Sequence[Shown], most: float) -> None:
    """Print what there is."""
    for one in found:
        planned, told = job(one, most), one.told
        what = one.image.rpartition("/")[2] or f"table, {len(one.table.rows) if one.table else 0} rows"
        if "made by" in told:
            runs = "sample" if planned and planned.sampled else "run" if planned else "left"
            command = planned.command if planned else told["made by"]
            print(f"{runs:8} {one.place:32} {what:24} {told['seconds']:>6} s  {command}")
        else:
            kind = next((kind for kind in KINDS if kind in told), "NOTHING SAID")
            print(f"{kind:12} {one.place:28} {what}")


def check(found: Sequence[Shown], most: float, place: Workplace, here: str, *, mend: bool = False) -> int:
    """Print a line for each, and return how many are wrong."""
    wrong = left = 0
    print(f"on {here}", flush=True)
    for one in found:
        planned, began, faults = job(one, most), time.monotonic(), []
        if planned is not None:
            try:
                output = place.output(planned.command, planned.seconds)
                faults = differences(one, output, sampled=planned.sampled, folder=place.folder, here=here)
                if mend and not planned.sampled and (faults or one.told.get("on") != here):
                    mended(one, output, place.folder, here)
            except Failed as failure:
                faults = [str(failure)]
        elif "quoted from" in one.told:
            faults = [*misquoted(one)]
        elif not one.told:
            faults = ["nothing says where it is from"]
        elif "made by" in one.told:
            left += 1
            continue
        else:
            continue
        wrong += bool(faults)
        how = ", a sample" if planned and planned.sampled else ""
        how += (
            "" if not planned or one.told.get("on") == here else f", within its spread (made on {one.told.get('on')})"
        )
        took = f"{time.monotonic() - began:.0f} s" if planned else "quoted"
        print(f"{'differs' if faults else 'same':8} {one.place:32} {one.image or ''} {took}{how}", flush=True)
        for fault in faults[:12]:
            print(f"         {fault}")
    print(f"{wrong} wrong; {left} left out, which take more than {most:g} s")
    return wrong


def mended(one: Shown, output: str, folder: Path, here: str) -> None:
    """Write what was made, and the kind of processor it was made on, into the page."""
    page = ROOT / one.page
    lines = page.read_text().split("\n")
    if one.table is None:
        shutil.copyfile(folder / one.told.get("file", one.image), ROOT / one.image)
    elif "compare" not in one.told and (made := made_table(one, output)) is not None:
        for at, row in enumerate(one.table.rows, start=one.line + 1):
            new = next((r for r in made.rows if r[0] == row[0]), row)
            cells = lines[at].split(" | ")
            changed = [c if a == b else c.replace(a, b) for c, a, b in zip(cells, row, new, strict=True)]
            lines[at] = " | ".join(changed)
    at = max(k for k in range(one.line) if lines[k].startswith("<!-- made by: "))
    lines[at] = re.sub(r" \| on: .*?(?= \| | -->)", f" | on: {here}", lines[at])
    page.write_text("\n".join(lines))


def main() -> None:
    """Check, or list."""
    asked = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    how = asked.add_mutually_exclusive_group()
    how.add_argument("--fast", type=float, nargs="?", const=A_MINUTE, default=A_MINUTE, metavar="SECONDS")
    how.add_argument("--all", action="store_true")
    asked.add_argument("--list", action="store_true", help="run nothing")
    asked.add_argument("--mend", action="store_true", help="write what was made here into the pages")
    asked.add_argument("--only", default="", help="pages, or commands, in which this is found")
    asked.add_argument("--keep", type=Path, help="run there, and go on from what is there")
    given = asked.parse_args()
    most = float("inf") if given.all else given.fast
    found = [one for one in everything() if given.only in f"{one.page} {one.told.get('made by', '')}"]
    if given.list:
        listing(found, most)
        return
    with ExitStack() as stack:
        if given.keep:
            given.keep.mkdir(parents=True, exist_ok=True)
        folder = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="docs-check-")))
        sys.exit(bool(check(found, most, Workplace(folder.resolve()), kind(), mend=given.mend)))


if __name__ == "__main__":
    main()
