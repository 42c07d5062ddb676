"""Tables as CSV: a header, then one row of plain values for each thing."""

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..datatypes import InputError
from .files import write_text

_MOST_SHOWN = 20


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows that all have the columns of the first, complete or not at all; None becomes an empty cell.

    Raises
    ------
    ValueError
        No row, or rows of other columns.
    """
    if not rows:
        raise ValueError(f"{path}: a table needs a row to know its columns by")
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_table(
    path: Path, columns: Sequence[str] = (), *, whole: Sequence[str] = (), numbers: Sequence[str] = (), advice: str = ""
) -> list[dict[str, str]]:
    """Read the rows of a table as text by column.

    Parameters
    ----------
    path
        The file.
    columns
        Those that it must have.
    whole, numbers
        Those that it must have besides, in which every value is a whole number, or a number that is finite.
    advice
        How to go on without the table, if it is one of ours.

    Raises
    ------
    InputError
        No such file, a row that does not fit the header, a column missing, or a value that is no number.
    """
    advice = advice and f"; {advice}"
    try:
        lines = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a table ({error}){advice}") from error
    header = lines[0] if lines else []
    missing = [name for name in (*columns, *whole, *numbers) if name not in header]
    if missing:
        raise InputError(f"{path}: has no column {', '.join(missing)}{advice}")
    wrong = [number for number, line in enumerate(lines, 1) if line and len(line) != len(header)]
    if wrong:
        raise InputError(f"{path}: line {wrong[0]} does not have {len(header)} values as the header has{advice}")
    rows = [dict(zip(header, line, strict=True)) for line in lines[1:] if line]
    for names, convert, words in ((whole, int, "whole number"), (numbers, finite, "number")):
        for name in names:
            for number, row in enumerate(rows, 1):
                if not _is(convert, row[name]):
                    said = f"row {number} has {row[name][:_MOST_SHOWN]!a} for {name}, which is no {words}"
                    raise InputError(f"{path}: {said}{advice}")
    return rows


def finite(text: str) -> float:
    """Read a number.

    Raises
    ------
    ValueError
        It is none, or is not finite.
    """
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not finite")
    return value


def _is(convert: Callable[[str], object], text: str) -> bool:
    try:
        convert(text)
    except ValueError:
        return False
    return True
