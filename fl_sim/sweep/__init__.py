"""A sweep: its points, validated whole before the first is run, and their runs."""
