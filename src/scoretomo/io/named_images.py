"""Images that a table names by file and section, such as RELION's STAR and cryoSPARC's .cs files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ..datatypes import InputError
from .mrc import LoadedImages, MrcArray, StoredSections, choose_pixel_size, read_array, to_stack

_SAME_SIZE = 1e-4

Indices = Sequence[int] | NDArray[np.intp] | NDArray[np.bool_] | Tensor
"""Some of many: their places from 0 in any order, or a mask of all."""


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


@dataclass(frozen=True)
class StoredImages:
    """Images on disk, in one or several stacks, which are read when they are asked for. No file is held open.

    Attributes
    ----------
    path
        The file that names them.
    stacks
        The distinct stacks, all with images of one size.
    stack_numbers, sections
        ``(n,)``, the stack of each image and its place in it, from 0.
    """

    path: Path
    stacks: tuple[StoredSections, ...]
    stack_numbers: NDArray[np.intp]
    sections: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.sections)

    @property
    def side(self) -> int:
        """Edge of an image in pixels."""
        return self.stacks[0].shape[-1]

    def select(self, indices: NDArray[np.intp]) -> "StoredImages":
        """Take some of the images, which stay on disk."""
        return StoredImages(self.path, self.stacks, self.stack_numbers[indices], self.sections[indices])

    def read(self, indices: Indices) -> Float[Tensor, "k side side"]:
        """Read images from disk, ``(k, side, side)`` float32 in the order asked; an index may come twice.

        Raises
        ------
        InputError
            A stack is gone, or the images hold NaN.
        """
        chosen = which(indices, len(self))
        images = torch.from_numpy(self.gather(chosen))
        finite = torch.isfinite(images).flatten(1).all(1).numpy()
        if not finite.all():
            first = chosen[~finite][0]
            file = self.stacks[self.stack_numbers[first]].path
            raise InputError(
                f"{self.path}: image {self.sections[first] + 1} of {file.name} holds NaN or infinite values; remove or "
                "repair it"
            )
        return images

    def gather(self, indices: NDArray[np.intp]) -> NDArray[np.float32]:
        """Read images as they are, ``(k, y, x)``, NaN and sides that differ among them."""
        images = np.empty((len(indices), *self.stacks[0].shape[1:]), dtype=np.float32)
        numbers, sections = self.stack_numbers[indices], self.sections[indices]
        for number in np.unique(numbers):
            values = self.stacks[number].map()
            places = np.flatnonzero(numbers == number)
            for place in places[np.argsort(sections[places])]:  # forwards through the file
                images[place] = values[sections[place]]
        return images


def which(indices: Indices, count: int) -> NDArray[np.intp]:
    """Places 0 to ``count - 1`` that indices in any order, or a mask of all, stand for."""
    array: NDArray[Any] = torch.as_tensor(indices).cpu().numpy()
    if array.dtype != bool:  # an empty list has no type
        array = array.astype(np.intp, casting="same_kind" if array.size else "unsafe")
    places: NDArray[np.intp] = np.arange(count)[array]
    return places


@dataclass(frozen=True)
class OpenedImages:
    """Images that a table names, found but not read.

    Attributes
    ----------
    images
        The images.
    first_stack, first_stack_path
        The file of the first row, whose header may have a pixel size.
    notes
        What was repaired or odd in the headers of the stacks.
    """

    images: StoredImages
    first_stack: MrcArray
    first_stack_path: Path
    notes: tuple[str, ...]


def open_images(path: Path, files: Sequence[str], sections: Sequence[int]) -> OpenedImages:
    """Find the images that a table names, and read the headers of their stacks.

    Stacks are looked for in the folder of the table, then in the folders above it, since RELION and cryoSPARC write
    names relative to their projects.

    Parameters
    ----------
    path
        The table's file.
    files, sections
        Stack of every row and the image in it, counted from 0.

    Raises
    ------
    InputError
        Stacks or images in them that are missing (named), images of several sizes.
    """
    places = find_stacks(path, files)
    stacks, notes = {}, []
    for file, place in places.items():
        array = read_array(place)
        stacks[file] = StoredSections.of(place, array)
        notes += [f"{file}: {note}" for note in array.notes]
    _check_sizes(path, list(stacks.values()))
    numbers = {file: number for number, file in enumerate(stacks)}
    images = StoredImages(
        path,
        tuple(stacks.values()),
        np.array([numbers[file] for file in files], dtype=np.intp),
        np.array(sections, dtype=np.intp),
    )
    lengths = np.array([stack.shape[0] for stack in images.stacks])[images.stack_numbers]
    beyond = np.flatnonzero(images.sections >= lengths)
    if len(beyond):
        row = beyond[0]
        raise InputError(
            f"{path}: row {row + 1} asks for image {sections[row] + 1} of {files[row]}, which has {lengths[row]}"
        )
    first = places[files[0]]
    return OpenedImages(images, read_array(first), first, tuple(notes))


def gather_images(
    path: Path,
    files: list[str],
    sections: list[int],
    stated_pixel_sizes_angstrom: tuple[float, ...],
    *,
    class_numbers: Sequence[int] | None = None,
) -> NamedImages:
    """Read the images that a table names, all of them.

    Parameters
    ----------
    path, files, sections
        As for :func:`open_images`.
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
    opened = open_images(path, files, sections)
    if class_numbers is None and len(opened.images.stacks) == 1:
        class_numbers = [section + 1 for section in sections]
    distinct = class_numbers is not None and len(set(class_numbers)) == len(class_numbers)
    return NamedImages(
        values=opened.images.gather(np.arange(len(sections))),
        stated_pixel_sizes_angstrom=stated_pixel_sizes_angstrom,
        first_stack=opened.first_stack,
        first_stack_path=opened.first_stack_path,
        class_numbers=tuple(class_numbers) if class_numbers is not None and distinct else None,
        notes=opened.notes,
    )


def decide_pixel_size(path: Path, named: NamedImages, given: float | None, table: str) -> LoadedImages:
    """Make an image stack of named images, with the pixel size of :func:`known_pixel_size`.

    Raises
    ------
    InputError
        Pixel size unknown, or several; images that are not square or hold NaN.
    """
    stated = named.stated_pixel_sizes_angstrom
    pixel_size, notes = known_pixel_size(path, named, stated, given, table)
    return LoadedImages(to_stack(path, named.values, pixel_size), named.notes + notes, named.class_numbers)


def known_pixel_size(
    path: Path, images: NamedImages | OpenedImages, stated: tuple[float, ...], given: float | None, table: str
) -> tuple[float, tuple[str, ...]]:
    """Decide on a pixel size, and say why: the given one wins over the table's, that over the stacks' headers.

    Parameters
    ----------
    path
        The table's file.
    images
        The images that it names.
    stated
        Distinct pixel sizes in the table, rising.
    given
        Pixel size in Angstrom, or None.
    table
        Where in the file a pixel size is stated, in words.

    Raises
    ------
    InputError
        Pixel size unknown, or several.
    """
    if given is not None:
        note = f"the pixel size of {max(stated, default=0):.5g} A in {table} is overruled by {given:.5g} A"
        differs = any(abs(given / size - 1) > _SAME_SIZE for size in stated)
        return given, (note,) if differs else ()
    if stated:
        return only_pixel_size(path, stated), (f"pixel size from {table}",)
    try:
        pixel_size, notes = choose_pixel_size(images.first_stack_path, images.first_stack, None, axes=2)
    except InputError as error:
        raise InputError(f"{path}: no pixel size in {table}, and {error}") from None
    return pixel_size, (*notes, f"pixel size from the header of {images.first_stack_path.name}")


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


def find_stacks(path: Path, files: Sequence[str]) -> dict[str, Path]:
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


def _check_sizes(path: Path, stacks: Sequence[StoredSections]) -> None:
    shapes = {stack.shape[1:] for stack in stacks}
    if len(shapes) > 1:
        sizes = ", ".join(sorted(f"{width} x {height}" for height, width in shapes))
        raise InputError(f"{path}: images of several sizes: {sizes}; write one file for each")
