"""Particle files cut down to some of their rows, with every byte as it was, or all but the poses."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..datatypes import InputError, Poses
from ..geometry.rotations import to_relion_euler
from .cryosparc import (
    CsFile,
    cs_bytes,
    find_field,
    read_cs,
    replace_poses,
    rows_of,
    stated_pixel_sizes,
    stated_sides,
)
from .image_table import ImageTable, read_image_table
from .job_folders import file_in_job
from .mrc import read_array
from .named_images import find_stacks
from .star_file import value_spans

_ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
_ORIGINS = ("rlnOriginXAngst", "rlnOriginYAngst")
_ORIGINS_IN_PIXELS = ("rlnOriginX", "rlnOriginY")


@dataclass(frozen=True)
class ParticleRows:
    """The particles of a file.

    Attributes
    ----------
    class_numbers
        ``(n,)``, the class of every particle in 2D classification, counted from 1.
    first_class
        How the file itself counts classes: from 1 (RELION) or 0 (cryoSPARC).
    pixel_size_angstrom, side
        Of the particle images; None where that is not known, or not the same for all.
    only
        ``(n,)`` mask of particles -> contents of the same files with these only: the particle file, then one for
        each passthrough file.
    """

    class_numbers: NDArray[np.int64]
    first_class: int
    pixel_size_angstrom: float | None
    side: int | None
    only: Callable[[NDArray[np.bool_]], tuple[bytes, ...]]


def select_rows(files: Sequence[Path], rows: NDArray[np.intp]) -> tuple[bytes, ...]:
    """Contents of particle files with some of their rows only, every byte of those as it was.

    Parameters
    ----------
    files
        A RELION .star file, or a cryoSPARC .cs file and its passthrough files, which keep the same particles.
    rows
        Rows to keep, from 0, in any order; they stay in the order of the file.

    Returns
    -------
    tuple of bytes
        One for each file.

    Raises
    ------
    InputError
        Another type of file, or rows that it does not have.
    """
    path, *passthrough = files
    match _suffix(path, passthrough):
        case ".star":
            table = read_image_table(path)
            return (_only_lines(table, _mask(path, rows, len(table))),)
        case _:
            tables = [read_cs(each) for each in files]
            return _only_particles(tables, _mask(path, rows, len(tables[0].rows)))


def select_posed_rows(
    files: Sequence[Path], rows: NDArray[np.intp], poses: Poses, pixel_size_angstrom: float
) -> tuple[bytes, ...]:
    """As :func:`select_rows`, with other poses in their columns; these are added where the file has none.

    Parameters
    ----------
    files, rows
        As there.
    poses
        Of the rows, in their order.
    pixel_size_angstrom
        Of the images, for shifts that the file has in pixels.

    Raises
    ------
    InputError
        As there.
    """
    path, *passthrough = files
    order = np.argsort(rows)
    rows, poses = rows[order], poses.select(torch.from_numpy(order))
    if _suffix(path, passthrough) == ".star":
        table = read_image_table(path)
        mask = _mask(path, rows, len(table))
        return (_only_lines(table, mask, _posed_lines(table, rows, poses, pixel_size_angstrom)),)
    tables = [read_cs(each) for each in files]
    chosen = _chosen_particles(tables, _mask(path, rows, len(tables[0].rows)))
    return tuple(cs_bytes(each.rows) for each in replace_poses(chosen, poses, pixel_size_angstrom))


def read_particle_rows(path: Path, passthrough: Sequence[Path] = ()) -> ParticleRows:
    """Read the classes of the particles in a RELION .star or cryoSPARC .cs file.

    Parameters
    ----------
    path
        The particles of a 2D classification, such as ``run_it025_data.star`` or ``J12_020_particles.cs``.
    passthrough
        More .cs files of the same particles, matched by ``uid``.

    Raises
    ------
    InputError
        Another type of file, no class numbers, or particles that a passthrough file does not have.
    """
    if path.is_dir():
        raise InputError(
            f"{path}: is the folder of a job; give {file_in_job(path, 'particles')[0]}, the particles in it"
        )
    return _read_star(path) if _suffix(path, passthrough) == ".star" else _read_cs(path, passthrough)


def _suffix(path: Path, passthrough: Sequence[Path]) -> str:
    match path.suffix.lower():
        case ".star" if passthrough:
            raise InputError(f"{passthrough[0]}: passthrough files belong to .cs files, and {path.name} is a STAR file")
        case ".star" | ".cs" as suffix:
            return suffix
        case suffix:
            raise InputError(
                f"{path}: cannot read particles from files of type {suffix or '(none)'!r}; give .star or .cs"
            )


def _mask(path: Path, rows: NDArray[np.intp], count: int) -> NDArray[np.bool_]:
    if len(rows) and not 0 <= rows.min() <= rows.max() < count:
        raise InputError(f"{path}: has rows 0 to {count - 1}, not {rows.min()} to {rows.max()}; has it changed?")
    mask = np.zeros(count, dtype=bool)
    mask[rows] = True
    return mask


def _read_cs(path: Path, passthrough: Sequence[Path]) -> ParticleRows:
    files = [read_cs(each) for each in (path, *passthrough)]
    classes = find_field(files, "alignments2D/class")
    if classes is None:
        where = f"neither in it nor in {', '.join(str(each) for each in passthrough)}" if passthrough else "not in it"
        raise InputError(
            f"{path}: the field alignments2D/class, the class of every particle, is {where}; give the particles file "
            "of the 2D classification, or it too with --passthrough"
        )
    sizes, sides = stated_pixel_sizes(files), stated_sides(files)
    return ParticleRows(
        class_numbers=classes.astype(np.int64) + 1,
        first_class=0,
        pixel_size_angstrom=sizes[0] if len(sizes) == 1 else None,
        side=sides[0] if len(sides) == 1 else None,
        only=partial(_only_particles, files),
    )


def _only_particles(files: Sequence[CsFile], mask: NDArray[np.bool_]) -> tuple[bytes, ...]:
    """Contents of a .cs file with some of its rows, and of its passthrough files with the same particles."""
    return tuple(cs_bytes(each.rows) for each in _chosen_particles(files, mask))


def _chosen_particles(files: Sequence[CsFile], mask: NDArray[np.bool_]) -> list[CsFile]:
    chosen = CsFile(files[0].path, files[0].rows[mask])
    return [chosen, *(CsFile(each.path, each.rows[rows_of(each, chosen)]) for each in files[1:])]


def _read_star(path: Path) -> ParticleRows:
    table = read_image_table(path)
    if "rlnClassNumber" not in table.columns:
        raise InputError(
            f"{path}: the particles have no rlnClassNumber; give run_itNNN_data.star of the 2D classification that "
            "made the class averages, or particles.star of a selection from it"
        )
    sizes, sides = table.stated_pixel_sizes_angstrom, set(table.stated_sides)
    if not sides:
        with suppress(InputError):  # the stacks may be elsewhere
            places, _ = find_stacks(path, table.files[:1])
            sides = {read_array(place).values.shape[-1] for place in places.values()}
    return ParticleRows(
        class_numbers=table.class_numbers,
        first_class=1,
        pixel_size_angstrom=sizes[0] if len(sizes) == 1 else None,
        side=sides.pop() if len(sides) == 1 else None,
        only=lambda mask: (_only_lines(table, mask),),
    )


def _only_lines(table: ImageTable, mask: NDArray[np.bool_], lines: Sequence[bytes] | None = None) -> bytes:
    """All lines of the file, or others in their place, but those of the rows that the mask leaves out."""
    loop = table.table
    if not loop.is_loop:
        raise InputError(f"{table.path}: holds one particle, not a table of them; there is nothing to select")
    dropped = set(np.array(loop.rows)[~mask].tolist())
    return b"".join(line for number, line in enumerate(lines or loop.lines) if number not in dropped)


def _posed_lines(table: ImageTable, rows: NDArray[np.intp], poses: Poses, pixel_size_angstrom: float) -> list[bytes]:
    """Lines whose angles and origins are those of some poses; columns that are not there are added at the end."""
    loop = table.table
    there = set(loop.columns)
    # before RELION 3.1 there were no optics groups, and origins were in pixels
    in_pixels = not there & set(_ORIGINS) and (bool(there & set(_ORIGINS_IN_PIXELS)) or "rlnOpticsGroup" not in there)
    names = [*_ANGLES, *(_ORIGINS_IN_PIXELS if in_pixels else _ORIGINS)]
    origins = -poses.shifts_angstrom.double() / (pixel_size_angstrom if in_pixels else 1.0)
    values = torch.cat([to_relion_euler(poses.rotations.double()), origins], dim=1)
    added = [name for name in names if name not in there]
    places = [loop.columns.index(name) if name in there else -1 for name in names]
    last, lines = loop.label_lines[-1], loop.lines
    changed, ending = list(lines), b"\r\n" if lines[last].endswith(b"\r\n") else b"\n"
    header = (b"_%s #%d" % (name.encode(), len(loop.columns) + i) + ending for i, name in enumerate(added, 1))
    changed[last] += b"".join(header)
    for row, numbers in zip(rows.tolist(), values.tolist(), strict=True):
        loop.values(row)  # are as many as there are columns
        line = loop.rows[row]
        changed[line] = _replaced(lines[line], places, [b"%.6f" % number for number in numbers])
    return changed


def _replaced(line: bytes, places: Sequence[int], texts: Sequence[bytes]) -> bytes:
    """Put texts in the place of some values of a line, or, where the place is -1, behind the last."""
    spans = value_spans(line)
    pairs, end = list(zip(places, texts, strict=True)), spans[-1][1]
    line = line[:end] + b"".join(b" " + text for place, text in pairs if place < 0) + line[end:]
    for place, text in sorted((pair for pair in pairs if pair[0] >= 0), reverse=True):  # so that spans hold
        start, stop = spans[place]
        line = line[:start] + text.rjust(stop - start) + line[stop:]
    return line
