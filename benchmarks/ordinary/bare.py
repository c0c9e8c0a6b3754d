"""The floor of federated averaging: a bare PyTorch loop on persistent processes, and nothing else.

    python bare.py FOLDER PROCESSES      FOLDER as `preparing.write_arrays` writes it, with the first weights

One thread a process, the weights in shared memory, clients handed out one by one, the largest first; a process adds
n_k w_k to a sum of its own, so that a round costs one vector a process.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import multiprocessing, nn
from torch.nn.utils import parameters_to_vector

LEARNING_RATE, BATCH = 1e-3, 64


class Shared:
    """What the processes have in common. `order` is who trains in this round, `next` who is still to be taken."""

    def __init__(self, context: Any, processes: int, size: int, cohort: int) -> None:
        self.weights = torch.zeros(size).share_memory_()
        self.sums = torch.zeros(processes, size).share_memory_()
        self.order = torch.zeros(cohort, dtype=torch.long).share_memory_()
        self.next = context.Value("i", 0)
        self.begin, self.end = context.Barrier(processes + 1), context.Barrier(processes + 1)

    def take(self) -> int | None:
        """The next client, if there is one left."""
        with self.next.get_lock():
            place, self.next.value = self.next.value, self.next.value + 1
        return int(self.order[place]) if place < len(self.order) else None


def work(rank: int, shared: Shared, folder: Path, rounds: int) -> None:
    """One process."""
    from ordinary.task import make_net

    torch.set_num_threads(1)
    torch.manual_seed(rank)
    data = np.load(folder / "arrays.npz")
    x, y, rows, starts = (torch.from_numpy(data[name]) for name in ("train_x", "train_y", "rows", "starts"))
    net = make_net("cnn")
    for _ in range(rounds):
        shared.begin.wait()
        shared.sums[rank].zero_()
        while (k := shared.take()) is not None:
            mine = rows[starts[k] : starts[k + 1]]
            load(net, shared.weights)
            fit(net, x, y, mine, int(data["epochs"]))
            shared.sums[rank].add_(parameters_to_vector(net.parameters()).detach(), alpha=len(mine))
        shared.end.wait()


@torch.no_grad()
def load(net: nn.Module, weights: torch.Tensor) -> None:
    """Copy a vector (p,) into a network's parameters."""
    parameters = list(net.parameters())
    for parameter, part in zip(parameters, weights.split([p.numel() for p in parameters]), strict=True):
        parameter.copy_(part.view_as(parameter))


def fit(net: nn.Module, x: torch.Tensor, y: torch.Tensor, rows: torch.Tensor, epochs: int) -> None:
    """Train on these rows."""
    optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE)
    for _ in range(epochs):
        for batch in rows[torch.randperm(len(rows))].split(BATCH):
            optimizer.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(net(x[batch]), y[batch]).backward()
            optimizer.step()


def main(folder: Path, processes: int) -> None:
    """Print the seconds of each round, and the accuracy."""
    from ordinary.task import make_net

    data = np.load(folder / "arrays.npz")
    draws, sizes = data["draws"], np.diff(data["starts"])
    net = make_net("cnn")
    net.load_state_dict(torch.load(folder / "initial.pt"))
    context = multiprocessing.get_context("spawn")
    first = parameters_to_vector(net.parameters()).detach()
    shared = Shared(context, processes, len(first), draws.shape[1])
    shared.weights.copy_(first)
    workers = [context.Process(target=work, args=(r, shared, folder, len(draws))) for r in range(processes)]
    for worker in workers:
        worker.start()
    seconds = [one_round(shared, drawn, sizes) for drawn in draws]
    for worker in workers:
        worker.join()
    load(net, shared.weights)
    with torch.no_grad():
        labels = net(torch.from_numpy(data["test_x"])).argmax(dim=1).numpy()
    print(json.dumps({"rounds": seconds, "accuracy": float((labels == data["test_y"]).mean())}))


def one_round(shared: Shared, drawn: np.ndarray, sizes: np.ndarray) -> float:
    """Its seconds."""
    start = time.perf_counter()
    shared.order.copy_(torch.from_numpy(drawn[np.argsort(-sizes[drawn], kind="stable")]))
    shared.next.value = 0
    shared.begin.wait()
    shared.end.wait()
    shared.weights.copy_(shared.sums.sum(dim=0) / int(sizes[drawn].sum()))
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main(Path(sys.argv[1]), int(sys.argv[2]))
