"""Files that can be read; and files that are complete or absent, written beside their place and renamed over it."""

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

_BELIEVED_RATIO = 100
_ALWAYS_BELIEVED = 1 << 26


def regular_file(path: Path) -> int:
    """Make sure that a file can be read before any reader opens it; its length in bytes.

    Readers would wait for a pipe without end, and libraries have words of their own for each of the others.

    Raises
    ------
    InputError
        No such file, a folder, a pipe or device, links that lead nowhere or round in a circle, no permission, or a name
        that is not UTF-8 and could be written into no table.
    """
    try:
        str(path).encode()
        mode = path.stat().st_mode  # before it is opened, since that may wait
        if stat.S_ISREG(mode):
            with open(path, "rb") as file:
                return os.fstat(file.fileno()).st_size
    except UnicodeEncodeError as error:
        shown = os.fsencode(path).decode(errors="replace")
        raise InputError(f"{shown}: the name is not UTF-8; rename the file or its folder") from error
    except FileNotFoundError as error:
        link = "; it is a link to a place where nothing is" if path.is_symlink() else ""
        raise InputError(f"{path}: no such file{link}") from error
    except (OSError, ValueError) as error:  # a name with a zero byte is a ValueError
        raise InputError(f"{path}: {reason(error)}") from error
    raise InputError(f"{path}: {'is a folder' if stat.S_ISDIR(mode) else 'is no regular file'}")


def believable_bytes(length: int) -> int:
    """Most bytes that a file of ``length`` bytes is believed to stand for where it is compressed, or tells sizes.

    Images of particles are compressed to a half or a tenth, masks and blank images among them further; a small file
    that declares a thousand times its length is damaged, or made to fill the memory.
    """
    return max(_ALWAYS_BELIEVED, _BELIEVED_RATIO * length)


def reason(error: BaseException) -> str:
    """Words of an error of the system or a library, in a line of bearable length."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())[:200]


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
