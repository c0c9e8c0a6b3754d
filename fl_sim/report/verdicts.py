"""The verdict on a run: which clients cover less than was promised beyond bad luck, how likely that would have been
found, and which method would mend it. Table, page and `fl-sim certify` say it in these words.

The tests are in `fl_sim/conformal/certificate.py`; the verdict on a strategy over many runs is its `over_points`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fl_sim.conformal.certificate import LEVEL, MIN_CALIBRATION, Certificate, certify, found_for_sure, power
from fl_sim.errors import FlSimError
from fl_sim.report import wording
from fl_sim.report.wording import count, p_value, percent
from fl_sim.results.run import Result, Row

MOST_NAMED = 8  # clients in a sentence


@dataclass(frozen=True)
class Claim:
    """What is tested: every client covers at least 1 - alpha - slack; see `conformal.certificate.certify`."""

    slack: float = 0.0
    level: float = LEVEL
    min_calibration: int = MIN_CALIBRATION

    def certificate(self, result: Result) -> Certificate:
        """The tests of a run's clients, in the order of its rows; a missing client has no test points.

        Raises:
            FlSimError: nothing was promised (calibrate "none"), or a number is outside its range.
        """
        alpha = result.scenario.calibrate.alpha
        if alpha is None:
            raise FlSimError("calibrate none: no coverage was promised, so there is nothing to certify")
        rows = result.clients
        tested = [row["num_test"] if row["num_covered"] is not None else 0 for row in rows]
        covered = [row["num_covered"] or 0 for row in rows]
        own = [row["num_calibration"] for row in rows]
        try:
            return certify(
                covered, tested, own, alpha,
                slack=self.slack, level=self.level, min_calibration=self.min_calibration,
            )  # fmt: skip
        except ValueError as error:
            raise FlSimError(f"certify: {error}") from None

    def least(self, alpha: float) -> str:
        """1 - alpha - slack: `88%`."""
        return f"{100 * (1 - alpha - self.slack):.4g}%"


def named_clients(result: Result) -> list[Row]:
    """The clients of a run that `fl-sim certify` names."""
    found = Claim().certificate(result)
    return [row for row, bad in zip(result.clients, found.rejected, strict=True) if bad]


def headline(result: Result, claim: Claim) -> str:
    """What was found, in a sentence or two."""
    found, alpha = claim.certificate(result), result.scenario.calibrate.alpha
    least = claim.least(alpha)
    enough = f"with at least {count(claim.min_calibration, 'calibration point')}"
    if not found.num_considered:
        most = max((row["num_calibration"] for row in result.clients if row["num_test"]), default=0)
        return f"No tested client {enough}, so none is judged; the largest has {most:,}. Say --min-calibration."
    of = f"of {count(found.num_considered, 'client')} {enough}"
    if not found.num_rejected:
        smallest = p_value(found.p_smallest)
        none = f"None {of} covers so little that {least} over draws is refuted (smallest adjusted p {smallest})."
        return f"{none} {found_by_chance(result, claim)}"
    named = [result.clients[k] for k in found.order().tolist() if found.rejected[k]]
    who = ", ".join(f"{row['client']} ({percent(row['coverage'])})" for row in named[:MOST_NAMED])
    rest = f" and {len(named) - MOST_NAMED:,} more" if len(named) > MOST_NAMED else ""
    verb = "covers" if found.num_rejected == 1 else "cover"
    told = f"{found.num_rejected:,} {of} {verb} less than {least} beyond bad luck"
    which = f"{'client' if len(named) == 1 else 'clients'} {who}{rest}"
    return (
        f"{told}: {which}. Had all kept the promise, the chance of naming any is at most {100 * claim.level:g}%, if "
        "their thresholds spread over draws no more than thresholds of their own would."
    )


def found_by_chance(result: Result, claim: Claim) -> str:
    """The power of the test at a client of median size, in a sentence."""
    found, alpha = claim.certificate(result), result.scenario.calibrate.alpha
    own, tested = (
        int(np.median([row[name] for row, judged in zip(result.clients, found.considered, strict=True) if judged]))
        for name in ("num_calibration", "num_test")
    )
    how: dict[str, Any] = {"slack": claim.slack, "level": claim.level}
    little = max(0.0, 1 - alpha - 0.1)
    chance = power(little, tested, own, alpha, found.num_considered, **how)
    sure = found_for_sure(tested, own, alpha, found.num_considered, **how)
    below = "never named for sure" if np.isnan(sure) else f"named in 4 of 5 runs only below {percent(sure)}"
    return (
        f"Power: a client of median size ({own:,} calibration and {count(tested, 'test point')}) that covers "
        f"{percent(little)} is named in {percent(chance)} of runs, and is {below}."
    )


def mending(result: Result) -> str:
    """Which method would keep the promise to single clients in this world, in a sentence."""
    scenario, name = result.scenario, result.scenario.calibrate.name
    shared = scenario.clients.test == "shared"
    if scenario.one_law_a_tier and not wording.is_regression(result) and (shared or name == "grouped"):
        other = "class-conditional"
    elif scenario.one_law_a_tier and not shared and name != "grouped":
        other = "grouped"
    else:
        other = "local" if not shared else ""
    if not other or other == name:
        return "No method here is known to mend it: it may be the data, or who misbehaves."
    why = {
        "grouped": "the scenario gives a tier one law of scores, for which it promises coverage at each client",
        "class-conditional": "it promises coverage of every class, and so of any mix of them",
        "local": "it promises coverage at each client by the client's own points",
    }[other]
    return f"To mend it: calibrate={other} ({why})."
