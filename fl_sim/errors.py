"""Errors whose message is the whole story: the command line prints it and nothing else."""

from __future__ import annotations


class FlSimError(Exception):
    """Something the user can mend; the message names the thing, its value, the rule and what to do next."""


class ScenarioError(FlSimError):
    """A scenario that cannot be run: unknown key, wrong type, impossible value."""


class DataNotAtHandError(FlSimError):
    """A dataset that is not on this machine; the message holds the commands that get it."""


class ClientFailedError(FlSimError):
    """A client raised, died, answered nonsense or did not answer, and the run was to stop when one does."""
