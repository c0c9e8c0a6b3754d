"""fedtsv-fair: the cones against other ways to compute them, what each kind of update shows, and in small worlds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_fedtsv import TIER, flat, run, watched, world

from fl_sim.contribution import honesty
from fl_sim.contribution.honesty import Evidence, Looks, looks, projected
from fl_sim.contribution.shapley import gram
from fl_sim.errors import FlSimError, ScenarioError
from fl_sim.models.training import starts_of
from strategies.families.weighing import Answers

SEEDS = st.integers(0, 2**32 - 1)
CALM = settings(derandomize=True, deadline=None, max_examples=40)

# ------------------------------------------------------------------------------------------------------------ the cone


def inner(*vectors: np.ndarray) -> np.ndarray:
    stacked = np.stack(vectors)
    return stacked @ stacked.T


def by_descent(atoms: np.ndarray, u: np.ndarray) -> float:
    """The squared length of the projection by projected gradient descent: slow, and nothing but its definition."""
    square, along = atoms @ atoms.T, atoms @ u
    weights, rate = np.zeros(len(atoms)), 1 / np.linalg.norm(square, 2)
    for _ in range(5_000):
        before, weights = weights, np.maximum(0, weights - rate * (square @ weights - along))
        if np.array_equal(weights, before):
            break
    return float(np.sum((weights @ atoms) ** 2))


@CALM
@given(seed=SEEDS, a=st.integers(1, 5))
def test_the_projection_is_that_of_descent(seed, a):
    rng = np.random.default_rng(seed)
    atoms, u = rng.standard_normal((a, 8)), rng.standard_normal(8)
    assert projected(atoms @ atoms.T, atoms @ u) == pytest.approx(by_descent(atoms, u), rel=1e-4, abs=1e-5)


@CALM
@given(seed=SEEDS, a=st.integers(1, 12))
def test_what_lies_in_the_cone_is_all_explained_and_its_opposite_not(seed, a):
    rng = np.random.default_rng(seed)
    atoms = np.abs(rng.standard_normal((a, 30)))  # no two point away from each other, so that -u is outside
    u = rng.random(a) @ atoms
    square = float(u @ u)
    assert projected(atoms @ atoms.T, atoms @ u) == pytest.approx(square, rel=1e-4)
    assert projected(atoms @ atoms.T, -atoms @ u) == 0


def test_right_angles_by_hand():
    atoms = np.diag([2.0, 0.5, 1.0])
    assert projected(atoms @ atoms.T, atoms @ np.array([3.0, 4.0, -5.0])) == pytest.approx(25, rel=1e-6)
    assert projected(np.zeros((2, 2)), np.zeros(2)) == 0  # where the server's own updates stand still
    assert projected(np.diag([0.0, 1.0]), np.array([0.0, 2.0])) == pytest.approx(4, rel=1e-6)
    twice = np.ones((2, 2))  # the same atom twice
    assert projected(twice, np.array([3.0, 3.0])) == pytest.approx(9, rel=1e-5)


# --------------------------------------------------------------------------------------------------------------- looks


@CALM
@given(seed=SEEDS, scale=st.floats(0.01, 100))
def test_looks_do_not_depend_on_length_but_for_what_is_unexplained(seed, scale):
    rng = np.random.default_rng(seed)
    atoms, u = rng.standard_normal((5, 20)), rng.standard_normal(20)
    found = looks(inner(*atoms, u, scale * u, -u), 5, 3, np.array([2.0, 2.0, 2.0]))
    for name in ("aligned", "wrong", "explained"):
        values = getattr(found, name)
        assert values[1] == pytest.approx(values[0], rel=1e-4, abs=1e-6), name
    assert found.unexplained[1] == pytest.approx(scale**2 * found.unexplained[0], rel=1e-4)
    assert found.aligned[2] == pytest.approx(-found.aligned[0], rel=1e-6, abs=1e-9)
    assert 0 <= found.explained[0] <= 1
    assert found.explained[0] + found.wrong[0] <= 1 + 1e-12


def test_looks_by_hand():
    """Right atoms are the first two axes (and their sum), the wrong one the third; the fourth is none of them."""
    axes = np.eye(4)
    atoms = [axes[0] + axes[1], axes[0], axes[1], axes[2]]
    updates = [axes[0] + axes[1], 2 * axes[0], axes[2], -axes[0], axes[0] + axes[3], 0 * axes[0]]
    found = looks(inner(*atoms, *updates), 4, 3, np.array([1.0, 2, 1, 1, 4, 1]))
    half = np.sqrt(0.5)
    np.testing.assert_allclose(found.aligned, [2, half + 1, 0, -half - 1, 0.5 + half, 0], atol=1e-3)
    np.testing.assert_allclose(found.wrong, [0, 0, 1, 0, 0, 0], atol=1e-5)
    np.testing.assert_allclose(found.unexplained, [0, 0, 1, 1, 0.25, 0], atol=1e-5)
    np.testing.assert_allclose(found.explained, [1, 1, 0, 0, 0.5, 0], atol=1e-5)


@pytest.mark.parametrize(("atoms", "right"), [(0, 0), (2, 0), (2, 3), (9, 1)])
def test_atoms_that_are_none_are_refused(atoms, right):
    with pytest.raises(ValueError, match="must be at least 1, and no more"):
        looks(np.eye(4), atoms, right, np.ones(2))


# ------------------------------------------------------------------------------------------------------------ evidence


def look(**numbers: float) -> Looks:
    usual = {"aligned": 0.5, "wrong": 0.0, "unexplained": 3.0, "explained": 0.25}
    return Looks(*(np.array([value]) for value in (usual | numbers).values()))


def after(times: int, **numbers: float) -> Evidence:
    evidence = Evidence(2)
    for _ in range(times):
        evidence.add([1], look(**numbers), look())
    return evidence


def test_a_client_like_the_virtual_ones_is_trusted_and_grows_no_heavier_than_one():
    weights = [after(times).weights()[1] for times in (0, 1, 3, 99)]
    np.testing.assert_allclose(weights, [0, 1 / 2, 3 / 4, 99 / 100])
    assert after(5).trust().tolist() == [0, 1]  # client 0 was never seen
    assert (after(5).direction[1], after(5).wrong[1], after(5).stray[1]) == (1, 0, 1)


@pytest.mark.parametrize(("numbers", "trust"), [
    ({"aligned": -0.5}, 0), ({"aligned": 0.0}, 1), ({"aligned": -0.1}, 0.5),  # turned round; neither; a little
    ({"wrong": 0.3}, 0), ({"wrong": 0.07}, 0.5), ({"wrong": 0.05}, 1),
    ({"unexplained": 300.0}, 0), ({"unexplained": 7.2}, 0.5), ({"explained": 0.05}, 0), ({"explained": 0.9}, 1),
    ({"aligned": 0.0, "unexplained": 0.0, "explained": 0.0}, 0),  # nothing was sent
], ids=str)  # fmt: skip
def test_what_costs_trust(numbers, trust):
    assert after(4, **numbers).trust()[1] == pytest.approx(trust)


def test_who_sends_nothing_half_the_time_has_twice_the_stray():
    evidence = after(3)
    for _ in range(3):
        evidence.add([1], look(aligned=0, unexplained=0, explained=0), look())
    assert evidence.stray[1] == pytest.approx(2)


def test_a_round_counts_for_as_much_as_it_tells():
    """Turned round where virtual clients agree, and as they are where they do not, is turned round."""
    evidence = Evidence(1)
    evidence.add([0], look(aligned=-0.9), look(aligned=0.9))
    evidence.add([0], look(aligned=0.1), look(aligned=0.1))
    assert evidence.direction[0] == pytest.approx(-0.8)


# ------------------------------------------------------------------------------------------------------ in small worlds

FAIR: dict[str, Any] = {"name": "fedtsv-fair", "rounds": 4, "participants": 3}


def test_a_round_is_what_its_file_says(store):
    """The looks of the first round from vectors, as float64 and without the strategy's arithmetic."""
    _, strategy, grid = watched(world(learn=FAIR | {"virtual": 2, "rounds": 2}), store)
    (came, record), start = (grid.came[0], strategy.detail()["rounds"][0]), flat(grid.sent[0])
    updates = {k: flat(weights) - start for k, weights in came.items()}
    assert len(record["aligned"]) == len(updates) == 3
    moved = flat(grid.sent[1]) - start
    weighed = sum(share * u for share, u in zip(record["weights"], updates.values(), strict=True))
    own = 1 - sum(record["weights"])
    assert 0 < own < 1
    server = (moved - weighed) / own  # none of these is long enough to be shortened
    assert 0.1 < np.linalg.norm(server) / np.linalg.norm(list(updates.values()), axis=1).mean() < 2
    assert np.median([server @ u for u in updates.values()]) > 0
    standing = strategy.evidence.weights()
    assert strategy.client_weights == dict(enumerate(standing.tolist()))
    np.testing.assert_array_equal(strategy.evidence.times, np.bincount([k for c in grid.came for k in c], minlength=8))
    assert ((standing >= 0) & (standing < 1)).all()


def test_a_step_is_the_updates_none_too_long_and_the_servers_own(store):
    _, strategy, _ = watched(world(learn=FAIR | {"rounds": 1}), store)
    strategy._longest, strategy._own = 2.0, np.array([1, 0], np.float32)
    updates = np.array([[3, 4], [0.6, 0.8], [0, 0]], np.float32)
    answers = Answers(1, [0, 1, 2], updates[0], updates, np.ones(3, np.int64))
    shares = strategy.shares(np.array([1.0, 0.5, 0.0]))
    np.testing.assert_allclose(shares, [0.4, 0.2, 0])  # the server has the other 0.4
    theirs = 0.4 * np.array([1.2, 1.6]) + 0.2 * np.array([0.6, 0.8])  # 0.6 along the server's own
    for progress, further in ((0.5, 1.0), (1.0, 1.0), (1.5, 1.5), (9.0, 2.0), (-1.0, 1.0)):
        strategy._progress = progress
        np.testing.assert_allclose(strategy.step(answers, shares), further * theirs + [0.4, 0], rtol=1e-6)
    np.testing.assert_allclose(strategy.step(answers, strategy.shares(np.zeros(3))), [1, 0])
    assert strategy.draws(0) == sum(
        2 * 16 / size
        for size in np.diff([*starts_of(strategy.federation.num_train[0], 16), strategy.federation.num_train[0]])
    )


def test_halves_share_each_class_and_no_row(store):
    _, strategy, _ = watched(world(learn=FAIR | {"rounds": 1}), store)
    labels = strategy.server.data.targets
    one, other = strategy.halves(1)
    np.testing.assert_array_equal(np.sort(np.concatenate([one, other])), np.sort(strategy.server_rows))
    counts = [np.bincount(labels[half], minlength=10) for half in (one, other)]
    assert abs(counts[0] - counts[1]).max() <= 1
    assert not np.array_equal(one, strategy.halves(2)[0])
    np.testing.assert_array_equal(one, strategy.halves(1)[0])


QUICK = ("label-shuffle", "free-rider")  # the others are caught by the same looks, and take as long
ATTACKS = [*QUICK, *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("sign-flip", "inflate", "constant"))]


@pytest.mark.parametrize("kind", ATTACKS)
def test_attackers_weigh_nothing_and_the_rare_what_others_do(store, kind):
    sgd = TIER | {"optimizer": "sgd", "learning_rate": 0.05, "epochs": 1, "batch_size": 8}
    tiers = [
        sgd | {"name": "common", "share": 0.75},
        sgd | {"name": "rare", "partition": "dirichlet", "concentration": 0.1},
    ]
    told = {
        "data": {"train": 800, "server": 300},
        "clients": {
            "count": 16, "partition": "iid", "concentration": None, "tier": tiers,
            "behaviour": [{"kind": kind, "share": 0.25, "tier": "common"}],
        },
    }  # fmt: skip
    result = run(store, **told, learn=FAIR | {"rounds": 16, "participants": 6, "evaluate_every": 0})
    weight = {
        name: np.array([r["weight"] for r in result.clients if (r["tier"], r["behaviour"]) == who])
        for name, who in {"iid": ("common", ""), "rare": ("rare", ""), "bad": ("common", kind)}.items()
    }
    assert [len(values) for values in weight.values()] == [8, 4, 4]
    assert weight["bad"].sum() < 0.01 * sum(values.sum() for values in weight.values())
    assert weight["rare"].mean() > 0.5 * weight["iid"].mean()
    assert max(values.max() for values in weight.values()) < 1


def test_where_nobody_is_trusted_the_server_goes_on_alone(store):
    behaviour = [{"kind": "sign-flip", "share": 1.0}]
    _, strategy, _ = watched(
        world(clients={"partition": "iid", "behaviour": behaviour}, learn=FAIR | {"rounds": 3}), store
    )
    records = strategy.detail()["rounds"]
    assert [record["weights"] for record in records] == [[0.0] * 3] * 3
    assert records[-1]["loss"] < records[0]["loss"]


# ------------------------------------------------------------------------------------------------------------- refused

REGRESSION = {
    "data": {"name": "friedman", "train": 400, "server": 100},
    "calibrate": {"name": "fedwq-cp", "alpha": 0.1, "score": "residual"},
}


@pytest.mark.parametrize(("changes", "rule"), [
    ({"data": {"server": 0}}, "data.server = 0, and learn = 'fedtsv-fair' judges updates by these rows"),
    (REGRESSION, "learn = 'fedtsv-fair' judges updates class by class, and friedman is regression"),
    ({"learn": FAIR | {"virtual": 0}}, "learn.virtual"),
    ({"learn": FAIR | {"permutations": 10}}, "learn.permutations"),
], ids=str)  # fmt: skip
def test_what_cannot_be_run_is_refused_when_the_scenario_is_loaded(changes, rule):
    with pytest.raises((ScenarioError, ValueError)) as refused:
        world(**{"learn": FAIR} | changes)
    assert rule in str(refused.value)


def test_too_few_rows_to_halve_are_refused(store):
    with pytest.raises(FlSimError, match=r"data.server = 2 rows fewer than two classes have two; ask for more"):
        watched(world(data={"server": 2}, learn=FAIR), store)


def test_the_bounds_are_in_the_order_that_trust_needs():
    assert honesty.DIRECTION[0] > honesty.DIRECTION[1]
    assert honesty.WRONG[0] < honesty.WRONG[1]
    assert honesty.STRAY[0] < honesty.STRAY[1]
    assert gram(np.eye(3))[1:, 1:].tolist() == np.eye(3).tolist()  # what the strategy relies on
