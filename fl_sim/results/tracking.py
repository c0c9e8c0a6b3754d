"""Finished runs handed to an experiment tracker, by its package's own API: `fl-sim run|sweep|compare --track NAME`.

Nothing goes over the network unless the user's own settings for the package say so:

    tensorboard   event files in the folder of the run or sweep: `tensorboard --logdir runs`
    mlflow        where MLflow keeps things (`mlflow.db` and `mlruns` in the launch folder, or `MLFLOW_TRACKING_URI`)
    wandb         offline runs in the folder of the run or sweep, for `wandb sync` (or as `WANDB_MODE` says)

A run's scenario becomes its parameters, every number of result.json a metric under its path, such as
`calibrate.tiers.weak.coverage`, and figures, scenario.toml and clients.csv its artifacts. A sweep is one tracker run a
point.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fl_sim.errors import FlSimError
from fl_sim.results.run import CLIENTS, RESULT, SCENARIO, Result
from fl_sim.results.sweep_folder import POINTS, SWEEP, SweepFile
from fl_sim.store.folders import is_there, text_of

PROJECT = "fl-sim"


@dataclass(frozen=True)
class LoggedRun:
    """What a tracker is told of one run."""

    group: str  # the run's folder or the sweep's, by name
    name: str
    parameters: dict[str, str | float]
    metrics: dict[str, float]
    files: list[Path]
    place: Path  # the folder of the run or sweep


# ------------------------------------------------------------------------------------------------------ the trackers


def tensorboard(run: LoggedRun) -> None:
    """Scalars, hyperparameters and PNG figures, as event files in `place/tensorboard/name`."""
    import numpy as np
    from PIL import Image
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(run.place / "tensorboard" / run.name)) as writer:
        writer.add_hparams(run.parameters, run.metrics, run_name=".")
        for path in (path for path in run.files if path.suffix == ".png"):
            writer.add_image(path.stem, np.asarray(Image.open(path).convert("RGB")), dataformats="HWC")
        writer.add_text("scenario", f"```toml\n{_text(run, SCENARIO)}\n```")


def mlflow(logged: LoggedRun) -> None:
    """A run of the experiment that is called as the group."""
    from mlflow.tracking import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # else it tells of the tables that it makes
    client = MlflowClient()
    known = client.get_experiment_by_name(logged.group)
    experiment = client.create_experiment(logged.group) if known is None else known.experiment_id
    run_id = client.create_run(experiment, run_name=logged.name).info.run_id
    for key, value in logged.parameters.items():
        client.log_param(run_id, key, value)
    for key, number in logged.metrics.items():
        client.log_metric(run_id, key, number)
    for path in logged.files:
        client.log_artifact(run_id, str(path))
    client.set_terminated(run_id)


def wandb(logged: LoggedRun) -> None:
    """A run of the project fl-sim, offline unless WANDB_MODE says otherwise."""
    import wandb

    how: dict[str, Any] = {
        "mode": os.environ.get("WANDB_MODE", "offline"),
        "dir": str(logged.place),
        "reinit": "finish_previous",
    }
    settings = wandb.Settings(silent=True, console="off")
    with wandb.init(
        project=PROJECT, group=logged.group, name=logged.name, config=logged.parameters, settings=settings, **how
    ) as run:
        run.log(logged.metrics)
        run.log({path.stem: wandb.Image(str(path)) for path in logged.files if path.suffix == ".png"})
        for path in logged.files:
            shutil.copy(path, run.dir)  # where it looks for files to keep


TRACKERS: dict[str, Callable[[LoggedRun], None]] = {"tensorboard": tensorboard, "mlflow": mlflow, "wandb": wandb}


# --------------------------------------------------------------------------------------------------- what they are told


def check_tracker(name: str) -> None:
    """Refuse a tracker that is not here, before any work.

    Raises:
        FlSimError: there is no such tracker, or its package is not installed.
    """
    if name not in TRACKERS:
        raise FlSimError(f"--track {name}: choose one of {', '.join(TRACKERS)}")
    if importlib.util.find_spec(name) is None:
        raise FlSimError(f"--track {name} needs a package that is not here: pip install {name}")


def track(name: str, place: Path) -> int:
    """Hand the finished run in a folder, or each finished point of its sweep, to the tracker of that name, once.

    Returns:
        How many runs it was told of now; those of an earlier call are noted in `place/.tracked-NAME`.

    Raises:
        FlSimError: see `check_tracker`; or the package refuses.
    """
    check_tracker(name)
    note = place / f".tracked-{name}"
    before = set(text_of(note).split()) if is_there(note) else set()
    runs = list(_runs(place, before))
    for key, run in runs:
        try:
            TRACKERS[name](run)
        except Exception as error:  # a package's own, of any kind
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            raise FlSimError(f"--track {name}: {why} (the results are in {place})") from error
        try:
            with note.open("a", encoding="utf-8") as handle:
                handle.write(f"{key}\n")
        except OSError as error:
            raise FlSimError(
                f"{note}: cannot be written: {error.strerror}; {name} was told, and may be again"
            ) from None
    return len(runs)


def _runs(place: Path, before: set[str]) -> Iterator[tuple[str, LoggedRun]]:
    """(key, what is told) of every finished run in a folder that is not among those of `before`."""
    if not is_there(place / SWEEP):
        if "run" not in before:
            yield "run", _logged(place, place, place.name, {})
        return
    for number, point in enumerate(SweepFile.read(place).points):
        folder = place / POINTS / point.run
        if str(number) not in before and is_there(folder / RESULT):
            yield str(number), _logged(place, folder, f"point-{number}", point.labels())


def _logged(place: Path, folder: Path, name: str, settings: Mapping[str, Any]) -> LoggedRun:
    from fl_sim.results.tables import numbers

    result = Result.load(folder)
    metrics = {key: float(value) for key, value in numbers(result) if math.isfinite(value)}
    named = (SCENARIO, CLIENTS)
    files = [p for p in sorted(folder.iterdir()) if p.name in named or p.suffix in (".png", ".svg")]
    parameters = dict(_flattened(result.scenario.plain())) | {key: _value(value) for key, value in settings.items()}
    return LoggedRun(place.resolve().name, name, parameters, metrics, files, place)


def _flattened(tables: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str | float]]:
    """Every key of nested tables by its path; tiers by their names, behaviours by their kinds, as in an override.

    >>> dict(_flattened({"seed": 1, "clients": {"tier": [{"name": "weak", "epochs": 3}]}}))
    {'seed': 1, 'clients.tier.weak.name': 'weak', 'clients.tier.weak.epochs': 3}
    """
    for key, value in tables.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{key}.")
        elif isinstance(value, Sequence) and value and all(isinstance(one, Mapping) for one in value):
            for number, one in enumerate(value):
                yield from _flattened(one, f"{prefix}{key}.{one.get('name', one.get('kind', number))}.")
        else:
            yield f"{prefix}{key}", _value(value)


def _value(value: Any) -> str | float:
    return value if isinstance(value, bool | int | float | str) else json.dumps(value, default=str)


def _text(run: LoggedRun, name: str) -> str:
    return next((path.read_text(encoding="utf-8") for path in run.files if path.name == name), "")
