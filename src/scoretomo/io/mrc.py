"""MRC files: image stacks and volumes, with what is odd in their headers said in words."""

import gzip
import math
import warnings
import zlib
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import mrcfile
import numpy as np
import torch
from mrcfile.mrcinterpreter import MrcInterpreter
from numpy.typing import NDArray
from torch import Tensor

from ..datatypes import ImageStack, InputError, Volume
from .files import regular_file, replacing

# Parts of the pixel size: below it, sizes along x and y differ by the rounding of the cell; above 1 % they are wrong.
_SAME_SIZE = 1e-4
_SIMILAR_SIZE = 0.01

# Bytes of a header, and most that a compressed file may unpack to: a few kilobytes can hold any number of zeros.
_HEADER, _MOST_UNPACKED = 1024, 2**30
_BYTES = {0: 1, 1: 2, 2: 4, 6: 2, 12: 2}  # of a value, by mode
_MODES = (*_BYTES, 4)  # with that of complex numbers
# How IMOD says that it wrote a file (bytes 152 to 155), and the flag for signed bytes in what follows.
_IMOD_STAMP, _SIGNED = 1146047817, 1

_ASK = "give the true one with --pixel-size ANGSTROM"


@dataclass(frozen=True)
class LoadedImages:
    """Images from a file, and in words what was repaired or odd in it.

    Attributes
    ----------
    stack
        The images.
    notes
        What was repaired or odd.
    class_numbers
        Number of the class that each image is the average of, counted from 1, where the file says it.
    """

    stack: ImageStack
    notes: tuple[str, ...]
    class_numbers: tuple[int, ...] | None = None


@dataclass(frozen=True)
class LoadedVolume:
    """A volume from a file, in words what was repaired or odd in it, and where viewers put it.

    Attributes
    ----------
    volume
        The volume.
    notes
        What was repaired or odd.
    corner_angstrom
        ``(x, y, z)`` at which a viewer shows the first voxel, beside atomic models: the header's origin, or its start
        in voxels where there is no origin.
    """

    volume: Volume
    notes: tuple[str, ...]
    corner_angstrom: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class MrcArray:
    """Sections of an MRC file as they are stored, not yet read from disk.

    Attributes
    ----------
    values
        ``(sections, y, x)`` memory map of the stored type; a single image has one section.
    voxel_size_angstrom
        ``(x, y, z)`` of the header, or None where it has none.
    says_volume
        The space group of the header is that of a volume, not of a stack of images (0).
    notes
        What was repaired or odd in the header.
    origin_angstrom, start
        ``(x, y, z)`` of the header: the origin, and the number of the first voxel.
    """

    values: NDArray[Any]
    voxel_size_angstrom: tuple[float, float, float] | None
    says_volume: bool
    notes: tuple[str, ...]
    origin_angstrom: tuple[float, float, float] = (0.0, 0.0, 0.0)
    start: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True)
class StoredSections:
    """Where the sections of an MRC file lie in it, with no file held open: thousands of stacks may be known at once.

    Attributes
    ----------
    path
        The file.
    shape
        ``(sections, y, x)``.
    dtype, offset, strides
        Type of the values, the byte where they begin, and the bytes between neighbours on each axis.
    """

    path: Path
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    offset: int
    strides: tuple[int, int, int]

    @classmethod
    def of(cls, path: Path, array: MrcArray) -> "StoredSections":
        """Sections of an array from :func:`read_array`.

        Raises
        ------
        InputError
            A compressed file, of which single sections cannot be read.
        """
        mapped: Any = array.values  # a memory map, which knows its place in the file
        if not isinstance(mapped, np.memmap):
            raise InputError(f"{path}: is compressed, and images are read from it one by one; unpack it first")
        depth, height, width = mapped.shape
        planes, rows, columns = mapped.strides
        return cls(path, (depth, height, width), mapped.dtype, mapped.offset, (planes, rows, columns))

    def map(self) -> NDArray[Any]:
        """Map the sections into memory, ``(sections, y, x)`` of the stored type.

        Raises
        ------
        InputError
            The file is gone, or has become shorter.
        """
        try:
            everything = np.memmap(self.path, dtype=np.uint8, mode="r")
            return np.ndarray(self.shape, self.dtype, everything, self.offset, self.strides)
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{self.path}: has changed since it was opened: {error}") from error


def read_images(path: Path, pixel_size_angstrom: float | None = None, exclude: Collection[int] = ()) -> LoadedImages:
    """Read a stack of images; a single image is a stack of one.

    Parameters
    ----------
    path
        The file, usually ``.mrcs``; int8 or uint8, int16, uint16, float16 or float32.
    pixel_size_angstrom
        Wins over the header. It must be given where the header has no pixel size, or the placeholder 1.0.
    exclude
        Images that will not be used, which may hold NaN.

    Raises
    ------
    InputError
        Not an MRC file, truncated, empty, images that are not square or hold NaN, pixel size unknown; a map, which is a
        cube whose header says volume, unless its name ends in ``.mrcs``.
    """
    array = read_array(path)
    if array.says_volume and len({*array.values.shape}) == 1 and len(array.values) > 1 and path.suffix != ".mrcs":
        raise InputError(
            f"{path}: is a map, a cube whose header says volume; give images (a stack that looks like a map has to "
            "be named .mrcs)"
        )
    pixel_size, notes = choose_pixel_size(path, array, pixel_size_angstrom, axes=2)
    if array.says_volume and len(array.values) > 1:
        notes += (f"the header says volume; its {len(array.values)} sections are read as images",)
    return LoadedImages(to_stack(path, array.values, pixel_size, exclude), array.notes + notes)


def read_volume(path: Path, pixel_size_angstrom: float | None = None) -> LoadedVolume:
    """Read a cubic map; axes that are stored in another order are brought to ``[z, y, x]``.

    Parameters
    ----------
    path
        The file, ``.mrc``, ``.map`` or ``.ccp4``, compressed by gzip (``.gz``) or not.
    pixel_size_angstrom
        Wins over the header.

    Raises
    ------
    InputError
        Not an MRC file, truncated, not a cube, NaN, pixel size unknown.
    """
    array = read_array(path)
    pixel_size, notes = choose_pixel_size(path, array, pixel_size_angstrom, axes=3)
    if not array.says_volume:
        notes += ("the header says image stack; it is a cube and read as a volume",)
    try:
        volume = Volume(torch.from_numpy(array.values.astype(np.float32)), pixel_size)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    corner = array.origin_angstrom
    if not any(corner):
        x, y, z = (pixel_size * number for number in array.start)
        corner = (x, y, z)
    return LoadedVolume(volume, array.notes + notes, corner)


def write_images(path: Path, stack: ImageStack) -> None:
    """Write a stack as float32 (space group 0), complete or not at all."""
    _write(path, stack.images, stack.pixel_size_angstrom, is_volume=False)


def write_volume(path: Path, volume: Volume, *, corner_angstrom: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> None:
    """Write a map as float32 (space group 1), complete or not at all; viewers put its first voxel at the corner."""
    _write(path, volume.voxels, volume.pixel_size_angstrom, is_volume=True, corner=corner_angstrom)


def to_stack(path: Path, values: NDArray[Any], pixel_size_angstrom: float, exclude: Collection[int] = ()) -> ImageStack:
    """Make ``(n, y, x)`` values of any real type an image stack; errors name the file.

    Images that are excluded may hold anything: what is not finite in them becomes 0.
    """
    with np.errstate(over="ignore"):  # what is too large becomes infinite, which is refused
        images = torch.from_numpy(values.astype(np.float32))
    unused = [index for index in exclude if 0 <= index < len(images)]
    images[unused] = images[unused].nan_to_num(0.0, 0.0, 0.0)
    try:
        return ImageStack(images, pixel_size_angstrom)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def read_array(path: Path) -> MrcArray:
    """Open an MRC file without reading its sections; one that is compressed (``.gz``) is read whole.

    Bytes (mode 0) are signed, unless IMOD has written the file and says otherwise, or the header has a maximum that no
    signed byte has: many programs write them unsigned.

    Raises
    ------
    InputError
        No such file, not an MRC file, truncated, empty, of a type that is no density, or compressed beyond 1 GiB.
    """
    content = _unpacked(path) if path.suffix.lower() == ".gz" else None
    length = regular_file(path) if content is None else len(content)
    _refuse_other_files(path, _start_of(path) if content is None else content[:_HEADER], length)
    # mrcfile warns of all that it tolerates, and numpy of what it computes from broken headers
    with warnings.catch_warnings(record=True) as caught, np.errstate(all="ignore"):
        warnings.simplefilter("always")
        try:
            with _opened(path, content) as mrc:
                header, values = mrc.header.copy(), mrc.data
        except (ValueError, OverflowError, MemoryError, OSError) as error:
            raise InputError(f"{path}: cannot be read as an MRC file: {error}") from error
    values = _checked(path, header, values, length)
    values, signs = _with_sign(header, values)
    notes = (*(f"header: {warning.message}" for warning in caught), *signs)
    order = _axis_order(header)
    if order != (0, 1, 2) and int(header.ispg) != 0:
        values = values.transpose(order)
        notes += ("the header stores the axes in another order; brought to z, y, x",)
    return MrcArray(values, _voxel_size(header), int(header.ispg) != 0, notes, *_first_voxel(header, order))


def choose_pixel_size(path: Path, array: MrcArray, given: float | None, axes: int) -> tuple[float, tuple[str, ...]]:
    """Decide on a pixel size, and say what is odd about it.

    The given one wins. Of the header, the sizes of the first ``axes`` axes x, y, z count: 2 for stacks, whose
    z size means nothing, and 3 for volumes.

    Raises
    ------
    InputError
        The header has none, or the placeholder 1.0 (stacks), or sizes that differ by more than 1 %.
    """
    header = array.voxel_size_angstrom
    if header is None:
        if given is None:
            raise InputError(f"{path}: the header has no pixel size; {_ASK}")
        return given, ()
    sizes = header[:axes]
    spread = max(sizes) / max(min(sizes), 1e-6) - 1
    text = " x ".join(f"{size:.5g}" for size in sizes)
    unequal = (f"the header's voxel size is unequal: {text} A",) if spread > _SAME_SIZE else ()
    if given is not None:
        if abs(given / header[0] - 1) > _SAME_SIZE:
            return given, (*unequal, f"the header's pixel size of {header[0]:.5g} A is overruled by {given:.5g} A")
        return given, unequal
    if spread > _SIMILAR_SIZE:
        raise InputError(f"{path}: the header's voxel size is unequal, {text} A; {_ASK}")
    if header[0] == 1:
        placeholder = "the header's pixel size of exactly 1 A is a placeholder in many files"
        if axes == 2:
            raise InputError(f"{path}: {placeholder}; {_ASK}, even if it is 1.0")
        return header[0], (placeholder,)
    return round(header[0], 6), unequal


def _write(
    path: Path,
    values: Tensor,
    pixel_size_angstrom: float,
    *,
    is_volume: bool,
    corner: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> None:
    # mrcfile leaves its stream open when writing fails (disk full), hence closing
    with replacing(path) as temporary, mrcfile.new(temporary) as mrc, closing(mrc._iostream):
        mrc.set_data(values.detach().cpu().float().numpy())
        if is_volume:
            mrc.set_volume()
        else:
            mrc.set_image_stack()
        mrc.voxel_size = pixel_size_angstrom
        mrc.header.origin = corner
        mrc.flush()


def _opened(path: Path, content: bytes | None) -> Any:
    """Open a file, or what was unpacked of it."""
    if content is None:
        return mrcfile.mmap(path, mode="r", permissive=True)
    return MrcInterpreter(BytesIO(content), permissive=True)


def _unpacked(path: Path) -> bytes:
    """Unpack as much of a compressed file as its header says that there is."""
    regular_file(path)
    try:
        with gzip.open(path) as file:
            start = file.read(_HEADER)
            _refuse_other_files(path, start, None)
            _, wanted = _size(start)
            if wanted > _MOST_UNPACKED:
                raise InputError(
                    f"{path}: says that it unpacks to {wanted / 2**30:.3g} GiB, and 1 is the most; unpack it first"
                )
            return start + file.read(wanted - len(start)) if wanted > len(start) else start
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be unpacked: {error}; is it damaged?") from error


def _size(start: bytes) -> tuple[int, int]:
    """Bytes of both headers, and of a whole file, as its header says."""
    order = _byte_order(start)
    nx, ny, nz, mode = (int(value) for value in np.frombuffer(start, f"{order}i4", 4))
    headers = _HEADER + max(int(np.frombuffer(start, f"{order}i4", 1, 92)[0]), 0)
    return headers, headers + max(nx, 0) * max(ny, 0) * max(nz, 0) * _BYTES.get(mode, 1)


def _byte_order(start: bytes) -> Literal["<", ">"]:
    """Order of bytes that mrcfile takes: by the machine stamp, or the other one where the mode is none otherwise."""
    stamped: Literal["<", ">"] = ">" if start[212:214] == b"\x11\x11" else "<"
    other: Literal["<", ">"] = "<" if stamped == ">" else ">"
    here, there = (int(np.frombuffer(start, f"{order}i4", 1, 12)[0]) for order in (stamped, other))
    return other if here not in _MODES and there in _MODES else stamped


def _refuse_other_files(path: Path, start: bytes, length: int | None) -> None:
    """Refuse what begins as no MRC file does, or has headers beyond its end: the library would make room for them."""
    if len(start) < _HEADER:
        raise InputError(f"{path}: {len(start)} bytes are too few for an MRC header; is the file truncated?")
    if b"\0" not in start:  # every binary header has zeros, no text has
        raise InputError(f"{path}: is a text file, not MRC")
    headers, _ = _size(start)
    if length is not None and headers > length:
        raise InputError(
            f"{path}: is truncated: its headers take {headers} bytes, and it has {length}; is it an MRC file?"
        )


def _start_of(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEADER)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error


def _checked(path: Path, header: Any, values: NDArray[Any] | None, size: int) -> NDArray[Any]:
    """Three-axis values, or the reason why there are none."""
    shape = (int(header.nz), int(header.ny), int(header.nx))
    text = " x ".join(str(length) for length in reversed(shape))
    if min(shape) < 0 or int(header.mode) not in (0, 1, 2, 6, 12):
        raise InputError(
            f"{path}: mode {int(header.mode)} and size {text} in the header are no real density; is it an MRC file?"
        )
    if min(shape) == 0:
        raise InputError(f"{path}: is empty: the header says {text}")
    if values is None:
        needed = _HEADER + max(int(header.nsymbt), 0) + math.prod(shape) * _BYTES[int(header.mode)]
        if needed <= size:
            raise InputError(f"{path}: has {size / 1e9:.3g} GB, more than this process may map (see `ulimit -v`)")
        raise InputError(f"{path}: is truncated: the header says {text} of mode {int(header.mode)}, in {size} bytes")
    if values.ndim == 4:
        raise InputError(f"{path}: is a stack of {len(values)} volumes; write them to one file each")
    return values.reshape(shape)


def _with_sign(header: Any, values: NDArray[Any]) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Bytes as what they are, and a note where that is unsigned."""
    if values.dtype != np.int8:
        return values, ()
    extra = header.extra2.tobytes()  # from byte 112
    order: Literal["little", "big"] = "little" if int.from_bytes(extra[40:44], "little") == _IMOD_STAMP else "big"
    stamp, flags = (int.from_bytes(extra[place : place + 4], order) for place in (40, 44))
    if stamp == _IMOD_STAMP:
        if flags & _SIGNED:
            return values, ()
        return values.view(np.uint8), ("bytes are read as unsigned, as the stamp of IMOD in the header says",)
    if header.dmin >= 0 and header.dmax > np.iinfo(np.int8).max:
        return values.view(np.uint8), (f"bytes are read as unsigned: the header's maximum is {float(header.dmax):.4g}",)
    return values, ()


def _first_voxel(header: Any, order: tuple[int, ...]) -> tuple[tuple[float, float, float], tuple[int, int, int]]:
    """Origin and start of the header, each as (x, y, z); what is not finite is none."""
    origin = tuple(float(np.nan_to_num(header.origin[axis], posinf=0.0, neginf=0.0)) for axis in "xyz")
    stored = [int(header.nzstart), int(header.nystart), int(header.nxstart)]  # sections, rows, columns
    x, y, z = (stored[axis] for axis in reversed(order))
    return (origin[0], origin[1], origin[2]), (x, y, z)


def _axis_order(header: Any) -> tuple[int, ...]:
    """Axes of the stored array that are z, y and x; the header counts columns, rows, sections and x, y, z from 1."""
    stored = [int(header.maps), int(header.mapr), int(header.mapc)]
    return tuple(stored.index(axis) for axis in (3, 2, 1)) if sorted(stored) == [1, 2, 3] else (0, 1, 2)


def _voxel_size(header: Any) -> tuple[float, float, float] | None:
    cell = [float(header.cella[axis]) for axis in "xyz"]
    intervals = [int(header[name]) for name in ("mx", "my", "mz")]
    if not all(0 < length < float("inf") for length in cell[:2]) or min(intervals[:2]) <= 0:
        return None
    x, y = cell[0] / intervals[0], cell[1] / intervals[1]
    return x, y, cell[2] / intervals[2] if intervals[2] > 0 else 0.0
