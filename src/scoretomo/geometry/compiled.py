"""How kernels are compiled by Numba: plain functions on arrays and numbers, which are not type-checked."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numba

FAST = frozenset({"reassoc", "contract", "arcp", "nsz"})
"""Sums may be reordered; what is not finite stays so."""


def compiled(kernel: Callable[..., Any], fastmath: frozenset[str] = FAST) -> Callable[..., Any]:
    """Compile at the first call; later processes find the result on the disk, where it may be written to."""
    compile_by = partial(numba.njit, nogil=True, fastmath=set(fastmath), error_model="numpy")
    try:
        ready: Callable[..., Any] = compile_by(cache=True)(kernel)
    except RuntimeError:  # neither the package's folder nor one of the user's
        ready = compile_by()(kernel)
    return ready
