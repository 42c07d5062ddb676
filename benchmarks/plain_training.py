"""A plain training loop of the paper's kind, for timing only: what 001, section 3, says, written straightforwardly.

The appendix (000) lists no training code, so this is how such a loop is commonly written: float32; every image of a
batch is turned, flipped and moved on its own, each motion a resampling, and masked; the moving average is a loop over
the weights; the loss is read in every step.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample

from scoretomo.diffusion.edm import EDMDenoiser, loss_weight
from scoretomo.imaging.masks import ball

_LARGEST_SHIFT = 0.01  # of the side (001, section 3)
_MEDIAN_SIGMA, _LOG_STD = 0.30, 1.2  # EDM's
_KEPT = 0.999  # of the averaged weights in a step
_CLIP_NORM = 1.0


class PlainTraining:
    """Network, its moving average and its optimiser."""

    def __init__(self, model: EDMDenoiser, averaged: EDMDenoiser, learning_rate: float) -> None:
        self.model, self.averaged = model, averaged
        self.optimiser = torch.optim.AdamW(model.parameters(), lr=learning_rate)

    def run(self, images: Float[Tensor, "n side side"], batch_size: int, steps: int) -> list[float]:
        """Losses of some steps."""
        generator = torch.Generator(images.device).manual_seed(0)
        losses = []
        for _ in range(steps):
            chosen = torch.randint(len(images), (batch_size,), generator=generator, device=images.device)
            clean = torch.stack([_move(images[index], generator) for index in chosen])
            deviates = torch.randn(batch_size, generator=generator, device=images.device)
            sigma = _MEDIAN_SIGMA * torch.exp(_LOG_STD * deviates)
            noise = torch.randn(clean.shape, generator=generator, device=images.device)
            error = self.model(clean + sigma[:, None, None] * noise, sigma) - clean
            loss = (loss_weight(sigma) * error.square().mean((1, 2))).mean()
            self.optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), _CLIP_NORM)
            self.optimiser.step()
            with torch.no_grad():
                for average, weight in zip(self.averaged.parameters(), self.model.parameters(), strict=True):
                    average.mul_(_KEPT).add_(weight, alpha=1 - _KEPT)
            losses.append(loss.item())
        return losses


def _move(image: Float[Tensor, "side side"], generator: torch.Generator) -> Float[Tensor, "side side"]:
    """Turn, flip and shift at random, and mask."""
    side, device = image.shape[-1], image.device
    draws = torch.rand(4, generator=generator, device=device)
    angle = 2 * math.pi * draws[0]
    turn = torch.stack([angle.cos(), -angle.sin(), angle.new_zeros(()), angle.sin(), angle.cos(), angle.new_zeros(())])
    image = _resample(image, turn.view(2, 3))
    if draws[1] < 0.5:
        image = image.flip(-1)
    shift = (4 * draws[2:] - 2) * _LARGEST_SHIFT  # grid_sample counts from -1 to 1
    image = _resample(image, torch.cat([torch.eye(2, device=device), shift[:, None]], dim=1))
    return image * ball(side, 2, side // 2, device)


def _resample(image: Float[Tensor, "side side"], motion: Float[Tensor, "2 3"]) -> Float[Tensor, "side side"]:
    grid = affine_grid(motion[None], [1, 1, *image.shape], align_corners=True)
    return grid_sample(image[None, None], grid, align_corners=True)[0, 0]
