"""A run folder that a verb is given: open it, and keep others out."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .. import processes
from ..datatypes import InputError
from ..run_lock import locked
from ..runs import Run, open_run


@contextmanager
def opened(folder: Path, *, shared: bool = False) -> Iterator[Run]:
    """Read a run folder and keep other jobs out of it.

    Parameters
    ----------
    folder
        As the user gave it.
    shared
        Whether the verb shares its work out where several processes were started for it.

    Raises
    ------
    InputError
        Not a run folder; another job is at work in it; several processes for a verb that is the work of one.
    """
    if not shared and processes.count() > 1:
        raise InputError(
            f"{folder}: train, reconstruct and run share their work between processes, this does not; start it without "
            "a launcher"
        )
    if not (folder / "config.toml").exists():  # before the lock, which would make the folder
        raise InputError(f"{folder}: is no run folder (no config.toml); make one with `scoretomo train`")
    with locked(folder):
        yield open_run(folder)
