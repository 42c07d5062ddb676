"""EMAN2's HDF files of images."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ..datatypes import InputError
from .mrc import LoadedImages, MrcArray, choose_pixel_size, to_stack


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
        Not an HDF file of EMAN2, volumes, images of several sizes, not square or with NaN, pixel size unknown.
    """
    array = read_array(path)
    pixel_size, notes = choose_pixel_size(path, array, pixel_size_angstrom, axes=2)
    return LoadedImages(to_stack(path, array.values, pixel_size), array.notes + notes)


def read_array(path: Path) -> MrcArray:
    """Read the images before anything is decided about their pixel size.

    Raises
    ------
    InputError
        Not an HDF file of EMAN2, volumes, images of several sizes.
    """
    try:
        with h5py.File(path, "r") as file:
            return _read(path, file)
    except (OSError, KeyError, RuntimeError) as error:  # h5py has them all for what is damaged
        if not path.is_file():
            raise InputError(f"{path}: no such file") from error
        raise InputError(f"{path}: cannot be read as an HDF file of EMAN2: {error}") from error


def _read(path: Path, file: Any) -> MrcArray:
    """Images are datasets ``MDF/images/N/image``; what is known about them are attributes of ``MDF/images/N``."""
    groups = file["MDF/images"]
    numbers = sorted(int(name) for name in groups if name.isdecimal())
    if not numbers:
        raise InputError(f"{path}: holds no images")
    images = [_image(path, number, groups[str(number)]) for number in numbers]
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        sizes = ", ".join(sorted(f"{width} x {height}" for height, width in shapes))
        raise InputError(f"{path}: images of several sizes: {sizes}; write one file for each")
    pixel_sizes = [_pixel_size(groups[str(number)]) for number in numbers]
    notes = ("the images have several pixel sizes; that of the first is taken",) if len(set(pixel_sizes)) > 1 else ()
    if pixel_sizes[0] is None:
        return MrcArray(np.stack(images), None, False, notes)
    return MrcArray(np.stack(images), (*pixel_sizes[0], pixel_sizes[0][0]), False, notes)


def _image(path: Path, number: int, group: Any) -> NDArray[Any]:
    values: NDArray[Any] = group["image"][()]
    if values.ndim == 3 and len(values) == 1:
        values = values[0]
    if values.ndim != 2:
        raise InputError(f"{path}: image {number} has {values.ndim} axes; is it a volume?")
    bits = int(_attribute(group, "stored_renderbits") or 0)
    if not bits or values.dtype.kind not in "iu":
        return values
    # compressed: whole numbers that stand for the range of densities that the attributes give
    low, high = (float(_attribute(group, name) or 0) for name in ("stored_rendermin", "stored_rendermax"))
    scaled: NDArray[Any] = values.astype(np.float32) * ((high - low) / (2**bits - 1)) + low
    return scaled.astype(np.float32)


def _pixel_size(group: Any) -> tuple[float, float] | None:
    x, y = _attribute(group, "apix_x"), _attribute(group, "apix_y")
    return (float(x), float(y if y else x)) if x else None


def _attribute(group: Any, name: str) -> Any:
    value = group.attrs.get(f"EMAN.{name}")
    return None if value is None else np.asarray(value).reshape(-1)[0]
