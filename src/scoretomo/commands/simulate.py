"""``scoretomo simulate``: images with a known truth."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import tyro

from ..datatypes import InputError, Volume
from ..io.atoms import density_of_atoms, read_atoms
from ..io.mrc import read_volume, write_images, write_volume
from ..io.star import write_particles
from ..io.tables import write_table
from ..simulation.particles import Simulation, SimulationConfig, simulate_box, simulate_capsid, simulate_map
from ..simulation.single_particles import ParticleConfig
from .particle_sets import build_object, write_particle_set
from .progress import progress, say

Output = Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FOLDER")]
_DEFAULT = SimulationConfig()
Settings = Annotated[SimulationConfig, tyro.conf.arg(name="")]
_DEFAULT_PARTICLES = ParticleConfig()


def box(output: Output, settings: Settings = _DEFAULT, widest_angle_degrees: float = 150.0) -> None:
    """Simulate a box with four moving lids, the paper's first test.

    Parameters
    ----------
    output
        Folder for images.mrcs, particles.star, truth.csv and truth/volume_NNNN.mrc.
    settings
        Number and size of images, noise.
    widest_angle_degrees
        Lids open from 0 (closed) to this angle.
    """
    _refuse_existing(output)
    write_simulation(output, simulate_box(settings, widest_angle_degrees=widest_angle_degrees, track=show))
    _announce(output)


def capsid(output: Output, settings: Settings = _DEFAULT) -> None:
    """Simulate a capsid with moving arms, the paper's second test.

    Parameters
    ----------
    output
        Folder for images.mrcs, particles.star, truth.csv and truth/volume_NNNN.mrc.
    settings
        Number and size of images, noise.
    """
    _refuse_existing(output)
    write_simulation(output, simulate_capsid(settings, track=show))
    _announce(output)


def density_map(
    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MAP")],
    output: Output,
    settings: Settings = _DEFAULT,
    map_pixel_size: Annotated[float | None, tyro.conf.arg(metavar="ANGSTROM")] = None,
) -> None:
    """Simulate images of a density map.

    Parameters
    ----------
    file
        The map, .mrc.
    output
        Folder for images.mrcs, particles.star, truth.csv and truth/volume_NNNN.mrc.
    settings
        Number and size of images, noise.
    map_pixel_size
        Pixel size of the map in Angstrom, where its file says none or a wrong one.
    """
    _refuse_existing(output)
    loaded = read_volume(file, map_pixel_size)
    for note in loaded.notes:
        say(f"note: {note}")
    write_simulation(output, simulate_map(loaded.volume, settings, track=show))
    _announce(output)


def atoms(
    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MODEL")],
    output: Output,
    settings: Settings = _DEFAULT,
    resolution: Annotated[float, tyro.conf.arg(metavar="ANGSTROM")] = 10.0,
) -> None:
    """Simulate images of an atomic model.

    Parameters
    ----------
    file
        The model, .pdb or .cif, may be compressed (.gz). Its biological assembly is built.
    output
        Folder for images.mrcs, particles.star, truth.csv and truth/volume_NNNN.mrc.
    settings
        Number and size of images, noise.
    resolution
        Resolution in Angstrom of the density that is made of the atoms.
    """
    _refuse_existing(output)
    coordinates, weights = read_atoms(file)
    density = density_of_atoms(coordinates, weights, resolution / 3, resolution_angstrom=resolution)
    write_simulation(output, simulate_map(density, settings, track=show))
    _announce(output)


def particles(
    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="hand|MAP|MODEL")],
    output: Output,
    settings: Annotated[ParticleConfig, tyro.conf.arg(name="")] = _DEFAULT_PARTICLES,
    moving: Annotated[str | None, tyro.conf.arg(metavar="PART")] = None,
    resolution: Annotated[float | None, tyro.conf.arg(metavar="ANGSTROM")] = None,
    map_pixel_size: Annotated[float | None, tyro.conf.arg(metavar="ANGSTROM")] = None,
    ctf_of: Annotated[Path | None, tyro.conf.arg(metavar="STAR")] = None,
    true_volumes: int = 10,
) -> None:
    """Simulate thousands of single-particle images, of a rigid or a moving object, with CTF and noise.

    The others simulate class averages: hundreds of images, each with a true volume of its own.

    Parameters
    ----------
    source
        A hand with a moving thumb (the word), a map (.mrc), or an atomic model (.pdb or .cif, may be compressed).
    output
        Folder for images.mrcs, particles.star with poses and CTF, truth.csv and truth/volume_NNNN.mrc.
    settings
        Number and size of images, motion, shifts, CTF, noise.
    moving
        Part of the atomic model that turns where a widest angle is given: chains or residues, as in B or A:1-120,B.
        If none is named, what lies beyond the middle along the model's long axis.
    resolution
        Resolution in Angstrom of the density that is made of an atomic model; 2 pixels if not given.
    map_pixel_size
        Pixel size of the map in Angstrom, where its file says none or a wrong one.
    ctf_of
        Particle file of real images: each simulated one gets the CTF of one of them, in place of a range of defocus.
    true_volumes
        True volumes that are written of a moving object, at evenly spaced angles.
    """
    _refuse_existing(output)
    parts, notes = build_object(source, settings, moving=moving, resolution=resolution, map_pixel_size=map_pixel_size)
    for note in notes:
        say(f"note: {note}")
    with progress("simulate") as report:
        write_particle_set(output, parts, settings, true_volumes=true_volumes, ctf_of=ctf_of, report=report)
    _announce(output)


def write_simulation(folder: Path, simulation: Simulation) -> None:
    """Write images, true poses, true conformations and true volumes."""
    (folder / "truth").mkdir(parents=True, exist_ok=True)
    pixel_size = simulation.stack.pixel_size_angstrom
    for index, voxels in enumerate(simulation.truth):
        write_volume(folder / "truth" / f"volume_{index:04d}.mrc", Volume(voxels, pixel_size))
    names = simulation.conformation_names
    conformations = enumerate(simulation.conformations.tolist())
    rows = [{"image": index, **dict(zip(names, values, strict=True))} for index, values in conformations]
    write_table(folder / "truth.csv", rows)
    write_particles(
        folder / "particles.star",
        "images.mrcs",
        simulation.poses,
        pixel_size_angstrom=pixel_size,
        side=simulation.stack.side,
    )
    write_images(folder / "images.mrcs", simulation.stack)


def _refuse_existing(folder: Path) -> None:
    if (folder / "images.mrcs").exists():
        raise InputError(f"{folder}: holds images.mrcs already; give another folder")


def _announce(folder: Path) -> None:
    print(f"images: {folder / 'images.mrcs'}\ntrue poses: {folder / 'particles.star'}\ntruth: {folder / 'truth'}")


def show(indices: range) -> Iterator[int]:
    """Pass indices on and show how far they are."""
    with progress("simulate") as report:
        for index in indices:
            yield index
            report((index + 1) / len(indices), f"{index + 1} of {len(indices)}")


SOURCES: dict[str, Callable[..., None]] = {
    "box": box,
    "capsid": capsid,
    "map": density_map,
    "atoms": atoms,
    "particles": particles,
}
"""What can be simulated."""
