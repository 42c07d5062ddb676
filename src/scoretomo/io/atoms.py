"""Atomic models: PDB and mmCIF files in, density maps out."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..datatypes import InputError, Volume
from .atomic.assemblies import Generator, build_assembly, in_one
from .atomic.listed import ListedAtoms, listed_atoms
from .atomic.mmcif import block_of_atoms, columns_of_mmcif, generators_of_mmcif, is_mmcif
from .atomic.models import arrangement
from .atomic.occupancies import in_main_conformer, with_elements, with_occupancies
from .atomic.pdb import columns_of_pdb, generators_of_pdb
from .atomic.text import read_text

Models = Literal["auto", "all", "first"]
"""Which models of a file count; auto: all if they lie apart, the first if they lie on one another."""

# Voxels that are written at once: the working memory of a map, about 50 MB.
_VOXELS_AT_ONCE = 2**22
# Edge of the largest map that is made of atoms where no edge is asked for: 4 GB.
_MOST_VOXELS = 1024
# 0.1 mm: what is further away is no coordinate.
_FURTHEST_ANGSTROM = 1e6


@dataclass(frozen=True)
class AtomicModel:
    """Heavy atoms that are not of waters.

    Attributes
    ----------
    coordinates
        ``(n, 3)``, xyz in Angstrom.
    weights
        ``(n,)``: atomic number times occupancy, which is near enough to how strongly an atom scatters electrons. A
        residue in several conformers has all of them here, each weighted by its occupancy: a map is the mean of what
        many molecules look like.
    main
        ``(n,)``: which atoms are in the conformer of highest occupancy of their residue.
    chains, residues
        ``(n,)``: index of the chain's name, and number of the residue.
    chain_names
        Names by index.
    notes
        What was odd in the file, and what it was taken for.
    """

    coordinates: Float[Tensor, "n 3"]
    weights: Float[Tensor, " n"]
    main: Bool[Tensor, " n"]
    chains: Int[Tensor, " n"]
    residues: Float[Tensor, " n"]
    chain_names: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def points(self) -> Float[Tensor, "m 3"]:
        """Where atoms are, each once: one conformer of every residue."""
        return self.coordinates[self.main]


def read_atoms(
    path: Path, *, assembly: bool = True, models: Models = "auto"
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, " n"]]:
    """Read coordinates and weights alone, of what :func:`read_model` reads."""
    model = read_model(path, assembly=assembly, models=models)
    return model.coordinates, model.weights


def read_model(path: Path, *, assembly: bool = True, models: Models = "auto") -> AtomicModel:
    """Read the atoms of a PDB or mmCIF file, compressed with gzip or not; what is inside decides, not the name.

    Hydrogens and waters are left out, and atoms of occupancy 0. An element that the file does not say is found from
    the names of atom and residue.

    Parameters
    ----------
    path
        The file.
    assembly
        Build the first biological assembly that the file describes, if it describes any; otherwise, or if False,
        the atoms are those that are listed.
    models
        Which of several models count. ``auto``: all if they lie apart, as the copies of an assembly do (then nothing
        more is built), the first if they lie on one another, as an ensemble or a trajectory does.

    Raises
    ------
    InputError
        The file is missing, cannot be read as an atomic model, has no atoms, too many, or coordinates that are none;
        or models lie neither apart nor on one another.
    """
    listed, generators, notes = _read_listed(path)
    count = len(np.unique(listed.models))
    if models == "auto" and count > 1:
        how = arrangement(listed)
        if how == "unclear":
            raise InputError(
                f"{path}: its {count} models lie neither apart, as the copies of an assembly do, nor on one another, "
                "as an ensemble does; say which count with --models all or --models first"
            )
        models = "all" if how == "apart" else "first"
        notes += (_apart(count) if how == "apart" else _on_one_another(count),)
    if models == "all" and count > 1:
        return _model(in_one(listed), notes)
    return _first(path, listed, generators if assembly else [], notes)


def read_models(path: Path, *, each: bool = False) -> tuple[AtomicModel, ...]:
    """Read several models as one if they lie apart, otherwise (always with ``each``) one by one, as they are listed.

    Raises
    ------
    InputError
        As for :func:`read_model`, but not for models that lie neither apart nor on one another.
    """
    listed, generators, notes = _read_listed(path)
    count = len(np.unique(listed.models))
    if count == 1:
        return (_first(path, listed, generators, notes),)
    if not each and arrangement(listed) == "apart":
        return (_model(in_one(listed), (*notes, _apart(count))),)
    return tuple(_model(model, notes) for model in listed.by_model())


def part_of(path: Path, model: AtomicModel, part: str) -> Bool[Tensor, " n"]:
    """Which atoms are in a part of a model.

    Parameters
    ----------
    path
        Where the model is from, for messages.
    model
        The model.
    part
        Chains, or ranges of residues of them, both ends included: ``B``, ``A:1-120`` or ``A:1-120,B``. A chain that
        the assembly has several times keeps its name in the first copy; the others have free ones.

    Raises
    ------
    InputError
        The part is not understood, not in the model, or all of it.
    """
    inside = torch.zeros(len(model.weights), dtype=torch.bool)
    for chain, first, last in _residue_ranges(part):
        named = torch.tensor([name == chain for name in model.chain_names])[model.chains]
        found = named & (model.residues >= first) & (model.residues <= last) if first > -math.inf else named
        if not found.any():
            chains = [model.chain_names[index] for index in dict.fromkeys(model.chains.tolist())]
            residues = "" if first == -math.inf else f" with residues {first:g} to {last:g}"
            raise InputError(f"{path}: has no chain {chain}{residues}; its chains are {', '.join(chains)}")
        inside |= found
    if inside.all():
        raise InputError(f"{path}: {part} is the whole model; choose a part of it")
    return inside


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


def _read_listed(path: Path) -> tuple[ListedAtoms, list[Generator], tuple[str, ...]]:
    """Atoms that count, as they are listed, how the assembly is made of them, and what is to be said."""
    text = read_text(path)
    try:
        if is_mmcif(text):
            block = block_of_atoms(path, text)
            listed = listed_atoms(columns_of_mmcif(path, block))
            generators = generators_of_mmcif(path, block)
        else:
            listed = listed_atoms(columns_of_pdb(path, text))
            generators = generators_of_pdb(text)
    except InputError:
        raise
    except (ValueError, RuntimeError, IndexError) as error:  # what gemmi raises for malformed files
        reason = str(error).strip().splitlines()[:1]
        raise InputError(f"{path}: not a readable PDB or mmCIF file ({''.join(reason)})") from error
    if not len(listed):
        raise InputError(f"{path}: no atoms found; a PDB or mmCIF file with ATOM records is needed")
    listed, of_elements = with_elements(listed)
    listed, of_occupancies = with_occupancies(listed)
    _check_positions(path, listed)
    return listed, generators, (*of_elements, *of_occupancies)


def _check_positions(path: Path, atoms: ListedAtoms) -> None:
    if not np.isfinite(atoms.positions).all():
        raise InputError(f"{path}: some atoms have no finite coordinates; repair or remove them")
    if (furthest := np.abs(atoms.positions).max()) > _FURTHEST_ANGSTROM:
        raise InputError(f"{path}: an atom has the coordinate {furthest:g} Angstrom; repair or remove it")


def _apart(count: int) -> str:
    return f"its {count} models lie apart, as the copies of an assembly do; all of them count"


def _on_one_another(count: int) -> str:
    return f"its {count} models lie on one another, as an ensemble or a trajectory does; the first counts"


def _first(path: Path, listed: ListedAtoms, generators: list[Generator], notes: tuple[str, ...]) -> AtomicModel:
    """Read the first model, as its assembly if it is known how that is made."""
    (listed,) = listed.by_model(1)
    if generators:
        listed, more = build_assembly(path, listed, generators)
        notes += more
        _check_positions(path, listed)
    return _model(listed, notes)


def _model(listed: ListedAtoms, notes: tuple[str, ...]) -> AtomicModel:
    return AtomicModel(
        torch.from_numpy(listed.positions).float(),
        torch.from_numpy(listed.elements * listed.occupancies).float(),
        torch.from_numpy(in_main_conformer(listed)),
        torch.from_numpy(listed.chains),
        torch.from_numpy(listed.numbers).float(),
        listed.chain_names,
        notes,
    )


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
        A resolution or side that is not positive, atoms that reach beyond the sphere inside the map, or so far that
        the map would be too large.
    """
    if not resolution_angstrom > 0:
        raise InputError(f"the resolution must be a positive number of Angstrom, not {resolution_angstrom}")
    sigma = resolution_angstrom / (math.pi * math.sqrt(2)) / pixel_size_angstrom
    centred = coordinates - (weights[:, None] * coordinates).sum(0) / weights.sum()
    positions = centred / pixel_size_angstrom
    least = 2 * math.ceil(positions.norm(dim=1).max().item() + 3 * sigma + 1)
    if side is None and least > _MOST_VOXELS:
        raise InputError(
            f"the atoms reach {centred.norm(dim=1).max().item():.0f} Angstrom from their middle, which takes {least} "
            f"voxels of {pixel_size_angstrom:g} Angstrom, more than {_MOST_VOXELS}: is one astray? If not, give a "
            "coarser resolution"
        )
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
