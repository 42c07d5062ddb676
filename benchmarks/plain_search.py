"""Poses and alignments searched in real space, for timing only: every rotation of a grid tried one after the other.

That is the plain way: turn the volume, then correlate it, or its projection, with everything at all shifts by Fourier
transforms. Nothing is refined.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from scoretomo.imaging.resampling import mirror_z, rotate_volumes


def find_poses_in_real_space(
    images: Float[Tensor, "k n n"],
    volume: Float[Tensor, "n n n"],
    rotations: Float[Tensor, "r 3 3"],
    shifts_pixels: int,
) -> Float[Tensor, "k 3 3"]:
    """Best rotation of each image, at its best shift of whole pixels up to ``shifts_pixels`` along x and y."""
    spectra = _unit_spectra(images, 2)
    best = images.new_full((len(images),), -torch.inf)
    found = torch.zeros(len(images), dtype=torch.long, device=images.device)
    for index, rotation in enumerate(rotations):
        projection = rotate_volumes(volume[None], rotation[None]).sum(1)
        scores = _at_shifts(spectra * _unit_spectra(projection, 2).conj(), 2, shifts_pixels)
        found = torch.where(scores > best, index, found)
        best = best.maximum(scores)
    return rotations[found]


def align_in_real_space(
    mobile: Float[Tensor, "b n n n"],
    reference: Float[Tensor, "b n n n"],
    rotations: Float[Tensor, "r 3 3"],
    shifts_pixels: int,
) -> tuple[Float[Tensor, "b 3 3"], Float[Tensor, " b"]]:
    """Best rotation and hand (1 or -1) of each volume, at its best shift of whole voxels along x, y and z."""
    spectra = _unit_spectra(reference, 3)
    best = mobile.new_full((len(mobile),), -torch.inf)
    found = torch.zeros(len(mobile), dtype=torch.long, device=mobile.device)
    hands = torch.ones_like(best)
    for hand, handed in ((1.0, mobile), (-1.0, mirror_z(mobile))):
        for index, rotation in enumerate(rotations):
            turned = rotate_volumes(handed, rotation.expand(len(mobile), 3, 3))
            scores = _at_shifts(spectra * _unit_spectra(turned, 3).conj(), 3, shifts_pixels)
            found = torch.where(scores > best, index, found)
            hands = torch.where(scores > best, hand, hands)
            best = best.maximum(scores)
    return rotations[found], hands


def _unit_spectra(arrays: Tensor, dimensions: int) -> Tensor:
    """Half spectra of arrays of mean zero and norm one."""
    axes = tuple(range(-dimensions, 0))
    centred = arrays - arrays.mean(axes, keepdim=True)
    return torch.fft.rfftn(centred / centred.square().sum(axes, keepdim=True).sqrt(), dim=axes)


def _at_shifts(products: Tensor, dimensions: int, largest: int) -> Float[Tensor, " b"]:
    """Greatest correlation over the shifts up to ``largest`` samples along each axis."""
    axes = tuple(range(-dimensions, 0))
    side = products.shape[-2]
    correlations = torch.fft.irfftn(products, s=[side] * dimensions, dim=axes)
    near = torch.arange(-largest, largest + 1, device=products.device) % side
    for axis in axes:
        correlations = correlations.index_select(axis, near)
    return correlations.flatten(1).amax(1)
