"""FedTSV's frame with another measure: a client weighs the trust that its updates came of honest training.

This laboratory's own, after "FedTSV", Kuznetsov, Wang, 2026 (ECC), https://arxiv.org/abs/2605.30336, whose server
trains from the same weights as the participants, on rows of its own, and judges their updates by that.

FedTSV asks how far an update moves the mean towards what the server's rows ask for. An honest client with rare labels
moves it elsewhere, and is muted as an attacker is; and Φ, a sum, grows with how often a client takes part. Here the
server asks whether training on right labels, in whatever mix, can have led to the update. In each round it

    halves D_0 at random, class by class, into A and B
    right atoms     a_0 = K steps on A;  a_c = K steps on A's rows of class c                 `Weighing.reference`
    wrong atoms     b_c = K steps on all of A, called class c
    virtual clients v_1 … v_S = K steps on B, honest by construction                          `virtual`
    looks           of each Δ_i and v_s: how it lies to the cones of right and of all atoms   honesty.looks
    evidence        sums over the rounds of a client, beside those of virtual clients         honesty.Evidence
    α_i             = trust (direction, wrong labels, stray length) · m_i / (m_i + 1)         `standing`
    θ^{t+1}         = θ^t + (Δ_0 + s Σ_i α_i c_i Δ_i) / (1 + Σ_i α_i) over the participants     `step`

    Δ_0 = (a_0 + v_1 + … + v_S) / (1 + S): the server takes part, as one client that is surely honest. It has trained
          these already. Where nobody is trusted it goes on alone.
    c_i = min(1, LONGEST ‖v‖ / ‖Δ_i‖), ‖v‖ the mean length of the virtual clients': nobody moves the model further
    s   = 1 to FURTHEST, so that the clients together get as far along Δ_0 as honest ones with all classes do, which
          ⟨a_0, mean v⟩ tells: A and B have no row in common. Rare data would hold the others back otherwise.

    D_0 is `data.server` · K the number of steps of the median participant · m_i how often client i took part · atoms,
    looks and the three numbers are defined in fl_sim/contribution/honesty.py

α_i is at most 1: honest clients, with rare data or not, come to weigh the same, and nobody weighs more for having been
drawn more often.

Sent: the weights, by each participant, in each round. Received: as many, and once more by everybody at the end: as with
fedtsv. The server trains 1 + 2 C + S times K steps a round (fedtsv: once): for 10 classes 24 times what one client
does, and some 21 x 21 inner products and non-negative least squares.

Guaranteed: nothing. The bounds of honesty.py were set by what was seen in FedTSV's world on Fashion-MNIST, over 200
rounds with 20 of 100 clients attacking, under SGD at 0.01 and 0.1 and Adam; docs/contribution.md has the numbers. The
gap is narrowest between noise as large as the update and honest clients with few looks. What catches whom:

    label-shuffle, constant   wrong labels           sign-flip              direction
    noise, inflate            stray                  free-rider             stray: nothing is explained

What defeats it, seen once each in that world under SGD at 0.01, by the attackers' share of all weight (0.2 is theirs
by number): turning the sign from round 100 on, after honest rounds, 0.19, for evidence is a mean over all rounds;
sending back what the server did last, 0.20; noise half as large as the update, 0.17, and 0.3 as large, 0.20. The first
cost 0.005 of accuracy, the others none. Not looked for: a backdoor, wrong labels for a rare input alone. Caught were a
fifth of the labels shuffled, and updates twice as long; so an honest client with that much label noise is likely to be
muted too, and one that holds a class which D_0 has not. In its first round a client is judged by one look.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fl_sim.contribution import honesty
from fl_sim.contribution.flat import Vector
from fl_sim.contribution.shapley import gram
from fl_sim.errors import FlSimError
from fl_sim.randomness import stream
from strategies.base import ALONE, Federation
from strategies.families.averaging import EvaluateEvery, Rounds
from strategies.families.weighing import Answers, Floats, Participants, Rows, Weighing

# A client of one class makes updates several times as long as one of all classes, whose gradients cancel: with SGD at
# 0.01 3 times, to 5. The bound keeps one of them from moving a round's model far, and bounds what harm one round does.
LONGEST = 2.0
FURTHEST = 2.0


class FedTSVFair(Weighing):
    """As fedtsv, where rare data and few rounds cost an honest client nothing: weights are trust, from 0 to 1."""

    @classmethod
    def check_world(cls, options: Any, scenario: Any, task: str | None) -> None:
        """The server's rows are told apart by their classes."""
        super().check_world(options, scenario, task)
        if task == "regression":
            raise ValueError(
                f"learn = {options.name!r} judges updates class by class, and {scenario.data.name} is regression"
            )

    def __init__(
        self,
        federation: Federation = ALONE,
        *,
        rounds: Rounds,
        participants: Participants,
        virtual: Annotated[int, Field(ge=1, le=100)] = 3,  # honest clients that the server plays in each round
        evaluate_every: EvaluateEvery = 1,
    ) -> None:
        super().__init__(federation, rounds=rounds, participants=participants, evaluate_every=evaluate_every)
        self.virtual = virtual
        self.evidence = honesty.Evidence(len(federation.architectures))
        self._longest = 0.0  # of this round, ‖Δ‖ at most
        self._own = np.zeros(0, np.float32)  # of this round, Δ_0
        self._progress = 0.0  # of this round, how far an honest client gets along Δ_0

    def weigh(self, answers: Answers) -> Floats:
        """Trust, this round's evidence included."""
        seen, rest = self.halves(answers.round)
        right, wrong = self.atoms(answers, seen)
        played = [self.reference(answers, rest, f"virtual {s}") for s in range(self.virtual)]
        _, steps = self._pace(answers, "virtual")
        taken = [float(steps)] * self.virtual + [self.draws(k) for k in answers.participants]
        products = gram(np.stack([*right, *wrong, *played, *answers.updates]))[1:, 1:]
        looks = honesty.looks(products, len(right) + len(wrong), len(right), np.array(taken, np.float64))
        virtual = honesty.Looks(*(values[: self.virtual] for values in looks))
        looks_of_clients = honesty.Looks(*(values[self.virtual :] for values in looks))
        length = np.sqrt(np.diag(products)[len(right) + len(wrong) :])
        self._longest = LONGEST * float(length[: self.virtual].mean())
        self._own = np.mean([right[0], *played], axis=0)
        self._progress = float(right[0] @ np.mean(played, axis=0))
        self.evidence.add(answers.participants, looks_of_clients, virtual)
        self.tell(**{name: values.tolist() for name, values in looks_of_clients._asdict().items()})
        return self.standing()[answers.participants]

    def shares(self, alpha: Floats) -> Floats:
        """Beside a server that weighs 1."""
        return alpha / (1 + alpha.sum())

    def step(self, answers: Answers, shares: Floats) -> Vector:
        """The updates (m, d), none longer than LONGEST times the virtual clients' mean length, as far as honest ones
        get; and the server's own."""
        length = np.linalg.norm(answers.updates, axis=1).astype(np.float64)
        shorter = np.minimum(1, self._longest / np.maximum(length, 1e-30))
        theirs = (shares * shorter).astype(np.float32) @ answers.updates
        got = float(theirs @ self._own)
        wanted = self._progress * float(shares.sum())
        further = min(FURTHEST, wanted / got) if 0 < got < wanted else 1.0
        return np.asarray(np.float32(further) * theirs + np.float32(1 - shares.sum()) * self._own)

    def standing(self) -> Floats:
        """α (K,); 0 of those who have never taken part."""
        return self.evidence.weights()

    def atoms(self, answers: Answers, rows: Rows) -> tuple[list[Vector], list[Vector]]:
        """The right atoms, a_0 first, and the wrong ones, each (d,); of classes that are among the rows."""
        labels = self.server.data.targets[rows]
        classes = np.unique(labels)
        right = [self.reference(answers, rows, "all classes")]
        right += [self.reference(answers, rows[labels == c], f"class {c}") for c in classes]
        wrong = [self.reference(answers, rows, f"called {c}", np.full_like(labels, c)) for c in classes]
        return right, wrong

    def halves(self, server_round: int) -> tuple[Rows, Rows]:
        """The server's rows in two halves, drawn anew in each round; of each class both have as many, or one half one
        more.

        Raises:
            FlSimError: fewer than two classes have two rows.
        """
        rows, rng = self.server_rows, stream(self.federation.seed, "fedtsv-fair", "halves", server_round)
        labels: NDArray[np.int64] = self.server.data.targets[rows]
        if (np.unique(labels, return_counts=True)[1] > 1).sum() < 2:
            raise FlSimError(
                f"learn = 'fedtsv-fair' halves the server's rows class by class, and of data.server = {len(rows)} rows "
                "fewer than two classes have two; ask for more"
            )
        order = rng.permutation(len(rows))
        order = order[np.argsort(labels[order], kind="stable")]  # class by class, at random within each
        return np.sort(rows[order[::2]]), np.sort(rows[order[1::2]])

    def draws(self, k: int) -> float:
        """`honesty.draws_of` client k in a round, by the rows it holds, whatever it claims."""
        from fl_sim.models.training import starts_of

        recipe, rows = self.federation.recipe(k, "draws"), self.federation.num_train[k]
        sizes = np.diff([*starts_of(rows, recipe.batch_size), rows]).tolist()
        return honesty.draws_of(sizes, recipe.epochs, recipe.batch_size)
