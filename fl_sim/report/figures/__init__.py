"""The figures of a run and of a sweep, one kind a file."""
