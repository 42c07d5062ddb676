"""Parallel projection of volumes and its exact adjoint.

Both sample the rotated object at integer coordinates with trilinear weights; outside the box the density is zero.
The object is turned about its centre voxel ``side // 2``, as in Fourier space (docs/conventions.md).
"""

import torch
from jaxtyping import Float
from torch import Tensor

# Samples whose coordinates are held at once: the working memory of both functions, about 50 MB.
_SAMPLES_AT_ONCE = 2**22


def project(
    volumes: Float[Tensor, "b n n n"],
    rotations: Float[Tensor, "b m 3 3"],
) -> Float[Tensor, "b m n n"]:
    """Project each volume along z after each of its rotations (001, the forward operator f(V, R)).

    Parameters
    ----------
    volumes
        ``(b, n, n, n)``, axes ``[z, y, x]``.
    rotations
        ``(b, m, 3, 3)``, active, on xyz column vectors.

    Returns
    -------
    Tensor
        ``(b, m, n, n)``, axes ``[y, x]``: sums over z of the rotated object, in density times voxels.
    """
    count, views, side = *rotations.shape[:2], volumes.shape[-1]
    images = volumes.new_zeros(count, views, side, side)
    for slab in _slabs(count * views, side):
        points = _sampling_points(rotations, slab, side)
        images += (
            torch.nn.functional.grid_sample(
                volumes[:, None], points, mode="bilinear", padding_mode="zeros", align_corners=True
            )
            .view(count, views, len(slab), side, side)
            .sum(2)
        )
    return images


def back_project(
    images: Float[Tensor, "b m n n"],
    rotations: Float[Tensor, "b m 3 3"],
) -> Float[Tensor, "b n n n"]:
    """Smear images back along their viewing directions and add: the exact adjoint of :func:`project`."""
    count, views, side = images.shape[:3]
    volumes = images.new_zeros(count, 1, side, side, side)
    for slab in _slabs(count * views, side):
        points = _sampling_points(rotations, slab, side)
        smeared = images[:, :, None].expand(count, views, len(slab), side, side)
        gradient, _ = torch.ops.aten.grid_sampler_3d_backward(
            smeared.reshape(count, 1, views * len(slab), side, side), volumes, points, 0, 0, True, [True, False]
        )
        volumes = volumes + gradient
    return volumes[:, 0]


def _slabs(views: int, side: int) -> list[range]:
    """Split the z axis so that a slab has at most ``_SAMPLES_AT_ONCE`` sampling points over all views, or one plane."""
    depth = max(1, min(side, _SAMPLES_AT_ONCE // (views * side * side)))
    return [range(start, min(start + depth, side)) for start in range(0, side, depth)]


def _sampling_points(rotations: Float[Tensor, "b m 3 3"], slab: range, side: int) -> Float[Tensor, "b md n n 3"]:
    """Where the points of a z slab of the rotated object lie in the object, as ``grid_sample`` coordinates (xyz)."""
    centre = side // 2
    axis = torch.arange(side, device=rotations.device, dtype=rotations.dtype) - centre
    depth = torch.arange(slab.start, slab.stop, device=rotations.device, dtype=rotations.dtype) - centre
    # x_object = R^T x_image: the rows of R are the steps in object space along x, y and z of the image
    along_x, along_y, along_z = (rotations * (2 / (side - 1))).unbind(-2)
    origin = 2 * centre / (side - 1) - 1
    plane = axis[:, None, None] * along_y[:, :, None, None] + axis[:, None] * along_x[:, :, None, None] + origin
    points = depth[:, None, None, None] * along_z[:, :, None, None, None] + plane[:, :, None]
    return points.flatten(1, 2)
