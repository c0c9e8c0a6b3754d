"""A task in kilobytes: labels over reference images that every client holds.

"A Dataset is Worth 1 MB", Kimchi Shoshani, Gabay, Hoshen, 2026, https://arxiv.org/abs/2602.23358

    1  train f on the target data                            `desk.teacher`       (data.server)
    2  l_i = argmax_q f(x_i)[q] for every reference x_i      `desk.opinions`, `selection.pseudo_labels`
    3  E_i = -T log Σ_j exp(f(x_i)[j] / T), keep the lowest p %       `rule`, `keep_fraction`, `temperature` (eq. 5, 8)
    4  a share s by class, K_c ~ (N_c)^α                     `safety` (share, exponent) (eq. 6)
    5  encode the kept i and l_i                             `Payload.pack`
    6  every client trains its own network on (x_i, l_i)     `clients/handed.py`

**Sent** to every client: the payload, once. **Received**: nothing. The server's data never leave it.

**Beyond the paper**: a codec of our own in place of Zstd (docs/payload-format.md); a budget in bytes in place of p; the
rule is `rehearsed` on held-out server data unless one is named (fl_sim/rehearsal.py); a curriculum and soft labels,
each for its bytes; every image is seen by its own mean and contrast (fl_sim/data/contrast.py).
"""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_sim.artifacts import Artifact, digest
from fl_sim.desk import Desk, Opinions
from fl_sim.errors import FlSimError
from fl_sim.options import Rehearsal, SafetyNet, Trained
from fl_sim.plada import baselines, codec
from fl_sim.plada.payload import Payload
from fl_sim.plada.selection import Safety, Selection, count_of, energy, ranked
from fl_sim.randomness import stream
from fl_sim.records import PayloadRequest
from fl_sim.rehearsal import Rule, Trial, rehearse, students_tried
from strategies.base import HandOut, Roster

VERSION = 2  # raise it when a change here changes a payload


@dataclass(frozen=True)
class Size:
    """How much may be kept: a share of the references, or what fits into so many bytes."""

    keep_fraction: float | None
    budget_bytes: int | None


class Plada(HandOut):
    """Round 1: the first client of each tier trains; round 2: the others find its student in the artifact store."""

    def __init__(
        self, roster: Roster, teacher: Trained, keep_fraction: float | None, budget_bytes: int | None, rule: str,
        safety: SafetyNet | None, temperature: float, labels: str, curriculum: int | None, soft_labels: int | None,
        rehearsal: Rehearsal, per_client: bool,
    ) -> None:  # fmt: skip
        super().__init__(roster, per_client)
        self.teacher, self.size, self.rehearsal = teacher, Size(keep_fraction, budget_bytes), rehearsal
        net = None if safety is None else Safety(safety.share, safety.exponent)
        self.rule = None if rule == "rehearsed" else Rule(rule, net)
        self.temperature, self.labels, self.curriculum, self.soft_labels = temperature, labels, curriculum, soft_labels

    def request(self) -> PayloadRequest:
        """The payload, as it is sent to everybody."""
        return PayloadRequest(self.roster.population, self.per_client, np.frombuffer(self.file, np.uint8))

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
        desk = self.desk
        self._check_count(desk)
        told = {name: _plain(value) for name, value in self.__dict__.items() if name in _DECIDES}
        recipe = desk.recipe(self.teacher, "teacher").parts()
        tried = students_tried(desk, self.rehearsal) if self.rule is None else ()
        students = [[one.recipe("rehearsal").parts(), one.share] for one in tried]
        key = digest(
            version=VERSION, data=desk.data.key, reference=desk.references.key, teacher_recipe=recipe,
            students=students, **told,
        )  # fmt: skip
        return desk.store.get("payload", key, self._make)

    def _make(self) -> Artifact:
        """The paper's algorithm, steps 1 to 5."""
        desk, rule = self.desk, self.rule
        trials: list[Trial] = []
        if rule is None:
            rule, trials = rehearse(desk, self.teacher, self.rehearsal, self.select)
        teacher = desk.teacher(self.teacher)
        opinions = desk.opinions(teacher, embed=rule.needs_embeddings)
        selection = self.select(opinions, rule)
        payload = self.pack(selection, opinions)
        file, counts = payload.to_bytes(), np.bincount(selection.labels, minlength=len(payload.class_names))
        metrics = {
            "payload_bytes": len(file),
            "num_kept": payload.num_kept,
            "num_references": payload.num_references,
            "keep_fraction": payload.num_kept / payload.num_references,
            "rule": selection.rule,
            "codec": sizes(payload, selection, desk.references.groups),
        }
        detail = {
            "reference": {"sets": list(desk.references.sets), "digest": payload.reference.hex()},
            "kept_by_class": dict(zip(payload.class_names, counts.tolist(), strict=True)),
            "rehearsal": [
                {"rule": str(t.rule), "accuracy": t.mean, "rounds": [round(a, 6) for a in t.accuracies]} for t in trials
            ],
        }
        meta = {"teacher": teacher.key, "metrics": metrics, "detail": detail}
        return Artifact({"file": np.frombuffer(file, np.uint8)}, meta)

    def select(self, opinions: Opinions, rule: Rule) -> Selection:
        """What a rule keeps within the size that was asked for.

        Raises:
            FlSimError: the size is too small for one label a class.
        """
        ranking = ranked(
            opinions.logits, rule=rule.name, safety=rule.safety, temperature=self.temperature, seed=self.roster.seed,
            embeddings=opinions.embeddings,
        )  # fmt: skip
        references = len(ranking.labels)
        if self.size.keep_fraction is not None:
            return self._labelled(ranking.keep(count_of(self.size.keep_fraction, references)))
        budget, least = self.size.budget_bytes or 0, self.desk.data.num_classes or 1

        def size(count: int) -> int:
            return len(self.pack(self._labelled(ranking.keep(count)), opinions).to_bytes())

        if size(least) > budget:
            raise FlSimError(
                f"learn.budget_bytes = {budget}: one label for each of {least} classes, with header and names, takes "
                f"{size(least)} bytes; allow more"
            )
        return self._labelled(ranking.keep(_largest(size, budget, least, references)))

    def pack(self, selection: Selection, opinions: Opinions) -> Payload:
        """The payload of a selection."""
        reference, classes = self.desk.references, self.desk.data.classes or ()
        logits = opinions.logits[selection.indices].astype(np.float64)
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
        meta = self._made.meta
        return meta["metrics"] | {"teacher_accuracy": self.desk.accuracy(meta["teacher"])}

    def detail(self) -> dict[str, Any]:
        """The reference set, what is kept of each class, and how the rules fared in rehearsal."""
        found: dict[str, Any] = self._made.meta["detail"]
        return found

    def files(self) -> dict[str, bytes]:
        """The payload, and where the reference set's folders start, which its reader needs."""
        folders = io.BytesIO()
        np.save(folders, self.desk.references.groups, allow_pickle=False)
        return {"payload.plada": self.file, "folders.npy": folders.getvalue()}

    def _labelled(self, selection: Selection) -> Selection:
        """The selection as it is, or with labels drawn at random: the floor."""
        if self.labels == "teacher":
            return selection
        rng = stream(self.roster.seed, "plada", "random labels")
        labels = rng.integers(self.desk.data.num_classes or 1, size=len(selection.indices))
        return Selection(selection.indices, labels, f"{selection.rule}; random labels")

    def _check_count(self, desk: Desk) -> None:
        """Refuse a share too small for one label a class, before any work."""
        share, references, classes = self.size.keep_fraction, len(desk.references), desk.data.num_classes or 1
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


def sizes(payload: Payload, selection: Selection, groups: NDArray[np.int64]) -> dict[str, Any]:
    """Bytes of a payload's parts, of Zstd's best on the same content, and of the entropy bound."""
    kept, references, classes = payload.num_kept, payload.num_references, len(payload.class_names)
    mask = len(codec.encode(selection.indices, np.zeros(kept, np.int64), references, 1, groups))
    return {
        **{part.replace(" ", "_"): size for part, size in payload.parts().items()},
        "indices": mask,
        "labels": len(payload.body) - mask,
        "reading": codec.reading_of(payload.body),
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


def _largest(size: Any, budget: int, least: int, most: int) -> int:
    """The largest count found whose payload fits: sizes grow with the count, but for a few bytes.

    Counts are doubled until one is too large, and then halved in between: most of a large set is never packed.
    """
    low, high = least, 2 * least  # low fits
    while high <= most and size(high) <= budget:
        low, high = high, 2 * high
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(middle) <= budget else (low, middle)
    return low


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
