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
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from compare import differences, made_table, misquoted
from shown import KINDS, Shown, pages, shown

from fl_sim.runtime.processor import kind

ROOT = Path(__file__).resolve().parent.parent
GALLERY = "docs/gallery.md"  # a figure's command stands there, wherever else it is shown
A_MINUTE = 60.0
UNRECORDED = "unrecorded"  # the kind of processor of numbers that were made before it was recorded


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
            "FL_SIM_FIGURES": "png",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT / "examples"), os.environ.get("PYTHONPATH", "")])),
        }
        try:
            run = subprocess.run(
                ["bash", "-c", step], cwd=self.folder, env=environment, capture_output=True, text=True, timeout=most
            )
        except subprocess.TimeoutExpired:
            raise Failed(f"took more than {most:.0f} s: {step}") from None
        if run.returncode:
            lines = (run.stderr.strip() or run.stdout.strip() or "no word").splitlines()
            raise Failed(f"exit code {run.returncode}: {lines[-1]}")
        return run.stdout


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
    things = [one for page in pages() for one in shown(page)]
    commands = {one.image: one.origin for one in things if one.image and one.page == GALLERY}
    return [
        Shown(one.page, one.line, None, one.image, commands.get(one.image, {})) if one.image and not one.origin else one
        for one in things
    ]


def job(one: Shown, most: float) -> Job | None:
    """What is run where a command may take `most` seconds: the command, its sample, or nothing."""
    origin = one.origin
    if "made by" not in origin:
        return None
    if float(origin["seconds"]) <= most:
        return Job(one, origin["made by"], float(origin["seconds"]), sampled=False)
    if "sample" in origin and float(origin["sample seconds"]) <= most:
        return Job(one, origin["sample"], float(origin["sample seconds"]), sampled=True)
    return None


def listing(things: Sequence[Shown], most: float) -> None:
    """Print what there is."""
    for one in things:
        planned, origin = job(one, most), one.origin
        what = one.image.rpartition("/")[2] or f"table, {len(one.table.rows) if one.table else 0} rows"
        if "made by" in origin:
            runs = "sample" if planned and planned.sampled else "run" if planned else "left"
            command = planned.command if planned else origin["made by"]
            print(f"{runs:8} {one.place:32} {what:24} {origin['seconds']:>6} s  {command}")
        else:
            kind = next((kind for kind in KINDS if kind in origin), "NOTHING SAID")
            print(f"{kind:12} {one.place:28} {what}")


def check(things: Sequence[Shown], most: float, place: Workplace, here: str, *, mend: bool = False) -> int:
    """Print a line for each, and return how many are wrong."""
    wrong = left = 0
    print(f"on {here}", flush=True)
    for one in things:
        planned, began, faults = job(one, most), time.monotonic(), []
        if planned is not None:
            try:
                output = place.output(planned.command, planned.seconds)
                faults = differences(one, output, sampled=planned.sampled, folder=place.folder, here=here)
                if mend and not planned.sampled and (faults or one.origin.get("on") != here):
                    mended(one, output, place.folder, here)
            except Failed as failure:
                faults = [str(failure)]
        elif "quoted from" in one.origin:
            faults = [*misquoted(one)]
        elif not one.origin:
            faults = ["nothing says where it is from"]
        elif "made by" in one.origin:
            left += 1
            continue
        else:
            continue
        wrong += bool(faults)
        how = ", a sample" if planned and planned.sampled else ""
        how += (
            ""
            if not planned or one.origin.get("on") == here
            else f", within its spread (made on {one.origin.get('on')})"
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
        shutil.copyfile(folder / one.origin.get("file", one.image), ROOT / one.image)
    elif "compare" not in one.origin and (made := made_table(one, output)) is not None:
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
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--fast", type=float, nargs="?", const=A_MINUTE, default=A_MINUTE, metavar="SECONDS")
    how.add_argument("--all", action="store_true")
    parser.add_argument("--list", action="store_true", help="run nothing")
    parser.add_argument("--mend", action="store_true", help="write what was made here into the pages")
    parser.add_argument("--only", default="", help="pages, or commands, in which this is found")
    parser.add_argument("--keep", type=Path, help="run there, and go on from what is there")
    options = parser.parse_args()
    most = float("inf") if options.all else options.fast
    things = [one for one in everything() if options.only in f"{one.page} {one.origin.get('made by', '')}"]
    if options.list:
        listing(things, most)
        return
    with ExitStack() as stack:
        if options.keep:
            options.keep.mkdir(parents=True, exist_ok=True)
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="docs-check-")))
        sys.exit(bool(check(things, most, Workplace(folder.resolve()), kind(), mend=options.mend)))


if __name__ == "__main__":
    main()
