"""One map of a molecule that keeps its shape: in the frame of its symmetry, and beside two of half of the images each.

Both halves are refined (:mod:`scoretomo.methods.projection_matching`) from initial models of their own, and brought
together at the end to measure the resolution.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..evaluation.alignment import Alignment, align, apply_alignment
from ..evaluation.half_maps import HalfMapFsc, compare_halves
from ..geometry.grids import so3_grid
from ..imaging.fourier import shell_sum
from ..imaging.molecular_mask import molecular_mask
from ..imaging.resampling import symmetrise
from ..imaging.slices import voxel_slices

# Highest shell of the search for the axes of a symmetry, in a grid of 15 degrees, and rotations compared in it.
_SEARCH_SHELL, _COMPARED = 6, 6
# Alignments to the symmetrised volume; each all but ends the error that is left.
_ROUNDS = 3
# Rotations whose spectra are held at once in the search.
_ROTATIONS_AT_ONCE = 256


@dataclass(frozen=True)
class Halves:
    """Two independent half maps and how far they agree.

    Attributes
    ----------
    first, second
        ``(n, n, n)``, in one frame and hand.
    mask
        ``(n, n, n)``, soft, around the molecule.
    fsc
        The curves.
    """

    first: Float[Tensor, "n n n"]
    second: Float[Tensor, "n n n"]
    mask: Float[Tensor, "n n n"]
    fsc: HalfMapFsc


def impose(volume: Float[Tensor, "n n n"], group: Float[Tensor, "g 3 3"]) -> Float[Tensor, "n n n"]:
    """Bring a volume into the frame of a symmetry, its axes crossing at the origin, and average over the group.

    Parameters
    ----------
    volume
        ``(n, n, n)``, axes ``[z, y, x]``, anyhow oriented.
    group
        ``(g, 3, 3)``, as :func:`scoretomo.geometry.symmetry.symmetry_group` makes it.
    """
    if len(group) == 1:
        return volume
    group = group.to(volume)
    turned = Alignment(
        rotations=_search_axes(volume, group)[None],
        shifts_pixels=volume.new_zeros(1, 3),
        mirrored=torch.zeros(1, dtype=torch.bool, device=volume.device),
        correlation=volume.new_zeros(1),
        hand_margin=volume.new_zeros(1),
    )
    oriented = apply_alignment(volume[None], turned)
    for _ in range(_ROUNDS):
        oriented = apply_alignment(oriented, align(oriented, symmetrise(oriented[0], group)[None]))
    return symmetrise(oriented[0], group)


def bring_together(
    consensus: Float[Tensor, "n n n"],
    halves: Float[Tensor, "2 n n n"],
    *,
    generator: torch.Generator | None = None,
) -> Halves:
    """Align the first of two independent half maps to the consensus and the second to the first; compare them.

    Parameters
    ----------
    consensus
        ``(n, n, n)``, whose frame they get.
    halves
        ``(2, n, n, n)``, each refined against its own images from its own start.
    generator
        Of the random phases of the correction for the mask.
    """
    first = apply_alignment(halves[:1], align(halves[:1], consensus[None]))
    second = apply_alignment(halves[1:], align(halves[1:], first))
    mask = molecular_mask((first + second)[0] / 2)
    return Halves(first[0], second[0], mask, compare_halves(first[0], second[0], mask, generator=generator))


def _search_axes(volume: Float[Tensor, "n n n"], group: Float[Tensor, "g 3 3"]) -> Float[Tensor, "3 3"]:
    """Rotation of a grid after which the volume correlates best with itself under the group, all shells alike."""
    axis = torch.arange(-_SEARCH_SHELL, _SEARCH_SHELL + 1).to(volume)
    lattice = torch.cartesian_prod(axis, axis, axis)
    shells = lattice.norm(dim=-1).round().long() - 1
    inside = (shells >= 0) & (shells < _SEARCH_SHELL)
    points, shells = lattice[inside] / volume.shape[-1], shells[inside]
    spectrum = voxel_slices(volume - volume.median())
    rotations = so3_grid(2).to(volume)
    scores = []
    for part in rotations.split(_ROTATIONS_AT_ONCE):
        turned = spectrum(points @ part)  # the turned volume has at k what the volume has at R^T k
        power = shell_sum(turned**2, shells, _SEARCH_SHELL).clamp(min=torch.finfo(volume.dtype).tiny)
        score = turned.new_zeros(len(part))
        for rotation in group[1 :: max(1, len(group) // _COMPARED)]:
            products = turned * spectrum(points @ rotation @ part)
            score += (shell_sum(products, shells, _SEARCH_SHELL) / power).mean(-1)
        scores.append(score)
    return rotations[torch.cat(scores).argmax()]
