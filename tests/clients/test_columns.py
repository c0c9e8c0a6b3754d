"""Clients asked many at a time answer what each would alone: to the last digit and the last byte of their messages."""

from __future__ import annotations

import io
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clients import calibrate, handlers
from fl_sim import Scenario, simulate
from fl_sim.errors import FlSimError
from fl_sim.population.clients import Population
from fl_sim.results.run import write_rows
from fl_sim.runtime.checked_grid import CheckedGrid
from fl_sim.runtime.grids import SimulatedGrid
from fl_sim.runtime.inline import InlineGrid
from fl_sim.scenario.behaviours import BEHAVIOUR
from fl_sim.scenario.strategies import CALIBRATE
from fl_sim.simulation import Silent, federation_of, made_ready
from fl_sim.store.artifacts import Store
from strategies import learning
from strategies.base import Calibration
from strategies.fcp import FCP
from strategies.fedwq_cp import FedWQCP
from strategies.grouped import Grouped
from strategies.pooled import Pooled

TIERS = [
    {"name": "weak", "share": 0.5, "architecture": "linear", "epochs": 1, "learning_rate": 0.01},
    {"name": "strong", "architecture": "mlp", "epochs": 2, "learning_rate": 0.01},
]
SHORT = {"dp-fedcp": {"rounds": 3}, "q-dcp": {"rounds": 3}, "online": {"rounds": 3}}
KINDS = {kind: {"factor": 1.5} if kind in ("wrong-n",) else {} for kind in sorted(BEHAVIOUR)}
KINDS["straggler"] = {"delay": 0.001}


@st.composite
def worlds(draw: st.DrawFn) -> dict[str, Any]:
    """Any strategy, score, calibrator, alignment and behaviour, in a small world."""
    regression = draw(st.booleans())
    name = draw(st.sampled_from([n for n in CALIBRATE if not (regression and n == "class-conditional")]))
    score: Any = draw(st.sampled_from(["residual"] if regression else ["lac", "aps", {"name": "raps"}]))
    told: dict[str, Any] = {"name": name, **SHORT.get(name, {})}
    if name != "none":
        told |= {"alpha": draw(st.sampled_from([0.1, 0.3])), "score": score}
        plain = name != "private" and not regression
        if plain and draw(st.booleans()):
            told["calibrator"] = draw(st.sampled_from(["identity", "temperature", "federated-temperature"]))
        elif name == "fedwq-cp":
            told["align"] = draw(st.sampled_from(["none", "rank", "temperature"]))
        if name == "private" and (regression or score != "lac"):
            told["range"] = [0.0, 30.0]
    behaviours = draw(st.lists(st.sampled_from(list(KINDS)), max_size=2, unique=True))
    count = draw(st.integers(1, 9))
    data = {"name": "friedman" if regression else "digits", "train": 60, "calibration": 120, "test": 60}
    return {
        "seed": draw(st.integers(0, 3)), "data": data,
        "clients": {
            "count": count, "partition": "dirichlet", "concentration": draw(st.sampled_from([0.3, 5.0])),
            "tier": TIERS, "test": draw(st.sampled_from(["local", "shared"])),
            "behaviour": [{"kind": kind, "share": 0.25, **KINDS[kind]} for kind in behaviours],
        },
        "learn": draw(st.sampled_from([{"name": "shared"}, {"name": "shared", "per_client": True}, {"name": "own"}])),
        "calibrate": told, "runtime": {"name": "inline", "device": "cpu", "on_failure": "skip"},
    }  # fmt: skip


def outcome(world: dict[str, Any], store: Path) -> tuple[str, str]:
    """`clients.csv` and `result.json` but for the time; or why there is none."""
    try:
        result = simulate(Scenario.model_validate(world), store=store)
    except FlSimError as error:
        if not world["clients"]["behaviour"]:  # where all behave, all can answer
            raise
        return type(error).__name__, str(error).splitlines()[-1]
    rows = io.StringIO()
    write_rows([{key: cell for key, cell in row.items() if key != "seconds"} for row in result.clients], rows)
    summary = {key: value for key, value in result.summary.items() if key not in ("seconds", "machine")}
    return rows.getvalue(), json.dumps(summary)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("columns") / "store"


@settings(derandomize=True, deadline=None, max_examples=30, suppress_health_check=list(HealthCheck))
@given(worlds(), st.sampled_from([1, 40, handlers.ROWS]))
def test_many_at_a_time_is_one_by_one(place, world, rows):
    """Whatever share of the clients is answered for in one go; message bytes are among the columns."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(handlers, "ROWS", rows)
        together = outcome(world, place)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InlineGrid, "ask", SimulatedGrid.ask)  # by Flower's messages, as on a Grid of somebody else's
        alone = outcome(world, place)
    assert together == alone


def test_the_property_sees_a_handler_that_looks_at_its_neighbours(place, monkeypatch):
    honest = calibrate.evaluate

    def wrong(requests, several):
        columns = honest(requests, several)
        columns.num_covered[1:] = columns.num_covered[:-1]
        return columns

    world = {
        "data": {"name": "digits", "train": 60, "calibration": 120, "test": 60},
        "clients": {"count": 6, "partition": "iid", "tier": TIERS}, "learn": {"name": "shared"},
        "calibrate": {"name": "fedwq-cp", "alpha": 0.3, "score": "lac"}, "runtime": {"name": "inline", "device": "cpu"},
    }  # fmt: skip
    true = outcome(world, place)
    from clients.app import app

    monkeypatch.setitem(app.handlers, "evaluate.sets", handlers.Handler(calibrate.EvaluateRequest, wrong, True))
    assert outcome(world, place) != true


# ------------------------------------------------------------------------------------------------ strategies by hand


def seated(store: Store, **changes: Any) -> tuple[Scenario, Population, CheckedGrid]:
    """Clients with models of their own making, on a Grid, and nothing said about how they are calibrated."""
    world = Scenario.model_validate({
        "data": {"name": "digits", "train": 200, "calibration": 300, "test": 200},
        "clients": {"count": 6, "partition": "dirichlet", "concentration": 1.0, "tier": TIERS},
        "learn": {"name": "shared"}, "calibrate": {"name": "fedwq-cp", "alpha": 0.1, "score": "lac"},
        "runtime": {"name": "inline", "device": "cpu"},
    } | changes)  # fmt: skip
    population = made_ready(world, store)
    grid = CheckedGrid(InlineGrid("clients.app:app", 6, math.inf, done=[].append), [str(k) for k in range(6)], "stop")
    learning(world.learn, federation_of(population, world, store, Silent())).start(grid)
    return world, population, grid


@pytest.mark.parametrize(("strategy", "told"), [
    (FedWQCP(alpha=0.1), {"name": "fedwq-cp"}),
    (Pooled(alpha=0.1), {"name": "pooled"}),
    (FCP(alpha=0.1, sketch="tdigest"), {"name": "fcp", "sketch": "tdigest"}),
    (Grouped(alpha=0.1, groups="one"), {"name": "grouped", "groups": "one"}),
], ids=lambda value: type(value).__name__ if isinstance(value, Calibration) else "")  # fmt: skip
def test_a_strategy_made_by_hand_needs_alpha_alone(store, strategy, told):
    """Clients keep what they learnt from: no key travels with a question, and the score has a default."""
    world, _, grid = seated(store)
    strategy.start(grid)
    calibrate = told | {"alpha": 0.1, "score": "lac"}
    by_scenario = simulate(Scenario.of(world.plain() | {"calibrate": calibrate}), store=store.root)
    assert [strategy.evaluations[k].num_covered for k in range(6)] == by_scenario.column("num_covered")
    assert all("population" not in vars(record) for record in [strategy.ask(1)])


def test_in_regression_the_default_score_is_the_residual():
    from strategies.base import Federation

    assert json.loads(FedWQCP(Federation(task="regression"), alpha=0.1).score) == {"name": "residual"}
    assert json.loads(FedWQCP(alpha=0.1).score) == {"name": "lac"}


def test_a_calibration_enters_few_files(store):
    """What one has to read to follow FedWQ-CP: one calibration and test, warm and inline."""
    _, _, grid = seated(store)
    FedWQCP(alpha=0.1).start(grid)
    root = Path(handlers.__file__).parent.parent
    files: set[str] = set()

    def note(frame: Any, event: str, _: Any) -> None:
        file = Path(frame.f_code.co_filename)
        if event == "call" and file.is_relative_to(root) and ".venv" not in file.parts:
            files.add(str(file.relative_to(root)))

    strategy = FedWQCP(alpha=0.1)
    before = sys.getprofile()
    sys.setprofile(note)
    try:
        strategy.start(grid)
    finally:
        sys.setprofile(before)
    ours = {file for file in files if not file.startswith(("fl_sim/conformal/", "tests/"))}
    assert len(ours) <= 12, sorted(ours)
