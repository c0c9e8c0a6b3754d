"""Score grids and the code of their counts: rounding up, round trips, refusals, and bytes beside the entropy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fl_sim.conformal.histogram import ScoreGrid, coarsened, decode, encode, refined, threshold_at

quick = settings(derandomize=True, deadline=None, max_examples=150)

numbers = st.floats(-1e6, 1e6)
tails = st.sampled_from([0.0, 1e-3, 0.1, 1e-9])


@st.composite
def grids(draw):
    low, high = sorted((draw(numbers), draw(numbers)))
    return ScoreGrid(low, high, draw(st.integers(1, 600)), draw(tails))


def counts(low=0, high=40):
    shape = st.tuples(st.integers(1, 4), st.integers(2, 70))
    return shape.flatmap(lambda s: hnp.arrays(np.int64, s, elements=st.integers(low, high)))


def entropy_bytes(n, cells):
    """log2 of the number of multisets of n points in `cells` cells, in bytes."""
    nats = math.lgamma(n + cells) - math.lgamma(n + 1) - math.lgamma(cells)
    return nats / math.log(2) / 8


# -------------------------------------------------------------------------------------------------------------- grids


@quick
@given(grids())
def test_edges_do_not_fall_and_end_at_high(grid):
    edges = grid.edges
    assert edges.shape == (grid.bins,)
    assert (np.diff(edges) >= 0).all()
    assert edges[-1] == grid.high
    assert edges[0] >= grid.low
    assert ScoreGrid.from_text(grid.text()) == grid
    with pytest.raises(ValueError, match="read-only"):
        edges[0] = 0.0


def test_edges_over_the_whole_range_of_floats_are_finite():
    edges = ScoreGrid(-1.7e308, 1.7e308, bins=8).edges
    assert np.isfinite(edges).all()
    assert (np.diff(edges) > 0).all()


def test_a_tail_makes_the_last_bin_narrow_and_the_first_wide():
    edges = np.concatenate([[0.0], ScoreGrid(0.0, 1.0, bins=512, tail=1e-3).edges])
    widths = np.diff(edges)
    assert widths[0] / widths[-1] == pytest.approx(1000, rel=0.02)
    assert (np.diff(widths) < 1e-12).all()


@quick
@given(grids(), st.lists(numbers, max_size=30))
def test_a_score_is_counted_in_the_bin_whose_end_is_the_next_edge(grid, scores):
    ends = np.append(grid.edges, np.inf)
    for score in scores:
        place = int(grid.place([score])[0])
        assert score <= ends[place]
        assert place == 0 or ends[place - 1] < score
    found = grid.count(scores)
    assert found.sum() == len(scores)
    assert found[-1] == sum(score > grid.high for score in scores)


def test_counting_by_label_is_counting_each_labels_scores():
    rng = np.random.default_rng(1)
    grid, scores, labels = ScoreGrid(0.0, 1.0, 32), rng.random(300), rng.integers(0, 3, 300)
    found = grid.count_by(scores, labels, 4)
    assert found.shape == (4, 33)
    for label in range(4):
        assert (found[label] == grid.count(scores[labels == label])).all()


@quick
@given(grids(), st.lists(st.lists(numbers, max_size=20), min_size=1, max_size=5))
def test_the_sum_of_histograms_is_the_histogram_of_all(grid, clients):
    assert (sum(grid.count(scores) for scores in clients) == grid.count(sum(clients, []))).all()  # noqa: RUF017


@quick
@given(grids(), st.lists(numbers, min_size=1, max_size=40), st.data())
def test_a_threshold_is_the_order_statistic_rounded_up_to_its_edge(grid, scores, data):
    rank = data.draw(st.integers(1, len(scores)))
    exact = sorted(scores)[rank - 1]
    later = grid.edges[grid.edges >= exact]
    assert threshold_at(grid.count(scores), grid.edges, rank) == (later[0] if len(later) else math.inf)


def test_a_rank_above_all_scores_has_no_edge():
    grid = ScoreGrid(0.0, 1.0, 4)
    assert threshold_at(grid.count([0.1]), grid.edges, 2) == math.inf
    assert threshold_at(grid.count([]), grid.edges, 1) == math.inf


@pytest.mark.parametrize(("wrong", "message"), [
    ({"low": 1.0, "high": 0.0}, "from 1.0 to 0.0"), ({"high": math.inf}, "from 0.0 to inf"),
    ({"low": math.nan}, "must be finite"),
])  # fmt: skip
def test_what_is_no_grid_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        ScoreGrid(**{"low": 0.0, "high": 1.0, "bins": 4} | wrong)


def test_a_score_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        ScoreGrid(0.0, 1.0, 4).count([0.5, math.nan])


# --------------------------------------------------------------------------------------------------- coarser and finer


@quick
@given(st.integers(1, 5), st.integers(0, 4), st.data())
def test_a_coarser_histogram_rounds_up(odd, halvings, data):
    bins = odd << halvings
    grid = ScoreGrid(0.0, 1.0, bins, data.draw(tails))
    scores = data.draw(st.lists(st.floats(0, 1.2), min_size=1, max_size=30))
    fine = coarse = grid.count(scores)[None]
    for _ in range(halvings):
        coarse = coarsened(coarse)
    back = refined(coarse, bins)
    assert coarse.shape == (1, odd + 1)
    assert back.shape == fine.shape
    assert (back.sum(), back[0, -1]) == (fine.sum(), fine[0, -1])
    assert (np.cumsum(back) <= np.cumsum(fine)).all()  # every point at its place or above it
    assert (np.cumsum(back)[(1 << halvings) - 1 : bins : 1 << halvings] == np.cumsum(fine)[
        (1 << halvings) - 1 : bins : 1 << halvings]).all()  # fmt: skip


def test_bins_that_cannot_be_joined_are_refused():
    with pytest.raises(ValueError, match="3 bins cannot"):
        coarsened(np.zeros((1, 4), np.int64))
    with pytest.raises(ValueError, match="1 bins cannot"):
        coarsened(np.ones((1, 2), np.int64))  # they would be lost
    with pytest.raises(ValueError, match="3 bins do not divide 8"):
        refined(np.zeros((1, 4), np.int64), 8)


# ------------------------------------------------------------------------------------------------------------ the code


@quick
@given(st.one_of(counts(), counts(high=1), counts(-9, 9), counts(-3, 10**6), counts(0, 10**9)))
def test_the_code_holds_any_counts(told):
    assert (decode(encode(told), len(told)) == told).all()


@pytest.mark.parametrize("told", [
    np.zeros((1, 2), int), np.zeros((10, 513), int), np.array([[0, 1]]), np.array([[7, 0]]), np.array([[-1, 0]]),
    np.eye(3, 300, dtype=int), np.full((2, 65537), 1), np.array([[0] * 999 + [10**12]]),
], ids=lambda told: f"{told.shape}")  # fmt: skip
def test_the_code_holds_counts_at_the_ends(told):
    code = encode(told)
    assert code.dtype == np.uint8
    assert (decode(code, len(told)) == told).all()


@quick
@given(st.one_of(counts(), counts(high=1), counts(-9, 9)), st.integers(0, 255))
def test_a_code_cut_short_or_gone_on_is_refused(told, byte):
    code = encode(told)
    for end in range(len(code)):
        with pytest.raises(ValueError, match="histogram's code"):
            decode(code[:end], len(told))
    with pytest.raises(ValueError, match="histogram's code"):
        decode(np.append(code, np.uint8(byte)), len(told))


@quick
@given(st.binary(max_size=60), st.integers(1, 3))
def test_any_bytes_are_counts_or_refused(data, rows):
    try:
        found = decode(np.frombuffer(data, np.uint8), rows)
    except ValueError as error:
        assert "histogram's code" in str(error)  # noqa: PT017
    else:
        assert found.shape[0] == rows


@pytest.mark.parametrize(("data", "message"), [
    (b"", "0 bytes"), (b"\x00\x00\x00", "0 bins"), (b"\x60\x02\x00", "kind 3"), (b"\x1f\x02\x00", "parameter 31"),
    (b"\x00\xff\xff\xff\xff\xff\xff\xff\xff\x01", "middle of a number"),
    (b"\x00\x02\xff\xff\xff\xff\xff\x7f\x00", "ends after 8 of 4398046511103"),  # no array of such a length is made
    (b"\x00\x02\x01\xf0", "in cell 4 of 3"),
])  # fmt: skip
def test_what_is_wrong_with_a_code_is_said(data, message):
    with pytest.raises(ValueError, match=message):
        decode(np.frombuffer(data, np.uint8), 1)


# --------------------------------------------------------------------------------------------------------------- bytes


def drawn(law, n, cells, rng):
    if law == "even":
        return np.bincount(rng.integers(0, cells, n), minlength=cells)
    if law == "one cell":
        return np.bincount(np.full(n, cells // 3), minlength=cells)
    return np.bincount(np.minimum(rng.geometric(min(1.0, 20 / cells), n), cells - 1), minlength=cells)


@pytest.mark.parametrize("law", ["even", "one cell", "crowded"])
@pytest.mark.parametrize("cells", [2, 17, 65, 513, 4097, 10 * 513])
@pytest.mark.parametrize("n", [0, 1, 5, 20, 100, 1000, 10_000, 100_000])
def test_the_code_is_near_the_entropy_of_a_multiset(law, cells, n):
    told = drawn(law, n, cells, np.random.default_rng(cells + n))[None]
    assert len(encode(told)) <= 1.12 * entropy_bytes(n, cells) + 6


@quick
@given(st.one_of(counts(), counts(high=1), counts(0, 10**6)))
def test_no_counts_take_more_than_the_entropy_and_a_little(told):
    assert len(encode(told)) <= 1.12 * entropy_bytes(int(told.sum()), told.size) + 7


@pytest.mark.parametrize(("n", "most"), [(20, 22), (100, 57), (1000, 195)])
def test_bytes_of_512_bins(n, most):
    told = drawn("even", n, 513, np.random.default_rng(0))[None]
    assert len(encode(told)) <= most
