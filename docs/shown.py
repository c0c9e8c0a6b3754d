"""The tables and figures of README.md and docs/, and what their markers say of where they are from."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MADE = "<!-- made by `make docs`"  # first line of a page that docs/generate.py writes, and a test holds current
KINDS = ("made by", "quoted from", "in words")
KEYS = frozenset(
    {*KINDS, "seconds", "tables", "compare", "columns", "table", "sample", "sample seconds", "file", "says", "words"}
    | {"on", "spread"}
)
WAYS = ("cells", "numbers", "shape")

COMMENT = re.compile(r"^<!--(.*?)-->", re.DOTALL | re.MULTILINE)  # indented ones are examples
IMAGE = re.compile(r"!\[[^\]]*\]\(([^)\s]+)\)")


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
    origin: dict[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """Where a reader finds it."""
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """README.md and all of docs/, but for those that another test holds current."""
    paths = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [page for page in paths if not page.read_text().startswith(MADE)]


def shown(page: Path) -> list[Shown]:
    """The tables and figures of a page, in its order.

    Raises:
        ValueError: a marker that says what no marker can.
    """
    text, name = page.read_text(), page.relative_to(ROOT).as_posix()
    marks = [(text[: m.start()].count("\n") + 1, origin) for m in COMMENT.finditer(text) if (origin := marker(m[1]))]
    things: list[Shown] = []
    waiting: list[dict[str, str]] = []  # one for each table that the last marker speaks of
    for line, what in _things(text):
        while marks and marks[0][0] < line:
            if waiting:
                raise ValueError(f"{name}:{marks[0][0]}: a marker before the last one had its {len(waiting)} more")
            origin = marks.pop(0)[1]
            waiting = [origin] * int(origin.get("tables", 1))
        origin = waiting.pop(0) if waiting else {}
        if isinstance(what, Table):
            things.append(Shown(name, line, what, "", origin))
        else:
            image = Path(os.path.normpath(page.parent / what)).relative_to(ROOT).as_posix()
            things.append(Shown(name, line, None, image, origin))
    return things


def marker(comment: str) -> dict[str, str]:
    """`made by: COMMAND | seconds: 5` -> its keys; nothing for a comment of another kind."""
    words = " ".join(comment.split())
    if not words.startswith(KINDS):
        return {}
    pairs = (part.partition(":") for part in re.split(r" \| ", words))
    keys = {key.strip(): value.strip() for key, _, value in pairs}
    wrong = set(keys) - KEYS
    if wrong or keys.get("compare", "cells") not in WAYS or ("made by" in keys and "seconds" not in keys):
        raise ValueError(f"<!-- {words} -->: keys are {', '.join(sorted(KEYS))}; compare is one of {', '.join(WAYS)}")
    return keys


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
