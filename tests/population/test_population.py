"""Who holds what: every row once, totals met, tiers apart from data, the same from the same seed."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest

from fl_sim.errors import ScenarioError
from fl_sim.population.clients import TARGET_BINS, Population, populate
from fl_sim.population.prepared_data import prepare
from fl_sim.randomness import stream
from fl_sim.scenario.assignment import largest_remainder
from fl_sim.scenario.scenario import Scenario

PARTITIONS = {
    "iid": {"partition": "iid"},
    "dirichlet": {"partition": "dirichlet", "concentration": 0.3},
    "pathological": {"partition": "pathological", "classes_per_client": 2},
    "quantity-skew": {"partition": "quantity-skew", "concentration": 0.5},
}
SPLITS = ("calibration", "test", "train")
TIERS = [
    {"name": "weak", "architecture": "linear", "epochs": 1, "share": 0.3},
    {"name": "middling", "architecture": "linear", "epochs": 1, "share": 0.2},
    {"name": "strong", "architecture": "mlp", "epochs": 1},
]


def scenario(*, seed: int = 0, data: dict[str, Any] | None = None, learn: str = "shared", **clients: Any) -> Scenario:
    rows = {"name": "digits", "train": 300, "server": 97, "calibration": 800, "test": 600} | (data or {})
    score = "lac" if rows["name"] == "digits" else "residual"
    return Scenario.model_validate({
        "seed": seed, "data": rows, "learn": learn, "calibrate": {"name": "fedwq-cp", "alpha": 0.1, "score": score},
        "clients": {"count": 20, "tier": TIERS, **clients}, "runtime": {"name": "inline", "device": "cpu"},
    })  # fmt: skip


@pytest.fixture
def drawn(store):
    def draw(**changes: Any) -> Population:
        wanted = scenario(**changes)
        return populate(wanted, prepare(wanted.data, wanted.seed, store), store)

    return draw


def rows(population: Population, split: str) -> list[np.ndarray]:
    return [getattr(population.client(k), split) for k in range(len(population))]


def composition(population: Population) -> list[tuple]:
    """Everything a population says, to compare two."""
    clients = [population.client(k) for k in range(len(population))]
    return [(c.id, c.tier, *(getattr(c, split).tolist() for split in SPLITS)) for c in clients]


# --------------------------------------------------------------------------------------------------------------- rows


@pytest.mark.parametrize("learn", ["shared", "own"])
@pytest.mark.parametrize("test", ["local", "shared"])
@pytest.mark.parametrize("kind", PARTITIONS)
def test_every_row_is_held_once_and_totals_are_met(drawn, kind, test, learn):
    population = drawn(test=test, learn=learn, **PARTITIONS[kind])
    data = population.data
    assert len(population) == 20
    calibration = np.concatenate(rows(population, "calibration"))
    assert len(calibration) == len(np.unique(calibration)) == 800
    if test == "local":
        # Calibration and test rows are dealt out together and then split, so either may lie where the other did.
        together = np.concatenate([calibration, *rows(population, "test")])
        assert sorted(together.tolist()) == list(range(*data.evaluated))
        assert sum(map(len, rows(population, "test"))) == 600
    else:
        assert sorted(calibration.tolist()) == data.rows("calibration").tolist()
        assert all(np.array_equal(mine, data.rows("test")) for mine in rows(population, "test"))
    train = np.concatenate(rows(population, "train"))
    assert sorted(train.tolist()) == (data.rows("train").tolist() if learn == "own" else [])


def test_nobody_holds_the_servers_rows(drawn):
    population = drawn(learn="own")
    held = {row for split in SPLITS for mine in rows(population, split) for row in mine.tolist()}
    assert held.isdisjoint(population.data.rows("server").tolist())
    assert held == set(range(1797)) - set(population.data.rows("server").tolist())


def test_the_split_inside_a_client_looks_at_its_size_alone(drawn):
    population = drawn(**PARTITIONS["dirichlet"])
    for mine, theirs in zip(rows(population, "calibration"), rows(population, "test"), strict=True):
        due = (len(mine) + len(theirs)) * 800 / 1400
        assert abs(len(mine) - due) < 1


def test_the_split_inside_a_client_is_random(drawn):
    """Over many clients the rows of calibration are, on average, in the middle of all that the clients hold."""
    population = drawn(count=200)
    ranks = []
    for mine, theirs in zip(rows(population, "calibration"), rows(population, "test"), strict=True):
        everything = np.sort(np.concatenate([mine, theirs]))
        ranks += (np.searchsorted(everything, mine) / (len(everything) - 1)).tolist()
    # Ranks in 0..1 with mean 1/2 and variance near 1/12; 800 of them, taken without replacement.
    assert np.mean(ranks) == pytest.approx(0.5, abs=4 * np.sqrt(1 / 12 / len(ranks)))


def test_label_counts_are_of_calibration(drawn):
    population = drawn(**PARTITIONS["pathological"])
    for k in range(20):
        counts = population.label_counts[k].tolist()
        expected = np.bincount(population.data.targets[population.client(k).calibration], minlength=10)
        assert counts == expected.tolist()
        assert np.count_nonzero(counts) <= 2


def test_regression_is_split_by_deciles_of_the_target(drawn):
    population = drawn(data={"name": "diabetes", "train": 100, "server": 0, "calibration": 200, "test": 142},
                       partition="pathological", classes_per_client=1, count=10)  # fmt: skip
    assert population.num_bins == TARGET_BINS == 10
    targets = np.array(population.data.targets)
    assert (np.bincount(population.bins) >= 40).all()  # 442 / 10, and ties
    assert (population.label_counts == 0).sum() == 10 * 9
    # Each client holds one decile: their ranges of targets do not overlap.
    spans = sorted(
        (targets[held].min(), targets[held].max())
        for k in range(10)
        if len(held := np.concatenate([population.client(k).calibration, population.client(k).test]))
    )
    assert all(before[1] < after[0] for before, after in itertools.pairwise(spans))


def test_who_learns_alone_sees_in_training_what_it_sees_in_calibration(drawn):
    population = drawn(learn="own", data={"train": 900, "server": 0, "calibration": 600, "test": 297}, test="shared",
                       partition="dirichlet", concentration=0.3, count=5)  # fmt: skip
    totals = {s: np.bincount(population.bins[population.data.rows(s)], minlength=10) for s in ("train", "calibration")}
    for k in range(5):
        client = population.client(k)
        held = {s: np.bincount(population.bins[getattr(client, s)], minlength=10) for s in totals}
        # A client's count of a class is within 1 of its share of that class, which is the same in both splits.
        difference = held["train"] / totals["train"] - held["calibration"] / totals["calibration"]
        assert (np.abs(difference) < 1 / totals["train"] + 1 / totals["calibration"]).all()


# -------------------------------------------------------------------------------------------------------------- tiers


def test_tiers_are_as_many_as_their_shares_say(drawn):
    assert np.bincount(drawn(count=20).tiers).tolist() == [6, 4, 10]
    assert np.bincount(drawn(count=7).tiers).sum() == 7
    counts = np.bincount(drawn(count=7).tiers)
    assert (np.abs(counts - 7 * np.array([0.3, 0.2, 0.5])) < 1).all()


def test_a_tier_may_be_empty(drawn):
    tiers = [TIERS[0] | {"share": 0.0}, TIERS[2]]
    assert drawn(tier=tiers).tiers.tolist() == [1] * 20
    assert drawn(tier=[TIERS[0] | {"share": 1.0}, TIERS[2]]).tiers.tolist() == [0] * 20


def test_tiers_do_not_look_at_the_data(drawn):
    as_they_are = drawn(**PARTITIONS["dirichlet"]).tiers.tolist()
    for other in (PARTITIONS["iid"], {"partition": "dirichlet", "concentration": 9.0}, {"test": "shared"}):
        assert drawn(**other).tiers.tolist() == as_they_are
    assert drawn(data={"train": 200}).tiers.tolist() == as_they_are
    assert drawn(learn="own").tiers.tolist() == as_they_are
    assert drawn(seed=1).tiers.tolist() != as_they_are


def test_tiers_by_size_give_the_first_tier_the_smallest(drawn):
    population = drawn(**PARTITIONS["quantity-skew"], tier_by="size")
    sizes = np.array([len(mine) for mine in rows(population, "calibration")])
    assert np.bincount(population.tiers).tolist() == [6, 4, 10]
    for tier in (0, 1):
        assert sizes[population.tiers == tier].max() <= sizes[population.tiers == tier + 1].min()


def test_a_tier_says_how_its_models_are_made(drawn):
    population = drawn()
    strong = population.clients.tier[2]
    recipe = population.recipe(strong, "client 3")
    assert (recipe.architecture, recipe.epochs, recipe.seed, recipe.purpose) == ("mlp", 1, 0, "client 3")
    assert (recipe.device, recipe.precision, recipe.cohort) == ("cpu", "float32", 1)


# ----------------------------------------------------------------------------------------------------- empty clients


def test_empty_clients_are_kept(drawn):
    population = drawn(partition="dirichlet", concentration=0.01, count=40)
    sizes = [len(mine) for mine in rows(population, "calibration")]
    assert min(sizes) == 0
    assert sum(sizes) == 800
    empty = population.client(sizes.index(0))
    assert empty.calibration.shape == (0,)
    assert population.label_counts[empty.id].tolist() == [0] * 10


def test_min_calibration_draws_again(drawn):
    world = {"partition": "dirichlet", "concentration": 0.5, "count": 20}
    assert min(len(mine) for mine in rows(drawn(**world), "calibration")) < 15
    population = drawn(**world, min_calibration=15)
    assert min(len(mine) for mine in rows(population, "calibration")) >= 15
    assert sum(map(len, rows(population, "calibration"))) == 800


def test_min_calibration_that_the_first_draw_meets_changes_nothing(drawn):
    assert composition(drawn(min_calibration=5)) == composition(drawn())


def test_min_calibration_that_no_draw_meets_is_refused_with_the_numbers(drawn):
    with pytest.raises(
        ScenarioError, match=r"clients\.min_calibration = 35: none of 100 partitions .* smallest client has \d+\)"
    ):
        drawn(partition="dirichlet", concentration=0.05, count=20, min_calibration=35)


# --------------------------------------------------------------------------------------------------------------- seed


def test_the_seed_decides(drawn, tmp_path):
    first = drawn(**PARTITIONS["dirichlet"], learn="own")
    again = drawn(**PARTITIONS["dirichlet"], learn="own")
    other = drawn(**PARTITIONS["dirichlet"], learn="own", seed=1)
    assert again.key == first.key != other.key
    assert composition(other) != composition(first)


def test_the_same_seed_gives_the_same_population_from_an_empty_store(drawn, tmp_path):
    from fl_sim.store.artifacts import Store

    world, fresh = scenario(**PARTITIONS["dirichlet"], learn="own"), Store(tmp_path / "another")
    there = populate(world, prepare(world.data, world.seed, fresh), fresh)
    here = drawn(**PARTITIONS["dirichlet"], learn="own")
    assert there.key == here.key
    assert composition(there) == composition(here)


def test_what_is_stored_is_what_a_worker_opens(drawn):
    from fl_sim.population.clients import open_population
    from fl_sim.store.artifacts import default_root

    population = drawn(**PARTITIONS["dirichlet"])
    assert open_population(str(default_root()), population.key) is population


def test_where_it_runs_and_how_it_is_calibrated_do_not_change_the_population(store):
    world = scenario()
    data = prepare(world.data, 0, store)
    key = populate(world, data, store).key
    for change in ("calibrate.alpha=0.2", "calibrate=pooled", "runtime.name=ray", "runtime.on_failure=skip"):
        assert populate(world.with_(change), data, store).key == key
    for change in ("runtime.precision=bfloat16", "clients.count=21", "learn=own", "clients.tier.weak.epochs=2"):
        assert populate(world.with_(change), data, store).key != key


# ----------------------------------------------------------------------------------------------------------- rounding


def test_largest_remainder_by_hand():
    rng = stream(0, "test")
    assert largest_remainder(np.array([1.5, 2.25, 3.25]), 7, rng).tolist() == [2, 2, 3]
    assert largest_remainder(np.array([0.2, 0.3, 0.5]) * 10, 10, rng).tolist() == [2, 3, 5]
    assert sorted(largest_remainder(np.full(3, 1 / 3), 1, rng).tolist()) == [0, 0, 1]


def test_equal_remainders_are_settled_at_random():
    winners = [int(largest_remainder(np.full(3, 1 / 3), 1, stream(seed, "test")).argmax()) for seed in range(60)]
    assert min(np.bincount(winners, minlength=3)) > 5


def test_a_client_is_frozen(drawn):
    with pytest.raises(dataclasses.FrozenInstanceError):
        drawn().client(0).id = 3


def test_a_users_data_with_fewer_rows_than_asked_for_is_refused(tmp_path, monkeypatch, store):
    (tmp_path / "short_data.py").write_text(
        "import numpy as np\nfrom fl_sim.data import Dataset\n"
        "def short(count, image_size, seed):\n"
        "    return Dataset(np.zeros((count - 1, 3), np.float32), np.zeros(count - 1, np.int64), ('a', 'b'))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    scenario = Scenario.load("digits", "data.name=short_data:short", "clients.tier.strong.architecture=linear")
    with pytest.raises(ScenarioError, match="1797 rows, but short_data:short has 1796"):
        prepare(scenario.data, scenario.seed, store)


# ------------------------------------------------------------------------------------------ tiers with their own data

COMMON = {"name": "common", "share": 0.9, "architecture": "linear", "epochs": 1}
RARE = {"name": "rare", "architecture": "linear", "epochs": 1, "partition": "dirichlet", "concentration": 0.1}
MIXED = {"count": 40, "tier": [COMMON, RARE]}
FLIP = {"kind": "sign-flip", "share": 0.1}


def counted(population: Population, split: str = "train") -> np.ndarray:
    """(classes, K) rows of each class that each client holds."""
    held = rows(population, split)
    return np.stack([np.bincount(population.bins[mine], minlength=10) for mine in held], axis=1)


@pytest.mark.parametrize("learn", ["shared", "own"])
@pytest.mark.parametrize("test", ["local", "shared"])
def test_in_a_mixed_world_every_row_is_held_once_too(drawn, test, learn):
    population = drawn(test=test, learn=learn, **MIXED)
    splits = ("calibration",) if test == "shared" else ("calibration", "test")
    held = np.concatenate([mine for split in splits for mine in rows(population, split)])
    expected = population.data.rows("calibration") if test == "shared" else np.arange(*population.data.evaluated)
    assert sorted(held.tolist()) == expected.tolist()
    train = np.concatenate(rows(population, "train"))
    assert sorted(train.tolist()) == (population.data.rows("train").tolist() if learn == "own" else [])


def test_each_tier_gets_of_each_class_the_share_that_its_clients_are(drawn):
    population = drawn(learn="own", data={"train": 1200, "server": 0, "calibration": 400, "test": 197}, **MIXED)
    counts, tiers = counted(population), population.tiers
    assert np.bincount(tiers).tolist() == [36, 4]
    total = counts.sum(axis=1, keepdims=True)
    due = total * 0.9 / 36
    assert (np.abs(counts[:, tiers == 0] - due) < 1).all()  # iid: alike in every class
    rare = counts[:, tiers == 1]
    assert np.abs(rare.sum(axis=1) - total[:, 0] * 0.1).max() < 4  # rounding at each of four clients
    shares = rare / rare.sum(axis=1, keepdims=True)
    assert np.median(shares.max(axis=1)) > 0.7  # Dir(0.1) over four clients: one has nearly all; iid would be 1/4


def test_the_proportions_of_a_mixed_world_by_hand():
    from fl_sim.data.partition import proportions
    from fl_sim.population.clients import _shares

    world = scenario(**MIXED, partition="pathological", classes_per_client=3)
    shares = _shares(world.clients, 10, 0, 2, stream(0, "unused"))
    assert shares.sum(axis=1) == pytest.approx(np.ones(10))
    by_size = np.argsort((shares > 0).sum(axis=0))
    rare = by_size[~np.isin(by_size, np.flatnonzero(np.isclose((shares > 0).sum(axis=0), 3)))]
    assert len(rare) == 4  # the others have the clients table's own partition, three classes each
    again = proportions("dirichlet", 10, 4, stream(0, "partition", 2, "rare"), concentration=0.1)
    assert shares[:, np.sort(rare)] == pytest.approx(again * 0.1)


def test_what_one_tier_is_dealt_does_not_depend_on_how_another_is(drawn):
    from fl_sim.population.clients import _shares

    worlds = [scenario(**MIXED | {"tier": [COMMON, RARE | {"concentration": c}]}).clients for c in (0.1, 5.0)]
    worlds.append(
        scenario(count=40, tier=[COMMON | {"partition": "quantity-skew", "concentration": 1.0}, RARE]).clients
    )
    first, second, third = (_shares(clients, 10, 0, 0, stream(0, "unused")) for clients in worlds)
    tiers = drawn(**MIXED).tiers
    assert np.array_equal(first[:, tiers == 0], second[:, tiers == 0])
    assert not np.array_equal(first[:, tiers == 1], second[:, tiers == 1])
    assert np.array_equal(first[:, tiers == 1], third[:, tiers == 1])


def test_tiers_are_the_same_whether_or_not_they_have_partitions_of_their_own(drawn):
    plain = [COMMON, {key: RARE[key] for key in ("name", "architecture", "epochs")}]
    assert drawn(**MIXED).tiers.tolist() == drawn(count=40, tier=plain).tiers.tolist()


def test_an_empty_tiers_partition_has_no_effect(drawn):
    alone = drawn(count=40, tier=[COMMON | {"share": None}], **PARTITIONS["dirichlet"])
    empty = drawn(count=40, tier=[COMMON | {"share": 1.0}, RARE | {"share": 0.0}], **PARTITIONS["dirichlet"])
    for split in SPLITS:
        assert [m.tolist() for m in rows(alone, split)] == [m.tolist() for m in rows(empty, split)]


@pytest.mark.parametrize("kind", PARTITIONS)
def test_without_partitions_by_tier_one_stream_deals_to_everybody_and_behaviours_look_at_no_tier(drawn, kind):
    """Written out as it was before tiers had any: a change here changes everybody's results."""
    from fl_sim.data.partition import deal, proportions

    told = PARTITIONS[kind]
    population = drawn(test="shared", learn="own", behaviour=[FLIP, {"kind": "nan", "share": 0.25}], **told)
    rng = stream(0, "partition", 0)
    parameters = {key: told.get(key) for key in ("concentration", "classes_per_client")}
    shares = proportions(kind, 10, 20, rng, **parameters)
    for split in ("calibration", "train"):
        first, last = population.data.starts[split]
        expected = [(first + mine).tolist() for mine in deal(population.bins[first:last], shares, rng)]
        assert [mine.tolist() for mine in rows(population, split)] == expected
    order = stream(0, "behaviour").permutation(20)
    assert misbehaving(population) == {"sign-flip": sorted(order[:2].tolist()), "nan": sorted(order[2:7].tolist())}
    order, tiers = stream(0, "tiers"), np.repeat([0, 1, 2], [6, 4, 10])
    order.random(3)  # which equal remainders would go by
    assert population.tiers[order.permutation(20)].tolist() == tiers.tolist()


# ------------------------------------------------------------------------------------------------ behaviours of a tier


def misbehaving(population: Population) -> dict[str, list[int]]:
    kinds = [behaviour.kind for behaviour in population.clients.behaviour]
    return {kind: np.flatnonzero(population.behaviours == i).tolist() for i, kind in enumerate(kinds)}


def test_the_published_world_is_seventy_ten_and_twenty(drawn):
    shuffle = {"kind": "label-shuffle", "share": 0.2, "tier": "common"}
    population = drawn(count=100, tier=[COMMON, RARE], behaviour=[shuffle])
    kinds = list(zip(population.tiers.tolist(), population.behaviours.tolist(), strict=True))
    assert [kinds.count(kind) for kind in ((0, -1), (0, 0), (1, -1), (1, 0))] == [70, 20, 10, 0]


def test_who_misbehaves_is_the_same_for_every_kind_and_the_first_of_a_larger_share(drawn):
    first = misbehaving(drawn(**MIXED, behaviour=[FLIP | {"tier": "common"}]))["sign-flip"]
    other = misbehaving(drawn(**MIXED, behaviour=[{"kind": "constant", "share": 0.1, "tier": "common"}]))["constant"]
    more = misbehaving(drawn(**MIXED, behaviour=[FLIP | {"tier": "common", "share": 0.3}]))["sign-flip"]
    assert first == other
    assert len(first) == 4
    assert len(more) == 12
    assert set(first) < set(more)


def test_behaviours_with_a_tier_go_first_and_those_without_take_from_all(drawn):
    anybody, rare = {"kind": "noise", "share": 0.6}, {"kind": "inflate", "share": 0.1, "tier": "rare"}
    population = drawn(**MIXED, behaviour=[anybody, rare])
    who = misbehaving(population)
    assert who["inflate"] == np.flatnonzero(population.tiers == 1).tolist()  # all four, though noise stands first
    assert len(who["noise"]) == 24
    assert not set(who["noise"]) & set(who["inflate"])


def test_behaviours_of_a_tier_that_sizes_decide(drawn):
    told = {"count": 40, "tier": [COMMON | {"share": 0.5}, {k: v for k, v in RARE.items() if k[0] not in "pc"}]}
    population = drawn(**told, **PARTITIONS["quantity-skew"], tier_by="size", behaviour=[FLIP | {"tier": "rare"}])
    assert set(population.tiers[misbehaving(population)["sign-flip"]].tolist()) == {1}
