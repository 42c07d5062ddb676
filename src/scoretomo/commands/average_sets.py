"""Realistic class averages with a known truth: the object they show, and the folder they are written to."""

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import torch

from ..datatypes import CTFParams, ImageStack, InputError, Poses
from ..evaluation.fsc import fourier_ring_correlation, resolution_pixels
from ..io.atoms import Models
from ..io.class_models import write_class_model
from ..io.mrc import write_images
from ..io.star import write_particles
from ..simulation.averages import AverageConfig, AverageTruth, ClassAverages
from ..simulation.moving_objects import MovingObject, jointed_object, moving_box, moving_capsid
from .simulated_objects import build_object, check_motions
from .truth_files import write_truth

_WIDEST_LID_DEGREES = 150.0
_WIDEST_HINGE_DEGREES = 50.0
# Threshold of the correlation between two independent halves.
_BETWEEN_HALVES = 0.143


def build_moving_object(
    source: str,
    config: AverageConfig,
    *,
    moving: Sequence[str] = (),
    motions: int | None = None,
    resolution: float | None = None,
    map_pixel_size: float | None = None,
    models: Models = "auto",
) -> tuple[MovingObject, tuple[str, ...]]:
    """Make the object that class averages show, from ``box``, ``capsid`` or what :func:`build_object` takes.

    Returns
    -------
    found
        The object, of the side that ``config`` says.
    notes
        What was odd in the file.

    Raises
    ------
    InputError
        As for :func:`build_object`; or an angle for what does not turn.
    """
    widest = config.widest_angle_degrees
    if source in ("box", "capsid"):
        check_motions(source, widest or 0.0, moving, motions, of_atoms=False)
        if models != "auto":
            raise InputError(f"{source}: only an atomic file has models to choose among; leave --models out")
        if source == "box":
            widest = _WIDEST_LID_DEGREES if widest is None else widest
            return moving_box(config.side, config.pixel_size_angstrom, widest), ()
        if widest is not None:
            raise InputError("capsid: its arms go from closed to open; leave --widest-angle-degrees out")
        return moving_capsid(config.side, config.pixel_size_angstrom), ()
    if widest is None:
        widest = _WIDEST_HINGE_DEGREES if moving or motions else 0.0
    parts, notes = build_object(
        source,
        replace(config, widest_angle_degrees=widest).of_particles(),
        moving=moving,
        motions=motions,
        recentred=True,
        resolution=resolution,
        map_pixel_size=map_pixel_size,
        models=models,
    )
    return jointed_object(parts, widest), notes


def write_averages(folder: Path, found: MovingObject, averages: ClassAverages, config: AverageConfig) -> None:
    """Write averages and all that is true about them; the averages come last.

    ``images.mrcs``, and ``images_even.mrcs`` and ``images_odd.mrcs``, the averages of the even and of the odd particles
    of each class; ``particles.star`` with the true poses of the averages; ``truth.csv`` and ``truth/volume_NNNN.mrc``;
    and, as of a 2D classification, ``model.star``, the classes, and ``data.star``, the particles with class, pose, CTF,
    and half (1 even, 2 odd). Images of particles, which ``data.star`` names, are not written.
    """
    pixel_size, per_class = found.pixel_size_angstrom, config.particles_per_class
    write_truth(
        folder,
        averages.volumes,
        averages.truth.poses,
        averages.truth.states,
        found.names,
        pixel_size_angstrom=pixel_size,
        junk=config.junk or None,
    )
    count = len(averages.halves)
    poses, ctf = _particles(averages.truth, averages.junk)
    halves = {
        "rlnClassNumber": [number // per_class + 1 for number in range(count * per_class)],
        "rlnRandomSubset": [number % 2 + 1 for number in range(count * per_class)],
    }
    write_particles(
        folder / "data.star",
        "particles.mrcs",
        poses,
        pixel_size_angstrom=pixel_size,
        side=found.side,
        ctf=ctf,
        extra=halves,
    )
    even, odd = averages.halves.unbind(1)
    period = resolution_pixels(fourier_ring_correlation(even, odd), _BETWEEN_HALVES, found.side)
    write_class_model(
        folder / "model.star",
        "images.mrcs",
        pixel_size_angstrom=pixel_size,
        side=found.side,
        shares=torch.full((count,), 1 / count),
        resolutions_angstrom=period * pixel_size,
        angle_error_degrees=config.angle_std_degrees,
        shift_error_angstrom=config.shift_std_pixels * pixel_size,
    )
    for name, images in (("_even", even), ("_odd", odd), ("", averages.images)):
        write_images(folder / f"images{name}.mrcs", ImageStack(images, pixel_size))


def _particles(*of: AverageTruth | None) -> tuple[Poses, CTFParams | None]:
    """Poses and CTF of the particles of all classes."""
    known = [truth for truth in of if truth is not None]
    poses = Poses(
        torch.cat([truth.particle_poses.rotations for truth in known]),
        torch.cat([truth.particle_poses.shifts_angstrom for truth in known]),
    )
    ctfs = [truth.ctf for truth in known if truth.ctf is not None]
    if not ctfs:
        return poses, None
    return poses, CTFParams(*(torch.cat([getattr(ctf, field.name) for ctf in ctfs]) for field in fields(CTFParams)))
