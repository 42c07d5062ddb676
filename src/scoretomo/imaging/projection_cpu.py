"""Projection and its adjoint on the processor, compiled by Numba; :mod:`scoretomo.imaging.projection` is the way in.

A sample of the rotated object costs eight loads and a dozen operations. What makes it cheap: rays are clipped to the
box and the sphere before they are followed, so that no sample asks whether it is inside; a border of zeros around the
volume stands for the outside; coordinates are never negative there, so that cutting off the fraction rounds down.
"""

import math
from typing import no_type_check

import numba
import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ..geometry.compiled import compiled
from .kernels import inlined, share_out, threads_for

# Bordered copies of volumes that are made at once: enough to feed all cores, small enough to stay near the cache.
_BYTES_AT_ONCE = 2**24
# Zeros before and behind the voxels of each axis. A clipped ray ends on the outermost cells up to rounding, which
# the second one behind keeps inside the memory.
_BEFORE, _BEHIND = 1, 2
_INNER = slice(_BEFORE, -_BEHIND)


def project_cpu(
    volumes: Float[Tensor, "b n n n"], rotations: Float[Tensor, "b m 3 3"], radius: float | None
) -> Float[Tensor, "b m n n"]:
    """Compute :func:`scoretomo.imaging.projection.project` for float32."""
    count, side, views = len(volumes), volumes.shape[-1], rotations.shape[1]
    images = volumes.new_empty(count, views, side, side)
    turns = _finite(rotations)
    for part in _parts(count, side):
        bordered = torch.nn.functional.pad(volumes[part], [_BEFORE, _BEHIND] * 3).flatten(1)
        arguments = bordered.numpy(), turns[part], _squared(radius, side), images[part].numpy()
        share_out(_project, threads_for(len(bordered) * views * side**3), *arguments)
    return images


def back_project_cpu(
    images: Float[Tensor, "b m n n"], rotations: Float[Tensor, "b m 3 3"], radius: float | None
) -> Float[Tensor, "b n n n"]:
    """Compute :func:`scoretomo.imaging.projection.back_project` for float32."""
    count, views, side = images.shape[:3]
    edge = side + _BEFORE + _BEHIND
    volumes = images.new_empty(count, side, side, side)
    values, turns = images.contiguous().numpy(), _finite(rotations)
    for part in _parts(count, side):
        together = len(volumes[part])
        threads = threads_for(together * views * side**3)
        # fewer volumes than threads: several threads share a volume, each with a copy of its own to add to
        copies = min(side, math.ceil(threads / together))
        bordered = images.new_zeros(together, copies, edge**3)
        share_out(_back_project, threads, values[part], turns[part], _squared(radius, side), bordered.numpy())
        inner = bordered.view(together, copies, edge, edge, edge)[:, :, _INNER, _INNER, _INNER]
        torch.sum(inner, 1, out=volumes[part])
    return volumes


def _finite(rotations: Tensor) -> NDArray[np.float32]:
    """Rotations for the kernels, which would read and write anywhere in memory if some were not finite."""
    turns: NDArray[np.float32] = rotations.contiguous().numpy()
    if not np.isfinite(turns).all():
        raise ValueError("rotations must be finite")
    return turns


def _parts(count: int, side: int) -> list[slice]:
    size = max(1, _BYTES_AT_ONCE // (4 * (side + _BEFORE + _BEHIND) ** 3))
    return [slice(start, start + size) for start in range(0, count, size)]


def _squared(radius: float | None, side: int) -> np.float32:
    return np.float32(3 * side**2 if radius is None else radius**2)  # no sample of the box is farther than that


@inlined
@no_type_check
def _clip(low, high, start, inverse, side):
    """Part of a range of z for which ``start + z / inverse`` lies from 0 to ``side + 1``, where voxels have a say."""
    if abs(inverse) > 1e6:  # the ray keeps its distance from these planes
        return (low, high) if 0 <= start <= side + 1 else (np.float32(1), np.float32(0))
    first, last = -start * inverse, (np.float32(side + 1) - start) * inverse
    return max(low, min(first, last)), min(high, max(first, last))


@inlined
@no_type_check
def _ray(x, y, turn, inverse, squared_radius, side):
    """Where the ray of a pixel crosses the image plane, in bordered coordinates, and its first and last z."""
    centre = side // 2
    start_x = turn[0, 0] * x + turn[1, 0] * y + np.float32(centre + _BEFORE)
    start_y = turn[0, 1] * x + turn[1, 1] * y + np.float32(centre + _BEFORE)
    start_z = turn[0, 2] * x + turn[1, 2] * y + np.float32(centre + _BEFORE)
    rest = squared_radius - x * x - y * y
    reach = np.float32(np.floor(np.sqrt(max(rest, np.float32(0)))))
    low, high = max(-reach, np.float32(-centre)), min(reach, np.float32(side - 1 - centre))
    low, high = _clip(low, high, start_x, inverse[0], side)
    low, high = _clip(low, high, start_y, inverse[1], side)
    low, high = _clip(low, high, start_z, inverse[2], side)
    if rest < 0:
        high = low - 1
    return start_x, start_y, start_z, int(np.ceil(low)), int(np.floor(high))


@compiled
@no_type_check
def _project(
    part: int,
    parts: int,
    volumes: NDArray[np.float32],  # bordered, (b, (n + 3)^3)
    rotations: NDArray[np.float32],
    squared_radius: np.float32,
    images: NDArray[np.float32],  # the result
) -> None:
    count, views, side = images.shape[:3]
    row = side + _BEFORE + _BEHIND
    plane = row * row
    for task in range(part, count * views * side, parts):
        i, j, line = task // (views * side), task // side % views, task % side
        volume, turn = volumes[i], rotations[i, j]
        inverse = np.float32(1) / turn[2]
        step_x, step_y, step_z = turn[2]
        y = np.float32(line - side // 2)
        for column in range(side):
            x = np.float32(column - side // 2)
            start_x, start_y, start_z, first, last = _ray(x, y, turn, inverse, squared_radius, side)
            total = np.float32(0)
            for z in range(first, last + 1):
                at_x = start_x + step_x * np.float32(z)
                at_y = start_y + step_y * np.float32(z)
                at_z = start_z + step_z * np.float32(z)
                cell_x, cell_y, cell_z = numba.int32(at_x), numba.int32(at_y), numba.int32(at_z)
                part_x, part_y, part_z = at_x - np.float32(cell_x), at_y - np.float32(cell_y), at_z - np.float32(cell_z)
                k = cell_z * plane + cell_y * row + cell_x
                v00 = volume[k] + part_x * (volume[k + 1] - volume[k])
                v01 = volume[k + row] + part_x * (volume[k + row + 1] - volume[k + row])
                k += plane
                v10 = volume[k] + part_x * (volume[k + 1] - volume[k])
                v11 = volume[k + row] + part_x * (volume[k + row + 1] - volume[k + row])
                v0 = v00 + part_y * (v01 - v00)
                total += v0 + part_z * (v10 + part_y * (v11 - v10) - v0)
            images[i, j, line, column] = total


@compiled
@no_type_check
def _back_project(
    part: int,
    parts: int,
    images: NDArray[np.float32],
    rotations: NDArray[np.float32],
    squared_radius: np.float32,
    volumes: NDArray[np.float32],  # the result, zeros at first: bordered, (b, copies, (n + 3)^3)
) -> None:
    count, views, side = images.shape[:3]
    copies = volumes.shape[1]
    row = side + _BEFORE + _BEHIND
    plane = row * row
    for task in range(part, count * copies, parts):
        i, copy = task // copies, task % copies
        volume = volumes[i, copy]
        for j in range(views):
            turn = rotations[i, j]
            inverse = np.float32(1) / turn[2]
            step_x, step_y, step_z = turn[2]
            for line in range(copy, side, copies):
                y = np.float32(line - side // 2)
                for column in range(side):
                    x = np.float32(column - side // 2)
                    start_x, start_y, start_z, first, last = _ray(x, y, turn, inverse, squared_radius, side)
                    value = images[i, j, line, column]
                    for z in range(first, last + 1):
                        at_x = start_x + step_x * np.float32(z)
                        at_y = start_y + step_y * np.float32(z)
                        at_z = start_z + step_z * np.float32(z)
                        cell_x, cell_y, cell_z = numba.int32(at_x), numba.int32(at_y), numba.int32(at_z)
                        part_x, part_y = at_x - np.float32(cell_x), at_y - np.float32(cell_y)
                        part_z = at_z - np.float32(cell_z)
                        k = cell_z * plane + cell_y * row + cell_x
                        v1 = value * part_z
                        v0 = value - v1
                        v01, v11 = v0 * part_y, v1 * part_y
                        v00, v10 = v0 - v01, v1 - v11
                        volume[k] += v00 - v00 * part_x
                        volume[k + 1] += v00 * part_x
                        volume[k + row] += v01 - v01 * part_x
                        volume[k + row + 1] += v01 * part_x
                        k += plane
                        volume[k] += v10 - v10 * part_x
                        volume[k + 1] += v10 * part_x
                        volume[k + row] += v11 - v11 * part_x
                        volume[k + row + 1] += v11 * part_x
