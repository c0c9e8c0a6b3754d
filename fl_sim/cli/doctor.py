"""What this machine has, and what it lacks."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from fl_sim.data.datasets import DATASETS, data_root
from fl_sim.errors import FlSimError
from fl_sim.runtime import processor
from fl_sim.store.artifacts import Store, default_root

PACKAGES = ("fl-sim", "flwr", "ray", "torch", "torchvision", "numpy", "matplotlib", "scikit-learn")
OPTIONAL = ("medmnist",)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `ok` is False only for what fl-sim cannot work without."""

    subject: str
    ok: bool
    details: str


def findings() -> Iterator[Finding]:
    """Everything worth knowing, the machine first."""
    yield Finding("machine", True, f"{platform.platform()}, {os.cpu_count()} processors")
    yield Finding("processor", True, f"{processor.kind()} (digits are the same on machines of this kind)")
    yield Finding("python", sys.version_info >= (3, 11), f"{platform.python_version()} (3.11 or newer is needed)")
    yield from _packages()
    yield _gpus()
    yield _store()
    yield from _data()


def _packages() -> Iterator[Finding]:
    for name in (*PACKAGES, *OPTIONAL):
        try:
            yield Finding(name, True, version(name))
        except PackageNotFoundError:
            optional = name in OPTIONAL
            yield Finding(name, optional, f"not installed{' (optional)' if optional else ''}: pip install {name}")


def _gpus() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return Finding("GPUs", True, "none that torch sees; clients run on the CPU")
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return Finding("GPUs", True, ", ".join(names))


def _store() -> Finding:
    try:
        root = default_root()
        entries = Store(root).listing()
    except FlSimError as error:
        return Finding("artifact store", False, str(error))
    used, free = sum(entry.num_bytes for entry in entries), shutil.disk_usage(root).free
    return Finding("artifact store", True, f"{root}: {used / 1e6:.0f} MB used, {free / 1e9:.0f} GB free")


def _data() -> Iterator[Finding]:
    yield Finding("data folder", True, f"{data_root()}")
    for source in DATASETS.values():
        state = "at hand" if source.at_hand() else "not here; get it with: " + " or ".join(source.to_get)
        yield Finding(source.name, True, state)
