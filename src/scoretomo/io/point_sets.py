"""Sets of point clouds as one file."""

from pathlib import Path

import numpy as np
import torch

from ..datatypes import InputError, PointClouds
from .files import replacing
from .npy import read_npz, single_precision

# Kind of type and axes of the arrays of a set.
_KINDS = {"points": ("f", 3), "units": ("f", 1), "names": ("U", 1), "held_out": ("b", 1), "handed": ("b", 0)}
_ADVICE = "scoretomo points prepare makes one"


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
    arrays = read_arrays(path, tuple(_KINDS), _ADVICE)
    if wrong := [key for key, kind in _KINDS.items() if (arrays[key].dtype.kind, arrays[key].ndim) != kind]:
        raise InputError(f"{path}: its {', '.join(wrong)} are none of a set of point clouds; {_ADVICE}")
    points, units = (torch.from_numpy(single_precision(path, arrays[key])) for key in ("points", "units"))
    try:
        return PointClouds(
            points,
            units,
            tuple(arrays["names"].tolist()),
            torch.from_numpy(arrays["held_out"]),
            bool(arrays["handed"]),
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def read_arrays(
    path: Path, keys: tuple[str, ...], advice: str, *, optional: tuple[str, ...] = ()
) -> dict[str, np.ndarray]:
    """Read named arrays of an ``.npz`` file, and those that are ``optional`` where it has them.

    Raises
    ------
    InputError
        The file is missing or unreadable, as :func:`scoretomo.io.npy.read_npz` says, or lacks a name; ``advice`` then
        says what to do.
    """
    arrays = read_npz(path, (*keys, *optional))
    if missing := [key for key in keys if key not in arrays]:
        raise InputError(f"{path}: has no {', '.join(missing)}; {advice}")
    return arrays
