"""Volumes against a reference: aligned, scored by FSC, and summed up as ``evaluation.json`` has it."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..datatypes import InputError, Volume
from ..geometry.rotations import mirror_matrix
from ..imaging.fourier import recentre_crop, resize
from .alignment import (
    Alignment,
    AlignmentConfig,
    Candidates,
    apply_alignment,
    best_candidate,
    find_candidates,
    refine_candidates,
)
from .fsc import area_under_curve, fourier_shell_correlation, resolution_pixels
from .near_symmetry import copies_of

# Relative difference of pixel sizes that is taken as none: a twentieth of a voxel at the edge of a box of 100.
_SAME_PIXEL_SIZE = 1e-3
# Shells of the first look at the copies, those that are then refined in full, and Gauss-Newton steps of the first look.
_FIRST_SHELLS, _REFINED, _FIRST_STEPS = 12, 2, 3


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

    Of references that are symmetric, or nearly so, many orientations of a volume are nearly as good as the best: those
    that the search finds, the volume as it lies, and what the near-symmetries of the reference make of both compete.

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
    alignment = align_among_copies(volumes, references)
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


def align_among_copies(volumes: Float[Tensor, "b n n n"], references: Float[Tensor, "r n n n"]) -> Alignment:
    """Align as :func:`.alignment.align` does, with the copies of what it finds, and of no rotation, as candidates."""
    found = find_candidates(volumes, references, AlignmentConfig())
    still = torch.stack([torch.eye(3).to(volumes), mirror_matrix(volumes)])[:, None]  # (hand, 1, 3, 3)
    best, copies = [], None
    for row in range(len(volumes)):
        reference = references[row : row + 1] if len(references) > 1 else references
        if copies is None or len(references) > 1:
            copies = copies_of(reference[0])
        matrices = torch.cat([found.matrices[row], still], dim=1)
        shifts = torch.cat([found.shifts_pixels[row], torch.zeros_like(still[..., 0])], dim=1)
        turned = (copies[0][:, None] @ matrices[:, None]).flatten(1, 2)
        moved = ((copies[0][:, None] @ shifts[:, None, :, :, None])[..., 0] + copies[1][:, None]).flatten(1, 2)
        rivals = Candidates(turned[None], moved[None], moved.new_zeros(1, *moved.shape[:2]))
        volume, count = volumes[row : row + 1], rivals.matrices.shape[2]
        search = AlignmentConfig()
        for shell, kept, steps in (
            (_FIRST_SHELLS, count, _FIRST_STEPS),
            (max(search.shells), _REFINED, search.iterations),
        ):
            config = AlignmentConfig(shells=(shell,), kept=(min(kept, count),), iterations=steps)
            rivals = refine_candidates(volume, reference, rivals, config)
        best.append(best_candidate(rivals))
    return Alignment(**{name: torch.cat([vars(each)[name] for each in best]) for name in vars(best[0])})


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
                # of what nothing correlates, one hand is as good as the other
                "mirrored": each.mirrored if math.isfinite(each.resolution_pixels) else None,
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


def to_grid(volume: Volume, side: int, pixel_size_angstrom: float) -> Float[Tensor, "n n n"]:
    """Bring a volume to a pixel size and a box, centre kept; what the box does not hold is cut off."""
    return recentre_crop(_resample(volume, pixel_size_angstrom), side, 3)


def _resample(volume: Volume, pixel_size: float) -> Float[Tensor, "m m m"]:
    """Cut or pad the spectrum to a pixel size, in a box padded until a whole number of the new pixels fits into it."""
    ratio = volume.pixel_size_angstrom / pixel_size
    if abs(1 - ratio) < _SAME_PIXEL_SIZE:
        return volume.voxels

    def misfit(side: int) -> float:
        return abs(side * ratio / round(side * ratio) - 1)

    sides = range(volume.side, 2 * volume.side + 2)
    padded = next((side for side in sides if misfit(side) < _SAME_PIXEL_SIZE / 2), min(sides, key=misfit))
    return resize(recentre_crop(volume.voxels, padded, 3), round(padded * ratio), 3)


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
