"""CGSV: clients weigh how well their updates agree with the mean update, a baseline of FedTSV's.

"Gradient Driven Rewards to Guarantee Fairness in Collaborative Machine Learning", Xu, Lyu, Ma, Miao, Foo, Low, 2021
(NeurIPS), https://proceedings.neurips.cc/paper/2021/hash/8682cc30db9c025ecd3fee433f8ab54c-Abstract.html

    ψ_i  = cos(Δ_i, Δ_N)                    shapley.cosines; what stands for its Shapley value in the game of cosines
    r_i  = memory · r_i + (1 - memory) ψ_i  over the rounds that a client takes part in, from 0     `reputation`
    α_i  = max(0, r_i)                                                                              `weigh`

    Δ_i = θ_i^{t+1} - θ^t is `answers.updates` · Δ_N the mean of them over the round's participants

Sent: the weights, by each participant, in each round. Received: as many, and once more by everybody at the end. The
server needs no rows of its own.

Chosen: it stands here as the rival that FedTSV's paper names, "cosine to the mean update", in that paper's frame (some
clients a round, all get the same model, weighed in the same round; families/weighing.py). So Δ_N is the plain mean,
as there. The moving average from 0 is that of the authors' published code, and 0.95 is, as far as we know, its default.
That code also gives each update the same length and weighs it by the r of the round before, floors r at 0.001 and has r
add up to 1 over all clients, who all take part in every round: the frame weighs by shares of the participants anyway,
and clips at 0. What the paper is about, rewarding clients with sparser models, is no part of this.

To know: the mean is what the participants make it. An update made longer turns it, and is rewarded.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from fl_sim.contribution import shapley
from strategies.base import ALONE, Federation
from strategies.families.averaging import EvaluateEvery, Rounds
from strategies.families.weighing import Answers, Floats, Participants, Weighing


class CGSV(Weighing):
    """Clients weigh the cosine of their updates to the mean update (CGSV)."""

    validates = False

    def __init__(
        self,
        federation: Federation = ALONE,
        *,
        rounds: Rounds,
        participants: Participants,
        memory: Annotated[float, Field(ge=0, lt=1)] = 0.95,  # of the moving average of a client's cosines
        evaluate_every: EvaluateEvery = 1,
    ) -> None:
        super().__init__(federation, rounds=rounds, participants=participants, evaluate_every=evaluate_every)
        self.memory = memory
        self.reputation = np.zeros(len(federation.architectures))  # (K,) r

    def weigh(self, answers: Answers) -> Floats:
        """A client's cosine to the mean, on average over the rounds it took part in, the last ones most."""
        psi = shapley.cosines(shapley.gram(answers.updates))
        self.tell(phi=psi.tolist())
        now = self.reputation[answers.participants]
        self.reputation[answers.participants] = self.memory * now + (1 - self.memory) * psi
        return self.standing()[answers.participants]

    def standing(self) -> Floats:
        """α (K,)."""
        return np.maximum(self.reputation, 0)
