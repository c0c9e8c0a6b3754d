"""What the server works with: labelled rows of its own, the reference set, and a teacher and its logits.

What the server of a hand-out computes is kept in the artifact store, so that another rule, another budget and another
calibration start from the same teacher and the same logits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fl_sim.data.reference import Reference
from fl_sim.errors import FlSimError
from fl_sim.models.recipe import Recipe
from fl_sim.population.model_cache import kept_outputs, load_model, trained, untrained
from fl_sim.population.prepared_data import Prepared
from fl_sim.scenario.learn import Trained
from fl_sim.store.artifacts import Artifact, Store, digest

BLOCK = 4096  # references that the teacher is shown at once

Rows = NDArray[np.int64]


class PhaseWatch(Protocol):
    """Told what is going on."""

    def phase(self, name: str, total: int | None) -> None:
        """A phase begins, with so many steps to come if that is known."""

    def done(self, count: int) -> None:
        """So many more steps are done."""


@dataclass(frozen=True)
class Student:
    """A kind of student: one tier's."""

    recipe: Callable[[str], Recipe]  # purpose -> how it is made
    share: float  # of the clients


@dataclass(frozen=True, eq=False)
class Teacher:
    """A network trained on labelled rows, by its key in the store."""

    key: str
    recipe: Recipe


@dataclass(frozen=True, eq=False)
class TeacherLogits:
    """What a teacher says of every reference: memory-mapped."""

    logits: NDArray[np.float32]  # (N, C)
    embeddings: NDArray[np.float16] | None  # (N, d), what its last layer is given


@dataclass(frozen=True, eq=False)
class ServerContext:
    """The server's side."""

    data: Prepared
    reference: Reference | None  # None where nothing rests on one
    store: Store
    seed: int
    device: str
    precision: str
    students: tuple[Student, ...]
    tested: Rows  # all clients' test rows; for what is told of a model, never for what becomes of one
    watch: PhaseWatch

    @property
    def references(self) -> Reference:
        """The reference set, for those that need one."""
        assert self.reference is not None, "the scenario has seen to it"
        return self.reference

    def recipe(self, network: Trained, purpose: str) -> Recipe:
        """How a network of the server's is made."""
        return Recipe(
            architecture=network.architecture, epochs=network.epochs, learning_rate=network.learning_rate,
            batch_size=network.batch_size, quantiles=None, seed=self.seed, purpose=purpose, device=self.device,
            precision=self.precision, optimizer=network.optimizer, schedule=network.schedule, contrast="image",
        )  # fmt: skip

    def teacher(self, network: Trained, rows: Rows | None = None, purpose: str = "teacher") -> Teacher:
        """A teacher, trained on the server's rows, or on these of them."""
        self.watch.phase("training the teacher", None)
        recipe = self.recipe(network, purpose)
        where = self.data.rows("server") if rows is None else rows
        return Teacher(trained(self.store, self.data, recipe, where), recipe)

    def check_embeddings(self, network: Trained) -> None:
        """See that a teacher will have embeddings, before it is trained.

        Raises:
            FlSimError: it does not end in a linear layer.
        """
        from fl_sim.models.training import predict_and_embed

        recipe = self.recipe(network, "teacher")
        predict_and_embed(untrained(recipe, self.data), np.zeros((1, *self.data.shape), np.uint8), recipe)

    def teacher_logits(self, teacher: Teacher, *, embed: bool = False) -> TeacherLogits:
        """What a teacher says of every reference, computed in blocks, with progress; with its embeddings if asked for.

        Raises:
            FlSimError: embeddings are asked for, and the teacher does not end in a linear layer.
        """
        question = {"model": teacher.key, "reference": self.references.key, "what": "teacher logits"}
        both = digest(**question, embeddings=True)
        key = both if embed or self.store.has("outputs", both) else digest(**question)
        outputs = self.store.get("outputs", key, lambda: self._ask(teacher, embed=key == both)).arrays
        return TeacherLogits(outputs["logits"], outputs.get("embeddings"))

    def _ask(self, teacher: Teacher, *, embed: bool) -> Artifact:
        reference = self.references
        self.watch.phase("asking the teacher about the reference set", len(reference))
        module, recipe = load_model(self.store, teacher.key, self.data)
        arrays: dict[str, NDArray[Any]] = {}
        with self.store.scratch() as place:
            # On disk, because the logits of a large reference set exceed memory; what is mapped outlives the folder.
            for rows, images in reference.blocks(BLOCK):
                outputs = self._outputs(module, images, recipe, embed)
                if not all(np.isfinite(values).all() for values in outputs.values()):
                    raise FlSimError(
                        f"the teacher ({recipe.architecture}) says NaN or infinite numbers of reference images: its "
                        f"training diverged; lower learn.teacher.learning_rate = {recipe.learning_rate:g}"
                    )
                for name, values in outputs.items():
                    if name not in arrays:
                        shape = (len(reference), values.shape[1])
                        file = place / f"{name}.npy"
                        arrays[name] = np.lib.format.open_memmap(file, mode="w+", dtype=values.dtype, shape=shape)
                    arrays[name][rows] = values
                self.watch.done(len(images))
        return Artifact(arrays, {"model": teacher.key})

    def _outputs(self, module: Any, inputs: NDArray[np.uint8], recipe: Recipe, embed: bool) -> dict[str, NDArray[Any]]:
        from fl_sim.models.training import predict, predict_and_embed

        if not embed:
            return {"logits": predict(module, inputs, recipe)}
        logits, embeddings = predict_and_embed(module, inputs, recipe)
        return {"logits": logits, "embeddings": embeddings.clip(-6e4, 6e4).astype(np.float16)}  # what that holds

    def accuracy(self, key: str) -> float | None:
        """The share of the clients' test rows that a stored model gets right; None where nobody is tested."""
        if not len(self.tested):
            return None
        first, last = self.data.evaluated
        logits = kept_outputs(self.store, key, self.data, np.arange(first, last))[self.tested - first]
        return float((logits.argmax(axis=1) == self.data.targets[self.tested]).mean())
