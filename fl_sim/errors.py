"""What is said to the user: errors whose message is the whole story, which the command line prints and nothing else,
and warnings of the log `fl_sim`, wherever they are given: a worker's travel to the driver."""

from __future__ import annotations

import contextlib
import itertools
import logging
import traceback
from collections.abc import Iterator

log = logging.getLogger("fl_sim")


class FlSimError(Exception):
    """Something the user can mend; the message names the thing, its value, the rule and what to do next."""


class ScenarioError(FlSimError):
    """A scenario that cannot be run: unknown key, wrong type, impossible value."""


class OwnCodeError(FlSimError):
    """A user's own function raised; the message is its traceback, from the user's code on, and what it was to do."""


@contextlib.contextmanager
def own_code(what: str, *, file: str | None = None) -> Iterator[None]:
    """Within, a user's own code runs: what it raises is told as the user's, unless it is an error of ours.

    With `file`, code of ours calls the user's in that file and the other way round: errors of ours stay what they are,
    and the traceback begins there.

    Raises:
        OwnCodeError: it raised.
    """
    try:
        yield
    except FlSimError as error:
        if file is not None:
            raise
        raise type(error)(f"{what}: {error}") from None
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)[1:]  # without this one
        theirs = list(itertools.dropwhile(lambda frame: file is not None and frame.filename != file, frames))
        frames = traceback.StackSummary.from_list(theirs or frames)
        trace = "".join(["Traceback (most recent call last):\n", *traceback.format_list(frames)])
        raised = f"{type(error).__name__}: {error}"
        raise OwnCodeError(f"{trace}{raised}\n\n{what} raised {raised}") from None


class RuntimeLostError(FlSimError):
    """What clients run on cannot be started or has died: no other run will fare better there."""


class StoreError(FlSimError):
    """The artifact store cannot be read or written, whoever of us it was that asked."""


class DataNotAtHandError(FlSimError):
    """A dataset that is not on this machine; the message holds the commands that get it."""


class ClientFailedError(FlSimError):
    """A client raised, died, answered nonsense or did not answer, and the run was to stop when one does."""
