"""What the server does with the answers of one round of calibration: every method of one round, 10,000 clients.

    .venv/bin/python benchmarks/aggregate.py                           10,000 clients of 2 to 198 points
    .venv/bin/python benchmarks/aggregate.py --clients 2000 --points 10
    .venv/bin/python benchmarks/aggregate.py --only cphet grouped

Answers are made up, as clients of two tiers and ten classes would send them, and packed as Flower carries them; no
model, no client and no transport is in it. What is timed is the server's own part. *check*: the account of all clients
takes the answers in, checked and weighed. *aggregate*: the method decodes and checks them, finds its thresholds and
says what it found (`detail`, `caveats`). *lay out*: everybody's threshold is made a message. Each method runs in a
process of its own, and its seconds are the processor's (`time.process_time`). *Memory* is the largest that the process
ever was, *before* it what it was with all answers in hand.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measuring
import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message
from numpy.typing import NDArray

from fl_sim.conformal.histogram import ScoreGrid, coarsened, encode
from fl_sim.conformal.privacy import noisy_counts
from fl_sim.conformal.sketches import sketch_of
from fl_sim.conformal.thresholds import local_threshold
from fl_sim.messages.calibration import ScoresReport, ScoresRequest, ThresholdReport, ThresholdRequest
from fl_sim.messages.record import Record
from fl_sim.messages.summaries import HistogramReport, HistogramRequest, SketchReport, SketchRequest
from fl_sim.messages.wire import pack, unpack
from fl_sim.randomness import stream
from fl_sim.runtime.checked_grid import CheckedGrid
from fl_sim.runtime.grids import SimulatedGrid
from fl_sim.scenario.strategies import calibrate_options
from strategies import calibration
from strategies.base import Calibration, Federation

CLASSES = 10
ALPHA = 0.1
STEPS = ("check", "aggregate", "lay out")

METHODS: dict[str, dict[str, Any]] = {
    "fedwq-cp": {},
    "fedwq-cp, median": {"aggregation": "median", "cap": 3.0},
    "fedwq-cp, trimmed": {"aggregation": "trimmed"},
    "unweighted": {},
    "local": {},
    "pooled": {},
    "fcp": {},
    "fcp, uniform": {"mixture": "uniform"},
    "fcp, t-digest": {"sketch": "tdigest"},
    "fcp, DDSketch": {"sketch": "ddsketch"},
    "fedcp-qq": {},
    "fedcp-qq, conditional": {"guarantee": "conditional"},
    "cphet": {},
    "cphet, weighed": {"subsample": False},
    "h-dcp": {},
    "rob-fcp": {},
    "rob-fcp, a tenth": {"malicious": 0.1},
    "fedhist-cp": {},
    "grouped": {},
    "grouped, found": {"groups": "found"},
    "grouped, pooled labels": {"target": "pooled"},
    "class-conditional": {},
    "private": {},
    "private, client": {"trust": "client"},
}


@dataclass(frozen=True)
class Client:
    """One client's points."""

    partition: int
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]


def world(count: int, points: int) -> list[Client]:
    """Clients of 2 to 2 `points` - 2 points; every other one has a weaker model, and labels are unequal."""
    made = []
    for k in range(count):
        rng = stream(0, "aggregate", k)
        n = int(rng.integers(2, 2 * points - 1))
        labels = rng.choice(CLASSES, size=n, p=rng.dirichlet(np.full(CLASSES, 0.5)))
        made.append(Client(k, rng.beta(1 + k % 2 + labels / CLASSES, 3.0), labels.astype(np.int64)))
    return made


def answer(client: Client, request: Record) -> Record:
    """What the client would send."""
    scores, labels = client.scores, client.labels
    if isinstance(request, ThresholdRequest):
        return ThresholdReport(client.partition, *local_threshold(scores, request.alpha, request.small_n))  # type: ignore[arg-type]
    if isinstance(request, ScoresRequest):
        return ScoresReport(client.partition, scores, *([labels] if request.labels else []))
    if isinstance(request, SketchRequest):
        return SketchReport(client.partition, len(scores), np.frombuffer(sketch_of(scores, request.kind), np.uint8))
    assert isinstance(request, HistogramRequest)
    grid = ScoreGrid.from_text(request.grid)
    counts = grid.count_by(scores, labels, request.num_labels) if request.by_class else grid.count(scores)[None]
    if request.epsilon:
        counts = noisy_counts(counts, request.epsilon, request.share, stream(0, "noise", client.partition))
    code = encode(counts)
    while request.budget and len(code) > request.budget:
        counts = coarsened(counts)
        code = encode(counts)
    return HistogramReport(client.partition, code, request.rows(CLASSES))


def method(name: str, count: int) -> Calibration:
    """The method, for clients of two tiers whose scores given the label follow one law."""
    options = {"name": name.partition(",")[0], "alpha": ALPHA, "score": {"name": "lac"}} | METHODS[name]
    tiers = tuple(("strong", "weak")[k % 2] for k in range(count))
    federation = Federation("", tiers=tiers, num_labels=CLASSES, one_law_a_tier=True)
    return calibration(calibrate_options(options), federation)


class Answered(SimulatedGrid):
    """A Grid on which all answers are there already."""

    def __init__(self, count: int, replies: dict[int, Message]) -> None:
        super().__init__(count)
        self.replies = replies

    def answer(self, messages: Sequence[Message], timeout: float | None) -> Iterable[Message]:
        """Those of the nodes that are asked."""
        return [self.replies[message.metadata.dst_node_id] for message in messages]


def measured(name: str, count: int, points: int) -> dict[str, float]:
    """Seconds and bytes of one method, in this process."""
    strategy, replies = method(name, count), dict[int, Message]()
    grid = CheckedGrid(Answered(count, replies), [f"client {k}" for k in range(count)], "stop")
    messages = list(strategy.configure_train(1, ArrayRecord(), ConfigRecord(), grid))
    request: Any = unpack(_kind(messages[0]), messages[0].content)
    for client, message in zip(world(count, points), messages, strict=True):
        content = pack(answer(client, request))
        replies[message.metadata.dst_node_id] = Message(content, reply_to=message)
    before, times = peak(), [time.process_time()]
    checked = list(grid.send_and_receive(messages))
    times.append(time.process_time())
    strategy.aggregate_train(1, checked)
    json.dumps([strategy.detail(), strategy.caveats()])
    times.append(time.process_time())
    list(strategy.configure_evaluate(1, ArrayRecord(), ConfigRecord(), grid))
    times.append(time.process_time())
    assert len(strategy.thresholds) == count
    return {"before": before, "peak": peak(), "whole": times[-1] - times[0]} | dict(
        zip(STEPS, np.diff(times), strict=True)
    )


def _kind(message: Message) -> type[Record]:
    kinds = (ThresholdRequest, ScoresRequest, SketchRequest, HistogramRequest)
    return next(kind for kind in kinds if kind.message_type == message.metadata.message_type)


def peak() -> int:
    """Bytes that this process had in memory when it had most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=10_000)
    parser.add_argument("--points", type=int, default=100, help="of a client, on average")
    parser.add_argument("--only", nargs="+", metavar="METHOD", help="names of methods, or how they begin")
    parser.add_argument("--one", choices=METHODS, help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.clients < 1 or options.points < 2:
        parser.error("a client and 2 points of it at least")
    options.methods = [name for name in METHODS if not options.only or name.startswith(tuple(options.only))]
    if not options.methods:
        parser.error(f"--only {' '.join(options.only)}: none of {'; '.join(METHODS)} begins so")
    return options


def main() -> None:
    """Print the table."""
    options = arguments()
    if options.one:
        print(json.dumps(measured(options.one, options.clients, options.points)))
        return
    print(f"{measuring.machine()}; {options.clients:,} clients, {options.points} points each on average", flush=True)

    def row(name: str) -> list[str]:
        words = [
            sys.executable,
            __file__,
            "--one",
            name,
            "--clients",
            str(options.clients),
            "--points",
            str(options.points),
        ]
        printed = measuring.command(words, environment={}, cwd=Path.cwd()).printed
        times = [measuring.seconds(printed[key]) for key in (*STEPS, "whole")]
        return [name, *times, *(measuring.gigabytes(printed[key]) for key in ("before", "peak"))]

    measuring.table(["method", *STEPS, "together", "before", "memory"], map(row, options.methods))


if __name__ == "__main__":
    main()
