"""What decides a model besides its rows, as the key in the store has it."""

from __future__ import annotations

from typing import Any

import torch

from fl_sim.models import architectures
from fl_sim.models.recipe import Recipe
from fl_sim.names import own_digest

VERSION = 2  # raise it when a change in training.py changes what training or prediction gives


def key_parts(recipe: Recipe) -> dict[str, Any]:
    """A recipe as JSON values, with the versions of torch and of the training, and digests of what the architecture is
    read from: the user's own module, or a file of trained weights.

    Raises:
        DataNotAtHandError: that file is not on this machine, with the command that gets it.
    """
    own, weights = own_digest(recipe.architecture), architectures.weights_digest(recipe.architecture)
    parts = {**recipe.__dict__, "torch": torch.__version__, "learning": VERSION, "own": own, "weights": weights}
    return parts | architectures.fitted_by(recipe.architecture)
