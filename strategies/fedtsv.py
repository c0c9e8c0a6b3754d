"""FedTSV: clients weigh what their updates have done, in all, to move the mean towards the server's own update.

"FedTSV", Kuznetsov, Wang, 2026 (ECC), https://arxiv.org/abs/2605.30336

    Δ_val   = θ_0^{t,K} - θ^t: K steps from the global weights on the server's rows       (10)  `Weighing.reference`
    v_t(S)  = 1 / (1 + ‖Δ_S - Δ_val‖² / max(‖Δ_val‖², ε)), Δ_S the mean update of S       (11)  shapley.utilities
    φ_i     = the Shapley value of i in v_t, over the participants of the round                 shapley.shapley
    Φ_i    += φ_i, from 0; who does not take part keeps what it has                       (12)  `total`
    α_i     = max(0, Φ_i)                                                                 (13)  `weigh`
    θ^{t+1} = Σ_i α_i θ_i^{t+1} / Σ_i α_i over the participants, in the same round; uniform where all α_i are 0

    Φ is `total` · θ are the weights of the network · S_t is `answers.participants` · D_0 is `data.server`

Sent: the weights, by each participant, in each round. Received: as many, and once more by everybody at the end. The
server pays a client's training on its own rows, and the inner products of m + 1 updates.

Guaranteed: nothing; the paper has no proof of convergence.

Chosen, because the text was silent: exact Shapley values for up to 15 participants, beyond that `permutations` random
orders (in pairs of an order and its reverse), whose standard errors are told; ε = 1e-12; the optimizer of the server is
the clients' own, with a state that begins anew in each round, as theirs does.

To know: an honest client with rare data moves the mean away from what the server sees, and is nearly muted (the paper's
figure 2: weights of 0 to 0.25 of an iid client's). And the sum grows with how often a client took part.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from fl_sim.contribution import shapley
from fl_sim.randomness import stream
from strategies.base import ALONE, Federation
from strategies.families.averaging import EvaluateEvery, Rounds
from strategies.families.weighing import Answers, Floats, Participants, Weighing


class FedTSV(Weighing):
    """Clients weigh the sum of their Shapley values in moving the mean update towards the server's own (FedTSV)."""

    def __init__(
        self,
        federation: Federation = ALONE,
        *,
        rounds: Rounds,
        participants: Participants,
        # orders drawn, beyond 15 participants
        permutations: Annotated[int, Field(ge=4, le=100_000, multiple_of=2)] = 200,
        evaluate_every: EvaluateEvery = 1,
    ) -> None:
        super().__init__(federation, rounds=rounds, participants=participants, evaluate_every=evaluate_every)
        self.permutations = permutations
        self.total = np.zeros(len(federation.architectures))  # (K,) Φ

    def contributions(self, gram: Floats, answers: Answers) -> Floats:
        """φ (m,) of the participants."""
        m = len(answers.participants)
        if m <= shapley.EXACT:
            return shapley.shapley(shapley.utilities(gram))
        rng = stream(self.federation.seed, "shapley", answers.round)
        estimate = shapley.sampled(shapley.prefixes(gram), m, self.permutations, rng)
        self.tell(standard_errors=estimate.errors.tolist())
        return estimate.values

    def weigh(self, answers: Answers) -> Floats:
        """The sum of a client's contributions so far, this round's included, or 0 if it is below."""
        gram = shapley.gram(answers.updates, self.reference(answers))
        phi = self.contributions(gram, answers)
        self.tell(phi=phi.tolist())
        self.total[answers.participants] += phi
        return self.standing()[answers.participants]

    def standing(self) -> Floats:
        """α (K,)."""
        return np.maximum(self.total, 0)
