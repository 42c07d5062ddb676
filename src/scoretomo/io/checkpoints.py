"""Checkpoints: where something long stands, complete or absent, with what it was made of."""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from ..datatypes import InputError
from .files import replacing


def save_checkpoint(path: Path, values: Mapping[str, Any]) -> None:
    """Write tensors and plain values, complete or not at all."""
    # torch reports a full disk as a RuntimeError of its own, plain files as an OSError
    buffer = BytesIO()
    torch.save(dict(values), buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load_checkpoint(path: Path, *, made_of: object = None, lazily: bool = False) -> dict[str, Any] | None:
    """Read what :func:`save_checkpoint` has written, on the CPU; None if there is nothing, or not of ``made_of``.

    Lazily, tensors are read from the file when they are used, and only then.
    """
    if not path.exists():
        return None
    try:
        values: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=lazily)
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        raise InputError(f"{path}: cannot be read; delete it to begin again ({error})".splitlines()[0]) from error
    return values if made_of is None or values.get("made_of") == made_of else None
