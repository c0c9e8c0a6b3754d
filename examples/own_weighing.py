"""A federation of one's own: clients weigh how far their update points where the server's own update does.

PYTHONPATH=examples .venv/bin/fl-sim sweep contribution/digits learn=fedtsv,own_weighing:Aligned
"""

import numpy as np

from fl_sim.contribution.shapley import gram
from strategies.base import Federation
from strategies.families.weighing import Answers, Floats, Weighing


class Aligned(Weighing):
    """α_i = max(0, cos(Δ_i, Δ_val)), of the last round that client i took part in. Nothing is guaranteed."""

    def __init__(self, federation: Federation, rounds: int = 60, participants: int = 5) -> None:
        super().__init__(federation, rounds=rounds, participants=participants, evaluate_every=1)
        self.last = np.zeros(len(federation.architectures))

    def weigh(self, answers: Answers) -> Floats:
        products = gram(answers.updates, self.reference(answers))  # the server's own update is row 0
        length = np.sqrt(np.diag(products))
        self.last[answers.participants] = products[0, 1:] / np.maximum(length[0] * length[1:], 1e-30)
        return self.standing()[answers.participants]

    def standing(self) -> Floats:
        return np.maximum(self.last, 0)
