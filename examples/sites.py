"""A table with clients of its own: 442 diabetes patients of scikit-learn at 12 clinics, each with an effect of its own.

.venv/bin/python examples/sites.py sites.csv      # then: fl-sim run examples/sites.toml
"""

import sys

import numpy as np
from sklearn.datasets import load_diabetes

rows, rng = load_diabetes(as_frame=True, scaled=False).frame, np.random.default_rng(0)
clinic = rng.choice(12, size=len(rows), p=rng.dirichlet(np.full(12, 2.0)))
effect = rng.normal(0, 25, size=12)  # of the clinic, on what it measures: about a third of the target's own spread
rows = rows.assign(clinic=[f"clinic {k + 1}" for k in clinic], target=rows["target"] + effect[clinic])
rows.to_csv(sys.argv[1], index=False)
print(f"{sys.argv[1]}: {len(rows)} patients of {rows['clinic'].nunique()} clinics")
