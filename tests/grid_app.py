"""A ClientApp that behaves as its messages tell it, for the tests of the Grids.

Every node counts in its state how often it was asked, and notes in the file `runs` each time that it is run. The config
record `told` says who does what: `raise`, `none`, `echo`, `exit_once`, `exit`, `sleep`, each a list of partitions.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.query("behave")
def behave(message: Message, context: Context) -> Message:
    partition, told = int(context.node_config["partition-id"]), message.content["told"]

    def does(what: str) -> bool:
        return partition in told.get(what, [])

    folder = Path(told["folder"])
    with (folder / "runs").open("a") as runs:  # lines this short are appended whole
        runs.write(f"{partition}\n")
    count = context.state.get("count", {"n": 0})["n"] + 1
    context.state["count"] = MetricRecord({"n": count})
    if does("raise"):
        raise RuntimeError(f"partition {partition} will not")
    if does("none"):
        return None  # type: ignore[return-value]
    if does("echo"):
        return message  # a Message, and no answer to this one
    if does("exit") or (does("exit_once") and not (folder / "exited").exists()):
        (folder / "exited").touch()
        os._exit(1)
    if does("sleep"):
        time.sleep(600)
    said = {"partition": partition, "of": int(context.node_config["num-partitions"]), "count": count}
    heard = ConfigRecord({"word": told["word"]})
    return Message(RecordDict({"said": MetricRecord(said), "heard": heard}), reply_to=message)
