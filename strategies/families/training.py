"""What the learn strategies have in common in which the server averages nothing: who trains a model that others have
too, and what the server hands to all."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from flwr.app import Message
from flwr.serverapp import Grid
from numpy.typing import NDArray

from fl_sim.messages.learning import PayloadMessage
from strategies.base import ALONE, Federation, Learning, request


class TrainOncePerGroup(Learning):
    """Whoever is first makes a model in round 1; in round 2 the others find theirs in the artifact store. So nobody
    waits for what another is making.

    Where clients have models of their own (`per_client`) the first of each cohort trains those of the whole cohort;
    where a tier shares one, the first of the tier. None: the clients make nothing, and all are asked at once.
    """

    def __init__(self, federation: Federation = ALONE, *, per_client: bool | None) -> None:
        super().__init__(federation)
        self.per_client = bool(per_client)
        self._first = [] if per_client is None else turns(federation.tiers, per_client, federation.cohorts)
        self.num_rounds = 1 if all(self._first) else 2
        cohorts = federation.cohorts() if per_client else ()
        self.models = max(Counter(cohorts).values(), default=1)  # that whoever is asked may have to train

    def turn(self, server_round: int, count: int) -> list[int]:
        """The partitions, of `count`, whose turn it is."""
        first = self._first or [True] * count
        return [k for k in range(count) if first[k] == (server_round == 1)]


class Broadcast(TrainOncePerGroup):
    """The server learns from rows of its own, and hands what it found to every client: the same bytes to all."""

    trains_locally = False
    hands_out = True

    @property
    @abstractmethod
    def file(self) -> bytes:
        """What is handed out."""

    @property
    def array(self) -> NDArray[np.uint8]:
        """The same, as a message carries it."""
        return np.frombuffer(self.file, np.uint8)

    @abstractmethod
    def request(self) -> PayloadMessage:
        """What every client is sent."""

    def messages(self, server_round: int, nodes: Sequence[int], grid: Grid) -> Iterable[Message]:
        """Whose turn it is."""
        record, now = self.request(), self.turn(server_round, len(nodes))
        self.bytes_down |= dict.fromkeys(now, int(record.information_bytes))
        return request(record, [nodes[k] for k in now])


def turns(tiers: Sequence[str], per_client: bool, cohorts: Callable[[], Sequence[int]] = tuple) -> list[bool]:
    """(K,) who is first: of each tier, or with models of their own of each cohort, where there are such, else
    everybody."""
    groups: Sequence[str | int] = [*cohorts()] or range(len(tiers)) if per_client else tiers
    firsts = {group: k for k, group in reversed(list(enumerate(groups)))}
    return [firsts[group] == k for k, group in enumerate(groups)]
