"""The kind of processor, as far as it decides how float sums are rounded.

Digits are the same over runs, workers and runtimes on one kind of processor. Libraries choose their kernels by the
processor's maker and vector units, and another kernel adds in another order: on another kind a training run ends a
little elsewhere, and a coverage moves in its third digit. So results say on which kind they were made.
"""

from __future__ import annotations

import os
import platform
import sys
from functools import cache
from pathlib import Path

# Variables that hold a library to fewer vector units, or to other kernels, than the processor has.
# ATEN_CPU_CAPABILITY, OPENBLAS_CORETYPE and NPY_DISABLE_CPU_FEATURES show in what torch, OpenBLAS and NumPy report.
_HELD = ("DNNL_MAX_CPU_ISA", "MKL_CBWR")
_TORCH_UNITS = {"AVX512": {"avx512f", "avx512vl", "avx512bw", "avx512dq", "fma"}, "AVX2": {"avx2", "fma"}}
_MAKERS = {"AuthenticAMD": "AMD", "GenuineIntel": "Intel"}


@cache
def kind() -> str:
    """The kind of this process's processor: maker, and the vector units that torch, OpenBLAS and NumPy use.

    For instance `AMD AVX512 SkylakeX X86_V4`; after it, what the environment holds oneDNN and MKL to.
    """
    import numpy as np
    from threadpoolctl import threadpool_info

    # Only NumPy's is asked: SciPy's is not loaded everywhere, and both choose alike.
    blas = [lib for lib in threadpool_info() if lib["internal_api"] == "openblas" and "numpy" in lib["filepath"]]
    exp = np.lib.introspect.opt_func_info(func_name="^exp$", signature="float64")["exp"]
    settings = [
        _maker(),
        torch_units(),
        blas[0]["architecture"] if blas else "no-openblas",
        next(iter(exp.values()))["current"].partition("(")[0],
        *(f"{name}={os.environ[name]}" for name in _HELD if os.environ.get(name)),
    ]
    return " ".join(settings)


def torch_units() -> str:
    """The vector units that torch's own kernels use, as `torch.backends.cpu.get_cpu_capability` says; of x86-64 under
    Linux by torch's own rule (ATen/native/DispatchStub.cpp), without importing it, which takes over a second."""
    units, forced = set(_cpuinfo("flags").split()), os.environ.get("ATEN_CPU_CAPABILITY")
    if not units or "torch" in sys.modules or forced not in (None, "default", "avx2", "avx512"):
        import torch

        return torch.backends.cpu.get_cpu_capability()
    if forced is not None:
        return forced.upper()
    return next((name for name, needed in _TORCH_UNITS.items() if needed <= units), "DEFAULT")


def _maker() -> str:
    """`AMD`, `Intel`, or the architecture's name where Linux does not say."""
    vendor = _cpuinfo("vendor_id")
    return _MAKERS.get(vendor, vendor or platform.machine() or "unknown")


def _cpuinfo(key: str) -> str:
    """What Linux says of the first processor; nothing where it does not."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key), "")
