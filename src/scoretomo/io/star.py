"""RELION's STAR files: particles and class averages with their images, poses and contrast transfer."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import starfile
import torch
from numpy.typing import NDArray

from ..datatypes import CTFParams, InputError, Poses
from ..geometry.rotations import from_relion_euler, to_relion_euler
from .files import write_text
from .image_table import IMAGE_COLUMNS, ImageTable, read_image_table
from .mrc import LoadedImages
from .named_images import NamedImages, decide_pixel_size, gather_images, only_pixel_size
from .star_file import read_tables

_CLASS_COLUMNS = {"populations": "rlnClassDistribution", "resolutions_angstrom": "rlnEstimatedResolution"}
_ANGLE_COLUMNS = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]
_DEFOCUS_COLUMNS = ["rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"]
_ROW_CTF = [*_DEFOCUS_COLUMNS, "rlnPhaseShift"]
_CTF_COLUMNS = [*_DEFOCUS_COLUMNS, "rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast"]
_HALF_COLUMN = "rlnRandomSubset"
# Columns of particles, which no class average has.
_OF_PARTICLES = ("rlnMicrographName", "rlnCoordinateX", "rlnDefocusU")
# Images that are no longer object times CTF, and what they are instead.
_CTF_APPLIED = {"rlnCtfDataArePhaseFlipped": "phase-flipped", "rlnCtfDataAreCtfPremultiplied": "multiplied by the CTF"}


def read_images(
    path: Path,
    pixel_size_angstrom: float | None = None,
    datadir: Path | None = None,
    exclude: Collection[int] = (),
) -> LoadedImages:
    """Read the images that a STAR file names, in the order of its rows.

    RELION 3.1 and later (optics table), RELION 2 and 3.0 (one table with magnification and detector pixel), and the
    class tables of ``model.star`` are understood.

    Parameters
    ----------
    path
        The STAR file.
    pixel_size_angstrom
        Wins over the STAR file, which wins over the headers of the stacks.
    datadir
        Where stacks are looked for first; see :func:`scoretomo.io.named_images.find_stacks`.
    exclude
        Images that will not be used, which may hold NaN.

    Raises
    ------
    InputError
        Not a STAR file, no image names, particles in the place of class averages, stacks that are missing (named),
        images of several sizes or pixel sizes, or of others than what is said of them.
    """
    table = read_image_table(path)
    _refuse_particles(table)
    return decide_pixel_size(path, _named_images(table, datadir), pixel_size_angstrom, exclude)


def read_named_images(path: Path, datadir: Path | None = None) -> NamedImages:
    """Read the images of a STAR file before anything is decided about their pixel size; see :func:`read_images`."""
    return _named_images(read_image_table(path), datadir)


def _named_images(table: ImageTable, datadir: Path | None) -> NamedImages:
    # RELION's Subset selection may renumber the averages it keeps, and then says in this column which they were;
    # in a table of particles the column says something else
    numbered = IMAGE_COLUMNS[0] not in table.columns and "rlnClassNumber" in table.columns
    classes = table.class_numbers.tolist() if numbered else None
    return gather_images(table.path, table.files, table.sections, table.stated, class_numbers=classes, datadir=datadir)


def _refuse_particles(table: ImageTable) -> None:
    """Say which file to give where class averages are meant and these are the particles."""
    telling = [name for name in _OF_PARTICLES if name in table.columns]
    if not telling or IMAGE_COLUMNS[0] not in table.columns:
        return
    model = table.path.with_name(table.path.name.replace("_data.star", "_model.star"))
    other = f"{model.name}, which lies beside it" if model != table.path and model.is_file() else "run_itNNN_model.star"
    raise InputError(
        f"{table.path}: names particles (with {telling[0]}), not class averages; give those of a 2D classification, "
        f"such as {other}, or a stack of images"
    )


def read_class_figures(path: Path) -> dict[str, torch.Tensor]:
    """Read what RELION says of each class average in the order of the rows, ``(n,)`` each; NaN where it says nothing.

    Returns
    -------
    dict
        ``populations`` (``rlnClassDistribution``, part of all particles) and ``resolutions_angstrom``
        (``rlnEstimatedResolution``), each only if the table of the images has it.

    Raises
    ------
    InputError
        Not a STAR file, one that names no images, or values that are no numbers.
    """
    table = read_image_table(path).table
    return {
        name: torch.from_numpy(table.numbers(column, finite=False)[:, 0].astype(np.float32))
        for name, column in _CLASS_COLUMNS.items()
        if column in table.columns
    }


def read_poses(path: Path, pixel_size_angstrom: float | None = None) -> Poses:
    """Read the angles and origins of all rows.

    RELION's origin is the shift that would centre the image, so that the density lies at its negative.

    Parameters
    ----------
    path
        A STAR file with ``rlnAngleRot``, ``rlnAngleTilt`` and ``rlnAnglePsi``; without origins the shifts are 0.
    pixel_size_angstrom
        For origins in pixels (RELION 3.0) where the file does not give a pixel size.

    Raises
    ------
    InputError
        Angles are missing or no numbers, or origins in pixels without a pixel size.
    """
    tables = read_tables(path)
    table = next((each for each in tables if {*_ANGLE_COLUMNS} <= {*each.columns}), None)
    if table is None:
        raise InputError(f"{path}: has no table with the columns {', '.join(_ANGLE_COLUMNS)}")
    return _poses(ImageTable(table, tuple(each for each in tables if each is not table), (), ()), pixel_size_angstrom)


def table_poses(table: ImageTable, pixel_size_angstrom: float) -> Poses | None:
    """Poses of the rows of a table, as :func:`read_poses` reads them; None if it has no angles."""
    return _poses(table, pixel_size_angstrom) if {*_ANGLE_COLUMNS} <= table.columns else None


def table_ctf(table: ImageTable) -> CTFParams | None:
    """Contrast transfer of the rows of a table; None if it has no defocus.

    Voltage, spherical aberration and amplitude contrast come from the optics groups (RELION 3.1) or stand in every row
    (3.0). The phase shift is 0 where there is none. B-factor, scale, beam tilt and higher aberrations are left out;
    :func:`scoretomo.io.image_table.table_notes` says what there is of the last two.

    Raises
    ------
    InputError
        Some of the columns only, values that are not finite or impossible, or images that had their CTF corrected.
    """
    columns = table.columns
    if not columns & {*_DEFOCUS_COLUMNS}:
        return None
    missing = [name for name in _CTF_COLUMNS if name not in columns]
    if missing:
        raise InputError(
            f"{table.path}: has some columns of the CTF, but no {', '.join(missing)}; add them, or take the defocus "
            "columns out for images without CTF"
        )
    for name, what in _CTF_APPLIED.items():
        if name in columns and table.numbers(name).any():
            raise InputError(f"{table.path}: images are {what} already ({name}); extract them as they were taken")
    values = table.numbers(*_CTF_COLUMNS).float()
    u, v, angle, voltage, aberration, contrast = values.unbind(1)
    shift = torch.zeros_like(u)
    if "rlnPhaseShift" in columns:
        shift = table.numbers("rlnPhaseShift")[:, 0].float()
    try:
        return CTFParams(u, v, angle, shift, voltage, aberration, contrast)
    except InputError as error:
        raise InputError(f"{table.path}: {error}") from None


def table_halves(table: ImageTable) -> NDArray[np.intp] | None:
    """Half, 1 or 2, of each row (``rlnRandomSubset``); None if the table does not say.

    Raises
    ------
    InputError
        Other values than 1 and 2.
    """
    if _HALF_COLUMN not in table.columns:
        return None
    halves = table.numbers(_HALF_COLUMN)[:, 0].numpy()
    if not np.isin(halves, (1, 2)).all():
        raise InputError(f"{table.path}: {_HALF_COLUMN} must be 1 or 2; repair it, or take the column out")
    return halves.astype(np.intp)


def write_particles(
    path: Path,
    image_file_name: str,
    poses: Poses,
    *,
    pixel_size_angstrom: float,
    side: int,
    ctf: CTFParams | None = None,
    extra: Mapping[str, Sequence[Any]] | None = None,
    sections: Sequence[int] | None = None,
) -> None:
    """Write a RELION 3.1 particle file for a stack with known poses, complete or not at all.

    Particles of one voltage, spherical aberration and amplitude contrast make an optics group.

    Parameters
    ----------
    path
        The STAR file.
    image_file_name
        Name of the stack relative to it.
    poses
        Poses of all images that are written.
    pixel_size_angstrom, side
        Of the images.
    ctf
        Contrast transfer of all images; None: no columns for it.
    extra
        More columns by name, such as ``rlnRandomSubset``, one value for each image.
    sections
        Which image of the stack each is, counted from 0. None: all, in their order.
    """
    # RELION refuses an optics table without these three; images without CTF make no use of them
    microscopes, groups = torch.tensor([[300.0, 2.7, 0.1]]), torch.zeros(len(poses), dtype=torch.long)
    if ctf is not None:
        each = torch.stack([ctf.voltage_kv, ctf.spherical_aberration_mm, ctf.amplitude_contrast], dim=1)
        microscopes, groups = torch.unique(each.cpu(), dim=0, return_inverse=True)
    count = len(microscopes)
    optics = pd.DataFrame(
        {
            "rlnOpticsGroup": range(1, count + 1),
            "rlnOpticsGroupName": [f"opticsGroup{i + 1}" for i in range(count)],
            "rlnImagePixelSize": [pixel_size_angstrom] * count,
            "rlnImageSize": [side] * count,
            "rlnImageDimensionality": [2] * count,
            **{name: microscopes[:, i].numpy() for i, name in enumerate(_CTF_COLUMNS[3:])},
        }
    )
    angles = to_relion_euler(poses.rotations.detach().cpu().double()).numpy()
    origins = -poses.shifts_angstrom.detach().cpu().double().numpy()
    particles = {
        "rlnImageName": [f"{i + 1:06d}@{image_file_name}" for i in sections or range(len(poses))],
        "rlnOpticsGroup": (groups + 1).tolist(),
        **{name: angles[:, i] for i, name in enumerate(_ANGLE_COLUMNS)},
        "rlnOriginXAngst": origins[:, 0],
        "rlnOriginYAngst": origins[:, 1],
        **({} if ctf is None else _ctf_columns(ctf)),
        **(extra or {}),
    }
    write_text(path, star_text({"optics": optics, "particles": pd.DataFrame(particles)}))


def star_text(blocks: Mapping[str, pd.DataFrame | Mapping[str, Any]]) -> str:
    """Text of a STAR file of tables and of blocks of single values, by name."""
    text: str = starfile.to_string(dict(blocks))
    # RELION tells the layout of the tables by this line
    return text.replace("\ndata_", "\n# version 30001\n\ndata_")


def _ctf_columns(ctf: CTFParams) -> dict[str, Any]:
    """Columns of the CTF that stand in every row."""
    values = (ctf.defocus_u_angstrom, ctf.defocus_v_angstrom, ctf.astigmatism_degrees, ctf.phase_shift_degrees)
    return {name: value.cpu().numpy() for name, value in zip(_ROW_CTF, values, strict=True)}


def _poses(table: ImageTable, pixel_size_angstrom: float | None) -> Poses:
    angles = table.numbers(*_ANGLE_COLUMNS)
    origins = torch.zeros(len(table), 2, dtype=torch.float64)
    if {"rlnOriginXAngst", "rlnOriginYAngst"} <= table.columns:
        origins = table.numbers("rlnOriginXAngst", "rlnOriginYAngst")
    elif {"rlnOriginX", "rlnOriginY"} <= table.columns:
        origins = table.numbers("rlnOriginX", "rlnOriginY")
        if origins.any():
            stated = table.stated_pixel_sizes_angstrom
            if pixel_size_angstrom is None and not stated:
                raise InputError(
                    f"{table.path}: origins are in pixels and there is no pixel size; give it with --pixel-size"
                )
            origins = origins * (pixel_size_angstrom or only_pixel_size(table.path, stated))
    return Poses(from_relion_euler(angles).float(), -origins.float())
