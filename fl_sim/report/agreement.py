"""How far clients agree, in words that the table, the figure and the page share. All plain ASCII, but for the names of
tiers and classes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fl_sim.report import wording
from fl_sim.report.wording import count, number, percent
from fl_sim.results.run import Result

Metrics = dict[str, Any]


def is_measured(result: Result) -> bool:
    """Whether the scenario asked."""
    return "agreement" in result.summary


def of(result: Result) -> Metrics:
    """`result.json["agreement"]`."""
    found: Metrics = result.summary["agreement"]
    return found


def unit(result: Result) -> str:
    """What disagreement is."""
    if wording.is_regression(result):
        return "squared difference of predicted means, in variances of the training targets"
    return "summed squared difference of class probabilities"


def headline(result: Result) -> str:
    """In one sentence: how far two clients are apart."""
    found = of(result)
    if wording.is_regression(result):
        return (
            f"The squared difference of two clients' means is {number(found['disagreement'])} of the targets' variance"
        )
    return (
        f"Two clients differ on {percent(found['label_disagreement'])} of labels, and by "
        f"{number(found['disagreement'])} in squared probabilities"
    )


def by_tier(result: Result) -> str:
    """The same for each tier and pair of tiers: `weak 12.0%, weak x strong 9.0%`; nothing where there is one tier."""
    tiers = {name: each for name, each in of(result)["tiers"].items() if each["disagreement"] is not None}
    if len(tiers) < 2:
        return ""
    labels = not wording.is_regression(result)
    told = [
        f"{name} {percent(each['label_disagreement']) if labels else number(each['disagreement'])}"
        for name, each in tiers.items()
    ]
    return ", ".join(told)


def sets_said(result: Result) -> str:
    """How prediction sets overlap; nothing where there are none."""
    found = of(result)
    if found.get("jaccard") is None:
        return ""
    what = "intervals" if wording.is_regression(result) else "prediction sets"
    held = "no number" if wording.is_regression(result) else "no label"
    return (
        f"Their {what} overlap by {percent(found['jaccard'])} (Jaccard), and on {percent(found['contradiction'])} of "
        f"rows two clients contradict each other: neither is empty, and they have {held} in common."
    )


def bound_said(result: Result) -> Iterator[str]:
    """Whether the bound is kept, or why it is not drawn."""
    found = of(result)
    broken = [each["said"] for each in found["conditions"] if not each["holds"]]
    if broken:
        yield f"No bound is drawn, for its conditions do not hold: {'; '.join(broken)}."
        return
    above = [point["k"] for point in found["curve"] if not point["holds"]]
    if above:
        yield f"The bound is broken at k = {', '.join(map(str, above))}, by more than 3 standard errors."
    else:
        yield "The bound is kept at every k."


def enough_said(result: Result) -> str:
    """From which k on doubling buys neither accuracy nor agreement."""
    found = of(result)
    most, by = found["curve"][-1]["k"], f"{found['within']:g}"
    if found["enough"] is None:
        last = found["curve"][-1]
        return (
            f"Doubling a stack pays to the end: at k = {most} it still gains {number(last['gain'])} on rows held out, "
            f"above {by}."
        )
    return (
        f"From k = {found['enough']} on doubling a stack buys neither accuracy (at most {by}, or what chance makes, on "
        "rows held out) nor agreement."
    )


def missing_said(result: Result) -> list[str]:
    """Who did not answer."""
    many = len(of(result)["missing"])
    return [f"{count(many, 'client')} did not answer and {'is' if many == 1 else 'are'} left out."] * bool(many)


def notes(result: Result) -> Iterator[str]:
    """The lines under a run's table; none where it was not asked."""
    if not is_measured(result):
        return
    tiers = by_tier(result)
    yield f"{headline(result)}{tiers and f' ({tiers})'}, over {count(of(result)['rows'], 'row')}."
    yield from filter(None, [sets_said(result), *bound_said(result), enough_said(result), *missing_said(result)])


# ------------------------------------------------------------------------------------------------------------- a page


def conditions(result: Result) -> Iterator[tuple[str, str]]:
    """(`holds` or `does not hold`, what), of each condition of the bound."""
    for each in of(result)["conditions"]:
        yield "holds" if each["holds"] else "does not hold", each["said"]


def tables(result: Result) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """(title, headers, rows) of the tables by tier, by class, and of the stacks."""
    found = of(result)
    columns = {"disagreement": "disagreement", "label_disagreement": "labels differ", "jaccard": "sets overlap"}
    columns |= {"contradiction": "contradict"}
    known = {key: header for key, header in columns.items() if found.get(key) is not None}

    def row(name: str, metrics: Metrics) -> list[str]:
        return [name, *(_cell(key, metrics[key]) for key in known if key in metrics)]

    groups = [("all pairs", found), *[(name, found[name]) for name in ("honest",) if name in found]]
    groups += found["tiers"].items()  # of which one may be called "honest" too
    yield "Pairs of clients, by tier", ["pairs", *known.values()], [row(*each) for each in groups]
    if found["by_class"]:
        headers = ["class of the row", "rows", "disagreement", "labels differ"]
        rows = [[name, f"{each['rows']:,}", *row(name, each)[1:]] for name, each in found["by_class"].items()]
        yield "All pairs, by class of the row", headers, rows
    headers = ["k", "risk of k", "risk of 2k", "held out", "gain of doubling, held out", "disagreement"]
    keys = ["risk", "risk_2k", "held", "gain", "disagreement", *["bound"] * bool(found["bound_applies"])]
    rows = [[str(point["k"]), *(number(point[key]) for key in keys)] for point in found["curve"]]
    bound = ["bound 4 (R_k - R_2k)"] * bool(found["bound_applies"])
    yield "Stacks of k clients' models", [*headers, *bound], rows


def _cell(key: str, value: float | None) -> str:
    return number(value) if key == "disagreement" else percent(value)
