"""FCP: split conformal for a mixture of the clients, each of which brings a test point of its own.

"Federated conformal predictors for distributed uncertainty quantification", Lu, Yu, Karimireddy, Jordan, Raskar,
ICML 2023, https://arxiv.org/abs/2305.17564

    q = the ceil((N + K)(1 - α))-th smallest of all N scores, +inf beyond     π_k ∝ n_k + 1: `mixture = "size"`
    q = the smallest score with Σ_k w_k #{S_k,i <= q} >= 1 - α, +inf if none   any π that adds up to 1
        w_k = π_k / (n_k + 1)                                                 `mixture_threshold`

    α is `alpha` · π is `mixture` · n_k is `num_calibration` · q is `global_threshold` · conformal/thresholds.py

Sent: every score, 8 n_k bytes, once; or a sketch of them and n_k (conformal/sketches.py): for n_k = 20, 100, 1000 a
t-digest has 352, 1250, 1600 bytes, a DDSketch 1900 to 20000 by the scores' law. Received: q, 8 bytes.

Guaranteed, for a test point that comes from client k with probability π_k and is exchangeable with that client's
points: 1 - α <= coverage, and without ties coverage < 1 - α + Σ w_k, which for π_k ∝ n_k + 1 is 1 - α + K / (N + K).
For one client k: a test point S of its own is at most q exactly where it is at most q+, the same threshold with S
among the client's scores; q+ takes all n_k + 1 alike, so P(S <= q) = E #{client k's n_k + 1 <= q+} / (n_k + 1). That
number is at least M_k = #{S_k,i <= q}, at most M_k + 1, and for the client j whose score q is at most M_j. So coverage
lies between E Σ w_k M_k >= 1 - α and E [Σ w_k M_k + Σ w_k - w_j], and Σ w_k M_k < 1 - α + w_j.
All of it for the mixture: no single client is promised anything. The points at infinity weigh Σ w_k; where that
exceeds α, q is infinite, and under "uniform" one client with few points can see to it: `detail` names the one that
weighs most.

Not guaranteed: either sketch may answer with too small a score. By how much of N the answer's rank is off at most, over
20 clients of 20, 100 or 1000 points, four laws of scores without ties and 20 draws of each:

    α            .01     .05    .1     .2     .5
    t-digest     .05 %   .25    .5     .75    1.0       with ties, 30 values in all: 3 %
    DDSketch     1.5 %   3.9    6.3    4.3    3.6       where scores crowd near 1, it tells none of them apart

Chosen: a client without points has its point at infinity as any other has, so that K is everybody who answered, and
the guarantee is for all of them. Clients that did not answer are in no mixture. Ranks are exact: the authors' code
rounds the level to whole percents for its t-digest, and stops with an error above 1, where we say +inf. A sketch holds
the pool, so it goes with "size" alone.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from fl_sim.conformal.decimals import as_meant
from fl_sim.conformal.sketches import merged, sketch_from
from fl_sim.conformal.thresholds import conformal_rank, mixture_parts, mixture_threshold
from fl_sim.messages.calibration import ScoresRequest
from fl_sim.messages.exchange import Columns
from fl_sim.messages.record import Record
from fl_sim.messages.summaries import SketchReport, SketchRequest
from strategies.base import ALONE, Calibration, Federation


def _mixture(value: Any) -> Any:
    """Refuses in one line what is no mixture."""
    numbers = value if isinstance(value, list | tuple) else [None]
    fit = [isinstance(n, int | float) and not isinstance(n, bool) and 0 <= n < math.inf for n in numbers]
    if value not in ("size", "uniform") and not all(fit):
        raise ValueError("must be 'size', 'uniform' or a list of numbers, one for each client, none below 0")
    return value


Shares = tuple[Annotated[float, Field(ge=0)], ...]
Mixture = Annotated[Literal["size", "uniform"] | Shares, BeforeValidator(_mixture)]


class FCP(Calibration):
    """The pooled rank ceil((N + K)(1 - alpha)), for any mixture of the clients (Lu et al. 2023)."""

    @classmethod
    def check(cls, options: Any) -> None:
        """A mixture that somebody is in, and exact scores for any but that by size."""
        if not isinstance(options.mixture, str) and not sum(options.mixture):
            raise ValueError(f"mixture = {list(options.mixture)}: at least one client must count")
        if options.sketch != "exact" and options.mixture != "size":
            raise ValueError(f"sketch = {options.sketch!r} holds the pool: it goes with mixture = 'size' alone")

    @classmethod
    def check_world(cls, options: Any, scenario: Any, task: str | None) -> None:
        """One number for each client."""
        if not isinstance(options.mixture, str) and len(options.mixture) != scenario.clients.count:
            raise ValueError(
                f"calibrate.mixture holds {len(options.mixture)} numbers, but clients.count = {scenario.clients.count}"
                ": must be one for each client"
            )

    def __init__(
        self,
        federation: Federation = ALONE,
        *,
        alpha: float,
        score: str = "",
        sketch: Literal["exact", "tdigest", "ddsketch"] = "exact",  # what a client sends of its scores
        mixture: Mixture = "size",  # pi: by n_k + 1, all alike, or one number for each client
    ) -> None:
        super().__init__(federation, alpha=alpha, score=score)
        self.sketch, self.mixture = sketch, mixture
        self.sizes: dict[int, int] = {}  # partition -> n_k of those who answered
        if not isinstance(mixture, str):
            mixture_parts(mixture, len(federation.tiers) or len(mixture))  # refuses what is no mixture of these clients
        if sketch != "exact" and mixture != "size":
            raise ValueError(f"sketch = {sketch!r} holds the pool: it goes with mixture = 'size' alone")

    def question(self) -> Record:
        """Every score, or a sketch of them."""
        if self.sketch == "exact":
            return ScoresRequest(self.score)
        return SketchRequest(self.score, self.sketch)

    def threshold(self, reports: Columns[Any]) -> float:
        """The mixture's 1 - α quantile."""
        sizes = map(len, reports.scores) if self.sketch == "exact" else reports.num_calibration.tolist()
        self.sizes = dict(zip(reports.partition.tolist(), sizes, strict=True))
        parts = self._parts()
        if not any(parts):
            return math.inf  # nobody of the mixture answered
        if self.sketch == "exact":
            return mixture_threshold(reports.scores, parts, self.alpha)
        return self._sketched(reports)

    def detail(self) -> dict[str, Any]:
        """How much of the mixture lies at infinity (above α the threshold is infinite), which client puts most there,
        and between what the guarantee holds coverage (with ties it may be more); None with a sketch, which has none."""
        parts, sizes = self._parts(), list(self.sizes.values())
        detail: dict[str, Any] = {"num_calibration": sum(sizes), "clients": len(sizes)}
        if not any(parts):
            return detail
        whole = sum(parts)
        infinite = [part / whole / (n + 1) for part, n in zip(parts, sizes, strict=True)]
        heaviest = max(range(len(sizes)), key=infinite.__getitem__)
        weight = float(sum(infinite))
        return detail | {
            "weight_at_infinity": weight,
            "heaviest_at_infinity": {
                "client": list(self.sizes)[heaviest],
                "num_calibration": sizes[heaviest],
                "weight": float(infinite[heaviest]),
            },
            "coverage_between_without_ties": [1 - self.alpha, min(1.0, 1 - self.alpha + weight)]
            if self.sketch == "exact"
            else None,
        }

    def _parts(self) -> list[Fraction]:
        """π of those who answered, up to a factor."""
        if self.mixture == "size":
            return [Fraction(n + 1) for n in self.sizes.values()]
        if self.mixture == "uniform":
            return [Fraction(1)] * len(self.sizes)
        if any(k >= len(self.mixture) for k in self.sizes):
            raise ValueError(f"mixture holds {len(self.mixture)} numbers, and there is a client {max(self.sizes)}")
        return [as_meant(float(self.mixture[k])) for k in self.sizes]

    def _sketched(self, reports: Columns[SketchReport]) -> float:
        pool = merged([sketch_from(sketch.tobytes(), self.sketch) for sketch in reports.sketch])
        rank = conformal_rank(pool.count + len(reports) - 1, self.alpha)  # ceil((N + K)(1 - α))
        return pool.at_rank(rank) if rank <= pool.count else math.inf
