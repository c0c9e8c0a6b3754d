"""Running the points of a sweep, and going on with them where it stopped.

A run is finished when its folder is there, which appears at once, under a lock: killed at any moment, the same command
repeats nothing that was finished, and two processes at one sweep do not run a point twice.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Generator, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from fl_sim.errors import FlSimError, RuntimeLostError, log
from fl_sim.preflight import check
from fl_sim.results.run import RunFolder
from fl_sim.results.sweep_folder import FAILED, POINTS, SWEEP, SweepFile, is_finished
from fl_sim.runtime.choice import choose
from fl_sim.simulation import Progress, Silent, Simulator, simulator
from fl_sim.store.artifacts import users_store
from fl_sim.store.folders import PREFIX, alone_in, clear_dead, is_there, sealed, write_whole
from fl_sim.sweep.expand import Point, Sweep
from fl_sim.sweep.jobs import Start, side_by_side


class Watch(Progress, Protocol):
    """Told what is going on in a sweep."""

    def begin(self, total: int, finished: int) -> None:
        """So many runs, of which so many are finished already."""

    def placed(self, words: str) -> None:
        """Where the next runs run, and why, where the scenario leaves it open."""

    def point(self, words: str) -> None:
        """A run begins."""

    def ended(self, words: str, failure: str | None) -> None:
        """A run has ended, well or not."""


def run_sweep(
    sweep: Sweep, folder: Path, watch: Watch, *, store: Path | None, verbose: bool, fail_fast: bool, jobs: int = 1
) -> dict[str, str]:
    """Run what is not finished, `jobs` points at a time. Returns run -> why it failed.

    Raises:
        RuntimeLostError: what clients run on is gone, so that every other point would fail alike.
        FlSimError: the folder cannot be written or is not this sweep's, or `fail_fast` and a point failed.
    """
    for point in sweep.runs.values():
        check(point.scenario)
    claim(sweep, folder)
    with writing(folder):
        (folder / FAILED).unlink(missing_ok=True)
    todo = [point for point in sweep.runs.values() if not is_finished(folder, point.run)]
    watch.begin(len(sweep.runs), len(sweep.runs) - len(todo))
    failed: dict[str, str] = {}
    try:
        for points in _by_runtime(todo):
            most, at_once = max(point.scenario.clients.count for point in points), min(jobs, len(points))
            where, why = choose([point.scenario for point in points], users_store(store), at_once)
            if why:
                watch.placed(why)
            start = partial(simulator, where, most, store=store, verbose=verbose, share=at_once)
            with contextlib.closing(_outcomes(points, folder, start, watch, at_once)) as outcomes:
                for point, failure in outcomes:
                    if failure is not None:
                        failed[point.run] = failure
                        if fail_fast:
                            raise FlSimError(f"{failure}\nat the point {point.words()}; the finished points are kept")
    except RuntimeLostError as error:
        finished = sum(is_finished(folder, run) for run in sweep.runs)
        progress = f"{finished} of {len(sweep.runs)} runs {'is' if finished == 1 else 'are'} finished and kept"
        raise RuntimeLostError(f"{error}; {progress}, and the same command goes on with the others") from None
    finally:
        if failed:
            with writing(folder):
                write_whole(folder / FAILED, sealed(FAILED, failed))
    return failed


def _outcomes(
    points: Sequence[Point], folder: Path, start: Start[Simulator], watch: Watch, jobs: int
) -> Generator[tuple[Point, str | None]]:
    """Each point when it has ended, and why it failed."""
    free = _nobody_else_first(folder, points)
    if jobs > 1:
        for point, failure in side_by_side(free, jobs, start, partial(_run_point, folder, None)):
            watch.ended(point.words(), failure)
            yield point, failure
        return
    with start() as simulate:
        for point in free:
            failure = _run_point(folder, watch, simulate, point)
            watch.ended(point.words(), failure)
            yield point, failure


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Say of what cannot be written into a sweep's folder in the block that its points are kept.

    Raises:
        FlSimError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        why = f"{error.filename or folder}: cannot be read or written: {error.strerror or error}"
        raise FlSimError(f"{why}; choose another --out, or see to that: the finished points are kept") from error


def _run_point(folder: Path, watch: Watch | None, simulate: Simulator, point: Point) -> str | None:
    """Run a point unless it is finished by now; returns why it failed. `watch` is told, if there is one."""
    with _lock(folder, point.run, wait=True):
        if is_finished(folder, point.run):
            return None
        if watch is not None:
            watch.point(point.words())
        try:
            with RunFolder(folder / POINTS / point.run) as place:
                result = simulate(point.scenario, watch or Silent())
                for note in result.summary["notes"]:
                    log.warning("%s: %s", point.words(), note)
                place.write(result)
                place.finish()
        except RuntimeLostError:
            raise
        except Exception as error:  # whatever else it is, it must not cost the other points
            reason = str(error) if isinstance(error, FlSimError) else f"{type(error).__name__}: {error}"
            return "; ".join([reason, *getattr(error, "__notes__", [])])
    return None


def claim(sweep: Sweep, folder: Path) -> None:
    """Make the folder this sweep's.

    Raises:
        FlSimError: it is another sweep's, of another version, or holds something else, or cannot be written.
    """
    with writing(folder):
        _refuse_taken(sweep, folder)
        folder.mkdir(parents=True, exist_ok=True)
        if not is_there(folder / SWEEP):
            _write(sweep, folder)
        file = SweepFile.read(folder)
        if file.identity != sweep.identity:
            raise FlSimError(f"{folder}: belongs to another sweep ({file.name}); choose another --out")
        (folder / POINTS).mkdir(exist_ok=True)
        clear_dead(folder / POINTS)


def _write(sweep: Sweep, folder: Path) -> None:
    with alone_in(folder):
        for leftover in folder.glob(f".{SWEEP}-*"):  # of who was killed here: nobody else is at it
            leftover.unlink()
        if not is_there(folder / SWEEP):  # else another process was faster
            write_whole(folder / SWEEP, sweep.file().content())


def _refuse_taken(sweep: Sweep, folder: Path) -> None:
    if not (folder.exists() or folder.is_symlink()):
        return
    if not folder.is_dir():
        raise FlSimError(f"{folder}: is there already and is no folder; choose another --out")
    strange = [path.name for path in folder.iterdir() if not path.name.startswith((PREFIX, f".{SWEEP}-"))]
    finished = any((folder / POINTS / run).is_dir() for run in sweep.runs)  # though its `sweep.json` may be lost
    if strange and not finished and not is_there(folder / SWEEP):  # looked for last: another process may be at it
        raise FlSimError(
            f"{folder}: is there already and is no sweep of fl-sim (it holds {strange[0]}); choose another --out"
        )


def _by_runtime(points: Sequence[Point]) -> Iterable[list[Point]]:
    """Points that can share one runtime, in the order in which they come."""
    groups: dict[str, list[Point]] = {}
    for point in points:
        groups.setdefault(point.scenario.runtime.model_dump_json(), []).append(point)
    return groups.values()


def _nobody_else_first(folder: Path, points: Sequence[Point]) -> Iterator[Point]:
    """The points; those that another process is at come last, when it has probably finished them."""
    later = []
    for point in points:
        try:
            with _lock(folder, point.run, wait=False):
                pass
        except BlockingIOError:
            later.append(point)
            continue
        yield point
    yield from later


@contextlib.contextmanager
def _lock(folder: Path, run: str, *, wait: bool) -> Iterator[None]:
    """Raises BlockingIOError where another process has it and it is not waited for."""
    path = folder / POINTS / f".lock-{run}"
    with contextlib.ExitStack() as stack:
        with writing(path):
            handle = stack.enter_context(path.open("w", encoding="utf-8"))
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))  # released when the process dies
        except BlockingIOError:
            raise
        except OSError as error:
            raise FlSimError(f"{path}: cannot be locked: {error.strerror}; choose another --out") from None
        yield
