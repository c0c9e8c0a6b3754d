"""Clients on Ray actors, driven directly: long-lived actors, messages in batches, no polling.

Flower's own runtime asks a link state in memory for every node and every message, which is quadratic in the clients;
here the driver hands batches to actors and waits for Ray to say which is done.

- A node's messages go to its home actor as long as that one keeps up; an idle actor takes from the longest queue.
- A question to many clients goes out in batches that are answered in columns; what cannot be, goes by message.
- Content that several clients share is put into Ray's object store once.
- What a client keeps (its Flower context's state) comes back with its reply and goes along with its next message, so
  any actor can run it, and a dead one takes nothing with it.
- A dead actor is replaced; the clients of the batch that it was running are run again one by one, so that the one
  that kills actors is found. After two retries it is given up.
- A batch that outlasts the time that one client may take is stopped with its actor, and its clients are run one by one.
"""

from __future__ import annotations

import collections
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import ray
from flwr.app import Error, Message, Metadata, RecordDict
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fl_sim.errors import FlSimError, RuntimeLostError
from fl_sim.messages.exchange import Batch, Questions
from fl_sim.messages.record import Record
from fl_sim.runtime.artifact_exchange import ArtifactClient, ArtifactServer, DriverStore
from fl_sim.runtime.cluster import WITHOUT, refuse_if_dead, room
from fl_sim.runtime.grids import (
    DIED,
    LATE,
    Done,
    SimulatedGrid,
    allowed,
    late,
    with_ids,
)
from fl_sim.runtime.inline import BATCH_SECONDS, MOST_QUESTIONS, Host, batch_size
from fl_sim.store.artifacts import attach

RETRIES = 2  # of a client whose actor died
MOST_MESSAGES = 64  # in a batch
IN_FLIGHT = 2  # batches of short work an actor has at once, so that it never waits for the driver
LOOK_AROUND = 1.0  # seconds without an answer, after which to see whether Ray is still there, and room for an actor


class Actor:
    """A Ray actor: a `Host` whose nodes' states come with the messages."""

    def __init__(self, app: str, driver_store: DriverStore | None, folder: str) -> None:
        sys.path.append(folder)  # of the launch, where `module:object` is looked for last, as in the driver
        self.sees_store = driver_store is None or driver_store.settle()
        self.host = Host(app, "" if driver_store is None else driver_store.other_machine)

    def ready(self) -> bool:
        """Answered once the ClientApp is imported: whether this process sees the driver's artifact store."""
        return self.sees_store

    def fetch_from(self, artifact_server: Any) -> None:
        """Let an artifact server (an actor's handle) stand behind this process's artifact store."""
        attach(os.environ["FL_SIM_STORE"], ArtifactClient(partial(_ask, artifact_server)))

    def run(
        self, num_clients: int, content: Any, metadata: Sequence[Metadata], states: Sequence[RecordDict]
    ) -> list[tuple[Message, RecordDict, float]]:
        """Reply, state and seconds of each message; `content` is one for all, or a list of one for each."""
        answers = []
        for i, (meta, state) in enumerate(zip(metadata, states, strict=True)):
            mine = content[i] if isinstance(content, list) else content
            message = Message(metadata=meta, content=mine)  # type: ignore[call-overload]
            answers.append(self.host.run(message, state, num_clients))
        return answers

    def ask(
        self, record: Any, nodes: Sequence[int], states: Sequence[RecordDict]
    ) -> tuple[Batch | None, list[RecordDict], list[int]]:
        """See `Host.ask`; `record` is one question for all, or a list of one for each."""
        return self.host.ask(record if isinstance(record, list) else [record] * len(nodes), nodes, states)


@dataclass(frozen=True)
class Question:
    """A question to a client that is to be answered in columns, or by the message that it stands for."""

    questions: Questions
    place: int

    @property
    def record(self) -> Record:
        """What is asked."""
        question: Record = self.questions.records[self.place]
        return question

    @property
    def node(self) -> int:
        """Who is asked."""
        return self.questions.nodes[self.place]

    def message(self) -> Message:
        """The same as a message with an id."""
        (message,) = with_ids([self.questions[self.place]])
        return message


@dataclass
class Sent:
    """What is asked of an actor at once: messages, or questions."""

    asked: list[Message] | list[Question]
    began: float = 0.0  # when the actor could begin with it

    def messages(self) -> list[Message]:
        """As messages."""
        return [one.message() if isinstance(one, Question) else one for one in self.asked]


@dataclass
class Slot:
    """An actor's place; the actor in it may change."""

    actor: Any
    ready: Any  # ObjectRef, until the actor has started
    queue: collections.deque[Message | Question] = field(default_factory=collections.deque)
    in_flight: dict[Any, Sent] = field(default_factory=dict)  # in the order in which they run
    starts: int = 0  # in vain, one after another


class RayGrid(SimulatedGrid):
    """A Grid on `num_actors` Ray actors."""

    def __init__(
        self, app: str, num_clients: int, *, num_actors: int, client_timeout: float, resources: dict[str, float],
        driver_store: DriverStore | None = None, done: Done | None = None,
    ) -> None:  # fmt: skip
        super().__init__(num_clients, done)
        self.app, self.client_timeout = app, client_timeout
        self.resources, self.driver_store = resources, driver_store
        self.artifact_server: Any = None  # an actor, once a worker does not see the driver's artifact store
        self.states: dict[int, RecordDict] = {}
        self.cost: dict[str, float] = {}  # message type -> seconds a client takes, a running mean
        self.alone: collections.deque[Message] = collections.deque()  # to be run one by one
        self.attempts: collections.Counter[str] = collections.Counter()  # message id -> actors it has seen die
        self.slots = [self._slot() for _ in range(num_actors)]
        self.workers = num_actors

    def renew(self, num_clients: int, done: Done) -> None:
        """Begin again with fresh clients on the same actors."""
        self._abandon()
        super().__init__(num_clients, done)
        self.states.clear()
        self.attempts.clear()
        self.cost.clear()  # another scenario's clients may take a thousand times as long
        for slot in self.slots:
            slot.starts = 0

    # ------------------------------------------------------------------------------------------------------- sending

    def answer(self, messages: Sequence[Message], timeout: float | None) -> Iterable[Message]:
        """As they come."""
        return self._run(messages, timeout)  # type: ignore[return-value]  # who is asked by message answers so

    def ask(self, questions: Questions) -> Iterable[Message | Batch]:
        """Many clients at once; by message those that misbehave, and those of a batch in which one failed."""
        return self._run([Question(questions, place) for place in range(len(questions))], None)

    def _run(self, asked: Sequence[Message | Question], timeout: float | None) -> Iterator[Message | Batch]:
        self.shared = _shared_contents(asked)
        self.kinds = {_kind(one) for one in asked}
        for one in asked:
            self.slots[_node(one) % len(self.slots)].queue.append(one)
        began = time.monotonic()
        ends = None if timeout is None else began + timeout
        left, waiting = len(asked), all(slot.ready is not None for slot in self.slots)
        while left:
            self._fill()
            if waiting and any(slot.in_flight for slot in self.slots):
                waiting, self.idle_start = False, time.monotonic() - began
            for answer in self._collect(ends):
                count = len(answer.nodes) if isinstance(answer, Batch) else 1
                left -= count
                self.done(count)
                yield answer
            if ends is not None and time.monotonic() > ends:
                self._abandon()
                return

    def _fill(self) -> None:
        # Work that takes long waits where every actor can still take it: Ray's millisecond is nothing to it.
        most = IN_FLIGHT if all(self.cost.get(kind, BATCH_SECONDS) < BATCH_SECONDS for kind in self.kinds) else 1
        for slot in self.slots:
            while slot.ready is None and len(slot.in_flight) < most:
                sent = self._next(slot)
                if sent is None:
                    break
                self._send(slot, sent)

    def _next(self, slot: Slot) -> Sent | None:
        if self.alone:
            # Nothing runs behind a message that may take its actor along.
            return None if slot.in_flight else Sent([self.alone.popleft()])
        queue = slot.queue or max((s.queue for s in self.slots), key=len)
        if not queue:
            return None
        first = queue[0]
        limit = min(self._batch_size(first), -(-len(queue) // 2))  # leave some for who is idle
        together: Any = [queue.popleft()]
        while queue and len(together) < limit and _together(first, queue[0], self.shared):
            together.append(queue.popleft())
        return Sent(together)

    def _batch_size(self, one: Message | Question) -> int:
        return batch_size(self.cost.get(_kind(one)), MOST_QUESTIONS if isinstance(one, Question) else MOST_MESSAGES)

    def _send(self, slot: Slot, sent: Sent) -> None:
        shared = self.shared.get(id(_content(sent.asked[0])))
        content = [_content(one) for one in sent.asked] if shared is None else shared
        nodes = [_node(one) for one in sent.asked]
        states = [self.states.get(node, RecordDict()) for node in nodes]
        sent.began = time.monotonic()
        if isinstance(sent.asked[0], Question):
            reference = slot.actor.ask.remote(content, nodes, states)
        else:
            metadata = [message.metadata for message in sent.messages()]
            reference = slot.actor.run.remote(self.num_clients, content, metadata, states)
        slot.in_flight[reference] = sent

    # ----------------------------------------------------------------------------------------------------- receiving

    def _collect(self, ends: float | None) -> Iterator[Message | Batch]:
        waiting = [ref for s in self.slots for ref in ([s.ready] if s.ready is not None else s.in_flight)]
        deadlines = [self._deadline(s) for s in self.slots if s.in_flight] + ([] if ends is None else [ends])
        deadline = min(deadlines, default=None)
        patience = LOOK_AROUND if deadline is None else min(LOOK_AROUND, max(0.0, deadline - time.monotonic()))
        ready, _ = ray.wait(waiting, num_returns=1, timeout=patience)
        refuse_if_dead()
        if not ready:
            if not any(s.in_flight for s in self.slots):
                self._refuse_to_wait_for_ever()
            yield from self._late()
        elif len(waiting) > 1:
            ready, _ = ray.wait(waiting, num_returns=len(waiting), timeout=0)
        for ref in ready:
            slot = next((s for s in self.slots if ref is s.ready or ref in s.in_flight), None)
            if slot is not None:  # else it went with a slot-mate that was handled a moment ago
                yield from self._take(slot, ref)

    def _take(self, slot: Slot, ref: Any) -> Iterator[Message | Batch]:
        if ref is slot.ready:
            self._started(slot)
            return
        try:
            answers = ray.get(ref)
        except ray.exceptions.RayTaskError:
            raise  # not the clients' (those are answered), but ours
        except ray.exceptions.RayError as error:  # the actor died, or with its node the answer that lay there
            yield from self._died(slot, error)
            return
        sent = slot.in_flight.pop(ref)
        for other in slot.in_flight.values():
            other.began = time.monotonic()  # the next one begins now
        kind, nodes = _kind(sent.asked[0]), [_node(one) for one in sent.asked]
        if isinstance(sent.asked[0], Question):
            batch, states, left = answers
            self.states |= dict(zip(nodes, states, strict=True))
            messages = sent.messages() if batch is None else [sent.asked[i].message() for i in left]
            slot.queue.extendleft(reversed(messages))
            if batch is not None:
                self.cost[kind] = batch.each  # and no mean: the first opens files that no other does
                yield batch
            return
        for node, (reply, state, seconds) in zip(nodes, answers, strict=True):
            self.states[node] = state
            self.cost[kind] = 0.7 * self.cost.get(kind, seconds) + 0.3 * seconds
            yield reply

    def _deadline(self, slot: Slot) -> float:
        sent = next(iter(slot.in_flight.values()))
        return sent.began + max(allowed(_question(one), self.client_timeout) for one in sent.asked)

    def _late(self) -> Iterator[Message]:
        """Stop the actors whose running batch has outlasted the timeout."""
        for slot in self.slots:
            if not slot.in_flight or time.monotonic() < self._deadline(slot):
                continue
            running, *waiting = slot.in_flight.values()
            self._replace(slot)
            self._again(waiting)
            if len(running.asked) > 1:
                self._again([running])  # one of them is slow: alone, each has the whole time to itself
            else:
                (message,) = running.messages()
                yield self._given_up(message, LATE, late(allowed(message, self.client_timeout)))

    def _died(self, slot: Slot, error: Exception) -> Iterator[Message]:
        """Replace a dead actor and run its clients again."""
        running, *waiting = slot.in_flight.values()
        self._replace(slot)
        self._again(waiting)
        for message in running.messages():
            self.attempts[message.metadata.message_id] += 1
            if self.attempts[message.metadata.message_id] > RETRIES:
                yield self._given_up(message, DIED, f"{1 + RETRIES} worker processes died under it: {error}")
            else:
                node = message.metadata.dst_node_id
                self.retries[node] = self.retries.get(node, 0) + 1
                self.alone.append(message)

    def _again(self, several: Iterable[Sent]) -> None:
        self.alone.extend(message for sent in several for message in sent.messages())

    def _given_up(self, message: Message, code: int, reason: str) -> Message:
        return Message(Error(code, reason), reply_to=message)

    def _abandon(self) -> None:
        self.alone.clear()
        for slot in self.slots:
            slot.queue.clear()
            if slot.in_flight:
                self._replace(slot)

    # -------------------------------------------------------------------------------------------------------- actors

    def _slot(self) -> Slot:
        # No events: what Ray notes of every call for its dashboard would grow with the rounds.
        options = {**self.resources, "enable_task_events": False}
        actor: Any = ray.remote(Actor).options(**options).remote(self.app, self.driver_store, str(Path.cwd()))
        return Slot(actor, actor.ready.remote())

    def close(self) -> None:
        """Let the actors go, which frees their processors for the next run on the same Ray."""
        for actor in [slot.actor for slot in self.slots] + [self.artifact_server] * (self.artifact_server is not None):
            ray.kill(actor)

    def _started(self, slot: Slot) -> None:
        """Take a slot into use, or start it again: a worker may be killed while it imports."""
        try:
            sees_store = ray.get(slot.ready)
        except ray.exceptions.RayError as error:
            slot.starts += 1
            if slot.starts > RETRIES:
                raise FlSimError(
                    f"a Ray worker could not start, {slot.starts} times: {_cause(error)}; mend that, {WITHOUT}"
                ) from None
            self._replace(slot)
        else:
            slot.ready, slot.starts = None, 0
            if not sees_store:
                slot.actor.fetch_from.remote(self._artifact_server())  # an actor does one thing after another

    def _artifact_server(self) -> Any:
        """The driver's artifact store as an actor on the driver's machine, made when it is first needed."""
        if self.artifact_server is None:
            assert self.driver_store is not None, "only a worker that was told of the store does not see it"
            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
            lasting = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
            self.artifact_server = ray.remote(ArtifactServer).options(**lasting).remote(self.driver_store.root)
        return self.artifact_server

    def _refuse_to_wait_for_ever(self) -> None:
        """Where no actor runs, Ray may be starting one; or the nodes that had room for one are lost."""
        if not room(**self.resources):
            raise RuntimeLostError(
                f"no node of the Ray cluster is left that has runtime.cpus_per_client = {self.resources['num_cpus']:g} "
                f"and gpus_per_client = {self.resources['num_gpus']:g}; start one, then run again: what is made is kept"
            )

    def _replace(self, slot: Slot) -> None:
        ray.kill(slot.actor)
        fresh = self._slot()
        slot.actor, slot.ready, slot.in_flight = fresh.actor, fresh.ready, {}


def _cause(error: Exception) -> str:
    """The line of Ray's paragraph about a dead actor that says why: how its process ended, or what it raised."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    ended = [line for line in lines if line.startswith("The actor is dead because")]
    return (ended or lines[-1:])[0]


def _ask(artifact_server: Any, method: str, *arguments: Any) -> Any:
    """What the artifact server's method answers.

    Raises:
        FlSimError: the artifact server's own, or it cannot be reached.
    """
    try:
        return ray.get(getattr(artifact_server, method).remote(*arguments))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        reason = str(error).partition("\n")[0]
        raise FlSimError(f"the driver's artifact store cannot be reached: {reason}") from None


def _shared_contents(asked: Sequence[Message | Question]) -> dict[int, Any]:
    """id of a content that goes to several clients -> its one copy in Ray's object store."""
    by_id = {id(_content(one)): _content(one) for one in asked}
    counts = collections.Counter(id(_content(one)) for one in asked)
    return {key: ray.put(content) for key, content in by_id.items() if counts[key] > 1}


def _together(first: Message | Question, other: Message | Question, shared: dict[int, Any]) -> bool:
    """Whether two can be asked at once: both in the same way, of the same shared content, or each of its own."""
    if type(first) is not type(other) or _kind(first) != _kind(other):
        return False
    ours, theirs = id(_content(first)), id(_content(other))
    return ours == theirs or (ours not in shared and theirs not in shared)


def _node(one: Message | Question) -> int:
    return one.node if isinstance(one, Question) else one.metadata.dst_node_id


def _kind(one: Message | Question) -> str:
    return one.record.message_type if isinstance(one, Question) else one.metadata.message_type


def _content(one: Message | Question) -> Any:
    return one.record if isinstance(one, Question) else one.content


def _question(one: Message | Question) -> Message | Record:
    return one.record if isinstance(one, Question) else one
