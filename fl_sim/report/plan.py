"""What a sweep is going to do."""

from __future__ import annotations

from pathlib import Path

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from fl_sim.points import Sweep, cost, is_finished


def plan(sweep: Sweep, folder: Path) -> RenderableType:
    """Every point with its state, then what is left to do and what that costs."""
    table = Table(box=None, pad_edge=False)
    for column in ("point", *sweep.axes, "state"):
        table.add_column(escape(column))
    first: dict[str, int] = {}
    for number, point in enumerate(sweep.points):
        same = first.setdefault(point.run, number)
        state = "finished" if is_finished(folder, point.run) else "to run" if same == number else f"as point {same}"
        table.add_row(str(number), *(escape(str(value)) for value in point.labels().values()), state)
    told = cost(sweep, folder)
    return Group(
        table,
        f"\n{told.points} points, {told.runs} different runs, {told.finished} finished; into {escape(str(folder))}",
        f"to do: {told.clients} client runs; from an empty store {told.trainings} models to train, "
        f"{told.rows / 1e6:.2f} million rows through training",
    )
