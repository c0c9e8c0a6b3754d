"""The verdicts in words: what was compared, who kept the promise, what to do next, and which method would mend what is
broken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from fl_sim.conformal.certificate import MIN_CALIBRATION, found_for_sure, power
from fl_sim.report import sweep_points as over
from fl_sim.report import wording
from fl_sim.report.numbers import count, listed, number, p_value, percent, promise, promised
from fl_sim.report.sweep_points import STRATEGIES
from fl_sim.report.sweep_results import SweepResults
from fl_sim.report.verdicts import Claim, Standing, advised, standings
from fl_sim.results.run import Result

MOST_NAMED = 8  # clients in a sentence
MOST_STRATEGIES = 4
RIVALS = ("local", "pooled", "fedwq-cp")  # what a run's strategy is best held against


# -------------------------------------------------------------------------------------------------------------- a run


def headline(result: Result, claim: Claim) -> str:
    """What the tests of a run's clients found, in a sentence or two."""
    tests, alpha = claim.certificate(result), result.scenario.calibrate.alpha
    least = claim.least(alpha)
    enough = f"with at least {count(claim.min_calibration, 'calibration point')}"
    if not tests.num_considered:
        most = max((row["num_calibration"] for row in result.clients if row["num_test"]), default=0)
        return f"No tested client {enough}, so none is judged; the largest has {most:,}. Say --min-calibration."
    of = f"of {count(tests.num_considered, 'client')} {enough}"
    if not tests.num_rejected:
        smallest = p_value(tests.p_smallest)
        none = f"None {of} covers so little that {least} over draws is refuted (smallest adjusted p {smallest})."
        return f"{none} {found_by_chance(result, claim)}"
    named = [result.clients[k] for k in tests.order().tolist() if tests.rejected[k]]
    who = ", ".join(f"{wording.name_of(row)} ({percent(row['coverage'])})" for row in named[:MOST_NAMED])
    rest = f" and {len(named) - MOST_NAMED:,} more" if len(named) > MOST_NAMED else ""
    verb, which = ("covers", "client") if len(named) == 1 else ("cover", "clients")
    return (
        f"{len(named):,} {of} {verb} less than {least} beyond bad luck: {which} {who}{rest}. Had all kept the promise, "
        f"the chance of naming any is at most {100 * claim.level:g}%, if their thresholds spread over draws no more "
        "than thresholds of their own would."
    )


def found_by_chance(result: Result, claim: Claim) -> str:
    """The power of the test at a client of median size, in a sentence."""
    tests, alpha = claim.certificate(result), result.scenario.calibrate.alpha
    own, tested = (
        int(np.median([row[name] for row, judged in zip(result.clients, tests.considered, strict=True) if judged]))
        for name in ("num_calibration", "num_test")
    )
    little = max(0.0, promised(alpha) - 0.1)
    of, slack, level = tests.num_considered, claim.slack, claim.level
    chance = power(little, tested, own, alpha, of, slack=slack, level=level)
    sure = found_for_sure(tested, own, alpha, of, slack=slack, level=level)
    below = "never named for sure" if np.isnan(sure) else f"named in 4 of 5 runs only below {percent(sure)}"
    return (
        f"Power: a client of median size ({own:,} calibration and {count(tested, 'test point')}) that covers "
        f"{percent(little)} is named in {percent(chance)} of runs, and is {below}."
    )


def mending_method(result: Result) -> str:
    """Which method would keep the promise to single clients in this world; nothing where none is known to."""
    scenario, name = result.scenario, result.scenario.calibrate.name
    shared = scenario.clients.test == "shared"
    if scenario.one_law_a_tier and not wording.is_regression(result) and (shared or name == "grouped"):
        other = "class-conditional"
    elif scenario.one_law_a_tier and not shared and name != "grouped":
        other = "grouped"
    else:
        other = "" if shared else "local"
    return "" if other == name else other


def mending(result: Result) -> str:
    """The same in a sentence."""
    why = {
        "grouped": "the scenario gives a tier one law of scores, for which it promises coverage at each client",
        "class-conditional": "it promises coverage of every class, and so of any mix of them",
        "local": "it promises coverage at each client by the client's own points",
    }
    method = mending_method(result)
    if not method:
        return "No method here is known to mend it: it may be the data, or who misbehaves."
    return f"To mend it: calibrate={method} ({why[method]})."


def of_run(result: Result) -> list[str]:
    """What a run's page opens with: what came of it, the verdict on its clients, and what to do next."""
    parts = [f"{wording.finding(result)}."]
    if not wording.is_calibrated(result):
        return parts
    parts.append(headline(result, Claim()))
    broken = Claim().certificate(result).num_rejected > 0
    others = list(dict.fromkeys([*filter(None, [mending_method(result)] * broken), *RIVALS]))
    names = [name for name in others if name != result.scenario.calibrate.name]
    command = f"fl-sim compare scenario.toml {result.scenario.calibrate.name} {' '.join(names)} seed=0,1,2"
    return [*parts, f"{f'{mending(result)} ' if broken else ''}To compare, in its folder: {command}"]


# ------------------------------------------------------------------------------------------------------------ a sweep


def of_sweep(sweep: SweepResults) -> list[str]:
    """Three sentences: what was compared, who kept the promise at the smallest sets, and what to do next; none where no
    point is finished."""
    if not sweep.results:
        return []
    points, some, first = sweep.points, standings_of(sweep), next(iter(sweep.results.values()))
    promising = [one for one in some if one.promises]
    if not promising:
        return [_compared(points, some), f"{over.finding(points, sweep.axes)}.", "Nothing was promised."]
    best = advised(points, promising)
    kept = _kept(points, promising, best)
    return [_compared(points, some), kept, " ".join(_next(points, promising, best, first))]


def standings_of(sweep: SweepResults) -> list[Standing]:
    """How each of its strategies stood."""
    first = next(iter(sweep.results.values()))
    return standings(sweep.points, sweep.axes, str(first.scenario.calibrate.name))


def _compared(points: pd.DataFrame, some: Sequence[Standing]) -> str:
    names = [one.name for one in some]
    what = listed(names) if len(names) <= MOST_STRATEGIES else f"{len(names)} strategies"
    alphas = {one.average.alpha for one in some if one.promises}
    worlds = max((len(one.worlds) for one in some), default=0)
    where, seeds = count(worlds, "world"), count(over.num_seeds(points), "seed")
    verb = "was run" if len(names) == 1 else "were compared"
    alpha = alphas.pop() if len(alphas) == 1 else float("nan")
    least = "" if np.isnan(alpha) else f"; {promise(alpha)} was promised"
    return f"{what} {verb} in {where} over {seeds}{least}."


def _kept(points: pd.DataFrame, promising: Sequence[Standing], best: Standing | None) -> str:
    if best is not None:
        among = " at the smallest sets" if len(promising) > 1 else ""
        return f"{best.name} kept its promise{among}, as far as these data can tell: {_price(points, best)}."
    broken = [one for one in promising if one.breaks]
    if len(broken) == len(promising):
        return "No strategy here kept its promise." if len(promising) > 1 else f"{broken[0].name} broke its promise."
    return "No strategy here is shown to keep its promise."


def _price(points: pd.DataFrame, one: Standing) -> str:
    by = over.size_metric(points)
    size = number(one.size(by))
    return f"intervals are {size} long on average" if by == over.LENGTH else f"sets hold {size} labels on average"


def _next(points: pd.DataFrame, promising: Sequence[Standing], best: Standing | None, first: Result) -> Iterator[str]:
    if best is not None and len(promising) > 1:
        yield f"Use {best.name}."
    elif best is None and (method := mending_method(first)) and method not in {one.name for one in promising}:
        yield f"{mending(first)}"
    if not any(one.judged for one in promising):
        yield f"No client has {MIN_CALIBRATION} calibration points, so none was judged by itself: give clients more."
    if over.num_seeds(points) == 1 and first.scenario.learn.name != "given":
        yield "Add seed=0,1,2: one seed shows no interval."
    elif len(promising) == 1 and not any(axis in STRATEGIES for axis in points):
        yield "Hold others against it: add calibrate=NAME,NAME."
    if any(one.breaks_each for one in promising):
        yield "fl-sim certify names the clients that are left behind."
