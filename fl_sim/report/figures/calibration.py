"""Reliability diagrams, a panel a tier: how often the top label is right against how sure the model is of it, before
and after the calibrator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from fl_sim.conformal.reliability import BINS
from fl_sim.report import wording
from fl_sim.report.figures.style import BAND, INK, LEFT, SOFT, Sheet, sheet, ticks
from fl_sim.report.wording import count, percent, signed
from fl_sim.results.run import Result

Curve = dict[str, Sequence[float]]  # see calibration_metrics.curves
PANEL, COUNTS, GAP, ABREAST = 2.3, 0.55, 0.62, 3  # inches: a panel, its bars, what is between panels; panels a row
ABOVE, FLOOR = 0.34, 0.5  # inches: over a row the tier's name, under it the ticks and the axis label
_BEFORE: dict[str, Any] = {"color": SOFT, "marker": "o", "markerfacecolor": "white", "linestyle": (0, (4, 2))}
_AFTER: dict[str, Any] = {"color": INK, "marker": "o", "linestyle": "-"}


def calibration(result: Result) -> Figure:
    """Reliability of every tier, before and after, and the confidences' counts as bars below."""
    found = {tier: result.calibrate["reliability"].get(tier) for tier in wording.tiers(result)}
    tiers = {tier: curves for tier, curves in found.items() if curves and sum(curves["after"]["count"])}
    rows = max(1, -(-len(tiers) // ABREAST))
    tall = ABOVE + PANEL + 0.08 + COUNTS + FLOOR
    key = [
        Line2D([], [], label="before", markersize=4.5, linewidth=1.2, **_BEFORE),
        Line2D([], [], label="after the calibrator", markersize=4.5, linewidth=1.2, **_AFTER),
        Patch(facecolor=BAND, label="points in a bin, after"),
    ]
    page = sheet(_finding(result), wording.world(result), _CAPTION, tall * rows, key)
    for place, (tier, curves) in enumerate(tiers.items()):
        row, column = divmod(place, ABREAST)
        _panel(page, LEFT + column * (PANEL + GAP), tall * (rows - 1 - row) + FLOOR, result, tier, curves)
    return page.figure


_CAPTION = (
    f"All clients of a tier together, in {BINS} bins of equal width. On the diagonal the top label is right as often "
    "as the model is sure; below it, the model is too sure. ECE is the mean distance from it, each bin by its points; "
    "the more points, the larger its mark."
)


def _panel(page: Sheet, left: float, bottom: float, result: Result, tier: str, curves: dict[str, Curve]) -> None:
    bars = page.axes(left, bottom, PANEL, COUNTS)
    many = np.array(curves["after"]["count"])
    bars.bar((np.arange(BINS) + 0.5) / BINS, many, width=0.9 / BINS, color=BAND, edgecolor=SOFT, linewidth=0.4)
    bars.set_ylim(0, max(many.max(), 1) * 1.05)
    bars.yaxis.set_major_locator(ticks(2, integer=True))
    bars.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    bars.set_xlabel("confidence in the top label")
    ax = page.axes(left, bottom + COUNTS + 0.08, PANEL, PANEL)
    ax.plot([0, 1], [0, 1], color=SOFT, linewidth=0.6, zorder=1)
    for side, style in (("before", _BEFORE), ("after", _AFTER)):
        _curve(ax, curves[side], style)
    ax.set_ylim(-0.02, 1.02)
    ax.set_ylabel("right")
    ax.tick_params(axis="x", labelbottom=False)
    for one in (ax, bars):
        one.set_xlim(-0.02, 1.02)
        one.xaxis.set_major_locator(ticks(5))
    for axis in (ax.yaxis, bars.xaxis):
        axis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.4g}%"))
    clients = count(len(wording.tiers(result).get(tier, [])), "client")
    change = f"ECE {percent(ece(curves['before']))} to {percent(ece(curves['after']))}"
    phi = signed(result.calibrate["tiers"][tier]["phi_brier"])
    ax.set_title(f"{tier}: {clients}\n{change}, PHI {phi}", fontsize=8.2, loc="left")


def _curve(ax: Axes, side: Curve, style: dict[str, Any]) -> None:
    many, sure, right = _arrays(side)
    held = many > 0
    x, y = sure[held] / many[held], right[held] / many[held]
    ax.plot(x, y, linewidth=0.8, zorder=2, color=style["color"], linestyle=style["linestyle"])
    face = style.get("markerfacecolor", style["color"])
    area = np.clip(160 * many[held] / many.sum(), 7, None)
    ax.scatter(
        x, y, s=area, marker="o", facecolor=face, edgecolor=style["color"], linewidth=0.8, zorder=3, clip_on=False
    )


def ece(side: Curve) -> float | None:
    """The expected calibration error of a diagram; None of no points.

    >>> ece({"count": [0, 4], "confidence": [0.0, 3.0], "hits": [0, 2]})
    0.25
    """
    many, sure, right = _arrays(side)
    return float(np.abs(right - sure).sum() / many.sum()) if many.sum() else None


def _arrays(side: Curve) -> tuple[NDArray[np.float64], ...]:
    return tuple(np.array(side[name], np.float64) for name in ("count", "confidence", "hits"))


def _finding(result: Result) -> str:
    phi = {tier: found["phi_brier"] for tier, found in result.calibrate["tiers"].items()}
    harmed = [tier for tier in wording.tiers(result) if (phi.get(tier) or 0) < 0]
    overall = result.calibrate["phi_brier"]
    if overall is None:
        return "No client could be tested"
    said = "lowers" if overall > 0 else "raises" if overall < 0 else "does not move"
    by = f" by {abs(overall):.4f} to {result.calibrate['brier']:.4f}" if overall else ""
    worse = f"; it is worse for {' and '.join(harmed)} clients" if harmed and overall > 0 else ""
    return f"The calibrator {said} the Brier score{by}{worse}"
