"""What a run tells of itself: where the time goes, by phase and by kind of work, and the warnings that a worker gives.

A run's phases are wall seconds and add up to its total. What the clients of one exchange did at the same time is
shared out over its wall time: see `shared_out`.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar

from fl_sim.errors import log

# start      until the runtime is up, and after that while nobody has work because no worker has started yet
# data       the server makes the data and the population ready
# train      models are trained, at the clients or on the server
# infer      whatever else clients compute (predictions, scores, thresholds, tests); on the server, predictions
# messages   the rest of every exchange: transport, clients that wait for each other, idle workers
# aggregate  the rest of what the server does: the strategies' own work
# write      the clients' rows and the metrics
PHASES = ("start", "data", "train", "infer", "messages", "aggregate", "write")

_account: ContextVar[dict[str, float] | None] = ContextVar("account", default=None)


@contextlib.contextmanager
def spending() -> Iterator[dict[str, float]]:
    """What `spent` books in the block: kind of work -> seconds.

    Of nested accounts the innermost books, so that a client that runs in the server's process is on its own account.

    >>> with spending() as account, spent("train"):
    ...     pass
    >>> list(account)
    ['train']
    """
    account: dict[str, float] = {}
    token = _account.set(account)
    try:
        yield account
    finally:
        _account.reset(token)


@contextlib.contextmanager
def spent(kind: str) -> Iterator[None]:
    """Book the block, or the function that this decorates, as seconds of `kind` where an account is open.

    Of nested blocks the outermost books, so that no second counts twice.
    """
    account = _account.get()
    if account is None:
        yield
        return
    token, start = _account.set(None), time.perf_counter()
    try:
        yield
    finally:
        account[kind] = account.get(kind, 0.0) + time.perf_counter() - start
        _account.reset(token)


def shared_out(wall: float, busy: Mapping[str, float], workers: int, idle_start: float = 0.0) -> dict[str, float]:
    """The wall seconds of one exchange by phase, none negative; they add up to `wall`.

    Args:
        wall: seconds from the first message sent to the last reply read.
        busy: phase -> seconds that all clients together say they spent in it. Where they add up to more than `workers`
            can do in the time (timers overlap where processors are shared), they are scaled down to that.
        workers: how many clients ran at once, at most.
        idle_start: seconds of `wall` in which no worker had started yet.

    >>> shared_out(10.0, {"train": 8.0, "infer": 4.0}, workers=2, idle_start=1.0)
    {'train': 4.0, 'infer': 2.0, 'start': 1.0, 'messages': 3.0}
    """
    start = min(idle_start, wall)
    room, wanted = wall - start, sum(busy.values()) / workers
    scale = min(1.0, room / wanted) / workers if wanted else 0.0
    seconds_of = {phase: seconds * scale for phase, seconds in busy.items()}
    return seconds_of | {"start": start, "messages": max(0.0, room - sum(seconds_of.values()))}


class Clock:
    """A run's wall time by phase."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self._last = self._start = time.perf_counter()

    def lap(self, phase: str, *others: Mapping[str, float]) -> None:
        """What has passed since the last lap belongs to `phase`, but for the seconds of it that `others` give to
        theirs."""
        now = time.perf_counter()
        left, self._last = now - self._last, now
        for other, seconds in (item for each in others for item in each.items() if item[0] in PHASES):
            self.seconds[other] += seconds
            left -= seconds
        self.seconds[phase] += max(0.0, left)

    def table(self) -> dict[str, float]:
        """Seconds of each phase, and of all together until the last lap, to the millisecond."""
        phases = {**self.seconds, "total": self._last - self._start}
        return {phase: round(seconds, 3) for phase, seconds in phases.items()}


class _Collector(logging.Handler):
    def __init__(self, warnings: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.warnings = warnings

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it, each once."""
        text = record.getMessage()
        if text not in self.warnings:
            self.warnings.append(text)


@contextlib.contextmanager
def noted() -> Iterator[list[str]]:
    """The warnings that are given in the block, each thing once; it is printed nowhere.

    >>> with noted() as notes:
    ...     log.warning("%d models at a time", 8)
    >>> notes
    ['8 models at a time']
    """
    warnings: list[str] = []
    collector, before = _Collector(warnings), log.propagate
    log.addHandler(collector)
    log.propagate = False
    try:
        yield warnings
    finally:
        log.propagate = before
        log.removeHandler(collector)
