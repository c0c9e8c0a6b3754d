"""What a sweep's folder holds: `sweep.json`, the runs of its points, and which of them failed."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from fl_sim.results.run import RESULT
from fl_sim.store.folders import damaged, in_form, is_there, sealed, unsealed

FORMAT = 2  # of a sweep's folder; 1 had neither the settings nor the command

SWEEP, POINTS, FAILED = "sweep.json", "points", "failed.json"  # what is in it


class FilePoint(BaseModel):
    """A point as a sweep's folder tells of it: axis -> value, as the file or the command line has it, and its run."""

    settings: dict[str, Any]
    run: str = Field(pattern=r"^[0-9a-f]+$")

    def labels(self) -> dict[str, Any]:
        """Its settings as tables show them."""
        return {axis: label(value) for axis, value in self.settings.items()}


def label(value: Any) -> Any:
    """A value of an axis as tables show it: a table by its name and what else it says.

    >>> label({"name": "fcp", "sketch": "exact"}), label(0.5)
    ('fcp(sketch=exact)', 0.5)
    """
    if isinstance(value, dict):
        rest = ", ".join(f"{key}={label(inner)}" for key, inner in value.items() if key != "name")
        return f"{value.get('name', '')}({rest})" if rest else value.get("name", "")
    return str(value) if isinstance(value, list) else value


class SweepFile(BaseModel):
    """What a sweep's folder says of its sweep: the form of `sweep.json`."""

    format: int = FORMAT
    identity: str
    name: str
    command: list[str]  # the words after `fl-sim`
    axes: list[str]
    points: list[FilePoint]

    @property
    def command_line(self) -> str:
        """What makes these points, to be typed."""
        return shlex.join(["fl-sim", *self.command])

    def content(self) -> bytes:
        """Of the file."""
        return sealed(SWEEP, self.model_dump(mode="json"))

    @classmethod
    def read(cls, folder: Path) -> SweepFile:
        """What a folder says.

        Raises:
            FlSimError: its `sweep.json` is missing, damaged or of another version.
        """
        path = folder / SWEEP
        content, _ = unsealed(path, FORMAT, _MADE_AGAIN)
        file = in_form(path, cls, content, _MADE_AGAIN)
        strange = next((point for point in file.points if set(point.settings) != set(file.axes)), None)
        if strange is not None:
            raise damaged(path, f"{', '.join(strange.settings)} are not the axes", _MADE_AGAIN)
        return file


_MADE_AGAIN = "delete that file, and the same command makes it again; the points that are finished stay"


def failures(folder: Path) -> dict[str, str]:
    """Run -> why it failed, of the last command.

    Raises:
        FlSimError: the file that says so is damaged.
    """
    path = folder / FAILED
    reasons = unsealed(path, then=_MADE_AGAIN)[0] if is_there(path) else {}
    strange = next((reason for reason in reasons.values() if not isinstance(reason, str)), None)
    if strange is not None:
        raise damaged(path, f"{strange!r} is no reason", _MADE_AGAIN)
    return reasons


def is_finished(folder: Path, run: str) -> bool:
    """Whether that run is there."""
    return is_there(folder / POINTS / run / RESULT)
