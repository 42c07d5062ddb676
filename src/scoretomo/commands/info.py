"""``scoretomo info``: what is in a file."""

from pathlib import Path
from typing import Annotated

import tyro

from ..io.images import describe
from ..io.job_folders import file_in_job


def info(
    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")],
    pixel_size: Annotated[float | None, tyro.conf.arg(metavar="ANGSTROM")] = None,
    datadir: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None,
) -> None:
    """Say what is in a file of images or a volume: size, pixel size, values, contrast, and what is odd about it.

    Parameters
    ----------
    file
        .mrc, .map, .ccp4 (or these with .gz), .mrcs, .npy, EMAN .hdf, RELION .star or cryoSPARC .cs; or the folder of
        a job of either, for its class averages.
    pixel_size
        Pixel size in Angstrom, where the file says none or a wrong one.
    datadir
        Folder in which image stacks are looked for first, where they are no longer where the file says; folders at the
        beginning of their names are left out as far as needed.
    """
    file, found = file_in_job(file, "class averages")
    print("\n".join([*(f"note: {note}" for note in found), *describe(file, pixel_size, datadir)]))
