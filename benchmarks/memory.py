"""Peak memory of a piece of work, measured in a fresh process of its own.

An earlier computation in the same process would have left memory that is used again and not be seen.
"""

import ctypes
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from .timing import wait

Prepare = Callable[..., tuple[Callable[[], object], Callable[[], object]]]
"""``(device, ...) -> (small, full)``: the work on so little data that its memory is nothing, and all of it."""

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
# Loaded once, in a process that computes nothing and from which the others are forked.
_PRELOADED = ["scoretomo.methods.score_tomography", "scoretomo.networks.unet", __name__]


def peak_memory(prepare: Prepare, device: str, *arguments: object) -> int | None:
    """Bytes that work needs at most beyond what is there when it begins; None where that is not known.

    Parameters
    ----------
    prepare
        A function of a module: makes the work, in the new process.
    device
        On ``cuda``, what PyTorch allocates; on ``cpu`` the growth of the resident memory (Linux only).
    arguments
        What ``prepare`` is given after the device.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_measure, torch.get_num_threads(), prepare, device, *arguments).result()


def _measure(threads: int, prepare: Prepare, device: str, *arguments: object) -> int | None:
    torch.set_num_threads(threads)
    small, full = prepare(device, *arguments)
    small()  # libraries are loaded and kernels compiled at the first use
    wait(device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        full()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    if not _CLEAR.exists():
        return None
    ctypes.CDLL(None).malloc_trim(0)  # memory that compiling has given back would be used again
    _CLEAR.write_text("5")  # the high-water mark falls to the memory in use
    before = _high_water_mark()
    full()
    return _high_water_mark() - before


def _high_water_mark() -> int:
    """Largest resident memory so far, in bytes.

    Not ``getrusage``: its maximum takes in that of the process that has started this one.
    """
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
