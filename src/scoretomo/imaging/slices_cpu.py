"""Central slices of a lattice on the processor, compiled by Numba: what a pose search does most.

``torch.nn.functional.grid_sample`` needs all coordinates in memory and checks eight neighbours of each point, which
takes some ten times as long. A border of zeros stands for the outside here, so that one check serves all eight.
"""

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
