"""Flower's deployment runtime on this machine: a SuperLink and three SuperNodes run examples/fedwq_cp.

.venv/bin/python examples/deployment.py       # and its simulation: the same threshold to the last digit
"""

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

APP = Path(__file__).parent / "fedwq_cp"
BIN = Path(sys.executable).parent
THRESHOLD = re.compile(r"^threshold (\S+)", re.MULTILINE)
SITES = 3


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0


@contextmanager
def started(log: Path, environment: dict[str, str], *command: object) -> Iterator[None]:
    """A process of Flower's for the block, its output in `log`; it stops what it has started itself."""
    with log.open("w") as said:
        words = [str(BIN / str(command[0])), *map(str, command[1:])]
        process = subprocess.Popen(words, env=environment, stdout=said, stderr=said)
        try:
            yield
        finally:
            process.terminate()
            process.wait(timeout=60)


def threshold_printed(environment: dict[str, str], *command: object) -> str:
    """The threshold that a command prints."""
    run = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, timeout=300)
    found = THRESHOLD.search(run.stdout)
    if found is None:  # flwr run --stream exits with 0 whatever becomes of the run
        sys.exit(f"{command[0]} printed no threshold\n{run.stdout}\n{run.stderr}")
    return found[1]


def deployed(home: Path) -> str:
    """The threshold that three SuperNodes agree on; Flower keeps its files in `home`."""
    superlink = f"127.0.0.1:{free_port()}"
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "{superlink}"\ninsecure = true\n'
    )
    environment = os.environ | {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",  # where Flower finds the commands it starts
        "FLWR_HOME": str(home),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",  # else each run asks the package index for the app's
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
    }
    host, port = superlink.split(":")
    with ExitStack() as running:
        command = ("flower-superlink", "--insecure", "--host", host, "--port", port)
        running.enter_context(started(home / "superlink.log", environment, *command))
        while not listens(host, int(port)):
            time.sleep(0.2)
        for site in range(SITES):
            command = ("flower-supernode", "--insecure", "--superlink", superlink, "--port", free_port())
            config = ("--node-config", f"partition-id={site} num-partitions={SITES}")
            running.enter_context(started(home / f"supernode-{site}.log", environment, *command, *config))
        return threshold_printed(environment, BIN / "flwr", "run", APP, "--stream")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="flower-") as folder:
        print(f"deployed:  threshold {deployed(Path(folder))}", flush=True)
    print(f"simulated: threshold {threshold_printed(dict(os.environ), sys.executable, APP / 'app.py')}")
