"""``scoretomo simulate``: images with a known truth."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import tyro

from ..datatypes import Volume
from ..io.files import write_text
from ..io.mrc import write_images, write_volume
from ..io.star import write_particles
from ..simulation.particles import Simulation, SimulationConfig, simulate_box
from .progress import progress

Output = Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FOLDER")]
_DEFAULT = SimulationConfig()
Settings = Annotated[SimulationConfig, tyro.conf.arg(name="")]


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
    simulation = simulate_box(settings, widest_angle_degrees=widest_angle_degrees, track=show)
    write_simulation(output, simulation)
    print(f"images: {output / 'images.mrcs'}\ntruth: {output / 'truth'}")


def write_simulation(folder: Path, simulation: Simulation) -> None:
    """Write images, true poses, true conformations and true volumes."""
    (folder / "truth").mkdir(parents=True, exist_ok=True)
    pixel_size = simulation.stack.pixel_size_angstrom
    for index, voxels in enumerate(simulation.truth):
        write_volume(folder / "truth" / f"volume_{index:04d}.mrc", Volume(voxels, pixel_size))
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["image", *simulation.conformation_names])
    writer.writerows([index, *values] for index, values in enumerate(simulation.conformations.tolist()))
    write_text(folder / "truth.csv", table.getvalue())
    write_particles(
        folder / "particles.star",
        "images.mrcs",
        simulation.poses,
        pixel_size_angstrom=pixel_size,
        side=simulation.stack.side,
    )
    write_images(folder / "images.mrcs", simulation.stack)


def show(indices: range) -> Iterator[int]:
    """Pass indices on and show how far they are."""
    with progress("simulate") as report:
        for index in indices:
            report(index / len(indices), f"{index} of {len(indices)}")
            yield index


SOURCES = {"box": box}
"""What can be simulated."""
