"""What all trainings have in common while they go on: a share for each process, progress, checkpoints, interruption."""

import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from .. import processes
from ..datatypes import InputError
from ..optimiser import OptimiserConfig
from .progress import StoppedBetweenSteps, interruptible, progress

Step = TypeVar("Step")

_SECONDS_BETWEEN_CHECKPOINTS = 60.0


def own_part(config: OptimiserConfig) -> slice:
    """Items of every batch that are this process's work: every n-th, so that shares differ by one at most."""
    if config.batch_size < processes.count():
        raise InputError(
            f"{processes.count()} processes cannot share batches of {config.batch_size}; start fewer, "
            "or give a larger --optimiser.batch-size (to a new run folder)"
        )
    return slice(processes.index(), None, processes.count())


def go_through(
    steps: Iterable[Step], name: str, *, show: Callable[[Step], tuple[float, str]], save: Callable[[], None]
) -> None:
    """Do all steps, or as many as the user allows; a checkpoint is written each minute and at an interruption.

    Parameters
    ----------
    steps, name
        What is done, by all processes alike, and the name of the line of progress.
    show
        Takes in a step and gives the part that is done and words about it; of the main process only.
    save
        Writes the checkpoint; of the main process only.
    """
    with interruptible(processes.any_of_us) as check, progress(name) as report:
        saved_at = time.monotonic()
        try:
            for step in steps:
                if processes.is_main():
                    report(*show(step))
                    if time.monotonic() - saved_at >= _SECONDS_BETWEEN_CHECKPOINTS:
                        save()
                        saved_at = time.monotonic()
                check()
        except StoppedBetweenSteps:
            processes.by_main(save)
            raise
