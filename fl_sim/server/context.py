"""What the server works with: labelled rows of its own, the reference set, a teacher and its opinions, and a network of
the clients' kind.

What the server of a hand-out computes is kept in the artifact store, so that another rule, another budget and another
calibration start from the same teacher and the same logits. A `ServerModel`, which is another in each round, is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from fl_sim.data.reference import Reference
from fl_sim.errors import FlSimError
from fl_sim.models import training
from fl_sim.models.recipe import Recipe
from fl_sim.population.model_cache import kept_outputs, load_model, trained
from fl_sim.population.prepared_data import Prepared
from fl_sim.randomness import one_thread
from fl_sim.scenario.learn import Trained
from fl_sim.store.artifacts import Artifact, Store, digest

BLOCK = 4096  # references that the teacher is shown at once
MOST_VALUES, LAST = 1 << 24, 4  # a ServerModel keeps the inputs of so many sets of rows, each of so many values at most

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
        recipe = self.recipe(network, "teacher")
        module = training.initial(recipe, self.data.shape, training.outputs_of(recipe, self.data.num_classes))
        training.predict_and_embed(module, np.zeros((1, *self.data.shape), np.uint8), recipe)

    def opinions(self, teacher: Teacher, *, embed: bool = False) -> TeacherLogits:
        """What a teacher says of every reference, computed in blocks, with progress; with its embeddings if asked for.

        Raises:
            FlSimError: embeddings are asked for, and the teacher does not end in a linear layer.
        """
        question = {"model": teacher.key, "reference": self.references.key, "what": "opinions"}
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
        if not embed:
            return {"logits": training.predict(module, inputs, recipe)}
        logits, embeddings = training.predict_and_embed(module, inputs, recipe)
        return {"logits": logits, "embeddings": embeddings.clip(-6e4, 6e4).astype(np.float16)}  # what that holds

    def accuracy(self, key: str) -> float | None:
        """The share of the clients' test rows that a stored model gets right; None where nobody is tested."""
        if not len(self.tested):
            return None
        first, last = self.data.evaluated
        logits = kept_outputs(self.store, key, self.data, np.arange(first, last))[self.tested - first]
        return float((logits.argmax(axis=1) == self.data.targets[self.tested]).mean())


class ServerModel:
    """A network of the clients' kind on the server: it takes weights, is trained further, asked and measured.

    Weights are arrays by their names in the state dict; rows are indices into the server's data. Nothing is kept from
    one call to the next but the module, whose weights are replaced each time.
    """

    def __init__(self, server: ServerContext, recipe: Recipe) -> None:
        self.data, self.recipe = server.data, recipe
        self.module = training.initial(recipe, server.data.shape, training.outputs_of(recipe, server.data.num_classes))
        self._last_inputs: dict[bytes, NDArray[Any]] = {}  # rows -> inputs as the network takes them, of the last few

    def trained(
        self, weights: Mapping[str, NDArray[Any]], recipe: Recipe, rows: Rows, steps: int,
        targets: NDArray[Any] | None = None,
    ) -> dict[str, NDArray[Any]]:  # fmt: skip
        """What so many steps on these rows make of the weights; the rows are gone round as often as that takes. With
        `targets` (n,) in the place of their own."""
        self._load(weights)
        if steps and len(rows):
            epochs = -(-steps // len(training.starts_of(len(rows), recipe.batch_size)))
            inputs, labels = self._inputs(rows), self.data.learnable(rows) if targets is None else targets
            training.fit(self.module, inputs, labels, replace(recipe, epochs=epochs), most=steps, channels_last=True)
        return {name: tensor.detach().cpu().numpy().copy() for name, tensor in self.module.state_dict().items()}

    def outputs(self, weights: Mapping[str, NDArray[Any]], rows: Rows) -> NDArray[np.float32]:
        """What the network with these weights says of rows, (n, outputs)."""
        self._load(weights)
        size = max(1, MOST_VALUES // math.prod(self.data.shape))
        blocks = [rows[start : start + size] for start in range(0, len(rows), size)] or [rows]
        return np.concatenate([training.predict(self.module, self._inputs(block), self.recipe) for block in blocks])

    def measured(self, weights: Mapping[str, NDArray[Any]], rows: Rows) -> dict[str, float | None]:
        """The mean "loss" it is trained by and, of classes, the "accuracy" of the network with these weights on rows;
        None where there are no rows, or no classes, and for a loss that is not finite."""
        if not len(rows):
            return {"loss": None, "accuracy": None}
        outputs, targets = self.outputs(weights, rows), self.data.learnable(rows)
        classes = self.data.classes is not None
        with one_thread():
            true = torch.from_numpy(targets if classes else targets.astype(np.float64))
            loss = float(training.loss_of(torch.from_numpy(outputs).double(), true, self.recipe.quantiles))
        right = float((outputs.argmax(axis=1) == targets).mean()) if classes else None
        return {"loss": loss if math.isfinite(loss) else None, "accuracy": right}

    def _load(self, weights: Mapping[str, NDArray[Any]]) -> None:
        with one_thread():  # a second one is woken for longer than the copy takes
            self.module.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in weights.items()})

    def _inputs(self, rows: Rows) -> NDArray[Any]:
        key = rows.tobytes()
        inputs = self._last_inputs.get(key)
        if inputs is None:
            inputs = self.data.inputs_for(rows, self.recipe.contrast)
            if inputs.size <= MOST_VALUES:
                self._last_inputs = dict([*self._last_inputs.items()][1 - LAST :]) | {key: inputs}
        return inputs
