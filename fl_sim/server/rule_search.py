"""Selection that is chosen, not guessed: rules are tried on the server's own labelled rows before one is sent.

The paper's headline takes, per data set, the best of three rules after seeing test accuracy (fl_sim/plada/selection.py
has them). Which rule is best depends on how far the task lies from the reference set, and nobody knows that before.
The server can find out, because it has labels. Its rows are cut into folds, balanced over the classes. In each round
one fold is held out: a teacher learns from the others and says what it thinks of the reference set; each rule still in
the race makes its payload, within the same budget; a student of each kind learns from that payload and is tested on
the rows held out. After each round the worse half of the rules is dropped (successive halving: Jamieson, Talwalkar,
2016, https://proceedings.mlr.press/v51/jamieson16.html). The rule with the best mean over its rounds among those that
lasted is the choice; the payload is then made by it, with a teacher that has learnt from all rows.

No test row is touched. What the choice costs is the students' training; its bytes are none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from fl_sim.plada.rules import RULES, Rule, Trial
from fl_sim.plada.selection import Selection
from fl_sim.population.model_cache import TransferSet, gathered, student
from fl_sim.randomness import stream
from fl_sim.scenario.learn import Rehearsal, Trained
from fl_sim.server.context import Rows, ServerContext, Student, TeacherLogits

Select = Callable[[TeacherLogits, Rule], Selection]


def rehearse(
    server: ServerContext, teacher: Trained, how: Rehearsal, select: Select, rules: Sequence[Rule] = RULES
) -> tuple[Rule, list[Trial]]:
    """The rule to send by, and how all of them fared, the best first: those that lasted longest, then by their mean.

    `select(teacher_logits, rule)` makes a selection within the budget.
    """
    trials = [Trial(rule) for rule in rules]
    folds = _folds(server, how.folds)
    students = students_tried(server, how)
    racing = trials
    for turn in range(min(how.rounds, how.folds)):
        tested = folds[turn]
        rest = np.sort(np.concatenate([rows for i, rows in enumerate(folds) if i != turn]))
        teacher_logits = server.teacher_logits(
            server.teacher(teacher, rest, f"teacher without fold {turn}"),
            embed=any(trial.rule.needs_embeddings for trial in racing),
        )
        server.watch.phase(f"rehearsing {len(racing)} rules", len(racing))
        for trial in racing:
            transfer = transfer_set_of(server, select(teacher_logits, trial.rule))
            trial.accuracies.append(_accuracy(server, students, transfer, tested, turn))
            server.watch.done(1)
        racing = sorted(racing, key=lambda trial: -trial.mean)[: max(2, -(-len(racing) // 2))]
    ranked = sorted(trials, key=lambda trial: (-len(trial.accuracies), -trial.mean))
    return ranked[0].rule, ranked


def transfer_set_of(server: ServerContext, selection: Selection) -> TransferSet:
    """What a client would learn from a selection: hard labels, no curriculum; not kept."""
    return TransferSet("", gathered(server.store, server.references, selection.indices), selection.labels)


def students_tried(server: ServerContext, how: Rehearsal) -> tuple[Student, ...]:
    """The students that rules are tried on: one of each tier, or the one that was named."""
    return server.students if how.student is None else (Student(partial(server.recipe, how.student), 1.0),)


def _folds(server: ServerContext, count: int) -> list[Rows]:
    """The server's rows in folds; each class is dealt out in turn, so that folds differ by one row of a class."""
    rows = server.data.rows("server")
    shuffled = stream(server.seed, "rehearsal", "folds").permutation(rows)
    by_class = shuffled[np.argsort(np.array(server.data.targets[shuffled]), kind="stable")]
    return [np.sort(by_class[i::count]) for i in range(count)]


def _accuracy(
    server: ServerContext, students: Sequence[Student], transfer: TransferSet, tested: Rows, turn: int
) -> float:
    """The mean accuracy of the students on rows held out, weighted by how many clients are of their kind."""
    from fl_sim.models.training import predict

    total = 0.0
    for one in students:
        recipe = one.recipe(f"rehearsal {turn}")
        model = student(server.data, recipe, transfer)
        logits = predict(model, server.data.inputs_for(tested, recipe.contrast), recipe)
        total += one.share * float((logits.argmax(axis=1) == server.data.targets[tested]).mean())
    return total / sum(one.share for one in students)
