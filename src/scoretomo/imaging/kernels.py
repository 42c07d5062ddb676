"""Threads to run compiled kernels on, and how their inner functions are compiled."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from ..geometry.compiled import FAST

# Samples for which another thread is worth its cost, about a millisecond's work.
_SAMPLES_OF_A_THREAD = 2**17
# Parts of the work for each thread: enough to even out threads of unequal speed, few beside the cost of handing out.
_PARTS_OF_A_THREAD = 8

inlined = numba.njit(fastmath=set(FAST), inline="always", error_model="numpy")


def threads_for(samples: int) -> int:
    """Choose a number of threads, as many as torch uses at most."""
    return min(torch.get_num_threads(), max(1, samples // _SAMPLES_OF_A_THREAD))


def share_out(
    kernel: Callable[..., None],
    threads: int,
    *arguments: NDArray[np.float32] | np.float32,
    parts: int | None = None,
) -> None:
    """Run a kernel in parts on several threads: part k of n has the tasks k, k + n, k + 2 n and so on.

    Not on Numba's own threads, which wait for work by spinning and so take the cores from those of torch. The threads
    of torch do so for some milliseconds; there are many parts so that a thread beside one of them gets fewer.
    """
    if threads == 1:
        kernel(0, 1, *arguments)
        return
    parts = _PARTS_OF_A_THREAD * threads if parts is None else parts
    with ThreadPoolExecutor(threads) as pool:
        for running in [pool.submit(kernel, k, parts, *arguments) for k in range(parts)]:
            running.result()
