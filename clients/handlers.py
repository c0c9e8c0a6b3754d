"""How a question meets its handler: from one client's Flower message, or from a Grid that asks many clients at once.

A handler answers for several clients that behave and have one model (`ClientContext`). One that is written for a
single client, or for its scores, is asked for each of them in turn; the message of one client is a question to one. So
whatever a client answers is written once, and is the same either way.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable, Mod

from clients.context import ClientContext, model_of, opened
from clients.scorer import Scorer, scored_together
from fl_sim.messages.exchange import Columns
from fl_sim.messages.record import Record
from fl_sim.messages.wire import pack, unpack
from fl_sim.population.clients import Client

ROWS = 1 << 15  # of clients that are answered for in one go: what is made of them stays in the processor's cache

Records = Sequence[Any]  # questions, one for each client
Answer = Callable[[Records, ClientContext], Columns[Any]]
MadeUp = Callable[[Any, int, tuple[int, int]], Record]  # of the question, the client, and how many points it has


@dataclass(frozen=True)
class Handler:
    """What answers a question, and what clients that misbehave (clients/answers.py) make of it."""

    request: type[Record]
    answer: Answer
    together: bool = False  # it is made of scores, or predictions, of several clients in one go
    learns: bool = False  # the client has its model from then on
    number: str = ""  # the answer's one number, which they change; empty: it has none
    counts_scores: bool = False  # the answer is of scores that they have changed themselves, and so are its counts
    made_up: MadeUp | None = None  # what a free-rider answers; None: as the others do


def of_client(request: type[Record], answer: Callable[[Any, ClientContext], Record], **more: Any) -> Handler:
    """A handler from what a client answers."""

    def each(questions: Records, several: ClientContext) -> Columns[Any]:
        pairs = zip(questions, several.each(), strict=True)
        return Columns.of(_reply(request), (answer(question, client) for question, client in pairs))

    return Handler(request, each, **more)


def of_tier(request: type[Record], answer: Callable[[Any, ClientContext], Record]) -> Handler:
    """A handler from what makes a client's model, of which all clients of a tier have the same: it is asked for the
    first of them. Where the question says `per_client`, each has its own, and is asked."""

    def same(questions: Records, several: ClientContext) -> Columns[Any]:
        report = answer(questions[0], next(several.each()))
        return Columns.of(_reply(request), (replace(report, partition=client.id) for client in several.clients))  # type: ignore[call-arg]

    return Handler(request, same, together=True, learns=True)


def of_scores(request: type[Record], answer: Callable[[Any, Scorer], Record], **more: Any) -> Handler:
    """A handler from what a client answers that knows its scores."""

    def each(questions: Records, several: ClientContext) -> Columns[Any]:
        scorer = Scorer.of(several, questions[0].score, questions[0].align)
        pairs = zip(questions, scorer.each(), strict=True)
        return Columns.of(_reply(request), (answer(question, one) for question, one in pairs))

    return Handler(request, each, together=True, **more)


def answering(handler: Handler) -> ClientAppCallable:
    """A handler as Flower wants it: one client's message, and the reply to it."""

    def answer(message: Message, context: Context) -> Message:
        question: Any = unpack(handler.request, message.content)
        client = ClientContext.of(context, question.population if handler.learns else "")
        return Message(pack(handler.answer([question], client)[0]), reply_to=message)

    return answer


class ColumnsApp(ClientApp):
    """A ClientApp whose clients can be asked many at a time: see `answer`. By message it is Flower's."""

    def __init__(self, handlers: Iterable[Handler], mods: list[Mod], by_message: Collection[str]) -> None:
        """`by_message`: kinds of behaviour whose clients are asked by message alone, which passes the mods."""
        self.handlers = {handler.request.message_type: handler for handler in handlers}
        self.by_message = by_message
        super().__init__(mods=mods)
        for message_type, handler in self.handlers.items():
            category, _, action = message_type.partition(".")
            getattr(self, category)(action)(answering(handler))

    def answer(
        self, questions: Sequence[Any], partitions: Sequence[int], states: Sequence[RecordDict]
    ) -> tuple[Columns[Any], list[RecordDict], list[int]]:
        """See `answer_all`; the questions are of one type."""
        return answer_all(self.handlers[questions[0].message_type], questions, partitions, states, self.by_message)


def answer_all(
    handler: Handler, questions: Records, partitions: Sequence[int], states: Sequence[RecordDict],
    by_message: Collection[str],
) -> tuple[Columns[Any], list[RecordDict], list[int]]:  # fmt: skip
    """What many clients answer, what they keep after it, and the places of those that are not among them: clients of
    these kinds of behaviour, which must be asked by message. The states that are given are not changed.

    Raises:
        Exception: whatever a handler raised; asked by message, each client says whether it is the one.
    """
    people, store = opened(questions[0].population if handler.learns else model_of(states[0]).population)
    clients = [people.client(k) for k in partitions]
    behave = [
        i for i, client in enumerate(clients) if client.behaviour is None or client.behaviour.kind not in by_message
    ]
    new_states, parts, places = list(states), [], []
    for group in _groups(handler, questions, clients, states, behave):
        state = RecordDict(dict(states[group[0]].items())) if handler.learns else states[group[0]]
        several = ClientContext(tuple(clients[i] for i in group), people, store, state)
        parts.append(handler.answer([questions[i] for i in group], several))
        places += group
        if handler.learns:
            for i in group:  # which share it from now on
                new_states[i] = state
    answers = Columns.joined(_reply(handler.request), parts).taken(np.argsort(np.array(places, np.int64)))
    return answers, new_states, sorted(set(range(len(clients))) - set(behave))


def _groups(
    handler: Handler, questions: Records, clients: Sequence[Client], states: Sequence[RecordDict], which: list[int]
) -> Iterator[list[int]]:
    """The places of clients that are answered for in one go: one model, one score, nobody who misbehaves."""
    groups: dict[Any, tuple[list[int], int]] = {}
    keys: dict[tuple[int, int], Any] = {}  # of the same question and state, which thousands of clients share
    for i in which:
        question, client, state = questions[i], clients[i], states[i]
        if (pair := (id(question), id(state))) not in keys:
            keys[pair] = _group_key(handler, question, state)
        if keys[pair] is None or client.behaviour is not None:
            yield [i]
            continue
        key = keys[pair], client.tier.name if handler.learns else ""
        group, rows = groups.setdefault(key, ([], 0))
        size = 0 if handler.learns else len(client.calibration) + len(client.test)
        if group and rows + size > ROWS:
            yield group
            group, rows = [], 0
        group.append(i)
        groups[key] = group, rows + size
    yield from (group for group, _ in groups.values())


def _group_key(handler: Handler, question: Any, state: RecordDict) -> Any:
    """Alike for clients of a tier that are answered for in one go; None: each of these is alone."""
    if not handler.together:
        return None
    if handler.learns:
        own = "per_client" in vars(question) and question.per_client
        return None if own else (id(question), id(state.get("model")))
    if not model_of(state).shared or (question.score and not scored_together(question.score, question.align)):
        return None
    return model_of(state).key, question.score, question.align


def _reply(request: type[Record]) -> type[Record]:
    assert request.reply is not None, "a request names what answers it"
    return request.reply
