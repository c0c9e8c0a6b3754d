"""Every message survives the way through Flower, and an impossible one is refused."""

from __future__ import annotations

import dataclasses
import io
import math
import pickle
from typing import get_args, get_origin, get_type_hints

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from fl_sim.conformal.coverage import tally_sets
from fl_sim.conformal.histogram import ScoreGrid, encode
from fl_sim.conformal.reliability import NOTHING, tabulate
from fl_sim.conformal.sketches import sketch_of
from fl_sim.messages import agreement, calibration, learning, summaries
from fl_sim.messages.agreement import CommonRowsReport
from fl_sim.messages.calibration import (
    EvaluateReport,
    EvaluateRequest,
    ScoresReport,
    ScoresRequest,
    SizeReport,
    SizeRequest,
    ThresholdReport,
    ThresholdRequest,
)
from fl_sim.messages.exchange import Columns, Questions
from fl_sim.messages.learning import FitReport
from fl_sim.messages.record import MEASURED, Record
from fl_sim.messages.summaries import (
    CountsReport,
    CountsRequest,
    DescendRequest,
    HistogramReport,
    HistogramRequest,
    LabelCountsReport,
    LabelCountsRequest,
    SketchReport,
    SketchRequest,
    StepReport,
    TemperatureReport,
)
from fl_sim.messages.validate import checked, request_of
from fl_sim.messages.wire import array_of, pack, unpack, values_of, weight, weight_of
from fl_sim.runtime.grids import with_ids
from fl_sim.runtime.inline import InlineGrid

WHOLE = st.integers(0, 2**40)
NUMBER = st.floats(allow_nan=False, allow_infinity=False) | st.just(math.inf)
TESTED = arrays(np.int64, st.integers(0, 12), elements=st.integers(0, 10**9))


@st.composite
def evaluate_reports(draw: st.DrawFn) -> EvaluateReport:
    tested = draw(WHOLE)
    by_class = draw(TESTED)
    if draw(st.booleans()):  # with probabilities
        tested = draw(st.integers(0, 9))
        log_p = np.log(draw(arrays(np.float64, (tested, 2), elements=st.floats(0.1, 1.0))))
        reliability = tabulate(log_p, np.zeros(tested, np.int64), draw(st.sampled_from([None, log_p / 2])))
    else:
        reliability = NOTHING
    some = st.integers(0, tested)
    return EvaluateReport(
        draw(WHOLE), tested, draw(some), draw(NUMBER.map(abs)), draw(some), draw(some), draw(some),
        draw(NUMBER.map(abs)), by_class, by_class // draw(st.integers(1, 3)), reliability,
    )  # fmt: skip


BYTES = arrays(np.uint8, st.integers(0, 30))
OF_TYPE = {
    int: WHOLE,
    float: NUMBER,
    str: st.text(),
    bool: st.booleans(),
    np.uint8: BYTES,
    np.float32: arrays(np.float32, (3, 2), elements=st.floats(0, 1, width=32)),
}


def anything(kind: type[Record]) -> st.SearchStrategy[Record]:
    """Any values of the types that a record's fields have."""

    def of(hint: type) -> st.SearchStrategy[object]:
        number = get_args(get_args(hint)[1])[0] if get_origin(hint) is np.ndarray else None
        if number in (np.float64, np.int64):
            elements = NUMBER if number is np.float64 else st.integers(0, 10**9)
            return arrays(number, st.integers(0 if "Report" in kind.__name__ else 1, 12), elements=elements)
        return OF_TYPE[number or hint]

    hints = get_type_hints(kind)
    return st.builds(kind, **{field.name: of(hints[field.name]) for field in dataclasses.fields(kind)})


@st.composite
def counts_reports(draw: st.DrawFn) -> CountsReport:
    n = draw(WHOLE)
    return CountsReport(draw(WHOLE), n, draw(arrays(np.int64, st.integers(0, 9), elements=st.integers(0, n))))


def scores_reports() -> st.SearchStrategy[ScoresReport]:
    scores, labels = (st.lists(of, max_size=30) for of in (st.tuples(NUMBER, st.integers(0, 99)), NUMBER))
    with_labels = scores.map(lambda told: (np.array([s for s, _ in told], float), np.array([y for _, y in told], int)))
    without = labels.map(lambda told: (np.array(told, float), np.zeros(0, np.int64)))
    return st.tuples(WHOLE, with_labels | without).map(lambda told: ScoresReport(told[0], *told[1]))


def common_rows_reports() -> st.SearchStrategy[CommonRowsReport]:
    def of(rows: int, classes: int, calibrated: bool) -> CommonRowsReport:
        says = np.linspace(0, 1, rows * classes, dtype=np.float32).reshape(rows, classes)
        sets = np.packbits(says > 0.5) if calibrated else np.zeros(0, np.uint8)
        return CommonRowsReport(0, says, sets, np.full((rows * calibrated, 2), math.inf))

    return st.builds(of, st.integers(1, 9), st.integers(1, 9), st.booleans())


KINDS = (learning, calibration, summaries, agreement)
RECORDS = [
    record
    for module in KINDS
    for record in vars(module).values()
    if isinstance(record, type)
    and issubclass(record, Record)
    and record not in (Record, calibration.ScoreQuestion, learning.PayloadMessage)
]
SAMPLES = {kind: anything(kind) for kind in RECORDS} | {
    ThresholdReport: st.builds(ThresholdReport, WHOLE, NUMBER, WHOLE, NUMBER.map(abs)),
    ScoresReport: scores_reports(),
    SizeReport: st.tuples(WHOLE, WHOLE, NUMBER, NUMBER).map(lambda t: SizeReport(*t[:2], *sorted(t[2:]))),
    CountsReport: counts_reports(),
    StepReport: st.builds(StepReport, WHOLE, st.floats(allow_nan=False, allow_infinity=False)),
    TemperatureReport: st.builds(TemperatureReport, WHOLE, st.floats(-math.log(20), math.log(20)), WHOLE),
    EvaluateReport: evaluate_reports(),
    CommonRowsReport: common_rows_reports(),
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


def test_requests_have_types_of_their_own_and_replies():
    requests = [r for r in SAMPLES if r.message_type]
    assert len({r.message_type for r in requests}) == len(requests)
    assert all(request_of(r.message_type) is r for r in requests)
    assert {r.reply for r in requests} == set(SAMPLES) - set(requests)


@pytest.mark.parametrize("kind", SAMPLES, ids=lambda kind: kind.__name__)
def test_a_record_survives_flower(kind):
    @settings(derandomize=True, deadline=None, max_examples=40)
    @given(SAMPLES[kind])
    def survives(record):
        assert same(unpack(kind, pack(record)), record)
        assert same(unpack(kind, through_the_wire(pack(record))), record)
        weighed = pack(record)
        weighed.pop(MEASURED, None)
        assert weight(pack(record)) == len(recorddict_to_proto(weighed).SerializeToString())

    survives()


@pytest.mark.parametrize("kind", SAMPLES, ids=lambda kind: kind.__name__)
def test_columns_are_their_records_and_weigh_as_much(kind):
    @settings(derandomize=True, deadline=None, max_examples=20)
    @given(st.lists(SAMPLES[kind], max_size=6), st.data())
    def are(records, data):
        columns = Columns.of(kind, records)
        assert [weight_of(kind, form) for form in columns.forms()] == [weight(pack(record)) for record in records]
        order = np.array(data.draw(st.permutations(range(len(records)))), np.int64)
        apart = pickle.loads(pickle.dumps(Columns.of(kind, records).taken(order)))
        apart = Columns.joined(kind, [Columns(kind, dict(apart.columns)), columns[:0]])  # the records made anew
        assert all(same(apart[place], records[i]) for place, i in enumerate(order.tolist()))
        assert [list(part) for part in (columns[:1], columns[1:])] == [list(columns)[:1], list(columns)[1:]]

    are()


@pytest.mark.parametrize("kind", SAMPLES, ids=lambda kind: kind.__name__)
def test_a_field_is_a_number_a_word_a_switch_or_an_array(kind):
    hints = get_type_hints(kind)
    for hint in (hints[field.name] for field in dataclasses.fields(kind)):
        assert hint in (int, float, str, bool) or (get_origin(hint) is np.ndarray and get_args(hint))


@given(arrays(
    st.sampled_from([np.float64, np.float32, np.int64, np.uint8, np.bool_, ">f8"]), array_shapes(min_dims=1, min_side=0)
))  # fmt: skip
@settings(derandomize=True, deadline=None, max_examples=60)
def test_an_array_is_written_as_flower_writes_it(values):
    for one in (values, values.T, values[::2]):
        flowers, ours = Array(np.ascontiguousarray(one)), array_of(one)
        assert (ours.dtype, ours.shape, ours.stype) == (flowers.dtype, flowers.shape, flowers.stype)
        assert ours.data == flowers.data


def test_what_only_the_laboratory_measures_is_not_weighed():
    tally = tally_sets(np.array([[0.1, 0.9]]), np.array([0]), 0.25, np.array([0]))
    table = tabulate(np.log([[0.9, 0.1]]), np.array([0]))
    with_it, without = EvaluateReport.of(7, tally, table), EvaluateReport.of(7, tally)
    assert set(pack(with_it)) - set(pack(without)) == {MEASURED}
    assert weight(pack(with_it)) == weight(pack(without))
    assert unpack(EvaluateReport, pack(without)).reliability.shape == (0, 6)
    with pytest.raises(ValueError, match="reliability of 1 points: must be of num_test = 2"):
        dataclasses.replace(with_it, num_test=2)


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
    lambda: EvaluateRequest("", np.array([math.nan])),
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
    (pack(FitReport(0, 5)), "density, num_calibration, num_examples, threshold"),
    (RecordDict(), "density, num_calibration, partition, threshold"),
    (RecordDict({"numbers": MetricRecord({"partition": 0, "threshold": 0.5})}), "density, num_calibration"),
    (pack(EvaluateRequest("s", np.array([0.5]))), "align, density, num_calibration, partition, score"),
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


# --------------------------------------------------------------------------------------------- answers to a question

LAC, RESIDUAL = '{"name": "lac"}', '{"name": "residual"}'
GRID = ScoreGrid(0.0, 1.0, 8)
KINDS = ("tdigest", "ddsketch")


def histogram(
    *rows: list[int], epsilon: float = 0.0, score: str = LAC, grid: ScoreGrid = GRID, said: int = 0, **asked: int
) -> tuple[Record, Record]:
    """A question and its answer, which says that it has `said` rows; 0: as many as it has."""
    num_labels = asked.pop("num_labels", 0)
    by_class = bool(num_labels)
    request = HistogramRequest(score, grid.text(), by_class, num_labels, 0, epsilon=epsilon, **asked)
    return request, HistogramReport(0, encode(np.array(rows)), said or len(rows))


def sketch(kind: str, scores: list[float], said: int | None = None, score: str = LAC) -> tuple[Record, Record]:
    code = np.frombuffer(sketch_of(scores, kind), np.uint8)
    return SketchRequest(score, kind), SketchReport(0, len(scores) if said is None else said, code)


def step(value: float, noise: float = 0.0, alpha: float = 0.1, start: float = 0.5) -> tuple[Record, Record]:
    """Five steps of a tenth, each of at most 0.9 of it."""
    return DescendRequest(LAC, start, alpha, 5, 0.1, 0.05, noise, 1), StepReport(0, value)


def counted(counts: list[int], candidates: tuple[float, ...] = (0.1, 0.5, 0.9)) -> tuple[Record, Record]:
    return CountsRequest(LAC, np.array(candidates)), CountsReport(0, 9, np.array(counts))


def labelled(labels: list[int], asked: bool = True, num_labels: int = 3) -> tuple[Record, Record]:
    report = ScoresReport(0, np.array([0.5, 0.6]), np.array(labels, np.int64))
    return ScoresRequest(LAC, asked, num_labels), report


@pytest.mark.parametrize(("asked", "answer"), [
    (ThresholdRequest(LAC, 0.1, "clip"), ThresholdReport(0, 1.0, 5)),
    (ThresholdRequest(LAC, 0.1, "clip"), ThresholdReport(0, math.inf, 0)),
    (ThresholdRequest(LAC, 0.1, "inf"), ThresholdReport(0, math.inf, 8)),
    (ThresholdRequest(RESIDUAL, 0.1, "clip"), ThresholdReport(0, 77.0, 5)),
    (ThresholdRequest(LAC, 0.1, "clip", align="rank"), ThresholdReport(0, 7.0, 5)),
    (ScoresRequest(LAC), ScoresReport(0, np.array([0.0, 1.0]))),
    (ScoresRequest(RESIDUAL), ScoresReport(0, np.array([0.0, 9.0]))),
    histogram([1] * 8 + [0]),
    histogram([1] * 9, score=RESIDUAL),
    histogram([1] * 9, grid=ScoreGrid(0.0, 0.9, 8)),  # scores between 0.9 and 1
    histogram([0] * 9, [1] * 8 + [0], [0] * 9, [2] * 8 + [0], num_labels=2, parts=5, part_from=1, part_to=3),
    histogram([1, -2, 0, 0, 0, 0, 0, 0, 3], epsilon=1.0),
    histogram([1, 2, 3, 4, 0]),  # in bins joined by twos
    *[sketch(kind, scores) for kind in KINDS for scores in ([], [0.0], [0.0, 0.5, 1.0], [1.0] * 99)],
    sketch("ddsketch", [7.0], score=RESIDUAL),
    step(0.45), step(-0.45), step(99.0, noise=1e-3), step(-0.45, alpha=0.9), step(0.45, start=1e9),
    counted([0, 0, 9]), counted([9, 3, 0], candidates=(0.9, 0.5, 0.1)),
    (LabelCountsRequest(3), LabelCountsReport(0, np.array([5, 0, 1]))),
    (LabelCountsRequest(), LabelCountsReport(0, np.array([5, 0]))),
    labelled([0, 2]), labelled([0, 7], num_labels=0), labelled([], asked=False),
])  # fmt: skip
def test_a_possible_answer_is_taken(asked, answer):
    checked(asked, Columns.of(type(answer), [answer]))


@pytest.mark.parametrize(("asked", "answer", "rule"), [
    (ThresholdRequest(LAC, 0.1, "clip"), ThresholdReport(0, 1.5, 5), r"threshold = 1.5: must lie in \[0, 1\]"),
    (ThresholdRequest(LAC, 0.1, "clip"), ThresholdReport(0, -0.1, 5), "threshold = -0.1: must lie"),
    (ThresholdRequest(LAC, 0.1, "clip"), ThresholdReport(0, math.inf, 5), "points enough for a finite one"),
    (ThresholdRequest(LAC, 0.1, "inf"), ThresholdReport(0, math.inf, 9), "points enough for a finite one"),
    (ScoresRequest(LAC), ScoresReport(0, np.array([0.5, 1.01])), "scores = 1.01: must lie"),
    (ScoresRequest(RESIDUAL), ScoresReport(0, np.array([0.5, math.inf])), "scores = inf: must be finite"),
    (SizeRequest(LAC), SizeReport(0, 5, -3.0, 0.5), "low and high = -3: must lie"),
    (*histogram([1, -2, 0, 0, 0, 0, 0, 0, 3]), "a count below 0: counts must be at least 0"),
    (*histogram([1, 2, 3, 4]), "3 bins do not divide 8"),
    (HistogramRequest(LAC, GRID.text(), False, 0, 0), HistogramReport(0, np.zeros(1, np.uint8)), "of 1 bytes"),
    (*histogram([1] * 7 + [0, 3]), r"3 of its scores above 1: must lie in \[0, 1\], as this score does"),
    (*histogram([0] * 9, [1] * 9, num_labels=2), "1 of its scores above 1"),
    (*histogram([1, 2, 3, 4, 5]), "5 of its scores above 1"),
    (*histogram([0] * 9, [0] * 9), "a histogram of 2 rows: must be 1, as was asked for"),
    (*histogram([0] * 9, num_labels=2, part_to=3), "a histogram of 1 rows: must be 6"),
    (*histogram([0] * 9, said=1 << 40), "rows: must be 1"),  # before an array of that size is made
    *[(*sketch(kind, [0.5, 1.5]), r"smallest or largest score = 1.[45]\d*: must lie") for kind in KINDS],
    *[(*sketch(kind, [-0.5, 0.5]), r"smallest or largest score = -0.[45]\d*: must lie") for kind in KINDS],
    *[(*sketch(kind, [0.5], 3), "a sketch of 1 scores, and it says 3") for kind in KINDS],
    (*step(0.4501), r"value = 0.4501: 5 steps lead no farther than 0.45"),
    (*step(-0.4501), r"value = -0.4501: 5 steps lead"),
    (*counted([0, 9]), "2 counts for 3 candidates"),
    (*counted([0, 5, 4]), "counts that fall from one candidate to the next larger"),
    (*counted([0, 3, 9], candidates=(0.9, 0.5, 0.1)), "counts that fall"),
    (LabelCountsRequest(3), LabelCountsReport(0, np.array([5, 0])), "2 counts for 3 classes"),
    (*labelled([0, 3]), r"label 3: must lie in 0\.\.2"),
    (*labelled([]), "0 labels of 2 scores: must be 2"),
    (*labelled([0, 1], asked=False), "2 labels of 2 scores: must be 0"),
])  # fmt: skip
def test_an_impossible_answer_is_refused(asked, answer, rule):
    with pytest.raises(ValueError, match=rule):
        checked(asked, Columns.of(type(answer), [answer]))


def test_a_tdigest_whose_centroids_lie_elsewhere_than_its_ends_is_refused():
    code = bytearray(sketch_of(np.full(300, 0.5), "tdigest"))
    true, false = np.float64(0.5).tobytes(), np.float64(50.0).tobytes()
    places = [at for at in range(0, len(code) - 7, 8) if code[at : at + 8] == true]
    assert len(places) > 10  # both ends first, then the centroids
    for at in places[len(places) // 2 :]:
        code[at : at + 8] = false
    made = SketchReport(0, 300, np.frombuffer(bytes(code), np.uint8))
    with pytest.raises(ValueError, match="smallest or largest score = 50: must lie"):
        checked(SketchRequest(LAC, "tdigest"), Columns.of(SketchReport, [made]))


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(st.floats(0, 1), max_size=200), st.sampled_from(KINDS))
def test_no_true_sketch_is_refused(scores, kind):
    asked, answer = sketch(kind, scores)
    checked(asked, Columns.of(SketchReport, [answer]))


@settings(derandomize=True, deadline=None)
@given(
    array=arrays(
        st.sampled_from(["<f4", ">f8", "<i8", "u1", "?", "<f2", "<c8"]),
        array_shapes(min_dims=0, max_dims=4, min_side=0),
    ),
    by_columns=st.booleans(),
)
def test_an_arrays_values_are_numpys_own(array, by_columns):
    sent = Array(np.asfortranarray(array) if by_columns else array)
    found, theirs = values_of(sent), sent.numpy()
    assert found.dtype == theirs.dtype
    assert found.shape == theirs.shape
    assert found.tobytes() == theirs.tobytes()


@pytest.mark.parametrize(("change", "told"), [
    ({"shape": (3,)}, r"shape \(3,\) and type float64 in 32 bytes"),
    ({"shape": (2, 3)}, r"shape \(2, 3\)"),
])  # fmt: skip
def test_an_array_that_is_not_as_it_says_is_refused(change, told):
    true = Array(np.arange(4.0))
    said = Array(**{"dtype": true.dtype, "shape": true.shape, "stype": true.stype, "data": true.data} | change)
    with pytest.raises(ValueError, match=told):
        values_of(said)


def test_an_array_cut_short_is_refused():
    true = Array(np.arange(4.0))
    for length in (0, 9, 100, len(true.data) - 1):
        with pytest.raises((ValueError, EOFError)):
            values_of(Array(dtype=true.dtype, shape=true.shape, stype=true.stype, data=true.data[:length]))


def test_pickled_objects_are_not_opened():
    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        values_of(Array(dtype="object", shape=(1,), stype="numpy.ndarray", data=file.getvalue()))


def test_a_questions_message_is_the_same_however_often_it_is_looked_at():
    """Flower's grid of the deployment runtime writes an id into each, and then goes over them again to send them."""
    InlineGrid("clients.app:app", 3, 60.0)  # a message says of which run it is, and a grid what run that is
    questions = Questions([ThresholdRequest("lac", 0.1, "clip")] * 3, [11, 12, 13])
    ids = [message.metadata.message_id for message in with_ids(questions)]
    assert all(ids)
    assert [message.metadata.message_id for message in questions.messages(range(3))] == ids
    assert questions[-1] is questions[2]
