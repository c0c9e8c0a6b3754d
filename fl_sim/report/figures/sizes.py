"""A sweep over the size of trees or boostings: what doubling it buys in accuracy, beside how far clients disagree."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fl_sim.agreement.model_size import NO_BOUND, DoublingOfSize, Measured, doublings, enough, size_of
from fl_sim.report.figures.style import LEFT, SOFT, WIDTH, look, sheet, ticks
from fl_sim.report.wording import count, number
from fl_sim.results.run import Result

HEIGHT, FLOOR, GAP = 2.6, 0.5, 0.75  # inches


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
        last = self.rows[-1]
        if n is None:
            return f"Up to {self.what} {last.size}, the largest here, doubling still lowers the risk."
        here = next(row for row in self.rows if row.size == n)
        left = f"two clients' models still differ by {number(here.disagreement)}, their risk being {number(here.risk)}"
        return f"From {self.what} {n} on doubling buys no accuracy; {left}."

    @property
    def beyond(self) -> str:
        """At which sizes D_n is more than 4 (R_n - R_2n), by more than two standard errors; a sentence."""
        sizes = [str(row.size) for row in self.rows if row.excess is not None and row.excess > 2 * row.excess_se]
        where = f"at {self.what} {', '.join(sizes)}" if sizes else "at none of these sizes"
        return f"D_n is more than 4 (R_n - R_2n), beyond two standard errors, {where}."


def found(results: Iterable[Result], axes: Sequence[str]) -> Sizes | None:
    """What the runs of a sweep tell of sizes; None unless all are of one kind of tree, `[agreement]` was measured, and
    beside the seed one axis alone differs."""
    if sum(axis != "seed" for axis in axes) != 1:
        return None
    told, kinds, within = [], set(), 0.0
    for result in results:
        scenario, measured = result.scenario, result.summary.get("agreement")
        sizes = {size_of(tier.architecture, tier.epochs) for tier in scenario.clients.tier if tier.share != 0}
        size = sizes.pop() if len(sizes) == 1 else None
        if size is None or not measured or scenario.agreement is None:
            return None
        within = scenario.agreement.within
        kinds.add(size[0])
        told.append(Measured(size[1], scenario.seed, measured["risk"], measured["disagreement"]))
    if (
        len(kinds) != 1
        or len({one.size for one in told}) < 2
        or len({(one.size, one.seed) for one in told}) < len(told)
    ):
        return None
    return Sizes(kinds.pop(), doublings(told), within)


def figure(sizes: Sizes, title: str) -> Figure:
    """R_n on the left; on the right 4 (R_n - R_2n) and D_n; bars are two standard errors over the seeds."""
    gains, apart = look(1), look(0)
    key = [
        Line2D([], [], **apart, label="D_n, disagreement of two clients"),
        Line2D([], [], **gains, linestyle="--", label="4 (R_n - R_2n), no bound here"),
    ]
    seeds = max(row.seeds for row in sizes.rows)
    caption = f"{sizes.beyond} {NO_BOUND} Bars: two standard errors over {count(seeds, 'seed')}."
    page = sheet(sizes.finding.removesuffix("."), title, caption, HEIGHT + FLOOR, key)
    width = (WIDTH - 2 * LEFT - GAP) / 2
    left, right = (page.axes(LEFT + k * (width + GAP), FLOOR, width, HEIGHT - 0.25) for k in range(2))
    rows = [row for row in sizes.rows if row.four_gains is not None]
    _line(left, sizes.rows, "risk", color=SOFT, marker="o")
    _line(right, sizes.rows, "disagreement", **apart)
    _line(right, rows, "four_gains", linestyle="--", **gains)
    right.axhline(0, color=SOFT, linewidth=0.6, gid="zero")
    for ax, words in ((left, "R_n, mean risk of a client"), (right, "squared difference")):
        ax.set_xscale("log", base=2)
        ax.set_xticks([row.size for row in sizes.rows], [str(row.size) for row in sizes.rows])
        ax.set_xlabel(f"n, {sizes.what}")
        ax.set_ylabel(words)
        ax.yaxis.set_major_locator(ticks(6))
    left.set_ylim(bottom=0)
    return page.figure


def _line(ax: Axes, rows: Sequence[DoublingOfSize], name: str, **style: Any) -> ErrorbarContainer:
    means = [getattr(row, name) for row in rows]
    errors = 2 * np.array([getattr(row, f"{name}_se") for row in rows])
    return ax.errorbar([row.size for row in rows], means, errors, capsize=2, markersize=4, linewidth=1.2, **style)
