"""The commands that show what there is, by name, and write a scenario to start from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from fl_sim.cli.arguments import out
from fl_sim.errors import FlSimError


def new(
    file: Annotated[Path, typer.Argument(help="Where to write it; must not exist.")],
    like: Annotated[str, typer.Option(help="The shipped scenario to start from.")] = "digits",
) -> None:
    """Write a commented scenario to start from."""
    from fl_sim.scenario.toml import locate, shipped

    if file.exists():
        raise FlSimError(f"{file}: is there already; choose another name")
    text = locate(like).read_text(encoding="utf-8") if like in shipped() else ""
    if not text:
        raise FlSimError(f"--like {like}: no shipped scenario has that name; there are: {', '.join(shipped())}")
    try:
        file.write_text(text + _MORE, encoding="utf-8")
    except OSError as error:
        raise FlSimError(f"{file}: cannot be written: {error.strerror}") from None
    out.print(
        f"{escape(str(file))} is a copy of {like}. Change it, then: fl-sim run {escape(str(file))}", soft_wrap=True
    )


_MORE = """
# What else can be said (fl-sim list shows all names):
#
# [data]       image_size = 28;  calibration_from = "test" (of a set that has one of its own)
# [clients]    partition = "iid" | "dirichlet" | "pathological" (with classes_per_client = 2) | "quantity-skew"
#              min_calibration = 10      draw the partition again until every client has that many points
#              test = "shared"           every client is tested on the whole test set
#              tier_by = "size"          the first tier takes the clients with the fewest points
# [[clients.tier]]      optimizer = "adamw" | "sgd", schedule = "cosine"
#                       partition = "dirichlet", concentration = 0.1    of this tier's clients alone
#                       cohort = 16       so many clients with models of their own train together; 1: one by one
# [[clients.tier]]      quantiles = [0.025, 0.975]    regression with score = "cqr": two heads in place of the mean
# [[clients.behaviour]] kind = "label-shuffle" | "sign-flip" | "noise" | "inflate" | "free-rider" | "constant" | "nan" |
#                       "wrong-n" | "raise" | "dropout" | "straggler" (with delay = 10);  share = 0.1, tier = "weak"
# [learn]      name = "own" | "fedavg" (with rounds = 10) | "module:object"
#              name = "plada" (with budget_bytes = 2000 or keep_fraction = 0.01, rule = "rehearsed" | "lowest" | ...),
#              [learn.teacher] with architecture and epochs, [reference] sets = ["glyphs-pool"], and data.server;
#              or what it is measured against: "coreset", "weights", "probe"; see plada-then-fedwqcp
# [calibrate]  name = "grouped" | "local" | "pooled" | "fcp" | "none" | ... (fl-sim list strategies) | "module:object"
#              score = "aps" | { name = "raps", randomized = true, penalty = 0.01, k_reg = 1 }
#              small_n = "clip" | "inf" | "drop"
# [runtime]    name = "ray" | "inline" | "flower";  on_failure = "stop" | "skip";  timeout = 600;  device = "cuda"
"""


def list_names(
    what: Annotated[
        str | None, typer.Argument(help="strategies, datasets, models or scenarios; all if left out.")
    ] = None,
) -> None:
    """What there is, by name."""
    if what is not None and what not in _LISTS:
        raise FlSimError(f"list {what}: choose one of {', '.join(_LISTS)}")
    for name in [what] if what else _LISTS:
        table = Table(title=name, title_justify="left", title_style="bold", box=None, pad_edge=False, show_header=False)
        for row in _LISTS[name]():
            table.add_row(*map(escape, row))
        out.print(table)
        out.print()


def _first_line(thing: Any) -> str:
    return (thing.__doc__ or "").strip().splitlines()[0]


def _strategies() -> list[tuple[str, ...]]:
    from fl_sim.scenario.strategies import CALIBRATE, LEARN

    return [
        (name, kind, _first_line(model))
        for kind, table in (("learn", LEARN), ("calibrate", CALIBRATE))
        for name, model in table.items()
    ]


def _datasets() -> list[tuple[str, ...]]:
    from fl_sim.data.datasets import DATASETS

    return [(s.name, s.task or "", "at hand" if s.at_hand() else "not here", s.about) for s in DATASETS.values()]


def _models() -> list[tuple[str, ...]]:
    from fl_sim.models.architectures import ARCHITECTURES

    return [(name, _first_line(build)) for name, build in ARCHITECTURES.items()]


def _scenarios() -> list[tuple[str, ...]]:
    from fl_sim.scenario.toml import shipped

    return [(name, path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")) for name, path in shipped().items()]


_LISTS: dict[str, Callable[[], list[tuple[str, ...]]]] = {
    "scenarios": _scenarios, "strategies": _strategies, "datasets": _datasets, "models": _models,
}  # fmt: skip
