"""Whether an update could have come of honest training: three numbers, from inner products with the server's own.

The server trains, from the same global weights as the participants, atoms and honest clients of its own (*virtual*):

    right atoms    a_0 on its rows of all classes, a_1 … a_C on those of one class each, with their labels
    wrong atoms    b_1 … b_C on its rows of all classes, all of them called one class

With P(u) the projection of an update u on the cone of the right atoms, {Σ w_j a_j, w ≥ 0}, and Q(u) that on the cone of
all atoms, a look at u tells (`looks`)

    aligned        cos(u, a_0) + ‖P(u)‖ / ‖u‖ - ‖P(-u)‖ / ‖u‖   whether it points where honest updates do: -u has the
                                                                opposite number
    wrong          (‖Q(u)‖² - ‖P(u)‖²) / ‖u‖²                   the share that wrong labels explain and right do not
    unexplained    (‖u‖² - ‖P(u)‖²) / draws                     what right labels do not explain
    explained      ‖P(u)‖² / ‖u‖²                               the share that they do

where `draws` is what the chance of who is in which batch adds to the square of an update's length, in units of one full
batch: a step adds as much as its batch is smaller than a full one (`draws_of`).

A client's rare labels cost it nothing here: a client with one class lies in the cone as one with all classes does, and
closer to it. What a single look says depends on the round (late updates are mostly noise), so all but `wrong`, which is
a share already, is held against the mean of the virtual clients in the same round (`Evidence`), and it is means and
ratios of means over all rounds of a client that decide:

    direction   Σ aligned / Σ aligned of the virtual          honest about 1, turned round about -1
    wrong       mean of wrong                                 honest mostly below 0.05, shuffled or constant labels
                                                              above 0.1
    stray       mean(unexplained / that of the virtual) / mean(explained / that of the virtual)
                                                              honest mostly below 2, with as much noise as update
                                                              about 3 to 9, ten times as long 100, none at all: infinite

A ratio of sums counts a round for as much as it tells: early ones, where honest updates agree, for more. The numbers
are what was seen in one world (see strategies/fedtsv_fair.py); the bounds lie between them (`trust`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Where a client's number makes it wholly trusted, and where not at all; between the two, in proportion. They are pure
# numbers, between what honest clients and attackers showed under three optimizers, and no settings.
DIRECTION = (-0.1, -0.3)
WRONG = (0.05, 0.09)
STRAY = (2.1, 2.7)

JITTER = 1e-7  # of an atom's squared length: float32 atoms that are nearly the same leave the Gram matrix near singular

Floats = NDArray[np.float64]


class Looks(NamedTuple):
    """What can be seen of m updates, each (m,)."""

    aligned: Floats
    wrong: Floats
    unexplained: Floats
    explained: Floats


def looks(gram: Floats, atoms: int, right: int, draws: Floats) -> Looks:
    """What the inner products tell of each update; of one of length 0 all is 0.

    Args:
        gram: (a + m, a + m) of the a atoms and the m updates after them; a_0 comes first.
        atoms: a.
        right: how many of the atoms, the first ones, are right; at least 1.
        draws: (m,) of each update, above 0.

    Raises:
        ValueError: other numbers of atoms.
    """
    if not 1 <= right <= atoms <= len(gram):
        raise ValueError(f"{right} right atoms of {atoms}, {len(gram)} vectors: must be at least 1, and no more")
    between, products, lengths = gram[:atoms, :atoms], gram[atoms:, :atoms], np.diag(gram)[atoms:]
    numbers = np.zeros((4, len(lengths)))
    for i in np.flatnonzero(lengths > 0):
        square, toward = float(lengths[i]), products[i]
        # A share is at most 1, but for rounding.
        honest = min(1.0, projected(between[:right, :right], toward[:right]) / square)
        turned = min(1.0, projected(between[:right, :right], -toward[:right]) / square)
        anyhow = min(1.0, projected(between, toward) / square)
        scale = np.sqrt(between[0, 0] * square)
        cosine = toward[0] / scale if scale > 0 else 0.0
        numbers[:, i] = (
            cosine + np.sqrt(honest) - np.sqrt(turned), max(0.0, anyhow - honest), (1 - honest) * square / draws[i],
            honest,
        )  # fmt: skip
    return Looks(*numbers)


def projected(gram: Floats, products: Floats) -> float:
    """The squared length of the projection of u on the cone of atoms: max over w ≥ 0 of 2 wᵀp - wᵀGw.

    Args:
        gram: G (a, a), the inner products of the atoms; atoms of length 0 add nothing.
        products: p (a,), those of the atoms with u.
    """
    from scipy.optimize import nnls

    length = np.sqrt(np.diag(gram))
    some = length > 0
    if not some.any():
        return 0.0
    unit = gram[np.ix_(some, some)] / np.outer(length[some], length[some])
    target = products[some] / length[some]
    # ‖rootᵀ w - root⁻¹ p‖² is wᵀGw - 2 wᵀp, but for what does not depend on w.
    root = np.linalg.cholesky(unit + JITTER * np.eye(len(unit)))
    weights = nnls(root.T, np.linalg.solve(root, target), maxiter=100 * len(unit))[0]
    return max(0.0, float(weights @ target))  # at the optimum wᵀp = wᵀGw


def draws_of(batches: list[int], epochs: int, batch_size: int) -> float:
    """What chance adds in epochs of batches of these sizes, in full batches: the mean of b rows varies as 1 / b.

    >>> draws_of([64, 64, 32], 2, 64)
    8.0
    """
    return epochs * sum(batch_size / size for size in batches)


class Evidence:
    """What K clients have shown so far: sums, and how many looks they are of."""

    def __init__(self, clients: int) -> None:
        self.times = np.zeros(clients, np.int64)  # looked at
        self._aligned, self._aligned_virtual, self._wrong, self._unexplained, self._explained = np.zeros((5, clients))

    def add(self, clients: list[int], shown: Looks, virtual: Looks) -> None:
        """A round's looks (m,) at these clients, beside those at the virtual ones of the same round.

        An update of length 0 counts as one of a virtual client's length that nothing explains: who sends none half the
        time has a `stray` of about 2.
        """
        none = shown.unexplained + shown.explained == 0
        usual = [max(float(np.mean(values)), np.finfo(float).tiny) for values in virtual[2:]]
        self.times[clients] += 1
        self._aligned[clients] += shown.aligned
        self._aligned_virtual[clients] += np.mean(virtual.aligned)
        self._wrong[clients] += shown.wrong
        self._unexplained[clients] += np.where(none, 1.0, shown.unexplained / usual[0])
        self._explained[clients] += shown.explained / usual[1]

    @property
    def direction(self) -> Floats:
        """(K,) 1 as of virtual clients, -1 of such turned round; 0 of clients not seen."""
        return _ratio(self._aligned, self._aligned_virtual, 0.0)

    @property
    def wrong(self) -> Floats:
        """(K,) the share of the updates that wrong labels explain; 0 of clients not seen."""
        return _ratio(self._wrong, self.times, 0.0)

    @property
    def stray(self) -> Floats:
        """(K,) 1 as of virtual clients; infinite where nothing is explained, and of clients not seen."""
        return _ratio(self._unexplained, self._explained, np.inf)

    def trust(self) -> Floats:
        """(K,) 0 to 1: what the three numbers allow, multiplied."""
        return _between(self.direction, DIRECTION) * _between(self.wrong, WRONG) * _between(self.stray, STRAY)

    def weights(self) -> Floats:
        """(K,) trust, less for who has been seen seldom: times m / (m + 1) after m looks. It never exceeds 1, however
        often a client takes part."""
        return self.trust() * self.times / (self.times + 1)


def _ratio(above: Floats, below: NDArray[np.float64] | NDArray[np.int64], nothing: float) -> Floats:
    return np.divide(above, below, out=np.full(len(above), nothing), where=below > 0)


def _between(values: Floats, ends: tuple[float, float]) -> Floats:
    """1 at the first end and before it, 0 at the second and beyond."""
    good, bad = ends
    return np.clip((values - bad) / (good - bad), 0, 1)
