"""The words that a report of a sweep opens with; by which rules, `page_standings` says."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from fl_sim.conformal.certificate import MIN_CALIBRATION
from fl_sim.report import sweep_points as over
from fl_sim.report.page.standings import Standing, instead, standings
from fl_sim.report.sweep_points import STRATEGIES, Cell, axis_names, shown
from fl_sim.report.wording import count, number, p_value, percent, size_of

MOST_TOLD = 4  # failing strategies told in words; the table has all


@dataclass(frozen=True)
class Answer:
    """What a report opens with: a sentence, paragraphs as (lead, text), and the strategies at a glance."""

    headline: str
    paragraphs: list[tuple[str, str]]
    standings: list[Standing]


def answer(points: pd.DataFrame, axes: Sequence[str], alone: str) -> Answer:
    """The answer of a sweep or comparison; arguments as of `standings`."""
    found = standings(points, axes, alone)
    finding, verdict = f"{over.finding(points, axes)}.", _headline(found)
    said = [("", finding)] * bool(verdict)
    return Answer(verdict or finding, [*_paragraphs(points, found), *said], found)


def _headline(found: Sequence[Standing]) -> str:
    """Who breaks the promise and of whom that is not shown; nothing where none does."""
    promised = [one for one in found if one.promises]
    broken = [one.name for one in promised if one.breaks]
    others = [one.name for one in promised if not one.breaks]
    if not broken:
        return ""
    what = f"the promise{_promise(promised[0])}"
    if max(len(broken), len(others)) > MOST_TOLD:
        return f"{len(broken)} of {len(promised)} strategies break {what}."
    verb = "breaks" if len(broken) == 1 else "break"
    rest = f"; of {_and(others)} no broken promise is found" if others else ""
    return f"{_and(broken)} {verb} {what}{rest}."


def _paragraphs(points: pd.DataFrame, found: Sequence[Standing]) -> Iterator[tuple[str, str]]:
    promised = [one for one in found if one.promises]
    if not promised:
        return
    broken = [one for one in promised if one.breaks]
    best = instead(points, promised)
    if not broken:
        yield "No broken promise is found.", _none_broken(promised)
    yield from _advice(points, promised, broken, best)
    for one in broken[:MOST_TOLD]:
        yield _lead(one), " ".join(_where(points, one, best))
    if len(broken) > MOST_TOLD:
        rest = ", ".join(one.name for one in broken[MOST_TOLD:])
        yield f"{len(broken) - MOST_TOLD} more break a promise.", f"They are {rest}; the table below says where."


def _lead(one: Standing) -> str:
    what = f"the promise{_promise(one)}"
    if one.breaks_all and one.breaks_each:
        return f"{one.name} breaks {what}, to all clients together and to single ones."
    if one.breaks_all:
        return f"{one.name} breaks {what} to all clients together."
    return f"{one.name} breaks {what} to single clients; to all clients together it is not shown to be broken."


def _promise(one: Standing) -> str:
    alphas = {cell.alpha for cell in one.worlds}
    alpha = alphas.pop() if len(alphas) == 1 else math.nan
    return "" if math.isnan(alpha) else f" of {100 * (1 - alpha):.4g}%"


def _where(points: pd.DataFrame, one: Standing, best: Standing | None) -> Iterator[str]:
    """In which worlds, by how much, at how many clients, and how the worst client stands beside another strategy's."""
    names, worlds = axis_names(one.axes), len(one.worlds)
    lowest = one.least(over.COVERAGE)
    if one.breaks_all and lowest is not None:
        average = percent(one.size(over.COVERAGE))
        yield (
            f"Over all clients it covers {average} on average, and less than promised in {_of(one.surely, worlds)}"
            f"{marked_where(one.surely, one)}; it is lowest, {percent(lowest.of(over.COVERAGE).mean)}"
            f"{_at(lowest, names)}."
            if one.surely
            else f"Over all clients it covers {average} on average over worlds and seeds; single worlds have too few "
            f"seeds to tell. It is lowest, {percent(lowest.of(over.COVERAGE).mean)}{_at(lowest, names)}."
        )
    if one.breaks_each:
        yield (
            f"{one.rejected:,} of {one.judged:,} clients judged, over all worlds and seeds, fall short beyond bad "
            f"luck, in {_of(one.short, worlds)}{marked_where(one.short, one)}."
        )
    by = over.judged(points)
    worst = one.least(by)
    if by == over.WORST_TESTED and worst is not None:
        beside = _same_world(best, worst) if best is not None and best is not one else None
        there = f", where {best.name} has {percent(beside.of(by).mean)}" if best and beside else ""
        yield f"Its worst client is lowest, {percent(worst.of(by).mean)}{_at(worst, names)}{there}."


def _of(some: Sequence[Cell], worlds: int) -> str:
    if worlds == 1:
        return "the one world"
    return f"all {worlds} worlds" if len(some) == worlds else f"{len(some)} of {worlds} worlds"


def _at(cell: Cell, names: dict[str, str]) -> str:
    where = over.place(cell.key, names)
    return f", at {where}" if where else ""


def _same_world(other: Standing, cell: Cell) -> Cell | None:
    key = {axis: value for axis, value in cell.key.items() if axis not in STRATEGIES}
    return next((one for one in other.worlds if one.key.items() >= key.items()), None)


def marked_where(marked: Sequence[Cell], one: Standing) -> str:
    """At which values of an axis every world is marked, and at which none: `: everywhere at concentration 0.1 and 0.3,
    nowhere at concentration 10`; nothing where no axis tells."""
    names, told = axis_names(one.axes), []
    keys = [id(cell) for cell in marked]
    for word, wanted in (("everywhere", True), ("nowhere", False)):
        for axis in (axis for axis in one.axes if axis not in (*STRATEGIES, "seed")):
            here: dict[Any, list[bool]] = {}
            for cell in one.worlds:
                here.setdefault(cell.key[axis], []).append(id(cell) in keys)
            fits = [shown(value) for value, marks in here.items() if set(marks) == {wanted}]
            if fits and len(fits) < len(here):
                told.append(f"{word} at {names[axis]} {_and(fits)}")
    return f": {', '.join(told)}" if told else ""


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _none_broken(promised: Sequence[Standing]) -> str:
    short = [one.name for one in promised if one.falls_short]
    seeds = max(one.seeds for one in promised)
    if short:
        cover = "covers" if len(short) == 1 else "cover"
        return (
            f"But on average {_and(short)} {cover} less than promised; by chance or not, {_seeds(seeds)} cannot tell."
        )
    return "Neither over all clients together nor at single clients are there more marks than chance would make."


def _seeds(seeds: int) -> str:
    return "one seed" if seeds == 1 else f"{seeds} seeds"


def _advice(
    points: pd.DataFrame, promised: Sequence[Standing], broken: Sequence[Standing], best: Standing | None
) -> Iterator[tuple[str, str]]:
    if len(promised) < 2:
        yield "What to use instead?", "There is one strategy here, so nothing to hold it against."
        return
    if best is None:
        yield "What to use instead?", _no_best(points, promised)
        return
    lead = f"Use {best.name} instead." if broken else f"The smallest of them: {best.name}."
    beside = next((one for one in broken if one is not best), None)
    said = (
        f"No broken promise is found, neither over all clients nor at any of {best.judged:,} clients judged "
        f"(those of {MIN_CALIBRATION} or more calibration points)"
        if not best.rejected
        else "There are no more marks than chance would make, neither over all clients nor at single ones"
    )
    many = f" {over.OF_MANY}." if over.judged(points) == over.WORST_TESTED else ""
    yield lead, " ".join([f"{said}.", *_small_clients(best), f"{_price(points, best, beside)}{many}"])


def _small_clients(one: Standing) -> Iterator[str]:
    """What the tests do not see: a mean over clients, in which those of few points count as much as the others."""
    if one.means_fall_short:
        marked = one.surely_by_clients
        yield (
            f"But as a mean over clients, where those of few points count like the others, it covers less than "
            f"promised in {_of(marked, len(one.worlds))}{marked_where(marked, one)}."
        )


def _price(points: pd.DataFrame, one: Standing, beside: Standing | None) -> str:
    """Size and bytes on average over worlds, beside another strategy's, and its lowest worst client."""
    by, names = over.size_metric(points), axis_names(one.axes)
    thing = "Intervals are" if by == over.LENGTH else "Sets hold"
    unit = "long" if by == over.LENGTH else "labels"
    told = f"{thing} {number(one.size(by))} {unit} on average"
    told += f" ({beside.name}: {number(beside.size(by))})" if beside else ""
    sent = one.size(over.BYTES_UP)
    if not math.isnan(sent):
        told += f"; a client sends {size_of(round(sent))}"
        told += f" ({beside.name}: {size_of(round(beside.size(over.BYTES_UP)))})" if beside else ""
    worst = one.least(over.WORST_TESTED) if over.judged(points) == over.WORST_TESTED else None
    if worst is not None:
        told += f"; its worst client is lowest, {percent(worst.of(over.WORST_TESTED).mean)}{_at(worst, names)}"
    return f"{told}."


def _no_best(points: pd.DataFrame, promised: Sequence[Standing]) -> str:
    judged = [one for one in promised if one.judged]
    if not judged:
        together = [one.name for one in promised if one.stands]
        said = f"No client has {MIN_CALIBRATION} calibration points and test points, so none is judged by itself"
        if not together:
            return f"{said}; and over all clients no strategy here is free of a shortfall."
        return f"{said}. Over all clients together no broken promise is found of {_and(together)}."
    fewest = min(judged, key=lambda one: one.rejected / one.judged)
    return (
        f"No strategy here keeps both promises. The fewest clients fall short under {fewest.name}: "
        f"{fewest.rejected:,} of {count(fewest.judged, 'client')} judged. {_price(points, fewest, None)}"
    )


# --------------------------------------------------------------------------------------------------------- at a glance


def told_of_all(one: Standing) -> tuple[str, str]:
    """(`broken`, `kept` or `open`, in words) of the promise to all clients together."""
    worlds, surely, below = len(one.worlds), len(one.surely), len(one.below)
    if not one.promises:
        return "open", "nothing promised"
    if one.breaks_all:
        return "broken", f"broken in {_of(one.surely, worlds)}" if surely else "broken on average over worlds"
    if surely:
        return "open", f"not shown broken: marked in {surely} of {worlds} worlds, as chance may"
    if not below:
        return "kept", f"kept in {_of(one.worlds, worlds)}"
    return "open", f"below in {_of(one.below, worlds)}; {_seeds(one.seeds)} cannot tell"


def told_of_each(one: Standing) -> tuple[str, str]:
    """The same of the promise to each client."""
    if not one.promises:
        return "open", "nothing promised"
    if not one.judged:
        return "open", f"not judged: none has {MIN_CALIBRATION} calibration points"
    of = count(one.judged, "client")
    if one.breaks_each:
        return "broken", f"broken: {one.rejected:,} of {of} fall short (p {p_value(one.p_each)})"
    if one.rejected:
        return "open", f"not shown broken: {one.rejected:,} of {of}, as chance may (p {p_value(one.p_each)})"
    return "kept", f"none of {of} shown to fall short"
