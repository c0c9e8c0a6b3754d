"""What a hand-out says, in words: what was sent to every client, what it would take otherwise, what came of it.

All of it but the names of classes is plain ASCII, so that it can be printed anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from fl_sim.report import wording
from fl_sim.report.numbers import count, percent, size_of, small_percent
from fl_sim.results.run import Result

MOST_NAMES = 8  # of classes, in a line


def is_handed_out(result: Result) -> bool:
    """Whether the server sent every client the same payload."""
    return "payload_bytes" in result.learn


def has_payload(result: Result) -> bool:
    """Whether the payload is PLADA's, with what it is made of."""
    return "codec" in result.learn and "kept_by_class" in detail(result)


def detail(result: Result) -> dict[str, Any]:
    """What the learn strategy found beside its metrics."""
    beside: dict[str, Any] = result.summary["learn"].get("detail") or {}
    return beside


def notes(result: Result) -> Iterator[str]:
    """The lines for the notes under a run's table; none where nothing was handed out."""
    if not is_handed_out(result):
        return
    learn = result.learn
    size = f"Handed out: {size_of(learn['payload_bytes'])} to every client"
    if "num_kept" in learn:
        yield f"{size}, the labels of {kept(learn)}; {learn['rule']}."
    else:
        yield f"{size}: {learn['rule']}; class names not counted, as they are in a payload of labels."
    if "codec" in learn:
        yield _beside(learn["codec"])
    yield from unlabelled([name for name, many in detail(result).get("kept_by_class", {}).items() if not many])
    yield accuracies(result)
    if detail(result).get("rehearsal"):
        yield rehearsed(detail(result)["rehearsal"])


def unlabelled(names: Sequence[str]) -> list[str]:
    """The line on classes that a payload labels nothing as; no line where there are none."""
    if not names:
        return []
    parts = ", ".join(names[:MOST_NAMES]) + f", and {len(names) - MOST_NAMES:,} more" * (len(names) > MOST_NAMES)
    return [
        f"No reference is labelled {parts}: students cannot learn {'these classes' if names[1:] else 'this class'}."
    ]


def kept(learn: dict[str, Any]) -> str:
    """`1,710 of 41,247 references (4.1%)`."""
    share = small_percent(learn["keep_fraction"])
    return f"{learn['num_kept']:,} of {count(learn['num_references'], 'reference')} ({share})"


def _beside(codec: dict[str, Any]) -> str:
    """The body beside what it would take otherwise."""
    text = f"Its indices and labels take {size_of(codec['body'])}; Zstd-19 would take {size_of(codec['zstd'])}"
    return f"{text}, the entropy bound without clusters is {size_of(round(codec['entropy_bound']))}."


def accuracies(result: Result) -> str:
    """The teacher's where it is known, and that of each tier's clients."""
    learn = result.learn
    teacher = learn.get("teacher_accuracy")
    by_tier = {tier: learn["tiers"].get(tier, {}).get("accuracy") for tier in wording.tiers(result)}
    tiers = ", ".join(f"{percent(value)} ({tier})" for tier, value in by_tier.items() if value is not None)
    parts = [f"the teacher {percent(teacher)}"] * (teacher is not None) + [f"the clients {tiers}"] * bool(tiers)
    return f"Accuracy: {', '.join(parts)}." if parts else "Accuracy: no client could be tested."


def rehearsed(trials: list[dict[str, Any]]) -> str:
    """How many rules were tried, which was best, which came next and which was worst."""
    if len(trials) == 1:
        return f"Rehearsed one rule on rows of the server's: {_trial(trials[0])}."
    best, *others = trials
    worst = min(trials, key=lambda trial: trial["accuracy"])
    parts = [f"best {_trial(best)}", f"then {_trial(others[0])}"]
    parts += [f"worst {_trial(worst)}"] * (worst is not best and worst is not others[0])
    return f"Rehearsed {len(trials)} rules on held-out rows of the server's: {'; '.join(parts)}."


def _trial(trial: dict[str, Any]) -> str:
    return f"{trial['rule']}, {percent(trial['accuracy'])} over {count(len(trial['rounds']), 'round')}"
