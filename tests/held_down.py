"""Run a command as on a processor with hardly any vector units: torch, NumPy and SciPy take their plainest kernels.

    python tests/held_down.py COMMAND [ARG ...]

What holds on any processor must hold here too: `make test-plain` and `make docs-check-plain`.
"""

from __future__ import annotations

import os
import sys

import numpy as np

TORCH = {
    "ATEN_CPU_CAPABILITY": "default",  # torch's own kernels
    "DNNL_MAX_CPU_ISA": "SSE41",  # oneDNN: convolutions
    "MKL_CBWR": "COMPATIBLE",  # MKL: products of matrices
}


def numpy_targets() -> list[str]:
    """The vector units for which NumPy has kernels beside its plainest."""
    told = np.lib.introspect.opt_func_info().values()
    available = {name for kernels in told for one in kernels.values() for name in one["available"].split()}
    return sorted(name for name in available if not name.startswith("baseline"))


def environment() -> dict[str, str]:
    """The variables that hold the libraries down."""
    return TORCH | {
        "OPENBLAS_CORETYPE": "Nehalem",  # OpenBLAS: products and factorisations of NumPy's and SciPy's
        "NPY_DISABLE_CPU_FEATURES": " ".join(numpy_targets()),  # NumPy's own loops
    }


if __name__ == "__main__":
    os.execvpe(sys.argv[1], sys.argv[1:], os.environ | environment())
