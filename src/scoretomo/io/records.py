"""What an earlier command has left to be read back, as JSON or TOML: whole, or refused in a line that says what to do.

Such a file was written complete by this package. What else it may be, cut, empty, of random bytes, of another version
or edited by hand, is found out here, where it enters, and nowhere else.
"""

import json
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch

from ..datatypes import InputError
from .settings import typed

Record = TypeVar("Record")

# Files of this package have a few MB at most; a reader that believes any length runs out of memory.
_MOST_BYTES = 2**28


def read_json(path: Path, kind: type[Record], advice: str) -> Record:
    """Read a JSON file as a dataclass or a ``TypedDict``, every type checked.

    Parameters
    ----------
    path
        The file.
    kind
        What it holds; a ``TypedDict`` may have more keys.
    advice
        How to go on without the file, such as ``delete it``.

    Raises
    ------
    InputError
        It cannot be read, is no JSON (NaN is none), or not of this kind.
    """
    with understood(path, advice):
        return parse_json(read_text(path), kind)


def parse_json(text: str, kind: type[Record]) -> Record:
    """Read JSON as :func:`read_json` does a file, inside :func:`understood`.

    Raises
    ------
    KeyError, TypeError, ValueError
        It is no JSON, or not of this kind.
    """
    value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    record: Record = typed(kind, value, "it")
    return record


def read_toml(path: Path, kind: type[Record], advice: str) -> Record:
    """Read a TOML file as :func:`read_json` does JSON."""
    with understood(path, advice):
        record: Record = typed(kind, tomllib.loads(read_text(path)), "it")
        return record


def read_text(path: Path) -> str:
    """Read a text file (UTF-8) that this package has written.

    Raises
    ------
    OSError, ValueError
        It cannot be read, has more bytes than any such file, or is not UTF-8.
    """
    with path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ValueError(f"more than {_MOST_BYTES // 10**6} MB")
    return content.decode("utf-8")


@contextmanager
def understood(path: Path, advice: str) -> Iterator[None]:
    """Turn what goes wrong while something is made of the contents of a file into the line that says so.

    Parameters
    ----------
    path, advice
        The file, and how to go on without it.

    Raises
    ------
    InputError
        Naming the file, what is wrong and the advice.
    """
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); {advice}") from error
    except KeyError as error:
        name = str(error.args[0]) if error.args else "something"
        raise InputError(f"{path}: is of another version ({name!r} is not in both); {advice}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: cannot be understood (it is not UTF-8); {advice}") from error
    except torch.OutOfMemoryError:  # it may be whole, and the machine too small
        raise
    except (InputError, ArithmeticError, AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        words = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"{path}: cannot be understood ({words[0]}); {advice}") from error


def _refuse_constant(word: str) -> Any:
    raise ValueError(f"{word} is no number")


def _finite(word: str) -> float:
    value = float(word)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{word} is too large a number")
    return value
