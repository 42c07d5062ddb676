"""EMAN2's HDF files of images.

HDF5 can say almost anything: values in other files, filters that unpack a kilobyte into a gigabyte, numbers that are
text. Here only what EMAN2 writes is read, and sizes are believed only as far as the file is long.
"""

import math
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ..datatypes import InputError
from .files import believable_bytes, reason, regular_file
from .mrc import LoadedImages, MrcArray, choose_pixel_size, to_stack
from .npy import check_single_precision

_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")

# What h5py throws at what is damaged or of a type that NumPy has not.
_BROKEN = (OSError, LookupError, RuntimeError, ValueError, TypeError, ArithmeticError, MemoryError, zlib.error)

_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}
_MOST_DENSITY = 1e38  # sums of two such are still numbers in single precision


def read_images(path: Path, pixel_size_angstrom: float | None = None) -> LoadedImages:
    """Read the images of an EMAN2 HDF file in the order of their numbers.

    Parameters
    ----------
    path
        The file.
    pixel_size_angstrom
        Wins over the file. It must be given where the file has no pixel size, or the placeholder 1.0.

    Raises
    ------
    InputError
        As for :func:`read_array`; or images that are not square or hold NaN, or a pixel size that is unknown.
    """
    array = read_array(path)
    pixel_size, notes = choose_pixel_size(path, array, pixel_size_angstrom, axes=2)
    return LoadedImages(to_stack(path, array.values, pixel_size), array.notes + notes)


def read_array(path: Path) -> MrcArray:
    """Read the images before anything is decided about their pixel size; one image at a time beside the result.

    Raises
    ------
    InputError
        No such file, not an HDF file of EMAN2, damaged, volumes, Fourier transforms, images of several sizes, values
        that are no numbers or were never written, or that lie in other files; or images that would take more than
        64 MB, and more than a hundred times the bytes of the file.
    """
    length = regular_file(path)
    try:
        with h5py.File(path, "r") as file:
            return _read(path, file, length)
    except _BROKEN as error:
        raise InputError(f"{path}: cannot be read as an HDF file of EMAN2: {reason(error)}") from error


@dataclass(frozen=True)
class _Image:
    """What is known of an image before it is read.

    Attributes
    ----------
    name
        Its number, as text.
    shape, dtype
        ``(y, x)`` and type as stored.
    scale
        Factor and summand that bring compressed whole numbers back to densities; None: the values are densities.
    pixel_size
        ``(x, y)`` in Angstrom; None: not known.
    note
        What is odd about it.
    """

    name: str
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    scale: tuple[float, float] | None
    pixel_size: tuple[float, float] | None
    note: str


def _read(path: Path, file: Any, length: int) -> MrcArray:
    """Images are datasets ``MDF/images/N/image``; what is known about them are attributes of ``MDF/images/N``."""
    folder = _member(_member(file, "MDF", h5py.Group), "images", h5py.Group)
    # by length first, since numbers have no leading zeros and HDF5 lists 10 before 9
    names = sorted((name for name in folder if _NUMBER.fullmatch(name)), key=lambda name: (len(name), name))
    if not names:
        raise InputError(f"{path}: holds no images")
    images = [_describe(path, name, _member(folder, name, h5py.Group)) for name in names]
    if len(shapes := {image.shape for image in images}) > 1:
        sizes = ", ".join(sorted(f"{width} x {height}" for height, width in shapes)[:5])
        raise InputError(f"{path}: images of several sizes: {sizes}; write one file for each")
    dtype = np.result_type(*(np.float32 if image.scale else image.dtype for image in images))
    shape = (len(images), *images[0].shape)
    if (size := math.prod(shape) * dtype.itemsize) > (most := believable_bytes(length)):
        raise ValueError(f"its images would take {size} bytes; {most} are believed of {length} bytes of file")
    values, stored = np.empty(shape, dtype), 0
    for image, place in zip(images, values, strict=True):
        dataset = folder[image.name]["image"]
        stored += _stored_bytes(image, dataset, most)
        if stored > length:  # several names for the same bytes
            raise ValueError(f"the images up to {image.name} would lie in {stored} bytes, and the file has {length}")
        pixels = dataset[()].reshape(image.shape)
        place[:] = pixels if image.scale is None else pixels.astype(np.float32) * image.scale[0] + image.scale[1]
    check_single_precision(path, values)
    left_out = len(folder) - len(names)
    other = f"{left_out} entries whose names are no plain numbers are left out" if left_out else ""
    return _with_pixel_size(values, images, other)


def _with_pixel_size(values: NDArray[Any], images: list[_Image], other: str) -> MrcArray:
    sizes = [image.pixel_size for image in images if image.pixel_size is not None]
    first = sizes[0] if sizes else None
    odd = "the images have several pixel sizes; that of the first is taken" if len(set(sizes)) > 1 else ""
    notes = tuple(dict.fromkeys(note for note in (*(image.note for image in images), odd, other) if note))
    return MrcArray(values, None if first is None else (*first, first[0]), False, notes)


def _describe(path: Path, name: str, group: Any) -> _Image:
    dataset = _member(group, "image", h5py.Dataset)
    shape, dtype = dataset.shape, dataset.dtype
    if shape is not None and len(shape) == 3 and shape[0] == 1:
        shape = shape[1:]
    if shape is None or len(shape) != 2:
        axes = 0 if shape is None else len(shape)
        raise InputError(f"{path}: image {name} has {axes} axes{'; is it a volume?' if axes == 3 else ''}")
    if 0 in shape:
        raise InputError(f"{path}: image {name} is empty: {shape[1]} x {shape[0]} pixels")
    # a type of which NumPy's is only the nearest would be converted, by rules that are not EMAN's
    if dtype.kind not in "fiu" or not dataset.id.get_type().equal(h5py.h5t.py_create(dtype)):
        raise ValueError(f"the values of image {name} are no plain numbers")
    if _number(group, "is_complex"):
        raise InputError(f"{path}: image {name} is a Fourier transform; write images with EMAN2's e2proc2d.py")
    pixel_size, note = _pixel_size(group)
    return _Image(name, shape, dtype, _scale(name, group, dtype), pixel_size, note)


def _member(parent: Any, name: str, kind: type) -> Any:
    """Open what a group holds under a name, if it lies in this file and is of a kind; links are not followed."""
    where = f"{parent.name.rstrip('/')}/{name}".lstrip("/")
    try:
        link = parent.id.links.get_info(name.encode())
    except (KeyError, RuntimeError, OSError) as error:
        raise ValueError(f"it has no {where}") from error
    if link.type != h5py.h5l.TYPE_HARD:
        raise ValueError(f"{where} is a link to something else, which is not followed")
    member = parent[name]
    if not isinstance(member, kind):
        raise ValueError(f"{where} is no {kind.__name__.lower()}")
    return member


def _stored_bytes(image: _Image, dataset: Any, most: int) -> int:
    """Count the bytes of an image in the file, once it is sure that they are there and become its values, no more."""
    plist = dataset.id.get_create_plist()
    if plist.get_layout() == h5py.h5d.VIRTUAL or plist.get_external_count():
        raise ValueError(f"image {image.name} lies in other files, which are not read")
    stored: int = dataset.id.get_storage_size()
    if plist.get_layout() != h5py.h5d.CHUNKED:
        if stored != math.prod(image.shape) * image.dtype.itemsize:
            raise ValueError(f"image {image.name} has never been written")
        return stored
    filters = [plist.get_filter(number)[0] for number in range(plist.get_nfilters())]
    if not _FILTERS.issuperset(filters) or len(set(filters)) < len(filters):
        raise ValueError(f"image {image.name} is compressed in an unknown way; copy it with EMAN2's e2proc2d.py")
    values = math.prod(dataset.chunks) * image.dtype.itemsize
    if values > most:
        raise ValueError(f"image {image.name} comes in chunks of {values} bytes; {most} are believed")
    chunks: list[Any] = []
    dataset.id.chunk_iter(chunks.append)
    if len(chunks) != math.prod(-(-side // chunk) for side, chunk in zip(dataset.shape, dataset.chunks, strict=True)):
        raise ValueError(f"image {image.name} has not been written completely")
    for chunk in chunks:
        _check_chunk(image, dataset, filters, chunk, values)
    return stored


def _check_chunk(image: _Image, dataset: Any, filters: list[int], chunk: Any, values: int) -> None:
    """Refuse a chunk that would become more bytes than it has values, or fewer: HDF5 would take what it finds."""
    used = [number for place, number in enumerate(filters) if not chunk.filter_mask >> place & 1]
    expected = values + 4 * (h5py.h5z.FILTER_FLETCHER32 in used)  # a checksum behind it
    if h5py.h5z.FILTER_DEFLATE in used:
        if chunk.size > 2 * values + 64:  # nothing grows so much
            raise ValueError(f"image {image.name} declares {chunk.size} bytes for {values}")
        _, packed = dataset.id.read_direct_chunk(chunk.chunk_offset)
        found = len(zlib.decompressobj().decompress(packed, values + 1))
        expected = values
    else:
        found = chunk.size
    if found != expected:
        raise ValueError(f"image {image.name} is damaged: {values} bytes of values come from {found}")


def _scale(name: str, group: Any, dtype: np.dtype[Any]) -> tuple[float, float] | None:
    """Compressed: whole numbers of some bits, which stand for the range of densities that the attributes give."""
    bits = _number(group, "stored_renderbits")
    if not bits or dtype.kind not in "iu":
        return None
    if bits not in range(1, 8 * dtype.itemsize + 1):
        raise ValueError(f"image {name} has stored_renderbits of {bits:g}, for values of {8 * dtype.itemsize} bits")
    low, high = _number(group, "stored_rendermin"), _number(group, "stored_rendermax")
    if low is None or high is None or not -_MOST_DENSITY < low <= high < _MOST_DENSITY:
        raise ValueError(f"image {name} is compressed between densities of {low} and {high}, which are no range")
    return (high - low) / (2 ** int(bits) - 1), low


def _pixel_size(group: Any) -> tuple[tuple[float, float] | None, str]:
    """Sizes along x and y, and what is odd about them."""
    try:
        x, y = _number(group, "apix_x") or 0.0, _number(group, "apix_y") or 0.0
    except ValueError:
        x = y = math.nan
    if x == 0:
        return None, ""
    if not (0 < x < math.inf and 0 <= y < math.inf):
        return None, "pixel sizes that are no positive numbers are not used"
    return (x, y or x), ""


def _number(group: Any, name: str) -> float | None:
    """Value of an attribute, None where there is none; EMAN2 writes numbers as such or as arrays of one."""
    key = f"EMAN.{name}"
    if key not in group.attrs:
        return None
    attribute = group.attrs.get_id(key)
    single = attribute.get_space().get_simple_extent_npoints() == 1
    if not single or attribute.dtype.kind not in "fiu":
        raise ValueError(f"its attribute {key} is no single number")
    return float(np.asarray(group.attrs[key]).reshape(-1)[0])
