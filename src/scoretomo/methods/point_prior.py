"""Diffusion prior on point clouds (002): what its denoiser is trained on, and at which noise levels."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..datatypes import InputError
from ..diffusion.edm import denoising_error, lognormal_sigmas, loss_weight
from ..geometry.point_clouds import random_orthogonal_matrices, random_subsets
from ..limits import check_limits

SIGMA_DATA = 0.5
"""Standard deviation of coordinates in the cube from -1 to 1 that the denoiser is scaled by (002, A.2)."""


@dataclass(frozen=True)
class PointNoiseConfig:
    """Noise levels of the training, log-normal and in two phases; the cube of the points goes from -1 to 1.

    Posterior sampling asks for levels below 1 only (002, A.3), which is what the first and longer phase learns. Samples
    from nothing begin at 80. The defaults are those of 002 for molecules (A.2).
    """

    first_log_mean: float = -2.8
    """Mean of the logarithm of the noise level in the first phase; 002: -4 for chairs alone."""
    first_log_std: float = 0.9
    """Its standard deviation; 002: 1.2 for chairs alone."""
    first_largest: float = 1.0
    """Largest level of the first phase: larger ones become this one."""
    first_part: float = 0.9
    """Part of the training that is the first phase."""
    second_log_mean: float = -1.2
    """Mean of the logarithm in the second phase."""
    second_log_std: float = 1.2
    """Its standard deviation."""
    second_largest: float = 80.0
    """Largest level of the second phase."""

    def __post_init__(self) -> None:
        spreads, largest = (self.first_log_std, self.second_log_std), (self.first_largest, self.second_largest)
        numbers = (self.first_log_mean, self.second_log_mean, *spreads, *largest)
        if (
            not all(map(math.isfinite, numbers))
            or min(spreads) < 0
            or min(largest) <= 0
            or not 0 <= self.first_part <= 1
        ):
            raise InputError(f"noise levels need spreads of 0 or more and largest levels above 0, not {self}")
        check_limits(
            self,
            first_log_mean=(-50.0, 50.0),
            second_log_mean=(-50.0, 50.0),
            first_log_std=(0.0, 10.0),
            second_log_std=(0.0, 10.0),
            first_largest=(1e-9, 1e6),
            second_largest=(1e-9, 1e6),
        )

    def draw(
        self, count: int, part_done: float, *, generator: torch.Generator, device: torch.device
    ) -> Float[Tensor, " count"]:
        """Noise levels of a batch, when so much of the training is done."""
        if part_done < self.first_part:
            mean, std, largest = self.first_log_mean, self.first_log_std, self.first_largest
        else:
            mean, std, largest = self.second_log_mean, self.second_log_std, self.second_largest
        median = torch.tensor(mean).exp().item()
        return lognormal_sigmas(count, median, std, generator=generator, device=device).clamp(max=largest)


def prior_loss(
    clouds: Float[Tensor, "k m 3"],
    count: int,
    noise: PointNoiseConfig,
    part_done: Callable[[], float],
    model: nn.Module,
    batch_size: int,
    generator: torch.Generator,
    *,
    handed: bool,
    part: slice = slice(None),
) -> Float[Tensor, ""]:
    """Weighted denoising score matching on clouds of ``count`` points, turned at random (002, Eq. 22).

    Parameters
    ----------
    clouds
        ``(k, m, 3)``; where ``m`` is more than ``count``, so many points are drawn from each anew.
    count, noise
        Points of a cloud, and noise levels.
    part_done
        Part of the training that is done, which decides the phase of the noise.
    model, batch_size, generator
        What is trained, clouds of a step, and where chance comes from.
    handed
        Turn by proper rotations only, and not by orthogonal matrices, half of which mirror.
    part
        Of the clouds of a batch that processes share, only those are denoised: the losses of all parts add up to that
        of the batch, which is drawn as if it were not shared.
    """
    chosen = torch.randint(len(clouds), (batch_size,), generator=generator, device=generator.device).to(clouds.device)
    clean = clouds[chosen]
    if count < clean.shape[1]:
        clean = random_subsets(clean, count, generator=generator)
    turns = random_orthogonal_matrices(batch_size, handed=handed, generator=generator, device=clouds.device)
    clean = clean @ turns.mT
    sigma = noise.draw(batch_size, part_done(), generator=generator, device=clouds.device)
    error = denoising_error(model, clean, sigma, generator=generator, part=part)
    return (loss_weight(sigma[part], SIGMA_DATA) * error).sum() / batch_size
