"""``scoretomo drgn train``: particles in, one volume or a landscape of volumes out (cryoDRGN, cryoDRGN2)."""

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from jaxtyping import Float
from torch import Tensor

from .. import processes
from ..datatypes import InputError, Poses
from ..geometry.rotations import random_rotations
from ..imaging.slices import disc_frequencies
from ..io.metrics import Metrics
from ..io.particles import Particles
from ..methods.abinitio import AbInitioState, ParticleImages, PosesFound, train_abinitio_progressive
from ..methods.latent_vae import encode_images, new_state, signal_amplitudes
from ..networks.unet import parameter_count
from ..run_lock import locked
from ..training import TrainingStep
from .drgn_folder import (
    DrgnConfig,
    DrgnRun,
    ParticleFiles,
    load_state,
    new_model,
    save_preparation,
    save_state,
    start_run,
    write_results,
)
from .drgn_images import Preparation, open_particles, particle_images, prepare_images
from .progress import StoppedBetweenSteps, duration, interruptible, progress, say
from .train import Device, choose_device

_SECONDS_BETWEEN_CHECKPOINTS = 60.0
# Images whose mean power is that of all.
_SAMPLE = 1000
# Votes for the contrast that are fewer than this decide by chance.
_SURE = 0.1
_DEFAULT = DrgnConfig()


@dataclass(frozen=True)
class TrainSource:
    """What to work on and where.

    Attributes
    ----------
    particles
        Particle images: a RELION .star, a cryoSPARC .cs, or a stack (.mrcs).
    output
        Folder for all that is made. The same command again goes on where an earlier one was interrupted.
    passthrough
        More .cs files of the same particles, for fields that the .cs file does not have.
    poses_file
        Poses as cryoDRGN writes them (.pkl), in place of those of the particle file.
    ctf_file
        Contrast transfer as cryoDRGN writes it (.pkl), in place of that of the particle file.
    pixel_size
        Pixel size in Angstrom, where the file says none or a wrong one.
    device
        Where to compute; auto takes a GPU (cuda) if there is one.
    """

    particles: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PARTICLES")]
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="RUN")]
    passthrough: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="CS ...")] = ()
    poses_file: Annotated[Path | None, tyro.conf.arg(metavar="PKL")] = None
    ctf_file: Annotated[Path | None, tyro.conf.arg(metavar="PKL")] = None
    pixel_size: Annotated[float | None, tyro.conf.arg(metavar="ANGSTROM")] = None
    device: Device = "auto"


def train(
    source: Annotated[TrainSource, tyro.conf.arg(name="")],
    config: Annotated[DrgnConfig, tyro.conf.arg(name="")] = _DEFAULT,
) -> None:
    """Train cryoDRGN on particle images.

    With --latent-dimensions 0 one volume is fitted to all of them: volume.mrc. Else a family of volumes, and the place
    of every particle in it: z.csv, which `scoretomo drgn analyze RUN` makes volumes and pictures of. Poses are known,
    or found with --poses search. They are in poses.star.
    """
    if processes.count() > 1:
        raise InputError("drgn train works in one process; start it without a launcher")
    device = choose_device(source.device)
    particles = open_particles(
        source.particles,
        passthrough=source.passthrough,
        poses=source.poses_file,
        ctf=source.ctf_file,
        pixel_size=source.pixel_size,
        half=config.particles.half,
    )
    if config.poses == "known" and particles.poses is None:
        raise InputError(
            f"{source.particles}: has no poses; give them with --poses-file, or find them with --poses search"
        )
    _check_schedule(config, len(particles))
    files = ParticleFiles(source.particles, source.passthrough, source.poses_file, source.ctf_file, source.pixel_size)
    with locked(source.output):
        run = start_run(source.output, files, particles, config)
        _train_run(run, particles, device)


def _check_schedule(config: DrgnConfig, count: int) -> None:
    """Refuse a training that would be over before poses are searched."""
    epochs, first = config.model.epochs, config.search.pretrain_epochs(count, cycle=0)
    if config.poses != "known" and first >= epochs:
        raise InputError(
            f"--epochs {epochs:g}: the first {first} are at random poses, since there are only {count} particles; give "
            f"more than {first}, or fewer --search.pretrain-images"
        )


def _train_run(run: DrgnRun, particles: Particles, device: torch.device) -> None:
    saved = load_state(run)
    if saved is not None and saved["finished"]:
        say("it has been trained already")
        return
    for note in particles.notes:
        say(f"note: {note}")
    with progress("read") as report:
        images, record = prepare_images(particles, run.config.particles, report)
    save_preparation(run, record)
    announce(particles, record, device)
    if run.config.poses == "known":
        say("poses are those of the file")
    data = particle_images(images, particles.ctf, record, device)
    training = _Training(run, particles, record, data, device, saved)
    training.go()
    for path in training.write():
        print(f"{path.stem}: {path}")


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


class _Training:
    """A training under way: its state, how long it has taken, and what is written of it."""

    def __init__(
        self,
        run: DrgnRun,
        particles: Particles,
        record: Preparation,
        data: ParticleImages,
        device: torch.device,
        saved: dict[str, Any] | None,
    ) -> None:
        self.run, self.particles, self.record, self.data, self.device = run, particles, record, data, device
        self.config = run.config.model
        self.cycles = run.config.search.resets + 1 if run.config.poses != "known" else 1
        self.amplitudes = _amplitudes(data, self.config.radius(record.side)) if saved is None else saved["amplitudes"]
        self.state = AbInitioState(
            new_state(self.fresh_model(), self.config, *self._first_poses(), seed=run.config.seed)
        )
        self.before = 0.0
        if saved is not None:
            if saved["device"] != device.type:  # generators of different kinds cannot take over from each other
                generator = self.state.latent.training.generator
                saved["state"]["latent"]["training"]["generator"] = generator.get_state()
            self.state.load_state_dict(saved["state"])
            self.before = saved["seconds"]
            say(f"going on after {self.seen} images ({duration(self.before)})")
        self.began = time.monotonic()

    @property
    def seen(self) -> int:
        """Images seen in all cycles."""
        images = int(self.config.epochs * len(self.particles))
        return self.state.cycle * images + self.state.latent.training.images_seen

    def fresh_model(self) -> Any:
        return new_model(self.run.config, self.record.side, self.amplitudes, self.device)

    def _first_poses(self) -> tuple[Float[Tensor, "n 3 3"], Float[Tensor, "n 2"]]:
        poses = self.particles.poses
        if self.run.config.poses != "known" or poses is None:
            generator = torch.Generator().manual_seed(self.run.config.seed)
            return random_rotations(len(self.particles), generator=generator), torch.zeros(len(self.particles), 2)
        return poses.rotations, poses.shifts_angstrom / self.record.pixel_size_angstrom

    def go(self) -> None:
        """Train to the end, or until the user ends it; then the same command goes on."""
        say(f"training {parameter_count(self.state.latent.training.model) / 1e6:.2f} million weights")
        log = _Log(self)
        items = train_abinitio_progressive(
            self.state, self.data, self.config, self.run.config.search, self.run.config.poses, self.fresh_model
        )
        saved_at = time.monotonic()
        with interruptible() as check, progress("train") as report:
            try:
                for item in items:
                    note = log.add(item)
                    report(self.state.part_done(self.config.epochs, self.cycles), note)
                    if time.monotonic() - saved_at >= _SECONDS_BETWEEN_CHECKPOINTS:
                        self.save()
                        saved_at = time.monotonic()
                    check()
            except StoppedBetweenSteps:
                self.save()
                raise
        log.close()

    def save(self, *, finished: bool = False) -> None:
        """Write the checkpoint; ``finished`` says that the results are written."""
        values = {
            "state": self.state.state_dict(),
            "amplitudes": self.amplitudes,
            "device": self.device.type,
            "seconds": self.before + time.monotonic() - self.began,
            "finished": finished,
        }
        save_state(self.run, values)

    def write(self) -> list[Path]:
        """Write the results."""
        latent = self.state.latent
        shifts = (latent.shifts_pixels * self.record.pixel_size_angstrom).cpu()
        poses = Poses(latent.rotations.cpu(), shifts)
        z = None
        if latent.model.encoder is not None:
            z = encode_images(latent.model, self.data.at(latent.model.frequencies), latent.shifts_pixels).cpu()
        written = write_results(self.run, self.particles, self.record, latent.model, poses, z)
        self.save(finished=True)
        return written


def _amplitudes(data: ParticleImages, radius: float) -> Float[Tensor, " k"]:
    """Amplitudes of the signal, from a sample of the images."""
    side, count = data.images.shape[-1], len(data.images)
    frequencies = disc_frequencies(side, radius)
    rows = torch.linspace(0, count - 1, min(_SAMPLE, count)).long()
    coefficients, ctf = data.at(frequencies)(rows)
    return signal_amplitudes(coefficients, ctf if ctf is None else ctf.cpu(), frequencies, side)


@dataclass
class _Log:
    """Gathers what steps and searches report; a line of metrics for each epoch."""

    training: _Training
    losses: list[Float[Tensor, ""]] = field(default_factory=list)  # read once an epoch: to read waits for a GPU
    found: list[PosesFound] = field(default_factory=list)
    note: str = ""

    def __post_init__(self) -> None:
        self.metrics = Metrics(self.training.run.folder, "drgn", self.training.seen)
        self.epoch = self._epoch()
        self.last = time.monotonic()

    def _epoch(self) -> tuple[int, int]:
        return self.training.state.cycle, self.training.state.latent.epoch

    def add(self, item: TrainingStep | PosesFound) -> str:
        """Take in what was done; what to show."""
        if isinstance(item, PosesFound):
            self.found.append(item)
            self.note = f"poses: {item.turned_degrees.median():.1f} degrees, {item.moved_pixels.median():.2f} pixels"
        else:
            self.losses.append(item.loss)
        if self._epoch() != self.epoch:
            self.write()
            self.epoch = self._epoch()
        cycle, epoch = self.epoch
        again = f" after reset {cycle}" if cycle else ""
        return f"epoch {min(epoch + 1, math.ceil(self.training.config.epochs))}{again}  {self.note}"

    def write(self) -> None:
        """Write the mean loss and the change of the poses since the last time."""
        if not self.losses:
            return
        values: dict[str, Any] = {
            "cycle": self.epoch[0],
            "epoch": self.epoch[1],
            "loss": torch.stack(self.losses).mean().item(),
            "steps_per_second": len(self.losses) / max(time.monotonic() - self.last, 1e-9),
        }
        if self.found:
            turned = torch.cat([found.turned_degrees for found in self.found])
            moved = torch.cat([found.moved_pixels for found in self.found])
            values |= {
                "searched": len(turned),
                "median_turned_degrees": turned.median().item(),
                "mean_turned_degrees": turned.mean().item(),
                "median_moved_pixels": moved.median().item(),
                "mean_score": torch.cat([found.scores for found in self.found]).mean().item(),
            }
        self.metrics.write(self.training.seen, values)
        self.note = f"loss {values['loss']:.4f}" + (
            f"  poses turned by {values['median_turned_degrees']:.1f} degrees" if self.found else ""
        )
        self.losses.clear()
        self.found.clear()
        self.last = time.monotonic()

    def close(self) -> None:
        """Write what has been gathered."""
        self.write()
        self.metrics.close()
