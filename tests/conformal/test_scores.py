"""Every score against its paper's definition, written out as a loop, and against itself in another batch."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fl_sim.conformal.scores import SCORES, AbsoluteResidual, Aps, Cqr, Lac, Raps, checked_labels
from fl_sim.conformal.thresholds import conformal_threshold
from fl_sim.randomness import stream

LABEL_SCORES = [
    Lac(),
    Aps(randomized=False),
    Aps(randomized=True),
    Raps(randomized=False, penalty=0.01, k_reg=1),
    Raps(randomized=True, penalty=0.25, k_reg=2),
]
UNIT = 256  # probabilities are whole 256ths, uniforms whole 16ths: floats add and multiply them exactly


@st.composite
def dyadic_row(draw):
    """Probabilities in 256ths that sum to 1 (zeros and ties among them), U in 16ths."""
    cuts = sorted(draw(st.lists(st.sampled_from(range(0, UNIT + 1, 16)), min_size=0, max_size=6)))
    parts = np.diff([0, *cuts, UNIT])
    return [Fraction(int(part), UNIT) for part in parts], Fraction(draw(st.integers(0, 15)), 16)


def by_falling_probability(p):
    return sorted(range(len(p)), key=lambda y: (-p[y], y))


def aps_set(p, u, tau):
    """Romano et al. 2020: the L most probable labels whose mass first reaches tau, less the last of them
    where U <= V = (mass of those L - tau) / p_L. A threshold nothing reaches takes every label."""
    order, mass = by_falling_probability(p), Fraction(0)
    for size, label in enumerate(order, start=1):
        mass += p[label]
        if mass >= tau:
            keep = size if u > (mass - tau) / p[label] else size - 1
            return set(order[:keep])
    return set(order)


def raps_set(p, u, tau, penalty, k_reg):
    """Angelopoulos et al. 2021: {y : rho(y) + p_y u + penalty (o(y) - k_reg)+ <= tau}, rho the mass before y,
    o the rank of y. Their u is our 1 - U."""
    order, before, kept = by_falling_probability(p), Fraction(0), set()
    for rank, label in enumerate(order, start=1):
        if before + p[label] * (1 - u) + penalty * max(rank - k_reg, 0) <= tau:
            kept.add(label)
        before += p[label]
    return kept


def set_of(score, p, u, tau):
    scores = score.all_labels([[float(x) for x in p]], [float(u)])[0]
    return {y for y, value in enumerate(scores) if value <= float(tau)}


between_scores = st.integers(0, 2**13).map(lambda i: Fraction(2 * i + 1, 2**14))  # no score can equal it


@settings(derandomize=True, max_examples=300, deadline=None)
@given(row=dyadic_row(), tau=between_scores)
def test_randomised_aps_is_the_papers_set(row, tau):
    p, u = row
    assert set_of(Aps(randomized=True), p, u, tau) == aps_set(p, u, tau)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(row=dyadic_row(), tau=st.integers(0, 320).map(lambda i: Fraction(i, UNIT)), k_reg=st.integers(0, 3))
def test_raps_is_the_papers_set_even_at_a_tie(row, tau, k_reg):
    p, u = row
    penalty = Fraction(1, 8)
    randomised = Raps(randomized=True, penalty=float(penalty), k_reg=k_reg)
    plain = Raps(randomized=False, penalty=float(penalty), k_reg=k_reg)
    assert set_of(randomised, p, u, tau) == raps_set(p, u, tau, penalty, k_reg)
    assert set_of(plain, p, u, tau) == raps_set(p, 0, tau, penalty, k_reg)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(row=dyadic_row(), tau=st.integers(0, UNIT).map(lambda i: Fraction(i, UNIT)))
def test_plain_aps_and_lac_sets_at_a_tie(row, tau):
    p, u = row
    order = by_falling_probability(p)
    heads = {order[i] for i in range(len(p)) if sum(p[y] for y in order[: i + 1]) <= tau}
    assert set_of(Aps(randomized=False), p, u, tau) == heads
    assert set_of(Lac(), p, u, tau) == {y for y in range(len(p)) if p[y] >= 1 - tau}


def test_hand_example_with_a_tie():
    p, u = [[1 / 4, 1 / 2, 1 / 4]], [1 / 2]  # order: label 1, then 0 before 2
    assert Lac().all_labels(p, None).tolist() == [[3 / 4, 1 / 2, 3 / 4]]
    assert Aps(randomized=False).all_labels(p, None).tolist() == [[3 / 4, 1 / 2, 1]]
    assert Aps(randomized=True).all_labels(p, u).tolist() == [[3 / 4 - 1 / 8, 1 / 2 - 1 / 4, 1 - 1 / 8]]
    raps = Raps(randomized=True, penalty=1 / 16, k_reg=1)
    assert raps.all_labels(p, u).tolist() == [[3 / 4 - 1 / 8 + 1 / 16, 1 / 2 - 1 / 4, 1 - 1 / 8 + 2 / 16]]


def softmax_rows(n, classes, *purpose):
    logits = stream(0, "logits", *purpose).normal(0, 4, (n, classes)).astype(np.float32)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("score", LABEL_SCORES, ids=repr)
@settings(derandomize=True, max_examples=20, deadline=None)
@given(n=st.integers(1, 40), classes=st.integers(1, 130), data=st.data())
def test_a_row_does_not_know_its_batch(score, n, classes, data):
    p, u = softmax_rows(n, classes, n, classes), stream(0, "uniforms", n).random(n)
    whole = score.all_labels(p, u)
    order = np.array(data.draw(st.permutations(range(n))))
    assert np.array_equal(score.all_labels(p[order], u[order]), whole[order])
    assert np.array_equal(score.all_labels(np.asfortranarray(p), u), whole)
    alone = [score.all_labels(p[i : i + 1], u[i : i + 1])[0] for i in range(n)]
    assert np.array_equal(alone, whole)


@pytest.mark.parametrize("score", LABEL_SCORES, ids=repr)
def test_the_true_labels_score_is_the_entry_of_all_labels(score):
    p, u, y = softmax_rows(500, 10), stream(0, "u").random(500), stream(0, "y").integers(0, 10, 500)
    every, own = score.all_labels(p, u), score.of(p, y, u)
    assert every.dtype == own.dtype == np.float64
    assert own.tolist() == [every[i, label] for i, label in enumerate(y)]
    # Therefore the calibration point at the threshold itself is covered, and exactly rank points are.
    covered = every[np.arange(500), y] <= conformal_threshold(own, 0.1)
    assert covered.sum() == math.ceil(501 * 0.9)


def test_randomised_aps_is_uniform_when_the_probabilities_are_true():
    generator = stream(0, "oracle")
    p = generator.dirichlet([0.5] * 8, size=5000)
    y = np.minimum((p.cumsum(axis=1) < generator.random((5000, 1))).sum(axis=1), 7)
    scores = Aps(randomized=True).of(p, y, generator.random(5000))
    assert stats.kstest(scores, "uniform").pvalue > 0.001


def test_raps_without_penalty_is_aps():
    p, u = softmax_rows(50, 10), stream(0, "u").random(50)
    raps = Raps(randomized=True, penalty=0.0, k_reg=0)
    assert np.array_equal(raps.all_labels(p, u), Aps(randomized=True).all_labels(p, u))


def test_nobody_to_score():
    for score in LABEL_SCORES:
        assert score.all_labels(np.empty((0, 3)), np.empty(0)).shape == (0, 3)
        assert score.of(np.empty((0, 3)), [], np.empty(0)).shape == (0,)
    assert AbsoluteResidual().of(np.empty((0, 1)), []).shape == (0,)
    assert Cqr().interval(np.empty((0, 2)), 1.0)[0].shape == (0,)


def test_residual_by_hand():
    score, predictions = AbsoluteResidual(), [[1.0], [3.0]]
    assert score.of(predictions, [1.5, 1.0]).tolist() == [0.5, 2.0]
    low, high = score.interval(predictions, 0.25)
    assert (low.tolist(), high.tolist()) == ([0.75, 2.75], [1.25, 3.25])
    assert score.centre(predictions).tolist() == [1.0, 3.0]


def test_cqr_by_hand_sorts_a_crossing_pair():
    score, predictions = Cqr(), [[1.0, 3.0], [3.0, 1.0]]
    for targets, wanted in (([2.5, 2.5], -0.5), ([0.0, 0.0], 1.0), ([5.0, 5.0], 2.0)):
        assert score.of(predictions, targets).tolist() == [wanted, wanted]
    low, high = score.interval(predictions, -0.5)
    assert (low.tolist(), high.tolist()) == ([1.5, 1.5], [2.5, 2.5])
    assert score.centre(predictions).tolist() == [2.0, 2.0]


def test_cqr_interval_empties_below_minus_half_its_width():
    low, high = Cqr().interval([[1.0, 3.0], [1.0, 2.0]], -0.75)
    assert (high < low).tolist() == [False, True]


@settings(derandomize=True, max_examples=200, deadline=None)
@given(
    pair=st.tuples(st.integers(-40, 40), st.integers(-40, 40)),
    y=st.integers(-60, 60),
    q=st.one_of(st.integers(-30, 30).map(float), st.just(math.inf)),
)
def test_an_interval_holds_exactly_the_scores_up_to_the_threshold(pair, y, q):
    for score, predictions in ((AbsoluteResidual(), [[pair[0]]]), (Cqr(), [pair])):
        low, high = score.interval(predictions, q)
        assert bool(low[0] <= y <= high[0]) == bool(score.of(predictions, [y])[0] <= q)


def test_names():
    tasks = {name: score.task for name, score in SCORES.items()}
    assert tasks == dict.fromkeys(("lac", "aps", "raps"), "classification") | dict.fromkeys(
        ("residual", "cqr"), "regression"
    )
    assert list(SCORES.values()) == [Lac, Aps, Raps, AbsoluteResidual, Cqr]
    with pytest.raises(TypeError):
        Raps()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Aps(randomized=True).all_labels([[1.0]], None), r"uniforms = None: a randomised score"),
        (
            lambda: Aps(randomized=True).all_labels([[1.0]], [1.0]),
            r"uniforms\[0\] = 1\.0: must lie in \[0, 1\)",
        ),
        (lambda: Aps(randomized=True).all_labels([[1.0]], [0.5, 0.5]), r"uniforms of shape \(2,\)"),
        (lambda: Aps(randomized=True).all_labels([[1.0]], 0.5), r"uniforms of shape \(\)"),
        (lambda: Lac().all_labels([[0.5, math.nan]], None), r"probabilities\[0, 1\] = nan"),
        (lambda: Lac().all_labels([[0.5, 0.5], [-2.0, 3.0]], None), r"probabilities\[1, 0\] = -2\.0.*logits"),
        (lambda: Lac().all_labels([0.5, 0.5], None), r"probabilities of shape \(2,\)"),
        (lambda: Lac().of([[0.5, 0.5]], [-1], None), r"labels\[0\] = -1: must lie in 0\.\.1"),
        (lambda: Lac().of([[0.5, 0.5]], [2], None), r"labels\[0\] = 2: must lie in 0\.\.1"),
        (lambda: Lac().of([[0.5, 0.5]], [0, 1], None), r"labels of shape \(2,\).* must be 1 integers"),
        (lambda: checked_labels([0.5], 1, 2), r"type float64: must be 1 integers"),
        (lambda: Raps(randomized=True, penalty=-1, k_reg=0), r"penalty = -1"),
        (lambda: Raps(randomized=True, penalty=0.1, k_reg=-1), r"k_reg = -1"),
        (lambda: AbsoluteResidual().of([1.0], [1.0]), r"predictions of shape \(1,\): .* \(n, 1\)"),
        (lambda: AbsoluteResidual().of([[1.0]], [[1.0]]), r"targets of shape \(1, 1\)"),
        (lambda: AbsoluteResidual().of([[math.inf]], [1.0]), r"predictions\[0, 0\] = inf: must be finite"),
        (lambda: Cqr().of([[1.0]], [1.0]), r"predictions of shape \(1, 1\): .* \(n, 2\)"),
        (lambda: Cqr().of([[1.0, 2.0]], [math.nan]), r"targets\[0\] = nan: must be finite"),
    ],
)
def test_errors_name_the_thing_its_value_and_the_rule(call, message):
    with pytest.raises(ValueError, match=message):
        call()
