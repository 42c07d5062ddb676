"""The reconstruction loop of the paper's appendix (000, A.2), written afresh from what it computes; for timing only.

Its computations are kept, good or bad: one volume at a time; a grid of side^3 coordinates and a resampled copy of the
volume for every view, the unrotated one too; turning about (side - 1) / 2, half a voxel from the package's origin on
even sides; a back projection by interpolation that is the projection's adjoint only nearly; noise of variance
sigma^2 - SMALLEST_SIGMA^2.
"""

import math
from collections import deque
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, pad

from scoretomo.diffusion.edm import Denoiser
from scoretomo.geometry.rotations import random_rotations
from scoretomo.imaging.masks import ball

SMALLEST_SIGMA = 0.002
"""Noise level at which the paper's diffusion ends (its t_min)."""


def reconstruct_one(
    denoiser: Denoiser,
    base_image: Float[Tensor, "n n"],
    *,
    steps: int,
    sigma: float,
    views: int,
    generator: torch.Generator,
) -> Float[Tensor, "n n n"]:
    """Volume of one base image after so many steps of rate 1, from zeros."""
    progress = reconstruct_one_progressive(denoiser, base_image, sigma=sigma, views=views, generator=generator)
    return deque((next(progress) for _ in range(steps)), maxlen=1)[0]


@torch.no_grad()
def reconstruct_one_progressive(
    denoiser: Denoiser, base_image: Float[Tensor, "n n"], *, sigma: float, views: int, generator: torch.Generator
) -> Iterator[Float[Tensor, "n n n"]]:
    """Give the volume of one base image after each step, without end."""
    side, device = base_image.shape[-1], base_image.device
    volume = base_image.new_zeros(side, side, side)
    support = ball(side, 3, side // 2, device)
    floor = base_image.min() / side
    added_noise = math.sqrt(sigma**2 - SMALLEST_SIGMA**2)
    unrotated = torch.eye(3, device=device)[None]
    while True:
        rotations = torch.cat([unrotated, random_rotations(views - 1, generator=generator, device=device)])
        projections = project_by_grid(volume, rotations)
        noise = torch.randn(projections[1:].shape, generator=generator, device=device)
        noisy = projections[1:] + added_noise * noise
        denoised = denoiser(noisy, noisy.new_full((views - 1,), sigma))
        residuals = projections - torch.cat([base_image[None], denoised])
        volume = volume - back_project_by_grid(residuals, rotations)
        volume = (volume * support).maximum(floor)
        yield volume


def project_by_grid(volume: Float[Tensor, "n n n"], rotations: Float[Tensor, "m 3 3"]) -> Float[Tensor, "m n n"]:
    """Sums over z of the rotated copies of a volume."""
    return _resample(volume.expand(len(rotations), *volume.shape), rotations.mT).sum(1)


def back_project_by_grid(images: Float[Tensor, "m n n"], rotations: Float[Tensor, "m 3 3"]) -> Float[Tensor, "n n n"]:
    """Images smeared along z, turned back and averaged over views and voxels of a ray."""
    views, side = images.shape[:2]
    smeared = images[:, None].expand(views, side, side, side)
    return _resample(smeared, rotations).sum(0) / (side * views)


def _resample(blocks: Float[Tensor, "m n n n"], matrices: Float[Tensor, "m 3 3"]) -> Float[Tensor, "m n n n"]:
    """Values of each block at ``matrix @ x`` for every voxel position x, counted from (n - 1) / 2."""
    coordinates = affine_grid(pad(matrices, (0, 1)), [len(blocks), 1, *blocks.shape[1:]], align_corners=True)
    return grid_sample(blocks[:, None], coordinates, align_corners=True)[:, 0]
