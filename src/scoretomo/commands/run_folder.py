"""A run folder that a verb is given: open it, and keep others out."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..datatypes import InputError
from ..runs import Run, locked, open_run


@contextmanager
def opened(folder: Path) -> Iterator[Run]:
    """Read a run folder and keep other jobs out of it.

    Raises
    ------
    InputError
        Not a run folder; another job is at work in it.
    """
    if not (folder / "config.toml").exists():  # before the lock, which would make the folder
        raise InputError(f"{folder}: is no run folder (no config.toml); make one with `scoretomo train`")
    with locked(folder):
        yield open_run(folder)
