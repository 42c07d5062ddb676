"""``scoretomo drgn poses``: the poses of particles against a given map."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import torch
import tyro
from jaxtyping import Float
from torch import Tensor

from .. import processes
from ..datatypes import InputError, Poses, Volume
from ..imaging.slices import SliceFn, voxel_slices
from ..io.checkpoints import load_checkpoint, save_checkpoint
from ..io.mrc import read_volume
from ..io.settings import to_table
from ..methods.abinitio import find_volume_poses
from ..methods.abinitio_schedule import SearchGridConfig
from ..methods.pose_search import PoseCandidates, transfer_of
from ..simulation.particles import resample_map
from .drgn_folder import ParticleFiles, source_table, write_poses
from .drgn_images import ParticlesConfig, open_particles, particle_images, prepare_images, working_side
from .drgn_train import announce
from .idle_options import idle_with, refuse_idle
from .progress import progress, say
from .train import Device, choose_device
from .training_loop import go_through

# Images between two reports of the progress.
_IMAGES_AT_ONCE = 64


@dataclass(frozen=True)
class PosesConfig:
    """How particles are prepared and searched."""

    particles: Annotated[ParticlesConfig, tyro.conf.arg(name="")] = field(default_factory=ParticlesConfig)
    """Which images are used and how."""
    method: Literal["search", "branch-and-bound"] = "search"
    """The hierarchical search of cryoDRGN2, or branch and bound as in cryoDRGN."""
    search: SearchGridConfig = field(default_factory=SearchGridConfig)
    """How finely, and on which frequencies."""


class _Saved(TypedDict):
    """Of what was found until a command was interrupted, by batches of images."""

    made_of: str
    rotations: list[Float[Tensor, "n 3 3"]]
    shifts_pixels: list[Float[Tensor, "n 2"]]
    scores: list[Float[Tensor, " n"]]


_DEFAULT = PosesConfig()


def poses(
    particles: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PARTICLES")],
    volume: Annotated[Path, tyro.conf.arg(metavar="MAP")],
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FILE.star")],
    config: Annotated[PosesConfig, tyro.conf.arg(name="")] = _DEFAULT,
    passthrough: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="CS ...")] = (),
    ctf_file: Annotated[Path | None, tyro.conf.arg(metavar="PKL")] = None,
    pixel_size: Annotated[float | None, tyro.conf.arg(metavar="ANGSTROM")] = None,
    datadir: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None,
    map_pixel_size: Annotated[float | None, tyro.conf.arg(metavar="ANGSTROM")] = None,
    device: Device = "auto",
) -> None:
    """Find the poses of particles against a map.

    All rotations and shifts are searched for every particle, whatever poses its file has. The result is a RELION file
    with one more column: the correlation of each image with the map (rlnAutopickFigureOfMerit). The same command again
    goes on where an earlier one was interrupted: until the end, what was found is in FILE.partial.

    Parameters
    ----------
    particles
        Particle images: a RELION .star, a cryoSPARC .cs, or a stack (.mrcs).
    volume
        The map, .mrc, of any sampling; its centre is that of the particles' boxes.
    output
        File that is written.
    config
        How particles are prepared and searched.
    passthrough
        More .cs files of the same particles, for fields that the .cs file does not have.
    ctf_file
        Contrast transfer as cryoDRGN writes it (.pkl), in place of that of the particle file.
    pixel_size
        Pixel size of the images in Angstrom, where the file says none or a wrong one.
    datadir
        Folder in which image stacks are looked for first, where they are no longer where the file says; folders at the
        beginning of their names are left out as far as needed.
    map_pixel_size
        Pixel size of the map in Angstrom, where its file says none or a wrong one.
    device
        Where to compute; auto takes a GPU (cuda) if there is one.
    """
    processes.refuse_company("drgn poses")
    refuse_idle(_DEFAULT, config, idle_with(config.method))
    _check_output(output, particles)
    where = choose_device(device)
    loaded = read_volume(volume, map_pixel_size)
    if not loaded.volume.voxels.max() > loaded.volume.voxels.min():
        raise InputError(f"{volume}: the map is constant, so that all poses explain an image alike; give another map")
    found = open_particles(
        particles,
        passthrough=passthrough,
        ctf=ctf_file,
        pixel_size=pixel_size,
        datadir=datadir,
        half=config.particles.half,
        file_poses=False,
    )
    # what cannot be searched is refused before all images are read
    side = working_side(found, config.particles)
    grid = config.search.grid(side)
    slices = _slices(loaded.volume, side, found.pixel_size_angstrom * found.side / side, where)
    with progress("read") as report:
        images, record = prepare_images(found, config.particles, report)
    for note in (*loaded.notes, *found.notes):
        say(f"note: {note}")
    announce(found, record, where)
    files = ParticleFiles(particles, passthrough, None, ctf_file, pixel_size, datadir)
    made_of = _fingerprint(source_table(files, found), loaded.volume, config)
    data = particle_images(images, found.ctf, record, where)

    def search(rows: Tensor) -> PoseCandidates:
        transfer = transfer_of(data.transfer, rows.to(where))
        return find_volume_poses(images[rows].to(where), slices, grid, config.method, transfer=transfer)

    partial = output.with_suffix(".partial")
    best = _find_all(search, len(found), partial, made_of)
    shifts = best["shifts_pixels"] * record.pixel_size_angstrom
    scores = best["scores"]
    write_poses(output, found, Poses(best["rotations"], shifts), {"rlnAutopickFigureOfMerit": scores.tolist()})
    partial.unlink(missing_ok=True)
    print(f"poses: {output}\nmedian correlation: {scores.median():.3f}")


def _find_all(search: Callable[[Tensor], PoseCandidates], count: int, partial: Path, made_of: str) -> dict[str, Tensor]:
    """Search all images, or those that an earlier command has left; the best pose of each."""
    saved = load_checkpoint(partial, _Saved, made_of=made_of)
    if saved is None:
        saved = {"made_of": made_of, "rotations": [], "shifts_pixels": [], "scores": []}
    batches = torch.arange(count).split(_IMAGES_AT_ONCE)
    before = len(saved["scores"])
    if before:
        say(f"going on after {before * _IMAGES_AT_ONCE} images")

    def steps() -> Iterator[int]:
        for rows in batches[before:]:
            found = search(rows)
            for name in ("rotations", "shifts_pixels", "scores"):
                saved[name].append(getattr(found, name)[:, 0].cpu())
            yield int(rows[-1]) + 1

    def show(done: int) -> tuple[float, str]:
        return done / count, f"{done} of {count} images"

    go_through(steps(), "poses", show=show, save=lambda: save_checkpoint(partial, saved))
    return {name: torch.cat(saved[name]) for name in ("rotations", "shifts_pixels", "scores")}


def _fingerprint(source: Mapping[str, Any], volume: Volume, config: PosesConfig) -> str:
    """Tell this search from others."""
    same = {name: value for name, value in source.items() if name not in ("path", "passthrough", "ctf_file")}
    settings = {**same, **to_table(config), "map_pixel_size": volume.pixel_size_angstrom}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    digest.update(volume.voxels.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _check_output(output: Path, particles: Path) -> None:
    """Refuse what could not be written, before hours of search are lost."""
    if output.suffix.lower() != ".star":
        raise InputError(f"{output}: poses are written to a RELION file; give a name that ends in .star")
    if not output.parent.is_dir():
        raise InputError(f"{output.parent}: no such folder; make it, or give another name than {output}")
    if output.is_dir() or not os.access(output.parent, os.W_OK):
        raise InputError(f"{output}: no file can be written there; give another name")
    if output.exists() and output.samefile(particles):
        raise InputError(f"{output}: is the particle file itself; give another name")


def _slices(volume: Volume, side: int, pixel_size_angstrom: float, device: torch.device) -> SliceFn:
    """Slices of a map at the frequencies of images of a side and a pixel size."""
    resampled = resample_map(volume, side, pixel_size_angstrom)
    # a map is resampled to a whole number of voxels, which are not quite those of the images
    scale = resampled.pixel_size_angstrom / pixel_size_angstrom
    return voxel_slices(resampled.voxels.to(device), scale=scale)
