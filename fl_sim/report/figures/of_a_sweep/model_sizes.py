"""What doubling the size of trees or boostings buys in accuracy, beside how far clients disagree."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fl_sim.agreement.model_size import NO_BOUND, DoublingOfSize, Measured, doublings, enough, size_of
from fl_sim.report import sweep_points as over
from fl_sim.report.figures.marks import ticks
from fl_sim.report.figures.sheet import Words, side_by_side
from fl_sim.report.figures.style import SOFT, look
from fl_sim.report.numbers import count, number
from fl_sim.report.sweep_results import SweepResults
from fl_sim.results.run import Result

ORDER = 40
HEIGHT, NARROWEST = 2.4, 2.6  # inches of a panel


@dataclass(frozen=True)
class Sizes:
    """What a sweep over one kind of size found."""

    what: str  # "depth" or "stages"
    rows: list[DoublingOfSize]
    within: float  # `agreement.within`: what doubling must gain to be worth it

    @property
    def finding(self) -> str:
        """From which size on doubling buys no accuracy, and what disagreement is left there; a sentence."""
        n = enough(self.rows, self.within)
        if n is None:
            return f"Up to {self.what} {self.rows[-1].size}, the largest here, doubling still lowers the risk."
        here = next(row for row in self.rows if row.size == n)
        left = f"two clients' models still differ by {number(here.disagreement)}, their risk being {number(here.risk)}"
        return f"From {self.what} {n} on doubling buys no accuracy; {left}."

    @property
    def beyond(self) -> str:
        """At which sizes D_n is more than 4 (R_n - R_2n), by more than two standard errors; a sentence."""
        sizes = [str(row.size) for row in self.rows if row.excess is not None and row.excess > 2 * row.excess_se]
        where = f"at {self.what} {', '.join(sizes)}" if sizes else "at none of these sizes"
        return f"D_n is more than 4 (R_n - R_2n), beyond two standard errors, {where}."


def sizes_of(results: Iterable[Result], axes: Sequence[str]) -> Sizes | None:
    """What the runs of a sweep tell of sizes; None unless all are of one kind of tree, `[agreement]` was measured, and
    beside the seed one axis alone differs."""
    measured, kinds, within = [], set(), 0.0
    for result in results:
        scenario, agreement = result.scenario, result.summary.get("agreement")
        sizes = {size_of(tier.architecture, tier.epochs) for tier in scenario.clients.tier if tier.share != 0}
        size = sizes.pop() if len(sizes) == 1 else None
        if size is None or not agreement or scenario.agreement is None:
            return None
        within = scenario.agreement.within
        kinds.add(size[0])
        measured.append(Measured(size[1], scenario.seed, agreement["risk"], agreement["disagreement"]))
    several = len({one.size for one in measured}) > 1
    twice = len({(one.size, one.seed) for one in measured}) < len(measured)
    if sum(axis != "seed" for axis in axes) != 1 or len(kinds) != 1 or not several or twice:
        return None
    return Sizes(kinds.pop(), doublings(measured), within)


def draw(sweep: SweepResults) -> list[Figure]:
    """R_n on the left; on the right 4 (R_n - R_2n) and D_n; bars are two standard errors over the seeds."""
    if not over.has(sweep.points, over.DISAGREEMENT):
        return []
    sizes = sizes_of(sweep.results.values(), sweep.axes)
    return [] if sizes is None else [figure_of(sizes, sweep.title)]


def figure_of(sizes: Sizes, title: str) -> Figure:
    """The figure."""
    gains, apart = look(1), look(0)
    key = [
        Line2D([], [], **apart, label="D_n, disagreement of two clients"),
        Line2D([], [], **gains, linestyle="--", label="4 (R_n - R_2n), no bound here"),
    ]
    seeds = max(row.seeds for row in sizes.rows)
    caption = f"{sizes.beyond} {NO_BOUND} Bars: two standard errors over {count(seeds, 'seed')}."
    words = Words(sizes.finding.removesuffix("."), title, caption)
    figure, (left, right) = side_by_side(words, 2, HEIGHT, narrowest=NARROWEST, across=0.75, key=key)
    _line(left, sizes.rows, "risk", color=SOFT, marker="o")
    _line(right, sizes.rows, "disagreement", **apart)
    _line(right, [row for row in sizes.rows if row.four_gains is not None], "four_gains", linestyle="--", **gains)
    right.axhline(0, color=SOFT, linewidth=0.6, gid="zero")
    for ax, words_ in ((left, "R_n, mean risk of a client"), (right, "squared difference")):
        ax.set_xscale("log", base=2)
        ax.set_xticks([row.size for row in sizes.rows], [str(row.size) for row in sizes.rows])
        ax.set_xlabel(f"n, {sizes.what}")
        ax.set_ylabel(words_)
        ax.yaxis.set_major_locator(ticks(6))
    left.set_ylim(bottom=0)
    return figure


def _line(ax: Axes, rows: Sequence[DoublingOfSize], name: str, **style: Any) -> None:
    means = [getattr(row, name) for row in rows]
    errors = 2 * np.array([getattr(row, f"{name}_se") for row in rows])
    ax.errorbar([row.size for row in rows], means, errors, capsize=2, markersize=4, linewidth=1.2, **style)
