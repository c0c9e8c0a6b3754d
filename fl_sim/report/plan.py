"""What a sweep is going to do."""

from __future__ import annotations

from pathlib import Path

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from fl_sim.results.sweep_folder import is_finished
from fl_sim.sweep.expand import Sweep, cost

MOST, FIRST, LAST = 40, 20, 5  # points listed at all; of more, how many from the start and from the end


def plan(sweep: Sweep, folder: Path) -> RenderableType:
    """The points with their states (of many the first and the last), then what is left to do and what that costs."""
    table = Table(box=None, pad_edge=False)
    for column in ("point", *sweep.axes, "state"):
        table.add_column(escape(column))
    left_out = len(sweep.points) - FIRST - LAST if len(sweep.points) > MOST else 0
    first: dict[str, int] = {}
    for number, point in enumerate(sweep.points):
        same = first.setdefault(point.run, number)
        if FIRST <= number < FIRST + left_out:
            continue
        state = "finished" if is_finished(folder, point.run) else "to run" if same == number else f"as point {same}"
        table.add_row(str(number), *(escape(str(value)) for value in point.labels().values()), state)
        if left_out and number == FIRST - 1:
            table.add_row(*["..."] * (len(sweep.axes) + 2))
    parts = f"\n{left_out:,} points, {FIRST} to {FIRST + left_out - 1}, are left out of this list" * bool(left_out)
    costs = cost(sweep, folder)
    return Group(
        table,
        *filter(None, [parts]),
        f"\n{costs.points} points, {costs.runs} different runs, {costs.finished} finished; into {escape(str(folder))}",
        f"to do: {costs.clients} client runs; from an empty store {costs.trainings} models to train, "
        f"{costs.rows / 1e6:.2f} million rows through training",
    )
