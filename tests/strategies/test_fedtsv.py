"""FedTSV, its baselines and their frame: against a plain reimplementation, in small worlds, and what is refused."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import combinations
from math import comb
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp
from test_parity import timeless
from torch import nn

from fl_sim import Result, Scenario, simulate
from fl_sim.errors import ScenarioError
from fl_sim.models import training
from fl_sim.population.clients import Population
from fl_sim.report import contribution
from fl_sim.report.figures import of_a_run
from fl_sim.report.figures.catalogue import modules
from fl_sim.report.figures.style import save, styled
from fl_sim.report.table import notes
from fl_sim.runtime.grids import FIRST_NODE, partition_of
from fl_sim.runtime.inline import InlineGrid
from fl_sim.simulation import Silent, federation_of, made_ready
from strategies import learning
from strategies.base import Federation
from strategies.families.averaging import Averaging
from strategies.families.weighing import Answers, Floats, Weighing
from strategies.fedtsv import FedTSV

TIER = {"name": "only", "architecture": "mlp", "epochs": 2, "learning_rate": 0.01, "batch_size": 16}
WORLD: dict[str, Any] = {
    "data": {"name": "digits", "train": 500, "server": 90, "calibration": 200, "test": 150},
    "clients": {"count": 8, "partition": "dirichlet", "concentration": 2.0, "tier": [TIER]},
    "learn": {"name": "fedtsv", "rounds": 4, "participants": 3},
    "calibrate": {"name": "none"},
    "runtime": {"name": "inline", "device": "cpu"},
}
WEIGHING = ("fedtsv", "loo", "cgsv")


def world(**changes: Any) -> Scenario:
    """The world with some keys of its tables changed."""
    told = {table: WORLD[table] | changes.pop(table, {}) for table in WORLD}
    return Scenario.of(told | changes)


def run(store: Any, **changes: Any) -> Result:
    return simulate(world(**changes), store=store.root)


def rounds(result: Result) -> list[dict[str, Any]]:
    return result.summary["learn"]["detail"]["rounds"]


class Watched(InlineGrid):
    """An inline runtime that keeps what was sent to and what came from each client in each round, and answers in any
    order."""

    sent: ClassVar[list[dict[str, torch.Tensor]]]
    came: ClassVar[list[dict[int, dict[str, torch.Tensor]]]]

    def answer(self, messages: Sequence[Message], timeout: float | None) -> Iterable[Message]:
        replies = list(super().answer(messages, timeout))[::-1]
        self.sent.append(messages[0].content["arrays"].to_torch_state_dict())
        if messages[0].metadata.message_type == "train":
            came = {r.metadata.src_node_id: r.content["arrays"].to_torch_state_dict() for r in replies}
            self.came.append({partition_of(node): came[node] for node in sorted(came)})
        return replies


def watched(scenario: Scenario, store: Any, kind: type[Averaging] | None = None, **told: Any) -> Any:
    """(population, strategy, grid) after the learn strategy ran in a ServerApp of one's own."""
    population = made_ready(scenario, store)
    federation = federation_of(population, scenario, store, Silent())
    strategy = learning(scenario.learn, federation) if kind is None else kind(federation, **told)
    grid = Watched("clients.app:app", len(population), 60.0)
    grid.sent, grid.came = [], []
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        strategy.start(grid)

    app(grid, Context(1, 1, {}, RecordDict(), {}))
    return population, strategy, grid


# ------------------------------------------------------------------------------------------- the algorithm, plainly


def flat(weights: dict[str, torch.Tensor]) -> np.ndarray:
    return np.concatenate([tensor.double().numpy().ravel() for tensor in weights.values()])


def on_the_server(population: Population, weights: dict[str, torch.Tensor], who: Sequence[int], number: int) -> Any:
    """Eq. 10: as many steps as the participants' median, on the server's rows, in batches from one shuffled pass after
    another."""
    tier, data = population.tier(0), population.data
    steps = sorted(tier.epochs * -(-len(population.client(k).train) // tier.batch_size) for k in who)
    recipe = population.recipe(tier, f"server, round {number}")
    model = training.initial(recipe, data.shape, 10)
    model.load_state_dict(weights)
    rows = data.rows("server")
    x, y = data.standardised(rows), data.learnable(rows)
    per_epoch = -(-len(rows) // tier.batch_size)
    whole, rest = divmod(steps[(len(steps) - 1) // 2], per_epoch)
    assert rest, "the last pass is broken off, as is to be seen here"
    training.fit(model, x, y, replace(recipe, epochs=whole + 1), most=whole * per_epoch + rest)
    return model.state_dict()


def shapley_by_averages(updates: dict[int, np.ndarray], reference: np.ndarray, i: int) -> float:
    """The definition, with every coalition averaged."""

    def v(members: Sequence[int]) -> float:
        mean = np.mean([updates[k] for k in members], axis=0) if members else 0 * reference
        return 1 / (1 + np.sum((mean - reference) ** 2) / np.sum(reference**2))

    others, m = [k for k in updates if k != i], len(updates)
    parts = [s for size in range(m) for s in combinations(others, size)]
    return sum((v((*s, i)) - v(s)) / (m * comb(m - 1, len(s))) for s in parts)


def test_a_run_is_the_published_algorithm(store):
    scenario = world(clients={"behaviour": [{"kind": "sign-flip", "share": 0.25}]}, learn={"rounds": 5})
    population, strategy, grid = watched(scenario, store)
    total, weights = np.zeros(8), grid.sent[0]
    for number, came in enumerate(grid.came, start=1):
        start, who = flat(weights), list(came)
        updates = {k: flat(came[k]) - start for k in who}
        reference = flat(on_the_server(population, weights, who, number)) - start
        phi = [shapley_by_averages(updates, reference, k) for k in who]
        total[who] += phi  # eq. 12
        alpha = np.maximum(total[who], 0)  # eq. 13
        shares = alpha / alpha.sum() if alpha.sum() else np.full(len(who), 1 / len(who))
        record = strategy.detail()["rounds"][number - 1]
        assert (record["round"], record["participants"]) == (number, who)
        np.testing.assert_allclose(record["phi"], phi, rtol=0, atol=1e-5)
        np.testing.assert_allclose(record["weights"], shares, rtol=0, atol=1e-4)
        weights = grid.sent[number]  # what the next round begins with, and in the end what everybody adopts
        mean = sum(share * flat(came[k]) for share, k in zip(shares, who, strict=True))
        np.testing.assert_allclose(flat(weights), mean, rtol=0, atol=1e-4)
    assert len(grid.sent) == 6
    np.testing.assert_allclose([strategy.client_weights[k] for k in range(8)], np.maximum(total, 0), atol=1e-4)
    keys = {grid.states[FIRST_NODE + k]["model"]["key"] for k in range(8)}
    assert len(keys) == 1


def test_the_median_participant_sets_the_pace():
    """Of four with 2, 6, 4 and 8 steps that is the one with 4: of two in the middle the lower."""
    tier = Scenario.model_validate(WORLD).clients.tier[0]
    recipe = training.Recipe("mlp", 2, 0.01, 16, None, 0, "", "cpu", "float32")
    federation = Federation(
        "p", 0, ("only",) * 4, ("mlp",) * 4, (16, 48, 17 + 15, 60), initial=lambda k: {"w": torch.zeros(2)},
        recipe=lambda k, purpose: replace(recipe, purpose=f"{k}: {purpose}", batch_size=tier.batch_size),
    )  # fmt: skip
    strategy = FedTSV(federation, rounds=1, participants=4)
    zeros = np.zeros((4, 2), np.float32)
    found = strategy._pace(Answers(1, [0, 1, 2, 3], zeros[0], zeros, np.zeros(4, np.int64)), "server")
    assert (found[0].purpose, found[1]) == ("2: server", 4)


def test_training_is_broken_off_after_so_many_steps():
    recipe = training.Recipe("linear", 3, 0.01, 8, None, 0, "test", "cpu", "float32")
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 4)).astype(np.float32), rng.integers(0, 3, 40)

    def fitted(epochs: int, most: int | None) -> torch.Tensor:
        model = training.initial(recipe, (4,), 3)
        return training.fit(model, x, y, replace(recipe, epochs=epochs), most=most).state_dict()["1.weight"]

    assert torch.equal(fitted(3, 5), fitted(1, None))  # 5 batches are an epoch
    assert torch.equal(fitted(3, 100), fitted(3, None))
    assert not torch.equal(fitted(3, 6), fitted(3, 5))


# ------------------------------------------------------------------------------------------------------ in small worlds


@pytest.mark.parametrize("name", WEIGHING)
def test_who_turns_the_sign_of_its_updates_weighs_nothing_or_little(store, name):
    behaviour = [{"kind": "sign-flip", "share": 0.25}]
    told = {"data": {"train": 900}, "clients": {"partition": "iid", "behaviour": behaviour}}
    result = run(store, **told, learn={"name": name, "rounds": 7, "participants": 5})
    weights = {kind: [r["weight"] for r in result.clients if r["behaviour"] == kind] for kind in ("", "sign-flip")}
    assert len(weights["sign-flip"]) == 2
    if name == "fedtsv":
        assert weights["sign-flip"] == [0.0, 0.0]
    assert max(weights["sign-flip"]) < np.mean(weights[""])
    share = sum(weights["sign-flip"]) / sum(result.column("weight"))
    assert result.learn["weight_share_misbehaving"] == pytest.approx(share, abs=1e-12)
    assert share < {"fedtsv": 1e-9, "loo": 0.05, "cgsv": 0.2}[name]
    assert result.learn["weight_by_behaviour"] == {"sign-flip": pytest.approx(np.mean(weights["sign-flip"]))}
    assert result.learn["weight_by_tier"] == {"only": pytest.approx(np.mean(weights[""]))}
    assert result.learn["accuracy"] > 0.85
    # The last record is of the model that everybody has, on the rows that everybody is tested on.
    assert rounds(result)[-1]["accuracy"] == pytest.approx(result.learn["accuracy"])


def test_loo_is_what_is_lost_without_and_cgsv_the_average_cosine(store):
    for name in ("loo", "cgsv"):
        _, strategy, grid = watched(world(learn={"name": name}), store)
        kept = np.zeros(8)
        for number, came in enumerate(grid.came):
            who, start = list(came), flat(grid.sent[number])
            updates = [flat(came[k]) - start for k in who]
            record = strategy.detail()["rounds"][number]
            if name == "cgsv":
                mean = np.mean(updates, axis=0)
                psi = [u @ mean / np.linalg.norm(u) / np.linalg.norm(mean) for u in updates]
                np.testing.assert_allclose(record["phi"], psi, atol=1e-5)
                kept[who] = 0.95 * kept[who] + 0.05 * np.array(psi)
            else:
                kept[who] += record["phi"]
        np.testing.assert_allclose([strategy.client_weights[k] for k in range(8)], np.maximum(kept, 0), atol=1e-5)


def test_all_take_part_with_whom_federated_averaging_would_draw(store):
    drawn = [[r["participants"] for r in rounds(run(store, learn={"name": name, "rounds": 3}))] for name in WEIGHING]
    told = {"name": "fedavg", "rounds": 3, "fraction": 3 / 8, "evaluate_every": 1}
    averaged = simulate(Scenario.model_validate(WORLD | {"learn": told}), store=store.root)
    assert drawn == [[r["participants"] for r in rounds(averaged)]] * 3
    assert all(len(who) == 3 for who in drawn[0])
    assert set(averaged.column("weight")) == {None}


def test_more_than_fifteen_are_sampled_and_their_errors_told(store):
    told = {"data": {"train": 340}, "clients": {"count": 17, "partition": "iid"}}
    found = rounds(run(store, **told, learn={"rounds": 1, "participants": 16, "permutations": 60}))
    assert len(found[0]["phi"]) == len(found[0]["standard_errors"]) == 16
    assert 0 < max(found[0]["standard_errors"]) < 0.02
    assert "standard_errors" not in rounds(run(store, **told, learn={"rounds": 1, "participants": 15}))[0]


def test_in_regression_too(store):
    told = {
        "data": {"name": "friedman", "train": 400, "server": 100},
        "calibrate": {"name": "fedwq-cp", "alpha": 0.1, "score": "residual"},
    }
    for name in WEIGHING:
        found = rounds(run(store, **told, learn={"name": name, "rounds": 4}))
        assert found[-1]["loss"] < 0.9 * found[0]["loss"]
        assert found[-1]["accuracy"] is None


def normed(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """A network with batch normalisation, which counts its batches."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, outputs))


def test_counts_are_no_part_of_an_update(store):
    tier = TIER | {"architecture": f"{__name__}:normed"}
    _, strategy, grid = watched(world(clients={"tier": [tier]}, learn={"rounds": 2}), store)
    counted = [name for name, tensor in grid.sent[0].items() if not tensor.is_floating_point()]
    assert counted == ["2.num_batches_tracked"]
    assert [int(weights[counted[0]]) for weights in grid.sent] == [0, 0, 0]
    assert all(int(weights[counted[0]]) > 0 for weights in grid.came[0].values())
    assert strategy.layout.size == 64 * 8 + 8 + 4 * 8 + 8 * 10 + 10


def test_who_does_not_answer_is_not_weighed(store):
    told = {"clients": {"behaviour": [{"kind": "raise", "share": 0.5}]}, "runtime": {"on_failure": "skip"}}
    result = run(store, **told, learn={"rounds": 6, "participants": 2})
    failed = {row["client"] for row in result.clients if row["behaviour"]}
    assert all(not failed & set(record["participants"]) for record in rounds(result))
    assert all(len(record["weights"]) == len(record["participants"]) for record in rounds(result))
    assert {result.clients[k]["weight"] for k in failed} == {0.0}


# ------------------------------------------------------------------------------------------------------ equal weights


class Nobody(Weighing):
    """Nobody has done anything."""

    def weigh(self, answers: Answers) -> Floats:
        return np.zeros(len(answers.participants))

    def standing(self) -> Floats:
        return np.zeros(len(self.federation.architectures))


def test_where_nobody_weighs_anything_all_weigh_the_same(store):
    _, strategy, grid = watched(world(), store, Nobody, rounds=1, participants=5, evaluate_every=0)
    (came,) = grid.came
    assert strategy.detail()["rounds"] == [{"round": 1, "participants": list(came), "weights": [0.2] * 5}]
    np.testing.assert_allclose(flat(grid.sent[1]), np.mean([flat(w) for w in came.values()], axis=0), atol=1e-6)


@pytest.mark.parametrize("weights", ["size", "uniform"])
def test_federated_averaging_by_size_and_without(store, weights):
    told = {"name": "fedavg", "rounds": 1, "weights": weights}
    population, strategy, grid = watched(Scenario.model_validate(WORLD | {"learn": told}), store)
    (came,) = grid.came
    sizes = [len(population.client(k).train) if weights == "size" else 1 for k in came]
    assert weights == "uniform" or len(set(sizes)) > 1
    by_hand = np.average([flat(w) for w in came.values()], axis=0, weights=sizes)
    np.testing.assert_allclose(flat(grid.sent[1]), by_hand, atol=1e-6)
    assert strategy.detail() == {}


class Wrong(Nobody):
    """Weights that are none."""

    def weigh(self, answers: Answers) -> Floats:
        return np.full(len(answers.participants), -1.0)


def test_weights_that_are_none_are_refused(store):
    with pytest.raises(ValueError, match="must be 3 finite numbers, at least 0"):
        watched(world(), store, Wrong, rounds=1, participants=3, evaluate_every=0)


# ------------------------------------------------------------------------------------------------------------- refused

TWO = [TIER | {"name": "weak", "share": 0.5, "architecture": "linear"}, TIER | {"name": "strong"}]


@pytest.mark.parametrize(("changes", "rule"), [
    ({"clients": {"tier": TWO}}, "the tiers differ: weak (linear), strong (mlp); give all tiers the same"),
    ({"data": {"server": 0}}, "data.server = 0, and learn = 'fedtsv' judges updates by these rows; must be at least 1"),
    ({"data": {"server": 0}, "learn": {"name": "loo"}}, "data.server = 0, and learn = 'loo'"),
    ({"learn": {"participants": 9}}, "learn.participants = 9, and clients.count = 8"),
    ({"learn": {"participants": 0}}, "learn.participants"),
    ({"learn": {"rounds": 0}}, "learn.rounds"),
    ({"learn": {"evaluate_every": -1}}, "learn.evaluate_every"),
    ({"learn": {"permutations": 7}}, "learn.permutations"),
    ({"learn": {"name": "cgsv", "memory": 1.0}}, "learn.memory"),
    ({"learn": {"name": "cgsv", "permutations": 10}}, "learn.permutations"),
    ({"learn": {"fraction": 0.5}}, "learn.fraction"),
    ({"clients": {"tier": [TIER | {"architecture": "tree-4"}]}}, "cannot be averaged"),
], ids=str)  # fmt: skip
def test_what_cannot_be_run_is_refused_when_the_scenario_is_loaded(changes, rule):
    with pytest.raises((ScenarioError, ValueError)) as refused:
        world(**changes)
    assert rule in str(refused.value)


def test_a_median_weighs_nobody():
    told = {"name": "fedavg", "rounds": 1, "aggregation": "FedMedian", "weights": "uniform"}
    with pytest.raises((ScenarioError, ValueError), match="weights = 'uniform': FedMedian weighs nobody"):
        Scenario.of(WORLD | {"learn": told})


def test_an_empty_tier_may_differ_and_cgsv_needs_no_rows_of_the_servers():
    assert world(clients={"tier": [TWO[0] | {"share": 0.0}, TWO[1]]}).learn.name == "fedtsv"
    assert world(clients={"tier": [TWO[0] | {"share": 1.0}, TWO[1]]}).learn.name == "fedtsv"
    assert world(data={"server": 0}, learn={"name": "cgsv"}).learn.memory == 0.95


def test_in_a_server_of_ones_own_what_is_missing_is_said():
    start = {"w": torch.zeros(2)}
    differ = Federation("p", 0, ("a", "b"), ("linear", "mlp"), (1, 1), initial=lambda k: start)
    with pytest.raises(
        ValueError, match="FedTSV compares updates of one architecture, and the clients have linear, mlp"
    ):
        FedTSV(differ, rounds=1, participants=1)
    alike = Federation("p", 0, ("a", "b"), ("mlp", "mlp"), (1, 1), initial=lambda k: start)
    strategy = FedTSV(alike, rounds=1, participants=1)
    zeros = np.zeros((1, 2), np.float32)
    with pytest.raises(ValueError, match=r"say Federation\(recipe=...\)"):
        strategy.reference(Answers(1, [0], zeros[0], zeros, np.ones(1, np.int64)))
    with pytest.raises(ValueError, match=r"say Federation\(server=...\)"):
        _ = strategy.server_rows


# ------------------------------------------------------------------------------------------------------------ runtimes


def test_inline_and_ray_agree(ray_session, tmp_path: Path):
    told = {"clients": {"behaviour": [{"kind": "noise", "share": 0.25}]}, "learn": {"rounds": 2}}
    found = [
        timeless(simulate(world(**told, runtime={"name": name}), store=tmp_path / name)) for name in ("inline", "ray")
    ]
    assert found[0] == found[1]


def test_a_run_repeated_from_the_store_gives_the_same(store):
    first, again = (timeless(run(store, learn={"rounds": 2})) for _ in range(2))
    assert first == again


def figure_files(name: str, result: Result, folder: Path) -> list[Path]:
    """The files of one of a run's figures, as `draw_run` draws it among all that it has."""
    module = dict(modules(of_a_run))[name]
    assert module.applies(result)
    with styled():
        return save(module.draw(result), folder, name)


def test_the_report_shows_the_rounds_and_what_clients_weigh(store, tmp_path):
    result = run(store, clients={"behaviour": [{"kind": "sign-flip", "share": 0.25}]}, learn={"rounds": 4})
    assert [name for name, module in modules(of_a_run) if module.applies(result)][-1] == "rounds"
    files = figure_files("rounds", result, tmp_path / "weighed")
    assert [path.name for path in files if path.stat().st_size] == ["rounds.png", "rounds.svg"]
    (records,) = contribution.curves(result).values()
    assert [record["round"] for record in records] == [1, 2, 3, 4]
    (said,) = [line for line in notes(result) if "weight" in line]
    share = result.learn["weight_share_misbehaving"]
    assert said.startswith(f"Those that misbehave have {100 * share:.1f}% of all weight in the end and are 25.0%")
    fedavg = {"name": "fedavg", "rounds": 2, "evaluate_every": 1}
    plain = simulate(Scenario.of(WORLD | {"learn": fedavg}), store=store.root)
    assert len(figure_files("rounds", plain, tmp_path / "plain")) == 2  # its model is measured, nobody is weighed
    assert contribution.weights(plain) == ""
