"""FedCP-QQ: a quantile of the clients' quantiles, chosen so that the coverage is what it should be.

"One-shot federated conformal prediction", Humbert, Le Bars, Bellet, Arlot, ICML 2023, https://arxiv.org/abs/2302.06322
"Marginal and training-conditional guarantees in one-shot federated conformal prediction", the same, 2024,
https://arxiv.org/abs/2405.12567

    q_j = the l_j-th smallest of client j's n_j scores                    clients/calibrate.py
    q   = the k-th smallest of the q_j                                    `take` below
    M   = E coverage of q, a function of (n_j), (l_j) and k alone         conformal/order_statistics.py

    sizes = "unequal"   l_j = ceil((n_j + 1)(1 - α)), at most n_j, and the smallest k with M >= 1 - α
    sizes = "equal"     n = min_j n_j of everyone's scores, drawn at random, and the (l, k) of the smallest M >= 1 - α
    guarantee = "conditional"   in place of M >= 1 - α: P(coverage < 1 - α) <= β, over calibration draws

    α is `alpha` · β is `beta` · n_j is `report.num_calibration` · q_j is `report.threshold` · q is `global_threshold`
    K, of the clients with n_j > 0, is "clients" in `detail()`

Sent: "unequal" (q_j, n_j), 16 bytes, once. "equal" n_j, then q_j, 8 bytes each, in two rounds. Received: q, 8 bytes,
and in the second round of "equal" (l, n), 8 bytes.

Guaranteed: for any law of the scores, if all clients' scores and the test point's are independent and follow the same
law: coverage at least 1 - α on average over calibration draws ("marginal", which in up to about half of the draws falls
short), or in all but a share β of the draws ("conditional"). Where no k will do (K clients of n scores: if
Kn/(Kn + 1) < 1 - α) the threshold is infinite and `detail()` says why. Where clients' laws differ nothing is
guaranteed: a k near K is nearly the worst client's threshold and covers too much, a small k covers too little, and
which of them has the smallest M is an accident of the sizes.

Chosen, the papers' texts not being at hand beyond their abstracts: the ranks l_j of unequal clients, and that a rank
above n_j is cut to n_j (M allows for it); M >= 1 - α where the authors' notebook has M > 1 - α; a difference of 1e-12
is taken for rounding and counts as met; a client that is asked in the second round and does not answer is left out, and
k chosen anew for those that did. M is the integral of the Beta-Beta law (for unequal clients of a Poisson-binomial):
the sum of hypergeometric terms in the authors' code is NaN or too large from some 65 scores on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fl_sim.conformal.order_statistics import Aim, Choice, choose, choose_equal
from fl_sim.conformal.thresholds import local_rank
from fl_sim.messages.calibration import OrderStatisticRequest, SizeReport, SizeRequest, ThresholdRequest
from fl_sim.messages.exchange import Columns
from fl_sim.messages.record import FLOAT_BYTES, Record
from strategies.base import ALONE, Calibration, Federation


class FedCPQQ(Calibration):
    """A quantile of the clients' quantiles (Humbert et al. 2023)."""

    def __init__(
        self,
        federation: Federation = ALONE,
        *,
        alpha: float,
        score: str = "",
        # "equal": everyone draws as many scores as the smallest client has
        sizes: Literal["unequal", "equal"] = "unequal",
        # on average over calibration draws, or in most of them
        guarantee: Literal["marginal", "conditional"] = "marginal",
        beta: Annotated[float, Field(gt=0, lt=1)] = 0.1,  # "conditional": coverage below 1 - alpha at most so often
    ) -> None:
        super().__init__(federation, alpha=alpha, score=score)
        self.aim, self.sizes = Aim(alpha, guarantee, beta), sizes
        self.num_rounds = 2 if sizes == "equal" else 1
        self._answered: set[int] = set()  # partitions, in any round
        self._drawing: list[int] = []  # "equal": partitions that are asked in the second round
        self._n = self._rank = 0  # "equal": how many scores each draws, and l
        self._detail: dict[str, Any] = {}

    def ask(self, server_round: int) -> Record | Mapping[int, Record]:
        """Everybody's own conformal threshold; or everybody's n_j, and then the l-th smallest of n."""
        if self.sizes == "unequal":
            return ThresholdRequest(self.score, self.alpha, "clip")
        if server_round == 1:
            return SizeRequest(self.score)
        return dict.fromkeys(self._drawing, OrderStatisticRequest(self.score, rank=self._rank, size=self._n))

    def take(self, server_round: int, reports: Columns[Any]) -> None:
        """The k-th smallest threshold; or first, from the n_j, what to ask for."""
        self._answered.update(reports.partition.tolist())
        taking = reports.taken(np.flatnonzero(reports.num_calibration > 0))
        if server_round < self.num_rounds:
            self._settle(taking)
            return
        self.global_threshold = self._kth_smallest(taking)
        self.thresholds = dict.fromkeys(sorted(self._answered), self.global_threshold)

    def information_up(self, reports: Columns[Any]) -> int | NDArray[np.int64]:
        """(q_j, n_j), or one number a round."""
        return FLOAT_BYTES if self.sizes == "equal" else super().information_up(reports)

    def detail(self) -> dict[str, Any]:
        """Sizes n, ranks l and the choice k; its M, and the probability that it covers less than 1 - α."""
        nothing = {"clients": 0, "n": None, "l": None} | self._choice_detail(None, "no client has calibration points")
        return nothing | self._detail

    def _settle(self, reports: Columns[SizeReport]) -> None:
        """n and l, and who is asked: nobody where no (l, k) will do."""
        if not len(reports):
            return
        self._n = int(reports.num_calibration.min())
        self._rank, choice = choose_equal(self._n, len(reports), self.aim)
        self._note([self._n] * len(reports), [self._rank] * len(reports), choice)
        if choice.feasible:
            self._drawing = reports.partition.tolist()

    def _kth_smallest(self, reports: Columns[Any]) -> float:
        if not len(reports):
            if self._drawing:
                self._detail |= self._choice_detail(None, "no client answered in the second round")
            return math.inf
        sizes = [self._n] * len(reports) if self.sizes == "equal" else reports.num_calibration.tolist()
        ranks = [self._rank if self.sizes == "equal" else local_rank(n, self.alpha, "clip") or n for n in sizes]
        choice = choose(sizes, ranks, self.aim)
        self._note(sizes, ranks, choice)
        return float(np.sort(reports.threshold)[choice.k - 1]) if choice.feasible else math.inf

    def _note(self, sizes: list[int], ranks: list[int], choice: Choice) -> None:
        equal = self.sizes == "equal"
        self._detail = {"clients": len(sizes), "n": sizes[0] if equal else sizes, "l": ranks[0] if equal else ranks}
        self._detail |= self._choice_detail(choice, "" if choice.feasible else self._why(choice))

    def _choice_detail(self, choice: Choice | None, why_infinite: str) -> dict[str, Any]:
        """The choice, where an infinite threshold covers everything."""
        taken = choice if choice and choice.feasible else None
        return {
            "k": taken.k if taken else None,
            "expected_coverage": taken.expected_coverage if taken else 1.0,
            "probability_below": taken.shortfall if taken else 0.0,  # of a coverage below 1 - α
            "why_infinite": why_infinite or None,
        }

    def _why(self, choice: Choice) -> str:
        level = self.aim.level
        if self.aim.guarantee == "marginal":
            return f"even the largest threshold covers {choice.expected_coverage:.6g} on average: {level} is needed"
        chance = f"with probability {choice.shortfall:.6g}: at most {self.aim.beta:g} is allowed"
        return f"even the largest threshold covers less than {level} {chance}"
