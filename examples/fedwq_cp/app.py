"""FedWQ-CP in a ServerApp and a ClientApp of one's own: three sites with unlike classifiers agree on a threshold.

.venv/bin/python examples/fedwq_cp/app.py     # Flower's simulation; for three real SuperNodes: deployment.py
"""

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.tree import DecisionTreeClassifier

from fl_sim.conformal.coverage import tally_sets
from fl_sim.conformal.thresholds import local_threshold
from fl_sim.messages.calibration import EvaluateReport, EvaluateRequest, ThresholdReport, ThresholdRequest
from fl_sim.messages.wire import pack, unpack
from fl_sim.runtime.flower import wait_for
from strategies.fedwq_cp import FedWQCP

MODELS = [KNeighborsClassifier(10), DecisionTreeClassifier(random_state=0), RandomForestClassifier(random_state=0)]
server = ServerApp()
client = ClientApp()


@server.main()
def serve(grid: Grid, context: Context) -> None:
    wait_for(grid, len(MODELS))
    # `strategy.on_failure = "skip"` would go on without a site that fails or answers nonsense; as it is, the run ends
    # with its name.
    strategy = FedWQCP(alpha=0.1)
    strategy.start(grid)
    print(f"threshold {strategy.global_threshold!r}")
    for site, found in strategy.evaluations.items():
        print(f"site {site} covers {found.num_covered} of {found.num_test}, with {found.total_size:g} labels in all")


def scores(context: Context, first: int, last: int) -> tuple[int, np.ndarray, np.ndarray]:
    """The site, 1 - p of every class for these rows of its own, (n, 10), and their labels, (n,)."""
    site = int(context.node_config["partition-id"])
    images, labels = (values[site :: len(MODELS)] for values in load_digits(return_X_y=True))
    model = MODELS[site].fit(images[:200], labels[:200])
    return site, 1 - model.predict_proba(images[first:last]), labels[first:last]


@client.query("threshold")
def threshold(message: Message, context: Context) -> Message:
    site, of_all, labels = scores(context, 200, 400)
    asked = unpack(ThresholdRequest, message.content)
    q, n = local_threshold(of_all[np.arange(len(labels)), labels], asked.alpha, "clip")
    return Message(pack(ThresholdReport(site, q, n)), reply_to=message)


@client.evaluate("sets")
def evaluate(message: Message, context: Context) -> Message:
    site, of_all, labels = scores(context, 400, 600)
    tally = tally_sets(of_all, labels, unpack(EvaluateRequest, message.content).threshold, of_all.argmin(axis=1))
    return Message(pack(EvaluateReport.of(site, tally)), reply_to=message)


if __name__ == "__main__":
    run_simulation(server, client, len(MODELS), backend_config={"client_resources": {"num_cpus": 1}})
