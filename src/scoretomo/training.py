"""The one optimisation loop: warm-up and decay, gradient clipping, moving average of the weights, resume.

The loop is a generator; who calls it owns printing, timing and the disk. It hardly ever waits for a GPU: losses, norms
and counts stay there as tensors until somebody reads them.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .optimiser import Optimiser, OptimiserConfig

# So many steps in a row without a finite gradient are no accident.
_FAILURES = 20
# Nor is a loss of so many times the first one.
_EXPLODED = 1e6
# Steps after which the failures that a GPU has counted are read, which waits for it.
_STEPS_BETWEEN_READS = 50


@dataclass
class TrainingState:
    """Everything that makes a resumed run equal an uninterrupted one."""

    model: nn.Module
    averaged: nn.Module
    optimiser: Optimiser
    generator: torch.Generator
    skipped_steps: Int[Tensor, ""]
    images_seen: int = 0

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values only, so that it is read back without unpickling code.

        The tensors are the live ones, which the next step changes: write them to disk before it.
        """
        return {
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "generator": self.generator.get_state(),
            "images_seen": self.images_seen,
            "skipped_steps": int(self.skipped_steps),
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` has given."""
        self.model.load_state_dict(saved["model"])
        self.averaged.load_state_dict(saved["averaged"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.generator.set_state(saved["generator"].cpu())
        self.images_seen = saved["images_seen"]
        self.skipped_steps.fill_(saved["skipped_steps"])


@dataclass(frozen=True)
class TrainingStep:
    """What one step reports; to read its tensors is to wait until a GPU has come so far."""

    images_seen: int
    loss: Float[Tensor, ""]
    learning_rate: float
    gradient_norm: Float[Tensor, ""]


class TrainingDiverged(RuntimeError):
    """Losses have stopped being finite, or grown beyond all measure, and did not recover."""

    def __init__(self, steps: str) -> None:
        super().__init__(
            f"the training has diverged: in {steps} the loss was not finite, or more than a million times the first; "
            "begin a new folder with a lower --optimiser.learning-rate and --optimiser.muon-rate"
        )


def new_state(model: nn.Module, config: OptimiserConfig, generator: torch.Generator) -> TrainingState:
    """State of a run that has not seen an image."""
    averaged = copy.deepcopy(model).eval().requires_grad_(False)
    device = next(model.parameters()).device
    return TrainingState(
        model, averaged, Optimiser(model, config), generator, torch.zeros((), dtype=torch.int64, device=device)
    )


def optimise_progressive(
    state: TrainingState,
    loss_function: Callable[[nn.Module, int, torch.Generator], Tensor],
    config: OptimiserConfig,
    fraction_done: Callable[[int], float],
    *,
    add_up: Callable[[Sequence[Tensor]], None] = lambda tensors: None,
) -> Iterator[TrainingStep]:
    """Fit ``state.model`` in place, one step each time it is asked for the next item.

    Parameters
    ----------
    state
        Where to begin; always consistent between items, so it may be saved there.
    loss_function
        ``(model, batch_size, generator) -> scalar``; draws its own batch from the generator. Where several processes
        share the batch: what this one adds to the loss of the whole.
    config
        Step sizes and batch size.
    fraction_done
        Part of the budget spent after so many images; ends the loop at 1 and drives the decay.
    add_up
        Replaces tensors by their sums over the processes that share the batch.

    Raises
    ------
    TrainingDiverged
        20 steps in a row, or most of all with the last, had a loss or gradient that was not finite, or a loss that
        has exploded; on a GPU this is found out some steps later.
    """
    parameters: list[Tensor] = list(state.model.parameters())
    averaged: list[Tensor] = list(state.averaged.parameters())
    failures = _Failures(state.skipped_steps)
    while (fraction := fraction_done(state.images_seen)) < 1:
        rate = _part_of_rate(state.images_seen, fraction, config)
        state.optimiser.zero_grad()
        loss = loss_function(state.model, config.batch_size, state.generator)
        loss.backward()
        loss = loss.detach()
        add_up([loss, *(p.grad for p in parameters if p.grad is not None)])
        norm = nn.utils.clip_grad_norm_(parameters, config.clip_norm)
        state.images_seen += config.batch_size
        # one bad batch must not poison the weights
        bad = 1 - norm.isfinite().float()
        state.optimiser.step(rate, bad)
        _move_average(averaged, parameters, _average_weight(state.images_seen, config) * (1 - bad))
        failures.count(bad, loss)
        yield TrainingStep(state.images_seen, loss, rate * config.learning_rate, norm)
    failures.check()
    failures.check_all()


class _Failures:
    """Counts steps that failed, where they were computed, and ends the run when there are too many in a row."""

    def __init__(self, skipped: Int[Tensor, ""]) -> None:
        self.skipped = skipped
        self.in_a_row, self.most, self.all = (torch.zeros_like(skipped) for _ in range(3))
        self.first: Float[Tensor, ""] | None = None
        self.steps = 0

    def count(self, bad: Float[Tensor, ""], loss: Float[Tensor, ""]) -> None:
        """Take in a step: 1 if it was skipped, 0 if not; and its loss."""
        self.skipped += bad.long()
        self.first = loss if self.first is None else self.first
        failed = ((bad > 0) | (loss.abs() > _EXPLODED * self.first.abs())).long()
        self.all += failed
        self.in_a_row = (self.in_a_row + 1) * failed
        self.most = torch.maximum(self.most, self.in_a_row)
        self.steps += 1
        if self.steps % _STEPS_BETWEEN_READS == 0 or not _waits_for_a_gpu(bad):
            self.check()

    def check(self) -> None:
        """Raise if there were too many in a row at any time."""
        if self.most >= _FAILURES:
            raise TrainingDiverged(f"{_FAILURES} steps in a row")

    def check_all(self) -> None:
        """Raise if most steps have failed, and the last one, however few they were."""
        if self.in_a_row > 0 and 2 * self.all > self.steps:
            raise TrainingDiverged(f"{int(self.all)} of {self.steps} steps")


def _waits_for_a_gpu(tensor: Tensor) -> bool:
    """Whether to read the value is to wait for what computes it."""
    return tensor.device.type != "cpu"


def _part_of_rate(seen: int, fraction: float, config: OptimiserConfig) -> float:
    """Part of the peak learning rates: warm-up over images, decay over the budget."""
    rate = min(1.0, (seen + config.batch_size) / max(1, config.warmup_images))
    return rate * (0.5 + 0.5 * math.cos(math.pi * fraction)) if config.decay else rate


def _average_weight(seen: int, config: OptimiserConfig) -> float:
    """Part of the way that the averaged weights go in a step: their half-life is proportional to the images seen."""
    half_life = max(config.average_fraction * seen, 1.0)
    return 1 - math.exp2(-config.batch_size / half_life)


@torch.no_grad()
def _move_average(averaged: list[Tensor], parameters: list[Tensor], weight: Float[Tensor, ""]) -> None:
    """Move the averaged weights by a part of their way towards the present ones."""
    way = torch._foreach_sub([p.data for p in parameters], averaged)
    torch._foreach_mul_(way, weight)
    torch._foreach_add_(averaged, way)
