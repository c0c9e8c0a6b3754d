"""fl-sim: a federated-learning laboratory on Flower and Ray.

>>> from fl_sim import Scenario
>>> Scenario.load("digits").calibrate.alpha
0.1
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

# Flower and Ray report home by default; here the user turns that on, by setting these to 1.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
if _telemetry := sys.modules.get("flwr.supercore.telemetry"):  # which asks the environment when it is imported
    _telemetry.FLWR_TELEMETRY_ENABLED = os.environ["FLWR_TELEMETRY_ENABLED"]  # type: ignore[attr-defined]
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else Ray prints a tip about it at every start
# A lost worker is healed or reported by runtime/ray.py, and a lost raylet by runtime/cluster.py; Ray would print a
# paragraph about each, even when it is to be quiet.
os.environ.setdefault(
    "RAY_DEDUP_LOGS_SKIP_REGEX", "A worker died or was killed while executing a task|Raylet is terminated|The node with"
)
# Ray's workers stand back behind every other process by default (15), its own helpers among them: on a machine that
# has other work a run's start took 47 s, and with 0 17 s.
os.environ.setdefault("RAY_worker_niceness", "0")

if TYPE_CHECKING:
    from fl_sim.results.run import Result
    from fl_sim.results.tables import load
    from fl_sim.scenario.scenario import Scenario
    from fl_sim.simulation import simulate

__all__ = ["Result", "Scenario", "load", "simulate"]
__version__ = "0.1.0"

_HOME = {
    "Result": "fl_sim.results.run",
    "Scenario": "fl_sim.scenario.scenario",
    "load": "fl_sim.results.tables",
    "simulate": "fl_sim.simulation",
}


def __getattr__(name: str) -> Any:
    # Lazy, because every Ray worker imports this package and must not load what only the driver needs.
    if name not in _HOME:
        raise AttributeError(f"module 'fl_sim' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
