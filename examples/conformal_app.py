"""Any calibration in a Flower app of one's own: a function beside it answers for the client, whatever is asked.

.venv/bin/python examples/conformal_app.py     # FedWQ-CP and local over the same three sites, in Flower's simulation
"""

import numpy as np
from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.tree import DecisionTreeClassifier

from clients.own import Predicted, conformal_app
from fl_sim.runtime.flower import wait_for
from strategies.fedwq_cp import FedWQCP
from strategies.local import Local

MODELS = [KNeighborsClassifier(10), DecisionTreeClassifier(random_state=0), RandomForestClassifier(random_state=0)]
server = ServerApp()


def predict(context: Context) -> Predicted:
    site = int(context.node_config["partition-id"])
    images, labels = (values[site :: len(MODELS)] for values in load_digits(return_X_y=True))
    said = MODELS[site].fit(images[:200], labels[:200]).predict_proba(images[200:])
    return Predicted(said[:200], labels[200:400], said[200:], labels[400:])


client = conformal_app(predict, ClientApp())  # into an app of yours, beside what it does already


@server.main()
def serve(grid: Grid, context: Context) -> None:
    wait_for(grid, len(MODELS))
    for strategy in (FedWQCP(alpha=0.1), Local(alpha=0.1)):
        strategy.start(grid)
        rates = [report.num_covered / report.num_test for report in strategy.evaluations.values()]
        print(f"{type(strategy).__name__} covers {', '.join(f'{rate:.3f}' for rate in rates)}: {np.mean(rates):.3f}")


if __name__ == "__main__":
    run_simulation(server, client, len(MODELS), backend_config={"client_resources": {"num_cpus": 1}})
