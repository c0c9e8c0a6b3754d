"""Federated averaging in pfl-research (https://github.com/apple/pfl-research, `pip install pfl`), for an interpreter
that has it, torch and NumPy; of this repository it needs nothing.

    PYTHON -m torch.distributed.run --standalone --nproc_per_node 2 pfl_averaging.py FOLDER

FOLDER is as `preparing.write_arrays` writes it, with the first weights. Each process holds every client's tensors,
already cut out, and pfl shares a cohort out by the clients' sizes; the cohorts are those of everybody else. Two things
are pfl's own: it does not shuffle a client's rows, and it averages differences of weights rather than weights.
"""

from __future__ import annotations

import json
import sys
import time
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
from pfl.internal.ops import pytorch_ops
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from torch import nn


class Net(nn.Sequential):
    """The small CNN, with the two methods that pfl asks for."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(32 * 7 * 7, 64), nn.ReLU(), nn.Linear(64, 10),
        )  # fmt: skip

    def loss(self, x: torch.Tensor, y: torch.Tensor, **_: Any) -> torch.Tensor:
        """What is minimised."""
        self.train()
        return nn.functional.cross_entropy(self(x), y)

    def metrics(self, x: torch.Tensor, y: torch.Tensor, **_: Any) -> dict[str, Any]:
        """Nothing is measured while it trains."""
        return {}


class Stamps(TrainingProcessCallback):
    """Notes when each round was over."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def on_train_begin(self, *, model: Any) -> Metrics:
        """The first round begins."""
        self.at.append(time.perf_counter())
        return Metrics()

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: Any, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        """A round is over."""
        self.at.append(time.perf_counter())
        return False, Metrics()


def main(folder: Path) -> None:
    """Print the seconds of each round, and the accuracy."""
    torch.set_num_threads(1)
    data = np.load(folder / "arrays.npz")
    x, y, rows, starts = (torch.from_numpy(data[name]) for name in ("train_x", "train_y", "rows", "starts"))
    parts = [rows[starts[k] : starts[k + 1]] for k in range(len(starts) - 1)]
    datasets = [PyTorchTensorDataset((x[mine], y[mine]), user_id=str(k)) for k, mine in enumerate(parts)]
    draws, sampler = data["draws"], cycle(data["draws"].ravel().tolist())
    clients = FederatedDataset(datasets.__getitem__, sampler.__next__, {k: len(mine) for k, mine in enumerate(parts)})
    net = Net()
    net.load_state_dict(torch.load(folder / "initial.pt"))
    model = PyTorchModel(net, torch.optim.Adam, torch.optim.SGD(net.parameters(), lr=1.0))
    stamps = Stamps()
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=len(draws), evaluation_frequency=10**9,
            train_cohort_size=draws.shape[1], val_cohort_size=0,
        ),
        backend=SimulatedBackend(clients, clients, [WeightByDatapoints()]),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_num_epochs=int(data["epochs"]), local_learning_rate=1e-3, local_batch_size=64,
            local_max_grad_norm=None,
        ),
        model_eval_params=NNEvalHyperParams(local_batch_size=1024),
        callbacks=[stamps],
    )  # fmt: skip
    if pytorch_ops.distributed.global_rank:
        return
    with torch.no_grad():
        labels = net.eval()(torch.from_numpy(data["test_x"])).argmax(dim=1).numpy()
    rounds = np.diff(stamps.at).tolist()
    print(json.dumps({"rounds": rounds, "accuracy": float((labels == data["test_y"]).mean())}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
