"""The object that simulated particles or class averages show: a phantom, or made of a file that the user names."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..datatypes import InputError, Volume
from ..imaging.masks import soft_ball
from ..io.atoms import Models, density_of_atoms, part_of, read_model
from ..io.mrc import read_volume
from ..io.point_collections import read_member
from ..io.point_files import is_atomic
from ..simulation.motions import (
    Hinge,
    RigidPart,
    beyond_the_middle,
    centre_of_mass,
    hand_parts,
    hinge_between,
    outer_thirds,
    reach,
)
from ..simulation.particles import resample_map
from ..simulation.phantoms import WIDEST_THUMB_DEGREES
from ..simulation.single_particles import ParticleConfig

# The hand of 003 has 64 pixels of 6 Angstrom (table S2).
_HAND_WIDTH_ANGSTROM = 384.0
# Edge of the images over the diameter of an atomic model, where no pixel size is given; usual for particles.
_BOX_TO_DIAMETER = 1.5
# Soft edge of the sphere in which a map is taken, in voxels: what is outside of it would leave the images as it turns.
_EDGE = 3.0
_MOST_MOTIONS = 2

_Atoms = tuple[Float[Tensor, "n 3"], Float[Tensor, " n"], list[Bool[Tensor, " n"]]]
"""Coordinates, weights, and which atoms are in each part that moves."""


def build_object(
    source: str,
    config: ParticleConfig,
    *,
    moving: Sequence[str] = (),
    motions: int | None = None,
    recentred: bool = False,
    resolution: float | None = None,
    map_pixel_size: float | None = None,
    models: Models = "auto",
) -> tuple[tuple[RigidPart, ...], tuple[str, ...]]:
    """Make the object that images show, from ``hand`` or the name of a map or an atomic model.

    Parameters
    ----------
    source
        ``hand``, a map, an atomic model, or one trace of many: ``FILE.npz:NUMBER``, counted from 0, or its name.
    config
        Side, pixel size and widest angle.
    moving
        Parts of the atomic model, each of which turns about a hinge of its own; see
        :func:`scoretomo.io.atoms.part_of`.
    motions
        How many parts of the model turn where none is named: one is what lies beyond its middle, two are the outer
        thirds. None: one, if there is an angle to turn to.
    recentred
        The object's centre of mass is put back to the origin wherever the parts turn to.
    resolution
        Of the density that is made of atoms, in Angstrom; 2 pixels if None.
    map_pixel_size
        In Angstrom; None: of the map's file.
    models
        Which of several models of an atomic file count; see :func:`scoretomo.io.atoms.read_model`.

    Returns
    -------
    parts
        The object, first what stays; all parts have the images' side and pixel size.
    notes
        What was odd in the file.

    Raises
    ------
    InputError
        A file that cannot be read, an object that the images are too small for, a part to move of what cannot move.
    """
    is_model, is_trace = is_atomic(Path(source)), _named_trace(source) is not None
    check_motions(source, config.widest_angle_degrees, moving, motions, of_atoms=is_model or is_trace)
    if models != "auto" and not is_model:
        raise InputError(f"{source}: only an atomic file has models to choose among; leave --models out")
    if source == "hand":
        return _hand(config), ()
    if is_model or is_trace:
        count = 0 if not config.widest_angle_degrees else len(moving) or motions or 1
        atoms, notes = _trace(source, moving, count) if is_trace else _model(Path(source), moving, count, models)
        return _parts(source, atoms, config, resolution, recentred=recentred), notes
    if config.widest_angle_degrees:
        raise InputError(f"{source}: a map has no part that could move; give an atomic model, or hand")
    loaded = read_volume(Path(source), map_pixel_size)
    density = resample_map(loaded.volume, config.side, config.pixel_size_angstrom)
    sphere = soft_ball(config.side, 3, (config.side - 1) // 2 - _EDGE, _EDGE)
    return (RigidPart(Volume(density.voxels * sphere, density.pixel_size_angstrom), torch.zeros(3)),), loaded.notes


def check_motions(source: str, widest: float, moving: Sequence[str], motions: int | None, *, of_atoms: bool) -> None:
    """Refuse motions that contradict each other, or of what has no parts."""
    if moving and not of_atoms:
        raise InputError(f"{source}: only an atomic model has a part to name; leave --moving out")
    if motions is not None and not of_atoms:
        raise InputError(f"{source}: only an atomic model has motions to count; leave --motions out")
    if moving and not widest:
        raise InputError(f"to which angle is {' and '.join(moving)} to move? Give --widest-angle-degrees")
    if motions and not widest:
        raise InputError(f"to which angle are the {motions} motions to go? Give --widest-angle-degrees")
    count = len(moving) if motions is None else motions
    if not 0 <= count <= _MOST_MOTIONS or len(moving) not in (0, count):
        named = f", with {len(moving)} parts named" if moving and len(moving) != count else ""
        raise InputError(f"{source}: one or two parts can move, not {count}{named}")


def _hand(config: ParticleConfig) -> tuple[RigidPart, ...]:
    if config.widest_angle_degrees > WIDEST_THUMB_DEGREES:
        raise InputError(
            f"the thumb turns to {WIDEST_THUMB_DEGREES:g} degrees at most, not {config.widest_angle_degrees:g}: "
            "there the palm is"
        )
    return hand_parts(config.side, config.pixel_size_angstrom or _HAND_WIDTH_ANGSTROM / config.side)


def _named_trace(source: str) -> tuple[Path, str] | None:
    """File and name, or number, of a trace; None if the source is no file of traces."""
    match = re.fullmatch(r"(.+\.npz)(?::(.+))?", source)
    return None if match is None else (Path(match[1]), match[2] or "")


def _trace(source: str, moving: Sequence[str], motions: int) -> tuple[_Atoms, tuple[str, ...]]:
    """C-alpha atoms of one trace, all of one weight."""
    if moving:
        raise InputError(f"{source}: a trace has no chains to name; leave --moving out and give --motions")
    found = _named_trace(source)
    assert found is not None
    loaded = read_member(*found)
    weights = torch.ones(len(loaded.points))
    return (loaded.points, weights, _unnamed(loaded.points, weights, motions)), loaded.notes


def _model(path: Path, moving: Sequence[str], motions: int, models: Models) -> tuple[_Atoms, tuple[str, ...]]:
    """Atoms of a model."""
    model = read_model(path, models=models)
    if not moving:
        turning = _unnamed(model.coordinates, model.weights, motions)
        return (model.coordinates, model.weights, turning), model.notes
    turning = [part_of(path, model, part) for part in moving]
    if torch.stack(turning).sum(0).amax() > 1:
        raise InputError(f"{path}: {' and '.join(moving)} share residues; an atom can be in one moving part only")
    if torch.stack(turning).any(0).all():
        raise InputError(f"{path}: {' and '.join(moving)} are the whole model; leave a part of it that stays")
    return (model.coordinates, model.weights, turning), model.notes


def _unnamed(coordinates: Float[Tensor, "n 3"], weights: Float[Tensor, " n"], motions: int) -> list[Tensor]:
    """Parts that move where none is named."""
    if motions == _MOST_MOTIONS:
        return list(outer_thirds(coordinates, weights))
    return [beyond_the_middle(coordinates, weights)] * motions


def _parts(
    source: str, atoms: _Atoms, config: ParticleConfig, resolution: float | None, *, recentred: bool
) -> tuple[RigidPart, ...]:
    """Densities of what stays and of the parts that move, about the centre of mass of all atoms."""
    coordinates, weights, turning = atoms
    coordinates = coordinates - centre_of_mass(coordinates, weights)
    stays = ~torch.stack(turning).any(0) if turning else torch.ones(len(weights), dtype=torch.bool)
    if turning and (not stays.any() or not all(part.any() for part in turning)):
        raise InputError(f"{source}: its {len(weights)} atoms are no parts, one of which could move; leave motion out")
    hinges = [_hinge(coordinates, weights, stays, part) for part in turning]
    widest = math.radians(config.widest_angle_degrees)
    moves = list(zip(turning, hinges, strict=True))
    furthest = reach(coordinates, moves, widest, weights if recentred else None)
    if not furthest and not config.pixel_size_angstrom:
        raise InputError(f"{source}: is a single point, which tells no size of pixels; give --pixel-size-angstrom")
    pixel_size = config.pixel_size_angstrom or _BOX_TO_DIAMETER * 2 * furthest / config.side
    resolution = resolution or 2 * pixel_size
    needed = 2 * (furthest + 0.7 * resolution + pixel_size)  # 3 standard deviations of an atom's Gaussian
    if needed > config.side * pixel_size:
        raise InputError(
            f"{source}: the model needs {needed:.0f} Angstrom to turn in, more than {config.side} pixels of "
            f"{pixel_size:g} Angstrom: use more or larger pixels"
        )
    parts = []
    for chosen, turns_about in ((stays, None), *moves):
        density = density_of_atoms(
            coordinates[chosen],
            weights[chosen],
            pixel_size,
            resolution_angstrom=resolution,
            side=config.side,
        )
        parts.append(RigidPart(density, centre_of_mass(coordinates[chosen], weights[chosen]), turns_about))
    return tuple(parts)


def _hinge(
    coordinates: Float[Tensor, "n 3"], weights: Float[Tensor, " n"], stays: Bool[Tensor, " n"], part: Bool[Tensor, " n"]
) -> Hinge:
    """Hinge between a moving part and what stays, as if there were no other moving part."""
    both = stays | part
    return hinge_between(coordinates[both], weights[both], part[both])
