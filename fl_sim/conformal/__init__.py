"""Conformal prediction: scores, thresholds, sets and intervals, coverage. NumPy and SciPy only."""
