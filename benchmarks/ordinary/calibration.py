"""One-shot conformal calibration as a Flower app: FedWQ-CP's round, then everybody's test."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from ordinary import task

app = ClientApp()


def scores(message: Message, context: Context, split: str) -> torch.Tensor:
    """1 - p_y of a client's rows, by the model that the server sent."""
    content: Any = message.content
    net = task.make_net(content["config"]["model"])
    net.load_state_dict(content["arrays"].to_torch_state_dict())
    loader = task.load_data(int(context.node_config["partition-id"]), split, batch_size=32)
    probabilities, labels = task.predict(net, loader)
    return 1 - probabilities[torch.arange(len(labels)), labels]


@app.query()
def calibrate(message: Message, context: Context) -> Message:
    """The threshold of a client's own calibration rows: their ceil((n + 1)(1 - alpha))-th smallest score."""
    mine, content = scores(message, context, "calibration"), message.content
    alpha = float(content["config"]["alpha"])  # type: ignore[arg-type]
    rank = min(len(mine), math.ceil(round((len(mine) + 1) * (1 - alpha), 9)))
    threshold = float(mine.sort().values[rank - 1]) if len(mine) else 0.0
    metrics = MetricRecord({"threshold": threshold, "num-examples": len(mine)})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """How many of a client's test rows the common threshold covers."""
    mine, content = scores(message, context, "test"), message.content
    covered = int((mine <= float(content["config"]["threshold"])).sum())  # type: ignore[arg-type]
    metrics = MetricRecord({"covered": covered, "num-examples": len(mine)})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


def serve(grid: Grid, alpha: float) -> tuple[float, float, float]:
    """Coverage, and seconds of the first and of the second exchange."""
    models = [client["model"] for client in task.partition()["clients"]]
    while len(nodes := list(grid.get_nodes())) < len(models):
        time.sleep(0.1)
    # In the order of the partitions, which decide who has which model.
    ids = [node.node_id for node in sorted(nodes, key=lambda node: node.registered_at)]
    weights = {name: ArrayRecord(torch.load(task.folder() / f"{name}.pt")) for name in sorted(set(models))}
    thresholds = ask(grid, ids, "query", contents(weights, models, alpha=alpha))
    total = sum(t["num-examples"] for t in thresholds)
    threshold = sum(t["threshold"] * t["num-examples"] for t in thresholds) / total
    counts = ask(grid, ids, "evaluate", contents(weights, models, threshold=threshold))
    coverage = sum(t["covered"] for t in counts) / sum(t["num-examples"] for t in counts)
    first, last = ask.seconds
    return coverage, first, last


def contents(weights: dict[str, ArrayRecord], models: Sequence[str], **numbers: float) -> list[RecordDict]:
    """What each client is sent: its model's weights, and a number."""
    made = {
        name: RecordDict({"arrays": arrays, "config": ConfigRecord({"model": name, **numbers})})
        for name, arrays in weights.items()
    }
    return [made[name] for name in models]


class Asking:
    """Sends a message to each node and notes the seconds until all have answered."""

    def __init__(self) -> None:
        self.seconds: list[float] = []  # of each exchange

    def __call__(self, grid: Grid, ids: Sequence[int], kind: str, sent: Sequence[RecordDict]) -> list[dict[str, Any]]:
        """What they answered."""
        messages = [Message(c, dst_node_id=node, message_type=kind) for node, c in zip(ids, sent, strict=True)]
        start = time.perf_counter()
        replies = list(grid.send_and_receive(messages, timeout=3600))
        self.seconds.append(time.perf_counter() - start)
        return [dict(reply.content["metrics"]) for reply in replies]  # type: ignore[arg-type]


ask = Asking()
Server = Callable[[Grid], Any]


def simulate(client: ClientApp, count: int, server: Server, cores: int | None = None) -> Any:
    """What `server` returns, on Flower's simulation with so many cores a client, or as many as Flower gives it."""
    import logging
    import warnings

    from flwr.serverapp import ServerApp
    from flwr.simulation import run_simulation

    logging.getLogger("flwr").setLevel(logging.ERROR)
    outcome: list[Any] = []
    made = ServerApp()

    @made.main()
    def main(grid: Grid, context: Context) -> None:
        outcome.append(server(grid))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        quiet = {"address": "local", "log_to_driver": False, "logging_level": "ERROR"}
        config: dict[str, Any] = {"init_args": quiet}
        if cores is not None:
            config["client_resources"] = {"num_cpus": cores, "num_gpus": 0.0}
        run_simulation(made, client, count, backend_config=config)
    return outcome[0]
