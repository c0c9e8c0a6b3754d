"""Whether two checkouts give the same results: every shipped scenario, or those named, at its sweep's first point.

    .venv/bin/python benchmarks/same_results.py ../before . digits regression conformal/aps

Each runs with its own code and a store of its own, in this process's environment. `clients.csv` must be equal but for
the seconds, `result.json` but for seconds, versions, the machine and its own digests. Prints a line a scenario, which
names the columns and keys that differ, and ends with 1 where any does.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

Results = tuple[list[dict[str, str]], Any]  # rows of clients.csv, and result.json

FIRST = {"one-round": "fedwq-cp", "many-rounds": {"name": "dp-fedcp", "rounds": 50}}  # of the kinds of strategies
LEFT_OUT = {"seconds", "versions", "machine", "sha256"}  # keys of result.json


def inline(value: Any) -> str:
    """A value as TOML on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {inline(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(inline, value)) + "]"
    return json.dumps(value)


def first_point(file: Path) -> list[str]:
    """Overrides that take the first value of each axis of a file's sweep, of a kind of strategies its first one."""
    axes = tomllib.loads(file.read_text(encoding="utf-8")).get("sweep", {})
    first = {axis: values[0] for axis, values in axes.items()}
    if isinstance(first.get("calibrate"), dict) and "kind" in first["calibrate"]:
        first["calibrate"] = FIRST[first["calibrate"]["kind"]]
    return [f"{axis}={inline(value)}" for axis, value in first.items()]


def command(tree: Path) -> list[str]:
    """What runs a checkout's own `fl-sim`."""
    entry = tomllib.loads((tree / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]["fl-sim"]
    module, _, function = entry.partition(":")
    return [sys.executable, "-c", f"from {module} import {function}; {function}()"]


def results(tree: Path, name: str, work: Path) -> Results:
    """The rows and the summary of a scenario's run with a checkout's code."""
    words = ["run", name, *first_point(tree / "scenarios" / f"{name}.toml"), "runtime.name=inline", "--out", str(work)]
    environment = {**os.environ, "PYTHONPATH": str(tree.resolve()), "FL_SIM_STORE": f"{work}-store"}
    done = subprocess.run([*command(tree), *words], cwd=tree, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{tree}: {name}: {done.stderr}")
    with (work / "clients.csv").open(encoding="utf-8") as file:
        rows = [{key: cell for key, cell in row.items() if key != "seconds"} for row in csv.DictReader(file)]
    summary = json.loads((work / "result.json").read_text(encoding="utf-8"))
    return rows, {key: value for key, value in summary.items() if key not in LEFT_OUT}


def differences(one: Results, other: Results) -> set[str]:
    """Columns of `clients.csv`, and keys of `result.json`, that are not the same."""
    (rows, summary), (other_rows, other_summary) = one, other
    if len(rows) != len(other_rows):
        return {"the number of clients"}
    columns = {key for row, theirs in zip(rows, other_rows, strict=True) for key in row.keys() | theirs.keys()}
    apart = {key for key in columns if [row.get(key) for row in rows] != [row.get(key) for row in other_rows]}
    return apart | {key for key in summary.keys() | other_summary.keys() if summary.get(key) != other_summary.get(key)}


def main(before: str, after: str, *names: str) -> None:
    """Compare, one scenario after another."""
    folder = Path(after) / "scenarios"
    every = [file.relative_to(folder).with_suffix("").as_posix() for file in sorted(folder.rglob("*.toml"))]
    differ = []
    for name in names or every:
        with tempfile.TemporaryDirectory() as work:
            one, other = (
                results(Path(tree), name, Path(work) / side) for side, tree in (("before", before), ("after", after))
            )
        apart = sorted(differences(one, other))
        print(f"{name}: {', '.join(apart) + ' differ' if apart else 'the same'}, {len(one[0])} clients", flush=True)
        differ += [name] * (one != other)
    sys.exit(f"differ: {', '.join(differ)}" if differ else 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
