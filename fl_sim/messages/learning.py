"""Messages of the learn strategies: how a client comes by its model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fl_sim.messages.record import Record, checked_bytes, checked_count


@dataclass(frozen=True)
class FitReport(Record):
    """A client has its model."""

    partition: int
    num_examples: int  # rows it was trained on

    def __post_init__(self) -> None:
        checked_count("num_examples", self.num_examples)


@dataclass(frozen=True)
class FitRequest(Record):
    """Make (or find in the store) the model you are to have."""

    message_type: ClassVar[str] = "train.fit"
    reply: ClassVar[type[Record] | None] = FitReport
    population: str  # key in the artifact store
    per_client: bool  # own initial weights and batch order
    own_rows: bool  # train on your own rows, not on the shared training set
    models: int = 1  # how many you may have to train for that, all of a cohort; your time is as many times a client's


@dataclass(frozen=True)
class AdoptRequest(Record):
    """Take these weights as your model; the arrays themselves travel beside this record, as `arrays`."""

    message_type: ClassVar[str] = "train.adopt"
    reply: ClassVar[type[Record] | None] = FitReport
    population: str


@dataclass(frozen=True)
class PayloadMessage(Record):
    """Base of what a server hands out: bytes, the same to every client."""

    population: str
    payload: NDArray[np.uint8]  # (bytes,)

    def __post_init__(self) -> None:
        checked_bytes("payload", self.payload)

    @property
    def information_bytes(self) -> int:  # type: ignore[override]
        """The payload's."""
        return self.payload.nbytes


@dataclass(frozen=True)
class PayloadRequest(PayloadMessage):
    """Learn the task from these labels over your reference images: docs/payload-format.md (plada)."""

    message_type: ClassVar[str] = "train.payload"
    reply: ClassVar[type[Record] | None] = FitReport
    per_client: bool  # a student of your own
    models: int = 1  # see FitRequest


@dataclass(frozen=True)
class ImagesRequest(PayloadMessage):
    """Learn the task from these labelled images: fl_sim/plada/images.py (coreset)."""

    message_type: ClassVar[str] = "train.images"
    reply: ClassVar[type[Record] | None] = FitReport
    per_client: bool
    models: int = 1


@dataclass(frozen=True)
class WeightsRequest(PayloadMessage):
    """Take this network as your model: fl_sim/plada/weights.py (weights)."""

    message_type: ClassVar[str] = "train.weights"
    reply: ClassVar[type[Record] | None] = FitReport
    recipe: str  # JSON: of which architecture it is


@dataclass(frozen=True)
class ProbeRequest(PayloadMessage):
    """Put this linear layer on the backbone that your reference set gives: fl_sim/plada/probe.py (probe)."""

    message_type: ClassVar[str] = "train.probe"
    reply: ClassVar[type[Record] | None] = FitReport
    centroids: int  # of the backbone
