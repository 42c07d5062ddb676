"""Files that are complete or absent: written beside their place, then renamed over it."""

import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..datatypes import InputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``, which takes its place when the block ends well.

    On any error the temporary file is removed and ``path`` is as it was. A process that is killed leaves at most
    a hidden ``.NAME.*.partial`` behind. Several processes may write the same path; the last to finish wins.

    Raises
    ------
    InputError
        The file cannot be written: no such folder, no permission, disk full.

    Examples
    --------
    >>> with replacing(Path("metrics.txt")) as temporary:  # doctest: +SKIP
    ...     temporary.write_text("done")
    """
    path = Path(path)
    # the suffix is kept, since some writers choose the format by it
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.partial{path.suffix}")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        if os.name == "posix":  # the renaming itself is on disk only when the folder is
            _sync(path.parent)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # gone already, or in a folder that never was
            temporary.unlink()


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Give a new folder beside ``folder``, which takes its place when the block ends well.

    On any error the new folder is removed and ``folder`` is as it was. A process that is killed leaves at most a hidden
    ``.NAME.partial`` behind.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def regular_file(path: Path) -> Path:
    """Give the path back if a file is there that can be read to its end.

    Raises
    ------
    InputError
        Nothing is there, or a folder, a pipe, a device, or a link that leads nowhere.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        missing = isinstance(error, FileNotFoundError)
        raise InputError(f"{path}: {'no such file' if missing else getattr(error, 'strerror', error)}") from error
    if stat.S_ISDIR(mode):
        raise InputError(f"{path}: is a folder; give a file in it")
    if not stat.S_ISREG(mode):
        raise InputError(f"{path}: is no regular file but a pipe or a device; give a file")
    return path


def write_text(path: Path, text: str) -> None:
    """Write a text file (UTF-8), complete or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, complete or not at all; NaN is refused, since it is not JSON."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
