"""A linear layer in eight bits over features that every holder of the reference set computes alone.

"A Dataset is Worth 1 MB", Kimchi Shoshani, Gabay, Hoshen, 2026, https://arxiv.org/abs/2602.23358, figure 5: its most
efficient rival, there over a pre-trained network that both ends have. Here the shared backbone is learnt from the
unlabelled reference images alone (Coates, Ng, Lee, 2011; fl_sim/plada/backbone.py), so that nothing but the probe has
to travel, and nobody needs a pre-trained network.

**Sent** to every client: the layer, once. Every client then has the one model; what tiers differ in is gone.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from fl_sim.messages.learning import ProbeRequest
from fl_sim.plada.probe import fit_probe, pack_probe
from fl_sim.telemetry import spent
from strategies.base import ALONE, Federation
from strategies.families.training import Broadcast


class ProbeStrategy(Broadcast):
    """A linear layer in eight bits over features that every holder of the reference set can compute alone."""

    needs_reference = True

    def __init__(
        self,
        federation: Federation = ALONE,
        *,
        # of the shared backbone; it has four features for each
        centroids: Annotated[int, Field(ge=2, le=4096)] = 100,
    ) -> None:
        super().__init__(federation, per_client=None)
        self.centroids = centroids

    def request(self) -> ProbeRequest:
        """The payload, and how large the backbone is."""
        return ProbeRequest(self.federation.population, self.array, self.centroids)

    @cached_property
    def file(self) -> bytes:
        """The payload: a probe fitted to the features of the server's rows."""
        from fl_sim.population.model_cache import open_backbone, shared_backbone

        server = self.server
        server.watch.phase("fitting a probe", None)
        backbone = open_backbone(server.store, shared_backbone(server.store, server.references, self.centroids))
        rows = server.data.rows("server")
        with spent("train"):
            features = backbone.features(np.array(server.data.inputs[rows]))
            probe = fit_probe(
                features, np.array(server.data.targets[rows]), server.data.num_classes or 1, seed=server.seed
            )
        return pack_probe(probe)

    def metrics(self) -> dict[str, Any]:
        """What was handed out, and what it cost."""
        words = f"an INT8 probe on {4 * self.centroids} features of the reference set's own"
        return {"payload_bytes": len(self.file), "rule": words}
