"""Thresholds to take away: of a method with one for each class, for which `clients.csv` has no room, in a file.

`thresholds.csv` has a row a client that was tested and a column a class; a threshold of `inf` takes every score.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fl_sim.results.run import THRESHOLDS, Result


def file_of(thresholds: Mapping[int, Any], classes: Sequence[str]) -> dict[str, bytes]:
    """The file, where thresholds are of each class; nothing where they are numbers, which `clients.csv` has."""
    each = {k: np.asarray(value, np.float64) for k, value in sorted(thresholds.items()) if np.ndim(value)}
    if not each:
        return {}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["client", *classes])
    writer.writerows([k, *map(repr, values.tolist())] for k, values in each.items())
    return {THRESHOLDS: text.getvalue().encode()}


def rows(result: Result) -> Iterator[dict[str, Any]]:
    """A row a client and threshold: `client`, its `name` where it has one, `class` ("" for all), `threshold`."""
    keys = [key for key in ("client", "name", "tier") if key in result.clients[0]]
    who: list[dict[str, Any]] = [{key: row[key] for key in keys} for row in result.clients]
    if THRESHOLDS in result.files:
        reader = csv.DictReader(io.StringIO(result.files[THRESHOLDS].decode()))
        for line in reader:
            client = who[int(line.pop("client"))]
            yield from ({**client, "class": label, "threshold": float(text)} for label, text in line.items())
        return
    for client, row in zip(who, result.clients, strict=True):
        if row.get("threshold") is not None:
            yield {**client, "class": "", "threshold": row["threshold"]}
