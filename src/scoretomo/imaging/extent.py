"""How far a molecule reaches in its images."""

import torch
from jaxtyping import Float
from torch import Tensor

from .fourier import shell_index

# Rings count whose mean over the images is above 0 by so many standard errors: noise has no end.
_CERTAIN = 3.0
# Part of the density that lies within the radius before the margin. Images of a long molecule show its length seldom.
_HELD = 0.98
_MARGIN, _MARGIN_PIXELS = 1.1, 1.0


def molecule_radius(images: Float[Tensor, "n side side"]) -> float:
    """Radius in pixels of the sphere about the origin that holds the molecule, from the mean profile of its images.

    Parameters
    ----------
    images
        ``(n, side, side)``, axes ``[y, x]``, protein bright, background 0.

    Returns
    -------
    float
        Half the side at most. The profile is that of the mean image, so that noise averages out, and the radius that of
        98 % of its density and a tenth: the ends of a long molecule lie beyond it.
    """
    half = images.shape[-1] // 2
    shells = shell_index(images.shape[-1], 2, images.device).flatten()
    sums = images.new_zeros(len(images), half + 2).index_add_(1, shells, images.flatten(1))
    profiles = sums[:, : half + 1] / torch.bincount(shells)[: half + 1]
    mean = profiles.mean(0)
    error = profiles.std(0, correction=0) / max(1, len(images) - 1) ** 0.5
    mass = torch.where(mean > _CERTAIN * error, mean, 0) * torch.arange(half + 1, device=images.device)
    held = mass.cumsum(0)
    if not float(held[-1]) > 0:  # nothing stands out from the noise
        return float(half)
    reached = int((held < _HELD * held[-1]).sum())
    return min(float(half), _MARGIN * reached + _MARGIN_PIXELS)
