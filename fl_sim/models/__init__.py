"""Architectures by name, and how they are trained: one by one and stacked."""
