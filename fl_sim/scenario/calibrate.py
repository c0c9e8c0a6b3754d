"""What every calibrate strategy is told.

The table of each is made from its constructor (`fl_sim/scenario/strategies.py`).
"""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator

from fl_sim.conformal.decimals import exact_alpha
from fl_sim.scenario.options import Options
from fl_sim.scenario.scores import score_options

ScoreOptions = Annotated[Any, BeforeValidator(score_options)]


Calibrator = Literal[
    "none", "identity", "temperature", "federated-temperature", "ets", "vector", "matrix", "svs", "sms", "isotonic",
    "beta",
]  # fmt: skip
SHARE = 0.5  # of a client's calibration rows, on which its calibrator is fitted


class Calibrate(Options):
    """Base of the calibrate tables: what every calibration is told."""

    strategy: ClassVar[Any]  # the class that it is handed to
    alpha: Annotated[float, Field(gt=0, lt=1)]  # miscoverage: 1 - alpha of the test points are to be covered
    score: ScoreOptions  # a name or a table of calibrate.score, or your own
    # What makes a client's probabilities honest before they are scored (conformal/probability_calibrators.py);
    # classification only.
    calibrator: Calibrator = "none"
    # Of each client's calibration rows, on which it is fitted; the others set the threshold. Left out: 0.5. 0: both on
    # all of them, by which the promise of coverage is lost.
    calibrator_share: Annotated[float, Field(ge=0, lt=1)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _share(cls, table: Any) -> Any:
        fits = isinstance(table, dict) and table.get("calibrator", "none") != "none"
        return {"calibrator_share": SHARE} | table if fits else table

    @model_validator(mode="after")
    def _calibrator_fits(self) -> Self:
        if self.calibrator == "none" and self.calibrator_share is not None:
            raise ValueError(
                f"calibrator_share = {self.calibrator_share:g} and calibrator = 'none', which is fitted on nothing; "
                "leave calibrator_share out, or name a calibrator"
            )
        return self

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        self.strategy.check(self)
        return self

    @property
    def one_calibrator(self) -> bool:
        """Whether all clients have the same calibrator, fitted on other rows than those that set thresholds."""
        for_all = self.calibrator == "federated-temperature" and self.calibrator_share != 0
        return for_all or self.calibrator in ("none", "identity")

    def arguments(self) -> dict[str, Any]:
        """What the strategy itself is told: a calibrator is part of the score's text (`strategies.score_text`)."""
        of_score = ("calibrator", "calibrator_share")
        return {key: value for key, value in super().arguments().items() if key not in of_score}

    @field_validator("alpha")
    @classmethod
    def _exact(cls, alpha: float) -> float:
        exact_alpha(alpha)
        return alpha


class Uncalibrated(Options):
    """The table of a strategy that sets no threshold."""

    strategy: ClassVar[Any]
    alpha: ClassVar[None] = None
    score: ClassVar[None] = None
    calibrator: ClassVar[str] = "none"
    one_calibrator: ClassVar[bool] = True


class OwnCalibrate(Calibrate):
    """A user's own calibrate strategy, `module:object`."""

    model_config = ConfigDict(extra="allow")

    @property
    def strategy(self) -> Any:
        """What is known of it before it is imported."""
        return import_module("strategies.base").Calibration
