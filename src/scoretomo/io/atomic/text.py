"""The text of a file of atoms, compressed or not, with a limit to how much of it there is."""

import gzip
import io
import zlib
from pathlib import Path

from ...datatypes import InputError

_GZIP = b"\x1f\x8b"
# The largest mmCIF files of the PDB have 400 MB of text.
_MOST_TEXT = 2**29
# Atoms shrink to a fifth when they are compressed; what shrinks to less than this part is no model, and is read up to
# a size that does no harm.
_MOST_SHRUNK, _HARMLESS = 40, 2**26


def read_text(path: Path) -> bytes:
    """Read a text file, compressed with gzip or not whatever its name says; lines end with a newline.

    Raises
    ------
    InputError
        There is no such file, it is empty or no text, or there is too much of it.
    """
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder; give a PDB or mmCIF file")
        if not path.exists():
            raise InputError(f"{path}: there is no such file")
        if not path.is_file():
            raise InputError(f"{path}: is no ordinary file; give a PDB or mmCIF file")
        size = path.stat().st_size
        if size > _MOST_TEXT:
            raise InputError(_too_much(path, _MOST_TEXT))
        text = path.read_bytes()
        if text.startswith(_GZIP):
            text = _decompressed(path, text)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); copy it again") from error
    if not text:
        raise InputError(f"{path}: is empty")
    if b"\0" in text:
        raise InputError(f"{path}: holds binary data; a PDB or mmCIF file is needed, as text or compressed with gzip")
    text = text.removeprefix(b"\xef\xbb\xbf")  # byte order mark
    return text.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in text else text


def _decompressed(path: Path, compressed: bytes) -> bytes:
    most = min(_MOST_TEXT, max(_HARMLESS, _MOST_SHRUNK * len(compressed)))
    with gzip.GzipFile(fileobj=io.BytesIO(compressed)) as file:
        text = file.read(most + 1)
    if len(text) > most:
        raise InputError(_too_much(path, most))
    return text


def _too_much(path: Path, most: int) -> str:
    return f"{path}: has more than {most // 2**20} MB of text, too much for a model; keep what is needed of it"
