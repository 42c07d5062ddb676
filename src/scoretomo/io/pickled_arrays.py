"""Pickles of plain arrays, read by hand: what such a file asks for is compared with a short list and never called.

Python's pickle machine calls what a file names and sets what state it gives. Even with NumPy's own calls and no others
that can bring the interpreter down. Here the few opcodes that files of arrays have are followed one by one. They make
numbers, text, bytes, tuples and lists, and arrays of real numbers whose bytes are all in the file.
"""

import math
import os
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..datatypes import InputError

# The opcodes of one array are about 60, and of two about 100; values that are not in arrays take one each and more.
_STEPS = 10_000
_NUMBERS = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"}
_NAMES_OF_OPCODES = {opcode.code.encode("latin-1"): opcode.name for opcode in pickletools.opcodes}
_ADVICE = (
    "it must hold arrays of real numbers and nothing else; have cryoDRGN make it again, or write it by "
    "pickle.dump(numpy.asarray(values), file)"
)


def read_pickled_arrays(path: Path, *, others_follow: bool = False) -> tuple[NDArray[Any], ...]:
    """Read a pickle of one array of real numbers, or of a tuple or list of them, without running anything in it.

    Protocols 0 to 5 as Python 3 writes them, of NumPy 1 and 2. Memory and time are bounded by the length of the file.

    Parameters
    ----------
    path
        The file.
    others_follow
        Whether more pickles may follow the first; they are not read.

    Returns
    -------
    tuple of array
        Of integers or floating point numbers, in the order of bytes that the file has, none of them empty. They may
        share memory, and cannot be written to.

    Raises
    ------
    InputError
        Not such a file; it says what else the file holds or asks for.
    """
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: is not a file")
        with path.open("rb") as file:
            if file.peek(2).startswith(b"PK"):
                raise _Refused("it is an archive of torch.save, as cryoDRGN's weights are")
            stream = _Stream(file)
            content = _Machine(stream).run()
            if stream.left and not others_follow:
                raise _Refused(f"it goes on for {stream.left} bytes behind its end")
        return _arrays(content)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    except (ValueError, LookupError) as error:  # whatever is wrong with a file, the machine ends in one of these
        what = error if isinstance(error, _Refused) else "it is damaged, or no pickle"
        raise InputError(f"{path}: cannot be read as a pickle of NumPy arrays: {what}; {_ADVICE}") from error


class _Refused(ValueError):
    """Says what a file holds or asks for that is not read."""


class _Name(Enum):
    """What a pickle of arrays calls."""

    NDARRAY = auto()
    DTYPE = auto()
    RECONSTRUCT = auto()
    FROM_BUFFER = auto()
    ENCODE = auto()
    BYTES = auto()


_NAMES = {
    "numpy.ndarray": _Name.NDARRAY,
    "numpy.dtype": _Name.DTYPE,
    "numpy.core.multiarray._reconstruct": _Name.RECONSTRUCT,  # NumPy 1
    "numpy._core.multiarray._reconstruct": _Name.RECONSTRUCT,  # NumPy 2
    "numpy.core.numeric._frombuffer": _Name.FROM_BUFFER,
    "numpy._core.numeric._frombuffer": _Name.FROM_BUFFER,
    "_codecs.encode": _Name.ENCODE,  # how protocols 0 to 2 write bytes, and the next two if there are none
    "__builtin__.bytes": _Name.BYTES,
    "builtins.bytes": _Name.BYTES,
}


@dataclass(eq=False)
class _Type:
    """A type of NumPy's as a file describes it: kind and bytes of a value, and then the state of the type."""

    code: str
    state: object = None

    def plain(self) -> np.dtype[Any]:
        match self.state:
            case (3, "<" | ">" | "|" as order, None, None, None, -1, -1, 0) if self.code in _NUMBERS:
                if order != "|" or self.code.endswith("1"):
                    return np.dtype(order + self.code)
        raise _Refused(f"it holds an array of type {_shown(self.code)}")


@dataclass(eq=False)
class _Array:
    """An array, which a file announces first and fills later."""

    values: NDArray[Any] | None = None


class _Stream:
    """The bytes of a file, none of whose lengths are believed beyond its end."""

    def __init__(self, file: BufferedReader) -> None:
        self.file = file
        self.left = os.fstat(file.fileno()).st_size

    def take(self, count: int) -> bytes:
        data = self.file.read(count) if count <= self.left else b""
        if len(data) < count:
            raise _Refused("it ends too early, perhaps since it was not copied completely")
        self.left -= count
        return data

    def number(self, width: int, *, signed: bool = False) -> int:
        return int.from_bytes(self.take(width), "little", signed=signed)

    def counted(self, width: int) -> bytes:
        """Bytes after their number, which has ``width`` bytes itself."""
        return self.take(self.number(width))

    def line(self) -> bytes:
        line = self.file.readline()
        if not line.endswith(b"\n"):
            raise _Refused("it ends too early, perhaps since it was not copied completely")
        self.left -= len(line)
        return line[:-1]

    def decimal(self) -> int:
        """Read a number in text, such as 123 or 123L; false and true are 00 and 01."""
        return int(self.line().removesuffix(b"L"))


# What opcodes put on the stack, by what follows them in the file.
_VALUES: dict[bytes, Callable[[_Stream], object]] = {
    b"N": lambda stream: None,
    b"\x88": lambda stream: True,
    b"\x89": lambda stream: False,
    b")": lambda stream: (),
    b"]": lambda stream: [],
    b"I": _Stream.decimal,
    b"L": _Stream.decimal,
    b"K": lambda stream: stream.number(1),
    b"M": lambda stream: stream.number(2),
    b"J": lambda stream: stream.number(4, signed=True),
    b"\x8a": lambda stream: int.from_bytes(stream.counted(1), "little", signed=True),
    b"V": lambda stream: stream.line().decode("raw-unicode-escape"),
    b"\x8c": lambda stream: stream.counted(1).decode("utf-8", "surrogatepass"),
    b"X": lambda stream: stream.counted(4).decode("utf-8", "surrogatepass"),
    b"\x8d": lambda stream: stream.counted(8).decode("utf-8", "surrogatepass"),
    b"C": lambda stream: stream.counted(1),
    b"B": lambda stream: stream.counted(4),
    b"\x8e": lambda stream: stream.counted(8),
    b"\x96": lambda stream: stream.counted(8),
}
# Where opcodes keep the value on top of the stack, and where they take it from.
_PUT: dict[bytes, Callable[[_Stream], int]] = {
    b"p": _Stream.decimal,
    b"q": lambda stream: stream.number(1),
    b"r": lambda stream: stream.number(4),
}
_GET: dict[bytes, Callable[[_Stream], int]] = {
    b"g": _Stream.decimal,
    b"h": lambda stream: stream.number(1),
    b"j": lambda stream: stream.number(4),
}
_TUPLES = {b"\x85": 1, b"\x86": 2, b"\x87": 3}
_HEADERS = {b"\x80": 1, b"\x95": 8}  # the protocol, and how many bytes to read ahead


class _Machine:
    """Follows the opcodes of a pickle; ends in ValueError or LookupError on any that no file of arrays has."""

    def __init__(self, stream: _Stream) -> None:
        self.stream = stream
        self.stack: list[object] = []
        self.marked: list[list[object]] = []
        self.memo: dict[int, object] = {}
        self.to_encode = stream.left  # each text is encoded once, and not over and over from the memo

    def run(self) -> object:
        for _ in range(_STEPS):
            code = self.stream.take(1)
            if code == b".":
                (content,) = self.stack
                return content
            self._step(code)
        raise _Refused("it holds thousands of values that are in no array")

    def _step(self, code: bytes) -> None:
        if code in _VALUES:
            self.stack.append(_VALUES[code](self.stream))
        elif code in _GET:
            self.stack.append(self.memo[_GET[code](self.stream)])
        elif code in _PUT:
            self.memo[_PUT[code](self.stream)] = self.stack[-1]
        elif code == b"\x94":
            self.memo[len(self.memo)] = self.stack[-1]
        elif code in _HEADERS:
            self.stream.take(_HEADERS[code])
        else:
            self._combine(code)

    def _combine(self, code: bytes) -> None:
        match code:
            case b"(":
                self.marked.append(self.stack)
                self.stack = []
            case b"t":
                self._push(tuple(self._since_mark()))
            case b"l":
                self._push(self._since_mark())
            case b"\x85" | b"\x86" | b"\x87":
                self._push(tuple(self._pop(_TUPLES[code])))
            case b"a":
                self._extend(self._pop(1))
            case b"e":
                self._extend(self._since_mark())
            case b"c":
                self._push(_named(self.stream.line().decode(), self.stream.line().decode()))
            case b"\x93":
                self._push(_named(*self._pop(2)))
            case b"i":  # how protocol 0 writes a call of a class
                raise _asks(self.stream.line().decode(), self.stream.line().decode())
            case b"R":
                self._push(_called(*self._pop(2)))
                self._limit(self.stack[-1])
            case b"b":
                (state,) = self._pop(1)
                _fill(self.stack[-1], state)
            case _ if code in _NAMES_OF_OPCODES and self.stream.file.tell() > 1:
                raise _Refused(f"it uses {_NAMES_OF_OPCODES[code]}, which arrays do not need")
            case _:
                raise ValueError

    def _limit(self, value: object) -> None:
        self.to_encode -= len(value) if isinstance(value, bytes) else 0
        if self.to_encode < 0:
            raise _Refused("it makes more bytes than it has")

    def _push(self, value: object) -> None:
        self.stack.append(value)

    def _pop(self, count: int) -> list[object]:
        values = self.stack[-count:]
        if len(values) < count:
            raise IndexError
        del self.stack[-count:]
        return values

    def _since_mark(self) -> list[object]:
        values, self.stack = self.stack, self.marked.pop()
        return values

    def _extend(self, values: list[object]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise ValueError
        target.extend(values)


def _named(module: object, name: object) -> _Name:
    found = _NAMES.get(f"{module}.{name}") if isinstance(module, str) and isinstance(name, str) else None
    if found is None:
        raise _asks(module, name)
    return found


def _called(name: object, arguments: object) -> object:
    """Give what a call would give, for the arguments that files of arrays have."""
    match name, arguments:
        case _Name.DTYPE, (str(code), 0, 1):
            return _Type(code)
        case _Name.RECONSTRUCT, (_Name.NDARRAY, (0,), b"b"):
            return _Array()
        case _Name.FROM_BUFFER, (bytes(data), _Type() as kind, tuple(shape), "C" | "F" as order):
            return _Array(_array(data, kind, shape, order))
        case _Name.FROM_BUFFER, (bytes(data), _Type() as kind, tuple(shape), "K", tuple(axes)):
            if len(axes) == len(shape) and all(type(axis) is int and axis in range(len(axes)) for axis in axes):
                return _Array(_array(data, kind, shape, "C").transpose(axes))
        case _Name.ENCODE, (str(text), "latin1"):
            return text.encode("latin-1")
        case _Name.BYTES, ():
            return b""
    raise _Refused("it calls NumPy as no file of arrays does")


def _fill(target: object, state: object) -> None:
    match target, state:
        case _Type(state=None), tuple():
            target.state = state
        case _Array(values=None), (1, tuple(shape), _Type() as kind, bool() | 0 | 1 as by_columns, bytes(data)):
            target.values = _array(data, kind, shape, "F" if by_columns else "C")
        case _Array(values=None), (1, tuple(), _Type(code=code), _, _):
            raise _Refused(f"it holds an array of type {_shown(code)}")
        case _:
            raise _Refused("it sets a state that no file of arrays sets")


def _array(data: bytes, kind: _Type, shape: tuple[object, ...], order: str) -> NDArray[Any]:
    dtype = kind.plain()
    if not data:
        raise _Refused("it holds an array without values")
    sides = [side for side in shape if type(side) is int and 0 < side <= len(data)]  # numbers of any length may be here
    if len(sides) < len(shape) or math.prod(sides) * dtype.itemsize != len(data):
        raise _Refused(f"it holds an array whose shape is not that of its {len(data)} bytes")
    return np.frombuffer(data, dtype).reshape(sides, order="F" if order == "F" else "C")


def _arrays(content: object) -> tuple[NDArray[Any], ...]:
    values = [
        part.values if isinstance(part, _Array) else None
        for part in (content if isinstance(content, tuple | list) else (content,))
    ]
    arrays = tuple(array for array in values if array is not None)
    if len(arrays) < len(values):
        raise _Refused("it holds something else than arrays")
    return arrays


def _asks(module: object, name: object) -> _Refused:
    return _Refused(f"it asks for {_shown(module)}.{_shown(name)}")


def _shown(text: object) -> str:
    """Text of a file for one line of a message."""
    return ascii(text[:60])[1:-1] if isinstance(text, str) else "nothing"
