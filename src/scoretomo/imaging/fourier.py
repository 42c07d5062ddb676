"""Centred Fourier transforms, shell averages and changes of sampling, in any number of dimensions.

The origin is index ``side // 2`` in real and in Fourier space, for odd and even sides alike.
"""

import math

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor


def centred_fft(arrays: Float[Tensor, "..."], dimensions: int) -> Complex[Tensor, "..."]:
    """Fourier transform over the last ``dimensions`` axes, origin at ``side // 2`` before and after."""
    axes = tuple(range(-dimensions, 0))
    spectra: Tensor = torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(arrays, dim=axes), dim=axes), dim=axes)
    return spectra


def centred_inverse_fft(spectra: Complex[Tensor, "..."], dimensions: int) -> Float[Tensor, "..."]:
    """Real part of the inverse of :func:`centred_fft`."""
    axes = tuple(range(-dimensions, 0))
    arrays: Tensor = torch.fft.fftshift(torch.fft.ifftn(torch.fft.ifftshift(spectra, dim=axes), dim=axes), dim=axes)
    return arrays.real


def hartley(arrays: Float[Tensor, "..."], dimensions: int) -> Float[Tensor, "..."]:
    """Hartley transform of squares or cubes: real minus imaginary part of :func:`centred_fft` (004, section 3)."""
    axes = tuple(range(-dimensions, 0))
    side, leading = arrays.shape[-1], axes[:-1]
    # of real arrays half of the spectrum tells the other half: H(-k) = Re F(k) + Im F(k)
    half = torch.fft.fftshift(torch.fft.rfftn(torch.fft.ifftshift(arrays, dim=axes), dim=axes), dim=leading)
    mirrored = (half.real + half.imag)[..., 1 : side // 2 + 1].flip(axes)
    if side % 2 == 0:
        mirrored = mirrored.roll((1,) * len(leading), leading)  # the row of the Nyquist frequency is its own mirror
    transform: Tensor = torch.cat([mirrored, (half.real - half.imag)[..., : side - side // 2]], dim=-1)
    return transform


def filter_by_radius(
    arrays: Float[Tensor, "*batch n n n"], factors: Float[Tensor, "n n n"]
) -> Float[Tensor, "*batch n n n"]:
    """Multiply the spectra of volumes by centred ``factors``, alike at k and -k, as what depends on radius alone is."""
    axes = (-3, -2, -1)
    half = torch.fft.ifftshift(factors)[..., : factors.shape[-1] // 2 + 1]
    filtered: Tensor = torch.fft.irfftn(torch.fft.rfftn(arrays, dim=axes) * half, s=arrays.shape[-3:], dim=axes)
    return filtered


def resize(arrays: Float[Tensor, "..."], side: int, dimensions: int) -> Float[Tensor, "..."]:
    """Change the sampling of squares or cubes to ``side`` by cropping or padding their spectra.

    The field of view and the values are kept; the pixel size becomes ``old_side / side`` times what it was.
    """
    old = arrays.shape[-1]
    if side == old:
        return arrays
    spectra = centred_fft(arrays, dimensions)
    resized = recentre_crop(spectra, side, dimensions)
    return centred_inverse_fft(resized, dimensions) * (side / old) ** dimensions


def recentre_crop(arrays: Tensor, side: int, dimensions: int) -> Tensor:
    """Crop or zero-pad the last axes to ``side``; index ``old // 2`` goes to index ``side // 2``."""
    old = arrays.shape[-1]
    before = side // 2 - old // 2
    # where the padding is negative it crops
    return torch.nn.functional.pad(arrays, [before, side - old - before] * dimensions)


def translate(arrays: Float[Tensor, "b ..."], shifts: Float[Tensor, "b d"]) -> Float[Tensor, "b ..."]:
    """Move squares or cubes by ``shifts`` samples, ``[x, y]`` or ``[x, y, z]``, positive to larger index.

    A phase ramp, exact for fractions of a sample; what leaves one edge comes back at the opposite one.
    """
    side, dimensions = arrays.shape[-1], shifts.shape[-1]
    frequency = (torch.arange(side, device=arrays.device, dtype=arrays.dtype) - side // 2) / side
    turns = arrays.new_zeros(len(arrays), *[1] * dimensions)
    for axis in range(dimensions):  # x is the last axis
        turns = turns + shifts[:, axis].view(-1, *[1] * dimensions) * frequency.view(-1, *[1] * axis)
    return centred_inverse_fft(centred_fft(arrays, dimensions) * torch.exp(-2j * math.pi * turns), dimensions)


def radius_grid(side: int, dimensions: int, device: torch.device | str = "cpu") -> Float[Tensor, "..."]:
    """Distance of every sample from the origin ``side // 2``, in samples."""
    axis = torch.arange(side, device=device, dtype=torch.float32) - side // 2
    squares = axis**2
    total = squares
    for _ in range(dimensions - 1):
        total = total[..., None] + squares
    return total.sqrt()


def shell_index(side: int, dimensions: int, device: torch.device | str = "cpu") -> Int[Tensor, "..."]:
    """Nearest integer radius of every sample; those beyond ``side // 2`` are ``side // 2 + 1``."""
    return radius_grid(side, dimensions, device).round().long().clamp(max=side // 2 + 1)


def shell_sum(
    values: Float[Tensor, "*batch size"], shells: Int[Tensor, " size"], count: int
) -> Float[Tensor, "*batch k"]:
    """Sum flattened samples over the shells 0 to ``count - 1``; samples of higher shells are left out."""
    sums = values.new_zeros(*values.shape[:-1], max(count, int(shells.max()) + 1))
    sums.index_add_(-1, shells, values)
    return sums[..., :count]


def shell_correlation(
    first: Float[Tensor, "n n n"], second: Float[Tensor, "n n n"], count: int
) -> Float[Tensor, " count"]:
    """Fourier shell correlation of two volumes over the shells 0 to ``count - 1``, from their Hartley transforms."""
    shells = shell_index(first.shape[-1], 3, first.device).flatten()
    spectra = [hartley(volume, 3).flatten() for volume in (first, second)]  # their products add up to the real part
    cross, *power = (shell_sum(spectra[i] * spectra[j], shells, count) for i, j in ((0, 1), (0, 0), (1, 1)))
    return cross / (power[0].sqrt() * power[1].sqrt()).clamp(min=torch.finfo(cross.dtype).tiny)
