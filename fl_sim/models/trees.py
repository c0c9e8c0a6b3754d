"""Decision trees and boosted trees as torch modules: scikit-learn fits them on a client's rows, torch asks them.

A module holds full binary trees of one depth d, node i above nodes 2i + 1 and 2i + 2: for each of its 2^d - 1 inner
nodes a feature and a threshold, for each of its 2^d leaves what it adds. A row goes left where its value is at most the
threshold. Where scikit-learn's tree ends early, the nodes below repeat its leaf. scikit-learn compares a float32 value
with a float64 threshold; the threshold is kept as the largest float32 that is no larger, by which every float32 goes
the same way. Leaves are float64, as scikit-learn's, so what is said is what its own model says, to float32 rounding.

How many trees a module holds is known when it is fitted, or loaded; an untrained one has none and says 0 throughout,
which is the uniform distribution in classification and the training mean in regression. There are no weights to be
averaged, and no gradients: of a tier's keys `epochs` counts (boosting: the stages; a tree: 0 leaves it untrained), and
`learning_rate` for boosting (its shrinkage); `batch_size` has no effect.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fl_sim.errors import FlSimError
from fl_sim.randomness import stream

if TYPE_CHECKING:
    from fl_sim.models.recipe import Recipe

BOOSTED_DEPTH = 3  # of each tree of a boosting, scikit-learn's own default
# The least probability that is said: the step of float32 below 1. What a class without a row gets so is no more than
# rounding may take, and log loss stays finite.
LEAST = 2.0**-24


class Trees(nn.Module):
    """Sums of trees: for rows (n, *shape) their outputs (n, groups * width), float32.

    Buffers for T = stages * groups trees of depth d: features int32 (T, 2^d - 1), thresholds float32 (T, 2^d - 1),
    leaves float64 (T, 2^d, width), base float64 (groups * width,). A stage holds a tree for each group; a tree adds to
    the `width` outputs of its group.
    """

    features: torch.Tensor
    thresholds: torch.Tensor
    leaves: torch.Tensor
    base: torch.Tensor

    def __init__(self, depth: int, groups: int, width: int) -> None:
        super().__init__()
        self.depth, self.groups, self.width = depth, groups, width
        inner = 2**depth - 1
        self.register_buffer("features", torch.zeros(0, inner, dtype=torch.int32))
        self.register_buffer("thresholds", torch.zeros(0, inner))
        self.register_buffer("leaves", torch.zeros(0, inner + 1, width, dtype=torch.float64))
        self.register_buffer("base", torch.zeros(groups * width, dtype=torch.float64))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Logits or means, (n, groups * width)."""
        return self.summed(rows).float()

    def summed(self, rows: torch.Tensor) -> torch.Tensor:
        """The base and what the trees add to it, float64."""
        columns = rows.flatten(1).T
        at = torch.zeros(len(self.features), len(rows), dtype=torch.int64, device=rows.device)
        for _ in range(self.depth):
            values = columns.gather(0, self.features.gather(1, at).long())
            at = 2 * at + 1 + ~(values <= self.thresholds.gather(1, at))
        at = at - (2**self.depth - 1)
        leaves = self.leaves.gather(1, at[..., None].expand(-1, -1, self.width))  # (T, n, width)
        stages = leaves.unflatten(0, (len(leaves) // self.groups, self.groups))
        return self.base + stages.sum(0).transpose(0, 1).flatten(1)

    def hold(self, features: NDArray[Any], thresholds: NDArray[Any], leaves: NDArray[Any]) -> None:
        """Take trees as scikit-learn has them: features (T, 2^d - 1), thresholds float64 (T, 2^d - 1), leaves (T, 2^d,
        width)."""
        self.features = torch.from_numpy(features.astype(np.int32))
        self.thresholds = torch.from_numpy(rounded_down(thresholds))
        self.leaves = torch.from_numpy(leaves.astype(np.float64))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        for name in ("features", "thresholds", "leaves"):  # as many trees as come, of the shape that they must have
            mine, other = getattr(self, name), state_dict.get(prefix + name)
            if isinstance(other, torch.Tensor) and other.shape[1:] == mine.shape[1:]:
                setattr(self, name, mine.new_zeros(other.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)


class Tree(Trees):
    """One decision tree, scikit-learn's CART: log-probabilities, none below log LEAST, or the mean."""

    def __init__(self, depth: int, outputs: int) -> None:
        super().__init__(depth, groups=1, width=outputs)

    def fit_rows(self, inputs: NDArray[np.float32], targets: NDArray[Any], recipe: Recipe) -> None:
        """Grow the tree on inputs (n, *shape), n >= 1, and labels or numbers (n,).

        Raises:
            FlSimError: soft labels or quantiles.
        """
        from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

        refuse(targets, recipe)
        kind = DecisionTreeClassifier if targets.dtype == np.int64 else DecisionTreeRegressor
        model = kind(max_depth=self.depth, random_state=_seed(recipe)).fit(_flat(inputs), targets)
        features, thresholds, values = full(model.tree_, self.depth)
        if targets.dtype == np.int64:
            shares = np.zeros((len(values), self.width))
            shares[:, model.classes_] = values  # a class without a row has no share
            values = np.log(np.maximum(shares, LEAST))
        self.hold(features[None], thresholds[None], values[None])


class Boosting(Trees):
    """Gradient boosting of shallow trees, scikit-learn's: logits, or the mean.

    A stage for each epoch, shrunk by the learning rate. Of two classes the first has the logit 0 and the second
    scikit-learn's score. A class without a row has the probability LEAST, relative to those with rows: `seen`
    (outputs,) tells which these are.
    """

    seen: torch.Tensor

    def __init__(self, outputs: int) -> None:
        super().__init__(BOOSTED_DEPTH, groups=outputs, width=1)
        self.register_buffer("seen", torch.ones(outputs, dtype=torch.bool))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Logits or means, (n, outputs)."""
        logits = self.summed(rows)
        all_seen = logits.masked_fill(~self.seen, -math.inf).logsumexp(1, keepdim=True)
        return torch.where(self.seen, logits, all_seen + math.log(LEAST)).float()

    def fit_rows(self, inputs: NDArray[np.float32], targets: NDArray[Any], recipe: Recipe) -> None:
        """Boost on inputs (n, *shape), n >= 1, and labels or numbers (n,).

        Raises:
            FlSimError: soft labels or quantiles.
        """
        from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor

        refuse(targets, recipe)
        options: dict[str, Any] = {"n_estimators": recipe.epochs, "learning_rate": recipe.learning_rate}
        options |= {"max_depth": self.depth, "random_state": _seed(recipe)}
        x = _flat(inputs)
        if targets.dtype != np.int64:
            model = GradientBoostingRegressor(**options).fit(x, targets)
            self._take(model, np.arange(1), model.predict(x[:1]), x[:1])
            return
        classes = np.unique(targets)
        self.seen = torch.from_numpy(np.isin(np.arange(self.groups), classes))
        if len(classes) == 1:  # nothing to tell apart: scikit-learn refuses, and what is left is this class
            return
        model = GradientBoostingClassifier(**options).fit(x, targets)
        scored = classes if len(classes) > 2 else classes[1:]
        self._take(model, scored, model.decision_function(x[:1]).ravel(), x[:1])

    def _take(self, model: Any, scored: NDArray[np.int64], outputs: NDArray[np.float64], row: NDArray[Any]) -> None:
        """Hold the model's trees, those of column j for output `scored[j]`. The base is what `said` of one row (1,
        features) is more than its trees add."""
        stages, rate = model.estimators_, model.learning_rate  # (stages, columns)
        inner = 2**self.depth - 1
        features = np.zeros((len(stages), self.groups, inner), np.int32)
        thresholds = np.zeros((len(stages), self.groups, inner))
        leaves = np.zeros((len(stages), self.groups, inner + 1, 1))
        for (stage, column), tree in np.ndenumerate(stages):
            here = stage, scored[column]
            features[here], thresholds[here], values = full(tree.tree_, self.depth)
            leaves[here] = rate * values
        added = rate * sum(np.array([tree.predict(row)[0] for tree in stage]) for stage in stages)
        base = np.zeros(self.groups)
        base[scored] = outputs - added
        self.base = torch.from_numpy(base)
        self.hold(*(part.reshape(-1, *part.shape[2:]) for part in (features, thresholds, leaves)))


def full(tree: Any, depth: int) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """A tree of scikit-learn's (`tree_`), no deeper than `depth`, as a full one: features and thresholds (2^depth - 1,)
    and values of the leaves (2^depth, width). Below a leaf that comes early every node says what it says."""
    at, features, thresholds = np.zeros(1, np.int64), [], []
    for _ in range(depth):
        splits = tree.children_left[at] >= 0
        features.append(np.where(splits, tree.feature[at], 0))
        thresholds.append(np.where(splits, tree.threshold[at], np.inf))
        children = [np.where(splits, child[at], at) for child in (tree.children_left, tree.children_right)]
        at = np.stack(children, axis=1).ravel()
    return np.concatenate(features), np.concatenate(thresholds), tree.value[at][:, 0, :]


def rounded_down(thresholds: NDArray[np.float64]) -> NDArray[np.float32]:
    """The largest float32 that are no larger: for a float32 x, x <= t holds for both or for neither."""
    near = thresholds.astype(np.float32)
    return np.where(near > thresholds, np.nextafter(near, np.float32(-np.inf)), near)


def refuse(targets: NDArray[Any], recipe: Recipe) -> None:
    """Refuse what scikit-learn's trees do not learn from.

    Raises:
        FlSimError: probabilities (n, C) in place of labels, or quantiles.
    """
    what = "soft labels" if targets.ndim == 2 else "quantiles" if recipe.quantiles is not None else None
    if what is not None:
        raise FlSimError(
            f"architecture {recipe.architecture!r} does not learn {what}; leave them out, or take a network"
        )


def _flat(inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    return inputs.reshape(len(inputs), -1)


def _seed(recipe: Recipe) -> int:
    return int(stream(recipe.seed, "trees", recipe.purpose).integers(2**32))
