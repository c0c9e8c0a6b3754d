"""The folder of a run and of a sweep: written once, read back, and shown as tables."""
