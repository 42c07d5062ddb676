"""RELION's STAR files: particles and class averages with their images, and poses."""

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

from ..datatypes import InputError, Poses
from ..geometry.rotations import from_relion_euler, to_relion_euler
from .files import write_text
from .mrc import LoadedImages, MrcArray, choose_pixel_size, read_array, to_stack

_IMAGE_COLUMNS = ("rlnImageName", "rlnReferenceImage")
_SAME_SIZE = 1e-4
_ANGLE_COLUMNS = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]


@dataclass(frozen=True)
class NamedImages:
    """The images that a STAR file names, and all that is known about their pixel size.

    Attributes
    ----------
    values
        ``(n, y, x)`` float32 in the order of the rows.
    stated_pixel_sizes_angstrom
        Distinct pixel sizes in the STAR file, rising; may be none or several.
    first_stack, first_stack_path
        The file of the first row, whose header may have a pixel size.
    notes
        What was repaired or odd in the headers of the stacks.
    """

    values: NDArray[np.float32]
    stated_pixel_sizes_angstrom: tuple[float, ...]
    first_stack: MrcArray
    first_stack_path: Path
    notes: tuple[str, ...]


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
    named = read_named_images(path)
    stated = named.stated_pixel_sizes_angstrom
    if pixel_size_angstrom is not None:
        note = (
            f"the STAR file's pixel size of {max(stated, default=0):.5g} A is overruled by {pixel_size_angstrom:.5g} A"
        )
        differs = any(abs(pixel_size_angstrom / size - 1) > _SAME_SIZE for size in stated)
        notes: tuple[str, ...] = (note,) if differs else ()
    elif stated:
        pixel_size_angstrom, notes = _only_pixel_size(path, stated), ("pixel size from the STAR file",)
    else:
        pixel_size_angstrom, notes = choose_pixel_size(named.first_stack_path, named.first_stack, None, axes=2)
        notes += (f"pixel size from the header of {named.first_stack_path.name}",)
    return LoadedImages(to_stack(path, named.values, pixel_size_angstrom), named.notes + notes)


def read_named_images(path: Path) -> NamedImages:
    """Read the images of a STAR file before anything is decided about their pixel size; see :func:`read_images`."""
    tables = _read_tables(path)
    sections, files = _split_names(path, _image_names(path, tables))
    places = _find_stacks(path, files)
    stacks = {file: read_array(place) for file, place in places.items()}
    return NamedImages(
        values=_gather(path, stacks, files, sections),
        stated_pixel_sizes_angstrom=_stated_pixel_sizes(path, tables),
        first_stack=stacks[files[0]],
        first_stack_path=places[files[0]],
        notes=tuple(f"{file}: {note}" for file, array in stacks.items() for note in array.notes),
    )


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
            origins = origins * (pixel_size_angstrom or _only_pixel_size(path, stated))
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


def _image_names(path: Path, tables: dict[str, pd.DataFrame]) -> list[str]:
    for column in _IMAGE_COLUMNS:
        for table in tables.values():
            if column in table.columns and len(table):
                return [str(name) for name in table[column]]
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


def _find_stacks(path: Path, files: list[str]) -> dict[str, Path]:
    folders = path.resolve().parents
    found, missing = {}, []
    for file in dict.fromkeys(files):
        place = next((folder / file for folder in folders if (folder / file).is_file()), None)
        if place is None:
            missing.append(file)
        else:
            found[file] = place
    if missing:
        some = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise InputError(
            f"{path}: {len(missing)} of {len(missing) + len(found)} image stacks are missing, looked for in "
            f"{folders[0]} and the folders above: {some}"
        )
    return found


def _gather(path: Path, stacks: dict[str, MrcArray], files: list[str], sections: list[int]) -> NDArray[np.float32]:
    """Images in the order of the rows; only the sections that are named are read from disk."""
    shapes = {array.values.shape[1:] for array in stacks.values()}
    if len(shapes) > 1:
        sizes = ", ".join(sorted(f"{width} x {height}" for height, width in shapes))
        raise InputError(f"{path}: images of several sizes: {sizes}; write one STAR file for each")
    images = np.empty((len(files), *shapes.pop()), dtype=np.float32)
    for row, (file, section) in enumerate(zip(files, sections, strict=True)):
        values = stacks[file].values
        if section >= len(values):
            raise InputError(f"{path}: row {row + 1} asks for image {section + 1} of {file}, which has {len(values)}")
        images[row] = values[section]
    return images


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


def _only_pixel_size(path: Path, sizes: tuple[float, ...]) -> float:
    if sizes[-1] > sizes[0] * (1 + _SAME_SIZE):
        raise InputError(f"{path}: pixel sizes from {sizes[0]:.5g} to {sizes[-1]:.5g} A; write one STAR file for each")
    return sizes[0]


def _numbers(path: Path, table: pd.DataFrame, columns: list[str]) -> torch.Tensor:
    """Columns as ``(rows, columns)`` float64."""
    try:
        values = table[columns].to_numpy(dtype=np.float64)
    except ValueError as error:
        raise InputError(f"{path}: {', '.join(columns)} must be numbers: {error}") from None
    if not np.isfinite(values).all():
        raise InputError(f"{path}: {', '.join(columns)} hold values that are not finite")
    return torch.tensor(values)
