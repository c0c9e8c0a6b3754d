"""Ways to select the images of a payload, those that are tried out, and how each fared."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from fl_sim.plada.selection import Safety


@dataclass(frozen=True)
class Rule:
    """A way to select."""

    name: str  # one of selection.RULES
    safety: Safety | None = None

    @property
    def needs_embeddings(self) -> bool:
        """Whether it looks at more than the logits."""
        return self.name == "diverse"

    def __str__(self) -> str:
        if self.safety is None:
            return self.name
        return f"{self.name}, {self.safety.share:g} by class ** {self.safety.exponent:g}"


EVEN = Safety(1.0, 0.0)  # every class as many
RULES = (
    Rule("lowest"),
    Rule("lowest", Safety(0.5, 0.5)),
    Rule("lowest", Safety(0.5, -0.2)),
    Rule("highest"),
    Rule("highest", EVEN),
    Rule("random"),
    Rule("random", EVEN),
    Rule("mixed", EVEN),
    Rule("diverse", Safety(1.0, 0.5)),
    Rule("diverse", EVEN),
)


@dataclass
class Trial:
    """How a rule fared: the accuracy of its students on the rows held out, a number a round."""

    rule: Rule
    accuracies: list[float] = field(default_factory=list)

    @property
    def mean(self) -> float:
        """Over its rounds."""
        return float(np.mean(self.accuracies))
