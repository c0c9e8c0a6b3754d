"""Points side by side: each of N processes runs one after another, on a runtime of its own.

What points have in common is made once: the artifact store lets the others wait for whoever is at it.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from fl_sim.errors import RuntimeLostError

Point = TypeVar("Point")
Runtime = TypeVar("Runtime")
Outcome = TypeVar("Outcome")
Start = Callable[[], contextlib.AbstractContextManager[Runtime]]

GRACE = 5.0  # seconds that a worker has to stop what it has started, once nobody waits for it any more

_running = contextlib.ExitStack()  # of a worker: its runtime, from its first point on
_runtime: list[Any] = []
_at_work: list[Any] = []  # the point that is being run


class Left(BaseException):
    """A worker is to end in the middle of a point. No SystemExit, which a client's handler takes for a failure."""


def side_by_side(
    points: Iterator[Point], jobs: int, start: Start[Runtime], run: Callable[[Runtime, Point], Outcome]
) -> Iterator[tuple[Point, Outcome]]:
    """Each point and what `run` makes of it, as they end; so many at a time, begun in their order, each process on what
    `start` opens. All three travel to the processes. Where nobody waits for them any more the processes end.

    Raises:
        RuntimeLostError: a process was killed.
    """
    others = multiprocessing.active_children()
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _begin) as pool:
        waiting: dict[Future[Outcome], Point] = {}
        try:
            while True:
                while len(waiting) < jobs and (point := next(points, None)) is not None:
                    waiting[pool.submit(_turn, start, run, point)] = point
                if not waiting:
                    return
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    yield waiting.pop(future), future.result()
        except BrokenProcessPool:
            for child in _started_beside(others):
                child.kill()  # else the executor waits for those that are in the middle of a point
            raise RuntimeLostError("a process that ran points was killed, perhaps for memory; fewer --jobs") from None
        except BaseException:
            for child in _started_beside(others):
                child.terminate()
            pool.shutdown(cancel_futures=True)
            raise


def _started_beside(others: list[BaseProcess]) -> list[BaseProcess]:
    return [child for child in multiprocessing.active_children() if child not in others]


def _turn(start: Start[Runtime], run: Callable[[Runtime, Point], Outcome], point: Point) -> Outcome:
    _at_work.append(point)
    try:
        if not _runtime:
            _runtime.append(_running.enter_context(start()))
        return run(_runtime[0], point)
    except Left:
        _end()
        raise
    finally:
        _at_work.clear()


def _begin() -> None:
    """Let Ctrl-C to whoever waits for this process, and end with it, or when it says so."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    atexit.register(_running.close)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave(number: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: what was started is being stopped
    if _at_work:
        raise Left
    _end()


def _end() -> None:
    """Not by an exception, which the executor would take for a point's, and then wait for the next one."""
    _running.close()
    os._exit(128 + signal.SIGTERM)


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)  # which may wait for a next point
        time.sleep(GRACE)
        os._exit(128 + signal.SIGTERM)
