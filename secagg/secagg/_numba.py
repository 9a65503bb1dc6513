"""The one place that touches numba, so that the rest of the package stays fully typed.

Kernels release the interpreter lock, run on one thread, and are cached on disk beside the source, so that
only the first process on a machine pays for compilation. Byte views assume a little-endian machine.
"""

import sys
from collections.abc import Callable
from typing import TypeVar, cast

import numba

if sys.byteorder != "little":
    raise ImportError("secagg packs residues through native words and needs a little-endian machine")

Kernel = TypeVar("Kernel", bound=Callable[..., object])


def kernel(function: Kernel) -> Kernel:
    """Compile `function` with numba, keeping its Python signature for the type checker.

    Where no folder can hold the cache (a read-only install without a home), each process compiles for itself.
    """
    return _compiled(function, fastmath=False)


def summing_kernel(function: Kernel) -> Kernel:
    """The same, and floating-point sums may be added in any order: vector lanes, then across them.

    For sums whose order does not matter: exact ones (whole numbers), or norms whose last bits are not fixed anyway.
    """
    return _compiled(function, fastmath={"reassoc"})


def _compiled(function: Kernel, *, fastmath: bool | set[str]) -> Kernel:
    try:
        compiled = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=fastmath)(function)
    except RuntimeError:
        compiled = numba.njit(nogil=True, error_model="numpy", fastmath=fastmath)(function)
    return cast("Kernel", compiled)
