"""What decides a model besides its rows, as the key in the store has it."""

from __future__ import annotations

from typing import Any

from fl_sim.data.source import versions
from fl_sim.models import architectures
from fl_sim.models.recipe import Recipe
from fl_sim.names import own_digest

STACKED = 1  # raise it when a change in stacked_training.py changes what a cohort's training or prediction gives
VERSION = 2  # raise it when a change in training.py changes what training or prediction gives


def key_parts(recipe: Recipe) -> dict[str, Any]:
    """A recipe as JSON values, with the versions of torch and of the training, and digests of what the architecture is
    read from: the user's own module, or a file of trained weights.

    Raises:
        DataNotAtHandError: that file is not on this machine, with the command that gets it.
    """
    own, weights = own_digest(recipe.architecture), architectures.weights_digest(recipe.architecture)
    parts = {**recipe.__dict__, "torch": versions("torch"), "learning": VERSION, "own": own, "weights": weights}
    return parts | architectures.fitted_by(recipe.architecture)
