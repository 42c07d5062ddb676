"""Score-based random tomography (001): learn the projections of one experiment, then distil them into volumes."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..diffusion.edm import Denoiser, denoising_error, lognormal_sigmas, loss_weight
from ..geometry.rotations import random_rotations
from ..imaging.augmentation import augment
from ..imaging.masks import ball
from ..imaging.projection import back_project, project


@dataclass(frozen=True)
class NoiseConfig:
    """Which noise levels the denoiser is trained at."""

    median: float = 0.4
    """Median noise level, in units of the images' standard deviation; EDM (and the paper) 0.30."""
    log_std: float = 0.6
    """Standard deviation of the logarithm of the noise level; EDM (and the paper) 1.2."""


@dataclass(frozen=True)
class ReconstructionConfig:
    """Settings of Algorithm 1."""

    steps: int = 1000
    """Number of updates of each volume (the paper's S)."""
    sigma: float = 0.5
    """Noise level at the first step (the paper's t)."""
    final_sigma: float = 0.5
    """Noise level at the last step; the level changes geometrically in between. The paper keeps it constant."""
    views: int = 2
    """Views of one update at the first step, the base image included (the paper's M)."""
    final_views: int = 2
    """Views of one update at the last step; the number changes linearly in between."""
    rate: float = 1.0
    """Step size; 1 moves each voxel by the mean of the residuals of its rays."""
    average: float = 0.0
    """Part of the steps, at the end, whose volumes are averaged; 0 returns the last one, as the paper does."""
    support: float = 1.0
    """Radius of the spherical support as a fraction of half the side."""


@dataclass(frozen=True)
class ReconstructionStep:
    """Where Algorithm 1 stands."""

    step: int
    volumes: Float[Tensor, "b n n n"]
    base_error: Float[Tensor, " b"]
    """Root mean square difference of the first view and the base image."""
    score_error: Float[Tensor, " b"]
    """Root mean square difference of the random views and what the denoiser makes of them."""


def training_loss(
    images: Float[Tensor, "n side side"],
    noise: NoiseConfig,
    model: nn.Module,
    batch_size: int,
    generator: torch.Generator,
) -> Float[Tensor, ""]:
    """Weighted denoising score matching on randomly moved images (001, Eq. 1)."""
    chosen = torch.randint(len(images), (batch_size,), generator=generator, device=generator.device).to(images.device)
    clean = augment(images[chosen], generator=generator)
    sigma = lognormal_sigmas(batch_size, noise.median, noise.log_std, generator=generator, device=images.device)
    return (loss_weight(sigma) * denoising_error(model, clean, sigma, generator=generator)).mean()


@torch.no_grad()
def reconstruct_progressive(
    denoiser: Denoiser,
    base_images: Float[Tensor, "b n n"],
    config: ReconstructionConfig,
    *,
    generator: torch.Generator,
    start: Float[Tensor, "b n n n"] | None = None,
) -> Iterator[ReconstructionStep]:
    """Algorithm 1 of 001 for a batch of base images: one volume each, all of them advancing together.

    Descends the reverse KL divergence between the noised projections of a volume and the learned distribution of
    noised images (Eq. 4) along its gradient (Eq. 5). View 0 is the volume as it stands, compared with the base
    image; the others are random, each compared with the denoiser's idea of it.

    Parameters
    ----------
    denoiser
        ``(noisy (k, n, n), sigma (k,)) -> clean (k, n, n)``.
    base_images
        ``(b, n, n)``, background 0; volume i projects along z onto base image i.
    config
        Step sizes and schedules.
    generator
        Draws rotations and noise.
    start
        Volumes to begin with; zeros if not given.
    """
    count, side = base_images.shape[:2]
    device = base_images.device
    support = ball(side, 3, config.support * (side // 2), device)
    floor = base_images.amin((1, 2)).clamp(max=0).view(-1, 1, 1, 1) / side
    volumes = base_images.new_zeros(count, side, side, side) if start is None else start.clone()
    average, averaged = torch.zeros_like(volumes), 0

    for step in range(config.steps):
        sigma, views = _schedule(config, step)
        # 1. project
        rotations = random_rotations(count, views - 1, generator=generator, device=device)
        random_views = project(volumes, rotations)
        # 2. residuals
        noise = torch.randn(random_views.shape, generator=generator, device=generator.device).to(device)
        noisy = (random_views + sigma * noise).flatten(0, 1)
        clean = denoiser(noisy, noisy.new_full((len(noisy),), sigma)).view_as(random_views)
        score_residual = random_views - clean
        base_residual = volumes.sum(1) - base_images
        # 3. back project; the first view is not rotated, so its rays are the columns of the volume
        gradient = back_project(score_residual, rotations) + base_residual[:, None]
        # 4. update, 5. support
        volumes = (volumes - config.rate / (side * views) * gradient).maximum(floor) * support

        if config.steps - step <= config.average * config.steps:
            averaged += 1
            average += (volumes - average) / averaged
        yield ReconstructionStep(
            step + 1,
            average if averaged else volumes,
            base_residual.square().mean((1, 2)).sqrt(),
            score_residual.square().mean((1, 2, 3)).sqrt(),
        )


def reconstruct(
    denoiser: Denoiser,
    base_images: Float[Tensor, "b n n"],
    config: ReconstructionConfig,
    *,
    generator: torch.Generator,
    start: Float[Tensor, "b n n n"] | None = None,
) -> Float[Tensor, "b n n n"]:
    """Volumes of the last step of :func:`reconstruct_progressive`."""
    volumes = start if start is not None else base_images.new_zeros(*base_images.shape, base_images.shape[-1])
    for state in reconstruct_progressive(denoiser, base_images, config, generator=generator, start=start):
        volumes = state.volumes
    return volumes


def _schedule(config: ReconstructionConfig, step: int) -> tuple[float, int]:
    """Noise level and number of views of a step."""
    done = step / max(1, config.steps - 1)
    sigma = config.sigma * (config.final_sigma / config.sigma) ** done
    return sigma, round(config.views + (config.final_views - config.views) * done)
