"""A cryoDRGN training under way: its state, how long it has taken, its checkpoint, and what is written of it."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import torch
from jaxtyping import Float
from torch import Tensor

from .. import processes
from ..datatypes import InputError
from ..imaging.slices import disc_frequencies
from ..io.checkpoints import load_checkpoint, save_checkpoint, taken_over
from ..io.metrics import Metrics
from ..methods.abinitio import AbInitioState, ParticleImages, PosesFound, train_abinitio_progressive
from ..methods.abinitio_schedule import AbInitioConfig, PoseMethod
from ..methods.latent_vae import LatentVAE, LatentVAEConfig, encode_images, new_state, signal_amplitudes
from ..networks.unet import parameter_count, supports_fast_bfloat16
from ..training import TrainingStep
from .progress import duration, say
from .training_loop import go_through, own_part

# Images whose mean power is that of all.
_SAMPLE = 1000


class SavedTraining(TypedDict):
    """Of the checkpoint of a training."""

    state: dict[str, Any]
    amplitudes: Float[Tensor, " k"]
    device: str
    seconds: float
    finished: bool


@dataclass(frozen=True)
class Task:
    """What is trained on what, and where it is kept.

    Attributes
    ----------
    folder, checkpoint
        Where metrics go, and the file for the state.
    name
        Of the metrics and of the progress line.
    data
        Images and their contrast transfer.
    model, search, method, seed
        What is trained, and how poses are found.
    rotations, shifts_pixels
        ``(n, 3, 3)`` and ``(n, 2)``, poses to begin with.
    device
        Where to compute.
    """

    folder: Path
    checkpoint: Path
    name: str
    data: ParticleImages
    model: LatentVAEConfig
    search: AbInitioConfig
    method: PoseMethod
    seed: int
    rotations: Float[Tensor, "n 3 3"]
    shifts_pixels: Float[Tensor, "n 2"]
    device: torch.device

    @property
    def cycles(self) -> Sequence[LatentVAEConfig]:
        """What is trained one after another."""
        return self.search.cycles(self.model, self.method)


class Training:
    """A training from where an earlier command has stopped, or from the beginning.

    Processes that work together share every batch and every search; the main one says, logs and writes for all.
    """

    def __init__(self, task: Task) -> None:
        saved = load_checkpoint(task.checkpoint, SavedTraining)
        self.task, self.cycles, self.finished, self.before = task, task.cycles, False, 0.0
        self.amplitudes = processes.by_main(lambda: _amplitudes(task)) if saved is None else saved["amplitudes"]
        with taken_over(task.checkpoint):  # which has no part in it where there is none
            config = self.cycles[0 if saved is None else saved["state"]["cycle"]]
            latent = new_state(self._fresh_model(config), config, task.rotations, task.shifts_pixels, seed=task.seed)
            self.state = AbInitioState(latent)
            if saved is not None:
                if saved["device"] != task.device.type:  # generators of different kinds cannot take over from another
                    saved["state"]["latent"]["training"]["generator"] = latent.training.generator.get_state()
                self.state.load_state_dict(saved["state"])
        if saved is not None:
            self.before, self.finished = saved["seconds"], saved["finished"]
            say(f"going on after {self.seen} images ({duration(self.before)})")
        if processes.from_main(self.seen) != self.seen:
            raise InputError(f"{task.folder}: is not the same folder on all machines; put it where all of them see it")
        self.began = time.monotonic()

    @property
    def seen(self) -> int:
        """Images seen in all cycles."""
        return self.state.images_seen(self.cycles)

    @property
    def seconds(self) -> float:
        """Of training, those of earlier commands included."""
        return self.before + time.monotonic() - self.began

    def _fresh_model(self, config: LatentVAEConfig) -> LatentVAE:
        side = self.task.data.images.shape[-1]
        return new_model(config, self.task.seed, side, self.amplitudes, self.task.device)

    def go(self) -> None:
        """Train to the end, or until the user ends it; then the same command goes on."""
        task, log = self.task, _Log(self) if processes.is_main() else None
        one_by_one = f", in {len(self.cycles)} cycles" if len(self.cycles) > 1 else ""
        company = f", shared by {processes.count()} processes" if processes.count() > 1 else ""
        millions = parameter_count(self.state.latent.training.model) / 1e6
        say(f"training {millions:.2f} million weights{one_by_one}{company}")
        items = train_abinitio_progressive(
            self.state,
            task.data,
            self.cycles,
            task.search,
            task.method,
            self._fresh_model,
            part=own_part(task.model.optimiser),
            add_up=processes.add_up,
        )

        def show(item: TrainingStep | PosesFound) -> tuple[float, str]:
            assert log is not None  # the main process has one
            return self.state.part_done(self.cycles), log.add(item)

        go_through(items, task.name, show=show, save=self.save)
        if log is not None:
            log.close()

    def save(self, *, finished: bool = False) -> None:
        """Write the checkpoint; ``finished`` says that nothing is left to do."""
        values = {
            "state": self.state.state_dict(),
            "amplitudes": self.amplitudes,
            "device": self.task.device.type,
            "seconds": self.seconds,
            "finished": finished,
        }
        save_checkpoint(self.task.checkpoint, values)

    def latent_variables(self) -> Float[Tensor, "n d"] | None:
        """Most probable z of every image; None where there is one volume for all."""
        latent = self.state.latent
        if latent.model.encoder is None:
            return None
        return encode_images(latent.model, self.task.data.at(latent.model.frequencies), latent.shifts_pixels)


def new_model(
    config: LatentVAEConfig, seed: int, side: int, amplitudes: Float[Tensor, " k"], device: torch.device
) -> LatentVAE:
    """Networks with weights drawn from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        bfloat16 = supports_fast_bfloat16(device)
        return LatentVAE(config, side, amplitudes, bfloat16=bfloat16).to(device)


def _amplitudes(task: Task) -> Float[Tensor, " k"]:
    """Amplitudes of the signal, from a sample of the images."""
    side, count = task.data.images.shape[-1], len(task.data.images)
    frequencies = disc_frequencies(side, task.model.radius(side))
    rows = torch.linspace(0, count - 1, min(_SAMPLE, count)).long()
    coefficients, ctf = task.data.at(frequencies)(rows)
    return signal_amplitudes(coefficients, ctf if ctf is None else ctf.cpu(), frequencies, side)


@dataclass
class _Log:
    """Gathers what steps and searches report; a line of metrics for each epoch."""

    training: Training
    losses: list[Float[Tensor, ""]] = field(default_factory=list)  # read once an epoch: to read waits for a GPU
    found: list[PosesFound] = field(default_factory=list)
    note: str = ""

    def __post_init__(self) -> None:
        self.metrics = Metrics(self.training.task.folder, self.training.task.name, self.training.seen)
        self.epoch = self._epoch()
        self.last = time.monotonic()

    def _epoch(self) -> tuple[int, int]:
        state = self.training.state
        last = math.ceil(self.training.cycles[state.cycle].epochs) - 1
        return state.cycle, min(state.latent.epoch, last)

    def add(self, item: TrainingStep | PosesFound) -> str:
        """Take in what was done; what to show."""
        if self.training.state.cycle != self.epoch[0]:
            self._next_epoch()
        if isinstance(item, PosesFound):
            self.found.append(item)
            self.note = f"poses: {item.turned_degrees.median():.1f} degrees, {item.moved_pixels.median():.2f} pixels"
        else:
            self.losses.append(item.loss)
        if self._epoch() != self.epoch:
            self._next_epoch()
        (cycle, epoch), cycles = self.epoch, self.training.cycles
        which = f" of cycle {cycle + 1} of {len(cycles)}" if len(cycles) > 1 else ""
        return f"epoch {epoch + 1}{which}  {self.note}"

    def _next_epoch(self) -> None:
        self.write()
        self.epoch = self._epoch()

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
        # a batch may begin in one epoch and end in the next, so that a search begins before its epoch
        found = [each for each in self.found if (each.cycle, each.epoch) <= self.epoch]
        if found:
            turned = torch.cat([each.turned_degrees for each in found])
            values |= {
                "searched": len(turned),
                "median_turned_degrees": turned.median().item(),
                "mean_turned_degrees": turned.mean().item(),
                "median_moved_pixels": torch.cat([each.moved_pixels for each in found]).median().item(),
                "mean_score": torch.cat([each.scores for each in found]).mean().item(),
            }
        self.metrics.write(self.training.seen, values)
        self.note = f"loss {values['loss']:.4f}" + (
            f"  poses turned by {values['median_turned_degrees']:.1f} degrees" if found else ""
        )
        self.losses.clear()
        self.found = [each for each in self.found if (each.cycle, each.epoch) > self.epoch]
        self.last = time.monotonic()

    def close(self) -> None:
        """Write what has been gathered."""
        self.write()
        self.metrics.close()
