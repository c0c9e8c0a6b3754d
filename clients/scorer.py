"""Clients' points as a score sees them: what a handler of calibration takes, whoever provides it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.behaviour import altered_scores
from clients.context import ClientContext, Keyed
from fl_sim.conformal.alignment import RankScale, Ratio, root_mean_square
from fl_sim.conformal.calibrator_plan import Plan, plan_of
from fl_sim.conformal.probability_calibrators import Calibrator, Temperature, best_temperature, fit
from fl_sim.conformal.reliability import log_softmax
from fl_sim.conformal.scores import from_json
from fl_sim.errors import log
from fl_sim.randomness import stream

Floats = NDArray[np.float64]
Which = NDArray[np.int64] | slice  # rows

ALL = slice(None)
KEPT = 4096  # clients whose calibrator a process keeps at hand


def scored_together(score: str, align: str) -> bool:
    """Whether clients that share a model can be scored in one go: none has a calibrator or a scale of its own."""
    return not align and plan_of(score) is None


@dataclass(frozen=True)
class Scorer:
    """A client's points as a score sees them: after the client's calibrator where it fits one, and on a scale common to
    all clients where one is asked for. The calibration rows that a calibrator is fitted on set no threshold: of the
    "calibration" split, `calibration`, `labels`, `predictions` and `log_probabilities` hold the other rows alone.

    Of several clients (`ClientContext`), which `scored_together` allows, everything is of all rows, one client's after
    another's."""

    client_context: ClientContext
    score: Any
    align: str
    plan: Plan | None = None  # of calibrating
    scored: Floats | None = field(default=None, compare=False)  # `calibration`, where it was made together with others'

    @classmethod
    def of(cls, client_context: ClientContext, score: str, align: str = "") -> Scorer:
        """`score` is JSON, as a message carries it."""
        return cls(client_context, from_json(score), align, plan_of(score))

    def by_client(self) -> list[Floats]:
        """Each client's calibration scores, (n_k,); they are made in one go."""
        scores, sizes = self.calibration(), self.client_context.sizes("calibration")
        if len(sizes) == 1:
            return [scores]
        ends = np.cumsum(sizes).tolist()
        return [scores[end - n : end] for n, end in zip(sizes, ends, strict=True)]

    def each(self) -> Iterator[Scorer]:
        """The clients' own, one by one; those of several are scored in one go."""
        if len(self.client_context.clients) == 1:
            return iter([self])
        pairs = zip(self.client_context.each(), self.by_client(), strict=True)
        return (replace(self, client_context=one, scored=scores) for one, scores in pairs)

    @property
    def id(self) -> int:
        """The client's partition."""
        return self.client_context.client.id

    @property
    def num_labels(self) -> int:
        """Classes, or in regression bins of the target."""
        return self.client_context.population.num_bins

    def stream(self, *purpose: str | int) -> np.random.Generator:
        """The client's own random numbers for a purpose."""
        first, *others = purpose
        return stream(self.client_context.population.seed, first, self.id, *others)

    @property
    def _regression(self) -> bool:
        return self.client_context.population.data.classes is None

    def calibration(self) -> Floats:
        """The scores of the calibration points, (n_k,)."""
        if self.scored is not None:
            return self.scored
        return self.common(self._of("calibration", self.client_context.targets("calibration"), self.temperature))

    def sent(self) -> tuple[Floats, NDArray[np.int64]]:
        """The calibration scores that the client sends, or sends a summary of, and of which of its points each is;
        where it behaves these are `calibration` and all."""
        return altered_scores(self.client_context.client, self.client_context.population, self.calibration())

    def labels(self) -> NDArray[np.int64]:
        """The labels of the same points, (n_k,), as the client gives them; in regression their targets' bins."""
        return self.client_context.labels("calibration")[self._which("calibration")]

    def fitting(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The logits (m_k, C) and labels (m_k,) that the client fits its calibrator to."""
        rows = self._split[0]
        return self.client_context.outputs("calibration")[rows], self.client_context.labels("calibration")[rows]

    def common(self, scores: Floats) -> Floats:
        """The client's scores on the common scale, of any shape. Test scores go the same way as those of calibration
        and are compared there, so that a score that ties with the threshold stays a tie."""
        return self.scale.common(scores) if self.scale else scores

    def predictions(self, split: str, temperature: float = 1.0) -> Floats:
        """What the score takes: probabilities (n, C), or predictions in the unit of the data."""
        if self.plan is not None:
            return np.exp(self.log_probabilities(split))
        outputs = self.client_context.outputs(split)
        if self._regression:
            return self.client_context.population.data.in_unit(outputs)
        return softmax(outputs / temperature)

    def log_probabilities(self, split: str) -> Floats:
        """Log-probabilities (n, C) of the client's rows of a split, as its scores are made of: of its calibrator where
        it fits one, else `log_softmax` of its logits, `client_context.outputs(split)`, over the temperature that
        `align` asks for. Finite. Of "calibration" the rows that set the threshold; classification only."""
        outputs = self.client_context.outputs(split)[self._which(split)].astype(np.float64)
        if self.calibrator is not None:
            return self.calibrator(outputs)
        return log_softmax(outputs / self.temperature)

    def all_labels(self, predictions: Floats, split: str) -> Floats:
        """The score (n, C) of every label of a split's rows, on the common scale."""
        return self.common(self.score.all_labels(predictions, self._uniforms(split)))

    @cached_property
    def calibrator(self) -> Calibrator | None:
        """The client's; None where it fits none."""
        if self.plan is None:
            return None
        if self.plan.temperature is not None:
            return Temperature(self.plan.temperature)
        fitted = _calibrator(Keyed.of(self.client_context), self.plan)
        if getattr(fitted, "stayed", False):
            log.warning("calibrator = %r: a client's probabilities stay where no minimum is found", self.plan.name)
        return fitted

    @cached_property
    def _split(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The calibration rows that the calibrator is fitted on, and those that set the threshold."""
        if self.plan is None:
            raise ValueError("this client fits no calibrator")
        client = self.client_context.client
        return self.plan.split(self.client_context.population.seed, client.id, len(client.calibration))

    def _which(self, split: str) -> Which:
        return ALL if self.plan is None or split != "calibration" else self._split[1]

    def _uniforms(self, split: str) -> Floats | None:
        return self.client_context.uniforms(split) if self.score.randomized else None

    @cached_property
    def temperature(self) -> float:
        """What the client's logits are divided by."""
        if self.align != "temperature" or self._regression:
            return 1.0
        return best_temperature(self.client_context.outputs("train"), self.client_context.targets("train"))

    @cached_property
    def scale(self) -> RankScale | Ratio | None:
        """The client's own map to the common scale; None where its scores stay as they are."""
        if not self.align or (self.align == "temperature" and not self._regression):
            return None
        reference = self._of("train", self.client_context.targets("train"), 1.0)
        return RankScale(reference) if self.align == "rank" else Ratio(root_mean_square(reference))

    def intervals(self, predictions: Floats, thresholds: Floats) -> tuple[Floats, Floats]:
        """The ends (n,), (n,) of the intervals of `predictions` (n, outputs), with a threshold on the common scale for
        each row, (n,)."""
        low, high = np.empty(len(thresholds)), np.empty(len(thresholds))
        for q in np.unique(thresholds).tolist():  # a score takes one
            rows = thresholds == q
            low[rows], high[rows] = self.score.interval(predictions[rows], self.scale.own(q) if self.scale else q)
        return low, high

    def _of(self, split: str, targets: NDArray[Any], temperature: float) -> Floats:
        if self._regression:
            return np.asarray(self.score.of(self.predictions(split), targets))
        which, predictions, uniforms = self._which(split), self.predictions(split, temperature), self._uniforms(split)
        return np.asarray(self.score.of(predictions, targets[which], None if uniforms is None else uniforms[which]))


@lru_cache(maxsize=KEPT)
def _calibrator(client: Keyed, plan: Plan) -> Calibrator:
    return fit(plan.name, *Scorer(client.client_context, None, "", plan).fitting())


def softmax(logits: NDArray[np.float32]) -> Floats:
    """Probabilities (n, C) in double precision, so that a confident model's scores stay apart from each other."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True, initial=-np.inf)
    np.exp(shifted, out=shifted)
    return shifted / shifted.sum(axis=1, keepdims=True)
