"""``scoretomo drgn backproject``: a map of particle images at their poses, without a network."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from jaxtyping import Float
from torch import Tensor

from .. import processes
from ..datatypes import InputError
from ..evaluation.fsc import fourier_shell_correlation, resolution_pixels
from ..evaluation.half_maps import THRESHOLD
from ..imaging.masks import soft_ball
from ..io.files import replacing_folder
from ..io.mrc import write_volume
from ..io.particles import Particles
from ..io.tables import write_table
from ..methods.abinitio import ParticleImages
from ..methods.back_projection import BackProjection, weighted_volume
from .drgn_images import ParticlesConfig, ParticleSource, Preparation, particle_images, prepare_images, working_side
from .drgn_train import announce
from .progress import interruptible, progress, say
from .train import choose_device

# Images that are summed up at once.
_IMAGES_AT_ONCE = 64
# The halves are compared within a sphere of this part of half the side.
_SPHERE, _EDGE = 0.9, 0.1


@dataclass(frozen=True)
class _BackProjected:
    """A volume, the halves that it is made of, and how they agree.

    Attributes
    ----------
    volume
        ``(n, n, n)``, of all images, weighted by what the halves have in common.
    halves
        Each of one half of the images, not weighted.
    fsc
        ``(n // 2 + 1,)``, of the halves within a soft sphere.
    """

    volume: Float[Tensor, "n n n"]
    halves: tuple[Float[Tensor, "n n n"], Float[Tensor, "n n n"]]
    fsc: Float[Tensor, " k"]


@dataclass(frozen=True)
class BackProjectSource(ParticleSource):
    """Particles with poses, and where the map goes.

    Attributes
    ----------
    particles
        A RELION .star or a cryoSPARC .cs file with poses, such as the poses.star of `scoretomo drgn train`; or a stack
        (.mrcs) with --poses-file.
    output
        Folder for volume.mrc (weighted by the halves), half_1.mrc, half_2.mrc and fsc.csv.
    """


def backproject(
    source: Annotated[BackProjectSource, tyro.conf.arg(name="")],
    config: Annotated[ParticlesConfig, tyro.conf.arg(name="")] = ParticlesConfig(),  # noqa: B008 - frozen
) -> None:
    """Make a map of particle images at the poses that they have, without a network.

    Slices are summed up in Fourier space. Halves are those of the file (rlnRandomSubset, alignments3D/split), or every
    other particle; how they agree weights the map. Poses that all images have found together make halves that agree
    too well: `scoretomo drgn halves` compares halves with poses of their own.
    """
    processes.refuse_company("drgn backproject")
    device = choose_device(source.device)
    particles = source.open(config.half, file_poses=True)
    if particles.poses is None:
        raise InputError(f"{source.particles}: has no poses; find them with `scoretomo drgn train --poses search`")
    if source.output.exists():
        raise InputError(f"{source.output}: exists already; give another folder")
    if not source.output.parent.is_dir():
        raise InputError(f"{source.output.parent}: there is no such folder")
    working_side(particles, config)
    for note in particles.notes:
        say(f"note: {note}")
    with progress("read") as report:
        images, record = prepare_images(particles, config, report)
    announce(particles, record, device)
    made = _sum_up(particles, particle_images(images, particles.ctf, record, device), record, device)
    _write(source.output, made, record)
    resolution = float(resolution_pixels(made.fsc, THRESHOLD, record.side)) * record.pixel_size_angstrom
    agree = f"agree to {resolution:.2f} A" if np.isfinite(resolution) else "do not agree"
    print(f"volume: {source.output / 'volume.mrc'}\nhalves {agree} (FSC {THRESHOLD}, within a sphere, poses as given)")


def _sum_up(particles: Particles, data: ParticleImages, record: Preparation, device: torch.device) -> _BackProjected:
    """Both halves of the images."""
    assert particles.poses is not None
    poses, halves, side, count = particles.poses, particles.half_sets, record.side, len(particles)
    sums = {half: BackProjection(side, device) for half in (1, 2)}
    done = 0
    with interruptible() as check, progress("backproject") as report:
        for half, total in sums.items():
            for rows in torch.from_numpy(np.flatnonzero(halves == half)).split(_IMAGES_AT_ONCE):
                transfer = None if data.transfer is None else data.transfer(rows.to(device), total.frequencies)
                shifts = poses.shifts_angstrom[rows].to(device) / record.pixel_size_angstrom
                total.add(data.images[rows].to(device), poses.rotations[rows].to(device), shifts, transfer)
                done += len(rows)
                report(done / count, f"{done} of {count} images")
                check()
    return _join(sums[1], sums[2])


def _join(first: BackProjection, second: BackProjection) -> _BackProjected:
    """Compare the volumes of two halves of the images, and make that of all."""
    halves, side = (first.volume(), second.volume()), first.side
    sphere = soft_ball(side, 3, _SPHERE * side / 2, max(2.0, _EDGE * side / 2)).to(halves[0])
    fsc = fourier_shell_correlation(halves[0] * sphere, halves[1] * sphere)
    return _BackProjected(weighted_volume(first, second, fsc), halves, fsc)


def _write(output: Path, made: _BackProjected, record: Preparation) -> None:
    with replacing_folder(output) as folder:
        for name, voxels in zip(("volume", "half_1", "half_2"), (made.volume, *made.halves), strict=True):
            write_volume(folder / f"{name}.mrc", record.restore(voxels.cpu()))
        step = 1 / (record.side * record.pixel_size_angstrom)
        rows = [{"frequency_per_angstrom": k * step, "fsc": value} for k, value in enumerate(made.fsc.tolist())]
        write_table(folder / "fsc.csv", rows)
