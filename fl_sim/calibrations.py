"""What each calibrate strategy can be told, by name: the tables `[calibrate]`.

`CALIBRATE` is the only list of their names; the strategies themselves are in `strategies/`, under the same names.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator

from fl_sim.exact import as_meant
from fl_sim.options import Cqr, Options, Raps, Residual, chosen, score_options

ScoreOptions = Annotated[Any, BeforeValidator(score_options)]


def _number_or(word: str, fits: Callable[[float], bool], rule: str) -> BeforeValidator:
    """Refuses in one line what is neither `word` nor a number that `fits`."""

    def checked(value: Any) -> Any:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value != word and not (number and fits(value)):
            raise ValueError(f"must be {word!r} or a number {rule}")
        return value

    return BeforeValidator(checked)


Calibrator = Literal[
    "none", "identity", "temperature", "federated-temperature", "ets", "vector", "matrix", "svs", "sms", "isotonic",
    "beta",
]  # fmt: skip
SHARE = 0.5  # of a client's calibration rows, on which its calibrator is fitted


class Calibrate(Options):
    """Base of the calibrate tables: what every calibration is told."""

    task: ClassVar[str | None] = None  # the only one it is for
    alpha: Annotated[float, Field(gt=0, lt=1)]  # miscoverage: 1 - alpha of the test points are to be covered
    score: ScoreOptions  # a name or a table of calibrate.score, or your own
    # What makes a client's probabilities honest before they are scored (fl_sim/calibrators.py); classification only.
    calibrator: Calibrator = "none"
    # Of each client's calibration rows, on which it is fitted; the others set the threshold. Left out: 0.5. 0: both on
    # all of them, by which the promise of coverage is lost.
    calibrator_share: Annotated[float, Field(ge=0, lt=1)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _share(cls, told: Any) -> Any:
        fits = isinstance(told, dict) and told.get("calibrator", "none") != "none"
        return {"calibrator_share": SHARE} | told if fits else told

    @model_validator(mode="after")
    def _calibrator_fits(self) -> Self:
        if self.calibrator == "none" and self.calibrator_share is not None:
            raise ValueError(
                f"calibrator_share = {self.calibrator_share:g} and calibrator = 'none', which is fitted on nothing; "
                "leave calibrator_share out, or name a calibrator"
            )
        return self

    @property
    def one_calibrator(self) -> bool:
        """Whether all clients have the same calibrator, fitted on other rows than those that set thresholds."""
        for_all = self.calibrator == "federated-temperature" and self.calibrator_share != 0
        return for_all or self.calibrator in ("none", "identity")

    def arguments(self) -> dict[str, Any]:
        """What the strategy itself is told: a calibrator is part of the score's text (`strategies.score_text`)."""
        told = ("calibrator", "calibrator_share")
        return {key: value for key, value in super().arguments().items() if key not in told}

    @field_validator("alpha")
    @classmethod
    def _exact(cls, alpha: float) -> float:
        if not 0 < as_meant(alpha) < 1:
            raise ValueError("0 < alpha < 1")
        return alpha


def _unprotected(calibrator: str) -> str:
    return (
        f"calibrator = {calibrator!r}: the noise hides what one point does to its own score, and a point that a "
        "calibrator is fitted on moves the scores of all others; leave calibrator out"
    )


class OneThreshold(Calibrate):
    """A calibration in which each client sends a threshold of its own."""

    # What a client with fewer than 1/alpha - 1 points sends: its largest score, infinity, or nothing.
    small_n: Literal["clip", "inf", "drop"] = "clip"


class Averaged(Calibrate):
    """A calibration that takes a mean of one number a client."""

    aggregation: Literal["mean", "median", "trimmed"] = "mean"  # the other two stand some clients that lie
    trim: Annotated[float, Field(ge=0, lt=0.5)] = 0.1  # "trimmed": the share of all weight left out at either end


class RobustMean(OneThreshold, Averaged):
    """A calibration that takes a mean of the clients' thresholds."""


class FedWQCP(RobustMean):
    """The size-weighted mean of the clients' thresholds, and what the literature would mend of it."""

    name: Literal["fedwq-cp"] = "fedwq-cp"
    weights: Literal["size", "precision"] = "size"  # "precision": by the inverse variance of each threshold
    correction: Literal["none", "density"] = "none"  # "density": a first-order step towards the mixture's quantile
    feedback: Annotated[int, Field(ge=0, le=1000)] = 0  # second round: clients count at so many candidate thresholds
    align: Literal["none", "rank", "temperature"] = "none"  # bring scores to one scale before averaging
    cap: Annotated[float, Field(gt=0)] | None = None  # no client weighs more than so many times the median weight

    @model_validator(mode="after")
    def _one_rule(self) -> FedWQCP:
        if self.calibrator != "none" and self.align == "temperature":
            raise ValueError(
                f"calibrator = {self.calibrator!r} and align = 'temperature', which is a calibrator fitted on training "
                "rows; take one"
            )
        if self.weights == "precision" and self.correction == "density":
            raise ValueError("weights = 'precision' and correction = 'density': either sets the weights, take one")
        return self


class Unweighted(RobustMean):
    """The plain mean of the clients' thresholds."""

    name: Literal["unweighted"] = "unweighted"


class Local(OneThreshold):
    """Each client keeps its own threshold."""

    name: Literal["local"] = "local"


class Pooled(Calibrate):
    """The threshold of all scores together (what a server that sees everything would do)."""

    name: Literal["pooled"] = "pooled"


def _mixture(value: Any) -> Any:
    """Refuses in one line what is no mixture."""
    numbers = value if isinstance(value, list | tuple) else [None]
    fit = [isinstance(n, int | float) and not isinstance(n, bool) and 0 <= n < math.inf for n in numbers]
    if value not in ("size", "uniform") and not all(fit):
        raise ValueError("must be 'size', 'uniform' or a list of numbers, one for each client, none below 0")
    return value


Shares = tuple[Annotated[float, Field(ge=0)], ...]
Mixture = Annotated[Literal["size", "uniform"] | Shares, BeforeValidator(_mixture)]
Malicious = Annotated[
    float | Literal["estimate"], _number_or("estimate", lambda x: 0 <= x < 0.5, "from 0 to below 0.5")
]
Penalty = Annotated[float | Literal["published"], _number_or("published", lambda x: 0 < x < math.inf, "above 0")]


class FCP(Calibrate):
    """The pooled rank ceil((N + K)(1 - alpha)), for any mixture of the clients (Lu et al. 2023)."""

    name: Literal["fcp"] = "fcp"
    sketch: Literal["exact", "tdigest", "ddsketch"] = "exact"  # what a client sends of its scores
    mixture: Mixture = "size"  # pi: by n_k + 1, all alike, or one number for each client

    @model_validator(mode="after")
    def _mixture_is_one(self) -> FCP:
        if not isinstance(self.mixture, str) and not sum(self.mixture):
            raise ValueError(f"mixture = {list(self.mixture)}: at least one client must count")
        if self.sketch != "exact" and self.mixture != "size":
            raise ValueError(f"sketch = {self.sketch!r} holds the pool: it goes with mixture = 'size' alone")
        return self


class FedCPQQ(Calibrate):
    """A quantile of the clients' quantiles (Humbert et al. 2023)."""

    name: Literal["fedcp-qq"] = "fedcp-qq"
    sizes: Literal["unequal", "equal"] = "unequal"  # "equal": everyone draws as many scores as the smallest client has
    guarantee: Literal["marginal", "conditional"] = "marginal"  # on average over calibration draws, or in most of them
    beta: Annotated[float, Field(gt=0, lt=1)] = 0.1  # "conditional": coverage below 1 - alpha at most so often


class DPFedCP(Averaged):
    """Federated descent on the smoothed pinball loss, with noise (Plassier et al. 2023)."""

    name: Literal["dp-fedcp"] = "dp-fedcp"
    rounds: Annotated[int, Field(ge=1)] = 50  # of descent
    local_steps: Annotated[int, Field(ge=1)] = 5  # of a client in a round
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0  # of the clients, drawn anew each round
    step_size: Annotated[float, Field(gt=0)] = 0.1  # in units of the spread of the scores
    smoothing: Annotated[float, Field(gt=0)] = 0.05  # of the pinball loss, in units of the spread of the scores
    spread: Annotated[float, Field(gt=0)] | None = None  # of the scores; left out: 1 in [0, 1], else found
    noise: Annotated[float, Field(ge=0)] = 0.0  # standard deviation on each step's gradient
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5  # of the (epsilon, delta) that is reported where there is noise
    average: bool = True  # the mean of the iterates; false: the last one
    target: Literal["pooled", "uniform"] = "pooled"  # label mix that is aimed at: all calibration points', or all alike
    cap: Annotated[float, Field(gt=0)] | None = None  # no client weighs more than so many times the median weight

    @model_validator(mode="after")
    def _noise_covers(self) -> Self:
        if self.noise and self.calibrator != "none":
            raise ValueError(f"noise = {self.noise:g} and {_unprotected(self.calibrator)}")
        return self


class CPhet(Calibrate):
    """A quantile weighted by the density ratio of each client's labels to all (Plassier et al. 2024)."""

    name: Literal["cphet"] = "cphet"
    target: Literal["auto", "own", "pooled", "uniform"] = "auto"  # "auto": own labels, or the pool's in a shared test
    subsample: bool = True  # draw calibration points by their weights, as published; false: weigh them


class HDCP(Calibrate):
    """Histograms summed in one round (Wen et al.)."""

    name: Literal["h-dcp"] = "h-dcp"
    levels: Annotated[int, Field(ge=1, le=65536)] = 1000  # that scores are rounded up to


class QDCP(Calibrate):
    """The pooled quantile by ADMM (Wen et al.)."""

    name: Literal["q-dcp"] = "q-dcp"
    rounds: Annotated[int, Field(ge=1)] = 100  # of passing numbers on
    topology: Literal["complete", "cycle"] = "complete"  # who is whose neighbour
    sharpness: Annotated[float, Field(gt=0)] = 2000.0  # of the softplus, kappa
    # mu: the published 2000 holds the result at the mean of the clients' own thresholds, 0.1 leaves it to the pool.
    regularisation: Annotated[float, Field(gt=0)] = 2000.0
    penalty: Penalty = 1.0  # of disagreement, c; above 0
    start: Literal["anchor", "zero"] = "anchor"  # first x: mean of local thresholds; published: 0
    margin: bool = False  # add the published margin for what the rounds have not reached


class RobFCP(Calibrate):
    """The pooled quantile of the clients whose histograms look alike (Kang et al. 2024)."""

    name: Literal["rob-fcp"] = "rob-fcp"
    malicious: Malicious = "estimate"  # share of the clients to drop, below 0.5
    bins: Annotated[int, Field(ge=2, le=1000)] = 20  # of the histograms that are compared
    neighbours: Literal["nearest", "farthest"] = "nearest"  # distances that count; "farthest": the published code


class Histogram(Calibrate):
    """A calibration on histograms of scores."""

    bins: Annotated[int, Field(ge=2, le=65536)] = 512  # of the grid that scores are counted on


Rare = Literal["borrow", "inf"]


class ByClass(Histogram):
    """A calibration on histograms of scores by class, coded in at most `budget` bytes where coarser bins allow it.

    A client whose code is longer joins its bins in pairs, which only an even number of them lets it do. So `bins` is a
    multiple of 32: any client can halve its bins five times. With an odd number it could not, and `budget` would be
    kept by nobody whose first code is too long.
    """

    budget: Annotated[int, Field(ge=32)] = 512  # bytes a client may send

    @field_validator("bins")
    @classmethod
    def _can_be_halved(cls, bins: int) -> int:
        if bins % 32:
            raise ValueError("must be a multiple of 32, so that clients can join bins in pairs to keep the budget")
        return bins


class FedHist(Histogram):
    """The pooled threshold, rounded up to a grid."""

    name: Literal["fedhist-cp"] = "fedhist-cp"


class Grouped(ByClass):
    """A threshold for each client from the clients like it and its own labels."""

    name: Literal["grouped"] = "grouped"
    groups: Literal["tier", "found", "one"] = "tier"  # "found": by the server, from the histograms alone
    # Too few points: "borrow" joins classes of like scores, and a small group takes everybody's, by which the guarantee
    # is lost; "inf" leaves them apart, and sets hold every label where that is what the few points can vouch for.
    rare: Rare = "borrow"
    target: Literal["auto", "own", "pooled"] = "auto"  # label mix: each client's own, or the pool's in a shared test


class ClassConditional(ByClass):
    """A threshold for each class, so that every mix of them is covered."""

    task: ClassVar[str | None] = "classification"
    name: Literal["class-conditional"] = "class-conditional"
    groups: Literal["tier", "one"] = "tier"  # whose scores are put together
    # A class with fewer than 1/alpha - 1 points in its group: "inf" puts it into every set (Vovk 2012); "borrow" takes
    # the class's points of all groups, and where these are too few all of its group's, and loses the guarantee.
    rare: Rare = "inf"


class Online(Histogram):
    """A histogram that is kept up as clients and points come and go."""

    name: Literal["online"] = "online"
    rounds: Annotated[int, Field(ge=1)] = 10  # in which a client's calibration points arrive, one part a round
    fraction: Annotated[float, Field(gt=0, le=1)] = 0.5  # of the clients that report in a round; others catch up later
    forgetting: Annotated[float, Field(gt=0, le=1)] = 1.0  # what a round leaves of the weight of the points before it
    departed: Literal["keep", "leave"] = "keep"  # a client that was asked and did not answer: its counts stay, or go


class Private(Calibrate):
    """Differentially private histograms, with a rank that allows for their noise."""

    name: Literal["private"] = "private"
    epsilon: Annotated[float, Field(ge=1e-6)] = 1.0  # below, the noise is larger than any number of points
    trust: Literal["client", "sum"] = "sum"  # each report is private by itself, or only the sum (secure aggregation)
    bins: Annotated[int, Field(ge=2, le=65536)] = 64  # of the grid that scores are counted on
    failure: Annotated[float, Field(gt=0, lt=1)] = 0.002  # how often noise may exceed its allowance; part of alpha
    range: tuple[float, float] | None = None  # of the grid, for a score without known bounds: public, not from the data

    @model_validator(mode="after")
    def _public(self) -> Self:
        if self.calibrator != "none":
            raise ValueError(_unprotected(self.calibrator))
        if self.range is None and isinstance(self.score, Raps | Residual | Cqr):
            why = "has no known bounds, and the data's are private"
            raise ValueError(f"score {self.score.name!r} {why}; give range = [low, high] of its grid")
        if self.range is not None and not self.range[0] < self.range[1]:
            raise ValueError(f"range = {list(self.range)}: the first must be smaller than the second")
        if not self.failure < self.alpha:
            raise ValueError(f"failure = {self.failure}: is a part of alpha = {self.alpha}, and must be smaller")
        return self


class NoCalibration(Options):
    """Accuracy only."""

    name: Literal["none"] = "none"
    alpha: ClassVar[None] = None
    score: ClassVar[None] = None
    calibrator: ClassVar[str] = "none"
    one_calibrator: ClassVar[bool] = True


class OwnCalibrate(Calibrate):
    """A user's own calibrate strategy, `module:object`."""

    model_config = ConfigDict(extra="allow")


CALIBRATE: dict[str, type[Options]] = {
    "fedwq-cp": FedWQCP,
    "unweighted": Unweighted,
    "local": Local,
    "pooled": Pooled,
    "fcp": FCP,
    "fedcp-qq": FedCPQQ,
    "dp-fedcp": DPFedCP,
    "cphet": CPhet,
    "h-dcp": HDCP,
    "q-dcp": QDCP,
    "rob-fcp": RobFCP,
    "fedhist-cp": FedHist,
    "grouped": Grouped,
    "class-conditional": ClassConditional,
    "online": Online,
    "private": Private,
    "none": NoCalibration,
}


def calibrate_options(value: Any) -> Any:
    """The calibrate strategy that a name or a table chooses; see `options.chosen`."""
    return chosen(CALIBRATE, value, "calibrate strategy", OwnCalibrate)
