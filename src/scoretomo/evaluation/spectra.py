"""Spectra of volumes at any frequencies, and what makes their inner products mean Fourier shell correlations.

A radial filter commutes with rotation, so that spectra may be given the same power in every shell before they are
compared. Frequencies are in cycles per box, columns xyz; the origin is ``side // 2`` throughout.
"""

import math

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from ..imaging.fourier import centred_fft, recentre_crop, resize


def background(volumes: Float[Tensor, "b n n n"]) -> Float[Tensor, "b 1 1 1"]:
    """Median of each volume, so that a constant makes no step at the edge of the box once it is turned or padded."""
    return volumes.flatten(1).median(1).values[:, None, None, None]


def centre_of_mass(volumes: Float[Tensor, "b n n n"]) -> Float[Tensor, "b 3"]:
    """Centre (xyz, pixels from the origin) of the density more than one standard deviation out."""
    side = volumes.shape[-1]
    level = volumes.mean((1, 2, 3), keepdim=True) + volumes.std((1, 2, 3), keepdim=True)
    mass = (volumes - level).clamp(min=0)
    axis = torch.arange(side, device=volumes.device, dtype=volumes.dtype) - side // 2
    total = mass.sum((1, 2, 3)).clamp(min=torch.finfo(volumes.dtype).tiny)
    moments = [mass.sum(others) @ axis for others in ((1, 2), (1, 3), (2, 3))]
    return torch.stack(moments, dim=-1) / total[:, None]


def half_cycle_spectra(
    volumes: Float[Tensor, "b n n n"], shell: int, with_gradient: bool
) -> Float[Tensor, "b channels p p p"]:
    """Spectra up to a shell on a lattice of half a cycle per box, real and imaginary parts as channels.

    With the gradient, the derivatives along x, y and z follow: the spectra of ``-2 pi i x`` times the volume.
    """
    side = 2 * shell + 1
    small = resize(volumes - background(volumes), side, 3)[:, None]
    if with_gradient:
        axis = (torch.arange(side, device=volumes.device, dtype=volumes.dtype) - side // 2) / side
        z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
        small = small * torch.stack([torch.ones_like(x), x, y, z])
    spectra = centred_fft(recentre_crop(small, 2 * side, 3), 3)
    spectra[:, 1:] *= -2j * math.pi
    return torch.view_as_real(spectra).movedim(-1, 2).flatten(1, 2).contiguous()


def half_ball(shell: int, like: Tensor) -> tuple[Float[Tensor, "k 3"], Float[Tensor, "k s"]]:
    """Integer frequencies (xyz) within a shell, one of each Friedel pair, without the origin; their shells one-hot."""
    axis = torch.arange(-shell, shell + 1, device=like.device)
    x, y, z = torch.cartesian_prod(axis, axis, axis).unbind(-1)
    half = (z > 0) | ((z == 0) & ((y > 0) | ((y == 0) & (x > 0))))
    lattice = torch.stack([x, y, z], dim=-1)[half & (x * x + y * y + z * z <= shell * shell)].to(like.dtype)
    return lattice, torch.nn.functional.one_hot(lattice.norm(dim=-1).round().long() - 1).to(like.dtype)


def sample_spectra(
    spectra: Float[Tensor, "b channels p p p"], frequencies: Float[Tensor, "#b m k 3"]
) -> Complex[Tensor, "b m k c"]:
    """Spectra (and their derivatives) at any frequencies, with trilinear weights."""
    padded = spectra.shape[-1]
    points = (padded // 2 + 2 * frequencies) * (2 / (padded - 1)) - 1
    points = points.expand(len(spectra), -1, -1, -1)[..., None, :]
    values = torch.nn.functional.grid_sample(spectra, points, align_corners=True)[..., 0]
    real, imaginary = values[:, 0::2].permute(0, 2, 3, 1), values[:, 1::2].permute(0, 2, 3, 1)
    return torch.complex(real, imaginary)


def shift_phases(
    frequencies: Float[Tensor, "*#batch k 3"], shifts: Float[Tensor, "*batch 3"], side: int
) -> Complex[Tensor, "*batch k"]:
    """Factors that move the density by ``shifts`` pixels: ``exp(-2 pi i k s / n)``."""
    angles = (frequencies @ shifts[..., None])[..., 0] * (-2 * math.pi / side)
    return torch.polar(torch.ones_like(angles), angles)


def whitening(values: Complex[Tensor, "*batch k"], membership: Float[Tensor, "k s"]) -> Float[Tensor, "*batch k"]:
    """Factors that give every shell the same power, so that inner products are mean shell correlations."""
    power = (values.abs() ** 2) @ membership * membership.shape[1]
    scale = torch.where(power > 0, power.clamp(min=torch.finfo(power.dtype).tiny).rsqrt(), torch.zeros_like(power))
    return scale @ membership.T
