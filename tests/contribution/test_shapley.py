"""Shapley values against their definition, and the Gram form against averages made in parameter space."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_sim.contribution import shapley
from fl_sim.contribution.flat import Layout
from fl_sim.randomness import stream

few = settings(derandomize=True, deadline=None, max_examples=30)


def updates_of(m: int, d: int, seed: int, kind: type = np.float64) -> tuple[np.ndarray, np.ndarray]:
    """m updates about a reference, of unlike length."""
    rng = np.random.default_rng(seed)
    reference = rng.standard_normal(d)
    updates = reference + rng.standard_normal((m, d)) * rng.exponential(1, (m, 1))
    return updates.astype(kind), reference.astype(kind)


def utility_by_hand(updates: np.ndarray, reference: np.ndarray, members: tuple[int, ...]) -> float:
    """Eq. 11, by averaging the coalition's updates."""
    mean = np.mean([updates[i] for i in members], axis=0) if members else np.zeros_like(reference)
    return 1 / (1 + np.sum((mean - reference) ** 2) / max(np.sum(reference**2), 1e-12))


def coalition(mask: int, m: int) -> tuple[int, ...]:
    return tuple(i for i in range(m) if mask >> i & 1)


def shapley_by_permutations(values: np.ndarray, m: int) -> np.ndarray:
    """The definition: what a player adds to those before it, on average over all m! orders."""
    found = np.zeros(m)
    for order in itertools.permutations(range(m)):
        mask = 0
        for i in order:
            found[i] += values[mask | 1 << i] - values[mask]
            mask |= 1 << i
    return found / math.factorial(m)


# ---------------------------------------------------------------------------------------------------- the Gram matrix


@few
@given(st.integers(0, 8), st.sampled_from([1, 7, 300]), st.integers(0, 10_000))
def test_utilities_are_those_of_averages_made_in_parameter_space(m, d, seed):
    updates, reference = updates_of(m, d, seed)
    found = shapley.utilities(shapley.gram(updates, reference))
    by_hand = [utility_by_hand(updates, reference, coalition(mask, m)) for mask in range(2**m)]
    np.testing.assert_allclose(found, by_hand, rtol=0, atol=1e-10)


@few
@given(st.integers(1, 8), st.integers(0, 10_000))
def test_in_float32_an_entry_is_off_by_a_millionth_and_a_utility_too(m, seed):
    updates, reference = updates_of(m, 3 * shapley.BLOCK + 5, seed, np.float32)
    found, true = (shapley.gram(updates.astype(kind), reference.astype(kind)) for kind in (np.float32, np.float64))
    lengths = np.sqrt(np.diag(true))
    assert (np.abs(found - true) / np.outer(lengths, lengths)).max() < 1e-6
    np.testing.assert_allclose(shapley.utilities(found), shapley.utilities(true), rtol=0, atol=1e-6)


def test_the_gram_matrix_by_hand():
    updates, reference = np.array([[1.0, 0.0], [3.0, 4.0]]), np.array([0.0, 2.0])
    assert shapley.gram(updates, reference).tolist() == [[4, 0, 8], [0, 1, 3], [8, 3, 25]]
    assert shapley.gram(updates).tolist() == [[0, 0, 0], [0, 1, 3], [0, 3, 25]]


def test_numbers_whose_squares_float32_cannot_hold_are_multiplied_in_float64():
    updates, reference = np.full((2, 3), 1e30, np.float32), np.ones(3, np.float32)
    with np.errstate(all="raise"):
        found = shapley.gram(updates, reference)
    np.testing.assert_allclose(found, [[3, 3e30, 3e30], [3e30, 3e60, 3e60], [3e30, 3e60, 3e60]], rtol=1e-6)
    assert shapley.utilities(found)[1] == pytest.approx(1e-60)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_what_is_not_finite_is_refused(wrong):
    with pytest.raises(ValueError, match="hold NaN or infinite numbers"):
        shapley.gram(np.array([[1.0, wrong]]), np.ones(2))


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"updates of shape \(2, 3\), reference \(2,\): must be"):
        shapley.gram(np.zeros((2, 3)), np.zeros(2))
    with pytest.raises(ValueError, match="16 participants have 2\\^16 coalitions: at most 15"):
        shapley.utilities(np.zeros((17, 17)))
    with pytest.raises(ValueError, match="3 values: must be 2\\^m"):
        shapley.shapley(np.zeros(3))


# --------------------------------------------------------------------------------------------------------- by hand


def test_one_and_two_participants_by_hand():
    reference = np.array([2.0, 0.0])  # σ = 4, v(none) = 1 / (1 + 4 / 4) = 1/2
    alone = shapley.utilities(shapley.gram(np.array([[2.0, 0.0]]), reference))
    assert alone.tolist() == [0.5, 1.0]
    assert shapley.shapley(alone).tolist() == [0.5]
    # The second goes the other way, distance 4: v = 1 / (1 + 16 / 4) = 1/5; together they stand still: v = 1/2.
    values = shapley.utilities(shapley.gram(np.array([[2.0, 0.0], [-2.0, 0.0]]), reference))
    assert values.tolist() == pytest.approx([0.5, 1.0, 0.2, 0.5])
    # φ_1 = ((1 - 1/2) + (1/2 - 1/5)) / 2 = 0.4, φ_2 = ((1/5 - 1/2) + (1/2 - 1)) / 2 = -0.4
    assert shapley.shapley(values).tolist() == pytest.approx([0.4, -0.4])
    gram = shapley.gram(np.array([[2.0, 0.0], [-2.0, 0.0]]), reference)
    assert shapley.leave_one_out(gram).tolist() == pytest.approx([0.5 - 0.2, 0.5 - 1.0])


def test_a_reference_that_stands_still():
    """σ = ε: who stands still too is all that is wanted, everybody else is worth nothing."""
    values = shapley.utilities(shapley.gram(np.array([[0.0], [1.0]]), np.zeros(1)))
    assert values.tolist() == pytest.approx([1, 1, 1e-12, 4e-12])


def test_cosines_by_hand():
    updates = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [-1.0, -1.0]])
    half = math.sqrt(0.5)
    assert shapley.cosines(shapley.gram(updates[:3])).tolist() == pytest.approx([half, half, 0])
    assert shapley.cosines(shapley.gram(updates)).tolist() == [0, 0, 0, 0]  # their mean is 0
    assert shapley.cosines(shapley.gram(updates), np.array([1.0, 0, 0, 0])).tolist() == pytest.approx([1, 0, 0, -half])


# ------------------------------------------------------------------------------------------------- what it must fulfil


@few
@given(st.integers(0, 7), st.integers(0, 10_000))
def test_the_shapley_value_of_any_game_is_its_definition(m, seed):
    values = np.random.default_rng(seed).standard_normal(2**m)
    np.testing.assert_allclose(shapley.shapley(values), shapley_by_permutations(values, m), rtol=0, atol=1e-10)


@few
@given(st.integers(1, 15), st.integers(0, 10_000))
def test_efficiency(m, seed):
    values = shapley.utilities(shapley.gram(*updates_of(m, 40, seed)))
    assert abs(shapley.shapley(values).sum() - (values[-1] - values[0])) < 1e-10


@few
@given(st.integers(2, 10), st.integers(0, 10_000))
def test_symmetry(m, seed):
    updates, reference = updates_of(m, 40, seed)
    updates[0] = updates[m - 1]
    found = shapley.shapley(shapley.utilities(shapley.gram(updates, reference)))
    assert abs(found[0] - found[m - 1]) < 1e-10


@few
@given(st.integers(1, 10), st.integers(0, 10_000), st.data())
def test_a_player_that_adds_nothing_gets_nothing(m, seed, data):
    """The mean of a coalition changes by whoever joins, so the null player is one of a game of its own."""
    null, rng = data.draw(st.integers(0, m - 1)), np.random.default_rng(seed)
    others = rng.standard_normal(2**m)
    values = others[[mask & ~(1 << null) for mask in range(2**m)]]
    assert abs(shapley.shapley(values)[null]) < 1e-10


@few
@given(st.integers(1, 12), st.integers(0, 10_000))
def test_leave_one_out_is_a_difference_of_two_coalitions(m, seed):
    gram = shapley.gram(*updates_of(m, 40, seed))
    values, everybody = shapley.utilities(gram), 2**m - 1
    by_hand = [values[everybody] - values[everybody & ~(1 << i)] for i in range(m)]
    np.testing.assert_allclose(shapley.leave_one_out(gram), by_hand, rtol=0, atol=1e-12)


# ------------------------------------------------------------------------------------------------------------ sampling


@few
@given(st.integers(1, 9), st.integers(0, 10_000))
def test_values_along_an_order_are_those_of_its_beginnings(m, seed):
    gram = shapley.gram(*updates_of(m, 40, seed))
    orders = np.random.default_rng(seed).permuted(np.tile(np.arange(m), (5, 1)), axis=1)
    masks = np.concatenate([np.zeros((5, 1), np.int64), np.cumsum(1 << orders, axis=1)], axis=1)
    np.testing.assert_allclose(shapley.prefixes(gram)(orders), shapley.utilities(gram)[masks], rtol=0, atol=1e-12)


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("m", [3, 8, 12])
def test_sampling_comes_within_its_stated_errors_of_the_exact_values(m, antithetic):
    gram = shapley.gram(*updates_of(m, 40, seed=m))
    exact = shapley.shapley(shapley.utilities(gram))
    wide = {}
    for permutations in (100, 10_000):
        rng = stream(0, "test", permutations)
        found = shapley.sampled(shapley.prefixes(gram), m, permutations, rng, antithetic=antithetic)
        assert (np.abs(found.values - exact) <= 4 * found.errors + 1e-12).all()
        assert found.values.sum() == pytest.approx(exact.sum(), abs=1e-12)  # efficient, as every order is
        wide[permutations] = found.errors.mean()
    assert wide[10_000] == pytest.approx(wide[100] / 10, rel=0.4)


def test_stated_errors_are_those_that_are_made():
    """Over many samples the squared deviation is the squared error, on average."""
    gram = shapley.gram(*updates_of(6, 40, seed=1))
    exact = shapley.shapley(shapley.utilities(gram))
    drawn = [shapley.sampled(shapley.prefixes(gram), 6, 40, stream(0, "many", i)) for i in range(600)]
    made = np.mean([(found.values - exact) ** 2 for found in drawn], axis=0)
    stated = np.mean([found.errors**2 for found in drawn], axis=0)
    np.testing.assert_allclose(made, stated, rtol=0.25)


def test_sampling_is_seeded_and_takes_any_game():
    def value_of(orders: np.ndarray) -> np.ndarray:
        return np.tile(np.arange(orders.shape[1] + 1.0), (len(orders), 1))  # everybody adds 1

    found = shapley.sampled(value_of, 40, 10, stream(0, "a"))
    assert (found.values.tolist(), found.errors.tolist()) == ([1.0] * 40, [0.0] * 40)
    gram = shapley.gram(*updates_of(20, 30, seed=0))
    one, same, other = (shapley.sampled(shapley.prefixes(gram), 20, 50, stream(0, word)).values for word in "aab")
    assert one.tolist() == same.tolist() != other.tolist()


@pytest.mark.parametrize(
    ("permutations", "antithetic", "rule"), [(3, True, "4, and even"), (2, True, "4"), (1, False, "2")]
)
def test_too_few_permutations_have_no_error(permutations, antithetic, rule):
    with pytest.raises(ValueError, match=f"permutations = {permutations}: must be at least {rule}"):
        shapley.sampled(lambda orders: orders, 3, permutations, stream(0, "a"), antithetic=antithetic)


# ------------------------------------------------------------------------------------------------------- as one vector


def test_weights_as_a_vector_and_back():
    counts = np.array(7)
    arrays = {"w": np.arange(6.0, dtype=np.float32).reshape(2, 3), "seen": counts, "b": np.array([9.0, 8.0])}
    layout = Layout.of(arrays)
    assert layout.size == 8
    assert layout.flat(arrays).tolist() == [0, 1, 2, 3, 4, 5, 9, 8]
    back = layout.arrays(layout.flat(arrays) + 1, {**arrays, "seen": np.array(3)})
    assert list(back) == ["w", "seen", "b"]
    assert back["w"].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert (back["seen"].tolist(), back["b"].tolist(), back["b"].dtype) == (3, [10, 9], np.float64)
    out = np.empty(8, np.float32)
    assert layout.difference(arrays, np.ones(8, np.float32), out=out) is out
    assert out.tolist() == [-1, 0, 1, 2, 3, 4, 8, 7]


def test_other_weights_are_refused():
    layout = Layout.of({"w": np.zeros(2, np.float32)})
    with pytest.raises(ValueError, match=r"weights 'w': must be of shape \(2,\), and are \(3,\)"):
        layout.flat({"w": np.zeros(3, np.float32)})
    with pytest.raises(ValueError, match=r"weights 'w': must be of shape \(2,\), and are missing"):
        layout.flat({})
    with pytest.raises(ValueError, match=r"a vector of shape \(3,\): must be \(2,\)"):
        layout.arrays(np.zeros(3, np.float32), {"w": np.zeros(2, np.float32)})
