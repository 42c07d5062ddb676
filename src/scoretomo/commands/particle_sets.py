"""Single-particle data sets with a known truth, and the folder they are written to."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..datatypes import InputError
from ..io.image_table import read_image_table
from ..io.mrc import write_volume
from ..io.stack_writer import write_images_in_parts
from ..io.star import table_ctf, write_particles
from ..io.tables import write_table
from ..simulation.motions import RigidPart, assemble
from ..simulation.single_particles import ParticleConfig, draw_particles, noisy_images
from .progress import Report


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
