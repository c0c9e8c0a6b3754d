"""The two processes of a joined Ray cluster without which nothing goes on, watched: a while after one of them Ray ends
this process without a word.

They are not this process's children, so they are known by their sockets: the raylet of this machine by a connection
that is held, which the kernel ends with it, and the GCS, which may be on another machine, by whether it can be reached.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator

WITHOUT = 'or use --runtime inline (runtime.name = "inline"), which does without Ray'
EVERY = 0.2  # seconds from one look at the raylet to the next
GCS_EVERY = 1.0  # the same for the GCS
GCS_WITHIN = 20.0  # seconds in which a GCS may be started again, as some clusters do; after 60 Ray gives it up
LAST = 15.0  # seconds that it then has to end by itself, of the 60 after which Ray ends it
PATIENCE = 3.0  # seconds for whoever waits for Ray to look at `dead`, before the main thread is interrupted


class Joined:
    """The cluster at `address` as seen from here: `raylet` is the path of a socket, `gcs` HOST:PORT."""

    def __init__(self, address: str, raylet: str, gcs: str) -> None:
        self.address, self._gcs = address, gcs
        self.dead = ""  # what has ended, in words; nothing while both are there
        self.heeded = threading.Event()  # by whoever is about to say so
        self._over = threading.Event()
        self._line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._line.connect(raylet)
        self._line.setblocking(False)
        self._seen = self._asked = time.monotonic()

    def look(self) -> None:
        """See whether both are there, and say so in `dead` where one is not."""
        if self.dead:
            return
        if self._raylet_is_gone():
            self.dead = "the raylet of this machine"
        elif time.monotonic() > self._asked + GCS_EVERY:
            self._asked = time.monotonic()
            if self._gcs_answers():
                self._seen = time.monotonic()
            elif time.monotonic() > self._seen + GCS_WITHIN:
                self.dead = f"its GCS ({self._gcs})"

    def _raylet_is_gone(self) -> bool:
        try:
            return not self._line.recv(4096)
        except BlockingIOError:
            return False  # it says nothing, and it is there
        except OSError:
            return True

    def _gcs_answers(self) -> bool:
        host, _, port = self._gcs.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except OSError:
            return False
        return True

    def watch(self) -> None:
        """Look again and again; where one has ended and nobody heeds it, interrupt the main thread, which may be
        waiting in Ray for what does not come any more. Where nothing wakes it, say so and end the process."""
        while not self._over.wait(EVERY):
            self.look()
            if self.dead:
                if not self.heeded.wait(PATIENCE):
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)  # wakes it from a lock
                if not self._over.wait(LAST):
                    print(f"error: {self.words()}", file=sys.stderr, flush=True)  # noqa: T201
                    os._exit(1)
                return

    def words(self) -> str:
        """What has happened and what to do."""
        return (
            f"runtime.address = {self.address!r}: {self.dead} has died in the middle of the run; start the cluster "
            f"again and run again, for what is made is kept, {WITHOUT}"
        )

    def leave(self) -> None:
        """Look no more."""
        self._over.set()
        self.heeded.set()
        self._line.close()


@contextlib.contextmanager
def watched(joined: Joined) -> Iterator[Joined]:
    """Watch for the block."""
    watcher = threading.Thread(target=joined.watch, name="watch-ray", daemon=True)
    watcher.start()
    try:
        yield joined
    finally:
        joined.leave()
