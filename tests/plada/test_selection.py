"""The paper's equations read once more, in fractions and sorted lists, against the arrays."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from scipy.stats import entropy as scipy_entropy

from fl_sim.errors import FlSimError
from fl_sim.plada import selection
from fl_sim.plada.quotas import quotas
from fl_sim.plada.selection import (
    RULES,
    Safety,
    Selection,
    chosen,
    count_of,
    diverse,
    energy,
    k_centre,
    keep,
    scored,
    select,
)
from fl_sim.randomness import stream

exactly = settings(derandomize=True, deadline=None, max_examples=200)
exponents = st.sampled_from([0, 1, 2, 0.5, -0.2, -1, 1.5])
shares = st.sampled_from([0, 0.1, 0.25, 0.5, 0.75, 1])


def pseudo_labels(logits):
    return scored(logits, "lowest")[0]


def shannon_entropy(logits, temperature=1.0):
    return scored(logits, "entropy", temperature)[1]


def power(size, exponent):
    """N^exponent: exact for 0, 1, 2; the float's own value otherwise."""
    return Fraction(size) ** exponent if exponent in (0, 1, 2) else Fraction(float(size) ** exponent)


def quotas_by_hand(sizes, reserved, exponent):
    """Eq. 6 in fractions: the class that exceeds its size most is filled, until none does; then largest remainder."""
    taken, able = dict.fromkeys(range(len(sizes)), 0), [c for c in range(len(sizes)) if sizes[c]]
    while able:
        left = reserved - sum(taken.values())
        total = sum(power(sizes[c], exponent) for c in able)
        share = {c: left * power(sizes[c], exponent) / total for c in able}
        fullest = max(able, key=lambda c: share[c] / sizes[c])
        if share[fullest] >= sizes[fullest]:
            taken[fullest] = sizes[fullest]
            able.remove(fullest)
            continue
        taken |= {c: math.floor(share[c]) for c in able}
        for c in sorted(able, key=lambda c: (math.floor(share[c]) - share[c], c))[: reserved - sum(taken.values())]:
            taken[c] += 1
        break
    return [taken[c] for c in range(len(sizes))]


def safety_by_hand(labels, scores, count, share, exponent):
    reserved = math.floor(Fraction(str(share)) * count + Fraction(1, 2))
    classes = sorted(set(labels))
    quota = quotas_by_hand([labels.count(c) for c in classes], reserved, exponent)
    by_score = sorted(range(len(scores)), key=lambda i: (scores[i], i))
    kept = [i for c, k in zip(classes, quota, strict=True) for i in [j for j in by_score if labels[j] == c][:k]]
    return sorted(kept + [i for i in by_score if i not in kept][: count - reserved])


@st.composite
def images(draw):
    """Labels and scores of a few images, with many ties, and a budget that holds a label a class."""
    labels = draw(st.lists(st.integers(0, 5), min_size=1, max_size=30))
    scores = [float(draw(st.integers(-2, 3))) for _ in labels]
    return labels, scores, draw(st.integers(len(set(labels)), len(labels)))


def some_logits(n=500, classes=7, seed=0):
    return (4 * stream(seed, "test").standard_normal((n, classes))).astype(np.float32)


# -- scores


@pytest.mark.parametrize("temperature", [0.01, 0.5, 1.0, 3.0, 100.0])
def test_the_energy_is_the_papers(temperature):
    logits = some_logits()
    wanted = -temperature * logsumexp(logits.astype(np.float64) / temperature, axis=1)
    found = energy(logits, temperature)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("temperature", [0.01, 1.0, 3.0, 100.0])
def test_the_entropy_is_shannons(temperature):
    logits = some_logits().astype(np.float64)
    p = np.exp(logits / temperature - logsumexp(logits / temperature, axis=1, keepdims=True))
    np.testing.assert_allclose(shannon_entropy(logits, temperature), scipy_entropy(p, axis=1), rtol=1e-9, atol=1e-12)


def test_extreme_logits_neither_overflow_nor_lose_the_answer():
    huge = np.array([[3e38, -3e38], [-3e38, -3e38], [0, 0], [1000, 1001]], dtype=np.float32)
    top = float(huge[0, 0])
    np.testing.assert_allclose(energy(huge), [-top, top, -math.log(2), -1001 - math.log1p(math.exp(-1))])
    np.testing.assert_allclose(shannon_entropy(huge)[:3], [0, math.log(2), math.log(2)], atol=1e-15)
    wide = np.array([[1.7e308, -1.7e308]])  # the difference is no float
    assert energy(wide, 0.001)[0] == -1.7e308
    assert shannon_entropy(wide, 0.001)[0] == 0


def test_temperature_one_is_equation_five_and_heat_makes_classes_alike():
    logits = some_logits()
    np.testing.assert_allclose(energy(logits), -np.log(np.exp(logits.astype(float)).sum(1)), rtol=1e-12)
    np.testing.assert_allclose(shannon_entropy(logits, 1e6), math.log(7), rtol=1e-9)
    np.testing.assert_allclose(energy(logits, 1e-4), -logits.max(1).astype(float), rtol=1e-3)
    cold, hot = (select(logits, rule="lowest", count=50, temperature=t).indices for t in (0.1, 10.0))
    assert (cold != hot).any()


def test_a_tie_of_logits_is_the_smaller_class():
    assert pseudo_labels(np.array([[1, 3, 3], [2, 2, 2], [0, 0, 1]], dtype=np.float32)).tolist() == [1, 0, 2]


@pytest.mark.parametrize("rule", RULES)
def test_blocks_do_not_matter(rule, monkeypatch, tmp_path):
    classes = 7
    logits = some_logits(n=1001, classes=classes).round(0)  # ties across blocks
    np.save(tmp_path / "logits.npy", logits)
    mapped = np.load(tmp_path / "logits.npy", mmap_mode="r")
    embeddings = stream(1, "test").standard_normal((1001, 3))
    how = {"rule": rule, "count": 123, "safety": Safety(0.5, 0), "embeddings": embeddings}
    at_once = scored(logits, rule, 1.0, stream(2, "test"))
    selected = select(logits, **how)
    for block in (1, 3 * classes, 100 * classes + 5):
        monkeypatch.setattr(selection, "BLOCK", block)
        for given_logits in (mapped, np.asfortranarray(logits)):
            labels, scores = scored(given_logits, rule, 1.0, stream(2, "test"))
            np.testing.assert_array_equal(labels, at_once[0])
            np.testing.assert_array_equal(scores, at_once[1])
            np.testing.assert_array_equal(pseudo_labels(given_logits), labels)
            np.testing.assert_array_equal(energy(given_logits), energy(logits))
            np.testing.assert_array_equal(shannon_entropy(given_logits), shannon_entropy(logits))
        np.testing.assert_array_equal(select(mapped, **how).indices, selected.indices)


def test_the_logits_are_not_held_as_float64(monkeypatch):
    largest = 0

    def seen(block, temperature):
        nonlocal largest
        largest = max(largest, block.size)
        return np.zeros(len(block))

    monkeypatch.setattr(selection, "BLOCK", 70)
    monkeypatch.setattr(selection, "_energy", seen)
    scored(some_logits(), "lowest")
    assert largest == 70


# -- the plain rules


@exactly
@given(st.lists(st.sampled_from([-1.0, -0.0, 0.0, 1.0, math.inf]), max_size=20), st.data())
def test_keep_is_the_head_of_the_sorted_list(scores, data):
    count = data.draw(st.integers(0, len(scores)))
    wanted = sorted(sorted(range(len(scores)), key=lambda i: (scores[i], i))[:count])
    found = keep(np.array(scores), count)
    assert found.dtype == np.int64
    assert found.tolist() == wanted


def test_each_rule_keeps_its_own_end():
    logits = some_logits()
    for rule, scores in [
        ("lowest", energy(logits)),
        ("highest", -energy(logits)),
        ("entropy", shannon_entropy(logits)),
    ]:
        kept = select(logits, rule=rule, count=40)
        assert isinstance(kept, Selection)
        assert kept.indices.tolist() == sorted(np.argsort(scores, kind="stable")[:40].tolist())
        assert kept.labels.tolist() == pseudo_labels(logits)[kept.indices].tolist()
        assert rule in kept.rule


def test_random_is_seeded_and_looks_at_no_logit():
    logits = some_logits()
    first, again, other = (select(logits, rule="random", count=50, seed=s).indices for s in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, select(-7 * logits, rule="random", count=50, seed=3).indices)
    assert (first != other).any()
    times = np.zeros(20)
    for seed in range(2000):
        times[select(logits[:20], rule="random", count=5, seed=seed).indices] += 1
    assert np.abs(times - 500).max() < 4.5 * math.sqrt(2000 * 0.25 * 0.75)  # 20 counts looked at


# -- the Safety-Net


@exactly
@given(st.lists(st.integers(0, 12), min_size=1, max_size=7), exponents, st.data())
def test_quotas_are_equation_six(sizes, exponent, data):
    reserved = data.draw(st.integers(0, sum(sizes)))
    found = quotas(sizes, reserved, exponent).tolist()
    assert found == quotas_by_hand(sizes, reserved, exponent)
    assert sum(found) == reserved
    assert all(k <= n for k, n in zip(found, sizes, strict=True))


def test_quotas_of_equal_remainders_go_by_class_index():
    assert quotas([10, 10, 10, 10], 6, 0).tolist() == [2, 2, 1, 1]
    assert quotas([1, 3, 4, 8], 8, 1).tolist() == [1, 1, 2, 4]  # shares 1/2, 3/2, 2, 4
    assert quotas([5, 5, 0, 5], 7, -0.2).tolist() == [3, 2, 0, 2]


def test_what_a_small_class_cannot_fill_is_shared_evenly():
    assert quotas([10, 1, 10], 5, 0).tolist() == [2, 1, 2]  # rounding before sharing again would give [3, 1, 1]
    assert quotas([10, 1, 10, 2], 9, 0).tolist() == [3, 1, 3, 2]


def test_proportional_quotas_stay_exact_where_floats_do_not():
    sizes = [2**53 + 1, 2**53 - 1]
    assert quotas(sizes, 2**54, 1).tolist() == sizes


def test_a_negative_exponent_favours_the_tail():
    sizes = [1000, 100, 50]
    head = {e: int(quotas(sizes, 60, e)[0]) for e in (1, 0.5, 0, -0.2, -1)}
    assert list(head.values()) == sorted(head.values(), reverse=True)
    assert head[0] == 20


@exactly
@given(images(), shares, exponents)
def test_the_safety_net_is_equation_six(given_images, share, exponent):
    labels, scores, count = given_images
    found = chosen(np.array(labels), np.array(scores), count, Safety(share, exponent)).tolist()
    assert found == safety_by_hand(labels, scores, count, share, exponent)
    assert len(set(found)) == count


@exactly
@given(images(), exponents)
def test_half_holds_the_half_payload_of_both_sides(given_images, exponent):
    """Why 0.5 is the default: what the module's text promises."""
    labels, scores, count = (np.array(given_images[0]), np.array(given_images[1]), given_images[2])
    assert Safety().share == 0.5
    found = set(chosen(labels, scores, count, Safety(exponent=exponent)).tolist())
    assert set(keep(scores, count // 2).tolist()) <= found
    classes, sizes = np.unique(labels, return_counts=True)
    for c, k in zip(classes, quotas(sizes, (count + 1) // 2, exponent), strict=True):
        rows = np.flatnonzero(labels == c)
        assert set(rows[keep(scores[rows], int(k))].tolist()) <= found


def test_share_none_is_the_plain_rule_and_share_all_is_the_quotas():
    logits = some_logits()
    logits[:, 0] += 6  # one large class
    plain = select(logits, rule="lowest", count=60).indices
    np.testing.assert_array_equal(plain, select(logits, rule="lowest", count=60, safety=Safety(0, 1)).indices)
    sizes = np.bincount(pseudo_labels(logits), minlength=7)
    full = select(logits, rule="lowest", count=60, safety=Safety(1, 1))
    found = np.bincount(full.labels, minlength=7)
    assert np.abs(found - 60 * sizes / 500).max() < 1
    assert found.tolist() == quotas(sizes, 60, 1).tolist()
    uniform = select(logits, rule="lowest", count=60, safety=Safety(1, 0))
    assert np.bincount(uniform.labels, minlength=7)[sizes >= 9].min() >= 8
    assert "share of 1 by class, exponent 0" in uniform.rule


def test_rare_classes_are_all_kept():
    labels = np.array([0] * 100 + [1] * 3 + [4] * 2)
    scores = np.concatenate([np.zeros(100), np.ones(5)])
    found = chosen(labels, scores, 30, Safety(0.5, 0))
    assert np.bincount(labels[found]).tolist() == [25, 3, 0, 0, 2]


def test_a_budget_below_a_label_a_class_is_refused():
    logits = some_logits()
    with pytest.raises(FlSimError, match=r"^a budget of 6 labels for 7 classes: .* one label a class$"):
        select(logits, rule="lowest", count=6, safety=Safety(0.5, 0))
    assert len(select(logits, rule="lowest", count=6).indices) == 6
    assert set(select(logits, rule="lowest", count=7, safety=Safety(1, 0)).labels.tolist()) == set(range(7))


# -- the diverse rule


def k_centre_by_hand(points, count, start):
    taken = [start]
    while len(taken) < count:
        far = [min(sum((a - b) ** 2 for a, b in zip(p, points[t], strict=True)) for t in taken) for p in points]
        taken.append(max((i for i in range(len(points)) if i not in taken), key=lambda i: (far[i], -i)))
    return taken


@exactly
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=1, max_size=15), st.data())
def test_k_centre_takes_the_farthest(points, data):
    count = data.draw(st.integers(1, len(points)))
    start = data.draw(st.integers(0, len(points) - 1))
    assert k_centre(np.array(points), count, start).tolist() == k_centre_by_hand(points, count, start)


@exactly
@given(images(), shares, exponents)
def test_diverse_fills_the_quotas_by_k_centre(given_images, share, exponent):
    labels, scores, count = given_images
    points = [(i * i % 7, i % 5) for i in range(len(labels))]
    reserved = math.floor(Fraction(str(share)) * count + Fraction(1, 2))
    classes = sorted(set(labels))
    kept = []
    for c, k in zip(classes, quotas_by_hand([labels.count(c) for c in classes], reserved, exponent), strict=True):
        rows = [i for i in range(len(labels)) if labels[i] == c]
        start = min(range(len(rows)), key=lambda j: scores[rows[j]])
        kept += [rows[j] for j in k_centre_by_hand([points[i] for i in rows], k, start)] if k else []
    by_score = sorted(range(len(scores)), key=lambda i: (scores[i], i))
    wanted = sorted(kept + [i for i in by_score if i not in kept][: count - reserved])
    arrays = np.array(labels), np.array(scores), np.array(points)
    assert diverse(*arrays, count, Safety(share, exponent), stream(0, "test")).tolist() == wanted


@pytest.mark.parametrize("count", [30, 400, 999, 1000])
def test_diverse_meets_its_quotas_where_candidates_are_capped(count):
    labels = np.repeat([0, 1, 2], [700, 200, 100])
    points, scores = stream(5, "test").standard_normal((1000, 4)), stream(6, "test").random(1000)
    first, again = (
        diverse(labels, scores, points, count, Safety(1, 1), stream(7, "test"), candidates=64) for _ in range(2)
    )
    np.testing.assert_array_equal(first, again)
    assert len(set(first.tolist())) == count
    assert (np.diff(first) > 0).all()
    assert np.bincount(labels[first]).tolist() == quotas([700, 200, 100], count, 1).tolist()


def test_diverse_covers_every_cluster_where_the_lowest_energy_sees_one():
    clusters = np.repeat(np.arange(10), 50)
    points = 20 * np.eye(10)[clusters] + stream(8, "test").standard_normal((500, 10))
    logits = np.zeros((500, 2))
    logits[:, 0] = 10 - clusters  # cluster 0 is the most confident
    spread = select(logits, rule="diverse", count=10, embeddings=points).indices
    assert sorted(clusters[spread]) == list(range(10))
    assert set(clusters[select(logits, rule="lowest", count=10).indices]) == {0}


# -- counts and refusals


@exactly
@given(st.integers(1, 10**6), st.integers(1, 20_000_000))
def test_a_fraction_is_the_decimal_it_is_written_as(millionths, n):
    exact = Fraction(millionths, 10**6) * n
    count = count_of(millionths / 10**6, n)
    assert count == max(1, math.floor(exact + Fraction(1, 2))) == count_of(Fraction(millionths, 10**6), n)


def test_counts_at_the_edges():
    assert count_of(0.29, 50) == 15  # 14.5: in floats 14.499999999999998
    assert count_of(1e-9, 10) == 1
    assert count_of(1, 10) == 10
    assert count_of(0.01, 14_200_000) == 142_000


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: select(some_logits(), rule="lowest", count=501), r"count = 501: must lie in 1\.\.500"),
        (lambda: select(some_logits(), rule="lowest", count=0), "count = 0"),
        (lambda: select(some_logits(), rule="best", count=1), "rule = 'best': must be one of lowest"),
        (lambda: select(some_logits(), rule="diverse", count=9), "rule = 'diverse': must come with embeddings"),
        (lambda: scored(some_logits(), "random"), "rule = 'random': must come with a generator"),
        (lambda: k_centre(np.array([[np.nan]]), 1, 0), "embeddings hold NaN"),
        (lambda: energy(np.zeros(3)), r"logits of shape \(3,\): must have shape \(n, C\)"),
        (lambda: energy(np.array([[0.0], [np.nan]])), "logits of image 1 hold NaN"),
        (lambda: energy(np.zeros((1, 2)), 0), "temperature = 0: must be finite and above 0"),
        (lambda: keep(np.array([np.nan]), 1), "scores hold NaN"),
        (lambda: quotas([1, 2], 4, 1), r"reserved = 4: must lie in 0\.\.3"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=f"^{message}") as refused:
        call()
    assert "\n" not in str(refused.value)


def test_mixed_keeps_half_by_confidence_and_half_by_chance_in_each_class():
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=3000)
    logits = np.full((3000, 3), -50.0)
    logits[np.arange(3000), labels] = rng.exponential(5, 3000)
    found = select(logits, rule="mixed", count=300, safety=Safety(share=1, exponent=0), seed=1)
    lowest = select(logits, rule="lowest", count=300, safety=Safety(share=1, exponent=0)).indices
    assert np.bincount(found.labels).tolist() == [100, 100, 100]
    shared = np.isin(found.indices, lowest).mean()
    assert 0.45 < shared < 0.65  # half of them, and a tenth of the other half by chance
    again = select(logits, rule="mixed", count=300, safety=Safety(share=1, exponent=0), seed=1)
    assert again.indices.tolist() == found.indices.tolist()


def test_mixed_scores_are_the_smaller_of_standing_and_draw():
    logits = np.log([[8.0, 1.0], [4.0, 1.0], [1.0, 9.0], [2.0, 1.0], [1.0, 1.5]])  # classes 0 0 1 0 1
    _, scores = scored(logits, "mixed", generator=np.random.default_rng(5))
    drawn = np.random.default_rng(5).random(5)
    assert scores.tolist() == np.minimum([0, 1 / 3, 0, 2 / 3, 1 / 2], drawn).tolist()
