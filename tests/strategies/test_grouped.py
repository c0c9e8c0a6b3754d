"""Thresholds from class laws that clients share: the theorem by enumeration, its limits, and what it is for."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from by_hand import columns
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_sim import Scenario, simulate
from fl_sim.conformal.histogram import ScoreGrid, encode
from fl_sim.conformal.mixtures import (
    Spread,
    by_cluster,
    class_laws,
    crossing,
    found_groups,
    joined_classes,
    mixture_laws,
    shrunk,
    shrunk_by_class,
    spread,
)
from fl_sim.conformal.thresholds import conformal_threshold
from fl_sim.messages.summaries import HistogramReport
from fl_sim.report.table import notes
from strategies.base import Federation
from strategies.class_conditional import ClassConditional, with_borrowed
from strategies.grouped import Grouped

LAC = '{"name": "lac"}'
GRID = ScoreGrid(0.0, 1.0, 512, 1e-3)


def thresholds(labels: Sequence[int], pools: Sequence[Sequence[float]], edges: np.ndarray, alpha: float) -> np.ndarray:
    """(C,) thresholds for a client with these labels, from the pooled scores of each class."""
    counts = np.array([np.bincount(np.searchsorted(edges, pool), minlength=len(edges) + 1) for pool in pools])
    held = np.bincount(np.asarray(labels, int), minlength=len(pools))
    return np.append(edges, math.inf)[crossing(mixture_laws(held, class_laws(counts)), alpha)]


def by_definition(labels: Sequence[int], pools: Sequence[Sequence[float]], y: int, alpha: Fraction) -> float:
    """The smallest score at which the mixture under labels and candidate reaches 1 - alpha, in fractions."""
    for t in sorted(itertools.chain(*pools)):
        law = sum(
            Fraction(sum(label == c for label in [*labels, y]), len(labels) + 1)
            * Fraction(sum(s <= t for s in pool), len(pool) + 1)
            for c, pool in enumerate(pools)
        )
        if law >= 1 - alpha:
            return t
    return math.inf


# ----------------------------------------------------------------------------------------------------------- theorem


@settings(derandomize=True, deadline=None, max_examples=150)
@given(
    st.lists(st.integers(0, 2), max_size=8),
    st.lists(st.lists(st.integers(1, 20), max_size=12), min_size=3, max_size=3),
    st.sampled_from([Fraction(1, 20), Fraction(1, 10), Fraction(1, 4), Fraction(1, 2)]),
)
def test_it_is_the_quantile_of_the_mixture(labels, pools, alpha):
    edges = np.arange(1.0, 21.0)
    found = thresholds(labels, pools, edges, float(alpha))
    assert found.tolist() == [by_definition(labels, pools, y, alpha) for y in range(3)]


@pytest.mark.parametrize("alpha", [Fraction(1, 4), Fraction(1, 3), Fraction(1, 2)])
@pytest.mark.parametrize(("n", "sizes"), [(0, (3, 2)), (1, (3, 3)), (2, (2, 4)), (3, (3, 1))])
def test_every_client_is_covered_enumerated(n, sizes, alpha):
    """All labels, all scores, with their probabilities, as fractions: nothing is drawn."""
    share = (Fraction(2, 3), Fraction(1, 3))  # of the two classes at this client
    laws = ((1, 2), (2, 5))  # a score of class y is one of these, equally likely
    edges = np.arange(1.0, 6.0)
    covered = Fraction(0)
    pools_of = [list(itertools.product(law, repeat=size)) for law, size in zip(laws, sizes, strict=True)]
    every = Fraction(1, len(pools_of[0]) * len(pools_of[1]))
    for labels in itertools.product(range(2), repeat=n):
        weight = math.prod((share[y] for y in labels), start=Fraction(1))
        for pools in itertools.product(*pools_of):
            at = thresholds(labels, pools, edges, float(alpha))
            for y in range(2):
                inside = Fraction(sum(s <= at[y] for s in laws[y]), len(laws[y]))
                covered += weight * every * share[y] * inside
    assert covered >= 1 - alpha


def test_clients_of_any_mix_and_size_are_covered_and_the_plug_in_is_not():
    """Two classes of unlike scores, a client of 3 points: without the candidate among its labels, and without a place
    for the test point among the scores, the promise fails."""
    rng = np.random.default_rng(0)
    alpha, runs, n, pool = 0.2, 4000, 3, 6
    edges, ours, naive = np.linspace(0.001, 1, 1000), 0, 0
    for _ in range(runs):
        labels = (rng.random(n) < 0.5).astype(int)
        pools = [rng.random(pool) * 0.2, 0.5 + rng.random(pool) * 0.5]
        y = int(rng.random() < 0.5)
        score = rng.random() * 0.2 if y == 0 else 0.5 + rng.random() * 0.5
        ours += score <= thresholds(labels, pools, edges, alpha)[y]
        every = np.concatenate(pools)
        weights = np.repeat(np.bincount(labels, minlength=2) / n / pool, pool)
        order = np.argsort(every)
        at = np.searchsorted(np.cumsum(weights[order]), 1 - alpha - 1e-12)
        naive += score <= every[order][at]
    error = math.sqrt(alpha * (1 - alpha) / runs)
    assert ours / runs >= 1 - alpha - 4 * error
    assert naive / runs < 1 - alpha - 8 * error


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(st.floats(0, 1), max_size=60), st.integers(0, 30), st.sampled_from([0.05, 0.1, 0.3]))
def test_with_one_class_it_is_split_conformal_on_the_pool(scores, n, alpha):
    (at,) = thresholds([0] * n, [scores], GRID.edges, alpha)
    exact = conformal_threshold(scores, alpha)
    assert at == (math.inf if exact == math.inf else np.append(GRID.edges, math.inf)[GRID.place([exact])[0]])


# ------------------------------------------------------------------------------------------------- clients that differ


def test_a_law_lies_between_the_clients_own_and_the_groups():
    own, group = np.array([3, 1, 0, 0]), np.array([[0.2, 0.4, 0.9], [0.1, 0.2, 0.3]])
    assert np.array_equal(shrunk(own, group, math.inf), group)
    assert np.allclose(shrunk(own, group, 0.0), np.array([3, 4, 4]) / 5)
    assert np.allclose(shrunk(own, group, 5.0), (np.array([3, 4, 4]) + 5 * group) / 10)


def test_a_law_by_class_is_the_groups_where_the_client_has_no_points():
    own, group = np.array([[3, 1, 0], [0, 0, 0]]), np.array([[0.4, 0.9], [0.2, 0.3]])
    assert np.array_equal(shrunk_by_class(own, group, math.inf), group)
    found = shrunk_by_class(own, group, 4.0)
    assert np.allclose(found[0], np.array([0.75, 1.0]) * (4 / 5) / 2 + group[0] / 2)
    assert np.array_equal(found[1], group[1])
    assert np.allclose(shrunk_by_class(own, group, 0.0)[0], np.array([3, 4]) / 5)


def binomial(rng: np.random.Generator, rates: np.ndarray, n: int, alpha: float) -> Spread:
    each = np.full(len(rates), n * alpha)
    return spread(rng.binomial(n, rates), each, each * (1 - alpha), np.full(len(rates), n))


def test_the_spread_of_beta_binomial_clients_is_found():
    rng = np.random.default_rng(1)
    alpha, clients, n = 0.05, 4000, 100
    for correlation in (0.01, 0.05):
        points = 1 / correlation - 1
        found = binomial(rng, rng.beta(alpha * points, (1 - alpha) * points, clients), n, alpha)
        assert found.correlation == pytest.approx(correlation, rel=0.15)
        assert found.pseudo_points == pytest.approx(1 / found.correlation - 1)
    each = [binomial(rng, np.full(100, alpha), n, alpha) for _ in range(400)]
    assert np.mean([s.errors for s in each]) == pytest.approx(0, abs=4 / 20)
    assert np.std([s.errors for s in each]) == pytest.approx(1, abs=0.25)  # the stated standard error is one
    assert np.mean([math.isinf(s.pseudo_points) for s in each]) > 0.9


def test_clients_that_are_alike_do_not_differ_for_ties():
    """Scores of three values only, so that thresholds cover more than 1 - alpha at everybody."""
    rng = np.random.default_rng(12)
    sure = 0
    for _ in range(50):
        scores = rng.choice([0.1, 0.5, 0.9], (20, 200), p=[0.88, 0.09, 0.03])
        strategy = grouped(Federation("p", num_labels=1), groups="one")
        answered(strategy, np.array([GRID.count(s)[None] for s in scores]))
        sure += strategy.detail()["groups"][0]["pseudo_points"] is not None
    assert sure < 6


@pytest.mark.parametrize("sizes", [[], [0, 0], [1, 1]])
def test_nothing_is_said_of_clients_without_points(sizes):
    none = np.zeros(len(sizes))
    assert spread(none, none, np.array(sizes) * 0.09, np.array(sizes, int)) == Spread(0.0, 0.0, math.inf)


def test_a_class_too_rare_for_its_tier_borrows():
    counts, everybodys = np.array([[9, 0], [8, 0], [0, 0]]), np.array([[20, 1], [30, 0], [0, 0]])
    made, borrowed = with_borrowed(counts, everybodys, 0.1)
    assert borrowed == [1]
    assert made.tolist() == [[9, 0], [30, 0], [0, 0]]


def test_classes_are_joined_where_points_are_few():
    """At alpha = 0.1 a class must have 40 points on average; those with like scores go together."""
    rng = np.random.default_rng(9)
    centres = [0.1, 0.9, 0.15, 0.85]

    def counted(n: int) -> np.ndarray:
        return np.array([GRID.count(c + 0.05 * rng.random(n)) for c in centres])

    assert joined_classes(counted(40), 0.1).tolist() == [0, 1, 2, 3]
    assert joined_classes(counted(20), 0.1).tolist() == [0, 1, 0, 1]
    assert joined_classes(counted(5), 0.1).tolist() == [0, 0, 0, 0]
    assert joined_classes(np.zeros((3, 513), int), 0.1).tolist() == [0, 0, 0]
    joined = by_cluster(counted(20)[None], np.array([0, 1, 0, 1]))
    assert joined.shape == (1, 2, 513)
    assert joined.sum(axis=2).tolist() == [[40, 40]]


def test_a_small_group_is_its_pool_and_a_smaller_one_everybodys():
    rng = np.random.default_rng(10)
    scores, labels = [rng.random(n) for n in (60, 20, 200)], [rng.integers(0, 10, n) for n in (60, 20, 200)]
    counts = np.array([GRID.count_by(s, y, 10) for s, y in zip(scores, labels, strict=True)])
    strategy = grouped(Federation("p", tiers=("few", "fewer", "many"), num_labels=10))
    found = answered(strategy, counts)
    pools = {0: scores[0], 1: np.concatenate(scores)}
    for k, pool in pools.items():
        exact = conformal_threshold(pool, 0.1)
        if k == 0:
            assert set(found[k].tolist()) == {float(GRID.edges[GRID.place([exact])[0]])}
        else:
            assert len(set(found[k].tolist())) > 1  # of 280 points there are classes to tell apart
    assert [group["stands_alone"] for group in strategy.detail()["groups"]] == [True, False, True]
    assert not any(group["guaranteed"] for group in strategy.detail()["groups"][:2])


def drawn(rng: np.random.Generator, laws: Sequence[Sequence[tuple[float, float]]], who: Sequence[int]) -> np.ndarray:
    """(K, C, bins + 1) counts of clients with unequal labels; `laws` of each group by class are beta's two numbers."""
    made = []
    for group in who:
        labels = rng.choice(len(laws[group]), 80, p=rng.dirichlet(np.full(len(laws[group]), 0.3)))
        scores = np.array([rng.beta(*laws[group][y]) for y in labels])
        made.append(GRID.count_by(scores, labels, len(laws[group])))
    return np.array(made)


def test_groups_are_found_whatever_the_labels():
    rng = np.random.default_rng(2)
    two = [[(1, 9), (3, 3), (2, 4)], [(2, 4), (9, 3), (5, 3)]]  # class by class the second group's scores are larger
    who = rng.integers(0, 2, 60)
    counts = drawn(rng, two, who)
    found, plausible = found_groups(counts)
    assert len(np.unique(found)) == 2
    assert max(np.mean(found == who), np.mean(found != who)) > 0.95
    assert plausible[np.arange(60), found].all()
    assert plausible.sum() < 70  # 80 points tell which group, to nearly all
    counts[0] = 0
    assert found_groups(counts)[1][0].all()  # and none tell nothing
    assert len(np.unique(found_groups(drawn(rng, two, [0] * 60))[0])) == 1
    groups, plausible = found_groups(np.zeros((3, 2, 513), int))
    assert (groups.tolist(), plausible.tolist()) == ([0, 0, 0], [[True]] * 3)


def test_a_client_of_no_known_group_gets_the_largest_of_their_thresholds():
    rng = np.random.default_rng(11)
    counts = drawn(rng, [[(1, 9), (3, 3)], [(3, 3), (9, 2)]], [0] * 20 + [1] * 20)
    counts[0] = 0
    found = answered(grouped(Federation("p", num_labels=2), groups="found"), counts)
    in_tiers = answered(grouped(Federation("p", tiers=("a",) * 20 + ("b",) * 20, num_labels=2)), counts)
    assert (found[0] >= in_tiers[20] * 0 + np.maximum(in_tiers[0], 0) - 0.05).all()
    assert (found[0] >= in_tiers[0] + 0.1).any()


# --------------------------------------------------------------------------------------------------------- strategies


def reports(counts: np.ndarray) -> list[HistogramReport]:
    return [HistogramReport(k, encode(own), len(own)) for k, own in enumerate(counts)]


def grouped(
    federation: Federation, groups: str = "tier", target: str = "auto", alpha: float = 0.1, rare: str = "borrow"
) -> Grouped:
    return Grouped(federation, alpha=alpha, score=LAC, bins=512, groups=groups, target=target, budget=512, rare=rare)


def answered(strategy: Grouped | ClassConditional, counts: np.ndarray) -> dict[int, np.ndarray]:
    strategy.ask(1)
    strategy.take(1, columns(reports(counts)))
    return {k: np.asarray(q) for k, q in strategy.thresholds.items()}


def test_tiers_have_laws_of_their_own_and_every_client_its_labels():
    rng = np.random.default_rng(3)
    laws = [[(1, 9), (3, 3)], [(3, 3), (9, 2)]]
    counts = drawn(rng, laws, [0, 0, 0, 1, 1, 1])
    tiers = ("weak",) * 3 + ("strong",) * 3
    strategy = grouped(Federation("p", tiers=tiers, num_labels=2, one_law_a_tier=True))
    found = answered(strategy, counts)
    for k, own in enumerate(counts):
        members = counts[:3] if k < 3 else counts[3:]
        expected = crossing(mixture_laws(own.sum(axis=1), class_laws(members.sum(axis=0))), 0.1)
        assert found[k].tolist() == np.append(GRID.edges, math.inf)[expected].tolist()
    told = strategy.detail()
    assert [group["clients"] for group in told["groups"]] == [[3, 4, 5], [0, 1, 2]]
    assert told["target"] == "own"
    assert all(group["guaranteed"] for group in told["groups"])
    assert strategy.caveats() == []
    # The same counts, of a federation of which nobody says that its clients have one law a tier: nothing is promised.
    unknown = grouped(Federation("p", tiers=tiers, num_labels=2))
    answered(unknown, counts)
    assert not any(group["guaranteed"] for group in unknown.detail()["groups"])
    assert unknown.caveats() == [
        "Coverage is not guaranteed for strong, weak: nothing in the scenario gives all clients of a group one law of "
        "scores"
    ]
    # Nor of one group of both tiers, or of clients that are tested on others' data.
    for how, federation in (("one", {}), ("tier", {"test": "shared"})):
        other = grouped(
            Federation("p", tiers=tiers, num_labels=2, one_law_a_tier=True, **federation), groups=how, target="own"
        )
        answered(other, counts)
        assert not any(group["guaranteed"] for group in other.detail()["groups"])


def test_models_of_their_own_bring_each_client_to_its_own_threshold():
    """Where clients' laws differ widely, `grouped` is split conformal at each client, as nearly as n_k allows."""
    rng = np.random.default_rng(4)
    scale = rng.uniform(0.05, 1.0, 40)
    scores = [rng.random(400) * s for s in scale]
    counts = np.array([GRID.count(s)[None] for s in scores])
    strategy = grouped(Federation("p", num_labels=1), groups="one")
    found = answered(strategy, counts)
    assert strategy.detail()["groups"][0]["pseudo_points"] < 20
    for k, s in enumerate(scores):
        assert found[k].item() == pytest.approx(conformal_threshold(s, 0.1), abs=0.03)


def grouped_detail(federation: Federation, counts: np.ndarray) -> dict:
    strategy = grouped(federation, groups="one")
    answered(strategy, counts)
    return strategy.detail()["groups"][0]


def test_everybodys_data_asks_for_everybodys_labels():
    rng = np.random.default_rng(5)
    counts = drawn(rng, [[(1, 9), (9, 2)]], [0] * 30)
    federation = Federation("p", num_labels=2, test="shared")
    found = answered(grouped(federation, groups="one"), counts)
    assert len({tuple(q) for q in found.values()}) == 1
    pooled = mixture_laws(counts.sum(axis=(0, 2)), class_laws(counts.sum(axis=0)))
    assert found[0].tolist() == np.append(GRID.edges, math.inf)[crossing(pooled, 0.1)].tolist()
    assert not grouped_detail(federation, counts)["guaranteed"]
    own = answered(grouped(federation, groups="one", target="own"), counts)
    assert len({tuple(q) for q in own.values()}) > 20


@pytest.mark.parametrize("kind", [grouped, lambda r: ClassConditional(r, alpha=0.1, score=LAC, groups="tier")])
def test_tiers_have_to_be_known(kind):
    with pytest.raises(ValueError, match=r"groups = 'tier' needs Federation\(tiers=...\)"):
        answered(kind(Federation("p", num_labels=2)), np.zeros((1, 2, 513), int))


@pytest.mark.parametrize("kind", [grouped, lambda r: ClassConditional(r, alpha=0.1, score=LAC, groups="tier")])
def test_clients_without_points_and_no_clients(kind):
    federation = Federation("p", tiers=("only",), num_labels=2)
    assert answered(kind(federation), np.zeros((1, 2, 513), int))[0].tolist() == [math.inf] * 2
    assert answered(kind(federation), np.zeros((0, 2, 513), int)) == {}


def test_class_conditional_is_split_conformal_class_by_class():
    rng = np.random.default_rng(6)
    labels, scores = rng.integers(0, 3, 300), rng.random(300)
    counts = np.array([GRID.count_by(scores[k::3], labels[k::3], 3) for k in range(3)])
    strategy = ClassConditional(Federation("p", num_labels=3), alpha=0.1, score=LAC, groups="one")
    found = answered(strategy, counts)
    exact = [conformal_threshold(scores[labels == y], 0.1) for y in range(3)]
    assert all(found[k].tolist() == GRID.edges[GRID.place(exact)].tolist() for k in range(3))
    assert [group["group"] for group in strategy.detail()["groups"]] == ["all"]


def test_rare_classes_borrow_from_all_tiers_then_from_all_classes():
    rng = np.random.default_rng(7)
    counts = np.array([
        [GRID.count(rng.random(50)), GRID.count(rng.random(5)), GRID.count([])],
        [GRID.count(rng.random(50)), GRID.count(rng.random(50)), GRID.count([])],
    ])  # fmt: skip
    federation = Federation("p", tiers=("a", "b"), num_labels=3, one_law_a_tier=True)
    honest = ClassConditional(federation, alpha=0.1, score=LAC)
    found = answered(honest, counts)
    assert np.isinf(found[0]).tolist() == [False, True, True]
    assert np.isinf(found[1]).tolist() == [False, False, True]
    assert [group["guaranteed"] for group in honest.detail()["groups"]] == [True, True]
    assert honest.caveats()[0] == (
        "a: classes 1, 2 had fewer than 9 points, so that every set holds them (rare = inf)"
    )  # fmt: skip
    strategy = ClassConditional(federation, alpha=0.1, score=LAC, rare="borrow")
    answered(strategy, counts)
    first, second = strategy.detail()["groups"]
    assert [first["guaranteed"], second["guaranteed"]] == [False, False]
    assert "may be covered far less than promised" in strategy.caveats()[0]
    assert first["classes_borrowed_from_all_tiers"] == [1]
    assert first["classes_borrowed_from_all_classes"] == second["classes_borrowed_from_all_classes"] == [2]
    assert second["classes_borrowed_from_all_tiers"] == []


def test_a_rare_class_is_covered_unless_it_borrows():
    """Eight points of a class whose scores are large: Vovk's threshold is infinite, the pool's hardly covers any."""
    rng = np.random.default_rng(11)
    covered = dict.fromkeys(("inf", "borrow"), 0)
    for _ in range(100):
        scores = np.concatenate([rng.beta(1, 9, 300), rng.beta(9, 2, 8)])
        counts = GRID.count_by(scores, np.repeat([0, 1], [300, 8]), 2)[None]
        for rare in covered:
            strategy = ClassConditional(Federation("p", num_labels=2), alpha=0.1, score=LAC, groups="one", rare=rare)
            covered[rare] += rng.beta(9, 2) <= answered(strategy, counts)[0][1]
    assert covered["inf"] == 100
    assert covered["borrow"] < 30


def test_with_rare_inf_no_class_is_joined_and_the_theorem_is_about_every_group():
    rng = np.random.default_rng(12)
    counts = np.array([GRID.count_by(rng.random(20), rng.integers(0, 10, 20), 10) for _ in range(4)])
    federation = Federation("p", tiers=("a", "a", "b", "b"), num_labels=10, one_law_a_tier=True)
    joined, apart = grouped(federation), grouped(federation, rare="inf")
    answered(joined, counts)
    found = answered(apart, counts)
    for k, own in enumerate(counts):
        members = counts[:2] if k < 2 else counts[2:]
        expected = crossing(mixture_laws(own.sum(axis=1), class_laws(members.sum(axis=0))), 0.1)
        assert found[k].tolist() == np.append(GRID.edges, math.inf)[expected].tolist()
    assert all(group["guaranteed"] and group["stands_alone"] for group in apart.detail()["groups"])
    assert apart.caveats() == []
    assert not any(group["guaranteed"] for group in joined.detail()["groups"])
    assert any("10 classes were joined to 1, having fewer than 4 / alpha points each" in told
               for told in joined.caveats())  # fmt: skip


PLADA = (
    'learn={name="plada", teacher={architecture="linear", epochs=1}, rule="random", keep_fraction=0.5, per_client=%s}'
)
SERVER = ("data.train=100", "data.server=100")
REFERENCE = (*SERVER, 'reference={sets=["glyphs-pool"]}')


@pytest.mark.parametrize(("overrides", "one_law"), [
    ([], True),
    (["learn.per_client=true"], False),
    (["learn=own"], False),
    (['learn={name="fedavg", rounds=1}'], True),
    ([PLADA % "false", *REFERENCE], True),
    ([PLADA % "true", *REFERENCE], False),
    (['learn={name="weights", teacher={architecture="linear", epochs=1}}', *SERVER], True),
    (['learn={name="probe"}', *REFERENCE], True),
    (['learn={name="coreset", images_per_class=1, per_client=true}', *SERVER], False),
    (["calibrate.calibrator=temperature"], False),
    (["calibrate.calibrator=identity"], True),
    (["calibrate.calibrator=federated-temperature"], True),
    (["calibrate.calibrator=federated-temperature", "calibrate.calibrator_share=0"], False),
    (['clients.behaviour=[{kind="label-shuffle", share=0.2}]'], False),
    (['clients.behaviour=[{kind="label-shuffle", share=0}]'], True),
    (["clients.partition=iid"], True),
])  # fmt: skip
def test_one_law_a_tier_follows_from_the_scenario(overrides, one_law):
    assert Scenario.load("digits", "calibrate=grouped", *overrides).one_law_a_tier == one_law


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store for all runs, which train the same models."""
    return tmp_path_factory.mktemp("grouped") / "store"


@pytest.mark.parametrize("how", ["learn=own", "learn.per_client=true", "calibrate.calibrator=temperature"])
def test_nothing_is_guaranteed_of_models_or_calibrators_of_ones_own(place, how):
    result = simulate(
        Scenario.load("digits", "runtime.name=inline", "calibrate=grouped", how, "clients.count=12",
                      "clients.concentration=5", "clients.tier.strong.epochs=2"), store=place)  # fmt: skip
    groups = result.summary["calibrate"]["detail"]["groups"]
    assert [group["guaranteed"] for group in groups] == [False] * len(groups)
    assert any("nothing in the scenario gives" in told for told in result.summary["calibrate"]["caveats"])
    assert any("Coverage is not guaranteed for" in line for line in notes(result))


def test_class_conditional_covers_every_mix():
    """A threshold for each class, from even labels, holds for a client of one class; the pooled one does not."""
    rng = np.random.default_rng(8)
    alpha, runs, covered, pooled = 0.1, 1500, 0, 0
    for _ in range(runs):
        scores = np.concatenate([rng.beta(1, 9, 40), rng.beta(9, 2, 40)])
        labels = np.repeat([0, 1], 40)
        strategy = ClassConditional(Federation("p", num_labels=2), alpha=alpha, score=LAC, groups="one")
        found = answered(strategy, GRID.count_by(scores, labels, 2)[None])[0]
        hard = rng.beta(9, 2)
        covered += hard <= found[1]
        pooled += hard <= conformal_threshold(scores, alpha)
    error = math.sqrt(alpha * (1 - alpha) / runs)
    assert covered / runs >= 1 - alpha - 4 * error
    assert pooled / runs < 1 - alpha - 8 * error


# --------------------------------------------------------------------------------------------------------------- runs


@pytest.mark.parametrize("calibrate", ["grouped", "grouped found", "class-conditional"])
def test_a_run_on_digits(place, calibrate):
    name, _, groups = calibrate.partition(" ")
    more = [f"calibrate.groups={groups}"] if groups else []
    quick = ("runtime.name=inline", "clients.tier.strong.epochs=10")
    result = simulate(Scenario.load("digits", *quick, f"calibrate={name}", *more), store=place)
    assert result.calibrate["rounds"] == 1
    assert max(row["bytes_up"] for row in result.clients) <= 512
    assert 0.85 <= result.calibrate["coverage"] <= 1
    assert result.calibrate["threshold"] is None
    assert all(row["threshold"] is None for row in result.clients)  # each class has its own


def test_a_run_in_regression_has_one_threshold_a_client(store):
    world = ("data.calibration=2000", "data.test=1000", "clients.count=20", "clients.tier.strong.epochs=5")
    result = simulate(Scenario.load("regression", "runtime.name=inline", "calibrate=grouped", *world), store=store.root)
    assert result.calibrate["rounds"] == 2
    assert len({row["threshold"] for row in result.clients}) > 10
    weak, strong = (result.calibrate["tiers"][tier]["coverage"] for tier in ("weak", "strong"))
    assert min(weak, strong) > 0.92


def test_classes_are_refused_in_regression():
    with pytest.raises(Exception, match="'class-conditional' is for classification, and friedman is regression"):
        Scenario.load("regression", "calibrate=class-conditional")
