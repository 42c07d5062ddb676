"""What each task cannot do without: operations and bytes, counted by hand; those of the network by PyTorch.

They are the least for the method as it is published, whatever an implementation does: samples within the inscribed
sphere only, every volume read and written once, the network's weights and activations in the caches.
"""

import math

from .networks import NetworkName, denoising_flop, weight_count
from .peak import Work

_NUMBER = 4  # bytes of a float32
# Trilinear interpolation of one sample: 3 for its coordinates, 6 for their whole and fractional parts, 7 linear
# interpolations of 3, 1 to add it to the ray. The adjoint: 9, 10 for the eight weights, 16 to spread the value.
_FLOP_OF_SAMPLE, _FLOP_OF_ADJOINT = 31, 35
# AdamW, moving average of the weights: weights, gradients, two moments and averages read; all but gradients written.
_NUMBERS_OF_UPDATE = 9


def sphere_voxels(side: int) -> float:
    """Voxels of the sphere that a volume is confined to."""
    return math.pi / 6 * side**3


def projection(views: int, side: int) -> Work:
    """Projections of one volume."""
    numbers = sphere_voxels(side) + views * side**2
    return Work(float32=_FLOP_OF_SAMPLE * views * sphere_voxels(side), bytes=_NUMBER * numbers)


def back_projection(views: int, side: int) -> Work:
    """The adjoint, into one volume."""
    numbers = sphere_voxels(side) + views * side**2
    return Work(float32=_FLOP_OF_ADJOINT * views * sphere_voxels(side), bytes=_NUMBER * numbers)


def denoising(network: NetworkName, side: int, *, bfloat16: bool) -> Work:
    """One image through the network, read and written."""
    flop = denoising_flop(network, side)
    read_and_written = 2 * _NUMBER * side**2
    return Work(bfloat16=flop, bytes=read_and_written) if bfloat16 else Work(network=flop, bytes=read_and_written)


def reconstruction_step(network: NetworkName, side: int, views: int, *, bfloat16: bool) -> Work:
    """One step of Algorithm 1 for one volume.

    The base image's view is not rotated: one addition a voxel in each direction. The update takes four operations a
    voxel, and the volume is read and written once in all.
    """
    turned = _FLOP_OF_SAMPLE + _FLOP_OF_ADJOINT
    volume = Work(float32=(turned * (views - 1) + 2 + 4) * sphere_voxels(side), bytes=2 * _NUMBER * sphere_voxels(side))
    return volume + denoising(network, side, bfloat16=bfloat16) * (views - 1)


def training_step(network: NetworkName, side: int, batch: int, *, bfloat16: bool) -> Work:
    """Forward and backward of a batch, and the update of the weights."""
    update = Work(bytes=_NUMBER * _NUMBERS_OF_UPDATE * weight_count(network))
    return denoising(network, side, bfloat16=bfloat16) * (3 * batch) + update
