"""What a run tells of a federation: how good its model was round by round, and how much each client weighs."""

from __future__ import annotations

from typing import Any

from fl_sim.report import wording
from fl_sim.report.numbers import number, percent
from fl_sim.results.run import Result

Record = dict[str, Any]  # of a round, in learn's `detail`


def is_measured(result: Result) -> bool:
    """Whether the run tells how good a federation's model was after at least two of its rounds."""
    return any(len(curve) > 1 for curve in curves(result).values())


def is_weighed(result: Result) -> bool:
    """Whether the learn strategy weighs clients."""
    return any(row.get("weight") for row in result.clients)


def weights(result: Result) -> str:
    """How much of all weight those have that misbehave, and the mean weight by tier of those that behave; nothing where
    nobody is weighed."""
    if not is_weighed(result):
        return ""
    share = result.learn.get("weight_share_misbehaving")
    by_tier = ", ".join(f"{tier} {number(weight)}" for tier, weight in result.learn["weight_by_tier"].items())
    bad = sum(bool(row.get("behaviour")) for row in result.clients)
    if not bad or share is None:
        return f"Mean weight of a client in the end: {by_tier}."
    of = f"{percent(share)} of all weight in the end and are {percent(bad / len(result.clients))} of the clients"
    return f"Those that misbehave have {of}; mean weight of those that behave: {by_tier}."


def curves(result: Result) -> dict[str, list[Record]]:
    """Architecture -> its rounds that were measured; one without a name where there is one."""
    rounds: dict[str, list[Record]] = {}
    for record in result.summary["learn"].get("detail", {}).get("rounds", []):
        if record.get(measure(result)) is not None:
            rounds.setdefault(record.get("architecture", ""), []).append(record)
    return rounds


def measure(result: Result) -> str:
    """By what the model of a round is measured."""
    return "loss" if wording.is_regression(result) else "accuracy"
