"""``scoretomo run --method drgn``: one volume for each class average by cryoDRGN2, for comparison."""

import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from jaxtyping import Float
from torch import Tensor

from .. import processes
from ..datatypes import InputError
from ..geometry.rotations import random_rotations
from ..imaging.slices import disc_frequencies, image_coefficients
from ..io.metrics import Metrics
from ..methods.abinitio import AbInitioState, ParticleImages, PosesFound, train_abinitio_progressive
from ..methods.average_volumes import AverageVolumesConfig, average_volume
from ..methods.latent_vae import LatentVAE, LatentVAEConfig, encode_images, new_state, signal_amplitudes
from ..networks.unet import parameter_count
from ..presets import PRESETS
from ..run_lock import locked
from ..runs import ImagesConfig, Run, load_checkpoint, save_checkpoint
from ..training import TrainingStep
from .drgn_folder import DrgnConfig, new_model
from .progress import StoppedBetweenSteps, duration, interruptible, progress, say
from .reconstruct import Selection, selected_images
from .report import write_report
from .run import draw
from .train import Source, choose_device, open_source

_SECONDS_BETWEEN_CHECKPOINTS = 30.0
_SECONDS_BETWEEN_METRICS = 10.0
_ALL = Selection()
_DEFAULT = AverageVolumesConfig()


def run_drgn(
    source: Annotated[Source, tyro.conf.arg(name="")],
    config: Annotated[ImagesConfig, tyro.conf.arg(name="")],
    selection: Annotated[Selection, tyro.conf.arg(name="")] = _ALL,
    drgn: AverageVolumesConfig = _DEFAULT,
    method: Literal["drgn"] = "drgn",
) -> None:
    """Class averages in, one volume for each of them out, by cryoDRGN2 in the place of score-based tomography.

    A family of volumes and the poses of all class averages are found by turns; the volume of a class average is that
    at its own z and pose. Results are in the folder RUN, as of `scoretomo run`: volumes/, figures/, report.html and all
    settings. Nothing judges these volumes: verdicts need a denoiser. The same command again goes on where an earlier
    one was interrupted.

    Parameters
    ----------
    source
        What to work on and where.
    config
        What is decided about the images.
    selection
        Which volumes to make; all class averages are trained on.
    drgn
        How cryoDRGN2 is trained.
    method
        score is score-based tomography; `scoretomo run --help` without --method shows its options.
    """
    assert method == "drgn"
    if processes.count() > 1:
        raise InputError("run --method drgn works in one process; start it without a launcher")
    if selection.overwrite:
        raise InputError("--overwrite: a run folder of --method drgn keeps its settings; give a new one to try others")
    device = choose_device(source.device)
    given = {each.name: getattr(config, each.name) for each in fields(ImagesConfig)}
    with locked(source.output):
        run = open_source(source, replace(PRESETS[source.preset], **given, drgn=drgn), device)
        indices = selected_images(run, selection)
        for seed in range(selection.seeds):
            _make_volumes(run, indices, seed, device)
        draw(run, selection)
        report = write_report(run, device)
    print(f"volumes: {run.volumes}\nreport: {report}")


def _make_volumes(run: Run, indices: list[int], seed: int, device: torch.device) -> None:
    """All volumes of one repeat that are not there yet."""
    of_seed = f" (seed {seed})" if seed else ""
    missing = [index for index in indices if not run.volume(index, seed).exists()]
    if not missing:
        say(f"all {len(indices)} volumes are there{of_seed}")
        return
    training = _Training(run, seed, device)
    training.go()
    latent = training.state.latent
    z = None
    if latent.model.encoder is not None:
        z = encode_images(latent.model, training.data.at(latent.model.frequencies), latent.shifts_pixels)
    with interruptible() as check, progress(f"volumes{of_seed}") as report:
        for done, index in enumerate(missing):
            volume = average_volume(latent, run.used.index(index), z, run.mask_radius)
            run.save_volume(index, seed, training.noise * volume)
            report((done + 1) / len(missing), run.volume(index, seed).name)
            check()


class _Training:
    """One repeat of the training: its state, from where an earlier command has stopped, and how it goes on."""

    def __init__(self, run: Run, seed: int, device: torch.device) -> None:
        assert run.config.drgn is not None
        self.run, self.name, self.device = run, f"drgn_seed{seed}", device
        self.drgn, self.seed = run.config.drgn, run.config.seed + seed
        self.noise, self.rigid = self.drgn.noise, bool(run.config.rigid)
        self.config, self.search = self.drgn.schedule(len(run.used), rigid=self.rigid)
        self.data = ParticleImages(run.images[run.used] / self.noise)
        self.amplitudes = _amplitudes(self.data.images, self.config)
        saved = load_checkpoint(self.checkpoint)
        cycle = 0 if saved is None else saved["state"]["cycle"]
        generator = torch.Generator().manual_seed(self.seed)
        rotations, shifts = random_rotations(len(run.used), generator=generator), torch.zeros(len(run.used), 2)
        self.state = AbInitioState(new_state(self.fresh_model(cycle), self.config, rotations, shifts, seed=self.seed))
        self.before, self.finished = 0.0, False
        if saved is not None:
            self._take_up(saved)
        self.began = time.monotonic()

    @property
    def checkpoint(self) -> Path:
        """Networks, poses and how far the training has come."""
        return self.run.folder / "checkpoint" / f"{self.name}.pt"

    @property
    def seen(self) -> int:
        """Images seen in all cycles."""
        latent = self.state.latent
        return self.state.cycle * int(self.config.epochs * len(latent.rotations)) + latent.training.images_seen

    @property
    def seconds(self) -> float:
        """Of training, those of earlier commands included."""
        return self.before + time.monotonic() - self.began

    def fresh_model(self, cycle: int) -> LatentVAE:
        """Networks after so many resets, with weights drawn from the seed."""
        config = replace(self.config, latent_dimensions=self.drgn.dimensions(cycle, rigid=self.rigid))
        side = self.data.images.shape[-1]
        return new_model(DrgnConfig(model=config, seed=self.seed), side, self.amplitudes, self.device)

    def _take_up(self, saved: dict[str, Any]) -> None:
        if saved["device"] != self.device.type:  # generators of different kinds cannot take over from each other
            saved["state"]["latent"]["training"]["generator"] = self.state.latent.training.generator.get_state()
        self.state.load_state_dict(saved["state"])
        self.before, self.finished = saved["seconds"], saved["finished"]
        say(f"going on after {self.seen} images ({duration(self.before)})")

    def go(self) -> None:
        """Train to the end, or until the user ends it; then the same command goes on."""
        if self.finished:
            return
        count = len(self.data.images)
        say(
            f"{self.name}: training {parameter_count(self.state.latent.training.model) / 1e6:.2f} million weights on "
            f"{count} images for {self.search.resets + 1} times {self.config.epochs:.0f} epochs"
        )
        items = train_abinitio_progressive(
            self.state,
            self.data,
            self.config,
            self.search,
            self.drgn.poses,
            lambda: self.fresh_model(self.state.cycle + 1),
        )
        log, cycles = _Log(self), self.search.resets + 1
        saved_at = time.monotonic()
        with interruptible() as check, progress(self.name) as report:
            try:
                for item in items:
                    report(self.state.part_done(self.config.epochs, cycles), log.add(item))
                    if time.monotonic() - saved_at >= _SECONDS_BETWEEN_CHECKPOINTS:
                        self.save()
                        saved_at = time.monotonic()
                    check()
            except StoppedBetweenSteps:
                self.save()
                raise
        log.close()
        self.finished = True
        self.save()

    def save(self) -> None:
        """Write the checkpoint."""
        values = {
            "state": self.state.state_dict(),
            "device": self.device.type,
            "seconds": self.seconds,
            "finished": self.finished,
        }
        save_checkpoint(self.checkpoint, values)


def _amplitudes(images: Float[Tensor, "n side side"], config: LatentVAEConfig) -> Float[Tensor, " k"]:
    side = images.shape[-1]
    frequencies = disc_frequencies(side, config.radius(side))
    return signal_amplitudes(image_coefficients(images, frequencies), None, frequencies, side)


class _Log:
    """Gathers what steps and searches report, and writes a line of metrics now and then and after every search."""

    def __init__(self, training: _Training) -> None:
        self.training = training
        self.metrics = Metrics(training.run.folder, training.name, training.seen)
        self.losses: list[Float[Tensor, ""]] = []  # read now and then only: to read waits for a GPU
        self.found: list[PosesFound] = []
        self.note, self.last = "", time.monotonic()

    def add(self, item: TrainingStep | PosesFound) -> str:
        """Take in what was done; what to show."""
        if isinstance(item, PosesFound):
            self.found.append(item)
            return self.note
        self.losses.append(item.loss)
        if self.found or time.monotonic() - self.last >= _SECONDS_BETWEEN_METRICS:
            self.write()
        return self.note

    def write(self) -> None:
        """Write the mean loss and the change of the poses since the last time."""
        if not self.losses:
            return
        loss = torch.stack(self.losses).mean().item()
        values: dict[str, Any] = {"loss": loss, "seconds": self.training.seconds, "steps": len(self.losses)}
        self.note = f"loss {loss:.3f}"
        if self.found:
            turned = torch.cat([found.turned_degrees for found in self.found])
            values |= {
                "searched": len(turned),
                "median_turned_degrees": turned.median().item(),
                "mean_score": torch.cat([found.scores for found in self.found]).mean().item(),
            }
            self.note += f"  poses turned by {values['median_turned_degrees']:.1f} degrees"
        self.metrics.write(self.training.seen, values)
        self.losses.clear()
        self.found.clear()
        self.last = time.monotonic()

    def close(self) -> None:
        """Write what has been gathered."""
        self.write()
        self.metrics.close()
