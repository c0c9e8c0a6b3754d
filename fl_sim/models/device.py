"""On what the clients compute: the processor, or a GPU. Torch, which takes over a second to import, is asked only where
a GPU is asked for, or may be there."""

from __future__ import annotations

import sys
from pathlib import Path

CONTEXT = 600 << 20  # bytes that a process takes of a GPU before it holds a tensor: CUDA's context and torch's kernels
GPU_FILES = ("nvidia*", "dxg", "kfd")  # in /dev, by a GPU's driver: NVIDIA's, the one of Windows below Linux, AMD's
FILLED = 0.9  # of a GPU's free memory; the rest is for fragments


def resolve_device(wanted: str) -> str:
    """`"auto"` made into a device that is here: "cpu" or "cuda".

    Raises:
        ValueError: a GPU is asked for and there is none.
    """
    if wanted == "cpu" or (wanted == "auto" and not may_have_gpu()):
        return "cpu"
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda' is asked for, and torch sees no GPU here; use device = 'cpu' or 'auto'")
    return "cuda" if torch.cuda.is_available() else "cpu"


def may_have_gpu() -> bool:
    """Whether a GPU's driver can be here: without its file in /dev no process sees a GPU of Linux."""
    return sys.platform != "linux" or any(True for name in GPU_FILES for _ in Path("/dev").glob(name))


def num_gpus() -> int:
    """How many GPUs torch sees here."""
    import torch

    return torch.cuda.device_count()


def share_of_gpu(need: int, *, most: int, among: int = 1) -> float:
    """How much of a GPU each client at work gets, so that as many work on it at once as fit into its free memory.

    Args:
        need: bytes that one takes beside its CUDA context.
        most: how many there is work for: the processors of this machine that each GPU has to itself.
        among: how many processes share the memory so out at the same time.
    """
    import torch

    free = min(torch.cuda.mem_get_info(i)[0] for i in range(torch.cuda.device_count()))
    return share_for(need, free // among, most=most)


def share_for(need: int, free: int, *, most: int) -> float:
    """`share_of_gpu` for `free` bytes; rounded down to Ray's ten-thousandths, so that the shares of all fit into one.

    >>> share_for(2 << 30, 80 << 30, most=16)
    0.0625
    >>> share_for(20 << 30, 80 << 30, most=16)
    0.3333
    >>> share_for(90 << 30, 80 << 30, most=16)
    1.0
    """
    fit = int(FILLED * free) // (need + CONTEXT)
    return int(10_000 / max(1, min(fit, most))) / 10_000
