"""Images that a table names by file and section, such as RELION's STAR and cryoSPARC's .cs files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..datatypes import InputError
from .mrc import LoadedImages, MrcArray, choose_pixel_size, read_array, to_stack

_SAME_SIZE = 1e-4


@dataclass(frozen=True)
class NamedImages:
    """The images that a table names, and all that is known about their pixel size and classes.

    Attributes
    ----------
    values
        ``(n, y, x)`` float32 in the order of the rows.
    stated_pixel_sizes_angstrom
        Distinct pixel sizes in the table, rising; may be none or several.
    first_stack, first_stack_path
        The file of the first row, whose header may have a pixel size.
    class_numbers
        Number of the class that each image is the average of, counted from 1; None where it is not known.
    notes
        What was repaired or odd in the headers of the stacks.
    """

    values: NDArray[np.float32]
    stated_pixel_sizes_angstrom: tuple[float, ...]
    first_stack: MrcArray
    first_stack_path: Path
    class_numbers: tuple[int, ...] | None
    notes: tuple[str, ...]


def gather_images(
    path: Path,
    files: list[str],
    sections: list[int],
    stated_pixel_sizes_angstrom: tuple[float, ...],
    *,
    class_numbers: Sequence[int] | None = None,
) -> NamedImages:
    """Read the images that a table names.

    Stacks are looked for in the folder of the table, then in the folders above it, since RELION and cryoSPARC write
    names relative to their projects.

    Parameters
    ----------
    path
        The table's file.
    files, sections
        Stack of every row and the image in it, counted from 0.
    stated_pixel_sizes_angstrom
        Distinct pixel sizes in the table, rising.
    class_numbers
        Class of every row, counted from 1. None: a class average is known by its place in the stack of all, so that
        its section is its class.

    Raises
    ------
    InputError
        Stacks or images in them that are missing (named), images of several sizes.
    """
    places = find_stacks(path, files)
    stacks = {file: read_array(place) for file, place in places.items()}
    if class_numbers is None and len(stacks) == 1:
        class_numbers = [section + 1 for section in sections]
    distinct = class_numbers is not None and len(set(class_numbers)) == len(class_numbers)
    return NamedImages(
        values=_gather(path, stacks, files, sections),
        stated_pixel_sizes_angstrom=stated_pixel_sizes_angstrom,
        first_stack=stacks[files[0]],
        first_stack_path=places[files[0]],
        class_numbers=tuple(class_numbers) if class_numbers is not None and distinct else None,
        notes=tuple(f"{file}: {note}" for file, array in stacks.items() for note in array.notes),
    )


def decide_pixel_size(path: Path, named: NamedImages, given: float | None, table: str) -> LoadedImages:
    """Make an image stack of named images: the given pixel size wins over the table's, that over the stacks' headers.

    Parameters
    ----------
    path
        The table's file.
    named
        Its images.
    given
        Pixel size in Angstrom, or None.
    table
        Where in the file a pixel size is stated, in words.

    Raises
    ------
    InputError
        Pixel size unknown, or several; images that are not square or hold NaN.
    """
    stated = named.stated_pixel_sizes_angstrom
    if given is not None:
        note = f"the pixel size of {max(stated, default=0):.5g} A in {table} is overruled by {given:.5g} A"
        differs = any(abs(given / size - 1) > _SAME_SIZE for size in stated)
        pixel_size = given
        notes: tuple[str, ...] = (note,) if differs else ()
    elif stated:
        pixel_size, notes = only_pixel_size(path, stated), (f"pixel size from {table}",)
    else:
        try:
            pixel_size, notes = choose_pixel_size(named.first_stack_path, named.first_stack, None, axes=2)
        except InputError as error:
            raise InputError(f"{path}: no pixel size in {table}, and {error}") from None
        notes += (f"pixel size from the header of {named.first_stack_path.name}",)
    return LoadedImages(to_stack(path, named.values, pixel_size), named.notes + notes, named.class_numbers)


def only_pixel_size(path: Path, sizes: tuple[float, ...]) -> float:
    """Take the one pixel size that rising ``sizes`` have in common.

    Raises
    ------
    InputError
        They differ.
    """
    if sizes[-1] > sizes[0] * (1 + _SAME_SIZE):
        raise InputError(f"{path}: pixel sizes from {sizes[0]:.5g} to {sizes[-1]:.5g} A; write one file for each")
    return sizes[0]


def find_stacks(path: Path, files: list[str]) -> dict[str, Path]:
    """Find the place of every distinct file that a table names.

    Raises
    ------
    InputError
        Some are missing; the first five are named.
    """
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
        raise InputError(f"{path}: images of several sizes: {sizes}; write one file for each")
    images = np.empty((len(files), *shapes.pop()), dtype=np.float32)
    for row, (file, section) in enumerate(zip(files, sections, strict=True)):
        values = stacks[file].values
        if section >= len(values):
            raise InputError(f"{path}: row {row + 1} asks for image {section + 1} of {file}, which has {len(values)}")
        images[row] = values[section]
    return images
