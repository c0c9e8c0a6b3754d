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
from numpy.typing import NDArray

from fl_sim.conformal.reliability import BINS
from fl_sim.report import wording
from fl_sim.report.figures.marks import count_axis, share_axis
from fl_sim.report.figures.sheet import FLOOR, HEAD, LEFT, Grid, Words, abreast, facets, sheet, sheet_width
from fl_sim.report.figures.style import BAND, INK, SOFT
from fl_sim.report.numbers import count, listed, percent, signed
from fl_sim.results.run import Result

ORDER = 40
Curve = dict[str, Sequence[float]]  # see calibration_metrics.curves
PANEL, COUNTS, ACROSS = 2.3, 0.55, 0.62  # inches: a panel, the bars below it, and what is between panels
_BEFORE: dict[str, Any] = {"color": SOFT, "marker": "o", "markerfacecolor": "white", "linestyle": (0, (4, 2))}
_AFTER: dict[str, Any] = {"color": INK, "marker": "o", "linestyle": "-"}


def applies(result: Result) -> bool:
    """Where probabilities went through a calibrator."""
    return wording.has_calibrator(result)


def draw(result: Result) -> Figure:
    """Reliability of every tier, before and after, and the confidences' counts as bars below."""
    known = {tier: result.calibrate["reliability"].get(tier) for tier in wording.tiers(result)}
    tiers = {tier: curves for tier, curves in known.items() if curves and sum(curves["after"]["count"])}
    key = [
        Line2D([], [], label="before", markersize=4.5, linewidth=1.2, **_BEFORE),
        Line2D([], [], label="after the calibrator", markersize=4.5, linewidth=1.2, **_AFTER),
        Patch(facecolor=BAND, label="points in a bin, after"),
    ]
    columns = abreast(max(len(tiers), 1), PANEL, ACROSS)
    rows = -(-max(len(tiers), 1) // columns)
    square = sheet_width() - LEFT - columns * PANEL - (columns - 1) * ACROSS  # at the right, so that panels are
    grid = Grid([PANEL + COUNTS] * rows, columns, LEFT, square, ACROSS, FLOOR + 1.5 * HEAD, 1.5 * HEAD)
    page = sheet(Words(_finding(result), wording.world(result), _CAPTION), grid.height, key)
    places = [ax for row in facets(page, grid) for ax in row]
    for place, (tier, curves) in zip(places, tiers.items(), strict=False):
        _panel(place, result, tier, curves)
    for place in places:
        place.remove()
    return page.figure


_CAPTION = (
    f"All clients of a tier together, in {BINS} bins of equal width. On the diagonal the top label is right as often "
    "as the model is sure; below it, the model is too sure. ECE is the mean distance from it, each bin by its points; "
    "the more points, the larger its mark."
)


def _panel(place: Axes, result: Result, tier: str, curves: dict[str, Curve]) -> None:
    """The diagram in the upper part of that place, its counts in the lower."""
    figure, box = place.figure, place.get_position()
    low = box.height * COUNTS / (PANEL + COUNTS)
    bars = figure.add_axes((box.x0, box.y0, box.width, 0.86 * low))
    many = np.array(curves["after"]["count"])
    bars.bar((np.arange(BINS) + 0.5) / BINS, many, width=0.9 / BINS, color=BAND, edgecolor=SOFT, linewidth=0.4)
    bars.set_ylim(0, max(many.max(), 1) * 1.05)
    count_axis(bars.yaxis, 2)
    bars.set_xlabel("confidence in the top label")
    ax = figure.add_axes((box.x0, box.y0 + low, box.width, box.height - low))
    ax.plot([0, 1], [0, 1], color=SOFT, linewidth=0.6, zorder=1)
    for side, style in (("before", _BEFORE), ("after", _AFTER)):
        _curve(ax, curves[side], style)
    ax.set_ylim(-0.02, 1.02)
    ax.set_ylabel("right")
    ax.tick_params(axis="x", labelbottom=False)
    share_axis(ax.yaxis)
    for one in (ax, bars):
        one.set_xlim(-0.02, 1.02)
        share_axis(one.xaxis)
    clients = count(len(wording.tiers(result).get(tier, [])), "client")
    change = f"ECE {percent(ece(curves['before']))} to {percent(ece(curves['after']))}"
    phi = signed(result.calibrate["tiers"][tier]["phi_brier"])
    ax.set_title(f"{tier}: {clients}\n{change}, PHI {phi}")


def _curve(ax: Axes, side: Curve, style: dict[str, Any]) -> None:
    many, sure, right = _arrays(side)
    filled = many > 0
    x, y = sure[filled] / many[filled], right[filled] / many[filled]
    colour, face = style["color"], style.get("markerfacecolor", style["color"])
    ax.plot(x, y, linewidth=0.8, zorder=2, color=colour, linestyle=style["linestyle"])
    area = np.clip(160 * many[filled] / many.sum(), 7, None)
    ax.scatter(x, y, s=area, marker="o", facecolor=face, edgecolor=colour, linewidth=0.8, zorder=3, clip_on=False)


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
    phi = {tier: metrics["phi_brier"] for tier, metrics in result.calibrate["tiers"].items()}
    harmed = [tier for tier in wording.tiers(result) if (phi.get(tier) or 0) < 0]
    overall = result.calibrate["phi_brier"]
    if overall is None:
        return "No client could be tested"
    text = "lowers" if overall > 0 else "raises" if overall < 0 else "does not move"
    by = f" by {abs(overall):.4f} to {result.calibrate['brier']:.4f}" if overall else ""
    worse = f"; it is worse for {listed(harmed)} clients" if harmed and overall > 0 else ""
    return f"The calibrator {text} the Brier score{by}{worse}"
