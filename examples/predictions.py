"""Predictions of models that are there already: 12 hospitals, half with a forest, half with a weak tree.

.venv/bin/python examples/predictions.py hospitals.npz      # then: fl-sim calibrate hospitals.npz grouped local
"""

import sys

import numpy as np
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier

from fl_sim.data import predictions

digits, rng = load_digits(), np.random.default_rng(0)
models = {
    "forest": RandomForestClassifier(30, random_state=0).fit(digits.data[:400], digits.target[:400]),
    "tree": DecisionTreeClassifier(max_depth=5, random_state=0).fit(digits.data[:400], digits.target[:400]),
}
hospital = rng.integers(12, size=len(digits.data) - 400)
tier = np.where(hospital % 2 == 0, "forest", "tree")
said = {name: model.predict_proba(digits.data[400:]) for name, model in models.items()}
path = predictions.save(
    sys.argv[1],
    client=[f"hospital {k + 1}" for k in hospital],
    split=rng.choice(["calibration", "test"], len(hospital)),
    label=digits.target[400:],
    probabilities=np.where(tier[:, None] == "forest", said["forest"], said["tree"]),
    tier=tier,
)
print(f"{path}: {len(hospital)} rows of 12 hospitals")
