"""The text of STAR files: their tables, and the lines where each row stands. What columns mean is star.py's matter.

All that reads STAR files, and all that writes some of their rows back, goes by this one parser and its numbering.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..datatypes import InputError
from .files import regular_file

# A value in quotes may hold spaces; the closing quote is one that a space follows.
_QUOTED = re.compile(rb"""'.*?'(?=\s|$)|".*?"(?=\s|$)|\S+""")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass
class StarTable:
    """A table of a STAR file, whose rows stay text until a column is asked for.

    Attributes
    ----------
    path
        The file.
    block
        Name of the block, what follows ``data_``.
    is_loop
        Whether it is a loop; else the block holds single values, and is a table of one row.
    columns
        Names without the leading underscore.
    label_lines
        Where each column is named, from 0.
    rows
        Lines of the rows, from 0.
    lines
        All lines of the file, with their ends.
    gap
        Line of the first row that stands after a blank line, where RELION has stopped reading; None: there is none.
    """

    path: Path
    block: str
    is_loop: bool
    lines: Sequence[bytes] = field(repr=False)
    columns: list[str] = field(default_factory=list)
    label_lines: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list, repr=False)
    gap: int | None = None

    def __len__(self) -> int:
        return len(self.rows) if self.is_loop else 1

    def words(self, *names: str) -> list[list[bytes]]:
        """Values of some columns as they are written, row by row.

        Raises
        ------
        InputError
            A row that has more or fewer values than there are columns.
        """
        places = [self.columns.index(name) for name in names]
        if not self.is_loop:
            return [[row_values(self.lines[self.label_lines[place]])[1] for place in places]]
        return [[values[place] for place in places] for values in map(self.values, range(len(self.rows)))]

    def values(self, row: int) -> list[bytes]:
        """All values of a row of a loop, as many as there are columns."""
        number = self.rows[row]
        values = row_values(self.lines[number])
        if len(values) != len(self.columns):
            raise InputError(
                f"{self.path}: line {number + 1} has {len(values)} values for the {len(self.columns)} columns of "
                f"data_{self.block}"
            )
        return values

    def texts(self, name: str) -> list[str]:
        """Give a column as text, without quotes; bytes that are no UTF-8 stay what they are as names of files."""
        return [_unquoted(value).decode("utf-8", "surrogateescape") for (value,) in self.words(name)]

    def numbers(self, *names: str, finite: bool = True) -> NDArray[np.float64]:
        """Columns as ``(rows, columns)`` numbers.

        Raises
        ------
        InputError
            Values that are no numbers, or, if they have to be finite, not finite.
        """
        words = [[_unquoted(word) for word in row] for row in self.words(*names)]
        try:
            values = _numbers(words).reshape(len(words), len(names))
        except ValueError:
            row, word = next((k, word) for k, row in enumerate(words) for word in row if not _is_number(word))
            raise InputError(
                f"{self.path}: {', '.join(names)} must be numbers, not {word.decode(errors='replace')!r}, row {row + 1}"
            ) from None
        if finite and not np.isfinite(values).all():
            raise InputError(f"{self.path}: {', '.join(names)} hold values that are not finite")
        return values


def read_tables(path: Path) -> list[StarTable]:
    """Read the tables of a STAR file in the order in which they stand; those without rows too.

    Raises
    ------
    InputError
        No STAR file, a block or a label that comes twice, or lines that mean nothing or more than one thing.
    """
    regular_file(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    if b"\0" in content:
        raise InputError(f"{path}: is no text; a STAR file is")
    parser = _Parser(path, content.removeprefix(_BYTE_ORDER_MARK).splitlines(keepends=True))
    for number in range(len(parser.lines)):
        parser.take(number)
    if parser.block is None:
        raise InputError(f"{path}: has no data_ block; is it a STAR file?")
    return parser.tables


def row_values(line: bytes) -> list[bytes]:
    """Values of a line, in their quotes, without a comment at its end."""
    return [line[start:stop] for start, stop in value_spans(line)]


def value_spans(line: bytes) -> list[tuple[int, int]]:
    """Where the values of a line begin and end."""
    spans = [found.span() for found in _QUOTED.finditer(line)]
    comment = next((i for i, (start, _) in enumerate(spans) if line[start] == ord("#")), None)
    return spans[:comment]


class _Parser:
    """Takes the lines of a file one by one."""

    def __init__(self, path: Path, lines: list[bytes]) -> None:
        self.path, self.lines = path, lines
        self.block: str | None = None
        self.tables: list[StarTable] = []
        self._names: dict[str, int] = {}
        self._table: StarTable | None = None  # the one that lines go on with
        self._blank = True  # the line before was blank or a comment

    def take(self, number: int) -> None:
        """Take in a line."""
        values = row_values(self.lines[number])
        if values:
            self._take_values(number, values)
        self._blank = not values

    def _take_values(self, number: int, values: list[bytes]) -> None:
        first, alone = values[0], len(values) == 1
        keyword = first.lower() if alone else b""  # a row may begin with any of these words, but has more than one
        in_rows = self._table is not None and self._table.is_loop and bool(self._table.rows)
        if keyword.startswith(b"data_"):
            self._refuse_data_row(number)
            self._begin_block(number, first[5:].decode("latin-1"))
        elif self.block is None:
            raise InputError(f"{self.path}: line {number + 1} stands before any data_ block; is it a STAR file?")
        elif keyword == b"loop_":
            self._table = StarTable(self.path, self.block, True, self.lines)
            self.tables.append(self._table)
        elif first.startswith(b"_") and not in_rows:
            self._label(number, first[1:].decode("latin-1"), values[1:])
        elif self._table is not None and self._table.is_loop and self._table.columns:
            if in_rows and self._table.gap is None and not self.lines[number - 1].strip():
                self._table.gap = number
            self._table.rows.append(number)
        else:
            raise InputError(f"{self.path}: line {number + 1} belongs to no table: it follows no labels of a loop_")

    def _refuse_data_row(self, number: int) -> None:
        """Refuse a value of a table of one column that looks like the beginning of a block."""
        table = self._table
        if table is not None and table.is_loop and len(table.columns) == 1 and not self._blank:
            raise InputError(
                f"{self.path}: line {number + 1} begins with data_ and may be a row or a new block; put a blank line "
                "before a block, or quotes around a value"
            )

    def _begin_block(self, number: int, name: str) -> None:
        if name and name in self._names:
            raise InputError(
                f"{self.path}: block data_{name} is there twice, in lines {self._names[name] + 1} and {number + 1}; "
                "were files put one after the other? Write each of them to a file of its own, or join their tables"
            )
        self.block, self._table = name, None
        self._names[name] = number

    def _label(self, number: int, name: str, rest: list[bytes]) -> None:
        assert self.block is not None
        if self._table is None:
            self._table = StarTable(self.path, self.block, False, self.lines)
            self.tables.append(self._table)
        table = self._table
        if len(rest) != (not table.is_loop):
            wanted = "one value" if not table.is_loop else "no value in the labels of a loop_"
            raise InputError(f"{self.path}: line {number + 1}: _{name} has {len(rest)} values, where {wanted} belongs")
        if name in table.columns:
            earlier = table.label_lines[table.columns.index(name)]
            raise InputError(
                f"{self.path}: the label _{name} is there twice, in lines {earlier + 1} and {number + 1}; take one out"
            )
        table.columns.append(name)
        table.label_lines.append(number)


def _unquoted(value: bytes) -> bytes:
    return value[1:-1] if len(value) > 1 and value[:1] in (b"'", b'"') and value[-1:] == value[:1] else value


def _numbers(words: list[list[bytes]]) -> NDArray[np.float64]:
    if any(b"_" in word for row in words for word in row):  # NumPy takes 1_0 for 10
        raise ValueError("an underscore is no part of a number")
    return np.array(words, dtype=np.bytes_).astype(np.float64)


def _is_number(word: bytes) -> bool:
    try:
        _numbers([[word]])
    except ValueError:
        return False
    return True
