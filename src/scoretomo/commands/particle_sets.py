"""Single-particle data sets with a known truth: the object they show, and the folder they are written to."""

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..datatypes import InputError, Volume
from ..imaging.masks import soft_ball
from ..io.atoms import density_of_atoms, read_atoms, read_atoms_with_part
from ..io.mrc import read_volume, write_volume
from ..io.stack_writer import write_images_in_parts
from ..io.star import read_image_table, table_ctf, write_particles
from ..io.tables import write_table
from ..simulation.motions import (
    RigidPart,
    assemble,
    beyond_the_middle,
    centre_of_mass,
    hand_parts,
    hinge_between,
    reach,
)
from ..simulation.particles import resample_map
from ..simulation.phantoms import WIDEST_THUMB_DEGREES
from ..simulation.single_particles import ParticleConfig, draw_particles, noisy_images
from .progress import Report

_MODEL_SUFFIXES = {".pdb", ".ent", ".cif", ".mmcif"}
# The hand of 003 has 64 pixels of 6 Angstrom (table S2).
_HAND_WIDTH_ANGSTROM = 384.0
# Edge of the images over the diameter of an atomic model, where no pixel size is given; usual for particles.
_BOX_TO_DIAMETER = 1.5
# Soft edge of the sphere in which a map is taken, in voxels: what is outside of it would leave the images as it turns.
_EDGE = 3.0


def build_object(
    source: str,
    config: ParticleConfig,
    *,
    moving: str | None = None,
    resolution: float | None = None,
    map_pixel_size: float | None = None,
) -> tuple[tuple[RigidPart, ...], tuple[str, ...]]:
    """Make the object that particles show, from ``hand`` or the name of a map or an atomic model.

    Returns
    -------
    parts
        The object; all parts have the images' side and pixel size.
    notes
        What was odd in the file.

    Raises
    ------
    InputError
        A file that cannot be read, an object that the images are too small for, a part to move of what cannot move.
    """
    is_model = bool(_MODEL_SUFFIXES & {suffix.lower() for suffix in Path(source).suffixes[-2:]})
    if moving is not None and not is_model:
        raise InputError(f"{source}: only an atomic model has a part to name; leave --moving out")
    if moving is not None and not config.widest_angle_degrees:
        raise InputError(f"to which angle is {moving} to move? Give --widest-angle-degrees")
    if source == "hand":
        return _hand(config), ()
    if is_model:
        return _model(Path(source), config, moving, resolution), ()
    if config.widest_angle_degrees:
        raise InputError(f"{source}: a map has no part that could move; give an atomic model, or hand")
    loaded = read_volume(Path(source), map_pixel_size)
    density = resample_map(loaded.volume, config.side, config.pixel_size_angstrom)
    sphere = soft_ball(config.side, 3, (config.side - 1) // 2 - _EDGE, _EDGE)
    return (RigidPart(Volume(density.voxels * sphere, density.pixel_size_angstrom), torch.zeros(3)),), loaded.notes


def _hand(config: ParticleConfig) -> tuple[RigidPart, ...]:
    if config.widest_angle_degrees > WIDEST_THUMB_DEGREES:
        raise InputError(
            f"the thumb turns to {WIDEST_THUMB_DEGREES:g} degrees at most, not {config.widest_angle_degrees:g}: "
            "there the palm is"
        )
    return hand_parts(config.side, config.pixel_size_angstrom or _HAND_WIDTH_ANGSTROM / config.side)


def _model(path: Path, config: ParticleConfig, moving: str | None, resolution: float | None) -> tuple[RigidPart, ...]:
    """Density of an atomic model about its centre of mass, in two parts if it moves."""
    widest = math.radians(config.widest_angle_degrees)
    if moving is not None:
        coordinates, weights, turning = read_atoms_with_part(path, moving)
    else:
        coordinates, weights = read_atoms(path)
        turning = beyond_the_middle(coordinates, weights) if widest else torch.zeros(len(weights), dtype=torch.bool)
    coordinates = coordinates - centre_of_mass(coordinates, weights)
    hinge = hinge_between(coordinates, weights, turning) if widest else None
    furthest = reach(coordinates, turning, hinge, widest)
    pixel_size = config.pixel_size_angstrom or _BOX_TO_DIAMETER * 2 * furthest / config.side
    resolution = resolution or 2 * pixel_size
    needed = 2 * (furthest + 0.7 * resolution + pixel_size)  # 3 standard deviations of an atom's Gaussian
    if needed > config.side * pixel_size:
        raise InputError(
            f"{path}: the model needs {needed:.0f} Angstrom to turn in, more than {config.side} pixels of "
            f"{pixel_size:g} Angstrom: use more or larger pixels"
        )
    parts = []
    for chosen, turns_about in ((~turning, None), (turning, hinge)):
        if chosen.any():
            density = density_of_atoms(
                coordinates[chosen],
                weights[chosen],
                pixel_size,
                resolution_angstrom=resolution,
                side=config.side,
            )
            parts.append(RigidPart(density, centre_of_mass(coordinates[chosen], weights[chosen]), turns_about))
    return tuple(parts)


def write_particle_set(
    folder: Path,
    parts: Sequence[RigidPart],
    config: ParticleConfig,
    *,
    true_volumes: int = 10,
    ctf_of: Path | None = None,
    report: Report = lambda part, note: None,
) -> None:
    """Simulate images of an object and write them with all that is true about them; the images come last.

    ``images.mrcs``; ``particles.star`` with true poses and CTF; ``truth.csv`` with the angle of the moving part in each
    image; ``truth/volume_NNNN.mrc``, the object at ``true_volumes`` evenly spaced angles (one if it is rigid), and
    ``truth/volumes.csv`` with these angles. With ``ctf_of``, a STAR file of real particles, the contrast transfer of
    each image is that of one of these.

    Raises
    ------
    InputError
        No true volumes are asked for, noise where there is no signal, the CTF of a file that has none, or both this and
        a range of defocus.
    """
    if true_volumes < 1:
        raise InputError(f"at least 1 true volume is written, not {true_volumes}")
    if ctf_of is not None and config.defocus_micrometers is not None:
        raise InputError(f"give either --ctf-of {ctf_of} or --defocus-micrometers, not both")
    recorded = None if ctf_of is None else table_ctf(read_image_table(ctf_of))
    if ctf_of is not None and recorded is None:
        raise InputError(f"{ctf_of}: has no CTF; give a particle file with rlnDefocusU, or --defocus-micrometers")
    pixel_size = parts[0].density.pixel_size_angstrom
    generator = torch.Generator().manual_seed(config.seed)
    truth = draw_particles(config, generator, recorded)
    (folder / "truth").mkdir(parents=True, exist_ok=True)
    angles = torch.linspace(0, config.widest_angle_degrees, true_volumes if config.widest_angle_degrees else 1)
    for index, volume in enumerate(assemble(parts, torch.deg2rad(angles).tolist())):
        write_volume(folder / "truth" / f"volume_{index:04d}.mrc", volume)
    write_table(folder / "truth" / "volumes.csv", _rows("volume", angles))
    write_table(folder / "truth.csv", _rows("image", torch.rad2deg(truth.angles)))
    write_particles(
        folder / "particles.star",
        "images.mrcs",
        truth.poses,
        pixel_size_angstrom=pixel_size,
        side=config.side,
        ctf=truth.ctf,
    )
    images = noisy_images(parts, truth, config, generator)
    write_images_in_parts(
        folder / "images.mrcs", _counted(images, config.count, report), pixel_size_angstrom=pixel_size
    )


def _rows(what: str, angles_degrees: Tensor) -> list[dict[str, Any]]:
    return [{what: index, "angle_degrees": round(angle, 4)} for index, angle in enumerate(angles_degrees.tolist())]


def _counted(parts: Iterable[Tensor], count: int, report: Report) -> Iterator[Tensor]:
    """Pass images on and report how many there have been."""
    done = 0
    for part in parts:
        yield part
        done += len(part)
        report(done / count, f"{done} of {count} images")
