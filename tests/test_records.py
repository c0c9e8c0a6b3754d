"""Every message survives the way through Flower, and an impossible one is refused."""

from __future__ import annotations

import dataclasses
import math
from typing import get_args, get_origin, get_type_hints

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fl_sim import records
from fl_sim.conformal.coverage import tally_sets
from fl_sim.records import (
    REPLIES,
    AdoptRequest,
    EvaluateReport,
    EvaluateRequest,
    FitReport,
    FitRequest,
    Record,
    ScoresReport,
    ScoresRequest,
    ThresholdReport,
    ThresholdRequest,
    pack,
    unpack,
    weight,
)

WHOLE = st.integers(0, 2**53)
NUMBER = st.floats(allow_nan=False, allow_infinity=False) | st.just(math.inf)
TESTED = arrays(np.int64, st.integers(0, 12), elements=st.integers(0, 10**9))


@st.composite
def evaluate_reports(draw: st.DrawFn) -> EvaluateReport:
    tested = draw(WHOLE)
    by_class = draw(TESTED)
    some = st.integers(0, tested)
    return EvaluateReport(
        draw(WHOLE), tested, draw(some), draw(NUMBER.map(abs)), draw(some), draw(some), draw(some),
        draw(NUMBER.map(abs)), by_class, by_class // draw(st.integers(1, 3)),
    )  # fmt: skip


SAMPLES = {
    FitRequest: st.builds(FitRequest, st.text(), st.booleans(), st.booleans()),
    AdoptRequest: st.builds(AdoptRequest, st.text()),
    FitReport: st.builds(FitReport, WHOLE, WHOLE),
    ThresholdRequest: st.builds(ThresholdRequest, st.text(), st.floats(0.001, 0.999), st.text(), st.text()),
    ThresholdReport: st.builds(ThresholdReport, WHOLE, NUMBER, WHOLE),
    ScoresRequest: st.builds(ScoresRequest, st.text(), st.text()),
    ScoresReport: st.builds(ScoresReport, WHOLE, arrays(np.float64, st.integers(0, 30), elements=NUMBER)),
    EvaluateRequest: st.builds(EvaluateRequest, st.text(), st.text(), NUMBER),
    EvaluateReport: evaluate_reports(),
}


def through_the_wire(content: RecordDict) -> RecordDict:
    proto = recorddict_to_proto(content)
    return recorddict_from_proto(type(proto).FromString(proto.SerializeToString()))


def same(one: Record, other: Record) -> bool:
    """Equal to the last bit, types included."""
    pairs = [(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(one)]
    return type(one) is type(other) and all(
        type(a) is type(b)
        and (a.dtype == b.dtype and a.shape == b.shape and (a == b).all() if isinstance(a, np.ndarray) else a == b)
        for a, b in pairs
    )


def test_every_record_is_sampled_here():
    found = {r for r in vars(records).values() if isinstance(r, type) and issubclass(r, Record) and r is not Record}
    assert found == set(SAMPLES)


def test_requests_have_types_of_their_own_and_replies():
    requests = [r for r in SAMPLES if r.message_type]
    assert len({r.message_type for r in requests}) == len(requests)
    assert set(REPLIES) == {r.message_type for r in requests}
    assert set(REPLIES.values()) == set(SAMPLES) - set(requests)


@pytest.mark.parametrize("kind", SAMPLES, ids=lambda kind: kind.__name__)
def test_a_record_survives_flower(kind):
    @settings(derandomize=True, deadline=None, max_examples=40)
    @given(SAMPLES[kind])
    def survives(record):
        assert same(unpack(kind, pack(record)), record)
        assert same(unpack(kind, through_the_wire(pack(record))), record)
        assert weight(pack(record)) == len(recorddict_to_proto(pack(record)).SerializeToString())

    survives()


@pytest.mark.parametrize("kind", SAMPLES, ids=lambda kind: kind.__name__)
def test_a_field_is_a_number_a_word_a_switch_or_an_array(kind):
    hints = get_type_hints(kind)
    for hint in (hints[field.name] for field in dataclasses.fields(kind)):
        assert hint in (int, float, str, bool) or (get_origin(hint) is np.ndarray and get_args(hint))


def test_information_is_counted_without_its_wrapping():
    assert ThresholdReport(0, 0.5, 9).information_bytes == 16
    assert ScoresReport(0, np.zeros(7)).information_bytes == 56
    assert ScoresReport(0, np.zeros(0)).information_bytes == 0
    assert weight(pack(ThresholdReport(0, 0.5, 9))) > 16


def test_a_tally_comes_back_from_its_report():
    tally = tally_sets(np.array([[0.1, 0.9], [0.2, 0.3]]), np.array([0, 1]), 0.25, np.array([0, 0]))
    report = EvaluateReport.of(7, tally)
    assert (report.partition, report.num_test, report.num_covered, report.num_correct) == (7, 2, 1, 1)
    assert report.class_covered.tolist() == [1, 0]
    assert EvaluateReport.of(7, unpack(EvaluateReport, pack(report)).tally()).class_tested.tolist() == [1, 1]


GOOD = EvaluateReport(0, 4, 3, 5.0, 0, 0, 2, 0.0, np.array([2, 2]), np.array([1, 2]))


@pytest.mark.parametrize("change", [
    {"num_test": -1}, {"num_covered": 5}, {"num_covered": -1}, {"num_empty": 5}, {"num_infinite": 5},
    {"num_correct": 5}, {"num_correct": 2.0}, {"num_covered": True}, {"total_size": math.nan}, {"total_size": -1.0},
    {"total_squared_error": math.nan}, {"class_covered": np.array([3, 0])}, {"class_covered": np.array([1])},
    {"class_covered": np.array([-1, 0])}, {"class_tested": np.array([2.0, 2.0])},
])  # fmt: skip
def test_impossible_counts_are_refused(change):
    with pytest.raises(ValueError, match=f"{next(iter(change))}|counts above num_test = 4"):
        dataclasses.replace(GOOD, **change)


@pytest.mark.parametrize("make", [
    lambda: ThresholdReport(0, math.nan, 5),
    lambda: ThresholdReport(0, -math.inf, 5),
    lambda: ThresholdReport(0, "0.5", 5),
    lambda: ThresholdReport(0, 0.5, -5),
    lambda: ThresholdReport(0, 0.5, 5.0),
    lambda: FitReport(0, -1),
    lambda: ScoresReport(0, np.array([0.5, math.nan])),
    lambda: ScoresReport(0, np.zeros((2, 2))),
    lambda: EvaluateRequest("", "", math.nan),
])  # fmt: skip
def test_impossible_values_are_refused(make):
    with pytest.raises(ValueError, match="must be"):
        make()


def test_an_impossible_value_is_refused_when_it_is_unpacked():
    content = pack(ThresholdReport(0, 0.5, 5))
    content["numbers"]["threshold"] = math.nan
    with pytest.raises(ValueError, match="threshold = nan: must be a number"):
        unpack(ThresholdReport, content)


@pytest.mark.parametrize(("content", "odd"), [
    (pack(FitReport(0, 5)), "num_calibration, num_examples, threshold"),
    (RecordDict(), "num_calibration, partition, threshold"),
    (RecordDict({"numbers": MetricRecord({"partition": 0, "threshold": 0.5})}), "num_calibration"),
    (pack(EvaluateRequest("p", "s", 0.5)), "num_calibration, partition, population, score"),
])  # fmt: skip
def test_another_record_is_refused_by_name(content, odd):
    with pytest.raises(ValueError, match=f"not a ThresholdReport: missing or unknown: {odd}"):
        unpack(ThresholdReport, content)


def test_a_record_with_more_than_its_fields_is_refused():
    content = pack(ThresholdReport(0, 0.5, 5))
    content["values"] = ArrayRecord([np.zeros(3)])
    content["words"] = ConfigRecord({"note": "hello"})
    with pytest.raises(ValueError, match="missing or unknown: 0, note"):
        unpack(ThresholdReport, content)
