"""fl-sim as other users would call it: a program for root, who alone can become them.

Each line of standard input is a JSON list: user id, group id, umask, [word, ...], {variable: value}; the variables of
ASIDE are unset first. Each is answered by a line of JSON: [exit code, what was printed]. Root imports everything,
because others may not be let into the folder where Python is.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tempfile
import traceback

from fl_sim.cli import main

ASIDE = ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "USER", "LOGNAME", "FL_SIM_STORE", "FL_SIM_DATA")
SMALL = ("clients.count=3", "clients.tier.strong.epochs=1", "clients.tier.weak.epochs=1", "runtime.name=inline")


def call(*words: str) -> int:
    sys.argv = ["fl-sim", *words]
    try:
        main.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def step(user: int, group: int, umask: int, words: list[str], variables: dict[str, str]) -> tuple[int, str]:
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        child = os.fork()
        if child == 0:
            code = 99
            try:
                for stream in (1, 2):
                    os.dup2(said.fileno(), stream)
                for name in ASIDE:
                    os.environ.pop(name, None)
                os.environ.update(variables)
                os.umask(umask)
                os.setgroups([])
                os.setgid(group)
                os.setuid(user)
                code = call(*words)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        said.seek(0)
        return os.waitstatus_to_exitcode(status), said.read()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as warm, contextlib.redirect_stdout(io.StringIO()):
        call("run", "digits", *SMALL, "--store", f"{warm}/store", "--out", f"{warm}/out")
    for line in sys.stdin:
        print(json.dumps(step(*json.loads(line))), flush=True)  # noqa: T201
