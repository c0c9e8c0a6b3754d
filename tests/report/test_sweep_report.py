"""Intervals over seeds, differences paired by world and seed, and the tables and figures of a sweep made by hand."""

from __future__ import annotations

import io
import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console, RenderableType
from scipy import stats

from fl_sim import Scenario
from fl_sim.report import sweep_points as over
from fl_sim.report.figures.of_a_sweep import sweep as figure_sweep
from fl_sim.report.figures.style import save, styled
from fl_sim.report.figures.sweep_plot import Plot
from fl_sim.report.intervals import paired_differences, t_interval
from fl_sim.report.plan import plan
from fl_sim.report.sweep_points import axis_names, cells, finding
from fl_sim.report.sweep_results import SweepResults
from fl_sim.report.sweep_table import summary
from fl_sim.sweep.expand import Point, Sweep

CONCENTRATION, SHARE = "clients.concentration", "clients.tier.weak.share"
AXES = [CONCENTRATION, SHARE, "calibrate", "seed"]
STRATEGIES = ("fedwq-cp", "unweighted", "local")
TITLE = "200 clients on digits"
HARD = {0.1: 2.0, 0.3: 1.5, 1.0: 1.0, 10.0: 0.5}  # by concentration
FALLS = {"fedwq-cp": 0.1, "unweighted": 0.2, "local": 0.0}


def point(strategy: str, concentration: float, share: float, seed: int, **more: Any) -> dict[str, Any]:
    """The more unequal, the worse for all but `local`; a seed is good or bad for all of them alike."""
    luck = (0.0, 0.01, -0.004)[seed % 3]
    fall = FALLS.get(strategy, 0.05) * (share + 0.5) * HARD[concentration]
    return {
        CONCENTRATION: concentration,
        SHARE: share,
        "calibrate": strategy,
        "seed": seed,
        "status": "ok",
        "alpha": 0.05,
        over.COVERAGE: 0.955 - fall / 5 + luck / 10,
        over.CLIENT_MEAN: 0.95 - fall / 5 + luck / 10,
        over.WORST_TESTED: 0.88 - fall + luck,
        over.WORST: 0.5,
        over.SET_SIZE: 1.5 + (strategy == "local"),
        over.ACCURACY: 0.9 + luck,
        over.BYTES_UP: 16.0,
    } | more


def sweep(
    concentrations: Sequence[float] = (0.1, 1.0, 10.0),
    shares: Sequence[float] = (0.0, 0.5),
    strategies: Sequence[str] = STRATEGIES,
    seeds: Sequence[int] = (0, 1, 2),
) -> pd.DataFrame:
    combinations = itertools.product(strategies, concentrations, shares, seeds)
    return pd.DataFrame([point(*combination) for combination in combinations])


def without(points: pd.DataFrame, *rows: int, status: str = "failed") -> pd.DataFrame:
    """The same points, some without a result."""
    points = points.copy()
    metrics = [column for column in points if column not in (*AXES, "status")]
    points.loc[list(rows), metrics] = math.nan
    points.loc[list(rows), "status"] = status
    return points


def printed(what: RenderableType, width: int = 80) -> str:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(what)
    assert max(map(len, out.getvalue().splitlines())) <= width
    return out.getvalue()


def row_of(text: str, *words: str) -> str:
    """The one line that begins with these words."""
    found = [line for line in text.splitlines() if line.split()[: len(words)] == list(words)]
    assert len(found) == 1, (words, found)
    return found[0]


# ---------------------------------------------------------------------------------------------------------- intervals


def test_an_interval_is_students():
    # The mean is 0.8, the standard deviation 0.1, and t of 2 degrees of freedom 4.3027.
    mean, low, high = t_interval([0.7, math.nan, 0.8, 0.9])
    reach = 4.302653 * 0.1 / math.sqrt(3)
    assert (mean, low, high) == pytest.approx((0.8, 0.8 - reach, 0.8 + reach))
    assert (low, high) == pytest.approx(stats.t.interval(0.95, 2, loc=0.8, scale=0.1 / math.sqrt(3)))
    half = stats.t.ppf(0.75, 2) * 0.1 / math.sqrt(3)
    assert tuple(t_interval([0.9, 0.7, 0.8], level=0.5)) == pytest.approx((0.8, 0.8 - half, 0.8 + half))


def test_an_interval_holds_the_mean_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(size=(2000, 3))
    assert np.mean([low <= 0 <= high for _, low, high in map(t_interval, draws)]) == pytest.approx(0.95, abs=0.015)


def test_one_value_is_no_interval_and_none_is_nan():
    one = t_interval([0.7, math.nan])
    assert (tuple(one), one.known, one.count) == ((0.7, 0.7, 0.7), False, 1)
    assert all(map(math.isnan, t_interval([])))
    assert tuple(t_interval([0.1, 0.1, 0.1])) == (0.1, 0.1, 0.1)  # though 0.1 + 0.1 + 0.1 > 0.3


def test_infinite_values_make_the_mean_infinite_and_leave_no_interval():
    infinite = t_interval([1.0, math.inf])
    assert (tuple(infinite), infinite.known) == ((math.inf,) * 3, False)


def hand_made() -> pd.DataFrame:
    """Two worlds and two seeds whose levels differ wildly; b is above a by 1, 3 in the first and -1, -1 in the second.

    The rows are shuffled, so that pairing by position goes wrong.
    """
    rows = [
        (0.1, 0, "a", 10), (0.1, 0, "b", 11), (0.1, 1, "a", 20), (0.1, 1, "b", 23),
        (9.0, 0, "a", 500), (9.0, 0, "b", 499), (9.0, 1, "a", 700), (9.0, 1, "b", 699),
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=[CONCENTRATION, "seed", "calibrate", "m"])
    return frame.iloc[[3, 0, 6, 5, 1, 7, 4, 2]].reset_index(drop=True)


def test_differences_are_paired_by_world_and_seed():
    table = paired_differences(hand_made(), [CONCENTRATION, "calibrate", "seed"], "calibrate", "m", "a")
    found = table.sort_values(CONCENTRATION).to_numpy().tolist()
    # The standard error of 1 and 3 is 1, and t of one degree of freedom 12.706.
    ends = [pytest.approx(2 - 12.7062), pytest.approx(2 + 12.7062)]
    assert found == [[0.1, "b", 2.0, *ends, 2], [9.0, "b", -1.0, -1.0, -1.0, 2]]


def test_a_pair_without_its_partner_is_left_out():
    points = hand_made()
    points = points[~((points["calibrate"] == "a") & (points["m"] == 20))]
    table = paired_differences(points, [CONCENTRATION, "calibrate", "seed"], "calibrate", "m", "a")
    first = table[table[CONCENTRATION] == 0.1].iloc[0]
    assert (first["mean"], first["pairs"]) == (1.0, 1)


def test_pairing_refuses_what_it_cannot_tell_apart():
    with pytest.raises(ValueError, match="keys are not unique"):
        paired_differences(hand_made(), ["calibrate", "seed"], "calibrate", "m", "a")  # the world is not named
    with pytest.raises(ValueError, match="calibrate = 'c': no point has it"):
        paired_differences(hand_made(), [CONCENTRATION, "calibrate", "seed"], "calibrate", "m", "c")


def test_infinite_lengths_are_read_from_their_flag_and_have_no_difference():
    flag = f"{over.LENGTH}_is_infinite"
    rows = [("a", 0, math.nan, True), ("b", 0, math.nan, True), ("a", 1, 2.0, False), ("b", 1, 5.0, False)]
    points = pd.DataFrame(rows, columns=["calibrate", "seed", over.LENGTH, flag])
    assert over.values(points, over.LENGTH).tolist() == [math.inf, math.inf, 2.0, 5.0]
    table = paired_differences(points, ["calibrate", "seed"], "calibrate", over.LENGTH, "a")
    assert table[["mean", "pairs"]].to_numpy().tolist() == [[3.0, 1]]


# -------------------------------------------------------------------------------------------------------------- cells


def test_axes_are_named_shortly_unless_two_would_be_the_same():
    axes = ["clients.tier.weak.share", "clients.behaviour.noise.share", "data.name", "calibrate", "seed"]
    assert list(axis_names(axes).values()) == ["weak share", "noise share", "data", "calibrate", "seed"]
    assert axis_names(["learn.epochs", "calibrate.epochs"])["learn.epochs"] == "learn.epochs"


@pytest.mark.parametrize(("coverages", "below", "surely"), [
    ([0.94, 0.941], True, True), ([0.94, 0.949], True, False), ([0.94, 0.97], False, False), ([0.949], True, False),
    ([1 - 0.05], False, False), ([0.94, 0.944, 0.942], True, True), ([0.93, 0.949, 0.94], True, False),
    ([0.94, math.nan], True, False),
])  # fmt: skip
def test_a_cell_is_marked_only_where_its_whole_t_interval_is_below(coverages, below, surely):
    points = pd.DataFrame({"seed": range(len(coverages)), over.COVERAGE: coverages, "alpha": 0.05})
    (cell,) = cells(points, ["seed"])
    assert (cell.below(over.COVERAGE), cell.surely_below(over.COVERAGE)) == (below, surely)


def test_averages_over_worlds_are_of_worlds_where_all_strategies_are():
    points = sweep((0.1, 10.0), (0.5,), seeds=(0,))
    points = without(points, points.index[(points["calibrate"] == "fedwq-cp") & (points[CONCENTRATION] == 0.1)][0])
    means = over.over_worlds(points, AXES, [over.WORST_TESTED]).set_index("calibrate")
    assert means.loc["local", over.WORST_TESTED] == pytest.approx(0.88)
    assert means.loc["unweighted", over.WORST_TESTED] == pytest.approx(0.88 - 0.1)  # without 0.1


def test_the_finding_names_the_worst_and_its_place():
    said = finding(sweep(), AXES)
    assert said.endswith("under unweighted at concentration 0.1 and weak share 0.5: 48.2%, 95% promised")
    alone = finding(sweep((0.1, 1.0), (0.5,), ["fedwq-cp"]), [CONCENTRATION, "seed"])
    assert alone.endswith("at concentration 0.1: 68.2%, 95% promised")


def test_with_several_promises_the_worst_is_the_furthest_below_its_own():
    points = pd.DataFrame({"calibrate.alpha": [0.05, 0.5], "alpha": [0.05, 0.5], over.WORST_TESTED: [0.7, 0.45]})
    assert finding(points, ["calibrate.alpha"]).endswith("at alpha 0.05: 70.0%, 95% promised")


def test_the_number_of_clients_is_called_clients():
    assert axis_names(["clients.count", "learn.epochs"]) == {"clients.count": "clients", "learn.epochs": "epochs"}


# ------------------------------------------------------------------------------------------------------------- tables


def test_every_number_over_several_seeds_has_its_interval():
    text = printed(summary(sweep((0.1,), (0.5,)), AXES, TITLE), 160)
    assert "mean [95% t interval over 3 seeds]" in text
    line = row_of(text, "0.1", "0.5", "local")
    # Worst clients 0.88 + (0, 0.01, -0.004): mean 0.882, standard deviation 0.00721, t / sqrt(3) = 2.484.
    assert "88.2% [86.4, 90.0]" in line
    assert "95.5% [95.3, 95.7]" in line
    assert line.split()[-1] == "16"  # the same at every seed, so there is nothing to be between
    assert "! marks a coverage whose t interval ends below the promise." in text


def test_marks_tell_the_mean_from_the_whole_interval():
    text = printed(summary(sweep((0.1,), (0.5,)), AXES, TITLE), 160)
    assert "! 91.5% [91.3, 91.7]" in row_of(text, "0.1", "0.5", "fedwq-cp")
    assert "!" not in row_of(text, "0.1", "0.5", "local").split("95.0%")[0]


def test_at_80_columns_intervals_stand_below_and_columns_that_go_are_named():
    text = printed(summary(sweep((0.1, 1.0), (0.5,)), AXES, TITLE), 80)
    assert re.search(r"88\.2%.*\n\s+\[95\.3, 95\.7\]\s+\[86\.4, 90\.0\]", text)
    assert "unweighted" in text
    assert re.search(r"Left out at this width: .*worst.*bytes up", text)
    assert "Left out" not in printed(summary(sweep((0.1, 1.0), (0.5,)), AXES, TITLE), 200)


def test_one_seed_has_bare_numbers_and_says_so():
    text = printed(summary(sweep((0.1, 1.0), (0.5,), seeds=(0,)), AXES[:-1], TITLE))
    assert "[" not in text
    assert "One seed: no interval." in text
    assert "91.5%" in row_of(text, "0.1", "0.5", "fedwq-cp")
    assert "!" not in text  # one seed shows nothing
    assert "One seed: no mean is marked" in text


def test_too_many_rows_become_averages_and_the_worst_world_is_named():
    points = sweep((0.1, 0.3, 1.0, 10.0), (0.0, 0.25, 0.5, 0.75))
    text = " ".join(printed(summary(points, AXES, TITLE), 160).split())
    assert "Averages over 16 worlds are shown." in text
    assert "under unweighted at concentration 0.1 and weak share 0.75: 38.2%" in text
    assert "All rows: fl-sim results DIR --format csv" in text
    # The mean of 0.88 - fall * (share + 0.5) * hardness over both, 0.882 - 0.2 * 0.875 * 1.25.
    assert "66.3%" in row_of(printed(summary(points, AXES, TITLE), 160), "unweighted")


def test_points_without_a_result_are_counted_and_named():
    points = without(without(sweep((0.1,), (0.5,)), 0), 4, status="not run")
    text = " ".join(printed(summary(points, AXES, TITLE), 160).split())
    assert "1 of 9 points failed: concentration 0.1, weak share 0.5, calibrate fedwq-cp, seed 0." in text
    assert "1 of 9 points not run: concentration 0.1, weak share 0.5, calibrate unweighted, seed 1." in text
    assert "A row rests on the seeds that are left" in text


def test_a_row_without_any_result_has_dashes_and_one_of_one_seed_says_so():
    points = without(sweep((0.1,), (0.5,)), 0, 1, 2, 3, 4)
    text = printed(summary(points, AXES, TITLE), 200)
    assert set(row_of(text, "0.1", "0.5", "fedwq-cp").split()[3:]) == {"-"}
    assert "(1 seed)" in row_of(text, "0.1", "0.5", "unweighted")


def test_uncalibrated_points_have_dashes_beside_calibrated_ones():
    points = pd.concat([sweep((0.1,), (0.5,)), uncalibrated()])
    line = row_of(printed(summary(points, AXES, TITLE), 200), "0.1", "0.5", "none")
    assert line.split()[3:7] == ["-", "-", "-", "-"]
    assert "90.2% [88.4, 92.0]" in line


def test_an_infinite_length_is_said():
    text = printed(summary(regression(), [CONCENTRATION, "calibrate", "seed"], TITLE), 200)
    assert "infinite" in row_of(text, "1", "fedwq-cp")


def test_a_sweep_of_which_nothing_succeeded_still_says_what_failed():
    points = pd.DataFrame([{"calibrate": name, "seed": 0, "status": "failed"} for name in STRATEGIES])
    for compared in (False, True):
        text = printed(summary(points, ["calibrate", "seed"], TITLE, compared=compared))
        assert text.splitlines()[2] == "No point has a result."
        assert "3 of 3 points failed" in text
        assert "A row" not in text


def test_a_note_is_there_only_where_its_column_is():
    points = sweep((0.1,), (0.5,))
    assert "worst (30+): the smallest" in " ".join(printed(summary(points, AXES, TITLE), 160).split())
    points.loc[0, over.WORST_TESTED] = math.nan  # now the plain worst client is the one that is always shown
    narrow = printed(summary(points, AXES, TITLE), 60)
    assert "worst: the smallest coverage of a client. Of many" in " ".join(narrow.split()).replace("- ", "")
    assert "(30+): the" not in narrow


def test_a_comparison_pairs_by_seed():
    text = printed(summary(sweep((0.1,), (0.5,)), AXES, TITLE, compared=True), 120)
    above, _, below = text.partition("Difference to fedwq-cp")
    assert "88.2%" in above
    # Both have the same luck at each seed, so that what differs has no spread at all.
    assert re.search(r"unweighted +-4\.0 +-20\.0 +\+0\.000 *$", below, re.M)
    assert re.search(r"local +\+4\.0 +\+20\.0 +\+1\.000 *$", below, re.M)
    assert "accuracy" not in below  # the models are the same


def test_a_comparison_over_many_worlds_is_of_averages():
    text = printed(summary(sweep((0.1, 0.3, 1.0, 10.0), (0.0, 0.25, 0.5, 0.75)), AXES, TITLE, compared=True))
    assert "Averages over 16 worlds are shown" in text
    row_of(text.partition("Difference")[2], "local", "+2.2", "+10.9", "+1.000")


def test_learned_models_are_compared_too():
    points = sweep((0.1,), (0.5,), ["local"], (0,)).drop(columns="calibrate")
    points = pd.concat([points.assign(learn=name) for name in ("shared", "own")], ignore_index=True)
    points.loc[1, over.ACCURACY] -= 0.25
    text = printed(summary(points, [CONCENTRATION, SHARE, "learn"], TITLE, compared=True), 120)
    below = text.partition("Difference to shared")[2]
    assert "accuracy" in below
    assert row_of(below, "0.1", "0.5", "own").endswith("-25.0")


# ------------------------------------------------------------------------------------------------------------ figures


def draw(
    points: pd.DataFrame, axes: Sequence[str], folder: Path, formats: Sequence[str] = ("png", "svg")
) -> list[Path]:
    with styled():
        figures = figure_sweep.draw(SweepResults(points, list(axes), TITLE))
        return [file for k, figure in enumerate(figures) for file in save(figure, folder, f"sweep_{k}", formats)]


def drawn(points: pd.DataFrame, axes: Sequence[str], folder: Path, form: str) -> int:
    files = draw(points, axes, folder, [form])
    assert all(file.stat().st_size > 5000 for file in files)
    return len(files)


def test_a_sweep_over_two_axes_is_one_figure_of_the_same_bytes_at_every_drawing(tmp_path):
    first, second = (draw(sweep(), AXES, tmp_path / name) for name in ("a", "b"))
    assert len(first) == 2
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]
    assert first[1].read_text().count('id="nominal') == 2 * 2  # coverage and worst client, in two columns


def regression() -> pd.DataFrame:
    points = sweep(shares=(0.5,)).drop(columns=[over.SET_SIZE, over.ACCURACY])
    lengths = {over.LENGTH: 4.0, f"{over.LENGTH}_is_infinite": False, over.RMSE: 2.0}
    points = points.assign(**lengths)
    points.loc[3, [over.LENGTH, f"{over.LENGTH}_is_infinite"]] = [math.nan, True]
    return points


def uncalibrated() -> pd.DataFrame:
    points = sweep(strategies=["none"])
    gone = [column for column in points if column.startswith("calibrate.")]
    return points.assign(**dict.fromkeys(gone, math.nan), alpha=None, **{f"{over.ACCURACY}_client_min": 0.5})


@pytest.mark.parametrize(("points", "axes"), [
    (sweep(shares=(0.5,)), [CONCENTRATION, "calibrate", "seed"]),
    (sweep(shares=(0.5,), seeds=(0,)), [CONCENTRATION, "calibrate"]),
    (sweep((0.1,), (0.5,)), ["calibrate", "seed"]),
    (sweep((0.1,), (0.5,), ["local"], (0,)), []),
    (sweep(strategies=["fedwq-cp"]), [CONCENTRATION, SHARE, "seed"]),
    (without(sweep(), 0, 1, 2, 7), AXES),
    (sweep(strategies=[*STRATEGIES, *(f"other(k={k})" for k in range(6))], seeds=(0,)), AXES),
    (sweep().drop(columns=over.WORST_TESTED), AXES),
    (regression(), [CONCENTRATION, "calibrate", "seed"]),
    (uncalibrated(), AXES),
    (pd.concat([sweep(seeds=(0,)), uncalibrated()]), AXES),
])  # fmt: skip
def test_every_kind_of_sweep_is_drawn(points, axes, tmp_path):
    assert drawn(points, axes, tmp_path, "svg") == 1


def test_further_axes_make_further_figures_but_not_without_end(tmp_path, monkeypatch):
    few = sweep((0.1, 1.0), strategies=("local", "fedwq-cp"), seeds=(0,))
    points = pd.concat([few.assign(**{"learn.epochs": epochs}) for epochs in (1, 5)])
    assert drawn(points, [*AXES, "learn.epochs"], tmp_path / "a", "png") == 2
    monkeypatch.setattr(figure_sweep, "MOST_FIGURES", 3)
    few = few[(few[SHARE] == 0) & (few["calibrate"] == "local")]
    points = pd.concat([few.assign(**{"learn.epochs": 1 + k % 2, "data.name": f"d{k // 2}"}) for k in range(16)])
    assert drawn(points, [CONCENTRATION, "learn.epochs", "data.name"], tmp_path / "b", "png") == 3


def looks(*strategies: str) -> dict[str, tuple[str, str, Any]]:
    points = pd.DataFrame({"calibrate": strategies})
    plot = Plot(points, ["calibrate"], strategies, [])
    return {name: tuple(map(str, plot.style(name).values())) for name in strategies}


def test_the_known_strategies_look_the_same_in_every_figure():
    first = looks("fedwq-cp", "unweighted", "local", "pooled")
    second = looks("mine", "local(small_n=inf)", "local", "pooled", *(f"other(k={k})" for k in range(6)))
    assert first["local"] == second["local"]
    assert first["pooled"] == second["pooled"]
    assert len(set(second.values())) == len(second)
    assert not {second["mine"], second["local(small_n=inf)"]} & set(first.values())


def test_a_mark_is_filled_where_its_promise_is_shown_to_be_broken():
    def lost(points: pd.DataFrame, measure: int) -> dict[str, bool]:
        measures = list(figure_sweep._measures(points, AXES))
        marks = Plot(points, AXES, STRATEGIES, measures).marks
        return {mark.cell.key["calibrate"]: mark.lost for mark in marks[measures[measure]]}

    points = sweep((0.1,), (0.5,))
    assert lost(points, 0) == {"fedwq-cp": True, "unweighted": True, "local": False}  # overall, by t intervals
    assert not any(lost(points, 1).values())  # to single clients: nobody was judged
    assert not any(lost(sweep((0.1,), (0.5,), seeds=(0,)), 0).values())
    # One of three points has a p-value of .01, .03 over all three.
    judged = points.assign(**{over.P_SMALLEST: [0.5] * 3 + [0.01, 0.5, 0.5] + [0.02, 0.5, 0.5]})
    assert lost(judged, 1) == {"fedwq-cp": False, "unweighted": True, "local": False}
    assert not any(lost(judged, 2).values())  # of sizes nothing is promised


def test_nothing_is_drawn_of_nothing(tmp_path):
    points = pd.DataFrame([{"calibrate": name, "seed": 0, "status": "failed"} for name in STRATEGIES])
    assert draw(points, ["calibrate", "seed"], tmp_path / "none") == []


def test_the_plain_worst_client_is_shown_where_some_point_has_no_large_client():
    points = sweep((0.1,), (0.5,))
    assert over.worst_metric(points) == over.WORST_TESTED
    points.loc[0, over.WORST_TESTED] = math.nan
    assert over.worst_metric(points) == over.WORST
    assert over.worst_metric(without(sweep(), 0)) == over.WORST_TESTED  # a point without a result tells nothing
    said = finding(points, AXES)  # not of the worst client, which may have a single test point
    assert said == "Coverage is lowest under unweighted: 87.5%, 95% promised"


# --------------------------------------------------------------------------------------------------------------- plan


def planned(points: int, folder: Path) -> str:
    made = [Point({"seed": seed}, Scenario.load("digits", f"seed={seed}")) for seed in range(points)]
    return printed(plan(Sweep("s", {"seed": list(range(points))}, made), folder), 120)


def test_a_long_plan_is_cut_in_the_middle_and_says_so(tmp_path):
    text = planned(45, tmp_path)
    listed = [int(line.split()[0]) for line in text.splitlines() if line.endswith("to run")]
    assert listed == [*range(20), *range(40, 45)]
    assert "20 points, 20 to 39, are left out of this list" in text
    assert "45 points, 45 different runs" in text
    assert text.splitlines()[-1].startswith(("to do:", "million", "through"))


def test_a_plan_of_40_points_is_whole(tmp_path):
    text = planned(40, tmp_path)
    assert "left out" not in text
    assert sum(line.endswith("to run") for line in text.splitlines()) == 40
