"""Who is of which tier and who misbehaves: shares of a scenario turned into whole clients, drawn from its seed.

It is known before any data are: a partition by tier rests on it, and a scenario is refused where a tier is too small
for what its clients are to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fl_sim.randomness import stream

if TYPE_CHECKING:
    from fl_sim.scenario.tables import Clients

Indices = NDArray[np.int64]


def assign_tiers(clients: Clients, seed: int, sizes: Indices | None = None) -> Indices:
    """(K,) tier of each client: as many of each as the shares say, drawn independently of the data; or where `tier_by`
    couples them, by `sizes` (K,), the clients' calibration points. Without these only how many are of each is known."""
    stated = [0.0 if t.share is None else t.share for t in clients.tier]
    shares = np.array([1 - sum(stated) if t.share is None else t.share for t in clients.tier]).clip(min=0)
    rng = stream(seed, "tiers")
    counts = largest_remainder(shares / shares.sum() * clients.count, clients.count, rng)
    tiers = np.repeat(np.arange(len(counts)), counts)
    order = rng.permutation(clients.count)
    if clients.tier_by == "size" and sizes is not None:
        order = order[np.argsort(sizes[order], kind="stable")]  # equal sizes stay in random order
    assigned = np.empty(clients.count, np.int64)
    assigned[order] = tiers
    return assigned


def assign_behaviours(clients: Clients, tiers: Indices, seed: int) -> Indices:
    """(K,) behaviour of each client, -1 for those that behave: as many of each as the shares say, drawn independently
    of data, and of tiers but where a behaviour names its own. With another share or another kind it begins with the
    same clients. Behaviours of one tier are given out first, so that the others leave them enough.

    Raises:
        ValueError: more clients of a tier are to misbehave than there are.
    """
    rng = stream(seed, "behaviour")
    order = rng.permutation(clients.count)
    taken = [(i, b.share) for i, b in enumerate(clients.behaviour) if b.share > 0]
    shares = np.array([share for _, share in taken] + [1 - sum(share for _, share in taken)]).clip(min=0)
    counts = largest_remainder(shares / shares.sum() * clients.count, clients.count, rng)
    names = [tier.name for tier in clients.tier]
    assigned = np.full(clients.count, -1, np.int64)
    counted = [(clients.behaviour[i], i, int(n)) for (i, _), n in zip(taken, counts[:-1], strict=True)]
    for behaviour, i, n in sorted(counted, key=lambda each: each[0].tier is None):
        mine = tiers[order] == names.index(behaviour.tier) if behaviour.tier is not None else np.full(len(order), True)
        free = order[mine & (assigned[order] < 0)]
        if len(free) < n:
            raise ValueError(
                f"clients.behaviour.{behaviour.kind}.share = {behaviour.share:g} of {clients.count} clients is {n} of "
                f"tier {behaviour.tier!r}, and of its {int(mine.sum())} there are {len(free)} to take; lower the share"
            )
        assigned[free[:n]] = i
    return assigned


def largest_remainder(quotas: NDArray[np.float64], total: int, rng: np.random.Generator) -> Indices:
    """Round quotas that add up to `total` to integers that do; equal remainders are ordered at random."""
    down = np.floor(quotas + 1e-9).astype(np.int64)
    order = np.lexsort((rng.random(len(quotas)), -(quotas - down)))
    down[order[: total - down.sum()]] += 1
    return down
