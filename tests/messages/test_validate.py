"""No answer that any process can send is believed unchecked, ends a run unnamed or is counted as another client's: on
the laboratory's Grid and in a ServerApp of one's own alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_sim.errors import ClientFailedError
from fl_sim.messages.calibration import (
    EvaluateReport,
    EvaluateRequest,
    ScoresReport,
    SizeReport,
    ThresholdReport,
    ThresholdRequest,
)
from fl_sim.messages.learning import FitReport
from fl_sim.messages.record import TIMING
from fl_sim.messages.validate import read
from fl_sim.messages.wire import pack
from fl_sim.runtime.checked_grid import CheckedGrid
from fl_sim.runtime.grids import SimulatedGrid
from strategies import calibration
from strategies.base import Calibration, Federation
from strategies.fedwq_cp import FedWQCP

LAC = '{"name": "lac"}'
Answer = RecordDict | Error | None


class Site(SimulatedGrid):
    """Three clients; the last answers what it is given, the others what is right."""

    def __init__(self, answers: Sequence[Callable[[Message, int], Answer]]) -> None:
        super().__init__(len(answers))
        self.answers = answers

    def answer(self, messages: Sequence[Message], timeout: float | None) -> Iterable[Message]:
        order = list(self.get_node_ids())
        for message in messages:
            k = order.index(message.metadata.dst_node_id)
            said = self.answers[k](message, k)
            if said is not None:
                yield Message(said, reply_to=message)


def right(message: Message, k: int) -> RecordDict:
    """What a client says that means well: scores of .1 to .9."""
    kind = message.metadata.message_type
    scores = np.linspace(0.1, 0.9, 9)
    if kind == EvaluateRequest.message_type:
        return pack(EvaluateReport(k, 2, 1, 3.0, 0, 0, 1, 0.0, np.array([1, 1]), np.array([1, 0])))
    if kind == ThresholdRequest.message_type:
        return pack(ThresholdReport(k, 0.5 + 0.1 * k, 9))
    if kind == "query.scores":
        return pack(ScoresReport(k, scores, np.zeros(0, np.int64)))
    if kind == "query.size":
        return pack(SizeReport(k, 9, 0.1, 0.9))
    raise AssertionError(kind)


def fedwq_cp(on_failure: str = "stop") -> FedWQCP:
    strategy = FedWQCP(Federation("p"), alpha=0.1, score=LAC, small_n="clip")
    strategy.on_failure = on_failure  # type: ignore[assignment]
    return strategy


def threshold_report(**numbers: Any) -> RecordDict:
    told = {"partition": 2, "threshold": 0.9, "num_calibration": 9, "density": 0.0} | numbers
    return RecordDict({"numbers": MetricRecord({k: v for k, v in told.items() if v is not None})})


NO_ARRAY = Array("float64", (2,), "numpy.ndarray", b"x")
NONSENSE: dict[str, Answer] = {
    "a giant threshold": threshold_report(threshold=1e308),
    "an infinite one": threshold_report(threshold=math.inf),
    "a negative one": threshold_report(threshold=-0.1),
    "no number": threshold_report(threshold=math.nan),
    "a count below 0": threshold_report(num_calibration=-1),
    "a fraction of a count": threshold_report(num_calibration=9.5),
    "a fraction of a partition": threshold_report(partition=2.5),
    "a partition below 0": threshold_report(partition=-1),
    "an unthinkable partition": threshold_report(partition=1 << 62),
    "a missing field": threshold_report(density=None),
    "an unknown field": threshold_report(more=1),
    "another record": pack(FitReport(2, 10)),
    "numbers as text": RecordDict({"numbers": ConfigRecord({"partition": 2, "threshold": 0.9, "num_calibration": 9})}),
    "numbers as arrays": RecordDict({"numbers": ArrayRecord({"partition": Array(np.zeros(2))})}),
    "bytes that are no array": RecordDict(
        {"values": ArrayRecord({"a": Array("float64", (2,), "numpy.ndarray", b"x")})}
    ),
    "nothing": RecordDict(),
    "an error without a word": Error(2, ""),
    "an error of blanks": Error(2, " \n "),
}


@pytest.mark.parametrize("nonsense", NONSENSE, ids=str)
def test_in_a_server_of_ones_own_nonsense_ends_the_run_by_name_or_is_left_out_by_name(nonsense):
    grid = Site([right, right, lambda m, k: NONSENSE[nonsense]])
    with pytest.raises(ClientFailedError, match=r"^node \d+: (it answered nonsense|failed): .*on_failure = 'skip'"):
        fedwq_cp().start(grid)
    strategy = fedwq_cp("skip")
    strategy.start(grid)
    assert strategy.global_threshold == pytest.approx(0.55)  # the mean of .5 and .6
    assert sorted(strategy.evaluations) == [0, 1]
    (why,) = strategy.left_out.values()
    assert why


@pytest.mark.parametrize("nonsense", NONSENSE, ids=str)
def test_on_the_laboratorys_grid_it_is_the_same(nonsense):
    def run(on_failure: str) -> tuple[FedWQCP, CheckedGrid]:
        grid = Site([right, right, lambda m, k: NONSENSE[nonsense]])
        checked_grid, strategy = CheckedGrid(grid, ["client 0", "client 1", "client 2"], on_failure), fedwq_cp()
        strategy.start(checked_grid)
        return strategy, checked_grid

    with pytest.raises(ClientFailedError, match=r"client 2 failed at query\.threshold: "):
        run("stop")
    strategy, checked_grid = run("skip")
    assert strategy.global_threshold == pytest.approx(0.55)
    assert set(checked_grid.missing) == {2}


def test_two_who_say_that_they_are_one_are_both_left_out():
    def liar(message: Message, k: int) -> RecordDict:
        return right(message, 0)

    grid = Site([right, right, liar])
    with pytest.raises(ClientFailedError, match="it answered as client 0, as another node did"):
        fedwq_cp().start(grid)
    strategy = fedwq_cp("skip")
    strategy.start(grid)
    assert strategy.global_threshold == pytest.approx(0.6)
    assert (len(strategy.left_out), list(strategy.evaluations)) == (2, [1])


def test_who_changes_its_name_between_rounds_is_not_believed():
    def changed(message: Message, k: int) -> RecordDict:
        return right(message, 0 if message.metadata.message_type == EvaluateRequest.message_type else k)

    strategy = fedwq_cp("skip")
    strategy.start(Site([right, right, changed]))
    assert sorted(strategy.evaluations) == [0, 1]
    assert "and was client 2 before" in next(iter(strategy.left_out.values()))


def test_nodes_may_answer_as_other_partitions_than_the_order_of_their_registration():
    """As where SuperNodes connect in any order."""
    grid = Site([lambda m, k: right(m, 2), lambda m, k: right(m, 0), lambda m, k: right(m, 1)])
    strategy = fedwq_cp()
    strategy.start(grid)
    assert strategy.thresholds == dict.fromkeys((0, 1, 2), pytest.approx(0.6))
    assert sorted(strategy.evaluations) == [0, 1, 2]


@pytest.mark.parametrize("timing", [
    ConfigRecord({"seconds": "soon"}), ConfigRecord({"seconds": math.nan}), ConfigRecord({"seconds": -1.0}),
    ConfigRecord({"seconds": [1.0]}), ConfigRecord({"notes": "a note"}), MetricRecord({"seconds": 1.0}),
    ConfigRecord({"train": math.inf}),
])  # fmt: skip
def test_a_time_that_is_no_number_is_named(timing):
    def odd(message: Message, k: int) -> RecordDict:
        return RecordDict({**right(message, k), TIMING: timing})

    checked_grid = CheckedGrid(Site([right, right, odd]), ["client 0", "client 1", "client 2"], "skip")
    fedwq_cp().start(checked_grid)
    assert "it answered nonsense: timing" in checked_grid.missing[2] or "'timing' is a" in checked_grid.missing[2]


# ----------------------------------------------------------------------------------------------------- anything at all

values = st.one_of(
    st.integers(-(2**62), 2**62), st.floats(), st.lists(st.floats(), max_size=3), st.sampled_from([0, 1, 2, 9, 0.5])
)
names = st.sampled_from(["partition", "threshold", "num_calibration", "density", "scores", "labels", "low"])
metrics = st.dictionaries(names, values, max_size=5).map(MetricRecord)
configs = st.dictionaries(names, st.one_of(st.text(max_size=3), st.booleans(), values), max_size=5).map(ConfigRecord)
data = st.one_of(st.binary(max_size=40), st.just(Array(np.arange(3.0)).data))
arrays = st.builds(
    Array, st.sampled_from(["float64", "int64", "uint8", "object", "nothing"]),
    st.lists(st.integers(-1, 5), max_size=2).map(tuple), st.just("numpy.ndarray"), data,
)  # fmt: skip
array_records = st.dictionaries(names, arrays, max_size=3).map(ArrayRecord)
contents = st.dictionaries(
    st.sampled_from(["numbers", "words", "values", "measured", TIMING, "other"]),
    st.one_of(metrics, configs, array_records), max_size=4,
).map(RecordDict)  # fmt: skip


def methods() -> list[Calibration]:
    from fl_sim.scenario.strategies import calibrate_options

    federation = Federation("p", tiers=("a",) * 3, num_labels=2)
    names = ("fedwq-cp", "unweighted", "local", "pooled", "fcp", "rob-fcp")
    return [calibration(calibrate_options({"name": name, "alpha": 0.1, "score": "lac"}), federation) for name in names]


@settings(derandomize=True, deadline=None, max_examples=150)
@given(st.one_of(contents, st.builds(Error, st.integers(0, 9), st.text(max_size=5))), st.booleans(), st.booleans())
def test_whatever_a_client_says_the_run_names_it_or_goes_on_without_it(said, stop, mine):
    for strategy in methods():
        grid: SimulatedGrid = Site([right, right, lambda m, k: said])
        if mine:
            grid = CheckedGrid(grid, ["client 0", "client 1", "client 2"], "stop" if stop else "skip")
        else:
            strategy.on_failure = "stop" if stop else "skip"
        told = ""
        try:
            strategy.start(grid)
        except ClientFailedError as error:
            told = str(error)
        # Nobody else is lost, or the run ends with a name.
        assert {0, 1} <= set(strategy.evaluations) or (stop and ("client 2" in told or "node " in told))


def test_an_answer_is_read_in_one_place():
    question = Message(pack(ThresholdRequest(LAC, 0.1, "clip")), dst_node_id=1, message_type="query.threshold")
    told = ThresholdReport(1, 0.5, 9)
    assert read(question, Message(pack(told), reply_to=question)) == (1, told)
    with pytest.raises(ValueError, match=r"threshold = 1e\+308: must lie in \[0, 1\], as this score does"):
        read(question, Message(pack(ThresholdReport(1, 1e308, 9)), reply_to=question))
