"""Starting models for refinement: a map at low resolution, on the grid of the particles."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from ..datatypes import InputError, Volume
from .fourier import centred_fft, centred_inverse_fft, radius_grid, recentre_crop, resize

# Half the width of the edge of the low-pass filter, as a part of its cutoff: sharper ones ring.
_EDGE = 0.2
# Relative misfit of pixel sizes that is taken as none: a twentieth of a voxel at the edge of a box of 100.
_SAME_PIXEL_SIZE = 1e-3


def low_pass(
    volumes: Float[Tensor, "*batch n n n"], pixel_size_angstrom: float, resolution_angstrom: float
) -> Float[Tensor, "*batch n n n"]:
    """Remove detail finer than a resolution: a cosine edge in Fourier space that is one half there."""
    side = volumes.shape[-1]
    relative = radius_grid(side, 3, volumes.device) * (resolution_angstrom / (side * pixel_size_angstrom))
    edge = ((relative - 1) / (2 * _EDGE) + 0.5).clamp(0, 1)
    return centred_inverse_fft(centred_fft(volumes, 3) * (0.5 + 0.5 * torch.cos(math.pi * edge)), 3)


def resample(volume: Volume, pixel_size_angstrom: float, side: int) -> Volume:
    """Bring a volume to another pixel size and box; its centre and its values are kept.

    The spectrum is cropped or padded, in a box that is padded first until a whole number of the new voxels fits.
    """
    ratio = volume.pixel_size_angstrom / pixel_size_angstrom

    def misfit(padded: int) -> float:
        return abs(padded * ratio / max(round(padded * ratio), 1) - 1)

    sides = range(volume.side, 2 * volume.side + 2)
    padded = next((n for n in sides if misfit(n) < _SAME_PIXEL_SIZE / 2), min(sides, key=misfit))
    voxels = resize(recentre_crop(volume.voxels, padded, 3), max(round(padded * ratio), 1), 3)
    return Volume(recentre_crop(voxels, side, 3), pixel_size_angstrom)


def starting_model(
    volume: Volume, resolution_angstrom: float, *, pixel_size_angstrom: float | None = None, side: int | None = None
) -> Volume:
    """Make the starting model of a refinement: low-passed, on the grid of the particles where that is known.

    Parameters
    ----------
    volume
        Any map.
    resolution_angstrom
        Where the low-pass filter is one half.
    pixel_size_angstrom, side
        Of the particles; unless both are given, the grid stays that of the map.

    Raises
    ------
    InputError
        A resolution that is not a positive number.
    """
    if not 0 < resolution_angstrom < math.inf:
        raise InputError(f"the resolution must be a positive number of Angstrom, not {resolution_angstrom}")
    # the filter's ripples would come back in at the opposite side of a tight box
    margin = 2 * math.ceil(2 * resolution_angstrom / volume.pixel_size_angstrom)
    wide = recentre_crop(volume.voxels, volume.side + margin, 3)
    filtered = Volume(low_pass(wide, volume.pixel_size_angstrom, resolution_angstrom), volume.pixel_size_angstrom)
    if pixel_size_angstrom is None or side is None:
        return Volume(recentre_crop(filtered.voxels, volume.side, 3), volume.pixel_size_angstrom)
    return resample(filtered, pixel_size_angstrom, side)
