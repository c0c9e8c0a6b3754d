"""What the learn strategies can be told: what their tables have in common, and the tables inside them.

The table of each strategy is made from its constructor (`fl_sim/scenario/strategies.py`).
"""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from fl_sim.models.architectures import check_architecture
from fl_sim.scenario.options import Options, Section


class Learn(Options):
    """Base of the learn tables."""

    strategy: ClassVar[Any]  # the class that it is handed to; what kind of strategy it is, it says itself

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        self.strategy.check(self)
        return self

    @property
    def one_model_a_tier(self) -> bool:
        """Whether it follows from this table that all clients of a tier have the same model."""
        return bool(self.strategy.one_model_a_tier(self))


class OwnLearn(Learn):
    """A user's own learn strategy, `module:object`."""

    model_config = ConfigDict(extra="allow")

    @property
    def strategy(self) -> Any:
        """What is known of it before it is imported."""
        return import_module("strategies.base").Learning


class Trained(Section):
    """A network that the server trains."""

    architecture: str  # as a tier's
    epochs: Annotated[int, Field(ge=1)]  # over its rows
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3  # of the first step
    batch_size: Annotated[int, Field(ge=1)] = 64  # rows a step
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"  # as a tier's
    schedule: Literal["constant", "cosine"] = "constant"  # as a tier's

    @field_validator("architecture")
    @classmethod
    def _known(cls, name: str) -> str:
        check_architecture(name, "classification")
        return name


class SafetyNet(Section):
    """Eq. 6: a share of the budget goes to classes as (their size) ** exponent."""

    share: Annotated[float, Field(ge=0, le=1)] = 0.5  # ours: the paper does not say, see fl_sim/plada/selection.py
    exponent: Annotated[float, Field(ge=-16, le=16)] = -0.2  # 0: the same for every class; below 0: more for the rare


class Rehearsal(Section):
    """How rules are tried out on the server before one is chosen."""

    folds: Annotated[int, Field(ge=2, le=20)] = 4  # of the server's rows; each is held out once, and tests the students
    rounds: Annotated[int, Field(ge=1, le=20)] = 3  # folds used; after each the worse half of the rules is dropped
    student: Trained | None = None  # left out: one of each tier, weighted by the tier's share
