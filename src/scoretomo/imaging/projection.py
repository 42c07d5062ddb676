"""Parallel projection of volumes and its exact adjoint.

Both sample the rotated object at integer coordinates with trilinear weights; outside the box the density is zero.
The object is turned about its centre voxel ``side // 2``, as in Fourier space (docs/conventions.md).

``project`` and ``back_project`` are the same functions as ``project_by_resampling`` and ``back_project_by_resampling``,
which show what is computed and run everywhere. Kernels that hold no rotated volume and no coordinates do it faster: on
the processor (projection_cpu.py) and on CUDA devices (projection_triton.py).
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

_Kernel = Callable[[Tensor, Tensor, float | None], Tensor]

# Samples whose coordinates are held at once by the reference: its working memory, about 50 MB.
_SAMPLES_AT_ONCE = 2**22


def project(
    volumes: Float[Tensor, "b n n n"], rotations: Float[Tensor, "b m 3 3"], radius: float | None = None
) -> Float[Tensor, "b m n n"]:
    """Project each volume along z after each of its rotations (001, the forward operator f(V, R)).

    Parameters
    ----------
    volumes
        ``(b, n, n, n)``, axes ``[z, y, x]``.
    rotations
        ``(b, m, 3, 3)``, active, on xyz column vectors. Gradients with respect to them are not computed.
    radius
        In voxels: the sphere about the origin from which samples are taken, all samples if not given. A sphere two
        voxels larger than the object changes nothing but the time, which falls with the volume.

    Returns
    -------
    Tensor
        ``(b, m, n, n)``, axes ``[y, x]``: sums over z of the rotated object, in density times voxels.
    """
    images: Tensor = _Projector.apply(volumes, rotations, radius, False)  # type: ignore[no-untyped-call]
    return images


def back_project(
    images: Float[Tensor, "b m n n"], rotations: Float[Tensor, "b m 3 3"], radius: float | None = None
) -> Float[Tensor, "b n n n"]:
    """Smear images back along their viewing directions and add: the exact adjoint of :func:`project`."""
    volumes: Tensor = _Projector.apply(images, rotations, radius, True)  # type: ignore[no-untyped-call]
    return volumes


def _kernels(values: Tensor) -> tuple[_Kernel, _Kernel]:
    """Fastest projection and back projection for numbers of this type on this device."""
    if values.dtype == torch.float32 and values.device.type == "cpu":
        from .projection_cpu import back_project_cpu, project_cpu  # importing Numba takes half a second

        return project_cpu, back_project_cpu
    if values.dtype == torch.float32 and values.device.type == "cuda" and find_spec("triton"):
        from .projection_triton import back_project_triton, project_triton

        return project_triton, back_project_triton
    return project_by_resampling, back_project_by_resampling


class _Projector(torch.autograd.Function):
    """Projection, or back projection if ``adjoint``; each is the gradient of the other."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, rotations: Tensor, radius: float | None, adjoint: bool) -> Tensor:
        ctx.save_for_backward(rotations)
        ctx.radius, ctx.adjoint = radius, adjoint
        return _kernels(values)[adjoint](values, rotations, radius)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        gradient = _Projector.apply(gradients[0], *ctx.saved_tensors, ctx.radius, not ctx.adjoint)  # type: ignore[no-untyped-call]
        return gradient, None, None, None


def project_by_resampling(
    volumes: Float[Tensor, "b n n n"], rotations: Float[Tensor, "b m 3 3"], radius: float | None = None
) -> Float[Tensor, "b m n n"]:
    """Compute :func:`project` by ``grid_sample``, slab by slab: the reference."""
    count, views, side = *rotations.shape[:2], volumes.shape[-1]
    images = volumes.new_zeros(count, views, side, side)
    for slab in _slabs(count * views, side):
        points = _sampling_points(rotations, slab, side)
        samples = torch.nn.functional.grid_sample(
            volumes[:, None], points, mode="bilinear", padding_mode="zeros", align_corners=True
        ).view(count, views, len(slab), side, side)
        images += (samples * _sphere(slab, side, radius, samples)).sum(2)
    return images


def back_project_by_resampling(
    images: Float[Tensor, "b m n n"], rotations: Float[Tensor, "b m 3 3"], radius: float | None = None
) -> Float[Tensor, "b n n n"]:
    """Compute :func:`back_project` by the gradient of ``grid_sample``, slab by slab: the reference."""
    count, views, side = images.shape[:3]
    volumes = images.new_zeros(count, 1, side, side, side)
    for slab in _slabs(count * views, side):
        points = _sampling_points(rotations, slab, side)
        smeared = images[:, :, None] * _sphere(slab, side, radius, images)
        gradient, _ = torch.ops.aten.grid_sampler_3d_backward(
            smeared.reshape(count, 1, views * len(slab), side, side), volumes, points, 0, 0, True, [True, False]
        )
        volumes = volumes + gradient
    return volumes[:, 0]


def _slabs(views: int, side: int) -> list[range]:
    """Split the z axis so that a slab has at most ``_SAMPLES_AT_ONCE`` sampling points over all views, or one plane."""
    depth = max(1, min(side, _SAMPLES_AT_ONCE // (views * side * side)))
    return [range(start, min(start + depth, side)) for start in range(0, side, depth)]


def _axes(slab: range, side: int, like: Tensor) -> tuple[Float[Tensor, " d"], Float[Tensor, " n"]]:
    """Coordinates about the centre: z of the planes of a slab; x or y of its rows and columns."""
    axis = torch.arange(side, device=like.device, dtype=like.dtype) - side // 2
    return axis[slab.start : slab.stop], axis


def _sphere(slab: range, side: int, radius: float | None, like: Tensor) -> Float[Tensor, "d n n"]:
    """Which samples of a slab of the rotated object are taken."""
    depth, axis = _axes(slab, side, like)
    squared = depth[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2
    return (squared <= (torch.inf if radius is None else radius**2)).to(like.dtype)


def _sampling_points(rotations: Float[Tensor, "b m 3 3"], slab: range, side: int) -> Float[Tensor, "b md n n 3"]:
    """Where the points of a z slab of the rotated object lie in the object, as ``grid_sample`` coordinates (xyz)."""
    depth, axis = _axes(slab, side, rotations)
    # x_object = R^T x_image: the rows of R are the steps in object space along x, y and z of the image
    along_x, along_y, along_z = (rotations * (2 / (side - 1))).unbind(-2)
    origin = 2 * (side // 2) / (side - 1) - 1
    plane = axis[:, None, None] * along_y[:, :, None, None] + axis[:, None] * along_x[:, :, None, None] + origin
    points = depth[:, None, None, None] * along_z[:, :, None, None, None] + plane[:, :, None]
    return points.flatten(1, 2)
