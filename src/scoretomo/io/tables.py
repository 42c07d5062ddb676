"""Tables as CSV: a header, then one row of plain values for each thing."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..datatypes import InputError
from .files import write_text


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


def read_table(path: Path, columns: Sequence[str] = ()) -> list[dict[str, str]]:
    """Read the rows of a table as text by column.

    Raises
    ------
    InputError
        No such file, a row that does not fit the header, or a column missing.
    """
    try:
        lines = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a table ({error})") from error
    header = lines[0] if lines else []
    missing = [name for name in columns if name not in header]
    if missing:
        raise InputError(f"{path}: has no column {', '.join(missing)}")
    wrong = [number for number, line in enumerate(lines, 1) if line and len(line) != len(header)]
    if wrong:
        raise InputError(f"{path}: line {wrong[0]} does not have {len(header)} values as the header has")
    return [dict(zip(header, line, strict=True)) for line in lines[1:] if line]
