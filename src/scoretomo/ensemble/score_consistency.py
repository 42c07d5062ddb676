"""Whether projections look like class averages to the denoiser: its residuals, against those of class averages."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..diffusion.edm import Denoiser
from ..geometry.rotations import about_y, about_z
from ..methods.score_tomography import PIXELS_AT_ONCE_ON_CPU


def hemisphere_views(count: int) -> Float[Tensor, "count 3 3"]:
    """Rotations that show an object from evenly spaced directions of the hemisphere z > 0 (Fibonacci lattice).

    Each is turned in its plane by another angle. The viewing directions are the last rows.
    """
    step = torch.arange(count) + 0.5
    polar = torch.acos(1 - step / count)
    longitude = math.pi * (1 + math.sqrt(5)) * step
    return about_z(longitude * math.sqrt(2)) @ about_y(-polar) @ about_z(-longitude)


def denoising_residuals(
    images: Float[Tensor, "b s s"], denoiser: Denoiser, sigmas: Sequence[float], noise: Float[Tensor, "b s s"]
) -> Float[Tensor, "b levels"]:
    """Mean square change of images by noising and denoising, ``|x - D(x + sigma noise, sigma)|^2 / sigma^2``.

    Up to a constant this is an image's share of the negative log likelihood under the learned distribution
    (Kingma and Gao 2023); what the denoiser has not seen it changes more.
    """
    at_once = max(1, PIXELS_AT_ONCE_ON_CPU // images[0].numel())
    columns = []
    for sigma in sigmas:
        changed = []
        for clean, added in zip(images.split(at_once), noise.split(at_once), strict=True):
            level = clean.new_full((len(clean),), sigma)
            changed.append((denoiser(clean + sigma * added, level) - clean).square().mean((1, 2)) / sigma**2)
        columns.append(torch.cat(changed))
    return torch.stack(columns, dim=1)


class ScoreConsistency:
    """The denoiser's opinion of projections, calibrated by that of class averages.

    Parameters
    ----------
    class_averages
        ``(m, s, s)``, what projections are compared with.
    denoiser
        ``(noisy (b, s, s), sigma (b,)) -> clean (b, s, s)``.
    views
        Projections that are judged at a time.
    sigmas
        Noise levels.
    generator
        Makes the noise, the same for all projections of a place: what it does to one volume it does to all.
    """

    def __init__(
        self,
        class_averages: Float[Tensor, "m s s"],
        denoiser: Denoiser,
        *,
        views: int,
        sigmas: Sequence[float],
        generator: torch.Generator,
    ) -> None:
        self.denoiser, self.sigmas = denoiser, sigmas
        shape = (views, *class_averages.shape[1:])
        self.noise = torch.randn(shape, generator=generator, device=generator.device).to(class_averages)
        noise = self.noise[torch.arange(len(class_averages)) % views]
        residuals = self._residuals(class_averages, noise)
        # in the logarithm the residuals of class averages are about normal
        self.mean, self.deviation = residuals.mean(0), residuals.std(0).clamp(min=1e-6)

    def excess(self, projections: Float[Tensor, "v s s"]) -> Float[Tensor, " v"]:
        """Residual above that of class averages, in their standard deviations, mean over the noise levels."""
        return ((self._residuals(projections, self.noise) - self.mean) / self.deviation).mean(1)

    @torch.no_grad()
    def _residuals(self, images: Tensor, noise: Tensor) -> Float[Tensor, "b levels"]:
        return denoising_residuals(images, self.denoiser, self.sigmas, noise).clamp(min=1e-12).log()
