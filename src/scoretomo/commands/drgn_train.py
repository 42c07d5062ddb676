"""``scoretomo drgn train``: particles in, one volume or a landscape of volumes out (cryoDRGN, cryoDRGN2)."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import tyro
from jaxtyping import Float
from torch import Tensor

from .. import processes
from ..datatypes import InputError, Poses
from ..io.checkpoints import load_checkpoint
from ..io.particles import Particles
from ..run_lock import locked
from .drgn_folder import (
    DrgnConfig,
    DrgnRun,
    ParticleFiles,
    save_preparation,
    start_run,
    write_results,
)
from .drgn_images import ParticleSource, Preparation, particle_images, prepare_images, working_side
from .drgn_start import found_poses, unknown_poses
from .drgn_training import SavedTraining, Task, Training
from .idle_options import idle_with, refuse_idle
from .progress import progress, say
from .train import choose_device

# Votes for the contrast that are fewer than this decide by chance.
_SURE = 0.1
# Halves that begin with the same weights or poses would agree more than their images do.
_SEED_OF_THE_OTHER_HALF = 500_009
_DEFAULT = DrgnConfig()


@dataclass(frozen=True)
class TrainSource(ParticleSource):
    """What to work on and where.

    Attributes
    ----------
    output
        Folder for all that is made. The same command again goes on where an earlier one was interrupted.
    """

    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="RUN")]


def train(
    source: Annotated[TrainSource, tyro.conf.arg(name="")],
    config: Annotated[DrgnConfig, tyro.conf.arg(name="")] = _DEFAULT,
) -> None:
    """Train cryoDRGN on particle images.

    With --latent-dimensions 0 one volume is fitted to all of them: volume.mrc. Else a family of volumes, and the place
    of every particle in it: z.csv, which `scoretomo drgn analyze RUN` makes volumes and pictures of. Poses are known,
    or found with --poses search. They are in poses.star.
    """
    one_volume = config.model.latent_dimensions == 0
    idle = idle_with(config.poses, one_volume=one_volume, why="with --latent-dimensions 0 there is one volume")
    refuse_idle(_DEFAULT, config, idle, lambda name: name.removeprefix("model."))
    device = choose_device(source.device)
    particles = source.open(config.particles.half, file_poses=config.poses == "known")
    if config.poses == "known" and particles.poses is None:
        raise InputError(
            f"{source.particles}: has no poses; give them with --poses-file, or find them with --poses search"
        )
    _check_schedule(config, len(particles))
    working_side(particles, config.particles)
    files = ParticleFiles(
        source.particles, source.passthrough, source.poses_file, source.ctf_file, source.pixel_size, source.datadir
    )
    with locked(source.output):
        run = processes.by_main(lambda: start_run(source.output, files, particles, config))
        _train_run(run, particles, device)


def _check_schedule(config: DrgnConfig, count: int) -> None:
    """Refuse a training that would be over before poses are searched."""
    epochs = config.search.cycles(config.model, config.poses)[0].epochs
    first = config.search.pretrain_epochs(count, cycle=0)
    if config.poses != "known" and first >= epochs:
        name = "--search.consensus-epochs" if config.model.latent_dimensions else "--epochs"
        raise InputError(
            f"{name} {epochs:g}: the first {first} are without a search, since there are only {count} particles; give "
            f"more than {first}, or fewer --search.pretrain-images"
        )


def _train_run(run: DrgnRun, particles: Particles, device: torch.device) -> None:
    saved = load_checkpoint(run.checkpoint, SavedTraining, lazily=True)
    made = [run.preparation_file, *run.results]
    if saved is not None and saved["finished"] and all(path.exists() for path in made):
        say("it has been trained already")
        return
    for note in particles.notes:
        say(f"note: {note}")
    with progress("read") as report:
        images, record = prepare_images(particles, run.config.particles, report)
    processes.by_main(lambda: save_preparation(run, record))
    announce(particles, record, device)
    if run.config.poses == "known":
        say("poses are those of the file")
    training = Training(_task(run, particles, record, images, device))
    training.go()
    for path in processes.by_main(lambda: _write(run, particles, record, training)):
        print(f"{path.stem}: {path}")
    if not run.config.model.latent_dimensions:
        say(f"`scoretomo drgn backproject {run.results[0]} -o MAP` makes a map of the images at these poses")


def _write(run: DrgnRun, particles: Particles, record: Preparation, training: Training) -> list[Path]:
    """Write the results, and that they are written."""
    latent, z = training.state.latent, training.latent_variables()
    poses = Poses(latent.rotations.cpu(), (latent.shifts_pixels * record.pixel_size_angstrom).cpu())
    written = write_results(run, particles, record, latent.model, poses, None if z is None else z.cpu())
    training.save(finished=True)
    return written


def _task(
    run: DrgnRun,
    particles: Particles,
    record: Preparation,
    images: Float[Tensor, "n side side"],
    device: torch.device,
) -> Task:
    config, poses = run.config, particles.poses
    data = particle_images(images, particles.ctf, record, device)
    seed = config.seed + (_SEED_OF_THE_OTHER_HALF if config.particles.half == 2 else 0)
    if config.poses == "known" and poses is not None:
        rotations, shifts = poses.rotations, poses.shifts_angstrom / record.pixel_size_angstrom
    elif config.search.start == "initial":
        begun = processes.by_main(run.checkpoint.exists)  # and has poses
        start = partial(found_poses, data, seed, config.search, config.poses, device)
        rotations, shifts = unknown_poses(len(particles), seed) if begun else processes.by_main(start)
    else:
        rotations, shifts = unknown_poses(len(particles), seed)
    return Task(
        folder=run.folder,
        checkpoint=run.checkpoint,
        name="drgn",
        data=data,
        model=config.model,
        search=config.search,
        method=config.poses,
        seed=seed,
        rotations=rotations,
        shifts_pixels=shifts,
        device=device,
    )


def announce(particles: Particles, record: Preparation, device: torch.device) -> None:
    """Say what was found in the images."""
    say(
        f"{len(particles)} particles of {record.input_side} pixels of {record.input_pixel_size_angstrom:.4g} A; "
        f"working at {record.side} pixels of {record.pixel_size_angstrom:.4g} A on {device.type}"
    )
    unsure = record.contrast_confidence < _SURE
    advice = "; if the volume comes out hollow, give --contrast" if unsure else ""
    say(f"protein is {'bright' if record.sign > 0 else 'dark'} (confidence {record.contrast_confidence:.2f}){advice}")
    if particles.ctf is None:
        say("no contrast transfer: images are taken as projections")
