"""Where clients run under `runtime.name = "auto"`: in this process while the work that is left costs less than Ray's
start, else on Ray.

It follows from the scenarios and from what the artifact store holds, never from a clock or from how busy the machine
is: the same command on the same store chooses alike everywhere. The digits are the same wherever clients run.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from fl_sim.data.source import versions
from fl_sim.models.model_key import VERSION
from fl_sim.names import OWN, own_digest
from fl_sim.scenario.assignment import assign_tiers
from fl_sim.scenario.scenario import Scenario
from fl_sim.scenario.tables import Runtime
from fl_sim.store.artifacts import Artifact, Store, digest

START = 6.0  # seconds that Ray and its workers take until the first client answers: two cores, of 2026
ANSWER = 0.3e-3  # seconds of one client's calibration and test, in each round
UPDATE = 5e-3  # of its turn in a round of averaging, beside the training
# Seconds by which one core learns from a row: the larger of what 8 x 8, 20 x 20 and 28 x 28 pixels take. Networks that
# are not here take longer than Ray's start in any world worth a run.
ROW = {"linear": 10e-6, "mlp": 30e-6, "mlp-64": 20e-6, "cnn": 250e-6}

RAYS_OWN = ("timeout", "cpus_per_client", "gpus_per_client")  # keys that say something of Ray


def choose(scenarios: Sequence[Scenario], store: Store, jobs: int = 1) -> tuple[Runtime, str]:
    """Where scenarios with one `[runtime]` table run, "auto" made into a runtime; and why, in a line: empty where the
    user has said it. With `jobs` at a time it is they that keep the processors busy."""
    where = scenarios[0].runtime
    if where.name != "auto":
        return where, ""
    if where.address is not None:
        return where.model_copy(update={"name": "ray"}), ""
    why = next(filter(None, map(_needs_ray, scenarios)), "")
    if why:
        return where.model_copy(update={"name": "ray"}), f"clients run on Ray: {why}"
    if jobs > 1:
        return where.model_copy(update={"name": "inline"}), f"{jobs} points run side by side, each in its own process"
    left = work(scenarios, store)
    if left < START:
        here = f"clients run in this process: the work that is left, about {left:.2g} s, is less than Ray's start takes"
        return where.model_copy(update={"name": "inline"}), f"{here}; --runtime ray runs them on Ray"
    much = f"about {left:.2g} s of one core are left to do" if left < math.inf else "clients have models to learn"
    return where.model_copy(update={"name": "ray"}), f"clients run on Ray: {much}; --runtime inline does without it"


def _needs_ray(scenario: Scenario) -> str:
    """Why it is no work for this process; empty if it may be."""
    where = scenario.runtime
    set_keys = [key for key in RAYS_OWN if getattr(where, key) != Runtime.model_fields[key].default]
    if set_keys:
        return f"runtime.{set_keys[0]} is set"
    waits = [behaviour.kind for behaviour in scenario.clients.behaviour if behaviour.needs_time and behaviour.share]
    if waits:
        return f"a {waits[0]} is stopped there, and not in this process"
    of_clients = (key for name, key in scenario.names().items() if OWN.match(name) and _is_the_clients(key))
    return next((f"{key} is your own, and what hangs or dies there is stopped" for key in of_clients), "")


def _is_the_clients(key: str) -> bool:
    return key.startswith("clients.") or key == "calibrate.score"


def work(scenarios: Sequence[Scenario], store: Store) -> float:
    """Seconds of one core that the clients' work takes, as far as it is not in the store: what scenarios have in common
    is done once."""
    learning = {learning_key(scenario): scenario for scenario in scenarios}
    left = sum(_learning(scenario) for key, scenario in learning.items() if not store.has("learned", key))
    return left + sum(_turns(scenario) for scenario in scenarios)


def remember(scenario: Scenario, store: Store) -> None:
    """Note in the store that its clients have learned, and so that what they made is there."""
    key = learning_key(scenario)
    store.ensure("learned", key, lambda: Artifact(meta={"learn": scenario.learn.name, "data": scenario.data.name}))


def learning_key(scenario: Scenario) -> str:
    """A digest of what decides the clients' models: all but where they run and how they are calibrated; and not how the
    rows are dealt out where models do not come of a client's own."""
    tables = scenario.plain()
    clients = tables["clients"]
    if scenario.learn.one_model_a_tier and not scenario.trains_locally:
        clients = {"tier": [{k: v for k, v in tier.items() if k != "share"} for tier in clients["tier"]]}
    own = [text for name in scenario.names() if (text := own_digest(name)) is not None]
    return digest(
        seed=scenario.seed, data=tables["data"], clients=clients, learn=tables["learn"], own=own,
        reference=tables.get("reference"), device=scenario.runtime.device, precision=scenario.runtime.precision,
        version=VERSION, torch=versions("torch"),
    )  # fmt: skip


def _learning(scenario: Scenario) -> float:
    """Seconds that the training of all clients takes; infinite where it is not known before."""
    clients = scenario.clients
    members = Counter(assign_tiers(clients, scenario.seed).tolist())
    seconds = 0.0
    for i, tier in enumerate(clients.tier):
        rows = scenario.learn.strategy.rows_an_epoch(scenario.learn, scenario.data.train, members[i], clients.count)
        if members[i] and tier.epochs and rows != 0:
            known = rows is not None and tier.architecture in ROW
            seconds += rows * tier.epochs * ROW[tier.architecture] if known else math.inf
    return seconds


def _turns(scenario: Scenario) -> float:
    """Seconds that clients take to answer, whatever they have learned."""
    learn, calibrate = (table.model_dump() for table in (scenario.learn, scenario.calibrate))
    rounds = learn.get("rounds", 0) * learn.get("fraction", 1.0)
    return scenario.clients.count * (UPDATE * rounds + ANSWER * calibrate.get("rounds", 1))
