"""What each score can be told, by name: the table `calibrate.score`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from fl_sim.scenario.options import Options, chosen


class Score(Options):
    """Base of the score tables."""

    task: ClassVar[str | None] = None
    needs_quantiles: ClassVar[bool] = False


class LacTable(Score):
    """1 - p_y (Sadinle et al. 2019)."""

    task: ClassVar[str | None] = "classification"
    name: Literal["lac"] = "lac"


class ApsTable(Score):
    """Probability of the labels at least as likely as y (Romano et al. 2020)."""

    task: ClassVar[str | None] = "classification"
    name: Literal["aps"] = "aps"
    randomized: bool = True  # U p_y taken off, U uniform on [0, 1)


class RapsTable(Score):
    """APS with a penalty on long sets (Angelopoulos et al. 2021)."""

    task: ClassVar[str | None] = "classification"
    name: Literal["raps"] = "raps"
    randomized: bool = True  # as for aps
    penalty: Annotated[float, Field(ge=0)] = 0.01  # for each rank beyond k_reg
    k_reg: Annotated[int, Field(ge=0)] = 1  # ranks that cost nothing


class ResidualTable(Score):
    """|y - prediction|."""

    task: ClassVar[str | None] = "regression"
    name: Literal["residual"] = "residual"


class CqrTable(Score):
    """Distance outside the predicted quantiles (Romano et al. 2019)."""

    task: ClassVar[str | None] = "regression"
    needs_quantiles: ClassVar[bool] = True
    name: Literal["cqr"] = "cqr"


class OwnScoreTable(Score):
    """A user's own score, `module:object`, with the methods of the scores in `fl_sim/conformal/scores.py`."""

    model_config = ConfigDict(extra="allow")


SCORE: dict[str, type[Score]] = {
    "lac": LacTable,
    "aps": ApsTable,
    "raps": RapsTable,
    "residual": ResidualTable,
    "cqr": CqrTable,
}


def score_options(value: Any) -> Any:
    """The score that a name or a table chooses; see `chosen`."""
    return chosen(SCORE, value, "score", OwnScoreTable)
