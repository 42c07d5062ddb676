"""Projection and its adjoint on CUDA devices, compiled by Triton; :mod:`scoretomo.imaging.projection` is the way in.

Projection follows a ray per pixel and adds up in a register: no rotated volume, no coordinates in memory. Programs are
ordered by volume, then view, then tile, so that those that run at one time share a few volumes in the L2 cache and a
volume is read from memory once for all its views.

Back projection gathers: each voxel looks for the samples around it, adds their shares of all views in a register and
is written once. The other way, scattering each sample to its eight voxels, is the projection reversed and has less to
compute: 110 instructions a sample, where gathering takes 400 (view along an axis) to 1050 a voxel and view. But it adds
to memory eight times a sample, by atomic operations that run one after the other where rays meet, to volumes that must
be set to zero first, and in an order that changes from run to run, and the sums with it. Gathering reads a dozen pixels
a voxel and view, from an image that fits into the L1 cache, and gives the same bits every time.
"""

import math
from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

# Pixels of a program, one per thread. A warp takes 8 x 4 of them: the more compact, the fewer rows of voxels it touches
# at a time, whatever the rotation. Four warps are few enough that the rays of a program are about equally long.
_IMAGE_TILE = (8, 16)
# Voxels of a program, one per thread. A warp writes 4 rows of 8 voxels, whole sectors of memory (32 bytes), which are
# close to each other in the image too. Tiles are small beside the sphere, outside of which nothing is to be done.
_VOLUME_TILE = (8, 4, 4)
_WARPS = 4

# Kernels are not type-checked: Triton reads their source. Sides and numbers of views change during a run: there is one
# compiled kernel for all of them.
_compile = triton.jit(do_not_specialize=["views", "side"])


def project_triton(
    volumes: Float[Tensor, "b n n n"], rotations: Float[Tensor, "b m 3 3"], radius: float | None
) -> Float[Tensor, "b m n n"]:
    """Compute :func:`scoretomo.imaging.projection.project` for float32."""
    count, views, side = *rotations.shape[:2], volumes.shape[-1]
    images = volumes.new_empty(count, views, side, side)
    tiles = math.prod(triton.cdiv(side, edge) for edge in _IMAGE_TILE)
    squared_radius, _ = _squares(radius, side)
    with torch.cuda.device(volumes.get_device()):
        _project[(count * views * tiles,)](
            volumes.contiguous(),
            rotations.contiguous(),
            images,
            views,
            side,
            squared_radius,
            *_IMAGE_TILE,
            num_warps=_WARPS,
            enable_fp_fusion=True,
        )
    return images


def back_project_triton(
    images: Float[Tensor, "b m n n"], rotations: Float[Tensor, "b m 3 3"], radius: float | None
) -> Float[Tensor, "b n n n"]:
    """Compute :func:`scoretomo.imaging.projection.back_project` for float32; the same bits every time."""
    count, views, side = images.shape[:3]
    volumes = images.new_empty(count, side, side, side)
    tiles = math.prod(triton.cdiv(side, edge) for edge in _VOLUME_TILE)
    with torch.cuda.device(images.get_device()):
        _back_project[(count * tiles,)](
            images.contiguous(),
            rotations.contiguous(),
            volumes,
            views,
            side,
            *_squares(radius, side),
            *_VOLUME_TILE,
            num_warps=_WARPS,
            enable_fp_fusion=True,
        )
    return volumes


def _squares(radius: float | None, side: int) -> tuple[float, float]:
    """Squared distances from the centre of the last samples, and of the voxels that no sample reaches."""
    if radius is None:
        return 3.0 * side**2, 3.0 * side**2  # nothing in the box is as far as that
    return float(radius) ** 2, (radius + math.sqrt(3)) ** 2


@_compile
@no_type_check
def _rows(rotations, view):
    """Read a rotation: the steps along x, y and z of the image, in object coordinates."""
    first = rotations + view.to(tl.int64) * 9
    along_x = tl.load(first), tl.load(first + 1), tl.load(first + 2)
    along_y = tl.load(first + 3), tl.load(first + 4), tl.load(first + 5)
    return along_x, along_y, (tl.load(first + 6), tl.load(first + 7), tl.load(first + 8))


@_compile
@no_type_check
def _clip(low, high, start, step, side):
    """Part of a range of z for which ``start + z * step`` is less than a voxel outside of the box."""
    inverse = 1.0 / tl.where(tl.abs(step) < 1e-6, 1e-6, step)  # parallel to these planes: all of the range or nothing
    first, last = (-1 - side // 2 - start) * inverse, (side - side // 2 - start) * inverse
    return tl.maximum(low, tl.minimum(first, last)), tl.minimum(high, tl.maximum(first, last))


@_compile
@no_type_check
def _neighbours(at, side):
    """Voxels before and behind a coordinate about the centre, as indices, and their weights: zero outside the box."""
    below = tl.floor(at)
    part = at - below
    index = below.to(tl.int32) + side // 2
    before = tl.where((index >= 0) & (index < side), 1.0 - part, 0.0)
    behind = tl.where((index >= -1) & (index < side - 1), part, 0.0)
    last = side - 1  # a weight of zero goes with any voxel of the box
    return tl.minimum(tl.maximum(index, 0), last), tl.minimum(tl.maximum(index + 1, 0), last), before, behind


@_compile
@no_type_check
def _row(voxels, low, high, before, behind, taken):
    """Interpolate along x."""
    first = tl.load(voxels + low, mask=taken, other=0.0)
    return before * first + behind * tl.load(voxels + high, mask=taken, other=0.0)


@_compile
@no_type_check
def _sample(volume, x, y, z, taken, side):
    """Interpolate at coordinates about the centre."""
    low_x, high_x, left, right = _neighbours(x, side)
    low_y, high_y, front, rear = _neighbours(y, side)
    low_z, high_z, bottom, top = _neighbours(z, side)
    plane = volume + low_z * (side * side)
    lower = front * _row(plane + low_y * side, low_x, high_x, left, right, taken)
    lower += rear * _row(plane + high_y * side, low_x, high_x, left, right, taken)
    plane = volume + high_z * (side * side)
    upper = front * _row(plane + low_y * side, low_x, high_x, left, right, taken)
    upper += rear * _row(plane + high_y * side, low_x, high_x, left, right, taken)
    return bottom * lower + top * upper


@_compile
@no_type_check
def _project(volumes, rotations, images, views, side, squared_radius, TILE_X: tl.constexpr, TILE_Y: tl.constexpr):
    across = tl.cdiv(side, TILE_X)
    tiles = across * tl.cdiv(side, TILE_Y)
    view, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles  # view: of all volumes
    thread = tl.arange(0, TILE_X * TILE_Y)
    column, line = tile % across * TILE_X + thread % TILE_X, tile // across * TILE_Y + thread // TILE_X
    x, y = (column - side // 2).to(tl.float32), (line - side // 2).to(tl.float32)
    # offsets in a stack of volumes pass 2^31, those in one volume do not (up to a side of 1290)
    volume = volumes + (view // views).to(tl.int64) * (side * side * side)

    along_x, along_y, along_z = _rows(rotations, view)
    start_x = along_x[0] * x + along_y[0] * y  # R^T (x, y, 0)
    start_y = along_x[1] * x + along_y[1] * y
    start_z = along_x[2] * x + along_y[2] * y
    rest = squared_radius - x * x - y * y  # what the sphere leaves for z^2
    reach = tl.sqrt(tl.maximum(rest, 0.0))
    low, high = tl.maximum(-reach, -(side // 2)), tl.minimum(reach, side - 1 - side // 2)
    low, high = _clip(low, high, start_x, along_z[0], side)
    low, high = _clip(low, high, start_y, along_z[1], side)
    low, high = _clip(low, high, start_z, along_z[2], side)
    in_image = (column < side) & (line < side)
    hits = in_image & (rest >= 0) & (low <= high)
    z = tl.floor(tl.min(tl.where(hits, low, side), axis=0))
    last = tl.ceil(tl.max(tl.where(hits, high, -side), axis=0))
    total = tl.zeros_like(x)
    while z <= last:
        at_x, at_y, at_z = start_x + z * along_z[0], start_y + z * along_z[1], start_z + z * along_z[2]
        total += _sample(volume, at_x, at_y, at_z, hits & (z * z <= rest), side)
        z += 1.0
    tl.store(images + view.to(tl.int64) * (side * side) + line * side + column, total, mask=in_image)


@_compile
@no_type_check
def _hat(distance):
    """Trilinear weight along one axis; with a bound of 1, never passed, it is one instruction (saturated addition)."""
    return tl.minimum(tl.maximum(1.0 - tl.abs(distance), 0.0), 1.0)


@_compile
@no_type_check
def _start(at, row):
    """First sample along an image axis that a voxel at ``at`` can reach, and how many there are: 2, 3 or 4.

    Half the width of the shadow of a cube of edge 2 is the sum of the components of the axis.
    """
    half = tl.abs(row[0]) + tl.abs(row[1]) + tl.abs(row[2])
    return tl.floor(at - half) + 1.0, tl.ceil(2.0 * half).to(tl.int32)


@_compile
@no_type_check
def _weight(x, y, z, along_z, depth, rest, side):
    """Sum of the weights of the samples of a ray around a voxel.

    ``x, y, z`` lead from the voxel to the first of them, in the object; ``depth`` is its z in the image.
    """
    weight = tl.zeros_like(x)
    for k in tl.static_range(4):  # the longest chord of the cube is 2 sqrt(3)
        at = depth + k
        taken = (at * at <= rest) & (at >= -(side // 2)) & (at < side - side // 2)
        share = _hat(x + k * along_z[0]) * _hat(y + k * along_z[1]) * _hat(z + k * along_z[2])
        weight += tl.where(taken, share, 0.0)
    return weight


@_compile
@no_type_check
def _gather(image, along_x, along_y, along_z, x, y, z, side, squared_radius):
    """Sum of the samples around voxels (x, y, z) times their weights, for one view."""
    at_x = along_x[0] * x + along_x[1] * y + along_x[2] * z
    at_y = along_y[0] * x + along_y[1] * y + along_y[2] * z
    at_z = along_z[0] * x + along_z[1] * y + along_z[2] * z
    first_x, count_x = _start(at_x, along_x)
    line, count_y = _start(at_y, along_y)
    depth, _ = _start(at_z, along_z)
    low, high = -(side // 2), side - 1 - side // 2
    total = tl.zeros_like(x)
    i = 0
    while i < count_y:
        column = first_x
        j = 0
        while j < count_x:
            # R^T (p - R v): differences first, they are small and keep all their digits
            away_x, away_y, away_z = column - at_x, line - at_y, depth - at_z
            object_x = along_x[0] * away_x + along_y[0] * away_y + along_z[0] * away_z
            object_y = along_x[1] * away_x + along_y[1] * away_y + along_z[1] * away_z
            object_z = along_x[2] * away_x + along_y[2] * away_y + along_z[2] * away_z
            rest = squared_radius - column * column - line * line
            weight = _weight(object_x, object_y, object_z, along_z, depth, rest, side)
            in_image = (column >= low) & (column <= high) & (line >= low) & (line <= high)
            pixel = ((line - low) * side + column - low).to(tl.int32)  # exact up to a side of 4096
            total += weight * tl.load(image + pixel, mask=in_image, other=0.0)
            column += 1.0
            j += 1
        line += 1.0
        i += 1
    return total


@_compile
@no_type_check
def _back_project(
    images,
    rotations,
    volumes,
    views,
    side,
    squared_radius,
    squared_reach,
    TILE_X: tl.constexpr,
    TILE_Y: tl.constexpr,
    TILE_Z: tl.constexpr,
):
    across, down = tl.cdiv(side, TILE_X), tl.cdiv(side, TILE_Y)
    tiles = across * down * tl.cdiv(side, TILE_Z)
    volume, tile = (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(0) % tiles
    thread = tl.arange(0, TILE_X * TILE_Y * TILE_Z)
    column = tile % across * TILE_X + thread % TILE_X
    line = tile // across % down * TILE_Y + thread // TILE_X % TILE_Y
    plane = tile // across // down * TILE_Z + thread // (TILE_X * TILE_Y)
    x, y = (column - side // 2).to(tl.float32), (line - side // 2).to(tl.float32)
    z = (plane - side // 2).to(tl.float32)
    nearest = tl.min(x * x + y * y + z * z, axis=0)
    total = tl.zeros_like(x)
    view = volume * views
    end = tl.where(nearest < squared_reach, view + views, view)
    while view < end:
        along_x, along_y, along_z = _rows(rotations, view)
        image = images + view * (side * side)
        total += _gather(image, along_x, along_y, along_z, x, y, z, side, squared_radius)
        view += 1
    in_volume = (column < side) & (line < side) & (plane < side)
    voxel = (plane * side + line) * side + column
    tl.store(volumes + volume * (side * side * side) + voxel, total, mask=in_volume)
