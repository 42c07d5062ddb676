"""``scoretomo simulate``: images with a known truth."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import tyro

from ..datatypes import InputError
from ..io.atoms import Models, density_of_atoms, read_model
from ..io.mrc import read_volume, write_images
from ..limits import check_limit
from ..simulation.averages import AverageConfig, simulate_averages
from ..simulation.particles import Simulation, SimulationConfig, simulate_box, simulate_capsid, simulate_map
from ..simulation.single_particles import ParticleConfig
from .average_sets import build_moving_object, write_averages
from .particle_sets import write_particle_set
from .progress import progress, say
from .simulated_objects import build_object
from .truth_files import write_truth

Output = Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FOLDER")]
# In Angstrom.
_RESOLUTIONS = (0.1, 1e4)
_DEFAULT = SimulationConfig()
Settings = Annotated[SimulationConfig, tyro.conf.arg(name="")]
_DEFAULT_PARTICLES = ParticleConfig()
_DEFAULT_AVERAGES = AverageConfig()


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
    check_limit("--widest-angle-degrees", widest_angle_degrees, (-360.0, 360.0))
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
    models: Models = "auto",
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
    models
        Which models of an atomic file of several count: all, as of an assembly, or the first, as of an ensemble. Unless
        it is said, all if they lie apart, and the first if they lie on one another.
    """
    check_limit("--resolution", resolution, _RESOLUTIONS)
    _refuse_existing(output)
    model = read_model(file, models=models)
    for note in model.notes:
        say(f"note: {note}")
    density = density_of_atoms(model.coordinates, model.weights, resolution / 3, resolution_angstrom=resolution)
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
    models: Models = "auto",
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
    models
        Which models of an atomic file of several count: all, as of an assembly, or the first, as of an ensemble. Unless
        it is said, all if they lie apart, and the first if they lie on one another.
    """
    check_limit("--resolution", resolution, _RESOLUTIONS)
    check_limit("--true-volumes", true_volumes, (1, 10**5))
    _refuse_existing(output)
    parts, notes = build_object(
        source,
        settings,
        moving=() if moving is None else (moving,),
        resolution=resolution,
        map_pixel_size=map_pixel_size,
        models=models,
    )
    for note in notes:
        say(f"note: {note}")
    with progress("simulate") as report:
        write_particle_set(output, parts, settings, true_volumes=true_volumes, ctf_of=ctf_of, report=report)
    _announce(output)


def averages(
    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="box|capsid|hand|MAP|MODEL")],
    output: Output,
    settings: Annotated[AverageConfig, tyro.conf.arg(name="")] = _DEFAULT_AVERAGES,
    moving: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="PART")] = (),
    motions: int | None = None,
    resolution: Annotated[float | None, tyro.conf.arg(metavar="ANGSTROM")] = None,
    map_pixel_size: Annotated[float | None, tyro.conf.arg(metavar="ANGSTROM")] = None,
    models: Models = "auto",
) -> None:
    """Simulate realistic class averages: misaligned, of mixed states, phase-flipped, off centre, with junk if wanted.

    Box, capsid, map and atoms make clean projections; here each average is the mean of many noisy particles.

    Parameters
    ----------
    source
        The box or the capsid (the words), a hand with a moving thumb, a map (.mrc), an atomic model (.pdb or .cif, may
        be compressed), or one trace of many (FILE.npz:NUMBER, from 0).
    output
        Folder for images.mrcs, its halves images_even.mrcs and images_odd.mrcs, particles.star with poses, truth.csv,
        truth/volume_NNNN.mrc, and model.star and data.star as of a 2D classification.
    settings
        Number and size of averages, motion, and what is wrong with them.
    moving
        Part of the atomic model that turns: chains or residues, as in B or A:1-120,B. Give it twice for two parts, each
        of which turns about a hinge of its own.
    motions
        How many parts of a model turn where none is named: 1 is what lies beyond the middle of its long axis, 2 are
        the outer thirds.
    resolution
        Resolution in Angstrom of the density that is made of an atomic model; 2 pixels if not given.
    map_pixel_size
        Pixel size of the map in Angstrom, where its file says none or a wrong one.
    models
        Which models of an atomic file of several count: all, as of an assembly, or the first, as of an ensemble. Unless
        it is said, all if they lie apart, and the first if they lie on one another.
    """
    check_limit("--resolution", resolution, _RESOLUTIONS)
    _refuse_existing(output)
    found, notes = build_moving_object(
        source,
        settings,
        moving=moving,
        motions=motions,
        resolution=resolution,
        map_pixel_size=map_pixel_size,
        models=models,
    )
    for note in notes:
        say(f"note: {note}")
    write_averages(output, found, simulate_averages(found, settings, track=show), settings)
    _announce(output)


def write_simulation(folder: Path, simulation: Simulation) -> None:
    """Write images, true poses, true conformations and true volumes."""
    write_truth(
        folder,
        simulation.truth,
        simulation.poses,
        simulation.conformations,
        simulation.conformation_names,
        pixel_size_angstrom=simulation.stack.pixel_size_angstrom,
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
    "averages": averages,
    "particles": particles,
}
"""What can be simulated."""
