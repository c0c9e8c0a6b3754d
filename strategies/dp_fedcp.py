"""DP-FedCP: the quantile of all scores by federated descent on a smoothed pinball loss, with Gaussian noise.

"Conformal Prediction for Federated Uncertainty Quantification Under Label Shift", Plassier, Makni, Rubashevskii,
Moulines, Panov, ICML 2023, https://arxiv.org/abs/2306.05131

    w_y = P*(y) / P(y), P from all clients' label counts, P* = 1/C if `target` is "uniform"; w_y = 1 if it is "pooled"
    g_k(q) = Σ_i w_i clip((q - S_i)/γ, -(1 - α'), α') / W_k, W_k = Σ_i w_i    clients/optimise.py, conformal/pinball.py
    E times at client k, from q_t:   q <- q - η (g_k(q) + N(0, σ²))
    q_{t+1} = q_t + Σ_k (W_k / Σ_j W_j) Δ_k, Δ_k the way that client k came, k and j over the clients drawn
    q = mean of q_1 .. q_T if `average`, otherwise q_T

    α is `alpha` · γ is `smoothing`, η is `step_size`, in units of the spread of scores · σ is `noise` · E is
    `local_steps` · T is `rounds`

Sent: n_k or the counts of the labels once, where the spread is not known the smallest and largest score; then Δ_k,
8 bytes a round. Received: q_t, 8 bytes a round (and w, 8 C, where not all are 1), and q.

Guaranteed: as T grows, η and γ fall and E = 1, the coverage of the weighted quantile under label shift. Not before:
γ > 0 gives the (1 - α)-quantile of S - U, U uniform on [-γα, γ(1 - α)], about γ(1/2 - α) too low; E > 1 moves it
towards the mean of the clients' own quantiles; `average` counts the way from q_0 = 0. All three make a threshold too
small. And (ε, δ)-differential privacy of the scores, as follows.

Privacy: neighbours differ in one calibration point of a client, replaced by another (of the same label, where labels
are weighed: their counts are sent as they are). A step's gradient g_k then changes by at most max w / W_k, max over
the client's own labels, as its clip has a range of 1; pooled that is 1/n_k. Each step is a Gaussian mechanism of noise
multiplier σ W_k / max w, Δ_k and q_{t+1} are made from its results, and the steps of a client compose: E for each
round that it was drawn in. The draw is no secret to the server, from which the noise is to protect, so it amplifies
nothing. `detail` gives ε of the client that has the largest. It does not cover the range of the scores that round 0
sends where `spread` is not given and not known.

Chosen: `aggregation`, `trim` and `cap` put a median or a trimmed mean of the Δ_k in the place of their mean, and bound
one client's weight, against clients that lie (conformal/aggregation.py). The fixed point is then another one where
clients differ: of the median, the median client's own quantile.

Chosen, rebuilt from its description, as no code of the authors was found and the text was not reachable: gradients are
means over a client's points and clients weigh W_k; the noise is added to that mean; q_0 = 0; clients are drawn
uniformly, max(1, fraction K) of them; `spread` is 1 for lac and aps, whose scores lie in [0, 1], and otherwise the
median over clients of largest minus smallest score, which a few odd clients cannot move. In the paper the mass of
the test point, w_y / (w_y + W), lies at +inf, so that the level depends on the label y; here all labels get that of
the largest w_y, 1 - α' = (1 - α)(1 + max w / W), so that each label's threshold is at least the one of its own level.
+inf where α' <= 0. A label that no point has would have infinite w_y: its own threshold is +inf (in regression
everybody's), and it is left out of the maximum.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fl_sim.conformal.aggregation import aggregated
from fl_sim.conformal.pinball import corrected_alpha, importance, privacy_spent
from fl_sim.messages.calibration import SizeReport, SizeRequest
from fl_sim.messages.exchange import Columns
from fl_sim.messages.record import FLOAT_BYTES, Record
from fl_sim.messages.summaries import DescendRequest, LabelCountsReport, LabelCountsRequest, StepReport
from fl_sim.randomness import stream
from strategies.base import ALONE, Calibration, Federation, Threshold
from strategies.families.options import Cap, Mean, Trim, unprotected

Floats = NDArray[np.float64]
IN_UNIT_INTERVAL = ("lac", "aps")


class DPFedCP(Calibration):
    """Federated descent on the smoothed pinball loss, with noise (Plassier et al. 2023)."""

    compared = (
        {"rounds": 50},
        # Settings under which its bias is small: many rounds, one step, little smoothing, the last iterate.
        {"rounds": 200, "local_steps": 1, "smoothing": 0.005, "step_size": 0.05, "average": False},
    )

    @classmethod
    def check(cls, options: Any) -> None:
        """Noise protects what no calibrator was fitted on."""
        if options.noise and options.calibrator != "none":
            raise ValueError(f"noise = {options.noise:g} and {unprotected(options.calibrator)}")

    def __init__(
        self,
        federation: Federation = ALONE,
        *,
        alpha: float,
        score: str = "",
        rounds: Annotated[int, Field(ge=1)] = 50,  # of descent
        local_steps: Annotated[int, Field(ge=1)] = 5,  # of a client in a round
        fraction: Annotated[float, Field(gt=0, le=1)] = 1.0,  # of the clients, drawn anew each round
        step_size: Annotated[float, Field(gt=0)] = 0.1,  # in units of the spread of the scores
        smoothing: Annotated[float, Field(gt=0)] = 0.05,  # of the pinball loss, in units of the spread of the scores
        spread: Annotated[float, Field(gt=0)] | None = None,  # of the scores; left out: 1 in [0, 1], else found
        noise: Annotated[float, Field(ge=0)] = 0.0,  # standard deviation on each step's gradient
        # of the (epsilon, delta) that is reported where there is noise
        delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5,
        average: bool = True,  # the mean of the iterates; false: the last one
        # label mix that is aimed at: all calibration points', or all alike
        target: Literal["pooled", "uniform"] = "pooled",
        aggregation: Mean = "mean",
        trim: Trim = 0.1,
        cap: Cap | None = None,
    ) -> None:
        super().__init__(federation, alpha=alpha, score=score)
        self.aggregation, self.trim, self.cap = aggregation, trim, cap
        self.local_steps, self.fraction, self.noise, self.delta = local_steps, fraction, noise, delta
        self.step_size, self.smoothing, self.average = step_size, smoothing, average
        self.spread = spread or (1.0 if json.loads(self.score)["name"] in IN_UNIT_INTERVAL else None)
        self.asks_range, by_label = self.spread is None, target == "uniform"
        by_class = LabelCountsRequest(federation.num_labels, self.score)
        self.before: list[Record] = [by_class] if by_label else []
        if self.asks_range or not by_label:
            self.before.append(SizeRequest(self.score))
        self.num_rounds = len(self.before) + rounds
        self.counts: dict[int, Floats] = {}  # partition -> points of each label (C,), or of all (1,)
        self.weights: Floats = np.ones(1)  # w_y, (C,) or (1,); +inf for a label without points
        self.iterates: list[float] = [0.0]  # q_0, q_1 ...
        self.drawn: Counter[int] = Counter()  # partition -> rounds in which it went some steps

    # ---------------------------------------------------------------------------------------------------- the rounds

    def ask(self, server_round: int) -> Record | Mapping[int, Record]:
        """What has to be known before, of everybody; then some steps from where we are, of the clients drawn."""
        if server_round <= len(self.before):
            return self.before[server_round - 1]
        if self.inner_alpha <= 0:
            return {}
        turn, unit = server_round - len(self.before), self.spread or 1.0
        request = DescendRequest(
            self.score, self.iterates[-1], self.inner_alpha, self.local_steps, self.step_size * unit,
            self.smoothing * unit, self.noise, turn, json.dumps(self.finite_weights.tolist()),
        )  # fmt: skip
        return dict.fromkeys(self._draw(turn), request)

    def _draw(self, turn: int) -> list[int]:
        able = sorted(k for k, mass in self.masses.items() if mass > 0)
        rng = stream(self.federation.seed, "dp-fedcp", turn)
        return sorted(rng.permutation(able)[: max(1, round(self.fraction * len(able)))].tolist())

    def take(self, server_round: int, reports: Columns[Any]) -> None:
        """Learn the counts or the range, or move on by the mean of the clients' ways."""
        if server_round > len(self.before):
            self._move(reports)
        elif isinstance(self.before[server_round - 1], LabelCountsRequest):
            self._weigh(reports)
        else:
            self._measure(reports)
        if server_round == self.num_rounds:
            self._finish()

    def _weigh(self, reports: Columns[LabelCountsReport]) -> None:
        counts = [own.astype(np.float64) for own in reports.counts]
        self.counts = dict(zip(reports.partition.tolist(), counts, strict=True))
        if self.counts:
            self.weights = importance(np.sum(list(self.counts.values()), axis=0))

    def _measure(self, reports: Columns[SizeReport]) -> None:
        if len(self.before) == 1:
            sizes = reports.num_calibration.astype(np.float64)[:, None]
            self.counts = dict(zip(reports.partition.tolist(), sizes, strict=True))
        if self.asks_range:
            ranges = (reports.high - reports.low)[reports.high > reports.low]
            self.spread = float(np.median(ranges)) if len(ranges) else 1.0

    def _move(self, reports: Columns[StepReport]) -> None:
        partitions = reports.partition.tolist()
        self.drawn.update(partitions)
        masses = [self.masses[k] for k in partitions]
        way = aggregated(reports.value, masses, self.aggregation, self.trim, self.cap) if partitions else 0.0
        self.iterates.append(self.iterates[-1] + way)

    def _finish(self) -> None:
        q = math.inf if self.inner_alpha <= 0 else self.quantile
        missing = np.isinf(self.weights)
        if missing.any() and self.federation.task == "classification":
            each: Threshold = np.where(missing, np.inf, q)
            self.thresholds = dict.fromkeys(self.counts, each)
            return
        self.global_threshold = math.inf if missing.any() else q
        self.thresholds = dict.fromkeys(self.counts, self.global_threshold)

    # ------------------------------------------------------------------------------------------------ what is derived

    @property
    def finite_weights(self) -> Floats:
        """w_y, and 0 for a label without points."""
        return np.where(np.isinf(self.weights), 0.0, self.weights)

    @cached_property
    def masses(self) -> dict[int, float]:
        """W_k of each partition, known after the rounds before."""
        return {k: float(counts @ self.finite_weights) for k, counts in self.counts.items()}

    @cached_property
    def inner_alpha(self) -> float:
        """α', known after the rounds before."""
        return corrected_alpha(self.alpha, float(self.finite_weights.max()), math.fsum(self.masses.values()))

    @property
    def quantile(self) -> float:
        """The mean of the iterates, or the last."""
        return math.fsum(self.iterates[1:]) / len(self.iterates[1:]) if self.average else self.iterates[-1]

    # ---------------------------------------------------------------------------------------------------- what it took

    def information_up(self, reports: Columns[Any]) -> int | NDArray[np.int64]:
        """Eight bytes a number: the laboratory's report of a client's size carries a range that is not always asked."""
        if reports.kind is SizeReport:
            return FLOAT_BYTES * ((len(self.before) == 1) + 2 * self.asks_range)
        return super().information_up(reports)

    def sensitivity(self, partition: int) -> float:
        """By how much at most a step's gradient changes with one point: max w / W_k."""
        own = self.finite_weights[self.counts[partition] > 0]
        return float(own.max()) / self.masses[partition]

    def spent(self) -> float:
        """The largest ε of all clients for `delta`; +inf without noise."""
        if not self.drawn:
            return 0.0
        if not self.noise:
            return math.inf
        # Rényi's ε of so many steps grows with their number times the sensitivity squared, for each order alike.
        worst = max(self.drawn, key=lambda k: self.drawn[k] * self.sensitivity(k) ** 2)
        steps = self.drawn[worst] * self.local_steps
        return privacy_spent(self.noise / self.sensitivity(worst), steps, self.delta)

    def detail(self) -> dict[str, Any]:
        """Where the descent came, in what unit, and what it cost in privacy."""
        epsilon, unit = self.spent(), self.spread or 1.0
        detail: dict[str, Any] = {
            "spread": unit,
            "inner_alpha": self.inner_alpha if math.isfinite(self.inner_alpha) else None,
            "last": self.iterates[-1],
            "mean": math.fsum(self.iterates[1:]) / max(1, len(self.iterates) - 1),
            "smoothing_bias": self.smoothing * unit * (self.inner_alpha - 0.5) if self.inner_alpha > 0 else None,
            "epsilon": epsilon if math.isfinite(epsilon) else None,
            "delta": self.delta,
            "neighbours": "one calibration point replaced" + (", of the same label" if len(self.weights) > 1 else ""),
        }
        if self.noise and self.asks_range:
            detail["not_private"] = "each client's smallest and largest score, sent once for the unit of the steps"
        return detail
