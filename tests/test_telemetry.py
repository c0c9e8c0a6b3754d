"""Where the time goes: no second counts twice, none is lost, and the phases of a run add up to its total."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_sim import Scenario, simulate, telemetry
from fl_sim.messages.calibration import ThresholdReport, ThresholdRequest
from fl_sim.messages.record import TIMING
from fl_sim.messages.wire import pack
from fl_sim.report.wording import took
from fl_sim.results.run import Result
from fl_sim.runtime.checked_grid import CheckedGrid
from fl_sim.runtime.grids import FIRST_NODE, SimulatedGrid, partition_of
from fl_sim.telemetry import PHASES, Clock, shared_out, spending, spent


class Watch:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def watch(monkeypatch) -> Watch:
    made = Watch()
    monkeypatch.setattr(telemetry, "time", made)
    monkeypatch.setattr("fl_sim.runtime.checked_grid.time", made)
    return made


# --------------------------------------------------------------------------------------------------------- stopwatch


def test_kinds_of_work_are_booked_where_an_account_is_open(watch):
    @spent("train")
    def learn(seconds: float) -> str:
        """Learns."""
        watch.now += seconds
        return "learnt"

    assert learn(5) == "learnt"  # nobody looks
    with spending() as account:
        learn(2)
        watch.now += 10
        with spent("infer"):
            watch.now += 0.5
        learn(1)
    assert account == {"train": 3, "infer": 0.5}
    assert learn.__doc__ == "Learns."


def test_of_nested_work_the_outermost_counts(watch):
    with spending() as account, spent("train"):
        watch.now += 1
        with spent("train"):
            watch.now += 2
        with spent("infer"):
            watch.now += 4
    assert account == {"train": 7}


def test_of_nested_accounts_the_innermost_books(watch):
    """A client that runs in the server's process is on its own account."""
    with spending() as outer:
        with spent("train"):
            watch.now += 1
        with spending() as inner, spent("train"):
            watch.now += 2
        with spent("train"):
            watch.now += 4
    assert (outer, inner) == ({"train": 5}, {"train": 2})


def test_what_raises_is_booked_too_and_leaves_the_account_as_it_was(watch):
    def fails() -> None:
        with spent("train"):
            watch.now += 1
            raise RuntimeError

    with spending() as account:
        with pytest.raises(RuntimeError):
            fails()
        with spent("train"):
            watch.now += 1
    assert account == {"train": 2}


# ---------------------------------------------------------------------------------------------------------- exchanges


@pytest.mark.parametrize(("wall", "busy", "workers", "idle", "expected"), [
    (10, {"train": 6, "infer": 2}, 1, 0, {"train": 6, "infer": 2, "start": 0, "messages": 2}),
    (10, {"train": 6, "infer": 2}, 2, 0, {"train": 3, "infer": 1, "start": 0, "messages": 6}),
    (10, {"train": 6, "infer": 2}, 2, 5, {"train": 3, "infer": 1, "start": 5, "messages": 1}),
    (10, {"train": 30, "infer": 10}, 2, 0, {"train": 7.5, "infer": 2.5, "start": 0, "messages": 0}),  # timers overlap
    (10, {"train": 30, "infer": 10}, 2, 2, {"train": 6, "infer": 2, "start": 2, "messages": 0}),
    (10, {"train": 1, "infer": 0}, 2, 11, {"train": 0, "infer": 0, "start": 10, "messages": 0}),
    (10, {"train": 0, "infer": 0}, 2, 0, {"train": 0, "infer": 0, "start": 0, "messages": 10}),
])  # fmt: skip
def test_an_exchange_is_shared_out(wall, busy, workers, idle, expected):
    assert shared_out(wall, busy, workers, idle) == pytest.approx(expected)


SECONDS = st.floats(0, 1e4)


@settings(derandomize=True, deadline=None)
@given(SECONDS, SECONDS, SECONDS, st.integers(1, 64), SECONDS)
def test_its_phases_are_never_negative_and_add_up(wall, train, infer, workers, idle):
    found = shared_out(wall, {"train": train, "infer": infer}, workers, idle)
    assert min(found.values()) >= 0
    assert math.isclose(sum(found.values()), wall, rel_tol=1e-9, abs_tol=1e-9)
    assert found["train"] <= train / workers * (1 + 1e-9)


class Timed(SimulatedGrid):
    """Five clients that take so long by their own account, three of whom can run at once."""

    def __init__(self, watch: Watch, wall: float, told: dict[str, float], idle: float = 0.0) -> None:
        super().__init__(5)
        self.workers, self.watch, self.wall, self.told, self.idle = 3, watch, wall, told, idle

    def answer(self, messages: Sequence[Message], timeout: float | None) -> Iterable[Message]:
        assert self.idle_start == 0  # begins anew
        self.watch.now += self.wall
        self.idle_start = self.idle
        for message in messages:
            said = pack(ThresholdReport(partition_of(message.metadata.dst_node_id), 0.5, 10))
            yield Message(RecordDict({**said, TIMING: ConfigRecord(self.told)}), reply_to=message)


def ask(checked_grid: CheckedGrid, clients: int) -> None:
    content = pack(ThresholdRequest('{"name": "lac"}', 0.1, "clip"))
    sent = [Message(content, dst_node_id=FIRST_NODE + k, message_type="query.threshold") for k in range(clients)]
    assert len(list(checked_grid.send_and_receive(sent))) == clients


def test_the_ledger_books_every_exchange_once(watch):
    told = {"seconds": 4.0, "train": 1.0, "wait": 0.5}
    checked_grid = CheckedGrid(Timed(watch, 10, told, idle=0.25), [f"client {k}" for k in range(5)], "stop")
    ask(checked_grid, 5)  # of three workers each trained 5/3 s and computed 5 * 2.5/3 s
    once = {"start": 0.25, "train": 5 / 3, "infer": 12.5 / 3, "messages": 10 - 0.25 - 17.5 / 3}
    assert checked_grid.seconds == pytest.approx(once)
    ask(checked_grid, 2)  # of two messages no more than two can run at once
    again = {"start": 0.25, "train": 1, "infer": 2.5, "messages": 6.25}
    assert checked_grid.seconds == pytest.approx({phase: once[phase] + again[phase] for phase in once})
    assert checked_grid.client_seconds[0] == 8  # a client's own account is what it was


def test_clients_that_say_nothing_of_their_time_leave_it_to_the_messages(watch):
    checked_grid = CheckedGrid(Timed(watch, 3, {}), [f"client {k}" for k in range(5)], "stop")
    ask(checked_grid, 5)
    assert checked_grid.seconds == {"start": 0, "train": 0, "infer": 0, "messages": 3}


def test_what_is_pushed_and_pulled_counts_as_messages(watch):
    checked_grid = CheckedGrid(Timed(watch, 3, {"seconds": 2.0}), [f"client {k}" for k in range(5)], "stop")
    content = pack(ThresholdRequest('{"name": "lac"}', 0.1, "clip"))
    ids = checked_grid.push_messages([Message(content, dst_node_id=FIRST_NODE, message_type="query.threshold")])
    assert len(list(checked_grid.pull_messages(ids))) == 1
    assert checked_grid.seconds == {"start": 0, "train": 0, "infer": 0, "messages": 3}


# --------------------------------------------------------------------------------------------------------------- runs


def test_a_lap_belongs_to_its_phase_but_for_what_is_others(watch):
    made = Clock()
    watch.now += 2
    made.lap("start")
    watch.now += 10
    made.lap("aggregate", {"train": 3.0, "messages": 1.0}, {"train": 2.0, "wait": 9.0})
    watch.now += 1
    made.lap("start")
    watch.now += 50  # after the last lap nothing is the run's
    expected = {"start": 3, "train": 5, "messages": 1, "aggregate": 4}
    assert made.table() == dict.fromkeys(PHASES, 0) | expected | {"total": 13}


@pytest.mark.parametrize("words", [
    ("digits", "clients.count=4", "clients.tier.strong.epochs=1", "runtime.name=inline"),
    ("plada-then-fedwqcp", "clients.count=4", "clients.tier.strong.epochs=1", "clients.tier.weak.epochs=1",
     "learn.rule=lowest", "learn.teacher.epochs=1", "data.name=glyphs", "reference.sets=[\"digits\"]",
     "runtime.name=inline"),  # another way round, because the digits are few
], ids=["clients", "server"])  # fmt: skip
def test_the_phases_of_a_run_add_up_to_its_total(words):
    seconds = dict(simulate(Scenario.load(*words)).summary["seconds"])
    total = seconds.pop("total")
    assert tuple(seconds) == PHASES
    assert min(seconds.values()) >= 0
    assert abs(sum(seconds.values()) - total) <= 0.0005 * (len(PHASES) + 1)
    assert seconds["train"] > 0
    assert seconds["infer"] > 0


def test_a_client_tells_how_long_it_trained_and_a_repeated_run_trains_nothing(store):
    scenario = Scenario.load("digits", "clients.count=4", "learn=own", "runtime.name=inline")
    first = simulate(scenario, store=store.root).summary["seconds"]
    again = simulate(scenario, store=store.root).summary["seconds"]
    assert first["train"] > 0
    assert again["train"] == 0


def test_a_runs_time_in_words():
    seconds = dict.fromkeys(PHASES, 0.01) | {"start": 4.12, "train": 5.0, "total": 9.17}
    result = Result(Scenario.load("digits"), [], {"seconds": seconds})
    assert took(result) == "9.2 s: start 4.1, train 5.0"
    on_ray = Result(result.scenario, [], result.summary | {"machine": {"runtime": "ray"}})
    assert took(on_ray) == "9.2 s on Ray: start 4.1, train 5.0"
    assert took(Result(result.scenario, [], {"seconds": dict.fromkeys(PHASES, 0.0) | {"total": 0.04}})) == "0.0 s"
