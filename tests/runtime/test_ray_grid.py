"""Our own Grid on Ray actors: everybody is answered once, whatever happens to the processes."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fl_sim.errors import FlSimError
from fl_sim.runtime import ray as runtime
from fl_sim.runtime.cluster import actors_for, cluster
from fl_sim.runtime.grids import DIED, FIRST_NODE, LATE, RAISED, SimulatedGrid, Subset, partition_of
from fl_sim.runtime.inline import InlineGrid
from fl_sim.runtime.ray import RayGrid

APP, KIND = "grid_app:app", "query.behave"
NUM_CLIENTS = 200


def ray_grid(app: str = APP, num_actors: int = 2) -> RayGrid:
    resources = {"num_cpus": 0.5, "num_gpus": 0}
    return RayGrid(app, NUM_CLIENTS, client_timeout=60.0, num_actors=num_actors, resources=resources)


@pytest.fixture(scope="module")
def actors(ray_session) -> Iterator[RayGrid]:
    """One grid for all, because a worker process takes seconds to start."""
    made = ray_grid()
    yield made
    made.close()


@pytest.fixture
def grid(actors: RayGrid) -> RayGrid:
    """Fresh clients, who remember nothing, on the same actors."""
    actors.renew(NUM_CLIENTS, done=[].append)
    return actors


def content(folder: Path, word: str = "", **who: list[int]) -> RecordDict:
    return RecordDict({"told": ConfigRecord({"folder": str(folder), "word": word, **who})})


def messages(given: RecordDict | Sequence[RecordDict], partitions: Iterable[int]) -> list[Message]:
    each = list(partitions)
    contents = [given] * len(each) if isinstance(given, RecordDict) else given
    return [Message(c, dst_node_id=FIRST_NODE + k, message_type=KIND) for k, c in zip(each, contents, strict=True)]


def ask(grid: SimulatedGrid, given: RecordDict | Sequence[RecordDict], partitions: Iterable[int]) -> dict[int, Message]:
    """Partition -> reply; fails if anybody is answered twice."""
    found: dict[int, Message] = {}
    for reply in grid.send_and_receive(messages(given, partitions)):
        k = partition_of(reply.metadata.src_node_id)
        assert k not in found
        found[k] = reply
    return found


def said(replies: dict[int, Message]) -> dict[int, tuple]:
    """What each client that answered well said."""
    return {k: (dict(r.content["said"]), r.content["heard"]["word"]) for k, r in replies.items() if not r.has_error()}


def errors(replies: dict[int, Message]) -> dict[int, int]:
    return {k: r.error.code for k, r in replies.items() if r.has_error()}


def runs(folder: Path) -> collections.Counter[int]:
    return collections.Counter(int(line) for line in (folder / "runs").read_text().split())


def test_everybody_is_asked_once_and_answers_once(grid, tmp_path):
    replies = ask(grid, content(tmp_path, "hello"), range(NUM_CLIENTS))
    assert {k: (s["partition"], s["of"], word) for k, (s, word) in said(replies).items()} == {
        k: (k, NUM_CLIENTS, "hello") for k in range(NUM_CLIENTS)
    }
    assert runs(tmp_path) == dict.fromkeys(range(NUM_CLIENTS), 1)
    assert grid.retries == {}


def test_state_stays_with_the_client_and_the_progress_is_told(grid, tmp_path):
    told: list[int] = []
    grid.renew(20, done=told.append)
    assert list(grid.get_node_ids()) == list(range(FIRST_NODE, FIRST_NODE + 20))
    assert [node.node_id for node in grid.get_nodes()] == list(range(FIRST_NODE, FIRST_NODE + 20))
    for number in (1, 2, 3):
        replies = said(ask(grid, content(tmp_path), range(20)))
        assert [replies[k][0]["count"] for k in range(20)] == [number] * 20
    # Only some are asked: the others' counts stand still.
    assert [s["count"] for s, _ in said(ask(grid, content(tmp_path), [3, 7])).values()] == [4, 4]
    assert said(ask(grid, content(tmp_path), [4]))[4][0]["count"] == 4
    assert sum(told) == 63


def test_shared_content_and_content_of_ones_own_can_be_mixed(grid, tmp_path):
    ours, theirs = content(tmp_path, "ours"), content(tmp_path, "theirs")
    contents = [(ours, theirs, content(tmp_path, f"own {k}"))[k % 3] for k in range(90)]
    replies = said(ask(grid, contents, range(90)))
    assert [replies[k][1] for k in range(90)] == [("ours", "theirs", f"own {k}")[k % 3] for k in range(90)]


def test_push_and_pull(grid, tmp_path):
    ids = list(grid.push_messages(messages([content(tmp_path, f"{k}") for k in range(6)], range(6))))
    assert len(set(ids)) == 6
    some, others = list(grid.pull_messages(ids[:2])), list(grid.pull_messages(ids))
    assert [m.content["heard"]["word"] for m in some] == ["0", "1"]
    assert [m.content["heard"]["word"] for m in others] == ["2", "3", "4", "5"]
    assert list(grid.pull_messages(ids)) == []


def test_no_messages_no_replies(grid):
    assert list(grid.send_and_receive([])) == []


def test_a_view_of_some_nodes_hands_the_work_down(grid, tmp_path):
    view = Subset(grid, [FIRST_NODE + 5, FIRST_NODE + 9])
    assert list(view.get_node_ids()) == [FIRST_NODE + 5, FIRST_NODE + 9]
    assert sorted(ask(view, content(tmp_path), [5, 9])) == [5, 9]


def test_a_view_leaves_the_identity_alone_that_messages_are_made_with(grid):
    """Flower's own runtime has one of its own, and does not deliver what was made with another."""
    before, TaskIdentity.run_id = TaskIdentity.run_id, 77
    try:
        view = Subset(grid, [FIRST_NODE])
        assert Message(RecordDict(), dst_node_id=view.nodes[0], message_type=KIND).metadata.run_id == 77
    finally:
        TaskIdentity.run_id = before


def test_a_client_that_raises_sends_its_traceback(grid, tmp_path):
    replies = ask(grid, content(tmp_path, **{"raise": [4]}), range(10))
    assert errors(replies) == {4: RAISED}
    reason = replies[4].error.reason
    assert reason.startswith("Traceback")
    assert "grid_app.py" in reason
    assert reason.strip().endswith("RuntimeError: partition 4 will not")
    assert sorted(said(replies)) == [0, 1, 2, 3, 5, 6, 7, 8, 9]


@pytest.mark.parametrize(("what", "given"), [("none", "None"), ("echo", "another Message")])
def test_a_client_that_does_not_answer_its_message_is_an_error(grid, tmp_path, what, given):
    replies = ask(grid, content(tmp_path, **{what: [0, 2]}), range(4))
    assert errors(replies) == {0: RAISED, 2: RAISED}
    told = f"the ClientApp answered query.behave with {given}, not with a Message in reply to it"
    assert replies[2].error.reason.strip().endswith(told)


@pytest.mark.parametrize("what", ["none", "echo"])
def test_inline_says_the_same_of_it(tmp_path, what):
    replies = ask(InlineGrid(APP, 4, 60.0), content(tmp_path, **{what: [0, 2]}), range(4))
    assert errors(replies) == {0: RAISED, 2: RAISED}


def test_who_loses_an_actor_is_run_again_and_nobody_else(grid, tmp_path, capfd):
    count, killer = 40, 8
    grid.renew(count, done=[].append)
    calm = InlineGrid(APP, count, 60.0)
    (tmp_path / "calm").mkdir()
    ask(grid, content(tmp_path), range(count))
    ask(calm, content(tmp_path / "calm"), range(count))
    (tmp_path / "runs").unlink()
    grid.cost[KIND] = 1e-4  # batches of many, whatever this machine's speed
    replies = ask(grid, content(tmp_path, exit_once=[killer]), range(count))
    assert said(replies) == said(ask(calm, content(tmp_path / "calm"), range(count)))
    again = {partition_of(node) for node in grid.retries}
    assert killer in again
    assert len(again) > 1  # its batch-mates
    assert set(grid.retries.values()) == {1}
    times = runs(tmp_path)
    assert times[killer] == 2
    assert {k for k, n in times.items() if n > 1} <= again
    assert set(times) == set(range(count))
    assert max(times.values()) == 2
    # What the dead attempt had written into the state is gone with it, and nothing else is.
    assert {s["count"] for s, _ in said(ask(grid, content(tmp_path), range(count))).values()} == {3}
    assert capfd.readouterr() == ("", "")


def test_who_kills_every_actor_is_given_up_and_everybody_else_is_answered(grid, tmp_path, capfd):
    count, killer = 30, 3
    grid.cost[KIND] = 1e-4
    replies = ask(grid, content(tmp_path, exit=[killer]), range(count))
    assert errors(replies) == {killer: DIED}
    assert "3 worker processes died under it" in replies[killer].error.reason
    assert sorted(said(replies)) == [k for k in range(count) if k != killer]
    # Once more where the batch before its own was in flight too, and was taken for the one that kills.
    assert runs(tmp_path)[killer] - 1 - runtime.RETRIES in (0, 1)
    assert grid.retries[FIRST_NODE + killer] == runtime.RETRIES
    assert sorted(said(ask(grid, content(tmp_path), range(count)))) == list(range(count))
    assert capfd.readouterr() == ("", "")


def test_who_is_late_is_told_and_the_others_answer(grid, tmp_path, monkeypatch):
    count, late = 30, 4
    monkeypatch.setattr(grid, "client_timeout", 2.0)
    grid.cost[KIND] = 1e-4  # it sits in a batch with others
    replies = ask(grid, content(tmp_path, sleep=[late]), range(count))
    assert errors(replies) == {late: LATE}
    assert replies[late].error.reason == "it did not answer within 2 s"
    assert sorted(said(replies)) == [k for k in range(count) if k != late]
    assert sorted(said(ask(grid, content(tmp_path), range(count)))) == list(range(count))


def test_a_timeout_for_all_leaves_out_who_is_late(grid, tmp_path):
    assert sorted(ask(grid, content(tmp_path), range(6))) == list(range(6))
    sent = messages(content(tmp_path, sleep=[0]), range(6))
    assert FIRST_NODE not in {r.metadata.src_node_id for r in grid.send_and_receive(sent, timeout=2.0)}
    assert sorted(ask(grid, content(tmp_path), range(6))) == list(range(6))


def test_an_app_that_cannot_be_imported_is_an_error_and_no_hang(ray_session, tmp_path):
    grid = ray_grid("no_such_module:app", num_actors=1)
    with pytest.raises(FlSimError, match=r"a Ray worker could not start(?s:.*)no_such_module"):
        ask(grid, content(tmp_path), range(4))
    grid.close()


def test_actors_are_as_many_as_there_is_room_for(ray_session):
    import ray

    cpus = int(ray.cluster_resources()["CPU"])
    assert actors_for(1_000, num_cpus=1.0, num_gpus=0.0) == cpus
    assert actors_for(1_000, num_cpus=0.25, num_gpus=0.0) == 4 * cpus
    assert actors_for(1, num_cpus=0.25, num_gpus=0.0) == 1
    with pytest.raises(FlSimError, match=rf"cpus_per_client = {cpus + 1}.*but Ray has {cpus} CPUs"):
        actors_for(1_000, num_cpus=cpus + 1, num_gpus=0.0)


def test_a_cluster_inside_a_cluster_is_the_same_one(ray_session):
    import ray

    with cluster(None, verbose=False):
        pass
    assert ray.is_initialized()


def two_nodes(monkeypatch, *resources: dict[str, float]) -> None:
    nodes = [{"Alive": True, "Resources": one} for one in resources]
    lost = {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}
    monkeypatch.setattr(runtime.ray, "nodes", lambda: [*nodes, lost])
    whole = {name: sum(one.get(name, 0) for one in resources) for name in ("CPU", "GPU")}
    monkeypatch.setattr(runtime.ray, "cluster_resources", lambda: whole)


@pytest.mark.parametrize(("first", "second", "num_cpus", "num_gpus", "expected"), [
    ({"CPU": 1.5}, {"CPU": 1.5}, 1.0, 0.0, 2),  # not the 3 that their sum holds
    ({"CPU": 0.3}, {"CPU": 0.7}, 0.1, 0.0, 10),  # 0.3 / 0.1 is less than 3 in floating point
    ({"CPU": 8.0, "GPU": 1.0}, {"CPU": 8.0}, 1.0, 0.25, 4),
    ({"CPU": 8.0, "GPU": 2.0}, {"CPU": 2.0, "GPU": 1.0}, 1.0, 0.4, 6),  # two shares a GPU: 4 and 2
    ({"CPU": 8.0, "GPU": 3.0}, {"CPU": 8.0, "GPU": 1.0}, 1.0, 2.0, 1),
    ({"CPU": 0.0}, {"CPU": 4.0}, 2.0, 0.0, 2),
    ({"node:a": 1.0}, {"CPU": 1.0}, 1.0, 0.0, 1),
])  # fmt: skip
def test_an_actor_finds_all_it_takes_on_one_living_node(monkeypatch, first, second, num_cpus, num_gpus, expected):
    two_nodes(monkeypatch, first, second)
    assert actors_for(1_000, num_cpus=num_cpus, num_gpus=num_gpus) == expected


def test_halves_of_an_actor_on_two_nodes_are_none(monkeypatch):
    two_nodes(monkeypatch, {"CPU": 2.0}, {"CPU": 2.0})
    with pytest.raises(FlSimError, match=r"= 3 and .* 4 CPUs and 0 GPUs on 2 nodes, and a client must find all .* one"):
        actors_for(1_000, num_cpus=3.0, num_gpus=0.0)


def test_a_driver_outside_the_cluster_is_refused_in_a_line(monkeypatch):
    monkeypatch.setattr(runtime.ray, "is_initialized", lambda: False)
    told = r"^runtime\.address = 'ray://head:10001': clients fetch artifacts from this machine[^\n]*HOST:6379$"
    with pytest.raises(FlSimError, match=told), cluster("ray://head:10001", verbose=False):
        pass


def test_waiting_ends_where_no_node_is_left_that_has_room(ray_session, tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "LOOK_AROUND", 0.05)
    told = {"client_timeout": 60.0, "num_actors": 1}
    grid = RayGrid(APP, 4, resources={"num_cpus": 1_000, "num_gpus": 0}, **told)  # for ever pending
    with pytest.raises(FlSimError, match=r"^no node of the Ray cluster is left .*cpus_per_client = 1000 .*is kept$"):
        ask(grid, content(tmp_path), range(4))
    grid.close()


def test_an_answer_lost_with_its_node_is_asked_for_again(grid, tmp_path, monkeypatch):
    """A large one lies in its node's memory until it is fetched: its actor had died of nothing."""
    get, losses = runtime.ray.get, []

    def lossy(ref):
        found = get(ref)
        if isinstance(found, list) and not losses:
            losses.append(ref)
            raise runtime.ray.exceptions.ObjectLostError(ref.hex(), ref.owner_address(), ref.call_site())
        return found

    monkeypatch.setattr(runtime.ray, "get", lossy)
    assert sorted(said(ask(grid, content(tmp_path), range(4)))) == list(range(4))
    assert len(losses) == 1
    assert set(grid.retries.values()) == {1}
