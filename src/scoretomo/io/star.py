"""RELION's STAR files: particles and class averages with their images, poses and contrast transfer."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from .mrc import LoadedImages
from .named_images import NamedImages, decide_pixel_size, gather_images, only_pixel_size

_IMAGE_COLUMNS = ("rlnImageName", "rlnReferenceImage")
_CLASS_COLUMNS = {"populations": "rlnClassDistribution", "resolutions_angstrom": "rlnEstimatedResolution"}
_ANGLE_COLUMNS = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]
_DEFOCUS_COLUMNS = ["rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"]
_ROW_CTF = [*_DEFOCUS_COLUMNS, "rlnPhaseShift"]
_CTF_COLUMNS = [*_DEFOCUS_COLUMNS, "rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast"]
# Images that are no longer object times CTF, and what they are instead.
_HALF_COLUMN = "rlnRandomSubset"
_CTF_APPLIED = {"rlnCtfDataArePhaseFlipped": "phase-flipped", "rlnCtfDataAreCtfPremultiplied": "multiplied by the CTF"}


@dataclass(frozen=True)
class ImageTable:
    """The table of a STAR file that names images.

    Attributes
    ----------
    path
        The file.
    rows
        The table, with the columns of the optics group of each row besides (RELION 3.1); a column of the table itself
        wins, as in RELION.
    sections, files
        Place of the image of each row in its stack, from 0, and the stack.
    stated_pixel_sizes_angstrom
        Distinct pixel sizes of the rows, rising; may be none or several.
    """

    path: Path
    rows: pd.DataFrame
    sections: list[int]
    files: list[str]
    stated_pixel_sizes_angstrom: tuple[float, ...]


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
    table = read_image_table(path)
    # RELION's Subset selection may renumber the averages it keeps, and then says in this column which they were;
    # in a table of particles the column says something else
    numbered = _IMAGE_COLUMNS[0] not in table.rows.columns and "rlnClassNumber" in table.rows.columns
    classes = _numbers(path, table.rows, ["rlnClassNumber"])[:, 0].int().tolist() if numbered else None
    stated = table.stated_pixel_sizes_angstrom
    return gather_images(path, table.files, table.sections, stated, class_numbers=classes)


def read_image_table(path: Path) -> ImageTable:
    """Read the table of a STAR file that names images, and nothing of the images.

    Raises
    ------
    InputError
        Not a STAR file, no image names, or optics groups that it does not describe.
    """
    tables = _read_tables(path)
    column, table = _image_table(path, tables)
    sections, files = _split_names(path, [str(name) for name in table[column]])
    rows = _with_optics(path, tables, table)
    return ImageTable(path, rows, sections, files, _stated_pixel_sizes(path, rows, tables))


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
    return _poses(path, _with_optics(path, tables, table), tables, pixel_size_angstrom)


def table_poses(table: ImageTable, pixel_size_angstrom: float) -> Poses | None:
    """Poses of the rows of a table, as :func:`read_poses` reads them; None if it has no angles."""
    if not set(_ANGLE_COLUMNS) <= set(table.rows.columns):
        return None
    return _poses(table.path, table.rows, {}, pixel_size_angstrom)


def table_ctf(table: ImageTable) -> CTFParams | None:
    """Contrast transfer of the rows of a table; None if it has no defocus.

    Voltage, spherical aberration and amplitude contrast come from the optics groups (RELION 3.1) or stand in every row
    (3.0). The phase shift is 0 where there is none. B-factor, scale, beam tilt and higher aberrations are left out.

    Raises
    ------
    InputError
        Some of the columns only, values that are not finite or impossible, or images that had their CTF corrected.
    """
    columns = set(table.rows.columns)
    if not columns & set(_DEFOCUS_COLUMNS):
        return None
    missing = [name for name in _CTF_COLUMNS if name not in columns]
    if missing:
        raise InputError(
            f"{table.path}: has some columns of the CTF, but no {', '.join(missing)}; add them, or take the defocus "
            "columns out for images without CTF"
        )
    for name, what in _CTF_APPLIED.items():
        if name in columns and _numbers(table.path, table.rows, [name]).any():
            raise InputError(f"{table.path}: images are {what} already ({name}); extract them as they were taken")
    values = _numbers(table.path, table.rows, _CTF_COLUMNS).float()
    u, v, angle, voltage, aberration, contrast = values.unbind(1)
    shift = torch.zeros_like(u)
    if "rlnPhaseShift" in columns:
        shift = _numbers(table.path, table.rows, ["rlnPhaseShift"])[:, 0].float()
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
    if _HALF_COLUMN not in table.rows.columns:
        return None
    halves = _numbers(table.path, table.rows, [_HALF_COLUMN])[:, 0].numpy()
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


def _poses(path: Path, rows: pd.DataFrame, tables: dict[str, pd.DataFrame], pixel_size_angstrom: float | None) -> Poses:
    angles = _numbers(path, rows, _ANGLE_COLUMNS)
    origins = torch.zeros(len(rows), 2, dtype=torch.float64)
    if {"rlnOriginXAngst", "rlnOriginYAngst"} <= set(rows.columns):
        origins = _numbers(path, rows, ["rlnOriginXAngst", "rlnOriginYAngst"])
    elif {"rlnOriginX", "rlnOriginY"} <= set(rows.columns):
        origins = _numbers(path, rows, ["rlnOriginX", "rlnOriginY"])
        if origins.any():
            stated = _stated_pixel_sizes(path, rows, tables)
            if pixel_size_angstrom is None and not stated:
                raise InputError(f"{path}: origins are in pixels and there is no pixel size; give it with --pixel-size")
            origins = origins * (pixel_size_angstrom or only_pixel_size(path, stated))
    return Poses(from_relion_euler(angles).float(), -origins.float())


def _with_optics(path: Path, tables: dict[str, pd.DataFrame], table: pd.DataFrame) -> pd.DataFrame:
    """Join to every row the columns of its optics group that it does not have itself."""
    optics = tables.get("optics")
    if optics is None or not {"rlnOpticsGroup"} <= set(optics.columns) & set(table.columns):
        return table
    optics = optics.set_index(_numbers(path, optics, ["rlnOpticsGroup"])[:, 0].numpy())
    groups = _numbers(path, table, ["rlnOpticsGroup"])[:, 0].numpy()
    unknown = sorted(set(groups.tolist()) - set(optics.index))
    if unknown or optics.index.has_duplicates:
        what = f"has no optics group {unknown[0]:g}" if unknown else "has an optics group twice"
        raise InputError(f"{path}: data_optics {what}")
    more = optics.loc[groups, [name for name in optics.columns if name not in table.columns]]
    return pd.concat([table.reset_index(drop=True), more.reset_index(drop=True)], axis=1)


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


def _stated_pixel_sizes(path: Path, rows: pd.DataFrame, tables: dict[str, pd.DataFrame]) -> tuple[float, ...]:
    """Distinct pixel sizes: of the rows and their optics, else of the model; or from magnification and detector pixel.

    Optics groups that no row is of do not count.
    """
    for columns in (["rlnImagePixelSize"], ["rlnPixelSize"], ["rlnDetectorPixelSize", "rlnMagnification"]):
        here = [rows] if set(columns) <= set(rows.columns) else list(tables.values())
        found = [_numbers(path, table, columns) for table in here if set(columns) <= set(table.columns)]
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
