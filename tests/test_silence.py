"""No word leaves the machine unasked: every command of the documentation is run, and watched.

Flower's own commands and Ray's are watched where they are run anyway, in test_flower_app.py, test_examples.py and
test_slow.py.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from watched import STRACE, spoken_to, watching

ROOT = Path(__file__).parent.parent
RUNNING = (ROOT / "docs" / "running.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = sorted((ROOT / "examples").rglob("*.py"))
COMMAND = re.compile(r"^(?:    |PYTHONPATH=examples )\.venv/bin/((?:fl-sim|python) .*?)(?:  +#.*)?$", re.MULTILINE)
COMMANDS = sorted({line for page in [*PAGES, *PROGRAMS] for line in COMMAND.findall(page.read_text())})

watched = pytest.mark.skipif(STRACE is None, reason="strace is not installed: nobody sees to whom a command speaks")

# Runs what it is told one after another in this process, and prints what did not end with 0.
RUN_ALL = """
import json, runpy, sys
from fl_sim.cli.main import main
for program, *words in json.loads(sys.argv[1]):
    sys.argv = [program, *words]
    try:
        main() if program == "fl-sim" else runpy.run_path(program)  # without its main
    except SystemExit as end:
        if end.code:
            print("ENDED WITH", end.code, program, *words)
"""


def small(line: str) -> tuple[str, ...] | None:
    """A command that says the same to the network, and takes a second or two; None for one that needs what is not
    there: another machine, data that does not travel with the packages, a module of the page's."""
    program, name, *words = shlex.split(line, comments=True)
    if program == "python":
        return (str(ROOT / name),) if name.startswith("benchmarks/") else None
    if "sites.toml" in line:  # whose table is made below
        return None
    kept = [word for word in words if not word.startswith(("--out", "runs/", "clients.count=", "--runtime", "inline"))]
    if name in ("sweep", "compare"):
        return ("fl-sim", name, *[word for word in kept if word != "--dry-run"], "--dry-run")
    if name != "run" or any(word in line for word in ("HOST", "fashion", "plada", "centroids:", "mine:")):
        return None
    few = ("data.train=300",) if "crowd" in line else ()
    return ("fl-sim", name, *kept, *few, "clients.count=6", "runtime.name=inline")


MADE = [
    *sorted({made for line in COMMANDS if (made := small(line))}),
    ("fl-sim", "compare", "digits", "fedwq-cp", "own_strategy:Shrunken", "runtime.name=inline", "--out", "c"),
    ("fl-sim", "sweep", "digits", "clients.count=6", "runtime.name=inline", "seed=0,1", "--out", "s"),
    ("fl-sim", "certify", "c"), ("fl-sim", "results", "s"), ("fl-sim", "report", "s"),
    (str(ROOT / "examples/predictions.py"), "hospitals.npz"), (str(ROOT / "examples/sites.py"), "sites.csv"),
    ("fl-sim", "run", str(ROOT / "examples/sites.toml")),
    ("fl-sim", "calibrate", "hospitals.npz", "local", "pooled"),
    ("fl-sim", "list"), ("fl-sim", "store"), ("fl-sim", "doctor"), ("fl-sim", "validate", "digits"),
]  # fmt: skip


def test_commands_are_found():
    assert len(MADE) > 30


def test_what_speaks_by_itself_is_told_not_to_in_the_readme():
    """Flower's commands, which do not import fl-sim, and Ray's, of which fl-sim has a quiet one."""
    told = dict(re.findall(r"^    export (FLWR_\w+)=(\S+)", RUNNING, re.MULTILINE))
    assert told.items() >= {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}.items()
    quiet = RUNNING.index("alias ray='.venv/bin/python -m fl_sim.runtime.local_ray'")
    assert quiet < RUNNING.index("    ray start --head")


# A thread of a child speaks, to addresses that are nobody's (RFC 5737), and to this machine.
SPEAKS = """
import socket, subprocess, sys, threading

def speak(address):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one, socket.socket() as other:
        one.setblocking(False), other.setblocking(False)
        other.connect_ex((address, 9))
        try:
            one.sendto(b"word", (address, 53))
        except OSError:  # without a network
            pass

if sys.argv[1:]:
    threading.Thread(target=speak, args=sys.argv[1:]).start()
else:
    for address in ("127.0.0.1", "198.51.100.7"):
        subprocess.run([sys.executable, __file__, address], check=True)
"""


@watched
@pytest.mark.parametrize("detached", [False, True])
def test_who_speaks_is_seen(tmp_path, detached):
    (tmp_path / "speaks.py").write_text(SPEAKS)
    words = [*watching(tmp_path / "calls", detached=detached), sys.executable, str(tmp_path / "speaks.py")]
    subprocess.run(words, check=True)
    assert ["198.51.100.7" in call for call in spoken_to(tmp_path / "calls")] == [True, True]


@watched
@pytest.mark.slow
def test_no_documented_command_speaks_to_another_machine(tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("FLWR_", "RAY_"))}
    environment |= {"FL_SIM_STORE": str(tmp_path / "store")}
    folders = [str(ROOT / name) for name in ("examples", "benchmarks")]
    environment["PYTHONPATH"] = os.pathsep.join([*folders, os.environ.get("PYTHONPATH", "")])
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    words = [*watching(tmp_path / "calls"), sys.executable, "-c", RUN_ALL, json.dumps(MADE)]
    run = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert [line for line in run.stdout.splitlines() if line.startswith("ENDED WITH")] == [], run.stderr
    assert spoken_to(tmp_path / "calls") == []
