"""Central slices of a lattice, and their adjoint, on the processor, compiled by Numba: what all matching does most.

``torch.nn.functional.grid_sample`` needs all coordinates in memory and checks eight neighbours of each point, which
takes some ten times as long. A border of zeros stands for the outside here, so that one check serves all eight.
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
from .kernels import share_out, threads_for


def bordered(lattices: Float[Tensor, "c n n n"]) -> Float[Tensor, "c m m m"]:
    """Put the zeros around lattices that :func:`sample_cpu` wants."""
    return torch.nn.functional.pad(lattices, [1] * 6).contiguous()


def slices_cpu(
    lattices: Float[Tensor, "c m m m"],
    rotations: Float[Tensor, "c b 3 3"],
    frequencies: Float[Tensor, "p 2"],
    per_cycle: float,
) -> Float[Tensor, "c b p"]:
    """Interpolate trilinearly at ``R^T (kx, ky, 0)``, without a gradient.

    Parameters
    ----------
    lattices
        Float32, axes ``[z, y, x]``, as :func:`bordered` gives them.
    per_cycle
        Samples of the lattice to the cycle per pixel; its origin is in the middle. Values fall to zero over a sample
        beyond its ends.
    """
    values = rotations.new_empty(*rotations.shape[:2], len(frequencies))
    origin = (lattices.shape[-1] - 2) // 2 + 1
    arguments = rotations.contiguous().numpy(), frequencies.contiguous().numpy(), np.float32(per_cycle)
    share_out(
        _slices, threads_for(8 * values.numel()), lattices.numpy(), *arguments, np.float32(origin), values.numpy()
    )
    return values


def sum_slices_cpu(
    values: Float[Tensor, "b p m"],
    rotations: Float[Tensor, "b 3 3"],
    frequencies: Float[Tensor, "p 2"],
    per_cycle: float,
    size: int,
) -> Float[Tensor, "n n n m"]:
    """Add values at ``R^T (kx, ky, 0)`` to the eight samples about each point: the adjoint of :func:`slices_cpu`.

    Parameters
    ----------
    values
        Float32, ``m`` of them at each point.
    per_cycle
        Samples of the lattice to the cycle per pixel; its origin is in the middle.
    size
        Samples along each edge of the lattice. What falls beyond it is lost.
    """
    border = size + 2
    sums = values.new_zeros(border, border, border, values.shape[-1])
    arguments = rotations.contiguous().numpy(), frequencies.contiguous().numpy(), np.float32(per_cycle)
    threads = threads_for(8 * values.numel())
    share_out(
        _sum_slices,
        threads,
        values.contiguous().numpy(),
        *arguments,
        np.float32(size // 2 + 1),
        sums.view(border, border * border, -1).numpy(),
        parts=threads,
    )
    return sums[1:-1, 1:-1, 1:-1]


@compiled
@no_type_check
def _sum_slices(
    part: int,
    parts: int,
    values: NDArray[np.float32],
    rotations: NDArray[np.float32],
    frequencies: NDArray[np.float32],
    per_cycle: np.float32,
    origin: np.float32,
    sums: NDArray[np.float32],  # the result, (z, y and x, m)
) -> None:
    # each part has planes of its own, so that the order of summation does not depend on the number of threads
    rows, points, many = values.shape
    row = numba.int32(math.sqrt(sums.shape[1]) + 0.5)
    step, last, flat = row * many, np.float32(row - 1), sums.reshape(len(sums), -1)
    for line in range(rows):
        along_x, along_y = rotations[line, 0] * per_cycle, rotations[line, 1] * per_cycle
        for i in range(points):
            kx, ky = frequencies[i]
            z = kx * along_x[2] + ky * along_y[2] + origin
            x = kx * along_x[0] + ky * along_y[0] + origin
            y = kx * along_x[1] + ky * along_y[1] + origin
            # what is not a number fails here too
            if x >= 0 and y >= 0 and z >= 0 and x < last and y < last and z < last:
                cell_x, cell_y, cell_z = numba.int32(x), numba.int32(y), numba.int32(z)
                part_x, part_y, part_z = x - np.float32(cell_x), y - np.float32(cell_y), z - np.float32(cell_z)
                k = (cell_y * row + cell_x) * many
                for plane in range(2):
                    if parts > 1 and (cell_z + plane) % parts != part:
                        continue
                    depth = part_z if plane else 1 - part_z
                    far, near = depth * part_y, depth * (1 - part_y)
                    w00, w01, w10, w11 = near * (1 - part_x), near * part_x, far * (1 - part_x), far * part_x
                    own = flat[cell_z + plane]
                    for m in range(many):
                        value = values[line, i, m]
                        own[k + m] += w00 * value
                        own[k + many + m] += w01 * value
                        own[k + step + m] += w10 * value
                        own[k + step + many + m] += w11 * value


@compiled
@no_type_check
def _slices(
    part: int,
    parts: int,
    lattices: NDArray[np.float32],
    rotations: NDArray[np.float32],
    frequencies: NDArray[np.float32],
    per_cycle: np.float32,
    origin: np.float32,
    values: NDArray[np.float32],  # the result
) -> None:
    count, rows, points = values.shape
    row = lattices.shape[1]
    plane, last = row * row, np.float32(row - 1)
    for task in range(part, count * rows, parts):
        which, line = task // rows, task % rows
        lattice, found = lattices[which].reshape(-1), values[which, line]
        along_x, along_y = rotations[which, line, 0] * per_cycle, rotations[which, line, 1] * per_cycle
        for i in range(points):
            kx, ky = frequencies[i]
            x = kx * along_x[0] + ky * along_y[0] + origin
            y = kx * along_x[1] + ky * along_y[1] + origin
            z = kx * along_x[2] + ky * along_y[2] + origin
            value = np.float32(0)
            # what is not a number fails here too
            if x >= 0 and y >= 0 and z >= 0 and x < last and y < last and z < last:
                cell_x, cell_y, cell_z = numba.int32(x), numba.int32(y), numba.int32(z)
                part_x, part_y, part_z = x - np.float32(cell_x), y - np.float32(cell_y), z - np.float32(cell_z)
                k = cell_z * plane + cell_y * row + cell_x
                v00 = lattice[k] + part_x * (lattice[k + 1] - lattice[k])
                v01 = lattice[k + row] + part_x * (lattice[k + row + 1] - lattice[k + row])
                k += plane
                v10 = lattice[k] + part_x * (lattice[k + 1] - lattice[k])
                v11 = lattice[k + row] + part_x * (lattice[k + row + 1] - lattice[k + row])
                v0 = v00 + part_y * (v01 - v00)
                value = v0 + part_z * (v10 + part_y * (v11 - v10) - v0)
            found[i] = value
