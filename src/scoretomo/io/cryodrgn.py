"""cryoDRGN's poses, contrast transfer, latent variables and selections: pickles of plain arrays."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ..datatypes import CTFParams, InputError, Poses
from .particles import Particles
from .pickled_arrays import read_pickled_arrays

_CTF_COLUMNS = 9
# Rotations are products of single precision matrices; 1e-3 is far above their rounding and far below any mistake.
_UNIT = 1e-3
_SAME_WIDTH = 0.01


@dataclass(frozen=True)
class CTFTable:
    """Contrast transfer of particles, and the images that it was made for.

    Attributes
    ----------
    side, pixel_size_angstrom
        Of the images as they were before any downsampling.
    params
        Contrast transfer, which no sampling changes.
    """

    side: int
    pixel_size_angstrom: float
    params: CTFParams


def read_poses(path: Path, side: int, pixel_size_angstrom: float) -> Poses:
    """Read poses: a pickle of rotations ``(n, 3, 3)``, or of rotations and translations ``(n, 2)``.

    The rotations are ours. The translations are RELION's origins, the shifts that would centre the images, as
    fractions of the box: the density lies at their negative.

    Parameters
    ----------
    path
        The ``.pkl`` file.
    side, pixel_size_angstrom
        Of the images, or of any other sampling of the same box.

    Raises
    ------
    InputError
        Not a pickle, one that holds anything but arrays, shapes that do not fit, NaN, matrices that are no rotations,
        or translations beyond the box (older files have them in pixels).
    """
    arrays = read_pickled_arrays(path)
    if not 1 <= len(arrays) <= 2 or arrays[0].shape[1:] != (3, 3):
        raise InputError(f"{path}: must hold rotations (n, 3, 3) and translations (n, 2), not {_shapes(arrays)}")
    rotations = _doubles(arrays[0])
    shifts = torch.zeros(len(rotations), 2, dtype=torch.float64)
    if len(arrays) == 2:
        if arrays[1].shape != shifts.shape:
            raise InputError(f"{path}: must hold rotations (n, 3, 3) and translations (n, 2), not {_shapes(arrays)}")
        shifts = -_doubles(arrays[1]) * side * pixel_size_angstrom
    try:
        poses = Poses(rotations.float(), shifts.float())
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    away = (rotations @ rotations.mT - torch.eye(3, dtype=torch.float64)).abs().amax((1, 2)) > _UNIT
    wrong = (away | (torch.linalg.det(rotations) < 0)).nonzero().flatten().tolist()
    if wrong:
        raise InputError(f"{path}: {len(wrong)} of the {len(rotations)} matrices are no rotations, first {wrong[0]}")
    if shifts.abs().max() > side * pixel_size_angstrom:
        raise InputError(f"{path}: translations must be fractions of the box, -1 to 1; are these in pixels?")
    return poses


def read_ctf(path: Path) -> CTFTable:
    """Read contrast transfer: a pickle of an array ``(n, 9)``.

    Its columns are the side in pixels, the pixel size in Angstrom, defocus U and V in Angstrom, the angle of
    astigmatism in degrees, the voltage in kV, the spherical aberration in mm, the amplitude contrast, and the phase
    shift in degrees.

    Raises
    ------
    InputError
        Not a pickle, one that holds anything but an array, another shape, several sides or pixel sizes, or values that
        are NaN or impossible.
    """
    arrays = read_pickled_arrays(path)
    if len(arrays) != 1 or arrays[0].ndim != 2 or arrays[0].shape[1] != _CTF_COLUMNS:
        raise InputError(f"{path}: must hold an array (n, {_CTF_COLUMNS}) of CTF parameters, not {_shapes(arrays)}")
    values = _doubles(arrays[0])
    for column, what in ((0, "image sides"), (1, "pixel sizes")):
        low, high = values[:, column].min().item(), values[:, column].max().item()
        if not 0 < low <= high < float("inf"):
            raise InputError(f"{path}: {what} must be positive numbers, not {low:g} to {high:g}")
        if high > low * (1 + 1e-4):
            raise InputError(f"{path}: {what} from {low:g} to {high:g}; write one file for each")
    u, v, angle, voltage, aberration, contrast, shift = values[:, 2:].float().unbind(1)
    try:
        params = CTFParams(u, v, angle, shift, voltage, aberration, contrast)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return CTFTable(round(values[0, 0].item()), round(values[0, 1].item(), 6), params)


def read_latent(path: Path) -> Float[Tensor, "n d"]:
    """Read latent variables: a pickle of their means ``(n, d)``; what follows it, such as log variances, is not read.

    Raises
    ------
    InputError
        Not a pickle, one that holds anything but an array, another shape, or values that are NaN or infinite.
    """
    arrays = read_pickled_arrays(path, others_follow=True)
    if len(arrays) != 1 or arrays[0].ndim != 2:
        raise InputError(f"{path}: must hold an array (n, d) of latent variables, not {_shapes(arrays)}")
    z = _doubles(arrays[0]).float()
    wrong = (~z.isfinite().all(1)).nonzero().flatten().tolist()
    if wrong:
        raise InputError(f"{path}: z of {len(wrong)} of the {len(z)} particles is NaN or infinite, first {wrong[0]}")
    return z


def read_indices(path: Path, count: int) -> NDArray[np.intp]:
    """Read which of ``count`` particles cryoDRGN was given (its ``--ind``): a pickle of an array ``(k,)`` from 0.

    Raises
    ------
    InputError
        Not a pickle, one that holds anything but an array of integers, another shape, particles that there are not or
        that are named twice.
    """
    arrays = read_pickled_arrays(path)
    if len(arrays) != 1 or arrays[0].ndim != 1 or arrays[0].dtype.kind not in "iu":
        raise InputError(f"{path}: must hold an array (k,) of integers, the indices of particles")
    indices = arrays[0]
    if indices.min() < 0 or indices.max() >= count:
        raise InputError(f"{path}: indices from {indices.min()} to {indices.max()}, and there are {count} particles")
    values, times = np.unique(indices, return_counts=True)
    if times.max() > 1:
        raise InputError(f"{path}: names particle {values[times.argmax()]} {times.max()} times")
    return indices.astype(np.intp)


def attach(particles: Particles, *, poses: Path | None = None, ctf: Path | None = None) -> Particles:
    """Give particles the poses and the contrast transfer of cryoDRGN's files, which win over those they have.

    Raises
    ------
    InputError
        A file that cannot be read, is of another number of particles, or of another width of the box.
    """
    width = particles.side * particles.pixel_size_angstrom
    if ctf is not None:
        table = read_ctf(ctf)
        theirs = table.side * table.pixel_size_angstrom
        if abs(theirs / width - 1) > _SAME_WIDTH:
            raise InputError(
                f"{ctf}: is of a box of {theirs:.5g} A ({table.side} x {table.pixel_size_angstrom:.5g}), and that of "
                f"{particles.files[0].name} has {width:.5g} A; give the true pixel size with --pixel-size"
            )
        _check_count(ctf, len(table.params), particles)
        particles = replace(particles, ctf=table.params)
    if poses is not None:
        found = read_poses(poses, particles.side, particles.pixel_size_angstrom)
        _check_count(poses, len(found), particles)
        particles = replace(particles, poses=found)
    return particles


def _check_count(path: Path, count: int, particles: Particles) -> None:
    if count != len(particles):
        raise InputError(f"{path}: is of {count} particles, and {particles.files[0].name} has {len(particles)}")


def _doubles(array: NDArray[Any]) -> Tensor:
    with np.errstate(invalid="ignore"):  # some NaN make NumPy warn
        return torch.from_numpy(array.astype(np.float64))


def _shapes(arrays: tuple[NDArray[Any], ...]) -> str:
    shapes = [str(array.shape) for array in arrays[:3]] + ["others"] * (len(arrays) > 3)
    return " and ".join(shapes) or "nothing"
