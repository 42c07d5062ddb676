"""Kernels compiled by Numba, and threads to run them on."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import torch
from numpy.typing import NDArray

# Samples for which another thread is worth its cost, about a millisecond's work.
_SAMPLES_OF_A_THREAD = 2**17
# Parts of the work for each thread: enough to even out threads of unequal speed, few beside the cost of handing out.
_PARTS_OF_A_THREAD = 8

# Kernels are not type-checked: Numba takes plain functions only. Sums may be reordered; what is not finite stays so.
_FAST: set[str] = {"reassoc", "contract", "arcp", "nsz"}
inlined = numba.njit(fastmath=_FAST, inline="always", error_model="numpy")


def compiled(kernel: Callable[..., None]) -> Callable[..., None]:
    """Compile at the first call; later processes find the result on the disk, where it may be written to."""
    try:
        ready: Callable[..., None] = numba.njit(nogil=True, fastmath=_FAST, error_model="numpy", cache=True)(kernel)
    except RuntimeError:  # neither the package's folder nor one of the user's
        ready = numba.njit(nogil=True, fastmath=_FAST, error_model="numpy")(kernel)
    return ready


def threads_for(samples: int) -> int:
    """Choose a number of threads, as many as torch uses at most."""
    return min(torch.get_num_threads(), max(1, samples // _SAMPLES_OF_A_THREAD))


def share_out(kernel: Callable[..., None], threads: int, *arguments: NDArray[np.float32] | np.float32) -> None:
    """Run a kernel in parts on several threads: part k of n has the tasks k, k + n, k + 2 n and so on.

    Not on Numba's own threads, which wait for work by spinning and so take the cores from those of torch. The threads
    of torch do so for some milliseconds; there are many parts so that a thread beside one of them gets fewer.
    """
    if threads == 1:
        kernel(0, 1, *arguments)
        return
    parts = _PARTS_OF_A_THREAD * threads
    with ThreadPoolExecutor(threads) as pool:
        for running in [pool.submit(kernel, k, parts, *arguments) for k in range(parts)]:
            running.result()
