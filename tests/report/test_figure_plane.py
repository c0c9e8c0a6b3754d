"""The plane of size and worst client: which points are drawn where, and what is said about them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fl_sim.report import sweep_points as over
from fl_sim.report.figures.catalogue import draw_sweep, figures_of_sweep
from fl_sim.report.figures.marks import spread
from fl_sim.report.figures.of_a_sweep.plane import MOST_PANELS, draw
from fl_sim.report.figures.style import styled
from fl_sim.report.figures.sweep_plot import Plot
from fl_sim.report.page.figures import drawn
from fl_sim.report.sweep_results import SweepResults

CONCENTRATION, SHARE = "clients.concentration", "clients.tier.weak.share"
AXES = [CONCENTRATION, SHARE, "calibrate", "seed"]
SIZES, WORST = {"fedwq-cp": 1.5, "local": 2.5, "pooled": 1.25}, {"fedwq-cp": 0.7, "local": 0.9, "pooled": 0.6}


def sweep(
    concentrations: Sequence[float] = (10.0, 0.1),
    strategies: Sequence[str] = tuple(SIZES),
    seeds: Sequence[int] = (0, 1, 2),
    **more: Any,
) -> pd.DataFrame:
    """Means by hand: seeds differ by 0.01 around the second, shares by 0.02 and sizes by 0.5, concentrations by 0.1."""
    rows = []
    for name, concentration, share, seed in itertools.product(strategies, concentrations, (0.0, 0.5), seeds):
        worst = WORST[name] + 0.01 * (seed - 1) - 0.04 * share - 0.1 * (concentration < 1)
        rows.append({
            CONCENTRATION: concentration, SHARE: share, "calibrate": name, "seed": seed, "status": "ok", "alpha": 0.05,
            over.SET_SIZE: SIZES[name] + share, over.WORST_TESTED: worst, over.WORST: 0.0, over.COVERAGE: 0.95,
        } | more)  # fmt: skip
    return pd.DataFrame(rows)


def plane(points: pd.DataFrame, axes: Sequence[str] = AXES) -> Figure:
    with styled():
        (figure,) = draw(SweepResults(points, list(axes), "a sweep"))
    return figure


def lines(ax: Axes, gid: str) -> list[Line2D]:
    return [line for line in ax.lines if line.get_gid() == gid]


def spots(ax: Axes) -> list[tuple[float, float]]:
    return [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in lines(ax, "strategy")]


def words(figure: Figure) -> str:
    return " ".join(" ".join(text.get_text() for text in figure.texts).split())


def test_each_strategy_is_drawn_at_its_means_over_seeds_and_further_axes():
    figure = plane(sweep())
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["concentration 0.1", "concentration 10"]
    for ax, lost in zip(figure.axes, (0.1, 0.0), strict=True):
        expected = [(SIZES[name] + 0.25, WORST[name] - 0.01 - lost) for name in SIZES]
        assert np.array(spots(ax)) == pytest.approx(np.array(expected))
        assert {text.get_text() for text in ax.texts} == {*SIZES, "95% promised"}
    said = words(figure)
    assert said.startswith(
        "At concentration 0.1 the worst client has 49.0% under pooled (mean set size 1.50) and at best"
    )
    assert "79.0% under local (mean set size 2.75); 95% promised" in said
    assert "its mean over 3 seeds and 2 values of weak share." in said
    assert "the smallest coverage of a client with at least 30 test points" in said


def test_a_world_that_some_strategy_lacks_is_not_averaged():
    points = sweep()
    gone = (points["calibrate"] == "pooled") & (points[SHARE] == 0.5) & (points[CONCENTRATION] == 0.1)
    points.loc[gone, [over.SET_SIZE, over.WORST_TESTED, over.WORST]] = math.nan
    points.loc[gone, "status"] = "failed"
    lacking, _ = plane(points).axes
    assert np.array(spots(lacking)) == pytest.approx(np.array([(SIZES[name], WORST[name] - 0.1) for name in SIZES]))
    assert "3 of 36 points failed" in words(plane(points))


def test_the_nominal_line_stands_at_what_was_promised():
    for alpha in (0.05, 0.2):
        for ax in plane(sweep(alpha=alpha)).axes:
            (line,) = lines(ax, "nominal")
            assert list(line.get_ydata()) == pytest.approx([1 - alpha] * 2)
            assert line.get_linestyle() == "--"


def test_over_promises_and_data_nothing_is_averaged():
    points = pd.concat([sweep((0.1,), alpha=alpha).assign(**{"calibrate.alpha": alpha}) for alpha in (0.1, 0.2)])
    figure = plane(points, [*AXES, "calibrate.alpha"])
    assert [lines(ax, "nominal")[0].get_ydata()[0] for ax in figure.axes] == pytest.approx([0.9, 0.8])
    points = pd.concat([sweep().assign(**{"data.name": name}) for name in ("digits", "letters")])
    assert [ax.get_title(loc="left") for ax in plane(points, [*AXES, "data.name"]).axes] == [
        "data digits", "data letters",
    ]  # fmt: skip


def test_bars_are_t_intervals_and_take_three_seeds():
    def upright(points: pd.DataFrame) -> list[tuple[float, float]]:
        bars = [line for line in plane(points).axes[1].lines if line.get_gid() is None and len(line.get_xdata()) == 2]
        return [tuple(line.get_ydata()) for line in bars if np.ptp(line.get_xdata()) == 0 < np.ptp(line.get_ydata())]

    # Of three values a hundredth apart, t of two degrees of freedom times their standard error.
    reach = 4.302653 * 0.01 / math.sqrt(3)
    expected = [(WORST[name] - 0.01 - reach, WORST[name] - 0.01 + reach) for name in SIZES]
    assert np.array(upright(sweep())) == pytest.approx(np.array(expected))
    assert upright(sweep(seeds=(0, 1))) == []


def test_it_takes_two_strategies():
    failed = pd.DataFrame([{"calibrate": name, "seed": 0, "status": "failed"} for name in SIZES])
    assert draw(SweepResults(sweep(strategies=["local"]), AXES)) == []
    assert draw(SweepResults(sweep(strategies=["local"]), [CONCENTRATION, SHARE, "seed"])) == []
    assert draw(SweepResults(failed, ["calibrate", "seed"])) == []


def test_infinite_sizes_are_left_out_and_said():
    points = sweep().rename(columns={over.SET_SIZE: over.LENGTH})
    one = (points["calibrate"] == "local") & (points[CONCENTRATION] == 0.1) & (points["seed"] == 1)
    points[f"{over.LENGTH}_is_infinite"] = one
    points.loc[one, over.LENGTH] = math.nan
    figure = plane(points)
    assert [len(spots(ax)) for ax in figure.axes] == [2, 3]
    assert "Not drawn, because its mean interval length is infinite: local at concentration 0.1." in words(figure)
    assert figure.axes[0].get_xlabel() == "mean interval length"


def test_many_values_have_so_many_panels_from_the_first_to_the_last():
    figure = plane(sweep([float(k) for k in range(1, 10)], seeds=(0,)))
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert len(titles) == MOST_PANELS
    assert (titles[0], titles[-1]) == ("concentration 1", "concentration 9")
    assert f"{MOST_PANELS} of 9 values of concentration have a panel" in words(figure)


def test_strategies_look_as_in_the_other_figures():
    points = sweep()
    other = Plot(points, AXES, list(SIZES), [])
    mark = lines(plane(points).axes[0], "strategy")[0]
    look = other.style(next(iter(SIZES)))
    assert (mark.get_color(), mark.get_marker()) == (look["color"], look["marker"])


def test_the_same_points_give_the_same_bytes(tmp_path):
    first, second = (draw_sweep(SweepResults(sweep(), AXES, "a sweep"), tmp_path / name) for name in ("a", "b"))
    assert [path.name for path in first] == ["sweep.png", "sweep.svg", "plane.png", "plane.svg"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_a_page_has_it_after_the_figure_of_the_sweep_for_wide_and_narrow_screens():
    figures = drawn(lambda: figures_of_sweep(SweepResults(sweep(), AXES, "a sweep")))
    assert [figure.name for figure in figures] == ["sweep", "plane"]
    for figure in figures:
        boxes = [float(str(svg).split('viewBox="')[1].split()[2]) for svg in (figure.wide, figure.narrow)]
        assert boxes[1] < 0.6 * boxes[0]


def test_labels_keep_apart_and_what_is_heavy_stays():
    def at(*given: float, heavy: int | None = None, high: float = 100.0) -> list[float]:
        return spread(given, [1.0 if k != heavy else 1e9 for k in range(len(given))], 0.0, high, 1.0)

    assert at(1, 5, 9) == [1, 5, 9]
    assert at(4, 4) == pytest.approx([3.5, 4.5])
    assert at(4, 4, 4.5) == pytest.approx([4 - 5 / 6, 4 + 1 / 6, 5 + 1 / 6])
    assert at(4, 4, heavy=1) == pytest.approx([3, 4])
    assert at(0, 0) == pytest.approx([0, 1])
    assert at(9, 9, high=9) == pytest.approx([8, 9])
