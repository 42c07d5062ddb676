"""Checkpoints: where something long stands, complete or absent, with what it was made of."""

import zipfile
from collections.abc import Mapping
from contextlib import AbstractContextManager
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar, overload

import safetensors
import safetensors.torch
import torch
from torch import nn

from ..datatypes import InputError
from .files import replacing
from .records import understood
from .settings import typed

Saved = TypeVar("Saved")

_ADVICE = "delete it to begin again from what it stood for"


def save_checkpoint(path: Path, values: Mapping[str, Any]) -> None:
    """Write tensors and plain values, complete or not at all."""
    # torch reports a full disk as a RuntimeError of its own, plain files as an OSError
    buffer = BytesIO()
    torch.save(dict(values), buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


@overload
def load_checkpoint(path: Path, *, made_of: object = ..., lazily: bool = ...) -> dict[str, Any] | None: ...
@overload
def load_checkpoint(path: Path, kind: type[Saved], *, made_of: object = ..., lazily: bool = ...) -> Saved | None: ...
def load_checkpoint(path: Path, kind: Any = dict[str, Any], *, made_of: object = None, lazily: bool = False) -> Any:
    """Read what :func:`save_checkpoint` has written, on the CPU; None if there is nothing, or not of ``made_of``.

    Parameters
    ----------
    path
        The file.
    kind
        What it holds, a ``TypedDict``: every type is checked. If not given, any table of names and values.
    made_of
        What it must say of itself under that name, to be of use.
    lazily
        Whether tensors are read from the file when they are used, and only then.

    Raises
    ------
    InputError
        It cannot be read, is not whole, or not of this kind.
    """
    if not path.exists():
        return None
    values = _load(path, lazily=lazily)
    if made_of is not None and (not isinstance(values, dict) or values.get("made_of") != made_of):
        return None
    with taken_over(path):
        return typed(kind, values, "it")


def taken_over(path: Path) -> AbstractContextManager[None]:
    """Turn what goes wrong while the values of a checkpoint are put to use into the line that says so."""
    return understood(path, _ADVICE)


def load_weights(network: nn.Module, path: Path, advice: str) -> None:
    """Fill a network with the weights of a ``.safetensors`` file, all of them and no others.

    Raises
    ------
    InputError
        It cannot be read, or is of another network.
    """
    try:
        weights = safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise InputError(f"{path}: cannot be read ({str(error).splitlines()[0]}); {advice}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); {advice}") from error
    if not all(bool(each.isfinite().all()) for each in weights.values()):
        raise InputError(f"{path}: has weights that are not finite; {advice}")
    with understood(path, advice):
        network.load_state_dict(weights)


def _load(path: Path, *, lazily: bool) -> Any:
    try:
        # torch reads tensors that were changed on the disk without a word; sums of their bytes are in the file
        with zipfile.ZipFile(path) as parts:
            if wrong := parts.testzip():
                raise InputError(f"{path}: is not as it was written ({wrong}); {_ADVICE}")
        return torch.load(path, map_location="cpu", weights_only=True, mmap=lazily)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); {_ADVICE}") from error
    # zip files and pickles that are broken raise nearly everything, of which nothing is known beforehand
    except Exception as error:
        words = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"{path}: is no checkpoint, or was cut ({words[0]}); {_ADVICE}") from error
