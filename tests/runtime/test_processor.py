"""Which kind of processor results are from, and that the settings that hold one down really do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from held_down import environment

from fl_sim.runtime.processor import kind

SETTINGS = tuple(environment())
# Whatever is left to chance is seeded: two digests differ where a library has added in another order.
DIGESTS = """
import hashlib, json, sys
from fl_sim.runtime.processor import kind, torch_units

units, loaded = torch_units(), "torch" in sys.modules
import numpy as np, scipy.linalg, torch

def digest(*arrays):
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()

rng = np.random.default_rng(0)
a, image, kernel = rng.normal(size=(129, 67)), rng.normal(size=(4, 3, 17, 17)), rng.normal(size=(8, 3, 3, 3))
torch.set_num_threads(1)
t, x, w = (torch.from_numpy(array.astype(np.float32)) for array in (a, image, kernel))
print(json.dumps({
    "kind": kind(), "units": [units, loaded, torch.backends.cpu.get_cpu_capability()],
    "ATEN_CPU_CAPABILITY": digest(torch.softmax(t, 1).numpy(), t.sum(1).numpy()),
    "DNNL_MAX_CPU_ISA": digest(torch.nn.functional.conv2d(x, w).numpy()),
    "MKL_CBWR": digest((t @ t.T).numpy()),
    "OPENBLAS_CORETYPE": digest(a @ a.T, scipy.linalg.qr(a)[1]),
    "NPY_DISABLE_CPU_FEATURES": digest(np.exp(a), np.sin(a), np.tanh(a), np.exp(a.astype(np.float32))),  # AVX-512, AVX2
}))
"""


@pytest.fixture(scope="module")
def told() -> dict[str, dict[str, str]]:
    """Setting -> kind of processor and digests under that one alone; "" under none, "all" under all of them."""
    bare = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    bare |= {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])}
    every = {"": {}, "all": environment(), **{name: {name: environment()[name]} for name in SETTINGS}}
    runs = {
        name: subprocess.Popen([sys.executable, "-c", DIGESTS], env=bare | held, stdout=subprocess.PIPE, text=True)
        for name, held in every.items()
    }
    return {name: json.loads(run.communicate()[0]) for name, run in runs.items()}


@pytest.mark.parametrize("setting", SETTINGS)
def test_each_setting_changes_what_its_library_computes(told: dict[str, dict[str, str]], setting: str) -> None:
    _, capability, core, units = told[""]["kind"].split(" ")[:4]
    plain = {
        "OPENBLAS_CORETYPE": core in ("Nehalem", "no-openblas"), "NPY_DISABLE_CPU_FEATURES": units == "baseline",
    }.get(setting, capability == "DEFAULT")  # fmt: skip
    # A processor that has no more than it is held down to computes the same; any other something else.
    assert (told[setting][setting] == told[""][setting]) == plain
    assert (told["all"][setting] == told[""][setting]) == plain


def test_torchs_units_are_known_without_torch(told: dict[str, dict[str, str]]) -> None:
    for name, printed in told.items():
        light, loaded, units = printed["units"]
        assert (light, loaded) == (units, False), name


def test_the_kind_names_what_is_held_down(told: dict[str, dict[str, str]]) -> None:
    maker = told[""]["kind"].split(" ")[0]
    low = f"{maker} DEFAULT Nehalem baseline DNNL_MAX_CPU_ISA=SSE41 MKL_CBWR=COMPATIBLE"
    if "no-openblas" not in told[""]["kind"]:
        assert told["all"]["kind"] == low
    assert len({told[name]["kind"] for name in ("", "DNNL_MAX_CPU_ISA", "MKL_CBWR")}) == 3
    assert kind().split(" ")[0] == maker


def test_two_runs_on_one_kind_are_the_same(told: dict[str, dict[str, str]]) -> None:
    """Only the library that is held down computes something else, so that the digests above are no accident."""
    assert told["OPENBLAS_CORETYPE"]["DNNL_MAX_CPU_ISA"] == told[""]["DNNL_MAX_CPU_ISA"]
    assert told["DNNL_MAX_CPU_ISA"]["OPENBLAS_CORETYPE"] == told[""]["OPENBLAS_CORETYPE"]
    assert told["MKL_CBWR"]["NPY_DISABLE_CPU_FEATURES"] == told[""]["NPY_DISABLE_CPU_FEATURES"]
