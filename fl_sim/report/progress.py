"""Progress on a terminal; elsewhere nothing is shown."""

from __future__ import annotations

from typing import ClassVar, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Bars:
    """What is going on, how many clients have answered, for how long."""

    WORDS: ClassVar[dict[str, str]] = {
        "starting": "starting the runtime",
        "data": "preparing data",
        "train.fit": "training",
        "train": "averaging",
        "train.adopt": "handing out weights",
        "evaluate.sets": "evaluating",
    }

    def __init__(self, console: Console) -> None:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self.console = console
        self.bars = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.task: TaskID | None = None

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def phase(self, name: str, total: int | None) -> None:
        """A new bar in place of the last one."""
        words = self.WORDS.get(name, "calibrating" if name.startswith("query.") else name)
        if self.task is not None:
            self.bars.remove_task(self.task)
        self.task = self.bars.add_task(words, total=total)

    def done(self, count: int) -> None:
        """Move it on."""
        if self.task is not None:
            self.bars.advance(self.task, count)


class SweepBars(Bars):
    """Above the bar of the run that is going on, one for all runs, with the time left."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        columns = (*self.bars.columns, TextColumn("left"), TimeRemainingColumn())
        self.all = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.bars = self.all  # one display; a run's own bar stands under the one for all
        self.runs: TaskID | None = None

    def begin(self, total: int, finished: int) -> None:
        """So many runs, of which so many are finished already."""
        if finished:
            self.console.print(f"{finished} of {total} runs are finished already", highlight=False)
        self.runs = self.all.add_task("runs", total=total, completed=finished)

    def point(self, words: str) -> None:
        """A run begins."""
        if self.runs is not None:
            self.all.update(self.runs, description=escape(words))

    def ended(self, words: str, failure: str | None) -> None:
        """A run has ended, well or not."""
        if self.runs is not None:
            self.all.advance(self.runs)
        if failure is not None:
            reason = failure.strip().splitlines()[-1]
            self.console.print(f"[red]failed[/] {escape(words)}: {escape(reason)}", highlight=False, soft_wrap=True)
