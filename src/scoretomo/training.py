"""The one optimisation loop: AdamW, warm-up and decay, gradient clipping, moving average of the weights, resume.

The loop is a generator; who calls it owns printing, timing and the disk.
"""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .datatypes import InputError


@dataclass(frozen=True)
class OptimiserConfig:
    """How weights are fitted."""

    learning_rate: float = 1e-3
    """Peak learning rate of AdamW."""
    batch_size: int = 128
    """Images of one step."""
    warmup_images: int = 5_000
    """Images over which the learning rate rises from zero."""
    decay: bool = True
    """Let the learning rate fall to zero as a half cosine over the budget; the paper keeps it constant."""
    clip_norm: float = 1.0
    """Largest norm of the gradient of all weights together."""
    average_fraction: float = 0.05
    """Half-life of the weights' moving average as a fraction of the images seen, so that it never holds the first
    weights for long (the ramp of Karras et al. 2022)."""
    weight_decay: float = 0.01
    """Decoupled weight decay of AdamW."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.warmup_images < 0:
            raise InputError(f"a batch needs 1 image or more and the warm-up 0 or more, not {self}")
        if not (self.learning_rate >= 0 and self.clip_norm > 0 and self.average_fraction >= 0):
            raise InputError(
                f"the learning rate must not be negative and the largest gradient norm above 0, not {self}"
            )


@dataclass
class TrainingState:
    """Everything that makes a resumed run equal an uninterrupted one."""

    model: nn.Module
    averaged: nn.Module
    optimiser: torch.optim.Optimizer
    generator: torch.Generator
    images_seen: int = 0
    skipped_steps: int = 0

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
            "skipped_steps": self.skipped_steps,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` has given."""
        self.model.load_state_dict(saved["model"])
        self.averaged.load_state_dict(saved["averaged"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.generator.set_state(saved["generator"].cpu())
        self.images_seen = saved["images_seen"]
        self.skipped_steps = saved["skipped_steps"]


@dataclass(frozen=True)
class TrainingStep:
    """What one step reports."""

    images_seen: int
    loss: float
    learning_rate: float
    gradient_norm: float


class TrainingDiverged(RuntimeError):
    """Losses have stopped being finite and did not recover."""


def new_state(model: nn.Module, config: OptimiserConfig, generator: torch.Generator) -> TrainingState:
    """State of a run that has not seen an image."""
    averaged = copy.deepcopy(model).eval().requires_grad_(False)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    return TrainingState(model, averaged, optimiser, generator)


def optimise_progressive(
    state: TrainingState,
    loss_function: Callable[[nn.Module, int, torch.Generator], Tensor],
    config: OptimiserConfig,
    fraction_done: Callable[[int], float],
) -> Iterator[TrainingStep]:
    """Fit ``state.model`` in place, one step each time it is asked for the next item.

    Parameters
    ----------
    state
        Where to begin; always consistent between items, so it may be saved there.
    loss_function
        ``(model, batch_size, generator) -> scalar``; draws its own batch from the generator.
    config
        Step sizes and batch size.
    fraction_done
        Part of the budget spent after so many images; ends the loop at 1 and drives the decay.

    Raises
    ------
    TrainingDiverged
        20 steps in a row had a loss or gradient that was not finite.
    """
    parameters: list[Tensor] = list(state.model.parameters())
    averaged: list[Tensor] = list(state.averaged.parameters())
    failures = 0
    while (fraction := fraction_done(state.images_seen)) < 1:
        rate = config.learning_rate * min(1.0, (state.images_seen + config.batch_size) / max(1, config.warmup_images))
        if config.decay:
            rate *= 0.5 + 0.5 * math.cos(math.pi * fraction)
        for group in state.optimiser.param_groups:
            group["lr"] = rate
        state.optimiser.zero_grad(set_to_none=True)
        loss = loss_function(state.model, config.batch_size, state.generator)
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(parameters, config.clip_norm))
        state.images_seen += config.batch_size
        if math.isfinite(norm):
            failures = 0
            state.optimiser.step()
            _move_average(averaged, parameters, state.images_seen, config)
        else:  # one bad batch must not poison the weights
            failures += 1
            state.skipped_steps += 1
            if failures == 20:
                raise TrainingDiverged(f"the loss has not been finite for {failures} steps; lower the learning rate")
        yield TrainingStep(state.images_seen, loss.item(), rate, norm)


def _move_average(averaged: list[Tensor], parameters: list[Tensor], seen: int, config: OptimiserConfig) -> None:
    """Move the averaged weights towards the present ones with a half-life proportional to the images seen."""
    half_life = max(config.average_fraction * seen, 1.0)
    with torch.no_grad():
        torch._foreach_lerp_(averaged, [p.data for p in parameters], 1 - 0.5 ** (config.batch_size / half_life))
