"""Volumes against a reference: aligned, scored by FSC, and summed up as ``evaluation.json`` has it."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ..datatypes import InputError, Volume
from ..imaging.fourier import recentre_crop, resize
from .alignment import align, apply_alignment
from .fsc import area_under_curve, fourier_shell_correlation, resolution_pixels

# Relative difference of pixel sizes that is taken as none: a twentieth of a voxel at the edge of a box of 100.
_SAME_PIXEL_SIZE = 1e-3


@dataclass(frozen=True)
class Comparison:
    """One volume against its reference, after alignment over rotations, shifts and both hands.

    Attributes
    ----------
    index
        Which volume it is, in the caller's numbering.
    fsc_auc
        Area under the FSC, 1 is perfect.
    resolution_pixels, resolution_angstrom
        Where the FSC falls below 0.5; infinite if it never reaches it.
    mirrored
        Whether the volume has the other hand than the reference.
    hand_margin
        How much better this hand correlates than the other; near 0 the hand is not determined.
    fsc
        ``(n // 2 + 1,)``.
    aligned
        ``(n, n, n)``, the volume in the frame and hand of the reference.
    """

    index: int
    fsc_auc: float
    resolution_pixels: float
    resolution_angstrom: float
    mirrored: bool
    hand_margin: float
    fsc: Float[Tensor, " k"]
    aligned: Float[Tensor, "n n n"]


def compare(
    volumes: Float[Tensor, "b n n n"],
    references: Float[Tensor, "r m m m"],
    pixel_size_angstrom: float,
    indices: Sequence[int],
) -> list[Comparison]:
    """Align volumes to their references and score them by Fourier shell correlation.

    Parameters
    ----------
    volumes
        ``(b, n, n, n)``, axes ``[z, y, x]``.
    references
        ``(b, n, n, n)``, or ``(1, n, n, n)`` for one that all share.
    pixel_size_angstrom
        Of both.
    indices
        The number of each volume.

    Raises
    ------
    InputError
        Numbers or sides of volumes and references that do not fit together.
    """
    if len(references) not in (1, len(volumes)):
        raise InputError(f"{len(volumes)} volumes need one reference or as many, not {len(references)}")
    if references.shape[1:] != volumes.shape[1:]:
        sides = f"{volumes.shape[-1]} and {references.shape[-1]} voxels"
        raise InputError(f"volume and reference have sides of {sides}; bring them to a common grid first")
    alignment = align(volumes, references)
    aligned = apply_alignment(volumes, alignment)
    curves = fourier_shell_correlation(aligned, references)
    resolutions = resolution_pixels(curves, side=volumes.shape[-1]).tolist()
    return [
        Comparison(
            index=index,
            fsc_auc=area,
            resolution_pixels=resolution,
            resolution_angstrom=resolution * pixel_size_angstrom,
            mirrored=mirrored,
            hand_margin=margin,
            fsc=curve,
            aligned=volume,
        )
        for index, area, resolution, mirrored, margin, curve, volume in zip(
            indices,
            area_under_curve(curves).tolist(),
            resolutions,
            alignment.mirrored.tolist(),
            alignment.hand_margin.tolist(),
            curves,
            aligned,
            strict=True,
        )
    ]


def summary(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Make the contents of ``evaluation.json``; an infinite resolution becomes None, JSON's null."""
    areas = [comparison.fsc_auc for comparison in comparisons]
    return {
        "median_fsc_auc": statistics.median(areas),
        "mean_fsc_auc": statistics.mean(areas),
        "median_resolution_pixels": _finite(statistics.median(each.resolution_pixels for each in comparisons)),
        "volumes": [
            {
                "index": each.index,
                "fsc_auc": each.fsc_auc,
                "resolution_pixels": _finite(each.resolution_pixels),
                "resolution_angstrom": _finite(each.resolution_angstrom),
                "mirrored": each.mirrored,
                "hand_margin": each.hand_margin,
            }
            for each in comparisons
        ],
    }


def to_common_grid(volume: Volume, reference: Volume) -> tuple[Volume, Volume]:
    """Bring two volumes to the coarser of their pixel sizes and the wider of their boxes, centres kept."""
    pixel_size = max(volume.pixel_size_angstrom, reference.pixel_size_angstrom)
    voxels = [_resample(each, pixel_size) for each in (volume, reference)]
    side = max(each.shape[-1] for each in voxels)
    common = [Volume(recentre_crop(each, side, 3), pixel_size) for each in voxels]
    return common[0], common[1]


def _resample(volume: Volume, pixel_size: float) -> Float[Tensor, "m m m"]:
    """Cut the spectrum to a larger pixel size, in a box padded until a whole number of the new pixels fits into it."""
    ratio = volume.pixel_size_angstrom / pixel_size
    if 1 - ratio < _SAME_PIXEL_SIZE:
        return volume.voxels

    def misfit(side: int) -> float:
        return abs(side * ratio / round(side * ratio) - 1)

    sides = range(volume.side, 2 * volume.side + 2)
    padded = next((side for side in sides if misfit(side) < _SAME_PIXEL_SIZE / 2), min(sides, key=misfit))
    return resize(recentre_crop(volume.voxels, padded, 3), round(padded * ratio), 3)


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
