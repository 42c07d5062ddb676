"""A denoiser's training under way: its budget, its checkpoint, its log; of images or of point clouds."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .. import processes
from ..datatypes import InputError
from ..diffusion.edm import Denoiser, denoising_error
from ..io.checkpoints import load_checkpoint, save_checkpoint, taken_over
from ..io.metrics import Metrics
from ..networks.unet import parameter_count
from ..optimiser import OptimiserConfig
from ..training import TrainingStep, new_state, optimise_progressive
from .progress import duration, say
from .training_loop import go_through

_SECONDS_BETWEEN_METRICS = 10.0
# Values of held-out data that are denoised in one call.
_VALUES_AT_ONCE = 2**18


@dataclass(frozen=True)
class Budget:
    """When a training ends: after so many items, so many minutes, or with what comes first."""

    items: int | None
    minutes: float | None

    def part_done(self, seen: int, seconds: float) -> float:
        """Part of it that is spent, 1 and more when it is over."""
        parts = [0.0] if self.items is None else [seen / self.items]
        return max(parts if self.minutes is None else [*parts, seconds / (60 * self.minutes)])


@dataclass(frozen=True)
class DenoiserTask:
    """What is trained, for how long, and where it is kept.

    Attributes
    ----------
    folder, checkpoint
        Where metrics go, and the file for the state.
    items, description
        What a batch is made of, such as images, and what they all are, such as ``95 images``.
    model
        Gives the denoiser with weights drawn from torch's global generator.
    optimiser, budget, seed
        How it is trained, for how long, and what chance is drawn from.
    held_out, test_sigmas, key_sigma
        Data that measure the error of denoising at several noise levels, and the level that is shown while it goes on.
    device
        Where to compute.
    """

    folder: Path
    checkpoint: Path
    items: str
    description: str
    model: Callable[[], nn.Module]
    optimiser: OptimiserConfig
    budget: Budget
    seed: int
    held_out: Float[Tensor, " k *shape"]
    test_sigmas: tuple[float, ...]
    key_sigma: float
    device: torch.device


class _Saved(TypedDict):
    """Of the checkpoint of a training."""

    state: dict[str, Any]
    seconds: float
    device: str
    exported: bool


def is_trained(checkpoint: Path, budget: Budget) -> bool:
    """Whether the budget is spent and the denoiser written."""
    saved = load_checkpoint(checkpoint, _Saved, lazily=True)
    if saved is None or not saved["exported"]:
        return False
    with taken_over(checkpoint):
        return budget.part_done(saved["state"]["images_seen"], saved["seconds"]) >= 1


class DenoiserTraining:
    """A training from where an earlier command has stopped, or from the beginning.

    Processes that work together share every batch; the main one says, keeps time and writes for all.
    """

    def __init__(self, task: DenoiserTask) -> None:
        self.task, self.before = task, 0.0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(task.seed)
            model = task.model().to(task.device)
        generator = torch.Generator(task.device).manual_seed(task.seed)
        self.state = new_state(model, task.optimiser, generator)
        saved = load_checkpoint(task.checkpoint, _Saved)
        if saved is not None:
            with taken_over(task.checkpoint):
                if saved["device"] != task.device.type:  # generators of different kinds cannot take over from another
                    anew = generator.manual_seed(task.seed + saved["state"]["images_seen"])
                    saved["state"]["generator"] = anew.get_state()
                self.state.load_state_dict(saved["state"])
            self.before = saved["seconds"]
            say(f"going on after {self.state.images_seen} {task.items} ({duration(self.before)})")
        if processes.from_main(self.state.images_seen) != self.state.images_seen:
            raise InputError(f"{task.folder}: is not the same folder on all machines; put it where all of them see it")
        self.began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Of training, those of earlier commands included."""
        return self.before + time.monotonic() - self.began

    def part_done(self, seen: int) -> float:
        """Part of the budget that is spent after so many items, for all processes the same: clocks differ."""
        return processes.from_main(self.task.budget.part_done(seen, self.seconds))

    def go(self, loss_function: Callable[[nn.Module, int, torch.Generator], Tensor]) -> Denoiser:
        """Train until the budget is spent, or until the user ends it; then the same command goes on.

        Gives the denoiser of the averaged weights. When it is written, call :meth:`save` with ``exported``.
        """
        task, log = self.task, _Log(self) if processes.is_main() else None
        company = f", shared by {processes.count()} processes" if processes.count() > 1 else ""
        say(f"training {parameter_count(self.state.model) / 1e6:.1f} million weights on {task.description}{company}")
        steps = optimise_progressive(self.state, loss_function, task.optimiser, self.part_done, add_up=processes.add_up)

        def show(step: TrainingStep) -> tuple[float, str]:
            assert log is not None  # the main process has one
            return min(1.0, task.budget.part_done(step.images_seen, self.seconds)), log.add(step)

        go_through(steps, "train", show=show, save=self.save)
        if log is not None:
            log.close()
        denoiser: Denoiser = self.state.averaged
        return denoiser

    def save(self, *, exported: bool = False) -> None:
        """Write the checkpoint; ``exported`` says that the denoiser that users load has the same weights."""
        values = {
            "state": self.state.state_dict(),
            "seconds": self.seconds,
            "device": self.state.generator.device.type,
            "exported": exported,
        }
        save_checkpoint(self.task.checkpoint, values)


class _Log:
    """Gathers what the steps report, and writes a line of metrics now and then."""

    def __init__(self, training: DenoiserTraining) -> None:
        self.training, self.task = training, training.task
        self.metrics = Metrics(self.task.folder, "train", training.state.images_seen)
        self.losses: list[Float[Tensor, ""]] = []  # not read at every step, which would wait for a GPU
        self.learning_rate = 0.0
        self.last = (time.monotonic(), training.state.images_seen)
        self.note = ""

    def add(self, step: TrainingStep) -> str:
        """Take in a step; what to show of the last ones."""
        self.losses.append(step.loss)
        self.learning_rate = step.learning_rate
        if time.monotonic() - self.last[0] >= _SECONDS_BETWEEN_METRICS:
            self.write()
        return self.note

    def write(self) -> None:
        """Write the mean of the losses since the last time, the pace, and the error on held-out data."""
        if not self.losses:
            return
        state, task = self.training.state, self.task
        loss = torch.stack(self.losses).mean().item()
        began, seen = self.last
        pace = (state.images_seen - seen) / max(time.monotonic() - began, 1e-9)
        errors = held_out_errors(state.averaged, task.held_out, task.test_sigmas)
        values: dict[str, Any] = {
            "loss": loss,
            "learning_rate": self.learning_rate,
            f"{task.items}_per_second": pace,
            "seconds": self.training.seconds,
            "skipped_steps": int(state.skipped_steps),
            **errors,
        }
        self.metrics.write(state.images_seen, values)
        self.note = f"{pace:.0f} {task.items}/s  loss {loss:.3f}"
        if errors:
            self.note += f"  held out {errors[_held_out(task.key_sigma)]:.4f}"
        self.losses.clear()
        self.last = (time.monotonic(), state.images_seen)

    def close(self) -> None:
        """Write what has been gathered."""
        self.write()
        self.metrics.close()


def _held_out(sigma: float) -> str:
    return f"held_out_error_sigma_{sigma:g}"


@torch.no_grad()
def held_out_errors(
    denoiser: Denoiser, data: Float[Tensor, " k *shape"], sigmas: tuple[float, ...]
) -> dict[str, float]:
    """Mean squared error per value of denoising, with the same noise each time, at several noise levels."""
    errors = {}
    for sigma in sigmas if len(data) else ():
        generator = torch.Generator(data.device).manual_seed(0)
        parts = data.split(max(1, _VALUES_AT_ONCE // data[0].numel()))
        found = [denoising_error(denoiser, x, x.new_full((len(x),), sigma), generator=generator) for x in parts]
        errors[_held_out(sigma)] = torch.cat(found).mean().item()
    return errors
