"""One job at a time in a run folder, and no trace of one that was killed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from .datatypes import InputError
from .processes import by_main, wait_for_all

_WAIT = "wait for it to end"


@contextmanager
def written_to(folder: Path) -> Iterator[None]:
    """Keep jobs out while something is written into the folder of one, by a command that works anywhere else too.

    A job that begins clears away what is half written in its folder. Where ``folder`` is not in one that jobs lock,
    nothing is done.

    Raises
    ------
    InputError
        A job is at work there.
    """
    place = folder.resolve()
    around = (place, *place.parents)
    of_job = next((each for each in around if (each / ".lock").is_file() and not (each / ".lock").stat().st_size), None)
    with ExitStack() as stack:
        if of_job is not None:
            stack.enter_context(locked(of_job, f"{_WAIT}, or have the results written elsewhere with -o"))
        yield


@contextmanager
def locked(folder: Path, advice: str = _WAIT) -> Iterator[None]:
    """Keep other jobs out of a run folder, and put right what a killed one has left half written.

    Processes that work together are one job: the main one locks, the others wait for that.

    Raises
    ------
    InputError
        Another job is at work in it, or the folder cannot be made.
    """
    with ExitStack() as stack:
        by_main(lambda: stack.enter_context(_locked_by_one(folder, advice)))
        yield
        wait_for_all()  # nobody may come in while one of them is still at work


@contextmanager
def _locked_by_one(folder: Path, advice: str) -> Iterator[None]:
    existed = folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}") from error
    with lock:
        if os.name == "posix":  # elsewhere nothing keeps two processes apart
            import fcntl

            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"{folder}: another scoretomo is at work in this folder; {advice}") from None
        _put_right(folder)
        try:
            yield
        finally:
            if not existed and [path.name for path in folder.iterdir()] == [".lock"]:  # nothing came of it
                (folder / ".lock").unlink()
                folder.rmdir()


def _put_right(folder: Path) -> None:
    """Clear away what a killed process has left half written."""
    for partial in folder.rglob(".*.partial*"):
        shutil.rmtree(partial) if partial.is_dir() else partial.unlink(missing_ok=True)
    previous = folder / ".denoiser.previous"
    if previous.exists() and not (folder / "denoiser").exists():  # killed between two renamings
        previous.rename(folder / "denoiser")
