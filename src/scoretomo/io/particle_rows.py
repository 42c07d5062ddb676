"""Particle files cut down to some of their rows, with every byte as it was, or all but the poses."""

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..datatypes import InputError, Poses
from ..geometry.rotations import to_relion_euler
from .cryosparc import CsFile, cs_bytes, find_field, read_cs, replace_poses, rows_of, stated_pixel_sizes
from .mrc import read_array
from .named_images import find_stacks

# A value in quotes may hold spaces; the closing quote is one that a space follows.
_QUOTED = re.compile(rb"""'.*?'(?=\s|$)|".*?"(?=\s|$)|\S+""")
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
            lines, _, loop = _particle_loop(path)
            return (_only_lines(lines, loop, _mask(path, rows, len(loop.rows))),)
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
        lines, _, loop = _particle_loop(path)
        mask = _mask(path, rows, len(loop.rows))
        return (_only_lines(_posed_lines(path, lines, loop, rows, poses, pixel_size_angstrom), loop, mask),)
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
    pixel_sizes, shapes = find_field(files, "blob/psize_A"), find_field(files, "blob/shape")
    distinct = stated_pixel_sizes(pixel_sizes) if pixel_sizes is not None else ()
    sides = {int(side) for side in np.unique(shapes)} if shapes is not None else set()
    return ParticleRows(
        class_numbers=classes.astype(np.int64) + 1,
        first_class=0,
        pixel_size_angstrom=distinct[0] if len(distinct) == 1 else None,
        side=sides.pop() if len(sides) == 1 else None,
        only=partial(_only_particles, files),
    )


def _only_particles(files: Sequence[CsFile], mask: NDArray[np.bool_]) -> tuple[bytes, ...]:
    """Contents of a .cs file with some of its rows, and of its passthrough files with the same particles."""
    return tuple(cs_bytes(each.rows) for each in _chosen_particles(files, mask))


def _chosen_particles(files: Sequence[CsFile], mask: NDArray[np.bool_]) -> list[CsFile]:
    chosen = CsFile(files[0].path, files[0].rows[mask])
    return [chosen, *(CsFile(each.path, each.rows[rows_of(each, chosen)]) for each in files[1:])]


@dataclass
class _Loop:
    """A table of a STAR file: names of the columns, the last one's line, and the lines that are its rows."""

    block: str
    columns: list[str] = field(default_factory=list)
    last_column: int = 0
    rows: list[int] = field(default_factory=list)


def _read_star(path: Path) -> ParticleRows:
    lines, loops, particles = _particle_loop(path)
    if "rlnClassNumber" not in particles.columns:
        raise InputError(
            f"{path}: the particles have no rlnClassNumber; give run_itNNN_data.star of the 2D classification that "
            "made the class averages, or particles.star of a selection from it"
        )
    classes = [_class_number(path, values[0]) for values in _columns(path, lines, particles, ["rlnClassNumber"])]
    pixel_size, side = _grid(path, lines, loops, particles)
    return ParticleRows(
        class_numbers=np.array(classes, dtype=np.int64),
        first_class=1,
        pixel_size_angstrom=pixel_size,
        side=side,
        only=lambda mask: (_only_lines(lines, particles, mask),),
    )


def _particle_loop(path: Path) -> tuple[list[bytes], list[_Loop], _Loop]:
    """Lines of a STAR file, its tables, and the one of the particles."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    loops = _find_loops(lines)
    particles = next((loop for loop in loops if "rlnImageName" in loop.columns and loop.rows), None)
    if particles is None:
        raise InputError(f"{path}: has no table of particles (loop_ with rlnImageName)")
    return lines, loops, particles


def _only_lines(lines: Sequence[bytes], loop: _Loop, mask: NDArray[np.bool_]) -> bytes:
    """All lines but those of the rows of a table that the mask leaves out."""
    dropped = set(np.array(loop.rows)[~mask].tolist())
    return b"".join(line for number, line in enumerate(lines) if number not in dropped)


def _find_loops(lines: Sequence[bytes]) -> list[_Loop]:
    """Tables in the order of the file; comments and blank lines belong to none."""
    loops: list[_Loop] = []
    block, loop = "", None
    for number, line in enumerate(lines):
        words = line.split(None, 2)
        if not words or words[0].startswith(b"#"):
            continue
        # a row may begin with any of these words, but it has more than one
        alone = len(words) == 1 or words[1].startswith(b"#")
        keyword = words[0].lower() if alone else b""
        if keyword.startswith(b"data_"):
            block, loop = words[0][5:].decode("latin-1"), None
        elif keyword == b"loop_":
            loop = _Loop(block)
            loops.append(loop)
        elif loop is not None and not loop.rows and words[0].startswith(b"_"):
            loop.columns.append(words[0][1:].decode("latin-1"))
            loop.last_column = number
        elif loop is not None:
            loop.rows.append(number)
    return loops


def _posed_lines(
    path: Path, lines: Sequence[bytes], loop: _Loop, rows: NDArray[np.intp], poses: Poses, pixel_size_angstrom: float
) -> list[bytes]:
    """Lines whose angles and origins are those of some poses; columns that are not there are added at the end."""
    there = set(loop.columns)
    # before RELION 3.1 there were no optics groups, and origins were in pixels
    in_pixels = not there & set(_ORIGINS) and (bool(there & set(_ORIGINS_IN_PIXELS)) or "rlnOpticsGroup" not in there)
    names = [*_ANGLES, *(_ORIGINS_IN_PIXELS if in_pixels else _ORIGINS)]
    origins = -poses.shifts_angstrom.double() / (pixel_size_angstrom if in_pixels else 1.0)
    values = torch.cat([to_relion_euler(poses.rotations.double()), origins], dim=1)
    added = [name for name in names if name not in there]
    places = [loop.columns.index(name) if name in there else -1 for name in names]
    changed, ending = list(lines), b"\r\n" if lines[loop.last_column].endswith(b"\r\n") else b"\n"
    header = (b"_%s #%d" % (name.encode(), len(loop.columns) + i) + ending for i, name in enumerate(added, 1))
    changed[loop.last_column] += b"".join(header)
    for row, numbers in zip(rows.tolist(), values.tolist(), strict=True):
        line = loop.rows[row]
        _counted(path, lines, loop, line)
        changed[line] = _replaced(lines[line], places, [b"%.6f" % number for number in numbers])
    return changed


def _replaced(line: bytes, places: Sequence[int], texts: Sequence[bytes]) -> bytes:
    """Put texts in the place of some values of a line, or, where the place is -1, behind the last."""
    spans = [found.span() for found in _QUOTED.finditer(line)][: len(_values(line))]
    pairs, end = list(zip(places, texts, strict=True)), spans[-1][1]
    line = line[:end] + b"".join(b" " + text for place, text in pairs if place < 0) + line[end:]
    for place, text in sorted((pair for pair in pairs if pair[0] >= 0), reverse=True):  # so that spans hold
        start, stop = spans[place]
        line = line[:start] + text.rjust(stop - start) + line[stop:]
    return line


def _counted(path: Path, lines: Sequence[bytes], loop: _Loop, number: int) -> list[bytes]:
    """Values of a row, as many as there are columns."""
    values = _values(lines[number])
    if len(values) != len(loop.columns):
        raise InputError(
            f"{path}: line {number + 1} has {len(values)} values for the {len(loop.columns)} columns of "
            f"data_{loop.block}"
        )
    return values


def _columns(path: Path, lines: Sequence[bytes], loop: _Loop, names: Sequence[str]) -> list[list[bytes]]:
    """Values of some columns, row by row."""
    places = [loop.columns.index(name) for name in names]
    found = []
    for number in loop.rows:
        values = _counted(path, lines, loop, number)
        found.append([values[place] for place in places])
    return found


def _values(line: bytes) -> list[bytes]:
    values = line.split() if b"'" not in line and b'"' not in line else _QUOTED.findall(line)
    comment = next((i for i, value in enumerate(values) if value.startswith(b"#")), None) if b"#" in line else None
    return values[:comment]


def _class_number(path: Path, value: bytes) -> int:
    try:
        number = float(value)
        if number != int(number):
            raise ValueError
    except (ValueError, OverflowError):
        raise InputError(f"{path}: rlnClassNumber must be whole numbers, not {value.decode('latin-1')!r}") from None
    return int(number)


def _grid(
    path: Path, lines: Sequence[bytes], loops: Sequence[_Loop], particles: _Loop
) -> tuple[float | None, int | None]:
    """Pixel size and side of the images that all particles have in common.

    They stand in the optics table; before RELION 3.1, the pixel size of the images followed from detector and
    magnification, and their side stood in the stacks only.
    """
    optics = next((loop for loop in loops if "rlnImagePixelSize" in loop.columns), None)
    sizes: set[float] = set()
    sides: set[int] = set()
    with suppress(ValueError):  # what is no number is not known
        if optics is not None:
            sizes = {float(value) for (value,) in _columns(path, lines, optics, ["rlnImagePixelSize"])}
            if "rlnImageSize" in optics.columns:
                sides = {int(value) for (value,) in _columns(path, lines, optics, ["rlnImageSize"])}
        elif {"rlnDetectorPixelSize", "rlnMagnification"} <= set(particles.columns):
            pairs = _columns(path, lines, particles, ["rlnDetectorPixelSize", "rlnMagnification"])
            # micrometers on the detector to Angstrom in the specimen
            sizes = {1e4 * float(pixel) / float(magnification) for pixel, magnification in pairs}
    if not sides:
        name = _columns(path, lines, particles, ["rlnImageName"])[0][0].decode(errors="replace")
        with suppress(InputError):  # the stacks may be elsewhere
            file = name.rpartition("@")[2]
            sides = {read_array(find_stacks(path, [file])[file]).values.shape[-1]}
    return sizes.pop() if len(sizes) == 1 else None, sides.pop() if len(sides) == 1 else None
