"""Atomic models: PDB and mmCIF files in, density maps out."""

import math
from pathlib import Path

import gemmi
import torch
from jaxtyping import Float
from torch import Tensor

from ..datatypes import InputError, Volume

# Voxels that are written at once: the working memory of a map, about 50 MB.
_VOXELS_AT_ONCE = 2**22


def read_atoms(path: Path, *, assembly: bool = True) -> tuple[Float[Tensor, "n 3"], Float[Tensor, " n"]]:
    """Read the atoms of a ``.pdb``, ``.cif`` or ``.mmcif`` file, compressed (``.gz``) or not.

    Hydrogens and waters are left out; of several models the first is taken.

    Parameters
    ----------
    path
        The file.
    assembly
        Build the first biological assembly that the file describes, if it describes any; otherwise, or if False,
        the atoms are those that are listed.

    Returns
    -------
    coordinates
        ``(n, 3)``, xyz in Angstrom.
    weights
        ``(n,)``: atomic number times occupancy, which is near enough to how strongly an atom scatters electrons.

    Raises
    ------
    InputError
        The file is missing, cannot be read as an atomic model, or has no atoms.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    try:
        structure = gemmi.read_structure(str(path))
        if assembly and structure.assemblies:
            structure.transform_to_assembly(structure.assemblies[0].name, gemmi.HowToNameCopiedChain.Dup)
        structure.remove_hydrogens()  # only now: an assembly may name chains that hold nothing but water
        structure.remove_waters()
    except (ValueError, RuntimeError, IndexError, OSError) as error:  # what gemmi raises for malformed files
        reason = str(error).removeprefix(str(path)).lstrip(": ").splitlines()[:1]
        raise InputError(f"{path}: not a readable PDB or mmCIF file ({''.join(reason)})") from error
    found = [site.atom for site in structure[0].all()] if len(structure) else []
    coordinates = torch.tensor([atom.pos.tolist() for atom in found]).view(-1, 3)
    weights = torch.tensor([atom.element.atomic_number * atom.occ for atom in found])
    if not weights.sum() > 0:
        raise InputError(f"{path}: no atoms found; a PDB or mmCIF file with ATOM records is needed")
    if not torch.isfinite(coordinates).all():
        raise InputError(f"{path}: some atoms have no finite coordinates; repair or remove them")
    return coordinates, weights


def density_of_atoms(
    coordinates: Float[Tensor, "n 3"],
    weights: Float[Tensor, " n"],
    pixel_size_angstrom: float,
    *,
    resolution_angstrom: float,
    side: int | None = None,
) -> Volume:
    """Make a map with one Gaussian for each atom, the centre of mass at index ``side // 2``.

    The standard deviation of the Gaussians is 0.225 of the resolution, so that their Fourier transform has fallen to
    1/e at that resolution (the convention of ChimeraX's ``molmap``). A voxel holds the integral of the Gaussians over
    its cube: the sum of the map is the sum of the weights at any pixel size.

    Parameters
    ----------
    coordinates
        ``(n, 3)``, xyz in Angstrom.
    weights
        ``(n,)``.
    pixel_size_angstrom
        Edge of a voxel.
    resolution_angstrom
        Resolution of the map.
    side
        Edge of the map in voxels; None: the smallest even one in which the map can be turned.

    Raises
    ------
    InputError
        A resolution or side that is not positive, or atoms that reach beyond the sphere inside the map.
    """
    if not resolution_angstrom > 0:
        raise InputError(f"the resolution must be a positive number of Angstrom, not {resolution_angstrom}")
    sigma = resolution_angstrom / (math.pi * math.sqrt(2)) / pixel_size_angstrom
    centred = coordinates - (weights[:, None] * coordinates).sum(0) / weights.sum()
    positions = centred / pixel_size_angstrom
    least = 2 * math.ceil(positions.norm(dim=1).max().item() + 3 * sigma + 1)
    if side is None:
        side = least
    elif side < least:
        raise InputError(
            f"the atoms do not fit into {side} voxels of {pixel_size_angstrom:g} Angstrom: "
            f"use {least} voxels, or voxels of {pixel_size_angstrom * least / side:.3g} Angstrom"
        )
    return Volume(_splat(positions + side // 2, weights, sigma, side), pixel_size_angstrom)


def _splat(
    positions: Float[Tensor, "n 3"], weights: Float[Tensor, " n"], sigma: float, side: int
) -> Float[Tensor, "side side side"]:
    """Add Gaussians at ``positions``, xyz in voxels, each integrated over the voxels within 4 ``sigma``."""
    reach = math.ceil(4 * sigma) + 1
    offsets = torch.arange(-reach, reach + 1, device=positions.device)
    chunk = max(1, _VOXELS_AT_ONCE // len(offsets) ** 3)
    # a margin all around takes what falls outside, so that no index needs a check
    wide = side + 2 * reach
    map_with_margin = positions.new_zeros(wide**3)
    for start in range(0, len(positions), chunk):
        centres = positions[start : start + chunk]
        nearest = centres.round().long()
        edges = (torch.cat([offsets, offsets[-1:] + 1]) - 0.5 + (nearest - centres)[..., None]) / sigma
        profile = torch.special.ndtr(edges).diff(dim=-1)  # (n, 3, k)
        index = nearest[..., None] + offsets + reach
        x, y, z = profile.unbind(1)
        blobs = torch.einsum("n,nk,nj,ni->nkji", weights[start : start + chunk], z, y, x)
        at = (index[:, 2, :, None, None] * wide + index[:, 1, None, :, None]) * wide + index[:, 0, None, None, :]
        map_with_margin.index_add_(0, at.flatten(), blobs.flatten())
    inside = slice(reach, reach + side)
    return map_with_margin.view(wide, wide, wide)[inside, inside, inside].contiguous()
