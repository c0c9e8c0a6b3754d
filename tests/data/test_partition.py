"""Partitions: every index once, rounded fairly, the laws they claim."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_sim.data.partition import PARTITIONS, deal, proportions, quantile_bins
from fl_sim.errors import ScenarioError
from fl_sim.randomness import stream

PARAMETERS = {"concentration": 0.5, "classes_per_client": 2}


def counts_by_class(labels: np.ndarray, parts: list[np.ndarray], num_classes: int) -> np.ndarray:
    return np.stack([np.bincount(labels[part], minlength=num_classes) for part in parts], axis=1)


worlds = st.builds(
    lambda kind, seed, num_classes, extra, n, concentration: (
        kind,
        stream(seed, "test"),
        num_classes,
        num_classes + extra,
        n,
        concentration,
    ),
    st.sampled_from(list(PARTITIONS)),
    st.integers(0, 10_000),
    st.integers(2, 12),
    st.integers(0, 60),
    st.integers(0, 400),
    st.floats(1e-320, 1e6),
)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(worlds)
def test_every_index_is_dealt_exactly_once_and_every_due_is_rounded_down_or_up(world):
    kind, rng, num_classes, num_clients, n, concentration = world
    shares = proportions(kind, num_classes, num_clients, rng, concentration=concentration, classes_per_client=2)
    assert shares.shape == (num_classes, num_clients)
    assert (shares >= 0).all()
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    labels = rng.integers(0, num_classes, n)
    parts = deal(labels, shares, rng)
    assert len(parts) == num_clients
    assert sorted(np.concatenate(parts).tolist()) == list(range(n))
    assert all((np.diff(part) > 0).all() for part in parts)
    due = shares * np.bincount(labels, minlength=num_classes)[:, None]
    assert (np.abs(counts_by_class(labels, parts, num_classes) - due) < 1).all()


@settings(derandomize=True, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 15), st.integers(1, 70), st.integers(0, 500))
def test_iid_sizes_differ_by_one_at_most_however_many_classes(seed, num_classes, num_clients, n):
    rng = stream(seed, "test")
    labels = rng.integers(0, num_classes, n)
    parts = deal(labels, proportions("iid", num_classes, num_clients, rng), rng)
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_the_same_generator_gives_the_same_partition_and_another_gives_another():
    labels = stream(0, "labels").integers(0, 10, 1000)

    def once(seed: int) -> list[list[int]]:
        rng = stream(seed, "partition")
        return [part.tolist() for part in deal(labels, proportions("iid", 10, 7, rng), rng)]

    assert once(1) == once(1)
    assert once(1) != once(2)


def test_no_client_is_favoured_by_rounding():
    # 7 items among 5 clients: each count is 1.4 on average, the first client's as the last's.
    shares = proportions("iid", 3, 5, stream(0, "unused"))
    labels = np.repeat([0, 1, 2], 7)
    draws = [counts_by_class(labels, deal(labels, shares, stream(s, "deal")), 3) for s in range(2000)]
    standard_error = (0.4 * 0.6 / 2000) ** 0.5
    np.testing.assert_allclose(np.mean(draws, axis=0), 1.4, atol=4.5 * standard_error)


def test_a_small_share_gets_an_item_about_as_often_as_it_is_due():
    # Not "the largest fraction takes it": then whoever is due a tenth of an item would never see the class.
    rng = stream(0, "test")
    shares = proportions("dirichlet", 5, 100, rng, concentration=0.5)
    labels = np.repeat(np.arange(5), 100)
    draws = [counts_by_class(labels, deal(labels, shares, stream(s, "deal")), 5) for s in range(300)]
    due, found = shares * 100, np.mean(draws, axis=0)
    for low in np.arange(0, 1, 0.25):
        group = (due % 1 >= low) & (due % 1 < low + 0.25)
        assert abs(found[group].mean() - due[group].mean()) < 0.02
    sizes = np.array(draws).sum(axis=1)
    assert np.abs(sizes - due.sum(axis=0)).max() < 1.25


def test_dirichlet_survives_a_concentration_at_which_gamma_variables_underflow():
    rng = stream(0, "test")
    shares = proportions("dirichlet", 50, 1000, rng, concentration=1e-3)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    # The largest share of Dir(a, …, a) with K a = 1 has mean about 0.62 (Golomb and Dickman's constant).
    assert abs(shares.max(axis=1).mean() - 0.6243) < 4 * 0.19 / 50**0.5
    limit = proportions("dirichlet", 50, 1000, rng, concentration=5e-324)
    assert np.sort(limit, axis=1)[:, -1].tolist() == [1] * 50


def test_dirichlet_has_the_variance_of_its_law():
    # Var = (1/K)(1 - 1/K) / (K a + 1)
    shares = proportions("dirichlet", 20_000, 5, stream(0, "test"), concentration=0.5)
    np.testing.assert_allclose(shares.mean(axis=0), 0.2, atol=0.01)
    np.testing.assert_allclose(shares.var(axis=0), 0.2 * 0.8 / 3.5, rtol=0.05)


def flower_dirichlet(labels: np.ndarray, num_clients: int, concentration: float, seed: int) -> np.ndarray:
    """Counts (classes, clients) by flwr_datasets 0.6.1, without its self_balancing and min_partition_size.

    The rule of its partitioner/dirichlet_partitioner.py, class by class: proportions from rng.dirichlet, cut
    at their cumulative sums times the class's size, truncated. Rewritten here because the package brings
    215 MB (pyarrow, datasets, …); the package itself gave the same laws when it was run beside this.
    """
    rng = np.random.default_rng(seed)
    counts = []
    for label in np.unique(labels):
        size = int((labels == label).sum())
        cuts = (rng.dirichlet([concentration] * num_clients).cumsum() * size).astype(int)[:-1]
        counts.append(np.diff([0, *cuts, size]))
    return np.array(counts)


@pytest.mark.parametrize("concentration", [0.1, 0.5, 5.0])
def test_dirichlet_counts_follow_the_same_law_as_flower_datasets(concentration):
    labels = np.repeat(np.arange(5), 40)
    ours, theirs = [], []
    for seed in range(400):
        rng = stream(seed, "partition")
        shares = proportions("dirichlet", 5, 20, rng, concentration=concentration)
        ours.append(counts_by_class(labels, deal(labels, shares, rng), 5))
        theirs.append(flower_dirichlet(labels, 20, concentration, seed))
    inner = slice(1, -1)  # their truncation takes from the first client and gives to the last
    a, b = np.array(ours)[:, :, inner].ravel(), np.array(theirs)[:, :, inner].ravel()
    for value in (0, 1, 2, 3, 5, 8, 13):
        p, q = (a <= value).mean(), (b <= value).mean()
        # counts of one draw hang together: the four standard errors are those of draws, not of counts
        assert abs(p - q) < 4 * (2 * max(p * (1 - p), 1e-4) / (400 * 5)) ** 0.5


def test_flower_datasets_rounding_favours_the_last_client_and_ours_does_not():
    labels = np.repeat(np.arange(10), 100)
    theirs = np.mean([flower_dirichlet(labels, 50, 100.0, s).sum(axis=0) for s in range(200)], axis=0)
    ours = []
    for seed in range(200):
        rng = stream(seed, "partition")
        shares = proportions("dirichlet", 10, 50, rng, concentration=100.0)
        ours.append([len(part) for part in deal(labels, shares, rng)])
    assert theirs[0] < 16 < 24 < theirs[-1]  # 20 each are due; half an item a class is lost and won
    assert np.abs(np.mean(ours, axis=0) - 20).max() < 0.5


@pytest.mark.parametrize(("num_clients", "held"), [(5, 2), (7, 3), (100, 2), (1, 10), (3, 4)])
def test_pathological_clients_hold_exactly_so_many_classes_and_no_class_is_left(num_clients, held):
    rng = stream(0, "test")
    shares = proportions("pathological", 10, num_clients, rng, classes_per_client=held)
    holders = (shares > 0).sum(axis=1)
    assert ((shares > 0).sum(axis=0) == held).all()
    assert holders.min() >= 1
    assert holders.max() - holders.min() <= 1
    labels = np.repeat(np.arange(10), 300)
    seen = counts_by_class(labels, deal(labels, shares, rng), 10) > 0
    assert (seen == (shares > 0)).all()


def test_quantity_skew_changes_sizes_and_keeps_the_mix():
    rng = stream(0, "test")
    shares = proportions("quantity-skew", 4, 10, rng, concentration=0.5)
    assert (shares == shares[0]).all()
    labels = np.repeat(np.arange(4), 2000)
    counts = counts_by_class(labels, deal(labels, shares, rng), 4)
    assert counts.sum(axis=0).max() > 5 * counts.sum(axis=0).min()
    assert (np.ptp(counts, axis=0) <= 1).all()


def test_quantile_bins_are_even_and_keep_ties_together():
    assert quantile_bins(np.arange(12.0)[::-1], 4).tolist() == [3, 3, 3, 2, 2, 2, 1, 1, 1, 0, 0, 0]
    tied = quantile_bins(np.array([1, 1, 1, 1, 2, 3], np.float32), 3)
    assert len(set(tied[:4].tolist())) == 1
    assert quantile_bins(np.zeros(0, np.float32), 5).shape == (0,)
    assert set(quantile_bins(stream(0, "t").random(100), 10).tolist()) == set(range(10))


def test_a_class_without_members_and_no_labels_at_all_are_dealt():
    rng = stream(0, "test")
    shares = proportions("iid", 3, 4, rng)
    assert [part.tolist() for part in deal(np.zeros(0, np.int64), shares, rng)] == [[], [], [], []]
    assert sum(len(part) for part in deal(np.array([0, 2, 2]), shares, rng)) == 3


@pytest.mark.parametrize(
    ("kind", "parameters", "words"),
    [
        ("pathological", {"classes_per_client": 1}, "at least 2 are needed"),
    ],
)
def test_impossible_partitions_are_refused(kind, parameters, words):
    with pytest.raises(ScenarioError, match=words):
        proportions(kind, 10, 5, stream(0, "test"), **parameters)


def test_labels_outside_the_matrix_are_refused():
    rng = stream(0, "test")
    with pytest.raises(ValueError, match=r"run from 0 to 3; .* in 0\.\.1"):
        deal(np.array([0, 3]), proportions("iid", 2, 2, rng), rng)
