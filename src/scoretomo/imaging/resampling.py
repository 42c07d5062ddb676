"""Rotated and mirrored copies of volumes, about the origin ``side // 2``."""

import torch
from jaxtyping import Float
from torch import Tensor

from ..geometry.rotations import from_rotation_vectors
from .fourier import resize, translate
from .slices import ball_frequencies, from_coefficients, slice_coefficients, voxel_slices

# Samples whose coordinates are held at once: the working memory beside the result, about 50 MB.
_SAMPLES_AT_ONCE = 2**22


def mirror_z(volumes: Float[Tensor, "*batch n n n"]) -> Float[Tensor, "*batch n n n"]:
    """Reflect volumes in the plane z = 0: the other hand, ``V'(x, y, z) = V(x, y, -z)``.

    The plane goes through index ``n // 2``. Where ``n`` is even the first plane, z = -n/2, has no partner and stays.
    """
    flipped = volumes.flip(-3)
    return flipped if volumes.shape[-1] % 2 else flipped.roll(1, -3)


def rotate_volumes(volumes: Float[Tensor, "b n n n"], rotations: Float[Tensor, "b 3 3"]) -> Float[Tensor, "b n n n"]:
    """Turn each volume by its rotation: ``V'(x) = V(R^T x)``, trilinear, zero outside the box.

    The sum over z of the result is :func:`scoretomo.imaging.projection.project` of the volume under the same rotation.

    Parameters
    ----------
    volumes
        ``(b, n, n, n)``, axes ``[z, y, x]``.
    rotations
        ``(b, 3, 3)``, active, on xyz column vectors.
    """
    side = volumes.shape[-1]
    # grid_sample counts from -1 to 1 over the box: the origin, index side // 2, lies at `centre` on every axis
    centre = 2 * (side // 2) / (side - 1) - 1
    inverse = rotations.mT
    offset = centre * (1 - inverse.sum(-1, keepdim=True))
    rotated = torch.empty_like(volumes)
    chunk = max(1, _SAMPLES_AT_ONCE // side**3)
    for start in range(0, len(volumes), chunk):
        part = slice(start, start + chunk)
        affine = torch.cat([inverse[part], offset[part]], dim=-1)  # (k, 3, 4)
        points = torch.nn.functional.affine_grid(affine, [len(affine), 1, side, side, side], align_corners=True)
        rotated[part] = torch.nn.functional.grid_sample(
            volumes[part][:, None], points, mode="bilinear", padding_mode="zeros", align_corners=True
        )[:, 0]
    return rotated


def turn_into_view(
    volume: Float[Tensor, "n n n"], rotation: Float[Tensor, "3 3"], shift_pixels: Float[Tensor, "2"]
) -> Float[Tensor, "n n n"]:
    """Turn and move a volume so that its sum over z is the image of that pose, within the ball of Nyquist's frequency.

    Parameters
    ----------
    volume
        ``(n, n, n)``, axes ``[z, y, x]``.
    rotation, shift_pixels
        ``(3, 3)``, object to microscope frame, and ``(2,)``, ``[x, y]``.
    """
    frequencies = ball_frequencies(volume.shape[-1], volume.device)
    # read off its transform, as slices are: some five times as fast as turning it at twice the sampling
    coefficients = slice_coefficients(voxel_slices(volume), rotation[None], frequencies)
    turned = from_coefficients(coefficients, frequencies, volume.shape[-1])
    return translate(turned, torch.nn.functional.pad(shift_pixels, (0, 1))[None])[0]


def rigid_moves(volume: Float[Tensor, "n n n"]) -> Float[Tensor, "six n n n"]:
    """Differentiate a volume in a rotation about and a shift along x, y and z, by central differences."""
    steps = torch.eye(3).to(volume)
    copies = volume.expand(3, -1, -1, -1)
    angle = 2 / volume.shape[-1]  # moves the surface of the sphere by one voxel
    forth, back = (rotate_volumes(copies, from_rotation_vectors(sign * angle * steps)) for sign in (1, -1))
    return torch.cat([forth - back, translate(copies, 0.5 * steps) - translate(copies, -0.5 * steps)])


def symmetrise(volume: Float[Tensor, "n n n"], group: Float[Tensor, "g 3 3"]) -> Float[Tensor, "n n n"]:
    """Mean of a volume over the rotations of a group about the origin, sampled on a grid of twice the sampling.

    Parameters
    ----------
    volume
        ``(n, n, n)``, axes ``[z, y, x]``.
    group
        ``(g, 3, 3)``, as :func:`scoretomo.geometry.symmetry.symmetry_group` makes it; for a volume in another frame,
        ``F @ group @ F.mT`` with ``F`` from the standard orientation to the volume's.
    """
    fine = resize(volume[None], 2 * volume.shape[-1], 3)
    total = torch.zeros_like(fine)
    for rotation in group:  # one at a time: the capsids' sixty would fill the memory
        total += rotate_volumes(fine, rotation[None])
    return resize(total / len(group), volume.shape[-1], 3)[0]
