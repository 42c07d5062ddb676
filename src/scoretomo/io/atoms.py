"""Atomic models: PDB and mmCIF files in, density maps out."""

import math
import re
from pathlib import Path
from typing import Any

import gemmi
import torch
from jaxtyping import Bool, Float
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
    # copies of a chain need no names of their own
    structure = _read_structure(path, gemmi.HowToNameCopiedChain.Dup, assembly=assembly)
    return _coordinates_and_weights(path, _sites(structure))


def read_atoms_with_part(path: Path, part: str) -> tuple[Float[Tensor, "n 3"], Float[Tensor, " n"], Bool[Tensor, " n"]]:
    """Read the atoms of the first biological assembly, and which of them are in a part of it.

    Parameters
    ----------
    path
        As for :func:`read_atoms`.
    part
        Chains, or ranges of residues of them, both ends included: ``B``, ``A:1-120`` or ``A:1-120,B``. A chain that
        the assembly has several times keeps its name in the first copy; the others have free ones.

    Returns
    -------
    coordinates, weights
        As :func:`read_atoms` returns them.
    in_part
        ``(n,)``.

    Raises
    ------
    InputError
        As for :func:`read_atoms`; or the part is not understood, not in the file, or all of it.
    """
    ranges = _residue_ranges(part)
    structure = _read_structure(path, gemmi.HowToNameCopiedChain.Short, assembly=True)
    sites = _sites(structure)
    coordinates, weights = _coordinates_and_weights(path, sites)
    found = torch.tensor([[_is_in(site, *chosen) for site in sites] for chosen in ranges])
    for (chain, first, last), atoms in zip(ranges, found, strict=True):
        if not atoms.any():
            chains = dict.fromkeys(site.chain.name for site in sites)
            residues = "" if first == -math.inf else f" with residues {first:g} to {last:g}"
            raise InputError(f"{path}: has no chain {chain}{residues}; its chains are {', '.join(chains)}")
    in_part = found.any(0)
    if in_part.all():
        raise InputError(f"{path}: {part} is the whole model; choose a part of it")
    return coordinates, weights, in_part


def _residue_ranges(part: str) -> list[tuple[str, float, float]]:
    """Chain, first and last residue of every item of a part's description; a chain alone is infinitely long."""
    ranges = []
    for item in part.split(","):
        match = re.fullmatch(r"\s*([^\s:]+?)(?::(-?\d+)-(-?\d+))?\s*", item)
        if match is None:
            raise InputError(f"{item.strip()!r} is no part of a model; write a chain, B, or residues of it, B:1-120")
        chain, first, last = match.groups()
        ranges.append((chain, float(first or -math.inf), float(last or math.inf)))
    return ranges


def _is_in(site: Any, chain: str, first: float, last: float) -> bool:
    return bool(site.chain.name == chain and first <= site.residue.seqid.num <= last)


def _read_structure(path: Path, naming: Any, *, assembly: bool) -> Any:
    """Model without hydrogens and waters, as its first biological assembly if wanted and described."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: is empty")
    try:
        structure = gemmi.read_structure(str(path))
        if assembly and structure.assemblies:
            structure.transform_to_assembly(structure.assemblies[0].name, naming)
        structure.remove_hydrogens()  # only now: an assembly may name chains that hold nothing but water
        structure.remove_waters()
    except (ValueError, RuntimeError, IndexError, OSError) as error:  # what gemmi raises for malformed files
        reason = str(error).removeprefix(str(path)).lstrip(": ").splitlines()[:1]
        raise InputError(f"{path}: not a readable PDB or mmCIF file ({''.join(reason)})") from error
    return structure


def _sites(structure: Any) -> list[Any]:
    """Atoms of the first model with the residues and chains they are in; they live no longer than the structure."""
    return list(structure[0].all()) if len(structure) else []


def _coordinates_and_weights(path: Path, sites: list[Any]) -> tuple[Float[Tensor, "n 3"], Float[Tensor, " n"]]:
    found = [site.atom for site in sites]
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
