"""One Ray for the whole suite, and a store of its own for every test."""

from __future__ import annotations

import contextlib
import gc
import os
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from fl_sim.store.artifacts import Store


class ByFile(LoadScopeScheduling):
    """A file's tests run in one process, and so do all files that use Ray, which starts once."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "ray" if "ray_session" in _text(self.config.rootpath / file) else file


_text = cache(Path.read_text)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return ByFile(config, log)


@pytest.fixture(autouse=True)
def _nobodys_store(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's artifact store."""
    monkeypatch.setenv("FL_SIM_STORE", str(tmp_path_factory.mktemp("guard") / "store"))


@pytest.fixture(autouse=True, scope="session")
def _no_figures() -> Iterator[None]:
    """No command draws figures that the test does not ask for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FL_SIM_FIGURES", "none")
        yield


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty store, which clients of this process find too."""
    monkeypatch.setenv("FL_SIM_STORE", str(tmp_path / "store"))
    return Store(tmp_path / "store")


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """Ray, once. Flower's runtime shuts Ray down at its end, so a test of it belongs in a process of its own."""
    from fl_sim.runtime.cluster import cluster

    with contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)  # workers import tests/grid_app.py
        with _files_left_open():
            stack.enter_context(cluster(None, verbose=False))
        yield
        with _files_left_open():
            stack.close()


@contextlib.contextmanager
def _files_left_open() -> Iterator[None]:
    """Ray leaves its children's log files, and the children, to the garbage collector."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()
