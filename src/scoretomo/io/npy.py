"""NumPy's files of arrays, ``.npy`` and ``.npz``: headers are believed only as far as the file is long.

NumPy's own reader takes whatever a header declares: it asks for terabytes, makes Python objects, and ends in the errors
of a parser of source code. Here a header must be what NumPy writes, of numbers and text, for no more bytes than there
are; then the file is mapped into memory, and nothing is read before it is asked for.
"""

import ast
import math
import re
import struct
import warnings
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile, ZipFile

import numpy as np
from numpy.typing import NDArray

from ..datatypes import InputError
from .files import believable_bytes, reason, regular_file

_MAGIC = b"\x93NUMPY"
# A table of cryoSPARC with a hundred columns has 6 kB of header.
_LONGEST_HEADER = 1 << 16
_MOST_AXES = 32
_KEYS = {"descr", "fortran_order", "shape"}
_PLAIN = re.compile(r"[<>|=]?[biufcSU][0-9]{1,9}")
_PADDING = re.compile(r"\|V[0-9]{1,5}")  # of a record, under an empty name
_VALUES_AT_ONCE = 1 << 22

# What Python's parser, NumPy's types and the reader of archives throw at bytes that are none.
_NO_LITERAL = (ValueError, TypeError, SyntaxError, MemoryError, RecursionError)
_BROKEN = (OSError, ValueError, TypeError, LookupError, OverflowError, MemoryError, struct.error)
_BROKEN_ARCHIVE = (*_BROKEN, BadZipFile, zlib.error, EOFError, RuntimeError)


@dataclass(frozen=True)
class _Header:
    """What an array is, and the byte where its values begin."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    order: Literal["C", "F"]
    offset: int


def read_npy(path: Path) -> NDArray[Any]:
    """Map an array of numbers, text or records of them (such as cryoSPARC's ``.cs``) into memory, read-only.

    Its type and order in memory are those of the file; complex numbers and text are for the caller to refuse. No
    Python objects are made.

    Raises
    ------
    InputError
        No such file or none that can be read; no header as NumPy writes it; types other than numbers and text; more or
        fewer bytes than the header declares.
    """
    length = regular_file(path)
    try:
        with open(path, "rb") as file:
            header = _header(file.read(_LONGEST_HEADER + 12), length)
        if 0 in header.shape:  # no memory can be mapped to nothing
            return np.zeros(header.shape, header.dtype)
        mapped = np.memmap(path, header.dtype, "r", header.offset, header.shape, header.order)
    except _BROKEN as error:
        raise InputError(f"{path}: cannot be read as a NumPy array: {reason(error)}") from error
    return np.asarray(mapped)


def read_npz(path: Path, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Read those of the named arrays that an ``.npz`` archive has.

    Raises
    ------
    InputError
        No such file or no archive; arrays as in :func:`read_npy`; compressed to less than a hundredth of what they
        would take in memory.
    """
    left = believable_bytes(regular_file(path))
    arrays: dict[str, NDArray[Any]] = {}
    try:
        with ZipFile(path) as archive:
            members = {member.filename: member for member in archive.infolist()}
            for name in names:
                if (member := members.get(f"{name}.npy")) is None:
                    continue
                with archive.open(member) as file:
                    content = file.read(min(member.file_size, left) + 1)
                if len(content) > left:
                    raise ValueError(f"{name} takes more than {left} bytes in memory, too many for a file of its size")
                left -= len(content)
                header = _header(content, len(content))
                flat = np.frombuffer(content, header.dtype, math.prod(header.shape), header.offset)
                arrays[name] = flat.reshape(header.shape, order=header.order).copy()
    except _BROKEN_ARCHIVE as error:
        raise InputError(f"{path}: not a readable .npz file: {reason(error)}") from error
    return arrays


def check_single_precision(path: Path, values: NDArray[Any]) -> None:
    """Refuse finite values that would become infinite in single precision; block by block, for mapped arrays.

    Raises
    ------
    InputError
        Some are beyond 3.4e38.
    """
    most = np.finfo(np.float32).max
    if values.dtype.kind != "f" or values.dtype.itemsize <= 4:
        return
    rows = max(1, _VALUES_AT_ONCE // max(1, values[:1].size))
    for start in range(0, len(values), rows):
        magnitudes = np.abs(values[start : start + rows])
        if (too_large := np.isfinite(magnitudes) & (magnitudes > most)).any():
            worst = magnitudes[too_large].max()
            raise InputError(f"{path}: has values up to {worst:.3g}, beyond single precision; divide all by a constant")


def single_precision(path: Path, values: NDArray[Any]) -> NDArray[np.float32]:
    """Copy real numbers of any type and order to single precision, row by row; errors as of the check above."""
    check_single_precision(path, values)
    with np.errstate(invalid="ignore"):  # NaN of a kind that processors complain of
        return values.astype(np.float32, order="C")


def _header(start: bytes, length: int) -> _Header:
    """Read what the first bytes say of an array in ``length`` bytes; ValueError and its like where that cannot be."""
    if not start.startswith(_MAGIC):
        raise ValueError("it does not begin as one")
    version = tuple(start[6:8])
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError("its version is unknown")
    prefix = 10 if version == (1, 0) else 12
    (size,) = struct.unpack("<H" if version == (1, 0) else "<I", start[8:prefix])
    if size > _LONGEST_HEADER:
        raise ValueError(f"its header declares {size} bytes, more than {_LONGEST_HEADER}")
    if prefix + size > len(start):
        raise ValueError("it ends within its header")
    text = start[prefix : prefix + size].decode("utf-8" if version == (3, 0) else "latin-1")
    shape, dtype, order = _declared(text)
    declared, there = math.prod(shape) * dtype.itemsize, length - prefix - size
    if declared != there:
        kind = "records" if dtype.names else dtype.name
        which = "it is truncated" if declared > there else "are there several arrays in it?"
        raise ValueError(f"its header declares {shape} {kind}, {declared} bytes, and it has {there}; {which}")
    return _Header(shape, dtype, order, prefix + size)


def _declared(text: str) -> tuple[tuple[int, ...], np.dtype[Any], Literal["C", "F"]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the parser, about odd text
        try:  # Python 2 wrote long integers with an L
            fields = ast.literal_eval(re.sub(r"(?<=[0-9])L(?=[,)])", "", text).strip())
        except _NO_LITERAL as error:
            raise ValueError("its header is not that of an array") from error
    if not isinstance(fields, dict) or set(fields) != _KEYS:
        raise ValueError("its header is not that of an array")
    shape, fortran = fields["shape"], fields["fortran_order"]
    if not isinstance(shape, tuple) or not all(type(axis) is int and 0 <= axis < 2**63 for axis in shape):
        raise ValueError("its shape is not made of counts")
    if len(shape) > _MOST_AXES:
        raise ValueError(f"it has {len(shape)} axes")
    if not isinstance(fortran, bool):
        raise ValueError("its order in memory is unknown")
    dtype = _dtype(fields["descr"])
    if dtype.itemsize == 0 and math.prod(shape):
        raise ValueError("its values take no bytes")
    return shape, dtype, "F" if fortran else "C"


def _dtype(described: Any) -> np.dtype[Any]:
    """Type of numbers, text, or records of them; never of Python objects."""
    if isinstance(described, str):
        _refuse_other_types(described)
    elif isinstance(described, list) and described:
        for field in described:
            match field:
                case ("", str(padding)) if _PADDING.fullmatch(padding):
                    pass
                case (str(), str(kind)):
                    _refuse_other_types(kind)
                case (str(), str(kind), tuple(lengths)) if all(type(n) is int and 0 < n < 2**31 for n in lengths):
                    _refuse_other_types(kind)
                    if np.dtype(kind).itemsize == 0:
                        raise ValueError("some of its columns take no bytes")
                case _:
                    raise ValueError("its records are not made of plain columns")
    else:
        raise ValueError("its type is none of numbers or text")
    dtype: np.dtype[Any] = np.lib.format.descr_to_dtype(described)
    return dtype


def _refuse_other_types(kind: str) -> None:
    if "O" in kind:
        raise ValueError("it holds Python objects, which are not read; save plain numbers")
    if not _PLAIN.fullmatch(kind):
        raise ValueError(f"its type {kind[:20]!r} is none of numbers or text")
