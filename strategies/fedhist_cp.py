"""FedHist-CP: the pooled threshold from one small histogram of each client, rounded up to a grid. Ours.

It adds to H-DCP (strategies/h_dcp.py) a grid that is fine where thresholds lie, and a code of some tens of bytes for
what H-DCP sends in 8 bytes a level.

    p = Σ_k p_k, counts over the bins (e_{b-1}, e_b] of a grid           conformal/histogram.py
    q = e_b of the first bin with p_1 + .. + p_b >= r, +inf if none      `from_counts`
    r = ceil((N + 1)(1 - α))                                             conformal/thresholds.py, conformal_rank

    α is `alpha` · N is the sum of all counts · e_b is `grid.edges` · q is `global_threshold`

Why q is never too small: let S_(r) be the r-th smallest of all N scores. If q = e_b, the r scores or more that are
counted in the first b bins are all at most e_b, so S_(r) <= q; if q = +inf that is so anyway. And fewer than r scores
lie in the bins before, so e_{b-1} < S_(r): q is the end of the very bin S_(r) lies in, too large by less than that
bin. This uses nothing of the grid but that it is the same for all, so it may be chosen from these very scores.

Sent: the counts' code, with 512 bins and n_k = 20, 100, 1000 about 10-20, 25-55 and 145-190 bytes by the scores' law;
where the score has no known range, (smallest, largest score) in a round before, 16 bytes. Received: q, 8 bytes, and
where it had to be agreed the grid's ends, 16 bytes.

Guaranteed: as q >= S_(r), what `pooled` guarantees: coverage at least 1 - α for a test point drawn as the pooled
points are. With the n_k given and one test point from a client drawn with π_k ∝ n_k + 1 it is at least
(1 - α)(N + 1)/(N + K), where FCP and H-DCP take higher ranks for 1 - α. No single client is promised anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fl_sim.conformal.histogram import ScoreGrid, threshold_at
from fl_sim.conformal.thresholds import conformal_rank
from strategies.families.histograms import Counts, HistogramCalibration


class FedHistCP(HistogramCalibration):
    """The pooled threshold, rounded up to a grid."""

    def from_counts(self, partitions: list[int], counts: Counts, grid: ScoreGrid) -> Mapping[int, float]:
        """The end of the bin in which the ceil((N + 1)(1 - α))-th smallest score lies."""
        total = counts.sum(axis=(0, 1))
        self.global_threshold = threshold_at(total, grid.edges, conformal_rank(int(total.sum()), self.alpha))
        return dict.fromkeys(partitions, self.global_threshold)

    def detail(self) -> dict[str, Any]:
        """The grid."""
        return {"low": self.grid.low, "high": self.grid.high, "bins": self.grid.bins}
