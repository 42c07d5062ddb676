"""RELION's STAR files: particles and class averages with their images, and poses."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import starfile
import torch

from ..datatypes import InputError, Poses
from ..geometry.rotations import from_relion_euler, to_relion_euler
from .files import write_text
from .mrc import LoadedImages
from .named_images import NamedImages, decide_pixel_size, gather_images, only_pixel_size

_IMAGE_COLUMNS = ("rlnImageName", "rlnReferenceImage")
_CLASS_COLUMNS = {"populations": "rlnClassDistribution", "resolutions_angstrom": "rlnEstimatedResolution"}
_ANGLE_COLUMNS = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]


def read_images(path: Path, pixel_size_angstrom: float | None = None) -> LoadedImages:
    """Read the images that a STAR file names, in the order of its rows.

    RELION 3.1 and later (optics table), RELION 2 and 3.0 (one table with magnification and detector pixel), and the
    class tables of ``model.star`` are understood. Stacks are looked for in the folder of the STAR file, then in
    the folders above it, since RELION writes names relative to its project.

    Parameters
    ----------
    path
        The STAR file.
    pixel_size_angstrom
        Wins over the STAR file, which wins over the headers of the stacks.

    Raises
    ------
    InputError
        Not a STAR file, no image names, stacks that are missing (named), images of several sizes or pixel sizes.
    """
    return decide_pixel_size(path, read_named_images(path), pixel_size_angstrom, "the STAR file")


def read_named_images(path: Path) -> NamedImages:
    """Read the images of a STAR file before anything is decided about their pixel size; see :func:`read_images`."""
    tables = _read_tables(path)
    column, table = _image_table(path, tables)
    sections, files = _split_names(path, [str(name) for name in table[column]])
    # RELION's Subset selection may renumber the averages it keeps, and then says in this column which they were;
    # in a table of particles the column says something else
    numbered = column == "rlnReferenceImage" and "rlnClassNumber" in table.columns
    classes = _numbers(path, table, ["rlnClassNumber"])[:, 0].int().tolist() if numbered else None
    return gather_images(path, files, sections, _stated_pixel_sizes(path, tables), class_numbers=classes)


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
        Not a STAR file, or one that names no images.
    """
    _, table = _image_table(path, _read_tables(path))
    return {
        name: torch.from_numpy(pd.to_numeric(table[column], errors="coerce").to_numpy(dtype=np.float32, copy=True))
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
    tables = _read_tables(path)
    table = next((block for block in tables.values() if set(_ANGLE_COLUMNS) <= set(block.columns)), None)
    if table is None:
        raise InputError(f"{path}: has no table with the columns {', '.join(_ANGLE_COLUMNS)}")
    angles = _numbers(path, table, _ANGLE_COLUMNS)
    origins = torch.zeros(len(table), 2, dtype=torch.float64)
    if {"rlnOriginXAngst", "rlnOriginYAngst"} <= set(table.columns):
        origins = _numbers(path, table, ["rlnOriginXAngst", "rlnOriginYAngst"])
    elif {"rlnOriginX", "rlnOriginY"} <= set(table.columns):
        origins = _numbers(path, table, ["rlnOriginX", "rlnOriginY"])
        if origins.any():
            stated = _stated_pixel_sizes(path, tables)
            if pixel_size_angstrom is None and not stated:
                raise InputError(f"{path}: origins are in pixels and there is no pixel size; give it with --pixel-size")
            origins = origins * (pixel_size_angstrom or only_pixel_size(path, stated))
    return Poses(from_relion_euler(angles).float(), -origins.float())


def write_particles(
    path: Path,
    image_file_name: str,
    poses: Poses,
    *,
    pixel_size_angstrom: float,
    side: int,
    extra: Mapping[str, Sequence[Any]] | None = None,
) -> None:
    """Write a RELION 3.1 particle file for a stack with known poses, complete or not at all.

    Parameters
    ----------
    path
        The STAR file.
    image_file_name
        Name of the stack relative to it; row ``i`` is image ``i + 1`` of the stack.
    poses
        Poses of all images.
    pixel_size_angstrom, side
        Of the images.
    extra
        More columns by name, such as ``rlnRandomSubset``, one value for each image.
    """
    optics = pd.DataFrame(
        {
            "rlnOpticsGroup": [1],
            "rlnOpticsGroupName": ["opticsGroup1"],
            "rlnImagePixelSize": [pixel_size_angstrom],
            "rlnImageSize": [side],
            "rlnImageDimensionality": [2],
            # RELION refuses an optics table without these; images without CTF make no use of them
            "rlnVoltage": [300.0],
            "rlnSphericalAberration": [2.7],
            "rlnAmplitudeContrast": [0.1],
        }
    )
    angles = to_relion_euler(poses.rotations.detach().cpu().double()).numpy()
    origins = -poses.shifts_angstrom.detach().cpu().double().numpy()
    particles = {
        "rlnImageName": [f"{i + 1:06d}@{image_file_name}" for i in range(len(poses))],
        "rlnOpticsGroup": [1] * len(poses),
        **{name: angles[:, i] for i, name in enumerate(_ANGLE_COLUMNS)},
        "rlnOriginXAngst": origins[:, 0],
        "rlnOriginYAngst": origins[:, 1],
        **(extra or {}),
    }
    text = starfile.to_string({"optics": optics, "particles": pd.DataFrame(particles)})
    # RELION tells the layout of the tables by this line
    write_text(path, text.replace("\ndata_", "\n# version 30001\n\ndata_"))


def _read_tables(path: Path) -> dict[str, pd.DataFrame]:
    """All blocks as tables; a block of single values has one row."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas on ragged lines; what matters is checked below
        try:
            blocks = starfile.read(path, always_dict=True)
        except Exception as error:  # a parser of text files may fail in any way
            raise InputError(f"{path}: cannot be read as a STAR file: {error}") from error
    tables = {name: pd.DataFrame([block]) if isinstance(block, dict) else block for name, block in blocks.items()}
    tables = {name: table for name, table in tables.items() if table is not None}
    if not tables:
        raise InputError(f"{path}: has no data_ block; is it a STAR file?")
    return tables


def _image_table(path: Path, tables: dict[str, pd.DataFrame]) -> tuple[str, pd.DataFrame]:
    """Column with the names of the images, and the table that has it."""
    for column in _IMAGE_COLUMNS:
        for table in tables.values():
            if column in table.columns and len(table):
                return column, table
    raise InputError(f"{path}: names no images: no rows with {' or '.join(_IMAGE_COLUMNS)}")


def _split_names(path: Path, names: list[str]) -> tuple[list[int], list[str]]:
    """Section (from 0) and file of every ``N@stack``; a name without N is a file of one image."""
    sections, files = [], []
    for name in names:
        number, at, file = name.rpartition("@")
        if at and not (number.isdecimal() and int(number) > 0):
            raise InputError(f"{path}: image name {name!r} is not of the form N@stack with N from 1")
        sections.append(int(number) - 1 if at else 0)
        files.append(file)
    return sections, files


def _stated_pixel_sizes(path: Path, tables: dict[str, pd.DataFrame]) -> tuple[float, ...]:
    """Distinct pixel sizes: of the optics, else of the model, else from magnification and detector pixel."""
    for columns in (["rlnImagePixelSize"], ["rlnPixelSize"], ["rlnDetectorPixelSize", "rlnMagnification"]):
        found = [_numbers(path, table, columns) for table in tables.values() if set(columns) <= set(table.columns)]
        if found:
            values = torch.cat(found)
            # micrometers on the detector to Angstrom in the specimen
            sizes = values[:, 0] if len(columns) == 1 else values[:, 0] * 1e4 / values[:, 1]
            return tuple(sorted(set(sizes.tolist())))
    return ()


def _numbers(path: Path, table: pd.DataFrame, columns: list[str]) -> torch.Tensor:
    """Columns as ``(rows, columns)`` float64."""
    try:
        values = table[columns].to_numpy(dtype=np.float64)
    except ValueError as error:
        raise InputError(f"{path}: {', '.join(columns)} must be numbers: {error}") from None
    if not np.isfinite(values).all():
        raise InputError(f"{path}: {', '.join(columns)} hold values that are not finite")
    return torch.tensor(values)
