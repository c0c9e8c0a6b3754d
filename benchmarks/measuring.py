"""What the benchmarks share: a command that is timed or weighed from the outside, least squares, and tables.

Wall times on a machine that does something else are worth nothing: what is printed are medians of commands that ran in
turn, so that a busy moment meets all of them, and their ratios.
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

MARK = "FL_SIM_BENCHMARK"  # in the environment of a command and of all that it starts, however that detaches itself
EVERY = 0.5  # seconds between two looks at the memory


class Done(NamedTuple):
    """A command that ended well."""

    seconds: float  # from its start to its end
    printed: Any  # the JSON in the last line of what it printed
    peak: int | None  # bytes; None where nobody looked


def command(words: Sequence[str], *, environment: Mapping[str, str], cwd: str | Path, weigh: bool = False) -> Done:
    """Run a command to its end; `weigh` watches its memory, which costs it some time.

    Raises:
        SystemExit: it failed; with what it said.
    """
    mark = uuid.uuid4().hex
    watch = Watch(mark) if weigh else None
    start = time.perf_counter()
    done = subprocess.run(
        list(words), env={**os.environ, **environment, MARK: mark}, cwd=cwd, capture_output=True, text=True
    )
    seconds = time.perf_counter() - start
    peak = None if watch is None else watch.end()
    if done.returncode:
        sys.exit(f"{' '.join(words)}\n{done.stdout}\n{done.stderr}")
    return Done(seconds, json.loads(done.stdout.splitlines()[-1]), peak)


class Watch(threading.Thread):
    """Looks at the memory of all processes that have a mark, every EVERY seconds, until it is told to end."""

    def __init__(self, mark: str) -> None:
        super().__init__(daemon=True)
        self.mark, self.peak = mark, 0
        self._over = threading.Event()
        self.start()

    def run(self) -> None:
        """Keep the largest sum seen."""
        while not self._over.wait(EVERY):
            self.peak = max(self.peak, sum(pss(pid) for pid in marked(self.mark)))

    def end(self) -> int:
        """The peak, in bytes."""
        self._over.set()
        self.join()
        return self.peak


def marked(mark: str) -> list[int]:
    """The processes that were started with a mark in their environment: Ray's have no parent to be found by."""
    return [int(place.name) for place in Path("/proc").glob("[0-9]*") if f"{MARK}={mark}" in _environment(place)]


def _environment(place: Path) -> list[str]:
    try:
        return (place / "environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:  # it ended meanwhile, or is another user's
        return []


def name_of(pid: int) -> str:
    """A process's own name; Ray's workers say there what they run. Nothing for one that is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def pss(pid: int, part: str = "Pss") -> int:
    """Bytes of a process's proportional set: its own pages, and its share of those it has in common with others; of
    `Pss_Anon` and `Pss_Shmem` those parts of it. 0 for a process that is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{part}:")), 0)


# -------------------------------------------------------------------------------------------------------- least squares


class Line(NamedTuple):
    """y = a + b x by least squares."""

    intercept: float
    slope: float
    slope_error: float  # standard error; nan through two points
    residuals: NDArray[np.float64]  # (y - fit) / y, (n,)
    r_squared: float

    def of(self, x: float) -> float:
        """The fitted value."""
        return self.intercept + self.slope * x


def line(x: ArrayLike, y: ArrayLike) -> Line:
    """The least-squares line through points x, y (n,), n >= 2, not all at one x.

    Raises:
        ValueError: fewer, or all at one x.
    """
    xs, ys = np.asarray(x, float), np.asarray(y, float)
    spread = float(((xs - xs.mean()) ** 2).sum()) if len(xs) else 0.0
    if len(xs) < 2 or spread == 0:
        raise ValueError(f"a line through x = {xs.tolist()}: at least two different values are needed")
    slope = float(((xs - xs.mean()) * (ys - ys.mean())).sum()) / spread
    intercept = float(ys.mean() - slope * xs.mean())
    off = ys - intercept - slope * xs
    total = float(((ys - ys.mean()) ** 2).sum())
    error = float(np.sqrt((off**2).sum() / (len(xs) - 2) / spread)) if len(xs) > 2 else float("nan")
    return Line(intercept, slope, error, off / ys, 1 - float((off**2).sum()) / total if total else 1.0)


# --------------------------------------------------------------------------------------------------------------- tables


def table(head: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> None:
    """Print a Markdown table."""
    if title:
        print(f"\n{title}\n")
    print(f"| {' | '.join(head)} |\n{'|---' * len(head)}|")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def seconds(value: float | None) -> str:
    """Seconds in three digits; a dash for what was not run."""
    if value is None:
        return "-"
    return f"{value * 1000:.3g} ms" if value < 0.1 else f"{value:.2f} s" if value < 10 else f"{value:.1f} s"


def ratio(over: float | None, under: float | None) -> str:
    """over / under; a dash where one of them was not run."""
    if over is None or not under:
        return "-"
    quotient = over / under
    return f"{quotient:.2f}" if quotient < 10 else f"{quotient:.0f}"


def gigabytes(count: float | None) -> str:
    """Bytes in GB (1e9), megabytes where they are few."""
    if count is None:
        return "-"
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def machine() -> str:
    """Where this was measured."""
    import torch

    named = [text.partition(":")[2].strip() for text in _lines("/proc/cpuinfo") if text.startswith("model name")]
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    words = f"{os.cpu_count()} cores ({named[0] if named else platform.machine()})"
    return f"{words}, {', '.join(gpus) or 'no GPU'}; Python {platform.python_version()}, torch {torch.__version__}"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


class Stamps:
    """A run's progress that notes when each phase begins; the checked grid tells of each exchange when it begins."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, float]] = []

    def phase(self, name: str, total: int | None) -> None:
        """An exchange begins, or another phase."""
        self.begun.append((name, time.perf_counter()))

    def done(self, count: int) -> None:
        """Nothing."""

    def lasted(self, name: str) -> list[float]:
        """Seconds of the phases whose name ends so, each to the beginning of what came after it."""
        pairs = itertools.pairwise(self.begun)
        return [after - before for (what, before), (_, after) in pairs if what.endswith(name)]
