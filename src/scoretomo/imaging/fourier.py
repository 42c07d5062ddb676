"""Centred Fourier transforms, shell averages and changes of sampling, in any number of dimensions.

The origin is index ``side // 2`` in real and in Fourier space, for odd and even sides alike.
"""

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor


def centred_fft(arrays: Float[Tensor, "..."], dimensions: int) -> Complex[Tensor, "..."]:
    """Fourier transform over the last ``dimensions`` axes, origin at ``side // 2`` before and after."""
    axes = tuple(range(-dimensions, 0))
    return torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(arrays, dim=axes), dim=axes), dim=axes)


def centred_inverse_fft(spectra: Complex[Tensor, "..."], dimensions: int) -> Float[Tensor, "..."]:
    """Real part of the inverse of :func:`centred_fft`."""
    axes = tuple(range(-dimensions, 0))
    return torch.fft.fftshift(torch.fft.ifftn(torch.fft.ifftshift(spectra, dim=axes), dim=axes), dim=axes).real


def hartley(arrays: Float[Tensor, "..."], dimensions: int) -> Float[Tensor, "..."]:
    """Centred Hartley transform: real minus imaginary part of :func:`centred_fft` (004, section 3)."""
    spectra = centred_fft(arrays, dimensions)
    return spectra.real - spectra.imag


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
    start = arrays.shape[-1] // 2 - side // 2
    stop = start + side
    before, after = max(0, -start), max(0, stop - arrays.shape[-1])
    inside = slice(max(0, start), min(arrays.shape[-1], stop))
    cropped = arrays[(..., *[inside] * dimensions)]
    return torch.nn.functional.pad(cropped, [before, after] * dimensions) if before or after else cropped


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
    sums = values.new_zeros(*values.shape[:-1], int(shells.max()) + 1)
    sums.index_add_(-1, shells, values)
    return sums[..., :count]
