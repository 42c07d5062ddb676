"""``scoretomo info``: what is in a file."""

from pathlib import Path
from typing import Annotated

import tyro

from ..io.images import describe


def info(
    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")],
    pixel_size: Annotated[float | None, tyro.conf.arg(metavar="ANGSTROM")] = None,
) -> None:
    """Say what is in a file of images or a volume: size, pixel size, values, contrast, and what is odd about it.

    Parameters
    ----------
    file
        .mrc, .mrcs, .npy, EMAN .hdf, RELION .star or cryoSPARC .cs.
    pixel_size
        Pixel size in Angstrom, where the file says none or a wrong one.
    """
    print("\n".join(describe(file, pixel_size)))
