"""One account of every client: good replies in order, and a client that fails is never dropped in silence."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Error, Message, MetricRecord, RecordDict

from fl_sim.errors import ClientFailedError
from fl_sim.messages.calibration import ThresholdReport, ThresholdRequest
from fl_sim.messages.record import TIMING, Record
from fl_sim.messages.wire import pack, weight
from fl_sim.runtime.checked_grid import CheckedGrid
from fl_sim.runtime.grids import DIED, FIRST_NODE, LATE, RAISED, SimulatedGrid, partition_of
from fl_sim.runtime.inline import InlineGrid

LABELS = [f"client {k} ({'weak' if k % 2 else 'strong'})" for k in range(5)]
Says = Callable[[int], RecordDict | Error | None]


class Scripted(SimulatedGrid):
    """Clients that say what `says` has for them, the last one first."""

    def __init__(self, says: Says) -> None:
        super().__init__(len(LABELS))
        self.says = says
        self.asked: list[list[int]] = []

    def answer(self, messages: Sequence[Message], timeout: float | None) -> Iterable[Message]:
        self.asked.append([partition_of(m.metadata.dst_node_id) for m in messages])
        for message in reversed(messages):
            said = self.says(partition_of(message.metadata.dst_node_id))
            if said is not None:
                yield Message(said, reply_to=message)


def good(k: int) -> RecordDict:
    return pack(ThresholdReport(k, k / 10, 10))


def but(k: int, said: RecordDict | Error | None) -> Says:
    """Everybody answers well, but client k."""
    return lambda partition: said if partition == k else good(partition)


def edited(k: int, **numbers: float) -> RecordDict:
    content = good(k)
    content["numbers"] = MetricRecord({**content["numbers"], **numbers})
    return content


def requests(partitions: Iterable[int] = range(5), content: RecordDict | None = None) -> list[Message]:
    record: Record = ThresholdRequest('{"name": "lac"}', 0.1, "clip")
    content = pack(record) if content is None else content
    return [Message(content, dst_node_id=FIRST_NODE + k, message_type="query.threshold") for k in partitions]


def partitions_of(replies: Iterable[Message]) -> list[int]:
    return [partition_of(reply.metadata.src_node_id) for reply in replies]


def test_replies_come_in_the_order_of_the_partitions():
    checked_grid = CheckedGrid(Scripted(good), LABELS, "stop")
    assert partitions_of(checked_grid.send_and_receive(requests())) == [0, 1, 2, 3, 4]
    assert partitions_of(checked_grid.send_and_receive(requests([3, 0, 2]))) == [0, 2, 3]
    assert checked_grid.missing == {}
    assert checked_grid.retried == {}
    assert list(checked_grid.send_and_receive([])) == []


def test_nodes_are_listed_in_the_order_of_the_partitions():
    checked_grid = CheckedGrid(Scripted(good), LABELS, "stop")
    nodes = list(range(FIRST_NODE, FIRST_NODE + 5))
    assert list(checked_grid.get_node_ids()) == nodes
    assert [node.node_id for node in checked_grid.get_nodes()] == nodes


NONSENSE = "it answered nonsense: "
FAULTS = {
    "a NaN threshold": (edited(3, threshold=math.nan), NONSENSE + "threshold = nan: must be a number or +inf"),
    "a negative count": (edited(3, num_calibration=-1), NONSENSE + "num_calibration = -1: must be a whole number"),
    "another's partition": (good(1), "it answered as client 1"),
    "another record": (RecordDict({"words": ConfigRecord({"hello": "there"})}), NONSENSE + "not a ThresholdReport"),
    "an empty answer": (RecordDict(), NONSENSE + "not a ThresholdReport"),
    "no answer": (None, "it did not answer"),
    "a late answer": (Error(LATE, "it did not answer within 2 s"), "it did not answer within 2 s"),
    "a dead worker": (Error(DIED, "3 worker processes died: why\nand how"), "3 worker processes died: why"),
    "an error without a reason": (Error(RAISED, None), "it raised no reason was given"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_stop_ends_the_run_and_names_client_tier_message_and_fault(name):
    said, fault = FAULTS[name]
    with pytest.raises(ClientFailedError) as caught:
        CheckedGrid(Scripted(but(3, said)), LABELS, "stop").send_and_receive(requests())
    assert f"client 3 (weak) failed at query.threshold: {fault}" in str(caught.value)


@pytest.mark.parametrize("name", FAULTS)
def test_skip_goes_on_and_lists_who_is_missing_and_why(name):
    said, fault = FAULTS[name]
    grid = Scripted(but(3, said))
    checked_grid = CheckedGrid(grid, LABELS, "skip")
    assert partitions_of(checked_grid.send_and_receive(requests())) == [0, 1, 2, 4]
    assert list(checked_grid.missing) == [3]
    assert checked_grid.missing[3].startswith(f"query.threshold: {fault}")
    # From here on nothing is sent to it, though it is still listed.
    down = checked_grid.message_bytes_down[3]
    assert partitions_of(checked_grid.send_and_receive(requests())) == [0, 1, 2, 4]
    assert list(checked_grid.send_and_receive(requests([3]))) == []
    assert grid.asked == [[0, 1, 2, 3, 4], [0, 1, 2, 4]]
    assert checked_grid.message_bytes_down[3] == down
    assert len(list(checked_grid.get_node_ids())) == 5


def test_stop_shows_the_clients_own_traceback(tmp_path: Path):
    checked_grid = CheckedGrid(InlineGrid("grid_app:app", 5, 60.0), LABELS, "stop")
    told = RecordDict({"told": ConfigRecord({"folder": str(tmp_path), "word": "", "raise": [2]})})
    sent = [Message(told, dst_node_id=FIRST_NODE + k, message_type="query.behave") for k in range(5)]
    with pytest.raises(ClientFailedError) as caught:
        checked_grid.send_and_receive(sent)
    trace, last = str(caught.value).rsplit("\n\n", 1)
    assert trace.startswith("Traceback")
    assert "grid_app.py" in trace
    assert trace.endswith("RuntimeError: partition 2 will not")
    assert last == "client 2 (strong) failed at query.behave: it raised RuntimeError: partition 2 will not"


def test_who_is_late_on_the_inline_runtime_is_missing(tmp_path: Path):
    checked_grid = CheckedGrid(InlineGrid("grid_app:app", 5, client_timeout=0.0), LABELS, "skip")
    told = RecordDict({"told": ConfigRecord({"folder": str(tmp_path), "word": ""})})
    sent = [Message(told, dst_node_id=FIRST_NODE + 1, message_type="query.behave")]
    assert list(checked_grid.send_and_receive(sent)) == []
    assert checked_grid.missing[1].endswith("it did not answer within 0 s")


@pytest.mark.parametrize(("timeout", "named"), [(0.0, True), (600.0, False)])
def test_a_client_that_hangs_inline_is_named_by_who_interrupts_the_run(monkeypatch, timeout, named):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    grid = InlineGrid("grid_app:app", 5, client_timeout=timeout)
    monkeypatch.setattr(grid.host, "run", interrupted)
    with pytest.raises(KeyboardInterrupt) as end:
        list(grid.send_and_receive([Message(RecordDict(), dst_node_id=FIRST_NODE + 3, message_type="query.behave")]))
    notes = getattr(end.value, "__notes__", [])
    assert len(notes) == named
    assert all(note.startswith("client 3 had not answered query.behave") and "--runtime ray" in note for note in notes)


def test_a_reply_of_the_users_own_kind_is_not_checked():
    def anything(k: int) -> RecordDict:
        return RecordDict({"mine": MetricRecord({"x": math.nan})})

    sent = [Message(RecordDict(), dst_node_id=FIRST_NODE + k, message_type="query.mine") for k in range(5)]
    assert partitions_of(CheckedGrid(Scripted(anything), LABELS, "stop").send_and_receive(sent)) == [0, 1, 2, 3, 4]


def test_messages_are_weighed_both_ways_and_time_is_booked():
    def timed(k: int) -> RecordDict:
        return RecordDict({**good(k), TIMING: ConfigRecord({"seconds": 0.25})})

    checked_grid = CheckedGrid(Scripted(timed), LABELS, "stop")
    sent = requests()
    own = requests([2], pack(ThresholdRequest("a longer score", 0.1, "clip")))
    for _ in range(2):
        replies = list(checked_grid.send_and_receive(sent))
    checked_grid.send_and_receive(own)
    # The laboratory's own stop-watch is not part of what was sent.
    assert [set(reply.content) for reply in replies] == [{"numbers"}] * 5
    assert checked_grid.message_bytes_down.tolist() == [
        2 * weight(sent[0].content) + (weight(own[0].content) if k == 2 else 0) for k in range(5)
    ]
    assert checked_grid.message_bytes_up.tolist() == [(3 if k == 2 else 2) * weight(good(k)) for k in range(5)]
    assert checked_grid.client_seconds.tolist() == [0.5, 0.5, 0.75, 0.5, 0.5]


def test_retries_are_told_by_partition():
    grid = Scripted(good)
    grid.retries = {FIRST_NODE + 4: 2}
    assert CheckedGrid(grid, LABELS, "stop").retried == {4: 2}


def test_the_beginning_of_each_exchange_is_told():
    told = []
    checked_grid = CheckedGrid(Scripted(but(3, None)), LABELS, "skip", lambda kind, count: told.append((kind, count)))
    for _ in range(2):
        checked_grid.send_and_receive(requests())
    assert told == [("query.threshold", 5), ("query.threshold", 4)]


def test_what_is_pushed_goes_to_the_runtime_unchecked():
    checked_grid = CheckedGrid(Scripted(but(3, edited(3, threshold=math.nan))), LABELS, "stop")
    ids = list(checked_grid.push_messages(requests()))
    assert len(list(checked_grid.pull_messages(ids))) == 5
