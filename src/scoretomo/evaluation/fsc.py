"""Fourier shell correlation (FSC), the area under it and the resolution it gives."""

import torch
from jaxtyping import Float
from torch import Tensor

from ..imaging.fourier import centred_fft, shell_index, shell_sum


def fourier_shell_correlation(
    first: Float[Tensor, "*#batch n n n"], second: Float[Tensor, "*#batch n n n"]
) -> Float[Tensor, "*batch k"]:
    """Correlate two volumes shell by shell in Fourier space (Harauz and van Heel 1986).

    Parameters
    ----------
    first, second
        ``(..., n, n, n)``, axes ``[z, y, x]``; leading axes broadcast.

    Returns
    -------
    Tensor
        ``(..., n // 2 + 1)``, shell ``k`` at ``k / n`` cycles per pixel; 0 where either volume has no power.
    """
    return _correlate(first, second, 3)


def fourier_ring_correlation(
    first: Float[Tensor, "*#batch n n"], second: Float[Tensor, "*#batch n n"]
) -> Float[Tensor, "*batch k"]:
    """Correlate two images ring by ring: :func:`fourier_shell_correlation` in two dimensions, axes ``[y, x]``."""
    return _correlate(first, second, 2)


def _correlate(first: Tensor, second: Tensor, dimensions: int) -> Float[Tensor, "*batch k"]:
    side = first.shape[-1]
    shells = shell_index(side, dimensions, first.device).flatten()
    spectra = [centred_fft(arrays, dimensions).flatten(-dimensions) for arrays in (first, second)]
    cross = shell_sum((spectra[0] * spectra[1].conj()).real, shells, side // 2 + 1)
    power = [shell_sum(spectrum.abs() ** 2, shells, side // 2 + 1) for spectrum in spectra]
    # roots first: the product of two weak shells would underflow
    norm = power[0].sqrt() * power[1].sqrt()
    return torch.where(norm > 0, cross / norm.clamp(min=torch.finfo(norm.dtype).tiny), torch.zeros_like(cross))


def area_under_curve(fsc: Float[Tensor, "*batch k"]) -> Float[Tensor, "*batch"]:
    """Area under an FSC from 0 to 0.5 cycles per pixel, divided by 0.5: 1 is perfect (trapezoidal rule).

    The last shell is taken as 0.5 cycles per pixel; for an odd side it lies half a shell below.
    """
    return torch.trapezoid(fsc, dim=-1) / (fsc.shape[-1] - 1)


def resolution_pixels(
    fsc: Float[Tensor, "*batch k"], threshold: float = 0.5, side: int | None = None
) -> Float[Tensor, "*batch"]:
    """Period in pixels at which an FSC first falls below the threshold, interpolated linearly between shells.

    Parameters
    ----------
    fsc
        ``(..., n // 2 + 1)`` of :func:`fourier_shell_correlation`. Shell 0, no more
        than the sign of the two means, is passed over.
    threshold
        0.5 against a reference, 0.143 between independent halves.
    side
        Side ``n`` of the volumes; left out, it is the even one.

    Returns
    -------
    Tensor
        ``(...)``: 2 (Nyquist) where it never falls, infinite where no shell reaches the threshold.
    """
    count = fsc.shape[-1]
    side = 2 * (count - 1) if side is None else side
    above = fsc[..., 1:] >= threshold
    falls = above[..., :-1] & ~above[..., 1:]
    before = falls.float().argmax(-1, keepdim=True) + 1  # the first fall is between this shell and the next
    high, low = fsc.gather(-1, before), fsc.gather(-1, before + 1)
    shell = (before + (high - threshold) / (high - low)).squeeze(-1)
    period = torch.where(falls.any(-1), side / shell, side / (count - 1))
    return torch.where(above.any(-1), period, torch.inf)
