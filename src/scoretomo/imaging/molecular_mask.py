"""Where a molecule is: a soft mask about its density, and maps without the noise of the solvent."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .fourier import centred_fft, centred_inverse_fft, radius_grid
from .masks import ball, soft_ball

# Density that counts as molecule, as a part of the mean of the brightest percent.
_MOLECULE = 0.15
# Standard deviation of the blur before that is asked, in voxels.
_BLUR = 2.0
# Voxels that a map keeps about the molecule, and over which it then falls to zero.
_KEPT, _FALL = 1.0, 3.0


def solvent_mask(
    volumes: Float[Tensor, "q n n n"], states: Float[Tensor, "s q"] | None = None
) -> Float[Tensor, "n n n"]:
    """Mask for maps that people look at: narrower than one for an FSC, whose edge must add no correlation of its own.

    Parameters
    ----------
    volumes
        ``(q, n, n, n)``, protein bright, background near 0: a map, or what the states of a molecule are sums of.
    states
        ``(s, q)``, factors of the volumes in each state; what is molecule in any of them is. None: the sum of all.
    """
    smooth = torch.stack([_blurred(volume, _BLUR) for volume in volumes])  # before the maximum: that of noise is large
    densest = smooth.sum(0) if states is None else torch.full_like(smooth[0], -torch.inf)
    for factors in states if states is not None else ():
        densest = torch.maximum(densest, torch.einsum("q,qxyz->xyz", factors, smooth))
    return soft_region(_is_dense(densest), extend=_KEPT, edge=_FALL)


def molecular_mask(
    volume: Float[Tensor, "n n n"], *, blur: float = _BLUR, extend: float = 2.0, edge: float = 4.0
) -> Float[Tensor, "n n n"]:
    """Soft mask around the molecule: one where a blurred copy is dense and a little beyond, falling to zero.

    Parameters
    ----------
    volume
        ``(n, n, n)``, protein bright, background near 0.
    blur, extend, edge
        Voxels: standard deviation of the blur before the threshold, by how much the region grows, and the width of
        the raised-cosine edge.
    """
    return soft_region(_is_dense(_blurred(volume, blur)), extend=extend, edge=edge)


def _blurred(volume: Float[Tensor, "n n n"], blur: float) -> Float[Tensor, "n n n"]:
    return _convolve(volume, torch.exp(-(radius_grid(volume.shape[-1], 3, volume.device) ** 2) / (2 * blur**2)))


def _is_dense(smooth: Float[Tensor, "n n n"]) -> Bool[Tensor, "n n n"]:
    brightest = smooth.flatten().topk(max(1, smooth.numel() // 100)).values.mean()
    return smooth > _MOLECULE * brightest


def soft_region(region: Bool[Tensor, "n n n"], *, extend: float, edge: float) -> Float[Tensor, "n n n"]:
    """Mask that is one in a region and ``extend`` voxels beyond it, and falls as a raised cosine ``edge`` voxels wide.

    Parameters
    ----------
    region
        ``(n, n, n)``, away from the edge of the box, which is periodic.
    extend, edge
        In voxels.
    """
    grown = _reached(region.float(), extend + edge / 2).float()
    kernel = soft_ball(region.shape[-1], 3, 0.0, edge / 2 + 1, region.device)
    return _convolve(grown, kernel).clamp(0, 1)


def _convolve(volume: Float[Tensor, "n n n"], kernel: Float[Tensor, "n n n"]) -> Float[Tensor, "n n n"]:
    """Convolve with a kernel about the origin, scaled to a sum of one; periodic."""
    return centred_inverse_fft(centred_fft(volume, 3) * centred_fft(kernel / kernel.sum(), 3), 3)


def _reached(region: Float[Tensor, "n n n"], distance: float) -> Bool[Tensor, "n n n"]:
    """Voxels within a distance of a region of ones."""
    kernel = ball(region.shape[-1], 3, distance, region.device)
    return _convolve(region, kernel) > 0.5 / float(kernel.sum())
