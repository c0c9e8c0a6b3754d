"""What each behaviour can be told: the tables `[[clients.behaviour]]`, by their `kind`.

`BEHAVIOUR` is the only list of kinds; what each one does is in `clients/behaviour.py` and `clients/answers.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from fl_sim.names import nearest
from fl_sim.scenario.options import Section

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Behaviour(Section):
    """A table of the file: which clients misbehave is drawn, how many follows from the share."""

    needs_time: ClassVar[bool] = False  # what it does depends on the runtime's timeout

    kind: str
    share: Annotated[float, Field(ge=0, le=1)]  # of all clients, to the nearest whole number of them
    tier: str | None = None  # only clients of this tier; left out: of any


class LabelShuffle(Behaviour):
    """Its training and calibration labels go through a permutation of the classes that leaves none in its place."""

    kind: Literal["label-shuffle"] = "label-shuffle"


class SignFlip(Behaviour):
    """What it sends has its sign turned: its update of the weights, its threshold, its scores."""

    kind: Literal["sign-flip"] = "sign-flip"


class Noise(Behaviour):
    """Gaussian noise is added to what it sends, relative to the magnitude of that."""

    kind: Literal["noise"] = "noise"
    scale: Positive = 1.0  # of the magnitude


class Inflate(Behaviour):
    """What it sends is multiplied."""

    kind: Literal["inflate"] = "inflate"
    factor: Positive = 10.0  # by so much


class FreeRider(Behaviour):
    """It does no work: it sends weights back as they came, and makes its calibration up."""

    kind: Literal["free-rider"] = "free-rider"


class Constant(Behaviour):
    """It predicts one class whatever comes (in regression the training mean), and trains on that."""

    kind: Literal["constant"] = "constant"


class NaN(Behaviour):
    """It sends NaN in place of every number that is not a count."""

    kind: Literal["nan"] = "nan"


class WrongN(Behaviour):
    """It claims a multiple of the number of its points; a negative one where the factor is negative."""

    kind: Literal["wrong-n"] = "wrong-n"
    factor: Annotated[float, Field(ge=-1e6, le=1e6)] = 10.0  # times as many


class Raise(Behaviour):
    """It raises at every message."""

    kind: Literal["raise"] = "raise"


class Dropout(Behaviour):
    """It does not answer."""

    kind: Literal["dropout"] = "dropout"
    rate: Annotated[float, Field(gt=0, le=1)] = 1.0  # of the messages it is sent


class Straggler(Behaviour):
    """It answers late: too late, where the delay is beyond `runtime.timeout`."""

    needs_time: ClassVar[bool] = True
    kind: Literal["straggler"] = "straggler"
    delay: Positive  # seconds, before every answer


BEHAVIOUR: dict[str, type[Behaviour]] = {
    "label-shuffle": LabelShuffle,
    "sign-flip": SignFlip,
    "noise": Noise,
    "inflate": Inflate,
    "free-rider": FreeRider,
    "constant": Constant,
    "nan": NaN,
    "wrong-n": WrongN,
    "raise": Raise,
    "dropout": Dropout,
    "straggler": Straggler,
}


def behaviour(value: Any) -> Behaviour:
    """The behaviour that a table describes.

    Raises:
        ValueError: no such kind, or a parameter that belongs to another.
    """
    if isinstance(value, Behaviour):
        return value
    if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
        raise ValueError(f"a behaviour is a table with a kind, one of: {', '.join(BEHAVIOUR)}")
    kind = value["kind"]
    if kind not in BEHAVIOUR:
        raise ValueError(f"no behaviour is called {kind!r}{nearest(kind, BEHAVIOUR)}")
    for key in value:
        owners = [name for name, table in BEHAVIOUR.items() if key in table.model_fields]
        if owners and kind not in owners:
            raise ValueError(f"{key} belongs to kind = {' or '.join(map(repr, owners))}, not {kind!r}")
    return BEHAVIOUR[kind].model_validate(value)
