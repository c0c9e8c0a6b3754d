"""One scenario, three runtimes, twice in a row: the same results to the last digit, each from an empty store."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fl_sim import Result, Scenario, simulate
from fl_sim.results.run import write_rows
from fl_sim.simulation import Silent, simulator

WORLD: dict[str, Any] = {
    "data": {"name": "digits", "train": 300, "calibration": 300, "test": 200},
    "clients": {
        "count": 12, "partition": "dirichlet", "concentration": 0.5,
        "tier": [
            {"name": "weak", "share": 0.5, "architecture": "linear", "epochs": 2, "learning_rate": 0.01},
            {"name": "strong", "architecture": "cnn", "epochs": 2, "learning_rate": 0.01},
        ],
    },
    "calibrate": {"name": "fedwq-cp", "alpha": 0.1, "score": "aps"},  # randomised: its random numbers are compared too
}  # fmt: skip
LEARN: dict[str, Any] = {
    "shared": {"name": "shared"},
    "own": {"name": "own"},
    "fedavg": {"name": "fedavg", "rounds": 2, "fraction": 0.5},
}


def scenario(runtime: str, learn: str, **calibrate: Any) -> Scenario:
    told = WORLD | {"learn": LEARN[learn], "runtime": {"name": runtime, "device": "cpu"}}
    told |= {"calibrate": {"alpha": 0.1, "score": "aps"} | calibrate} if calibrate else {}
    return Scenario.model_validate(told)


def outcome(runtime: str, learn: str, store: Path, **calibrate: Any) -> dict[str, Any]:
    """What a run found, but for the time it took and where."""
    return timeless(simulate(scenario(runtime, learn, **calibrate), store=store))


def timeless(result: Result) -> dict[str, Any]:
    text = io.StringIO()
    write_rows([{name: value for name, value in row.items() if name != "seconds"} for row in result.clients], text)
    summary = json.loads(json.dumps(result.summary, allow_nan=False))
    del summary["seconds"], summary["machine"], summary["scenario"]["runtime"]["name"]
    return {"clients": text.getvalue().splitlines(), "summary": summary}


def write_outcome(runtime: str, learn: str, folder: str) -> None:
    """For a process of its own."""
    found = outcome(runtime, learn, Path(folder) / "store")
    (Path(folder) / "outcome.json").write_text(json.dumps(found))


class ByFlower:
    """A run by Flower, in a process of its own because it shuts Ray down; under way while others run here."""

    def __init__(self, learn: str, folder: Path) -> None:
        self.folder = folder
        path, call = str(Path(__file__).parent), f"test_parity.write_outcome('flower', {learn!r}, {str(folder)!r})"
        command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {path!r}); import test_parity; {call}"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def outcome(self) -> dict[str, Any]:
        said, _ = self.process.communicate(timeout=240)
        assert (self.process.returncode, said) == (0, "")  # Flower and Ray are quiet
        return json.loads((self.folder / "outcome.json").read_text())

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


@pytest.fixture(scope="module")
def by_flower(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ByFlower]:
    run = ByFlower("shared", tmp_path_factory.mktemp("flower"))
    yield run
    run.end()


def test_inline_and_ray_agree_where_the_first_of_a_cohort_fails(ray_session, tmp_path):
    """Whoever of the cohort is asked next trains it; on Ray that is any of several at once."""
    clients: dict[str, Any] = WORLD["clients"] | {"behaviour": [{"kind": "raise", "share": 0.5}]}
    found = {}
    for name in ("inline", "ray"):
        runtime = {"name": name, "device": "cpu", "on_failure": "skip"}
        told = WORLD | {"clients": clients, "learn": LEARN["own"], "runtime": runtime}
        store = tmp_path / name
        found[name] = timeless(simulate(Scenario.model_validate(told), store=store))
        stacks = [json.loads(path.read_text()) for path in (store / "model").glob("*/meta.json")]
        assert [len(meta["members"]) for meta in stacks] == [6, 6]
    assert found["ray"] == found["inline"]
    assert found["inline"]["summary"]["clients"]["failed"] == 6


@pytest.fixture(scope="module")
def on_ray(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., dict[str, Any]]]:
    """`outcome` on Ray, on the same actors each time, with a store of their own."""
    where = scenario("ray", "shared").runtime
    with simulator(where, 12, store=tmp_path_factory.mktemp("ray") / "store") as run:
        yield lambda learn, **calibrate: timeless(run(scenario("ray", learn, **calibrate), Silent()))


@pytest.mark.parametrize("learn", LEARN)
def test_inline_and_ray_agree(on_ray, by_flower, tmp_path, learn):
    inline = outcome("inline", learn, tmp_path / "inline")
    assert len(inline["clients"]) == 1 + 12
    assert inline["summary"]["clients"] == {"sent": 12, "ok": 12, "retried": 0, "failed": 0, "missing": []}
    assert on_ray(learn) == inline


@pytest.fixture(scope="module")
def store_of_all(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("inline") / "store"


@pytest.mark.parametrize("calibrate", [
    {"name": "dp-fedcp", "rounds": 4, "noise": 0.01, "fraction": 0.5}, {"name": "q-dcp", "rounds": 4},
    {"name": "online", "rounds": 3}, {"name": "private"}, {"name": "grouped", "groups": "found"},
    {"name": "fedcp-qq", "sizes": "equal"}, {"name": "fedwq-cp", "feedback": 8, "align": "temperature"},
], ids=lambda table: table["name"])  # fmt: skip
def test_inline_and_ray_agree_on_calibrations_of_every_form(on_ray, store_of_all, calibrate):
    assert on_ray("shared", **calibrate) == outcome("inline", "shared", store_of_all, **calibrate)


@pytest.mark.parametrize("learn", LEARN)
def test_two_runs_in_a_row_agree(tmp_path, learn):
    first = outcome("inline", learn, tmp_path / "one")
    assert outcome("inline", learn, tmp_path / "another") == first
    assert outcome("inline", learn, tmp_path / "one") == first  # with everything found in the store


def test_a_run_repeated_from_the_store_trains_nothing(tmp_path):
    outcome("inline", "own", tmp_path)
    made = {path.name for path in (tmp_path / "model").iterdir()}
    assert len(made) == 2  # one for the cohort of each tier
    outcome("inline", "own", tmp_path)
    assert {path.name for path in (tmp_path / "model").iterdir()} == made


def test_inline_and_flower_agree(by_flower, tmp_path):
    assert by_flower.outcome() == outcome("inline", "shared", tmp_path)


@pytest.mark.slow
def test_flower_can_run_its_own_averaging_through_our_view_of_its_grid(tmp_path):
    run = ByFlower("fedavg", tmp_path)
    try:
        assert run.outcome() == outcome("inline", "fedavg", tmp_path / "inline")
    finally:
        run.end()
