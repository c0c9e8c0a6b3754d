"""Datasets by name, characters rendered from fonts, and partitions among clients.

Importing it loads NumPy and nothing heavier; torch, torchvision, scikit-learn and matplotlib come when a
dataset needs them.
"""

from fl_sim.data.datasets import DATASETS, describe, get, load
from fl_sim.data.partition import PARTITIONS, deal, proportions, quantile_bins
from fl_sim.data.source import Dataset, Source

__all__ = [
    "DATASETS",
    "PARTITIONS",
    "Dataset",
    "Source",
    "deal",
    "describe",
    "get",
    "load",
    "proportions",
    "quantile_bins",
]
