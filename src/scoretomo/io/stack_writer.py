"""Image stacks that are too large for the memory: written part by part as the images are made."""

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import mrcfile
import numpy as np
from jaxtyping import Float
from torch import Tensor

from .files import replacing


def write_images_in_parts(
    path: Path, parts: Iterable[Float[Tensor, "_ side side"]], *, pixel_size_angstrom: float
) -> None:
    """Write a stack as float32, complete or not at all: as :func:`scoretomo.io.mrc.write_images` does, part by part.

    Parameters
    ----------
    path
        The file, ``.mrcs``.
    parts
        Images in their order, some at a time; at least one. All of one side.
    pixel_size_angstrom
        Edge of a pixel.

    Raises
    ------
    InputError
        The file cannot be written: no such folder, no permission, disk full. What ``parts`` raises passes through.
    """
    coming = iter(parts)
    with replacing(path) as temporary:
        first = _values(next(coming))
        # mrcfile leaves its stream open when writing fails (disk full), hence closing
        with mrcfile.new(temporary) as mrc, closing(mrc._iostream):
            mrc.set_data(first)
            mrc.set_image_stack()
            mrc.voxel_size = pixel_size_angstrom
            mrc.flush()
            header = mrc.header.copy()
        # appended, not mapped: a full disk is an error then and not the end of the process
        with open(temporary, "r+b") as file:
            file.seek(0, 2)
            sums = _sums(first)
            for part in coming:
                values = _values(part)
                file.write(values.tobytes())
                sums = np.stack([sums, _sums(values)])
                sums = np.array([sums[:, 0].min(), sums[:, 1].max(), *sums[:, 2:].sum(0)])
            header.dmin, header.dmax = sums[:2]
            count, total, squares = sums[2:]
            header.nz = count // first[0].size
            header.dmean, header.rms = total / count, max(0.0, squares / count - (total / count) ** 2) ** 0.5
            file.seek(0)
            file.write(header.tobytes())


def _values(part: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    values: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = part.detach().cpu().float().numpy()
    return values


def _sums(values: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Minimum, maximum, count, sum and sum of squares."""
    double = values.astype(np.float64)
    return np.array([double.min(), double.max(), double.size, double.sum(), (double**2).sum()])
