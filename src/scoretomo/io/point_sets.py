"""Sets of point clouds as one file."""

import zlib
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch

from ..datatypes import InputError, PointClouds
from .files import replacing


def write_point_set(path: Path, clouds: PointClouds) -> None:
    """Write a set as ``.npz``, complete or not at all: points, units, names, held_out, handed; no pickled objects.

    Raises
    ------
    InputError
        The file cannot be written.
    """
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(
            file,
            points=clouds.points.float().numpy(),
            units=clouds.units.double().numpy(),
            names=np.array(clouds.names),
            held_out=clouds.held_out.numpy(),
            handed=np.array(clouds.handed),
        )


def read_point_set(path: Path) -> PointClouds:
    """Read what :func:`write_point_set` wrote.

    Raises
    ------
    InputError
        The file is missing or is no such set.
    """
    arrays = read_arrays(path, ("points", "units", "names", "held_out", "handed"), "scoretomo points prepare makes one")
    try:
        return PointClouds(
            torch.from_numpy(arrays["points"]).float(),
            torch.from_numpy(arrays["units"]).float(),
            tuple(arrays["names"].tolist()),
            torch.from_numpy(arrays["held_out"]).bool(),
            bool(arrays["handed"]),
        )
    except (InputError, TypeError, ValueError) as error:
        raise InputError(f"{path}: {error}") from error


def read_arrays(
    path: Path, keys: tuple[str, ...], advice: str, *, optional: tuple[str, ...] = ()
) -> dict[str, np.ndarray]:
    """Read named arrays of an ``.npz`` file, and those that are ``optional`` where it has them.

    Raises
    ------
    InputError
        The file is missing or unreadable, holds pickled objects, or lacks a name; ``advice`` then says what to do.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            missing = [key for key in keys if key not in file]
            if missing:
                raise InputError(f"{path}: has no {', '.join(missing)}; {advice}")
            return {key: file[key] for key in (*keys, *optional) if key in file}
    except (OSError, ValueError, BadZipFile, zlib.error, EOFError, AttributeError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not a readable .npz file without pickled objects") from error
