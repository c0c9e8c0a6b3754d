"""Every figure is read back: its marks, lines, bands, boxes and axes are the numbers that they stand for.

What is drawn is taken from the `Figure` in the coordinates of its axes; tick labels are read as a reader
would, and must name the place where they stand. Numbers are derived by hand, or taken from what is pictured.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle
from matplotlib.patches import Rectangle, StepPatch
from numpy.typing import NDArray
from test_model_size import AXES as SIZE_AXES
from test_model_size import result as measured
from test_report import REGRESSION, client, plain, regression, result
from test_report_plada import CODEC, SETTINGS, TRIALS, plada
from test_report_plada import sweep as payload_sweep

from fl_sim import Result
from fl_sim.agreement.measure import MATRIX
from fl_sim.conformal.coverage import exchangeable_band
from fl_sim.conformal.reliability import BINS
from fl_sim.report import sweep_points as over
from fl_sim.report import wording
from fl_sim.report.figures import kept as figure_kept
from fl_sim.report.figures.of_a_run.accuracy import draw as accuracy
from fl_sim.report.figures.of_a_run.agreement import draw as disagreements
from fl_sim.report.figures.of_a_run.calibration import draw as calibration
from fl_sim.report.figures.of_a_run.coverage import draw as coverage
from fl_sim.report.figures.of_a_run.interval_lengths import draw as lengths
from fl_sim.report.figures.of_a_run.labels import draw as labels
from fl_sim.report.figures.of_a_run.payload import draw as payload
from fl_sim.report.figures.of_a_run.rmse import draw as rmse
from fl_sim.report.figures.of_a_run.rounds import draw as rounds
from fl_sim.report.figures.of_a_run.set_sizes import draw as sizes
from fl_sim.report.figures.of_a_sweep import bytes as figure_bytes
from fl_sim.report.figures.of_a_sweep import plane, sweep
from fl_sim.report.figures.of_a_sweep.model_sizes import figure_of as sizes_figure
from fl_sim.report.figures.of_a_sweep.model_sizes import sizes_of
from fl_sim.report.figures.style import styled
from fl_sim.report.sweep_results import SweepResults

Floats = NDArray[np.float64]


@pytest.fixture(autouse=True)
def _in_the_style() -> Iterator[None]:
    with styled():
        yield


# ----------------------------------------------------------------------------------------------------- reading a figure


def read_labels(axis: Axis) -> list[tuple[float, str]]:
    """Place and text of the tick labels that have a text and lie on the axis."""
    axis.axes.figure.draw_without_rendering()
    low, high = sorted(axis.get_view_interval())
    ticks = [
        (float(tick.get_loc()), tick.label1.get_text() or tick.label2.get_text()) for tick in axis.get_major_ticks()
    ]
    return [(place, text) for place, text in ticks if text and low - 1e-9 <= place <= high + 1e-9]


def value_of(text: str) -> float:
    """`90%` is 0.9, `1,234` is 1234, `2 kB` is 2000."""
    for unit, factor in (("%", 0.01), (" kB", 1e3), (" MB", 1e6), (" GB", 1e9), (" B", 1.0)):
        if text.endswith(unit):
            return float(text.removesuffix(unit).replace(",", "")) * factor
    return float(text.replace(",", ""))


def labels_are_true(axis: Axis, least: int = 2) -> None:
    """Each label of a numeric axis says where it stands."""
    read = read_labels(axis)
    assert len(read) >= least
    for place, text in read:
        assert value_of(text) == pytest.approx(place, rel=1e-3, abs=1e-9), (place, text)


def points_of(collection: PathCollection) -> Floats:
    return np.asarray(collection.get_offsets(), np.float64)


def named(ax: Axes, gid: str) -> list[Line2D]:
    return [line for line in ax.lines if line.get_gid() == gid]


def level(ax: Axes, gid: str) -> float:
    """The height of the one horizontal line of that name."""
    (line,) = named(ax, gid)
    first, last = np.asarray(line.get_ydata(), np.float64)
    assert first == last
    return float(first)


def upright(ax: Axes, gid: str) -> float:
    """The place of the one vertical line of that name."""
    (line,) = named(ax, gid)
    first, last = np.asarray(line.get_xdata(), np.float64)
    assert first == last
    return float(first)


def xy(line: Line2D) -> list[tuple[float, float]]:
    return list(zip(map(float, line.get_xdata()), map(float, line.get_ydata()), strict=True))


def seen_at(ax: Axes, image: AxesImage, x: float, y: float) -> Any:
    """The entry of an image under a place in the coordinates of its axes."""
    array = np.ma.filled(np.ma.asarray(image.get_array(), dtype=np.float64), np.nan)
    left, right, bottom, top = image.get_extent()
    rows, columns = array.shape[:2]
    from_top = (top - y) / (top - bottom)
    row = from_top if image.origin == "upper" else 1 - from_top
    return array[int(np.floor(row * rows)), int(np.floor((x - left) / (right - left) * columns))]


def steps(ax: Axes, gid: str) -> tuple[Floats, Floats, Floats]:
    """Edges, baseline and tops of a drawing in steps; between the bars both are nan."""
    (patch,) = [patch for patch in ax.patches if isinstance(patch, StepPatch) and patch.get_gid() == gid]
    tops, edges, baseline = patch.get_data()
    return np.asarray(edges), np.asarray(baseline, np.float64), np.asarray(tops, np.float64)


def bands(ax: Axes, colour: str) -> dict[float, tuple[float, float]]:
    """The band of that colour, in as many pieces as it has."""
    found: dict[float, tuple[float, float]] = {}
    for each in ax.collections:
        if isinstance(each, PolyCollection) and to_hex(each.get_facecolor()[0]) == to_hex(colour):
            for path in each.get_paths():
                piece: dict[float, list[float]] = {}
                for x, y in path.vertices:
                    piece.setdefault(float(x), []).append(float(y))
                found |= {x: (min(heights), max(heights)) for x, heights in piece.items()}
    return found


def key_of(figure: Figure) -> dict[str, Any]:
    """Text -> handle, of the key above the plot."""
    (legend,) = figure.legends
    return {text.get_text(): handle for text, handle in zip(legend.get_texts(), legend.legend_handles, strict=True)}


def text_of(figure: Figure) -> str:
    return " ".join(" ".join(text.get_text() for text in figure.texts).split())


def notes_of(ax: Axes) -> dict[str, tuple[float, float]]:
    """Text -> the place it speaks of."""
    return {text.get_text(): (float(text.xy[0]), float(text.xy[1])) for text in ax.texts if hasattr(text, "xy")}


# -------------------------------------------------------------------------------------------------- a client's coverage


def unlike() -> list[dict[str, Any]]:
    """Of two tiers, of many sizes, one without calibration points, one without test points, two equally good."""
    rows = [client(k, ("weak", "strong")[k % 2], 12 + k % 9, 20 + k % 5, n=20 + 7 * k) for k in range(18)]
    rows += [client(18, "weak", 20, 20, n=30), client(19, "strong", 20, 20, n=30)]
    rows += [client(20, "strong", 3, 9, n=0), client(21, "weak", 0, 0, n=5)]
    return rows


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_coverage_has_a_mark_a_client_at_its_coverage_from_the_worst_to_the_best(alpha: float) -> None:
    rows = [row for row in unlike() if row["num_test"]]
    figure = coverage(result(unlike(), f"calibrate.alpha={alpha}"))
    (ax,) = figure.axes
    (marks,) = [each for each in ax.collections if isinstance(each, PathCollection)]
    at = points_of(marks)
    assert at[:, 0].tolist() == list(range(1, len(rows) + 1))
    assert at[:, 1].tolist() == sorted(row["num_covered"] / row["num_test"] for row in rows)
    assert ax.get_ylim()[0] < at[:, 1].min() < at[:, 1].max() <= ax.get_ylim()[1]  # upwards is better
    assert ax.get_xlim()[0] < 1 < len(rows) < ax.get_xlim()[1]
    labels_are_true(ax.yaxis)
    labels_are_true(ax.xaxis)
    assert "coverage" in ax.get_ylabel()
    assert "smallest coverage to the largest" in ax.get_xlabel()


def test_marks_of_coverage_are_those_of_their_tiers_and_hollow_without_calibration_points() -> None:
    shown = result(unlike())
    figure = coverage(shown)
    (ax,) = figure.axes
    (marks,) = [each for each in ax.collections if isinstance(each, PathCollection)]
    rows = sorted((row for row in unlike() if row["num_test"]), key=lambda row: row["num_covered"] / row["num_test"])
    key = {text.partition(":")[0]: handle for text, handle in key_of(figure).items()}
    shapes = {
        tier: (shape := MarkerStyle(key[tier].get_marker())).get_path().transformed(shape.get_transform())
        for tier in ("weak", "strong")
    }
    for row, path, edge, face in zip(
        rows, marks.get_paths(), marks.get_edgecolor(), marks.get_facecolor(), strict=True
    ):
        twins = {r["tier"] for r in rows if r["coverage"] == row["coverage"]}
        tier = next(tier for tier in twins if to_rgba(key[tier].get_color()) == tuple(edge))
        assert path.vertices.tolist() == shapes[tier].vertices.tolist()
        assert (to_hex(face) == "#ffffff") == (row["num_calibration"] == 0)
    many = {tier: sum(row["tier"] == tier for row in rows) for tier in shapes}
    edges = [to_hex(edge) for edge in marks.get_edgecolor()]
    assert {tier: edges.count(to_hex(key[tier].get_color())) for tier in shapes} == many
    told = {text.partition(":")[0]: text for text in key_of(figure)}
    for tier in shapes:
        mine = [row for row in unlike() if row["tier"] == tier]
        covered = sum(row["num_covered"] for row in mine) / sum(row["num_test"] for row in mine)
        assert told[tier] == f"{tier}: {len(mine)} clients, {100 * covered:.1f}% covered"


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_coverage_is_held_against_the_promise_and_the_bands_of_exchangeable_clients(alpha: float) -> None:
    shown = result(unlike(), f"calibrate.alpha={alpha}")
    (ax,) = coverage(shown).axes
    assert level(ax, "nominal") == pytest.approx(1 - alpha)
    assert named(ax, "nominal")[0].get_linestyle() == "--"
    covered, tested = (sum(row[name] for row in unlike()) for name in ("num_covered", "num_test"))
    others = [line for line in ax.lines if line.get_gid() is None]
    assert [xy(line)[0][1] for line in others] == pytest.approx([covered / tested])
    texts = {text.get_text(): text for text in ax.texts}
    promised = texts[f"{100 * (1 - alpha):g}% promised"]
    overall = texts[f"{100 * covered / tested:.1f}% overall"]
    # Their labels may be pushed apart, and never past each other.
    assert (promised.xy[1] > overall.xy[1]) == (1 - alpha > covered / tested)
    assert overall.get_color() == others[0].get_color()
    worst = next(text for text in ax.texts if text.get_text().startswith("client "))
    assert worst.get_text().startswith("client 20 (strong): 33.3% of 9 test points, n_k = 0")
    assert worst.xy == (1, 3 / 9)
    # A bar at every rank, from one end of the band to the other.
    rows = sorted((row for row in unlike() if row["num_test"]), key=lambda row: row["num_covered"] / row["num_test"])
    edges, low, high = steps(ax, "band")
    by_place = {}
    for left, right, bottom, top in zip(edges[:-1], edges[1:], low, high, strict=True):
        if not math.isnan(bottom):
            by_place[round((left + right) / 2, 6)] = (bottom, top)
    small_n = shown.scenario.calibrate.small_n  # type: ignore[union-attr]
    expected = [
        exchangeable_band(row["num_calibration"], row["num_test"], alpha, small_n=small_n)
        if row["num_calibration"] else None  # who has no points has no threshold of its own
        for row in rows
    ]  # fmt: skip
    sizes_seen = {(row["num_calibration"], row["num_test"]) for row in rows}
    assert len(sizes_seen) > 10  # else a band in the wrong place would pass
    assert len(by_place) == sum(band is not None for band in expected) > 5
    for rank, (row, band) in enumerate(zip(rows, expected, strict=True), start=1):
        twins = [r for r in rows if r["coverage"] == row["coverage"]]
        if band is not None and len(twins) == 1:  # of equals, the order is the tiers'
            assert by_place[rank] == pytest.approx((band[0] - 0.002, band[1] + 0.002))


# ------------------------------------------------------------------------------------------------------- strips by tier


def strips() -> list[dict[str, Any]]:
    """weak: 1 to 20 and 41; strong: 11 clients of 101 to 111. Their quantiles can be read off the ranks."""
    weak = [*range(1, 21), 41]
    values = [("weak", float(value)) for value in weak] + [("strong", float(100 + k)) for k in range(1, 12)]
    order = np.random.default_rng(0).permutation(len(values))
    return [
        client(k, values[j][0], 10, 20) | {"mean_set_size": values[j][1], "accuracy": values[j][1] / 200}
        for k, j in enumerate(order)
    ]


#                    5 %, quartiles and median, 95 %, mean: of 21 values the ranks 2, 6, 11, 16, 20; of 11 between them
WEAK, STRONG = ([2, 6, 11, 16, 20], 251 / 21), ([101.5, 103.5, 106, 108.5, 110.5], 106.0)


@pytest.mark.parametrize(("draw", "column", "scale"), [(sizes, "mean_set_size", 1.0), (accuracy, "accuracy", 200.0)])
def test_a_strip_has_a_mark_a_client_and_a_box_of_its_quantiles(
    draw: Callable[[Result], Figure], column: str, scale: float
) -> None:
    overrides = [] if draw is sizes else ["calibrate=none"]
    (ax,) = draw(result(strips(), *overrides)).axes
    assert [text for _, text in read_labels(ax.yaxis)] == ["weak\n21 clients", "strong\n11 clients"]
    assert [place for place, _ in read_labels(ax.yaxis)] == [0, 1]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first tier on top
    clouds = [points_of(each) for each in ax.collections if isinstance(each, PathCollection)]
    assert ("accuracy" if draw is accuracy else "labels in a set") in ax.get_xlabel()
    labels_are_true(ax.xaxis)
    lines, boxes = iter(ax.lines), iter(ax.patches)
    for index, (tier, (quantiles, mean)) in enumerate({"weak": WEAK, "strong": STRONG}.items()):
        own = sorted(row[column] for row in strips() if row["tier"] == tier)
        assert sorted(clouds[index][:, 0].tolist()) == own
        assert ((index < clouds[index][:, 1]) & (clouds[index][:, 1] < index + 0.5)).all()
        low, first, middle, third, high = (value / scale for value in quantiles)
        left, left_end, right, right_end, median, diamond = itertools.islice(lines, 6)
        height = index - 0.2
        assert [sorted(x for x, _ in xy(line)) for line in (left, right)] == [
            pytest.approx([low, first]), pytest.approx([third, high]),
        ]  # fmt: skip
        assert [x for line in (left_end, right_end) for x, _ in xy(line)] == pytest.approx([low, low, high, high])
        assert [x for x, _ in xy(median)] == pytest.approx([middle, middle])
        assert xy(diamond) == [pytest.approx((mean / scale, height))]
        assert diamond.get_marker() == "D"
        box = next(boxes)
        assert isinstance(box, Rectangle)
        assert (box.get_x(), box.get_x() + box.get_width()) == pytest.approx((first, third))
        assert box.get_y() + box.get_height() / 2 == pytest.approx(height)
    left, right = ax.get_xlim()
    assert left < min(row[column] for row in strips())
    assert right > max(row[column] for row in strips())


def test_lengths_that_are_infinite_are_left_out_and_counted() -> None:
    rows = regression()
    rows[3]["mean_interval_length"] = math.inf
    figure = lengths(result(rows, name=REGRESSION))
    (ax,) = figure.axes
    drawn = np.concatenate([points_of(each)[:, 0] for each in ax.collections if isinstance(each, PathCollection)])
    assert sorted(drawn.tolist()) == sorted(4.0 + k for k in range(12) if k != 3)
    assert "1 client with infinite intervals: not shown." in text_of(figure)
    assert "interval length" in ax.get_xlabel()


def test_without_calibration_a_regressions_strip_shows_the_error() -> None:
    rows = [row | {"rmse": 1.0 + row["client"] / 10} for row in regression()]
    (ax,) = rmse(result(rows, "calibrate=none", name=REGRESSION)).axes
    drawn = np.concatenate([points_of(each)[:, 0] for each in ax.collections if isinstance(each, PathCollection)])
    assert sorted(drawn.tolist()) == [row["rmse"] for row in rows]
    assert "root mean squared error" in ax.get_xlabel()


# ----------------------------------------------------------------------------------------------- who holds which labels


def test_labels_are_shares_of_a_clients_points_under_the_names_of_their_classes() -> None:
    held = [[8, 2, 0], [0, 0, 0], [1, 0, 9], [0, 6, 0], [5, 3, 2]]
    rows = [client(k, "weak", 5, 10, n=sum(counts)) | {"label_counts": counts} for k, counts in enumerate(held)]
    figure = labels(result(rows, classes=["ant", "bee", "cow"]))
    sizes_of, shares, scale = figure.axes
    (image,) = shares.images
    names = {text: place for place, text in read_labels(shares.yaxis)}
    assert list(names) == ["ant", "bee", "cow"]
    # By the commonest label, the purest first: 8/10 ants, 5/10 ants, bees, cows, and who has none.
    order = [held[k] for k in (0, 4, 3, 2, 1)]
    for column, counts in enumerate(order, start=1):
        for name, count in zip(("ant", "bee", "cow"), counts, strict=True):
            expected = count / sum(counts) if sum(counts) else math.nan
            assert seen_at(shares, image, column, names[name]) == pytest.approx(expected, nan_ok=True)
    assert names["ant"] < names["cow"]
    assert shares.get_ylim()[0] > shares.get_ylim()[1]  # the first class on top
    edges, low, high = steps(sizes_of, "sizes")
    centres = (edges[:-1] + edges[1:]) / 2
    drawn = {round(float(x)): (b, t) for x, b, t in zip(centres, low, high, strict=True) if not math.isnan(t)}
    assert drawn == {k: (0.0, float(sum(counts))) for k, counts in enumerate(order, start=1)}
    assert sizes_of.get_xlim() == shares.get_xlim() == (0.5, 5.5)
    assert sizes_of.get_ylabel() == "n_k"
    labels_are_true(sizes_of.yaxis)
    # The scale beside it: at the height of a share stands that share's colour.
    (ramp,) = scale.images
    assert ramp.norm is image.norm
    assert ramp.get_cmap().name == image.get_cmap().name
    for share in (0.05, 0.3, 0.95):
        assert seen_at(scale, ramp, 0.5, share) == pytest.approx(share, abs=0.01)
    labels_are_true(scale.yaxis)


def test_of_more_clients_than_columns_each_column_is_the_mean_of_neighbours() -> None:
    """2,500 clients in 1,000 columns of two or three; a mark is still drawn of every one."""
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 9, (2500, 3))
    counts[::50] = 0
    covered = rng.integers(0, 21, 2500).tolist()
    rows = [
        client(k, "weak", covered[k], 20, n=int(mine.sum())) | {"label_counts": mine.tolist()}
        for k, mine in enumerate(counts)
    ]
    shown = result(rows, "calibrate.alpha=0.2", classes=["ant", "bee", "cow"])
    sizes_of, shares_of, _ = labels(shown).axes
    full = [(int(c.argmax()), -c.max() / c.sum(), c) for c in counts if c.sum()]
    order = [c for _, _, c in sorted(full, key=lambda one: one[:2])] + [c for c in counts if not c.sum()]
    groups = [order[int(2500 * i / 1000) : int(2500 * (i + 1) / 1000)] for i in range(1000)]
    (image,) = shares_of.images
    assert image.get_array().shape == (3, 1000)
    _, low, high = steps(sizes_of, "sizes")
    heights = [top for top, bottom in zip(high, low, strict=True) if not math.isnan(top)]
    assert heights == pytest.approx([float(np.mean([c.sum() for c in group])) for group in groups])
    for place in (1, 777, 2400, 2500):
        group = [c / c.sum() for c in groups[int((place - 0.5) / 2.5)] if c.sum()]
        expected = np.mean(group, axis=0) if group else [math.nan] * 3
        drawn = [seen_at(shares_of, image, place, row) for row in range(3)]
        assert drawn == pytest.approx(list(expected), nan_ok=True)
    figure = coverage(shown)
    (marks,) = [each for each in figure.axes[0].collections if isinstance(each, PathCollection)]
    assert points_of(marks)[:, 1].tolist() == sorted(k / 20 for k in covered)
    ranked = [wording.band(shown.scenario, row) for row in sorted(rows, key=lambda r: (r["coverage"], r["client"]))]
    _, low, high = steps(figure.axes[0], "band")
    bars_of = [(b, t) for b, t in zip(low, high, strict=True) if not math.isnan(t)]
    means = []
    for i in range(1000):
        known = [b for b in ranked[int(2500 * i / 1000) : int(2500 * (i + 1) / 1000)] if b]
        if known:
            means.append(np.mean(known, axis=0) + np.array([-0.002, 0.002]))
    assert np.array(bars_of) == pytest.approx(np.array(means))
    assert "mean of neighbouring clients" in text_of(figure)
    assert "1,000 columns is the mean of neighbouring clients" in text_of(labels(shown))


def test_labels_of_a_regression_are_deciles_from_one() -> None:
    (_, ax, _) = labels(result(regression(), name=REGRESSION)).axes
    assert [text for _, text in read_labels(ax.yaxis)] == [str(k) for k in range(1, 11)]
    assert "decile" in ax.get_ylabel()


# ------------------------------------------------------------------------------------------------- reliability diagrams


def curve(bins: dict[int, tuple[int, float, float]]) -> dict[str, list[float]]:
    """Bin -> how many points, their mean confidence, and the share that is right."""
    held = [bins.get(k, (0, 0.0, 0.0)) for k in range(BINS)]
    return {
        "count": [many for many, _, _ in held],
        "confidence": [many * sure for many, sure, _ in held],
        "hits": [many * right for many, _, right in held],
    }


BEFORE = {9: (10, 0.62, 0.3), 14: (30, 0.97, 0.5)}
AFTER = {4: (10, 0.31, 0.41), 11: (30, 0.78, 0.7)}


def calibrated() -> Result:
    shown = result(plain(4), phi_brier=0.01, brier=0.4, reliability={})
    tables = {"weak": {"before": curve(BEFORE), "after": curve(AFTER)}}
    tables["strong"] = {"before": curve(AFTER), "after": curve(BEFORE)}
    shown.calibrate["reliability"] = tables
    for tier in shown.calibrate["tiers"].values():
        tier["phi_brier"] = 0.02
    return shown


def test_reliability_is_how_often_it_is_right_over_how_sure_it_is() -> None:
    figure = calibration(calibrated())
    panels = [ax for ax in figure.axes if ax.get_title(loc="left")]
    counts = [ax for ax in figure.axes if ax not in panels]
    assert [ax.get_title(loc="left").partition(":")[0] for ax in panels] == ["weak", "strong"]
    key = key_of(figure)
    for ax, bars, (before, after) in zip(panels, counts, ((BEFORE, AFTER), (AFTER, BEFORE)), strict=True):
        diagonal, *lines = ax.lines
        assert xy(diagonal) == [(0, 0), (1, 1)]
        for line, cloud, bins, name in zip(
            lines, ax.collections, (before, after), ("before", "after the calibrator"), strict=True
        ):
            expected = [(sure, right) for _, sure, right in bins.values()]
            assert xy(line) == [pytest.approx(each) for each in expected]
            assert points_of(cloud).tolist() == [pytest.approx(each) for each in expected]
            areas = cloud.get_sizes()
            assert areas[1] / areas[0] == pytest.approx(3)  # by the points in a bin
            assert line.get_linestyle() == key[name].get_linestyle()
            assert line.get_color() == key[name].get_color()
            hollow = to_hex(cloud.get_facecolor()[0]) == "#ffffff"
            assert hollow == (name == "before") == (key[name].get_markerfacecolor() == "white")
        heights = {round(bar.get_x() + bar.get_width() / 2, 6): bar.get_height() for bar in bars.patches}
        expected_bars = {round((k + 0.5) / BINS, 6): after.get(k, (0,))[0] for k in range(BINS)}
        assert heights == expected_bars
        assert ax.get_ylabel() == "right"
        assert "confidence" in bars.get_xlabel()
        assert ax.get_xlim() == bars.get_xlim()
        assert ax.get_ylim()[0] < ax.get_ylim()[1]
        labels_are_true(ax.yaxis)
        labels_are_true(bars.xaxis)
        labels_are_true(bars.yaxis, 1)
    # |.62 - .3| of ten and |.97 - .5| of thirty in forty; |.31 - .41| and |.78 - .7|.
    assert "ECE 43.2% to 8.5%" in panels[0].get_title(loc="left")
    assert "ECE 8.5% to 43.2%" in panels[1].get_title(loc="left")


# --------------------------------------------------------------------------------------------------- clients' agreement

CURVE = [
    {"k": k, "disagreement": d, "disagreement_se": s, "bound": b, "bound_se": 2 * s, "gain": g, "gain_se": s / 2,
     "holds": True}
    for k, d, s, b, g in ((1, 0.4, 0.01, 0.6, 0.1), (2, 0.2, 0.02, 0.5, 0.05), (4, 0.1, 0.004, 0.3, 0.02))
]  # fmt: skip


def agreed(*, matrix: bool = True, bound: bool = True, enough: int | None = 2) -> Result:
    means = [0.3, 0.1, 0.2, 0.05]
    rows = [row | {"disagreement": means[k]} for k, row in enumerate(plain(4))]  # weak, strong, weak, strong
    shown = result(rows)
    shown.summary["agreement"] = {
        "disagreement": 0.2, "label_disagreement": 0.3, "rows": 100, "draws": 5, "enough": enough, "within": 0.01,
        "bound_applies": bound, "conditions": [{"holds": bound, "said": "one model"}], "curve": CURVE, "missing": [],
        "tiers": {},
    }  # fmt: skip
    if matrix:
        between = np.add.outer(np.arange(4), np.arange(4) * 10.0)
        between = between + between.T
        np.fill_diagonal(between, 0.0)
        lines = [",0,1,2,3", *(",".join([str(k), *map(str, row)]) for k, row in enumerate(between.tolist()))]
        shown.files[MATRIX] = ("\n".join(lines) + "\n").encode()
    return shown


def test_agreement_is_a_matrix_of_pairs_by_tier_and_mean() -> None:
    figure = disagreements(agreed())
    ax = next(ax for ax in figure.axes if ax.images and ax.get_title(loc="left"))
    (image,) = ax.images
    order = [2, 0, 3, 1]  # weak: 2 (.2), 0 (.3); strong: 3 (.05), 1 (.1)
    for (i, one), (j, other) in itertools.product(enumerate(order), repeat=2):
        expected = 0.0 if one == other else 11.0 * (one + other)
        assert seen_at(ax, image, j, i) == pytest.approx(expected)
    assert {text: place for place, text in read_labels(ax.xaxis)} == {"weak": 0.5, "strong": 2.5}
    assert {text: place for place, text in read_labels(ax.yaxis)} == {"weak": 0.5, "strong": 2.5}
    assert {tuple(np.asarray(line.get_xdata())) for line in ax.lines if line.get_xdata()[0] == line.get_xdata()[1]} == {
        (1.5, 1.5)
    }
    assert image.norm.vmin == 0
    (scale,) = ax.child_axes
    labels_are_true(scale.yaxis)


def test_without_a_matrix_each_clients_mean_is_drawn() -> None:
    (ax, _) = disagreements(agreed(matrix=False)).axes
    assert [xy(line) for line in ax.lines] == [[(0, 0.2), (1, 0.3)], [(2, 0.05), (3, 0.1)]]


@pytest.mark.parametrize("bound", [True, False])
def test_stacks_have_their_means_and_bands_of_two_standard_errors(bound: bool) -> None:
    figure = disagreements(agreed(bound=bound))
    ax = next(ax for ax in figure.axes if "stack" in ax.get_xlabel())
    key = key_of(figure)
    words = {"disagreement": "measured: two disjoint stacks of k", "bound": "bound 4 (R_k - R_2k)",
             "gain": "gain of doubling k, on rows held out"}  # fmt: skip
    shown = [name for name in words if name != "bound" or bound]
    assert list(key) == [words[name] for name in shown]
    for name in shown:
        colour = key[words[name]].get_color()
        (line,) = [each for each in ax.lines if each.get_color() == colour and each.get_gid() is None]
        assert xy(line) == [(point["k"], point[name]) for point in CURVE]
        assert line.get_linestyle() == key[words[name]].get_linestyle()
        expected = {
            float(point["k"]): (point[name] - 2 * point[f"{name}_se"], point[name] + 2 * point[f"{name}_se"])
            for point in CURVE
        }
        drawn = bands(ax, colour)
        assert drawn.keys() == expected.keys()
        for k, ends in expected.items():
            assert drawn[k] == pytest.approx(ends)
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert upright(ax, "enough") == 2
    labels_are_true(ax.xaxis)
    labels_are_true(ax.yaxis, 1)
    assert not named(next(ax for ax in disagreements(agreed(enough=None)).axes if "stack" in ax.get_xlabel()), "enough")


# ----------------------------------------------------------------------------------------------- rounds of a federation


def federation(architectures: Sequence[str] = ("linear", "cnn")) -> Result:
    rows = [row | {"weight": 0.01 * (k + 1)} for k, row in enumerate(plain(6))]
    rows[5] |= {"behaviour": "noise", "weight": 0.5}
    shown = result(rows)
    shown.summary["learn"]["detail"] = {
        "rounds": [
            {"round": r, "architecture": name, "accuracy": 0.5 + 0.05 * r + 0.2 * k}
            for r in (1, 2, 3) for k, name in enumerate(architectures)
        ]
    }  # fmt: skip
    shown.learn.update(weight_share_misbehaving=0.5, weight_by_tier={"weak": 0.03, "strong": 0.03})
    return shown


def test_rounds_are_drawn_at_their_accuracies_a_line_an_architecture() -> None:
    figure = rounds(federation())
    ax = figure.axes[0]
    key = key_of(figure)
    assert list(key) == ["linear", "cnn"]
    for k, (name, line) in enumerate(zip(key, ax.lines, strict=True)):
        assert xy(line) == [pytest.approx((r, 0.5 + 0.05 * r + 0.2 * k)) for r in (1, 2, 3)]
        assert (line.get_color(), line.get_marker()) == (key[name].get_color(), key[name].get_marker())
    assert ax.get_xlabel() == "round"
    assert "accuracy" in ax.get_title(loc="left")
    assert ax.get_ylim()[0] < ax.get_ylim()[1]
    labels_are_true(ax.xaxis)
    labels_are_true(ax.yaxis)


def test_each_clients_weight_is_drawn_in_its_group() -> None:
    ax = rounds(federation()).axes[1]
    assert [(place, text) for place, text in read_labels(ax.yaxis)] == [(0, "weak"), (1, "strong"), (2, "misbehaving")]
    weights = {"weak": [0.01, 0.03, 0.05], "strong": [0.02, 0.04], "misbehaving": [0.5]}
    assert len(ax.collections) == 3
    for index, (cloud, expected) in enumerate(zip(ax.collections, weights.values(), strict=True)):
        assert points_of(cloud)[:, 0].tolist() == pytest.approx(expected)
        assert (np.abs(points_of(cloud)[:, 1] - index) < 0.5).all()
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    assert "weight" in ax.get_xlabel()
    labels_are_true(ax.xaxis)


# ------------------------------------------------------------------------------------------------------------- payloads


def test_a_payload_is_a_stack_of_its_parts_beside_zstd_and_the_bound() -> None:
    figure = payload(plada(TRIALS, curriculum_order=30, soft_labels=90))
    ax = figure.axes[0]
    parts = [CODEC["indices"], CODEC["labels"], 48 + 19, 30, 90]
    *stack, zstd = ax.patches
    assert [bar.get_height() for bar in stack] == parts
    assert [bar.get_y() for bar in stack] == [0, *np.cumsum(parts)[:-1].tolist()]
    assert (zstd.get_y(), zstd.get_height()) == (0, CODEC["zstd"])
    assert [text for _, text in read_labels(ax.xaxis)] == ["this payload", "Zstd-19"]
    assert all(bar.get_x() < 0 < bar.get_x() + bar.get_width() for bar in stack)
    assert zstd.get_x() < 1 < zstd.get_x() + zstd.get_width()
    assert level(ax, "bound") == CODEC["entropy_bound"]
    assert notes_of(ax) == {f"{sum(parts):,}": (0, sum(parts)), "2,288": (1, 2288)}
    names = ["indices 1,231", "labels 700", "header and class names 67", "curriculum order 30", "soft labels 90"]
    key = key_of(figure)
    assert list(key) == [*names, "indices and labels by Zstd-19 2,288", "entropy bound 2,060"]
    for name, bar in zip(names, stack, strict=True):
        assert key[name].get_facecolor() == bar.get_facecolor()
    assert key["indices and labels by Zstd-19 2,288"].get_facecolor() == zstd.get_facecolor()
    assert ax.get_ylim()[0] == 0
    assert ax.get_ylim()[1] > CODEC["zstd"]
    labels_are_true(ax.yaxis)


def test_each_rehearsed_rule_has_its_rounds_its_mean_and_what_the_clients_reach() -> None:
    ax = payload(plada(TRIALS)).axes[1]
    rows = {text: place for place, text in read_labels(ax.yaxis)}
    for trial in TRIALS:
        place = rows[trial["rule"]]
        dots = [line for line in ax.lines if line.get_marker() == "o" and line.get_ydata()[0] == place]
        assert [xy(line) for line in dots] == [[(share, place) for share in trial["rounds"]]]
        strokes = [line for line in ax.lines if line.get_gid() is None and line.get_marker() == "None"]
        (mean,) = [line for line in strokes if np.mean(line.get_ydata()) == pytest.approx(place) and
                   line.get_xdata()[0] == line.get_xdata()[1]]  # fmt: skip
        assert xy(mean)[0][0] == trial["accuracy"]
        assert notes_of(ax)[f"{100 * trial['accuracy']:.1f}%"][1] == place
    assert upright(ax, "reached") == 0.865
    labels_are_true(ax.xaxis)
    assert "accuracy" in ax.get_xlabel()


def test_without_rehearsal_each_class_has_a_bar_of_its_images_and_the_even_share() -> None:
    ax = payload(plada()).axes[1]
    rows = {text: place for place, text in read_labels(ax.yaxis)}
    for bar, (name, many) in zip(ax.patches, {str(c): 171 - c for c in range(10)}.items(), strict=True):
        assert (bar.get_x(), bar.get_width()) == (0, many)
        assert bar.get_y() < rows[name] < bar.get_y() + bar.get_height()
        assert notes_of(ax)[f"{many:,}"] == (many, rows[name])
    assert upright(ax, "even") == 171
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    assert ax.get_xlabel() == "images"
    labels_are_true(ax.xaxis)


def test_kept_images_stand_in_the_row_of_their_class() -> None:
    def images(rows: Any) -> Any:
        return np.stack([np.full((1, 4, 4), row, np.uint8) for row in rows])

    indices, classes = np.array([10, 20, 30, 40, 50]), np.array([2, 0, 2, 0, 0])
    figure = figure_kept._figure(images, indices, classes, ("a", "none", "c"), "")
    (ax,) = figure.axes
    (image,) = ax.images
    high, wide = np.asarray(image.get_array()).shape[:2]
    side = wide / figure_kept.MOST_IMAGES
    for text, held in (("a", [20, 40, 50]), ("c", [10, 30])):
        label = next(each for each in ax.texts if each.get_text() == text)
        kept = next(each for each in ax.texts if each.xy == label.xy and each is not label)
        assert kept.get_text() == f"{len(held)} kept"
        y = high - label.xy[1] * high - 0.5  # axes count upwards, an image downwards
        seen = [np.asarray(image.get_array())[int(y) - 1, int((k + 0.4) * side)].tolist() for k in range(4)]
        assert seen[: len(held)] == [[value] * 3 for value in held]
        assert seen[len(held)] == [255] * 3


# --------------------------------------------------------------------------------------------------------------- sweeps

CONCENTRATION, SHARE = "clients.concentration", "clients.tier.weak.share"
NAMES = ("fedwq-cp", "unweighted", "local")
WORST = {"fedwq-cp": 0.70, "unweighted": 0.55, "local": 0.85}


def swept(concentrations: Sequence[Any] = (0.1, 1.0, 10.0), alpha: float = 0.1, **more: Any) -> pd.DataFrame:
    """Seeds differ by a hundredth, all alike; concentrations and shares by what can be told apart."""
    rows = []
    for name, (i, concentration), share, seed in itertools.product(
        NAMES, enumerate(concentrations), (0.0, 0.5), (0, 1, 2)
    ):
        shift = 0.02 * i + 0.004 * share + 0.01 * (seed - 1)
        rows.append({
            CONCENTRATION: concentration, SHARE: share, "calibrate": name, "seed": seed, "status": "ok",
            "alpha": alpha, over.COVERAGE: WORST[name] + 0.06 + shift, over.WORST_TESTED: WORST[name] + shift,
            over.P_SMALLEST: 0.001 if name == "unweighted" and seed == 1 else 0.5,
            over.WORST: 0.1, over.SET_SIZE: 1.0 + NAMES.index(name) + shift, over.BYTES_UP: 16.0,
        } | more)  # fmt: skip
    return pd.DataFrame(rows)


# Student's t of two and of one degree of freedom, times the standard error of three values a hundredth apart, and of
# two that are .02 apart: how far an interval reaches from its mean.
OF_THREE, OF_TWO = 4.302653 * 0.01 / math.sqrt(3), 12.706205 * 0.01

METRICS = {
    "coverage overall": over.COVERAGE,
    "coverage of the worst": over.WORST_TESTED,
    "mean set size": over.SET_SIZE,
}


def mean_of(points: pd.DataFrame, metric: str, **where: Any) -> float:
    """The mean over three seeds."""
    rows = points
    for axis, value in where.items():
        rows = rows[rows[{"name": "calibrate", "x": CONCENTRATION, "column": SHARE}[axis]] == value]
    found = rows[metric]
    assert len(found) == 3
    return float(found.mean())


@pytest.mark.parametrize("alpha", [0.1, 0.3])
def test_a_sweeps_lines_run_through_the_means_within_their_intervals(alpha: float) -> None:
    points = swept(alpha=alpha)
    (figure,) = sweep.draw(SweepResults(points, [CONCENTRATION, SHARE, "calibrate", "seed"], "a sweep"))
    panels = np.array(figure.axes).reshape(3, 2)
    assert [ax.get_title() for ax in panels[0]] == ["weak share\n0", "weak share\n0.5"]
    styles = {}
    for row, (label, metric) in zip(panels, METRICS.items(), strict=True):
        assert row[0].get_ylabel().startswith(label)
        for ax, share in zip(row, (0.0, 0.5), strict=True):
            joined = [line for line in ax.lines if line.get_gid() is None and line.get_marker() == "None"]
            dotted = [line for line in ax.lines if line.get_marker() not in ("None", None) and len(line.get_xdata())]
            assert len(joined) == 3
            for name, line in zip(NAMES, joined, strict=True):
                found = {x: mean_of(points, metric, name=name, x=x, column=share) for x in (0.1, 1.0, 10.0)}
                assert xy(line) == [pytest.approx(each) for each in found.items()]
                own = [each for each in dotted if each.get_color() == line.get_color()]
                marks = sorted(place for each in own for place in xy(each))
                assert marks == [pytest.approx(each) for each in found.items()]
                band = bands(ax, line.get_color())
                assert band.keys() == found.keys()
                for x, ends in band.items():
                    assert ends == pytest.approx((found[x] - OF_THREE, found[x] + OF_THREE))
                styles.setdefault(name, {(line.get_color(), own[0].get_marker())})
                styles[name] |= {(line.get_color(), each.get_marker()) for each in own}
            assert ax.get_xscale() == "log"
            assert ax.get_ylim()[0] < ax.get_ylim()[1]
            if metric == over.SET_SIZE:
                assert not named(ax, "nominal")
            else:
                assert level(ax, "nominal") == pytest.approx(1 - alpha)
                assert named(ax, "nominal")[0].get_linestyle() == "--"
                (shade,) = ax.patches
                assert shade.get_y() + shade.get_height() == pytest.approx(1 - alpha)  # from below up to the promise
                assert shade.get_y() == pytest.approx(ax.get_ylim()[0])
        labels_are_true(row[0].yaxis)
    labels_are_true(panels[-1][0].xaxis)
    assert all(len(style) == 1 for style in styles.values())
    assert len({style for own in styles.values() for style in own}) == 3
    # Who is who, at the ends of the lines or in the key, where every strategy has the look of its line.
    ends = {text.get_text(): text.xy[1] for ax in panels[:, -1] for text in ax.texts if text.get_text() in NAMES}
    if ends:
        last = {name: mean_of(points, over.SET_SIZE, name=name, x=10.0, column=0.5) for name in NAMES}
        assert {text.get_text(): text.xy[1] for text in panels[-1, -1].texts} == pytest.approx(last)
    for text, handle in key_of(figure).items() if figure.legends else ():
        assert styles[text.partition(" (")[0]] == {(handle.get_color(), handle.get_marker())}


def test_filled_marks_of_a_sweep_are_those_below_what_they_are_held_against() -> None:
    axes = [CONCENTRATION, SHARE, "calibrate", "seed"]
    points = swept()
    (figure,) = sweep.draw(SweepResults(points, axes, "a sweep"))
    panels = np.array(figure.axes).reshape(3, 2)

    def filled(ax: Axes) -> set[tuple[str, float]]:
        full = [line for line in ax.lines if line.get_marker() not in ("None", None) and line.get_gid() is None
                and line.get_markerfacecolor() == line.get_color()]  # fmt: skip
        return {(line.get_color(), x) for line in full for x, _ in xy(line)}

    joined = [line for line in panels[0, 0].lines if line.get_gid() is None and line.get_marker() == "None"]
    colours = dict(zip(NAMES, (line.get_color() for line in joined), strict=True))
    # Seeds scatter by .01, so that t intervals reach .025 beyond: overall, local's .91 to .95 is not below .9.
    expected = {(colours[name], x) for name in ("fedwq-cp", "unweighted") for x in (0.1, 1.0, 10.0)}
    assert filled(panels[0, 0]) == expected
    # To single clients by the exact tests, a thousandth at one of three seeds.
    assert filled(panels[1, 0]) == {(colours["unweighted"], x) for x in (0.1, 1.0, 10.0)}
    assert filled(panels[2, 0]) == set()


@pytest.mark.parametrize("alpha", [0.1, 0.3])
def test_a_sweep_without_numbers_has_a_row_a_strategy_and_world(alpha: float) -> None:
    points = swept(("few", "many"), alpha=alpha)
    points = points[points[SHARE] == 0.0]
    axes = [CONCENTRATION, "calibrate", "seed"]
    (figure,) = sweep.draw(SweepResults(points, axes, "a sweep"))
    rows = {text: place for place, text in read_labels(figure.axes[0].yaxis)}
    assert set(rows) == {f"{world}, {name}" for world in ("few", "many") for name in NAMES}
    assert [ax.get_title(loc="left").partition("\n")[0] for ax in figure.axes] == list(METRICS)
    for ax, metric in zip(figure.axes, METRICS.values(), strict=True):
        marks = [line for line in ax.lines if line.get_marker() not in ("None", None)]
        spans = [line for line in ax.lines if line.get_linewidth() == 2]
        assert len(marks) == len(spans) == 6
        for text, place in rows.items():
            world, name = text.split(", ")
            mean = mean_of(points, metric, name=name, x=world)
            (mark,) = [line for line in marks if line.get_ydata()[0] == place]
            (span,) = [line for line in spans if line.get_ydata()[0] == place]
            assert xy(mark) == [pytest.approx((mean, place))]
            low, high = sorted(x for x, _ in xy(span))
            assert (low, high) == pytest.approx((mean - OF_THREE, mean + OF_THREE))
            shown = f"{100 * mean:.1f}%" if metric != over.SET_SIZE else f"{mean:.2f}"
            assert [note.get_text() for note in ax.texts if note.xy[1] == place] == [shown]
            assert mark.get_color() == span.get_color()
            lost = mark.get_markerfacecolor() == mark.get_color()
            if metric != over.SET_SIZE:
                below = mean + 0.03 < 1 - alpha if metric == over.COVERAGE else name == "unweighted"
                assert lost == below
            else:
                assert not lost
        if metric != over.SET_SIZE:
            assert upright(ax, "nominal") == pytest.approx(1 - alpha)
            (shade,) = ax.patches
            assert shade.get_x() + shade.get_width() == pytest.approx(1 - alpha)
        else:
            assert not named(ax, "nominal")
        labels_are_true(ax.xaxis, 1)
        assert ax.get_xlim()[0] < ax.get_xlim()[1]
        assert ax.get_ylim()[0] > ax.get_ylim()[1]


def test_the_plane_has_a_mark_a_strategy_at_its_size_and_its_worst_client() -> None:
    points = swept()
    points = points[points[SHARE] == 0.0]
    (figure,) = plane.draw(SweepResults(points, [CONCENTRATION, "calibrate", "seed"], "a sweep"))
    assert [ax.get_title(loc="left") for ax in figure.axes] == [f"concentration {x:g}" for x in (0.1, 1.0, 10.0)]
    for ax, x in zip(figure.axes, (0.1, 1.0, 10.0), strict=True):
        marks = named(ax, "strategy")
        expected = [
            (mean_of(points, over.SET_SIZE, name=n, x=x), mean_of(points, over.WORST_TESTED, name=n, x=x))
            for n in NAMES
        ]
        assert [xy(mark)[0] for mark in marks] == [pytest.approx(each) for each in expected]
        assert level(ax, "nominal") == pytest.approx(0.9)
        (shade,) = ax.patches
        assert shade.get_y() + shade.get_height() == pytest.approx(0.9)
        filled = [mark.get_markerfacecolor() == mark.get_color() for mark in marks]
        assert filled == [False, True, False]  # by the exact tests
        bars = [line for line in ax.lines if line.get_gid() is None and line.get_linewidth() == 1.0]
        for mark, (across, along) in zip(marks, zip(bars[::2], bars[1::2], strict=True), strict=True):
            (size, worst) = xy(mark)[0]
            assert across.get_color() == along.get_color() == mark.get_color()
            assert [y for _, y in xy(across)] == pytest.approx([worst] * 2)
            assert [x_ for x_, _ in xy(along)] == pytest.approx([size] * 2)
            assert sorted(x_ for x_, _ in xy(across)) == pytest.approx([size - OF_THREE, size + OF_THREE])
            assert sorted(y for _, y in xy(along)) == pytest.approx([worst - OF_THREE, worst + OF_THREE])
        assert "set size" in ax.get_xlabel()
        assert ax.get_ylim()[0] < ax.get_ylim()[1]
        assert ax.get_xlim()[0] < ax.get_xlim()[1]
        labels_are_true(ax.xaxis)
        leaders = {text.get_text(): text for text in ax.texts}
        colours = dict(zip(NAMES, (mark.get_color() for mark in marks), strict=True))
        if set(NAMES) <= set(leaders):  # a line leads from each name to its mark
            ends = [xy(line) for line in ax.lines if line.get_linewidth() == 0.8]
            for name, mark in zip(NAMES, marks, strict=True):
                assert any(start == pytest.approx(xy(mark)[0]) and end[1] == leaders[name].xy[1] for start, end in ends)
        else:
            key = key_of(figure)
            assert {name: handle.get_color() for name, handle in key.items()} == colours
    assert figure.axes[0].get_ylabel().startswith("coverage of the worst")
    labels_are_true(figure.axes[0].yaxis)


def test_accuracy_over_bytes_has_a_dot_a_size_the_teacher_and_chance() -> None:
    points, clients = payload_sweep(("digits",))
    clients["label_counts"] = "1 1"
    axes = ["data.name", "learn", "calibrate", "seed"]
    (figure,) = figure_bytes.draw(SweepResults(points, axes, "a sweep", clients, SETTINGS))
    assert [ax.get_ylabel() for ax in figure.axes] == ["accuracy, weak clients", "accuracy, strong clients"]
    key = key_of(figure)
    # Two seeds, a byte and .02 apart; the strong tier a hundredth above the weak.
    sizes_of = {
        "plada(rule=random)": [(600.5, 0.71), (2000.5, 0.81)], "plada(rule=diverse)": [(620.5, 0.78)],
        "coreset": [(2300.5, 0.76)], "weights": [(40_000.5, 0.96)],
    }  # fmt: skip
    assert list(key) == list(sizes_of)
    for tier, ax in enumerate(figure.axes):
        for name, expected in sizes_of.items():
            own = [each for each in ax.lines if each.get_color() == key[name].get_color() and each.get_gid() is None]
            joined, dots = own[:2]  # the third would be filled marks, of which there are none
            assert xy(joined) == xy(dots) == [pytest.approx((x, share + 0.01 * tier)) for x, share in expected]
            assert dots.get_marker() == key[name].get_marker()
            assert not any(xy(each) for each in own[2:])
            band = bands(ax, key[name].get_color())
            for x, share in expected:
                assert band[x] == pytest.approx((share + 0.01 * tier - OF_TWO, share + 0.01 * tier + OF_TWO))
        assert level(ax, "teacher") == pytest.approx(0.96)
        assert level(ax, "chance") == 0.5
        assert "teacher 96.0%" in notes_of(ax)
        assert ax.get_xscale() == "log"
        assert ax.get_ylim()[0] < ax.get_ylim()[1]
        labels_are_true(ax.yaxis)
        assert all(text.endswith("%") for _, text in read_labels(ax.yaxis))
    labels_are_true(figure.axes[-1].xaxis)


def test_sizes_of_trees_have_their_risk_and_what_doubling_gains() -> None:
    shown = [measured("boosting", epochs, seed) for epochs in (1, 2, 4) for seed in (0, 1)]
    for k, one in enumerate(shown):  # the seeds differ by .02 in risk and in disagreement
        one.summary["agreement"]["risk"] += 0.02 * (k % 2)
        one.summary["agreement"]["disagreement"] = 0.4 / (1 + k // 2) + 0.02 * (k % 2)
    found = sizes_of(shown, SIZE_AXES)
    assert found is not None
    figure = sizes_figure(found, "a sweep")
    left, right = figure.axes
    risk, (apart, gains) = left.containers, right.containers

    def read(container: Any) -> list[tuple[float, float, float]]:
        line, _, (bars,) = container
        ends = [segment[:, 1] for segment in bars.get_segments()]
        return [(x, y, (max(e) - min(e)) / 2) for (x, y), e in zip(xy(line), ends, strict=True)]

    # Standard error of two values .02 apart is .01; two of them are the bar. 1 / (1 + log2 n): 1, 1/2, 1/3.
    assert read(risk[0]) == [pytest.approx((n, r + 0.01, 0.02)) for n, r in ((1, 1.0), (2, 1 / 2), (4, 1 / 3))]
    assert read(apart) == [pytest.approx((n, d + 0.01, 0.02)) for n, d in ((1, 0.4), (2, 0.2), (4, 0.4 / 3))]
    # Both seeds gain the same, so that there is nothing to be unsure of.
    assert [each[:2] for each in read(gains)] == [pytest.approx((1, 2.0)), pytest.approx((2, 4 * (1 / 2 - 1 / 3)))]
    assert [each[2] for each in read(gains)] == pytest.approx([0.0, 0.0], abs=1e-12)
    key = list(key_of(figure).values())
    for handle, container in zip(key, (apart, gains), strict=True):
        assert handle.get_color() == container[0].get_color()
        assert handle.get_linestyle() == container[0].get_linestyle()
    assert level(right, "zero") == 0
    assert "risk" in left.get_ylabel()
    assert "stages" in left.get_xlabel()
    assert left.get_ylim()[0] == 0 < left.get_ylim()[1]
    for ax in (left, right):
        labels_are_true(ax.xaxis)
        labels_are_true(ax.yaxis)
