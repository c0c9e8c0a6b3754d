"""A task in kilobytes: labels over reference images that every client holds.

"A Dataset is Worth 1 MB", Kimchi Shoshani, Gabay, Hoshen, 2026, https://arxiv.org/abs/2602.23358

    1  train f on the target data                            `server.teacher`       (data.server)
    2  l_i = argmax_q f(x_i)[q] for every reference x_i      `server.teacher_logits`, `selection.pseudo_labels`
    3  E_i = -T log Σ_j exp(f(x_i)[j] / T), keep the lowest p %       `rule`, `keep_fraction`, `temperature` (eq. 5, 8)
    4  a share s by class, K_c ~ (N_c)^α                     `safety` (share, exponent) (eq. 6)
    5  encode the kept i and l_i                             `Payload.pack`
    6  every client trains its own network on (x_i, l_i)     `clients/broadcast.py`

**Sent** to every client: the payload, once. **Received**: nothing. The server's data never leave it.

**Beyond the paper**: a codec of our own in place of Zstd (docs/payload-format.md); a budget in bytes in place of p; the
rule is `rehearsed` on held-out server data unless one is named (fl_sim/server/rule_search.py); a curriculum and soft
labels, each for its bytes; every image is seen by its own mean and contrast (fl_sim/data/contrast.py).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fl_sim.data.source import versions
from fl_sim.errors import FlSimError
from fl_sim.messages.learning import PayloadRequest
from fl_sim.plada import baselines, codec, payload, selection
from fl_sim.plada.budget import largest_within
from fl_sim.plada.folders import pack_folders
from fl_sim.plada.payload import Payload
from fl_sim.plada.rules import RULES, Rule, Trial
from fl_sim.plada.selection import Safety, Selection, count_of, energy, ranked
from fl_sim.randomness import stream
from fl_sim.scenario.learn import Rehearsal, SafetyNet, Trained
from fl_sim.store.artifacts import Artifact, digest
from strategies.base import ALONE, Federation
from strategies.families.training import Broadcast

if TYPE_CHECKING:  # torch comes with them, and reading a scenario needs none
    from fl_sim.server.context import ServerContext, TeacherLogits

REHEARSAL = Rehearsal()

VERSION = 4  # raise it when a change here or in fl_sim/server/rule_search.py changes a payload


@dataclass(frozen=True)
class Size:
    """How much may be kept: a share of the references, or what fits into so many bytes."""

    keep_fraction: float | None
    budget_bytes: int | None


class Plada(Broadcast):
    """A task as labels over reference images that every client holds: a payload of kilobytes (PLADA).

    Round 1: the first client of each tier trains; round 2: the others find its student in the artifact store.
    """

    needs_reference = True

    @classmethod
    def one_model_a_tier(cls, options: Any) -> bool:
        """Unless clients have models of their own."""
        return not options.per_client

    @classmethod
    def check(cls, options: Any) -> None:
        """One size, and one choice of the rule."""
        if (options.keep_fraction is None) == (options.budget_bytes is None):
            raise ValueError("say either keep_fraction or budget_bytes, one of them")
        if options.rule == "rehearsed" and options.safety is not None:
            raise ValueError("rule = 'rehearsed' chooses the safety net too; leave safety out, or name a rule")

    @classmethod
    def check_world(cls, options: Any, scenario: Any, task: str | None) -> None:
        """Each fold of a rehearsal needs a row."""
        if options.rule == "rehearsed" and scenario.data.server < options.rehearsal.folds:
            raise ValueError(
                f"learn.rehearsal.folds = {options.rehearsal.folds}, and data.server = {scenario.data.server} rows"
            )

    def __init__(
        self,
        federation: Federation = ALONE,
        *,
        teacher: Trained,  # on data.server; it labels the images
        # of the reference set; say this, or budget_bytes
        keep_fraction: Annotated[float, Field(gt=0, le=1)] | None = None,
        # the best payload that is no larger, header included
        budget_bytes: Annotated[int, Field(ge=1)] | None = None,
        # Which images are kept: by energy, by entropy, ... (docs/plada.md); rehearsed: tried out on the server's
        # rows.
        rule: Literal["lowest", "highest", "entropy", "random", "mixed", "diverse", "rehearsed"] = "rehearsed",
        safety: SafetyNet | None = None,  # part of the budget by class; left out: none
        temperature: Annotated[float, Field(gt=0)] = 1.0,  # of the energy and the entropy
        labels: Literal["teacher", "random"] = "teacher",  # random: the floor, a payload that says nothing
        curriculum: Annotated[int, Field(ge=2, le=256)] | None = None,  # levels, the most confident are shown first
        # bits of the teacher's confidence in each label
        soft_labels: Annotated[int, Field(ge=1, le=8)] | None = None,
        rehearsal: Rehearsal = REHEARSAL,  # for rule = "rehearsed"
        per_client: bool = False,  # true: every client trains a student of its own; false: one for each tier
    ) -> None:
        super().__init__(federation, per_client=per_client)
        self.teacher, self.size, self.rehearsal = teacher, Size(keep_fraction, budget_bytes), rehearsal
        net = None if safety is None else Safety(safety.share, safety.exponent)
        self.rule = None if rule == "rehearsed" else Rule(rule, net)
        self.temperature, self.labels, self.curriculum, self.soft_labels = temperature, labels, curriculum, soft_labels

    def request(self) -> PayloadRequest:
        """The payload, as it is sent to everybody."""
        return PayloadRequest(self.federation.population, self.array, self.per_client, self.models)

    @cached_property
    def file(self) -> bytes:
        """The payload's file, made now unless the store has it."""
        return self._made.arrays["file"].tobytes()

    @cached_property
    def payload(self) -> Payload:
        """The payload."""
        most = codec.MOST_REFERENCES
        return Payload.from_bytes(self.file, most_references=most, most_kept=most)

    @cached_property
    def _made(self) -> Artifact:
        from fl_sim.models.model_key import key_parts
        from fl_sim.server.rule_search import students_tried

        server = self.server
        self._check(server)
        parts = {name: _plain(value) for name, value in self.__dict__.items() if name in _DECIDES}
        recipe = key_parts(server.recipe(self.teacher, "teacher"))
        tried = students_tried(server, self.rehearsal) if self.rule is None else ()
        students = [[key_parts(one.recipe("rehearsal")), one.share] for one in tried]
        rules = [str(rule) for rule in RULES] if self.rule is None else []
        key = digest(
            version=[VERSION, selection.VERSION, payload.VERSION, *versions("numpy", "constriction", "zstandard")],
            data=server.data.key, reference=server.references.key, teacher_recipe=recipe, students=students,
            rules=rules, **parts,
        )  # fmt: skip
        return server.store.get("payload", key, self._make)

    def _make(self) -> Artifact:
        """The paper's algorithm, steps 1 to 5."""
        server, rule = self.server, self.rule
        trials: list[Trial] = []
        if rule is None:
            from fl_sim.server.rule_search import rehearse

            rule, trials = rehearse(server, self.teacher, self.rehearsal, self.nearly)
        teacher = server.teacher(self.teacher)
        teacher_logits = server.teacher_logits(teacher, embed=rule.needs_embeddings)
        selection = self.select(teacher_logits, rule)
        made = self.pack(selection, teacher_logits)
        file, counts = made.to_bytes(), np.bincount(selection.labels, minlength=len(made.class_names))
        metrics = {
            "payload_bytes": len(file),
            "num_kept": made.num_kept,
            "num_references": made.num_references,
            "keep_fraction": made.num_kept / made.num_references,
            "rule": selection.rule,
            "codec": sizes(made, selection, server.references.groups),
        }
        detail = {
            "reference": {"sets": list(server.references.sets), "digest": made.reference.hex()},
            "kept_by_class": dict(zip(made.class_names, counts.tolist(), strict=True)),
            "rehearsal": [
                {"rule": str(t.rule), "accuracy": t.mean, "rounds": [round(a, 6) for a in t.accuracies]} for t in trials
            ],
        }
        return Artifact({"file": np.frombuffer(file, np.uint8)}, {"metrics": metrics, "detail": detail})

    def nearly(self, teacher_logits: TeacherLogits, rule: Rule) -> Selection:
        """What a rule keeps, for a rehearsal: a budget need only be used up to 2 %."""
        return self.select(teacher_logits, rule, unused=0.02)

    def select(self, teacher_logits: TeacherLogits, rule: Rule, unused: float = 0.0) -> Selection:
        """What a rule keeps within the size that was asked for; of a budget the share `unused` may stay so.

        Raises:
            FlSimError: the size is too small for one label a class.
        """
        ranking = ranked(
            teacher_logits.logits, rule=rule.name, safety=rule.safety, temperature=self.temperature,
            seed=self.federation.seed, embeddings=teacher_logits.embeddings,
        )  # fmt: skip
        references = len(ranking.labels)
        if self.size.keep_fraction is not None:
            return self._labelled(ranking.keep(count_of(self.size.keep_fraction, references)))
        budget, least = self.size.budget_bytes or 0, self.server.data.num_classes or 1

        def size(count: int) -> int:
            return len(self.pack(self._labelled(ranking.keep(count)), teacher_logits).to_bytes())

        if size(least) > budget:
            raise FlSimError(
                f"learn.budget_bytes = {budget}: one label for each of {least} classes, with header and names, takes "
                f"{size(least)} bytes; allow more"
            )
        return self._labelled(ranking.keep(largest_within(size, budget, least, references, unused)))

    def pack(self, selection: Selection, teacher_logits: TeacherLogits) -> Payload:
        """The payload of a selection."""
        reference, classes = self.server.references, self.server.data.classes or ()
        logits = teacher_logits.logits[selection.indices].astype(np.float64)
        levels = None if self.curriculum is None else _levels(energy(logits, self.temperature), self.curriculum)
        # A label drawn at random may have less than an even share; the format has no words for that.
        confident = np.maximum(_confidences(logits, selection.labels), 1 / max(len(classes), 1))
        confidences = None if self.soft_labels is None else confident
        return Payload.pack(
            selection.indices, selection.labels, reference=reference.digest, class_names=classes,
            num_references=len(reference), groups=reference.groups, levels=levels, num_levels=self.curriculum or 0,
            confidences=confidences, bits=self.soft_labels or 0,
        )  # fmt: skip

    def metrics(self) -> dict[str, Any]:
        """What was handed out, and what it cost."""
        metrics: dict[str, Any] = self._made.meta["metrics"]
        return metrics | {"teacher_accuracy": self.server.accuracy(self.server.teacher(self.teacher).key)}

    def detail(self) -> dict[str, Any]:
        """The reference set, what is kept of each class, and how the rules fared in rehearsal."""
        detail: dict[str, Any] = self._made.meta["detail"]
        return detail

    def files(self) -> dict[str, bytes]:
        """The payload, and where the reference set's folders start if its readers need that."""
        made = {"payload.plada": self.file}
        if codec.reading_of(self.payload.body) != "foldered":
            return made
        return made | {"folders.npz": pack_folders(self.server.references.groups, self.payload.reference)}

    def _labelled(self, selection: Selection) -> Selection:
        """The selection as it is, or with labels drawn at random: the floor."""
        if self.labels == "teacher":
            return selection
        rng = stream(self.federation.seed, "plada", "random labels")
        labels = rng.integers(self.server.data.num_classes or 1, size=len(selection.indices))
        return Selection(selection.indices, labels, f"{selection.rule}; random labels")

    def _check(self, server: ServerContext) -> None:
        """Refuse, before any work, a size too small for one label a class, and a teacher without what a rule needs.

        Of a budget only the header and the names are known so early.
        """
        share, references, classes = self.size.keep_fraction, len(server.references), server.data.num_classes or 1
        if references < classes:
            raise FlSimError(
                f"the reference set has {references} images: must be at least one for each of {classes} classes; add "
                "to reference.sets"
            )
        if share is not None and count_of(share, references) < classes:
            raise FlSimError(
                f"learn.keep_fraction = {share:g} of {references} references is {count_of(share, references)} labels: "
                f"must be at least one for each of {classes} classes"
            )
        budget, empty = self.size.budget_bytes, payload.HEADER + len("\n".join(server.data.classes or ()).encode())
        if budget is not None and budget <= empty:
            raise FlSimError(f"learn.budget_bytes = {budget}: header and class names alone take {empty}; allow more")
        if any(rule.needs_embeddings for rule in ([self.rule] if self.rule else RULES)):
            server.check_embeddings(self.teacher)


def sizes(made: Payload, selection: Selection, groups: NDArray[np.int64]) -> dict[str, Any]:
    """Bytes of a payload's parts, of Zstd's best on the same content, and of the entropy bound."""
    references, classes = made.num_references, len(made.class_names)
    reading = codec.reading_of(made.body)
    by_folders = groups if reading == "foldered" else None
    mask = len(codec.encode(selection.indices, np.zeros(made.num_kept, np.int64), references, 1, by_folders))
    return {
        **{part.replace(" ", "_"): size for part, size in made.parts().items()},
        "indices": mask,
        "labels": len(made.body) - mask,
        "reading": reading,
        "zstd": min(baselines.zstd_sizes(selection.indices, selection.labels, references, classes).values()),
        "entropy_bound": round(baselines.bound(selection.labels, references), 1),
    }


# What decides a payload beside data, references and networks.
_DECIDES = ("teacher", "size", "rehearsal", "rule", "temperature", "labels", "curriculum", "soft_labels")


def _plain(value: Any) -> Any:
    """An option as JSON values."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    return asdict(value) if isinstance(value, Size | Rule) else value


def _levels(energies: NDArray[np.float64], count: int) -> NDArray[np.uint8]:
    """(k,) levels of equal size, the lowest energies first; equal ones by index."""
    ranks = np.empty(len(energies), np.int64)
    ranks[np.argsort(energies, kind="stable")] = np.arange(len(energies))
    return (ranks * count // len(energies)).astype(np.uint8)


def _confidences(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """(k,) the teacher's probability of each label."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted[np.arange(len(labels)), labels] / shifted.sum(axis=1)


__all__ = ["Plada"]
