"""Some of the server's labelled images themselves: what a payload of labels is measured against.

"A Dataset is Worth 1 MB", Kimchi Shoshani, Gabay, Hoshen, 2026, https://arxiv.org/abs/2602.23358, table 2: a balanced
random subset of the target images, or k-centre within each class, as JPEG of quality 30, then Zstd-19.

Distances of k-centre are those of the images, each less its mean and over its contrast; the paper does not say which
features it takes. The payload is the smallest of several forms (fl_sim/plada/images.py), the paper's among them.

**Sent** to every client: the payload, once. Unlike a payload of labels it lets the server's data out.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fl_sim.data.contrast import contrasted
from fl_sim.data.source import versions
from fl_sim.errors import FlSimError
from fl_sim.messages.learning import ImagesRequest
from fl_sim.plada.coresets import k_centre_subset, random_subset, within
from fl_sim.plada.images import form_of, pack_images
from fl_sim.randomness import stream
from fl_sim.store.artifacts import Artifact, digest
from strategies.base import ALONE, Federation
from strategies.families.training import Broadcast

VERSION = 1  # raise it when a change here changes a payload


class Coreset(Broadcast):
    """Some of the server's own images, as JPEG: what PLADA is measured against (the data leave the server)."""

    @classmethod
    def one_model_a_tier(cls, options: Any) -> bool:
        """Unless clients have models of their own."""
        return not options.per_client

    @classmethod
    def check(cls, options: Any) -> None:
        """One size."""
        if (options.images_per_class is None) == (options.budget_bytes is None):
            raise ValueError("say either images_per_class or budget_bytes, one of them")

    def __init__(
        self,
        federation: Federation = ALONE,
        *,
        how: Literal["random", "k-centre"] = "random",  # drawn from each class, or spread over it
        images_per_class: Annotated[int, Field(ge=1)] | None = None,  # say this, or budget_bytes
        budget_bytes: Annotated[int, Field(ge=1)] | None = None,  # as many images as fit
        quality: Annotated[int, Field(ge=1, le=95)] = 30,  # of the JPEG; the paper's
        per_client: bool = False,  # true: every client trains a student of its own; false: one for each tier
    ) -> None:
        super().__init__(federation, per_client=per_client)
        self.how, self.images_per_class, self.budget_bytes, self.quality = how, images_per_class, budget_bytes, quality

    def request(self) -> ImagesRequest:
        """The payload, as it is sent to everybody."""
        return ImagesRequest(self.federation.population, self.array, self.per_client, self.models)

    @cached_property
    def file(self) -> bytes:
        """The payload, made now unless the store has it."""
        return self._made.arrays["file"].tobytes()

    @cached_property
    def _made(self) -> Artifact:
        server = self.server
        key_parts = {
            "how": self.how,
            "each": self.images_per_class,
            "budget": self.budget_bytes,
            "quality": self.quality,
        }
        made_by = [VERSION, *versions("Pillow", "zstandard")]
        return server.store.get(
            "payload", digest(version=made_by, data=server.data.key, seed=server.seed, **key_parts), self._make
        )

    def _make(self) -> Artifact:
        server = self.server
        rows, classes = server.data.rows("server"), server.data.num_classes or 1
        images, labels = np.array(server.data.inputs[rows]), np.array(server.data.targets[rows])
        server.watch.phase("choosing images", None)

        def pack(count: int) -> bytes:
            chosen = self._chosen(images, labels, count)
            return pack_images(images[chosen], labels[chosen], classes, self.quality)

        if self.budget_bytes is not None:
            count = within(self.budget_bytes, pack, least=min(classes, len(rows)), most=len(rows))
        else:
            per_class = np.bincount(labels, minlength=classes)
            count = self._wanted(per_class)
        return Artifact({"file": np.frombuffer(pack(count), np.uint8)}, {"images": count})

    def _wanted(self, per_class: NDArray[np.int64]) -> int:
        """How many images are as many of each class as was said, or all of a class that has fewer: `held` (C,)."""
        each = self.images_per_class or 0
        if per_class.max() < each:
            raise FlSimError(
                f"learn.images_per_class = {each}: no class has more than {per_class.max()} of the "
                f"{per_class.sum()} images of data.server; ask for fewer"
            )
        return int(np.minimum(per_class, each).sum())  # classes take turns, so none gets more than was said

    def _chosen(self, images: NDArray[np.uint8], labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        if self.how == "random":
            return random_subset(labels, count, stream(self.federation.seed, "coreset"))
        return k_centre_subset(labels, contrasted(images).reshape(len(images), -1), count)

    def metrics(self) -> dict[str, Any]:
        """What was handed out, and what it cost."""
        count = self._made.meta["images"]
        words = f"{count} images ({self.how}) as {form_of(self.file)}"
        return {"payload_bytes": len(self.file), "num_images": count, "rule": words}
