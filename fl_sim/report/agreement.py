"""How far clients agree, in words that the table, the figure and the page share. All plain ASCII, but for the names of
tiers and classes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fl_sim.report import wording
from fl_sim.report.numbers import count, number, percent
from fl_sim.results.run import Result

Metrics = dict[str, Any]


def is_measured(result: Result) -> bool:
    """Whether the scenario asked."""
    return "agreement" in result.summary


def of(result: Result) -> Metrics:
    """`result.json["agreement"]`."""
    metrics: Metrics = result.summary["agreement"]
    return metrics


def unit(result: Result) -> str:
    """What disagreement is."""
    if wording.is_regression(result):
        return "squared difference of predicted means, in variances of the training targets"
    return "summed squared difference of class probabilities"


def headline(result: Result) -> str:
    """In one sentence: how far two clients are apart."""
    metrics, apart = of(result), number(of(result)["disagreement"])
    if wording.is_regression(result):
        return f"The squared difference of two clients' means is {apart} of the targets' variance"
    labels = percent(metrics["label_disagreement"])
    return f"Two clients differ on {labels} of labels, and by {apart} in squared probabilities"


def bound_said(result: Result) -> str:
    """Whether the bound is kept, or why it is not drawn."""
    metrics = of(result)
    broken = [each["said"] for each in metrics["conditions"] if not each["holds"]]
    if broken:
        return f"No bound is drawn, for its conditions do not hold: {'; '.join(broken)}."
    above = [str(point["k"]) for point in metrics["curve"] if not point["holds"]]
    if above:
        return f"The bound is broken at k = {', '.join(above)}, by more than 3 standard errors."
    return "The bound is kept at every k."


def enough_said(result: Result) -> str:
    """From which k on doubling buys neither accuracy nor agreement."""
    metrics, last = of(result), of(result)["curve"][-1]
    by = f"{metrics['within']:g}"
    if metrics["enough"] is None:
        gain = f"at k = {last['k']} it still gains {number(last['gain'])} on rows held out, above {by}"
        return f"Doubling a stack pays to the end: {gain}."
    return (
        f"From k = {metrics['enough']} on doubling a stack buys neither accuracy (at most {by}, or what chance makes, "
        "on rows held out) nor agreement."
    )


def missing_said(result: Result) -> list[str]:
    """Who did not answer."""
    many = len(of(result)["missing"])
    return [f"Left out, because they did not answer: {count(many, 'client')}."] * bool(many)


def notes(result: Result) -> Iterator[str]:
    """The lines under a run's table; none where it was not asked."""
    if not is_measured(result):
        return
    yield f"{headline(result)}, over {count(of(result)['rows'], 'row')}."
    yield from [*_by_tier(result), *_sets(result), bound_said(result), enough_said(result)]
    yield from missing_said(result)


def _by_tier(result: Result) -> Iterator[str]:
    tiers = {name: each for name, each in of(result)["tiers"].items() if each["disagreement"] is not None}
    regression = wording.is_regression(result)
    name_of, show = ("disagreement", number) if regression else ("label_disagreement", percent)
    if len(tiers) > 1:
        what = "Disagreement" if regression else "Labels differ"
        yield f"{what} by tier: {', '.join(f'{name} {show(each[name_of])}' for name, each in tiers.items())}."


def _sets(result: Result) -> Iterator[str]:
    """How prediction sets overlap; nothing where there are none."""
    metrics = of(result)
    if metrics.get("jaccard") is not None:
        what, none = ("intervals", "number") if wording.is_regression(result) else ("prediction sets", "label")
        yield (
            f"Their {what} overlap by {percent(metrics['jaccard'])} (Jaccard), and on "
            f"{percent(metrics['contradiction'])} of rows two clients contradict each other: neither is empty, and "
            f"they have no {none} in common."
        )
