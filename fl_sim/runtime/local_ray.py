"""Ray by itself: a Ray that a process starts after this import talks to nobody outside the machine.

Ray has no settings for these, so two methods of its `Node` are wrapped; what it is told explicitly still holds.

- **It listens on loopback.** Else its servers, which run whatever they are sent, are bound to every interface.
- **It starts no dashboard unless one is asked for.** With `include_dashboard=False` Ray still starts that process, for
  the report of its use alone; and even where the report is off, this asks at every start which cloud the machine is in
  (`metadata.google.internal`, 169.254.169.254).
- **It leaves nothing half up.** What a start that fails had started would stay until this process ends.

`python -m fl_sim.runtime.local_ray start --head --port=6379` is Ray's own command, `ray`, in such a process; the head
of a cluster listens for the other machines, of course.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from functools import wraps
from typing import Any

from ray._private.node import Node

LOOPBACK = "127.0.0.1"  # by this very address Ray's servers know that they are to be bound to loopback

ONE_NODE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # at 0 Ray's processes do not ask for the machine's address in the net


@contextlib.contextmanager
def _children_marked() -> Iterator[None]:
    if ONE_NODE in os.environ:
        yield
        return
    os.environ[ONE_NODE] = "0"
    try:
        yield
    finally:
        del os.environ[ONE_NODE]  # for a `ray start` from this process it would be wrong


@contextlib.contextmanager
def _nothing_half_up(node: Node) -> Iterator[None]:
    """End the processes that a start has started that then fails: nobody else knows of them."""
    try:
        yield
    except BaseException:
        if hasattr(node, "all_processes"):
            node.kill_all_processes(check_alive=False)
        raise


def _keep_to_this_machine() -> None:
    make, start_dashboard = Node.__init__, Node.start_api_server

    @wraps(make)
    def made(node: Node, ray_params: Any, *given: Any, **others: Any) -> None:
        with contextlib.ExitStack() as stack:
            if others.get("ray_init_cluster"):  # by ray.init, and not by `ray start`
                ray_params.update_if_absent(node_ip_address=LOOPBACK)
                stack.enter_context(_children_marked())
                stack.enter_context(_nothing_half_up(node))
            make(node, ray_params, *given, **others)

    @wraps(start_dashboard)
    def started(node: Node, *, include_dashboard: bool | None, **others: Any) -> None:
        if include_dashboard:
            start_dashboard(node, include_dashboard=include_dashboard, **others)

    patched: Any = Node  # a method of another's class is not to be assigned to, and there is no setting
    patched.__init__, patched.start_api_server = made, started


_keep_to_this_machine()

if __name__ == "__main__":
    from ray.scripts.scripts import main

    main()
