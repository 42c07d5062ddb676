"""Independent jobs at once, which share the threads that torch may use."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def at_once(job: Callable[[T], R], items: Iterable[T], device: torch.device) -> list[R]:
    """Do a job with each of several items, and give what comes of it in their order.

    Operations on a few hundred small images gain nothing from a second thread, which waits for the first most of the
    time; jobs that do not wait for one another do. On a GPU, and where torch may use one thread, they run in turn. What
    interrupts it waits for the jobs that have begun.

    Parameters
    ----------
    job
        What to do. It must not change what another reads; gradients are recorded in it if they are here.
    items
        One for each job.
    device
        Where the jobs compute.
    """
    items, threads, gradients = list(items), torch.get_num_threads(), torch.is_grad_enabled()
    workers = min(threads, len(items)) if device.type == "cpu" else 1
    if workers <= 1:
        return [job(item) for item in items]

    def alone(item: T) -> R:
        with torch.set_grad_enabled(gradients):  # each thread has its own setting
            return job(item)

    own = threads // workers
    torch.set_num_threads(own)
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(own,)) as pool:
            return list(pool.map(alone, items))
    finally:
        torch.set_num_threads(threads)
