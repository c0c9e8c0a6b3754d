"""FedWQ-CP: the size-weighted mean of the clients' own conformal thresholds.

"Conformalized Neural Networks for Federated Uncertainty Quantification under Dual Heterogeneity",
Nguyen, Wang, Ku, 2026, https://arxiv.org/abs/2602.23296

    q_k = the ceil((n_k + 1)(1 - α))-th smallest score of client k        clients/calibrate.py, conformal/thresholds.py
    q   = Σ_k (n_k / Σ_j n_j) q_k                                         `threshold` below

    α is `alpha` · q_k is `reports.threshold` · n_k is `reports.num_calibration` · q is `global_threshold`

Sent: (q_k, n_k), 16 bytes, once. Received: q, 8 bytes.

Guaranteed: nothing in finite samples. The mean of quantiles is the quantile of the mixture only where the clients'
score laws agree near it; where they do not, the mean lies between the smallest and the largest q_k and can cover too
little.

Chosen, because the paper's text was not reachable: the local level is the exact split-conformal rank (the standard
one); a client with n_k < 1/α - 1, whose rank is larger than n_k, sends its largest score (`small_n = "clip"`),
infinity, or nothing.

Refinements, none of them the paper's, all off by default; f_k is the density of client k's scores at q_k, which it
then sends too (24 bytes):

weights = "precision"   Weights n_k f_k². Var(q_k) ≈ α(1 - α) / (n_k f_k²), so this is the mean of least variance where
                        all clients have one true threshold. Where they have not it follows the client whose scores
                        are densest, which as a rule has the lowest q_k: on the digits' two tiers (eight seeds, α = 0.1)
                        it covers 0.48 where the mean covers 0.88; with `cap = 2` 0.87.

correction = "density"  The mixture's quantile to first order: about q_k client k has F_k(q) ≈ F_k(q_k) + f_k (q - q_k)
                        with F_k(q_k) ≈ 1 - α, so Σ n_k F_k(q) = (1 - α) Σ n_k gives Σ n_k f_k (q - q_k) = 0, that is
                        q = Σ n_k f_k q_k / Σ n_k f_k: the mean again, with weights n_k f_k. It is for q_k so close
                        together that densities do not change between them. Where they do it is worse than the mean (on
                        the digits it covers 0.72), as F_k, which cannot exceed 1, is taken to rise steeply for ever.
                        (Not together with "precision".)

feedback = J            A second round. The server sends J candidates c (8 J bytes): the mean, the largest finite q_k
                        and others between; client k answers how many of its scores lie up to each (4 J bytes). With
                        N = Σ n_k over those who answer, q is the smallest candidate with
                        Σ_k #{S <= c} >= ceil((N + 1)(1 - α)), +inf if there is none.

                        Then q is at least the threshold of split conformal on all N scores. Proof: that threshold is
                        the r-th smallest score s_(r), r = ceil((N + 1)(1 - α)), or +inf where r > N. A candidate with
                        r or more scores up to it is at least s_(r); where r > N no candidate has r. Nothing was asked
                        of the candidates, so it does not matter that they depend on the same scores. Hence a test
                        point that is exchangeable with the N pooled points is covered with P >= 1 - α in any sample.
                        (Where the n_k are fixed and the test point's client is drawn with weights n_k + 1, `fcp`'s law,
                        the same rank gives (1 - α)(N + 1)/(N + K) or more.)

                        The largest q_k suffices where every n_k >= 1/α - 1: at least ceil((n_k + 1)(1 - α)) scores of
                        client k lie up to it, in sum >= (N + K)(1 - α) >= (N + 1)(1 - α), and a sum of whole numbers
                        that reaches it reaches its ceiling.

                        `detail` has for each client how many of its n_k scores q covers, and Clopper and Pearson's
                        lower bound on its coverage at 95 %, for that client alone; q depends on the scores it is held
                        against, a little less so the more clients there are. On the digits J = 16 covers 0.92 (the pool
                        0.90, J = 64 0.91).

align                   Scores are brought to one scale at each client and q back (conformal/alignment.py), so that one
                        q means the same coverage at clients whose scores do not. No bytes. Each client's scores stay
                        exchangeable, because its map is fitted on training rows.

aggregation, trim, cap  A weighted median or trimmed mean, and a bound on one client's weight, against clients that lie
                        (conformal/aggregation.py, with how many they stand). `feedback` does not stand liars.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fl_sim.conformal.aggregation import aggregated, candidates, least_coverage, smallest_sufficient
from fl_sim.messages.calibration import ThresholdReport, ThresholdRequest
from fl_sim.messages.exchange import Columns
from fl_sim.messages.record import FLOAT_BYTES, Record
from fl_sim.messages.summaries import CountsRequest
from strategies.base import ALONE, Calibration, Federation
from strategies.families.options import Cap, Mean, SmallN, Trim

DENSEST = 1e100  # no density is taken for more, so that its square stays finite whatever a client says


class FedWQCP(Calibration):
    """The size-weighted mean of the clients' thresholds, and what the literature would mend of it."""

    compared = ({}, {"correction": "density"}, {"feedback": 16}, {"align": "rank"})

    @classmethod
    def check(cls, options: Any) -> None:
        """One calibrator, and one rule for the weights."""
        if options.calibrator != "none" and options.align == "temperature":
            raise ValueError(
                f"calibrator = {options.calibrator!r} and align = 'temperature', which is a calibrator fitted on "
                "training rows; take one"
            )
        if options.weights == "precision" and options.correction == "density":
            raise ValueError("weights = 'precision' and correction = 'density': either sets the weights, take one")

    @classmethod
    def check_world(cls, options: Any, scenario: Any, task: str | None) -> None:
        """Scales are learned from training rows."""
        if options.align != "none" and scenario.learn.strategy.hands_out:
            raise ValueError(
                f"calibrate.align = {options.align!r} needs training rows that the clients hold, and learn = "
                f"{scenario.learn.name!r} leaves them none"
            )

    def __init__(
        self,
        federation: Federation = ALONE,
        *,
        alpha: float,
        score: str = "",
        small_n: SmallN = "clip",
        weights: Literal["size", "precision"] = "size",  # "precision": by the inverse variance of each threshold
        # "density": a first-order step towards the mixture's quantile
        correction: Literal["none", "density"] = "none",
        # second round: clients count at so many candidate thresholds
        feedback: Annotated[int, Field(ge=0, le=1000)] = 0,
        align: Literal["none", "rank", "temperature"] = "none",  # bring scores to one scale before averaging
        aggregation: Mean = "mean",
        trim: Trim = 0.1,
        cap: Cap | None = None,
    ) -> None:
        super().__init__(federation, alpha=alpha, score=score)
        self.small_n = small_n
        self.power = 1 if correction == "density" else 2 if weights == "precision" else 0  # of f_k in the weight
        self.feedback, self.num_rounds = feedback, 2 if feedback else 1
        self.align = "" if align == "none" else align
        self.aggregation, self.trim, self.cap = aggregation, trim, cap
        self.mean: float | None = None  # of the first round
        self.counts: dict[int, tuple[int, int]] = {}  # partition -> scores up to the threshold, n_k
        self._second = CountsRequest(self.score, np.array([math.inf]), self.align)

    def question(self) -> Record:
        """Each client's (q_k, n_k), and f_k where it weighs."""
        return ThresholdRequest(self.score, self.alpha, self.small_n, self.align, self.power > 0)

    def threshold(self, reports: Columns[ThresholdReport]) -> float:
        """Σ n_k q_k / Σ n_k over the clients that have points; infinite if there are none."""
        weights = self._by_density(reports) if self.power else reports.num_calibration
        return aggregated(reports.threshold, weights, self.aggregation, self.trim, self.cap)

    def _by_density(self, reports: Columns[ThresholdReport]) -> NDArray[np.float64]:
        """n_k f_k, or n_k f_k²; n_k where q_k is infinite, which has no density, and where nobody has one."""
        n, density = reports.num_calibration, np.minimum(reports.density, DENSEST)
        known = ((n > 0) & (density > 0)).any()
        return n * np.where(known & (reports.threshold < math.inf), density**self.power, 1.0)

    # --------------------------------------------------------------------------------------------------- second round

    def ask(self, server_round: int) -> Record:
        """The question of the first round; in the second the candidates."""
        return self.question() if server_round == 1 else self._second

    def take(self, server_round: int, reports: Columns[Any]) -> None:
        """The mean; in the second round the smallest candidate that covers enough of all scores."""
        if server_round == 1:
            super().take(1, reports)
            self.mean = self.global_threshold
            self._second = self._spread(reports)
            return
        counts = np.array(reports.counts).reshape(len(reports), len(self._second.candidates))  # (K, J)
        n = reports.num_calibration
        q = smallest_sufficient(self._second.candidates, counts.sum(axis=0), int(n.sum()), self.alpha)
        self.global_threshold, partitions = q, reports.partition.tolist()
        self.thresholds = dict.fromkeys({*self.thresholds, *partitions}, q)
        chosen = int(np.searchsorted(self._second.candidates, q))  # past the end for +inf, which covers all
        covered = np.column_stack([counts, n])[:, chosen]
        self.counts = dict(zip(partitions, zip(covered.tolist(), n.tolist(), strict=True), strict=True))

    def _spread(self, reports: Columns[ThresholdReport]) -> CountsRequest:
        mean = math.inf if self.mean is None else self.mean
        among = candidates(reports.threshold, reports.num_calibration, mean, max(self.feedback, 1))
        return CountsRequest(self.score, among, self.align)

    def information_up(self, reports: Columns[Any]) -> NDArray[np.int64]:
        """(q_k, n_k), and f_k where it weighs; in the second round the counts, and n_k if "drop" kept it back."""
        more = self.power > 0 if reports.kind is ThresholdReport else self.small_n == "drop"
        return np.asarray(super().information_up(reports) + FLOAT_BYTES * more)

    def detail(self) -> dict[str, Any]:
        """The second round's certificate of each client, where there was one."""
        if not self.feedback:
            return {}
        return {
            "first_round": None if self.mean is None or math.isinf(self.mean) else self.mean,
            "candidates": len(self._second.candidates),
            "certificate": {
                str(k): {"covered": covered, "of": n, "at_least": self._bound(covered, n)}
                for k, (covered, n) in self.counts.items()
            },
        }

    def _bound(self, covered: int, n: int) -> float:
        return 1.0 if self.global_threshold == math.inf else least_coverage(covered, n)
