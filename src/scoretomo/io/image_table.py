"""The table of a STAR file that names images: which image each row is, its optics group, and what is said of all."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..datatypes import InputError
from .named_images import WHOLE_FILE, Stated
from .star_file import StarTable, read_tables

IMAGE_COLUMNS = ("rlnImageName", "rlnReferenceImage")
"""Columns that name images: of particles and selections, and of the classes of a model.star."""
_GROUP, _SIDE = "rlnOpticsGroup", "rlnImageSize"
_PIXEL_SIZES = (("rlnImagePixelSize",), ("rlnPixelSize",), ("rlnDetectorPixelSize", "rlnMagnification"))
# What a table may say of the optics that no algorithm here takes into account, and its name.
_ABERRATIONS = {
    "rlnBeamTiltX": "beam tilt",
    "rlnBeamTiltY": "beam tilt",
    "rlnOddZernike": "odd aberrations",
    "rlnEvenZernike": "even aberrations",
    "rlnMagMat00": "anisotropic magnification",
    "rlnMagMat01": "anisotropic magnification",
    "rlnMagMat10": "anisotropic magnification",
    "rlnMagMat11": "anisotropic magnification",
}
_NUMBERS = re.compile(r"[-+]?[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?")
# Digits of the number of an image.
_LONGEST = 16
_NEUTRAL = {"rlnMagMat00": 1.0, "rlnMagMat11": 1.0}


@dataclass(frozen=True)
class ImageTable:
    """The table of a STAR file that names images, with the optics group of each row.

    Attributes
    ----------
    table
        The table.
    others
        All other tables of the file.
    sections, files
        Place of the image of each row in its stack, from 0, and the stack; ``WHOLE_FILE``: the name has no number.
    """

    table: StarTable
    others: tuple[StarTable, ...]
    sections: tuple[int, ...]
    files: tuple[str, ...]

    @property
    def path(self) -> Path:
        """The file."""
        return self.table.path

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def columns(self) -> frozenset[str]:
        """Columns of the rows, those of their optics groups (RELION 3.1) among them."""
        return frozenset(self.table.columns) | (frozenset(self._optics.columns) if self._optics else frozenset())

    def numbers(self, *names: str) -> torch.Tensor:
        """Columns as ``(rows, columns)`` float64; one of the table itself wins over one of its optics group.

        Raises
        ------
        InputError
            Values that are no numbers or not finite, or an optics group that is not described.
        """
        own = [name for name in names if name in self.table.columns]
        found = dict(zip(own, self.table.numbers(*own).T, strict=True)) if own else {}
        shared = [name for name in names if name not in found]
        if shared:
            assert self._optics is not None  # who asks knows the columns
            found |= dict(zip(shared, self._optics.numbers(*shared)[self._groups].T, strict=True))
        return torch.from_numpy(np.stack([found[name] for name in names], axis=1))

    @cached_property
    def stated_pixel_sizes_angstrom(self) -> tuple[float, ...]:
        """Distinct pixel sizes of the rows, rising; may be none or several.

        They are those of the rows and their optics, else of the model; or from magnification and detector pixel.
        Optics groups that no row is of do not count.

        Raises
        ------
        InputError
            They are not positive.
        """
        for names in _PIXEL_SIZES:
            values = self._stated(*names)
            if len(values):
                if not (values > 0).all():
                    wrong = values[values <= 0][0]
                    raise InputError(f"{self.path}: {' and '.join(names)} must be above 0, not {wrong:g}; repair it")
                # micrometers on the detector to Angstrom in the specimen
                sizes = values[:, 0] if len(names) == 1 else values[:, 0] * 1e4 / values[:, 1]
                return tuple(sorted(set(sizes.tolist())))
        return ()

    @cached_property
    def stated_sides(self) -> tuple[int, ...]:
        """Distinct sides of images in pixels, rising, stated where pixel sizes are; may be none."""
        return tuple(sorted({int(side) for side in self._stated(_SIDE)[:, 0].tolist()}))

    def _stated(self, *names: str) -> NDArray[np.float64]:
        """Columns of the rows and their optics, else of all other tables that have them."""
        if set(names) <= self.columns:
            return self.numbers(*names).numpy()
        found = [each.numbers(*names) for each in self.others if set(names) <= {*each.columns} and len(each)]
        return np.concatenate([np.empty((0, len(names))), *found])

    @property
    def class_numbers(self) -> NDArray[np.int64]:
        """``(n,)``, the class of each row, counted from 1 (``rlnClassNumber``).

        Raises
        ------
        InputError
            They are no whole numbers.
        """
        numbers = self.numbers("rlnClassNumber")[:, 0].numpy()
        wrong = numbers[(numbers != np.round(numbers)) | (np.abs(numbers) > 1e9)]
        if len(wrong):
            raise InputError(f"{self.path}: rlnClassNumber must be whole numbers, not {wrong[0]:g}")
        return numbers.astype(np.int64)

    @property
    def stated(self) -> Stated:
        """What is said of the images."""
        return Stated("the STAR file", self.stated_pixel_sizes_angstrom, self.stated_sides)

    @cached_property
    def _optics(self) -> StarTable | None:
        found = next((each for each in self.others if each.block == "optics"), None)
        return found if found is not None and {_GROUP} <= {*found.columns} & {*self.table.columns} else None

    @cached_property
    def _groups(self) -> NDArray[np.intp]:
        """Row of the optics table for each row."""
        assert self._optics is not None
        described, groups = self._optics.numbers(_GROUP)[:, 0], self.table.numbers(_GROUP)[:, 0]
        if len(np.unique(described)) < len(described):
            raise InputError(f"{self.path}: data_optics has an optics group twice")
        places = {group: place for place, group in enumerate(described.tolist())}
        unknown = sorted(set(groups.tolist()) - set(places))
        if unknown:
            raise InputError(f"{self.path}: data_optics has no optics group {unknown[0]:g}")
        return np.array([places[group] for group in groups.tolist()], dtype=np.intp)


def read_image_table(path: Path) -> ImageTable:
    """Read the table of a STAR file that names images, and nothing of the images.

    Raises
    ------
    InputError
        Not a STAR file, no image names or two tables with them, or references of a 3D classification.
    """
    tables = read_tables(path)
    naming = [each for each in tables if {*IMAGE_COLUMNS} & {*each.columns} and len(each)]
    if not naming:
        raise InputError(f"{path}: names no images: no rows with {' or '.join(IMAGE_COLUMNS)}")
    if len(naming) > 1:
        lines = " and ".join(str(each.label_lines[0] + 1) for each in naming)
        raise InputError(
            f"{path}: has {len(naming)} tables that name images, in lines {lines}; were files put one after the other? "
            "Write each of them to a file of its own, or join the tables"
        )
    (table,) = naming
    others = tuple(each for each in tables if each is not table)
    _refuse_volumes(path, others)
    column = next(name for name in IMAGE_COLUMNS if name in table.columns)
    sections, files = _split_names(path, table.texts(column))
    return ImageTable(table, others, sections, files)


def _refuse_volumes(path: Path, tables: Sequence[StarTable]) -> None:
    for each in tables:
        if "rlnReferenceDimensionality" in each.columns and (each.numbers("rlnReferenceDimensionality") == 3).any():
            raise InputError(
                f"{path}: is of a 3D classification, whose references are volumes; give the model.star of a 2D one"
            )


def table_notes(table: ImageTable) -> tuple[str, ...]:
    """Say what a table has that is read otherwise than elsewhere, or not at all."""
    dropped = {
        what: None for name, what in _ABERRATIONS.items() if name in table.columns and _says_something(table, name)
    }
    notes = [f"{what} is in the table, and is not taken into account" for what in dropped]
    if table.table.gap is not None:
        notes.append(f"line {table.table.gap + 1} and what follows is read; RELION stops at the blank line before it")
    return tuple(notes)


def _says_something(table: ImageTable, name: str) -> bool:
    """Whether a column differs from what it is without any aberration; Zernike coefficients are lists in brackets."""
    if name.endswith("Zernike"):
        holder = (
            table.table if name in table.table.columns else next(each for each in table.others if name in each.columns)
        )
        return any(float(word) for text in holder.texts(name) for word in _NUMBERS.findall(text))
    return bool((table.numbers(name) != _NEUTRAL.get(name, 0.0)).any())


def _split_names(path: Path, names: Sequence[str]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Section (from 0) and file of every ``N@stack``; a name without N is a file of one image."""
    sections, files = [], []
    for name in names:
        number, at, file = name.rpartition("@")
        if at and not (number.isascii() and number.isdecimal() and len(number) < _LONGEST and int(number) > 0):
            raise InputError(f"{path}: image name {name!r} is not of the form N@stack with N from 1")
        sections.append(int(number) - 1 if at else WHOLE_FILE)
        files.append(file)
    return tuple(sections), tuple(files)
