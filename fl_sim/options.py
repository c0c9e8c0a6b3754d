"""What each learn strategy and each score can be told, by name: the tables `[learn]` and `calibrate.score`. The tables
`[calibrate]` are in `fl_sim/calibrations.py`.

`LEARN`, `SCORE` and `CALIBRATE` are the only lists of names; the strategies themselves are in `strategies/`, under the
same names. A name of the form `module:object` is the user's own: its keys are handed to it as keyword arguments.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import importlib.util
import re
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

OWN = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")  # module:object


def own_object(name: str) -> Any:
    """The user's object that `module:object` names.

    Raises:
        ImportError, AttributeError: there is no such module, or nothing of that name in it.
    """
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


def own_digest(name: str) -> str | None:
    """A digest of the text of the module that `module:object` names, to be part of the key of what comes of it; of what
    that module imports in turn nothing is known. None for a name of ours, and for a module without a file."""
    return _text_digest(name.partition(":")[0]) if OWN.match(name) else None


@cache  # a process goes on with the code that it has imported, whatever becomes of the file
def _text_digest(module: str) -> str | None:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None  # `own_object` says what is wrong with it
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return None
    text = Path(spec.origin).read_bytes()
    with contextlib.suppress(Exception):  # `own_object` says what is wrong with it
        import_module(module)  # now, so that the code is that of the text
    return hashlib.sha256(text).hexdigest()


class Options(BaseModel):
    """A table whose `name` says which one it is."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str

    def arguments(self) -> dict[str, Any]:
        """All keys but the name, as keyword arguments."""
        return {key: getattr(self, key) for key in type(self).model_fields if key != "name"} | (self.model_extra or {})


# ------------------------------------------------------------------------------------------------------------- learn


class Learn(Options):
    """Base of the learn tables."""

    trains_locally: ClassVar[bool] = False  # the training rows are split over the clients
    hands_out: ClassVar[bool] = False  # the server learns from data.server, and what it found out travels
    needs_reference: ClassVar[bool] = False  # every client holds the images of [reference]
    averages: ClassVar[bool] = False  # the clients' weights, so every architecture must have such
    one_architecture: ClassVar[bool] = False  # updates are compared, so all clients must have the same
    validates: ClassVar[bool] = False  # the server trains on data.server to judge the clients' updates
    by_class: ClassVar[bool] = False  # it does so class by class, on each half of the rows

    @property
    def one_model_a_tier(self) -> bool:
        """Whether it follows from this table that all clients of a tier have the same model."""
        return not self.trains_locally or self.averages


class Shared(Learn):
    """Each tier's architecture is trained once on the shared training set (the controlled setting of FedWQ-CP)."""

    name: Literal["shared"] = "shared"
    per_client: bool = False  # true: every client starts from its own initial weights and sees its own batch order

    @property
    def one_model_a_tier(self) -> bool:
        """Unless clients start from weights of their own."""
        return not self.per_client


class Own(Learn):
    """Each client trains on its own share of the training rows (the realistic setting)."""

    trains_locally: ClassVar[bool] = True
    name: Literal["own"] = "own"


class FedAvg(Learn):
    """Federated averaging by Flower's own strategies, one federation for each architecture."""

    trains_locally: ClassVar[bool] = True
    averages: ClassVar[bool] = True
    name: Literal["fedavg"] = "fedavg"
    rounds: Annotated[int, Field(ge=1)]  # of the federation
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0  # of the clients with training rows, drawn anew each round
    # The strategy of Flower's that makes one model of the clients'.
    aggregation: Literal["FedAvg", "FedMedian", "FedTrimmedAvg", "FedAdam", "FedYogi", "FedAdagrad"] = "FedAvg"
    weights: Literal["size", "uniform"] = "size"  # of a client's weights in the average: its training rows, or 1
    evaluate_every: Annotated[int, Field(ge=0)] = 0  # rounds; then, and at the end, the model is tested; 0: never

    @model_validator(mode="after")
    def _weighs(self) -> Self:
        if self.weights == "uniform" and self.aggregation in ("FedMedian", "FedTrimmedAvg"):
            raise ValueError(f"weights = 'uniform': {self.aggregation} weighs nobody; leave weights out")
        return self


class Weighed(Learn):
    """Base of the tables of those that weigh clients by their contribution."""

    trains_locally: ClassVar[bool] = True
    averages: ClassVar[bool] = True
    one_architecture: ClassVar[bool] = True
    rounds: Annotated[int, Field(ge=1)]  # of the federation
    participants: Annotated[int, Field(ge=1)]  # clients a round, drawn anew from those with training rows
    evaluate_every: Annotated[int, Field(ge=0)] = 1  # rounds; then, and at the end, the model is tested; 0: never


class FedTSV(Weighed):
    """Clients weigh the sum of their Shapley values in moving the mean update towards the server's own (FedTSV)."""

    validates: ClassVar[bool] = True
    name: Literal["fedtsv"] = "fedtsv"
    permutations: Annotated[int, Field(ge=4, le=100_000, multiple_of=2)] = 200  # orders drawn, beyond 15 participants


class LOO(Weighed):
    """As fedtsv, with what is lost without a client in the place of its Shapley value."""

    validates: ClassVar[bool] = True
    name: Literal["loo"] = "loo"


class CGSV(Weighed):
    """Clients weigh the cosine of their updates to the mean update (CGSV)."""

    name: Literal["cgsv"] = "cgsv"
    memory: Annotated[float, Field(ge=0, lt=1)] = 0.95  # of the moving average of a client's cosines


class FedTSVFair(Weighed):
    """As fedtsv, where rare data and few rounds cost an honest client nothing: weights are trust, from 0 to 1."""

    validates: ClassVar[bool] = True
    by_class: ClassVar[bool] = True
    name: Literal["fedtsv-fair"] = "fedtsv-fair"
    virtual: Annotated[int, Field(ge=1, le=100)] = 3  # honest clients that the server plays in each round


class OwnLearn(Learn):
    """A user's own learn strategy, `module:object`."""

    model_config = ConfigDict(extra="allow")
    trains_locally: ClassVar[bool] = True


# -------------------------------------------------------------------------------------------- learn: what is handed out


class Part(BaseModel):
    """A table inside a strategy's table."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Trained(Part):
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
        from fl_sim.models import check_architecture

        check_architecture(name, "classification")
        return name


class SafetyNet(Part):
    """Eq. 6: a share of the budget goes to classes as (their size) ** exponent."""

    share: Annotated[float, Field(ge=0, le=1)] = 0.5  # ours: the paper does not say, see fl_sim/plada/selection.py
    exponent: Annotated[float, Field(ge=-16, le=16)] = -0.2  # 0: the same for every class; below 0: more for the rare


class Rehearsal(Part):
    """How rules are tried out on the server before one is chosen."""

    folds: Annotated[int, Field(ge=2, le=20)] = 4  # of the server's rows; each is held out once, and tests the students
    rounds: Annotated[int, Field(ge=1, le=20)] = 3  # folds used; after each the worse half of the rules is dropped
    student: Trained | None = None  # left out: one of each tier, weighted by the tier's share


class Plada(Learn):
    """A task as labels over reference images that every client holds: a payload of kilobytes (PLADA)."""

    hands_out: ClassVar[bool] = True
    needs_reference: ClassVar[bool] = True
    name: Literal["plada"] = "plada"
    teacher: Trained  # on data.server; it labels the images
    keep_fraction: Annotated[float, Field(gt=0, le=1)] | None = None  # of the reference set; say this, or budget_bytes
    budget_bytes: Annotated[int, Field(ge=1)] | None = None  # the best payload that is no larger, header included
    # Which images are kept: by energy, by entropy, ... (docs/plada.md); rehearsed: tried out on the server's rows.
    rule: Literal["lowest", "highest", "entropy", "random", "mixed", "diverse", "rehearsed"] = "rehearsed"
    safety: SafetyNet | None = None  # part of the budget by class; left out: none
    temperature: Annotated[float, Field(gt=0)] = 1.0  # of the energy and the entropy
    labels: Literal["teacher", "random"] = "teacher"  # random: the floor, a payload that says nothing
    curriculum: Annotated[int, Field(ge=2, le=256)] | None = None  # levels, the most confident are shown first
    soft_labels: Annotated[int, Field(ge=1, le=8)] | None = None  # bits of the teacher's confidence in each label
    rehearsal: Rehearsal = Rehearsal()  # for rule = "rehearsed"
    per_client: bool = False  # true: every client trains a student of its own; false: one for each tier

    @property
    def one_model_a_tier(self) -> bool:
        """Unless clients train students of their own."""
        return not self.per_client

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if (self.keep_fraction is None) == (self.budget_bytes is None):
            raise ValueError("say either keep_fraction or budget_bytes, one of them")
        if self.rule == "rehearsed" and self.safety is not None:
            raise ValueError("rule = 'rehearsed' chooses the safety net too; leave safety out, or name a rule")
        return self


class Coreset(Learn):
    """Some of the server's own images, as JPEG: what PLADA is measured against (the data leave the server)."""

    hands_out: ClassVar[bool] = True
    name: Literal["coreset"] = "coreset"
    how: Literal["random", "k-centre"] = "random"  # drawn from each class, or spread over it
    images_per_class: Annotated[int, Field(ge=1)] | None = None  # say this, or budget_bytes
    budget_bytes: Annotated[int, Field(ge=1)] | None = None  # as many images as fit
    quality: Annotated[int, Field(ge=1, le=95)] = 30  # of the JPEG; the paper's
    per_client: bool = False  # true: every client trains a student of its own; false: one for each tier

    @property
    def one_model_a_tier(self) -> bool:
        """Unless clients train students of their own."""
        return not self.per_client

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if (self.images_per_class is None) == (self.budget_bytes is None):
            raise ValueError("say either images_per_class or budget_bytes, one of them")
        return self


class Weights(Learn):
    """The teacher itself, as weights: every client has the same model, whatever it can compute."""

    hands_out: ClassVar[bool] = True
    name: Literal["weights"] = "weights"
    teacher: Trained  # on data.server
    precision: Literal["float32", "int8"] = "float32"  # of what is sent


class Probe(Learn):
    """A linear layer in eight bits over features that every holder of the reference set can compute alone."""

    hands_out: ClassVar[bool] = True
    needs_reference: ClassVar[bool] = True
    name: Literal["probe"] = "probe"
    centroids: Annotated[int, Field(ge=2, le=4096)] = 100  # of the shared backbone; it has four features for each


# ------------------------------------------------------------------------------------------------------------- scores


class Score(Options):
    """Base of the score tables."""

    task: ClassVar[str | None] = None
    needs_quantiles: ClassVar[bool] = False


class Lac(Score):
    """1 - p_y (Sadinle et al. 2019)."""

    task: ClassVar[str | None] = "classification"
    name: Literal["lac"] = "lac"


class Aps(Score):
    """Probability of the labels at least as likely as y (Romano et al. 2020)."""

    task: ClassVar[str | None] = "classification"
    name: Literal["aps"] = "aps"
    randomized: bool = True  # U p_y taken off, U uniform on [0, 1)


class Raps(Score):
    """APS with a penalty on long sets (Angelopoulos et al. 2021)."""

    task: ClassVar[str | None] = "classification"
    name: Literal["raps"] = "raps"
    randomized: bool = True  # as for aps
    penalty: Annotated[float, Field(ge=0)] = 0.01  # for each rank beyond k_reg
    k_reg: Annotated[int, Field(ge=0)] = 1  # ranks that cost nothing


class Residual(Score):
    """|y - prediction|."""

    task: ClassVar[str | None] = "regression"
    name: Literal["residual"] = "residual"


class Cqr(Score):
    """Distance outside the predicted quantiles (Romano et al. 2019)."""

    task: ClassVar[str | None] = "regression"
    needs_quantiles: ClassVar[bool] = True
    name: Literal["cqr"] = "cqr"


class OwnScore(Score):
    """A user's own score, `module:object`, with the methods of the scores in `fl_sim/conformal/scores.py`."""

    model_config = ConfigDict(extra="allow")


SCORE: dict[str, type[Score]] = {"lac": Lac, "aps": Aps, "raps": Raps, "residual": Residual, "cqr": Cqr}


LEARN: dict[str, type[Options]] = {
    "shared": Shared, "own": Own, "fedavg": FedAvg, "fedtsv": FedTSV, "loo": LOO, "cgsv": CGSV,
    "fedtsv-fair": FedTSVFair,
    "plada": Plada, "coreset": Coreset, "weights": Weights, "probe": Probe,
}  # fmt: skip


def learn_options(value: Any) -> Any:
    """The learn strategy that a name or a table chooses; see `chosen`."""
    return chosen(LEARN, value, "learn strategy", OwnLearn)


def score_options(value: Any) -> Any:
    """The score that a name or a table chooses; see `chosen`."""
    return chosen(SCORE, value, "score", OwnScore)


def chosen(table: Mapping[str, type[Options]], value: Any, kind: str, own: type[Options]) -> Any:
    """The options that `value` (a name, or a table with a `name`) chooses from `table`; `own` for a `module:object`.

    Raises:
        ValueError: no such name; the message gives the nearest one and all of them.
    """
    if isinstance(value, Options):
        return value
    given = {"name": value} if isinstance(value, str) else value
    if not isinstance(given, dict) or not isinstance(given.get("name"), str):
        raise ValueError(f"a {kind} is a name or a table with a name, one of: {', '.join(table)}")
    name = given["name"]
    if name in table:
        return table[name].model_validate(given)
    if OWN.match(name):
        return own.model_validate(given)
    raise ValueError(f"no {kind} is called {name!r}{nearest(name, table)}")


def nearest(name: str, names: Any) -> str:
    """A hint to end an error with: the nearest valid name, or all of them."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; valid: {', '.join(sorted(names))}"
