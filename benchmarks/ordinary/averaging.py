"""Federated averaging as a Flower app, in the manner of Flower's own PyTorch quickstart; the one difference is that who
trains in which round is read from a file, where Flower's FedAvg draws by Python's global random numbers."""

from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from ordinary import task

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the model that the server sent on the client's own rows."""
    content: Any = message.content
    net = task.make_net("cnn")
    net.load_state_dict(content["arrays"].to_torch_state_dict())
    config = content["config"]
    loader = task.load_data(int(context.node_config["partition-id"]), "train", config["batch-size"], shuffle=True)
    task.train(net, loader, config["epochs"], config["lr"])
    metrics = MetricRecord({"num-examples": len(loader.dataset)})  # type: ignore[arg-type]
    return Message(RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics}), reply_to=message)


class Drawn(FedAvg):
    """FedAvg over the clients that were drawn beforehand, (rounds, cohort)."""

    def __init__(self, draws: np.ndarray, count: int) -> None:
        super().__init__(fraction_evaluate=0.0, min_available_nodes=count)
        self.draws, self.count = draws, count

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Flower's, but for who is drawn."""
        while len(nodes := list(grid.get_nodes())) < self.count:
            time.sleep(0.1)
        ids = [node.node_id for node in sorted(nodes, key=lambda node: node.registered_at)]
        record = RecordDict({"arrays": arrays, "config": config})
        return [Message(record, dst_node_id=ids[k], message_type="train") for k in self.draws[server_round - 1]]


def serve(grid: Grid, rounds: int) -> dict[str, Any]:
    """Seconds of each round, and the accuracy of the model that they end with."""
    count, stamps = len(task.partition()["clients"]), []

    def stamp(server_round: int, arrays: ArrayRecord) -> None:
        stamps.append(time.perf_counter())  # before the first round, and after each

    arrays = np.load(task.folder() / "arrays.npz")
    result = Drawn(arrays["draws"], count).start(
        grid,
        ArrayRecord(torch.load(task.folder() / "initial.pt")),
        num_rounds=rounds,
        train_config=ConfigRecord({"epochs": int(arrays["epochs"]), "lr": 1e-3, "batch-size": 64}),
        evaluate_fn=stamp,
    )
    return {
        "rounds": [after - before for before, after in pairwise(stamps)],
        "accuracy": accuracy(result.arrays.to_torch_state_dict(), count),
    }


def accuracy(weights: Any, count: int) -> float:
    """Of a model on the test rows of all clients."""
    net = task.make_net("cnn")
    net.load_state_dict(weights)
    right = total = 0
    for k in range(count):
        probabilities, labels = task.predict(net, task.load_data(k, "test", batch_size=1024))
        right, total = right + int((probabilities.argmax(dim=1) == labels).sum()), total + len(labels)
    return right / total
