"""Images that a table names by file and section, such as RELION's STAR and cryoSPARC's .cs files."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
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
# Pixel sizes of a table and of headers that differ by no more are one, calibrated anew; by more, one of them is wrong.
_RECALIBRATED = 0.1
# Widths of boxes that differ by no more are the same.
_SAME_WIDTH = 0.02

WHOLE_FILE = -1
"""Section of an image that is all of its file."""

Indices = Sequence[int] | NDArray[np.intp] | NDArray[np.bool_] | Tensor
"""Some of many: their places from 0 in any order, or a mask of all."""


@dataclass(frozen=True)
class Stated:
    """What a table says of the images that it names.

    Attributes
    ----------
    where
        Where in the file the pixel size is stated, in words.
    pixel_sizes_angstrom, sides
        Distinct pixel sizes and sides in pixels, rising; may be none or several.
    """

    where: str
    pixel_sizes_angstrom: tuple[float, ...] = ()
    sides: tuple[int, ...] = ()


@dataclass(frozen=True)
class NamedImages:
    """The images that a table names, and all that is known about their pixel size and classes.

    Attributes
    ----------
    values
        ``(n, y, x)`` float32 in the order of the rows.
    stated
        What the table says of them.
    opened
        Where they lie, and what the headers of their stacks say.
    class_numbers
        Number of the class that each image is the average of, counted from 1; None where it is not known.
    """

    values: NDArray[np.float32]
    stated: Stated
    opened: "OpenedImages"
    class_numbers: tuple[int, ...] | None


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
    header_pixel_sizes_angstrom
        Distinct pixel sizes in the headers of all stacks, rising, without the placeholder of exactly 1; may be none.
    notes
        What was repaired or odd in the headers of the stacks.
    """

    images: StoredImages
    first_stack: MrcArray
    first_stack_path: Path
    header_pixel_sizes_angstrom: tuple[float, ...]
    notes: tuple[str, ...]


def open_images(path: Path, files: Sequence[str], sections: Sequence[int], datadir: Path | None = None) -> OpenedImages:
    """Find the images that a table names, and read the headers of their stacks.

    Stacks are looked for as :func:`find_stacks` says: RELION and cryoSPARC write names relative to their projects.

    Parameters
    ----------
    path
        The table's file.
    files, sections
        Stack of every row and the image in it, counted from 0, or ``WHOLE_FILE``.
    datadir
        Where stacks are looked for first.

    Raises
    ------
    InputError
        Stacks or images in them that are missing (named), images of several sizes.
    """
    places, moved = find_stacks(path, files, datadir)
    stacks, notes, sizes = {}, list(moved), set()
    for file, place in places.items():
        array = read_array(place)
        stacks[file] = StoredSections.of(place, array)
        notes += [f"{file}: {note}" for note in array.notes]
        if array.voxel_size_angstrom is not None and array.voxel_size_angstrom[0] != 1:
            sizes.add(round(array.voxel_size_angstrom[0], 6))
    _check_sizes(path, list(stacks.values()))
    numbers = {file: number for number, file in enumerate(stacks)}
    stack_numbers = np.array([numbers[file] for file in files], dtype=np.intp)
    lengths = np.array([stack.shape[0] for stack in stacks.values()])[stack_numbers]
    images = StoredImages(path, tuple(stacks.values()), stack_numbers, _sections(path, files, sections, lengths))
    first = places[files[0]]
    return OpenedImages(images, read_array(first), first, tuple(sorted(sizes)), tuple(notes))


def _sections(path: Path, files: Sequence[str], sections: Sequence[int], lengths: NDArray[np.intp]) -> NDArray[np.intp]:
    """Places of images in stacks of these lengths, with 0 for a file of one image that is named without a number."""
    for row, (section, length) in enumerate(zip(sections, lengths.tolist(), strict=True)):
        if section == WHOLE_FILE and length > 1:
            raise InputError(
                f"{path}: row {row + 1} names {files[row]} without saying which of its {length} sections; write "
                "N@FILE for image N of a stack (a volume is no class average)"
            )
        if section >= length or section < WHOLE_FILE:
            raise InputError(f"{path}: row {row + 1} asks for image {section + 1} of {files[row]}, which has {length}")
    return np.array(sections, dtype=np.intp).clip(min=0)


def gather_images(
    path: Path,
    files: Sequence[str],
    sections: Sequence[int],
    stated: Stated,
    *,
    class_numbers: Sequence[int] | None = None,
    datadir: Path | None = None,
) -> NamedImages:
    """Read the images that a table names, all of them.

    Parameters
    ----------
    path, files, sections, datadir
        As for :func:`open_images`.
    stated
        What the table says of them.
    class_numbers
        Class of every row, counted from 1. None: a class average is known by its place in the stack of all, so that
        its section is its class.

    Raises
    ------
    InputError
        Stacks or images in them that are missing (named), images of several sizes.
    """
    opened = open_images(path, files, sections, datadir)
    if class_numbers is None and len(opened.images.stacks) == 1:
        class_numbers = (opened.images.sections + 1).tolist()
    distinct = class_numbers is not None and len(set(class_numbers)) == len(class_numbers)
    return NamedImages(
        values=opened.images.gather(np.arange(len(sections))),
        stated=stated,
        opened=opened,
        class_numbers=tuple(class_numbers) if class_numbers is not None and distinct else None,
    )


def decide_pixel_size(
    path: Path, named: NamedImages, given: float | None, exclude: Collection[int] = ()
) -> LoadedImages:
    """Make an image stack of named images, with the pixel size of :func:`known_pixel_size`.

    Those to exclude may hold NaN.

    Raises
    ------
    InputError
        Pixel size unknown, or several; images that are not square or hold NaN.
    """
    pixel_size, notes = known_pixel_size(path, named.opened, named.stated, given)
    return LoadedImages(
        to_stack(path, named.values, pixel_size, exclude), named.opened.notes + notes, named.class_numbers
    )


def known_pixel_size(
    path: Path, images: OpenedImages, stated: Stated, given: float | None
) -> tuple[float, tuple[str, ...]]:
    """Decide on a pixel size, and say why: the given one wins over the table's, that over the stacks' headers.

    A table may be of other images than the stacks that it names, such as those before they were made smaller. So what
    it says of their side and pixel size is compared with the stacks, and where they cannot both be right, neither is
    taken.

    Parameters
    ----------
    path
        The table's file.
    images
        The images that it names.
    stated
        What it says of them.
    given
        Pixel size in Angstrom, or None.

    Raises
    ------
    InputError
        Pixel size unknown, or several.
    """
    sizes, headers = stated.pixel_sizes_angstrom, images.header_pixel_sizes_angstrom
    if given is not None:
        note = f"the pixel size of {max(sizes, default=0):.5g} A in {stated.where} is overruled by {given:.5g} A"
        return given, (note,) if _differ(given, sizes, _SAME_SIZE) else ()
    if sizes:
        size = only_pixel_size(path, sizes)
        if resampled := _resampled(images, stated, size):
            return resampled
        _compare_with_stacks(path, images, stated)
        notes = [f"pixel size from {stated.where}"]
        if _differ(size, headers, _SAME_SIZE):
            notes.append(
                f"the headers of the stacks say {_range(headers)}, {stated.where} {size:.5g} A, which is taken"
            )
        return size, tuple(notes)
    if headers:
        only_pixel_size(path, headers)
    try:
        pixel_size, odd = choose_pixel_size(images.first_stack_path, images.first_stack, None, axes=2)
    except InputError as error:
        raise InputError(f"{path}: no pixel size in {stated.where}, and {error}") from None
    return pixel_size, (*odd, f"pixel size from the header of {images.first_stack_path.name}")


def _resampled(images: OpenedImages, stated: Stated, size: float) -> tuple[float, tuple[str, ...]] | None:
    """Pixel size of stacks of fewer or more pixels in a box of the same width, as their headers say too; else None."""
    headers, side = images.header_pixel_sizes_angstrom, images.images.side
    if len(headers) != 1 or len(stated.sides) != 1 or stated.sides[0] == side:
        return None
    if abs(headers[0] * side / (size * stated.sides[0]) - 1) > _SAME_WIDTH:
        return None
    note = f"{stated.where} is of images of {stated.sides[0]} pixels of {size:.5g} A, and the stacks have {side} of "
    return headers[0], (f"{note}{headers[0]:.5g} A by their headers, which is taken",)


def _compare_with_stacks(path: Path, images: OpenedImages, stated: Stated) -> None:
    """Refuse a pixel size that is stated for images of another side, or that the headers contradict."""
    sizes, headers, side = stated.pixel_sizes_angstrom, images.header_pixel_sizes_angstrom, images.images.side
    say = "give the true pixel size of the stacks with --pixel-size ANGSTROM"
    if any(other != side for other in stated.sides):
        other = next(other for other in stated.sides if other != side)
        raise InputError(
            f"{path}: says {_range(sizes)} of images of {other} pixels, and {images.first_stack_path.name} has some of "
            f"{side}" + (f" and {_range(headers)} in the header" if headers else "") + f"; {say}"
        )
    if any(_differ(size, headers, _RECALIBRATED) for size in sizes):
        raise InputError(f"{path}: says {_range(sizes)}, and the headers of the stacks say {_range(headers)}; {say}")


def _differ(size: float, others: Sequence[float], part: float) -> bool:
    return any(abs(size - other) > part * other for other in others)


def _range(sizes: Sequence[float]) -> str:
    ends = f"{sizes[0]:.5g} A a pixel"
    return ends if sizes[-1] <= sizes[0] * (1 + _SAME_SIZE) else f"{sizes[0]:.5g} to {sizes[-1]:.5g} A a pixel"


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


def find_stacks(
    path: Path, files: Sequence[str], datadir: Path | None = None
) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Find the place of every distinct file that a table names, and say where that is not where the table says.

    Each is looked for in ``datadir``, in the folder of the table and the folders above it, along the path as given and
    along links in it, and in the current folder; then in ``datadir`` and in the table's folder without the first
    folders of its name, as many of them as must go: tables outlive the places of their stacks.

    Raises
    ------
    InputError
        Some are missing; the first five are named. Or two names that differ would be one file.
    """
    beside = dict.fromkeys((path.absolute().parent, path.resolve().parent))
    above = dict.fromkeys((*path.absolute().parents, *path.resolve().parents, Path.cwd()))
    first = () if datadir is None else (datadir,)
    found, moved, missing = {}, {}, []
    for file in dict.fromkeys(files):
        place = _first_file(folder / file for folder in (*first, *above))
        if place is None:
            parts = Path(file).parts
            ends = [Path(*parts[k:]) for k in range(1, len(parts))]
            place = _first_file(folder / end for end in ends for folder in (*first, *beside))
            if place is not None:
                moved[file] = place
        if place is None:
            missing.append(file)
        else:
            found[file] = place
    if missing:
        some = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise InputError(
            f"{path}: {len(missing)} of {len(missing) + len(found)} image stacks are missing, looked for in "
            f"{next(iter(first or beside))}, the folders above {path.name} and the current one: {some}; say where they "
            "are with --datadir FOLDER"
        )
    _refuse_doubles(path, found, moved)
    if not moved:
        return found, ()
    file, place = next(iter(moved.items()))
    return found, (f"{len(moved)} of {len(found)} stacks are not where {path.name} says: {file} is taken from {place}",)


def _first_file(places: Iterable[Path]) -> Path | None:
    for place in places:
        with suppress(OSError):  # a name that is too long, or a loop of links
            if place.is_file():
                return place
    return None


def _refuse_doubles(path: Path, found: Mapping[str, Path], moved: Mapping[str, Path]) -> None:
    """Two stacks of one name in different folders must not become one."""
    for file, place in moved.items():
        other = next((name for name, there in found.items() if there == place and name != file), None)
        if other is not None:
            raise InputError(
                f"{path}: names {other} and {file}, for which there is one file only, {place}; say where they are with "
                "--datadir FOLDER"
            )


def _check_sizes(path: Path, stacks: Sequence[StoredSections]) -> None:
    shapes = {stack.shape[1:] for stack in stacks}
    if len(shapes) > 1:
        sizes = ", ".join(sorted(f"{width} x {height}" for height, width in shapes))
        raise InputError(f"{path}: images of several sizes: {sizes}; write one file for each")
