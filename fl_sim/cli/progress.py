"""Progress on a terminal; elsewhere nothing is shown."""

from __future__ import annotations

import re
from typing import ClassVar, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

BEHIND = 58  # columns that a bar, its count and its two times take


class _Count(MofNCompleteColumn):
    """How many of how many, where that is known."""

    def render(self, task: Task) -> Text:
        return super().render(task) if task.total is not None else Text("")


class Bars:
    """What is going on, how many clients have answered, for how long."""

    WORDS: ClassVar[dict[str, str]] = {
        "starting": "starting the runtime",
        "data": "preparing data",
        "train.fit": "training",
        "train": "averaging",
        "train.adopt": "handing out weights",
        "evaluate.sets": "evaluating",
        "evaluate.predictions": "asking about common rows",
    }

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bars = Progress(*self.columns(), console=console, transient=True, disable=not console.is_terminal)
        self.task: TaskID | None = None

    def columns(self) -> tuple[ProgressColumn, ...]:
        """What a bar shows."""
        return (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(20), _Count(), TimeElapsedColumn())

    def fitted(self, words: str) -> str:
        """Words as a description; where the terminal is narrow they give way, not the bar and the times behind them."""
        room = max(self.console.width - BEHIND, 8)
        return escape(words if len(words) <= room else words[: room - 1] + "…")

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
        self.task = self.bars.add_task(self.fitted(words), total=total)

    def done(self, count: int) -> None:
        """Move it on."""
        if self.task is not None:
            self.bars.advance(self.task, count)


class SweepBars(Bars):
    """Above the bar of the run that is going on, one for all runs, with the time left."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.runs: TaskID | None = None

    def columns(self) -> tuple[ProgressColumn, ...]:
        """A run's own bar stands under the one for all."""
        return (*super().columns(), TimeRemainingColumn())

    def begin(self, total: int, finished: int) -> None:
        """So many runs, of which so many are finished already."""
        if finished:
            self.console.print(f"{finished} of {total} runs are finished already", highlight=False)
        self.runs = self.bars.add_task("runs", total=total, completed=finished)

    def placed(self, words: str) -> None:
        """Where the next runs run, and why."""
        self.console.print(f"[dim]{escape(words)}[/]", highlight=False, soft_wrap=True)

    def point(self, words: str) -> None:
        """A run begins."""
        if self.runs is not None:
            # The last word of each key, as in the tables: concentration=0.1, share=0.5, calibrate=local
            self.bars.update(self.runs, description=self.fitted(re.sub(r"[\w-]+\.(?=[A-Za-z_])", "", words)))

    def ended(self, words: str, failure: str | None) -> None:
        """A run has ended, well or not."""
        if self.runs is not None:
            self.bars.advance(self.runs)
        if failure is not None:
            reason = failure.strip().splitlines()[-1]
            self.console.print(f"[red]failed[/] {escape(words)}: {escape(reason)}", highlight=False, soft_wrap=True)
