"""Strategies driven by hand-made replies, as Flower tests its own; and federated averaging against one by hand."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, Error, Message, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

import strategies
from clients import context as client_context
from fl_sim import simulate
from fl_sim.conformal import scores as conformal_scores
from fl_sim.conformal.thresholds import conformal_threshold, local_threshold
from fl_sim.errors import ClientFailedError, FlSimError
from fl_sim.messages.calibration import EvaluateReport, EvaluateRequest, ScoresReport, ThresholdReport, ThresholdRequest
from fl_sim.messages.learning import AdoptRequest, FitReport, FitRequest
from fl_sim.messages.record import Record
from fl_sim.messages.wire import pack, unpack
from fl_sim.models import training
from fl_sim.population.clients import Population, populate
from fl_sim.population.model_cache import load_model
from fl_sim.population.prepared_data import prepare
from fl_sim.runtime.checked_grid import CheckedGrid
from fl_sim.runtime.grids import FIRST_NODE, SimulatedGrid, partition_of
from fl_sim.runtime.inline import InlineGrid
from fl_sim.scenario import scores
from fl_sim.scenario.scenario import Scenario
from fl_sim.scenario.strategies import CALIBRATE, LEARN, calibrate_options, strategy
from fl_sim.simulation import Silent as Unwatched
from fl_sim.simulation import federation_of
from fl_sim.store.artifacts import Store
from strategies import calibration, learning
from strategies.base import Calibration, Federation
from strategies.families.training import turns
from strategies.fedavg import FedAvg
from strategies.fedwq_cp import FedWQCP
from strategies.local import Local
from strategies.none import NoCalibration
from strategies.own import Own
from strategies.pooled import Pooled
from strategies.shared import Shared
from strategies.unweighted import Unweighted

Sent = tuple[str, int, RecordDict]  # message type, partition, content


class Clients(SimulatedGrid):
    """Clients with a hand-made answer each, given in any order; they note what they were sent."""

    def __init__(self, answers: Sequence[Record | Error], order: Callable[[Any], Iterable[Message]] = reversed) -> None:
        super().__init__(len(answers))
        self.answers, self.order = answers, order
        self.sent: list[list[Sent]] = []
        self.contents: list[RecordDict] = []

    def answer(self, messages: Sequence[Message], timeout: float | None) -> Iterable[Message]:
        self.sent.append([(m.metadata.message_type, partition_of(m.metadata.dst_node_id), m.content) for m in messages])
        for message in self.order(messages):
            kind, k = message.metadata.message_type, partition_of(message.metadata.dst_node_id)
            said = one_covered_of_two(k) if kind == EvaluateRequest.message_type else self.answers[k]
            yield Message(said if isinstance(said, Error) else pack(said), reply_to=message)

    def tested_with(self) -> dict[int, float]:
        """Partition -> the threshold it was sent to be tested with."""
        requests = [
            (k, unpack(EvaluateRequest, c)) for kind, k, c in self.sent[-1] if kind == EvaluateRequest.message_type
        ]
        return {k: float(request.threshold[0]) for k, request in requests}


def one_covered_of_two(k: int) -> EvaluateReport:
    return EvaluateReport(k, 2, 1, 3.0, 0, 0, 1, 0.0, np.array([1, 1]), np.array([1, 0]))


def thresholds(*pairs: tuple[float, int]) -> list[Record]:
    return [ThresholdReport(k, q, n) for k, (q, n) in enumerate(pairs)]


def calibrated(strategy: Calibration, answers: Sequence[Record | Error], **how: Any) -> tuple[Calibration, Clients]:
    grid = Clients(answers, **how)
    strategy.start(grid, ArrayRecord(), num_rounds=strategy.num_rounds)
    return strategy, grid


def fedwq_cp(alpha: float = 0.1, small_n: str = "clip", kind: type[FedWQCP] = FedWQCP) -> FedWQCP:
    return kind(federation=Federation("p"), alpha=alpha, score="s", small_n=small_n)


# ---------------------------------------------------------------------------------------------------------- calibrate


def test_what_every_client_is_asked():
    _, grid = calibrated(fedwq_cp(0.25, "drop"), thresholds((0.5, 10), (0.75, 30)))
    asked, tested = grid.sent
    assert [(kind, k, unpack(ThresholdRequest, content)) for kind, k, content in asked] == [
        ("query.threshold", k, ThresholdRequest("s", 0.25, "drop")) for k in (0, 1)
    ]
    assert {(kind, k): unpack(EvaluateRequest, content) for kind, k, content in tested} == {
        ("evaluate.sets", k): EvaluateRequest("s", np.array([0.6875])) for k in (0, 1)
    }
    # One content for all, so that a runtime can send it once.
    assert len({id(content) for _, _, content in asked}) == len({id(content) for _, _, content in tested}) == 1


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    st.lists(st.floats(0, 1), max_size=60),
    st.sampled_from([0.05, 0.1, 0.18, 0.5]),
    st.sampled_from(["clip", "inf", "drop"]),
)
def test_fedwq_cp_with_one_client_is_split_conformal(scores, alpha, small_n):
    q, n = local_threshold(scores, alpha, small_n)
    strategy, grid = calibrated(fedwq_cp(alpha, small_n), thresholds((q, n)))
    exact = conformal_threshold(scores, alpha)
    expected = max(scores) if small_n == "clip" and scores and exact == math.inf else exact
    assert strategy.global_threshold == expected
    assert grid.tested_with() == {0: expected}


def test_three_clients_by_hand():
    reports = thresholds((0.5, 10), (0.75, 30), (math.inf, 0))
    strategy, grid = calibrated(fedwq_cp(), reports)
    assert strategy.global_threshold == (10 * 0.5 + 30 * 0.75) / 40 == 0.6875
    assert grid.tested_with() == {0: 0.6875, 1: 0.6875, 2: 0.6875}
    strategy, grid = calibrated(fedwq_cp(kind=Unweighted), reports)
    assert strategy.global_threshold == (0.5 + 0.75) / 2
    assert grid.tested_with() == {0: 0.625, 1: 0.625, 2: 0.625}
    strategy, grid = calibrated(fedwq_cp(kind=Local), reports)
    assert strategy.global_threshold is None
    assert grid.tested_with() == {0: 0.5, 1: 0.75, 2: math.inf}


def test_equal_sizes_give_the_plain_mean():
    reports = thresholds((0.1, 7), (0.2, 7), (0.6, 7))
    weighted, plain = (calibrated(fedwq_cp(kind=kind), reports)[0].global_threshold for kind in (FedWQCP, Unweighted))
    assert weighted == plain == pytest.approx(0.3)


def test_a_client_that_is_too_small():
    """At alpha = 0.1 four scores have no rank of their own: nine are needed."""
    small, large = np.array([0.1, 0.2, 0.3, 0.9]), np.linspace(0.01, 0.19, 19)
    assert local_threshold(large, 0.1, "clip") == (pytest.approx(0.18), 19)
    found = {}
    for small_n in ("clip", "inf", "drop"):
        reports = thresholds(*(local_threshold(scores, 0.1, small_n) for scores in (small, large)))
        found[small_n] = calibrated(fedwq_cp(0.1, small_n), reports)[0].global_threshold
    assert found == {"clip": pytest.approx((4 * 0.9 + 19 * 0.18) / 23), "inf": math.inf, "drop": pytest.approx(0.18)}


def test_nobody_with_points_means_everything_is_covered():
    for kind in (FedWQCP, Unweighted):
        assert calibrated(fedwq_cp(kind=kind), thresholds((math.inf, 0), (math.inf, 0)))[0].global_threshold == math.inf
    assert (
        calibrated(Pooled(Federation("p"), alpha=0.1, score="s"), [ScoresReport(0, np.zeros(0))])[0].global_threshold
        == math.inf
    )


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), max_size=15), min_size=1, max_size=5))
def test_pooled_is_split_conformal_on_all_scores(lists):
    answers = [ScoresReport(k, np.array(scores, np.float64)) for k, scores in enumerate(lists)]
    strategy, grid = calibrated(Pooled(Federation("p"), alpha=0.2, score="s"), answers)
    everything = [score for scores in lists for score in scores]
    assert strategy.global_threshold == conformal_threshold(everything, 0.2)
    assert set(grid.tested_with()) == set(range(len(lists)))


@pytest.mark.parametrize(("strategy", "answers", "up", "down"), [
    (fedwq_cp(), thresholds((0.5, 10), (0.75, 30)), {0: 16, 1: 16}, 8),
    (fedwq_cp(kind=Unweighted), thresholds((0.5, 10), (0.75, 30)), {0: 8, 1: 8}, 8),
    (fedwq_cp(kind=Local), thresholds((0.5, 10), (0.75, 30)), {0: 0, 1: 0}, 0),
    (Pooled(Federation("p"), alpha=0.1, score="s"), [ScoresReport(0, np.zeros(10)), ScoresReport(1, np.zeros(0))],
     {0: 80, 1: 0}, 8),
], ids=["fedwq-cp", "unweighted", "local", "pooled"])  # fmt: skip
def test_the_information_that_was_sent(strategy, answers, up, down):
    calibrated(strategy, answers)
    assert strategy.bytes_up == up
    assert strategy.bytes_down == {0: down, 1: down}


def test_no_calibration_asks_nothing_and_tests_everybody():
    strategy, grid = calibrated(NoCalibration(Federation("p")), thresholds((0, 0), (0, 0)))
    (tested,) = grid.sent
    assert {k: unpack(EvaluateRequest, content) for _, k, content in tested} == {
        k: EvaluateRequest("", np.array([math.inf])) for k in (0, 1)
    }
    assert (strategy.bytes_up, strategy.bytes_down, strategy.global_threshold) == ({}, {}, math.inf)
    assert sorted(strategy.evaluations) == [0, 1]


@pytest.mark.parametrize("kind", [FedWQCP, Unweighted, Local])
def test_the_order_of_arrival_changes_nothing(kind):
    rng = np.random.default_rng(0)
    reports = thresholds(*((float(q), int(n)) for q, n in zip(rng.random(30), rng.integers(0, 50, 30), strict=True)))
    shuffled = random.Random(1).sample
    orders = [list, reversed, lambda messages: shuffled(list(messages), len(messages))]
    found = [calibrated(fedwq_cp(kind=kind), reports, order=order)[0] for order in orders]
    assert len({tuple(sorted(strategy.thresholds.items())) for strategy in found}) == 1
    assert all(list(strategy.thresholds) == list(strategy.evaluations) == list(range(30)) for strategy in found)


def test_counts_are_kept_for_every_client():
    strategy, _ = calibrated(fedwq_cp(), thresholds((0.5, 10), (0.75, 30)))
    assert {k: (r.num_covered, r.num_test) for k, r in strategy.evaluations.items()} == {0: (1, 2), 1: (1, 2)}


def test_in_a_server_of_ones_own_an_error_ends_the_run():
    with pytest.raises(ClientFailedError, match=f"node {FIRST_NODE + 1}: failed: out of memory"):
        calibrated(fedwq_cp(), [*thresholds((0.5, 10)), Error(2, "out of memory")])


def test_another_record_is_refused_by_name():
    with pytest.raises(ClientFailedError, match="it answered nonsense: not a ThresholdReport"):
        calibrated(fedwq_cp(), [FitReport(0, 10)])


# -------------------------------------------------------------------------------------------------------------- learn

ROSTER = Federation(
    "p",
    0,
    ("weak", "strong", "weak", "strong"),
    ("linear", "mlp", "linear", "mlp"),
    (10, 10, 0, 10),
    initial=lambda k: {},
)


def fit_requests(strategy: Any) -> list[dict[int, FitRequest]]:
    grid = Clients([FitReport(k, 10) for k in range(4)])
    strategy.start(grid, ArrayRecord(), num_rounds=strategy.num_rounds)
    return [{k: unpack(FitRequest, content) for _, k, content in sent} for sent in grid.sent]


def test_shared_trains_each_tier_once_and_then_hands_it_out():
    request = FitRequest("p", per_client=False, own_rows=False)
    assert fit_requests(Shared(ROSTER, per_client=False)) == [{0: request, 1: request}, {2: request, 3: request}]


def test_shared_per_client_trains_everybody_at_once():
    request = FitRequest("p", per_client=True, own_rows=False)
    assert fit_requests(Shared(ROSTER, per_client=True)) == [dict.fromkeys(range(4), request)]


def test_own_trains_everybody_on_rows_of_their_own():
    assert fit_requests(Own(ROSTER)) == [dict.fromkeys(range(4), FitRequest("p", per_client=True, own_rows=True))]


# ------------------------------------------------------------------------------------------------------------- fedavg

TIERS = [
    {"name": "weak", "architecture": "linear", "epochs": 2, "share": 0.5, "learning_rate": 0.01},
    {"name": "strong", "architecture": "mlp", "epochs": 1, "learning_rate": 0.01},
]


def scenario(**changes: Any) -> Scenario:
    return Scenario.model_validate({
        "data": {"name": "digits", "train": 240, "calibration": 200, "test": 100},
        "clients": {"count": 6, "partition": "dirichlet", "concentration": 1.0, "tier": TIERS},
        "learn": {"name": "fedavg", "rounds": 1},
        "calibrate": {"name": "fedwq-cp", "alpha": 0.1, "score": "lac"},
        "runtime": {"name": "inline", "device": "cpu"},
    } | changes)  # fmt: skip


class Watched(InlineGrid):
    """An inline runtime that notes who was sent what."""

    sent: ClassVar[list[tuple[str, list[int]]]]

    def answer(self, messages: Sequence[Message], timeout: float | None) -> Iterable[Message]:
        kinds = {m.metadata.message_type for m in messages}
        self.sent.append((kinds.pop(), sorted(partition_of(m.metadata.dst_node_id) for m in messages)))
        return super().answer(messages, timeout)


def federated(store, **how: Any) -> tuple[Population, FedAvg, Watched]:
    world = scenario()
    population = populate(world, prepare(world.data, 0, store), store)
    grid = Watched("clients.app:app", 6, 60.0)
    grid.sent = []
    told: dict[str, Any] = {"rounds": 1, "fraction": 1.0, "aggregation": "FedAvg"} | how
    strategy = FedAvg(federation_of(population, world, store, Unwatched()), **told)
    strategy.start(CheckedGrid(grid, [f"{k}" for k in range(6)], "stop"), ArrayRecord(), num_rounds=strategy.num_rounds)
    return population, strategy, grid


def test_one_round_of_fedavg_is_the_average_by_hand(store):
    population, strategy, grid = federated(store)
    assert [kind for kind, _ in grid.sent] == ["train", "train.adopt"]
    assert sorted(len(f.members) for f in strategy.groups) == [3, 3]
    for federation in strategy.groups:
        sizes = np.array([len(population.client(k).train) for k in federation.members], float)
        trained = [alone(population, k, federation.members[0]) for k in federation.members]
        average = federation.weights.to_torch_state_dict()
        for name, tensor in average.items():
            by_hand = sum(n * weights[name].double() for n, weights in zip(sizes, trained, strict=True)) / sizes.sum()
            torch.testing.assert_close(tensor.double(), by_hand, rtol=1e-6, atol=1e-7)
        for k in federation.members:  # and it is what every member has now
            key = grid.states[FIRST_NODE + k]["model"]["key"]
            kept = dict(load_model(store, key, population.data)[0].state_dict())
            assert all(torch.equal(kept[name], tensor) for name, tensor in average.items())


def alone(population: Population, k: int, first: int) -> dict[str, torch.Tensor]:
    """Client k's weights after one round from the weights that its federation begins with."""
    client, data = population.client(k), population.data
    begin = training.initial(population.recipe(population.tier(first), "federation"), data.shape, 10)
    recipe = population.recipe(client.tier, f"client {k}, round 1")
    model = training.fit(begin, data.standardised(client.train), data.learnable(client.train), recipe)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_the_same_clients_are_drawn_whatever_pythons_global_random_state(store):
    told = {"rounds": 3, "fraction": 0.67}
    random.seed(1)
    _, first, one = federated(store, **told)
    random.seed(2)
    _, second, two = federated(store, **told)
    assert one.sent == two.sent
    trained = [who for kind, who in one.sent if kind == "train"]
    members = [federation.members for federation in first.groups]
    assert all(len(set(who) & set(group)) == 2 for who in trained for group in members)  # two of three in each
    assert len({tuple(who) for who in trained}) > 1
    assert one.sent[-1] == ("train.adopt", list(range(6)))
    for mine, other in zip(first.groups, second.groups, strict=True):
        pairs = zip(mine.weights.values(), other.weights.values(), strict=True)
        assert all(a.numpy().tobytes() == b.numpy().tobytes() for a, b in pairs)


def test_fedavg_counts_the_weights_it_sends(store):
    _, strategy, grid = federated(store, rounds=2, fraction=0.34)
    trained = [k for kind, who in grid.sent if kind == "train" for k in who]
    parameters = {"linear": 64 * 10 + 10, "mlp": 64 * 64 + 64 + 64 * 64 + 64 + 64 * 10 + 10}
    for federation, size in zip(strategy.groups, parameters.values(), strict=True):
        for k in federation.members:
            assert strategy.bytes_up.get(k, 0) == trained.count(k) * 4 * size
            assert strategy.bytes_down[k] == (trained.count(k) + 1) * 4 * size  # each round it is drawn, and at the end


def test_a_client_without_rows_is_never_drawn():
    federation = Federation(
        "p", 0, ("only",) * 4, ("linear",) * 4, (10, 0, 10, 0), initial=lambda k: {"w": torch.zeros(2)}
    )
    strategy = FedAvg(federation, rounds=5, fraction=1.0, aggregation="FedAvg")
    for server_round in range(1, 6):
        assert strategy._drawn(strategy.groups[0], server_round) == [0, 2]
    empty = FedAvg(Federation("p", 0, ("only",), ("linear",), (0,), initial=lambda k: {"w": torch.zeros(2)}), rounds=1)
    assert empty._drawn(empty.groups[0], 1) == []


@pytest.mark.parametrize("aggregation", ["FedAvgM", "FedMedian", "FedTrimmedAvg", "FedAdam", "FedYogi", "FedAdagrad"])
def test_flowers_other_strategies_can_stand_there(store, aggregation):
    _, strategy, _ = federated(store, rounds=2, aggregation=aggregation)
    for federation in strategy.groups:
        assert all(np.isfinite(array.numpy()).all() for array in federation.weights.values())


def test_adopting_takes_the_weights_beside_the_record():
    content = RecordDict({**pack(AdoptRequest("p")), "arrays": ArrayRecord([np.zeros(2)])})
    assert set(content) == {"words", "arrays"}


# -------------------------------------------------------------------------------------------------------------- names


def test_the_lists_of_names_agree():
    files = {path.stem.replace("_", "-") for path in Path(strategies.__path__[0]).glob("*.py")} - {"--init--", "base"}
    assert files == {*LEARN, *CALIBRATE}
    assert len(files) == len(LEARN) + len(CALIBRATE) == 29
    assert list(scores.SCORE) == list(conformal_scores.SCORES)


def test_every_strategy_takes_what_its_table_says():
    teacher = {"architecture": "linear", "epochs": 1}
    needed: dict[str, dict[str, Any]] = {
        "fedavg": {"rounds": 2}, "plada": {"teacher": teacher, "keep_fraction": 0.1},
        "coreset": {"images_per_class": 1}, "weights": {"teacher": teacher},
        "fedtsv": {"rounds": 2, "participants": 1}, "loo": {"rounds": 2, "participants": 1},
        "cgsv": {"rounds": 2, "participants": 1}, "fedtsv-fair": {"rounds": 2, "participants": 1},
    }  # fmt: skip
    federation = Federation(
        "p", 0, ("only",), ("linear",), (1,), num_labels=10, initial=lambda k: {"w": torch.zeros(2)}
    )
    for name, table in LEARN.items():
        made = learning(table(name=name, **needed.get(name, {})), federation)
        assert type(made) is strategy(name)
    for name in CALIBRATE:
        told = {} if name == "none" else {"alpha": 0.1, "score": "aps"}
        made = calibration(calibrate_options({"name": name, **told}), federation)
        assert type(made) is strategy(name)
        if name != "none":
            assert conformal_scores.from_json(made.score) == conformal_scores.Aps(randomized=True)


@pytest.mark.parametrize("name", scores.SCORE)
def test_every_score_takes_what_its_table_says(name):
    told = scores.score_options(name).model_dump_json()
    assert type(conformal_scores.from_json(told)) is conformal_scores.SCORES[name]


# ------------------------------------------------------------------------------------------------------ a user's own


class Cautious(Calibration):
    """The largest of the clients' thresholds, times a factor."""

    def __init__(self, federation: Federation, alpha: float, score: str, factor: float) -> None:
        super().__init__(federation, alpha=alpha, score=score)
        self.factor = factor

    def question(self) -> Record:
        return ThresholdRequest(self.score, self.alpha, "clip")

    def threshold(self, reports: Sequence[ThresholdReport]) -> float:
        return self.factor * max(report.threshold for report in reports if report.num_calibration)


class SharedByAnotherName(Shared):
    """A learn strategy of one's own, which takes no options."""

    def __init__(self, federation: Federation) -> None:
        super().__init__(federation, per_client=False)


def test_a_users_own_strategies_run_by_name(store):
    local = simulate(
        scenario(learn="shared", calibrate={"name": "local", "alpha": 0.1, "score": "lac"}), store=store.root
    )
    largest = max(row["threshold"] for row in local.clients if row["num_calibration"])
    result = simulate(
        scenario(learn=f"{__name__}:SharedByAnotherName",
                 calibrate={"name": f"{__name__}:Cautious", "alpha": 0.1, "score": "lac", "factor": 0.5}),
        store=store.root,
    )  # fmt: skip
    assert result.calibrate["threshold"] == 0.5 * largest
    assert {row["threshold"] for row in result.clients} == {0.5 * largest}
    assert result.summary["calibrate"]["name"] == f"{__name__}:Cautious"


class Silent(Calibration):
    """Says neither what is asked nor what comes of the answers."""


class HalfSaid(Silent):
    """Says what is asked alone."""

    def question(self) -> Record:
        return ThresholdRequest(self.score, self.alpha, "clip")


@pytest.mark.parametrize(("own", "half"), [(Silent, "question, ask"), (HalfSaid, "threshold, for_each, take")])
def test_a_calibration_that_leaves_out_a_half_is_refused_before_any_work(store, own, half):
    scenario = Scenario.load("digits", "runtime.name=inline", f"calibrate={own.__module__}:{own.__name__}")
    with pytest.raises(FlSimError, match=f"says none of {half}: a calibration is a question and a rule"):
        simulate(scenario, store=store.root)
    assert store.listing() == []


def test_the_first_client_of_each_tier_goes_first_and_a_million_are_asked_at_once():
    assert turns(["weak", "strong", "weak", "strong"], per_client=False) == [True, True, False, False]
    assert turns(["weak", "weak"], per_client=True) == [True, True]
    many = turns(["weak"] * 500_000 + ["strong"] * 500_000, per_client=False)
    assert (many.index(True), many[500_000], sum(many)) == (0, True, 2)


# --------------------------------------------------------------------------------------------------- a round's updates


def kept_updates(store) -> int:
    return sum(entry.kind == "update" for entry in store.listing())


def test_a_rounds_update_is_kept_if_it_took_long_enough_and_the_result_is_the_same(store, tmp_path, monkeypatch):
    found = []
    for seconds, place in ((math.inf, tmp_path / "short"), (0.0, store.root)):
        monkeypatch.setattr(client_context, "WORTH_KEEPING", seconds)
        found.append(simulate(scenario(learn={"name": "fedavg", "rounds": 2}), store=place))
    able = sum(row["status"] == "ok" for row in found[0].clients)
    assert kept_updates(Store(tmp_path / "short")) == 0
    assert kept_updates(store) == 2 * able == 12
    learnt = [result.summary["learn"] for result in found]
    assert learnt[0] == learnt[1]
    first, second = ([row["num_correct"] for row in result.clients] for result in found)
    assert first == second


def test_a_kept_update_is_used_and_not_made_again(store, monkeypatch):
    monkeypatch.setattr(client_context, "WORTH_KEEPING", 0.0)
    world = scenario(learn={"name": "fedavg", "rounds": 2})
    before = simulate(world, store=store.root).summary["learn"]
    monkeypatch.setattr(client_context, "WORTH_KEEPING", math.inf)
    monkeypatch.setattr(training, "fit", lambda *_: pytest.fail("trained again"))
    assert simulate(world, store=store.root).summary["learn"] == before


def test_a_federation_by_plain_sgd_is_what_each_client_makes_of_it(store):
    tiers = [TIERS[1] | {"optimizer": "sgd", "architecture": "mlp-64", "learning_rate": 0.1, "epochs": 5}]
    world = scenario(clients={"count": 6, "tier": tiers}, learn={"name": "fedavg", "rounds": 5})
    assert simulate(world, store=store.root).learn["accuracy"] > 0.7
