"""LOO: leave-one-out in the place of the Shapley value, a baseline of FedTSV's.

"FedTSV", Kuznetsov, Wang, 2026, https://arxiv.org/abs/2605.30336

    φ_i = v_t(S_t) - v_t(S_t \\ i)        shapley.leave_one_out

Everything else is FedTSV's (strategies/fedtsv.py): v_t, the sum Φ, the clipping, the aggregation. The paper names the
baseline only; that it accumulates and weighs as FedTSV does is taken from the comparison it stands in.

Sent: the weights, by each participant, in each round. Received: as many, and once more by everybody at the end.

To know: v_t(S_t \\ i) hardly differs from v_t(S_t) where two clients can stand in for each other, so that neither of
them is credited, and one outlier that spoils the mean makes everybody else look superfluous.
"""

from __future__ import annotations

from fl_sim.contribution import shapley
from strategies.base import ALONE, Federation
from strategies.families.averaging import EvaluateEvery, Rounds
from strategies.families.weighing import Answers, Floats, Participants
from strategies.fedtsv import FedTSV


class LOO(FedTSV):
    """As fedtsv, with what is lost without a client in the place of its Shapley value."""

    def __init__(
        self,
        federation: Federation = ALONE,
        *,
        rounds: Rounds,
        participants: Participants,
        evaluate_every: EvaluateEvery = 1,
    ) -> None:
        super().__init__(federation, rounds=rounds, participants=participants, evaluate_every=evaluate_every)

    def contributions(self, gram: Floats, answers: Answers) -> Floats:
        """φ (m,) of the participants."""
        return shapley.leave_one_out(gram)
