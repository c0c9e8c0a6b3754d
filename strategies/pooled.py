"""The oracle: split conformal prediction on all clients' scores together, as a server that saw everything would do it.

"Algorithmic Learning in a Random World", Vovk, Gammerman, Shafer, 2005.

    q = the ceil((N + 1)(1 - α))-th smallest of all N = Σ n_k scores

Sent: every score, 8 n_k bytes, once. Received: q, 8 bytes.

Guaranteed: coverage at least 1 - α for a test point exchangeable with the N calibration points, that is one that comes
from a client as each of them does. Where the sizes n_k are fixed and clients differ, no test point is: on average over
clients weighted by n_k the promise may then be missed by O(α / N). For instance where the n_B scores of one client lie
above the n_A of the other, and the threshold among these, by (1 - α) n_B / (N (n_A + 1)). Not for any single client.
"""

from __future__ import annotations

from fl_sim.conformal.thresholds import pooled_threshold
from fl_sim.messages.calibration import ScoresReport, ScoresRequest
from fl_sim.messages.exchange import Columns
from fl_sim.messages.record import Record
from strategies.base import Calibration


class Pooled(Calibration):
    """The threshold of all scores together (what a server that sees everything would do)."""

    def question(self) -> Record:
        """Every score."""
        return ScoresRequest(self.score)

    def threshold(self, reports: Columns[ScoresReport]) -> float:
        """Split conformal on the pool."""
        return pooled_threshold(reports.scores, self.alpha)
