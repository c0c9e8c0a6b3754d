"""A ClientApp of one's own with one function: what it answers is what the laboratory's own clients answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from flwr.clientapp import ClientApp

from clients.own import Predicted, conformal_app
from fl_sim import simulate
from fl_sim.conformal.calibrator_plan import Plan, with_plan
from fl_sim.data import predictions
from fl_sim.errors import ClientFailedError
from fl_sim.runtime.inline import InlineGrid
from fl_sim.sweep.expand import load_predictions
from strategies.base import Federation
from strategies.class_conditional import ClassConditional
from strategies.cphet import CPhet
from strategies.fcp import FCP
from strategies.fedcp_qq import FedCPQQ
from strategies.fedhist_cp import FedHistCP
from strategies.fedwq_cp import FedWQCP
from strategies.local import Local
from strategies.pooled import Pooled

APP = """
import numpy as np
from clients.own import Predicted, conformal_app

asked = np.load({path!r})

def predict(context):
    mine = asked["client"] == int(context.node_config["partition-id"])
    first, last = mine & (asked["split"] == "calibration"), mine & (asked["split"] == "test")
    said = asked["logits"]
    return Predicted(said[first], asked["label"][first], said[last], asked["label"][last], logits=True)

app = conformal_app(predict)
"""


@pytest.fixture(scope="module")
def sites(tmp_path_factory) -> tuple[Path, Path]:
    """Six sites of unlike models, as predictions and as the module of an app; and a store."""
    place, rng = tmp_path_factory.mktemp("own"), np.random.default_rng(0)
    client = rng.integers(6, size=900)
    label = rng.integers(4, size=900)
    z = rng.normal(size=(900, 4)) * 2
    z[np.arange(900), label] += 1.0 + client / 2
    path = predictions.save(
        place / "preds", client=client, split=np.where(rng.random(900) < 0.5, "calibration", "test"), label=label,
        logits=z.astype(np.float32), tier=np.where(client % 2, "odd", "even"),
    )  # fmt: skip
    (place / "own_conformal_app.py").write_text(APP.format(path=str(path)))
    (place / "regression_app.py").write_text(
        "import numpy as np\n"
        "from clients.own import Predicted, conformal_app\n"
        "y = np.arange(20.0)\n"
        "app = conformal_app(lambda context: Predicted(y + 1.5, y, y - 0.5, y, regression=True))\n"
    )
    return path, place


@pytest.mark.parametrize(("name", "strategy"), [
    ("fedwq-cp", FedWQCP), ("local", Local), ("pooled", Pooled), ("fcp", FCP), ("fedcp-qq", FedCPQQ),
    ("fedhist-cp", FedHistCP), ("class-conditional", ClassConditional),
])  # fmt: skip
def test_strategies_find_the_thresholds_that_they_find_in_the_laboratory(sites, monkeypatch, name, strategy):
    path, place = sites
    monkeypatch.syspath_prepend(str(place))
    federation = Federation(tiers=("even", "odd") * 3, num_labels=4)
    by_hand = strategy(federation, alpha=0.1, score='{"name":"lac"}')
    by_hand.start(InlineGrid("own_conformal_app:app", 6, 60.0, lambda _: None))
    (point,) = load_predictions(path, [name], ["seed=0", "runtime.name=inline"], 0.1, "lac", ()).points
    result = simulate(point.scenario, store=place / "store")
    for row in result.clients:
        theirs = by_hand.evaluations[row["client"]]
        assert (theirs.num_covered, theirs.num_test, theirs.num_correct) == (
            row["num_covered"], row["num_test"], row["num_correct"],
        )  # fmt: skip
        if row["threshold"] is not None:
            assert by_hand.thresholds[row["client"]] == row["threshold"]


def test_what_it_predicts_is_checked_and_named(sites, monkeypatch):
    _, place = sites
    monkeypatch.syspath_prepend(str(place))
    (place / "odd_app.py").write_text(
        "from clients.own import Predicted, conformal_app\n"
        "app = conformal_app(lambda context: Predicted([[0.9, 0.3]] * 9, [0] * 9, [[0.5, 0.5]], [1]))\n"
    )
    with pytest.raises(ClientFailedError, match="and sum up to 1; of logits say logits=True"):
        FedWQCP(alpha=0.2).start(InlineGrid("odd_app:app", 2, 60.0, lambda _: None))


def test_regression_has_predictions_or_intervals(sites, monkeypatch):
    _, place = sites
    monkeypatch.syspath_prepend(str(place))
    strategy = FedWQCP(Federation(task="regression"), alpha=0.2, score='{"name":"residual"}')
    strategy.start(InlineGrid("regression_app:app", 2, 60.0, lambda _: None))
    assert strategy.global_threshold == 1.5
    assert [report.num_covered for report in strategy.evaluations.values()] == [20, 20]


def test_bins_of_everybodys_target_are_not_made_up(sites, monkeypatch):
    _, place = sites
    monkeypatch.syspath_prepend(str(place))
    federation = Federation(task="regression", num_labels=10, tiers=("own",) * 2)
    strategy = CPhet(federation, alpha=0.2, score='{"name":"residual"}')
    with pytest.raises(ClientFailedError, match="in regression this app has no labels"):
        strategy.start(InlineGrid("regression_app:app", 2, 60.0, lambda _: None))


def test_other_labels_fit_another_calibrator(tmp_path, monkeypatch):
    """Of the same outputs, in one process."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "relabelled_app.py").write_text(
        "import numpy as np\n"
        "from clients.own import Predicted, conformal_app\n"
        "z, flip = np.random.default_rng(0).normal(size=(80, 3)) * 4, [False]\n"
        "def predict(context):\n"
        "    y = z.argmax(axis=1)\n"
        "    return Predicted(z, (y + flip[0]) % 3, z, y, logits=True)\n"
        "app = conformal_app(predict)\n"
    )
    import relabelled_app

    thresholds = []
    for relabelled_app.flip[0] in (False, True):
        strategy = Pooled(alpha=0.2, score=with_plan('{"name":"lac"}', Plan("temperature", 0.5)))
        strategy.start(InlineGrid("relabelled_app:app", 1, 60.0, lambda _: None))
        thresholds.append(strategy.global_threshold)
    assert thresholds[1] - thresholds[0] > 0.4
    assert thresholds[1] < 0.99  # else the first labels' temperature, at which every label is sure


def test_it_is_put_into_an_app_that_is_there_and_refused_where_it_cannot(sites):
    app = ClientApp()

    @app.train()
    def train(message, context): ...

    def predict(context):
        return Predicted([[1.0, 0.0]], [0], [[1.0, 0.0]], [0])

    assert conformal_app(predict, app) is app
    with pytest.raises(ValueError, match=r"query\.|evaluate\.") as caught:
        conformal_app(predict, app)  # it answers these questions already
    assert "without a handler of that name" in str(caught.value)
    with pytest.raises(ValueError, match="without client_fn"):
        conformal_app(predict, ClientApp(client_fn=lambda context: None))
